// What must hold behind each proxy, checked in order; a line for each. tests/proxies/run starts it.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { client, event, knock, knocking, launch, visit } from "./clients.mjs";
import { Haproxy, Nginx } from "./proxies.mjs";
import { PATIENCE_MS, Server, eventually, freePort } from "./servers.mjs";

const KINDS = [Nginx, Haproxy];
const names = process.argv.slice(2);
const kinds = KINDS.filter(kind => names.length === 0 || names.includes(kind.title));
if (kinds.length === 0 || names.some(name => !KINDS.some(kind => kind.title === name))) {
  console.error(`proxies: no such proxy: ${names.join(" ")}; there are ${KINDS.map(kind => kind.title).join(" ")}`);
  process.exit(1);
}

let passed = 0;
// Prints what held, with what was measured.
async function check(kind, what, test) {
  let found;
  try {
    found = await test();
  } catch (error) {
    error.message = `${kind.title}: ${what}: ${error.message}`;
    throw error;
  }
  passed++;
  console.log(`${kind.title.padEnd(8)}ok  ${what}${found ? `: ${found}` : ""}`);
}

const seconds = ms => `${(ms / 1000).toFixed(2)} s`;
const tally = items => {
  const counts = new Map();
  for (const item of items) counts.set(item, (counts.get(item) ?? 0) + 1);
  return counts;
};
const allWelcomed = outcomes => {
  const refused = outcomes.filter(({ serverId }) => !serverId);
  assert.deepEqual(refused.map(({ status }) => status), [], `of ${outcomes.length} handshakes`);
};
const slowestMs = outcomes => Math.max(...outcomes.map(({ tookMs }) => tookMs));

// Three servers behind one proxy, all stopped at the end.
async function withServers(flags, test) {
  const servers = await Promise.all(["a", "b", "c"].map(id => Server.start(id, ...flags)));
  try {
    await test(servers);
  } finally {
    await Promise.all(servers.map(server => server.kill()));
  }
}

async function withProxy(kind, servers, also, test) {
  const proxy = await kind.start(servers, also);
  try {
    await test(proxy);
  } finally {
    await proxy.stop();
  }
}

// --- the parts

async function carries(kind, proxy, browser) {
  const ann = client(`${proxy.url}?user=ann&token=never-in-a-log`);
  await check(kind, "the JS client subscribes, publishes and gets what it published", async () => {
    const scores = ann.subscribe("scores");
    const { serverId } = await ann.opened();
    await scores.ready;
    const comes = event(scores, "message");
    const { id } = await ann.publish("scores", { home: 1 });
    assert.deepEqual((await comes).data, { home: 1 });
    return `message ${id}, by server ${serverId}`;
  });
  const visitor = await visit(browser, proxy.port);
  await check(kind, "the public page works in Chromium", async () => {
    await visitor.is("connected as");
    await visitor.says("hello through a proxy");
    await visitor.shows("hello through a proxy");
  });
  await check(kind, "handshakes are spread over the servers, and the backup gets none", async () => {
    const all = await Promise.all(Array.from({ length: 20 }, () => knock(proxy.url, { stay: true })));
    allWelcomed(all);
    const counts = tally(all.map(({ serverId }) => serverId));
    all.forEach(({ socket }) => socket.terminate());
    assert.ok(counts.get("a") >= 5 && counts.get("b") >= 5 && !counts.has("c"), JSON.stringify([...counts]));
    return `a ${counts.get("a")}, b ${counts.get("b")}`;
  });
  return { ann, visitor };
}

