// The examples of the README do what they say, and its tables are those of the code.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { CLOSE_CODES, DEFAULTS } from "../megasock.js";
import { FakeServer } from "./fake_server.mjs";
import { Server } from "./server.mjs";

const readme = readFileSync(new URL("../README.md", import.meta.url), "utf8");
const examples = [...readme.matchAll(/^```js\n(.*?)^```/gms)].map(([, code]) => code);
const place = `${process.env.CLIENT_MODULES}/readme`;

let server, issuer;
before(async () => {
  server = await Server.start();
  issuer = await FakeServer.start();
  issuer.on("connection", peer => peer.welcome({ userId: "ann" }));
  // Where the module is found by its name, as after an installation.
  rmSync(place, { recursive: true, force: true });
  mkdirSync(`${place}/node_modules`, { recursive: true });
  symlinkSync(fileURLToPath(new URL("..", import.meta.url)), `${place}/node_modules/megasock`);
});
after(() => {
  issuer.stop();
  return server.stop();
});

test("there are examples", () => assert.equal(examples.length, 4));

for (const [number, code] of examples.entries()) {
  test(`example ${number + 1} prints what it says`, async () => {
    const file = `${place}/example${number + 1}.mjs`;
    const here = code.replaceAll("ws://localhost:8080/ws", server.url).replaceAll("wss://chat.example.org/ws", issuer.url);
    assert.notEqual(here, code, "it connects to one of the two");
    writeFileSync(file, here);
    const { stdout } = await promisify(execFile)(process.execPath, [...process.execArgv.filter(flag => !flag.startsWith("--test")), file], { timeout: 20_000 });
    const promised = [...code.matchAll(/\/\/ prints: (.*)$/gm)].map(([, line]) => line);
    assert.ok(promised.length > 0);
    assert.deepEqual(stdout.trimEnd().split("\n").sort(), promised.sort());
  });
}

// Cells of a table's rows, by its head.
function rows(head) {
  const [, table] = readme.split(`\n${head}\n`);
  return table.split("\n\n")[0].split("\n").slice(1).map(row => row.split("|").slice(1, -1).map(cell => cell.trim()));
}

test("every option is there with its default", () => {
  const told = {};
  for (const [names, defaults] of rows("| option | default | |")) {
    const [keys, values] = [names.match(/\w+/g), defaults.split(", ")];
    keys.forEach((key, at) => { told[key] = values[at]; });
  }
  assert.deepEqual(Object.keys(told).sort(), Object.keys(DEFAULTS).sort());
  for (const [name, value] of Object.entries(DEFAULTS)) {
    if (["number", "string"].includes(typeof value)) assert.equal(told[name].replaceAll(/[`"]/g, ""), String(value), name);
  }
});

test("every close code that is not retried is there with its rule", () => {
  const told = {};
  for (const [codes, rule] of rows("| close code | rule |")) {
    for (const code of codes.match(/\b\d{4}\b/g) ?? []) told[code] = rule.match(/`(\w+)`/)[1];
  }
  assert.deepEqual(told, Object.fromEntries(Object.entries(CLOSE_CODES).filter(([, rule]) => rule !== "retry")));
});
