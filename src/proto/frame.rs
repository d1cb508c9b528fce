//! The frame header (RFC 6455 §5.2): decoding what clients send, encoding what the server sends.
//!
//! A header is judged on its own, each rule as soon as the byte it concerns is there. Rules about the sequence of
//! frames and the size of messages are [`super::message`]'s. No extension is ever negotiated, so no RSV bit is legal.

use super::close::Violation;

/// Longest header a server sends: two bytes and a 64-bit length.
pub const HEADER_BYTES_MAX: usize = 10;

/// Longest header a client sends: the server's and a masking key.
pub const MASKED_HEADER_BYTES_MAX: usize = HEADER_BYTES_MAX + 4;

/// Longest payload of a control frame (§5.5).
pub const CONTROL_BYTES_MAX: usize = 125;

const FIN: u8 = 0x80;
const RSV: u8 = 0x70;
const MASK: u8 = 0x80;
const LENGTH_16_BIT: u8 = 126;
const LENGTH_64_BIT: u8 = 127;

/// What a frame is (§5.2); the value is the wire's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// A further fragment of a message.
    Continuation = 0x0,
    /// The first or only frame of a UTF-8 message.
    Text = 0x1,
    /// The first or only frame of a binary message.
    Binary = 0x2,
    /// The start of the closing handshake, or its answer.
    Close = 0x8,
    /// Asks for a pong.
    Ping = 0x9,
    /// Answers a ping, or comes unasked as a sign of life.
    Pong = 0xA,
}

impl Opcode {
    fn from_wire(nibble: u8) -> Result<Opcode, Violation> {
        Ok(match nibble {
            0x0 => Opcode::Continuation,
            0x1 => Opcode::Text,
            0x2 => Opcode::Binary,
            0x8 => Opcode::Close,
            0x9 => Opcode::Ping,
            0xA => Opcode::Pong,
            _ => return Err(Violation::ReservedOpcode),
        })
    }

    /// Control frames may come between the fragments of a message and are never fragmented themselves (§5.5).
    pub fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }
}

/// A decoded frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The last frame of its message.
    pub fin: bool,
    /// What the frame is.
    pub opcode: Opcode,
    /// The masking key; zero in a server's frame.
    pub key: [u8; 4],
    /// Bytes of the header itself.
    pub header_len: usize,
    /// Declared bytes of payload, below 2^63. The peer's claim: nothing may be allocated for it.
    pub payload_len: u64,
}

/// Who sent the frame, which decides whether it must be masked (§5.1).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    Client,
    Server,
}

/// Decodes the header of a client's frame. `Ok(None)` when `bytes` ends inside it and no rule is broken so far.
///
/// ```
/// use megasock::proto::frame::{Opcode, decode};
/// let header = decode(&[0x81, 0x85, 1, 2, 3, 4]).unwrap().unwrap();
/// assert_eq!((header.opcode, header.payload_len, header.header_len), (Opcode::Text, 5, 6));
/// assert!(decode(&[0x81, 0x05]).is_err()); // not masked
/// ```
#[inline]
pub fn decode(bytes: &[u8]) -> Result<Option<Header>, Violation> {
    decode_from(Sender::Client, bytes)
}

#[inline]
pub(super) fn decode_from(sender: Sender, bytes: &[u8]) -> Result<Option<Header>, Violation> {
    let Some(&first) = bytes.first() else { return Ok(None) };
    if first & RSV != 0 {
        return Err(Violation::ReservedBits);
    }
    let opcode = Opcode::from_wire(first & 0x0F)?;
    let fin = first & FIN != 0;
    if opcode.is_control() && !fin {
        return Err(Violation::FragmentedControl);
    }

    let Some(&second) = bytes.get(1) else { return Ok(None) };
    match sender {
        Sender::Client if second & MASK == 0 => return Err(Violation::Unmasked),
        Sender::Server if second & MASK != 0 => return Err(Violation::Masked),
        _ => {}
    }
    let short_len = second & !MASK;
    if opcode.is_control() && usize::from(short_len) > CONTROL_BYTES_MAX {
        return Err(Violation::OversizedControl);
    }

    let (payload_len, length_end) = match short_len {
        LENGTH_16_BIT => {
            let Some(wire) = bytes.get(2..).and_then(<[u8]>::first_chunk) else { return Ok(None) };
            (u64::from(u16::from_be_bytes(*wire)), 4)
        }
        LENGTH_64_BIT => {
            let Some(wire) = bytes.get(2..).and_then(<[u8]>::first_chunk) else { return Ok(None) };
            (u64::from_be_bytes(*wire), 10)
        }
        short => (u64::from(short), 2),
    };
    // §5.2: the minimal number of bytes MUST be used, and the most significant bit of a 64-bit length MUST be 0.
    if length_end != unmasked_header_len(payload_len) || payload_len >> 63 != 0 {
        return Err(Violation::InvalidLength);
    }

    if sender == Sender::Server {
        return Ok(Some(Header { fin, opcode, key: [0; 4], header_len: length_end, payload_len }));
    }
    let Some(&key) = bytes.get(length_end..).and_then(<[u8]>::first_chunk) else { return Ok(None) };
    Ok(Some(Header { fin, opcode, key, header_len: length_end + key.len(), payload_len }))
}

