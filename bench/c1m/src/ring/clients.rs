//! Clients that come back: a work in which a connection that ends, or an attempt that fails, is followed by the next attempt
//! when the schedule of `backoff.rs` says so. Hints of the server are kept.
//!
//! One timer a slot, in a wheel: arming and firing are O(1) whatever the number. The timer is the next attempt's, or the one
//! under way's time limit. A TCP connect under way cannot be taken back: there the kernel's own limit holds.

use super::Ring;
use super::peer::Phase;
use super::work::Kind;
use crate::arrivals::{Arrivals, Within};
use crate::backoff::{Backoff, Meaning};
use megasock::ds::{Timer, Timers, Wheel};
use std::collections::BTreeMap;

/// Connections cut a turn.
const CUTS_PER_TURN: u32 = 256;
/// Time an attempt has until the server welcomes it, as in the client.
const ATTEMPT_MS_MAX: u64 = 15_000;
/// Until a slot that is not free yet, or whose connect is under way, is looked at again.
const LOOK_AGAIN_MS: u64 = 2;

/// One client, by its slot.
#[derive(Default)]
struct Client {
    timer: Timer,
    backoff: Backoff,
    attempts: u16,
    /// The server has ended this connection's life and said when to come back.
    hint_ms: Option<u32>,
    /// When it was welcomed, in ticks; `None` while it is not.
    welcome_at: Option<u32>,
    /// When its request was sent, in ticks.
    asked_at: u32,
    /// When it was cut, in ticks; until it is back.
    away_since: Option<u32>,
}

struct Table(Vec<Client>);

impl Timers for Table {
    fn timer(&mut self, slot: u32) -> &mut Timer {
        &mut self.0[slot as usize].timer
    }
}

/// What became of the clients of a ring. Ticks are milliseconds of the run's clock.
pub(super) struct Clients {
    wheel: Wheel,
    table: Table,
    fired: Vec<u32>,
    from_us: u64,
    pub(super) returns: Returns,
}

/// What a work of clients that come back saw.
#[derive(Default, Clone, Debug)]
pub(crate) struct Returns {
    pub(crate) attempts: u64,
    /// Most attempts of one client.
    pub(crate) attempts_most: u64,
    /// Refused by a 429 or 503 with Retry-After.
    pub(crate) refused_retry_after: u64,
    /// Refused in a frame that says when to come back.
    pub(crate) refused_in_band: u64,
    /// Failed in any other way: the server did not say why, or when to come back.
    pub(crate) refused_unannounced: u64,
    /// Clients told to stay away.
    pub(crate) stopped: u64,
    /// Clients told beforehand that their connection ends, and when to come back.
    pub(crate) told: u64,
    /// How connections that were welcome ended, the cut of the work itself aside.
    pub(crate) endings: BTreeMap<String, u64>,
    /// Attempts as they began, and welcomes.
    pub(crate) began: Arrivals,
    pub(crate) welcomed: Arrivals,
    /// From each request to its welcome.
    pub(crate) answered: Within,
    /// From a client's cut to its being back, in milliseconds.
    pub(crate) away_ms: Vec<u32>,
}

impl Returns {
    pub(crate) fn add(&mut self, other: Returns) {
        self.attempts += other.attempts;
        self.attempts_most = self.attempts_most.max(other.attempts_most);
        self.refused_retry_after += other.refused_retry_after;
        self.refused_in_band += other.refused_in_band;
        self.refused_unannounced += other.refused_unannounced;
        self.stopped += other.stopped;
        self.told += other.told;
        for (how, count) in other.endings {
            *self.endings.entry(how).or_default() += count;
        }
        self.began.add(&other.began);
        self.welcomed.add(&other.welcomed);
        self.answered.add(&other.answered);
        self.away_ms.extend(other.away_ms);
    }

    pub(crate) fn refused(&self) -> u64 {
        self.refused_retry_after + self.refused_in_band + self.refused_unannounced
    }
}

impl Clients {
    pub(super) fn new(slots: usize, now_us: u64, from_us: u64) -> Clients {
        Clients {
            wheel: Wheel::new(tick(now_us)),
            table: Table((0..slots).map(|_| Client::default()).collect()),
            fired: Vec::new(),
            from_us,
            returns: Returns::default(),
        }
    }

    fn arm(&mut self, slot: u32, now_us: u64, delay_ms: u64) {
        let delay = u32::try_from(delay_ms).unwrap_or(u32::MAX);
        self.wheel.arm(&mut self.table, slot, tick(now_us).saturating_add(delay));
    }

    /// When the wheel is to be turned next, in microseconds.
    pub(super) fn wakes_at_us(&self, now_us: u64) -> Option<u64> {
        let ticks = self.wheel.next_in_ticks()?;
        Some((u64::from(tick(now_us)) + u64::from(ticks)) * 1_000)
    }
}

fn tick(now_us: u64) -> u32 {
    (now_us / 1_000) as u32
}

impl Ring {
    /// The clients, while their work is in hand. Connections that end are theirs to bring back.
    pub(super) fn returning(&mut self) -> Option<&mut Clients> {
        match &self.work {
            Some(work) if matches!(work.kind, Kind::Return { .. }) => self.clients.as_deref_mut(),
            _ => None,
        }
    }

