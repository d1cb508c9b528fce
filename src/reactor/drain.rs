//! How a core stops. Tell: every open connection hears when its client should come back, each its own time. Close: they get
//! a Close with 1012 at an even pace. Cut: at the deadline whatever is left goes.
//!
//! Newcomers get a 503 and the core goes on accepting for it, because a closed listener resets its share of them. Unless
//! another process serves the address: then this one *leaves* it at once, and those it had accepted are served, told and
//! closed like the others.
//!
//! Invariants:
//! - An open connection is told once, and before its Close, which is not sooner than it was when the time was worked out.
//! - Both walks go over the slots once, in bounded steps. A slot that opens behind a walk is told at once, and closed from a
//!   list. Only the cut looks at all slots in one turn.

use super::conn::Phase;
use super::{Reactor, TICK_MS, ticks};
use crate::handler::Handler;
use crate::proto::close::CloseReason;
use crate::sys::{ConnId, Io};
use std::collections::VecDeque;
use std::sync::atomic::Ordering;

/// Connections told or closed in one turn.
const DRAIN_STEP: u32 = 256;

/// Slots looked at for them: most may be free.
const SLOTS_LOOKED_AT: u32 = 16 * DRAIN_STEP;

/// How long the kernel may take to let go of what was cut: a process that ended sooner would seem to have leaked it.
const RELEASE_MS: u64 = 500;

/// What a core does when its server stops.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DrainOrder {
    /// What is left after so many ticks is cut.
    pub timeout_ticks: u32,
    /// The last Close is due so many ticks from now.
    pub close_ticks: u32,
    /// Clients are asked to come back at times spread evenly over so long, each counted from its own Close.
    pub return_window_ms: u64,
    /// Nobody sooner than so long from now, though: whoever was closed before counts from then.
    pub return_after_ms: u64,
    /// Another process serves the address: leave it to that one, newcomers in the queue included.
    pub leaves: bool,
}

/// Closes spread evenly over a time.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// How many.
    pub clients: u32,
    /// None is due then.
    pub began_tick: u32,
    /// All are due from then on.
    pub end_tick: u32,
}

impl Pace {
    /// How many are due by `now_tick`.
    pub fn due(&self, now_tick: u32) -> u32 {
        if now_tick >= self.end_tick {
            return u32::MAX;
        }
        let elapsed = u64::from(now_tick.saturating_sub(self.began_tick));
        let whole = u64::from(self.end_tick - self.began_tick);
        (u64::from(self.clients) * elapsed).div_ceil(whole) as u32
    }

    /// The tick at which one is due that has so many `before` it.
    fn due_tick(&self, before: u32) -> u32 {
        if before >= self.clients {
            return self.end_tick;
        }
        let whole = u64::from(self.end_tick - self.began_tick);
        let elapsed = u64::from(before) * whole / u64::from(self.clients) + 1;
        self.end_tick.min(self.began_tick + elapsed as u32)
    }
}

/// Times of return, spread over a window so evenly that no part of it gets more than its share: multiples of the golden
/// ratio, modulo one. Added to evenly paced Closes they stay as even, where times drawn at random would bunch up.
#[derive(Debug, Clone, Copy)]
pub struct Returns {
    /// The last one, as a fraction of the window in 2^-32.
    at: u32,
    /// How many there were.
    told: u32,
    window_ms: u64,
    /// Nobody is to come back before that, counted from the first moment of the pace.
    after_ms: u64,
}

impl Returns {
    /// 2^32 divided by the golden ratio.
    const STEP: u32 = 0x9e37_79b9;

    /// As ordered, from a start that is different on every core.
    pub fn new(start: u32, order: &DrainOrder) -> Returns {
        Returns { at: start, told: 0, window_ms: order.return_window_ms, after_ms: order.return_after_ms }
    }

