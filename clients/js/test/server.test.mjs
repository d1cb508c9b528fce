// The client against the real server: every command, a cut, a freeze, a restart.
//
//     CLIENT_SERVER=path/to/megasock CLIENT_MODULES=folder-with-node_modules node --test server.test.mjs

import assert from "node:assert/strict";
import { once } from "node:events";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";
import { ServerError, connect } from "../megasock.js";
import { Proxy, Server, event, state } from "./server.mjs";

const WebSocket = createRequire(`${process.env.CLIENT_MODULES}/`)("ws");
const QUICK = { backoffBaseMs: 50, backoffCapMs: 200 };

let server;
before(async () => { server = await Server.start(); });
after(() => server.stop());

// A client of its own for each name, closed with the test.
function arrive(t, user, { url = server.url, ...options } = {}) {
  const client = connect(user ? `${url}?user=${user}` : url, { ...QUICK, ...options });
  t.after(() => client.close());
  return client;
}

const unique = name => `${name}-${process.hrtime.bigint().toString(36)}`;

// Everything a subscriber is told, and a wait for so many messages.
function listenTo(subscription) {
  const told = [];
  subscription.on("message", ({ data }) => told.push(data)).on("gap", gap => told.push({ gap }));
  subscription.on("subscribed", ({ recovered, again }) => told.push({ recovered, again }));
  const until = async last => { if (!told.includes(last)) await event(subscription, "message", ({ data }) => data === last); };
  return { told, until };
}

for (const [name, options] of [["the global WebSocket", {}], ["npm's ws", { WebSocket }]]) {
  test(`every command, with ${name}`, async t => {
    const [ann, bob] = [arrive(t, "ann", options), arrive(t, "bob", options)];
    assert.deepEqual({ ...(await ann.opened()), connectionId: "" }, { connectionId: "", userId: "ann", serverId: "js", pingInterval: 25_000 });
    const [channel, room] = [unique("scores"), unique("lobby")];

    const scores = await bob.subscribe(channel).ready;
    const { told, until } = listenTo(scores);
    assert.deepEqual(await ann.publish(channel, { home: 1 }), { id: 1 });
    assert.deepEqual(await scores.publish("two", { echo: false }), { id: 2 });
    const third = event(scores, "message", ({ id }) => id === 3);
    await ann.publish(channel, 3);
    const { ts, ...message } = await third;
    assert.deepEqual(message, { id: 3, data: 3, userId: "ann", serverId: undefined });
    assert.ok(Math.abs(ts - Date.now()) < 60_000);
    await until(3);
    assert.deepEqual(told, [{ home: 1 }, 3]);
    assert.deepEqual(await scores.presence(), { users: [{ userId: "bob", connections: 1 }], total: 1 });
    const { messages, lastId, epoch } = await scores.history({ sinceId: 1, limit: 5 });
    assert.deepEqual([messages.map(({ id, data }) => [id, data]), lastId, epoch], [[[2, "two"], [3, 3]], 3, scores.epoch]);

    const mine = await ann.join(room).ready;
    const came = event(mine, "presence");
    const his = await bob.join(room).ready;
    assert.deepEqual(await came, { joined: ["bob"], left: [] });
    const said = event(mine, "message");
    await his.publish("hi");
    const { ts: at, ...greeting } = await said;
    assert.deepEqual(greeting, { id: 1, data: "hi", userId: "bob", serverId: "js" });
    assert.equal((await mine.history()).messages[0].data, "hi");
    const gone = event(mine, "presence");
    assert.deepEqual(await bob.leaveAll(), [room]);
    assert.deepEqual(await gone, { joined: [], left: ["bob"] });

    const direct = event(ann, "direct");
    assert.deepEqual(await bob.direct("ann", [1]), { connections: 1 });
    const { ts: when, ...got } = await direct;
    assert.deepEqual(got, { fromUserId: "bob", data: [1] });
    assert.ok([at, when].every(Number.isInteger));

    assert.equal((await ann.command("ping")).type, "pong");
    await assert.rejects(bob.send(room, "x"), error => error instanceof ServerError && error.code === "not_subscribed");
    await assert.rejects(ann.command("dance"), { code: "unknown_type" });
    await assert.rejects(ann.subscribe("").ready, { code: "bad_request" });
    await scores.unsubscribe();
    assert.equal((await ann.presence({ channel })).total, 0);
    // Left and entered at once: the old end, then the new beginning.
    const fresh = bob.subscribe(channel);
    fresh.unsubscribe();
    const again = await bob.subscribe(channel).ready;
    assert.deepEqual([again.lastId, again.active], [3, true]);
    ann.close();
    await assert.rejects(ann.publish(channel, 1), { code: "closed" });
  });
}

