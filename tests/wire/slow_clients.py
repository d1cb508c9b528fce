"""Clients that stop reading while large messages are published: each policy for slow consumers, as it looks on the wire.

    slow_clients.py ADDRESS ADDRESS-IN-PRODUCTION

Whatever the policy, a client that reads again finds every message in order, or a `gap` that names exactly those it does
not find; and one that reads all the time notices nothing. The server is the one that decides when a client is slow: how
much fits into sockets before that is the kernel's affair, so only what must hold for any amount is checked.
"""

import asyncio
import socket
import sys

import websockets

from client import Client, expect, now, run

# Far more than sockets and a queue of 1 MiB hold.
MESSAGES = 250
PAD = "x" * 60_000
QUEUE_BYTES = 1 << 20


async def open_slow(world):
    """A connection that takes next to nothing off the network unless it is asked to receive."""
    host, port = world.address.split(":")
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    narrow.connect((host, int(port)))
    uri = "ws://%s/ws?user=%s" % (world.address, world.name("slow"))
    client = Client(await websockets.connect(uri, sock=narrow, max_queue=1, compression=None, ping_interval=None))
    world.clients.append(client)
    await client.next_event()
    return client


class Publisher:
    """Publishes numbered messages and reads them back at once."""

    def __init__(self, client):
        self.client = client

    async def publish(self, topic, number):
        reply = await self.client.publish(topic, {"n": number, "pad": PAD})
        expect(reply, {"type": "published", "channel": topic, "last_id": number})
        while True:
            event = await self.client.next_event()
            if event["channel"] == topic:
                assert event["id"] == event["data"]["n"] == number, "a client that reads missed something: %d" % event["id"]
                return


async def read_until(client, last, key, topic):
    """What a client gets until it knows about message `last`: its messages' ids, and gaps as pairs."""
    got, known = [], 0
    while known < last:
        event = await client.next_publication()
        assert event.get(key) == topic, event
        if event["type"] == "gap":
            expect(event, {"type": "gap", key: topic, "from": known + 1, "to": int_above(known), "reason": "slow_consumer"})
            got.append((event["from"], event["to"]))
            known = event["to"]
        else:
            assert event["id"] == known + 1, "%d after %d" % (event["id"], known)
            got.append(event["id"])
            known = event["id"]
    assert known == last
    return got


def int_above(known):
    return lambda value: type(value) is int and value > known


async def flood(world, topic):
    """A slow and a quick subscriber, and the topic flooded while the slow one does not read."""
    slow, publisher = await open_slow(world), Publisher(await world.open("quick"))
    for client in (slow, publisher.client):
        await client.subscribe(topic)
    for number in range(1, MESSAGES + 1):
        await publisher.publish(topic, number)
    return slow, publisher


async def is_live_again(slow, publisher, topic):
    await publisher.publish(topic, MESSAGES + 1)
    message = await slow.next_event()
    assert (message["type"], message["id"]) == ("message", MESSAGES + 1), message["type"]


async def disconnect(world):
    topic = world.name("slow:disconnect")
    slow, publisher = await flood(world, topic)
    # What was on its way arrives in order, then the end: said with 1013, or cut if not even that could be sent.
    known = 0
    try:
        while True:
            event = await slow.next_event()
            assert (event["type"], event["id"]) == ("message", known + 1), "%s after %d" % (event["type"], known)
            known += 1
    except websockets.ConnectionClosed as ended:
        assert ended.rcvd is None or ended.rcvd.code == 1013, ended
    assert 0 < known < MESSAGES, known
    # Coming back it is told what it can have: nothing of what history no longer has.
    again = await world.open("slow")
    history = await again.ask("history", channel=topic)
    expect(await again.subscribe(topic, epoch=history["epoch"], last_id=known),
           {"type": "subscribed", "channel": topic, "epoch": history["epoch"], "last_id": MESSAGES, "recovered": False})
    await publisher.publish(topic, MESSAGES + 1)
    assert (await again.next_event())["id"] == MESSAGES + 1


async def drop_newest(world):
    topic = world.name("slow:newest:x")
    slow, publisher = await flood(world, topic)
    got = await read_until(slow, MESSAGES, "channel", topic)
    gaps = [item for item in got if type(item) is tuple]
    assert gaps == got[-1:], "what came last is what is missing: %s" % got
    await is_live_again(slow, publisher, topic)


async def drop_newest_in_a_room(world):
    room = world.name("slow:newest:x")
    slow, member = await open_slow(world), await world.open("quick")
    for client in (slow, member):
        await client.join(room)
    for number in range(1, MESSAGES + 1):
        expect(await member.ask("room_message", room=room, payload=PAD), {"type": "sent"})
    # News have no number, and are not missed.
    got = await read_until(slow, MESSAGES, "roomId", room)
    assert [item for item in got if type(item) is tuple] == got[-1:], got


async def drop_oldest(world):
    topic = world.name("slow:oldest:x")
    slow, publisher = await flood(world, topic)
    got = await read_until(slow, MESSAGES, "channel", topic)
    gaps = [at for at, item in enumerate(got) if type(item) is tuple]
    assert len(gaps) == 1, got
    # As much as may wait has waited: the newest.
    waited = (len(got) - 1 - gaps[0]) * len(PAD)
    assert QUEUE_BYTES * 3 // 4 < waited <= QUEUE_BYTES, waited
    await is_live_again(slow, publisher, topic)


async def conflate(world):
    topics = [world.name("slow:conflate:%s" % name) for name in ("a", "b")]
    slow, publisher = await open_slow(world), Publisher(await world.open("quick"))
    for client in (slow, publisher.client):
        for topic in topics:
            await client.subscribe(topic)
    for number in range(1, MESSAGES + 1):
        for topic in topics:
            await publisher.publish(topic, number)
    # Of each channel the latest has waited, whatever the other did.
    got = {topic: [] for topic in topics}
    known = dict.fromkeys(topics, 0)
    while min(known.values()) < MESSAGES:
        event = await slow.next_event()
        topic = event["channel"]
        if event["type"] == "gap":
            # A core that was behind may have had several at once before the socket was full, too.
            to = int_above(known[topic])
            expect(event, {"type": "gap", "channel": topic, "from": known[topic] + 1, "to": to, "reason": "slow_consumer"})
            known[topic] = event["to"]
        else:
            assert event["id"] == known[topic] + 1, "%d after %d" % (event["id"], known[topic])
            expect(event["ts"], now)
            known[topic] = event["id"]
        got[topic].append(event["type"])
    for topic in topics:
        assert got[topic][-2:] == ["gap", "message"] and len(got[topic]) < MESSAGES // 2, got
        await is_live_again(slow, publisher, topic)


SCENARIOS = [disconnect, drop_newest, drop_newest_in_a_room, drop_oldest, conflate]

asyncio.run(run("slow", SCENARIOS, sys.argv[1], sys.argv[2]))
