// Tokens, refusals in band, limits: the client against a real server that has keys.
//
//     CLIENT_SERVER=path/to/megasock CLIENT_MODULES=folder-with-node_modules node --test token.test.mjs

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { connect } from "../megasock.js";
import { Proxy, Server, configuredWithKey, event, mintToken, state } from "./server.mjs";

const WebSocket = createRequire(`${process.env.CLIENT_MODULES}/`)("ws");

let folder, config, server;
const configured = (name, lines) => configuredWithKey(folder, name, lines);
const mint = (...claims) => mintToken(config, ...claims);

before(async () => {
  folder = mkdtempSync(join(tmpdir(), "megasock-client-"));
  config = await configured("development", "");
  server = await Server.start("--config", config);
});
after(async () => {
  await server.stop();
  rmSync(folder, { recursive: true });
});

function arrive(t, to, options) {
  const client = connect(to.url, { backoffBaseMs: 50, backoffCapMs: 200, ...options });
  t.after(() => client.close());
  return client;
}

for (const [name, options] of [["the global WebSocket", {}], ["npm's ws", { WebSocket }]]) {
  test(`a token is let in under its name, both ways, with ${name}`, async t => {
    for (const tokenIn of ["protocol", "query"]) {
      const client = arrive(t, server, { ...options, tokenIn, getToken: () => mint("ann", "1h") });
      assert.equal((await client.opened()).userId, "ann");
    }
  });

  test(`none, or a bad one, is an attempt that failed, with ${name}`, async t => {
    for (const getToken of [undefined, () => "a.b.c"]) {
      const client = arrive(t, server, { ...options, getToken, retriesMax: 1 });
      const closed = await state(client, "closed");
      assert.equal(closed.code, 1006);
    }
  });
}

test("a token is refreshed before it ends; without a new one the connection ends with it, and comes back", async t => {
  const tokens = await Promise.all(["6s", "6s", "1h", "1h"].map(expires => mint("ann", expires)));
  const refreshing = arrive(t, server, { getToken: ({ expiring }) => (expiring ? tokens[2] : tokens[0]) });
  let asked = 0;
  const forgetful = arrive(t, server, {
    getToken: ({ expiring }) => {
      if (expiring) throw new Error("the backend is away");
      return asked++ ? tokens[3] : tokens[1];
    },
  });
  const failed = event(forgetful, "error");
  const expiring = event(refreshing, "expiring");
  const ended = state(forgetful, "waiting");
  const connectionId = (await refreshing.opened()).connectionId;
  await forgetful.opened();
  assert.ok((await expiring).expiresIn <= 6);
  assert.equal((await failed).message, "the backend is away");
  assert.equal((await ended).code, 4401);
  await state(forgetful, "open");
  // By now the first token of the other one has ended, too.
  assert.equal((await refreshing.command("ping")).type, "pong");
  assert.equal(refreshing.welcome.connectionId, connectionId);
});

test("a new token that allows less ends what it does not allow, and says so", async t => {
  const [first, second] = await Promise.all([mint("ann", "50s"), mint("ann", "1h", "--subscribe", "kept")]);
  let give;
  const client = arrive(t, server, { getToken: ({ expiring }) => (expiring ? new Promise(resolve => { give = resolve; }) : first) });
  const expiring = event(client, "expiring");
  const [kept, lost, room] = [client.subscribe("kept"), client.subscribe("lost"), client.join("lost")];
  await Promise.all([expiring, ...[kept, lost, room].map(({ ready }) => ready)]);
  const refusals = [event(lost, "error"), event(room, "error")];
  give(second);
  for (const { code } of await Promise.all(refusals)) assert.equal(code, "forbidden");
  assert.deepEqual([kept.active, lost.active, room.active], [true, false, false]);
});

test("refused in band: a page can read why, and stays away or comes back as it is told", async t => {
  const own = await Server.start("--config", await configured("in-band", 'refuse_in_band = "on"\n'));
  t.after(() => own.stop());
  for (const options of [{}, { WebSocket }]) {
    const client = arrive(t, own, { ...options, getToken: () => "a.b.c" });
    const told = event(client, "error");
    const { code, error } = await state(client, "closed");
    assert.deepEqual([code, error.code, await told], [4001, "unauthorized", error]);
  }
});

test("keys changed over a restart: a token used again is refused in band, and a new one let in", async t => {
  const lines = 'refuse_in_band = "on"\n';
  const configs = [await configured("old-key", lines), await configured("new-key", lines)];
  const [old, restarted] = await Promise.all(configs.map(config => Server.start("--config", config)));
  const proxy = await Proxy.before(old);
  t.after(() => {
    proxy.close();
    return Promise.all([old.stop(), restarted.stop()]);
  });
  const tokens = await Promise.all(configs.map(config => mintToken(config, "ann", "1h")));
  let asked = 0;
  const client = arrive(t, proxy, { getToken: () => tokens[asked++] });
  await client.opened();
  // Behind the proxy no attempt fails for want of a server, after which it would ask for a new token anyway.
  const refused = event(client, "state", ({ code }) => code === 4001);
  proxy.server = restarted;
  proxy.cut();
  assert.equal((await refused).state, "waiting");
  assert.equal((await client.opened()).userId, "ann");
  assert.equal(asked, 2);
});

test("in production more subscriptions than the rate allows at once come back, none refused", async t => {
  const production = await configured("production", 'production = "on"\norigins = ["https://example.org"]\n');
  const own = await Server.start("--config", production);
  const proxy = await Proxy.before(own);
  t.after(() => {
    proxy.close();
    return own.stop();
  });
  const refused = [];
  class Recording extends globalThis.WebSocket {
    constructor(...given) {
      super(...given);
      this.addEventListener("message", ({ data }) => { if (data.includes('"type":"error"')) refused.push(data); });
    }
  }
  const getToken = () => mintToken(production, "ann", "1h");
  const client = arrive(t, proxy, { WebSocket: Recording, getToken });
  const all = Array.from({ length: 128 }, (_, number) => client.subscribe(`many${number}`));
  await Promise.all(all.map(({ ready }) => ready));
  const back = all.map(subscription => event(subscription, "subscribed"));
  proxy.cut();
  for (const { recovered } of await Promise.all(back)) assert.equal(recovered, true);
  assert.deepEqual(refused, []);
});

test("a drain tells everybody when to come back", async t => {
  const own = await Server.start("--reconnect-rate", "2/s");
  t.after(() => own.stop());
  const clients = Array.from({ length: 6 }, () => arrive(t, own, {}));
  await Promise.all(clients.map(client => client.opened()));
  const shutdowns = clients.map(client => event(client, "shutdown"));
  const endings = clients.map(client => state(client, "waiting"));
  await own.stop();
  const delays = (await Promise.all(shutdowns)).map(({ reason, reconnectDelayMs }) => {
    assert.equal(typeof reason, "string");
    return reconnectDelayMs;
  });
  assert.ok(new Set(delays).size > 1, String(delays));
  for (const [at, { code, delayMs }] of (await Promise.all(endings)).entries()) assert.deepEqual([code, delayMs], [1012, delays[at]]);
  await own.startAgain();
  await Promise.all(clients.map(client => client.opened()));
});
