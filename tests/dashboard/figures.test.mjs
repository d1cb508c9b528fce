// What the dashboard shows: figures that move, curves, a server that goes and comes back; in light and dark, wide and narrow.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";
import { isFocused, launch, open, serve, shows, visit } from "./browser.mjs";

const axe = readFileSync(createRequire(`${process.env.CLIENT_MODULES}/`).resolve("axe-core"), "utf8");

let browser;
before(async () => { browser = await launch(); });
after(() => browser?.close());

const users = count => Array.from({ length: count }, (_, i) => `user-${i}`);

// Publishes until told to stop.
function load(peers, channel) {
  let goesOn = true;
  const done = (async () => {
    while (goesOn) await Promise.all(peers.map(peer => peer.publish(channel, "x".repeat(100))));
  })();
  return async () => {
    goesOn = false;
    await done;
  };
}

test("figures appear, and move with what clients do", async t => {
  const server = await serve(t);
  const page = await visit(t, browser, server);
  await shows(page, "#state", "Ready");
  await shows(page, "#server", "js");
  await shows(page, "#active", "0");
  const peers = await open(server, ...users(20));
  await Promise.all(peers.map(peer => peer.subscribe("scores")));
  await shows(page, "#active", "20");
  await shows(page, "#channels", /scores\s*20\s*0$/);
  const stop = load(peers.slice(0, 2), "scores");
  // Each message goes out twenty times.
  const rates = () => page.locator("#traffic tr").first().locator("td").allTextContents();
  await shows(page, "#traffic tr:first-child td:nth-child(3)", /^[1-9][\d,]+\/s$/);
  const [messagesIn, messagesOut] = (await rates()).map(text => Number.parseFloat(text.replaceAll(",", "")));
  assert.ok(messagesOut > 5 * messagesIn, `${messagesIn} in, ${messagesOut} out`);
  for (const row of ["delivery", "handling", "core turn"]) {
    const quantiles = page.locator("#latency tr").filter({ hasText: row }).locator("td");
    await quantiles.first().getByText(/\d+\s(µs|ms)/).waitFor();
  }
  await stop();
  await shows(page, "#traffic tr:first-child td:nth-child(3)", "0/s");
  for (const peer of peers.splice(0, 3)) peer.close();
  await shows(page, "#active", "17");
  await shows(page, "#closes", /^client_closed3100\s%\+3$/);
  await shows(page, "#hub", /sessions17users17topics1subscriptions17/);
  peers[0].socket.send("{");
  await shows(page, "#faults", /^error invalid_json1\+1$/);
  assert.equal(await page.title(), "17 ready · js");
  assert.match(await page.locator("#cores").textContent(), /^0\d+(\.\d)?\s%\d+ conn\.\d.*1\d+(\.\d)?\s%\d+ conn\.\d/);
});

test("curves can be read at a moment, with the pointer and with the keyboard", async t => {
  const server = await serve(t);
  await open(server, ...users(5));
  const page = await visit(t, browser, server);
  await shows(page, "#active", "5");
  const curve = page.getByRole("slider", { name: "Connections" });
  await shows(page, "#curves output >> nth=0", "5");
  assert.match(await curve.locator("path.first").getAttribute("d"), /^M[\d.]+,[\d.]+(L[\d.]+,[\d.]+)*$/);
  assert.deepEqual((await curve.locator("text").allTextContents()).slice(-6),
    ["now", "−1\u202fmin", "−2\u202fmin", "−3\u202fmin", "−4\u202fmin", "−5\u202fmin"]);
  const { x, y, width, height } = await curve.boundingBox();
  await page.mouse.move(x + width / 2, y + height / 2);
  await shows(page, "#moment", /^at \d\d:\d\d:\d\d, 2\smin \d+\ss ago$/);
  await shows(page, "#curves output >> nth=0", "–");
  await page.mouse.move(0, 0);
  await shows(page, "#moment", "");
  await curve.focus();
  await curve.press("ArrowLeft");
  await curve.press("ArrowLeft");
  await shows(page, "#moment", /, 2\ss ago$/);
  await shows(page, "#curves output >> nth=0", "5");
  assert.match(await curve.getAttribute("aria-valuetext"), /^2\ss ago: open 5$/);
  await curve.press("Home");
  await shows(page, "#moment", /, 4\smin 59\ss ago$/);
  await curve.press("Escape");
  await shows(page, "#moment", "");
  assert.ok(await isFocused(page, "#curves svg.plot >> nth=0"));
});

