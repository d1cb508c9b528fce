// Pictures of a server with some clients that publish, come and go, and are not always right.
//
//     CLIENT_SERVER=path/to/megasock CLIENT_MODULES=folder-with-node_modules node under_load.mjs DIR

import { spawn } from "node:child_process";
import { once } from "node:events";
import { open, openStubborn, serve } from "./browser.mjs";

const CHANNELS = ["scores", "prices.eur", "prices.usd", "chat.de", "alerts"];
const CLIENTS = 300;
const TURN_MS = 25;
// Some of a curve is there before the first picture.
const WARM_MS = 75_000;

const [, , folder] = process.argv;
const server = await serve(null);
const peers = await open(server, ...Array.from({ length: CLIENTS }, (_, i) => `user-${i}`));
await Promise.all(peers.flatMap((peer, i) => CHANNELS.slice(i % CHANNELS.length).map(channel => peer.subscribe(channel))));
let turn = 0;
const life = setInterval(async () => {
  turn++;
  // As many publications a turn as a slow wave has them.
  const publications = Math.round(2 + 2 * Math.sin(turn / 300));
  for (let i = 0; i < publications; i++) peers[(turn + i) % 100].publish(CHANNELS[(turn + i) % CHANNELS.length], { turn });
  if (turn % 60 === 0) peers[turn % 100].socket.send("{");
  if (turn % 90 === 0) peers.pop().close();
  if (turn % 150 === 0) (await openStubborn(server)).destroy();
}, TURN_MS);
await new Promise(resolve => setTimeout(resolve, WARM_MS));
const pictures = spawn(process.execPath, [...process.execArgv, "pictures.mjs", server.admin, folder], { stdio: "inherit" });
const [status] = await once(pictures, "exit");
clearInterval(life);
for (const peer of peers) peer.close();
await server.stop();
process.exit(status);
