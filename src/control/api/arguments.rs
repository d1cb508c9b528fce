//! What requests take: parameters as rows of a table, and the one place where they are read and checked.
//!
//! A GET has them in its query, a POST in the JSON object that is its body; there is no third place. An unknown one is refused: it
//! is a known one misspelt, as likely as not. One that comes twice is refused, since readers differ on which one counts. A mistake
//! is answered with the parameter's name.

use super::fault::Fault;
use crate::config;
use crate::control::http::Request;
use crate::hub::parse_connection_id;
use crate::proto::command::{NESTING_MAX, ROOM_MARK, is_name, nests_deeper_than};
use ::http::Method;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Value as Json, json};
use std::fmt;

/// The largest number all readers of JSON agree on (RFC 8259 §6).
const NUMBER_MAX: u64 = (1 << 53) - 1;

/// Topics of one broadcast.
const TOPICS_MAX: usize = 1_000;

/// Bytes of a close reason: a control frame has 125, the code takes two (RFC 6455 §5.5).
const REASON_BYTES_MAX: usize = 123;

/// Bytes of a time: more than any needs, and what is wrong with one repeats a part of it.
const DURATION_BYTES_MAX: usize = 32;

/// Characters of an unknown parameter's name that are repeated.
const UNKNOWN_CHARS_MAX: usize = 32;

/// A name without control characters that is more than separators, as [`is_name`] has it.
const NAME_PATTERN: &str =
    r"^[^\u0000-\u001f\u007f-\u009f]*[^\u0000-\u001f\u007f-\u009f:./\-_ ][^\u0000-\u001f\u007f-\u009f]*$";

/// One parameter of an endpoint.
pub struct Parameter {
    pub name: &'static str,
    pub kind: Kind,
    pub need: Need,
    pub about: &'static str,
}

/// Whether a parameter must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    Required,
    Optional,
    /// Exactly one of the endpoint's parameters that need this.
    OneOf,
}

/// What a parameter may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A channel; one that begins with `room:` is that room.
    Topic,
    Topics,
    /// A user or a room.
    Name,
    Names,
    ConnectionId,
    /// The beginning of names; may be empty.
    Prefix,
    Reason,
    CloseCode,
    /// Up to this.
    Count(u64),
    /// An option's time: `30s`.
    Duration,
    /// Any JSON value.
    Data,
}

/// A parameter's value that has been found to be of its kind.
enum Value {
    Text(String),
    Texts(Vec<String>),
    Number(u64),
}

