//! The decoder against a naive one that sees the whole stream, for any split and with direct receives mixed in.

use super::*;
use crate::proto::client::encode_masked_fragment;
use crate::proto::close::CloseReason;
use proptest::collection::vec;
use proptest::prelude::*;

const LIMITS: Limits = Limits { message_bytes_max: 100_000, fragments_max: 6 };

/// An event with its bytes, or the end.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Message(Kind, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>),
    Failed(CloseReason),
}

/// What the whole stream means, and the positions at which it is between two messages.
#[derive(Default)]
struct Meaning {
    seen: Vec<Seen>,
    boundaries: Vec<usize>,
}

/// The reference: byte after byte as RFC 6455 §5.2 draws them, with none of the decoder's code.
fn reference(bytes: &[u8]) -> Meaning {
    let mut meaning = Meaning { seen: Vec::new(), boundaries: vec![0] };
    if let Err(reason) = read_frames(bytes, &mut meaning) {
        meaning.seen.push(Seen::Failed(reason));
    }
    meaning
}

fn read_frames(bytes: &[u8], meaning: &mut Meaning) -> Result<(), CloseReason> {
    let fail = |broken: bool, reason| if broken { Err(reason) } else { Ok(()) };
    let mut stream = bytes.iter().copied();
    let mut message: Option<(Kind, Vec<u8>, u32)> = None;
    while let Some(first) = stream.next() {
        let (fin, opcode) = (first >= 0x80, first & 0x0F);
        let known = [0, 1, 2, 8, 9, 10].contains(&opcode);
        fail(first & 0x70 != 0 || !known || (opcode >= 8 && !fin), CloseReason::ProtocolError)?;
        let Some(second) = stream.next() else { return Ok(()) };
        let short = second & 0x7F;
        fail(second < 0x80 || (opcode >= 8 && short > 125), CloseReason::ProtocolError)?;
        let width = [2, 8].get(usize::from(short).wrapping_sub(126)).copied().unwrap_or(0);
        let wide: Vec<u8> = stream.by_ref().take(width).collect();
        if wide.len() < width {
            return Ok(());
        }
        let wide = wide.iter().fold(0u128, |sum, byte| sum << 8 | u128::from(*byte));
        fail(width == 2 && wide < 126, CloseReason::ProtocolError)?;
        fail(width == 8 && !(0x1_0000..1 << 63).contains(&wide), CloseReason::ProtocolError)?;
        let len = if width == 0 { u128::from(short) } else { wide };
        let key: Vec<u8> = stream.by_ref().take(4).collect();
        if key.len() < 4 {
            return Ok(());
        }

        if opcode < 8 {
            fail((opcode == 0) != message.is_some(), CloseReason::ProtocolError)?;
            let kind = if opcode == 1 { Kind::Text } else { Kind::Binary };
            let (_, body, frames) = message.get_or_insert((kind, Vec::new(), 0));
            fail(body.len() as u128 + len > LIMITS.message_bytes_max as u128, CloseReason::MessageTooBig)?;
            *frames += 1;
            fail(*frames > LIMITS.fragments_max, CloseReason::TooManyFragments)?;
        }
        let payload: Vec<u8> =
            stream.by_ref().take(len as usize).enumerate().map(|(at, byte)| byte ^ key[at % 4]).collect();
        let whole = payload.len() as u128 == len;
        match (opcode, &mut message) {
            (0..=7, Some((kind, body, _))) => {
                body.extend(payload);
                let text = std::str::from_utf8(body);
                let cut_is_bad = whole && fin;
                fail(
                    *kind == Kind::Text && text.is_err_and(|e| e.error_len().is_some() || cut_is_bad),
                    CloseReason::InvalidPayload,
                )?;
                if whole && fin {
                    meaning.seen.push(Seen::Message(*kind, std::mem::take(body)));
                    message = None;
                }
            }
            _ if !whole => return Ok(()),
            (9, _) => meaning.seen.push(Seen::Ping(payload)),
            (10, _) => meaning.seen.push(Seen::Pong(payload)),
            _ => meaning.seen.push(Seen::Close(read_close(&payload)?)),
        }
        if whole && message.is_none() {
            meaning.boundaries.push(bytes.len() - stream.len());
        }
    }
    Ok(())
}

fn read_close(body: &[u8]) -> Result<Option<u16>, CloseReason> {
    match body {
        [] => Ok(None),
        [_] => Err(CloseReason::ProtocolError),
        [high, low, reason @ ..] => match u16::from(*high) << 8 | u16::from(*low) {
            0..1000 | 1004..=1006 | 1015..3000 | 5000.. => Err(CloseReason::ProtocolError),
            _ if std::str::from_utf8(reason).is_err() => Err(CloseReason::InvalidPayload),
            code => Ok(Some(code)),
        },
    }
}

