// What goes over the wire, by real WebSockets to a server of the test's own.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createRequire } from "node:module";
import { test } from "node:test";
import { connect } from "../megasock.js";
import { FakeServer } from "./fake_server.mjs";

const WebSocket = createRequire(`${process.env.CLIENT_MODULES}/`)("ws");

async function start(t, options) {
  const server = await FakeServer.start();
  const arrives = server.peer();
  const client = connect(server.url, { backoffBaseMs: 20, ...options });
  t.after(() => {
    client.close();
    server.stop();
  });
  return { server, client, peer: await arrives };
}

for (const [name, options] of [["the global WebSocket", {}], ["npm's ws", { WebSocket }]]) {
  test(`a token as a subprotocol, its refresh and its end, with ${name}`, async t => {
    let asked = 0;
    const { server, client, peer } = await start(t, { ...options, getToken: () => `a.b${++asked}.c` });
    assert.deepEqual(peer.offered, ["megasock", "token.a.b1.c"]);
    peer.welcome({ userId: "ann" });
    assert.equal((await client.opened()).userId, "ann");
    const refresh = peer.takes("refresh");
    peer.push({ type: "expiring", expiresIn: 60 });
    const { id, token } = await refresh;
    assert.equal(token, "a.b2.c");
    peer.push({ type: "refreshed", id, expiresIn: 3600 });
    const again = server.peer();
    peer.end(4401, "token expired");
    assert.deepEqual((await again).offered, ["megasock", "token.a.b3.c"]);
  });

  test(`a token in the address, with ${name}`, async t => {
    const { peer } = await start(t, { ...options, getToken: () => "a.b.c", tokenIn: "query" });
    assert.deepEqual([peer.offered, peer.target], [[], "/ws?token=a.b.c"]);
  });

  test(`server_shutdown: the next attempt comes when it says, with ${name}`, async t => {
    const { server, client, peer } = await start(t, { ...options, random: () => 0 });
    peer.welcome({ routingToken: "n1/x" });
    await client.opened();
    const told = new Promise(resolve => client.on("state", resolve));
    const again = server.peer();
    peer.push({ type: "server_shutdown", reason: "deploy", reconnectDelay: 300 });
    peer.end(1012, "restart");
    const { state, code, reason, delayMs } = await told;
    const endedAt = performance.now();
    assert.deepEqual([state, code, reason, delayMs], ["waiting", 1012, "restart", 300]);
    const { at, target } = await again;
    // Timers may be a millisecond early against the clock.
    assert.ok(at - endedAt > 298, String(at - endedAt));
    assert.equal(target, "/ws?routing=n1%2Fx");
  });

  test(`refused in band, with ${name}`, async t => {
    const { server, client, peer } = await start(t, options);
    client.on("error", () => {});
    const again = server.peer();
    peer.push({ type: "error", code: "try_again", error: "the server is full", reconnectDelay: 100 });
    peer.end(1013, "");
    const second = await again;
    const stopped = new Promise(resolve => client.on("state", change => change.state === "closed" && resolve(change)));
    second.push({ type: "error", code: "unauthorized", error: "the token is not valid" });
    second.end(4001, "unauthorized");
    const { code, error } = await stopped;
    assert.deepEqual([code, error.message], [4001, "the token is not valid"]);
  });

  test(`a handshake that is refused is tried again, with ${name}`, async t => {
    const server = await FakeServer.start();
    server.refusal = "503 Service Unavailable";
    const client = connect(server.url, { backoffBaseMs: 20, ...options });
    t.after(() => {
      client.close();
      server.stop();
    });
    const codes = [];
    client.on("state", ({ state, code }) => state === "waiting" && codes.push(code));
    for (let refused = 0; refused < 3; refused++) await once(server, "refused");
    server.refusal = null;
    (await server.peer()).welcome();
    await client.opened();
    assert.deepEqual(codes, [1006, 1006, 1006]);
  });

  test(`close() is a close frame, with ${name}`, async t => {
    const { client, peer } = await start(t, options);
    peer.welcome();
    await client.opened();
    const bytes = once(peer.socket, "data");
    client.close();
    const [frame] = await bytes;
    const [high, low] = [frame[6] ^ frame[2], frame[7] ^ frame[3]];
    assert.deepEqual([frame[0], (high << 8) | low], [0x88, 1000]);
  });
}
