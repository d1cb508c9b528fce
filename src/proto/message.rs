//! The message decoder: client bytes in, events out (RFC 6455 §5, §6.2).
//!
//! A whole unfragmented message inside the receive buffer is unmasked where it lies: nothing copied, nothing allocated.
//! Everything else moves into the connection's [`Spill`] as it arrives, unmasked and checked at once.
//!
//! Invariants:
//! - Between messages a connection owns nothing: after [`next`] returned `Ok(None)`, the spill is `None` exactly if
//!   the bytes so far end at a message boundary.
//! - Memory grows with bytes received, never with a declared length.
//! - The first offending byte ends it: after an error the connection reads no further, and neither may the caller.
//!
//! It refuses to know time, sockets or what a message means; data after a Close frame is the caller's to ignore.

use super::close::{self, Violation};
use super::frame::{self, CONTROL_BYTES_MAX, Header, MASKED_HEADER_BYTES_MAX, Opcode};
use super::mask;
use super::utf8::Utf8Stream;
use std::fmt;
use std::ops::{Deref, Range};

/// Bytes kept free before a message body in a [`Spill`], so that a reply's header fits in front of it.
pub const HEADROOM: usize = frame::HEADER_BYTES_MAX;

/// Longest incomplete frame kept raw: a control frame lacking its last byte is longer than any data frame's header.
const PARTIAL_BYTES_MAX: usize = 2 + 4 + CONTROL_BYTES_MAX;
const _: () = assert!(PARTIAL_BYTES_MAX >= MASKED_HEADER_BYTES_MAX);

/// What a peer may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest message, all its fragments together, in bytes. Exactly this much is accepted.
    pub message_bytes_max: usize,
    /// Most frames of one message; empty ones count.
    pub fragments_max: u32,
}

/// Received bytes and how far they are read.
pub struct Input<'a> {
    /// What was received.
    pub bytes: &'a mut [u8],
    /// The next unread byte.
    pub at: usize,
}

impl Input<'_> {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    /// The next `count` bytes, or as many as there are.
    fn take(&mut self, count: usize) -> &[u8] {
        let start = self.at;
        self.at += count.min(self.bytes.len() - start);
        &self.bytes[start..self.at]
    }
}

/// The type of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8, checked.
    Text,
    /// Any bytes.
    Binary,
}

impl From<Kind> for Opcode {
    fn from(kind: Kind) -> Opcode {
        match kind {
            Kind::Text => Opcode::Text,
            Kind::Binary => Opcode::Binary,
        }
    }
}

/// Where the body of a message lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// This range of [`Input::bytes`]. The client's header before it (6, 8 or 14 bytes) leaves room for a server's
    /// (2, 4 or 10).
    Input(Range<usize>),
    /// The spill: [`Spill::body_mut`] or [`Spill::take_body`], until the following call of [`next`].
    Spill,
}

/// The payload of a ping or pong, at most 125 bytes.
///
/// On the heap: inside [`Event`] its bytes would be moved with every message too (measured: 60 ns a message, not 32).
#[derive(Clone, PartialEq, Eq)]
pub struct ControlBody(Box<[u8]>);

impl ControlBody {
    fn unmask(masked: &[u8], key: [u8; 4]) -> ControlBody {
        let mut bytes: Box<[u8]> = masked.into();
        mask::apply(&mut bytes, key, 0);
        ControlBody(bytes)
    }
}

impl Deref for ControlBody {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for ControlBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

const _: () = assert!(size_of::<Event>() <= 32);

/// Something a client sent, whole and valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A message.
    Message {
        /// Its type.
        kind: Kind,
        /// Where its bytes are.
        body: Place,
    },
    /// A ping, to be answered with a pong of the same body (§5.5.2).
    Ping(ControlBody),
    /// A pong.
    Pong(ControlBody),
    /// A Close frame and its code, if it had one. Nothing after it counts (§5.5.1).
    Close(Option<u16>),
}

