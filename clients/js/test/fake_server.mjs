// A WebSocket server of the test's own, on a real port: for what a server says that the real one says seldom, and for
// what exactly a client sends before and while it connects. Text frames below 64 KiB; nothing is checked.

import { createHash } from "node:crypto";
import { EventEmitter, once } from "node:events";
import { createServer } from "node:http";

const GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"; // RFC 6455 §1.3
const [TEXT, CLOSE] = [1, 8];

// Emits "connection" with a Peer.
export class FakeServer extends EventEmitter {
  static async start() {
    const server = new FakeServer();
    server.http = createServer().listen(0, "127.0.0.1");
    server.http.on("upgrade", (request, socket) => server.#upgrade(request, socket));
    await once(server.http, "listening");
    server.url = `ws://127.0.0.1:${server.http.address().port}/ws`;
    return server;
  }

  #peers = new Set();
  refusal = null; // a status line instead of an upgrade

  #upgrade(request, socket) {
    this.#peers.add(socket.on("close", () => this.#peers.delete(socket)).on("error", () => {}));
    if (this.refusal) {
      this.emit("refused");
      return socket.end(`HTTP/1.1 ${this.refusal}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n`);
    }
    const accept = createHash("sha1").update(request.headers["sec-websocket-key"] + GUID).digest("base64");
    const offered = (request.headers["sec-websocket-protocol"] ?? "").split(/, */).filter(Boolean);
    const selected = offered.includes("megasock") ? "Sec-WebSocket-Protocol: megasock\r\n" : "";
    socket.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n${selected}\r\n`);
    this.emit("connection", Object.assign(new Peer(socket), { offered, target: request.url, at: performance.now() }));
  }

  async peer() { return (await once(this, "connection"))[0]; }

  stop() {
    for (const socket of this.#peers) socket.destroy();
    this.http.closeAllConnections();
    this.http.close();
  }
}

// The server's end of one connection; emits "frame" with each object the client sends.
class Peer extends EventEmitter {
  #rest = Buffer.alloc(0);

  constructor(socket) {
    super();
    this.socket = socket;
    socket.on("data", bytes => this.#read(bytes));
  }

  #read(bytes) {
    this.#rest = Buffer.concat([this.#rest, bytes]);
    while (this.#rest.length >= 2) {
      const isLong = (this.#rest[1] & 127) === 126;
      const start = isLong ? 8 : 6;
      if (this.#rest.length < start) return;
      const end = start + (isLong ? this.#rest.readUInt16BE(2) : this.#rest[1] & 127);
      if (this.#rest.length < end) return;
      const mask = this.#rest.subarray(start - 4, start);
      const payload = this.#rest.subarray(start, end).map((byte, at) => byte ^ mask[at % 4]);
      const opcode = this.#rest[0] & 15;
      if (opcode === TEXT) this.emit("frame", JSON.parse(Buffer.from(payload).toString()));
      if (opcode === CLOSE) {
        this.#write(CLOSE, payload);
        this.socket.end();
      }
      this.#rest = this.#rest.subarray(end);
    }
  }

  #write(opcode, payload) {
    const head = payload.length < 126 ? [0x80 | opcode, payload.length] : [0x80 | opcode, 126, payload.length >> 8, payload.length & 255];
    this.socket.write(Buffer.concat([Buffer.from(head), payload]));
  }

  push(frame) { this.#write(TEXT, Buffer.from(JSON.stringify(frame))); }

  welcome(fields) { this.push({ type: "welcome", connectionId: "0-0-0", serverId: "fake", pingInterval: 25_000, ...fields }); }

  async takes(type) {
    const [frame] = await once(this, "frame");
    if (frame.type !== type) throw new Error(`${JSON.stringify(frame)} is no ${type}`);
    return frame;
  }

  end(code, reason) {
    this.#write(CLOSE, Buffer.concat([Buffer.from([code >> 8, code & 255]), Buffer.from(reason)]));
    this.socket.end();
  }
}
