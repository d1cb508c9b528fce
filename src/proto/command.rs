//! The channel protocol's commands: one text message in, one [`Command`] out.
//!
//! One pass and no tree: serde_json walks the text and hands out the raw slice of each known member, so `data` and
//! `payload` reach subscribers with the bytes the client sent, and a name without escapes is borrowed. Unknown members
//! are skipped; so are known ones that the command at hand has no use for.
//!
//! Nothing here recurses, whatever the text: serde_json skips a value with a stack of its own, one byte a level, and
//! nesting beyond [`NESTING_MAX`] is refused so that no subscriber's parser meets it either.
//!
//! It knows no limits but those of a name and an id, and no permissions: sizes, rates and rights are the hub's.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

#[cfg(test)]
mod tests;

/// The longest name of a channel, room or user.
pub const NAME_BYTES_MAX: usize = 255;

/// The longest `id` of a command, as it stands in the text.
pub const ID_BYTES_MAX: usize = 64;

/// How deep a command may nest, its own braces counted.
pub const NESTING_MAX: usize = 128;

/// What the internal name of a room begins with, and the name of a channel may not.
pub const ROOM_MARK: &str = "room:";

/// Which of the two name spaces a topic is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// `channel` on the wire.
    Channel,
    /// `room` in commands and replies, `roomId` in what others are told.
    Room,
}

/// A channel or a room, named as on the wire: without [`ROOM_MARK`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Topic<'a> {
    /// Channel or room.
    pub place: Place,
    /// Its name; see [`is_name`].
    pub name: Cow<'a, str>,
}

/// Where a subscriber stood when it was last connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recover<'a> {
    /// The topic's epoch then. Any string: one that does not match recovers nothing.
    pub epoch: Cow<'a, str>,
    /// The last publication it has.
    pub last_id: u64,
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command<'a> {
    /// `subscribe` or `join`.
    Subscribe {
        /// What to subscribe to.
        topic: Topic<'a>,
        /// Since when; both `epoch` and `last_id`, or neither.
        recover: Option<Recover<'a>>,
    },
    /// `unsubscribe` or `leave`.
    Unsubscribe {
        /// What to leave.
        topic: Topic<'a>,
    },
    /// `leave_all`: every room of this connection.
    LeaveAll,
    /// `publish` with `data`, or `room_message` with `payload`.
    Publish {
        /// Where to.
        topic: Topic<'a>,
        /// Any JSON value, byte for byte.
        data: &'a str,
        /// Whether the sender gets it too; it does unless it says otherwise.
        echo: bool,
    },
    /// `direct_message`.
    Direct {
        /// Every connection of this user.
        user: Cow<'a, str>,
        /// Any JSON value, byte for byte.
        payload: &'a str,
    },
    /// `presence`: who is there, by name, page by page.
    Presence {
        /// Where.
        topic: Topic<'a>,
        /// Users wanted. Not clamped here.
        limit: Option<u32>,
        /// The last name of the page before.
        after: Option<Cow<'a, str>>,
    },
    /// `history`.
    History {
        /// Of what.
        topic: Topic<'a>,
        /// Publications wanted. Not clamped here.
        limit: Option<u32>,
        /// Only what came after this one.
        since_id: Option<u64>,
    },
    /// `refresh`: a new token for this session.
    Refresh {
        /// Not looked into.
        token: Cow<'a, str>,
    },
    /// `ping`, for clients that cannot see the protocol's own.
    Ping,
}

macro_rules! verbs {
    ($($variant:ident $name:literal;)*) => {
        /// The `type` of a command. The table for parsing, metrics and documentation.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Verb {
            $(#[doc = $name] $variant,)*
        }

        impl Verb {
            /// Every type, in the order of their numbers.
            pub const ALL: [Verb; [$($name),*].len()] = [$(Verb::$variant),*];

            fn named(name: &str) -> Option<Verb> {
                match name { $($name => Some(Verb::$variant),)* _ => None }
            }

            /// The `type` on the wire, and the metric label.
            pub const fn name(self) -> &'static str {
                match self { $(Verb::$variant => $name,)* }
            }
        }
    };
}

verbs! {
    Subscribe "subscribe";
    Join "join";
    Unsubscribe "unsubscribe";
    Leave "leave";
    LeaveAll "leave_all";
    Publish "publish";
    RoomMessage "room_message";
    DirectMessage "direct_message";
    Presence "presence";
    History "history";
    Refresh "refresh";
    Ping "ping";
}

