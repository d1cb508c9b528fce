//! The loop of one core.
//!
//! A turn: queue receives for readable connections, one gathered send for each connection with output, one enter; then
//! dispatch what completed, then mail, timers, drain. `Reactor::dispatch` is the only `match` on a completion.
//!
//! Invariants:
//! - A connection has at most one receive and one send in the kernel.
//! - Its slot is freed only after the last completion of every operation on it; what comes later is stale and counted.
//! - Nothing here blocks, and nothing walks all connections, except a drain: in bounded steps, and once at its deadline.

mod accept;
mod close;
mod conn;
mod drain;
mod journal;
mod look;
mod mail;
mod mesh;
mod peer;
mod ping;
mod pressure;
mod readable;
mod recv;
mod request;
mod send;
mod stats;
mod timers;
mod tune;

pub use drain::{DrainOrder, Pace, Returns};
pub use journal::{Event, Journal, Who};
pub use look::ConnectionFacts;
pub use mail::{Control, Mailbox};
pub use mesh::{Mesh, mesh};
pub use peer::Proxies;
pub use pressure::{Gauge, Pressure};
pub use stats::{Counters, HANDSHAKE_STATUSES, Totals};

use crate::budget::{CoreBudget, OPENED_TICK_BYTES};
use crate::buf::{Pool, SendQueue};
use crate::ds::{Slab, Table, Wheel};
use crate::handler::{Action, Handler, Outbox, Work};
use crate::proto::message::Limits;
use crate::sys::{Completion, ConnId, Io, RingError, clock};
use conn::{Conn, flag};
use journal::Desk;
use mesh::Incoming;
use ping::Ping;
use readable::Readable;
use request::PartialHead;
use stats::Busy;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

/// Granularity of all timers.
pub const TICK_MS: u64 = 64;

/// So many completions in one turn may mean that the kernel has more: it runs about 20 deferred ones an enter (6.13). A receive
/// is none of them: it is done, or found to have nothing, as it is submitted.
const COMPLETIONS_OF_A_BACKLOG: usize = 16;

/// What a reactor needs to know. Times are ticks of [`TICK_MS`], see [`ticks`].
#[derive(Debug, Clone)]
pub struct Options {
    /// Connections carried; more are answered 503.
    pub connections_max: u32,
    /// Queues and pools.
    pub budget: CoreBudget,
    /// Limits on messages.
    pub limits: Limits,
    /// Backlog at which a connection is dropped as too slow; at half of it its input is no longer read.
    pub send_queue_bytes_max: usize,
    /// Silence before a ping; `None`: no heartbeat.
    pub ping_interval_ticks: Option<u32>,
    /// Time for an answer to a ping.
    pub pong_timeout_ticks: u32,
    /// Time without a message; `None`: no limit.
    pub idle_timeout_ticks: Option<u32>,
    /// Time from accept to a complete request.
    pub handshake_timeout_ticks: u32,
    /// Time from a message's first byte to its last.
    pub message_deadline_ticks: u32,
    /// Time for a closing handshake.
    pub close_timeout_ticks: u32,
    /// Who may say for whom it speaks.
    pub proxies: Proxies,
    /// Events of each kind told to the [`Journal`] in a second; `None`: all, 0: none.
    pub events_per_second: Option<u32>,
}

/// What a reactor shares with other threads, besides its mailbox.
#[derive(Clone, Default)]
pub struct Shared {
    /// Written by the reactor alone.
    pub counters: Arc<Counters>,
    /// Reactors of the server that are not drained: each takes itself out.
    pub siblings: Arc<AtomicUsize>,
    /// How short memory is, for all reactors of the server.
    pub pressure: Arc<Gauge>,
    /// Where it tells of its connections.
    pub journal: Option<Journal>,
}

/// Ticks that cover `ms`, at least one.
pub fn ticks(ms: u64) -> u32 {
    ms.div_ceil(TICK_MS).clamp(1, 1 << 30) as u32
}

/// The tick of a moment.
fn tick_of(us: u64) -> u32 {
    (us / (TICK_MS * 1000)) as u32
}

/// A wait of the loop.
#[derive(Clone, Copy)]
struct Wait {
    /// When all was done that came before it.
    from_us: u64,
    at_most: Duration,
}

const _: () = assert!(size_of::<u32>() == OPENED_TICK_BYTES, "beside each slot, the tick of its upgrade");

