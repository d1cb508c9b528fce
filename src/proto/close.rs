//! How connections end: wire codes (RFC 6455 §7.4), the body of a Close frame, and the one table of close reasons.
//!
//! A *close code* is the wire's number, a [`CloseReason`] is ours: every ending has exactly one, and its name is the
//! metric label, the log key and the row in the documentation. [`Violation`] says which rule a peer broke.

use super::frame::{CONTROL_BYTES_MAX, Opcode, encode_header};
use std::fmt;

/// The close codes this project names (RFC 6455 §7.4.1 and the IANA registry).
pub mod code {
    /// The purpose of the connection is fulfilled.
    pub const NORMAL: u16 = 1000;
    /// The endpoint goes away: a server stops, a browser leaves the page.
    pub const GOING_AWAY: u16 = 1001;
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: u16 = 1002;
    /// A kind of data that is not accepted.
    pub const UNSUPPORTED_DATA: u16 = 1003;
    /// Data that does not fit its type, such as text that is not UTF-8.
    pub const INVALID_PAYLOAD: u16 = 1007;
    /// A policy is violated and no other code fits.
    pub const POLICY: u16 = 1008;
    /// A message is too big.
    pub const TOO_BIG: u16 = 1009;
    /// The server failed.
    pub const INTERNAL_ERROR: u16 = 1011;
    /// The server restarts: come back after a delay.
    pub const SERVICE_RESTART: u16 = 1012;
    /// The server is overloaded (or the client too slow for it): try again later.
    pub const TRY_AGAIN_LATER: u16 = 1013;
    /// Ours: no token, or one that is not accepted. Coming back with the same is of no use.
    pub const UNAUTHORIZED: u16 = 4001;
    /// Ours: the token's time is over. Come back with a new one.
    pub const TOKEN_EXPIRED: u16 = 4401;
}

/// Whether a code may appear in a Close frame (§7.4): registered 1000-1003 and 1007-1014, or 3000-4999.
///
/// 1004 is reserved; 1005, 1006 and 1015 are for local use only.
pub const fn is_valid(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Reads the payload of a Close frame: `None` when it is empty, else the code and the reason (§5.5.1).
pub fn parse_body(body: &[u8]) -> Result<Option<(u16, &str)>, Violation> {
    let Some((code, reason)) = body.split_first_chunk() else {
        return if body.is_empty() { Ok(None) } else { Err(Violation::CloseBody) };
    };
    let code = u16::from_be_bytes(*code);
    if !is_valid(code) {
        return Err(Violation::CloseCode);
    }
    let reason = simdutf8::basic::from_utf8(reason).map_err(|_| Violation::InvalidUtf8)?;
    Ok(Some((code, reason)))
}

/// A server's Close frame. Without a code the body is empty and `reason` is not sent; a reason beyond 123 bytes is
/// cut at a character.
///
/// ```
/// use megasock::proto::close::encode;
/// assert_eq!(encode(Some(1000), "bye"), b"\x88\x05\x03\xe8bye");
/// assert_eq!(encode(None, ""), b"\x88\x00");
/// ```
pub fn encode(code: Option<u16>, reason: &str) -> Vec<u8> {
    let code_bytes = code.map(u16::to_be_bytes);
    let code_bytes = code_bytes.as_ref().map_or(&[][..], |bytes| bytes);
    let mut reason_len = if code.is_some() { reason.len().min(CONTROL_BYTES_MAX - 2) } else { 0 };
    while !reason.is_char_boundary(reason_len) {
        reason_len -= 1;
    }
    let (header, header_len) = encode_header(Opcode::Close, code_bytes.len() + reason_len);
    [&header[..header_len], code_bytes, &reason.as_bytes()[..reason_len]].concat()
}

macro_rules! close_reasons {
    ($($variant:ident $name:literal $code:expr, $doc:literal;)*) => {
        /// Why a connection ended. The table for metrics, logs and documentation.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum CloseReason {
            $(#[doc = $doc] $variant,)*
        }

        impl CloseReason {
            /// Every reason, in the order of their numbers.
            pub const ALL: [CloseReason; [$($name),*].len()] = [$(CloseReason::$variant),*];

            /// The name in metrics, logs and documentation.
            pub const fn name(self) -> &'static str {
                match self { $(CloseReason::$variant => $name,)* }
            }

            /// The close code the server sends; `None` when it sends no Close frame or one with another's code.
            pub const fn code(self) -> Option<u16> {
                match self { $(CloseReason::$variant => $code,)* }
            }

            /// One line for the documentation.
            pub const fn doc(self) -> &'static str {
                match self { $(CloseReason::$variant => $doc,)* }
            }
        }
    };
}