impl Command<'_> {
    /// What it is called on the wire.
    pub fn verb(&self) -> Verb {
        let of = |topic: &Topic<'_>, channel, room| match topic.place {
            Place::Channel => channel,
            Place::Room => room,
        };
        match self {
            Command::Subscribe { topic, .. } => of(topic, Verb::Subscribe, Verb::Join),
            Command::Unsubscribe { topic } => of(topic, Verb::Unsubscribe, Verb::Leave),
            Command::LeaveAll => Verb::LeaveAll,
            Command::Publish { topic, .. } => of(topic, Verb::Publish, Verb::RoomMessage),
            Command::Direct { .. } => Verb::DirectMessage,
            Command::Presence { .. } => Verb::Presence,
            Command::History { .. } => Verb::History,
            Command::Refresh { .. } => Verb::Refresh,
            Command::Ping => Verb::Ping,
        }
    }
}

/// A command, and the `id` its reply must carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed<'a> {
    /// A JSON number or string as the client wrote it, at most [`ID_BYTES_MAX`] bytes. Goes back byte for byte.
    pub id: Option<&'a str>,
    /// The command.
    pub command: Command<'a>,
}

/// Why a text is no command, as [`super::event::append_error`] wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The raw id, where the text is JSON and has a valid one.
    pub id: Option<String>,
    /// Its code.
    pub code: ErrorCode,
    /// What a person reads; names the member at fault.
    pub text: String,
}

macro_rules! error_codes {
    ($($variant:ident $name:literal, $text:literal;)*) => {
        /// Why a command failed. The table for error frames, metrics and documentation.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum ErrorCode {
            $(#[doc = $text] $variant,)*
        }

        impl ErrorCode {
            /// Every code, in the order of their numbers.
            pub const ALL: [ErrorCode; [$($name),*].len()] = [$(ErrorCode::$variant),*];

            /// The `code` of the error frame, and the metric label.
            pub const fn name(self) -> &'static str {
                match self { $(ErrorCode::$variant => $name,)* }
            }

            /// The `error` of the error frame where nothing more is known.
            pub const fn text(self) -> &'static str {
                match self { $(ErrorCode::$variant => $text,)* }
            }
        }
    };
}

error_codes! {
    InvalidJson "invalid_json", "Invalid JSON";
    UnknownType "unknown_type", "Unknown message type";
    BadRequest "bad_request", "Bad request";
    NotSubscribed "not_subscribed", "Not subscribed";
    Forbidden "forbidden", "Forbidden";
    TooLarge "too_large", "Too large";
    TopicLimit "topic_limit", "Too many topics";
    MessageRateExceeded "message_rate_exceeded", "Too many messages";
    ByteRateExceeded "byte_rate_exceeded", "Too many bytes";
    TryAgain "try_again", "Try again";
    Unauthorized "unauthorized", "Unauthorized";
    ConnectionLimit "connection_limit", "Too many connections";
}

macro_rules! members {
    ($($variant:ident $name:literal;)*) => {
        /// A member some command knows.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        enum Member { $($variant,)* }

        impl Member {
            const COUNT: usize = [$($name),*].len();

            fn named(name: &str) -> Option<Member> {
                match name { $($name => Some(Member::$variant),)* _ => None }
            }

            const fn name(self) -> &'static str {
                match self { $(Member::$variant => $name,)* }
            }
        }
    };
}

members! {
    Type "type";
    Id "id";
    Channel "channel";
    Room "room";
    Data "data";
    Payload "payload";
    Echo "echo";
    Epoch "epoch";
    LastId "last_id";
    TargetUserId "targetUserId";
    Limit "limit";
    After "after";
    SinceId "since_id";
    Token "token";
}

/// Reads one text message.
///
/// ```
/// use megasock::proto::command::{Command, parse};
/// let parsed = parse(r#"{"type":"ping","id":"a1"}"#).unwrap();
/// assert_eq!((parsed.id, parsed.command), (Some(r#""a1""#), Command::Ping));
/// ```
pub fn parse(text: &str) -> Result<Parsed<'_>, Refusal> {
    let invalid = ErrorCode::InvalidJson;
    let members: Members<'_> = serde_json::from_str(text).map_err(|_| Refusal {
        id: None,
        code: invalid,
        text: invalid.text().to_owned(),
    })?;
    let id = members.id().map_err(|fault| fault.refusal(None))?;
    if nests_deeper_than(NESTING_MAX, text) {
        return Err(Fault::Nesting.refusal(id));
    }
    match members.command() {
        Ok(command) => Ok(Parsed { id, command }),
        Err(fault) => Err(fault.refusal(id)),
    }
}

