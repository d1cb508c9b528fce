//! Arguments of the admin API: taken exactly if each is of its kind, single, and there where it must be, and what is taken is
//! what was sent; nesting, however deep, costs no stack.
//!
//! The first byte chooses. With bit 0 the rest is a body as it comes. Else its lines are `name=value`: a query's, or with
//! bit 1 those of a body, and with bit 2 the last value of that lies within as many brackets as the next two bytes say.
#![no_main]

mod nesting;

use libfuzzer_sys::fuzz_target;
use megasock::config;
use megasock::control::api::arguments::{Arguments, Kind, Need, OFFSET, Parameter};
use megasock::control::api::fault::Fault;
use megasock::proto::command::{NESTING_MAX, is_name};
use nesting::levels;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

/// One parameter of each kind at least, and of each need.
static TAKES: &[Parameter] = &[
    parameter("channel", Kind::Topic, Need::OneOf),
    parameter("room", Kind::Name, Need::OneOf),
    parameter("channels", Kind::Topics, Need::OneOf),
    parameter("rooms", Kind::Names, Need::OneOf),
    parameter("data", Kind::Data, Need::Required),
    parameter("connectionId", Kind::ConnectionId, Need::Optional),
    parameter("after", Kind::Prefix, Need::Optional),
    parameter("reason", Kind::Reason, Need::Optional),
    parameter("code", Kind::CloseCode, Need::Optional),
    parameter("limit", Kind::Count(1_000), Need::Optional),
    parameter("since", OFFSET, Need::Optional),
    parameter("timeout", Kind::Duration, Need::Optional),
];

const fn parameter(name: &'static str, kind: Kind, need: Need) -> Parameter {
    Parameter { name, kind, need, about: "" }
}

fuzz_target!(|input: &[u8]| {
    let [choice, rest @ ..] = input else { return };
    if choice & 1 != 0 {
        let read = Arguments::of_body(TAKES, rest);
        assert!(read.is_err() || serde_json::from_slice::<IgnoredAny>(rest).is_ok(), "it is no JSON");
        is_to_the_point(&read);
        return;
    }
    let (deep, lines) = match rest {
        [high, low, lines @ ..] if choice & 6 == 6 => (usize::from(u16::from_be_bytes([*high, *low])), lines),
        _ => (0, rest),
    };
    let Ok(lines) = str::from_utf8(lines) else { return };
    let pairs = lines.split('\n').filter_map(|line| line.split_once('='));
    let mut pairs: Vec<(String, String)> = pairs.map(|(name, value)| (name.into(), value.into())).collect();
    if choice & 2 == 0 {
        return holds(&Arguments::of_query(TAKES, &pairs), &pairs, of_text);
    }
    if let Some((_, value)) = pairs.last_mut() {
        *value = ["[".repeat(deep), std::mem::take(value), "]".repeat(deep)].concat();
    }
    // What is no JSON by itself might become some between its neighbours.
    if pairs.iter().all(|(_, value)| serde_json::from_str::<IgnoredAny>(value).is_ok()) {
        let members: Vec<String> =
            pairs.iter().map(|(name, value)| format!("{} :{value}", json!(name))).collect();
        let body = format!(" {{{}}}", members.join(", "));
        let read = Arguments::of_body(TAKES, body.as_bytes());
        match levels(&body) > NESTING_MAX {
            true => assert!(read.is_err(), "too deep"),
            false => holds(&read, &pairs, of_json),
        }
    }
});

fn is_to_the_point(read: &Result<Arguments, Fault>) {
    let Err(fault) = read else { return };
    let names = TAKES.iter().map(|parameter| parameter.name);
    let is_about = names
        .chain(["the body", "only one of", "there is no parameter"])
        .any(|subject| fault.message.starts_with(subject));
    assert!(is_about && fault.message.len() < 600, "{fault:?}");
    assert_eq!(fault.code.text(), "bad_request");
}

/// They are read exactly if `wanted` finds each to be something, and as that.
fn holds(
    read: &Result<Arguments, Fault>,
    pairs: &[(String, String)],
    wanted: fn(Kind, &str) -> Option<Value>,
) {
    is_to_the_point(read);
    let is_known = |name: &str| TAKES.iter().any(|parameter| parameter.name == name);
    let (mut fits, mut choices) = (pairs.iter().all(|(name, _)| is_known(name)), 0);
    for known in TAKES {
        let given = pairs.iter().filter(|(name, _)| name == known.name);
        let values: Vec<Option<Value>> = given.map(|(_, value)| wanted(known.kind, value)).collect();
        fits &= matches!(values[..], [] | [Some(_)]);
        match known.need {
            Need::Required => fits &= !values.is_empty(),
            Need::OneOf => choices += values.len(),
            Need::Optional => {}
        }
        if let (Ok(read), [Some(value)]) = (read, &values[..]) {
            assert_eq!(said(read, known), *value, "{}", known.name);
        }
    }
    assert_eq!(read.is_ok(), fits && choices == 1, "{pairs:?}");
}

/// What was read of one parameter.
fn said(read: &Arguments, known: &Parameter) -> Value {
    match known.kind {
        Kind::Topics | Kind::Names => json!(read.topics()),
        _ => read.number(known.name).map_or_else(|| json!(read.text(known.name)), Value::from),
    }
}

/// What a query's text is, if it is something of this kind.
fn of_text(kind: Kind, text: &str) -> Option<Value> {
    let is_hex = |part: &str| {
        (1..=8).contains(&part.len()) && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let fits = match kind {
        Kind::Topic => is_name(text.strip_prefix("room:").unwrap_or(text)),
        Kind::Name => is_name(text),
        Kind::ConnectionId => text.split('-').count() == 3 && text.split('-').all(is_hex),
        Kind::Reason => text.len() <= 123,
        Kind::Prefix | Kind::Data => true,
        Kind::Topics | Kind::Names => false,
        Kind::Count(_) | Kind::CloseCode => return of_number(kind, text.parse().ok().filter(|_| is_digits)?),
        Kind::Duration => {
            let duration_ms = config::duration_ms(text).ok().filter(|_| text.len() <= 32);
            return duration_ms.map(Value::from);
        }
    };
    fits.then(|| text.into())
}

/// What a JSON value is.
fn of_json(kind: Kind, json: &str) -> Option<Value> {
    let list = |each: Kind, mark: &str| {
        let names: Vec<String> = serde_json::from_str(json).ok()?;
        let fits =
            (1..=1_000).contains(&names.len()) && names.iter().all(|name| of_text(each, name).is_some());
        fits.then(|| names.iter().map(|name| format!("{mark}{name}")).collect())
    };
    match kind {
        Kind::Data => Some(json.trim().into()),
        Kind::Topics => list(Kind::Topic, ""),
        Kind::Names => list(Kind::Name, "room:"),
        Kind::Count(_) | Kind::CloseCode => of_number(kind, serde_json::from_str(json).ok()?),
        _ => of_text(kind, &serde_json::from_str::<String>(json).ok()?),
    }
}

fn of_number(kind: Kind, number: f64) -> Option<Value> {
    let fits = match kind {
        Kind::Count(most) => (0.0..=most as f64).contains(&number),
        _ => number == 1000.0 || (3000.0..=4999.0).contains(&number),
    };
    (fits && number.fract() == 0.0).then(|| json!(number as u64))
}