// One of the two is killed: who it had comes back on the other, and nobody who knocks meanwhile is refused.
async function survives(kind, proxy, servers, { ann, visitor }) {
  const { serverId } = ann.welcome;
  const [killed, left] = servers.slice(0, 2).sort(({ id }) => (id === serverId ? -1 : 1));
  const scores = ann.subscribe("scores");
  const gap = event(scores, "gap");
  const again = event(scores, "subscribed", ({ again }) => again);
  const knocks = knocking(proxy.url);
  let diedAt;
  await check(kind, "a server killed (SIGKILL) is taken out, and no handshake fails meanwhile", async () => {
    await eventually("some knocks before", () => knocks.outcomes.length >= 10);
    proxy.forget();
    diedAt = performance.now();
    killed.kill();
    await eventually("it is out", () => proxy.isOut(killed));
    const outMs = performance.now() - diedAt;
    const until = knocks.outcomes.length + 50;
    await eventually("knocks after", () => knocks.outcomes.length >= until);
    const outcomes = await knocks.stop();
    allWelcomed(outcomes);
    // Twice as long as its checks take when each is answered at once; nginx needs no longer than two handshakes.
    assert.ok(outMs < 3000, `out after ${seconds(outMs)}`);
    return `out after ${seconds(outMs)}; ${outcomes.length} handshakes, all welcomed, the slowest in ${slowestMs(outcomes).toFixed(0)} ms`;
  });
  await check(kind, "the JS client comes back on the other server and goes on receiving", async () => {
    assert.deepEqual(await gap, { reason: "not_recovered" });
    const { recovered } = await again;
    assert.equal(recovered, false);
    assert.equal(ann.welcome.serverId, left.id);
    const backMs = performance.now() - diedAt;
    const bob = client(`${proxy.url}?user=bob`);
    const comes = event(scores, "message", ({ data }) => data === "after");
    const { id } = await bob.publish("scores", "after");
    await comes;
    bob.close();
    return `within ${seconds(backMs)}; histories are a server's own: it is told a gap (not_recovered), a new epoch, and message ${id} next`;
  });
  await check(kind, "the public page comes back, and goes on", async () => {
    await visitor.is("connected as");
    await visitor.says("still here");
    await visitor.shows("still here");
    assert.deepEqual(visitor.faults, []);
  });
  await check(kind, "the backup serves while all others are away", async () => {
    await left.kill();
    const { serverId, status } = await eventually("a handshake", () => knock(proxy.url));
    assert.equal(serverId, "c", String(status));
    await eventually("the client is there too", () => ann.welcome?.serverId === "c");
  });
  await check(kind, "servers that are back get handshakes again, the backup none", async () => {
    const beganAt = performance.now();
    await Promise.all([killed, left].map(server => server.startAgain()));
    const reached = new Set();
    await eventually("both are in", async () => reached.add((await knock(proxy.url)).serverId).has("a") && reached.has("b"));
    const backMs = performance.now() - beganAt;
    const all = [];
    for (let count = 0; count < 20; count++) all.push(await knock(proxy.url));
    allWelcomed(all);
    assert.ok(all.every(({ serverId }) => serverId !== "c"), "the backup is left alone");
    return `both in after ${seconds(backMs)}`;
  });
}

// A server told to stop: nobody is refused, and its clients come back elsewhere at the times they were told.
async function drains(kind, proxy, [a, b]) {
  await check(kind, "a server that drains is taken out before its connections are closed, and no handshake fails", async () => {
    const all = Array.from({ length: 24 }, () => client(proxy.url));
    await Promise.all(all.map(each => each.opened()));
    const mine = all.filter(({ welcome }) => welcome.serverId === "a");
    assert.ok(mine.length >= 6, `${mine.length} of 24 on a`);
    const hints = mine.map(each => event(each, "shutdown"));
    let closed = 0;
    const back = mine.map(each => {
      each.on("state", ({ code }) => { closed += code === 1012 ? 1 : 0; });
      return event(each, "state", ({ state, welcome }) => state === "open" && welcome.serverId !== "a");
    });
    proxy.forget();
    const knocks = knocking(proxy.url);
    const toldAt = performance.now();
    const ended = a.stop();
    await eventually("it is out", () => proxy.isOut(a));
    const outMs = performance.now() - toldAt;
    const closedThen = closed;
    assert.ok(closedThen < mine.length / 2, `${closedThen} of ${mine.length} closed after ${seconds(outMs)}`);
    assert.ok((await Promise.all(hints)).every(({ reconnectDelayMs }) => reconnectDelayMs >= 0));
    await ended;
    const endedMs = performance.now() - toldAt;
    await Promise.all(back);
    const outcomes = await knocks.stop();
    allWelcomed(outcomes);
    assert.ok(!outcomes.slice(5).some(({ serverId }) => serverId === "a"), "no newcomer is let into a server that stops");
    assert.ok(all.every(({ welcome }) => welcome?.serverId === b.id), "all are on the other");
    all.forEach(each => each.close());
    return `out after ${seconds(outMs)}, when ${closedThen} of its ${mine.length} connections were closed; the last after ` +
      `${seconds(endedMs)}; ${outcomes.length} handshakes, all welcomed`;
  });
  await a.startAgain();
}