/// Whether `name` may be the name of a channel, a room or a user: 1 to [`NAME_BYTES_MAX`] bytes, no control
/// characters, and not separators (`:` `.` `/` `-` `_` and space) alone.
pub fn is_name(name: &str) -> bool {
    let separator = |character| matches!(character, ':' | '.' | '/' | '-' | '_' | ' ');
    name.len() <= NAME_BYTES_MAX && !name.chars().all(separator) && !name.chars().any(char::is_control)
}

/// What is wrong with a text that is JSON.
#[derive(Debug)]
enum Fault {
    Type,
    Member(Member, &'static str),
    Nesting,
}

impl Fault {
    fn refusal(self, id: Option<&str>) -> Refusal {
        let (code, text) = match self {
            Fault::Type => (ErrorCode::UnknownType, ErrorCode::UnknownType.text().to_owned()),
            Fault::Member(member, what) => (ErrorCode::BadRequest, format!("{}: {what}", member.name())),
            Fault::Nesting => (ErrorCode::BadRequest, format!("nested deeper than {NESTING_MAX}")),
        };
        Refusal { id: id.map(str::to_owned), code, text }
    }
}

/// The raw values of one object's known members. Each is a JSON value by grammar, without surrounding blanks.
struct Members<'a> {
    raw: [Option<&'a str>; Member::COUNT],
    /// The first that came twice: parsers differ on which one counts, so neither does.
    twice: Option<Member>,
}

impl<'a> Members<'a> {
    fn id(&self) -> Result<Option<&'a str>, Fault> {
        let Some(raw) = self.raw[Member::Id as usize] else { return Ok(None) };
        let fault = |what| Err(Fault::Member(Member::Id, what));
        match raw.as_bytes()[0] {
            _ if self.twice == Some(Member::Id) => fault("given twice"),
            b'"' | b'-' | b'0'..=b'9' if raw.len() <= ID_BYTES_MAX => Ok(Some(raw)),
            b'"' | b'-' | b'0'..=b'9' => fault("longer than 64 bytes"),
            _ => fault("neither a number nor a string"),
        }
    }

