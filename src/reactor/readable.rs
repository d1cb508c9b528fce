//! Whose input a turn takes, and how much of it.
//!
//! Each connection with input is received from once a turn at most, and who has something to say waits until the turn is over.
//! Two things keep that short beside peers that send without end:
//!
//! - Who was quiet goes before those of whom more is there than was taken, as in FQ-CoDel (RFC 8290 §4.2: a new flow goes before
//!   an old one). Beside the quiet those get a small part of a turn, without them all of it. Of those whose input is ignored,
//!   because their connections have ended, it is one a turn.
//! - Where handling what came takes long, less is taken of each: the quantum of round robin (Shreedhar and Varghese, "Efficient
//!   Fair Queuing using Deficit Round Robin", 1996), in bytes. It halves after a turn that took long and grows by steps after
//!   short ones (Chiu and Jain, "Analysis of the Increase and Decrease Algorithms", 1989): between two bursts there are turns
//!   with next to nothing in them.

use crate::budget::BUFFER_BYTES;
use crate::sys::ConnId;
use std::collections::VecDeque;

/// Connections that have ended and are sent to without end: what they are sent stays in the kernel, up to some megabytes each.
const IGNORED_MAX: usize = 32;

/// One of the busy for so many of the quiet.
const QUIET_FOR_ONE_BUSY: usize = 8;

/// Handling the input of one turn should take no longer,
const TURN_US_MAX: u64 = 100;

/// unless it takes no longer than this for each receive: about what a receive costs, which to cut would only add.
const RECEIVE_US_MAX: u64 = 10;

/// Holds the head of most handshakes.
const QUANTUM_BYTES_MIN: usize = 512;

const QUANTUM_STEP_BYTES: usize = 64;

/// Connections with input to receive, each once.
pub(super) struct Readable {
    quiet: VecDeque<ConnId>,
    busy: VecDeque<ConnId>,
    ignored: VecDeque<ConnId>,
    /// How many of each this turn still receives from, in that order.
    turn: [usize; 3],
    /// Given out in this turn: about as many as there are receives.
    receives: u64,
    quantum_bytes: usize,
    /// All that was there to receive at this tick has been received from since.
    heard_tick: u32,
    /// The next such tick, and how many of the quiet and of the busy are left of those who waited then.
    marked_tick: u32,
    unheard: [usize; 2],
}

impl Readable {
    pub fn new() -> Readable {
        Readable {
            quiet: VecDeque::new(),
            busy: VecDeque::new(),
            ignored: VecDeque::new(),
            turn: [0; 3],
            receives: 0,
            quantum_bytes: BUFFER_BYTES,
            heard_tick: 0,
            marked_tick: 0,
            unheard: [0; 2],
        }
    }

    pub fn is_empty(&self) -> bool {
        self.quiet.is_empty() && self.busy.is_empty() && self.ignored.is_empty()
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.quiet.len() + self.busy.len() + self.ignored.len()
    }

    /// One whose socket was empty until now.
    pub fn push_quiet(&mut self, id: ConnId) {
        self.quiet.push_back(id);
    }

    /// One of whom more is there than was taken.
    pub fn push_busy(&mut self, id: ConnId) {
        self.busy.push_back(id);
    }

    /// One that goes on after its connection has ended; gives the one that has waited for longest, where there are too many.
    pub fn push_ignored(&mut self, id: ConnId) -> Option<ConnId> {
        self.ignored.push_back(id);
        if self.ignored.len() > IGNORED_MAX { self.ignored.pop_front() } else { None }
    }

    /// Begins a turn of so many receives at most.
    pub fn begin_turn(&mut self, receives_max: usize) {
        let ignored = self.ignored.len().min(1);
        let busy = match self.quiet.len().min(receives_max) {
            0 => receives_max,
            quiet => (quiet / QUIET_FOR_ONE_BUSY).max(1),
        };
        let busy = busy.min(self.busy.len()).min(receives_max.saturating_sub(ignored));
        self.turn = [receives_max.saturating_sub(busy + ignored), busy, ignored];
    }