// Whose address counts. Each of the three servers takes two connections of an address, and the third is the backup.
async function seesAddresses(kind, also, flags, how) {
  const limits = ["--production", "on", "--anonymous", "on", "--origins", "http://localhost", "--max-connections-per-address", "2"];
  await withServers([...limits, ...flags], servers => withProxy(kind, servers, also, async proxy => {
    await check(kind, `servers see the client's own address, ${how}; one it makes up does not count`, async () => {
      const stay = true;
      const held = await Promise.all(Array.from({ length: 4 }, () => knock(proxy.url, { from: "127.0.0.2", stay })));
      allWelcomed(held);
      const made = { "X-Forwarded-For": "198.51.100.7", Forwarded: "for=198.51.100.7", "X-Real-IP": "198.51.100.7" };
      for (const headers of [{}, made]) {
        const refused = await knock(proxy.url, { from: "127.0.0.2", headers });
        assert.equal(refused.status, 429, `${refused.serverId} let in with ${JSON.stringify(headers)}`);
      }
      const other = await knock(proxy.url, { from: "127.0.0.3", stay });
      assert.ok(other.serverId, `another address: ${other.status}`);
      [...held, other].forEach(({ socket }) => socket.terminate());
      return "two each at a and b, then 429, with and without a forged header; another address is let in";
    });
  }));
}

// nginx takes a server for well again when a request to it has ended, and a tunnel does not end: until then one goes there each
// fail_timeout. A reload forgets.
async function returnsByReload(kind, proxy, [a]) {
  await check(kind, "a server that was out gets few tunnels while these last, and its share after a reload", async () => {
    proxy.forget();
    await a.kill();
    await eventually("it is out", async () => (await knock(proxy.url)) && proxy.isOut(a));
    await a.startAgain();
    const held = [];
    const hold = async () => held.push({ ...await knock(proxy.url, { stay: true }), atMs: performance.now() });
    const atA = () => held.filter(({ serverId }) => serverId === "a");
    for (const endMs = performance.now() + PATIENCE_MS; atA().length < 2 && performance.now() < endMs; await sleep(50)) await hold();
    const before = held.length;
    const apartMs = atA()[1].atMs - atA()[0].atMs;
    assert.ok(apartMs > 1500, `tunnels ${seconds(apartMs)} apart: nginx has learnt better, and docs/deploy.md need not say this`);
    proxy.reload();
    await eventually("its share", async () => {
      for (let count = 0; count < 10; count++) await hold();
      return held.slice(-10).filter(({ serverId }) => serverId === "a").length >= 3;
    });
    allWelcomed(held);
    held.forEach(({ socket }) => socket.terminate());
    return `2 of ${before} before, ${seconds(apartMs)} apart, ${held.slice(-10).filter(({ serverId }) => serverId === "a").length} of 10 after`;
  });
}

const SILENCE_S = 3;

// How long a tunnel may be silent, put in shorter: pings keep it, and a server that hangs does not.
async function boundsSilence(kind) {
  await withServers([...kind.trusted, "--ping-interval", "1s", "--pong-timeout", "1s"], servers =>
    withProxy(kind, servers, kind.silence(SILENCE_S), async proxy => {
      const [a] = servers;
      const held = await Promise.all(Array.from({ length: 8 }, () => knock(proxy.url, { stay: true })));
      allWelcomed(held);
      const isOpen = ({ socket }) => socket.readyState === socket.OPEN;
      await check(kind, "clients that only listen stay: the server's pings pass through", async () => {
        const began = performance.now();
        for (const each of held) {
          each.pings = 0;
          each.socket.on("ping", () => each.pings++);
        }
        await eventually("pings", () => held.every(({ pings }) => pings > 2 * SILENCE_S) || !held.every(isOpen));
        assert.ok(held.every(isOpen), "none was cut");
        return `${seconds(performance.now() - began)}, where ${SILENCE_S} s of silence are allowed`;
      });
      await check(kind, "tunnels to a server that hangs (SIGSTOP) are cut, and no others", async () => {
        const [lost, kept] = [held.filter(({ serverId }) => serverId === a.id), held.filter(({ serverId }) => serverId !== a.id)];
        assert.ok(lost.length > 0 && kept.length > 0, `${lost.length} on a, ${kept.length} elsewhere`);
        const hungAt = performance.now();
        a.signal("SIGSTOP");
        await eventually("they are cut", () => !lost.some(isOpen));
        const cutMs = performance.now() - hungAt;
        assert.ok(kept.every(isOpen), "the others stay");
        a.signal("SIGCONT");
        return `${lost.length} of ${held.length} after ${seconds(cutMs)}`;
      });
      held.forEach(({ socket }) => socket.terminate());
      if (kind === Nginx) await findsHungSlowly(kind, proxy, servers);
    }));
}

