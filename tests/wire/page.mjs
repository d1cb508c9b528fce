// The page at `/` in Chromium: what a visitor does, and every command and reply its browser then sends and gets.
//
//     WIRE_MODULES=folder-with-node_modules node page.mjs ADDRESS ADDRESS-IN-PRODUCTION
//
// The page is found by what a visitor sees and hears of it: roles, labels and texts. Frames are those of the browser's own
// WebSocket. Where WIRE_SCREENSHOTS names a folder, how it looks in light and dark is left there.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createRequire } from "node:module";
import { expect, now, text } from "./expect.mjs";

const { chromium } = createRequire(`${process.env.WIRE_MODULES}/`)("playwright-core");
const [address, production] = process.argv.slice(2);
const PATIENCE_MS = 20_000;

// A person in front of the page.
class Visitor {
  constructor(page) {
    Object.assign(this, { page, received: [], faults: [], wake: () => {} });
    page.setDefaultTimeout(PATIENCE_MS);
    page.on("pageerror", error => this.faults.push(String(error)));
    page.on("requestfailed", request => this.faults.push(request.url()));
    page.on("request", request => new URL(request.url()).host === page.host || this.faults.push(`asked ${request.url()}`));
    page.on("websocket", socket => {
      socket.on("framereceived", ({ payload }) => { this.received.push(JSON.parse(payload)); this.wake(); });
    });
  }

  // Opens the page, and connects under a name of its own.
  async arrive(name) {
    await this.page.goto(`http://${this.page.host}/`);
    if (name === undefined) return this;
    await this.page.getByRole("button", { name: "Disconnect" }).click();
    await this.page.getByLabel("Name", { exact: true }).fill(name);
    await this.page.getByRole("button", { name: "Connect", exact: true }).click();
    await this.state(name ? `connected as ${name}` : "connected");
    return this;
  }

  state(words) { return this.page.getByRole("status").filter({ hasText: words }).waitFor(); }

  card(kind, name) { return new Card(this, this.page.getByRole("article", { name: `${kind} ${name}`, exact: true })); }

  async enter(kind, name) {
    await this.page.getByLabel("Kind").selectOption({ label: kind === "room" ? "Room" : "Channel" });
    await this.page.getByLabel("Name of the channel or room").fill(name);
    await this.page.getByRole("button", { name: "Subscribe" }).click();
    return this.card(kind, name);
  }

  async write(to, words) {
    const region = this.page.getByRole("region", { name: "Direct messages" });
    await region.getByLabel("To", { exact: true }).fill(to);
    await region.getByLabel("Direct message", { exact: true }).fill(words);
    await region.getByRole("button", { name: "Send" }).click();
  }

  async sendFrame(frame) {
    const region = this.page.getByRole("region", { name: "Frames" });
    await region.getByLabel("A frame to send").fill(frame);
    await region.getByRole("button", { name: "Send" }).click();
  }

  // The first frame of this type about this topic that was not looked at before; it has exactly these fields.
  async gets(wanted) {
    const same = frame => ["type", "channel", "room", "roomId"].every(key => !(key in wanted) || frame[key] === wanted[key]);
    const deadline = Date.now() + PATIENCE_MS;
    for (;;) {
      const at = this.received.findIndex(same);
      if (at >= 0) return expect(this.received.splice(at, 1)[0], wanted);
      assert.ok(Date.now() < deadline, `no ${wanted.type} came`);
      await new Promise(resolve => { this.wake = resolve; setTimeout(resolve, deadline - Date.now()).unref(); });
    }
  }
}

// A channel or a room on the page.
class Card {
  constructor(visitor, article) { Object.assign(this, { visitor, article }); }

  async say(words) {
    await this.article.getByLabel("Message", { exact: true }).fill(words);
    await this.article.getByRole("button", { name: "Send" }).click();
  }

  shows(words) { return this.article.getByLabel("Messages").getByText(words, { exact: true }).waitFor(); }

  showsUser(words) { return this.article.getByLabel("Users here").getByRole("button", { name: words, exact: true }).waitFor(); }

  lines() { return this.article.getByLabel("Messages").getByRole("listitem").allInnerTexts(); }

  press(button) { return this.article.getByRole("button", { name: button }).click(); }
}

class World {
  constructor(browser, scenario) {
    this.browser = browser;
    this.suffix = `-${scenario}-${process.hrtime.bigint().toString(36)}`;
    this.visitors = [];
  }

  name(name) { return name + this.suffix; }

