"""The channel protocol as Python's `websockets` sees it: every command, every field of every reply.

    websockets_client.py ADDRESS ADDRESS-IN-PRODUCTION

Written against the protocol's description alone. Each scenario has topics and users of its own, so that several clients
can share a server. What must not arrive is shown by what arrives instead: nothing here waits for silence.
"""

import asyncio
import json
import os
import sys

import websockets

from client import Client, expect, names, now, run, text

HERE = os.path.dirname(os.path.abspath(__file__))


async def welcome(world):
    named = await world.connect("/ws?user=Zo%C3%AB+B%26C")
    anonymous = await world.connect("/ws")
    root = await world.connect("/?x=1&user=" + world.name("ann"))
    plain = {"type": "welcome", "connectionId": text, "serverId": "wire", "pingInterval": 25000}
    frames = [
        expect(await named.next_event(), {**plain, "userId": "Zoë B&C"}),
        expect(await anonymous.next_event(), plain),
        expect(await root.next_event(), {**plain, "userId": world.name("ann")}),
    ]
    assert len({frame["connectionId"] for frame in frames}) == 3


async def subscribe_publish_unsubscribe(world):
    ann, bob, other = await world.open("ann"), await world.open("bob"), await world.open()
    scores = world.name("scores")
    epochs = set()
    for client in (ann, bob, other):
        reply = expect(await client.subscribe(scores), {"type": "subscribed", "channel": scores, "epoch": text, "last_id": 0,
                                                        "recovered": False})
        epochs.add(reply["epoch"])
    assert len(epochs) == 1
    message = {"type": "message", "channel": scores, "id": 1, "data": {"home": 2}, "ts": now}

    expect(await ann.publish(scores, {"home": 2}), {"type": "published", "channel": scores, "last_id": 1})
    for client in (ann, bob, other):
        expect(await client.next_event(), {**message, "userId": world.name("ann")})
    # echo:false: the sender's next event is the one after.
    expect(await other.publish(scores, "quiet", echo=False), {"type": "published", "channel": scores, "last_id": 2})
    for client in (ann, bob):
        expect(await client.next_event(), {**message, "id": 2, "data": "quiet"})
    expect(await other.publish(scores, None, echo=True), {"type": "published", "channel": scores, "last_id": 3})
    for client in (ann, bob, other):
        expect(await client.next_event(), {**message, "id": 3, "data": None})
    # Published by one who is not subscribed, and not for one who no longer is.
    expect(await bob.ask("unsubscribe", channel=scores), {"type": "unsubscribed", "channel": scores})
    expect(await bob.publish(scores, 4), {"type": "published", "channel": scores, "last_id": 4})
    for client in (ann, other):
        expect((await client.next_event()), {**message, "id": 4, "data": 4, "userId": world.name("bob")})
    expect(await bob.subscribe(scores), {"type": "subscribed", "channel": scores, "epoch": epochs.pop(), "last_id": 4,
                                         "recovered": False})
    expect(await bob.subscribe(scores), {"type": "error", "code": "bad_request", "error": "already subscribed to " + scores})
    await ann.publish(scores, 5)
    expect(await bob.next_event(), {**message, "id": 5, "data": 5, "userId": world.name("ann")})


async def data_passes_byte_for_byte(world):
    ann = await world.open("ann")
    channel = world.name("raw")
    await ann.subscribe(channel)
    for data in ('{"b" : 1.50e+3,  "a":[ ]}', '"\\u00e9\\/ é"', "123456789012345678901234567890", "[ 1 ,\t2 ]", "true"):
        await ann.socket.send('{"data":%s,"unknown":{"x":[1]},"channel":"%s","type":"publish"}' % (data, channel))
        _, raw = await ann.next_event_and_raw()
        assert '"data":%s,' % data in raw, raw
    payload = '{ "x":1.0 }'
    await ann.socket.send('{"type":"direct_message","targetUserId":"%s","payload":%s}' % (world.name("ann"), payload))
    _, raw = await ann.next_event_and_raw()
    assert '"payload":%s,' % payload in raw, raw


