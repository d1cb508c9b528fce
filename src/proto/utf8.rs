//! Incremental UTF-8 validation (RFC 3629, RFC 6455 §8.1) that fails at the first byte no valid text can continue with.
//!
//! Three bytes of state carry a character across any split. The bulk goes through `simdutf8`; only the bytes of a
//! character cut by a split are looked at one by one.

/// The text is not UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invalid {
    /// Index, in the bytes just fed, of the first byte that cannot belong to valid text.
    pub at: usize,
}

/// The state between two pieces of one text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Utf8Stream {
    /// Continuation bytes the current character still needs.
    missing: u8,
    /// Range the next continuation byte must lie in; valid while `missing` is not zero.
    lowest: u8,
    highest: u8,
}

impl Utf8Stream {
    /// Checks the next piece.
    ///
    /// ```
    /// use megasock::proto::utf8::{Invalid, Utf8Stream};
    /// let mut text = Utf8Stream::default();
    /// assert!(text.feed(b"ok \xF4").is_ok());
    /// assert_eq!(text.feed(b"\x90"), Err(Invalid { at: 0 })); // beyond U+10FFFF, whatever follows
    /// ```
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Invalid> {
        let mut at = 0;
        while self.missing > 0 && at < bytes.len() {
            self.step(bytes[at]).ok_or(Invalid { at })?;
            at += 1;
        }
        let Err(error) = simdutf8::compat::from_utf8(&bytes[at..]) else { return Ok(()) };
        // Either the last character is cut off, or the walk below meets the offending byte within four steps.
        for (at, &byte) in bytes.iter().enumerate().skip(at + error.valid_up_to()) {
            self.step(byte).ok_or(Invalid { at })?;
        }
        Ok(())
    }

    /// Checks that the text does not end inside a character.
    pub fn finish(&self) -> Result<(), Invalid> {
        if self.missing == 0 { Ok(()) } else { Err(Invalid { at: 0 }) }
    }

    /// One byte of the automaton of RFC 3629 §4.
    fn step(&mut self, byte: u8) -> Option<()> {
        if self.missing > 0 {
            if !(self.lowest..=self.highest).contains(&byte) {
                return None;
            }
            (self.missing, self.lowest, self.highest) = (self.missing - 1, 0x80, 0xBF);
            return Some(());
        }
        (self.missing, self.lowest, self.highest) = match byte {
            0x00..=0x7F => (0, 0, 0),
            0xC2..=0xDF => (1, 0x80, 0xBF),
            0xE0 => (2, 0xA0, 0xBF), // lower would be overlong
            0xED => (2, 0x80, 0x9F), // higher would be a surrogate
            0xE1..=0xEF => (2, 0x80, 0xBF),
            0xF0 => (3, 0x90, 0xBF), // lower would be overlong
            0xF1..=0xF3 => (3, 0x80, 0xBF),
            0xF4 => (3, 0x80, 0x8F), // higher would be beyond U+10FFFF
            _ => return None,
        };
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds `bytes` in pieces of the given lengths; the absolute index of the first bad byte, if there is one.
    fn first_bad(bytes: &[u8], pieces: &[usize]) -> Option<usize> {
        let (mut text, mut at, mut pieces) = (Utf8Stream::default(), 0, pieces.iter().cycle());
        while at < bytes.len() {
            let end = bytes.len().min(at + pieces.next().unwrap());
            if let Err(invalid) = text.feed(&bytes[at..end]) {
                return Some(at + invalid.at);
            }
            at = end;
        }
        text.finish().err().map(|_| bytes.len())
    }

    /// By definition: the last byte of the shortest prefix that no text starts with; the end if a character is cut.
    fn reference(bytes: &[u8]) -> Option<usize> {
        let hopeless =
            |end: &usize| std::str::from_utf8(&bytes[..=*end]).is_err_and(|e| e.error_len().is_some());
        (0..bytes.len()).find(hopeless).or(std::str::from_utf8(bytes).is_err().then_some(bytes.len()))
    }

    fn piece_of_text() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            6 => any::<char>().prop_map(|c| c.to_string().into_bytes()),
            3 => "[a-z]{0,70}".prop_map(String::into_bytes), // longer than simdutf8's block
            1 => proptest::collection::vec(any::<u8>(), 1..3),
            1 => Just(b"\xED\xA0\x80".to_vec()),     // a surrogate
            1 => Just(b"\xC0\xAF".to_vec()),         // overlong
            1 => Just(b"\xF4\x90\x80\x80".to_vec()), // beyond U+10FFFF
        ]
    }

    proptest! {
        #[test]
        fn any_split_fails_at_the_first_bad_byte(
            text in proptest::collection::vec(piece_of_text(), 0..12),
            pieces in proptest::collection::vec(1usize..80, 1..8),
        ) {
            let bytes = text.concat();
            prop_assert_eq!(first_bad(&bytes, &pieces), reference(&bytes));
            prop_assert_eq!(first_bad(&bytes, &[1]), reference(&bytes));
        }
    }

    #[test]
    fn every_start_of_three_bytes() {
        for start in 0..1u32 << 16 {
            let [.., a, b] = start.to_be_bytes();
            for c in [0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF] {
                assert_eq!(first_bad(&[a, b, c], &[1]), reference(&[a, b, c]), "{a:02X} {b:02X} {c:02X}");
            }
        }
    }

    #[test]
    fn every_character_byte_by_byte() {
        let mut text = Utf8Stream::default();
        for character in '\0'..=char::MAX {
            for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                assert_eq!(text.feed(&[byte]), Ok(()), "{character:?}");
            }
            assert_eq!(text.finish(), Ok(()));
        }
    }
}
