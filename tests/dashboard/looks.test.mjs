// Looking things up, and names that would be markup if they were let.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Peer, isFocused, launch, open, serve, shows, visit } from "./browser.mjs";

let browser;
before(async () => { browser = await launch(); });
after(() => browser?.close());

async function lookUp(page, kind, name) {
  await page.getByLabel("What to look up").selectOption(kind);
  await page.getByLabel("Its id or name").fill(name);
  await page.getByRole("button", { name: "Look up" }).click();
}

const fact = (page, term) => page.locator("#found dt", { hasText: new RegExp(`^${term}$`) }).locator("xpath=following-sibling::dd[1]");

test("from a channel to a user who is present, to one of the user's connections, and back to the channel", async t => {
  const server = await serve(t);
  const [ann, phone, bob] = await open(server, "ann", "ann", "bob");
  await Promise.all([ann, phone, bob].map(peer => peer.subscribe("scores")));
  await bob.publish("scores", "one");
  await ann.ask({ type: "join", room: "lobby" });
  const page = await visit(t, browser, server);
  await page.getByRole("button", { name: "scores", exact: true }).click();
  await page.getByText("Present: 2 users").waitFor();
  assert.equal(await fact(page, "subscribers").textContent(), "3");
  assert.equal(await fact(page, "last id").textContent(), "1");
  assert.deepEqual(await page.locator("#found li").allTextContents(), ["ann × 2", "bob"]);
  await page.locator("#found").getByRole("button", { name: "ann" }).click();
  await page.getByText("2 connections").waitFor();
  const ids = [ann, phone].map(peer => peer.welcome.connectionId);
  assert.deepEqual((await page.locator("#found tbody th").allTextContents()).sort(), ids.sort());
  await page.getByRole("button", { name: ann.welcome.connectionId, exact: true }).click();
  await page.locator("#found h3", { hasText: "Connection" }).waitFor();
  assert.equal(await fact(page, "user").textContent(), "ann");
  assert.match(await fact(page, "address").textContent(), /^127\.0\.0\.1/);
  assert.match(await fact(page, "core").textContent(), /^[01]$/);
  assert.match(await fact(page, "connected").textContent(), /\(\d+\ss ago\)$/);
  assert.match(await fact(page, "last heard").textContent(), /^\d+\ss ago$/);
  assert.equal(await fact(page, "waits to be sent").textContent(), "0\u202fB");
  assert.equal(await fact(page, "subscriptions").textContent(), "2");
  const topics = page.locator("#found li");
  assert.deepEqual((await topics.allTextContents()).sort(), ["room:lobby", "scores"]);
  await topics.getByRole("button", { name: "room:lobby" }).click();
  await page.getByText("Present: 1 user", { exact: true }).waitFor();
  assert.equal(await page.locator("#found h3").first().textContent(), "Room room:lobby");
});

test("an anonymous connection by the id of its welcome; what is not there is said", async t => {
  const server = await serve(t);
  const nobody = await Peer.open(server.url);
  const page = await visit(t, browser, server, { mayFail: true });
  await shows(page, "#active", "1");
  await lookUp(page, "connection", nobody.welcome.connectionId);
  await page.locator("#found h3", { hasText: "Connection" }).waitFor();
  assert.equal(await fact(page, "user").textContent(), "anonymous");
  nobody.close();
  await nobody.ended;
  await shows(page, "#active", "0");
  await lookUp(page, "connection", nobody.welcome.connectionId);
  await shows(page, "#found", "There is no such connection (any more).");
  await lookUp(page, "user", "carol");
  await shows(page, "#found", "This user has no connection here.");
  await lookUp(page, "channel", "nowhere");
  await shows(page, "#found", "There is no such channel (any more).");
});

test("names that look like markup, or like parts of a query, are names", async t => {
  const server = await serve(t);
  const channel = '<img src=x onerror="globalThis.owned=1">';
  const user = '<script>globalThis.owned=1</script>&limit=0#"\'';
  const peer = await Peer.open(server.url, user);
  const told = await peer.subscribe(channel);
  assert.equal(told.type, "subscribed");
  const page = await visit(t, browser, server);
  await page.getByRole("button", { name: channel, exact: true }).click();
  await page.getByText("Present: 1 user", { exact: true }).waitFor();
  await page.locator("#found").getByRole("button", { name: user, exact: true }).click();
  await page.getByText("1 connection", { exact: true }).waitFor();
  assert.equal(await page.locator("#found h3").first().textContent(), `User ${user}`);
  await page.getByRole("button", { name: "Disconnect all…" }).click();
  assert.equal(await page.locator("#disconnect-title").textContent(), `Disconnect user ${user}`);
  assert.equal(await page.locator("main img, main script, dialog img, dialog script").count(), 0);
  assert.equal(await page.evaluate(() => globalThis.owned), undefined);
});

test("channels by how their names begin, and whoever is present page by page", async t => {
  const server = await serve(t);
  const peers = await open(server, ...Array.from({ length: 110 }, (_, i) => `user-${String(i).padStart(3, "0")}`));
  await Promise.all(peers.map(peer => peer.subscribe("prices.eur")));
  await peers[0].subscribe("news");
  const page = await visit(t, browser, server);
  await shows(page, "#channels", /^prices\.eur1100news10$/);
  await page.getByLabel("Name begins with").fill("ne");
  await shows(page, "#channels", "news10");
  await page.getByLabel("Name begins with").fill("x");
  await shows(page, "#channels", "None begins so.");
  await lookUp(page, "channel", "prices.eur");
  await page.getByText("Present: 110 users").waitFor();
  assert.equal(await page.locator("#found li").count(), 50);
  await page.getByRole("button", { name: "More of 110" }).focus();
  // By the keyboard alone: what was pressed is taken away, and the focus goes on from there.
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: "user-099" }).waitFor();
  assert.ok(await isFocused(page, "#found .more"));
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: "user-109" }).waitFor();
  assert.ok(await isFocused(page, "#found li:nth-child(101) button"));
  assert.equal(await page.locator("#found li").count(), 110);
  assert.equal(await page.getByRole("button", { name: "More of" }).count(), 0);
});

test("the focus stays where it is while figures come in", async t => {
  const server = await serve(t);
  const [ann] = await open(server, "ann");
  await ann.subscribe("scores");
  const page = await visit(t, browser, server);
  const button = page.getByRole("button", { name: "scores", exact: true });
  await button.focus();
  await ann.publish("scores", "one");
  await shows(page, "#channels", "scores11");
  assert.ok(await isFocused(page, "#channels button"));
});
