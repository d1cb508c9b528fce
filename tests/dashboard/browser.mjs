// Chromium, the pages of the dashboard in it, and the clients that give it something to show.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { createRequire } from "node:module";
import { connect as connectTcp } from "node:net";
import { Server } from "../../clients/js/test/server.mjs";

const { chromium } = createRequire(`${process.env.CLIENT_MODULES}/`)("playwright-core");
const PATIENCE_MS = 20_000;
// What Chromium itself says of an answer that is no success, or that never came.
const FAILED_LOAD = /^Failed to load resource/;

export function launch() {
  const executablePath = execFileSync("sh", ["-c", "command -v chromium"], { encoding: "utf8" }).trim();
  // Chromium's sandbox does not work for root, and loopback is all it sees here.
  return chromium.launch({ executablePath, args: ["--no-sandbox"] });
}

// The real server with an admin listener, which is at `admin`. Stopped with the test, after the pages that look at it: to
// them it would be one that no longer answers.
export async function serve(t, ...flags) {
  const server = Object.assign(await Server.start("--admin-listen", "127.0.0.1:0", ...flags), { visitors: [] });
  t?.after(async () => {
    for (const visitor of server.visitors) await visitor.close();
    await server.stop();
  });
  const [, address] = server.said.map(line => line.match(/^admin on (\S+)/)).find(Boolean);
  return Object.assign(server, { admin: `http://${address}`, adminAddress: address });
}

// A page on its dashboard. The test fails if anything goes wrong in it or its policy is broken.
export async function visit(t, browser, server, { mayFail = false, ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, ...options });
  server.visitors.push(context);
  const page = await context.newPage();
  const faults = [];
  page.on("pageerror", error => faults.push(String(error)));
  page.on("console", message => {
    if (message.type() === "error" && !(mayFail && FAILED_LOAD.test(message.text()))) faults.push(message.text());
  });
  page.setDefaultTimeout(PATIENCE_MS);
  await page.goto(server.admin);
  t.after(() => assert.deepEqual(faults, []));
  return page;
}

// Waits until an element's text is as wanted; fails with what it was last.
export async function shows(page, selector, wanted) {
  const fits = wanted instanceof RegExp ? text => wanted.test(text) : text => text === wanted;
  const deadline = Date.now() + PATIENCE_MS;
  for (;;) {
    const text = ((await page.locator(selector).first().textContent({ timeout: PATIENCE_MS })) ?? "").trim();
    if (fits(text)) return text;
    if (Date.now() > deadline) assert.fail(`${selector} shows ${JSON.stringify(text)}, not ${wanted}`);
    await page.waitForTimeout(100);
  }
}

// Whether the focus is on it, for the keyboard's way through the page.
export const isFocused = (page, selector) => page.locator(selector).evaluate(element => element === document.activeElement);

// One client of the channel protocol: commands with their replies, and how it ended.
export class Peer {
  static async open(url, user) {
    const peer = Object.assign(new Peer(), { serial: 0, waiting: new Map() });
    peer.socket = new WebSocket(user === undefined ? url : `${url}?user=${encodeURIComponent(user)}`);
    peer.ended = new Promise(resolve => {
      peer.socket.onclose = ({ code, reason }) => resolve({ code, reason });
    });
    peer.welcome = await new Promise((resolve, reject) => {
      peer.socket.onerror = () => reject(new Error("no connection"));
      peer.socket.onmessage = ({ data }) => peer.#take(JSON.parse(data), resolve);
    });
    return peer;
  }

  #take(frame, welcomed) {
    if (frame.type === "welcome") return welcomed(frame);
    this.waiting.get(frame.id)?.(frame);
    this.waiting.delete(frame.id);
  }

  ask(command) {
    const id = `c${++this.serial}`;
    const reply = new Promise(resolve => this.waiting.set(id, resolve));
    this.socket.send(JSON.stringify({ ...command, id }));
    return reply;
  }

  subscribe(channel) { return this.ask({ type: "subscribe", channel }); }
  publish(channel, payload) { return this.ask({ type: "publish", channel, data: payload }); }
  close() { this.socket.close(1000); }
}

// A client that is connected and never answers anything, a close least of all: a drain waits for it.
export async function openStubborn(server) {
  const socket = connectTcp(server.port, "127.0.0.1");
  socket.on("error", () => {});
  socket.write("GET /ws HTTP/1.1\r\nHost: here\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    + "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
  await once(socket, "data");
  return socket.resume();
}

export const open = (server, ...users) => Promise.all(users.map(user => Peer.open(server.url, user)));