/// What a connection owns while a message or a frame is incomplete. Nothing else survives between two receives.
pub struct Spill {
    /// [`HEADROOM`] bytes and the body so far. Lent out during a direct receive.
    message: Vec<u8>,
    /// Length of `message` that is unmasked and checked; beyond it lie bytes of a direct receive.
    settled: usize,
    /// The type of the message under way or just delivered; `None` outside a message.
    kind: Option<Kind>,
    /// The data frame under way; `None` between frames.
    open: Option<OpenFrame>,
    /// Frames of this message so far.
    fragments: u32,
    /// The text's state at `settled`; unused for binary.
    utf8: Utf8Stream,
    /// The message was handed out by the last call: this spill is over.
    delivered: bool,
    /// A raw header, or control frame, cut off by the end of a receive.
    partial: [u8; PARTIAL_BYTES_MAX],
    partial_len: u8,
    /// When the reactor first saw this message or frame incomplete; 0 until it says so. For its message deadline.
    pub started_tick: u32,
}

/// A data frame whose payload is arriving.
struct OpenFrame {
    fin: bool,
    key: [u8; 4],
    /// Payload bytes settled.
    offset: usize,
    /// Payload bytes not settled.
    missing: usize,
}

/// Decodes up to the next event. `Ok(None)` when all of `input` is read.
///
/// ```
/// use megasock::proto::message::{Event, Input, Kind, Limits, Place, next};
/// let limits = Limits { message_bytes_max: 1024, fragments_max: 16 };
/// let mut bytes = *b"\x82\x82\x01\x02\x03\x04\x00\x00"; // a masked binary frame
/// let (mut spill, mut input) = (None, Input { bytes: &mut bytes, at: 0 });
/// let event = next(&mut spill, &mut input, &limits).unwrap();
/// assert_eq!(event, Some(Event::Message { kind: Kind::Binary, body: Place::Input(6..8) }));
/// assert_eq!(input.bytes[6..8], [1, 2]);
/// assert_eq!(next(&mut spill, &mut input, &limits), Ok(None));
/// ```
pub fn next(
    spill: &mut Option<Box<Spill>>,
    input: &mut Input<'_>,
    limits: &Limits,
) -> Result<Option<Event>, Violation> {
    if spill.as_ref().is_some_and(|spill| spill.delivered) {
        *spill = None;
    }
    loop {
        let header = match spill {
            Some(held) if held.open.is_some() => {
                held.absorb(input)?;
                match held.end_frame()? {
                    Progress::Event(event) => return Ok(Some(event)),
                    Progress::NeedMore => return Ok(None),
                    Progress::NextFrame => continue,
                }
            }
            Some(held) if held.partial_len > 0 => match held.complete_partial(input)? {
                Partial::Control(event) => return Ok(Some(event)),
                Partial::NeedMore => return Ok(None),
                Partial::Data(header) => header,
            },
            _ => {
                let Some(header) = frame::decode(input.rest())? else {
                    return Ok(end_of_input(spill, input));
                };
                let whole = header.payload_len <= (input.rest().len() - header.header_len) as u64;
                if header.opcode.is_control() {
                    if !whole {
                        return Ok(end_of_input(spill, input));
                    }
                    input.at += header.header_len;
                    return control(&header, input.take(header.payload_len as usize)).map(Some);
                }
                if let Some(kind) = unfragmented_kind(&header)
                    && whole
                {
                    admit(spill.as_deref(), &header, limits)?;
                    return in_place(&header, kind, input).map(Some);
                }
                input.at += header.header_len;
                header
            }
        };
        let missing = admit(spill.as_deref(), &header, limits)?;
        spill.get_or_insert_default().open_frame(&header, missing);
    }
}

/// The type of a message that this frame alone makes up.
fn unfragmented_kind(header: &Header) -> Option<Kind> {
    match header.opcode {
        Opcode::Text if header.fin => Some(Kind::Text),
        Opcode::Binary if header.fin => Some(Kind::Binary),
        _ => None,
    }
}