/// Bytes of the header of an unmasked frame with this much payload.
#[inline]
const fn unmasked_header_len(payload_len: u64) -> usize {
    match payload_len {
        0..=125 => 2,
        126..=0xFFFF => 4,
        _ => 10,
    }
}

/// The header of an unfragmented server frame: the bytes and how many of them count.
///
/// ```
/// use megasock::proto::frame::{Opcode, encode_header};
/// let (header, len) = encode_header(Opcode::Text, 5);
/// assert_eq!(header[..len], [0x81, 5]);
/// ```
#[inline]
pub fn encode_header(opcode: Opcode, payload_len: usize) -> ([u8; HEADER_BYTES_MAX], usize) {
    let mut header = [0; HEADER_BYTES_MAX];
    header[0] = FIN | opcode as u8;
    let wire = (payload_len as u64).to_be_bytes();
    let header_len = unmasked_header_len(payload_len as u64);
    match header_len {
        2 => header[1] = wire[7],
        4 => {
            header[1] = LENGTH_16_BIT;
            header[2..4].copy_from_slice(&wire[6..]);
        }
        _ => {
            header[1] = LENGTH_64_BIT;
            header[2..].copy_from_slice(&wire);
        }
    }
    (header, header_len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::client::decode_server_header;

    #[test]
    fn each_rule_is_judged_at_its_byte() {
        // The frame up to and with the first byte that breaks the rule; everything before it must still be fine.
        let rows: &[(&[u8], Violation)] = &[
            (&[0xC1], Violation::ReservedBits), // §5.2 RSV1, 2, 3
            (&[0xA1], Violation::ReservedBits),
            (&[0x91], Violation::ReservedBits),
            (&[0xC9], Violation::ReservedBits),   // on a control frame
            (&[0x40], Violation::ReservedBits),   // on a continuation
            (&[0x83], Violation::ReservedOpcode), // §5.2 opcodes 3-7 and B-F
            (&[0x87], Violation::ReservedOpcode),
            (&[0x8B], Violation::ReservedOpcode),
            (&[0x8F], Violation::ReservedOpcode),
            (&[0x09], Violation::FragmentedControl), // §5.5
            (&[0x08], Violation::FragmentedControl),
            (&[0x81, 0x05], Violation::Unmasked), // §5.1
            (&[0x88, 0x00], Violation::Unmasked),
            (&[0x89, 0xFE], Violation::OversizedControl), // §5.5
            (&[0x88, 0xFF], Violation::OversizedControl),
            (&[0x82, 0xFE, 0, 125], Violation::InvalidLength), // §5.2 minimal
            (&[0x82, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF], Violation::InvalidLength),
            (&[0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0], Violation::InvalidLength), // §5.2 top bit
            (&[0x82, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF], Violation::InvalidLength),
        ];
        for (bytes, violation) in rows {
            assert_eq!(decode(bytes), Err(*violation), "{bytes:02X?}");
            assert_eq!(decode(&bytes[..bytes.len() - 1]), Ok(None), "{bytes:02X?} without its last byte");
            assert_eq!(violation.reason().code(), Some(1002), "{bytes:02X?}");
        }
    }

    #[test]
    fn the_smallest_and_largest_of_each_length_form() {
        let rows: &[(&[u8], u64, usize)] = &[
            (&[0x80], 0, 6),
            (&[0xFD], 125, 6),
            (&[0xFE, 0, 126], 126, 8),
            (&[0xFE, 0xFF, 0xFF], 0xFFFF, 8),
            (&[0xFF, 0, 0, 0, 0, 0, 1, 0, 0], 0x1_0000, 14),
            (&[0xFF, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF], u64::MAX >> 1, 14),
        ];
        for (length, payload_len, header_len) in rows {
            let bytes = [&[0x02], *length, &[9, 8, 7, 6]].concat();
            let header = Header {
                fin: false,
                opcode: Opcode::Binary,
                key: [9, 8, 7, 6],
                header_len: *header_len,
                payload_len: *payload_len,
            };
            assert_eq!(decode(&bytes), Ok(Some(header)));
            for end in 0..bytes.len() {
                assert_eq!(decode(&bytes[..end]), Ok(None), "{payload_len} cut at {end}");
            }
        }
    }

    /// A lenient peer would not notice these: a mask or RSV bits in a server's frame, a length that is not minimal.
    #[test]
    fn a_server_header_has_no_mask_no_rsv_and_the_shortest_length() {
        for opcode in [Opcode::Text, Opcode::Binary, Opcode::Close, Opcode::Ping, Opcode::Pong] {
            for payload_len in [0, 1, 125, 126, 0xFFFF, 0x1_0000, 1 << 33] {
                if opcode.is_control() && payload_len > CONTROL_BYTES_MAX {
                    continue;
                }
                let (header, header_len) = encode_header(opcode, payload_len);
                assert_eq!(header[0], 0x80 | opcode as u8);
                assert_eq!(header[1] & 0x80, 0);
                let decoded = decode_server_header(&header[..header_len]).unwrap().unwrap();
                let expected =
                    Header { fin: true, opcode, key: [0; 4], header_len, payload_len: payload_len as u64 };
                assert_eq!(decoded, expected);
            }
        }
        assert_eq!(decode_server_header(&[0x81, 0x81]), Err(Violation::Masked));
    }
}