/// All parameters of one request.
pub struct Arguments(Vec<(&'static str, Value)>);

impl Arguments {
    /// Reads what an endpoint takes. Where that is nothing, a query only keeps caches away.
    pub(in crate::control) fn read(takes: &[Parameter], request: &Request) -> Result<Arguments, Fault> {
        match request.method {
            Method::POST => Arguments::of_body(takes, &request.body),
            _ if takes.is_empty() => Ok(Arguments(Vec::new())),
            _ => Arguments::of_query(takes, &request.query),
        }
    }

    /// Reads what stands in a query, decoded.
    pub fn of_query(takes: &[Parameter], query: &[(String, String)]) -> Result<Arguments, Fault> {
        Arguments(from_query(takes, query)?).complete(takes)
    }

    /// Reads what stands in a body.
    pub fn of_body(takes: &[Parameter], body: &[u8]) -> Result<Arguments, Fault> {
        Arguments(from_body(takes, body)?).complete(takes)
    }

    /// Itself, if all is there that must be.
    fn complete(self, takes: &[Parameter]) -> Result<Arguments, Fault> {
        for parameter in takes {
            if parameter.need == Need::Required && !self.has(parameter.name) {
                return Err(Fault::bad(format!("{} is missing", parameter.name)));
            }
        }
        let choices: Vec<&str> =
            takes.iter().filter(|parameter| parameter.need == Need::OneOf).map(|p| p.name).collect();
        match choices.iter().filter(|name| self.has(name)).count() {
            0 if !choices.is_empty() => Err(Fault::bad(format!("{} is missing", choices.join(" or ")))),
            0 | 1 => Ok(self),
            _ => Err(Fault::bad(format!("only one of {} may be there", choices.join(" and ")))),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| *known == name)
    }

    fn value(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// A name, an id, a reason; of data its JSON.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.value(name) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    pub fn number(&self, name: &str) -> Option<u64> {
        match self.value(name) {
            Some(Value::Number(number)) => Some(*number),
            _ => None,
        }
    }

    /// The topic: `channel`, or `room`.
    pub fn topic(&self) -> String {
        let room = self.text("room").map(|room| format!("{ROOM_MARK}{room}"));
        room.or_else(|| self.text("channel").map(str::to_owned)).unwrap_or_default()
    }

    /// The topics: `channels`, or `rooms`.
    pub fn topics(&self) -> Vec<String> {
        match (self.value("channels"), self.value("rooms")) {
            (Some(Value::Texts(channels)), _) => channels.clone(),
            (_, Some(Value::Texts(rooms))) => rooms.iter().map(|room| format!("{ROOM_MARK}{room}")).collect(),
            _ => Vec::new(),
        }
    }
}

fn from_query(takes: &[Parameter], query: &[(String, String)]) -> Result<Vec<(&'static str, Value)>, Fault> {
    collect(takes, query.iter().map(|(name, text)| (&name[..], &text[..])), Kind::read_text)
}

fn from_body(takes: &[Parameter], body: &[u8]) -> Result<Vec<(&'static str, Value)>, Fault> {
    let text = std::str::from_utf8(body).map_err(|_| Fault::bad("the body is not UTF-8"))?;
    let Members(members) =
        serde_json::from_str(text).map_err(|_| Fault::bad("the body is not a JSON object"))?;
    if nests_deeper_than(NESTING_MAX, text) {
        return Err(Fault::bad(format!("the body is nested deeper than {NESTING_MAX}")));
    }
    collect(takes, members.iter().map(|(name, value)| (&name[..], value.get())), Kind::read_json)
}

fn collect<'a>(
    takes: &[Parameter],
    given: impl Iterator<Item = (&'a str, &'a str)>,
    read: fn(Kind, &str) -> Result<Value, String>,
) -> Result<Vec<(&'static str, Value)>, Fault> {
    let mut values: Vec<(&'static str, Value)> = Vec::new();
    for (name, value) in given {
        let known = takes.iter().find(|parameter| parameter.name == name);
        let Parameter { name, kind, .. } = *known.ok_or_else(|| unknown(takes, name))?;
        if values.iter().any(|(known, _)| *known == name) {
            return Err(Fault::bad(format!("{name} comes twice")));
        }
        values.push((name, read(kind, value).map_err(|what| Fault::bad(format!("{name} {what}")))?));
    }
    Ok(values)
}

fn unknown(takes: &[Parameter], name: &str) -> Fault {
    let name: String = name.chars().take(UNKNOWN_CHARS_MAX).collect();
    let names = || takes.iter().map(|parameter| parameter.name);
    let instead = match (config::nearest(&name, names()), takes) {
        (Some(near), _) => format!("did you mean {near}?"),
        (None, []) => "nothing is taken here".to_owned(),
        (None, _) => format!("there may be {}", names().collect::<Vec<_>>().join(", ")),
    };
    Fault::bad(format!("there is no parameter {name:?}: {instead}"))
}

impl Kind {
    /// From a query, or the inside of a JSON string. What is wrong follows the parameter's name.
    fn read_text(self, text: &str) -> Result<Value, String> {
        let number = || {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse().ok()).flatten().ok_or("must be a whole number")
        };
        match self {
            Kind::Topic => match Kind::Name.read_text(text.strip_prefix(ROOM_MARK).unwrap_or(text)) {
                Ok(_) => Ok(Value::Text(text.to_owned())),
                wrong => wrong,
            },
            Kind::Name if !is_name(text) => {
                Err("must have 1 to 255 bytes, no control characters, and not be made of separators alone"
                    .to_owned())
            }
            Kind::ConnectionId if parse_connection_id(text).is_none() => {
                Err("must be an id that a welcome told".to_owned())
            }
            Kind::Reason if text.len() > REASON_BYTES_MAX => {
                Err(format!("may have no more than {REASON_BYTES_MAX} bytes"))
            }
            Kind::Duration if text.len() > DURATION_BYTES_MAX => {
                Err(format!("may have no more than {DURATION_BYTES_MAX} bytes"))
            }
            Kind::Duration => config::duration_ms(text).map(Value::Number),
            Kind::Count(_) | Kind::CloseCode => self.read_number(number()?),
            Kind::Topics | Kind::Names => Err("must be a list".to_owned()),
            _ => Ok(Value::Text(text.to_owned())),
        }
    }

    fn read_number(self, number: u64) -> Result<Value, String> {
        match self {
            Kind::Count(most) if number > most => Err(format!("may be no more than {most}")),
            Kind::CloseCode if !matches!(number, 1000 | 3000..=4999) => {
                Err("must be 1000, or from 3000 to 4999".to_owned())
            }
            _ => Ok(Value::Number(number)),
        }
    }

    /// From one JSON value.
    fn read_json(self, json: &str) -> Result<Value, String> {
        match self {
            Kind::Data => Ok(Value::Text(json.to_owned())),
            Kind::Count(_) | Kind::CloseCode => {
                self.read_number(whole_number(json).ok_or("must be a whole number")?)
            }
            Kind::Topics | Kind::Names => {
                let names: Vec<String> =
                    serde_json::from_str(json).map_err(|_| "must be a list of strings")?;
                if names.is_empty() || names.len() > TOPICS_MAX {
                    return Err(format!("must be 1 to {TOPICS_MAX} names"));
                }
                let each = if self == Kind::Topics { Kind::Topic } else { Kind::Name };
                match names.iter().find_map(|name| each.read_text(name).err()) {
                    Some(wrong) => Err(format!("has a name that {wrong}")),
                    None => Ok(Value::Texts(names)),
                }
            }
            _ => {
                let text: String = serde_json::from_str(json).map_err(|_| "must be a string")?;
                self.read_text(&text)
            }
        }
    }

    /// As JSON Schema has it. Lengths are in characters there, in bytes here: a schema may allow what is refused for its length,
    /// and a time that is too long.
    pub fn schema(self) -> Json {
        let name = json!({"type": "string", "minLength": 1, "maxLength": 255, "pattern": NAME_PATTERN});
        match self {
            Kind::Topic | Kind::Name => name,
            Kind::Topics | Kind::Names => {
                json!({"type": "array", "items": name, "minItems": 1, "maxItems": TOPICS_MAX})
            }
            Kind::ConnectionId => {
                json!({"type": "string", "pattern": "^[0-9a-f]{1,8}-[0-9a-f]{1,8}-[0-9a-f]{1,8}$"})
            }
            Kind::Prefix => json!({"type": "string"}),
            Kind::Reason => json!({"type": "string", "maxLength": REASON_BYTES_MAX}),
            Kind::CloseCode => json!({
                "type": "integer",
                "anyOf": [{"const": 1000}, {"minimum": 3000, "maximum": 4999}],
                "default": 1000,
            }),
            Kind::Count(most) => json!({"type": "integer", "minimum": 0, "maximum": most}),
            Kind::Duration => json!({"type": "string", "pattern": "^[1-9][0-9]{0,8}(ms|s|m|h|d)$"}),
            Kind::Data => json!({}),
        }
    }
}

/// The widest count: offsets.
pub const OFFSET: Kind = Kind::Count(NUMBER_MAX);

/// A number without a fraction, however it is written (JSON has one kind of number).
fn whole_number(json: &str) -> Option<u64> {
    let number: serde_json::Number = serde_json::from_str(json).ok()?;
    let whole = |float: f64| {
        (float.fract() == 0.0 && (0.0..=NUMBER_MAX as f64).contains(&float)).then_some(float as u64)
    };
    number.as_u64().or_else(|| number.as_f64().and_then(whole))
}

/// The members of one object, each with its JSON, in their order.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Members<'a>, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_of_any_length_is_not_repeated() {
        let takes = [Parameter { name: "timeout", kind: Kind::Duration, need: Need::Optional, about: "" }];
        let refused = |timeout: String| {
            Arguments::of_query(&takes, &[("timeout".to_owned(), timeout)]).err().map(|fault| fault.message)
        };
        assert_eq!(refused(format!("{}1s", "0".repeat(DURATION_BYTES_MAX - 2))), None);
        assert_eq!(
            refused(format!("1{}", "s".repeat(1 << 20))).as_deref(),
            Some("timeout may have no more than 32 bytes")
        );
    }
}