/// A connection under test: the decoder's state and what came out of it.
#[derive(Default)]
struct Connection {
    spill: Option<Box<Spill>>,
    seen: Vec<Seen>,
    received: usize,
}

impl Connection {
    /// Receives into a buffer of its own, as from the pool.
    fn receive(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        self.received += bytes.len();
        let mut buffer = bytes.to_vec();
        let mut input = Input { bytes: &mut buffer, at: 0 };
        while let Some(event) = next(&mut self.spill, &mut input, &LIMITS)? {
            self.seen.push(match event {
                Event::Message { kind, body: Place::Input(range) } => {
                    Seen::Message(kind, input.bytes[range].to_vec())
                }
                Event::Message { kind, body: Place::Spill } => {
                    let spill = self.spill.as_mut().expect("a spilled body has a spill");
                    assert!(!spill.in_message(), "no deadline runs against a finished message");
                    let body = spill.body_mut().to_vec();
                    assert_eq!(spill.take_body()[HEADROOM..], body);
                    Seen::Message(kind, body)
                }
                Event::Ping(body) => Seen::Ping(body.to_vec()),
                Event::Pong(body) => Seen::Pong(body.to_vec()),
                Event::Close(code) => Seen::Close(code),
            });
        }
        assert_eq!(input.at, input.bytes.len(), "None means that all input is read");
        Ok(())
    }

    /// Receives as much of `bytes` as it can straight into the message, and what is left, if that is little, in a
    /// buffer before the decoder is called; the count taken, or `None` where that is not possible.
    fn receive_direct(&mut self, bytes: &[u8], at_least: usize) -> Option<Result<usize, Violation>> {
        let (mut message, room) = self.spill.as_mut()?.begin_direct(at_least)?;
        let (count, address) = (room.min(bytes.len()), message.as_ptr());
        assert!(room > 0);
        message.extend_from_slice(&bytes[..count]);
        assert_eq!(message.as_ptr(), address, "the room is within the capacity");
        self.spill.as_mut()?.finish_direct(message);
        self.received += count;
        let rest = if bytes.len() - count < 100 { &bytes[count..] } else { &[] };
        Some(self.receive(rest).map(|()| count + rest.len()))
    }

    /// All of `bytes`, cut as `cuts` says: a length, and whether to try the direct way.
    fn receive_split(
        &mut self,
        bytes: &[u8],
        cuts: &[(usize, bool)],
        meaning: &Meaning,
    ) -> Result<(), Violation> {
        let (mut at, mut cuts) = (0, cuts.iter().cycle());
        while at < bytes.len() {
            let (len, direct) = cuts.next().expect("a cycle");
            let piece = &bytes[at..bytes.len().min(at + len)];
            at += match direct.then(|| self.receive_direct(piece, 1)).flatten() {
                Some(count) => count?,
                None => self.receive(piece).map(|()| piece.len())?,
            };
            assert_eq!(self.spill.is_none(), meaning.boundaries.contains(&at), "a spill at {at}");
            if let Some(spill) = &self.spill {
                assert!(spill.in_message());
                let bytes_max = size_of::<Spill>() + 64 + 2 * self.received;
                assert!(spill.memory_bytes() <= bytes_max, "memory grows with bytes received");
            }
        }
        Ok(())
    }
}

fn agree(bytes: &[u8], cuts: &[(usize, bool)]) {
    let meaning = reference(bytes);
    let mut connection = Connection::default();
    if let Err(violation) = connection.receive_split(bytes, cuts, &meaning) {
        connection.seen.push(Seen::Failed(violation.reason()));
    }
    assert_eq!(connection.seen, meaning.seen);
}

fn frame(fin: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_masked_fragment(&mut out, fin, opcode, [0xA1, 0x5C, 0x00, 0xFF], payload);
    out
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => vec(any::<char>(), 0..40).prop_map(|text| text.iter().collect::<String>().into_bytes()),
        2 => vec(any::<u8>(), 0..200),
        1 => (60_000usize..110_000).prop_map(|len| vec![b'a'; len]),
    ]
}

/// Nothing, mostly, or a control frame.
fn control() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => Just(Vec::new()),
        2 => (any::<bool>(), vec(any::<u8>(), 0..=125))
            .prop_map(|(ping, body)| frame(true, if ping { Opcode::Ping } else { Opcode::Pong }, &body)),
        1 => vec(any::<u8>(), 0..4).prop_map(|body| frame(true, Opcode::Close, &body)),
        1 => (1000u16..5000).prop_map(|code| frame(true, Opcode::Close, &code.to_be_bytes())),
    ]
}

