// What a client of the image sees: the plain answers, an echo, a channel through the JS client, and its metrics.
//
//     node client.mjs ADDRESS ADMIN-ADDRESS

import assert from "node:assert/strict";
import { connect } from "../../clients/js/megasock.js";

const [address, admin] = process.argv.slice(2);
for (const path of ["health", "ready"]) assert.equal((await fetch(`http://${address}/${path}`)).status, 200, path);

const echo = new WebSocket(`ws://${address}/echo`);
const heard = new Promise((resolve, reject) => {
  echo.onmessage = ({ data }) => resolve(data);
  echo.onclose = ({ code }) => reject(new Error(`the echo closed with ${code}`));
});
echo.onopen = () => echo.send("é".repeat(30_000));
assert.equal(await heard, "é".repeat(30_000));
echo.close(1000);

const ann = connect(`ws://${address}/ws?user=ann`);
const scores = ann.subscribe("scores");
await scores.ready;
const told = new Promise(resolve => scores.once("message", resolve));
await ann.publish("scores", { home: 1 });
assert.deepEqual((await told).data, { home: 1 });
ann.close();

const metrics = await fetch(`http://${admin}/metrics`);
assert.equal(metrics.status, 200);
assert.match(await metrics.text(), /^ws_connections_total\{[^}]*\} 2$/m);