// nginx knows a server that hangs by handshakes that waited for as long as a tunnel may be silent.
async function findsHungSlowly(kind, proxy, [a, b]) {
  await check(kind, "a server that hangs is taken out when handshakes have waited so long, though their clients give up sooner", async () => {
    proxy.forget();
    const hungAt = performance.now();
    a.signal("SIGSTOP");
    const knocks = Array.from({ length: 8 }, () => knocking(proxy.url, { patienceMs: 1000 }));
    await eventually("it is out", () => proxy.isOut(a));
    const outMs = performance.now() - hungAt;
    const outcomes = (await Promise.all(knocks.map(each => each.stop()))).flat();
    const welcomed = outcomes.filter(({ serverId }) => serverId);
    assert.ok(welcomed.every(({ serverId }) => serverId === b.id));
    assert.ok(outMs > SILENCE_S * 1000 - 100, `out after ${seconds(outMs)}: nginx looks by itself now, and its file need not say otherwise`);
    return `out after ${seconds(outMs)}; ${outcomes.length - welcomed.length} of ${outcomes.length} gave up`;
  });
  await check(kind, "then a handshake tries it now and again, and goes on to the other", async () => {
    const waited = await eventually("one that waited", async () => {
      const outcome = await knock(proxy.url);
      assert.equal(outcome.serverId, b.id, String(outcome.status));
      return outcome.tookMs > SILENCE_S * 1000 - 100 && outcome;
    });
    a.signal("SIGCONT");
    return `welcomed after ${seconds(waited.tookMs)}`;
  });
}

// HAProxy alone looks by itself, and so finds a server that is there and silent within seconds.
async function findsHung(kind, proxy, [a, b]) {
  await check(kind, "a server that hangs (SIGSTOP) is taken out, and handshakes that were sent to it go on to the other", async () => {
    await eventually("it is known to be up", () => proxy.isSettled(a));
    const knocks = Array.from({ length: 8 }, () => knocking(proxy.url));
    const hungAt = performance.now();
    a.signal("SIGSTOP");
    await eventually("it is out", () => proxy.isOut(a));
    const outMs = performance.now() - hungAt;
    const outcomes = (await Promise.all(knocks.map(each => each.stop()))).flat();
    a.signal("SIGCONT");
    allWelcomed(outcomes);
    assert.ok(outcomes.at(-1).serverId === b.id);
    assert.ok(outMs < 5000, `out after ${seconds(outMs)}`);
    return `out after ${seconds(outMs)}; ${outcomes.length} handshakes, all welcomed, the slowest in ${seconds(slowestMs(outcomes))}`;
  });
}

const TOKENS = Array.from({ length: 60 }, (_, at) => `t${at}.part-${at * 7919}.end_${at}`);
const byQuery = (proxy, token) => knock(`${proxy.url}?token=${token}`);
const byProtocol = (proxy, token) => knock(proxy.url, { protocols: ["megasock", `token.${token}`] });

async function homes(proxy, ask, keys) {
  const outcomes = [];
  for (const key of keys) outcomes.push(await ask(proxy, key));
  allWelcomed(outcomes);
  return outcomes.map(({ serverId }) => serverId);
}