  async visitor(options = {}, host = address) {
    const context = await this.browser.newContext({ viewport: { width: 1200, height: 900 }, ...options });
    const page = Object.assign(await context.newPage(), { host });
    this.visitors.push(new Visitor(page));
    return this.visitors.at(-1);
  }

  async named(name, options) { return (await this.visitor(options)).arrive(this.name(name)); }
}

const id = Number.isInteger;

const scenarios = {
  async aNewcomerIsInAtOnce(world) {
    const visitor = await (await world.visitor()).arrive();
    await visitor.state(/^connected as guest-\d+, [\d.]+ ms$/);
    const { userId } = await visitor.gets({ type: "welcome", connectionId: text, userId: text, serverId: "wire", pingInterval: 25000 });
    await visitor.card("room", "lobby").showsUser(userId);
    await visitor.card("channel", "demo").say("first words");
    await visitor.card("channel", "demo").shows("first words");
    const frames = await visitor.page.getByLabel("Frames sent and received").innerText();
    for (const part of ["→", '{"type":"publish"', "←", '{"type":"published"', '{"type":"message"']) assert.ok(frames.includes(part), part);
    assert.ok(!frames.includes('"pong"'));
  },

  async channels(world) {
    const [ann, bob, channel] = [await world.named("ann"), await world.named("bob"), world.name("scores")];
    const cards = [await ann.enter("channel", channel), await bob.enter("channel", channel)];
    for (const visitor of [ann, bob]) {
      await visitor.gets({ type: "subscribed", id, channel, epoch: text, last_id: 0, recovered: false });
    }
    await cards[0].say("<img src=x onerror=alert(1)>");
    await cards[0].say('{"home": [1, 2]}');
    for (const last_id of [1, 2]) await ann.gets({ type: "published", id, channel, last_id });
    const message = { type: "message", channel, userId: world.name("ann"), ts: now };
    for (const [at, visitor] of [ann, bob].entries()) {
      await visitor.gets({ ...message, id: 1, data: "<img src=x onerror=alert(1)>" });
      await visitor.gets({ ...message, id: 2, data: { home: [1, 2] } });
      await cards[at].shows("<img src=x onerror=alert(1)>");
      await cards[at].shows('{"home":[1,2]}');
      for (const name of ["ann", "bob"]) {
        await cards[at].press("Who is here");
        await cards[at].showsUser(world.name(name));
      }
    }
    await cards[1].press("Leave");
    await bob.gets({ type: "unsubscribed", id, channel });
    await cards[1].article.waitFor({ state: "detached" });
    await cards[0].press("Who is here");
    await cards[0].article.getByRole("button", { name: world.name("bob") }).waitFor({ state: "detached" });
    await ann.sendFrame(JSON.stringify({ type: "presence", id: "p", channel: `${channel}?`, limit: 5 }));
    await ann.gets({ type: "presence", id: "p", channel: `${channel}?`, users: [], total: 0 });
  },

  async roomsAndDirectMessages(world) {
    const [ann, bob, room] = [await world.named("ann"), await world.named("bob"), world.name("den")];
    const cards = [await ann.enter("room", room), await bob.enter("room", room)];
    await ann.gets({ type: "joined", id, room, members: 1, epoch: text, last_id: 0, recovered: false });
    await bob.gets({ type: "joined", id, room, members: 2, epoch: text, last_id: 0, recovered: false });
    await cards[0].showsUser(world.name("bob"));
    await cards[0].shows(`${world.name("bob")} joined`);
    await ann.gets({ type: "user_joined", roomId: room, userId: world.name("bob") });
    await cards[1].say("hi all");
    await bob.gets({ type: "sent", id });
    await ann.gets({ type: "room_message", roomId: room, id: 1, userId: world.name("bob"), payload: "hi all", timestamp: now,
      serverId: "wire" });
    for (const card of cards) await card.shows("hi all");
    // A name is where a direct message begins.
    await cards[0].article.getByRole("button", { name: world.name("bob") }).click();
    assert.equal(await ann.page.getByLabel("To", { exact: true }).inputValue(), world.name("bob"));
    await ann.write(world.name("bob"), "psst");
    await ann.gets({ type: "sent", id, connections: 1 });
    await bob.gets({ type: "direct_message", fromUserId: world.name("ann"), payload: "psst", timestamp: now });
    await bob.page.getByRole("region", { name: "Direct messages" }).getByText("psst", { exact: true }).waitFor();
    await cards[1].press("Leave");
    await bob.gets({ type: "left", id, room });
    await cards[0].shows(`${world.name("bob")} left`);
    await cards[0].article.getByRole("button", { name: world.name("bob") }).waitFor({ state: "detached" });
  },

  async theRestByHand(world) {
    const [ann, channel] = [await world.named("ann"), world.name("hand")];
    const card = await ann.enter("channel", channel);
    await card.say("kept");
    await card.shows("kept");
    await ann.sendFrame(JSON.stringify({ type: "history", id: "h", channel, since_id: 0 }));
    await ann.gets({ type: "history", id: "h", channel, epoch: text, last_id: 1,
      messages: [{ id: 1, data: "kept", userId: world.name("ann"), ts: now }] });
    await ann.sendFrame('{"type":"ping","id":"\u0041"}');
    await ann.sendFrame('{"type":"leave_all","id":-1}');
    await ann.gets({ type: "left", id: -1, rooms: ["lobby"] });
    await ann.sendFrame('{"type":"refresh","id":1.5,"token":"x"}');
    await ann.gets({ type: "error", id: 1.5, code: "bad_request", error: text });
    await ann.sendFrame("nope");
    await ann.gets({ type: "error", code: "invalid_json", error: "Invalid JSON" });
    await ann.page.getByLabel("pings too").check();
    await ann.sendFrame('{"type":"ping","id":"seen"}');
    await ann.page.getByLabel("Frames sent and received").getByText('{"type":"pong","id":"seen"').waitFor();
    await card.say("still here");
    await card.shows("still here");
  },

  async aCutConnectionIsMadeUpFor(world) {
    const [ann, bob] = [await world.named("ann"), await world.named("bob")];
    const [kept, short] = [world.name("kept"), world.name("short:kept")];
    const [mine, shorts] = [await bob.enter("channel", kept), await bob.enter("channel", short)];
    const [hers, herShorts] = [await ann.enter("channel", kept), await ann.enter("channel", short)];
    for (const card of [hers, herShorts]) await card.say("before");
    for (const card of [mine, shorts]) await card.shows("before");
    await bob.page.getByRole("button", { name: "Cut for 5 s" }).click();
    await bob.state("again in");
    for (const words of ["one", "two", "three", "four"]) {
      for (const card of [hers, herShorts]) {
        await card.say(words);
        await card.shows(words);
      }
    }
    await mine.shows("back, with the 4 missed meanwhile");
    await shorts.shows("back, but messages 2 to 5 are lost: too old to be kept");
    for (const card of [hers, herShorts]) await card.say("after");
    for (const card of [mine, shorts]) await card.shows("after");
    const said = lines => lines.map(line => line.split("\n")[1]).filter(Boolean);
    assert.deepEqual(said(await mine.lines()), ["before", "one", "two", "three", "four", "after"]);
    assert.deepEqual(said(await shorts.lines()), ["before", "after"]);
  },

  async aConnectionTheServerEndsComesBack(world) {
    const [bob, channel] = [await world.named("bob"), world.name("again")];
    const card = await bob.enter("channel", channel);
    await card.say("before");
    await card.shows("before");
    // Too many errors in a minute; should one end meanwhile, the next has enough.
    for (let sent = 0; sent < 250 && !(await bob.page.getByRole("status").innerText()).includes("1008"); sent++) {
      await bob.page.keyboard.press(sent ? "Enter" : "Escape");
      if (!sent) await bob.sendFrame("nope");
    }
    await bob.state(`connected as ${world.name("bob")}`);
    await card.shows("back, nothing was missed");
    await card.say("after");
    await card.shows("after");
  },

  async whatWasLostIsSaid(world) {
    const visitor = await world.visitor();
    const channel = world.name("gaps");
    // Between server and page stands one who adds what a slow client would be told.
    await visitor.page.routeWebSocket(/\/ws/, socket => {
      const server = socket.connectToServer();
      server.onMessage(message => {
        socket.send(message);
        if (message.includes('"published"')) {
          socket.send(JSON.stringify({ type: "gap", channel, from: 2, to: 9, reason: "slow_consumer" }));
        }
      });
    });
    await visitor.arrive(world.name("ann"));
    const card = await visitor.enter("channel", channel);
    await card.say("one");
    await card.shows("messages 2 to 9 are lost (slow_consumer)");
  },

  async theKeyboardIsEnough(world) {
    const visitor = await (await world.visitor()).arrive();
    const { page } = visitor;
    await visitor.state("connected as");
    const tabTo = async label => {
      for (let presses = 0; presses < 60; presses++) {
        await page.keyboard.press("Tab");
        const [found, outlined] = await page.evaluate(wanted => {
          const element = document.activeElement;
          const name = element.getAttribute("aria-label") ?? element.labels?.[0]?.innerText ?? element.innerText;
          return [name.trim() === wanted, getComputedStyle(element).outlineStyle !== "none"];
        }, label);
        assert.ok(outlined, "where the focus is can be seen");
        if (found) return;
      }
      assert.fail(`no Tab leads to ${label}`);
    };
    const topic = world.name("keys");
    await tabTo("Name of the channel or room");
    await page.keyboard.type(topic);
    await page.keyboard.press("Enter");
    const card = visitor.card("channel", topic);
    await card.article.waitFor();
    await page.getByLabel("Name of the channel or room").focus();
    for (const _ of ["demo", "lobby", topic]) await tabTo("Message");
    await page.keyboard.type("typed");
    await page.keyboard.press("Enter");
    await card.shows("typed");
    await page.keyboard.press("Shift+Tab");
    await page.keyboard.press("Shift+Tab");
    for (let back = 0; back < 5 && (await page.evaluate(() => document.activeElement.innerText)) !== "Leave"; back++) {
      await page.keyboard.press("Shift+Tab");
    }
    await page.keyboard.press("Space");
    await card.article.waitFor({ state: "detached" });
  },

  async productionTakesNoNames(world) {
    const visitor = await (await world.visitor({}, production)).arrive();
    await visitor.state("if names need a token here, leave yours empty");
    await visitor.arrive("");
    const card = await visitor.enter("channel", world.name("open"));
    await card.say("nameless");
    await card.shows("nameless");
    await visitor.gets({ type: "message", channel: world.name("open"), id: 1, data: "nameless", ts: now });
  },

  async itIsReadableInLightAndDarkAndOnAPhone(world) {
    for (const [colorScheme, width] of [["light", 1200], ["dark", 1200], ["light", 360], ["dark", 360]]) {
      const visitor = await world.named(`${colorScheme}${width}`, { colorScheme, viewport: { width, height: 900 } });
      await visitor.card("channel", "demo").say(`hello from ${colorScheme}`);
      await visitor.card("channel", "demo").shows(`hello from ${colorScheme}`);
      const { faint, overflow } = await visitor.page.evaluate(readability);
      assert.deepEqual(faint, [], `${colorScheme}: contrast below 4.5`);
      assert.ok(overflow <= 0, `${overflow} pixels wider than ${width}`);
      const folder = process.env.WIRE_SCREENSHOTS;
      if (folder) await visitor.page.screenshot({ path: `${folder}/page-${colorScheme}-${width}.png`, fullPage: true });
    }
  },
};