    /// The delay of the next one, counted from its Close, which comes at this pace.
    pub fn next_ms(&mut self, pace: &Pace) -> u64 {
        let close_ms = u64::from(pace.due_tick(self.told) - pace.began_tick) * TICK_MS;
        self.told = self.told.saturating_add(1);
        self.at = self.at.wrapping_add(Self::STEP);
        let place_ms = ((u128::from(self.at) * u128::from(self.window_ms)) >> 32) as u64;
        self.after_ms.saturating_sub(close_ms) + place_ms
    }
}

/// A core that stops.
pub(super) struct Drain {
    deadline_tick: u32,
    /// When Closes are due.
    pace: Pace,
    /// The core has left its address.
    has_left: bool,
    returns: Returns,
    /// Slots below this have been told.
    told: u32,
    closing: Closing,
    /// The deadline has passed, and every connection was released by force then.
    cut_tick: Option<u32>,
    /// This core has been taken out of the count of those that still have connections.
    is_counted: bool,
}

/// The second walk.
#[derive(Default)]
struct Closing {
    /// Slots below this have been closed.
    below: u32,
    /// Closes begun, and connections that ended before their turn.
    begun: u32,
    /// Opened in slots that the walk had passed.
    behind: VecDeque<ConnId>,
}

impl Closing {
    /// Closes to begin in this turn.
    fn due(&self, pace: &Pace, now_tick: u32) -> u32 {
        pace.due(now_tick).saturating_sub(self.begun).min(DRAIN_STEP)
    }
}

impl<I: Io, H: Handler> Reactor<I, H> {
    /// Begins to stop. A second order may shorten the first and may have the core leave its address; it restarts nothing.
    pub(super) fn begin_drain(&mut self, order: DrainOrder) {
        let deadline_tick = self.now_tick + order.timeout_ticks;
        let clients = self.counters.connections_open.get() as u32;
        let pace = Pace { clients, began_tick: self.now_tick, end_tick: self.now_tick + order.close_ticks };
        let returns = Returns::new(self.random_below(u32::MAX), &order);
        let drain = self.drain.get_or_insert(Drain {
            deadline_tick,
            pace,
            has_left: false,
            returns,
            told: 0,
            closing: Closing::default(),
            cut_tick: None,
            is_counted: false,
        });
        drain.deadline_tick = drain.deadline_tick.min(deadline_tick);
        drain.pace.end_tick = drain.pace.end_tick.min(pace.end_tick);
        if order.leaves && !drain.has_left {
            drain.has_left = true;
            self.io.stop_accepting();
        }
    }

    /// Whether it has left its address to another process and must not accept.
    pub(super) fn has_left(&self) -> bool {
        self.drain.as_ref().is_some_and(|drain| drain.has_left)
    }

    /// Whether newcomers get a 503 because the server stops.
    pub(super) fn turns_away(&self) -> bool {
        self.drain.as_ref().is_some_and(|drain| !drain.has_left)
    }

    /// Whether the drain has something to do now, so that the loop must not wait.
    pub(super) fn drain_has_steps(&self) -> bool {
        let Some(drain) = self.drain.as_ref().filter(|drain| drain.cut_tick.is_none()) else { return false };
        let closing = &drain.closing;
        let is_done = closing.below >= self.conns.slots() && closing.behind.is_empty();
        drain.told < self.conns.slots() || (!is_done && closing.due(&drain.pace, self.now_tick) > 0)
    }

    /// Goes on with the drain by one step.
    pub(super) fn drain_step(&mut self) {
        let Some(drain) = self.drain.as_ref().filter(|drain| drain.cut_tick.is_none()) else { return };
        if self.now_tick >= drain.deadline_tick {
            return self.cut_all();
        }
        if drain.told < self.conns.slots() {
            return self.tell_step();
        }
        self.close_step();
    }

    fn tell_step(&mut self) {
        let Some(from) = self.drain.as_ref().map(|drain| drain.told) else { return };
        let (open, end) = self.open_from(from, DRAIN_STEP);
        if let Some(drain) = &mut self.drain {
            drain.told = end;
        }
        for id in open {
            self.tell(id);
        }
    }

