// What a user does in channels.yml. A latency is between clocks of one machine: from the publisher's stamp in `data` to when the
// script is told of the message, so what artillery itself takes is in it.

"use strict";

const PING_EVERY_MS = 10_000;
const nowMs = () => performance.timeOrigin + performance.now();

// One user's connection: questions by their id, and what the server tells.
class Session {
  constructor(socket, vars, events) {
    Object.assign(this, { socket, events, asked: new Map(), nextId: 1, beganMs: nowMs() });
    this.channel = `load-${Math.floor(Math.random() * vars.channels)}`;
    this.welcomed = new Promise((resolve, reject) => Object.assign(this, { welcome: resolve, turnAway: reject }));
    socket.onmessage = ({ data }) => this.hear(JSON.parse(data));
    socket.onclose = ({ code }) => {
      this.ended = new Error(`closed with ${code}`);
      this.turnAway(this.ended);
      this.asked.forEach(({ fail }) => fail(this.ended));
    };
  }

  hear(frame) {
    // A message's id is its offset in the channel, not that of a command.
    const question = frame.type === "message" ? undefined : this.asked.get(frame.id);
    if (question) {
      this.asked.delete(frame.id);
      if (frame.type === "error") return question.fail(new Error(frame.code));
      this.events.emit("histogram", `megasock.${question.what}_ms`, nowMs() - question.atMs);
      return question.answer(frame);
    }
    if (frame.type === "welcome") {
      this.events.emit("histogram", "megasock.welcome_ms", nowMs() - this.beganMs);
      this.welcome();
    } else if (frame.type === "message") {
      this.events.emit("counter", "megasock.messages", 1);
      this.events.emit("histogram", "megasock.message_ms", nowMs() - frame.data.atMs);
    } else if (frame.type === "error" || frame.type === "gap") {
      this.events.emit("counter", "megasock.errors", 1);
    }
  }

  ask(what, command) {
    return new Promise((answer, fail) => {
      if (this.ended) return fail(this.ended);
      const id = this.nextId++;
      this.asked.set(id, { what, atMs: nowMs(), answer, fail });
      this.socket.send(JSON.stringify({ ...command, id }));
    });
  }
}

// Is told of the counters that conditions name, even if they stay 0.
async function welcome(context, events) {
  events.emit("counter", "megasock.errors", 0);
  context.session = new Session(context.ws, context.vars, events);
  await context.session.welcomed;
}

async function subscribe({ session }) {
  await session.ask("subscribe", { type: "subscribe", channel: session.channel });
}

// Publishes at its pace, and pings, for as long as a session lasts.
async function talk({ session, vars }, events) {
  await session.ask("ping", { type: "ping" });
  const pings = setInterval(() => session.ask("ping", { type: "ping" }).catch(() => {}), PING_EVERY_MS);
  try {
    for (const endMs = nowMs() + vars.sessionS * 1000; nowMs() < endMs;) {
      await session.ask("publish", { type: "publish", channel: session.channel, data: { atMs: nowMs() } });
      events.emit("counter", "megasock.published", 1);
      await new Promise(resolve => setTimeout(resolve, vars.publishEveryS * 1000));
    }
  } finally {
    clearInterval(pings);
  }
}

// Says goodbye; artillery closes the socket.
async function leave({ session }) {
  await session.ask("unsubscribe", { type: "unsubscribe", channel: session.channel });
}

module.exports = { welcome, subscribe, talk, leave };
