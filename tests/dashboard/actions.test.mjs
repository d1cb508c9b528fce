// What changes something: disconnecting, draining, and the key that is asked for before.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { isFocused, launch, open, openStubborn, serve, shows, visit } from "./browser.mjs";

const KEY = "a-key-of-more-than-thirty-two-characters";

let browser;
before(async () => { browser = await launch(); });
after(() => browser?.close());

// Presses Tab until this has the focus; fails if it cannot be reached so.
async function tabTo(page, selector) {
  for (let presses = 0; presses < 80; presses++) {
    if (await isFocused(page, selector)) return;
    await page.keyboard.press("Tab");
  }
  assert.fail(`${selector} is not reached by Tab`);
}

test("with the keyboard alone: a user is looked up and disconnected, with code and reason", async t => {
  const server = await serve(t);
  const [ann, phone, bob] = await open(server, "ann", "ann", "bob");
  const page = await visit(t, browser, server);
  await shows(page, "#active", "3");
  // The first stop of all jumps past the figures.
  await page.keyboard.press("Tab");
  assert.ok(await isFocused(page, "a.skip"));
  await page.keyboard.press("Enter");
  await page.keyboard.press("Tab");
  assert.ok(await isFocused(page, "#look-kind"));
  await page.keyboard.type("User");
  await page.keyboard.press("Tab");
  await page.keyboard.type("ann");
  await page.keyboard.press("Enter");
  await page.getByText("2 connections").waitFor();
  const opener = "#found button >> nth=0";
  await tabTo(page, opener);
  await page.keyboard.press("Enter");
  assert.equal(await page.locator("#disconnect-title").textContent(), "Disconnect user ann");
  assert.match(await page.locator("#disconnect-words").textContent(), /^2 connections/);
  // Nothing is done by Enter alone, and Escape leads back to where one was.
  assert.ok(await isFocused(page, "#disconnect-dialog .cancel"));
  await page.keyboard.press("Escape");
  assert.ok(await isFocused(page, opener));
  await page.keyboard.press("Enter");
  await tabTo(page, "#code");
  await page.keyboard.press("ControlOrMeta+A");
  await page.keyboard.type("1002");
  await page.keyboard.press("Enter");
  assert.ok(await page.locator("#code:invalid").count(), "no code for an application");
  await page.keyboard.press("ControlOrMeta+A");
  await page.keyboard.type("4321");
  await page.keyboard.press("Tab");
  assert.ok(await isFocused(page, "#reason"));
  await page.keyboard.type("enough – für heute");
  await tabTo(page, "#disconnect-dialog .danger");
  await page.keyboard.press("Enter");
  for (const peer of [ann, phone]) assert.deepEqual(await peer.ended, { code: 4321, reason: "enough – für heute" });
  await shows(page, "#notice", "2 connections of user ann closed with 4321.");
  await shows(page, "#active", "1");
  assert.equal((await bob.ask({ type: "ping" })).type, "pong");
});

test("one connection is disconnected; the other of that user stays; a refusal is shown", async t => {
  const server = await serve(t);
  const [ann, phone] = await open(server, "ann", "ann");
  const page = await visit(t, browser, server, { mayFail: true });
  await page.getByLabel("Its id or name").fill(ann.welcome.connectionId);
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: "Disconnect…" }).click();
  await page.getByRole("textbox", { name: "Reason" }).fill("ü".repeat(120));
  await page.locator("#disconnect-dialog .danger").click();
  await shows(page, "#disconnect-dialog .problem", /123/);
  await page.getByRole("textbox", { name: "Reason" }).fill("");
  await page.locator("#disconnect-dialog .danger").click();
  assert.deepEqual(await ann.ended, { code: 4000, reason: "" });
  await shows(page, "#notice", `Connection ${ann.welcome.connectionId} closed with 4000.`);
  await shows(page, "#found", "There is no such connection (any more).");
  assert.equal((await phone.ask({ type: "ping" })).type, "pong");
});