async def recovery(world):
    for topic in ("red", "green", "blue"):
        channel = world.name(topic)
        ann, bob = await world.open("ann"), await world.open("bob")
        epoch = (await ann.subscribe(channel))["epoch"]
        for number in (1, 2, 3):
            await bob.publish(channel, number)
            assert (await ann.next_event())["id"] == number
        await ann.close()
        for number in (4, 5, 6):
            await bob.publish(channel, number)
        ann = await world.open("ann")
        subscribed = {"type": "subscribed", "channel": channel, "epoch": epoch, "last_id": 6}
        expect(await ann.subscribe(channel, epoch=epoch, last_id=3), {**subscribed, "recovered": True})
        assert len(ann.events) == 3, "the missed ones come before the reply: %s" % ann.events
        await bob.publish(channel, 7)
        for number in (4, 5, 6, 7):
            expect(await ann.next_event(), {"type": "message", "channel": channel, "id": number, "data": number, "ts": now,
                                            "userId": world.name("bob")})
        subscribed["last_id"] = 7
        for since, recovered in (({"epoch": epoch, "last_id": 7}, True), ({"epoch": epoch, "last_id": 8}, False),
                                 ({"epoch": "another", "last_id": 3}, False), ({"epoch": "", "last_id": 7}, False), ({}, False)):
            await ann.ask("unsubscribe", channel=channel)
            expect(await ann.subscribe(channel, **since), {**subscribed, "recovered": recovered})
        await bob.publish(channel, 8)
        assert (await ann.next_event())["id"] == 8, "what was not recovered was sent"


async def recovery_is_bounded_by_history(world):
    channel = world.name("short:scores")
    ann = await world.open("ann")
    for number in range(1, 11):
        await ann.publish(channel, number)
    epoch = (await ann.ask("history", channel=channel))["epoch"]
    for last_id, missed in ((10, []), (9, [10]), (7, [8, 9, 10]), (6, None), (0, None)):
        reply = await ann.subscribe(channel, epoch=epoch, last_id=last_id)
        expect(reply, {"type": "subscribed", "channel": channel, "epoch": epoch, "last_id": 10, "recovered": missed is not None})
        for number in missed or []:
            assert ann.events.popleft()[0]["id"] == number
        assert not ann.events
        await ann.ask("unsubscribe", channel=channel)


async def rooms(world):
    ann, bob, phone, other = await world.open("ann"), await world.open("bob"), await world.open("bob"), await world.open()
    lobby = world.name("lobby")
    joined = {"type": "joined", "room": lobby, "epoch": text, "last_id": 0, "recovered": False}
    expect(await ann.join(lobby), {**joined, "members": 1})
    expect(await bob.join(lobby), {**joined, "members": 2})
    await ann.news(lobby, [world.name("bob")], [])
    expect(await phone.join(lobby), {**joined, "members": 3})
    expect(await other.join(lobby), {**joined, "members": 4})
    expect(await other.join(lobby), {"type": "error", "code": "bad_request", "error": "already subscribed to " + lobby})
    message = {"type": "room_message", "roomId": lobby, "id": 1, "userId": world.name("ann"), "payload": "hi", "timestamp": now,
               "serverId": "wire"}
    expect(await ann.ask("room_message", room=lobby, payload="hi"), {"type": "sent"})
    for client in (ann, bob, phone, other):
        expect(await client.next_publication(), message)
    expect(await other.ask("room_message", room=lobby, payload={"x": 1}, echo=False), {"type": "sent"})
    del message["userId"]
    for client in (ann, bob, phone):
        expect(await client.next_event(), {**message, "id": 2, "payload": {"x": 1}})
    # A user has left with the last connection, and an anonymous one is nobody's news.
    expect(await phone.ask("leave", room=lobby), {"type": "left", "room": lobby})
    expect(await other.ask("leave", room=lobby), {"type": "left", "room": lobby})
    expect(await other.ask("room_message", room=lobby, payload=1),
           {"type": "error", "code": "not_subscribed", "error": "not subscribed to " + lobby})
    await bob.close()
    await ann.news(lobby, [], [world.name("bob")])
    assert not ann.events
    # Recovery as in channels, and names of the two do not meet.
    again = await world.open("bob")
    reply = await again.join(lobby, epoch=(await ann.ask("history", room=lobby))["epoch"], last_id=1)
    expect(reply, {**joined, "members": 2, "last_id": 2, "recovered": True})
    expect(await again.next_publication(), {**message, "id": 2, "payload": {"x": 1}})
    expect(await again.subscribe(lobby), {"type": "subscribed", "channel": lobby, "epoch": text, "last_id": 0, "recovered": False})