test("a cut: what was missed comes, once and in order; what was in flight is told", async t => {
  const proxy = await Proxy.before(server);
  t.after(() => proxy.close());
  const [ann, bob] = [arrive(t, "ann"), arrive(t, "bob", { url: proxy.url })];
  const [channel, room] = [unique("kept"), unique("den")];
  const [scores, den] = [bob.subscribe(channel), bob.join(room)];
  const [inScores, inDen] = [listenTo(scores), listenTo(den)];
  await Promise.all([scores.ready, den.ready, ann.join(room).ready]);
  await ann.publish(channel, 1);
  await ann.send(room, "a");
  await Promise.all([inScores.until(1), inDen.until("a")]);

  proxy.accepts = false;
  const waiting = state(bob, "waiting");
  proxy.cut();
  assert.equal((await waiting).code, 1006);
  for (const number of [2, 3, 4]) await ann.publish(channel, number);
  await ann.send(room, "b");
  const queued = bob.publish(channel, "queued");
  const refusals = proxy.accepted;
  await event(bob, "state", () => proxy.accepted > refusals);
  const open = state(bob, "open");
  proxy.accepts = true;
  await open;
  assert.deepEqual(await queued, { id: 5 });
  await ann.publish(channel, 6);
  await Promise.all([inScores.until(6), inDen.until("b")]);
  assert.deepEqual(inScores.told, [{ recovered: false, again: false }, 1, 2, 3, 4, { recovered: true, again: true }, "queued", 6]);
  await ann.send(room, "c");
  await inDen.until("c");
  assert.deepEqual(inDen.told, [{ recovered: false, again: false }, "a", "b", { recovered: true, again: true }, "c"]);

  const lost = bob.publish(channel, "maybe");
  lost.catch(() => {});
  // Not before it is on its way.
  await Promise.resolve();
  proxy.cut();
  await assert.rejects(lost, { code: "connection_lost" });
});

test("a position kept elsewhere resumes in another client", async t => {
  const [ann, channel] = [arrive(t, "ann"), unique("kept")];
  const first = await ann.subscribe(channel).ready;
  await ann.publish(channel, "seen");
  const { position } = first;
  assert.deepEqual(position, { epoch: first.epoch, lastId: 1 });
  await ann.publish(channel, "missed");
  const resumed = arrive(t, "bob").subscribe(channel, { since: position });
  const { told } = listenTo(resumed);
  await resumed.ready;
  assert.deepEqual(told, ["missed", { recovered: true, again: true }]);
});

test("more subscriptions than a burst come back, all of them", async t => {
  const proxy = await Proxy.before(server);
  t.after(() => proxy.close());
  const [ann, bob] = [arrive(t, "ann"), arrive(t, "bob", { url: proxy.url, burstIntervalMs: 100 })];
  const channels = Array.from({ length: 100 }, (_, number) => unique(`many${number}`));
  const all = channels.map(channel => bob.subscribe(channel));
  await Promise.all(all.map(({ ready }) => ready));
  const back = all.map(subscription => event(subscription, "subscribed"));
  proxy.cut();
  for (const { recovered } of await Promise.all(back)) assert.equal(recovered, true);
  const got = all.map(subscription => event(subscription, "message"));
  await Promise.all(channels.map((channel, number) => ann.publish(channel, number)));
  assert.deepEqual((await Promise.all(got)).map(({ data }) => data), channels.map((_, number) => number));
});

test("a connection that is there but dead is left", async t => {
  const quick = await Server.start("--ping-interval", "300ms");
  const proxy = await Proxy.before(quick);
  t.after(() => {
    proxy.close();
    return quick.stop();
  });
  const bob = arrive(t, "bob", { url: proxy.url, pingSlackMs: 200, pongTimeoutMs: 300 });
  assert.equal((await bob.opened()).pingInterval, 300);
  // Alive and silent, it is kept: when it is asked the third time, it has answered twice.
  for (let asked = 0; asked < 3; asked++) await once(proxy, "up");
  assert.equal(proxy.accepted, 1);
  const waiting = state(bob, "waiting");
  proxy.freeze();
  assert.match((await waiting).reason, /nor a pong/);
  await state(bob, "open");
});

test("a restart of the server: everybody is back, and what is lost is said", async t => {
  const own = await Server.start();
  t.after(() => own.stop());
  const [ann, bob] = [arrive(t, "ann", { url: own.url }), arrive(t, "bob", { url: own.url })];
  const [channel, room] = [unique("scores"), unique("lobby")];
  const [scores, lobby] = [bob.subscribe(channel), bob.join(room)];
  const { told, until } = listenTo(scores);
  await Promise.all([scores.ready, lobby.ready]);
  await ann.publish(channel, 1);
  await until(1);
  const epoch = scores.epoch;
  const waiting = [ann, bob].map(client => state(client, "waiting"));
  await own.stop();
  for (const { code } of await Promise.all(waiting)) assert.equal(code, 1012);
  const queued = ann.publish(channel, 2);
  const back = [event(scores, "subscribed"), event(lobby, "subscribed")];
  await own.startAgain();
  assert.deepEqual((await Promise.all(back)).map(({ again }) => again), [true, true]);
  await queued;
  await ann.publish(channel, 3);
  await until(3);
  assert.notEqual(scores.epoch, epoch);
  assert.deepEqual(told.slice(0, 4), [{ recovered: false, again: false }, 1, { recovered: false, again: true }, { gap: { reason: "not_recovered" } }]);
  assert.equal(told.at(-1), 3);
  assert.deepEqual((await bob.presence({ room })).users, [{ userId: "bob", connections: 1 }]);
});

test("a kill of the server: the same, without a word", async t => {
  const own = await Server.start();
  t.after(() => own.stop());
  const bob = arrive(t, "bob", { url: own.url });
  const scores = await bob.subscribe(unique("scores")).ready;
  const waiting = state(bob, "waiting");
  own.process.kill("SIGKILL");
  assert.equal((await waiting).code, 1006);
  const back = event(scores, "subscribed");
  await own.exited;
  await own.startAgain();
  assert.equal((await back).again, true);
});
