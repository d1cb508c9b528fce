// The schedule alone.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Backoff } from "../megasock.js";

// As chance would have it at its far end, in its middle, and at none.
const delays = (chance, endings) => {
  const backoff = new Backoff({ random: () => chance });
  return endings.map(ending => backoff.next(ending));
};
const failures = count => Array(count).fill({});

test("the ceiling doubles from 1 s to 30 s, and the delay is anywhere below it", () => {
  assert.deepEqual(delays(1, failures(8)), [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
  assert.deepEqual(delays(0.5, failures(7)), [500, 1000, 2000, 4000, 8000, 15_000, 15_000]);
  assert.deepEqual(delays(0, failures(3)), [0, 0, 0]);
});

test("many clients spread evenly", () => {
  const counts = Array(10).fill(0);
  for (let client = 0; client < 100_000; client++) counts[Math.floor(new Backoff().next() / 100)]++;
  // Ten bins of 10,000 each: five standard deviations are 475.
  for (const count of counts) assert.ok(Math.abs(count - 10_000) < 475, String(counts));
});

test("it never overflows", () => {
  assert.equal(delays(1, failures(5000)).at(-1), 30_000);
});

test("a connection that lasted begins it anew, one that did not does not", () => {
  assert.deepEqual(delays(1, [{}, {}, { lastedMs: 9999 }, { lastedMs: 10_000 }, {}]), [1000, 2000, 4000, 1000, 2000]);
});

test("a hint is the delay exactly, and counts as one step", () => {
  assert.deepEqual(delays(1, [{ lastedMs: 60_000, hintMs: 5312 }, {}, {}]), [5312, 2000, 4000]);
  assert.deepEqual(delays(1, [{ hintMs: 0 }, { hintMs: 7 }]), [0, 7]);
});

test("a slow ending waits between half the cap and the cap", () => {
  assert.deepEqual(delays(1, [{ slow: true }, {}]), [15_000, 2000]);
  assert.deepEqual(delays(0, [{ slow: true }]), [30_000]);
  assert.deepEqual(delays(0, [{ slow: true, hintMs: 3 }]), [3]);
});

test("retries are capped in a row, not in all", () => {
  const backoff = new Backoff({ retriesMax: 2, random: () => 1 });
  const endings = [{}, {}, {}, { lastedMs: 20_000 }, {}, {}];
  assert.deepEqual(endings.map(ending => backoff.next(ending)), [1000, 2000, undefined, 1000, 2000, undefined]);
});

test("base, cap and what is stable can be others", () => {
  const backoff = new Backoff({ baseMs: 10, capMs: 25, stableMs: 5, random: () => 1 });
  assert.deepEqual([{}, {}, {}, { lastedMs: 5 }].map(ending => backoff.next(ending)), [10, 20, 25, 10]);
});
