// The figures of this second: /api/info, panel by panel.

const MINUTE_MS = 60_000;
const REASONS_SHOWN = 8;
const CORES_FEW = 6;
// With fewer, what the process needs anyway is most of what falls on each.
const CONNECTIONS_TELLING = 10_000;
const PARTS = { connections: "connections", memory: "memory", cores: "busiest CPU" };
const PATHS = { delivery: "delivery", message: "handling", heartbeat: "heartbeat", turn: "core turn" };
const STATES = { ready: "Ready", shedding: "Shedding", full: "Full", draining: "Draining" };
const SLOW = { dropped: "messages dropped", gaps: "gaps told", disconnected: "disconnected" };

// What was counted a minute ago, or as far back as this page goes.
const minute = {
  seen: [],
  keep(info) {
    const last = this.seen.at(-1);
    if (last && (info.now_ms < last.now_ms || info.uptime_s < last.uptime_s)) this.seen = [];
    this.seen.push(info);
    while (this.seen.length > 1 && this.seen[1].now_ms <= info.now_ms - MINUTE_MS) this.seen.shift();
  },
  growth(group, name) {
    const [first, last] = [this.seen[0], this.seen.at(-1)];
    return (last[group]?.[name] ?? 0) - (first[group]?.[name] ?? 0);
  },
  title() {
    const seconds = Math.round((this.seen.at(-1).now_ms - this.seen[0].now_ms) / 1000);
    return seconds >= MINUTE_MS / 1000 ? "last minute" : `last ${seconds}${THIN}s`;
  },
};

// A cell of the column "last minute".
function growthCell(group, name) {
  const grown = minute.growth(group, name);
  return make("span", grown > 0 ? { class: "grew" } : {}, asGrowth(grown));
}

function showNow(info) {
  minute.keep(info);
  skewMs = info.now_ms - Date.now();
  showState(info);
  showLoad(info);
  showConnections(info);
  showMemory(info);
  showTraffic(info);
  showLatency(info);
  showDrain(info);
  showCores(info.core ?? [], info.cpu ?? []);
  showCloses(info.disconnects ?? {});
  showFaults(info);
  showSlow(info.slow ?? {});
  showHub(info);
  for (const head of document.querySelectorAll("thead .minute")) show(head, minute.title());
}

function showState({ server_id, state, version, uptime_s, listen, cores, connections }) {
  show(at("server"), server_id);
  setState(state, STATES[state] ?? state);
  show(at("vitals"), `${version} · up ${asTime(uptime_s)} · ${listen} · ${several(cores, "core")}`);
  document.title = `${asShort(connections.active)} ${state} · ${server_id}`;
}

// Changed only when it changes, for it is read aloud then.
function setState(state, words) {
  at("state").dataset.state = state;
  show(at("state"), words);
}

function showLoad({ load, load_parts }) {
  const parts = Object.entries(load_parts).sort(([, one], [, other]) => other - one);
  show(at("load"), asPart(load));
  show(at("load-largest"), parts.length ? `largest: ${PARTS[parts[0][0]]}` : "");
  const order = Object.keys(PARTS).filter(name => name in load_parts);
  gauges(at("load-parts"), order.map(name => [PARTS[name], load_parts[name], asPart(load_parts[name])]));
}

function showConnections({ connections, rates }) {
  const part = connections.active / connections.max;
  show(at("active"), asCount(connections.active));
  show(at("active-of"), `of ${asCount(connections.max)}`);
  gauges(at("active-gauge"), [["of maximum", part, asPart(part)]]);
  define(at("comings"), [
    ["connects", asRate(rates.connects)],
    ["disconnects", asRate(rates.disconnects)],
    ["total", asCount(connections.total)],
    ["reconnections", asCount(connections.reconnections)],
  ]);
}

function showMemory({ memory, connections }) {
  const each = memory.per_connection_bytes / memory.per_connection_budget_bytes;
  const used = memory.used_bytes / memory.budget_bytes;
  const isTelling = connections.active >= CONNECTIONS_TELLING;
  show(at("per-connection"), connections.active ? asBytes(memory.per_connection_bytes) : UNKNOWN);
  show(at("per-connection-of"), `a connection, of ${asBytes(memory.per_connection_budget_bytes)}`);
  gauges(at("memory-gauges"), [
    ["per connection", isTelling ? each : 0, isTelling ? asPart(each) : "too few to say"],
    ["budget", used, asPart(used)],
  ]);
  define(at("memory-figures"), [
    ["used of budget", `${asBytes(memory.used_bytes)} of ${asBytes(memory.budget_bytes)}`],
    ["resident", asBytes(memory.rss_bytes)],
    ["pressure", memory.pressure ?? UNKNOWN],
  ]);
}

function showTraffic({ rates, totals }) {
  fill(at("traffic"), [
    ["messages", "messages", asRate(rates.messages_in), asRate(rates.messages_out)],
    ["bytes", "bytes", asByteRate(rates.bytes_in), asByteRate(rates.bytes_out)],
    ["messages total", "messages total", asCount(totals.messages_in), asCount(totals.messages_out)],
    ["bytes total", "bytes total", asBytes(totals.bytes_in), asBytes(totals.bytes_out)],
  ]);
}

