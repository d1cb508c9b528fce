//! What the driver says and hears: messages that carry their connection and number, so that every echo is verified
//! byte for byte, and a reader of server frames that keeps nothing between messages.
//!
//! The reader verifies a message as its bytes arrive; it never collects one. A frame may be cut anywhere.

use crate::channels;
use crate::target::Speech;
use megasock::proto::client;
use megasock::proto::frame::{Header, Opcode};

/// Bytes at the head of a message that name connection and number, least significant digit first.
const STAMP_BYTES: usize = 16;
const FILLER_BYTES: usize = 4096;
const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// The content of messages of one size. Text in ASCII: the server has to check its UTF-8.
pub(crate) struct Script {
    speech: Speech,
    message_bytes: usize,
    filler: Box<[u8]>,
    scratch: Vec<u8>,
}

impl Script {
    /// Messages of `payload_bytes`; over raw TCP as many bytes as the frame would have.
    pub(crate) fn new(speech: Speech, payload_bytes: usize) -> Script {
        let message_bytes = match speech {
            Speech::Bytes => payload_bytes + masked_header_bytes(payload_bytes),
            _ => payload_bytes,
        };
        // A run of letters of no short period, so that bytes of another position do not match by chance.
        let mut state = 1u32;
        let letter = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            b'a' + (state >> 24) as u8 % 26
        };
        let filler = (0..FILLER_BYTES).map(letter).collect();
        Script { speech, message_bytes, filler, scratch: Vec::with_capacity(message_bytes) }
    }

    /// Payloads of publications: the same content, whoever speaks them.
    pub(crate) fn payloads(payload_bytes: usize) -> Script {
        Script::new(Speech::Topic, payload_bytes)
    }

    /// Appends message `number` of `connection` as it goes over the wire. In channels that is a ping.
    pub(crate) fn say(&mut self, out: &mut Vec<u8>, connection: u32, number: u32) {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        match self.speech {
            Speech::Bytes => self.write(out, connection, number),
            Speech::Channels => frame(out, connection, number, channels::ping(number).as_bytes()),
            Speech::Echo | Speech::Topic => {
                self.write(&mut scratch, connection, number);
                frame(out, connection, number, &scratch);
            }
        }
        self.scratch = scratch;
    }

    /// Appends the content of message `number` of `connection`.
    pub(crate) fn write(&self, out: &mut Vec<u8>, connection: u32, number: u32) {
        let start = out.len();
        out.extend(stamp(connection, number).into_iter().take(self.message_bytes));
        while out.len() - start < self.message_bytes {
            let at = out.len() - start;
            let run = self.filler_at(at, number);
            out.extend_from_slice(&run[..run.len().min(self.message_bytes - at)]);
        }
    }

    /// Connection and number that a message names.
    pub(crate) fn stamped(message: &[u8]) -> Option<(u32, u32)> {
        let digit = |byte: &u8| DIGITS.iter().position(|digit| digit == byte);
        let value = message
            .get(..STAMP_BYTES)?
            .iter()
            .rev()
            .try_fold(0u64, |value, byte| Some(value << 4 | digit(byte)? as u64))?;
        Some(((value >> 32) as u32, value as u32))
    }

    /// Whether `bytes` are what message `number` of `connection` has from `at` on.
    pub(crate) fn matches(&self, connection: u32, number: u32, mut at: usize, mut bytes: &[u8]) -> bool {
        if at + bytes.len() > self.message_bytes {
            return false;
        }
        if at < STAMP_BYTES {
            let (head, rest) = bytes.split_at(bytes.len().min(STAMP_BYTES - at));
            if stamp(connection, number)[at..at + head.len()] != *head {
                return false;
            }
            (at, bytes) = (at + head.len(), rest);
        }
        while !bytes.is_empty() {
            let run = self.filler_at(at, number);
            let now = run.len().min(bytes.len());
            if run[..now] != bytes[..now] {
                return false;
            }
            (at, bytes) = (at + now, &bytes[now..]);
        }
        true
    }

    /// Bytes of a whole message as the server returns it.
    pub(crate) fn message_bytes(&self) -> usize {
        self.message_bytes
    }

    fn filler_at(&self, at: usize, number: u32) -> &[u8] {
        &self.filler[(at + number as usize) % FILLER_BYTES..]
    }
}

