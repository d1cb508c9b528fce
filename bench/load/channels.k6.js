// The channel protocol under k6: connect, welcome, subscribe, publish at a pace, measure how long messages take, ping, leave.
//
//     k6 run bench/load/channels.k6.js
//     k6 run -e URL=wss://chat.example.org/ws -e TOKEN=… -e USERS=500 -e HOLD=5m bench/load/channels.k6.js
//
// For k6 0.56 or later (k6/websockets). A latency is between clocks of one machine: from the publisher's stamp in `data` to
// when the script is told of the message, so what k6 itself takes is in it.

import { WebSocket } from "k6/websockets";
import { Counter, Rate, Trend } from "k6/metrics";
import { clearInterval, setInterval, setTimeout } from "k6/timers";

const URL = __ENV.URL || "ws://127.0.0.1:8080/ws";
const USERS = Number(__ENV.USERS || 100);
// Users of one channel: each message goes to so many.
const PER_CHANNEL = Number(__ENV.PER_CHANNEL || 10);
const PUBLISH_EVERY_MS = Number(__ENV.PUBLISH_EVERY_MS || 1000);
const SESSION_MS = Number(__ENV.SESSION_MS || 30_000);

const welcomeMs = new Trend("megasock_welcome_ms", true);
const subscribeMs = new Trend("megasock_subscribe_ms", true);
const publishMs = new Trend("megasock_publish_ms", true);
const messageMs = new Trend("megasock_message_ms", true);
const pingMs = new Trend("megasock_ping_ms", true);
const published = new Counter("megasock_published");
const received = new Counter("megasock_messages");
const errors = new Counter("megasock_errors");
const sessions = new Rate("megasock_sessions_well_ended");

export const options = {
  stages: [
    { duration: __ENV.RAMP || "30s", target: USERS },
    { duration: __ENV.HOLD || "2m", target: USERS },
    { duration: "10s", target: 0 },
  ],
  // A session ends by itself; what is cut at the end of the test would be counted as lost.
  gracefulRampDown: `${SESSION_MS / 1000 + 5}s`,
  thresholds: {
    megasock_errors: ["count==0"],
    megasock_sessions_well_ended: ["rate>0.999"],
    // And for a machine that does nothing else a bound on the way of a message:
    // megasock_message_ms: ["p(99)<100"],
  },
};

// One session of one user.
export default function session() {
  const channel = `load-${__VU % Math.max(1, Math.round(USERS / PER_CHANNEL))}`;
  // The same way in as a browser's: the token as a second subprotocol.
  const socket = new WebSocket(URL, __ENV.TOKEN ? ["megasock", `token.${__ENV.TOKEN}`] : ["megasock"]);
  const began = Date.now();
  const asked = new Map(); // by id: when, and where the time goes
  const timers = [];
  let nextId = 1, ended = false;

  const ask = (trend, command) => {
    const id = nextId++;
    asked.set(id, { at: Date.now(), trend });
    socket.send(JSON.stringify({ ...command, id }));
  };
  const told = {
    welcome() {
      welcomeMs.add(Date.now() - began);
      ask(subscribeMs, { type: "subscribe", channel });
    },
    subscribed() {
      timers.push(setInterval(() => {
        ask(publishMs, { type: "publish", channel, data: { at: Date.now() } });
        published.add(1);
      }, PUBLISH_EVERY_MS));
      timers.push(setInterval(() => ask(pingMs, { type: "ping" }), 10_000));
      setTimeout(() => {
        timers.forEach(clearInterval);
        ended = true;
        socket.close(1000);
      }, SESSION_MS);
    },
    message({ data }) {
      received.add(1);
      messageMs.add(Date.now() - data.at);
    },
    error() { errors.add(1); },
    gap() { errors.add(1); },
  };

  socket.addEventListener("message", ({ data }) => {
    const frame = JSON.parse(data);
    // A message's id is its offset in the channel, not that of a command.
    const question = frame.type === "message" ? undefined : asked.get(frame.id);
    if (question) {
      asked.delete(frame.id);
      if (frame.type !== "error") question.trend.add(Date.now() - question.at);
    }
    told[frame.type]?.(frame);
  });
  socket.addEventListener("close", () => {
    timers.forEach(clearInterval);
    sessions.add(ended);
  });
}
