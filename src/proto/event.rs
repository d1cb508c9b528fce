//! The channel protocol's server frames: each function appends one frame's JSON, without a WebSocket header.
//!
//! Keys stand in the order of the protocol's description. Strings are escaped by serde_json; an `id` and the data of a
//! publication are raw JSON that [`super::command`] has checked, and pass through byte for byte.
//!
//! A publication is a *prefix*, the same for everything in its topic, and a *rest*, from its `"id"` to the closing
//! brace. The home core keeps prefix and rest as one frame for subscribers, and the rest is also a history item.
//!
//! Nothing is checked here: no name, no size, no right.

use serde::Serialize;

use super::command::{ErrorCode, Place, Topic};

#[cfg(test)]
mod tests;

/// Where a subscription starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start<'a> {
    /// The topic's epoch.
    pub epoch: &'a str,
    /// The last publication before what comes live.
    pub last_id: u64,
    /// Whether everything since the client's `last_id` has been sent before this.
    pub recovered: bool,
}

/// One publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publication<'a> {
    /// Decides the frame: `message` or `room_message`.
    pub place: Place,
    /// Its offset in the topic.
    pub id: u64,
    /// Raw JSON.
    pub data: &'a str,
    /// Who published; `None` when anonymous.
    pub user: Option<&'a str>,
    /// When the home core took it.
    pub unix_ms: u64,
    /// This node; rooms tell it.
    pub server_id: &'a str,
}

/// Whom a direct message is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender<'a> {
    /// The admin API or the library: `"fromUserId":null`.
    Server,
    /// A connection without a name: no `fromUserId`.
    Anonymous,
    /// A user.
    User(&'a str),
}

/// Publications a subscriber has lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost<'a> {
    /// The first one lost.
    pub from: u64,
    /// The last one lost.
    pub to: u64,
    /// Why, as in `slow_consumer`.
    pub reason: &'a str,
}

/// `{"type":"welcome","connectionId":"c1","userId":"ann","serverId":"n1","pingInterval":25000}`; an anonymous
/// connection has no `userId`.
pub fn append_welcome(
    out: &mut Vec<u8>,
    connection_id: &str,
    user: Option<&str>,
    server_id: &str,
    ping_interval_ms: u64,
) {
    Object::begin(out, "welcome")
        .field("connectionId", connection_id)
        .optional("userId", user)
        .field("serverId", server_id)
        .field("pingInterval", ping_interval_ms)
        .end();
}

/// `{"type":"subscribed","id":1,"channel":"scores","epoch":"x7Kq","last_id":41,"recovered":false}`
pub fn append_subscribed(out: &mut Vec<u8>, id: &str, channel: &str, start: &Start<'_>) {
    Object::begin(out, "subscribed").raw("id", id).field("channel", channel).start(start).end();
}

/// `{"type":"joined","id":5,"room":"lobby","members":2}`, and where it starts when the room can be recovered.
pub fn append_joined(out: &mut Vec<u8>, id: &str, room: &str, members: u64, start: Option<&Start<'_>>) {
    let joined = Object::begin(out, "joined").raw("id", id).field("room", room).field("members", members);
    match start {
        Some(start) => joined.start(start).end(),
        None => joined.end(),
    }
}

/// `{"type":"unsubscribed","id":3,"channel":"scores"}` or `{"type":"left","id":7,"room":"lobby"}`; without `id` where
/// nobody asked for it.
pub fn append_unsubscribed(out: &mut Vec<u8>, id: Option<&str>, topic: &Topic<'_>) {
    let kind = match topic.place {
        Place::Channel => "unsubscribed",
        Place::Room => "left",
    };
    Object::begin(out, kind).optional_raw("id", id).field(reply_key(topic.place), &topic.name).end();
}

/// `{"type":"left","id":7,"rooms":["lobby","den"]}`: the reply to `leave_all`.
pub fn append_left_all<'n>(out: &mut Vec<u8>, id: &str, rooms: impl IntoIterator<Item = &'n str>) {
    Object::begin(out, "left").raw("id", id).names("rooms", rooms).end();
}

/// `{"type":"published","id":4,"channel":"scores","last_id":42}`
pub fn append_published(out: &mut Vec<u8>, id: &str, channel: &str, last_id: u64) {
    Object::begin(out, "published").raw("id", id).field("channel", channel).field("last_id", last_id).end();
}

/// `{"type":"sent","id":6}` for a room, `{"type":"sent","id":8,"connections":2}` for a direct message.
pub fn append_sent(out: &mut Vec<u8>, id: &str, connections: Option<u64>) {
    Object::begin(out, "sent").raw("id", id).optional("connections", connections).end();
}

/// What every publication in `topic` begins with: `{"type":"message","channel":"scores",` or
/// `{"type":"room_message","roomId":"lobby",`
pub fn prefix(topic: &Topic<'_>) -> Vec<u8> {
    let kind = match topic.place {
        Place::Channel => "message",
        Place::Room => "room_message",
    };
    let mut out = Vec::with_capacity(48 + topic.name.len());
    Object::begin(&mut out, kind).field(event_key(topic.place), &topic.name);
    out.push(b',');
    out
}