/// Appends a masked text frame; the key is different each time and can be computed again.
pub(crate) fn frame(out: &mut Vec<u8>, connection: u32, number: u32, text: &[u8]) {
    let key = number.wrapping_mul(0x9E37_79B9) ^ connection;
    client::encode_masked(out, Opcode::Text, key.to_le_bytes(), text);
}

fn stamp(connection: u32, number: u32) -> [u8; STAMP_BYTES] {
    let value = u64::from(connection) << 32 | u64::from(number);
    std::array::from_fn(|digit| DIGITS[(value >> (4 * digit)) as usize & 15])
}

/// RFC 6455 §5.2: 2 bytes, the extended length, 4 bytes of masking key.
fn masked_header_bytes(payload_bytes: usize) -> usize {
    match payload_bytes {
        0..=125 => 6,
        126..=0xFFFF => 8,
        _ => 14,
    }
}

/// What is left of an unfinished message, frame or upgrade response. A connection at rest has none.
#[derive(Default)]
pub(crate) struct Partial {
    /// Bytes of an incomplete frame header, control frame or upgrade response.
    pub(crate) kept: Vec<u8>,
    /// Bytes of the data frame still to come, and whether it ends its message; `None` between frames.
    frame: Option<(u64, bool)>,
    /// Between the first and the last frame of a message.
    in_message: bool,
    /// Message bytes seen.
    message_at: usize,
}

/// One thing a server said.
#[derive(Debug, PartialEq)]
pub(crate) enum Heard<'a> {
    /// Bytes of a message from position `at` on; `last`: the message ends here.
    Data {
        bytes: &'a [u8],
        at: usize,
        last: bool,
    },
    Ping(Vec<u8>),
    Pong,
    /// The end, with its code where it has one.
    Close(Option<u16>),
}

/// The server broke the protocol.
#[derive(Debug, PartialEq)]
pub(crate) struct Garbled;

/// Takes the next thing a WebSocket server said off `input`; `None` when more bytes are needed.
pub(crate) fn hear<'a>(
    partial: &mut Option<Box<Partial>>,
    input: &mut &'a [u8],
) -> Result<Option<Heard<'a>>, Garbled> {
    loop {
        if let Some(state) = partial
            && let Some((left, ends)) = state.frame
        {
            if input.is_empty() && left > 0 {
                return Ok(None);
            }
            let now = left.min(input.len() as u64) as usize;
            let (bytes, rest) = input.split_at(now);
            *input = rest;
            let at = state.message_at;
            state.message_at += now;
            let frame_ended = left == now as u64;
            state.frame = (!frame_ended).then_some((left - now as u64, ends));
            let last = frame_ended && ends;
            if last {
                *partial = None;
            }
            return Ok(Some(Heard::Data { bytes, at, last }));
        }
        let Some((header, control)) = next_frame(partial, input)? else { return Ok(None) };
        match header.opcode {
            Opcode::Ping => return Ok(Some(Heard::Ping(control))),
            Opcode::Pong => return Ok(Some(Heard::Pong)),
            Opcode::Close => {
                let code = control.first_chunk().map(|code| u16::from_be_bytes(*code));
                return Ok(Some(Heard::Close(code)));
            }
            Opcode::Text | Opcode::Binary | Opcode::Continuation => {
                if header.fin
                    && partial.is_none()
                    && header.opcode != Opcode::Continuation
                    && header.payload_len <= input.len() as u64
                {
                    // Whole, as nearly always: nothing to remember.
                    let (bytes, rest) = input.split_at(header.payload_len as usize);
                    *input = rest;
                    return Ok(Some(Heard::Data { bytes, at: 0, last: true }));
                }
                let state = partial.get_or_insert_default();
                if (header.opcode == Opcode::Continuation) != state.in_message {
                    return Err(Garbled); // RFC 6455 §5.4
                }
                state.in_message = true;
                state.frame = Some((header.payload_len, header.fin));
            }
        }
    }
}

