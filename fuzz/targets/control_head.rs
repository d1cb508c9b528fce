//! Request heads of the admin listener: cut anywhere they are accepted or refused alike, an accepted one means what a reader
//! that knows words, lines and colons alone finds in it, and what the public listener takes is refused only where this one says so.
//!
//! The first byte is the length of the pieces the rest comes in.
#![no_main]

use libfuzzer_sys::fuzz_target;
use megasock::control::http::head::{
    self, HEAD_BYTES_MAX, HEADERS_MAX, Head, NAME_BYTES_MAX, Refusal, TARGET_BYTES_MAX,
};
use megasock::control::http::{Code, Limits};
use megasock::proto::head::{self as public, find_end};
use serde_json::Value;

const BODY_BYTES_MAX: usize = Limits::DEFAULT.body_bytes;

fuzz_target!(|input: &[u8]| {
    let [piece_len, bytes @ ..] = input else { return };
    let whole = receive(bytes, bytes.len());
    let pieces = receive(bytes, usize::from(*piece_len) + 1);
    match (&whole, pieces) {
        (Outcome::Accepted(head, end), Outcome::Accepted(other, other_end)) => {
            assert_eq!((facts(head), *end), (facts(&other), other_end));
            let naive = read_naively(&bytes[..*end]);
            is_within_limits(&naive, *end);
            assert_eq!(facts(head), naive);
        }
        // With several faults, which of them is met first may depend on where the bytes are cut.
        (Outcome::Refused, Outcome::Refused) | (Outcome::Unfinished, Outcome::Unfinished) => {}
        _ => panic!("the cut decides"),
    }
    if let Some(end) = find_end(bytes, 0)
        && public::parse(&bytes[..end]).is_ok()
        && !matches!(whole, Outcome::Accepted(..))
    {
        assert!(may_be_refused(&bytes[..end]), "the public listener takes it");
    }
});

enum Outcome {
    Accepted(Head, usize),
    Refused,
    Unfinished,
}

/// What a conversation does with bytes that come in pieces.
fn receive(bytes: &[u8], piece_len: usize) -> Outcome {
    let mut received = 0;
    while received < bytes.len() {
        let searched = received;
        received = bytes.len().min(received + piece_len);
        if let Some(end) = find_end(&bytes[..received], searched) {
            return match head::read((&bytes[..end]).into(), &Limits::DEFAULT) {
                Ok(head) => Outcome::Accepted(head, end),
                Err(refusal) => refused(refusal),
            };
        }
        if let Err(refusal) = head::refuse_early(&bytes[..received]) {
            return refused(refusal);
        }
        assert!(received < HEAD_BYTES_MAX, "more is kept than a head may have");
    }
    Outcome::Unfinished
}

/// Whoever is refused is told one of the codes that the documentation lists.
fn refused(refusal: Refusal) -> Outcome {
    let answer = refusal.answer();
    let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
    let is_this = |code: &Code| code.text() == body["error"]["code"] && code.status() == answer.status;
    assert!(Code::ALL.iter().any(is_this), "{body}");
    Outcome::Refused
}

/// All that a head says.
#[derive(Debug, PartialEq)]
struct Facts {
    method: String,
    path: String,
    query: Vec<(String, String)>,
    /// By name, in lower case.
    fields: Vec<(String, Vec<u8>)>,
    body_bytes: usize,
    expects_continue: bool,
    keeps_alive: bool,
}

fn facts(head: &Head) -> Facts {
    let fields = head.headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
    Facts {
        method: head.method.to_string(),
        path: head.path.clone(),
        query: head.query.clone(),
        fields: by_name(fields.collect()),
        body_bytes: head.body_bytes,
        expects_continue: head.expects_continue,
        keeps_alive: head.keeps_alive,
    }
}