async def a_burst_of_news_is_told_together(world):
    watcher, room, count = await world.open("watcher"), world.name("hall"), 20
    await watcher.join(room)
    crowd = [await world.open("user%02d" % number) for number in range(count)]
    users = [world.name("user%02d" % number) for number in range(count)]
    await asyncio.gather(*(client.join(room) for client in crowd))
    assert await watcher.news(room, users, []) < count, "%d frames" % count
    await asyncio.gather(*(client.close() for client in crowd))
    assert await watcher.news(room, [], users) < count, "%d frames" % count


async def leave_all(world):
    ann, bob, channel = await world.open("ann"), await world.open("bob"), world.name("stays")
    rooms = [world.name(room) for room in ("one", "two", "three", "four")]
    await ann.subscribe(channel)
    for room in rooms:
        await ann.join(room)
    await ann.ask("leave", room=rooms[1])
    left = expect(await ann.ask("leave_all"), {"type": "left", "rooms": names})
    assert sorted(left["rooms"]) == sorted([rooms[0], rooms[2], rooms[3]]), left
    expect(await ann.ask("leave_all"), {"type": "left", "rooms": []})
    for room in rooms:
        expect(await bob.join(room), {"type": "joined", "room": room, "members": 1, "epoch": text, "last_id": 0, "recovered": False})
        await bob.ask("room_message", room=room, payload=1)
    await bob.publish(channel, "still here")
    assert (await ann.next_publication())["data"] == "still here"


async def direct_messages(world):
    ann, bob, phone, other = await world.open("ann"), await world.open("bob"), await world.open("bob"), await world.open()
    message = {"type": "direct_message", "fromUserId": world.name("ann"), "payload": {"a": 1}, "timestamp": now}
    expect(await ann.ask("direct_message", targetUserId=world.name("bob"), payload={"a": 1}), {"type": "sent", "connections": 2})
    for client in (bob, phone):
        expect(await client.next_event(), message)
    expect(await ann.ask("direct_message", targetUserId=world.name("nobody"), payload=1), {"type": "sent", "connections": 0})
    expect(await other.ask("direct_message", targetUserId=world.name("ann"), payload=[]), {"type": "sent", "connections": 1})
    del message["fromUserId"]
    expect(await ann.next_event(), {**message, "payload": []})
    await phone.close()
    # The close is the server's business for a moment more.
    while (sent := await ann.ask("direct_message", targetUserId=world.name("bob"), payload="?"))["connections"] != 1:
        expect(sent, {"type": "sent", "connections": 2})


async def presence(world):
    users = [world.name(name) for name in ("ann", "bob", "cat", "dan", "eve")]
    clients = [await world.open(name) for name in ("eve", "cat", "ann", "dan", "bob", "cat")] + [await world.open()]
    for key, command in (("channel", "subscribe"), ("room", "join")):
        topic = {key: world.name("presence")}
        for client in clients:
            await client.ask(command, **topic)
        listed = [{"userId": user, "connections": 2 if user == users[2] else 1} for user in users]
        page = {"type": "presence", **topic, "total": 5}
        asker = clients[-1]
        expect(await asker.ask("presence", **topic), {**page, "users": listed})
        expect(await asker.ask("presence", **topic, limit=2), {**page, "users": listed[:2]})
        expect(await asker.ask("presence", **topic, limit=2, after=users[1]), {**page, "users": listed[2:4]})
        expect(await asker.ask("presence", **topic, limit=2, after=users[3]), {**page, "users": listed[4:]})
        expect(await asker.ask("presence", **topic, after=users[4]), {**page, "users": []})
        expect(await asker.ask("presence", **topic, limit=0), {**page, "users": []})
        await clients[1].ask("unsubscribe" if key == "channel" else "leave", **topic)
        await clients[0].ask("unsubscribe" if key == "channel" else "leave", **topic)
        expect(await asker.ask("presence", **topic, after=users[1]),
               {**page, "total": 4, "users": [{"userId": user, "connections": 1} for user in users[2:4]]})
    empty = world.name("empty")
    expect(await asker.ask("presence", channel=empty), {"type": "presence", "channel": empty, "users": [], "total": 0})