/// The next frame's header, and the whole body of a control frame.
fn next_frame(
    partial: &mut Option<Box<Partial>>,
    input: &mut &[u8],
) -> Result<Option<(Header, Vec<u8>)>, Garbled> {
    let mut kept = partial.as_mut().map(|state| std::mem::take(&mut state.kept)).unwrap_or_default();
    loop {
        // Without kept bytes the frame is read where it lies; otherwise it is completed byte by byte, which is rare.
        let source = if kept.is_empty() { *input } else { &kept };
        let header = client::decode_server_header(source).map_err(|_| Garbled)?;
        if let Some(header) = header {
            let body = if header.opcode.is_control() { header.payload_len as usize } else { 0 };
            if let Some(control) = source.get(header.header_len..header.header_len + body) {
                let control = control.to_vec();
                if kept.is_empty() {
                    *input = &input[header.header_len + body..];
                } else if partial.as_ref().is_some_and(|state| !state.in_message) {
                    *partial = None;
                }
                return Ok(Some((header, control)));
            }
        }
        if kept.is_empty() {
            kept = input.to_vec();
            *input = &[];
        } else if let Some((first, rest)) = input.split_first() {
            kept.push(*first);
            *input = rest;
            continue;
        }
        if !kept.is_empty() {
            partial.get_or_insert_default().kept = kept;
        }
        return Ok(None);
    }
}

/// The same for a server that returns bytes: the next part of a message of `message_bytes`.
pub(crate) fn hear_bytes<'a>(
    partial: &mut Option<Box<Partial>>,
    input: &mut &'a [u8],
    message_bytes: usize,
) -> Option<Heard<'a>> {
    if input.is_empty() {
        return None;
    }
    let at = partial.as_ref().map_or(0, |state| state.message_at);
    let (bytes, rest) = input.split_at(input.len().min(message_bytes - at));
    *input = rest;
    let last = at + bytes.len() == message_bytes;
    if last {
        *partial = None;
    } else {
        partial.get_or_insert_default().message_at = at + bytes.len();
    }
    Some(Heard::Data { bytes, at, last })
}

