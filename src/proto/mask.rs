//! Frame masking (RFC 6455 §5.3): every byte a client sends is XORed with a rotating four-byte key.
//!
//! Masking and unmasking are the same operation. Safe code in blocks the compiler turns into vector instructions.

/// Bytes handled per step of the wide loop: four 64-bit words, two or one vector registers.
const BLOCK_BYTES: usize = 32;

/// Masks or unmasks `bytes` in place; `offset` is the position of `bytes[0]` in the frame's payload.
///
/// ```
/// let mut bytes = *b"Hello";
/// megasock::proto::mask::apply(&mut bytes, [0x37, 0xfa, 0x21, 0x3d], 0);
/// assert_eq!(bytes, [0x7f, 0x9f, 0x4d, 0x51, 0x58]); // the example of RFC 6455 §5.7
/// ```
pub fn apply(bytes: &mut [u8], mut key: [u8; 4], offset: usize) {
    key.rotate_left(offset % 4);
    let key_word = u64::from(u32::from_ne_bytes(key));
    let key_word = key_word << 32 | key_word;

    // Every block is a multiple of the key's length, so the key is in step again at the start of the next one.
    let (blocks, rest) = bytes.as_chunks_mut::<BLOCK_BYTES>();
    for block in blocks {
        for word in block.as_chunks_mut::<8>().0 {
            *word = (u64::from_ne_bytes(*word) ^ key_word).to_ne_bytes();
        }
    }
    let (words, rest) = rest.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ key_word).to_ne_bytes();
    }
    for (byte, key_byte) in rest.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key_byte;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn wide_equals_scalar_for_every_alignment(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            key: [u8; 4],
            offset in 0usize..70_000,
            start in 0usize..16,
        ) {
            let start = start.min(bytes.len());
            let mut wide = bytes.clone();
            apply(&mut wide[start..], key, offset);
            let scalar: Vec<u8> = bytes
                .iter()
                .enumerate()
                .map(|(at, byte)| if at < start { *byte } else { byte ^ key[(offset + at - start) % 4] })
                .collect();
            prop_assert_eq!(wide, scalar);
        }
    }
}
