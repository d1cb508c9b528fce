//! How a work goes forward: what it starts each turn, and what an opened, answered or ended connection means to it.

use super::clients::Clients;
use super::peer::Phase;
use super::work::{Kind, Order, Work, histogram};
use super::{Ring, Script};
use crate::target::Speech;
use std::time::Instant;

/// Connections closed at a time.
const CLOSES_IN_FLIGHT: u32 = 256;
/// Messages a paced work sends before it looks at completions again.
const PACED_PER_TURN: u32 = 64;
/// Random tries to find an idle connection before the message waits; its latency counts from its time all the same.
const PACED_TRIES: u32 = 8;
const PACED_RETRY_US: u64 = 500;
/// How late a paced work may be with its last message before it leaves out the rest: the rate is missed then.
const PACED_LATE_US_MAX: u64 = 1_000_000;
/// A step through all slots that does not follow their order; a prime, so coprime to nearly every count.
const SWEEP_STRIDES: [u64; 2] = [7_919, 7_907];

const ETIMEDOUT: i32 = 110;
const ECONNRESET: i32 = 104;
const ECONNREFUSED: i32 = 111;

impl Ring {
    pub(super) fn begin(&mut self, order: Order) {
        let slots = self.peers.len() as u32;
        let us = |at: Instant| at.saturating_duration_since(self.spec.clock).as_micros() as u64;
        let mut started_us = self.now_us;
        let (payload_bytes, kind) = match order {
            Order::Drain => return self.drain(),
            Order::Finish => return self.finish(),
            Order::Quit => return,
            Order::Ramp { count, in_flight, per_second } => {
                (None, Kind::Ramp { next: 0, count: count.min(slots), window: in_flight.max(1), per_second })
            }
            Order::Sweep { payload_bytes, window, until } => {
                (Some(payload_bytes), Kind::Sweep { next: 0, window: window.max(1), until_us: until.map(us) })
            }
            Order::Paced { payload_bytes, per_second, from, until } => {
                started_us = us(from);
                let next_us = started_us as f64;
                let (interval_us, until_us) = (1e6 / per_second, us(until));
                (Some(payload_bytes), Kind::Paced { next_us, interval_us, until_us, retry_us: 0 })
            }
            Order::Closed { payload_bytes, connections, depth, until } => {
                let connections = connections.min(slots);
                (Some(payload_bytes), Kind::Closed { next: 0, connections, depth, until_us: us(until) })
            }
            Order::Publish(order) => (None, self.publication(order, us(order.until))),
            Order::Collect => (None, Kind::Collect),
            Order::Cut { part } => (None, Kind::Cut { next: 0, part }),
            Order::Return { cut, from } => {
                let clients = Clients::new(slots as usize, self.now_us, us(from));
                self.clients = Some(Box::new(clients));
                (None, Kind::Return { next: if cut { 0 } else { slots } })
            }
        };
        if let Some(bytes) = payload_bytes {
            self.script = Script::new(self.spec.target.speech, bytes);
        }
        self.work = Some(Work::new(self.spec.ring, kind, started_us));
    }

    /// Starts what is due, and reports the work once it is done.
    pub(super) fn advance(&mut self) {
        self.bring_back();
        let Some(mut work) = self.work.take() else { return };
        if !work.draining {
            match &mut work.kind {
                Kind::Ramp { .. } => self.open_next(&mut work),
                Kind::Sweep { .. } => self.sweep_next(&mut work),
                Kind::Paced { .. } => self.send_due(&mut work),
                Kind::Closed { .. } => self.fill_pipelines(&mut work),
                Kind::Publish { .. } => self.publish_next(&mut work),
                Kind::Collect => {
                    work.outcome.latency_us = std::mem::replace(&mut self.delivery_us, histogram());
                    work.draining = true;
                }
                Kind::Cut { .. } => self.cut_next(&mut work),
                Kind::Return { .. } => {} // done above, for it needs the work where it is
            }
        }
        self.note_received(&mut work);
        if work.draining && work.in_flight == 0 {
            work.outcome.failures = std::mem::take(&mut self.failures);
            if let (Kind::Return { .. }, Some(clients)) = (&work.kind, self.clients.take()) {
                work.outcome.returns = clients.returns;
            }
            work.outcome.elapsed_us = self.now_us.saturating_sub(work.started_us).max(1);
            self.pool.trim(super::BUFFERS_IDLE);
            // The coordinator may be gone: then the next order is to quit.
            let _ = self.wires.outcomes.send(work.outcome);
            self.wires.published.store(&self.tally);
        } else {
            self.work = Some(work);
        }
    }

    fn open_next(&mut self, work: &mut Work) {
        let Kind::Ramp { next, count, window, per_second } = &mut work.kind else { return };
        let elapsed_s = (self.now_us - work.started_us) as f64 / 1e6;
        let allowed = per_second.map_or(f64::INFINITY, |rate| elapsed_s * rate + 1.0);
        while *next < *count && work.in_flight < *window && f64::from(*next) < allowed {
            let slot = *next;
            *next += 1;
            if self.peers[slot as usize].phase == Phase::Free {
                work.in_flight += 1;
                self.connect(slot);
            }
        }
        work.draining = *next == *count;
    }

