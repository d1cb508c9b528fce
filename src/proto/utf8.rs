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