async def history(world):
    ann, channel, room = await world.open("ann"), world.name("told"), world.name("told")
    await ann.join(room)
    for number in range(1, 8):
        await ann.publish(channel, number)
    await ann.ask("room_message", room=room, payload="hi")

    def page(*numbers):
        item = {"userId": world.name("ann"), "ts": now}
        return {"type": "history", "channel": channel, "epoch": text, "last_id": 7,
                "messages": [{"id": number, "data": number, **item} for number in numbers]}

    expect(await ann.ask("history", channel=channel), page(1, 2, 3, 4, 5, 6, 7))
    expect(await ann.ask("history", channel=channel, limit=3), page(5, 6, 7))
    expect(await ann.ask("history", channel=channel, limit=3, since_id=2), page(3, 4, 5))
    expect(await ann.ask("history", channel=channel, since_id=5), page(6, 7))
    expect(await ann.ask("history", channel=channel, since_id=7), page())
    expect(await ann.ask("history", channel=channel, since_id=2**63), page())
    expect(await ann.ask("history", channel=channel, limit=0), page())
    expect(await ann.ask("history", room=room), {
        "type": "history", "room": room, "epoch": text, "last_id": 1,
        "messages": [{"id": 1, "userId": world.name("ann"), "payload": "hi", "timestamp": now, "serverId": "wire"}]})


async def ids_come_back_as_they_were(world):
    ann = await world.open("ann")
    for written in ("7", "-1", "1.50", "1e3", '"a"', '""', '"\\u0041\\n\\"é"', '"%s"' % ("x" * 62), "9" * 64):
        await ann.socket.send('{"id": %s ,"type":"ping"}' % written)
        await ann.receive()
        reply, raw = ann.replies.popleft()
        assert '"id":%s,' % written in raw, raw
        expect(reply, {"type": "pong", "id": json.loads(written), "ts": now})
    # Without an id nothing but failures is answered; a ping is.
    channel = world.name("silent")
    await ann.send("subscribe", channel=channel)
    await ann.send("publish", channel=channel, data=1)
    await ann.send("join", room=channel)
    await ann.send("room_message", room=channel, payload=1, echo=False)
    await ann.send("presence", channel=channel)
    await ann.send("history", channel=channel)
    await ann.send("direct_message", targetUserId=world.name("nobody"), payload=1)
    await ann.send("leave", room=channel)
    await ann.send("leave_all")
    await ann.send("unsubscribe", channel=channel)
    await ann.send("unsubscribe", channel=channel)
    expect(await ann.next_reply(), {"type": "error", "code": "not_subscribed", "error": "not subscribed to " + channel})
    await ann.send("ping")
    expect(await ann.next_reply(), {"type": "pong", "ts": now})


async def errors_do_not_end_a_connection(world):
    client = await world.open("ann")
    with open(os.path.join(HERE, "refused.json")) as file:
        table = json.load(file)
    for row in table:
        await client.socket.send(row["send"])
        wanted = {"type": "error", "error": text, **row["reply"]}
        named = wanted.pop("names", "")
        reply = expect(await client.next_reply(), wanted)
        assert named in reply["error"], (row, reply)
    expect(await client.ask("refresh", token="x"), {"type": "error", "code": "bad_request", "error": "this server takes no tokens"})
    expect(await client.ask("ping"), {"type": "pong", "ts": now})


async def endless_errors_do(world):
    client = await world.open("ann")
    # Twice as many as a minute may have, and some: a minute that ends meanwhile does not save it.
    for _ in range(250):
        await client.socket.send("nope")
    for _ in range(100):
        expect(await client.next_reply(), {"type": "error", "code": "invalid_json", "error": "Invalid JSON"})
    assert await client.closed() == 1008


async def a_pipeline_is_answered_in_order(world):
    ann = await world.open("ann")
    channel, room = world.name("pipe"), world.name("pipe")
    commands = []
    for turn in range(20):
        commands += [("subscribe", {"channel": channel}), ("publish", {"channel": channel, "data": turn}), ("join", {"room": room}),
                     ("ping", {}), ("leave_all", {}), ("unsubscribe", {"channel": channel})]
    for number, (type, fields) in enumerate(commands):
        ann.socket.protocol.send_text(json.dumps({"type": type, "id": number, **fields}).encode())
    ann.socket.transport.write(b"".join(ann.socket.protocol.data_to_send()))
    replies = [await ann.next_reply() for _ in commands]
    assert sorted(reply["id"] for reply in replies) == list(range(len(commands)))
    # What changes subscriptions is done in order, and what follows waits for it.
    answers = {"subscribe": "subscribed", "publish": "published", "join": "joined", "ping": "pong", "leave_all": "left",
               "unsubscribe": "unsubscribed"}
    assert all(reply["type"] == answers[commands[reply["id"]][0]] for reply in replies), replies
    ordered = [reply["id"] for reply in replies if reply["type"] != "published"]
    assert ordered == sorted(ordered), ordered
    published = [reply["last_id"] for reply in replies if reply["type"] == "published"]
    assert published == list(range(1, 21)), published