    /// Begins a connection on a free slot.
    pub(super) fn connect(&mut self, slot: u32) {
        let peer = &mut self.peers[slot as usize];
        peer.phase = Phase::Connecting;
        peer.due_us = self.now_us;
        // A slot's next connection goes another way, so that it does not meet its predecessor's TIME_WAIT.
        let (to, from) =
            self.spec.target.route(self.spec.first + u64::from(slot) + u64::from(peer.generation));
        self.io.connect(peer.id(slot), to, from);
    }

    fn sweep_next(&mut self, work: &mut Work) {
        let slots = self.peers.len() as u64;
        let stride = if slots.is_multiple_of(SWEEP_STRIDES[0]) { SWEEP_STRIDES[1] } else { SWEEP_STRIDES[0] };
        let Kind::Sweep { next, window, until_us } = &mut work.kind else { return };
        if until_us.is_some_and(|until| self.now_us >= until) || self.tally.open == 0 {
            work.draining = true;
            return;
        }
        let mut looked = 0;
        while work.in_flight < *window && looked < slots {
            if u64::from(*next) == slots {
                if until_us.is_none() {
                    work.draining = true;
                    return;
                }
                *next = 0;
            }
            let slot = (u64::from(*next) * stride % slots) as u32;
            *next += 1;
            looked += 1;
            let peer = &self.peers[slot as usize];
            if peer.phase == Phase::Open && peer.outstanding() == 0 {
                self.message(slot, 1, self.now_us);
                work.in_flight += 1;
            }
        }
    }

    fn send_due(&mut self, work: &mut Work) {
        let Kind::Paced { next_us, interval_us, until_us, retry_us } = &mut work.kind else { return };
        for _ in 0..PACED_PER_TURN {
            let hopeless = self.now_us >= *until_us + PACED_LATE_US_MAX || self.tally.open == 0;
            if *next_us >= *until_us as f64 || hopeless {
                work.draining = true;
                return;
            }
            if *next_us > self.now_us as f64 {
                return;
            }
            let Some(slot) = self.random_idle() else {
                *retry_us = self.now_us + PACED_RETRY_US;
                return;
            };
            self.message(slot, 1, *next_us as u64);
            work.in_flight += 1;
            *next_us += *interval_us;
        }
    }

    fn random_idle(&mut self) -> Option<u32> {
        (0..PACED_TRIES).find_map(|_| {
            let slot = (self.random_below_one() * self.peers.len() as f64) as u32;
            let peer = &self.peers[slot as usize];
            (peer.phase == Phase::Open && peer.outstanding() == 0).then_some(slot)
        })
    }

