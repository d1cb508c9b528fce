//! Events: every line of the protocol's description byte for byte, and any names and data as JSON that reads back.

use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

fn channel(name: &str) -> Topic<'_> {
    Topic { place: Place::Channel, name: name.into() }
}

fn room(name: &str) -> Topic<'_> {
    Topic { place: Place::Room, name: name.into() }
}

fn frame(append: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    append(&mut out);
    String::from_utf8(out).unwrap()
}

fn publication(topic: &Topic<'_>, publication: &Publication<'_>) -> (String, String) {
    let prefix = prefix(topic);
    let whole = frame(|out| append_publication(out, &prefix, publication));
    let rest = whole[prefix.len()..].to_owned();
    (whole, rest)
}

const SCORE: Publication<'static> = Publication {
    place: Place::Channel,
    id: 42,
    data: r#"{"home":2}"#,
    user: Some("ann"),
    unix_ms: 1_790_000_000_456,
    server_id: "n1",
};

const CHAT: Publication<'static> = Publication {
    place: Place::Room,
    id: 7,
    data: r#""hi""#,
    user: Some("ann"),
    unix_ms: 1_790_000_000_789,
    server_id: "n1",
};

#[test]
fn the_replies_of_the_protocol() {
    let mut start = Start { epoch: "x7Kq", last_id: 41, recovered: false };
    assert_eq!(
        frame(|out| append_subscribed(out, "1", "scores", &start)),
        r#"{"type":"subscribed","id":1,"channel":"scores","epoch":"x7Kq","last_id":41,"recovered":false}"#
    );
    start.recovered = true;
    assert_eq!(
        frame(|out| append_subscribed(out, "2", "scores", &start)),
        r#"{"type":"subscribed","id":2,"channel":"scores","epoch":"x7Kq","last_id":41,"recovered":true}"#
    );
    assert_eq!(
        frame(|out| append_unsubscribed(out, Some("3"), &channel("scores"))),
        r#"{"type":"unsubscribed","id":3,"channel":"scores"}"#
    );
    assert_eq!(
        frame(|out| append_published(out, "4", "scores", 42)),
        r#"{"type":"published","id":4,"channel":"scores","last_id":42}"#
    );
    assert_eq!(
        frame(|out| append_joined(out, "5", "lobby", 2, None)),
        r#"{"type":"joined","id":5,"room":"lobby","members":2}"#
    );
    assert_eq!(
        frame(|out| append_joined(out, "5", "lobby", 2, Some(&start))),
        r#"{"type":"joined","id":5,"room":"lobby","members":2,"epoch":"x7Kq","last_id":41,"recovered":true}"#
    );
    assert_eq!(frame(|out| append_sent(out, "6", None)), r#"{"type":"sent","id":6}"#);
    assert_eq!(
        frame(|out| append_unsubscribed(out, Some("7"), &room("lobby"))),
        r#"{"type":"left","id":7,"room":"lobby"}"#
    );
    assert_eq!(
        frame(|out| append_left_all(out, "\"x\"", ["lobby", "den"])),
        r#"{"type":"left","id":"x","rooms":["lobby","den"]}"#
    );
    assert_eq!(frame(|out| append_left_all(out, "7", [])), r#"{"type":"left","id":7,"rooms":[]}"#);
    assert_eq!(frame(|out| append_sent(out, "8", Some(2))), r#"{"type":"sent","id":8,"connections":2}"#);
    assert_eq!(
        frame(|out| append_refreshed(out, "11", 3600)),
        r#"{"type":"refreshed","id":11,"expiresIn":3600}"#
    );
    assert_eq!(
        frame(|out| append_pong(out, None, 1_790_000_001_234)),
        r#"{"type":"pong","ts":1790000001234}"#
    );
    assert_eq!(frame(|out| append_pong(out, Some("1"), 2)), r#"{"type":"pong","id":1,"ts":2}"#);
}

#[test]
fn the_publications_of_the_protocol() {
    let (whole, rest) = publication(&channel("scores"), &SCORE);
    assert_eq!(
        whole,
        r#"{"type":"message","channel":"scores","id":42,"data":{"home":2},"userId":"ann","ts":1790000000456}"#
    );
    assert_eq!(rest, r#""id":42,"data":{"home":2},"userId":"ann","ts":1790000000456}"#);

    let anonymous =
        Publication { id: 39, data: r#"{"home":1}"#, user: None, unix_ms: 1_790_000_000_123, ..SCORE };
    assert_eq!(
        publication(&channel("scores"), &anonymous).0,
        r#"{"type":"message","channel":"scores","id":39,"data":{"home":1},"ts":1790000000123}"#
    );

    let (whole, rest) = publication(&room("lobby"), &CHAT);
    let expected = r#""id":7,"userId":"ann","payload":"hi","timestamp":1790000000789,"serverId":"n1"}"#;
    assert_eq!(whole, format!(r#"{{"type":"room_message","roomId":"lobby",{expected}"#));
    assert_eq!(rest, expected);

    let anonymous = Publication { user: None, ..CHAT };
    assert_eq!(
        publication(&room("lobby"), &anonymous).1,
        r#""id":7,"payload":"hi","timestamp":1790000000789,"serverId":"n1"}"#
    );
}

#[test]
fn the_lists_of_the_protocol() {
    assert_eq!(
        frame(|out| append_presence(out, "9", &channel("scores"), [("ann", 2)], 1)),
        r#"{"type":"presence","id":9,"channel":"scores","users":[{"userId":"ann","connections":2}],"total":1}"#
    );
    assert_eq!(
        frame(|out| append_presence(out, "9", &room("lobby"), [("a", 1), ("b", 2)], 5)),
        concat!(
            r#"{"type":"presence","id":9,"room":"lobby","users":[{"userId":"a","connections":1},"#,
            r#"{"userId":"b","connections":2}],"total":5}"#
        )
    );
    let items = [&b"\"id\":31,\"data\":1,\"ts\":5}"[..], b"\"id\":32,\"data\":[],\"ts\":6}"];
    assert_eq!(
        frame(|out| append_history(out, "10", &channel("scores"), "x7Kq", 42, items)),
        concat!(
            r#"{"type":"history","id":10,"channel":"scores","epoch":"x7Kq","last_id":42,"#,
            r#""messages":[{"id":31,"data":1,"ts":5},{"id":32,"data":[],"ts":6}]}"#
        )
    );
    assert_eq!(
        frame(|out| append_history(out, "10", &room("lobby"), "e", 0, [])),
        r#"{"type":"history","id":10,"room":"lobby","epoch":"e","last_id":0,"messages":[]}"#
    );
}

#[test]
fn the_events_of_the_protocol() {
    let lost = Lost { from: 43, to: 47, reason: "slow_consumer" };
    assert_eq!(
        frame(|out| append_gap(out, &channel("scores"), &lost)),
        r#"{"type":"gap","channel":"scores","from":43,"to":47,"reason":"slow_consumer"}"#
    );
    assert_eq!(
        frame(|out| append_gap(out, &room("lobby"), &lost)),
        r#"{"type":"gap","roomId":"lobby","from":43,"to":47,"reason":"slow_consumer"}"#
    );
    assert_eq!(
        frame(|out| append_user_joined(out, &room("lobby"), "bob")),
        r#"{"type":"user_joined","roomId":"lobby","userId":"bob"}"#
    );
    assert_eq!(
        frame(|out| append_user_left(out, &channel("scores"), "bob")),
        r#"{"type":"user_left","channel":"scores","userId":"bob"}"#
    );
    assert_eq!(
        frame(|out| append_presence_change(out, &room("lobby"), ["bob", "eve"], ["ann"])),
        r#"{"type":"presence_change","roomId":"lobby","joined":["bob","eve"],"left":["ann"]}"#
    );
    for (sender, expected) in [
        (Sender::User("ann"), r#""fromUserId":"ann","#),
        (Sender::Server, r#""fromUserId":null,"#),
        (Sender::Anonymous, ""),
    ] {
        assert_eq!(
            frame(|out| append_direct_message(out, sender, r#"{"a":1}"#, 1_790_000_000_999)),
            format!(r#"{{"type":"direct_message",{expected}"payload":{{"a":1}},"timestamp":1790000000999}}"#)
        );
    }
    assert_eq!(
        frame(|out| append_welcome(out, "c1", Some("ann"), "n1", 25_000)),
        r#"{"type":"welcome","connectionId":"c1","userId":"ann","serverId":"n1","pingInterval":25000}"#
    );
    assert_eq!(
        frame(|out| append_welcome(out, "c1", None, "n1", 25_000)),
        r#"{"type":"welcome","connectionId":"c1","serverId":"n1","pingInterval":25000}"#
    );
    assert_eq!(
        frame(|out| append_server_shutdown(out, "deploy", 5312)),
        r#"{"type":"server_shutdown","reason":"deploy","reconnectDelay":5312}"#
    );
    assert_eq!(frame(|out| append_expiring(out, 60)), r#"{"type":"expiring","expiresIn":60}"#);
}

#[test]
fn the_errors_of_the_protocol() {
    assert_eq!(
        frame(|out| append_error(out, Some("12"), ErrorCode::Forbidden, "may not publish to scores")),
        r#"{"type":"error","id":12,"code":"forbidden","error":"may not publish to scores"}"#
    );
    let invalid = super::super::command::parse("{").unwrap_err();
    assert_eq!(
        frame(|out| append_error(out, invalid.id.as_deref(), invalid.code, &invalid.text)),
        r#"{"type":"error","code":"invalid_json","error":"Invalid JSON"}"#
    );
    for code in ErrorCode::ALL {
        let error: Value =
            serde_json::from_str(&frame(|out| append_error(out, None, code, code.text()))).unwrap();
        assert_eq!(error, json!({"type": "error", "code": code.name(), "error": code.text()}));
    }
}

#[test]
fn frames_are_appended() {
    let out = frame(|out| {
        out.extend_from_slice(b"before ");
        append_expiring(out, 1);
    });
    assert_eq!(out, r#"before {"type":"expiring","expiresIn":1}"#);
}

/// Any characters, and often those that JSON must escape; proptest's own strings have no control characters.
fn characters() -> impl Strategy<Value = String> {
    prop_oneof!["(?s:.{0,24})", r#"[\x00-\x20"\\\x7f\u{2028}é]{0,12}"#]
}

/// What a reader makes of a frame.
fn read(append: impl FnOnce(&mut Vec<u8>)) -> Value {
    let text = frame(append);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

proptest! {
    // Any text stands where a name does: quotes, backslashes, control characters and all.
    #[test]
    fn replies_read_back(name in characters(), epoch in characters(), number in any::<u64>(), flag in any::<bool>()) {
        let start = Start { epoch: &epoch, last_id: number, recovered: flag };
        let id = serde_json::to_string(&name).unwrap();
        prop_assert_eq!(
            read(|out| append_subscribed(out, &id, &name, &start)),
            json!({"type": "subscribed", "id": name, "channel": name, "epoch": epoch, "last_id": number, "recovered": flag})
        );
        prop_assert_eq!(
            read(|out| append_joined(out, "-7", &name, number, Some(&start))),
            json!({"type": "joined", "id": -7, "room": name, "members": number, "epoch": epoch, "last_id": number, "recovered": flag})
        );
        prop_assert_eq!(
            read(|out| append_published(out, "1", &name, number)),
            json!({"type": "published", "id": 1, "channel": name, "last_id": number})
        );
        prop_assert_eq!(
            read(|out| append_unsubscribed(out, Some("1"), &room(&name))),
            json!({"type": "left", "id": 1, "room": name})
        );
        prop_assert_eq!(
            read(|out| append_error(out, None, ErrorCode::TryAgain, &name)),
            json!({"type": "error", "code": "try_again", "error": name})
        );
    }

    #[test]
    fn lists_read_back(
        names in prop::collection::vec(characters(), 0..5),
        counts in prop::collection::vec(any::<u64>(), 5),
        topic in characters(),
    ) {
        let each = || names.iter().map(String::as_str);
        prop_assert_eq!(
            read(|out| append_left_all(out, "1", each())),
            json!({"type": "left", "id": 1, "rooms": names})
        );
        prop_assert_eq!(
            read(|out| append_presence_change(out, &room(&topic), each(), each().rev())),
            json!({"type": "presence_change", "roomId": topic, "joined": names, "left": each().rev().collect::<Vec<_>>()})
        );
        let users = each().zip(counts.iter().copied());
        let expected: Vec<Value> =
            users.clone().map(|(user, connections)| json!({"userId": user, "connections": connections})).collect();
        prop_assert_eq!(
            read(|out| append_presence(out, "1", &channel(&topic), users, counts[0])),
            json!({"type": "presence", "id": 1, "channel": topic, "users": expected, "total": counts[0]})
        );
    }

    #[test]
    fn events_read_back(topic in characters(), name in characters(), a in any::<u64>(), b in any::<u64>()) {
        prop_assert_eq!(
            read(|out| append_gap(out, &room(&topic), &Lost { from: a, to: b, reason: &name })),
            json!({"type": "gap", "roomId": topic, "from": a, "to": b, "reason": name})
        );
        prop_assert_eq!(
            read(|out| append_user_joined(out, &room(&topic), &name)),
            json!({"type": "user_joined", "roomId": topic, "userId": name})
        );
        prop_assert_eq!(
            read(|out| append_user_left(out, &room(&topic), &name)),
            json!({"type": "user_left", "roomId": topic, "userId": name})
        );
        prop_assert_eq!(
            read(|out| append_welcome(out, &topic, Some(&name), &topic, a)),
            json!({"type": "welcome", "connectionId": topic, "userId": name, "serverId": topic, "pingInterval": a})
        );
        prop_assert_eq!(
            read(|out| append_server_shutdown(out, &name, a)),
            json!({"type": "server_shutdown", "reason": name, "reconnectDelay": a})
        );
    }

    // The data stands in the frame with the bytes it came with, and the rest is a history item.
    #[test]
    fn publications_read_back(
        topic in characters(),
        user in prop::option::of(characters()),
        text in characters(),
        id in any::<u64>(),
        unix_ms in any::<u64>(),
        in_room in any::<bool>(),
    ) {
        let place = if in_room { Place::Room } else { Place::Channel };
        let topic = Topic { place, name: topic.into() };
        let data = format!("[ 1.10, {} ]", serde_json::to_string(&text).unwrap());
        let user = user.as_deref();
        let (whole, rest) = publication(&topic, &Publication { place, id, data: &data, user, unix_ms, server_id: &text });
        prop_assert_eq!(whole.matches(&data).count(), 1);

        let mut item = match place {
            Place::Channel => json!({"id": id, "data": [1.1, text], "ts": unix_ms}),
            Place::Room => json!({"id": id, "payload": [1.1, text], "timestamp": unix_ms, "serverId": text}),
        };
        if let Some(user) = user {
            item["userId"] = json!(user);
        }
        let history = read(|out| append_history(out, "1", &topic, "e", id, [rest.as_bytes(), rest.as_bytes()]));
        prop_assert_eq!(&history["messages"], &json!([item, item]));

        let (kind, key) = if in_room { ("room_message", "roomId") } else { ("message", "channel") };
        item["type"] = json!(kind);
        item[key] = json!(topic.name);
        prop_assert_eq!(serde_json::from_str::<Value>(&whole).unwrap(), item);
    }

    #[test]
    fn direct_messages_read_back(user in characters(), text in characters(), unix_ms in any::<u64>()) {
        let payload = serde_json::to_string(&text).unwrap();
        prop_assert_eq!(
            read(|out| append_direct_message(out, Sender::User(&user), &payload, unix_ms)),
            json!({"type": "direct_message", "fromUserId": user, "payload": text, "timestamp": unix_ms})
        );
    }
}
