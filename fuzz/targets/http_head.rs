//! Request heads: cut anywhere they are accepted or refused alike, and an accepted one has one reading.
//!
//! The first byte is the length of the pieces the rest comes in.
#![no_main]

use libfuzzer_sys::fuzz_target;
use megasock::proto::head::{self, HEAD_BYTES_MAX, HEADERS_MAX, Head, TARGET_BYTES_MAX};

fuzz_target!(|input: &[u8]| {
    let [piece_len, bytes @ ..] = input else { return };
    let whole = receive(bytes, bytes.len());
    let pieces = receive(bytes, usize::from(*piece_len) + 1);
    match (whole, pieces) {
        (Outcome::Accepted(head, end), Outcome::Accepted(other, other_end)) => {
            assert_eq!((facts(&head), end), (facts(&other), other_end));
            has_one_reading(&head, &bytes[..end]);
        }
        // With several faults, which of them is met first may depend on where the bytes are cut.
        (Outcome::Refused, Outcome::Refused) | (Outcome::Unfinished, Outcome::Unfinished) => {}
        _ => panic!("the cut decides"),
    }
});

enum Outcome<'a> {
    Accepted(Head<'a>, usize),
    Refused,
    Unfinished,
}

/// What the reactor does with bytes that come in pieces.
fn receive(bytes: &[u8], piece_len: usize) -> Outcome<'_> {
    let mut received = 0;
    while received < bytes.len() {
        let from = received;
        received = bytes.len().min(received + piece_len);
        if let Some(end) = head::find_end(&bytes[..received], from) {
            return match head::parse(&bytes[..end]) {
                Ok(head) => Outcome::Accepted(head, end),
                Err(_) => Outcome::Refused,
            };
        }
        if head::refuse_early(&bytes[..received], from).is_err() {
            return Outcome::Refused;
        }
        assert!(received < HEAD_BYTES_MAX, "more is kept than a head may have");
    }
    Outcome::Unfinished
}

type Facts<'h> = (&'h str, &'h str, Option<&'h str>, Vec<(&'h str, &'h [u8])>);

fn facts<'h>(head: &'h Head<'_>) -> Facts<'h> {
    (head.method, head.path, head.query, head.headers().collect())
}

fn has_one_reading(head: &Head<'_>, bytes: &[u8]) {
    assert!(bytes.len() <= HEAD_BYTES_MAX && bytes.ends_with(b"\r\n\r\n"));
    let target_len = head.path.len() + head.query.map_or(0, |query| 1 + query.len());
    assert!(head.path.starts_with('/') && target_len <= TARGET_BYTES_MAX);
    assert!(head.path.split('/').all(|segment| segment != ".."));
    assert!(head.path.bytes().chain(head.query.unwrap_or("").bytes()).all(|byte| byte.is_ascii_graphic()));
    assert_eq!(head.values("HOST").count(), 1);
    assert!(head.headers().count() <= HEADERS_MAX);

    // A reader that knows lines and colons alone sees the same fields.
    let mut lines = bytes[..bytes.len() - 4]
        .split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let first = lines.next().unwrap_or_default();
    assert!(first.starts_with(head.method.as_bytes()) && first.ends_with(b" HTTP/1.1"));
    let naive: Vec<(&[u8], &[u8])> = lines
        .map(|line| {
            let colon = line.iter().position(|byte| *byte == b':').expect("a field has a colon");
            (&line[..colon], line[colon + 1..].trim_ascii())
        })
        .collect();
    let fields: Vec<(&[u8], &[u8])> =
        head.headers().map(|(name, value)| (name.as_bytes(), value.trim_ascii())).collect();
    assert_eq!(fields, naive);

    // And what it means, written down anew, means it again.
    let mut again = format!("{} {}", head.method, head.path).into_bytes();
    if let Some(query) = head.query {
        again.extend([b"?", query.as_bytes()].concat());
    }
    again.extend(b" HTTP/1.1\r\n");
    for (name, value) in head.headers() {
        again.extend([name.as_bytes(), b":", value, b"\r\n"].concat());
    }
    again.extend(b"\r\n");
    if again.len() <= HEAD_BYTES_MAX {
        assert_eq!(facts(&head::parse(&again).expect("a head it has accepted")), facts(head));
    }
}