    /// The next one that this turn receives from.
    pub fn next(&mut self) -> Option<ConnId> {
        let queues = [&mut self.quiet, &mut self.busy, &mut self.ignored];
        for (queue, (left, ids)) in self.turn.iter_mut().zip(queues).enumerate() {
            if *left > 0
                && let Some(id) = ids.pop_front()
            {
                *left -= 1;
                self.receives += 1;
                if let Some(unheard) = self.unheard.get_mut(queue) {
                    *unheard = unheard.saturating_sub(1);
                }
                return Some(id);
            }
        }
        None
    }

    /// The most bytes that one receive of this turn brings into a buffer.
    pub fn quantum_bytes(&self) -> usize {
        self.quantum_bytes
    }

    /// There is no buffer for it: it is the first of the next turn.
    pub fn put_back(&mut self, id: ConnId) {
        self.quiet.push_front(id);
        self.unheard[0] += 1;
    }

    /// All that the kernel has told of by this tick is in the queues.
    pub fn mark_tick(&mut self, now_tick: u32) {
        if self.unheard == [0, 0] {
            self.heard_tick = self.marked_tick;
            self.marked_tick = now_tick;
            self.unheard = [self.quiet.len(), self.busy.len()];
        }
        if self.unheard == [0, 0] {
            self.heard_tick = now_tick;
        }
    }

    /// The newest tick of which it is known that all that was there to receive by then has been received from since.
    pub fn heard_tick(&self) -> u32 {
        self.heard_tick
    }

