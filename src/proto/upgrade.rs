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
    // 24 characters make at most 18 bytes; the length is checked first, so the buffer always suffices.
    let mut nonce = [0; 18];
    if key.len() != 24 || KEY_BASE64.decode_slice(key, &mut nonce) != Ok(16) {
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
