// What stands in for time, chance and the network, so that every moment of a client's life can be chosen.

// Time that passes when it is told to.
export class FakeClock {
  #now = 0;
  #timers = new Map();
  #serial = 0;

  now = () => this.#now;

  setTimeout = (run, delayMs) => {
    if (!(delayMs >= 0)) throw new TypeError(`a timer of ${delayMs} ms`);
    this.#timers.set(++this.#serial, { run, at: this.#now + delayMs });
    return this.#serial;
  };

  clearTimeout = timer => this.#timers.delete(timer);

  // How long until each timer, soonest first.
  pending() { return [...this.#timers.values()].map(({ at }) => at - this.#now).sort((one, other) => one - other); }

  // Lets time pass, timer by timer, and what they set off settle.
  async pass(ms) {
    const until = this.#now + ms;
    await settle();
    for (;;) {
      const [timer, next] = [...this.#timers].reduce((best, entry) => (best && best[1].at <= entry[1].at ? best : entry), undefined) ?? [];
      if (!next || next.at > until) break;
      this.#timers.delete(timer);
      this.#now = Math.max(this.#now, next.at);
      next.run();
      await settle();
    }
    this.#now = until;
  }
}

// What was promised and can be done is done.
export const settle = () => new Promise(resolve => setImmediate(resolve));

// A WebSocket whose server is the test. Sockets appear in `network.sockets` in the order they are made.
export function fakeNetwork() {
  const network = { sockets: [] };
  network.WebSocket = class {
    readyState = 0;
    sent = [];

    constructor(url, protocols) {
      Object.assign(this, { url: new URL(url), protocols });
      network.sockets.push(this);
    }

    send(text) { this.sent.push(JSON.parse(text)); }

    close(code) {
      this.closedWith ??= code ?? "no code";
      this.readyState = 3;
    }

    // The server's side.

    push(...frames) { for (const frame of frames) this.onmessage({ data: JSON.stringify(frame) }); }

    welcome(fields = {}) {
      this.readyState = 1;
      this.push({ type: "welcome", connectionId: "0-0-0", serverId: "fake", pingInterval: 25_000, ...fields });
    }

    // The one command of this type that was sent and not looked at before.
    takes(type) {
      const at = this.sent.findIndex(frame => frame.type === type);
      if (at < 0) throw new Error(`no ${type} among ${JSON.stringify(this.sent)}`);
      return this.sent.splice(at, 1)[0];
    }

    // Answers a command.
    answer({ id }, type, fields = {}) { this.push({ type, id, ...fields }); }

    refuse({ id }, code) { this.push({ type: "error", id, code, error: `no: ${code}` }); }

    end(code = 1006, reason = "") {
      this.readyState = 3;
      this.onclose({ code, reason });
    }
  };
  return network;
}
