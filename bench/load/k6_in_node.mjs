// Runs a k6 script's default function in Node, a few users for two seconds each, on stand-ins of the modules it imports: for its
// protocol and its spelling. It measures nothing, and is no k6.
//
//     LOAD_MODULES=folder-with-node_modules URL=ws://… node k6_in_node.mjs SCRIPT

import assert from "node:assert/strict";
import { readFileSync, writeFileSync, mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const USERS = 5;
const metrics = new Map();

class Metric {
  values = [];
  constructor(name) { metrics.set(name, this); }
  add(value) {
    assert.ok(["number", "boolean"].includes(typeof value) && !Number.isNaN(value), String(value));
    this.values.push(Number(value));
  }
}
const sockets = [];
class WebSocket extends createRequire(`${process.env.LOAD_MODULES}/`)("ws") {
  constructor(...place) { super(...place); sockets.push(new Promise(resolve => this.addEventListener("close", resolve))); }
}
globalThis.k6 = {
  "k6/websockets": { WebSocket },
  "k6/metrics": { Counter: Metric, Rate: Metric, Trend: Metric },
  "k6/timers": { setTimeout, setInterval, clearTimeout, clearInterval },
};
globalThis.__ENV = { URL: process.env.URL, SESSION_MS: "2000", PUBLISH_EVERY_MS: "200", USERS: String(USERS) };

// k6's modules are in no folder that Node would look into.
const source = readFileSync(process.argv[2], "utf8").replace(/^import (\{.*?\}) from ("k6\/[a-z]+");/gm, "const $1 = globalThis.k6[$2];");
const folder = mkdtempSync(join(tmpdir(), "megasock-k6-"));
const file = join(folder, "script.mjs");
writeFileSync(file, source);
const script = await import(pathToFileURL(file));
rmSync(folder, { recursive: true });

for (const name of Object.keys(script.options.thresholds)) assert.ok(metrics.has(name), `a threshold of ${name}, which is no metric`);
for (globalThis.__VU = 1; globalThis.__VU <= USERS; globalThis.__VU++) script.default();
await Promise.all(sockets);

const values = name => metrics.get(name).values;
assert.deepEqual(values("megasock_errors"), []);
assert.deepEqual(values("megasock_sessions_well_ended"), Array(USERS).fill(1));
for (const name of ["welcome", "subscribe", "publish", "message"]) assert.ok(values(`megasock_${name}_ms`).length >= USERS, name);
console.log(`k6's script in Node: ${USERS} users, ${values("megasock_published").length} published, ${values("megasock_messages").length} messages`);
