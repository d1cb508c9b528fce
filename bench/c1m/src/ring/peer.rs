//! What the driver remembers of one connection: a third of what the server may, so that a million of them are no
//! burden on the host under test.

use crate::wire::Partial;
use megasock::sys::ConnId;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Phase {
    #[default]
    Free,
    Connecting,
    Upgrading,
    /// Upgraded; its subscription is not confirmed yet.
    Joining,
    Open,
    /// Waiting for its last completions; counted already.
    Closing,
    /// Given up while the kernel was still connecting; closes as soon as that ends.
    Abandoned,
}

/// The poll is armed.
pub(super) const ARMED: u8 = 1;
/// A receive is in flight.
pub(super) const RECEIVING: u8 = 2;
/// A receive must follow the one in flight: there was an event meanwhile.
pub(super) const AGAIN: u8 = 4;
/// The peer hung up: receive to the end, no further event will come.
pub(super) const HUNG: u8 = 8;
/// A send that waits is in flight.
pub(super) const SENDING: u8 = 16;
/// A send went into this turn's submission.
pub(super) const SPOKE: u8 = 32;

/// One connection.
#[derive(Default)]
pub(super) struct Peer {
    pub(super) partial: Option<Box<Partial>>,
    /// When the oldest unanswered message should have been sent, or the connect began; microseconds.
    pub(super) due_us: u64,
    /// Messages sent and echoes verified on this slot, wrapping. Between works they are equal.
    pub(super) sent: u32,
    pub(super) heard: u32,
    /// The publication it must receive next.
    pub(super) next: u32,
    /// How often the slot was freed.
    pub(super) generation: u32,
    pub(super) phase: Phase,
    pub(super) flags: u8,
}

const _: () = assert!(size_of::<Peer>() <= 40);

impl Phase {
    /// Wanted: not on its way out.
    pub(super) fn is_wanted(self) -> bool {
        self == Phase::Connecting || self.is_live()
    }

    /// Connected, so that bytes come and go.
    pub(super) fn is_live(self) -> bool {
        matches!(self, Phase::Upgrading | Phase::Joining | Phase::Open)
    }
}

impl Peer {
    pub(super) fn is(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }

    pub(super) fn set(&mut self, flags: u8) {
        self.flags |= flags;
    }

    pub(super) fn clear(&mut self, flags: u8) {
        self.flags &= !flags;
    }

    pub(super) fn outstanding(&self) -> u32 {
        self.sent.wrapping_sub(self.heard)
    }

    pub(super) fn id(&self, slot: u32) -> ConnId {
        ConnId { slot, generation: self.generation }
    }
}
