//! How much of one connection's input a turn takes.
//!
//! Each connection with input is received from once a turn, so whoever has something to say waits while all that the others
//! sent is handled. As long as that is cheap it may be a whole buffer of each; where it takes long it is less, and a turn
//! stays short: the quantum of round robin (Shreedhar and Varghese, "Efficient Fair Queuing using Deficit Round Robin",
//! 1996), in bytes and sized by what the last turn took.

use crate::budget::BUFFER_BYTES;

/// Handling the input of one turn should take no longer.
const TURN_US_MAX: u64 = 500;

/// Below this a receive costs as much as what it brings.
const BYTES_MIN: usize = 1024;

/// The most bytes that a turn takes from a connection.
pub(super) struct Quantum {
    bytes: usize,
}

impl Quantum {
    pub fn new() -> Quantum {
        Quantum { bytes: BUFFER_BYTES }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// To be told how long the input of each turn took.
    pub fn adapt(&mut self, handled_us: u64) {
        if handled_us > TURN_US_MAX {
            self.bytes = (self.bytes / 2).max(BYTES_MIN);
        } else if handled_us < TURN_US_MAX / 4 {
            // Less than half of what doubling may make of it, so that it does not swing.
            self.bytes = (self.bytes * 2).min(BUFFER_BYTES);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_that_takes_long_takes_less_and_the_least_is_enough_to_go_on() {
        let mut quantum = Quantum::new();
        let mut bytes = vec![quantum.bytes()];
        for _ in 0..6 {
            quantum.adapt(TURN_US_MAX + 1);
            bytes.push(quantum.bytes());
        }
        assert!(bytes.is_sorted_by(|more, less| more >= less));
        assert_eq!((bytes[0], bytes[6]), (BUFFER_BYTES, BYTES_MIN));
    }

    #[test]
    fn it_settles_where_a_turn_is_short_enough() {
        for us_per_kib in [1, 10, 100, 300, 2_000] {
            let mut quantum = Quantum::new();
            let turn_us = |quantum: &Quantum| quantum.bytes() as u64 * us_per_kib / 1024;
            (0..10).for_each(|_| quantum.adapt(turn_us(&quantum)));
            let settled = quantum.bytes();
            assert!(turn_us(&quantum) <= TURN_US_MAX || settled == BYTES_MIN);
            assert!(turn_us(&quantum) >= TURN_US_MAX / 4 || settled == BUFFER_BYTES);
            quantum.adapt(turn_us(&quantum));
            assert_eq!(quantum.bytes(), settled);
        }
    }
}
