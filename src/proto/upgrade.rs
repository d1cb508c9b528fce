//! The opening handshake, the server's half (RFC 6455 §4.2).
//!
//! [`check`] either gives the proof that the request was understood or a [`Refusal`] with its whole response. No
//! extension is ever accepted: `Sec-WebSocket-Extensions` is not even read (§9.1 lets a server decline all).

use super::head::Head;
use super::response::{self, Status};
use base64::Engine;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use sha1::{Digest, Sha1};

/// The one protocol version there is (§4.4).
pub const VERSION: &str = "13";

/// Joined to the key before hashing (§1.3).
const KEY_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Reads keys whose unused last bits are not zero: clients that make up 22 random characters still mean 16 bytes.
const KEY_BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// Header fields that must not come twice in an upgrade; Host is checked for every request.
const SINGLE_FIELDS: [&str; 3] = ["sec-websocket-key", "sec-websocket-version", "origin"];

/// A request that may be upgraded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upgrade {
    /// The value of `Sec-WebSocket-Accept`.
    pub accept: [u8; 28],
}

/// Why a request is not upgraded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Only GET can be upgraded.
    Method,
    /// The request has a body, whose bytes would be taken for frames.
    Body,
    /// A field that must be there at most once is there twice.
    Duplicate,
    /// `Upgrade` does not name websocket.
    NotWebSocket,
    /// `Connection` does not name upgrade.
    NoConnection,
    /// The version is not 13.
    Version,
    /// The key is missing or not 16 bytes in base64.
    Key,
}

impl Refusal {
    /// The status to refuse with.
    pub const fn status(self) -> Status {
        match self {
            Refusal::Method => Status::MethodNotAllowed,
            Refusal::NotWebSocket | Refusal::Version => Status::UpgradeRequired,
            Refusal::Body | Refusal::Duplicate | Refusal::NoConnection | Refusal::Key => Status::BadRequest,
        }
    }

    /// The whole response.
    pub fn response(self) -> Vec<u8> {
        // RFC 9110 §15.5.22: a 426 names the protocol, and §7.8: Connection names Upgrade.
        let headers: &[(&str, &str)] = match self.status() {
            Status::MethodNotAllowed => &[("Allow", "GET")],
            Status::UpgradeRequired => {
                &[("Sec-WebSocket-Version", VERSION), ("Upgrade", "websocket"), ("Connection", "Upgrade")]
            }
            _ => &[],
        };
        let line = match self {
            Refusal::Method => "A WebSocket handshake is a GET.",
            Refusal::Body => "A WebSocket handshake has no body.",
            Refusal::Duplicate => "A header of the WebSocket handshake came twice.",
            Refusal::NotWebSocket => "This address speaks WebSocket: send Upgrade: websocket.",
            Refusal::NoConnection => "A WebSocket handshake needs Connection: Upgrade.",
            Refusal::Version => "This server speaks WebSocket version 13.",
            Refusal::Key => "Sec-WebSocket-Key must be 16 bytes in base64.",
        };
        response::refuse(self.status(), headers, line)
    }
}

/// Whether the request asks to change the protocol, to this one or another.
pub fn wants_upgrade(head: &Head<'_>) -> bool {
    head.values("upgrade").next().is_some()
}

/// Judges a handshake (§4.2.1). Path, Origin and who may connect are the caller's to judge.
pub fn check(head: &Head<'_>) -> Result<Upgrade, Refusal> {
    if head.method != "GET" {
        return Err(Refusal::Method);
    }
    if head.values("transfer-encoding").next().is_some()
        || head.values("content-length").any(|len| len != b"0")
    {
        return Err(Refusal::Body);
    }
    if SINGLE_FIELDS.iter().any(|name| head.values(name).nth(1).is_some()) {
        return Err(Refusal::Duplicate);
    }
    if !head.list("upgrade").any(|protocol| protocol.eq_ignore_ascii_case(b"websocket")) {
        return Err(Refusal::NotWebSocket);
    }
    if !head.list("connection").any(|option| option.eq_ignore_ascii_case(b"upgrade")) {
        return Err(Refusal::NoConnection);
    }
    if head.values("sec-websocket-version").next() != Some(VERSION.as_bytes()) {
        return Err(Refusal::Version);
    }
    let key = head.values("sec-websocket-key").next().ok_or(Refusal::Key)?;
    // 18 bytes is the most that 24 characters can make; a longer key does not fit and fails for that.
    let mut nonce = [0; 18];
    if KEY_BASE64.decode_slice(key, &mut nonce) != Ok(16) {
        return Err(Refusal::Key);
    }
    Ok(Upgrade { accept: accept_key(key) })
}

