//! Frames: however the bytes are cut, and whichever of them the kernel writes straight into the message, they mean the same;
//! memory follows what was received, and what they mean can be said again.
//!
//! The first four bytes choose the limits and the pieces; the rest is the stream.
#![no_main]

use libfuzzer_sys::fuzz_target;
use megasock::proto::client::encode_masked;
use megasock::proto::close::{self, Violation};
use megasock::proto::frame::{Opcode, encode_header};
use megasock::proto::message::{Event, HEADROOM, Input, Kind, Limits, Place, Spill, next};

fuzz_target!(|input: &[u8]| {
    let Some((plan, stream)) = input.split_first_chunk::<4>() else { return };
    let limits = match plan[0] % 4 {
        0 => Limits { message_bytes_max: 0, fragments_max: 1 },
        1 => Limits { message_bytes_max: 10, fragments_max: 3 },
        2 => Limits { message_bytes_max: 300, fragments_max: 4096 },
        _ => Limits { message_bytes_max: 1 << 20, fragments_max: 16 },
    };
    let whole = read(stream, &[stream.len().max(1)], None, &limits);
    assert_eq!(read(stream, &[1], None, &limits), whole, "byte by byte");
    let pieces: Vec<usize> = plan[1..].iter().map(|len| usize::from(*len) + 1).collect();
    assert_eq!(read(stream, &pieces, None, &limits), whole, "in pieces of {pieces:?}");
    let direct_from = Some(usize::from(plan[0] >> 2));
    assert_eq!(
        read(stream, &pieces, direct_from, &limits),
        whole,
        "in pieces, directly from {direct_from:?} bytes on"
    );
    means_itself(&whole.0, &limits);
});

#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Message(Kind, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>),
}

/// Why a stream ended before its bytes did; or whether it ended inside a message.
type End = Result<bool, Violation>;

/// Everything in a stream, received as a reactor does: in pieces, into the message where `direct_from` bytes allow it.
fn read(stream: &[u8], pieces: &[usize], direct_from: Option<usize>, limits: &Limits) -> (Vec<Seen>, End) {
    let (mut spill, mut seen, mut at) = (None::<Box<Spill>>, Vec::new(), 0);
    for piece_len in pieces.iter().cycle() {
        if at == stream.len() {
            break;
        }
        let mut buffer = Vec::new();
        let lent = direct_from.and_then(|at_least| spill.as_mut()?.begin_direct(at_least));
        if let Some((mut message, room)) = lent {
            let taken = room.min(*piece_len).min(stream.len() - at);
            assert!(room > 0 && message.capacity() - message.len() >= room);
            message.extend_from_slice(&stream[at..at + taken]);
            at += taken;
            spill.as_mut().expect("it lent").finish_direct(message);
        } else {
            let end = stream.len().min(at + piece_len);
            buffer.extend_from_slice(&stream[at..end]);
            at = end;
        }
        if let Err(violation) = read_events(&mut spill, &mut buffer, &mut seen, limits) {
            return (seen, Err(violation));
        }
        let bytes_max = at.min(limits.message_bytes_max);
        let held = spill.as_ref().map_or(0, |spill| spill.memory_bytes() - size_of::<Spill>());
        assert!(held <= 2 * (HEADROOM + bytes_max), "{held} bytes held of {at} received");
        assert!(spill.as_ref().is_none_or(|spill| spill.in_message()), "kept between messages");
    }
    let in_message = spill.is_some();
    (seen, Ok(in_message))
}

fn read_events(
    spill: &mut Option<Box<Spill>>,
    buffer: &mut [u8],
    seen: &mut Vec<Seen>,
    limits: &Limits,
) -> Result<(), Violation> {
    let mut input = Input { bytes: buffer, at: 0 };
    while let Some(event) = next(spill, &mut input, limits)? {
        seen.push(match event {
            Event::Message { kind, body: Place::Input(range) } => {
                // A server's header fits where the client's was.
                assert!(encode_header(kind.into(), range.len()).1 <= range.start);
                Seen::Message(kind, input.bytes[range].to_vec())
            }
            Event::Message { kind, body: Place::Spill } => {
                let spill = spill.as_mut().expect("a spilled body has a spill");
                let body = spill.body_mut().to_vec();
                assert_eq!(spill.take_body()[HEADROOM..], body);
                Seen::Message(kind, body)
            }
            Event::Ping(body) => Seen::Ping(body.to_vec()),
            Event::Pong(body) => Seen::Pong(body.to_vec()),
            Event::Close(code) => Seen::Close(code),
        });
    }
    assert_eq!(input.at, input.bytes.len(), "input left unread");
    Ok(())
}

/// What was seen keeps the rules, and sent again in one frame each it is seen again.
fn means_itself(seen: &[Seen], limits: &Limits) {
    let mut stream = Vec::new();
    let mut send = |opcode, body: &[u8]| encode_masked(&mut stream, opcode, [1, 2, 3, 4], body);
    for event in seen {
        match event {
            Seen::Message(kind, body) => {
                assert!(body.len() <= limits.message_bytes_max);
                assert!(*kind == Kind::Binary || str::from_utf8(body).is_ok());
                send(Opcode::from(*kind), body);
            }
            Seen::Ping(body) | Seen::Pong(body) => {
                assert!(body.len() <= 125);
                send(if matches!(event, Seen::Ping(_)) { Opcode::Ping } else { Opcode::Pong }, body);
            }
            Seen::Close(code) => {
                assert!(code.is_none_or(close::is_valid));
                send(Opcode::Close, &code.map_or(Vec::new(), |code| code.to_be_bytes().to_vec()));
            }
        }
    }
    let again = read(&stream, &[stream.len().max(1)], None, &Limits { fragments_max: 1, ..*limits });
    assert_eq!(again, (seen.to_vec(), Ok(false)));
}
