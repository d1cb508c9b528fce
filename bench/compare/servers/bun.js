// Echo on Bun.serve (its core is uWebSockets). Usage: bun bun.js PORT MESSAGE_BYTES_MAX
const [port, messageBytesMax] = process.argv.slice(2).map(Number);

Bun.serve({
  hostname: "127.0.0.1",
  port,
  fetch(request, server) {
    if (server.upgrade(request)) return;
    return new Response("upgrade to WebSocket", { status: 426 });
  },
  websocket: {
    maxPayloadLength: messageBytesMax,
    // The default of 1 MiB would drop replies of that size instead of sending them later.
    backpressureLimit: 4 * messageBytesMax,
    closeOnBackpressureLimit: false,
    perMessageDeflate: false,
    idleTimeout: 0,
    message(socket, message) {
      socket.send(message);
    },
  },
});