/// Unmasks and checks a whole message in the receive buffer.
fn in_place(header: &Header, kind: Kind, input: &mut Input<'_>) -> Result<Event, Violation> {
    let start = input.at + header.header_len;
    let body = start..start + header.payload_len as usize;
    let bytes = &mut input.bytes[body.clone()];
    mask::apply(bytes, header.key, 0);
    if kind == Kind::Text {
        simdutf8::basic::from_utf8(bytes).map_err(|_| Violation::InvalidUtf8)?;
    }
    input.at = body.end;
    Ok(Event::Message { kind, body: Place::Input(body) })
}

fn control(header: &Header, masked: &[u8]) -> Result<Event, Violation> {
    let body = ControlBody::unmask(masked, header.key);
    Ok(match header.opcode {
        Opcode::Ping => Event::Ping(body),
        Opcode::Pong => Event::Pong(body),
        _ => Event::Close(close::parse_body(&body)?.map(|(code, _)| code)),
    })
}

/// Keeps what is left of `input`, the start of a header or control frame; with nothing to keep, lets the spill go.
fn end_of_input(spill: &mut Option<Box<Spill>>, input: &mut Input<'_>) -> Option<Event> {
    if !input.rest().is_empty() {
        spill.get_or_insert_default().keep_partial(input, PARTIAL_BYTES_MAX);
    } else if spill.as_ref().is_some_and(|spill| spill.kind.is_none()) {
        *spill = None;
    }
    None
}

/// Judges a data frame against the message under way and the limits; returns its length.
fn admit(spill: Option<&Spill>, header: &Header, limits: &Limits) -> Result<usize, Violation> {
    let under_way = spill.filter(|spill| spill.kind.is_some());
    // §5.4: a message's first frame has its opcode, all others are continuations.
    match (under_way, header.opcode) {
        (None, Opcode::Continuation) => return Err(Violation::OrphanContinuation),
        (Some(_), Opcode::Text | Opcode::Binary) => return Err(Violation::InterleavedMessage),
        _ => {}
    }
    let (received, fragments) = under_way.map_or((0, 0), |spill| (spill.settled - HEADROOM, spill.fragments));
    // Compared as u64: the declared length may be anything below 2^63.
    if header.payload_len > limits.message_bytes_max.saturating_sub(received) as u64 {
        return Err(Violation::MessageTooBig);
    }
    if fragments >= limits.fragments_max {
        return Err(Violation::TooManyFragments);
    }
    Ok(header.payload_len as usize)
}

enum Progress {
    NeedMore,
    NextFrame,
    Event(Event),
}

enum Partial {
    NeedMore,
    Control(Event),
    Data(Header),
}

impl Default for Spill {
    fn default() -> Spill {
        Spill {
            message: Vec::new(),
            settled: HEADROOM,
            kind: None,
            open: None,
            fragments: 0,
            utf8: Utf8Stream::default(),
            delivered: false,
            partial: [0; PARTIAL_BYTES_MAX],
            partial_len: 0,
            started_tick: 0,
        }
    }
}

impl Spill {
    /// The body just reported as [`Place::Spill`].
    pub fn body_mut(&mut self) -> &mut [u8] {
        &mut self.message[HEADROOM..]
    }