    /// The turn's input has been handled, in this time.
    pub fn end_turn(&mut self, handled_us: u64) {
        let receives = std::mem::take(&mut self.receives);
        let most_us = TURN_US_MAX.max(receives * RECEIVE_US_MAX);
        if receives > 0 && handled_us > most_us {
            self.quantum_bytes = (self.quantum_bytes / 2).max(QUANTUM_BYTES_MIN);
        } else if handled_us < most_us / 2 {
            self.quantum_bytes = (self.quantum_bytes + QUANTUM_STEP_BYTES).min(BUFFER_BYTES);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(slot: u32) -> ConnId {
        ConnId { slot, generation: 0 }
    }

    /// Slots of one turn.
    fn turn(readable: &mut Readable, receives_max: usize) -> Vec<u32> {
        readable.begin_turn(receives_max);
        std::iter::from_fn(|| readable.next()).map(|id| id.slot).collect()
    }

    #[test]
    fn the_quiet_go_first_and_the_busy_go_on() {
        let mut readable = Readable::new();
        (100..140).for_each(|slot| readable.push_busy(id(slot)));
        (0..2).for_each(|slot| readable.push_quiet(id(slot)));
        assert_eq!(turn(&mut readable, 64), [0, 1, 100]);
        (0..60).for_each(|slot| readable.push_quiet(id(slot)));
        let full = turn(&mut readable, 64);
        assert_eq!((full.len(), &full[55..]), (64, &[55, 56, 101, 102, 103, 104, 105, 106, 107][..]));
        assert_eq!(turn(&mut readable, 64), [57, 58, 59, 108]);
        assert_eq!(turn(&mut readable, 8), (109..117).collect::<Vec<_>>());
        assert_eq!(turn(&mut readable, 64), (117..140).collect::<Vec<_>>());
        assert!(readable.is_empty());
    }

    #[test]
    fn of_those_whose_input_is_ignored_a_turn_takes_one() {
        let mut readable = Readable::new();
        (200..203).for_each(|slot| assert_eq!(readable.push_ignored(id(slot)), None));
        (100..170).for_each(|slot| readable.push_busy(id(slot)));
        let full = turn(&mut readable, 64);
        assert_eq!((full.len(), full[0], full[62], full[63]), (64, 100, 162, 200));
        readable.push_quiet(id(0));
        assert_eq!(turn(&mut readable, 64), [0, 163, 201]);
        assert_eq!(turn(&mut readable, 64), [164, 165, 166, 167, 168, 169, 202]);
        assert!(readable.is_empty());
        let ousted = (0..40).filter_map(|slot| readable.push_ignored(id(slot))).map(|id| id.slot);
        assert!(ousted.eq(0..8), "the first goes first");
    }

    #[test]
    fn whoever_found_no_buffer_is_the_first_of_the_next_turn() {
        let mut readable = Readable::new();
        (0..3).for_each(|slot| readable.push_quiet(id(slot)));
        readable.begin_turn(64);
        let first = readable.next().unwrap();
        readable.put_back(first);
        assert_eq!(turn(&mut readable, 64), [0, 1, 2]);
    }

    #[test]
    fn a_tick_is_heard_when_all_who_waited_at_it_were_received_from() {
        let mut readable = Readable::new();
        readable.mark_tick(1);
        assert_eq!(readable.heard_tick(), 1, "nobody waits");
        (0..3).for_each(|slot| readable.push_quiet(id(slot)));
        (100..102).for_each(|slot| readable.push_busy(id(slot)));
        readable.mark_tick(5);
        assert_eq!(turn(&mut readable, 3), [0, 1, 100]);
        readable.push_busy(id(100)); // it goes on
        readable.push_quiet(id(3));
        readable.mark_tick(6);
        assert_eq!(readable.heard_tick(), 1);
        readable.begin_turn(2);
        let third = readable.next().unwrap();
        readable.put_back(third);
        readable.mark_tick(7);
        assert_eq!(turn(&mut readable, 2), [2, 101]);
        assert_eq!(readable.heard_tick(), 1);
        readable.mark_tick(8);
        assert_eq!(readable.heard_tick(), 5);
        assert_eq!(turn(&mut readable, 2), [3, 100]);
        readable.push_busy(id(100));
        readable.mark_tick(9);
        assert_eq!(readable.heard_tick(), 8, "one who sends without end delays nobody");
    }

    /// Quanta of turns in which ten connections send without end, whose bytes take this long to handle.
    fn quanta(us_per_kib: usize) -> Vec<usize> {
        let mut readable = Readable::new();
        let quantum = |_| {
            (0..10).for_each(|slot| readable.push_busy(id(slot)));
            assert_eq!(turn(&mut readable, 64).len(), 10);
            let bytes = readable.quantum_bytes();
            readable.end_turn((10 * bytes * us_per_kib / 1024) as u64);
            bytes
        };
        (0..1_000).map(quantum).collect()
    }

    #[test]
    fn what_takes_long_is_taken_in_small_parts() {
        for us_per_kib in [5, 20, 100, 1_000] {
            let bytes = *quanta(us_per_kib).last().unwrap();
            let handled_us = 10 * bytes * us_per_kib / 1024;
            let most_us = TURN_US_MAX.max(10 * RECEIVE_US_MAX) as usize;
            assert!(handled_us <= most_us || bytes == QUANTUM_BYTES_MIN, "{handled_us}");
            assert!(handled_us >= most_us / 3 || bytes == BUFFER_BYTES, "{handled_us}");
        }
    }

    #[test]
    fn what_is_cheap_is_taken_whole() {
        let mut readable = Readable::new();
        (0..64).for_each(|slot| readable.push_quiet(id(slot)));
        assert_eq!(turn(&mut readable, 64).len(), 64);
        readable.end_turn(640); // 64 messages of 16 KiB
        assert_eq!(readable.quantum_bytes(), BUFFER_BYTES);
    }

    #[test]
    fn after_a_burst_it_grows_by_steps() {
        let mut readable = Readable::new();
        readable.end_turn(10_000); // without a receive it was something else that took long
        assert_eq!(readable.quantum_bytes(), BUFFER_BYTES);
        readable.push_quiet(id(0));
        assert_eq!(turn(&mut readable, 64), [0]);
        readable.end_turn(10_000);
        let after = readable.quantum_bytes();
        assert_eq!(after, BUFFER_BYTES / 2);
        readable.end_turn(3);
        assert_eq!(readable.quantum_bytes(), after + QUANTUM_STEP_BYTES);
        for _ in 0..1_000 {
            (0..64).for_each(|slot| readable.push_quiet(id(slot)));
            assert_eq!(turn(&mut readable, 64).len(), 64);
            readable.end_turn(100); // little for so many
        }
        assert_eq!(readable.quantum_bytes(), BUFFER_BYTES);
    }
}