/// One core: its ring, its connections, its share of the application.
pub struct Reactor<I: Io, H: Handler> {
    io: I,
    handler: H,
    options: Options,
    conns: Slab<Conn>,
    wheel: Wheel,
    pool: Pool,
    outbox: Outbox<H::Mail>,
    spare_actions: Vec<Action>,
    /// Boxed, because a connection holds one by a thin pointer.
    #[expect(clippy::vec_box)]
    spare_queues: Vec<Box<SendQueue>>,
    /// Connections with input to receive.
    readable: Readable,
    /// Connections with output to send.
    dirty: Vec<ConnId>,
    /// Connections that go on once this turn's output is sent.
    finishing: Vec<ConnId>,
    /// Request heads that did not come whole, and requests not yet decided, by slot.
    heads: Table<u32, PartialHead>,
    mailbox: Mailbox<H::Mail>,
    /// The rings from the other cores; those to them are in the outbox.
    incoming: Incoming<H::Mail>,
    counters: Arc<Counters>,
    /// The heartbeat's ping of this turn, or of the last one that pinged.
    ping: Ping,
    /// Messages until the next one whose handling is timed.
    untimed: u32,
    /// Tick of the upgrade, by slot.
    opened_ticks: Vec<u32>,
    /// When the wait of this turn ended.
    woke_us: u64,
    /// The connection whose bytes are read, and the tick at which it was pinged, if it had not answered before.
    answering: Option<(ConnId, u32)>,
    busy: Busy,
    desk: Desk,
    /// Slots whose timer has fired, empty between turns.
    fired: Vec<u32>,
    now_tick: u32,
    /// Tick of the next `on_tick`.
    second_tick: u32,
    accepts_in_flight: u32,
    /// Accepts rest until then after the kernel was out of descriptors or memory.
    accept_pause_tick: u32,
    /// What the handler has left to do.
    work: Work,
    drain: Option<drain::Drain>,
    tuning: Option<tune::Tuning>,
    /// Reactors of this server that still have connections, or were not told to stop.
    siblings: Arc<AtomicUsize>,
    /// Read where a newcomer comes and where a timer fires.
    pressure: Arc<Gauge>,
    random: u64,
}

impl<I: Io, H: Handler> Reactor<I, H> {
    /// A reactor on `io`, which it alone uses from now on.
    pub fn new(
        io: I,
        handler: H,
        options: Options,
        mailbox: Mailbox<H::Mail>,
        mesh: Mesh<H::Mail>,
        shared: Shared,
    ) -> Self {
        let (outbox, incoming) = mesh.split();
        let slots = options.budget.descriptors(options.connections_max);
        Reactor {
            conns: Slab::with_capacity(slots as usize),
            opened_ticks: Vec::with_capacity(slots as usize),
            wheel: Wheel::new(0),
            pool: Pool::new(options.budget.buffers_max.into()),
            outbox,
            spare_actions: Vec::new(),
            spare_queues: Vec::new(),
            readable: Readable::new(),
            dirty: Vec::new(),
            finishing: Vec::new(),
            heads: Table::default(),
            ping: Ping::default(),
            untimed: 0,
            woke_us: io.now_us(),
            answering: None,
            busy: Busy::since(&io),
            desk: Desk::new(shared.journal, options.events_per_second),
            fired: Vec::new(),
            now_tick: 0,
            second_tick: 0,
            accepts_in_flight: 0,
            accept_pause_tick: 0,
            work: Work::None,
            drain: None,
            tuning: None,
            random: timers::seed(),
            io,
            handler,
            options,
            mailbox,
            incoming,
            counters: shared.counters,
            siblings: shared.siblings,
            pressure: shared.pressure,
        }
    }

    /// Runs until a drain is over.
    ///
    /// # Errors
    /// The ring cannot go on; its connections are in an unknown state and the process must end.
    pub fn run(mut self) -> Result<(), RingError> {
        let mut done = Vec::new();
        while !self.is_drained() {
            self.turn(&mut done)?;
        }
        // The last turn may have rung for a core that sleeps.
        self.io.turn(Some(Duration::ZERO), &mut done)
    }

