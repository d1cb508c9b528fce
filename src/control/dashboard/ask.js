// The way to the server: the paths of its admin API, the key if it wants one, and what it answers.

const ANSWER_MS_MAX = 6000;
const KEY_ITEM = "megasock admin key";

// Why a question has not been answered as it was asked. Without a status the server has not answered at all.
class Fault extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

// The key, in the tab's own storage: gone with the tab, seen by no other.
const key = {
  get: () => sessionStorage.getItem(KEY_ITEM),
  use: text => sessionStorage.setItem(KEY_ITEM, text),
  forget: () => sessionStorage.removeItem(KEY_ITEM),
};

// Asks, with POST if there is a body. Fails with nothing but a Fault.
async function ask(path, query = {}, body) {
  const headers = key.get() ? { Authorization: `Bearer ${key.get()}` } : {};
  if (body) headers["Content-Type"] = "application/json";
  const asked = new URLSearchParams(Object.entries(query).filter(([, value]) => value !== undefined));
  const request = fetch(asked.size ? `${path}?${asked}` : path, {
    method: body ? "POST" : "GET",
    headers,
    body: body && JSON.stringify(body),
    cache: "no-store",
    credentials: "omit",
    redirect: "error",
    signal: AbortSignal.timeout(ANSWER_MS_MAX),
  });
  const answer = await request.catch(() => { throw new Fault("The server does not answer."); });
  const said = await answer.json().catch(() => { throw new Fault(`The server's answer (${answer.status}) is cut short.`); });
  if (!answer.ok) throw new Fault(said.error?.message ?? `HTTP ${answer.status}`, answer.status);
  return said;
}

const tell = (path, body) => ask(path, {}, body);

// A room's name as a query or body has it, else a channel's.
const ROOM = "room:";
const named = topic => (topic.startsWith(ROOM) ? { room: topic.slice(ROOM.length) } : { channel: topic });