/// Sorted by name alone: the order of fields of one name has a meaning.
fn by_name(mut fields: Vec<(String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    fields.sort_by(|(one, _), (other, _)| one.cmp(other));
    fields
}

impl Facts {
    fn values(&self, name: &str) -> Vec<&[u8]> {
        let fields = self.fields.iter().filter(|(other, _)| other == name);
        fields.map(|(_, value)| &**value).collect()
    }
}

/// A head that somebody has accepted, read without asking whether it may be.
fn read_naively(head: &[u8]) -> Facts {
    let lines: Vec<&[u8]> = head[..head.len() - 4].split(|byte| *byte == b'\n').collect();
    let mut lines = lines.iter().map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let first = str::from_utf8(lines.next().unwrap_or_default()).expect("ASCII");
    let [method, target, version] = first.split(' ').collect::<Vec<_>>()[..] else { panic!("{first:?}") };
    let fields = lines.map(|line| {
        let colon = line.iter().position(|byte| *byte == b':').expect("a field has a colon");
        (String::from_utf8_lossy(&line[..colon]).to_lowercase(), line[colon + 1..].trim_ascii().to_vec())
    });
    let (path, query) = path_and_query(target);
    let mut facts = Facts {
        method: method.to_owned(),
        path: path.to_owned(),
        query,
        fields: by_name(fields.collect()),
        body_bytes: 0,
        expects_continue: false,
        keeps_alive: false,
    };
    let is_1_1 = version == "HTTP/1.1";
    assert!(is_1_1 || version == "HTTP/1.0");
    let hosts = facts.values("host").len();
    assert!(hosts == 1 || (hosts == 0 && !is_1_1));
    if let [length] = facts.values("content-length")[..] {
        let digits =
            str::from_utf8(length).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        facts.body_bytes = digits.and_then(|digits| digits.parse().ok()).unwrap_or(usize::MAX);
    }
    facts.expects_continue = is_1_1 && !facts.values("expect").is_empty();
    let connection = facts.values("connection").join(&b',').to_ascii_lowercase();
    facts.keeps_alive =
        is_1_1 && !connection.split(|byte| *byte == b',').any(|one| one.trim_ascii() == b"close");
    facts
}

/// The path as it is, the pairs of the query decoded.
fn path_and_query(target: &str) -> (&str, Vec<(String, String)>) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = match path.split_once("://") {
        Some((_, rest)) if !path.starts_with('/') => rest.find('/').map_or("/", |slash| &rest[slash..]),
        _ => path,
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    (path, pairs.map(|(name, value)| (decoded(name), decoded(value))).collect())
}

fn decoded(text: &str) -> String {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let (bytes, mut at, mut decoded) = (text.as_bytes(), 0, Vec::new());
    while let Some(byte) = bytes.get(at) {
        let escaped = digit(bytes.get(at + 1)).zip(digit(bytes.get(at + 2))).filter(|_| *byte == b'%');
        at += if escaped.is_some() { 3 } else { 1 };
        decoded.push(match escaped {
            Some((high, low)) => (high * 16 + low) as u8,
            None if *byte == b'+' => b' ',
            None => *byte,
        });
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn is_within_limits(facts: &Facts, head_bytes: usize) {
    assert!(head_bytes <= HEAD_BYTES_MAX && facts.fields.len() <= HEADERS_MAX && facts.method.len() <= 17);
    for (name, value) in &facts.fields {
        assert!((1..=NAME_BYTES_MAX).contains(&name.len()));
        assert!(value.iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control()));
    }
    assert!(facts.path.len() <= TARGET_BYTES_MAX && (facts.path.starts_with('/') || facts.path == "*"));
    assert!(facts.values("content-length").len() <= 1 && facts.body_bytes <= BODY_BYTES_MAX);
    assert!(facts.values("transfer-encoding").is_empty());
}

/// Whether a head that the public listener takes may be refused by this one, which knows bodies and decodes queries.
fn may_be_refused(head: &[u8]) -> bool {
    let facts = read_naively(head);
    let target = head.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~/?&=+%:@!$'()*,;".contains(byte);
    let is_replaced = |text: &str| text.contains(char::REPLACEMENT_CHARACTER);
    !target.starts_with(b"/")
        || !target.iter().all(is_plain)
        || facts.query.iter().any(|(name, value)| is_replaced(name) || is_replaced(value))
        || facts.fields.len() > HEADERS_MAX
        || facts.fields.iter().any(|(name, _)| name.len() > NAME_BYTES_MAX)
        || !facts.values("transfer-encoding").is_empty()
        || facts.body_bytes > BODY_BYTES_MAX
        || !matches!(facts.values("expect")[..], [] | [b"100-continue"])
}