    fn tell(&mut self, id: ConnId) {
        if self.conn(id).is_none_or(|conn| conn.phase != Phase::Open) {
            return; // what another was told has ended it
        }
        let Some(drain) = &mut self.drain else { return };
        let reconnect_delay_ms = drain.returns.next_ms(&drain.pace);
        if self.handler.on_drain(id, reconnect_delay_ms, &mut self.outbox) {
            self.counters.drain_told.add(1);
        }
        self.apply_actions();
    }

    /// A connection opened: during a drain the walks may have passed it already.
    pub(super) fn tell_if_passed(&mut self, id: ConnId) {
        let Some(drain) = &mut self.drain else { return };
        if id.slot < drain.closing.below {
            drain.closing.behind.push_back(id);
        }
        if id.slot < drain.told {
            self.tell(id);
        }
    }

    /// An open connection has ended. One that has left before its turn has its place in the pace all the same: those behind it
    /// were told times that count from theirs.
    pub(super) fn keep_pace(&mut self, slot: u32) {
        if let Some(Drain { closing, .. }) = &mut self.drain
            && slot >= closing.below
        {
            closing.begun = closing.begun.saturating_add(1);
        }
    }

    fn close_step(&mut self) {
        let Some(drain) = &mut self.drain else { return };
        let closing = &mut drain.closing;
        let due = closing.due(&drain.pace, self.now_tick);
        if due == 0 {
            return;
        }
        let mut open: Vec<ConnId> =
            std::iter::from_fn(|| closing.behind.pop_front()).take(due as usize).collect();
        let from = closing.below;
        let (ahead, end) = self.open_from(from, due - open.len() as u32);
        open.extend(ahead);
        if let Some(Drain { closing, .. }) = &mut self.drain {
            closing.below = end;
            closing.begun = closing.begun.saturating_add(open.len() as u32);
        }
        let reason = CloseReason::ServerShutdown;
        for id in open {
            self.begin_close(id, reason.code(), "", reason);
        }
        self.apply_actions();
    }

    /// Up to `most` open connections from slot `from` on, and the slot at which to go on.
    fn open_from(&self, from: u32, most: u32) -> (Vec<ConnId>, u32) {
        let mut open = Vec::new();
        let end = self.conns.slots().min(from.saturating_add(SLOTS_LOOKED_AT));
        for slot in from..end {
            if open.len() >= most as usize {
                return (open, slot);
            }
            let Some(generation) = self.conns.generation(slot) else { continue };
            if self.conns.get(slot, generation).is_some_and(|conn| conn.phase == Phase::Open) {
                open.push(ConnId { slot, generation });
            }
        }
        (open, end)
    }

    /// The deadline: whoever is left goes.
    fn cut_all(&mut self) {
        for slot in 0..self.conns.slots() {
            if let Some(generation) = self.conns.generation(slot) {
                self.begin_release(ConnId { slot, generation }, CloseReason::ServerShutdown);
            }
        }
        if let Some(drain) = &mut self.drain {
            drain.cut_tick = Some(self.now_tick);
        }
        self.apply_actions();
    }

    /// Whether the reactor may end: it was told to, nobody is left, here and with its siblings, and what those have posted is
    /// handled. What the kernel holds on to long after the cut is left to it. An accept still in flight may yet bring
    /// somebody who was promised an answer.
    pub(super) fn is_drained(&mut self) -> bool {
        let is_empty = self.conns.is_empty() && (!self.has_left() || self.accepts_in_flight == 0);
        let Some(drain) = &mut self.drain else { return false };
        let is_cut = drain.cut_tick.is_some_and(|tick| self.now_tick >= tick + ticks(RELEASE_MS));
        let is_done = is_cut || is_empty;
        if is_done && !drain.is_counted {
            drain.is_counted = true;
            self.siblings.fetch_sub(1, Ordering::AcqRel);
        }
        is_done && self.siblings.load(Ordering::Acquire) == 0 && self.incoming.is_empty()
    }
}
