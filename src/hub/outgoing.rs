//! Large answers on their way.
//!
//! A page of history or presence, or what a subscriber has missed, may be a thousand times as long as the command it
//! answers. So a connection is given one at a time: it stays busy until the answer has left for its socket, and if that is
//! full, until it has room again.

use crate::handler::ConnId;

/// The connections of this core that were given a large answer.
#[derive(Default)]
pub struct Outgoing {
    /// In this turn: it is sent in the next one.
    given: Vec<ConnId>,
    /// In the turn before: whose socket was full is known by now.
    sent: Vec<ConnId>,
}

impl Outgoing {
    pub fn add(&mut self, conn: ConnId) {
        self.given.push(conn);
    }

    /// At the end of a turn: those whose answers were sent in it.
    pub fn end_turn(&mut self) -> Vec<ConnId> {
        let next = std::mem::take(&mut self.given);
        std::mem::replace(&mut self.sent, next)
    }

    /// Nobody waits for a turn to end.
    pub fn is_empty(&self) -> bool {
        self.given.is_empty() && self.sent.is_empty()
    }
}
