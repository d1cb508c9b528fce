// Echo on npm ws. Usage: node ws.mjs PORT MESSAGE_BYTES_MAX, in a folder where `ws` resolves.
// ws has no limit on what it buffers for a slow reader.
import { createRequire } from "node:module";
import path from "node:path";

const { WebSocketServer } = createRequire(path.join(process.cwd(), "package.json"))("ws");
const [port, maxPayload] = process.argv.slice(2).map(Number);

const server = new WebSocketServer({
  host: "127.0.0.1",
  port,
  maxPayload,
  perMessageDeflate: false,
  clientTracking: false,
  backlog: 4096,
});
server.on("connection", (socket) => {
  socket.on("message", (message, isBinary) => socket.send(message, { binary: isBinary }));
  socket.on("error", () => {}); // a reset by the driver is no reason to end the process
});
