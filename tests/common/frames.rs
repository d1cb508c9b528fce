//! Frames as bytes (RFC 6455 §5.2): what a client may send, and above all what it may not.

pub(crate) const CONTINUATION: u8 = 0x0;
pub(crate) const TEXT: u8 = 0x1;
pub(crate) const BINARY: u8 = 0x2;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xA;

/// The bit of the first byte that ends a message.
pub(crate) const FIN: u8 = 0x80;

/// The key every frame here is masked with, unless a test builds its own.
pub(crate) const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// XORs `payload` with `key`, one byte at a time as §5.3 writes it.
pub(crate) fn mask(payload: &mut [u8], key: [u8; 4]) {
    for (at, byte) in payload.iter_mut().enumerate() {
        *byte ^= key[at % 4];
    }
}

/// A masked frame header that declares `len` in the shortest form. `first` is FIN, RSV and opcode.
pub(crate) fn header(first: u8, len: u64) -> Vec<u8> {
    let mut bytes = vec![first];
    match len {
        0..=125 => bytes.push(0x80 | len as u8),
        126..=0xFFFF => {
            bytes.push(0x80 | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend(len.to_be_bytes());
        }
    }
    bytes.extend(KEY);
    bytes
}

/// A whole masked frame. `first` is FIN, RSV and opcode, so that forbidden combinations can be said.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(first, payload.len() as u64);
    let start = bytes.len();
    bytes.extend(payload);
    mask(&mut bytes[start..], KEY);
    bytes
}

/// A message in one frame.
pub(crate) fn message(opcode: u8, payload: &[u8]) -> Vec<u8> {
    frame(FIN | opcode, payload)
}

/// A text message in one frame.
pub(crate) fn text(payload: &str) -> Vec<u8> {
    message(TEXT, payload.as_bytes())
}

/// A close frame with a code and a reason.
pub(crate) fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    let mut body = code.to_be_bytes().to_vec();
    body.extend(reason);
    message(CLOSE, &body)
}