async def binary_is_not_spoken(world):
    client = await world.open("ann")
    await client.socket.send(b'{"type":"ping"}')
    assert await client.closed() == 1003


async def topics_are_limited(world):
    client = await world.open("ann")
    for number in range(6):
        await client.subscribe(world.name("c%d" % number))
        await client.join(world.name("r%d" % number))
    limit = {"type": "error", "code": "topic_limit", "error": text}
    expect(await client.subscribe(world.name("more")), limit)
    expect(await client.join(world.name("more")), limit)
    await client.ask("leave", room=world.name("r3"))
    assert (await client.subscribe(world.name("more")))["type"] == "subscribed"
    expect(await client.join(world.name("r3")), limit)


async def namespaces(world):
    ann, other = await world.open("ann"), await world.open()

    def published(channel, last_id):
        return {"type": "published", "channel": world.name(channel), "last_id": last_id}

    def forbidden(channel):
        return {"type": "error", "code": "forbidden", "error": "may not publish to " + world.name(channel)}

    expect(await ann.publish(world.name("announced:x"), 1), forbidden("announced:x"))
    expect(await other.publish(world.name("named:x"), 1), forbidden("named:x"))
    expect(await ann.publish(world.name("named:x"), 1), published("named:x", 1))
    inside = world.name("inside:x")
    expect(await ann.publish(inside, 1), {"type": "error", "code": "not_subscribed", "error": "not subscribed to " + inside})
    await ann.subscribe(inside)
    expect(await ann.publish(inside, 1, echo=False), published("inside:x", 1))
    # Data of exactly the limit passes, one byte more does not; both count as written.
    expect(await ann.publish(world.name("brief:x"), "x" * 123), published("brief:x", 1))
    expect(await ann.publish(world.name("brief:x"), "x" * 124), {"type": "error", "code": "too_large", "error": text})
    expect(await ann.publish(world.name("brief:x"), 1), published("brief:x", 2))
    faceless = world.name("faceless:x")
    await ann.subscribe(faceless)
    expect(await ann.ask("presence", channel=faceless), {"type": "error", "code": "forbidden", "error": text})
    # Without history there are offsets all the same, and nothing to recover but nothing.
    forgetful = world.name("forgetful:x")
    epoch = (await ann.subscribe(forgetful))["epoch"]
    for number in (1, 2):
        await other.publish(forgetful, number)
        assert (await ann.next_event())["id"] == number
    expect(await ann.ask("history", channel=forgetful),
           {"type": "history", "channel": forgetful, "epoch": epoch, "last_id": 2, "messages": []})
    for last_id, recovered in ((1, False), (2, True)):
        await ann.ask("unsubscribe", channel=forgetful)
        expect(await ann.subscribe(forgetful, epoch=epoch, last_id=last_id),
               {"type": "subscribed", "channel": forgetful, "epoch": epoch, "last_id": 2, "recovered": recovered})
    expect(await ann.join(forgetful), {"type": "joined", "room": forgetful, "members": 1})


async def production_takes_no_names(world):
    try:
        await websockets.connect("ws://%s/ws?user=ann" % world.production)
        raise AssertionError("a name was taken")
    except websockets.InvalidStatus as refused:
        assert refused.response.status_code == 401, refused
    client = Client(await websockets.connect("ws://%s/ws" % world.production))
    world.clients.append(client)
    expect(await client.next_event(), {"type": "welcome", "connectionId": text, "serverId": "wire", "pingInterval": 25000})
    expect(await client.ask("ping"), {"type": "pong", "ts": now})


SCENARIOS = [welcome, subscribe_publish_unsubscribe, data_passes_byte_for_byte, recovery, recovery_is_bounded_by_history, rooms,
             a_burst_of_news_is_told_together, leave_all, direct_messages, presence, history, ids_come_back_as_they_were,
             errors_do_not_end_a_connection, endless_errors_do, a_pipeline_is_answered_in_order, binary_is_not_spoken,
             topics_are_limited, namespaces, production_takes_no_names]

asyncio.run(run("websockets", SCENARIOS, sys.argv[1], sys.argv[2]))
