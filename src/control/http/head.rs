//! The head of a request: screened byte by byte, then read by monoio-http.
//!
//! Stricter than RFC 9112 where two readers could understand one head differently.

use super::{Answer, Code, Limits};
use ::http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING};
use ::http::{HeaderMap, HeaderName, Method, Uri, Version};
use bytes::BytesMut;
use monoio_codec::{Decoded, Decoder};
use monoio_http::h1::codec::decoder::RequestHeadDecoder;
use percent_encoding::percent_decode_str;

pub const HEAD_BYTES_MAX: usize = 16 * 1024;
pub const TARGET_BYTES_MAX: usize = 8 * 1024;
pub const HEADERS_MAX: usize = 64;
pub const NAME_BYTES_MAX: usize = 128;
/// The longest registered one has 17 (UPDATEREDIRECTREF).
const METHOD_BYTES_MAX: usize = 17;

/// Why a request is not read further. What was sent is never repeated in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    code: Code,
    message: &'static str,
}

impl Refusal {
    pub const HEAD_TIMEOUT: Refusal =
        refusal(Code::RequestTimeout, "the head of the request did not come in time");
    pub const BODY_TIMEOUT: Refusal =
        refusal(Code::RequestTimeout, "the body of the request did not come in time");
    pub const BODY_TOO_LARGE: Refusal = refusal(Code::TooLarge, "the body is larger than 1 MiB");
    pub const BODIES_TOO_LARGE: Refusal =
        refusal(Code::TryAgain, "other requests have too much in hand; try again");
    pub const FULL: Refusal = refusal(Code::TryAgain, "all connections are in use; try again");

    pub fn answer(self) -> Answer {
        Answer::error(self.code, self.message)
    }
}

const fn refusal(code: Code, message: &'static str) -> Refusal {
    Refusal { code, message }
}

const fn bad(message: &'static str) -> Refusal {
    refusal(Code::BadRequest, message)
}

const HEAD_TOO_LARGE: Refusal = refusal(Code::HeadTooLarge, "the head is larger than 16 KiB");
const NO_METHOD: Refusal = bad("the first line begins with no method");

/// A head, read and found sound.
#[derive(Debug)]
pub struct Head {
    pub method: Method,
    pub path: String,
    pub query: Vec<(String, String)>,
    pub headers: HeaderMap,
    pub body_bytes: usize,
    /// The client waits for a 100 before it sends the body (RFC 9110 §10.1.1).
    pub expects_continue: bool,
    pub keeps_alive: bool,
}

/// Refuses what has not ended yet but can no longer become a head.
pub fn refuse_early(bytes: &[u8]) -> Result<(), Refusal> {
    let start = &bytes[..bytes.len().min(METHOD_BYTES_MAX + 1)];
    match start.iter().position(|byte| !is_token(*byte)) {
        Some(end) if end > 0 && start[end] == b' ' => {}
        None if start.len() <= METHOD_BYTES_MAX => {}
        _ => return Err(NO_METHOD),
    }
    if bytes.len() >= HEAD_BYTES_MAX { Err(HEAD_TOO_LARGE) } else { Ok(()) }
}

/// Reads a head that ends with `bytes`.
pub fn read(mut bytes: BytesMut, limits: &Limits) -> Result<Head, Refusal> {
    screen(&bytes)?;
    let Ok(Decoded::Some(head)) = RequestHeadDecoder.decode(&mut bytes) else {
        return Err(bad("this is no request of HTTP/1.1"));
    };
    let headers = head.headers;
    check_host(&headers, head.version)?;
    let body_bytes = body_bytes(&headers, limits)?;
    let (path, query) = target(&head.uri, &headers)?;
    Ok(Head {
        method: head.method,
        path,
        query,
        body_bytes,
        expects_continue: expects_continue(&headers, head.version)?,
        keeps_alive: head.version == Version::HTTP_11 && !lists(&headers, &CONNECTION, "close"),
        headers,
    })
}

