// The client by its own clock, with a network that is the test: every delay to the millisecond.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Client, ConnectionLostError, DEFAULTS, QueueFullError, ServerError, connect } from "../megasock.js";
import { FakeClock, fakeNetwork, settle } from "./fake.mjs";

// A client, its network and clock; chance is always at its far end unless a test says otherwise.
async function start(options = {}, url = "ws://fake/ws") {
  const [network, clock] = [fakeNetwork(), new FakeClock()];
  const client = connect(url, { WebSocket: network.WebSocket, clock, random: () => 1, ...options });
  const [states, errors] = [[], []];
  client.on("state", change => states.push(change)).on("error", error => errors.push(error));
  await settle();
  return { client, clock, states, errors, network, get socket() { return network.sockets.at(-1); } };
}

async function opened(options, url) {
  const world = await start(options, url);
  world.socket.welcome();
  return world;
}

// A subscriber of `scores` at 41, and everything it is told.
async function subscribed(options) {
  const world = await opened(options);
  const told = listenedTo(world.client.subscribe("scores"));
  world.socket.answer(world.socket.takes("subscribe"), "subscribed", { channel: "scores", epoch: "e", last_id: 41, recovered: false });
  return Object.assign(world, { scores: told.subscription, told: told.events });
}

function listenedTo(subscription) {
  const events = [];
  subscription.on("message", ({ id }) => events.push(id));
  subscription.on("gap", gap => events.push({ gap }));
  subscription.on("subscribed", ({ recovered, again }) => events.push({ recovered, again }));
  subscription.on("presence", presence => events.push(presence));
  subscription.on("error", ({ code }) => events.push({ code }));
  return { subscription, events };
}

const scores = (...ids) => ids.map(id => ({ type: "message", channel: "scores", id, data: id, ts: 1 }));

// Lets the next attempt come when it is due.
async function again(world) {
  const made = world.network.sockets.length;
  await world.clock.pass(world.states.at(-1).delayMs);
  assert.equal(world.network.sockets.length, made + 1);
  world.socket.welcome();
}

const code = wanted => error => { assert.equal(error.code, wanted); return true; };
const named = (...names) => world => world.states.slice(-names.length).map(({ state }) => state).join() === names.join();

test("states of a life", async () => {
  const world = await start();
  assert.equal(world.client.state, "connecting");
  const waited = world.client.open().opened();
  world.socket.welcome({ userId: "ann" });
  assert.equal((await waited).userId, "ann");
  assert.equal((await world.client.opened()).userId, "ann");
  world.socket.end(1006);
  assert.equal(world.client.state, "waiting");
  assert.equal(world.client.welcome, null);
  world.client.close();
  await assert.rejects(world.client.opened(), code("closed"));
  assert.deepEqual(world.states.map(({ previous, state }) => `${previous}>${state}`),
    ["connecting>open", "open>waiting", "waiting>closed"]);
  await world.clock.pass(100_000);
  assert.equal(world.network.sockets.length, 1, "open() made no second one");
  world.client.open();
  await settle();
  assert.equal(world.network.sockets.length, 2);
  world.socket.end(1006);
  assert.equal(world.states.at(-1).delayMs, 1000, "the schedule begins anew");
});

