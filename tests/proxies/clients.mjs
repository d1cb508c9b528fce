// Those who come through a proxy: one who knocks and leaves, many who go on knocking, the JS client, and a visitor of the page.

import { execFileSync } from "node:child_process";
import { createRequire } from "node:module";
import { setTimeout as sleep } from "node:timers/promises";
import { connect } from "../../clients/js/megasock.js";
import { PATIENCE_MS } from "./servers.mjs";

const require = createRequire(`${process.env.PROXIES_MODULES}/`);
const WebSocket = require("ws");
const { chromium } = require("playwright-core");

// One handshake up to the welcome: the server's name and how long it took, or the status of the refusal. With `stay` the
// socket is kept open.
export function knock(url, { from, headers, protocols = [], stay = false, ca, patienceMs = PATIENCE_MS } = {}) {
  const began = performance.now();
  return new Promise(resolve => {
    const socket = new WebSocket(url, protocols, { localAddress: from, headers, ca, handshakeTimeout: patienceMs });
    const settle = outcome => {
      if (!stay || !outcome.serverId) socket.terminate();
      resolve({ ...outcome, tookMs: performance.now() - began, socket });
    };
    socket.on("message", text => settle({ serverId: JSON.parse(text).serverId }));
    socket.on("unexpected-response", (_, response) => settle({ status: response.statusCode }));
    socket.on("error", error => settle({ status: error.message }));
    socket.on("close", code => settle({ status: `closed with ${code}` }));
  });
}

// Knocks again and again until it is stopped, which returns all outcomes.
export function knocking(url, options = {}, everyMs = 20) {
  let stopped = false;
  const outcomes = [];
  const done = (async () => {
    for (; !stopped; await sleep(everyMs)) outcomes.push(await knock(url, options));
  })();
  return {
    outcomes,
    async stop() {
      stopped = true;
      await done;
      return outcomes;
    },
  };
}

// The JS client as an application uses it.
export const client = (url, options) => connect(url, { WebSocket, ...options });

// Resolves with the first value of this event that fits.
export function event(emitter, name, fits = () => true) {
  return new Promise((resolve, reject) => {
    const late = setTimeout(() => reject(new Error(`no such ${name}`)), PATIENCE_MS);
    const listener = value => {
      if (!fits(value)) return;
      clearTimeout(late);
      emitter.off(name, listener);
      resolve(value);
    };
    emitter.on(name, listener);
  });
}

export function launch() {
  const executablePath = execFileSync("sh", ["-c", "command -v chromium"], { encoding: "utf8" }).trim();
  // Chromium's sandbox does not work for root, and loopback is all it sees here.
  return chromium.launch({ executablePath, args: ["--no-sandbox"] });
}

// The public page, opened and connected; a person's actions on it.
export async function visit(browser, port) {
  const page = await browser.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  const faults = [];
  page.on("pageerror", error => faults.push(String(error)));
  await page.goto(`http://127.0.0.1:${port}/`);
  const card = page.getByRole("article", { name: "channel demo", exact: true });
  return {
    faults,
    is: words => page.getByRole("status").filter({ hasText: words }).waitFor(),
    shows: words => card.getByText(words, { exact: true }).waitFor(),
    async says(words) {
      await card.getByLabel("Message", { exact: true }).fill(words);
      await card.getByRole("button", { name: "Send" }).click();
    },
    leave: () => page.close(),
  };
}
