// What holds a frame to its description, field by field.

import assert from "node:assert/strict";

// What a field may be where its value cannot be known.
export const now = value => Number.isInteger(value) && Math.abs(value - Date.now()) < 60_000;
export const text = value => typeof value === "string" && value !== "";
export const strings = value => Array.isArray(value) && value.every(text);

// Holds a frame to exactly these fields.
export function expect(got, wanted) {
  assert.ok(fits(got, wanted), `\n    got    ${JSON.stringify(got)}\n    wanted ${show(wanted)}`);
  return got;
}

function fits(got, wanted) {
  if (typeof wanted === "function") return wanted(got);
  if (wanted === null || typeof wanted !== "object") return got === wanted;
  if (got === null || typeof got !== "object" || Array.isArray(got) !== Array.isArray(wanted)) return false;
  const keys = Object.keys(wanted);
  return Object.keys(got).length === keys.length && keys.every(key => key in got && fits(got[key], wanted[key]));
}

const show = wanted => JSON.stringify(wanted, (_, value) => (typeof value === "function" ? `<${value.name}>` : value));