    /// The body just reported as [`Place::Spill`], behind [`HEADROOM`] free bytes.
    pub fn take_body(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.message)
    }

    /// Whether a message or frame is incomplete, so that a deadline runs against its sender.
    pub fn in_message(&self) -> bool {
        !self.delivered && (self.kind.is_some() || self.partial_len > 0)
    }

    /// Bytes of memory held, without a vector lent out by [`Spill::begin_direct`].
    pub fn memory_bytes(&self) -> usize {
        size_of::<Spill>() + self.message.capacity()
    }

    /// Lends the message out for the kernel to append to, if at least `at_least` bytes of the message are here and at
    /// least as many of the data frame under way are missing: the vector, and how many bytes may be appended, for
    /// which it has capacity.
    ///
    /// The capacity at most doubles what was received, and never exceeds what the frame still needs. The vector must
    /// come back through [`Spill::finish_direct`] before the next call of [`next`], or the spill be dropped.
    pub fn begin_direct(&mut self, at_least: usize) -> Option<(Vec<u8>, usize)> {
        // An earlier direct receive may not be settled yet.
        let unsettled = self.message.len().saturating_sub(self.settled);
        let missing = self.open.as_ref()?.missing - unsettled;
        let received = self.message.len().saturating_sub(HEADROOM);
        if missing.min(received) < at_least.max(1) {
            return None;
        }
        let mut message = std::mem::take(&mut self.message);
        if message.capacity() == message.len() {
            message.reserve_exact(missing.min(received));
        }
        let room = missing.min(message.capacity() - message.len());
        Some((message, room))
    }

    /// Takes the message back, longer by what arrived; [`next`], with an empty input if there is nothing else, then
    /// unmasks and checks it.
    pub fn finish_direct(&mut self, message: Vec<u8>) {
        self.message = message;
    }

    fn open_frame(&mut self, header: &Header, missing: usize) {
        match header.opcode {
            Opcode::Text => self.kind = Some(Kind::Text),
            Opcode::Binary => self.kind = Some(Kind::Binary),
            _ => {}
        }
        if self.message.is_empty() {
            self.message.resize(HEADROOM, 0);
        }
        self.fragments += 1;
        self.open = Some(OpenFrame { fin: header.fin, key: header.key, offset: 0, missing });
    }

    /// Moves payload of the open frame out of `input`, then unmasks and checks it and what came by direct receive.
    fn absorb(&mut self, input: &mut Input<'_>) -> Result<(), Violation> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let came_direct = self.message.len() - self.settled;
        self.message.extend_from_slice(input.take(open.missing - came_direct));
        let fresh = &mut self.message[self.settled..];
        mask::apply(fresh, open.key, open.offset);
        open.offset += fresh.len();
        open.missing -= fresh.len();
        self.settled += fresh.len();
        if self.kind == Some(Kind::Text) {
            self.utf8.feed(fresh).map_err(|_| Violation::InvalidUtf8)?;
        }
        Ok(())
    }

    /// Ends the open frame if all of it is here, and the message with its last frame.
    fn end_frame(&mut self) -> Result<Progress, Violation> {
        let (Some(kind), Some(OpenFrame { fin, missing: 0, .. })) = (self.kind, &self.open) else {
            return Ok(Progress::NeedMore);
        };
        if !fin {
            self.open = None;
            return Ok(Progress::NextFrame);
        }
        if kind == Kind::Text {
            self.utf8.finish().map_err(|_| Violation::InvalidUtf8)?;
        }
        self.open = None;
        self.delivered = true;
        Ok(Progress::Event(Event::Message { kind, body: Place::Spill }))
    }

    /// Appends input to the partial frame until it is `len` bytes long, or the input ends.
    fn keep_partial(&mut self, input: &mut Input<'_>, len: usize) {
        let held = usize::from(self.partial_len);
        let more = input.take(len - held);
        self.partial[held..held + more.len()].copy_from_slice(more);
        self.partial_len += more.len() as u8;
    }

    /// Goes on with a frame whose start an earlier receive left behind.
    fn complete_partial(&mut self, input: &mut Input<'_>) -> Result<Partial, Violation> {
        // Byte by byte, at most 14 of them: the header's length is known only once it is decoded.
        let header = loop {
            let held = usize::from(self.partial_len);
            match frame::decode(&self.partial[..held])? {
                Some(header) => break header,
                None if input.rest().is_empty() => return Ok(Partial::NeedMore),
                None => self.keep_partial(input, held + 1),
            }
        };
        if !header.opcode.is_control() {
            self.partial_len = 0;
            return Ok(Partial::Data(header));
        }
        let end = header.header_len + header.payload_len as usize;
        self.keep_partial(input, end);
        if usize::from(self.partial_len) < end {
            return Ok(Partial::NeedMore);
        }
        self.partial_len = 0;
        if self.kind.is_none() {
            self.started_tick = 0; // that frame is over, and a message after it has its own start
        }
        control(&header, &self.partial[header.header_len..end]).map(Partial::Control)
    }
}

#[cfg(test)]
mod tests;