test("a drain begins only when the server's name is typed, and is followed to the end", async t => {
  const server = await serve(t, "--server-id", "edge-1");
  const peers = await open(server, "ann", "bob");
  // It holds the drain up long enough to be seen.
  const stubborn = await openStubborn(server);
  t.after(() => stubborn.destroy());
  const page = await visit(t, browser, server, { mayFail: true });
  await shows(page, "#active", "3");
  const opener = page.getByRole("button", { name: "Drain…" });
  await opener.click();
  assert.equal(await page.locator("#drain-clients").textContent(), "3 clients");
  assert.ok(await isFocused(page, "#drain-name"));
  const confirm = page.getByRole("button", { name: "Begin the drain" });
  assert.ok(await confirm.isDisabled());
  await page.keyboard.type("edge");
  assert.ok(await confirm.isDisabled());
  await page.keyboard.press("Enter");
  await page.keyboard.press("Escape");
  assert.ok(await isFocused(page, "#drain"));
  assert.equal(await page.locator("#state").textContent(), "Ready");
  await opener.click();
  await page.keyboard.type("edge-1");
  await page.getByLabel("Within, in seconds").fill("20");
  await page.keyboard.press("Enter");
  await shows(page, "#notice", /^The drain has begun: 3 clients, closed within /);
  await shows(page, "#state", "Draining");
  await shows(page, "#drain-words", /^\d of 3 clients closed, \d told; at most \d+\ss left, then the process ends\.$/);
  assert.ok(await opener.isDisabled());
  for (const peer of peers) assert.equal((await peer.ended).code, 1012);
  await shows(page, "#drain-words", /^2 of 3 clients closed/);
  await shows(page, "#outage", /It was draining: its process has probably ended\.$/);
  assert.deepEqual(await server.exited, [0, null]);
});

// A server that asks for KEY.
function serveWithKey(t) {
  const folder = mkdtempSync(join(tmpdir(), "megasock-dashboard-"));
  const file = join(folder, "admin.key");
  writeFileSync(file, `${KEY}\n`, { mode: 0o600 });
  t.after(() => rmSync(folder, { recursive: true }));
  return serve(t, "--admin-key-file", file);
}

test("a key is asked for, kept in the tab alone, sent with each question, and forgotten", async t => {
  const server = await serveWithKey(t);
  const page = await visit(t, browser, server, { mayFail: true });
  const asked = [];
  page.on("request", request => asked.push(request));
  await shows(page, "#state", "Key needed");
  assert.ok(await isFocused(page, "#key"));
  await page.keyboard.type("not-the-key-of-this-server-not-at-all");
  await page.keyboard.press("Enter");
  await shows(page, "#key-dialog .problem", "The server does not accept this key.");
  await page.keyboard.type(KEY);
  await page.keyboard.press("Enter");
  await shows(page, "#state", "Ready");
  await shows(page, "#active", "0");
  const last = asked.findLast(request => request.url().includes("/api/"));
  assert.equal((await last.allHeaders()).authorization, `Bearer ${KEY}`);
  assert.ok(asked.every(request => !request.url().includes(encodeURIComponent(KEY))));
  const [session, local, cookies] = await page.evaluate(() => [Object.values(sessionStorage), localStorage.length, document.cookie]);
  assert.deepEqual([session, local, cookies], [[KEY], 0, ""]);
  await page.reload();
  await shows(page, "#state", "Ready");
  await page.getByRole("button", { name: "Forget the key" }).click();
  await shows(page, "#state", "Key needed");
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
  // Who does not want to answer now finds the way back to it.
  await page.keyboard.press("Escape");
  await page.getByRole("button", { name: "Enter the key…" }).click();
  await page.keyboard.type(KEY);
  await page.keyboard.press("Enter");
  await shows(page, "#state", "Ready");
});

test("what no key can be is refused before it is sent, and one is forgotten where no answer comes", async t => {
  const server = await serveWithKey(t);
  const page = await visit(t, browser, server, { mayFail: true });
  await shows(page, "#state", "Key needed");
  for (const text of [`\u201c${KEY}\u201d`, KEY.replaceAll("-", " "), KEY.slice(0, 31)]) {
    await page.getByLabel("Key", { exact: true }).fill(text);
    await page.keyboard.press("Enter");
    await shows(page, "#key-dialog .problem", /^This is no key: those have 32 characters or more/);
    assert.equal(await page.evaluate(() => sessionStorage.length), 0);
    await page.keyboard.press("Escape");
    await page.getByRole("button", { name: "Enter the key…" }).click();
  }
  await page.getByLabel("Key", { exact: true }).fill(` ${KEY} `);
  await page.keyboard.press("Enter");
  await shows(page, "#state", "Ready");
  await page.route("**/api/**", request => request.abort());
  await page.reload();
  await shows(page, "#outage", /^The server has not answered since /);
  await page.getByRole("button", { name: "Forget the key" }).click();
  await shows(page, "#state", "Key needed");
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
  assert.ok(await page.locator("#outage").isHidden());
});