// Runs in the page: texts whose contrast with what is behind them is below what WCAG asks of small ones (1.4.3).
function readability() {
  const channels = colour => colour.match(/[\d.]+/g).map(Number);
  const luminance = colour => {
    const [red, green, blue] = channels(colour).map(part => (part /= 255) <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const behind = element => {
    for (; element; element = element.parentElement) {
      const colour = getComputedStyle(element).backgroundColor;
      if (channels(colour)[3] !== 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const faint = [];
  for (const element of document.body.querySelectorAll("*")) {
    const hasText = [...element.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.data.trim());
    if (!hasText || element.matches(":disabled, script, style, template, option") || !element.checkVisibility()) continue;
    const [one, other] = [luminance(getComputedStyle(element).color), luminance(behind(element))];
    const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (contrast < 4.5) faint.push(`${element.innerText.slice(0, 30)}: ${contrast.toFixed(2)}`);
  }
  return { faint, overflow: document.documentElement.scrollWidth - innerWidth };
}

function findChromium() {
  for (const name of ["chromium", "chromium-browser", "google-chrome"]) {
    try {
      return execFileSync("sh", ["-c", `command -v ${name}`], { encoding: "utf8" }).trim();
    } catch {
      continue;
    }
  }
  throw new Error("chromium is missing; scripts/test installs it");
}

// Chromium's sandbox does not work for root, and loopback is all it sees here.
const browser = await chromium.launch({ executablePath: findChromium(), args: ["--no-sandbox"] });
let failed = 0;
for (const [name, scenario] of Object.entries(scenarios)) {
  const world = new World(browser, name);
  try {
    await scenario(world);
    for (const visitor of world.visitors) assert.deepEqual(visitor.faults, []);
  } catch (error) {
    failed++;
    console.log(`  FAILED ${name}: ${error.stack.slice(0, 2000)}`);
  }
  for (const visitor of world.visitors) await visitor.page.context().close();
}
await browser.close();
console.log(`wire (page): ${Object.keys(scenarios).length - failed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
