// Fan-out on npm ws the way its documentation does it: a loop over the clients. A text message of one client goes to
// every client of its topic, the sender among them. Usage: node ws_fanout.mjs PORT, in a folder where `ws` resolves.
// ws has no limit on what it buffers for a slow reader.
import { createRequire } from "node:module";
import path from "node:path";

const { WebSocket, WebSocketServer } = createRequire(path.join(process.cwd(), "package.json"))("ws");
const [port] = process.argv.slice(2).map(Number);

const topics = new Map();
const server = new WebSocketServer({
  host: "127.0.0.1",
  port,
  perMessageDeflate: false,
  clientTracking: false,
  backlog: 4096,
});
server.on("connection", (socket, request) => {
  const name = new URL(request.url, "ws://localhost").searchParams.get("channel") ?? "all";
  const clients = topics.get(name) ?? topics.set(name, new Set()).get(name);
  clients.add(socket);
  socket.on("message", (message, isBinary) => {
    for (const client of clients) {
      if (client.readyState === WebSocket.OPEN) client.send(message, { binary: isBinary });
    }
  });
  socket.on("close", () => clients.delete(socket));
  socket.on("error", () => {}); // a reset by the driver is no reason to end the process
});