/// `prefix` and the rest: `"id":42,"data":{},"userId":"ann","ts":1790000000456}` in a channel,
/// `"id":7,"userId":"ann","payload":"hi","timestamp":1790000000789,"serverId":"n1"}` in a room. An anonymous
/// publisher has no `userId`.
///
/// ```
/// use megasock::proto::command::{Place, Topic};
/// use megasock::proto::event::{Publication, append_publication, prefix};
/// let prefix = prefix(&Topic { place: Place::Channel, name: "scores".into() });
/// let score = Publication {
///     place: Place::Channel, id: 42, data: r#"{"home":2}"#, user: None, unix_ms: 1_790_000_000_456, server_id: "n1",
/// };
/// let mut frame = Vec::new();
/// append_publication(&mut frame, &prefix, &score);
/// assert_eq!(frame, br#"{"type":"message","channel":"scores","id":42,"data":{"home":2},"ts":1790000000456}"#);
/// assert_eq!(&frame[prefix.len()..], br#""id":42,"data":{"home":2},"ts":1790000000456}"#);
/// ```
pub fn append_publication(out: &mut Vec<u8>, prefix: &[u8], publication: &Publication<'_>) {
    let Publication { place, id, data, user, unix_ms, server_id } = *publication;
    out.extend_from_slice(prefix);
    let rest = Object { out, between: false }.field("id", id);
    match place {
        Place::Channel => rest.raw("data", data).optional("userId", user).field("ts", unix_ms).end(),
        Place::Room => rest
            .optional("userId", user)
            .raw("payload", data)
            .field("timestamp", unix_ms)
            .field("serverId", server_id)
            .end(),
    }
}

/// `{"type":"history","id":10,"channel":"scores","epoch":"x7Kq","last_id":42,"messages":[{"id":31,…},…]}`, where each
/// item is the rest of a publication.
pub fn append_history<'r>(
    out: &mut Vec<u8>,
    id: &str,
    topic: &Topic<'_>,
    epoch: &str,
    last_id: u64,
    items: impl IntoIterator<Item = &'r [u8]>,
) {
    Object::begin(out, "history")
        .raw("id", id)
        .field(reply_key(topic.place), &topic.name)
        .field("epoch", epoch)
        .field("last_id", last_id)
        .list("messages", items, |out, rest| {
            out.push(b'{');
            out.extend_from_slice(rest);
        })
        .end();
}

/// `{"type":"gap","channel":"scores","from":43,"to":47,"reason":"slow_consumer"}`, with `roomId` for a room.
pub fn append_gap(out: &mut Vec<u8>, topic: &Topic<'_>, lost: &Lost<'_>) {
    Object::begin(out, "gap")
        .field(event_key(topic.place), &topic.name)
        .field("from", lost.from)
        .field("to", lost.to)
        .field("reason", lost.reason)
        .end();
}

/// `{"type":"user_joined","roomId":"lobby","userId":"bob"}`, with `channel` for a channel.
pub fn append_user_joined(out: &mut Vec<u8>, topic: &Topic<'_>, user: &str) {
    Object::begin(out, "user_joined").field(event_key(topic.place), &topic.name).field("userId", user).end();
}

/// `{"type":"user_left","roomId":"lobby","userId":"bob"}`, with `channel` for a channel.
pub fn append_user_left(out: &mut Vec<u8>, topic: &Topic<'_>, user: &str) {
    Object::begin(out, "user_left").field(event_key(topic.place), &topic.name).field("userId", user).end();
}

/// `{"type":"presence_change","roomId":"lobby","joined":["bob"],"left":["ann"]}`, with `channel` for a channel.
pub fn append_presence_change<'n>(
    out: &mut Vec<u8>,
    topic: &Topic<'_>,
    joined: impl IntoIterator<Item = &'n str>,
    left: impl IntoIterator<Item = &'n str>,
) {
    Object::begin(out, "presence_change")
        .field(event_key(topic.place), &topic.name)
        .names("joined", joined)
        .names("left", left)
        .end();
}

/// `{"type":"presence","id":9,"channel":"scores","users":[{"userId":"ann","connections":2}],"total":1}`; `users` are
/// names with how many connections each has here, `total` counts the users of all pages.
pub fn append_presence<'n>(
    out: &mut Vec<u8>,
    id: &str,
    topic: &Topic<'_>,
    users: impl IntoIterator<Item = (&'n str, u64)>,
    total: u64,
) {
    Object::begin(out, "presence")
        .raw("id", id)
        .field(reply_key(topic.place), &topic.name)
        .list("users", users, |out, (user, connections)| {
            out.push(b'{');
            Object { out, between: false }.field("userId", user).field("connections", connections).end();
        })
        .field("total", total)
        .end();
}

