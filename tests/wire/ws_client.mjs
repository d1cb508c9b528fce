// The channel protocol as npm's `ws` sees it: every command, every field of every reply.
//
//     WIRE_MODULES=folder-with-node_modules node ws_client.mjs ADDRESS ADDRESS-IN-PRODUCTION
//
// Written against the protocol's description alone, and apart from the Python client: what one of them reads wrongly the
// other need not. Each scenario has topics and users of its own. What must not arrive is shown by what arrives instead.

import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { expect, now, strings, text } from "./expect.mjs";

const WebSocket = createRequire(`${process.env.WIRE_MODULES}/`)("ws");
const [address, production] = process.argv.slice(2);

const PATIENCE_MS = 20_000;
const REPLIES = new Set(["subscribed", "unsubscribed", "published", "joined", "left", "sent", "presence", "history",
  "refreshed", "pong", "error"]);

// One connection, its replies and its events kept apart, each in the order of arrival.
class Client {
  constructor(socket) {
    Object.assign(this, { socket, replies: [], events: [], lastId: 0, wake: () => {} });
    socket.on("message", (data, isBinary) => {
      const raw = data.toString();
      const frame = isBinary ? { type: "binary" } : JSON.parse(raw);
      (REPLIES.has(frame.type) ? this.replies : this.events).push({ frame, raw });
      this.wake();
    });
    this.closed = new Promise(resolve => socket.on("close", code => { resolve(code); this.ended = code; this.wake(); }));
  }

  async next(queue) {
    const deadline = Date.now() + PATIENCE_MS;
    while (queue.length === 0) {
      assert.equal(this.ended, undefined, "the connection ended");
      assert.ok(Date.now() < deadline, "nothing arrived");
      await new Promise(resolve => { this.wake = resolve; setTimeout(resolve, deadline - Date.now()).unref(); });
    }
    return queue.shift();
  }

  async reply() { return (await this.next(this.replies)).frame; }

  async event() { return (await this.next(this.events)).frame; }

  send(command) { this.socket.send(typeof command === "string" ? command : JSON.stringify(command)); }

  // Sends a command with an id of its own; the reply without that id.
  async ask(type, fields = {}) {
    const id = ++this.lastId;
    this.send({ type, id, ...fields });
    const { id: answered, ...reply } = await this.reply();
    assert.equal(answered, id, JSON.stringify(reply));
    return reply;
  }

  // The next publication; what members of a room are told about each other is set aside.
  async publication() {
    for (;;) {
      const event = await this.event();
      if (!["user_joined", "user_left", "presence_change"].includes(event.type)) return event;
    }
  }

  // Reads news until everybody named has come and gone, each once; how many frames that took.
  async news(roomId, joined, left) {
    const [toCome, toGo] = [new Set(joined), new Set(left)];
    let frames = 0;
    for (; toCome.size + toGo.size > 0; frames++) {
      const event = await this.event();
      if (event.type === "presence_change") {
        expect(event, { type: "presence_change", roomId, joined: names => strings(names) || names.length === 0,
          left: names => strings(names) || names.length === 0 });
      } else {
        expect(event, { type: type => ["user_joined", "user_left"].includes(type), roomId, userId: text });
      }
      const one = type => (event.type === type ? [event.userId] : []);
      for (const name of event.joined ?? one("user_joined")) assert.ok(toCome.delete(name), `${name} has come`);
      for (const name of event.left ?? one("user_left")) assert.ok(toGo.delete(name), `${name} has gone`);
    }
    return frames;
  }

  async end() {
    this.socket.close();
    await this.closed;
  }
}

// Where a scenario runs, with topics and users nobody else uses.
class World {
  constructor(scenario) {
    this.suffix = `-js-${scenario}-${process.hrtime.bigint().toString(36)}`;
    this.clients = [];
  }

  name(name) { return name + this.suffix; }

  async connect(target, host = address) {
    const socket = new WebSocket(`ws://${host}${target}`, { perMessageDeflate: false });
    const client = new Client(socket);
    this.clients.push(client);
    await once(socket, "open");
    return client;
  }

  // A connection past its welcome.
  async open(user) {
    const client = await this.connect(`/ws${user ? `?user=${encodeURIComponent(this.name(user))}` : ""}`);
    await client.event();
    return client;
  }
}