/// The proof of having read `key` (§4.2.2 step 5.4).
///
/// ```
/// let accept = megasock::proto::upgrade::accept_key(b"dGhlIHNhbXBsZSBub25jZQ==");
/// assert_eq!(&accept, b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="); // the example of RFC 6455 §1.3
/// ```
pub fn accept_key(key: &[u8]) -> [u8; 28] {
    let digest = Sha1::new().chain_update(key).chain_update(KEY_SUFFIX).finalize();
    let mut accept = [0; 28];
    STANDARD.encode_slice(digest, &mut accept).expect("20 bytes are 28 characters of base64");
    accept
}

/// The subprotocols a client offers, in its order of preference; what is not a token is left out.
pub fn subprotocols<'h>(head: &'h Head<'_>) -> impl Iterator<Item = &'h str> {
    let offers = head.list("sec-websocket-protocol");
    offers
        .filter(|offer| offer.iter().all(|byte| super::head::is_token_byte(*byte)))
        .filter_map(|offer| std::str::from_utf8(offer).ok())
}

/// The 101 response. `subprotocol` must be one of [`subprotocols`], or the client will fail the connection (§4.1).
pub fn accept_response(accept: &[u8; 28], subprotocol: Option<&str>) -> Vec<u8> {
    const START: &[u8] =
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ";
    let mut response = [START, accept, b"\r\n"].concat();
    if let Some(subprotocol) = subprotocol {
        response.extend([b"Sec-WebSocket-Protocol: ", subprotocol.as_bytes(), b"\r\n"].concat());
    }
    response.extend(b"\r\n");
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::client::{UpgradeResponse, parse_upgrade_response, upgrade_request};
    use crate::proto::head::parse;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    /// The verdict on a good request with one text in it replaced.
    fn verdict(from: &str, to: &str) -> Result<Upgrade, Refusal> {
        let good = String::from_utf8(upgrade_request("example", "/echo", KEY)).unwrap();
        assert!(good.contains(from), "{from:?} is in the request");
        let bytes = good.replace(from, to).into_bytes();
        check(&parse(&bytes).expect("the head itself is sound"))
    }

    #[test]
    fn hostile_handshakes() {
        let key_line = format!("Sec-WebSocket-Key: {KEY}\r\n");
        let add = |line: &str| format!("{line}\r\n{key_line}");
        let rows = [
            ("GET", "POST", Refusal::Method),
            ("GET", "get", Refusal::Method), // methods are case-sensitive
            ("GET", "HEAD", Refusal::Method),
            (&key_line, "", Refusal::Key),
            (&key_line, &key_line.repeat(2), Refusal::Duplicate),
            (KEY, "", Refusal::Key),
            (KEY, "dGhlIHNhbXBsZSBub25jZ", Refusal::Key),
            (KEY, "dGhlIHNhbXBsZSBub25j", Refusal::Key), // 15 bytes
            (KEY, "dGhlIHNhbXBsZSBub25jZWU=", Refusal::Key), // 17 bytes
            (KEY, "dGhlIHNhbXBsZSBub25jZWVl", Refusal::Key), // 18 bytes
            (KEY, "dGhlIHNhbXBsZSBub25jZQ=A", Refusal::Key),
            (KEY, "!!!!!!!!!!!!!!!!!!!!!!==", Refusal::Key),
            ("Version: 13", "Version: 7", Refusal::Version),
            ("Version: 13", "Version: 8", Refusal::Version),
            ("Version: 13", "Version: 99", Refusal::Version),
            ("Version: 13", "Version: 013", Refusal::Version),
            ("Version: 13", "Version: 13, 8", Refusal::Version),
            ("Sec-WebSocket-Version: 13\r\n", "", Refusal::Version),
            (&key_line, &add("Sec-WebSocket-Version: 13"), Refusal::Duplicate),
            (&key_line, &add("Origin: http://a\r\nOrigin: http://b"), Refusal::Duplicate),
            ("Upgrade: websocket", "Upgrade: h2c", Refusal::NotWebSocket),
            ("Upgrade: websocket", "Upgrade: websockets", Refusal::NotWebSocket),
            ("Upgrade: websocket\r\n", "", Refusal::NotWebSocket),
            ("Connection: Upgrade", "Connection: keep-alive", Refusal::NoConnection),
            ("Connection: Upgrade\r\n", "", Refusal::NoConnection),
            (&key_line, &add("Content-Length: 1"), Refusal::Body),
            (&key_line, &add("Content-Length: 0, 0"), Refusal::Body),
            (&key_line, &add("Transfer-Encoding: chunked"), Refusal::Body),
        ];
        for (from, to, refusal) in rows {
            assert_eq!(verdict(from, to), Err(refusal), "{from:?} becomes {to:?}");
        }
    }

    #[test]
    fn harmless_variations_are_accepted() {
        let key_line = format!("Sec-WebSocket-Key: {KEY}\r\n");
        let add = |line: &str| format!("{line}\r\n{key_line}");
        let offers = "permessage-deflate; client_max_window_bits=99; constructor; constructor, ".repeat(100);
        let accept = *b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
        let rows = [
            (KEY, KEY),
            ("Upgrade: websocket", "uPGRADE: h2c, WebSocket"),
            ("Connection: Upgrade", "Connection: keep-alive\r\nConnection: foo,upgrade"),
            (&key_line, &add("Content-Length: 0")),
            (&key_line, &add(&format!("Sec-WebSocket-Extensions: {offers}"))), // declined by silence
        ];
        for (from, to) in rows {
            assert_eq!(verdict(from, to), Ok(Upgrade { accept }), "{to:?}");
        }
        // Unused bits of the last character that are not zero.
        assert_eq!(verdict(KEY, "dGhlIHNhbXBsZSBub25jZR==").map(|u| u.accept == accept), Ok(false));
    }

    #[test]
    fn refusals_say_what_would_be_right_and_repeat_nothing() {
        let rows = [
            (Refusal::Method, 405, "Allow: GET\r\n"),
            (Refusal::Body, 400, ""),
            (Refusal::Duplicate, 400, ""),
            (Refusal::NotWebSocket, 426, "Sec-WebSocket-Version: 13\r\nUpgrade: websocket\r\n"),
            (Refusal::NoConnection, 400, ""),
            (Refusal::Version, 426, "Sec-WebSocket-Version: 13\r\nUpgrade: websocket\r\n"),
            (Refusal::Key, 400, ""),
        ];
        for (refusal, code, headers) in rows {
            let response = String::from_utf8(refusal.response()).unwrap();
            assert!(response.starts_with(&format!("HTTP/1.1 {code} ")), "{response}");
            assert!(response.contains("\r\nConnection: close\r\n"), "{response}");
            assert!(response.contains(headers), "{response}");
        }
    }

    /// A lenient peer would not notice a wrong Accept, an extension nobody asked for, a subprotocol nobody chose.
    #[test]
    fn the_101_says_what_the_client_must_check_and_no_more() {
        let request = upgrade_request("example", "/echo", KEY);
        let upgrade = check(&parse(&request).unwrap()).unwrap();
        let response = accept_response(&upgrade.accept, None);
        assert_eq!(
            std::str::from_utf8(&response).unwrap(),
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        );
        let seen = UpgradeResponse {
            status: 101,
            consumed: response.len(),
            accept: Some(accept_key(KEY.as_bytes())),
            has_extensions: false,
        };
        assert_eq!(parse_upgrade_response(&[&response[..], b"\x89\x00"].concat()), Ok(Some(seen)));
    }

    #[test]
    fn subprotocols_are_tokens_in_the_clients_order() {
        let lines = "Sec-WebSocket-Protocol: chat, b@d, \u{fc}ml\r\nSec-WebSocket-Protocol: super.chat\r\n";
        let bytes = [b"GET / HTTP/1.1\r\nHost: a\r\n", lines.as_bytes(), b"\r\n"].concat();
        let head = parse(&bytes).unwrap();
        assert_eq!(subprotocols(&head).collect::<Vec<_>>(), ["chat", "super.chat"]);
        let response = String::from_utf8(accept_response(&[b'A'; 28], Some("super.chat"))).unwrap();
        assert!(response.ends_with("\r\nSec-WebSocket-Protocol: super.chat\r\n\r\n"));
        assert!(!wants_upgrade(&head));
    }
}
