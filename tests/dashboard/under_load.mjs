// Pictures of a server with some clients that publish.
//
//     CLIENT_SERVER=path/to/megasock CLIENT_MODULES=folder-with-node_modules node under_load.mjs DIR

import { spawn } from "node:child_process";
import { once } from "node:events";
import { open, serve } from "./browser.mjs";

const CHANNELS = ["scores", "prices.eur", "prices.usd", "chat.de", "alerts"];
const CLIENTS = 200;
const PUBLISH_EVERY_MS = 20;

const [, , folder] = process.argv;
const server = await serve(null);
const peers = await open(server, ...Array.from({ length: CLIENTS }, (_, i) => `user-${i}`));
await Promise.all(peers.flatMap((peer, i) => CHANNELS.slice(i % CHANNELS.length).map(channel => peer.subscribe(channel))));
let turn = 0;
const publishing = setInterval(() => {
  turn++;
  peers[turn % 100].publish(CHANNELS[turn % CHANNELS.length], { turn });
  if (turn % 40 === 0) peers.pop().close();
}, PUBLISH_EVERY_MS);
const pictures = spawn(process.execPath, [...process.execArgv, "pictures.mjs", server.admin, folder], { stdio: "inherit" });
const [status] = await once(pictures, "exit");
clearInterval(publishing);
for (const peer of peers) peer.close();
await server.stop();
process.exit(status);