const scenarios = {
  async welcome(world) {
    const plain = { type: "welcome", connectionId: text, serverId: "wire", pingInterval: 25000 };
    const named = await (await world.connect("/ws?user=Zo%C3%AB+B%26C")).event();
    const anonymous = await (await world.connect("/")).event();
    expect(named, { ...plain, userId: "Zoë B&C" });
    expect(anonymous, plain);
    assert.notEqual(named.connectionId, anonymous.connectionId);
  },

  async channels(world) {
    const [ann, bob, other] = [await world.open("ann"), await world.open("bob"), await world.open()];
    for (const channel of ["red", "green", "blue"].map(name => world.name(name))) {
      const subscribed = { type: "subscribed", channel, epoch: text, last_id: 0, recovered: false };
      for (const client of [ann, bob, other]) {
        subscribed.epoch = expect(await client.ask("subscribe", { channel }), subscribed).epoch;
      }
      const message = { type: "message", channel, id: 1, data: { home: 2 }, userId: world.name("ann"), ts: now };
      expect(await ann.ask("publish", { channel, data: { home: 2 } }), { type: "published", channel, last_id: 1 });
      for (const client of [ann, bob, other]) expect(await client.event(), message);
      const { userId: _, ...unnamed } = message;
      expect(await other.ask("publish", { channel, data: [], echo: false }), { type: "published", channel, last_id: 2 });
      expect(await other.ask("publish", { channel, data: null }), { type: "published", channel, last_id: 3 });
      for (const client of [ann, bob]) expect(await client.event(), { ...unnamed, id: 2, data: [] });
      for (const client of [ann, bob, other]) expect(await client.event(), { ...unnamed, id: 3, data: null });
      expect(await bob.ask("subscribe", { channel }),
        { type: "error", code: "bad_request", error: `already subscribed to ${channel}` });
      expect(await bob.ask("unsubscribe", { channel }), { type: "unsubscribed", channel });
      expect(await bob.ask("unsubscribe", { channel }),
        { type: "error", code: "not_subscribed", error: `not subscribed to ${channel}` });
      await ann.ask("publish", { channel, data: 4 });
      expect(await ann.event(), { ...message, id: 4, data: 4 });
      expect(await bob.ask("subscribe", { channel }), { ...subscribed, last_id: 4 });
      await bob.ask("publish", { channel, data: 5 });
      expect(await bob.event(), { ...message, id: 5, data: 5, userId: world.name("bob") });
      for (let id = 4; id <= 5; id++) assert.equal((await other.event()).id, id);
      assert.equal((await ann.event()).id, 5);
    }
  },

  async recovery(world) {
    const bob = await world.open("bob");
    for (const channel of ["red", "green", "short:blue"].map(name => world.name(name))) {
      const first = await world.open("ann");
      const { epoch } = await first.ask("subscribe", { channel });
      await bob.ask("publish", { channel, data: 1 });
      assert.equal((await first.event()).id, 1);
      first.socket.terminate();
      for (let data = 2; data <= 4; data++) await bob.ask("publish", { channel, data });
      const ann = await world.open("ann");
      expect(await ann.ask("subscribe", { channel, epoch, last_id: 1 }),
        { type: "subscribed", channel, epoch, last_id: 4, recovered: true });
      assert.equal(ann.events.length, 3, "the missed ones come before the reply");
      await bob.ask("publish", { channel, data: 5 });
      for (let id = 2; id <= 5; id++) {
        expect(await ann.event(), { type: "message", channel, id, data: id, userId: world.name("bob"), ts: now });
      }
      const beyond = channel.startsWith("short:") ? [{ epoch, last_id: 1 }] : [];
      for (const since of [...beyond, {}, { epoch: "another", last_id: 4 }, { epoch, last_id: 6 }]) {
        await ann.ask("unsubscribe", { channel });
        expect(await ann.ask("subscribe", { channel, ...since }),
          { type: "subscribed", channel, epoch, last_id: 5, recovered: false });
      }
      await bob.ask("publish", { channel, data: "live" });
      assert.equal((await ann.event()).data, "live", "what was not recovered was sent");
    }
  },

  async rooms(world) {
    const [ann, bob, phone] = [await world.open("ann"), await world.open("bob"), await world.open("bob")];
    const [room, joined] = [world.name("lobby"), { type: "joined", room: world.name("lobby"), epoch: text, recovered: false }];
    expect(await ann.ask("join", { room }), { ...joined, members: 1, last_id: 0 });
    expect(await bob.ask("join", { room }), { ...joined, members: 2, last_id: 0 });
    await ann.news(room, [world.name("bob")], []);
    expect(await phone.ask("join", { room }), { ...joined, members: 3, last_id: 0 });
    const message = { type: "room_message", roomId: room, id: 1, userId: world.name("ann"), payload: "hi", timestamp: now,
      serverId: "wire" };
    expect(await ann.ask("room_message", { room, payload: "hi" }), { type: "sent" });
    for (const client of [ann, bob, phone]) expect(await client.publication(), message);
    expect(await ann.ask("room_message", { room, payload: 2, echo: false }), { type: "sent" });
    expect(await bob.ask("room_message", { room, payload: 3, echo: true }), { type: "sent" });
    for (const client of [bob, phone]) expect(await client.publication(), { ...message, id: 2, payload: 2 });
    expect(await ann.publication(), { ...message, id: 3, payload: 3, userId: world.name("bob") });
    expect(await phone.ask("leave", { room }), { type: "left", room });
    expect(await phone.ask("room_message", { room, payload: 1 }),
      { type: "error", code: "not_subscribed", error: `not subscribed to ${room}` });
    expect(await bob.ask("leave", { room }), { type: "left", room });
    await ann.news(room, [], [world.name("bob")]);
    const { epoch } = await ann.ask("history", { room });
    expect(await phone.ask("join", { room, epoch, last_id: 2 }), { ...joined, recovered: true, members: 2, last_id: 3 });
    expect(await phone.publication(), { ...message, id: 3, payload: 3, userId: world.name("bob") });
    const forgetful = world.name("forgetful:room");
    expect(await ann.ask("join", { room: forgetful }), { type: "joined", room: forgetful, members: 1 });
  },

  async aBurstOfNewsIsToldTogether(world) {
    const [watcher, room] = [await world.open("watcher"), world.name("hall")];
    await watcher.ask("join", { room });
    const users = Array.from({ length: 20 }, (_, number) => `user${number}`);
    const crowd = await Promise.all(users.map(user => world.open(user)));
    await Promise.all(crowd.map(client => client.ask("join", { room })));
    assert.ok(await watcher.news(room, users.map(user => world.name(user)), []) < users.length);
    await Promise.all(crowd.map(client => client.ask("leave_all")));
    assert.ok(await watcher.news(room, [], users.map(user => world.name(user))) < users.length);
  },

  async leaveAll(world) {
    const [ann, channel] = [await world.open("ann"), world.name("stays")];
    const rooms = ["a", "b", "c", "d"].map(room => world.name(room));
    await ann.ask("subscribe", { channel });
    for (const room of rooms) await ann.ask("join", { room });
    const left = expect(await ann.ask("leave_all"), { type: "left", rooms: strings });
    assert.deepEqual([...left.rooms].sort(), rooms);
    expect(await ann.ask("leave_all"), { type: "left", rooms: [] });
    for (const room of rooms) {
      expect(await ann.ask("leave", { room }), { type: "error", code: "not_subscribed", error: `not subscribed to ${room}` });
      expect(await ann.ask("presence", { room }), { type: "presence", room, users: [], total: 0 });
    }
    await ann.ask("publish", { channel, data: 1 });
    assert.equal((await ann.publication()).channel, channel);
  },

  async directMessages(world) {
    const [ann, bob, phone, other] = [await world.open("ann"), await world.open("bob"), await world.open("bob"), await world.open()];
    const message = { type: "direct_message", fromUserId: world.name("ann"), payload: { a: 1 }, timestamp: now };
    const to = user => ({ targetUserId: world.name(user), payload: { a: 1 } });
    expect(await ann.ask("direct_message", to("bob")), { type: "sent", connections: 2 });
    for (const client of [bob, phone]) expect(await client.event(), message);
    expect(await ann.ask("direct_message", to("ann")), { type: "sent", connections: 1 });
    expect(await ann.event(), message);
    expect(await ann.ask("direct_message", to("nobody")), { type: "sent", connections: 0 });
    expect(await other.ask("direct_message", to("bob")), { type: "sent", connections: 2 });
    delete message.fromUserId;
    for (const client of [bob, phone]) expect(await client.event(), message);
  },

  async presence(world) {
    const clients = await Promise.all(["dan", "bob", "cat", "ann", "bob"].map(user => world.open(user)));
    clients.push(await world.open());
    const users = ["ann", "bob", "cat", "dan"].map(user => world.name(user));
    const listed = users.map(userId => ({ userId, connections: userId === users[1] ? 2 : 1 }));
    for (const [command, topic] of [["subscribe", { channel: world.name("here") }], ["join", { room: world.name("here") }]]) {
      await Promise.all(clients.map(client => client.ask(command, topic)));
      const page = { type: "presence", ...topic, total: 4 };
      const asked = fields => clients[5].ask("presence", { ...topic, ...fields });
      expect(await asked({}), { ...page, users: listed });
      expect(await asked({ limit: 3 }), { ...page, users: listed.slice(0, 3) });
      expect(await asked({ limit: 3, after: users[2] }), { ...page, users: listed.slice(3) });
      expect(await asked({ limit: 1, after: users[0] }), { ...page, users: listed.slice(1, 2) });
    }
    expect(await clients[0].ask("presence", { channel: world.name("faceless:x") }), { type: "error", code: "forbidden", error: text });
  },

  async history(world) {
    const [ann, channel] = [await world.open("ann"), world.name("told")];
    for (let data = 1; data <= 6; data++) await ann.ask("publish", { channel, data });
    const page = (...ids) => ({ type: "history", channel, epoch: text, last_id: 6,
      messages: ids.map(id => ({ id, data: id, userId: world.name("ann"), ts: now })) });
    expect(await ann.ask("history", { channel }), page(1, 2, 3, 4, 5, 6));
    expect(await ann.ask("history", { channel, limit: 2 }), page(5, 6));
    expect(await ann.ask("history", { channel, limit: 2, since_id: 1 }), page(2, 3));
    expect(await ann.ask("history", { channel, since_id: 4 }), page(5, 6));
    expect(await ann.ask("history", { channel, since_id: 99 }), page());
    const room = world.name("told");
    await ann.ask("join", { room });
    await ann.ask("room_message", { room, payload: { x: 1 } });
    expect(await ann.ask("history", { room, since_id: 0 }), { type: "history", room, epoch: text, last_id: 1,
      messages: [{ id: 1, userId: world.name("ann"), payload: { x: 1 }, timestamp: now, serverId: "wire" }] });
    const forgetful = world.name("forgetful:x");
    await ann.ask("publish", { channel: forgetful, data: 1 });
    expect(await ann.ask("history", { channel: forgetful }),
      { type: "history", channel: forgetful, epoch: text, last_id: 1, messages: [] });
  },

  async idsAndDataPassByteForByte(world) {
    const [ann, channel] = [await world.open("ann"), world.name("raw")];
    for (const id of ["12", "-0.5", "1e2", '"a\\u0062\\"é"', '""']) {
      ann.send(`{"type":"ping","id":${id}}`);
      const { frame, raw } = await ann.next(ann.replies);
      expect(frame, { type: "pong", id: JSON.parse(id), ts: now });
      assert.ok(raw.includes(`"id":${id},`), raw);
    }
    ann.send({ type: "subscribe", channel });
    for (const data of ['{"z": 1.0,"a":[ ] }', '"\\u00e9\\/é"', "12345678901234567890123"]) {
      ann.send(`{"more":[{}],"data":${data},"type":"publish","channel":${JSON.stringify(channel)}}`);
      const { raw } = await ann.next(ann.events);
      assert.ok(raw.includes(`"data":${data},`), raw);
    }
    ann.send({ type: "ping" });
    expect(await ann.reply(), { type: "pong", ts: now });
  },

  async errorsDoNotEndAConnection(world) {
    const ann = await world.open("ann");
    const table = JSON.parse(readFileSync(new URL("refused.json", import.meta.url)));
    assert.ok(table.length > 30);
    for (const { send, reply } of table) {
      const { names = "", ...wanted } = reply;
      ann.send(send);
      const got = expect(await ann.reply(), { type: "error", error: text, ...wanted });
      assert.ok(got.error.includes(names), `${got.error} names ${names}`);
    }
    expect(await ann.ask("refresh", { token: "x" }), { type: "error", code: "bad_request", error: "this server takes no tokens" });
    expect(await ann.ask("ping"), { type: "pong", ts: now });
  },

  async endlessErrorsDo(world) {
    const ann = await world.open("ann");
    // Twice as many as a minute may have, and some: a minute that ends meanwhile does not save it.
    for (let sent = 0; sent < 250; sent++) ann.send('{"type":"dance","id":1}');
    assert.equal(await ann.closed, 1008);
    assert.ok(ann.replies.length >= 100 && ann.replies.length < 250, `${ann.replies.length} replies`);
  },

  async aPipelineIsAnsweredInOrder(world) {
    const [ann, channel, room] = [await world.open("ann"), world.name("pipe"), world.name("pipe")];
    const answers = { subscribe: "subscribed", publish: "published", room_message: "sent", join: "joined", ping: "pong",
      leave: "left", unsubscribe: "unsubscribed" };
    const turn = [["subscribe", { channel }], ["join", { room }], ["publish", { channel, data: 1 }],
      ["room_message", { room, payload: 1 }], ["leave", { room }], ["ping"], ["unsubscribe", { channel }]];
    const commands = Array.from({ length: 20 }, () => turn).flat();
    ann.socket._socket.cork(); // one write, so one segment or a few
    commands.forEach(([type, fields], id) => ann.send({ type, id: String(id), ...fields }));
    ann.socket._socket.uncork();
    const replies = [];
    for (const _ of commands) replies.push(await ann.reply());
    for (const { id, type } of replies) assert.equal(type, answers[commands[id][0]]);
    assert.equal(new Set(replies.map(reply => reply.id)).size, commands.length);
    // What changes subscriptions is done in order, and what follows waits for it.
    const ordered = replies.filter(reply => !["published", "sent"].includes(reply.type)).map(reply => Number(reply.id));
    assert.deepEqual(ordered, [...ordered].sort((a, b) => a - b));
    const published = replies.filter(reply => reply.type === "published").map(reply => reply.last_id);
    assert.deepEqual(published, Array.from({ length: 20 }, (_, at) => at + 1));
  },

  async binaryIsNotSpoken(world) {
    const ann = await world.open("ann");
    ann.socket.send(Buffer.from('{"type":"ping"}'));
    assert.equal(await ann.closed, 1003);
  },

  async limits(world) {
    const [ann, other] = [await world.open("ann"), await world.open()];
    const publish = (client, channel, data = 1) => client.ask("publish", { channel: world.name(channel), data });
    const forbidden = channel => ({ type: "error", code: "forbidden", error: `may not publish to ${world.name(channel)}` });
    const published = (channel, last_id) => ({ type: "published", channel: world.name(channel), last_id });
    expect(await publish(ann, "announced:x"), forbidden("announced:x"));
    expect(await publish(other, "named:x"), forbidden("named:x"));
    expect(await publish(ann, "named:x"), published("named:x", 1));
    expect(await publish(ann, "inside:x"),
      { type: "error", code: "not_subscribed", error: `not subscribed to ${world.name("inside:x")}` });
    await ann.ask("subscribe", { channel: world.name("inside:x") });
    expect(await publish(ann, "inside:x"), published("inside:x", 1));
    expect(await publish(ann, "brief:x", "x".repeat(123)), published("brief:x", 1));
    expect(await publish(ann, "brief:x", "x".repeat(124)), { type: "error", code: "too_large", error: text });
    for (let number = 1; number < 12; number++) await ann.ask("join", { room: world.name(`room${number}`) });
    expect(await ann.ask("subscribe", { channel: world.name("more") }), { type: "error", code: "topic_limit", error: text });
    expect(await ann.ask("join", { room: world.name("more") }), { type: "error", code: "topic_limit", error: text });
    await ann.ask("leave_all");
    assert.equal((await ann.ask("subscribe", { channel: world.name("more") })).type, "subscribed");
  },

  async productionTakesNoNames(world) {
    const refused = new WebSocket(`ws://${production}/ws?user=ann`);
    const [, response] = await once(refused, "unexpected-response");
    assert.equal(response.statusCode, 401);
    response.destroy();
    const client = await world.connect("/ws", production);
    expect(await client.event(), { type: "welcome", connectionId: text, serverId: "wire", pingInterval: 25000 });
  },
};

let failed = 0;
for (const [name, scenario] of Object.entries(scenarios)) {
  const world = new World(name);
  try {
    await scenario(world);
  } catch (error) {
    failed++;
    console.log(`  FAILED ${name}: ${error.stack.slice(0, 2000)}`);
  }
  for (const client of world.clients) client.socket.terminate();
}
console.log(`wire (ws): ${Object.keys(scenarios).length - failed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
