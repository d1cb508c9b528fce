// The client in Chromium, against the real server through a cut and a restart, and against what servers seldom say.
//
//     CLIENT_SERVER=path/to/megasock CLIENT_MODULES=folder-with-node_modules node --test page.test.mjs

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { connect } from "../megasock.js";
import { FakeServer } from "./fake_server.mjs";
import { Proxy, Server, configuredWithKey, mintToken } from "./server.mjs";

const { chromium } = createRequire(`${process.env.CLIENT_MODULES}/`)("playwright-core");
const PATIENCE_MS = 20_000;
const FILES = {
  "/": ["text/html", new URL("page.html", import.meta.url)],
  "/megasock.js": ["text/javascript", new URL("../megasock.js", import.meta.url)],
};

let browser, site;
before(async () => {
  site = createServer((request, response) => {
    const [type, file] = FILES[new URL(request.url, "http://site").pathname] ?? [];
    if (!file) return response.writeHead(404).end();
    response.writeHead(200, { "Content-Type": type }).end(readFileSync(file));
  }).listen(0, "127.0.0.1");
  await once(site, "listening");
  const executablePath = execFileSync("sh", ["-c", "command -v chromium"], { encoding: "utf8" }).trim();
  // Chromium's sandbox does not work for root, and loopback is all it sees here.
  browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
});
after(async () => {
  await browser?.close();
  site.close();
});

// The page, connected to this address; closed with the test, which fails if anything in it went wrong.
async function visit(t, to, also = "") {
  const context = await browser.newContext();
  const page = await context.newPage();
  const faults = [];
  page.on("pageerror", error => faults.push(String(error)));
  page.setDefaultTimeout(PATIENCE_MS);
  await page.goto(`http://127.0.0.1:${site.address().port}/?to=${encodeURIComponent(to)}${also}`);
  t.after(async () => {
    await context.close();
    assert.deepEqual(faults, []);
  });
  return {
    page,
    is: state => page.getByRole("status").getByText(state, { exact: true }).waitFor(),
    shows: line => page.getByRole("listitem").getByText(line, { exact: true }).last().waitFor(),
    lines: () => page.getByRole("listitem").allInnerTexts(),
    run: script => page.evaluate(script),
  };
}

test("through a cut: what was missed comes, once and in order", async t => {
  const server = await Server.start();
  const proxy = await Proxy.before(server);
  const ann = connect(`${server.url}?user=ann`);
  t.after(() => {
    ann.close();
    proxy.close();
    return server.stop();
  });
  const visitor = await visit(t, proxy.url);
  await visitor.shows("subscribed first");
  await ann.publish("scores", "one");
  await visitor.shows("1: one");
  proxy.accepts = false;
  proxy.cut();
  await visitor.is("waiting");
  await ann.publish("scores", "two");
  await ann.publish("scores", "three");
  const queued = visitor.run(() => window.client.publish("scores", "mine"));
  proxy.accepts = true;
  assert.deepEqual(await queued, { id: 4 });
  await visitor.shows("4: mine");
  const lines = (await visitor.lines()).filter(line => line !== "ended with 1006");
  assert.deepEqual(lines, ["subscribed first", "1: one", "2: two", "3: three", "subscribed recovered", "4: mine"]);
});

test("through a restart of the server: back, and what is lost is said", async t => {
  const server = await Server.start();
  t.after(() => server.stop());
  const visitor = await visit(t, `${server.url}?user=bob`);
  await visitor.shows("subscribed first");
  await visitor.run(() => window.client.publish("scores", "before"));
  await visitor.shows("1: before");
  await server.stop();
  await visitor.is("waiting");
  await server.startAgain();
  await visitor.shows("subscribed anew");
  await visitor.is("open");
  await visitor.run(() => window.client.publish("scores", "after"));
  await visitor.shows("1: after");
  const lines = await visitor.lines();
  assert.ok(lines.includes("gap undefined-undefined not_recovered"), lines.join("\n"));
  assert.equal(lines.find(line => line.startsWith("ended")), "ended with 1012");
  await visitor.run(() => window.client.close());
  await visitor.is("closed");
  assert.equal((await visitor.lines()).at(-1), "ended with 1000");
});

test("with a token of a server that has keys; without a good one the page is told why", async t => {
  const folder = mkdtempSync(join(tmpdir(), "megasock-client-"));
  const config = await configuredWithKey(folder, "keys", 'refuse_in_band = "on"\n');
  const server = await Server.start("--config", config);
  t.after(async () => {
    await server.stop();
    rmSync(folder, { recursive: true });
  });
  const ann = await visit(t, server.url, `&token=${await mintToken(config, "ann", "1h")}`);
  await ann.shows("subscribed first");
  assert.equal(await ann.run(() => window.client.welcome.userId), "ann");
  const nobody = await visit(t, server.url, "&token=a.b.c");
  await nobody.is("closed");
  const [told, ended] = await nobody.lines();
  assert.match(told, /^unauthorized: ./);
  assert.equal(ended, "ended with 4001");
});

test("what only a server's word can bring about", async t => {
  const server = await FakeServer.start();
  t.after(() => server.stop());
  const arrives = server.peer();
  const visitor = await visit(t, server.url, "&token");
  const peer = await arrives;
  assert.deepEqual(peer.offered, ["megasock", "token.a.b1.c"]);
  const subscribe = peer.takes("subscribe");
  peer.welcome();
  peer.push({ type: "subscribed", id: (await subscribe).id, channel: "scores", epoch: "e", last_id: 0, recovered: false });
  const refresh = peer.takes("refresh");
  peer.push({ type: "expiring", expiresIn: 60 });
  assert.equal((await refresh).token, "a.b2.c");
  peer.push({ type: "refreshed", id: (await refresh).id, expiresIn: 3600 });
  // One that refuses handshakes looks to a browser like one that is not there.
  server.refusal = "503 Service Unavailable";
  peer.push({ type: "server_shutdown", reason: "deploy", reconnectDelay: 250 });
  peer.end(1012, "restart");
  await visitor.shows("ended with 1012");
  assert.equal(await visitor.run(() => window.delaysMs[0]), 250);
  for (let refused = 0; refused < 2; refused++) await once(server, "refused");
  server.refusal = null;
  const last = await server.peer();
  last.push({ type: "error", code: "unauthorized", error: "the token is not valid" });
  last.end(4001, "unauthorized");
  await visitor.is("closed");
  const lines = await visitor.lines();
  assert.deepEqual([lines[0], lines[1], lines.at(-2), lines.at(-1)],
    ["subscribed first", "ended with 1012", "unauthorized: the token is not valid", "ended with 4001"]);
  assert.ok(lines.slice(2, -2).every(line => line === "ended with 1006"), lines.join("\n"));
});
