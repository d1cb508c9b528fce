// The megasock client: one connection that is made again whenever it is lost, and what hangs on it. For browsers and
// Node, with nothing but a WebSocket; the wire is docs/channels.md.
//
// What holds: a Link ends exactly once, and with it every timer of its own. A Client has at most one Link. Every promise
// is settled: by the reply, by the loss of the connection, or by close(). What a subscriber has seen it does not see
// again, and what it missed and will not get is told as a gap.
//
// What it refuses to do: to repeat by itself a command that may have been done; to drop a queued command without saying
// so; to reconnect faster than `Backoff` says, whatever the reason.

const UNAUTHORIZED = 4001;

// What an ending means for the next attempt; a close code that is not here is retried. Options may add their own.
//   stop   it was meant: stay away
//   token  the token has ended: with getToken, again with a new one; without, stop
//   slow   the server minds what this client does: again, but from the far end of the schedule
//   retry  again, by the schedule
export const CLOSE_CODES = Object.freeze({
  1000: "stop",
  1001: "retry", // the server stops
  1002: "slow", // what this client sent was no WebSocket; something between may have broken it
  1003: "slow",
  1006: "retry", // no close frame: the connection was cut, or never came about
  1007: "slow",
  1008: "slow",
  1009: "slow",
  1011: "retry",
  1012: "retry",
  1013: "retry",
  [UNAUTHORIZED]: "stop", // unless it is for a token used again
  4401: "token",
});

// Server errors that a subscription outlives: it is asked for again a little later.
const PASSING = new Set(["try_again", "message_rate_exceeded", "byte_rate_exceeded"]);

// A server's hint beyond this is held for a mistake. Also keeps clear of what setTimeout takes for 0.
const HINT_MS_MAX = 3_600_000;

// A token that lives less than the server's notice is about to end as soon as it is there; it is not refreshed more often.
const REFRESH_PAUSE_MS = 10_000;

// After these another try to refresh a token is no better: it, or that there is none, was the answer.
const REFRESH_ANSWERS = new Set(["unauthorized", "no_token", "bad_token"]);

// The least time between two tries, which ask the application's backend.
const REFRESH_RETRY_MS_MIN = 1000;