async function sticks(kind, servers) {
  await withProxy(kind, servers, kind.byAddress, async proxy => {
    const addresses = Array.from({ length: 20 }, (_, at) => `127.0.${at + 1}.1`);
    const ask = (proxy, from) => knock(proxy.url, { from });
    await check(kind, "by address: each stays with its server", async () => {
      const first = await homes(proxy, ask, addresses);
      assert.deepEqual(await homes(proxy, ask, addresses), first);
      assert.ok(tally(first).size >= 2, "they are spread");
      return [...tally(first)].sort().map(([id, count]) => `${id} ${count}`).join(", ");
    });
  });
  await withProxy(kind, servers, kind.byToken, async proxy => {
    let first;
    await check(kind, "by token: each stays with its server, in the address as in the subprotocol", async () => {
      first = await homes(proxy, byQuery, TOKENS);
      assert.deepEqual(await homes(proxy, byProtocol, TOKENS), first);
      assert.equal(tally(first).size, 3, "all servers have some");
      return [...tally(first)].sort().map(([id, count]) => `${id} ${count}`).join(", ");
    });
    await check(kind, "by token: a server goes and comes back, and only its tokens move", async () => {
      const [, , c] = servers;
      proxy.forget();
      await c.kill();
      await eventually("it is out", async () => {
        await byQuery(proxy, TOKENS[first.indexOf("c")]);
        return proxy.isOut(c);
      });
      const without = await homes(proxy, byQuery, TOKENS);
      const stayed = first.filter((id, at) => without[at] === id).length;
      assert.ok(without.every((id, at) => id !== "c" && (first[at] === "c" || id === first[at])), `${stayed} stayed`);
      await c.startAgain();
      await eventually("all are where they were", async () => {
        const again = await homes(proxy, byQuery, TOKENS);
        return again.every((id, at) => id === first[at]);
      });
      return `${stayed} of ${TOKENS.length} stayed, its ${TOKENS.length - stayed} moved and came back`;
    });
  });
}

async function speaksTls(kind, servers) {
  const folder = mkdtempSync(join(tmpdir(), "megasock-tls-"));
  const [certificate, key, both] = ["certificate", "key", "both"].map(name => join(folder, `${name}.pem`));
  const made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=localhost",
    "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate];
  execFileSync("openssl", made, { stdio: "ignore" });
  const ca = readFileSync(certificate);
  writeFileSync(both, Buffer.concat([ca, readFileSync(key)]));
  const port = await freePort();
  await withProxy(kind, servers, kind.withTls(port, { certificate, key, both }), async () => {
    await check(kind, "with its lines for TLS switched on: wss", async () => {
      const { serverId, status } = await knock(`wss://localhost:${port}/ws`, { ca });
      assert.ok(serverId, String(status));
    });
  });
  rmSync(folder, { recursive: true });
}

async function keepsSecrets(kind, proxy) {
  await check(kind, "no token stands in the access log", async () => {
    await eventually("the log", () => proxy.log().includes("/ws"));
    assert.ok(!proxy.log().includes("never-in-a-log"));
  });
}

// --- all of it

const browser = await launch();
try {
  for (const kind of kinds) {
    // Slow enough for a drain to be watched; its clients have another server to go to.
    await withServers([...kind.trusted, "--reconnect-rate", "3/s", "--restart-time", "off"], async servers => {
      await withProxy(kind, servers, [], async proxy => {
        const people = await carries(kind, proxy, browser);
        await survives(kind, proxy, servers, people);
        people.ann.close();
        await people.visitor.leave();
        await drains(kind, proxy, servers);
        await keepsSecrets(kind, proxy);
      });
      await speaksTls(kind, servers);
      await sticks(kind, servers);
      const own = kind === Nginx ? returnsByReload : findsHung;
      await withProxy(kind, servers, [], proxy => own(kind, proxy, servers));
    });
    await boundsSilence(kind);
    await seesAddresses(kind, [], kind.trusted, kind === Haproxy ? "from PROXY" : "from X-Forwarded-For");
    if (kind === Haproxy) await seesAddresses(kind, kind.byHeader, Nginx.trusted, "from X-Forwarded-For");
  }
} finally {
  await browser.close();
}
console.log(`proxies (${kinds.map(kind => `${kind.title} ${kind.version()}`).join(", ")}): ${passed} checks passed`);