/// A message in up to seven frames (one more than allowed), with control frames between and after them.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let cuts = vec((any::<prop::sample::Index>(), control()), 0..7);
    (any::<bool>(), body(), cuts, control()).prop_map(|(text, body, mut cuts, last)| {
        cuts.sort_by_key(|(cut, _)| cut.index(body.len() + 1));
        let mut opcode = if text { Opcode::Text } else { Opcode::Binary };
        let (mut out, mut at) = (Vec::new(), 0);
        for (cut, control) in cuts {
            let cut = cut.index(body.len() + 1);
            out.extend(frame(false, opcode, &body[at..cut]));
            out.extend(control);
            (opcode, at) = (Opcode::Continuation, cut);
        }
        out.extend(frame(true, opcode, &body[at..]));
        out.extend(last);
        out
    })
}

fn cuts() -> impl Strategy<Value = Vec<(usize, bool)>> {
    let len = prop_oneof![4 => 1usize..20, 2 => 20usize..400, 2 => 1_000usize..40_000];
    vec((len, any::<bool>()), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_split_of_the_same_bytes_gives_the_same_events(messages in vec(message(), 0..6), cuts in cuts()) {
        agree(&messages.concat(), &cuts);
    }

    #[test]
    fn also_of_a_damaged_stream(
        messages in vec(message(), 1..4),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        end: prop::sample::Index,
        cuts in cuts(),
    ) {
        let mut bytes = messages.concat();
        // Damage near the start, where the headers are, as often as anywhere.
        for (which, (index, byte)) in damage.into_iter().enumerate() {
            let len = if which % 2 == 0 { bytes.len().min(30) } else { bytes.len() };
            bytes[index.index(len)] = byte;
        }
        bytes.truncate(end.index(bytes.len()) + 1);
        agree(&bytes, &cuts);
    }

    #[test]
    fn also_of_noise(mut bytes in vec(any::<u8>(), 0..300), cuts in cuts()) {
        agree(&bytes, &cuts);
        if let [first, second, ..] = &mut bytes[..] {
            (*first, *second) = (0x81, 0x80 | *second & 0x3F); // past the first header at least
        }
        agree(&bytes, &cuts);
    }
}

fn events(bytes: &[u8]) -> (Vec<Seen>, Option<Violation>, Connection) {
    let mut connection = Connection::default();
    let violation = connection.receive(bytes).err();
    (std::mem::take(&mut connection.seen), violation, connection)
}

#[test]
fn a_whole_message_stays_in_the_buffer_and_leaves_nothing_behind() {
    let mut bytes = [frame(true, Opcode::Text, b"one"), frame(true, Opcode::Binary, &[7; 200])].concat();
    let (mut spill, mut input) = (None, Input { bytes: &mut bytes, at: 0 });
    let first = next(&mut spill, &mut input, &LIMITS).unwrap();
    assert_eq!(first, Some(Event::Message { kind: Kind::Text, body: Place::Input(6..9) }));
    assert!(spill.is_none());
    let second = next(&mut spill, &mut input, &LIMITS).unwrap();
    assert_eq!(second, Some(Event::Message { kind: Kind::Binary, body: Place::Input(17..217) }));
    assert!(spill.is_none());
    assert_eq!(input.bytes[17..217], [7; 200]);
}

#[test]
fn sequences_of_frames() {
    let text = |fin| frame(fin, Opcode::Text, b"a");
    let binary = |fin| frame(fin, Opcode::Binary, b"a");
    let more = |fin| frame(fin, Opcode::Continuation, b"b");
    let rows = [
        ("§5.4 nothing to continue", vec![more(true)], Some(Violation::OrphanContinuation)),
        ("§5.4 nothing to continue", vec![text(true), more(false)], Some(Violation::OrphanContinuation)),
        ("§5.4 text inside text", vec![text(false), text(true)], Some(Violation::InterleavedMessage)),
        ("§5.4 binary inside text", vec![text(false), binary(false)], Some(Violation::InterleavedMessage)),
        ("§5.4 fragments", vec![text(false), more(false), more(true)], None),
        ("§5.4 a ping between", vec![binary(false), frame(true, Opcode::Ping, b"p"), more(true)], None),
        (
            "§7.1.5 a close body of one byte",
            vec![frame(true, Opcode::Close, b"\x03")],
            Some(Violation::CloseBody),
        ),
    ];
    for (name, frames, violation) in rows {
        assert_eq!(events(&frames.concat()).1, violation, "{name}");
    }
}

#[test]
fn a_declared_length_over_the_limit_fails_at_the_header_and_allocates_nothing() {
    for declared in [100_001u64, 1 << 32, 1 << 62, u64::MAX >> 1] {
        let header = [&[0x82, 0xFF], &declared.to_be_bytes()[..], &[0; 4]].concat();
        let (_, violation, connection) = events(&header);
        assert_eq!(violation, Some(Violation::MessageTooBig), "{declared}");
        assert!(connection.spill.is_none());
    }
    assert_eq!(Violation::MessageTooBig.reason().code(), Some(1009));
}

#[test]
fn exactly_the_limit_is_accepted_and_one_more_is_not() {
    let half = vec![1; 50_000];
    let start = frame(false, Opcode::Binary, &half);
    let (seen, violation, _) = events(&[start.clone(), frame(true, Opcode::Continuation, &half)].concat());
    assert_eq!((seen, violation), (vec![Seen::Message(Kind::Binary, vec![1; 100_000])], None));
    // §10.4: the sum counts, and the header that exceeds it is enough.
    let over = frame(true, Opcode::Continuation, &[1; 50_001]);
    assert_eq!(events(&[start, over[..8].to_vec()].concat()).1, Some(Violation::MessageTooBig));
}

#[test]
fn fragments_are_counted_empty_ones_too() {
    let start = frame(false, Opcode::Text, b"");
    let more = |count| frame(false, Opcode::Continuation, b"").repeat(count);
    let end = frame(true, Opcode::Continuation, b"");
    let allowed = [start.clone(), more(4), end.clone()].concat();
    // The count starts anew with each message.
    let (seen, violation, _) = events(&allowed.repeat(2));
    assert_eq!((seen, violation), (vec![Seen::Message(Kind::Text, vec![]); 2], None));
    assert_eq!(events(&[start, more(5), end].concat()).1, Some(Violation::TooManyFragments));
    assert_eq!(Violation::TooManyFragments.reason().code(), Some(1008));
}

#[test]
fn text_fails_at_the_first_bad_byte_of_an_incomplete_frame() {
    // Autobahn 6.4: the frame declares more, but what is there can no longer become text.
    let whole = frame(true, Opcode::Text, b"\xCE\xBA\xE1\xF4\x90\x80\x80edited");
    for (at, expected) in [(6 + 3, None), (6 + 4, Some(Violation::InvalidUtf8))] {
        assert_eq!(events(&whole[..at]).1, expected, "{at} bytes");
    }
}

#[test]
fn memory_follows_the_bytes_received_also_directly() {
    let message = frame(true, Opcode::Binary, &vec![3; 100_000]);
    let (_, _, mut connection) = events(&message[..20]);
    let spill = connection.spill.as_mut().unwrap();
    assert!(spill.memory_bytes() < size_of::<Spill>() + 64);
    assert!(spill.begin_direct(7).is_none(), "only 6 bytes of the message are here");
    let (vector, room) = spill.begin_direct(6).unwrap();
    assert!((1..64).contains(&room), "{room} more for 6 received");
    spill.finish_direct(vector);
    // Two direct receives before the decoder looks: together they still get no more than the frame's rest.
    let rest = &message[20..];
    let mut at = 20;
    while message.len() - at >= 20_000 {
        let (mut vector, room) = connection.spill.as_mut().unwrap().begin_direct(6).unwrap();
        let count = room.min(20_000);
        vector.extend_from_slice(&rest[at - 20..][..count]);
        connection.spill.as_mut().unwrap().finish_direct(vector);
        at += count;
    }
    assert!(
        connection.spill.as_mut().unwrap().begin_direct(20_000).is_none(),
        "what is not settled is not missing"
    );
    connection.receive(&[]).unwrap();
    while let Some(count) = connection.receive_direct(&message[at..], 1) {
        at += count.unwrap();
    }
    assert_eq!(at, message.len());
    assert_eq!(connection.seen, [Seen::Message(Kind::Binary, vec![3; 100_000])]);
    assert!(connection.spill.is_none(), "nothing is kept after the message");
}

#[test]
fn a_new_start_has_no_old_tick() {
    let ping = frame(true, Opcode::Ping, b"sign of life");
    let (_, _, mut connection) = events(&ping[..4]);
    connection.spill.as_mut().unwrap().started_tick = 9;
    let start = frame(false, Opcode::Text, b"a");
    connection.receive(&[&ping[4..], &start[..]].concat()).unwrap();
    assert_eq!(connection.spill.as_ref().unwrap().started_tick, 0, "the ping's start is not the message's");
    connection.spill.as_mut().unwrap().started_tick = 10;
    connection.receive(&ping[..4]).unwrap();
    connection.receive(&ping[4..]).unwrap();
    assert_eq!(
        connection.spill.as_ref().unwrap().started_tick,
        10,
        "a ping between does not restart the message"
    );
    let end = frame(true, Opcode::Continuation, b"b");
    connection.receive(&[&end[..], &start[..]].concat()).unwrap();
    assert_eq!(connection.spill.as_ref().unwrap().started_tick, 0, "the next message has its own start");
}