// What a subprotocol may be made of (RFC 6455 §4.1). A browser's own error would repeat the token.
const SUBPROTOCOL = /^[\w!#$%&'*+.^`|~-]+$/;

// A token that ends sooner is not worth connecting with.
const TOKEN_MARGIN_S = 30;

export const DEFAULTS = Object.freeze({
  getToken: undefined,
  tokenIn: "protocol",
  backoffBaseMs: 1000,
  backoffCapMs: 30_000,
  stableMs: 10_000,
  retriesMax: Infinity,
  connectTimeoutMs: 15_000,
  pingSlackMs: 5000,
  pongTimeoutMs: 10_000,
  queueMax: 100,
  burstMax: 32,
  burstIntervalMs: 1000,
  routingRetriesMax: 3,
  closeCodes: Object.freeze({}),
  WebSocket: undefined,
  random: Math.random,
  clock: Object.freeze({
    now: () => performance.now(),
    setTimeout: (run, delayMs) => setTimeout(run, delayMs),
    clearTimeout: timer => clearTimeout(timer),
  }),
});

// Every error of this module has a `code`. A ServerError's is the server's own: "forbidden", "too_large", …
export class MegasockError extends Error {
  constructor(code, message) {
    super(message);
    this.name = new.target.name;
    this.code = code;
  }
}

export class ServerError extends MegasockError {}

// The connection ended before the reply: the command was done, or not.
export class ConnectionLostError extends MegasockError {
  constructor(type) { super("connection_lost", `the connection was lost before ${type} was answered; it may have been done`); }
}

export class QueueFullError extends MegasockError {
  constructor(type, max) { super("queue_full", `${max} commands wait for a connection already: ${type} was not taken`); }
}

// The client is closed and does not come back by itself.
export class ClosedError extends MegasockError {
  constructor(reason) { super("closed", `the client is closed: ${reason}; open() starts it again`); }
}

// When to try again: pure, so that others can follow the same schedule. README.md states the rule.
export class Backoff {
  #options;

  constructor({ baseMs = 1000, capMs = 30_000, stableMs = 10_000, retriesMax = Infinity, random = Math.random } = {}) {
    this.#options = { baseMs, capMs, stableMs, retriesMax, random };
    this.retries = 0; // in a row, without a stable connection between them
  }

  // The delay before the next attempt; undefined when there were `retriesMax` already. `lastedMs` is how long the
  // connection that ended had been welcomed, undefined if it never was.
  next({ lastedMs, hintMs, slow = false } = {}) {
    const { baseMs, capMs, stableMs, retriesMax, random } = this.#options;
    if (lastedMs >= stableMs) this.retries = 0;
    if (this.retries >= retriesMax) return undefined;
    const ceilingMs = Math.min(capMs, baseMs * 2 ** this.retries++);
    if (hintMs !== undefined) return hintMs;
    return slow ? capMs - random() * (capMs / 2) : random() * ceilingMs;
  }
}

class Emitter {
  #listeners = new Map();

  on(name, listener) {
    this.#listeners.set(name, [...(this.#listeners.get(name) ?? []), listener]);
    return this;
  }

  once(name, listener) {
    const first = value => {
      this.off(name, first);
      listener(value);
    };
    first.listener = listener; // by which off() knows it
    return this.on(name, first);
  }

  off(name, listener) {
    const isOther = other => other !== listener && (other.listener ?? other) !== listener;
    this.#listeners.set(name, (this.#listeners.get(name) ?? []).filter(isOther));
    return this;
  }

  // Whether anybody listens. A listener that throws is reported as uncaught and harms nobody else.
  emit(name, value) {
    const listeners = this.#listeners.get(name) ?? [];
    for (const listener of listeners) {
      try {
        listener(value);
      } catch (error) {
        queueMicrotask(() => { throw error; });
      }
    }
    return listeners.length > 0;
  }
}

// Nobody has to wait for it: a rejection that nobody asks for would end a Node process. Whoever awaits it gets it still,
// but each promise made of another needs this anew.
function quiet(promise) {
  promise.catch(() => {});
  return promise;
}

// A promise and the two ends of it.
function deferred() {
  const ends = {};
  ends.promise = quiet(new Promise((resolve, reject) => Object.assign(ends, { resolve, reject })));
  return ends;
}

// One attempt at a connection and, if it comes about, that connection.
class Link {
  #options;
  #onFrame;
  #onEnd;
  #socket;
  #timers = new Set();
  #deadline;
  #welcomedAt;
  #heardAt;
  #hintMs;
  #error;
  ended = false;

  // `address` answers where to and with which subprotocols.
  constructor(options, address, onFrame, onEnd) {
    this.#options = options;
    this.#onFrame = onFrame;
    this.#onEnd = onEnd;
    this.#deadline = this.after(options.connectTimeoutMs, () => {
      this.#giveUp(`no welcome within ${options.connectTimeoutMs} ms`);
    });
    this.#connect(address);
  }

  async #connect(address) {
    try {
      // `address` asks the application, which may close the client: only once the client knows of this link.
      await null;
      if (this.ended) return;
      const { url, protocols } = await address();
      if (this.ended) return;
      const socket = new this.#options.WebSocket(url, protocols);
      this.#socket = socket;
      socket.onmessage = ({ data }) => this.#handleMessage(data);
      socket.onclose = ({ code, reason }) => this.end(code, reason);
      // A close follows and says more, but for Node 20 when the handshake fails: there it never comes.
      socket.onerror = ({ message }) => { if (this.#heardAt === undefined) this.end(1006, message ?? ""); };
    } catch (error) {
      this.fail(error);
      this.end(1006, String(error));
    }
  }

  #handleMessage(text) {
    if (this.ended) return;
    this.#heardAt = this.#options.clock.now();
    let frame;
    try {
      frame = JSON.parse(text);
    } catch {
      this.fail(new MegasockError("bad_frame", "the server sent what is not JSON"));
      return this.end(1007, "not JSON");
    }
    this.#onFrame(frame);
  }

  // Why it ends, where that is known before it does.
  fail(error) { this.#error = error; }

  hint(delayMs) {
    if (Number.isFinite(delayMs) && delayMs >= 0) this.#hintMs = Math.min(delayMs, HINT_MS_MAX);
  }

  welcomed(pingIntervalMs) {
    this.cancel(this.#deadline);
    this.#welcomedAt = this.#options.clock.now();
    if (pingIntervalMs > 0) this.#watch(pingIntervalMs + this.#options.pingSlackMs);
  }

  // Scripts cannot see WebSocket's own pings: in a quiet connection they ask, and leave one that does not answer.
  #watch(quietMs) {
    const { clock, pongTimeoutMs } = this.#options;
    const look = () => {
      const silentMs = clock.now() - this.#heardAt;
      if (silentMs < quietMs) return this.after(quietMs - silentMs, look);
      const askedAt = clock.now();
      this.send('{"type":"ping"}');
      this.after(pongTimeoutMs, () => {
        if (this.#heardAt >= askedAt) look();
        else this.#giveUp(`nothing heard for ${quietMs} ms, nor a pong`);
      });
    };
    this.after(quietMs, look);
  }

  send(text) { this.#socket.send(text); }

  // Runs unless the link ends before.
  after(delayMs, run) {
    const timer = this.#options.clock.setTimeout(() => {
      this.#timers.delete(timer);
      run();
    }, delayMs);
    this.#timers.add(timer);
    return timer;
  }

  cancel(timer) {
    this.#timers.delete(timer);
    this.#options.clock.clearTimeout(timer);
  }

  // A peer that is silent will not answer a Close either: npm's ws can do without, where it would hold the process for 30 s.
  #giveUp(reason) {
    this.end(1006, reason);
    this.#socket?.terminate?.();
  }

  // Does not wait for the peer: over a dead connection a closing handshake takes its time.
  end(code, reason) {
    if (this.ended) return;
    this.ended = true;
    for (const timer of this.#timers) this.#options.clock.clearTimeout(timer);
    if (code === 1000) this.#socket?.close(1000);
    else this.#socket?.close();
    const lastedMs = this.#welcomedAt === undefined ? undefined : this.#options.clock.now() - this.#welcomedAt;
    this.#onEnd({ code, reason, lastedMs, hintMs: this.#hintMs, error: this.#error });
  }
}