test("a server that does not answer is said, and that it is back", async t => {
  const server = await serve(t);
  const page = await visit(t, browser, server, { mayFail: true });
  await shows(page, "#state", "Ready");
  await server.stop();
  await shows(page, "#state", "No answer");
  await shows(page, "#outage", /^The server has not answered since \d\d:\d\d:\d\d\. Asking again every second; the figures below are old\.$/);
  assert.ok(await page.locator("body.stale").count());
  assert.match(await page.title(), /no answer/);
  server.flags = ["--admin-listen", server.adminAddress];
  await server.startAgain();
  await shows(page, "#state", "Ready");
  await shows(page, "#notice", /^The server answers again, after /);
  assert.ok(!(await page.locator("#outage").isVisible()));
  assert.equal(await page.locator("body.stale").count(), 0);
});

test("the page runs nothing but its own script, and is not sent twice", async t => {
  const server = await serve(t);
  const page = await visit(t, browser, server, { mayFail: true });
  await shows(page, "#state", "Ready");
  const first = await fetch(server.admin);
  const policy = first.headers.get("content-security-policy");
  for (const rule of ["default-src 'none'", "frame-ancestors 'none'", "connect-src 'self'", "require-trusted-types-for 'script'"]) {
    assert.ok(policy.includes(rule), policy);
  }
  assert.doesNotMatch(policy, /unsafe|\*|http/);
  assert.match(await first.text(), /^<!doctype html>/);
  assert.equal(first.headers.get("cache-control"), "no-cache");
  const again = await fetch(server.admin, { headers: { "If-None-Match": first.headers.get("etag") } });
  assert.deepEqual([again.status, await again.text()], [304, ""]);
  const other = await fetch(server.admin, { headers: { "If-None-Match": '"another"' } });
  assert.equal(other.status, 200);
  await other.body.cancel();
});

for (const colorScheme of ["light", "dark"]) {
  test(`in ${colorScheme}: contrast, names and roles as WCAG 2.2 AA wants them, also of dialogs`, async t => {
    const server = await serve(t);
    const peers = await open(server, ...users(3));
    await Promise.all(peers.map(peer => peer.subscribe("scores")));
    const page = await visit(t, browser, server, { colorScheme });
    await shows(page, "#channels", /scores/);
    await page.getByRole("button", { name: "scores" }).click();
    await page.getByText("Present: 3 users").waitFor();
    await page.evaluate(axe);
    const broken = async () => {
      const { violations } = await page.evaluate(() => globalThis.axe.run({ runOnly: ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"] }));
      return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" ")}`);
    };
    assert.deepEqual(await broken(), []);
    await page.getByRole("button", { name: "Drain…" }).click();
    assert.deepEqual(await broken(), []);
    const [back, text] = await page.locator("body").evaluate(body => [getComputedStyle(body).backgroundColor, getComputedStyle(body).color]);
    const light = color => color.match(/\d+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0);
    assert.equal(light(back) > light(text), colorScheme === "light");
  });
}

for (const width of [360, 768, 1440, 1920]) {
  test(`${width} pixels wide: nothing is cut off or wider than the page`, async t => {
    const server = await serve(t);
    const peers = await open(server, ...users(3), "a-name-without-any-place-to-break-it-".repeat(4));
    await Promise.all(peers.map(peer => peer.subscribe("a.channel.that.has.a.rather.long.name.".repeat(4))));
    const page = await visit(t, browser, server, { viewport: { width, height: 800 } });
    await shows(page, "#channels", /a\.channel/);
    await page.locator("#channels button").click();
    await page.getByText("Present: 4 users").waitFor();
    const wide = await page.evaluate(() => [document.documentElement, ...document.querySelectorAll(".card, .card > :not(.unseen), td, th")]
      .filter(element => element.scrollWidth > element.clientWidth + 1 && element.clientWidth > 0)
      .map(element => `${element.tagName} ${element.id} ${element.textContent.slice(0, 60)}`));
    assert.deepEqual(wide, []);
  });
}