    fn turn(&mut self, done: &mut Vec<Completion>) -> Result<(), RingError> {
        self.refill_accepts();
        self.receive_readable();
        let sends = !self.dirty.is_empty();
        self.flush_dirty();
        let wait = self.wait_at_most(sends);
        self.io.turn(Some(wait.map_or(Duration::ZERO, |wait| wait.at_most)), done)?;
        self.mailbox.unpark();
        while let Some(queue) = self.io.spent_queue() {
            self.recycle(queue);
        }
        self.note_wake(wait);
        self.outbox.set_unix_ms(clock::unix_ms());
        let mut told = 0;
        for completion in done.drain(..) {
            told += usize::from(!matches!(completion, Completion::Received { .. }));
            self.dispatch(completion);
        }
        self.readable.end_turn(self.io.now_us().saturating_sub(self.woke_us));
        if told < COMPLETIONS_OF_A_BACKLOG {
            self.readable.mark_tick(self.now_tick);
        }
        self.finish_sent();
        self.take_mail();
        self.tuning_step();
        self.take_mesh_mail();
        self.run_timers();
        self.work = self.handler.on_turn(&mut self.outbox);
        self.apply_actions();
        self.drain_step();
        self.announce_posts();
        self.counters.turns.add(1);
        self.counters.slots_held.set(self.conns.len() as u64);
        self.counters.buffers_held.set(self.pool.leased().into());
        Ok(())
    }

    fn dispatch(&mut self, completion: Completion) {
        match completion {
            Completion::Accepted { slot, peer } => self.handle_accepted(slot, peer),
            Completion::AcceptFailed { errno } => self.handle_accept_failed(errno),
            Completion::Polled { id, result, more } => self.handle_polled(id, result, more),
            Completion::Received { id, into, result, nonempty } => {
                self.handle_received(id, into, result, nonempty)
            }
            Completion::Unsent { id, rest, result } => self.handle_unsent(id, rest, result),
            Completion::Sent { id, rest, result } => self.handle_sent(id, rest, result),
            Completion::Shut { id } => self.handle_operation_ended(id, flag::SHUTTING),
            Completion::Closed { id } => self.handle_closed(id),
            Completion::Woken => {}
            Completion::Connected { .. } => unreachable!("a reactor does not connect"),
        }
    }

    /// The wait is over, or there was none.
    fn note_wake(&mut self, wait: Option<Wait>) {
        let now_us = self.io.now_us();
        let end_us = wait.map_or(now_us, |wait| wait.from_us);
        self.counters.turn_us.record(end_us.saturating_sub(self.woke_us));
        self.woke_us = now_us;
        self.now_tick = tick_of(now_us);
    }

    /// How long the next enter may wait; `None`: not at all. Mail that came before the core parked is seen here; later mail
    /// rings.
    fn wait_at_most(&mut self, sends: bool) -> Option<Wait> {
        if self.work == Work::Now
            || self.incoming.has_mail()
            || self.drain_has_steps()
            || self.tuning.is_some()
        {
            return None;
        }
        if !self.readable.is_empty() {
            // With every buffer lent out, wait for one rather than spin; but those of this turn's sends come back in
            // silence.
            let starved = !sends && self.pool.leased() >= u32::from(self.options.budget.buffers_max);
            return starved.then(|| Wait { from_us: self.io.now_us(), at_most: Duration::from_millis(1) });
        }
        // A last output that goes out in this enter is silent, and its connection ends right after.
        if !self.finishing.is_empty() || !self.mailbox.park() {
            return None;
        }
        // A drained reactor looks at its siblings every tick.
        let rest = if self.drain.is_some() { 1 } else { self.second_tick.saturating_sub(self.now_tick) };
        let next_ticks = self.wheel.next_in_ticks().map_or(rest, |next| next.min(rest)).max(1);
        let wake_us = (u64::from(self.now_tick) + u64::from(next_ticks)) * TICK_MS * 1000;
        let from_us = self.io.now_us();
        let at_most = Duration::from_micros(wake_us.saturating_sub(from_us).max(1));
        let soon = self.work == Work::Soon;
        Some(Wait { from_us, at_most: if soon { at_most.min(Duration::from_millis(1)) } else { at_most } })
    }

    /// Carries out what the last callback asked for.
    fn apply_actions(&mut self) {
        while !self.outbox.is_empty() {
            let mut actions = self.outbox.take_actions(std::mem::take(&mut self.spare_actions));
            for action in actions.drain(..) {
                match action {
                    Action::Send { to, frame, messages } => self.send_messages(to, frame, messages),
                    Action::Close { conn, code, reason } => self.close_by_handler(conn, code, &reason),
                    Action::End { conn, reason } => self.begin_close(conn, reason.code(), "", reason),
                    Action::Decide { conn, decision } => self.handle_decision(conn, decision),
                    Action::ReportSlow { conn, action, owed_bytes } => {
                        self.tell_slow(conn, action, owed_bytes)
                    }
                    Action::Hold { conn } => self.hold(conn),
                    Action::Resume { conn } => self.resume(conn),
                }
            }
            self.spare_actions = actions;
        }
    }

    fn conn(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.conns.get_mut(id.slot, id.generation)
    }
}

#[cfg(test)]
mod tests;
