//! Where a handshake carries its token.

use crate::proto::head::Head;
use std::borrow::Cow;

/// What stands before a token among the subprotocols.
const SUBPROTOCOL: &str = "token.";

/// The token of a request: `Authorization: Bearer`, else a subprotocol `token.<jwt>`, else `?token=`.
///
/// A browser can set no header but the subprotocols. It offers `megasock` beside the token, and that is what is answered:
/// the token is never sent back.
///
/// ```
/// use megasock::hub::token;
/// use megasock::proto::head::parse;
/// let bytes = b"GET /ws HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Protocol: megasock, token.a.b.c\r\n\r\n";
/// assert_eq!(token::of_request(&parse(bytes).unwrap()).as_deref(), Some("a.b.c"));
/// ```
pub fn of_request<'h>(head: &'h Head<'_>) -> Option<Cow<'h, str>> {
    let bearer = || {
        let (scheme, token) = head.header("authorization")?.split_once(' ')?;
        // RFC 9110 §11.1: in any case. Another scheme is somebody else's.
        scheme.eq_ignore_ascii_case("bearer").then(|| Cow::Borrowed(token.trim()))
    };
    let subprotocol = || {
        let mut offered = head.list("sec-websocket-protocol").filter_map(|one| std::str::from_utf8(one).ok());
        offered.find_map(|one| one.strip_prefix(SUBPROTOCOL)).map(Cow::Borrowed)
    };
    let query = || {
        let value = head.query?.split('&').find_map(|pair| pair.strip_prefix("token="))?;
        Some(percent_encoding::percent_decode_str(value).decode_utf8_lossy())
    };
    bearer().or_else(subprotocol).or_else(query)
}
