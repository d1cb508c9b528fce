// Compiled, never run: see types.test.mjs.

import { Backoff, Client, CLOSE_CODES, connect, DEFAULTS, MegasockError, ServerError } from "../megasock.js";
import type { ClosingRule, Gap, Message, Position, State, Subscription } from "../megasock.js";

interface Score {
  home: number;
}

const client: Client = connect("wss://example.org/ws", {
  getToken: async ({ expiring }) => (expiring ? "new" : null),
  closeCodes: { 4999: "stop" },
  retriesMax: 5,
});

client
  .on("state", ({ state, previous, delayMs, error }) => {
    const states: State[] = [state, previous];
    console.log(states, (delayMs ?? 0) + 1, error?.message);
  })
  .once("direct", ({ fromUserId, data, ts }) => console.log(fromUserId?.length, data, ts + 1))
  .on("error", (error: Error) => console.log(error instanceof MegasockError && error.code));

const scores: Subscription<Score> = client.subscribe<Score>("scores", { since: { epoch: "e", lastId: 1 } });
scores.on("message", ({ id, data, userId }: Message<Score>) => console.log(id + data.home, userId?.length));
scores.on("gap", ({ from, to, reason }: Gap) => console.log((from ?? 0) + (to ?? 0), reason.length));
scores.on("subscribed", ({ recovered, position }) => console.log(recovered === true, position?.epoch));
scores.on("presence", ({ joined, left }) => console.log([...joined, ...left]));
scores.on("error", (error: ServerError) => console.log(error.code.length));

async function use(): Promise<void> {
  const welcome = await client.open().opened();
  const ready: Subscription<Score> = await scores.ready;
  const position: Position | null = ready.position;
  const { id } = await client.publish("scores", { home: 1 }, { echo: false });
  await client.send("lobby", "hi");
  const { connections } = await client.direct("bob", null);
  const { users, total } = await client.presence({ room: "lobby" }, { limit: 1, after: "ann" });
  const { messages } = await client.history<Score>({ channel: "scores" }, { limit: 1, sinceId: 2 });
  await client.join("lobby").leave();
  const rooms: string[] = await client.leaveAll();
  console.log(welcome.userId?.length, position?.lastId, id + connections + total, users[0]?.userId, messages[0]?.data.home, rooms);
  console.log(await client.command("ping"), client.room("lobby")?.active);
  client.close();
}

const rule: ClosingRule | undefined = CLOSE_CODES[1012];
const delayMs: number | undefined = new Backoff({ random: () => 0.5 }).next({ lastedMs: 1, hintMs: 2, slow: true });
console.log(rule, delayMs, DEFAULTS.queueMax + 1, use);

// @ts-expect-error there is no such option
connect("ws://x", { retries: 3 });
// @ts-expect-error nor such an event
client.on("message", () => {});
// @ts-expect-error a topic is one of the two
client.history("scores");
// @ts-expect-error the data is not a score
void scores.publish("three");
// @ts-expect-error a client makes them
void new Subscription();
