//! Deadlines. One timer a connection, armed for the nearest; when it fires, what is due is worked out anew, so that
//! neither a message nor a pong touches the wheel.

use super::conn::{Conn, Phase, flag};
use super::{Options, Reactor, TICK_MS};
use crate::buf::Segment;
use crate::ds::Timers;
use crate::handler::{Handler, Work};
use crate::proto::close::CloseReason;
use crate::sys::{ConnId, Io};
use std::hash::{BuildHasher, RandomState};

/// Pings go out in batches a quarter of a second apart: each batch wakes this core once, and its pongs come together.
const HEARTBEAT_BATCH_TICKS: u32 = 4;

/// How long a deadline waits, at most, for a core that is behind with its input.
const OWN_DELAY_MS_MAX: u64 = 30_000;

/// When such a deadline is looked at again: a core that is behind has enough to do.
pub(super) const LOOK_AGAIN_MS: u64 = 250;

/// Buffers kept over a quiet second.
const BUFFERS_KEPT: usize = 16;

/// A start for the sequence that spreads pings.
pub(super) fn seed() -> u64 {
    RandomState::new().hash_one(0)
}

/// The tick of the batch that a ping due at `tick` goes out with.
fn batched(tick: u32) -> u32 {
    tick - tick % HEARTBEAT_BATCH_TICKS
}

impl Options {
    /// Something came from the peer: an unanswered ping counts as answered, and the next is due an interval after it.
    pub(super) fn heard(&self, conn: &mut Conn) {
        if conn.has(flag::PINGED) {
            conn.clear(flag::PINGED);
            let interval = self.ping_interval_ticks.unwrap_or(0);
            conn.due_tick = (conn.due_tick + interval).saturating_sub(self.pong_timeout_ticks);
        }
    }

    /// When a connection was pinged, if nothing was heard of it since.
    pub(super) fn pinged_tick(&self, conn: &Conn) -> Option<u32> {
        conn.has(flag::PINGED).then(|| conn.due_tick.saturating_sub(self.pong_timeout_ticks))
    }

    /// The nearest deadline of an open connection. One that is not read is not accused of what it may have said by now: it
    /// has to take what it is sent, and no more.
    fn next_deadline(&self, conn: &Conn) -> Option<u32> {
        let heartbeat = self.ping_interval_ticks.map(|_| conn.due_tick);
        if conn.is_unread() {
            return heartbeat.filter(|_| conn.has(flag::SENDING));
        }
        let idle = self.idle_timeout_ticks.map(|timeout| conn.active_tick + timeout);
        [heartbeat, idle, self.message_due(conn)].into_iter().flatten().min()
    }

    fn message_due(&self, conn: &Conn) -> Option<u32> {
        let spill = conn.spill.as_ref().filter(|spill| spill.in_message())?;
        Some(spill.started_tick + self.message_deadline_ticks)
    }
}

impl<I: Io, H: Handler> Reactor<I, H> {
    /// A connection that stays silent is first pinged at a random point of its second interval: connections that came
    /// together, or all at once after a cut, are not pinged together.
    pub(super) fn first_heartbeat_tick(&mut self) -> u32 {
        let interval = self.options.ping_interval_ticks.unwrap_or(0);
        let spread = self.random_below(interval);
        batched(self.now_tick + interval + spread)
    }

