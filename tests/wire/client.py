"""A connection to megasock through Python's `websockets`, and what holds frames to their description."""

import asyncio
import json
import sys
import time
import traceback
from collections import deque
from urllib.parse import quote

import websockets

PATIENCE_SECONDS = 20
NEWS = {"user_joined", "user_left", "presence_change"}
REPLIES = {"subscribed", "unsubscribed", "published", "joined", "left", "sent", "presence", "history", "refreshed", "pong",
           "error"}


# What a field may be where its value cannot be known.

def now(value):
    return type(value) is int and abs(value - time.time() * 1000) < 60_000


def text(value):
    return type(value) is str and value != ""


def names(value):
    return type(value) is list and all(map(text, value))


def expect(got, wanted):
    """Holds a frame to exactly these fields."""
    assert fits(got, wanted), "\n    got    %s\n    wanted %s" % (got, wanted)
    return got


def fits(got, wanted):
    if callable(wanted):
        return wanted(got)
    if type(got) is not type(wanted):
        return False
    if isinstance(wanted, dict):
        return got.keys() == wanted.keys() and all(fits(got[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        return len(got) == len(wanted) and all(map(fits, got, wanted))
    return got == wanted


class Client:
    """One connection, its replies and its events kept apart, each in the order of arrival."""

    def __init__(self, socket):
        self.socket, self.replies, self.events, self.last_id = socket, deque(), deque(), 0

    async def receive(self):
        raw = await asyncio.wait_for(self.socket.recv(), PATIENCE_SECONDS)
        assert isinstance(raw, str), "a binary message"
        frame = json.loads(raw)
        (self.replies if frame["type"] in REPLIES else self.events).append((frame, raw))

    async def next_reply(self):
        while not self.replies:
            await self.receive()
        return self.replies.popleft()[0]

    async def next_event(self):
        return (await self.next_event_and_raw())[0]

    async def next_event_and_raw(self):
        while not self.events:
            await self.receive()
        return self.events.popleft()

    async def next_publication(self):
        """The next event that is no news: what members of a room are told about each other, and about themselves."""
        while (event := await self.next_event())["type"] in NEWS:
            pass
        return event

    async def send(self, type, **fields):
        await self.socket.send(json.dumps({"type": type, **fields}))

    async def ask(self, type, **fields):
        """Sends a command with an id of its own; the reply without that id."""
        self.last_id += 1
        await self.send(type, id=self.last_id, **fields)
        reply = await self.next_reply()
        assert reply.pop("id", None) == self.last_id, reply
        return reply

    async def subscribe(self, channel, **since):
        return await self.ask("subscribe", channel=channel, **since)

    async def join(self, room, **since):
        return await self.ask("join", room=room, **since)

    async def publish(self, channel, data, **fields):
        return await self.ask("publish", channel=channel, data=data, **fields)

    async def closed(self):
        """The code the server closes with; whatever still arrives before it is dropped."""
        try:
            while True:
                await asyncio.wait_for(self.socket.recv(), PATIENCE_SECONDS)
        except websockets.ConnectionClosed as ended:
            return ended.rcvd.code if ended.rcvd else 1006

    async def close(self):
        await self.socket.close()

    async def news(self, room, joined, left):
        """Reads news until everybody named has come and gone, each once; how many frames that took."""
        joined, left, frames = set(joined), set(left), 0
        while joined or left:
            event = await self.next_event()
            frames += 1
            if event["type"] == "presence_change":
                expect(event, {"type": "presence_change", "roomId": room, "joined": names, "left": names})
                came, went = event["joined"], event["left"]
            elif event["type"] == "user_joined":
                expect(event, {"type": "user_joined", "roomId": room, "userId": text})
                came, went = [event["userId"]], []
            else:
                expect(event, {"type": "user_left", "roomId": room, "userId": text})
                came, went = [], [event["userId"]]
            for told, expected in ((came, joined), (went, left)):
                for name in told:
                    expected.remove(name)
        return frames


class World:
    """Where a scenario runs, with topics and users nobody else uses."""

    def __init__(self, address, production, scenario):
        self.address, self.production, self.clients = address, production, []
        self.suffix = "-py-%s-%x" % (scenario, time.time_ns())

    def name(self, name):
        return name + self.suffix

    async def open(self, user=None, path="/ws"):
        """A connection past its welcome."""
        query = "" if user is None else "?user=" + quote(self.name(user))
        client = await self.connect(path + query)
        await client.next_event()
        return client

    async def connect(self, target):
        client = Client(await websockets.connect("ws://%s%s" % (self.address, target)))
        self.clients.append(client)
        return client


async def run(title, scenarios, *addresses):
    """Runs each scenario in a world of its own; the exit status."""
    failed = 0
    for scenario in scenarios:
        world = World(*addresses, scenario.__name__)
        try:
            await scenario(world)
        except (Exception, asyncio.TimeoutError) as error:
            failed += 1
            where = [at.lineno for at in traceback.extract_tb(error.__traceback__) if at.name == scenario.__name__]
            print("  FAILED %s, line %s: %s %.2000s" % (scenario.__name__, where[-1], type(error).__name__, error))
        for client in world.clients:
            await client.close()
    print("wire (%s): %d passed, %d failed" % (title, len(scenarios) - failed, failed))
    sys.exit(1 if failed else 0)
