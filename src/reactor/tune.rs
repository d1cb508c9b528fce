//! Other options while a core runs: deadlines, limits, proxies. What its ring, its table and its pools were made with stays.
//!
//! They are in force at once for whatever begins after them. Deadlines that run are brought into line by one walk over the
//! slots, in bounded steps: without it, a connection that was never to be pinged would have no timer to find out by. A
//! handshake or a close under way keeps the deadline it has.
//!
//! Nobody is held to a time that was shorter when it began: who was pinged has the whole new `pong_timeout` from now on.

use super::conn::{Phase, flag};
use super::{Options, Reactor};
use crate::handler::Handler;
use crate::sys::{ConnId, Io};

/// Slots looked at in one turn.
const SLOTS_PER_TURN: u32 = 4_096;

/// A walk under way.
pub(super) struct Tuning {
    /// Slots below this are done.
    below: u32,
    /// When a connection is to be pinged was known before.
    had_heartbeat: bool,
    /// Whoever waits for it.
    done: Vec<oneshot::Sender<()>>,
}

impl<I: Io, H: Handler> Reactor<I, H> {
    /// Goes by other options from now on.
    pub(super) fn begin_tuning(&mut self, options: Options, done: oneshot::Sender<()>) {
        let had_heartbeat = self.options.ping_interval_ticks.is_some();
        let Options { connections_max, budget, .. } = self.options;
        self.options = Options { connections_max, budget, ..options };
        self.desk.refill(self.options.events_per_second);
        let tuning = self.tuning.get_or_insert(Tuning { below: 0, had_heartbeat, done: Vec::new() });
        tuning.below = 0;
        tuning.had_heartbeat &= had_heartbeat; // some may not have been reached since there was none
        tuning.done.push(done);
    }

    /// Goes on with the walk by one step.
    pub(super) fn tuning_step(&mut self) {
        let Some(Tuning { below, had_heartbeat, .. }) = self.tuning else { return };
        let end = self.conns.slots().min(below.saturating_add(SLOTS_PER_TURN));
        for slot in below..end {
            if let Some(generation) = self.conns.generation(slot) {
                self.retime(ConnId { slot, generation }, had_heartbeat);
            }
        }
        if end < self.conns.slots() {
            self.tuning.as_mut().expect("a walk is under way").below = end;
        } else if let Some(tuning) = self.tuning.take() {
            // Who asked may have gone.
            tuning.done.into_iter().for_each(|done| drop(done.send(())));
        }
    }

    /// Brings the deadlines of an open connection into line with the options.
    fn retime(&mut self, id: ConnId, had_heartbeat: bool) {
        let (heartbeat, pong_due) =
            (self.first_heartbeat_tick(), self.now_tick + self.options.pong_timeout_ticks);
        let is_pinged = self.options.ping_interval_ticks.is_some();
        let Some(conn) = self.conn(id).filter(|conn| conn.phase == Phase::Open) else { return };
        if !is_pinged {
            conn.clear(flag::PINGED | flag::GAVE_WAY);
        } else if conn.has(flag::PINGED) {
            conn.due_tick = pong_due;
        } else if had_heartbeat {
            conn.due_tick = conn.due_tick.min(heartbeat);
        } else {
            conn.due_tick = heartbeat;
        }
        self.spare_the_idle(id);
        self.arm_next(id);
    }

    /// Who was allowed to be idle for longer until now is not closed at once, together with all others: it has a part of the
    /// new time, drawn at random.
    fn spare_the_idle(&mut self, id: ConnId) {
        let Some(timeout_ticks) = self.options.idle_timeout_ticks else { return };
        let (now, given) = (self.now_tick, self.random_below(timeout_ticks.saturating_add(1)));
        let Some(conn) = self.conn(id) else { return };
        if conn.active_tick.saturating_add(timeout_ticks) <= now {
            conn.active_tick = now.saturating_sub(timeout_ticks).saturating_add(given.max(1));
        }
    }
}