/// `{"type":"direct_message","fromUserId":"ann","payload":{"a":1},"timestamp":1790000000999}`; see [`Sender`] for the
/// other forms of `fromUserId`.
pub fn append_direct_message(out: &mut Vec<u8>, from: Sender<'_>, payload: &str, unix_ms: u64) {
    let message = Object::begin(out, "direct_message");
    let message = match from {
        Sender::Server => message.raw("fromUserId", "null"),
        Sender::Anonymous => message,
        Sender::User(user) => message.field("fromUserId", user),
    };
    message.raw("payload", payload).field("timestamp", unix_ms).end();
}

/// `{"type":"refreshed","id":11,"expiresIn":3600}`
pub fn append_refreshed(out: &mut Vec<u8>, id: &str, expires_in_s: u64) {
    Object::begin(out, "refreshed").raw("id", id).field("expiresIn", expires_in_s).end();
}

/// `{"type":"expiring","expiresIn":60}`
pub fn append_expiring(out: &mut Vec<u8>, expires_in_s: u64) {
    Object::begin(out, "expiring").field("expiresIn", expires_in_s).end();
}

/// `{"type":"pong","ts":1790000001234}`, with the ping's `id` if it had one.
pub fn append_pong(out: &mut Vec<u8>, id: Option<&str>, unix_ms: u64) {
    Object::begin(out, "pong").optional_raw("id", id).field("ts", unix_ms).end();
}

/// `{"type":"server_shutdown","reason":"deploy","reconnectDelay":5312}`
pub fn append_server_shutdown(out: &mut Vec<u8>, reason: &str, reconnect_delay_ms: u64) {
    Object::begin(out, "server_shutdown")
        .field("reason", reason)
        .field("reconnectDelay", reconnect_delay_ms)
        .end();
}

/// `{"type":"error","id":12,"code":"forbidden","error":"may not publish to scores"}`, without `id` where the command
/// had none.
pub fn append_error(out: &mut Vec<u8>, id: Option<&str>, code: ErrorCode, text: &str) {
    Object::begin(out, "error").optional_raw("id", id).field("code", code.name()).field("error", text).end();
}

/// `{"type":"error","code":"try_again","error":"…","reconnectDelay":5312}`: what somebody is told who is not let in;
/// without `reconnectDelay` where coming back is of no use.
pub fn append_turned_away(out: &mut Vec<u8>, code: ErrorCode, text: &str, reconnect_delay_ms: Option<u64>) {
    Object::begin(out, "error")
        .field("code", code.name())
        .field("error", text)
        .optional("reconnectDelay", reconnect_delay_ms)
        .end();
}

/// The key that names a topic in a reply to the one who asked.
const fn reply_key(place: Place) -> &'static str {
    match place {
        Place::Channel => "channel",
        Place::Room => "room",
    }
}

/// The key that names a topic in what its subscribers are told.
const fn event_key(place: Place) -> &'static str {
    match place {
        Place::Channel => "channel",
        Place::Room => "roomId",
    }
}

/// An object being written. Keys are this file's own and need no escape.
struct Object<'o> {
    out: &'o mut Vec<u8>,
    /// Whether a member stands before the next one.
    between: bool,
}

impl<'o> Object<'o> {
    fn begin(out: &'o mut Vec<u8>, kind: &str) -> Object<'o> {
        out.push(b'{');
        Object { out, between: false }.field("type", kind)
    }

    fn end(self) {
        self.out.push(b'}');
    }

    fn key(&mut self, key: &str) {
        if self.between {
            self.out.push(b',');
        }
        self.between = true;
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn raw(mut self, key: &str, json: &str) -> Self {
        self.key(key);
        self.out.extend_from_slice(json.as_bytes());
        self
    }

    fn optional_raw(self, key: &str, json: Option<&str>) -> Self {
        match json {
            Some(json) => self.raw(key, json),
            None => self,
        }
    }

    fn field(mut self, key: &str, value: impl Serialize) -> Self {
        self.key(key);
        append_value(self.out, value);
        self
    }

    fn optional(self, key: &str, value: Option<impl Serialize>) -> Self {
        match value {
            Some(value) => self.field(key, value),
            None => self,
        }
    }

    fn list<T>(
        mut self,
        key: &str,
        items: impl IntoIterator<Item = T>,
        mut append: impl FnMut(&mut Vec<u8>, T),
    ) -> Self {
        self.key(key);
        self.out.push(b'[');
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            append(self.out, item);
        }
        self.out.push(b']');
        self
    }

    fn names<'n>(self, key: &str, names: impl IntoIterator<Item = &'n str>) -> Self {
        self.list(key, names, append_value)
    }

    fn start(self, start: &Start<'_>) -> Self {
        self.field("epoch", start.epoch).field("last_id", start.last_id).field("recovered", start.recovered)
    }
}

fn append_value(out: &mut Vec<u8>, value: impl Serialize) {
    serde_json::to_writer(out, &value)
        .expect("strings, numbers and flags always encode, and a Vec takes any bytes");
}