test("attempts that fail come at the delays of the schedule", async () => {
  const world = await start();
  const delays = [];
  for (let attempt = 0; attempt < 7; attempt++) {
    world.socket.end(1006);
    const { state, delayMs } = world.states.at(-1);
    assert.equal(state, "waiting");
    delays.push(delayMs);
    const made = world.network.sockets.length;
    await world.clock.pass(delayMs - 1);
    assert.equal(world.network.sockets.length, made, "not a millisecond early");
    await world.clock.pass(1);
    assert.equal(world.network.sockets.length, made + 1);
  }
  assert.deepEqual(delays, [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
});

test("only a connection that was welcomed and lasted begins the schedule anew", async () => {
  const world = await start();
  world.socket.end(1006);
  await world.clock.pass(1000);
  world.socket.welcome();
  await world.clock.pass(9999);
  world.socket.end(1006);
  assert.equal(world.states.at(-1).delayMs, 2000);
  await world.clock.pass(2000);
  world.socket.welcome();
  await world.clock.pass(10_000);
  world.socket.end(1006);
  assert.equal(world.states.at(-1).delayMs, 1000);
});

for (const [closeCode, options, wanted] of [
  [1000, {}, "closed"],
  [1001, {}, 1000],
  [1006, {}, 1000],
  [1008, {}, 15_000],
  [1009, {}, 15_000],
  [1011, {}, 1000],
  [1012, {}, 1000],
  [1013, {}, 1000],
  [4001, {}, "closed"],
  [4401, {}, "closed"],
  [4401, { getToken: () => "t" }, 1000],
  [4999, {}, 1000],
  [4999, { closeCodes: { 4999: "stop" } }, "closed"],
  [1000, { closeCodes: { 1000: "retry" } }, "closed"],
  [1008, { closeCodes: { 1008: "retry" } }, 1000],
]) {
  test(`close ${closeCode} with ${JSON.stringify(Object.keys(options))}: ${wanted}`, async () => {
    const world = await opened(options);
    world.socket.end(closeCode, "why");
    const last = world.states.at(-1);
    assert.equal(last.state === "waiting" ? last.delayMs : last.state, wanted);
    assert.deepEqual([last.code, last.reason], [closeCode, "why"]);
  });
}

test("server_shutdown's delay is the delay, whatever ends the connection", async () => {
  for (const ending of [1012, 1001, 1006, 1008]) {
    const world = await opened();
    const told = [];
    world.client.on("shutdown", shutdown => told.push(shutdown));
    world.socket.push({ type: "server_shutdown", reason: "deploy", reconnectDelay: 5312 });
    assert.deepEqual(told, [{ reason: "deploy", reconnectDelayMs: 5312 }]);
    assert.equal(world.client.state, "open");
    await world.clock.pass(700);
    world.socket.end(ending);
    assert.equal(world.states.at(-1).delayMs, 5312);
    await world.clock.pass(5311);
    assert.equal(world.network.sockets.length, 1);
    await world.clock.pass(1);
    assert.equal(world.network.sockets.length, 2);
    world.socket.end(1006);
    assert.equal(world.states.at(-1).delayMs, 2000, "a hint serves once");
  }
});

test("a refusal in band says when to come again", async () => {
  const world = await start();
  world.socket.push({ type: "error", code: "try_again", error: "too many", reconnectDelay: 7001 });
  world.socket.end(1013);
  const { state, delayMs, error } = world.states.at(-1);
  assert.deepEqual([state, delayMs, error.code], ["waiting", 7001, "try_again"]);
  assert.ok(error instanceof ServerError);
  assert.deepEqual(world.errors, [error]);
});

test("a refusal in band for good is the reason given", async () => {
  const world = await start();
  const waited = world.client.opened();
  world.socket.push({ type: "error", code: "unauthorized", error: "the token is not valid" });
  world.socket.end(4001);
  await assert.rejects(waited, /the token is not valid \(4001\)/);
  assert.equal(world.client.state, "closed");
});

for (const hint of [-1, "5", null, 1e12, Number.MAX_VALUE]) {
  test(`a hint of ${hint} is no reason to hurry or to stay away for ever`, async () => {
    const world = await opened();
    world.socket.push({ type: "server_shutdown", reason: "x", reconnectDelay: hint });
    world.socket.end(1012);
    assert.equal(world.states.at(-1).delayMs, hint > 5 ? 3_600_000 : 1000);
  });
}

test("retries are capped", async () => {
  const world = await start({ retriesMax: 2 });
  for (const delayMs of [1000, 2000]) {
    world.socket.end(1006);
    await world.clock.pass(delayMs);
  }
  const waiting = world.client.publish("scores", 1);
  world.socket.end(1006);
  await assert.rejects(waiting, code("closed"));
  assert.match(world.states.at(-1).reason, /gave up after 2 retries/);
  assert.equal(world.client.state, "closed");
});

test("no welcome in time is an attempt that failed", async () => {
  const world = await start({ connectTimeoutMs: 3000 });
  await world.clock.pass(3000);
  assert.ok(world.socket.closedWith);
  assert.deepEqual([world.states.at(-1).state, world.states.at(-1).delayMs], ["waiting", 1000]);
  // What an abandoned connection still says is nobody's.
  world.socket.welcome();
  world.socket.push({ type: "error", code: "try_again", error: "late", reconnectDelay: 5 });
  world.socket.end(1000);
  assert.equal(world.client.state, "waiting");
});

test("close() says 1000, at any moment", async () => {
  const standing = await opened();
  standing.client.close();
  standing.client.close();
  assert.equal(standing.socket.closedWith, 1000);
  assert.ok(named("open", "closed")(standing));
  const young = await start();
  young.client.close();
  assert.equal(young.socket.closedWith, 1000);
  assert.equal(young.clock.pending().length, 0);
  const { promise, resolve } = Promise.withResolvers?.() ?? withResolvers();
  const tokenless = await start({ getToken: () => promise });
  tokenless.client.close();
  resolve("late");
  await settle();
  assert.equal(tokenless.network.sockets.length, 0);
  for (const world of [standing, young, tokenless]) assert.equal(world.clock.pending().length, 0);
});

function withResolvers() {
  const ends = {};
  ends.promise = new Promise((resolve, reject) => Object.assign(ends, { resolve, reject }));
  return ends;
}

test("a command is settled by the reply with its id", async () => {
  const { client, socket } = await opened();
  const [first, second, refused] = [client.publish("a", 1), client.publish("b", { x: 1 }, { echo: false }), client.publish("c", undefined)];
  refused.catch(() => {});
  const [a, b, c] = [socket.takes("publish"), socket.takes("publish"), socket.takes("publish")];
  assert.deepEqual([a.channel, a.data, b.data, b.echo, c.data, "echo" in a], ["a", 1, { x: 1 }, false, null, false]);
  socket.answer(b, "published", { channel: "b", last_id: 9 });
  socket.refuse(c, "forbidden");
  socket.answer(a, "published", { channel: "a", last_id: 4 });
  assert.deepEqual(await Promise.all([first, second]), [{ id: 4 }, { id: 9 }]);
  await assert.rejects(refused, error => error instanceof ServerError && error.code === "forbidden" && error.message === "no: forbidden");
});

test("every command in the words of the wire", async () => {
  const { client, socket } = await opened();
  const cases = [
    [() => client.send("lobby", "hi"), "room_message", { room: "lobby", payload: "hi" }, "sent", {}, {}],
    [() => client.direct("bob", { a: 1 }), "direct_message", { targetUserId: "bob", payload: { a: 1 } }, "sent", { connections: 2 }, { connections: 2 }],
    [() => client.presence({ room: "lobby" }, { limit: 2, after: "ann" }), "presence", { room: "lobby", limit: 2, after: "ann" }, "presence",
      { room: "lobby", users: [], total: 3 }, { users: [], total: 3 }],
    [() => client.history({ channel: "scores" }, { limit: 2, sinceId: 7 }), "history", { channel: "scores", limit: 2, since_id: 7 }, "history",
      { epoch: "e", last_id: 8, messages: [{ id: 8, data: null, ts: 5 }] },
      { epoch: "e", lastId: 8, messages: [{ id: 8, data: null, userId: undefined, ts: 5, serverId: undefined }] }],
    [() => client.history({ room: "lobby" }), "history", { room: "lobby" }, "history",
      { epoch: "e", last_id: 1, messages: [{ id: 1, userId: "ann", payload: 2, timestamp: 5, serverId: "n1" }] },
      { epoch: "e", lastId: 1, messages: [{ id: 1, data: 2, userId: "ann", ts: 5, serverId: "n1" }] }],
    [() => client.command("dance", { steps: 3 }), "dance", { steps: 3 }, "danced", { well: true }, undefined],
  ];
  for (const [call, type, fields, reply, said, wanted] of cases) {
    const promise = call();
    await settle();
    const { id, ...sent } = socket.takes(type);
    assert.deepEqual(sent, { type, ...fields });
    socket.answer({ id }, reply, said);
    assert.deepEqual(await promise, wanted ?? { type: reply, id, ...said });
  }
});

test("a command's type and id are not its fields'", async () => {
  const { client, socket } = await opened();
  const [own, other] = [client.command("dance", { id: 2, type: "sing", steps: 3 }), client.command("dance", { id: undefined })];
  const [first, second] = [socket.takes("dance"), socket.takes("dance")];
  assert.deepEqual([first.steps, first.id !== second.id], [3, true]);
  socket.answer(first, "danced", { how: "well" });
  socket.answer(second, "danced", { how: "badly" });
  assert.deepEqual((await Promise.all([own, other])).map(({ how }) => how), ["well", "badly"]);
});

test("what is asked while offline waits in order, up to a bound, and no later change reaches it", async () => {
  const world = await start({ queueMax: 2 });
  const data = { home: 1 };
  const waiting = [world.client.publish("a", data), world.client.publish("b", 2)];
  data.home = 99;
  await assert.rejects(world.client.publish("c", 3), error => error instanceof QueueFullError && error.code === "queue_full");
  world.socket.welcome();
  const sent = world.socket.sent.map(({ channel, data }) => [channel, data]);
  assert.deepEqual(sent, [["a", { home: 1 }], ["b", 2]]);
  for (const command of [...world.socket.sent]) world.socket.answer(command, "published", { last_id: 1 });
  await Promise.all(waiting);
});

test("a name that is no string is refused at once, and breaks nothing", async () => {
  const world = await start();
  for (const name of [10n, 10, undefined, null, {}, Symbol("x")]) {
    assert.throws(() => world.client.subscribe(name), /the name of a channel is a string/);
    assert.throws(() => world.client.join(name), /the name of a room is a string/);
  }
  world.client.subscribe("scores");
  world.socket.welcome();
  assert.deepEqual(world.socket.sent.map(({ channel }) => channel), ["scores"]);
});

test("data that is no JSON fails by itself", async () => {
  const { client, socket } = await opened();
  await assert.rejects(client.publish("a", 1n), TypeError);
  await assert.rejects(client.command("x", { f: 1n }), TypeError);
  assert.equal(socket.sent.length, 0);
});

test("in flight when the connection is lost: what may have been done is not repeated, what changes nothing is", async () => {
  const world = await subscribed();
  const { client, socket } = world;
  const lost = [client.publish("scores", 1), client.send("lobby", 2), client.direct("bob", 3), client.command("leave_all")];
  for (const promise of lost) promise.catch(() => {});
  const [asked, read] = [client.presence({ channel: "scores" }), client.history({ channel: "scores" })];
  const left = client.unsubscribe("scores");
  await settle();
  socket.end(1006);
  const waiting = client.publish("later", 1);
  for (const promise of lost) {
    await assert.rejects(promise, error => error instanceof ConnectionLostError && error.code === "connection_lost");
  }
  await left;
  await again(world);
  assert.deepEqual(world.socket.sent.map(({ type }) => type), ["presence", "history", "publish"]);
  world.socket.answer(world.socket.takes("presence"), "presence", { users: [], total: 0 });
  world.socket.answer(world.socket.takes("history"), "history", { epoch: "e", last_id: 0, messages: [] });
  world.socket.answer(world.socket.takes("publish"), "published", { last_id: 1 });
  await Promise.all([asked, read, waiting]);
});

test("reads to be asked again take no room from what is given while offline", async () => {
  const world = await opened({ queueMax: 2 });
  for (let cut = 0; cut < 2; cut++) {
    for (const channel of ["a", "b", "c"]) world.client.history({ channel });
    world.socket.end(1006);
    const waiting = [world.client.publish("a", 1), world.client.publish("a", 2)];
    await assert.rejects(world.client.publish("a", 3), code("queue_full"));
    await again(world);
    assert.equal(world.socket.sent.length, 3 * (cut + 1) + 2);
    for (let at = 0; at < 2; at++) world.socket.answer(world.socket.takes("publish"), "published", { last_id: 1 });
    await Promise.all(waiting);
  }
});

test("what was answered, or asked again already, is not asked once more", async () => {
  const world = await opened();
  const [refused, asked] = [world.client.presence({ channel: "a" }), world.client.presence({ channel: "b" })];
  const failed = assert.rejects(refused, code("forbidden"));
  world.socket.refuse(world.socket.takes("presence"), "forbidden");
  await failed;
  for (let cut = 0; cut < 2; cut++) {
    world.socket.end(1006);
    await again(world);
    assert.deepEqual(world.socket.sent.map(({ channel }) => channel), ["b"]);
  }
  world.socket.answer(world.socket.takes("presence"), "presence", { users: [], total: 0 });
  await asked;
});

test("a second welcome is none", async () => {
  const world = await subscribed();
  world.socket.welcome({ userId: "somebody else" });
  assert.deepEqual([world.socket.sent, world.client.welcome.userId, world.states.length], [[], undefined, 1]);
});

test("a rejection nobody waits for is silent; whoever waits gets it", async t => {
  const unhandled = [];
  const note = error => unhandled.push(error);
  process.on("unhandledRejection", note);
  t.after(() => process.off("unhandledRejection", note));
  const world = await opened();
  const all = () => [
    world.client.command("dance"),
    world.client.publish("a", 1),
    world.client.send("a", 1),
    world.client.direct("bob", 1),
    world.client.presence({ room: "a" }),
    world.client.history({ room: "a" }),
    world.client.publish("a", 1n), // which no JSON has
    world.client.opened(),
  ];
  all();
  const last = all();
  world.socket.end(1006);
  world.client.opened();
  await settle();
  world.client.close();
  all();
  await settle();
  assert.deepEqual(unhandled, []);
  const settled = await Promise.allSettled(last);
  assert.deepEqual(settled.map(({ reason }) => reason?.code ?? reason?.name),
    [...Array(4).fill("connection_lost"), "closed", "closed", "TypeError", undefined]);
});

test("after close() nothing is taken, and nothing is left hanging", async () => {
  const world = await opened();
  const { client } = world;
  const [inFlight, reading] = [client.publish("a", 1), client.history({ channel: "a" })];
  const joined = client.join("lobby").ready;
  client.close();
  await assert.rejects(inFlight, code("connection_lost"));
  await assert.rejects(reading, code("closed"));
  await assert.rejects(joined, code("closed"));
  await assert.rejects(client.publish("a", 1), code("closed"));
});

test("a subscription goes on where it was, without what it has, and in order", async () => {
  const world = await subscribed();
  world.socket.push(...scores(42, 43), ...scores(43));
  world.socket.end(1006);
  assert.equal(world.scores.active, false);
  await again(world);
  const asked = world.socket.takes("subscribe");
  assert.deepEqual([asked.channel, asked.epoch, asked.last_id], ["scores", "e", 43]);
  world.socket.push(...scores(43, 44, 45));
  world.socket.answer(asked, "subscribed", { channel: "scores", epoch: "e", last_id: 45, recovered: true });
  world.socket.push(...scores(46));
  assert.deepEqual(world.told, [{ recovered: false, again: false }, 42, 43, 44, 45, { recovered: true, again: true }, 46]);
});

test("cut in the middle of what was missed, it goes on from there", async () => {
  const world = await subscribed();
  world.socket.end(1006);
  await again(world);
  world.socket.push(...scores(42, 43));
  world.socket.end(1006);
  await again(world);
  const asked = world.socket.takes("subscribe");
  assert.equal(asked.last_id, 43);
  world.socket.push(...scores(44));
  world.socket.answer(asked, "subscribed", { channel: "scores", epoch: "e", last_id: 44, recovered: true });
  assert.deepEqual(world.told.slice(1), [42, 43, 44, { recovered: true, again: true }]);
});

for (const [name, reply, gap, position] of [
  ["the history is too short", { epoch: "e", last_id: 60 }, { from: 42, to: 60, reason: "not_recovered" }, { epoch: "e", lastId: 60 }],
  ["the epoch is another", { epoch: "f", last_id: 3 }, { reason: "not_recovered" }, { epoch: "f", lastId: 3 }],
  ["no history is kept any more", {}, { reason: "not_recovered" }, null],
]) {
  test(`what cannot be had is a gap: ${name}`, async () => {
    const world = await subscribed();
    world.socket.end(1006);
    await again(world);
    world.socket.answer(world.socket.takes("subscribe"), "subscribed", { channel: "scores", recovered: false, ...reply });
    world.socket.push(...scores((reply.last_id ?? 0) + 1));
    assert.deepEqual(world.told.slice(1), [{ recovered: false, again: true }, { gap }, (reply.last_id ?? 0) + 1]);
    assert.deepEqual(world.scores.position?.epoch, position?.epoch);
  });
}

test("a gap the server tells moves the position", async () => {
  const world = await subscribed();
  world.socket.push(...scores(42), { type: "gap", channel: "scores", from: 43, to: 47, reason: "slow_consumer" }, ...scores(48));
  assert.deepEqual(world.told.slice(1), [42, { gap: { from: 43, to: 47, reason: "slow_consumer" } }, 48]);
  world.socket.push({ type: "gap", channel: "scores", from: 49, to: 50, reason: "overload" });
  assert.deepEqual(world.scores.position, { epoch: "e", lastId: 50 });
});

test("since: from a position kept elsewhere", async () => {
  const world = await opened();
  const { subscription, events } = listenedTo(world.client.join("lobby", { since: { epoch: "e", lastId: 5 } }));
  const asked = world.socket.takes("join");
  assert.deepEqual(asked, { type: "join", id: asked.id, room: "lobby", epoch: "e", last_id: 5 });
  world.socket.push({ type: "room_message", roomId: "lobby", id: 6, userId: "bob", payload: "hi", timestamp: 1, serverId: "n1" });
  world.socket.answer(asked, "joined", { room: "lobby", members: 2, epoch: "e", last_id: 6, recovered: true });
  await subscription.ready;
  assert.deepEqual(events, [6, { recovered: true, again: true }]);
});

test("a room that keeps no history, and news of its users", async () => {
  const world = await opened();
  const { subscription, events } = listenedTo(world.client.join("lobby"));
  world.socket.answer(world.socket.takes("join"), "joined", { room: "lobby", members: 1 });
  const said = id => ({ type: "room_message", roomId: "lobby", id, payload: null, timestamp: 1, serverId: "n1" });
  world.socket.push({ type: "user_joined", roomId: "lobby", userId: "bob" }, said(900), { type: "user_left", roomId: "lobby", userId: "bob" },
    { type: "presence_change", roomId: "lobby", joined: ["cat"], left: [] }, { type: "user_joined", roomId: "elsewhere", userId: "bob" });
  assert.equal(subscription.position, null);
  world.socket.end(1006);
  await again(world);
  assert.deepEqual(Object.keys(world.socket.sent[0]), ["type", "id", "room"]);
  world.socket.answer(world.socket.takes("join"), "joined", { room: "lobby", members: 1 });
  world.socket.push(said(2));
  assert.deepEqual(events, [{ recovered: false, again: false }, { joined: ["bob"], left: [] }, 900, { joined: [], left: ["bob"] },
    { joined: ["cat"], left: [] }, { recovered: false, again: true }, { gap: { reason: "not_recovered" } }, 2]);
});

test("a channel and a room of one name are two", async () => {
  const world = await opened();
  const [channel, room] = [world.client.subscribe("x"), world.client.join("x")];
  assert.notEqual(channel, room);
  assert.equal(world.client.subscribe("x"), channel);
  assert.deepEqual([world.client.subscription("x"), world.client.room("x")], [channel, room]);
});

test("refused: it ends and says why; refused for now: it is asked again", async () => {
  const world = await opened();
  const { subscription, events } = listenedTo(world.client.subscribe("secret"));
  const ready = assert.rejects(subscription.ready, code("forbidden"));
  world.socket.refuse(world.socket.takes("subscribe"), "try_again");
  await world.clock.pass(999);
  assert.equal(world.socket.sent.length, 0);
  await world.clock.pass(1);
  world.socket.refuse(world.socket.takes("subscribe"), "message_rate_exceeded");
  await world.clock.pass(2000);
  world.socket.refuse(world.socket.takes("subscribe"), "forbidden");
  await ready;
  assert.deepEqual(events, [{ code: "forbidden" }]);
  assert.equal(world.client.subscription("secret"), undefined);
  // Without a listener of its own it is the client's error.
  world.client.subscribe("quiet");
  world.socket.refuse(world.socket.takes("subscribe"), "forbidden");
  assert.deepEqual(world.errors.map(({ code }) => code), ["forbidden"]);
});

test("ended by the server, since a new token allows less", async () => {
  const world = await subscribed();
  const lobby = listenedTo(world.client.join("lobby"));
  world.socket.push({ type: "left", room: "lobby" }, { type: "unsubscribed", channel: "scores" }, { type: "unsubscribed", channel: "x" });
  assert.deepEqual([world.told.at(-1), lobby.events], [{ code: "forbidden" }, [{ code: "forbidden" }]]);
  world.socket.push(...scores(42));
  world.socket.end(1006);
  world.socket.sent.length = 0;
  await again(world);
  assert.deepEqual([world.told.length, world.socket.sent], [2, []]);
});

test("left: no more of it, even if it is on its way; entered again at once, nothing is mixed up", async () => {
  const world = await subscribed();
  const left = world.scores.unsubscribe();
  const second = listenedTo(world.client.subscribe("scores", { since: { epoch: "e", lastId: 41 } }));
  world.socket.push(...scores(42), { type: "gap", channel: "scores", from: 43, to: 47, reason: "slow_consumer" },
    { type: "presence_change", channel: "scores", joined: ["bob"], left: [] });
  assert.deepEqual(world.socket.sent.map(({ type }) => type), ["unsubscribe"], "the new one waits for the old one's end");
  world.socket.answer(world.socket.takes("unsubscribe"), "unsubscribed", { channel: "scores" });
  await left;
  await settle();
  const asked = world.socket.takes("subscribe");
  assert.equal(asked.last_id, 41);
  world.socket.push(...scores(42));
  world.socket.answer(asked, "subscribed", { channel: "scores", epoch: "e", last_id: 42, recovered: true });
  assert.deepEqual(second.events, [42, { recovered: true, again: true }]);
  assert.deepEqual(world.told, [{ recovered: false, again: false }]);
});

const types = ({ socket }) => socket.sent.map(({ type }) => type);

// A member of the lobby, and what it has sent since.
async function member(options) {
  const world = await opened(options);
  const lobby = world.client.join("lobby");
  world.socket.answer(world.socket.takes("join"), "joined", { room: "lobby", members: 1 });
  return Object.assign(world, { lobby });
}

test("left and entered again at once: what is sent then is sent by a member", async () => {
  const world = await member();
  // Whoever waits for the end of the leaving is no earlier than who came before.
  const left = world.lobby.leave().then(() => world.client.send("lobby", 3));
  world.client.join("lobby");
  world.client.send("lobby", 1);
  world.client.send("lobby", 2);
  assert.deepEqual(types(world), ["leave"]);
  world.socket.answer(world.socket.takes("leave"), "left", { room: "lobby" });
  await settle();
  assert.deepEqual(types(world), ["join", "room_message", "room_message", "room_message"]);
  assert.deepEqual(world.socket.sent.slice(1).map(({ payload }) => payload), [1, 2, 3]);
  for (const command of world.socket.sent.slice(1)) world.socket.answer(command, "sent");
  await left;
});

test("left and entered again behind others, and refused for now: still in this order", async () => {
  const world = await member({ burstMax: 1 });
  world.socket.end(1006);
  for (const data of [1, 2, 3]) world.client.publish("scores", data);
  await again(world);
  world.socket.answer(world.socket.takes("join"), "joined", { room: "lobby", members: 1 });
  world.client.leave("lobby");
  world.client.join("lobby");
  world.client.send("lobby", "hi");
  await world.clock.pass(5000);
  assert.deepEqual(types(world), ["publish", "publish", "publish", "leave"]);
  world.socket.refuse(world.socket.takes("leave"), "try_again");
  await world.clock.pass(1000);
  world.socket.answer(world.socket.takes("leave"), "left", { room: "lobby" });
  assert.deepEqual(types(world).slice(3), ["join", "room_message"]);
});

test("left and entered again, and cut: what waited for it is sent on the next connection", async () => {
  const world = await member();
  world.client.leave("lobby");
  world.client.join("lobby");
  const sent = world.client.send("lobby", "hi");
  world.socket.end(1006);
  await again(world);
  assert.deepEqual(types(world), ["join", "room_message"]);
  world.socket.answer(world.socket.takes("room_message"), "sent");
  await sent;
});

test("left behind what was sent while in it; a leaving that waits is done with the connection's end", async () => {
  const world = await member({ burstMax: 2 });
  world.socket.end(1006);
  for (const data of [1, 2, 3]) world.client.publish("scores", data);
  await again(world);
  world.lobby.publish("bye");
  const left = world.lobby.leave();
  await world.clock.pass(2000);
  assert.deepEqual(types(world), ["join", "publish", "publish", "publish", "room_message", "leave"]);
  world.socket.answer(world.socket.takes("leave"), "left", { room: "lobby" });
  await left;

  const cut = await member({ burstMax: 1 });
  cut.socket.end(1006);
  cut.client.publish("scores", 1);
  await again(cut);
  const gone = cut.lobby.leave();
  cut.socket.end(1006);
  await gone;
  await again(cut);
  assert.deepEqual(types(cut), ["publish"]);
});

test("left, entered and left again: it stays left", async () => {
  const world = await subscribed();
  const left = world.scores.unsubscribe();
  const second = world.client.subscribe("scores");
  const failed = assert.rejects(second.ready, code("left"));
  await second.unsubscribe();
  world.socket.answer(world.socket.takes("unsubscribe"), "unsubscribed", { channel: "scores" });
  await Promise.all([left, failed]);
  await settle();
  await world.scores.unsubscribe();
  assert.deepEqual(world.socket.sent, [], "the second was never asked for, and the first is not left twice");
});

test("left before its turn came: never asked for", async () => {
  const world = await start({ burstMax: 1 });
  for (const channel of ["a", "b"]) world.client.subscribe(channel);
  world.socket.welcome();
  await world.client.unsubscribe("b");
  await world.clock.pass(5000);
  assert.deepEqual(world.socket.sent.map(({ channel }) => channel), ["a"]);
});

test("leaving that is refused for now is asked again; refused for good, there is nothing to leave", async () => {
  const world = await subscribed();
  let settled = false;
  const left = world.scores.unsubscribe().then(() => { settled = true; });
  world.socket.refuse(world.socket.takes("unsubscribe"), "message_rate_exceeded");
  await world.clock.pass(1000);
  assert.equal(settled, false);
  world.socket.refuse(world.socket.takes("unsubscribe"), "not_subscribed");
  await left;
});

test("leaving that waits to be asked again is done with the connection's end", async () => {
  const world = await subscribed();
  const left = world.scores.unsubscribe();
  world.socket.refuse(world.socket.takes("unsubscribe"), "try_again");
  world.socket.end(1006);
  await left;
  await again(world);
  world.client.subscribe("scores");
  await settle();
  assert.deepEqual(world.socket.sent.map(({ type }) => type), ["subscribe"]);
});

test("left while offline: not asked for again", async () => {
  const world = await subscribed();
  world.client.join("lobby");
  world.socket.end(1006);
  await world.client.unsubscribe("scores");
  assert.deepEqual(await world.client.leaveAll(), ["lobby"]);
  await world.client.leave("nowhere");
  await again(world);
  assert.deepEqual(world.socket.sent, []);
});

test("what has waited goes out in bursts, subscriptions first", async () => {
  const world = await start();
  for (let number = 0; number < 40; number++) world.client.subscribe(`c${number}`);
  const published = Array.from({ length: 40 }, (_, number) => world.client.publish("c0", number));
  world.socket.welcome();
  assert.equal(world.socket.sent.length, 32);
  // What is asked meanwhile does not overtake.
  published.push(world.client.publish("c0", 40));
  await settle();
  assert.equal(world.socket.sent.length, 32);
  await world.clock.pass(1000);
  assert.equal(world.socket.sent.length, 64);
  await world.clock.pass(1000);
  assert.equal(world.socket.sent.length, 81);
  assert.deepEqual(world.socket.sent.slice(40).map(({ data }) => data), Array.from({ length: 41 }, (_, number) => number));
  world.client.publish("c0", 41).catch(() => {});
  await settle();
  assert.equal(world.socket.sent.length, 82);
});

for (const rate of [20, 30, 40]) {
  test(`a publisher that goes on at ${rate}/s catches up, in order, and below the server's rate`, async () => {
    const world = await opened();
    for (let number = 0; number < 128; number++) world.client.subscribe(`c${number}`);
    world.socket.end(1006);
    const refused = [];
    let published = 0;
    const publish = () => world.client.publish("scores", published++).catch(error => refused.push(error));
    while (published < 100) publish();
    await again(world);
    // What the server allows by default: 50 messages a second, 100 at once.
    let [allowed, looked] = [100, 0];
    const look = stepMs => {
      for (; looked < world.socket.sent.length; looked++) {
        if (allowed >= 1) allowed--;
        else refused.push(world.socket.sent[looked]);
      }
      allowed = Math.min(100, allowed + 50 * stepMs / 1000);
    };
    let caughtUpAt;
    const stepMs = 1000 / rate;
    for (let ms = 0; ms < 30_000; ms += stepMs) {
      const sent = world.socket.sent.length;
      publish();
      if (world.socket.sent.length > sent) caughtUpAt ??= ms;
      look(0);
      world.socket.push({ type: "pong", ts: 1 });
      await world.clock.pass(stepMs);
      look(stepMs);
    }
    assert.deepEqual(refused, []);
    // 196 are left after the first burst, and each later one makes it at least 8 fewer.
    assert.ok(caughtUpAt <= 25_100, `caught up at ${caughtUpAt}`);
    const data = world.socket.sent.filter(({ type }) => type === "publish").map(frame => frame.data);
    assert.deepEqual(data, Array.from({ length: published }, (_, number) => number));
    assert.equal(world.client.state, "open");
  });
}

test("a silent server is asked, and left if it does not answer", async () => {
  const world = await opened();
  await world.clock.pass(20_000);
  world.socket.push({ type: "pong", ts: 1 });
  await world.clock.pass(29_999);
  assert.deepEqual(world.socket.sent, []);
  await world.clock.pass(1);
  assert.deepEqual(world.socket.sent, [{ type: "ping" }]);
  world.socket.push({ type: "pong", ts: 2 });
  await world.clock.pass(29_999);
  assert.equal(world.socket.sent.length, 1);
  await world.clock.pass(1);
  assert.equal(world.socket.sent.length, 2);
  await world.clock.pass(9999);
  assert.equal(world.client.state, "open");
  await world.clock.pass(1);
  assert.deepEqual([world.client.state, world.states.at(-1).delayMs], ["waiting", 1000]);
  assert.match(world.states.at(-1).reason, /nor a pong/);
  assert.ok(world.socket.closedWith);
});

test("a WebSocket that can be terminated is, where the server is silent; not where it is closed", async () => {
  const terminated = [];
  const terminable = world => Object.assign(world.socket, { terminate() { terminated.push(this.closedWith); } });
  const [silent, late, closed, cut] = [await opened(), await start(), await opened(), await opened()];
  for (const world of [silent, late, closed, cut]) terminable(world);
  closed.client.close();
  cut.socket.end(1006);
  assert.deepEqual(terminated, []);
  await silent.clock.pass(40_000);
  await late.clock.pass(15_000);
  assert.equal(terminated.length, 2);
  assert.deepEqual([silent.client.state, late.client.state], ["waiting", "waiting"]);
});

test("a server that never pings is not asked", async () => {
  const world = await start();
  world.socket.welcome({ pingInterval: 0 });
  await world.clock.pass(1_000_000);
  assert.deepEqual([world.client.state, world.socket.sent], ["open", []]);
});

// A token whose claims are readable, and its signature nobody's. The name has both letters of base64url that base64 lacks.
const token = (name, expiresInS) => {
  const claims = { sub: `??>>~~${name}`, exp: Math.floor(Date.now() / 1000) + expiresInS };
  const written = Buffer.from(JSON.stringify(claims)).toString("base64url");
  assert.match(written, /-.*_|_.*-/);
  return `x.${written}.y`;
};

test("a token goes into the subprotocols, or into the address", async () => {
  const inProtocol = await start({ getToken: async () => "abc" }, "ws://fake/ws?x=1");
  assert.deepEqual(inProtocol.socket.protocols, ["megasock", "token.abc"]);
  assert.equal(inProtocol.socket.url.search, "?x=1");
  const inQuery = await start({ getToken: () => "a+b", tokenIn: "query" }, "https://fake/ws?x=1#there");
  assert.deepEqual(inQuery.socket.protocols, []);
  assert.equal(inQuery.socket.url.href, "wss://fake/ws?x=1&token=a%2Bb");
  const anonymous = await start({ getToken: () => null });
  assert.deepEqual(anonymous.socket.protocols, []);
});

test("a token that works is kept while it lasts; one that may be the reason for a failure is not", async () => {
  let asked = 0;
  const world = await start({ getToken: () => token(`t${++asked}`, 3600) });
  world.socket.welcome();
  world.socket.end(1006);
  await world.clock.pass(1000);
  assert.equal(asked, 1);
  // A handshake that fails tells a browser nothing: a new token it is.
  world.socket.end(1006);
  await world.clock.pass(2000);
  assert.equal(asked, 2);
  world.socket.welcome();
  world.socket.end(4401);
  await world.clock.pass(4000);
  assert.equal(asked, 3);
});

test("a token that is about to end, or cannot be read, is asked for anew", async () => {
  for (const given of [token("t", 20), "opaque", ""]) {
    let asked = 0;
    const world = await start({ getToken: () => (asked++, given) });
    world.socket.welcome();
    world.socket.end(1006);
    await world.clock.pass(1000);
    assert.equal(asked, 2);
  }
});

test("getToken that fails is an attempt that failed, and is told", async () => {
  let fails = true;
  const world = await start({ getToken: () => { if (fails) throw new Error("no session"); return "t"; } });
  assert.equal(world.network.sockets.length, 0);
  assert.deepEqual([world.client.state, world.errors[0].message], ["waiting", "no session"]);
  fails = false;
  await world.clock.pass(1000);
  assert.equal(world.network.sockets.length, 1);
});

test("a token no subprotocol can carry is told, without itself", async () => {
  const world = await start({ getToken: () => "secret token" });
  assert.equal(world.network.sockets.length, 0);
  assert.deepEqual(world.errors.map(({ code }) => code), ["bad_token"]);
  assert.ok(!JSON.stringify([world.errors.map(String), world.states.map(({ reason }) => reason)]).includes("secret"));
});

test("what is no string is no token, and that is said, without it", async () => {
  for (const tokenIn of ["protocol", "query"]) {
    for (const given of [{ toString: () => "secret", text: async () => "secret" }, 7]) {
      const world = await start({ tokenIn, getToken: async () => given });
      assert.equal(world.network.sockets.length, 0);
      assert.deepEqual(world.errors.map(({ code }) => code), ["bad_token"]);
      assert.match(world.errors[0].message, /no string; of fetch's Response.* text\(\)/);
      assert.ok(!world.errors[0].message.includes("secret"));
    }
  }
});

test("whoever hears of an error finds the client as it will be", async () => {
  const world = await opened();
  let queued;
  world.client.on("error", () => { queued = world.client.publish("a", 1); });
  world.socket.onmessage({ data: "{" });
  assert.equal(world.client.state, "waiting");
  await again(world);
  world.socket.answer(world.socket.takes("publish"), "published", { last_id: 1 });
  await queued;
});

test("getToken that never answers is given up", async () => {
  const world = await start({ getToken: () => new Promise(() => {}) });
  await world.clock.pass(15_000);
  assert.equal(world.client.state, "waiting");
});

for (const [how, end] of [["closed", world => world.client.close()], ["refused", world => world.socket.end(4001)]]) {
  test(`opened again after it was ${how}, it asks for a token of whoever is logged in now`, async () => {
    const [ann, bob] = [token("ann", 3600), token("bob", 3600)];
    let loggedIn = ann;
    const world = await start({ getToken: () => loggedIn });
    world.socket.welcome();
    end(world);
    assert.equal(world.client.state, "closed");
    loggedIn = bob;
    world.client.open();
    await settle();
    assert.equal(world.socket.protocols[1], `token.${bob}`);
  });
}

test("a token that comes after its attempt was closed is nobody's", async () => {
  const [ann, bob, asked] = [token("ann", 3600), token("bob", 3600), []];
  const world = await start({ getToken: () => new Promise(resolve => asked.push(resolve)) });
  world.client.close();
  world.client.open();
  await settle();
  asked[1](bob);
  await settle();
  world.socket.welcome();
  asked[0](ann);
  await settle();
  assert.equal(world.network.sockets.length, 1);
  world.socket.end(1006);
  await again(world);
  assert.equal(world.socket.protocols[1], `token.${bob}`);
});

test("refused in band: a token used again is replaced; a new one stops, and so does one that was welcomed", async () => {
  const tokens = ["t1", "t2", "t3"].map(name => token(name, 3600));
  let asked = 0;
  const world = await start({ getToken: () => tokens[asked++] });
  const refuse = () => {
    world.socket.push({ type: "error", code: "unauthorized", error: "the token is not valid" });
    world.socket.end(4001, "unauthorized");
  };
  world.socket.welcome();
  world.socket.end(1012);
  await world.clock.pass(world.states.at(-1).delayMs);
  assert.equal(world.socket.protocols[1], `token.${tokens[0]}`);
  refuse();
  assert.ok(named("waiting")(world));
  await world.clock.pass(world.states.at(-1).delayMs);
  assert.equal(world.socket.protocols[1], `token.${tokens[1]}`);
  refuse();
  assert.ok(named("connecting", "closed")(world));

  world.client.open();
  await settle();
  world.socket.welcome();
  world.socket.end(1012);
  await again(world);
  assert.equal(world.socket.protocols[1], `token.${tokens[2]}`);
  world.socket.end(4001, "unauthorized");
  assert.ok(named("open", "closed")(world));
  assert.equal(asked, 3);
});

test("closed by getToken, it stays closed", async () => {
  let closes = false;
  const world = await start({ getToken: () => { if (closes) world.client.close(); return "t"; } });
  world.socket.welcome();
  world.socket.end(1006);
  closes = true;
  await world.clock.pass(world.states.at(-1).delayMs);
  assert.ok(named("waiting", "connecting", "closed")(world));
  world.client.open();
  await settle();
  assert.ok(named("closed", "connecting", "closed")(world));
  await world.clock.pass(100_000);
  assert.deepEqual([world.network.sockets.length, world.clock.pending()], [1, []]);
});

test("expiring: a new token is sent, past whatever waits, and used from then on", async () => {
  const asked = [];
  const world = await start({ getToken: why => (asked.push(why), token(`t${asked.length}`, 3600)), burstMax: 1 });
  world.client.publish("a", 1).catch(() => {});
  world.client.publish("a", 2).catch(() => {});
  world.socket.welcome();
  const told = [];
  world.client.on("expiring", expiring => told.push(expiring));
  world.socket.push({ type: "expiring", expiresIn: 60 });
  await settle();
  assert.deepEqual(told, [{ expiresIn: 60 }]);
  assert.deepEqual(asked, [{ expiring: false }, { expiring: true }]);
  const refresh = world.socket.takes("refresh");
  world.socket.answer(refresh, "refreshed", { expiresIn: 3600 });
  await settle();
  world.socket.end(1006);
  await world.clock.pass(1000);
  assert.equal(asked.length, 2);
  assert.equal(world.socket.protocols[1], `token.${refresh.token}`);
  assert.deepEqual(world.errors, []);
});

test("expiring: a refused token is told, and not used again", async () => {
  let asked = 0;
  const world = await start({ getToken: () => token(`t${++asked}`, 3600) });
  world.socket.welcome();
  world.socket.push({ type: "expiring", expiresIn: 60 });
  await settle();
  world.socket.refuse(world.socket.takes("refresh"), "unauthorized");
  await settle();
  assert.deepEqual(world.errors.map(({ code }) => code), ["unauthorized"]);
  world.socket.end(1006);
  await world.clock.pass(1000);
  assert.equal(asked, 3);
});

test("expiring at once, every time: a token is refreshed when half of its time is over", async () => {
  let asked = 0;
  const world = await start({ getToken: () => token(`t${++asked}`, 50) });
  const expiring = async () => {
    world.socket.push({ type: "expiring", expiresIn: 50 });
    await settle();
  };
  const refreshed = async () => {
    world.socket.answer(world.socket.takes("refresh"), "refreshed", { expiresIn: 50 });
    await expiring();
  };
  world.socket.welcome();
  await expiring();
  assert.equal(asked, 2);
  await refreshed();
  for (let round = 3; round < 6; round++) {
    await world.clock.pass(24_999);
    assert.equal(asked, round - 1);
    await world.clock.pass(1);
    assert.equal(asked, round);
    await refreshed();
  }
});

test("expiring, and there is no new token: that is told", async () => {
  const world = await start({ getToken: ({ expiring }) => (expiring ? null : token("t", 60)) });
  world.socket.welcome();
  world.socket.push({ type: "expiring", expiresIn: 60 });
  await settle();
  assert.deepEqual([world.errors.map(({ code }) => code), world.socket.sent], [["no_token"], []]);
});

test("expiring, and cut before there is a new token: the next connection has its own", async () => {
  const late = withResolvers();
  const world = await start({ getToken: ({ expiring }) => (expiring ? late.promise : token("t", 3600)) });
  world.socket.welcome();
  world.socket.push({ type: "expiring", expiresIn: 60 });
  world.socket.end(1006);
  late.resolve("late");
  await settle();
  assert.deepEqual(world.errors, []);
  await again(world);
  assert.notEqual(world.socket.protocols[1], "token.late");
});

for (const [why, fails, refuses] of [
  ["getToken fails", ["the backend is away", "away still"], []],
  ["there are too many messages", [], ["message_rate_exceeded", "try_again"]],
]) {
  test(`expiring, and ${why}: tried again while the token lasts, and then it is as good as any`, async () => {
    const wanted = [...fails, ...refuses];
    let asked = 0;
    const world = await start({
      random: () => 0, // the soonest
      getToken: ({ expiring }) => {
        asked++;
        if (expiring && fails.length) throw new Error(fails.shift());
        return token(`t${asked}`, 3600);
      },
    });
    world.socket.welcome();
    world.socket.push({ type: "expiring", expiresIn: 60 });
    await settle();
    for (let failed = 1; failed <= 2; failed++) {
      if (refuses.length) world.socket.refuse(world.socket.takes("refresh"), refuses.shift());
      await settle();
      assert.deepEqual([world.errors.length, asked], [failed, failed + 1]);
      await world.clock.pass(999);
      assert.equal(asked, failed + 1, "not sooner than in a second");
      await world.clock.pass(1);
    }
    assert.deepEqual(world.errors.map(({ code, message }) => code ?? message), wanted);
    const refresh = world.socket.takes("refresh");
    world.socket.answer(refresh, "refreshed", { expiresIn: 3600 });
    await settle();
    world.socket.end(1006);
    await again(world);
    assert.equal(asked, 4);
    assert.equal(world.socket.protocols[1], `token.${refresh.token}`);
  });
}

test("expiring, and at chance's far end it is tried again within ten seconds, too", async () => {
  let fails = 3;
  const world = await start({ getToken: ({ expiring }) => { if (expiring && fails-- > 0) throw new Error("away"); return token("t", 3600); } });
  world.socket.welcome();
  world.socket.push({ type: "expiring", expiresIn: 60 });
  await world.clock.pass(10_000);
  assert.equal(world.socket.takes("refresh").type, "refresh");
});

for (const answer of ["no_token", "bad_token", "unauthorized"]) {
  test(`expiring, and the answer is ${answer}: it is not asked again`, async () => {
    let asked = 0;
    const given = { no_token: null, bad_token: { text: async () => "t" }, unauthorized: "t" };
    const world = await start({ getToken: ({ expiring }) => (asked++, expiring ? given[answer] : "t") });
    world.socket.welcome();
    world.socket.push({ type: "expiring", expiresIn: 60 });
    await settle();
    if (answer === "unauthorized") world.socket.refuse(world.socket.takes("refresh"), answer);
    for (let second = 0; second < 60; second++) {
      world.socket.push({ type: "pong", ts: 1 });
      await world.clock.pass(1000);
    }
    assert.deepEqual([asked, world.errors.map(({ code }) => code), world.socket.sent], [2, [answer], []]);
  });
}

test("expiring, and closed before getToken fails: that is nobody's, nor of the connection after it", async () => {
  const late = withResolvers();
  let asked = 0;
  const world = await start({ getToken: ({ expiring }) => (expiring ? late.promise : token(`t${++asked}`, 3600)) });
  world.socket.welcome();
  world.socket.push({ type: "expiring", expiresIn: 60 });
  world.client.close();
  world.client.open();
  await settle();
  world.socket.welcome();
  late.reject(new Error("away"));
  await settle();
  assert.deepEqual(world.errors, []);
  world.socket.end(1006);
  await again(world);
  assert.equal(asked, 2, "the token that works is used again");
});

test("closed by whoever hears that a refresh failed: nothing is left of it", async () => {
  const world = await start({ getToken: ({ expiring }) => { if (expiring) throw new Error("away"); return "t"; } });
  world.client.on("error", () => world.client.close());
  world.socket.welcome();
  world.socket.push({ type: "expiring", expiresIn: 60 });
  await settle();
  assert.deepEqual([world.client.state, world.clock.pending()], ["closed", []]);
});

test("expiring without getToken is only told", async () => {
  const world = await opened();
  world.socket.push({ type: "expiring", expiresIn: 60 });
  await settle();
  assert.deepEqual([world.socket.sent, world.errors], [[], []]);
});

test("a routing token is sent again, until it fails too often", async () => {
  const world = await start();
  assert.equal(world.socket.url.search, "");
  world.socket.welcome({ routingToken: "n1.k" });
  world.socket.end(1006);
  for (const wanted of ["n1.k", "n1.k", "n1.k", null, null]) {
    await world.clock.pass(world.states.at(-1).delayMs);
    assert.equal(world.socket.url.searchParams.get("routing"), wanted);
    world.socket.end(1006);
  }
});

test("attempts that failed are counted from the last that did not; a welcome without a routing token ends it", async () => {
  const world = await start();
  const comes = async wanted => {
    world.socket.end(1006);
    await world.clock.pass(world.states.at(-1).delayMs);
    assert.equal(world.socket.url.searchParams.get("routing"), wanted);
  };
  for (let round = 0; round < 3; round++) {
    world.socket.welcome({ routingToken: "n1" });
    for (let attempt = 0; attempt < 3; attempt++) await comes("n1");
  }
  world.socket.welcome();
  await comes(null);
});

test("frames nobody knows, and names that mean something elsewhere, are nobody's", async () => {
  const world = await opened();
  for (const type of ["__proto__", "constructor", "toString", "from_the_future", 7, null]) world.socket.push({ type, id: "__proto__" });
  world.socket.push(null, 5, [], { type: "message", channel: "__proto__", id: 1, data: 1, ts: 1 }, { type: "gap" });
  assert.deepEqual([world.client.state, world.errors], ["open", []]);
});

test("what is not JSON ends the connection", async () => {
  const world = await opened();
  world.socket.onmessage({ data: "{" });
  assert.deepEqual([world.client.state, world.states.at(-1).delayMs, world.errors[0].code], ["waiting", 15_000, "bad_frame"]);
});

test("direct messages and errors without an id", async () => {
  const world = await opened();
  const got = [];
  world.client.on("direct", direct => got.push(direct));
  world.socket.push({ type: "direct_message", fromUserId: null, payload: { a: 1 }, timestamp: 5 }, { type: "error", code: "invalid_json", error: "Invalid JSON" });
  assert.deepEqual(got, [{ fromUserId: null, data: { a: 1 }, ts: 5 }]);
  assert.deepEqual(world.errors.map(({ code }) => code), ["invalid_json"]);
});

test("listeners come and go, and one that throws harms nobody else", async t => {
  const world = await opened();
  const [got, uncaught] = [[], []];
  const catching = error => uncaught.push(error.message);
  const listeners = process.listeners("uncaughtException");
  process.removeAllListeners("uncaughtException");
  process.on("uncaughtException", catching);
  t.after(() => {
    process.removeListener("uncaughtException", catching);
    for (const listener of listeners) process.on("uncaughtException", listener);
  });
  const second = () => got.push("second");
  world.client.on("direct", () => { throw new Error("mine"); }).on("direct", second).once("direct", () => got.push("once"));
  const direct = { type: "direct_message", payload: 1, timestamp: 1 };
  world.socket.push(direct, direct);
  world.client.off("direct", second);
  world.socket.push(direct);
  await settle();
  assert.deepEqual([got, uncaught], [["second", "once", "second"], ["mine", "mine", "mine"]]);
});

test("off() undoes on() and once(), of this listener and of no other", async () => {
  const world = await opened();
  const got = [];
  const [first, second, third] = ["first", "second", "third"].map(name => () => got.push(name));
  world.client.once("direct", first).once("direct", second).on("direct", third).on("direct", first);
  world.client.off("direct", first).off("direct", undefined);
  for (let time = 0; time < 2; time++) world.socket.push({ type: "direct_message", payload: 1, timestamp: 1 });
  assert.deepEqual(got, ["second", "third", "third"]);
});

test("a listener may close or subscribe at any moment", async () => {
  const world = await start();
  world.client.subscribe("before");
  world.client.once("state", () => world.client.subscribe("meanwhile"));
  world.socket.welcome();
  assert.deepEqual(world.socket.sent.map(({ channel }) => channel), ["before", "meanwhile"]);
  const reopening = await start();
  reopening.client.subscribe("before");
  reopening.client.once("state", () => {
    reopening.client.close();
    reopening.client.open().publish("a", 1).catch(() => {});
  });
  reopening.socket.welcome();
  assert.deepEqual(reopening.socket.sent, []);
  await settle();
  reopening.socket.welcome();
  assert.deepEqual(reopening.socket.sent.map(({ type }) => type), ["subscribe", "publish"]);
  const closing = await start();
  closing.client.subscribe("before");
  closing.client.once("state", () => closing.client.close());
  closing.socket.welcome();
  assert.deepEqual([closing.client.state, closing.socket.sent, closing.clock.pending()], ["closed", [], []]);
});

test("opened again, everything is there again", async () => {
  const world = await subscribed();
  const [ready, unready] = [world.scores.ready, world.client.subscribe("other")];
  const failed = assert.rejects(unready.ready, code("closed"));
  world.client.close();
  await failed;
  world.client.open();
  assert.equal(world.scores.ready, ready);
  await settle();
  world.socket.welcome();
  assert.deepEqual(world.socket.sent.map(({ channel, last_id }) => [channel, last_id]), [["scores", 41], ["other", undefined]]);
  world.socket.takes("subscribe");
  world.socket.answer(world.socket.takes("subscribe"), "subscribed", { channel: "other", epoch: "o", last_id: 0, recovered: false });
  assert.equal(await unready.ready, unready);
});

for (const [how, end] of [["closed", world => world.client.close()], ["refused", world => world.socket.end(4001)]]) {
  test(`subscribed after it was ${how}: whoever waits is told, and it is there when it is opened again`, async () => {
    const world = await opened();
    end(world);
    const late = [world.client.subscribe("scores"), world.client.join("lobby")];
    for (const { ready } of late) await assert.rejects(Promise.race([ready, settle()]), code("closed"));
    assert.deepEqual(world.errors, []);
    world.client.open();
    await settle();
    world.socket.welcome();
    world.socket.answer(world.socket.takes("subscribe"), "subscribed", { channel: "scores", epoch: "e", last_id: 0, recovered: false });
    world.socket.answer(world.socket.takes("join"), "joined", { room: "lobby", members: 1 });
    assert.deepEqual(await Promise.all(late.map(({ ready }) => ready)), late);
  });
}

test("subscribed before it is opened: whoever waits for it already is told", async () => {
  const network = fakeNetwork();
  const client = new Client("ws://fake/ws", { WebSocket: network.WebSocket, clock: new FakeClock() });
  const subscription = client.subscribe("scores");
  const { ready } = subscription;
  client.open();
  assert.equal(subscription.ready, ready);
  await settle();
  network.sockets[0].welcome();
  network.sockets[0].answer(network.sockets[0].takes("subscribe"), "subscribed", { channel: "scores", epoch: "e", last_id: 0, recovered: false });
  await settle();
  assert.equal(await Promise.race([ready, "hangs"]), subscription);
});

// What undoes it.
function replaceGlobals(values) {
  const before = Object.keys(values).map(name => [name, Object.getOwnPropertyDescriptor(globalThis, name)]);
  for (const [name, value] of Object.entries(values)) Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
  return () => {
    for (const [name, descriptor] of before) {
      if (descriptor) Object.defineProperty(globalThis, name, descriptor);
      else delete globalThis[name];
    }
  };
}

// A life in which every option has its say, in a world that is whoever asks for the host's.
async function lifeWith(options, t) {
  const [network, clock] = [fakeNetwork(), new FakeClock()];
  const { setTimeout, clearTimeout, now } = clock;
  t.after(replaceGlobals({ WebSocket: network.WebSocket, setTimeout, clearTimeout, performance: { now } }));
  const told = [];
  const client = connect("ws://fake/ws", options);
  client.on("state", ({ state, reason }) => told.push([state, reason]));
  await settle();
  for (let number = 0; number < 101; number++) client.publish("a", number).catch(({ code }) => told.push(code));
  await clock.pass(14_999);
  const counts = () => told.push([network.sockets.length, network.sockets.at(-1).sent.length, clock.pending().length]);
  counts();
  network.sockets[0].welcome({ routingToken: "n1" });
  for (const ms of [0, 999, 1, 5000, 23_999, 1, 9999, 1]) {
    await clock.pass(ms);
    counts();
  }
  for (let attempt = 0; attempt < 4; attempt++) {
    // By chance.
    while (client.state === "waiting") await clock.pass(100);
    told.push(network.sockets.at(-1).url.href, network.sockets.at(-1).protocols);
    network.sockets.at(-1).end(1006);
  }
  client.close();
  return told;
}

for (const name of Object.keys(DEFAULTS)) {
  test(`${name} given as undefined has its default`, async t => {
    const wanted = await lifeWith({}, t);
    assert.ok(wanted.includes("queue_full") && wanted.flat().includes("nothing heard for 30000 ms, nor a pong"), String(wanted));
    assert.deepEqual(await lifeWith({ [name]: undefined }, t), wanted);
  });
}

test("mistakes in what it is given are errors that name the fix", () => {
  const [WebSocket, fits] = [class {}, { WebSocket: class {} }];
  const restore = replaceGlobals({ WebSocket: undefined });
  assert.throws(() => new Client("ws://x/", { retries: 3, WebSocket }), /unknown option retries; there are .*retriesMax/);
  assert.throws(() => new Client("ws://x/"), /Node 22 or later/);
  restore();
  assert.throws(() => new Client("ws://x/", { ...fits, tokenIn: "cookie" }), /"protocol" or "query"/);
  assert.throws(() => new Client("ftp://x/", fits), /write ws:/);
  assert.throws(() => new Client("nowhere", fits));
});