    /// The commands: the one place that knows which members each takes.
    fn command(&self) -> Result<Command<'a>, Fault> {
        if let Some(member) = self.twice {
            return Err(Fault::Member(member, "given twice"));
        }
        let verb = Verb::named(&self.text(Member::Type)?).ok_or(Fault::Type)?;
        Ok(match verb {
            Verb::Subscribe => Command::Subscribe { topic: self.channel()?, recover: self.recover()? },
            Verb::Join => Command::Subscribe { topic: self.room()?, recover: self.recover()? },
            Verb::Unsubscribe => Command::Unsubscribe { topic: self.channel()? },
            Verb::Leave => Command::Unsubscribe { topic: self.room()? },
            Verb::LeaveAll => Command::LeaveAll,
            Verb::Publish => Command::Publish {
                topic: self.channel()?,
                data: self.raw(Member::Data)?,
                echo: self.flag(Member::Echo)?.unwrap_or(true),
            },
            Verb::RoomMessage => Command::Publish {
                topic: self.room()?,
                data: self.raw(Member::Payload)?,
                echo: self.flag(Member::Echo)?.unwrap_or(true),
            },
            Verb::DirectMessage => Command::Direct {
                user: self.name(Member::TargetUserId)?,
                payload: self.raw(Member::Payload)?,
            },
            Verb::Presence => Command::Presence {
                topic: self.channel_or_room()?,
                limit: self.limit()?,
                after: self.has(Member::After).then(|| self.name(Member::After)).transpose()?,
            },
            Verb::History => Command::History {
                topic: self.channel_or_room()?,
                limit: self.limit()?,
                since_id: self.number(Member::SinceId)?,
            },
            Verb::Refresh => Command::Refresh { token: self.text(Member::Token)? },
            Verb::Ping => Command::Ping,
        })
    }

    fn channel(&self) -> Result<Topic<'a>, Fault> {
        let name = self.name(Member::Channel)?;
        if name.starts_with(ROOM_MARK) {
            return Err(Fault::Member(Member::Channel, "begins with room:"));
        }
        Ok(Topic { place: Place::Channel, name })
    }

    fn room(&self) -> Result<Topic<'a>, Fault> {
        Ok(Topic { place: Place::Room, name: self.name(Member::Room)? })
    }

    fn channel_or_room(&self) -> Result<Topic<'a>, Fault> {
        match (self.has(Member::Channel), self.has(Member::Room)) {
            (true, true) => Err(Fault::Member(Member::Room, "given beside channel")),
            (false, true) => self.room(),
            (_, false) => self.channel(),
        }
    }

    fn recover(&self) -> Result<Option<Recover<'a>>, Fault> {
        if !self.has(Member::Epoch) && !self.has(Member::LastId) {
            return Ok(None);
        }
        let epoch = self.text(Member::Epoch)?;
        let last_id = self.number(Member::LastId)?.ok_or(Fault::Member(Member::LastId, "missing"))?;
        Ok(Some(Recover { epoch, last_id }))
    }

    fn has(&self, member: Member) -> bool {
        self.raw[member as usize].is_some()
    }

    fn raw(&self, member: Member) -> Result<&'a str, Fault> {
        self.raw[member as usize].ok_or(Fault::Member(member, "missing"))
    }

    fn text(&self, member: Member) -> Result<Cow<'a, str>, Fault> {
        let raw = self.raw(member)?;
        let quoted = raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        let inner = quoted.ok_or(Fault::Member(member, "not a string"))?;
        if !inner.contains('\\') {
            return Ok(Cow::Borrowed(inner));
        }
        // The grammar allows \ud800 alone (RFC 8259 §8.2); there is no such character to compare or to hand on.
        let decoded =
            serde_json::from_str(raw).map_err(|_| Fault::Member(member, "half a surrogate pair"))?;
        Ok(Cow::Owned(decoded))
    }

    fn name(&self, member: Member) -> Result<Cow<'a, str>, Fault> {
        let name = self.text(member)?;
        if !is_name(&name) {
            return Err(Fault::Member(
                member,
                "not a name: 1 to 255 bytes, no control characters, not separators alone",
            ));
        }
        Ok(name)
    }

    fn flag(&self, member: Member) -> Result<Option<bool>, Fault> {
        match self.raw[member as usize] {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(Fault::Member(member, "neither true nor false")),
        }
    }

    /// A whole number. JSON has no leading `+`, and quotes, signs, points and exponents do not parse.
    fn number(&self, member: Member) -> Result<Option<u64>, Fault> {
        let Some(raw) = self.raw[member as usize] else { return Ok(None) };
        raw.parse().map(Some).map_err(|_| Fault::Member(member, "not a whole number from 0"))
    }

    fn limit(&self) -> Result<Option<u32>, Fault> {
        let limit = self.number(Member::Limit)?;
        Ok(limit.map(|limit| u32::try_from(limit).unwrap_or(u32::MAX)))
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Members { raw: [None; Member::COUNT], twice: None };
                while let Some(MemberName(known)) = map.next_key()? {
                    let Some(member) = known else {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    };
                    let value: &'de RawValue = map.next_value()?;
                    if members.raw[member as usize].replace(value.get()).is_some() {
                        members.twice.get_or_insert(member);
                    }
                }
                Ok(members)
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// The key of a member; `None` for one that no command knows.
struct MemberName(Option<Member>);

impl<'de> Deserialize<'de> for MemberName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Key;

        impl Visitor<'_> for Key {
            type Value = MemberName;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a key")
            }

            fn visit_str<E>(self, key: &str) -> Result<MemberName, E> {
                Ok(MemberName(Member::named(key)))
            }
        }

        deserializer.deserialize_str(Key)
    }
}

/// Whether arrays and objects nest deeper than `limit` in `text`, which is JSON.
pub fn nests_deeper_than(limit: usize, text: &str) -> bool {
    // Each level is two bytes, and nearly every longer text has too few brackets to be deep: counting them is much
    // cheaper than the walk below.
    if text.len() <= 2 * limit || openings(text) <= limit {
        return false;
    }
    let (mut depth, mut in_string) = (0, false);
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => in_string = !in_string,
            b'\\' => drop(bytes.next()),
            _ if in_string => {}
            b'}' | b']' => depth -= 1,
            b'{' | b'[' if depth == limit => return true,
            b'{' | b'[' => depth += 1,
            _ => {}
        }
    }
    false
}

/// How many opening brackets `text` has, in strings or not.
fn openings(text: &str) -> usize {
    // Sums of bytes become vector instructions, and 255 of them cannot overflow one. `[` and `{` differ in one bit.
    let in_chunk = |chunk: &[u8]| chunk.iter().map(|&byte| u8::from(byte | 0x20 == b'{')).sum::<u8>();
    text.as_bytes().chunks(255).map(|chunk| usize::from(in_chunk(chunk))).sum()
}