    /// splitmix64, Steele et al., "Fast splittable pseudorandom number generators", 2014.
    pub(super) fn random_below(&mut self, bound: u32) -> u32 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z >> 33) as u32 % bound.max(1)
    }

    /// Arms the timer of an open connection for its nearest deadline.
    pub(super) fn arm_next(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(id.slot, id.generation) else { return };
        match self.options.next_deadline(conn) {
            Some(deadline) => self.wheel.arm(&mut self.conns, id.slot, deadline),
            None => self.wheel.disarm(&mut self.conns, id.slot),
        }
    }

    /// What a peer was to do in time may have come while it was not read: it has the whole time again.
    pub(super) fn restart_deadlines(&mut self, id: ConnId) {
        let (now, pong_due) = (self.now_tick, self.now_tick + self.options.pong_timeout_ticks);
        // One that ends has its close deadline, or none.
        let Some(conn) = self.conn(id).filter(|conn| conn.phase == Phase::Open) else { return };
        conn.active_tick = now;
        if conn.has(flag::PINGED) {
            conn.due_tick = pong_due;
        }
        if let Some(spill) = &mut conn.spill {
            spill.started_tick = now.max(1);
        }
        if self.conns.timer(id.slot).deadline().is_none() {
            self.arm_next(id); // one that is armed is armed for earlier
        }
    }

    /// Moves the timer forward if it is armed for later than `deadline`.
    pub(super) fn arm_no_later_than(&mut self, id: ConnId, deadline: u32) {
        if self.conns.timer(id.slot).deadline().is_none_or(|armed| armed > deadline) {
            self.wheel.arm(&mut self.conns, id.slot, deadline);
        }
    }

    pub(super) fn run_timers(&mut self) {
        let mut fired = std::mem::take(&mut self.fired);
        self.wheel.advance(&mut self.conns, self.now_tick, &mut fired);
        for slot in fired.drain(..) {
            if let Some(generation) = self.conns.generation(slot) {
                self.handle_timer(ConnId { slot, generation });
            }
        }
        self.fired = fired;
        if self.now_tick >= self.second_tick {
            self.second_tick = self.now_tick + super::ticks(1000);
            self.pool.trim(BUFFERS_KEPT);
            self.desk.refill(self.options.events_per_second);
            self.counters.busy_permille.set(self.busy.permille(&self.io));
            self.handler.on_tick(u64::from(self.now_tick) * TICK_MS, &mut self.outbox);
        }
        self.apply_actions();
    }

    fn handle_timer(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(id.slot, id.generation) else { return };
        match conn.phase {
            Phase::Open => self.handle_open_timer(id),
            Phase::Request | Phase::Deciding if self.may_be_our_delay(conn, conn.due_tick) => {
                self.look_again(id)
            }
            Phase::Request | Phase::Deciding => self.handle_handshake_timeout(id),
            // Who did not read its backlog has not read our Close behind it; and who is shed has gone for want of memory,
            // whether it answers or not.
            Phase::Closing if matches!(conn.reason, CloseReason::SlowConsumer | CloseReason::Shed) => {
                self.release(id)
            }
            Phase::Closing => self.begin_release(id, CloseReason::CloseTimeout),
            Phase::Finishing | Phase::Refusing | Phase::Lingering => self.release(id),
            Phase::Releasing => {}
        }
    }

    /// Whether what was due of a connection then may lie unread on this side: a core that is behind accuses nobody, for a while.
    pub(super) fn may_be_our_delay(&self, conn: &Conn, due_tick: u32) -> bool {
        let is_behind = self.readable.heard_tick() < due_tick || conn.has(flag::READABLE);
        is_behind && self.now_tick < due_tick + super::ticks(OWN_DELAY_MS_MAX)
    }

    /// Messages before heartbeats: while the handler has more to send at once, a ping is left out, and the next one is
    /// not. One that only came later would come together with those due then.
    fn give_way(&mut self, id: ConnId, interval: u32) {
        let due = batched(self.now_tick + interval);
        if let Some(conn) = self.conn(id) {
            conn.set(flag::GAVE_WAY);
            conn.due_tick = due;
        }
    }

    fn look_again(&mut self, id: ConnId) {
        self.wheel.arm(&mut self.conns, id.slot, self.now_tick + super::ticks(LOOK_AGAIN_MS));
    }

    fn handle_open_timer(&mut self, id: ConnId) {
        if self.shed(id) {
            return;
        }
        let now = self.now_tick;
        let Some(conn) = self.conns.get(id.slot, id.generation) else { return };
        let is_read = !conn.is_unread();
        if !is_read && !conn.has(flag::SENDING) {
            // Its deadlines begin anew when it is read again, or when its socket fills up. This one is full, between two sends.
            if conn.has(flag::BLOCKED) {
                self.look_again(id);
            }
            return;
        }
        let overdue = |due: Option<u32>| due.filter(|due| now >= *due);
        let message_due = overdue(self.options.message_due(conn)).filter(|_| is_read);
        let idle = self.options.idle_timeout_ticks.filter(|_| is_read);
        let idle_due = overdue(idle.map(|timeout| conn.active_tick + timeout));
        let pong_due = overdue(conn.has(flag::PINGED).then_some(conn.due_tick));
        if [message_due, idle_due, pong_due].into_iter().flatten().any(|due| self.may_be_our_delay(conn, due))
        {
            return self.look_again(id);
        }
        if message_due.is_some() {
            return self.fail(id, CloseReason::MessageDeadline);
        }
        if idle_due.is_some() {
            let reason = CloseReason::IdleTimeout;
            return self.begin_close(id, reason.code(), "", reason);
        }
        if let Some(interval) = self.options.ping_interval_ticks
            && now >= conn.due_tick
        {
            if self.work == Work::Now && !conn.has(flag::PINGED | flag::GAVE_WAY) {
                self.give_way(id, interval);
            } else {
                self.handle_heartbeat(id, interval);
            }
        }
        if self.conn(id).is_some_and(|conn| conn.phase == Phase::Open) {
            self.arm_next(id);
        }
    }

    fn handle_heartbeat(&mut self, id: ConnId, interval: u32) {
        let (now, timeout) = (self.now_tick, self.options.pong_timeout_ticks);
        let Some(conn) = self.conn(id) else { return };
        if conn.has(flag::PINGED) {
            // The ping waits behind its backlog, and that has not moved: it is slow rather than gone.
            if conn.has(flag::SENDING) {
                return self.cut_slow(id);
            }
            return self.begin_release(id, CloseReason::HeartbeatTimeout);
        }
        if conn.active_tick + interval > now {
            conn.due_tick = batched(now + interval); // it spoke within the interval; its place in the spread is kept
            return;
        }
        conn.set(flag::PINGED);
        conn.clear(flag::GAVE_WAY);
        conn.due_tick = now + timeout;
        self.counters.pings_sent.add(1);
        let ping = self.ping.made_at(self.woke_us);
        self.enqueue(id, Segment::payload(ping));
    }
}