/// Everything the parser is too trusting about.
fn screen(bytes: &[u8]) -> Result<(), Refusal> {
    if bytes.len() > HEAD_BYTES_MAX {
        return Err(HEAD_TOO_LARGE);
    }
    let lines = bytes.strip_suffix(b"\r\n").ok_or(bad("the head has no end"))?;
    let mut headers: usize = 0;
    for (at, line) in lines.split_inclusive(|byte| *byte == b'\n').enumerate() {
        // RFC 9112 §2.2 lets a line end with LF alone; then two readers may find different lines.
        let line = line.strip_suffix(b"\r\n").ok_or(bad("a line ends without a carriage return"))?;
        match at {
            0 => screen_first(line)?,
            _ => screen_header(line)?,
        }
        headers = at;
    }
    match headers {
        ..=HEADERS_MAX => Ok(()),
        _ => Err(refusal(Code::HeadTooLarge, "there are more than 64 headers")),
    }
}

fn screen_first(line: &[u8]) -> Result<(), Refusal> {
    refuse_early(line)?;
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(_method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(bad("the first line is not a method, a target and a version"));
    };
    if target.len() > TARGET_BYTES_MAX {
        return Err(refusal(Code::UriTooLong, "the target is longer than 8 KiB"));
    }
    if target.is_empty() || !target.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#') {
        return Err(bad("the target has characters that must be percent-encoded"));
    }
    match version {
        b"HTTP/1.1" | b"HTTP/1.0" => Ok(()),
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', ..] => {
            Err(refusal(Code::VersionNotSupported, "this listener speaks HTTP/1.1 and HTTP/1.0"))
        }
        _ => Err(bad("the first line ends with no version of HTTP")),
    }
}

fn screen_header(line: &[u8]) -> Result<(), Refusal> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(bad("a header is folded over two lines"));
    }
    let colon = line.iter().position(|byte| *byte == b':').ok_or(bad("a header has no colon"))?;
    let (name, value) = line.split_at(colon);
    if name.len() > NAME_BYTES_MAX {
        return Err(refusal(Code::HeadTooLarge, "the name of a header is longer than 128 bytes"));
    }
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
        return Err(bad("the name of a header is no token"));
    }
    match value.iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control()) {
        true => Ok(()),
        false => Err(bad("a header has a control character in it")),
    }
}

/// A byte of a token (RFC 9110 §5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// RFC 9112 §3.2: exactly one Host; HTTP/1.0 knew none.
fn check_host(headers: &HeaderMap, version: Version) -> Result<(), Refusal> {
    match headers.get_all(HOST).iter().count() {
        1 => Ok(()),
        0 if version == Version::HTTP_10 => Ok(()),
        0 => Err(bad("there is no Host")),
        _ => Err(bad("there are several Hosts")),
    }
}

/// RFC 9112 §6.3: two ways to say how long the body is, or one way twice, are how requests are smuggled.
fn body_bytes(headers: &HeaderMap, limits: &Limits) -> Result<usize, Refusal> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    match (lengths.next(), lengths.next(), headers.contains_key(TRANSFER_ENCODING)) {
        (None, _, false) => Ok(0),
        (None, _, true) => Err(refusal(
            Code::LengthRequired,
            "Transfer-Encoding is not taken; say how long the body is with Content-Length",
        )),
        (Some(_), _, true) => Err(bad("there are Content-Length and Transfer-Encoding")),
        (Some(_), Some(_), _) => Err(bad("there are several Content-Lengths")),
        (Some(length), None, false) => {
            let digits = length.as_bytes();
            if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
                return Err(bad("Content-Length is no number"));
            }
            // What is too large for the type is too large for us.
            let length = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<usize>().ok());
            length.filter(|length| *length <= limits.body_bytes).ok_or(Refusal::BODY_TOO_LARGE)
        }
    }
}

/// Path and query. A full URI (RFC 9112 §3.2.2) must name the host that Host names, or who is checked by one is not who is
/// served by the other.
fn target(uri: &Uri, headers: &HeaderMap) -> Result<(String, Vec<(String, String)>), Refusal> {
    if let Some(authority) = uri.authority() {
        let host = headers.get(HOST).map(|host| host.as_bytes());
        let is_same = host.is_some_and(|host| host.eq_ignore_ascii_case(authority.as_str().as_bytes()));
        if uri.scheme().is_none() || !is_same {
            return Err(bad("the target names another host than Host"));
        }
    }
    let pairs = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    let query = pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((decoded(name)?, decoded(value)?))
    });
    Ok((uri.path().to_owned(), query.collect::<Result<_, _>>()?))
}

