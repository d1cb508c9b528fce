// Fan-out on Bun.serve (its core is uWebSockets): a text message of one client goes to every client of its topic, the
// sender among them. Usage: bun bun_fanout.js PORT QUEUE_BYTES_MAX
const [port, queueBytesMax] = process.argv.slice(2).map(Number);

const server = Bun.serve({
  hostname: "127.0.0.1",
  port,
  fetch(request, server) {
    const topic = new URL(request.url).searchParams.get("channel") ?? "all";
    if (server.upgrade(request, { data: { topic } })) return;
    return new Response("upgrade to WebSocket", { status: 426 });
  },
  websocket: {
    // What a subscriber may have outstanding before a publish passes it by: the same for every peer of this row.
    backpressureLimit: queueBytesMax,
    closeOnBackpressureLimit: false,
    perMessageDeflate: false,
    idleTimeout: 0,
    open(socket) {
      socket.subscribe(socket.data.topic);
    },
    message(socket, message) {
      server.publish(socket.data.topic, message);
    },
  },
});