    /// Cuts who is still to be cut, and starts the attempts that are due.
    pub(super) fn bring_back(&mut self) {
        let Some(work) = &mut self.work else { return };
        let Kind::Return { next } = &mut work.kind else { return };
        if work.draining {
            return;
        }
        let slots = self.peers.len() as u32;
        let cut = *next..slots.min(next.saturating_add(CUTS_PER_TURN));
        *next = cut.end.max(*next);
        for slot in cut {
            if self.peers[slot as usize].phase == Phase::Open {
                self.tally.open -= 1;
                self.goes_away(slot, None);
                self.begin_close(slot);
            }
        }
        let Some(clients) = self.clients.as_deref_mut() else { return };
        let mut fired = std::mem::take(&mut clients.fired);
        clients.wheel.advance(&mut clients.table, tick(self.now_us), &mut fired);
        for slot in fired.drain(..) {
            self.timer_of(slot);
        }
        if let Some(clients) = self.clients.as_deref_mut() {
            clients.fired = fired;
        }
    }

    fn timer_of(&mut self, slot: u32) {
        match self.peers[slot as usize].phase {
            Phase::Free => self.attempt(slot),
            Phase::Closing | Phase::Connecting | Phase::Abandoned => self.arm(slot, LOOK_AGAIN_MS),
            Phase::Upgrading | Phase::Joining => {
                self.end_because(slot, format!("no welcome within {} s", ATTEMPT_MS_MAX / 1_000));
            }
            Phase::Open => {}
        }
    }

    fn arm(&mut self, slot: u32, delay_ms: u64) {
        let now_us = self.now_us;
        if let Some(clients) = self.clients.as_deref_mut() {
            clients.arm(slot, now_us, delay_ms);
        }
    }

    fn attempt(&mut self, slot: u32) {
        let now_us = self.now_us;
        let Some(clients) = self.returning() else { return };
        let client = &mut clients.table.0[slot as usize];
        client.attempts = client.attempts.saturating_add(1);
        clients.returns.attempts += 1;
        clients.returns.attempts_most = clients.returns.attempts_most.max(client.attempts.into());
        clients.returns.began.note(now_us.saturating_sub(clients.from_us));
        clients.arm(slot, now_us, ATTEMPT_MS_MAX);
        if let Some(work) = &mut self.work {
            work.in_flight += 1;
        }
        self.connect(slot);
    }

    /// The client's request is on its way.
    pub(super) fn asked(&mut self, slot: u32) {
        let now = tick(self.now_us);
        if let Some(clients) = self.returning() {
            clients.table.0[slot as usize].asked_at = now;
        }
    }

    /// The server's first frame, or where it has none to say the upgrade.
    pub(super) fn welcomed(&mut self, slot: u32) {
        let now_us = self.now_us;
        let Some(clients) = self.returning() else { return };
        let client = &mut clients.table.0[slot as usize];
        client.welcome_at = Some(tick(now_us));
        let after = |us: u64| us.saturating_sub(clients.from_us);
        clients.returns.welcomed.note(after(now_us));
        clients.returns.answered.note(after(u64::from(client.asked_at) * 1_000), after(now_us));
    }

    /// The client is where it was before.
    pub(super) fn is_back(&mut self, slot: u32) {
        let now = tick(self.now_us);
        let Some(clients) = self.returning() else { return };
        clients.wheel.disarm(&mut clients.table, slot);
        if let Some(since) = clients.table.0[slot as usize].away_since.take() {
            clients.returns.away_ms.push(now.saturating_sub(since));
            self.tally.returned += 1;
        }
    }

    /// The server says when to come back; `ends`: it ends a connection that was welcome.
    pub(super) fn hinted(&mut self, slot: u32, delay_ms: u64, ends: bool) {
        let Some(clients) = self.returning() else { return };
        clients.table.0[slot as usize].hint_ms = Some(u32::try_from(delay_ms).unwrap_or(u32::MAX));
        clients.returns.told += u64::from(ends);
    }

    /// A connection or an attempt ended, and not by the client: counts how, and brings the client back later. `announced`:
    /// the server refused, and said when to try again where a browser does not see it.
    pub(super) fn client_ended(&mut self, slot: u32, reason: String, code: Option<u16>, announced: bool) {
        let open = self.peers[slot as usize].phase == Phase::Open;
        if open {
            self.tally.open -= 1;
        } else if let Some(work) = &mut self.work {
            work.in_flight -= 1;
        }
        let Some(clients) = self.clients.as_deref_mut() else { return };
        let (client, returns) = (&clients.table.0[slot as usize], &mut clients.returns);
        if open || client.welcome_at.is_some() {
            *returns.endings.entry(reason).or_default() += 1;
        } else if client.hint_ms.is_some() {
            returns.refused_in_band += 1;
        } else if announced {
            returns.refused_retry_after += 1;
        } else {
            returns.refused_unannounced += 1;
            self.tally.failed += 1;
            *self.failures.entry(reason).or_default() += 1;
        }
        self.goes_away(slot, code);
        self.begin_close(slot);
    }

    /// Arms a client's next attempt.
    fn goes_away(&mut self, slot: u32, code: Option<u16>) {
        let (random, now) = (self.random_below_one(), tick(self.now_us));
        let was_open = self.peers[slot as usize].phase == Phase::Open;
        let Some(clients) = self.clients.as_deref_mut() else { return };
        let client = &mut clients.table.0[slot as usize];
        client.away_since.get_or_insert(now);
        let welcome = client.welcome_at.take();
        // One that was open before this work began has lasted.
        let lasted_ms = welcome.map(|at| now.saturating_sub(at).into()).or(was_open.then_some(u64::MAX));
        let hint_ms = client.hint_ms.take().map(u64::from);
        let meaning = Meaning::of(code);
        let delay_ms = client.backoff.next_ms(lasted_ms, hint_ms, meaning == Meaning::Slow, random);
        if meaning == Meaning::Stop {
            clients.returns.stopped += 1;
            clients.wheel.disarm(&mut clients.table, slot);
        } else {
            clients.arm(slot, self.now_us, delay_ms);
        }
    }
}
