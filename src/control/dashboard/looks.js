// Looking things up: the channels with most subscribers, and one connection, user or channel by its name.

const CHANNELS_SHOWN = 10;
const CHANNELS_EVERY_MS = 5000;
// So many times as long as an answer took is nothing asked.
const CHANNELS_PAUSE = 20;
const CHANNELS_LOOKED_AT = 1000;
const PRESENT_SHOWN = 50;
const CONNECTIONS_SHOWN = 100;
const HINTS = { connection: "id, as in the welcome", user: "user name", channel: "name; a room as room:name" };

// When the list of channels is asked for again; not while it is being asked for.
let channelsDueMs = 0;
// Counts look-ups, so that an answer that comes after a later question is not shown.
let looks = 0;

// Asks for the list of top channels when it is due. A server with so many that it takes long is asked less often.
async function refreshChannels() {
  const begun = Date.now();
  if (begun < channelsDueMs) return;
  channelsDueMs = Infinity;
  try {
    const prefix = at("prefix").value;
    const answer = await ask("/api/channels", { prefix, limit: CHANNELS_SHOWN });
    if (prefix === at("prefix").value) showChannels(answer, prefix);
  } finally {
    if (channelsDueMs) channelsDueMs = Date.now() + Math.max(CHANNELS_EVERY_MS, CHANNELS_PAUSE * (Date.now() - begun));
  }
}

function showChannels({ channels, total }, prefix) {
  const rows = channels.map(({ channel, subscribers, last_id }) =>
    [channel, () => lookButton("channel", channel), asCount(subscribers), asCount(last_id)]);
  fill(at("channels"), rows, prefix ? "None begins so." : "None so far.");
  show(at("channels-words"), channels.length < total ? `${asCount(channels.length)} of ${asCount(total)}, by subscribers` : "by subscribers");
}

function lookButton(kind, name) {
  return make("button", { type: "button", class: "link", onclick: () => lookUp(kind, name) }, name);
}

// Looks one up and shows it; as if it had been typed.
async function lookUp(kind, name) {
  at("look-kind").value = kind;
  at("look-name").value = name;
  at("look-name").placeholder = HINTS[kind];
  const look = ++looks;
  let found;
  try {
    found = await LOOKS[kind](name);
  } catch (error) {
    found = [make("p", { class: "problem" }, faultOf(error, `There is no such ${kind} (any more).`))];
  }
  if (look !== looks) return;
  const hadFocus = at("found").contains(document.activeElement);
  at("found").replaceChildren(make("div", {}, ...found));
  const first = at("found").querySelector("h3, p");
  show(at("found-words"), first.textContent);
  at("look").scrollIntoView({ block: "nearest" });
  // What had it is no longer there.
  if (hadFocus) {
    first.tabIndex = -1;
    first.focus();
  }
}

// What went wrong with a question, in words. What is no such fault is this page's own and goes on.
function faultOf(error, missing) {
  if (!(error instanceof Fault)) throw error;
  return error.status === 404 && missing ? missing : error.message;
}