close_reasons! {
    ClientClosed "client_closed" None, "The client sent Close; its code is echoed.";
    PeerEof "peer_eof" None, "The client ended the TCP connection without a Close frame.";
    PeerReset "peer_reset" None, "The client's TCP connection was reset.";
    ProxyHeader "proxy_header" None, "A trusted proxy did not begin with a PROXY header.";
    HandshakeTimeout "handshake_timeout" None, "No complete request within the handshake deadline.";
    HandshakeRefused "handshake_refused" None, "The request was answered with something other than an upgrade.";
    HeartbeatTimeout "heartbeat_timeout" None, "A ping was not answered; TCP is ended without a frame.";
    IdleTimeout "idle_timeout" Some(code::GOING_AWAY), "Nothing but pongs for the idle timeout.";
    MessageDeadline "message_deadline" Some(code::POLICY), "A message was not finished in time.";
    ProtocolError "protocol_error" Some(code::PROTOCOL_ERROR), "The client broke RFC 6455.";
    UnsupportedData "unsupported_data" Some(code::UNSUPPORTED_DATA), "A kind of message the handler refuses.";
    InvalidPayload "invalid_payload" Some(code::INVALID_PAYLOAD), "Text, or a close reason, is not UTF-8.";
    MessageTooBig "message_too_big" Some(code::TOO_BIG), "A message is over the size limit.";
    TooManyFragments "too_many_fragments" Some(code::POLICY), "A message has more frames than the limit.";
    TooManyErrors "too_many_errors" Some(code::POLICY), "The client's commands fail again and again.";
    MessageRate "message_rate_exceeded" Some(code::POLICY), "The client sends too many messages or pings, again and again.";
    ByteRate "byte_rate_exceeded" Some(code::POLICY), "The client sends too many bytes a second, again and again.";
    TooManyOfUser "user_connections" Some(code::POLICY), "The user has too many connections.";
    Unauthorized "unauthorized" Some(code::UNAUTHORIZED), "The client's token is missing or not accepted.";
    TokenExpired "token_expired" Some(code::TOKEN_EXPIRED), "The client's token has expired.";
    Overload "overload" Some(code::TRY_AGAIN_LATER), "A newcomer there is no room for, told so in a frame.";
    Shed "shed" Some(code::TRY_AGAIN_LATER), "An idle connection, closed because memory runs out.";
    SlowConsumer "slow_consumer" Some(code::TRY_AGAIN_LATER), "The client reads too slowly and its queue is full.";
    ServerShutdown "server_shutdown" Some(code::SERVICE_RESTART), "The server stops or restarts.";
    CloseTimeout "close_timeout" None, "The closing handshake was not finished in time.";
    HandlerClosed "handler_closed" None, "The application closed the connection, with its own code.";
    SendFailed "send_failed" None, "The kernel refused a send for a reason other than a reset.";
    InternalError "internal_error" Some(code::INTERNAL_ERROR), "The server failed.";
}

/// The rule a peer broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Violation {
    /// An RSV bit without an extension that defines it (§5.2).
    ReservedBits,
    /// An opcode without meaning (§5.2).
    ReservedOpcode,
    /// A client's frame without a mask (§5.1).
    Unmasked,
    /// A server's frame with a mask (§5.1).
    Masked,
    /// A control frame without FIN (§5.5).
    FragmentedControl,
    /// A control frame with more than 125 bytes (§5.5).
    OversizedControl,
    /// A length that is not minimal or has its top bit set (§5.2).
    InvalidLength,
    /// A continuation without a message to continue (§5.4).
    OrphanContinuation,
    /// A new message inside a fragmented one (§5.4).
    InterleavedMessage,
    /// A Close body of one byte (§5.5.1).
    CloseBody,
    /// A close code that may not be sent (§7.4).
    CloseCode,
    /// Text or a close reason that is not UTF-8 (§8.1).
    InvalidUtf8,
    /// A message over the size limit (§10.4).
    MessageTooBig,
    /// A message of more frames than the limit (§10.4).
    TooManyFragments,
}