/// As forms and `URLSearchParams` write it: a plus is a space.
fn decoded(text: &str) -> Result<String, Refusal> {
    let text = text.replace('+', " ");
    let decoded = percent_decode_str(&text).decode_utf8();
    decoded.map(|text| text.into_owned()).map_err(|_| bad("the query is not UTF-8"))
}

fn expects_continue(headers: &HeaderMap, version: Version) -> Result<bool, Refusal> {
    let mut expectations = headers.get_all(EXPECT).iter();
    match (expectations.next(), expectations.next()) {
        (None, _) => Ok(false),
        (Some(one), None) if one.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
            Ok(version == Version::HTTP_11)
        }
        _ => Err(refusal(Code::ExpectationFailed, "only 100-continue can be expected")),
    }
}

/// Whether a comma-separated header (RFC 9110 §5.6.1) has this element.
fn lists(headers: &HeaderMap, name: &HeaderName, element: &str) -> bool {
    let values = headers.get_all(name).iter();
    let mut elements = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    elements.any(|one| one.trim_ascii().eq_ignore_ascii_case(element.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    /// What heads are made of, and what breaks them.
    const PIECES: &[&[u8]] = &[
        b"GET ",
        b"POST ",
        b"/",
        b"*",
        b"?a=b&c",
        b"http://a/",
        b"//",
        b"@[::1]:x/",
        b" HTTP/1.1",
        b" HTTP/1.0",
        b"\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b"\t",
        b":",
        b"Host: a\r\n",
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Expect: 100-continue\r\n",
        b"X: y\r\n",
        b"\xff",
        b"%",
        b"%C3%A4",
    ];

    proptest! {
        /// A panic would fail it; and of what is let through, nothing is beyond its limit.
        #[test]
        fn no_head_panics_and_none_that_is_read_is_beyond_a_limit(
            starts_well in any::<bool>(),
            pieces in vec((select(PIECES), prop_oneof![9 => Just(1_usize), 1 => 1_usize..20_000]), 0..40),
        ) {
            let mut bytes = BytesMut::from(if starts_well { &b"GET / HTTP/1.1\r\nHost: a\r\n"[..] } else { b"" });
            pieces.iter().for_each(|(piece, times)| bytes.extend_from_slice(&piece.repeat(*times)));
            bytes.extend_from_slice(b"\r\n\r\n");
            let len = bytes.len();
            if let Ok(head) = read(bytes, &Limits::DEFAULT) {
                prop_assert!(len <= HEAD_BYTES_MAX && head.headers.len() <= HEADERS_MAX);
                prop_assert!(head.path.starts_with(['/', '*']), "{}", head.path);
                prop_assert!(head.body_bytes <= Limits::DEFAULT.body_bytes);
                let values = head.headers.iter().all(|(_, value)| {
                    value.as_bytes().iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control())
                });
                prop_assert!(values && !head.headers.contains_key(TRANSFER_ENCODING));
            }
        }
    }

    #[test]
    fn at_its_limits_a_head_is_read() {
        let head = |name: usize, target: usize, headers: usize| {
            let more = "X: y\r\n".repeat(headers - 2);
            let (name, target) = ("n".repeat(name), "t".repeat(target - 1));
            let text = format!("GET /{target} HTTP/1.1\r\nHost: a\r\n{name}: v\r\n{more}\r\n");
            read(BytesMut::from(text.as_bytes()), &Limits::DEFAULT)
                .map(|_| ())
                .map_err(|refusal| refusal.code)
        };
        assert_eq!(head(NAME_BYTES_MAX, TARGET_BYTES_MAX, HEADERS_MAX), Ok(()));
        let too_large = Err(Code::HeadTooLarge);
        assert_eq!(head(NAME_BYTES_MAX + 1, 1, 2), too_large);
        assert_eq!(head(1, 1, HEADERS_MAX + 1), too_large);
        assert_eq!(head(1, TARGET_BYTES_MAX + 1, 2), Err(Code::UriTooLong));
    }
}