// The words of the two kinds of topics on the wire.
const KINDS = {
  channel: { enter: "subscribe", leave: "unsubscribe", publish: "publish", data: "data" },
  room: { enter: "join", leave: "leave", publish: "room_message", data: "payload" },
};

const keyOf = (kind, name) => `${kind} ${name}`;

// A publication as subscribers see it: the same for channels and rooms.
function message(frame) {
  const { id, userId, serverId } = frame;
  const isRoom = frame.timestamp !== undefined;
  return { id, data: isRoom ? frame.payload : frame.data, userId, ts: isRoom ? frame.timestamp : frame.ts, serverId };
}

// A channel or a room this client wants to be in, for as long as the client lives or until it leaves.
export class Subscription extends Emitter {
  #client;
  #ready = deferred();
  #isReady = false;
  #isRejected = false;
  #entered; // before, here or where `since` is from

  constructor(client, kind, name, since) {
    super();
    this.#client = client;
    this.kind = kind;
    this.name = name;
    this.asked = false; // the server was asked for it on this connection
    this.active = false; // and has confirmed it
    this.epoch = since?.epoch;
    this.lastId = since?.lastId ?? 0;
    this.#entered = since !== undefined;
  }

  // Resolves with this subscription once the server has confirmed it the first time.
  get ready() { return this.#ready.promise; }

  // Where it is, to be given as `since` later; null where no history is kept.
  get position() { return this.epoch === undefined ? null : { epoch: this.epoch, lastId: this.lastId }; }

  publish(data, options) { return this.#client.publishTo(this.kind, this.name, data, options); }
  presence(options) { return this.#client.presence({ [this.kind]: this.name }, options); }
  history(options) { return this.#client.history({ [this.kind]: this.name }, options); }
  unsubscribe() { return this.#client.leaveTopic(this); }
  leave() { return this.unsubscribe(); }

  // The rest is the client's.

  handleAsk() {
    this.asked = true;
    return { [this.kind]: this.name, ...(this.position && { epoch: this.epoch, last_id: this.lastId }) };
  }

  // Before it is asked for comes what a subscription of the same name has left behind; before the reply, the missed ones.
  handleMessage(received) {
    if (!this.asked || received.id <= this.lastId) return;
    this.lastId = received.id;
    this.emit("message", received);
  }

  handleGap({ from, to, reason }) {
    if (!this.active) return;
    if (to > this.lastId) this.lastId = to;
    this.emit("gap", { from, to, reason });
  }

  handlePresence(joined = [], left = []) {
    if (this.active) this.emit("presence", { joined, left });
  }

  handleReply({ epoch, last_id: lastId = 0, recovered = false, members }) {
    const before = { epoch: this.epoch, lastId: this.lastId };
    const [again, sameEpoch] = [this.#entered, epoch !== undefined && epoch === before.epoch];
    Object.assign(this, { active: true, epoch, lastId: recovered ? Math.max(lastId, before.lastId) : lastId });
    this.#entered = true;
    this.#isReady = true;
    this.#ready.resolve(this);
    this.emit("subscribed", { recovered, again, position: this.position, members });
    if (!again || recovered) return;
    this.emit("gap", { ...(sameEpoch && { from: before.lastId + 1, to: lastId }), reason: "not_recovered" });
  }

  handleLost() {
    this.asked = false;
    this.active = false;
  }

  // It will not be: refused, left, or the client is closed.
  handleEnd(error) {
    this.handleLost();
    this.#isRejected = true;
    this.#ready.reject(error);
  }

  // Whoever waits already goes on waiting.
  handleOpen() {
    if (this.#isReady || !this.#isRejected) return;
    this.#isRejected = false;
    this.#ready = deferred();
  }
}

const NOT_OPENED = "not opened yet";

export class Client extends Emitter {
  #url;
  #options;
  #backoff;
  #link = null;
  #timer; // of the next attempt
  #lastId = 0; // of commands
  #inFlight = new Map(); // id → { resolve, reject, lost }
  #subscriptions = new Map(); // by key: those that are wanted
  #unsent = []; // subscriptions to ask for on this connection
  #queue = []; // commands that wait for a connection, or for their turn on it
  #askedMeanwhile = 0; // on this connection, behind others, since the latest burst
  #leaving = new Map(); // key → deferred: what the server was asked to end; `held`: what is published once it was entered again
  #token;
  #tokenWorks = false;
  #tokenReused = false; // by the latest attempt
  #refreshedAt = -Infinity;
  #routing;
  #routingRetries = 0;
  #why = NOT_OPENED; // it is closed

  constructor(url, options = {}) {
    super();
    const unknown = Object.keys(options).filter(name => !(name in DEFAULTS));
    if (unknown.length) throw new TypeError(`unknown option ${unknown}; there are ${Object.keys(DEFAULTS).join(", ")}`);
    // One that is undefined was not given.
    const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
    this.#options = { ...DEFAULTS, WebSocket: globalThis.WebSocket, ...given };
    if (!this.#options.WebSocket) {
      throw new TypeError("no WebSocket here: use Node 22 or later, or give one as the option WebSocket");
    }
    if (!["protocol", "query"].includes(this.#options.tokenIn)) throw new TypeError('tokenIn is "protocol" or "query"');
    // 1000 is also what close() says.
    this.#options.closeCodes = { ...CLOSE_CODES, ...options.closeCodes, 1000: "stop" };
    this.#url = new URL(url, globalThis.location?.href);
    this.#url.hash = ""; // which no WebSocket takes
    this.#url.protocol = this.#url.protocol.replace(/^http/, "ws");
    if (!/^wss?:$/.test(this.#url.protocol)) throw new TypeError(`${url}: write ws://… or wss://…`);
    const { backoffBaseMs: baseMs, backoffCapMs: capMs, stableMs, retriesMax, random } = this.#options;
    this.#backoff = new Backoff({ baseMs, capMs, stableMs, retriesMax, random });
    this.state = "closed";
    this.welcome = null; // of the connection that stands
  }

  // Starts, or starts again after it was closed. Subscriptions are still there.
  open() {
    if (this.state !== "closed") return this;
    for (const subscription of this.#subscriptions.values()) subscription.handleOpen();
    this.#backoff.retries = 0;
    // Somebody else may be logged in by now, or the token have been why it was closed.
    this.#tokenWorks = false;
    this.#token = undefined;
    this.#attempt();
    return this;
  }

  // Resolves with the welcome as soon as there is a connection; rejects if the client is or gets closed.
  opened() {
    if (this.state === "open") return Promise.resolve(this.welcome);
    if (this.state === "closed") return quiet(Promise.reject(new ClosedError(this.#why)));
    return quiet(new Promise((resolve, reject) => {
      const look = ({ state }) => {
        if (state !== "open" && state !== "closed") return;
        this.off("state", look);
        if (state === "open") resolve(this.welcome);
        else reject(new ClosedError(this.#why));
      };
      this.on("state", look);
    }));
  }

  // Ends the connection with 1000 and stays away.
  close() {
    if (this.state === "closed") return;
    this.#options.clock.clearTimeout(this.#timer);
    if (this.#link) this.#link.end(1000, "close() was called");
    else this.#stop({ code: 1000, reason: "close() was called" });
  }

  subscribe(channel, { since } = {}) { return this.#enter("channel", channel, since); }
  join(room, { since } = {}) { return this.#enter("room", room, since); }
  subscription(channel) { return this.#subscriptions.get(keyOf("channel", channel)); }
  room(room) { return this.#subscriptions.get(keyOf("room", room)); }

  async unsubscribe(channel) { await this.subscription(channel)?.unsubscribe(); }
  async leave(room) { await this.room(room)?.leave(); }

  async leaveAll() {
    const rooms = [...this.#subscriptions.values()].filter(({ kind }) => kind === "room");
    await Promise.all(rooms.map(room => room.leave()));
    return rooms.map(({ name }) => name);
  }

  publish(channel, data, options) { return this.publishTo("channel", channel, data, options); }
  send(room, payload, options) { return this.publishTo("room", room, payload, options); }

  direct(userId, payload) {
    const reply = this.command("direct_message", { targetUserId: userId, payload: payload ?? null });
    return quiet(reply.then(({ connections }) => ({ connections })));
  }

  // `topic` is { channel } or { room }.
  presence(topic, { limit, after } = {}) {
    const reply = this.#ask("presence", { ...topic, limit, after }, { again: true });
    return quiet(reply.then(({ users, total }) => ({ users, total })));
  }

  history(topic, { limit, sinceId } = {}) {
    const reply = this.#ask("history", { ...topic, limit, since_id: sinceId }, { again: true });
    return quiet(reply.then(({ epoch, last_id: lastId, messages }) => ({ epoch, lastId, messages: messages.map(message) })));
  }

  // Any command by its fields on the wire; the reply as it came.
  command(type, fields = {}) { return this.#ask(type, fields); }

  // Of both kinds: resolves with the number it got, which a room does not tell.
  publishTo(kind, name, data, { echo } = {}) {
    const [words, key] = [KINDS[kind], keyOf(kind, name)];
    // Where entering again waits for the leaving, so does what is published after it: one who is no member may not.
    const held = this.#subscriptions.has(key) ? this.#leaving.get(key)?.held : undefined;
    const reply = this.#ask(words.publish, { [kind]: name, [words.data]: data ?? null, echo }, { held });
    return quiet(reply.then(({ last_id: id }) => (kind === "channel" ? { id } : {})));
  }

  // Commands.

  // `again`: it changes nothing, and may be asked once more on the next connection. `held`: where it waits with others.
  #ask(type, fields, { again = false, held } = {}) {
    const { promise, resolve, reject } = deferred();
    const id = ++this.#lastId;
    const command = { id, resolve, reject };
    try {
      // Written now: what the caller does with its data afterwards is not sent. The id is ours: replies are told apart by it.
      command.text = JSON.stringify({ ...fields, type, id });
    } catch (error) {
      reject(error);
      return promise;
    }
    command.lost = () => {
      if (again) this.#queue.push(Object.assign(command, { isAgain: true }));
      else reject(new ConnectionLostError(type));
    };
    if (this.state === "closed") reject(new ClosedError(this.#why));
    else if (held) held.push(command);
    else if (this.state === "open") this.#send(command);
    else if (this.#waitingCount() >= this.#options.queueMax) reject(new QueueFullError(type, this.#options.queueMax));
    else this.#queue.push(command);
    return promise;
  }

  // Those to be asked again were sent before, and take no room from those that were not.
  #waitingCount() { return this.#queue.filter(({ isAgain }) => !isAgain).length; }

  #isCaughtUp() { return this.#unsent.length === 0 && this.#queue.length === 0; }

  // On an open connection: now, or behind what waits still. There is no bound: it goes out with the next burst.
  #send(command) {
    if (this.#isCaughtUp()) return this.#transmit(command);
    this.#askedMeanwhile++;
    this.#queue.push(command);
  }

  #transmit(command) {
    this.#inFlight.set(command.id, command);
    this.#link.send(command.text);
  }

  // After a connection came about, what has waited goes out in bursts, below the rate a server allows a client. Each takes
  // somewhat more than was asked since the one before, or a steady publisher would be behind for ever; but not a whole burst
  // more, which together with what that publisher asks would be above that rate.
  #flush(link) {
    const { burstMax } = this.#options;
    const sentMax = Math.max(burstMax, this.#askedMeanwhile + Math.ceil(burstMax / 4));
    this.#askedMeanwhile = 0;
    for (let sent = 0; sent < sentMax && !this.#isCaughtUp(); sent++) {
      if (this.#unsent.length) this.#transmitEntry(this.#unsent.shift());
      else this.#transmit(this.#queue.shift());
    }
    if (!this.#isCaughtUp()) link.after(this.#options.burstIntervalMs, () => this.#flush(link));
  }

  // Channels and rooms.

  #enter(kind, name, since) {
    // Here, where it is the caller's: what is no JSON would break the next reconnect.
    if (typeof name !== "string") throw new TypeError(`the name of a ${kind} is a string, not ${String(name)}`);
    const key = keyOf(kind, name);
    const before = this.#subscriptions.get(key);
    if (before) return before;
    const subscription = new Subscription(this, kind, name, since);
    this.#subscriptions.set(key, subscription);
    // What still comes from before must not be taken for the new one's.
    if (this.state === "open" && !this.#leaving.has(key)) this.#askEntry(subscription);
    // As those it stopped with: whoever waits is told, and open() makes it new. Before the first open() it is on its way.
    if (this.state === "closed" && this.#why !== NOT_OPENED) subscription.handleEnd(new ClosedError(this.#why));
    return subscription;
  }

  #askEntry(subscription) {
    if (this.#isCaughtUp()) return this.#transmitEntry(subscription);
    this.#askedMeanwhile++;
    this.#unsent.push(subscription);
  }

  #transmitEntry(subscription, backoff = this.#shortBackoff()) {
    const [link, id, key] = [this.#link, ++this.#lastId, keyOf(subscription.kind, subscription.name)];
    const isWanted = () => this.#subscriptions.get(key) === subscription;
    const reject = error => {
      if (!isWanted()) return;
      if (PASSING.has(error.code)) {
        link.after(backoff.next(), () => isWanted() && this.#transmitEntry(subscription, backoff));
        return;
      }
      this.#refuse(subscription, error);
    };
    const resolve = reply => isWanted() && subscription.handleReply(reply);
    const text = JSON.stringify({ type: KINDS[subscription.kind].enter, id, ...subscription.handleAsk() });
    this.#transmit({ id, text, resolve, reject, lost: () => {} });
  }

  #refuse(subscription, error) {
    this.#subscriptions.delete(keyOf(subscription.kind, subscription.name));
    subscription.handleEnd(error);
    if (!subscription.emit("error", error)) this.#report(error);
  }

  leaveTopic(subscription) {
    const { kind, name } = subscription;
    const key = keyOf(kind, name);
    if (this.#subscriptions.get(key) !== subscription) return Promise.resolve();
    this.#subscriptions.delete(key);
    this.#unsent = this.#unsent.filter(other => other !== subscription);
    const { asked } = subscription;
    subscription.handleEnd(new MegasockError("left", `${kind} ${name} was left`));
    if (!asked) return Promise.resolve();
    const left = { ...deferred(), held: [] };
    this.#leaving.set(key, left);
    this.#askLeave(kind, name);
    return left.promise;
  }

  // Refused for anything that does not pass, there was nothing to leave. Lost with the connection, it is left too.
  #askLeave(kind, name, backoff = this.#shortBackoff()) {
    const [link, id, key] = [this.#link, ++this.#lastId, keyOf(kind, name)];
    const resolve = () => {
      const left = this.#leaving.get(key);
      this.#leaving.delete(key);
      left.resolve();
      if (this.#subscriptions.has(key)) this.#askEntry(this.#subscriptions.get(key));
      for (const command of left.held) this.#send(command);
    };
    const reject = error => {
      if (PASSING.has(error.code)) link.after(backoff.next(), () => this.#askLeave(kind, name, backoff));
      else resolve();
    };
    const text = JSON.stringify({ type: KINDS[kind].leave, id, [kind]: name });
    // Not before what was published there while still in it.
    this.#send({ id, text, resolve, reject, lost: () => {}, endsWithLink: true });
  }

  #shortBackoff() { return new Backoff({ random: this.#options.random }); }

  // The connection.

  #attempt() {
    const [onFrame, onEnd] = [frame => this.#handleFrame(frame), ending => this.#handleEnd(ending)];
    this.#link = new Link(this.#options, () => this.#address(), onFrame, onEnd);
    this.#become("connecting", {});
  }

  #become(state, detail) {
    const previous = this.state;
    this.state = state;
    this.emit("state", { state, previous, ...detail });
  }

  // Where to connect to. A token that worked serves until it ends, so that a server's restart does not send all of its
  // clients to whoever issues them.
  async #address() {
    const { getToken, tokenIn } = this.#options;
    const link = this.#link;
    const url = new URL(this.#url);
    this.#tokenReused = Boolean(getToken) && this.#tokenWorks && endsAfter(this.#token, TOKEN_MARGIN_S);
    if (getToken && !this.#tokenReused) {
      const token = await this.#newToken({ expiring: false });
      // Late, it may be that of whoever was logged in before.
      if (!link.ended) this.#token = token;
    }
    if (this.#routing) url.searchParams.set("routing", this.#routing);
    if (!this.#token) return { url: url.href, protocols: [] };
    if (tokenIn === "query") url.searchParams.set("token", this.#token);
    else if (!SUBPROTOCOL.test(this.#token)) throw new MegasockError("bad_token", 'this token fits no subprotocol; use tokenIn: "query"');
    return { url: url.href, protocols: tokenIn === "query" ? [] : ["megasock", `token.${this.#token}`] };
  }

  // Also what is none is not repeated in an error: it may hold one.
  async #newToken(why) {
    const token = await this.#options.getToken(why);
    if (!token || typeof token === "string") return token;
    throw new MegasockError("bad_token", "getToken answered what is no string; of fetch's Response, give what its text() answers");
  }

  #handleFrame(frame) {
    const handle = Client.#FRAMES[frame?.type];
    if (handle) handle(this, frame);
    else this.#handleReply(frame);
  }

  #handleReply(frame) {
    const command = this.#inFlight.get(frame?.id);
    this.#inFlight.delete(frame?.id);
    command?.resolve(frame);
  }

  // Without an id nobody asked for it: a new token allows less than the one before.
  #handleLeft(frame) {
    if (frame.id !== undefined) return this.#handleReply(frame);
    const subscription = this.#topic({ channel: frame.channel, roomId: frame.room });
    if (subscription) this.#refuse(subscription, new ServerError("forbidden", `${subscription.name}: the token allows it no more`));
  }

  #handleWelcome({ type, ...welcome }) {
    if (this.state !== "connecting") return;
    const link = this.#link;
    link.welcomed(welcome.pingInterval);
    this.#tokenWorks = true;
    this.#routingRetries = 0;
    this.#routing = welcome.routingToken;
    this.welcome = welcome;
    this.#unsent = [...this.#subscriptions.values()];
    this.#askedMeanwhile = 0;
    this.#become("open", { welcome });
    // Whoever was told may have closed it, and opened another.
    if (!link.ended) this.#flush(link);
  }

  #handleError(frame) {
    const error = new ServerError(frame.code, frame.error);
    this.#link.hint(frame.reconnectDelay);
    const command = this.#inFlight.get(frame.id);
    this.#inFlight.delete(frame.id);
    if (command) return command.reject(error);
    if (this.state === "connecting") this.#link.fail(error);
    this.#report(error);
  }

  #handleShutdown({ reason, reconnectDelay }) {
    this.#link.hint(reconnectDelay);
    this.emit("shutdown", { reason, reconnectDelayMs: reconnectDelay });
  }

  #handleExpiring({ expiresIn }) {
    const link = this.#link;
    this.emit("expiring", { expiresIn });
    if (!this.#options.getToken || link.ended) return;
    const isTooSoon = this.#options.clock.now() - this.#refreshedAt < REFRESH_PAUSE_MS;
    if (isTooSoon) link.after(expiresIn * 500, () => this.#refresh(link));
    else this.#refresh(link);
  }

  // There is about a minute for it: what fails meanwhile, such as a backend that restarts, is tried again.
  async #refresh(link, backoff = this.#shortBackoff()) {
    this.#refreshedAt = this.#options.clock.now();
    try {
      const token = await this.#newToken({ expiring: true });
      if (link.ended) return;
      if (!token) throw new MegasockError("no_token", "getToken gave none; the connection ends with the token it has");
      const { promise, resolve, reject } = deferred();
      const id = ++this.#lastId;
      // Does not wait behind others: the time is short. The next connection has a token of its own.
      this.#transmit({ id, text: JSON.stringify({ type: "refresh", id, token }), resolve, reject, lost: () => resolve() });
      await promise;
      if (link.ended) return;
      this.#token = token;
      this.#tokenWorks = true;
    } catch (error) {
      // Nobody's any more: the next connection has a token of its own.
      if (link.ended) return;
      this.#tokenWorks = false;
      if (!REFRESH_ANSWERS.has(error?.code)) {
        link.after(REFRESH_RETRY_MS_MIN + backoff.next(), () => this.#refresh(link, backoff));
      }
      this.#report(error);
    }
  }

  #handleEnd({ code, reason, lastedMs, hintMs, error }) {
    let rule = this.#options.closeCodes[code] ?? "retry";
    // Of a token used again a refusal says only that it is good no more, as when keys change while the server restarts.
    if (code === UNAUTHORIZED && rule === "stop" && lastedMs === undefined && this.#tokenReused) rule = "token";
    this.#link = null;
    this.welcome = null;
    if (lastedMs === undefined) this.#forgetWhatFailed();
    if (rule === "token") this.#tokenWorks = false;
    this.#loseConnection();
    this.#goOn(rule, { code, reason, lastedMs, hintMs, error });
    // Only now, when whoever hears of it finds the client as it will be. The server's own was told when it came.
    if (error && !(error instanceof ServerError)) this.#report(error);
  }

  #goOn(rule, { code, reason, lastedMs, hintMs, error }) {
    if (rule === "stop" || (rule === "token" && !this.#options.getToken)) return this.#stop({ code, reason, error });
    const delayMs = this.#backoff.next({ lastedMs, hintMs, slow: rule === "slow" });
    if (delayMs === undefined) {
      return this.#stop({ code, reason: `gave up after ${this.#backoff.retries} retries; ${reason}`, error });
    }
    this.#timer = this.#options.clock.setTimeout(() => this.#attempt(), delayMs);
    this.#become("waiting", { code, reason, error, delayMs });
  }

  // A handshake that is refused looks like one that failed. It may be for the token, or for a node that is no more.
  #forgetWhatFailed() {
    this.#tokenWorks = false;
    if (this.#routing && ++this.#routingRetries >= this.#options.routingRetriesMax) this.#routing = undefined;
  }

  #loseConnection() {
    const held = [...this.#leaving.values()].flatMap(left => left.held);
    const [lost, waiting] = [[...this.#inFlight.values()], [...this.#queue.filter(command => !command.endsWithLink), ...held]];
    this.#inFlight.clear();
    // Those to be asked again come before what has waited.
    this.#queue = [];
    for (const command of lost) command.lost();
    this.#queue.push(...waiting);
    for (const left of this.#leaving.values()) left.resolve();
    this.#leaving.clear();
    for (const subscription of this.#subscriptions.values()) subscription.handleLost();
  }

  #stop({ code, reason, error }) {
    this.#why = `${error?.message ?? (reason || "by the server")} (${code})`;
    const closed = new ClosedError(this.#why);
    for (const command of this.#queue.splice(0)) command.reject(closed);
    for (const subscription of this.#subscriptions.values()) subscription.handleEnd(closed);
    this.#become("closed", { code, reason, error });
  }

  #report(error) {
    if (!this.emit("error", error)) console.warn(`megasock: ${error?.message ?? error}`);
  }

  // What the server sends of its own accord, or may; everything else is a reply.
  static #FRAMES = {
    __proto__: null, // the type is the server's word, and may be any
    welcome: (client, frame) => client.#handleWelcome(frame),
    error: (client, frame) => client.#handleError(frame),
    server_shutdown: (client, frame) => client.#handleShutdown(frame),
    expiring: (client, frame) => client.#handleExpiring(frame),
    direct_message: (client, { fromUserId, payload, timestamp }) =>
      client.emit("direct", { fromUserId, data: payload, ts: timestamp }),
    message: (client, frame) => client.#topic(frame)?.handleMessage(message(frame)),
    room_message: (client, frame) => client.#topic(frame)?.handleMessage(message(frame)),
    unsubscribed: (client, frame) => client.#handleLeft(frame),
    left: (client, frame) => client.#handleLeft(frame),
    gap: (client, frame) => client.#topic(frame)?.handleGap(frame),
    user_joined: (client, frame) => client.#topic(frame)?.handlePresence([frame.userId], []),
    user_left: (client, frame) => client.#topic(frame)?.handlePresence([], [frame.userId]),
    presence_change: (client, frame) => client.#topic(frame)?.handlePresence(frame.joined, frame.left),
  };

  #topic({ channel, roomId }) {
    return this.#subscriptions.get(roomId === undefined ? keyOf("channel", channel) : keyOf("room", roomId));
  }
}

// Whether a JSON Web Token ends later than so many seconds from now. Only a guess at its end: who else's clock is right
// is the server's to say.
function endsAfter(token, seconds) {
  try {
    const claims = JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/")));
    return claims.exp - Date.now() / 1000 > seconds;
  } catch {
    return false;
  }
}

// A client that is on its way.
export function connect(url, options) { return new Client(url, options).open(); }