/// What `Retry-After` says in a response's head, in seconds.
pub(crate) fn retry_after_s(head: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(head).ok()?;
    let fields = text.split("\r\n").skip(1).take_while(|line| !line.is_empty());
    fields
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("retry-after"))
        .and_then(|(_, value)| value.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server_frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            0..=125 => bytes.push(payload.len() as u8),
            126..=0xFFFF => {
                bytes.push(126);
                bytes.extend((payload.len() as u16).to_be_bytes());
            }
            _ => {
                bytes.push(127);
                bytes.extend((payload.len() as u64).to_be_bytes());
            }
        }
        bytes.extend(payload);
        bytes
    }

    fn text(script: &mut Script, connection: u32, number: u32) -> Vec<u8> {
        let Script { message_bytes, .. } = *script;
        let mut raw =
            Script { speech: Speech::Bytes, message_bytes, filler: script.filler.clone(), scratch: vec![] };
        let mut out = Vec::new();
        raw.say(&mut out, connection, number);
        out
    }

    /// Reads `stream` in pieces of `step` bytes; returns verified messages and pings.
    fn read(script: &Script, stream: &[u8], step: usize) -> (u32, Vec<Vec<u8>>) {
        let (mut partial, mut messages, mut pings) = (None, 0, Vec::new());
        for mut piece in stream.chunks(step) {
            while let Some(heard) = hear(&mut partial, &mut piece).unwrap() {
                match heard {
                    Heard::Data { bytes, at, last } => {
                        assert!(
                            script.matches(9, messages, at, bytes),
                            "message {messages} at {at}, step {step}"
                        );
                        if last {
                            assert_eq!(at + bytes.len(), script.message_bytes());
                            messages += 1;
                        }
                    }
                    Heard::Ping(body) => pings.push(body),
                    Heard::Pong | Heard::Close(_) => panic!("not sent"),
                }
            }
        }
        assert!(partial.is_none(), "nothing is kept between messages");
        (messages, pings)
    }

    #[test]
    fn any_cut_of_the_stream_gives_the_same_messages() {
        for payload_bytes in [1, 15, 64, 125, 126, 5000, 70_000] {
            let mut script = Script::new(Speech::Echo, payload_bytes);
            let first = text(&mut script, 9, 0);
            let second = text(&mut script, 9, 1);
            let (head, tail) = second.split_at(payload_bytes / 2);
            let stream = [
                server_frame(0x81, &first),
                server_frame(0x89, b"are you there"),
                server_frame(0x01, head),
                server_frame(0x89, b""),
                server_frame(0x80, tail),
            ]
            .concat();
            for step in [1, 2, 3, 7, 64, 4096, stream.len()] {
                let (messages, pings) = read(&script, &stream, step);
                assert_eq!(messages, 2);
                assert_eq!(pings, [b"are you there".to_vec(), Vec::new()]);
            }
        }
    }

    #[test]
    fn a_wrong_byte_number_or_length_is_seen() {
        let mut script = Script::new(Speech::Echo, 300);
        let good = text(&mut script, 5, 77);
        assert!(script.matches(5, 77, 0, &good));
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(!script.matches(5, 77, 0, &bad), "byte {at}");
        }
        assert!(!script.matches(5, 78, 0, &good));
        assert!(!script.matches(6, 77, 0, &good));
        assert!(!script.matches(5, 77, 1, &good));
    }

    #[test]
    fn a_continuation_of_nothing_and_a_message_within_a_message_are_garbled() {
        for stream in
            [server_frame(0x80, b"x"), [server_frame(0x01, b"x"), server_frame(0x81, b"y")].concat()]
        {
            let (mut partial, mut input) = (None, &stream[..]);
            let end = std::iter::from_fn(|| hear(&mut partial, &mut input).transpose()).find(Result::is_err);
            assert_eq!(end, Some(Err(Garbled)));
        }
    }

    #[test]
    fn a_close_says_its_code_and_a_refusal_when_to_come_back() {
        for (body, code) in [(&[0x03, 0xF4, b'x'][..], Some(1012)), (&[], None)] {
            let frame = server_frame(0x88, body);
            assert_eq!(hear(&mut None, &mut &frame[..]), Ok(Some(Heard::Close(code))));
        }
        let head =
            |field| format!("HTTP/1.1 429 Too Many Requests\r\nServer: x\r\n{field}\r\n\r\nretry-after: 9");
        for (field, seconds) in [
            ("Retry-After: 5", Some(5)),
            ("retry-after:17 ", Some(17)),
            ("Retry-After: soon", None),
            ("A: b", None),
        ] {
            assert_eq!(retry_after_s(head(field).as_bytes()), seconds, "{field}");
        }
    }

    #[test]
    fn a_stamp_is_read_as_it_was_written() {
        let mut script = Script::new(Speech::Echo, 64);
        assert_eq!(Script::stamped(&text(&mut script, 0xC1A0_70C1, 77)), Some((0xC1A0_70C1, 77)));
        assert_eq!((Script::stamped(b"0123"), Script::stamped(b"0123456789abcdeF")), (None, None));
    }

    #[test]
    fn raw_bytes_are_as_long_as_the_frame_would_be() {
        let mut frame = Vec::new();
        for payload_bytes in [64, 125, 126, 70_000] {
            frame.clear();
            Script::new(Speech::Echo, payload_bytes).say(&mut frame, 1, 1);
            assert_eq!(Script::new(Speech::Bytes, payload_bytes).message_bytes(), frame.len());
        }
    }
}