const LOOKS = {
  async connection(id) {
    const { connections: [found] } = await ask("/api/connections", { connectionId: id });
    if (!found) return [make("p", { class: "problem" }, "There is no such connection (any more).")];
    return [
      title("Connection ", id, make("button", { type: "button", onclick: () => askDisconnect({ connectionId: id }, 1) }, "Disconnect…")),
      facts([
        ["user", found.userId == null ? "anonymous" : lookButton("user", found.userId)],
        ["address", found.ip ?? UNKNOWN],
        ["core", String(found.core)],
        ["connected", `${asMoment(found.connectedAt)} (${ago(found.connectedAt)})`],
        ["last heard", ago(found.lastActivity)],
        ["waits to be sent", asBytes(found.queueBytes)],
        ["subscriptions", asCount(found.subscriptionCount)],
      ]),
      names("Subscribed to", "channel", found.subscriptions, found.subscriptionCount),
    ];
  },

  async user(userId) {
    const { connections, total } = await ask("/api/connections", { userId, limit: CONNECTIONS_SHOWN });
    if (!connections.length) return [make("p", {}, "This user has no connection here.")];
    const all = make("button", { type: "button", onclick: () => askDisconnect({ userId }, total) }, "Disconnect all…");
    const rows = connections.map(({ connectionId, ip, core, connectedAt, lastActivity, subscriptionCount, queueBytes }) => make("tr", {},
      make("th", { scope: "row" }, lookButton("connection", connectionId)),
      ...[ip ?? UNKNOWN, String(core), ago(connectedAt), ago(lastActivity), asCount(subscriptionCount), asBytes(queueBytes)]
        .map(text => make("td", {}, text))));
    const heads = ["connection", "address", "core", "connected", "last heard", "subscriptions", "waits"];
    return [
      title("User ", userId, all),
      make("p", { class: "soft" }, several(total, "connection"), connections.length < total ? `, the first ${asCount(connections.length)}:` : ""),
      make("div", { class: "scroll" }, make("table", { class: "listing" },
        make("thead", {}, make("tr", {}, ...heads.map(head => make("th", { scope: "col" }, head)))), make("tbody", {}, ...rows))),
    ];
  },

  async channel(name) {
    const { channels, total } = await ask("/api/channels", { prefix: name, limit: CHANNELS_LOOKED_AT });
    const found = channels.find(({ channel }) => channel === name);
    if (!found && total <= channels.length) return [make("p", { class: "problem" }, "There is no such channel (any more).")];
    const present = make("div");
    await showPresent(present, name).catch(error => present.append(make("p", { class: "soft" }, faultOf(error))));
    return [
      title(name.startsWith(ROOM) ? "Room " : "Channel ", name),
      facts([
        ["subscribers", found ? asCount(found.subscribers) : `${asCount(total)} channels begin so, and it is not among the first ${asCount(channels.length)}`],
        ["last id", asCount(found?.last_id)],
      ]),
      present,
    ];
  },
};

// Adds the next users present, and a button for more while there are. Whoever pressed that goes on from where it was.
async function showPresent(place, topic, after, shown = 0) {
  const { users, total } = await ask("/api/presence", { ...named(topic), limit: PRESENT_SHOWN, after });
  const pressed = place.querySelector(".more");
  const hadFocus = pressed !== null && pressed === document.activeElement;
  pressed?.remove();
  if (!shown) place.append(make("h3", {}, `Present: ${several(total, "user")}`), make("ul", { class: "names" }));
  const lines = users.map(({ userId, connections }) => make("li", {}, lookButton("user", userId), connections > 1 ? ` × ${asCount(connections)}` : ""));
  place.querySelector(".names").append(...lines);
  const last = users.at(-1)?.userId;
  const more = () => showPresent(place, topic, last, shown + users.length).catch(error => notice(faultOf(error)));
  if (last && shown + users.length < total) place.append(make("button", { type: "button", class: "more", onclick: more }, `More of ${asCount(total)}`));
  if (hadFocus) (place.querySelector(".more") ?? lines[0]?.querySelector("button"))?.focus();
}

const title = (kind, name, ...actions) => make("div", { class: "row" }, make("h3", { class: "name" }, kind, make("code", {}, name)), ...actions);

function facts(pairs) {
  return make("dl", { class: "figures" }, ...pairs.flatMap(([term, value]) => [make("dt", {}, term), make("dd", {}, value)]));
}

function names(words, kind, list, total) {
  if (!list.length) return "";
  const heading = list.length < total ? `${words} (the first ${asCount(list.length)})` : words;
  return make("div", {}, make("h3", {}, heading),
    make("ul", { class: "names" }, ...list.map(name => make("li", {}, lookButton(kind, name)))));
}

function setUpLooks() {
  at("look-form").addEventListener("submit", event => {
    event.preventDefault();
    lookUp(at("look-kind").value, at("look-name").value);
  });
  at("look-kind").addEventListener("change", () => { at("look-name").placeholder = HINTS[at("look-kind").value]; });
  at("prefix-form").addEventListener("submit", event => event.preventDefault());
  at("prefix").addEventListener("input", () => { channelsDueMs = 0; });
}