impl Violation {
    /// The reason to end the connection with.
    pub const fn reason(self) -> CloseReason {
        match self {
            Violation::InvalidUtf8 => CloseReason::InvalidPayload,
            Violation::MessageTooBig => CloseReason::MessageTooBig,
            Violation::TooManyFragments => CloseReason::TooManyFragments,
            _ => CloseReason::ProtocolError,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Violation::ReservedBits => "a reserved bit is set",
            Violation::ReservedOpcode => "a reserved opcode",
            Violation::Unmasked => "a client's frame is not masked",
            Violation::Masked => "a server's frame is masked",
            Violation::FragmentedControl => "a control frame is fragmented",
            Violation::OversizedControl => "a control frame is longer than 125 bytes",
            Violation::InvalidLength => "a frame length is not minimal or has its top bit set",
            Violation::OrphanContinuation => "a continuation without a message",
            Violation::InterleavedMessage => "a new message inside a fragmented one",
            Violation::CloseBody => "a close body of one byte",
            Violation::CloseCode => "a close code that may not be sent",
            Violation::InvalidUtf8 => "text is not UTF-8",
            Violation::MessageTooBig => "a message is too big",
            Violation::TooManyFragments => "a message has too many fragments",
        })
    }
}

impl std::error::Error for Violation {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn body(code: u16, reason: &[u8]) -> Vec<u8> {
        [&code.to_be_bytes(), reason].concat()
    }

    #[test]
    fn the_codes_of_section_7_4_and_no_others() {
        let valid: Vec<u16> = (0..=u16::MAX).filter(|code| is_valid(*code)).collect();
        let registered = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014];
        assert_eq!(valid, registered.into_iter().chain(3000..=4999).collect::<Vec<u16>>());
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535] {
            assert_eq!(parse_body(&body(code, b"x")), Err(Violation::CloseCode), "{code}");
        }
        assert_eq!(Violation::CloseCode.reason().code(), Some(1002));
    }

    #[test]
    fn a_body_is_empty_or_a_code_and_utf8() {
        assert_eq!(parse_body(b""), Ok(None));
        assert_eq!(parse_body(b"\x03"), Err(Violation::CloseBody)); // §5.5.1
        assert_eq!(Violation::CloseBody.reason().code(), Some(1002));
        assert_eq!(parse_body(&body(1000, b"")), Ok(Some((1000, ""))));
        assert_eq!(parse_body(&body(4999, "gr\u{fc}n".as_bytes())), Ok(Some((4999, "gr\u{fc}n"))));
        assert_eq!(parse_body(&body(1000, b"\xED\xA0\x80")), Err(Violation::InvalidUtf8)); // §8.1
        assert_eq!(Violation::InvalidUtf8.reason().code(), Some(1007));
    }

    #[test]
    fn an_encoded_frame_reads_back_and_is_never_one_byte() {
        let long = "\u{20ac}".repeat(50); // 150 bytes: cut to 41 whole characters
        for (code, reason) in [(None, "dropped"), (Some(1001), ""), (Some(1013), "slow"), (Some(4000), &long)]
        {
            let frame = encode(code, reason);
            assert_eq!(frame[0], 0x88);
            assert_eq!(usize::from(frame[1]), frame.len() - 2);
            let kept = &reason[..reason.len().min(123)];
            assert_eq!(parse_body(&frame[2..]), Ok(code.map(|code| (code, kept))));
        }
    }

    #[test]
    fn each_violation_says_its_own_rule_and_closes_with_a_code() {
        use Violation::*;
        let all = [
            ReservedBits,
            ReservedOpcode,
            Unmasked,
            Masked,
            FragmentedControl,
            OversizedControl,
            InvalidLength,
            OrphanContinuation,
            InterleavedMessage,
            CloseBody,
            CloseCode,
            InvalidUtf8,
            MessageTooBig,
            TooManyFragments,
        ];
        let texts: HashSet<String> = all.iter().map(Violation::to_string).collect();
        assert_eq!(texts.len(), all.len());
        for violation in all {
            let code = violation.reason().code();
            assert!(
                code.is_some_and(|code| [1002, 1007, 1008, 1009].contains(&code)),
                "{violation}: {code:?}"
            );
        }
    }

    #[test]
    fn the_table_of_reasons_is_sound() {
        let names: HashSet<&str> = CloseReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), CloseReason::ALL.len());
        for (number, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
            assert!(reason.name().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
            assert!(reason.code().is_none_or(is_valid), "{reason:?}");
            assert!(reason.doc().ends_with('.'));
        }
    }
}
