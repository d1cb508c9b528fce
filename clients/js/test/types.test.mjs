// The declarations hold for a use of everything, and refuse what is wrong.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import * as module from "../megasock.js";

const here = new URL(".", import.meta.url);
const path = name => fileURLToPath(new URL(name, here));

test("a use of everything compiles, and each mistake marked in it is one", async () => {
  const tsc = `${process.env.CLIENT_MODULES}/node_modules/typescript/bin/tsc`;
  const flags = ["--noEmit", "--strict", "--target", "es2022", "--module", "nodenext", "--lib", "es2022,dom"];
  await promisify(execFile)(process.execPath, [tsc, ...flags, path("use.ts")]).catch(error => assert.fail(error.stdout || error));
});

test("what is declared is there, and the other way round", () => {
  const declarations = readFileSync(path("../megasock.d.ts"), "utf8");
  const values = [...declarations.matchAll(/^export (?:class|const|function) (\w+)/gm)].map(([, name]) => name);
  assert.deepEqual([...new Set(values)].sort(), Object.keys(module).sort());
  const [options] = declarations.match(/(?<=^export interface Options \{).*?(?=^\})/ms);
  const names = [...options.matchAll(/^ {2}(\w+)\?:/gm)].map(([, name]) => name);
  assert.deepEqual(names.sort(), Object.keys(module.DEFAULTS).sort());
  for (const [name, prototype] of [["Client", module.Client.prototype], ["Subscription", module.Subscription.prototype]]) {
    const [body] = declarations.match(new RegExp(`(?<=^export class ${name}.*\\{).*?(?=^\\})`, "ms"));
    for (const [, method] of body.matchAll(/^ {2}(\w+)(?:<.*?>)?\(/gm)) {
      if (method !== "constructor") assert.equal(typeof prototype[method], "function", method);
    }
  }
});
