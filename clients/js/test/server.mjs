// The real server as a process that can be stopped and started again on its port, a proxy that cuts, and what
// clients tell.

import { execFile, spawn } from "node:child_process";
import { EventEmitter, once } from "node:events";
import { appendFileSync, writeFileSync } from "node:fs";
import { createServer, connect as connectTcp } from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";

const START_MS_MAX = 20_000;
const PATIENCE_MS = 20_000;

// Below the ports outgoing connections are given, so that none of them takes it while the server is away, and none of
// those that browsers refuse to speak to (https://fetch.spec.whatwg.org/#port-blocking).
async function freePort() {
  for (;;) {
    const port = 7000 + Math.floor(Math.random() * 3000);
    const probe = createServer();
    const free = await new Promise(resolve => {
      probe.once("error", () => resolve(false)).listen(port, "127.0.0.1", () => probe.close(() => resolve(true)));
    });
    if (free) return port;
  }
}

export class Server {
  // Started, with these flags, on a port of its own.
  static async start(...flags) {
    for (;;) {
      const server = Object.assign(new Server(), { port: await freePort(), flags });
      try {
        await server.start();
        return server;
      } catch (error) {
        if (!/already in use/.test(error.message)) throw error;
      }
    }
  }

  get url() { return `ws://127.0.0.1:${this.port}/ws`; }

  async start() {
    const command = ["serve", "--listen", `127.0.0.1:${this.port}`, "--admin-listen", "127.0.0.1:0", "--reactors", "2", "--server-id", "js", ...this.flags];
    this.process = spawn(process.env.CLIENT_SERVER, command, { stdio: ["ignore", "pipe", "pipe"] });
    this.exited = once(this.process, "exit");
    const said = (this.said = []);
    await new Promise((resolve, reject) => {
      const fail = () => reject(new Error(`the server did not start: ${said.join("\n")}`));
      const late = setTimeout(fail, START_MS_MAX);
      for (const stream of [this.process.stdout, this.process.stderr]) {
        createInterface(stream).on("line", line => {
          said.push(line);
          if (line.includes("listening on")) resolve(clearTimeout(late));
        });
      }
      this.exited.then(() => { clearTimeout(late); fail(); });
    });
  }

  // On the same port again. The kernel takes a ring apart after its process has gone, and the listener with it.
  async startAgain() {
    const deadline = Date.now() + START_MS_MAX;
    for (;;) {
      try {
        return await this.start();
      } catch (error) {
        if (!/already in use/.test(error.message) || Date.now() > deadline) throw error;
      }
    }
  }

  // Stopped as a service manager does it.
  async stop() {
    if (this.process.exitCode !== null) return;
    this.process.kill("SIGTERM");
    const [status] = await this.exited;
    if (status !== 0) throw new Error(`the server ended with ${status}: ${this.said.slice(-10).join("\n")}`);
  }
}

const said = async (...flags) => (await promisify(execFile)(process.env.CLIENT_SERVER, flags)).stdout;

// A configuration of these lines, with a key made for it; its path.
export async function configuredWithKey(folder, name, lines) {
  const file = join(folder, `${name}.toml`);
  writeFileSync(file, lines);
  appendFileSync(file, await said("token", "--new-key", join(folder, `${name}.secret`)));
  return file;
}

export const mintToken = async (config, user, expires, ...flags) =>
  (await said("token", "--config", config, "--user", user, "--expires", expires, ...flags)).trim();

// Stands between client and server, and cuts or goes silent when told. A text a client sends is an event,
// "up"; what its WebSocket answers to pings is none.
export class Proxy extends EventEmitter {
  static async before(server) {
    const proxy = Object.assign(new Proxy(), { pairs: new Set(), server, accepts: true, accepted: 0 });
    proxy.listener = createServer(near => proxy.#join(near)).listen(0, "127.0.0.1");
    await once(proxy.listener, "listening");
    return proxy;
  }

  get url() { return `ws://127.0.0.1:${this.listener.address().port}/ws`; }

  #join(near) {
    this.accepted++;
    if (!this.accepts) return near.destroy();
    const far = connectTcp(this.server.port, "127.0.0.1");
    const pair = { near, far };
    this.pairs.add(pair);
    near.pipe(far).pipe(near);
    near.on("data", bytes => bytes[0] === 0x81 && this.emit("up"));
    for (const socket of [near, far]) {
      socket.on("error", () => {}).on("close", () => {
        near.destroy();
        far.destroy();
        this.pairs.delete(pair);
      });
    }
  }

  // Ends every connection without a word of WebSocket.
  cut() { for (const { near, far } of this.pairs) [near, far].forEach(socket => socket.destroy()); }

  // From now on nothing gets through, yet nothing is closed.
  freeze() {
    for (const { near, far } of this.pairs) {
      for (const socket of [near, far]) {
        socket.unpipe();
        socket.pause();
      }
    }
  }

  close() {
    this.listener.close();
    this.cut();
  }
}

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

export const state = (client, wanted) => event(client, "state", ({ state }) => state === wanted);