    /// xorshift64: any fixed sequence without a pattern does.
    pub(super) fn random_below_one(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 32) as f64 / (1u64 << 32) as f64
    }

    fn fill_pipelines(&mut self, work: &mut Work) {
        let Kind::Closed { next, connections, depth, until_us } = &mut work.kind else { return };
        work.draining = self.now_us >= *until_us;
        while *next < *connections {
            let slot = *next;
            *next += 1;
            if self.peers[slot as usize].phase == Phase::Open {
                self.message(slot, *depth, self.now_us);
                work.in_flight += *depth;
            }
        }
    }

    fn cut_next(&mut self, work: &mut Work) {
        let Kind::Cut { next, part } = &mut work.kind else { return };
        while (*next as usize) < self.peers.len() && work.in_flight < CLOSES_IN_FLIGHT {
            let slot = *next;
            *next += 1;
            if self.peers[slot as usize].phase == Phase::Open && self.random_below_one() < *part {
                self.tally.open -= 1;
                work.in_flight += 1;
                self.begin_close(slot);
            }
        }
        work.draining = *next as usize == self.peers.len();
    }

    /// Sends the next `count` messages of a connection in one send.
    fn message(&mut self, slot: u32, count: u32, due_us: u64) {
        let mut bytes = Vec::new();
        self.write_messages(slot, count, due_us, &mut bytes);
        self.say(slot, bytes);
    }

    fn write_messages(&mut self, slot: u32, count: u32, due_us: u64, bytes: &mut Vec<u8>) {
        let number = self.number(slot) as u32;
        let peer = &mut self.peers[slot as usize];
        peer.due_us = due_us;
        for _ in 0..count {
            self.script.say(bytes, number, peer.sent);
            peer.sent = peer.sent.wrapping_add(1);
        }
    }

    /// `count` echoes of a connection came and were right. What follows them is written to `reply`.
    pub(super) fn answered(&mut self, slot: u32, count: u32, reply: &mut Vec<u8>) {
        self.tally.echoes += u64::from(count);
        let Some(work) = &mut self.work else { return };
        work.in_flight -= count;
        work.outcome.echoes += u64::from(count);
        let due_us = self.peers[slot as usize].due_us;
        match &work.kind {
            Kind::Closed { until_us, .. } => {
                if self.now_us < *until_us && !work.draining {
                    work.in_flight += count;
                    self.write_messages(slot, count, self.now_us, reply);
                }
            }
            _ => work.outcome.latency_us.saturating_record(self.now_us.saturating_sub(due_us)),
        }
    }

    /// The upgrade is through; in channels the connection is open once its subscription stands.
    pub(super) fn upgraded(&mut self, slot: u32) {
        match self.spec.target.speech {
            Speech::Channels => self.subscribe(slot),
            Speech::Topic => {
                self.welcomed(slot);
                self.peers[slot as usize].next = self.spec.target.topic.first_for(None);
                self.opened(slot);
            }
            Speech::Echo | Speech::Bytes => {
                self.welcomed(slot);
                self.opened(slot);
            }
        }
    }

    /// The connection is as it should be.
    pub(super) fn opened(&mut self, slot: u32) {
        let peer = &mut self.peers[slot as usize];
        peer.phase = Phase::Open;
        self.tally.open += 1;
        if let Some(work) = &mut self.work {
            work.in_flight -= 1;
            work.outcome.opened += 1;
            work.outcome.latency_us.saturating_record(self.now_us.saturating_sub(peer.due_us));
        }
        self.is_back(slot);
    }

    /// The server answered the upgrade with something else than 101 and the right key; 0 is no HTTP at all. `announced`: it
    /// says when to try again.
    pub(super) fn refuse(&mut self, slot: u32, status: u16, announced: bool) {
        self.tally.refused += u64::from(status == 503);
        let reason =
            if status == 0 { "not an HTTP response".into() } else { format!("HTTP status {status}") };
        if self.returning().is_some() {
            return self.client_ended(slot, reason, None, announced && matches!(status, 429 | 503));
        }
        self.failed(reason);
        self.begin_close(slot);
    }

    /// A connection ended without being told to: 0 is end of stream or a broken protocol, otherwise a negated errno.
    pub(super) fn end(&mut self, slot: u32, result: i32) {
        let reason = match result {
            0 => "closed by the server".to_owned(),
            errno => std::io::Error::from_raw_os_error(-errno).to_string(),
        };
        if matches!(self.peers[slot as usize].phase, Phase::Connecting | Phase::Upgrading) {
            self.tally.refused += u64::from([0, -ECONNRESET, -ECONNREFUSED].contains(&result));
        }
        self.end_because(slot, reason);
    }

    /// Gives a connection up.
    pub(super) fn end_because(&mut self, slot: u32, reason: String) {
        if self.peers[slot as usize].phase.is_wanted() && self.returning().is_some() {
            return self.client_ended(slot, reason, None, false);
        }
        let peer = &self.peers[slot as usize];
        match peer.phase {
            Phase::Connecting => self.failed(format!("connect: {reason}")),
            Phase::Upgrading => self.failed(format!("upgrade: {reason}")),
            Phase::Joining => self.failed(format!("subscribe: {reason}")),
            Phase::Open => {
                let outstanding = peer.outstanding();
                self.tally.open -= 1;
                self.tally.lost += 1;
                *self.failures.entry(format!("lost: {reason}")).or_default() += 1;
                self.spec.target.topic.lose(peer.next, self.now_us, self.spec.ring);
                if let Some(work) = &mut self.work {
                    work.in_flight -= outstanding;
                    work.outcome.unanswered += u64::from(outstanding);
                }
            }
            Phase::Free | Phase::Closing | Phase::Abandoned => return,
        }
        self.begin_close(slot);
    }

    fn failed(&mut self, reason: String) {
        self.tally.failed += 1;
        *self.failures.entry(reason).or_default() += 1;
        if let Some(work) = &mut self.work {
            work.in_flight -= 1;
        }
    }

    /// A descriptor is free again.
    pub(super) fn note_closed(&mut self) {
        if let Some(work) = &mut self.work
            && matches!(work.kind, Kind::Cut { .. })
        {
            work.in_flight = work.in_flight.saturating_sub(1);
        }
    }

    fn drain(&mut self) {
        if let Some(work) = &mut self.work {
            work.draining = true;
        }
    }

    /// Gives up whatever is unanswered.
    fn finish(&mut self) {
        self.drain();
        for slot in 0..self.peers.len() as u32 {
            let peer = &mut self.peers[slot as usize];
            match peer.phase {
                Phase::Connecting => {
                    peer.phase = Phase::Abandoned;
                    self.failed("connect: no answer".into());
                }
                Phase::Open if peer.outstanding() > 0 => self.end(slot, -ETIMEDOUT),
                Phase::Upgrading | Phase::Joining => self.end(slot, -ETIMEDOUT),
                _ => {}
            }
        }
        if let Some(work) = &mut self.work {
            if let Kind::Publish { oldest, .. } = work.kind {
                let topic = &self.spec.target.topic;
                let missing = (oldest..topic.published()).map(|number| u64::from(topic.missing(number)));
                work.outcome.missing += missing.sum::<u64>();
            }
            work.in_flight = 0;
        }
    }
}
