// Real servers that can be killed, hung, drained and started again on their port; and what both kinds of process here share.

import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:net";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";

export const PATIENCE_MS = 20_000;

// The first answer that is not undefined, null or false.
export async function eventually(what, ask, patienceMs = PATIENCE_MS) {
  for (const deadline = Date.now() + patienceMs; Date.now() < deadline; await sleep(10)) {
    const answer = await ask();
    if (answer !== undefined && answer !== null && answer !== false) return answer;
  }
  throw new Error(`not within ${patienceMs / 1000} s: ${what}`);
}

// Below the ports outgoing connections are given, so that none of them takes it while a server is away, and none of those
// that browsers refuse to speak to (https://fetch.spec.whatwg.org/#port-blocking).
const FIRST_EPHEMERAL = Number(readFileSync("/proc/sys/net/ipv4/ip_local_port_range", "utf8").split(/\s+/)[0]);
const given = new Set();

export async function freePort() {
  for (;;) {
    const port = 7000 + Math.floor(Math.random() * (Math.min(FIRST_EPHEMERAL, 10_000) - 7000));
    if (given.has(port)) continue;
    const probe = createServer();
    const free = await new Promise(resolve => {
      probe.once("error", () => resolve(false)).listen(port, "0.0.0.0", () => probe.close(() => resolve(true)));
    });
    if (!free) continue;
    given.add(port);
    return port;
  }
}

// All that run, servers and proxies: none outlives this process, whatever ends it.
const running = new Set();
process.on("exit", () => running.forEach(end => end()));
// A signal that nobody handles ends Node without the above.
for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"]) {
  process.once(signal, () => {
    console.error(`proxies: FAILED: ended by ${signal}`);
    process.exit(1);
  });
}

// Starts a program whose lines are kept; `said` grows. `lastSignal` ends it when this process ends before it.
export function start(lastSignal, command, ...args) {
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"] });
  const end = () => child.kill(lastSignal);
  running.add(end);
  child.once("exit", () => running.delete(end));
  const program = { child, said: [], exited: once(child, "exit") };
  for (const stream of [child.stdout, child.stderr]) {
    createInterface(stream).on("line", line => program.said.push(line));
  }
  return program;
}

const BINARY = process.env.PROXIES_SERVER;
// The admin listener has a fixed port by default, which only one of several servers can have.
const HAS_ADMIN = execFileSync(BINARY, ["serve", "--help"], { encoding: "utf8" }).includes("--admin-listen");

export class Server {
  static async start(id, ...flags) {
    const server = Object.assign(new Server(), { id, flags, port: await freePort() });
    await server.startAgain();
    return server;
  }

  // On its port. The kernel takes a killed process's rings apart after it has gone, and the listeners with them.
  async startAgain() {
    const place = ["--listen", `127.0.0.1:${this.port}`, "--server-id", this.id, ...(HAS_ADMIN ? ["--admin-listen", "off"] : [])];
    await eventually(`server ${this.id} listens`, async () => {
      this.program = start("SIGKILL", BINARY, "serve", "--reactors", "1", ...place, ...this.flags);
      const ended = this.program.exited.then(() => "ended");
      const says = words => this.program.said.some(line => line.includes(words));
      const outcome = await Promise.race([ended, eventually("it listens", () => says("listening on"))]);
      if (outcome !== "ended") return true;
      if (!says("already in use")) throw new Error(this.program.said.join("\n"));
    });
  }

  signal(name) { this.program.child.kill(name); }

  async kill() {
    this.signal("SIGKILL");
    await this.program.exited;
  }

  // Drains it; resolves once it has ended well.
  async stop() {
    if (this.program.child.exitCode !== null || this.program.child.signalCode !== null) return;
    this.signal("SIGTERM");
    const [status] = await this.program.exited;
    if (status !== 0) throw new Error(`server ${this.id} ended with ${status}: ${this.program.said.slice(-10).join("\n")}`);
  }
}