function showLatency({ latency_us }) {
  fill(at("latency"), Object.entries(PATHS).map(([name, words]) => {
    const { count, p50, p99, p999 } = latency_us[name] ?? {};
    const quantiles = [p50, p99, p999].map(value => (count ? asMicroseconds(value) : UNKNOWN));
    return [name, words, ...quantiles, asShort(count)];
  }));
}

function showDrain({ drain, connections }) {
  show(at("drain-clients"), several(connections.active, "client"));
  at("draining").hidden = !drain;
  at("drain").disabled = Boolean(drain);
  if (!drain) return;
  const { clients, told, closed, seconds_left } = drain;
  show(at("drain-words"), `${asCount(closed)} of ${several(clients, "client")} closed, ${asCount(told)} told; at most `
    + `${asTime(seconds_left)} left, then the process ends.`);
  gauges(at("drain-progress"), [["closed", clients ? closed / clients : 1, asPart(clients ? closed / clients : 1), false]]);
}

// No turn takes 0: none was measured.
const asTurn = us => (us ? asMicroseconds(us) : UNKNOWN);

function showCores(cores, cpus) {
  const build = ({ core }) => make("li", {}, make("span", { class: "soft" }, String(core)), bar(`core ${core}`), make("span"),
    make("span", { class: "soft more" }), make("span", { class: "soft more" }));
  at("cores").className = cores.length <= CORES_FEW ? "few" : "";
  sync(at("cores"), cores, ({ core }) => core, build, (item, { busy, connections, turn_p99_us }) => {
    const [, busyBar, text, held, turn] = item.children;
    item.dataset.level = levelOf(busy);
    item.title = `${several(connections, "connection")}, p99 of a turn ${asTurn(turn_p99_us)}`;
    setBar(busyBar, busy, asPart(busy));
    show(text, asPart(busy));
    show(held, `${asShort(connections)} conn.`);
    show(turn, asTurn(turn_p99_us));
  });
  if (!cores.length || !cpus.length) return;
  const most = (list, by) => list.reduce((best, one) => (one[by] > best[by] ? one : best));
  const [busiest, slowest, fullest] = [most(cpus, "busy"), most(cores, "turn_p99_us"), most(cores, "connections")];
  show(at("cores-words"), `Busiest: CPU ${busiest.cpu}, ${asPart(busiest.busy)}. Longest turns: core ${slowest.core}, p99 `
    + `${asTurn(slowest.turn_p99_us)}. Most connections: core ${fullest.core}, ${asCount(fullest.connections)}.`);
}

function showCloses(disconnects) {
  const all = Object.values(disconnects).reduce((sum, count) => sum + count, 0);
  const reasons = Object.entries(disconnects).filter(([, count]) => count > 0).sort(([, one], [, other]) => other - one);
  fill(at("closes"), reasons.slice(0, REASONS_SHOWN).map(([reason, count]) =>
    [reason, reason, asCount(count), share(reason, count / all), growthCell("disconnects", reason)]), "None so far.");
  const rest = reasons.slice(REASONS_SHOWN);
  at("closes-rest").hidden = rest.length === 0;
  show(at("closes-rest"), `and ${several(rest.length, "more reason")}: ${rest.map(([reason, count]) => `${reason} ${asCount(count)}`).join(", ")}`);
}

function share(reason, part) {
  const element = make("span", { class: "share" }, bar(`share of ${reason}`), make("span", {}, asPart(part)));
  setBar(element.firstChild, part, asPart(part));
  return element;
}

function showFaults({ errors = {}, rate_limited = {} }) {
  const rows = [["errors", errors, "error"], ["rate_limited", rate_limited, "limit"]].flatMap(([group, counts, kind]) =>
    Object.entries(counts).filter(([, count]) => count > 0)
      .map(([name, count]) => [count, [group + name, `${kind} ${name}`, asCount(count), growthCell(group, name)]]));
  fill(at("faults"), rows.sort(([one], [other]) => other - one).map(([, row]) => row), "None so far.");
}

function showSlow(slow) {
  const part = slow.owed_bytes / slow.owed_budget_bytes;
  gauges(at("owed"), [["bytes owed", part, `${asBytes(slow.owed_bytes)} of ${asBytes(slow.owed_budget_bytes)}`]]);
  fill(at("slow"), Object.entries(SLOW).map(([name, words]) => [name, words, asCount(slow[name]), growthCell("slow", name)]));
}

function showHub({ hub = {}, logs = {} }) {
  define(at("hub"), [
    ["sessions", asCount(hub.sessions)],
    ["users", asCount(hub.users)],
    ["topics", asCount(hub.topics)],
    ["subscriptions", asCount(hub.subscriptions)],
    ["history", asBytes(hub.history_bytes)],
    ["deliveries", asCount(hub.deliveries)],
    ["log lines dropped", asCount(logs.dropped)],
    ["log lines suppressed", asCount(logs.suppressed)],
  ]);
}
