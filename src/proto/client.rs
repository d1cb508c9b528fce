//! The client's half, as far as the driver and the tests need it: masked frames out, server frames in, the handshake.
//!
//! Not a client library: it does not reassemble messages, choose keys or judge a server beyond what is said here.

use super::close::Violation;
use super::frame::{self, Header, Opcode, Sender};
use super::head::HEADERS_MAX;
use super::mask;
use super::upgrade::VERSION;
use std::fmt;

/// Appends a whole masked frame.
///
/// ```
/// use megasock::proto::{client::encode_masked, frame::Opcode};
/// let mut out = Vec::new();
/// encode_masked(&mut out, Opcode::Text, [0x37, 0xfa, 0x21, 0x3d], b"Hello");
/// assert_eq!(out, [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]); // RFC 6455 §5.7
/// ```
pub fn encode_masked(out: &mut Vec<u8>, opcode: Opcode, key: [u8; 4], payload: &[u8]) {
    encode_masked_fragment(out, true, opcode, key, payload);
}

/// Appends a masked frame that may be one of several of its message.
pub fn encode_masked_fragment(out: &mut Vec<u8>, fin: bool, opcode: Opcode, key: [u8; 4], payload: &[u8]) {
    let (mut header, header_len) = frame::encode_header(opcode, payload.len());
    if !fin {
        header[0] &= 0x7F;
    }
    header[1] |= 0x80;
    out.extend_from_slice(&header[..header_len]);
    out.extend_from_slice(&key);
    let body_start = out.len();
    out.extend_from_slice(payload);
    mask::apply(&mut out[body_start..], key, 0);
}

/// Decodes the header of a server's frame: as [`frame::decode`], but a mask is what is forbidden.
pub fn decode_server_header(bytes: &[u8]) -> Result<Option<Header>, Violation> {
    frame::decode_from(Sender::Server, bytes)
}

/// A handshake request. `key` is 16 bytes in base64.
pub fn upgrade_request(host: &str, path: &str, key: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: {VERSION}\r\n\r\n"
    )
    .into_bytes()
}

/// A server's answer to [`upgrade_request`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpgradeResponse {
    /// The HTTP status; 101 is success if `accept` is right as well.
    pub status: u16,
    /// Bytes of the response's head; what follows are frames or, if refused, the body.
    pub consumed: usize,
    /// `Sec-WebSocket-Accept`, to be compared with [`super::upgrade::accept_key`]; `None` if missing or misshapen.
    pub accept: Option<[u8; 28]>,
    /// The server names an extension, which none was offered for: the connection must fail (§4.1).
    pub has_extensions: bool,
}

/// Bytes that are no HTTP response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotHttp;

impl fmt::Display for NotHttp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an HTTP response")
    }
}

impl std::error::Error for NotHttp {}

/// Reads a response's head; `Ok(None)` while it is incomplete.
pub fn parse_upgrade_response(bytes: &[u8]) -> Result<Option<UpgradeResponse>, NotHttp> {
    let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let consumed = match response.parse(bytes) {
        Ok(httparse::Status::Complete(consumed)) => consumed,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(NotHttp),
    };
    let value =
        |name: &str| response.headers.iter().find(|f| f.name.eq_ignore_ascii_case(name)).map(|f| f.value);
    Ok(Some(UpgradeResponse {
        status: response.code.ok_or(NotHttp)?,
        consumed,
        accept: value("sec-websocket-accept").and_then(|accept| accept.try_into().ok()),
        has_extensions: value("sec-websocket-extensions").is_some(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_read_when_its_head_is_complete() {
        let bytes = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\n\r\nbusy";
        let consumed = bytes.len() - 4;
        for end in 0..consumed {
            assert_eq!(parse_upgrade_response(&bytes[..end]), Ok(None), "{end} bytes");
        }
        let refused = UpgradeResponse { status: 503, consumed, accept: None, has_extensions: false };
        assert_eq!(parse_upgrade_response(bytes), Ok(Some(refused)));
        assert_eq!(parse_upgrade_response(b"\x88\x02"), Err(NotHttp));
    }

    #[test]
    fn an_extension_and_a_misshapen_accept_are_noticed() {
        let bytes = b"HTTP/1.1 101 X\r\nsec-websocket-accept: short\r\nSEC-WEBSOCKET-EXTENSIONS: x\r\n\r\n";
        let response = parse_upgrade_response(bytes).unwrap().unwrap();
        assert_eq!((response.accept, response.has_extensions), (None, true));
    }

    #[test]
    fn a_fragment_is_masked_and_has_no_fin() {
        let mut out = vec![0xEE];
        encode_masked_fragment(&mut out, false, Opcode::Binary, [1, 2, 3, 4], &[0; 130]);
        assert_eq!(out[..9], [0xEE, 0x02, 0xFE, 0, 130, 1, 2, 3, 4]);
        assert_eq!(out[9..], [1, 2, 3, 4].repeat(33)[..130]);
    }
}
