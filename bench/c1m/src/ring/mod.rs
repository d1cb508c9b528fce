//! One driver thread: an io_uring of its own, the connections on it, and the work it is told to do.
//!
//! Parked as the server parks: an idle connection waits on a multishot poll and owns no buffer. Pings are answered
//! whatever the work is. One send in flight per connection; what is said meanwhile waits in `backlog`.
//! Nothing here locks: orders come by channel and bell, counts go out as relaxed atomics once a turn.

mod advance;
mod clients;
mod listen;
mod peer;
mod publish;
mod tally;
mod work;

use crate::target::{ACCEPT, Speech, Target};
use crate::wire::{Heard, Script, hear, hear_bytes, retry_after_s};
use clients::Clients;
use hdrhistogram::Histogram;
use megasock::budget::CoreBudget;
use megasock::buf::{Pool, Segment, SendQueue};
use megasock::proto::client;
use megasock::proto::frame::Opcode;
use megasock::sys::uring::Uring;
use megasock::sys::wake::Waker;
use megasock::sys::{Completion, Inbound, Io, Outbound, RingError};
use peer::{AGAIN, ARMED, HUNG, Peer, Phase, RECEIVING, SENDING, SPOKE};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};
use work::{Kind, Work};

pub(crate) use clients::Returns;
pub(crate) use tally::{Published, Tally};
pub(crate) use work::{Order, Outcome, Publish, histogram};

const POLL_HUNG: i32 = 0x10 | 0x2000; // POLLHUP | POLLRDHUP
/// A ring with nothing to say itself lets so many completions come together, for at most this long, when it shares its
/// core with many others: otherwise each would cost a switch of threads, billed to both ends.
const LISTENED_AT_ONCE: u32 = 64;
const LISTENED_WITHIN: Duration = Duration::from_millis(5);
/// Receive buffers a ring may hold at once; a burst beyond it waits a turn.
const BUFFERS_MAX: u32 = 64;
/// Buffers kept while there is nothing to do.
const BUFFERS_IDLE: usize = 2;

/// What a ring is made of.
pub(crate) struct Spec {
    pub(crate) ring: usize,
    pub(crate) target: Target,
    /// Connections it can hold.
    pub(crate) slots: u32,
    /// Connections of the rings before it, so that every connection has its own number.
    pub(crate) first: u64,
    pub(crate) budget: CoreBudget,
    pub(crate) core: Option<usize>,
    /// There are many more rings than cores.
    pub(crate) shares_core: bool,
    pub(crate) clock: Instant,
}

/// The ends of the channels a ring thread holds.
pub(crate) struct Wires {
    pub(crate) orders: Receiver<Order>,
    pub(crate) outcomes: Sender<Outcome>,
    pub(crate) waker: Waker,
    pub(crate) published: Arc<Published>,
}

pub(crate) struct Ring {
    io: Uring,
    pool: Pool,
    spec: Spec,
    wires: Wires,
    peers: Vec<Peer>,
    script: Script,
    work: Option<Work>,
    tally: Tally,
    now_us: u64,
    /// Slots that said something in this turn.
    spoke: Vec<u32>,
    /// What a connection says while a send is in flight.
    backlog: HashMap<u32, SendQueue>,
    /// Slots that wait for a receive buffer.
    starved: Vec<u32>,
    /// Deliveries that came in pieces, until they are whole.
    pieces: HashMap<u32, Vec<u8>>,
    /// What a delivery must be.
    payloads: Script,
    /// Time from a publication to each of its deliveries, since it was last asked for.
    delivery_us: Histogram<u32>,
    /// Clients that come back by themselves, once a work has asked for them.
    clients: Option<Box<Clients>>,
    /// Why connections failed or were lost, since the last work ended.
    failures: BTreeMap<String, u64>,
    random: u64,
}

impl Ring {
    /// A ring for the calling thread; queues are halved where memory may not be locked.
    pub(crate) fn new(spec: Spec, wires: Wires) -> io::Result<Ring> {
        if let Some(id) = spec.core {
            core_affinity::set_for_current(core_affinity::CoreId { id });
        }
        let mut budget = spec.budget;
        let io = loop {
            match Uring::new(budget, spec.slots, None, Some(wires.waker.clone())) {
                Err(error) if error.kind() == io::ErrorKind::OutOfMemory => match budget.halved() {
                    Some(half) => budget = half,
                    None => return Err(error),
                },
                other => break other?,
            }
        };
        Ok(Ring {
            io,
            pool: Pool::new(BUFFERS_MAX),
            peers: (0..spec.slots).map(|_| Peer::default()).collect(),
            script: Script::new(spec.target.speech, 0),
            work: None,
            tally: Tally::default(),
            now_us: 0,
            spoke: Vec::new(),
            backlog: HashMap::new(),
            starved: Vec::new(),
            pieces: HashMap::new(),
            payloads: Script::payloads(0),
            delivery_us: histogram(),
            clients: None,
            failures: BTreeMap::new(),
            random: 0x9E37_79B9_7F4A_7C15 ^ (spec.first << 1),
            spec,
            wires,
        })
    }

    /// Runs until told to quit.
    pub(crate) fn run(mut self) -> Result<(), RingError> {
        let mut done = Vec::new();
        loop {
            self.now_us = self.spec.clock.elapsed().as_micros() as u64;
            self.wires.waker.park();
            while let Ok(order) = self.wires.orders.try_recv() {
                if matches!(order, Order::Quit) {
                    return Ok(());
                }
                self.begin(order);
            }
            self.advance();
            if self.spec.shares_core && self.work.is_none() {
                self.io.wait_for_many(LISTENED_AT_ONCE, LISTENED_WITHIN);
            } else {
                self.io.wait_for_one();
            }
            let timeout = self.timeout();
            self.io.turn(timeout, &mut done)?;
            self.wires.waker.unpark();
            self.now_us = self.spec.clock.elapsed().as_micros() as u64;
            self.handle(&mut done);
            self.wires.published.store(&self.tally);
        }
    }

    fn handle(&mut self, done: &mut Vec<Completion>) {
        for slot in self.spoke.drain(..) {
            self.peers[slot as usize].clear(SPOKE);
        }
        // What was not sent goes first, or something said in this turn would overtake it.
        done.retain_mut(|completion| {
            let Completion::Unsent { id, rest, result } = completion else { return true };
            let taken = std::mem::replace(rest, Outbound::Segment(Segment::owned(Vec::new())));
            let peer = &mut self.peers[id.slot as usize];
            if peer.generation != id.generation || !peer.phase.is_live() {
                return false; // closed in the same turn
            }
            if *result == 0 || -*result == EAGAIN {
                peer.set(SENDING);
                self.io.send_all(*id, taken);
            } else {
                self.end(id.slot, *result);
            }
            false
        });
        for completion in done.drain(..) {
            self.handle_one(completion);
        }
        for slot in std::mem::take(&mut self.starved) {
            self.receive(slot);
        }
        let waiting = |slot: &u32| !self.peers[*slot as usize].is(SENDING | SPOKE);
        let ready: Vec<u32> = self.backlog.keys().copied().filter(waiting).collect();
        for slot in ready {
            let queue = self.backlog.remove(&slot).expect("just listed");
            let id = self.peers[slot as usize].id(slot);
            if self.peers[slot as usize].phase.is_live() {
                self.mark_spoke(slot);
                self.io.send_now(id, Outbound::Queue(Box::new(queue)));
            }
        }
    }

    /// The only dispatch on what the kernel finished.
    fn handle_one(&mut self, completion: Completion) {
        match completion {
            Completion::Connected { id, result } => self.handle_connected(id.slot, result),
            Completion::Polled { id, result, more } => self.handle_polled(id.slot, result, more),
            Completion::Received { id, into: Inbound::Buffer(buffer, _), result, nonempty } => {
                let full = result == buffer.len() as i32;
                self.handle_received(id.slot, &buffer[..result.max(0) as usize], result, nonempty || full);
            }
            Completion::Sent { id, rest, result } => self.handle_sent(id.slot, rest, result),
            Completion::Closed { id } => {
                let peer = &mut self.peers[id.slot as usize];
                let generation = (id.generation + 1) & 0xFF_FFFF;
                *peer = Peer { generation, ..Peer::default() };
                self.note_closed();
            }
            // Neither asked for: a receive elsewhere than into a buffer, a shutdown, an accept. Unsent went before.
            Completion::Woken
            | Completion::Received { .. }
            | Completion::Unsent { .. }
            | Completion::Shut { .. }
            | Completion::Accepted { .. }
            | Completion::AcceptFailed { .. } => {}
        }
    }

    fn handle_connected(&mut self, slot: u32, result: i32) {
        let peer = &mut self.peers[slot as usize];
        if peer.phase == Phase::Abandoned {
            peer.phase = Phase::Closing;
            return self.release(slot);
        }
        if result < 0 {
            return self.end(slot, result);
        }
        let id = peer.id(slot);
        peer.set(ARMED);
        peer.phase = Phase::Upgrading;
        match self.spec.target.speech {
            Speech::Bytes => self.opened(slot),
            Speech::Echo | Speech::Topic | Speech::Channels => {
                let request = self.spec.target.request(self.number(slot));
                self.say(slot, request);
                self.asked(slot);
            }
        }
        self.io.poll(id);
    }

    fn handle_polled(&mut self, slot: u32, result: i32, more: bool) {
        let peer = &mut self.peers[slot as usize];
        if !more {
            peer.clear(ARMED);
        }
        match peer.phase {
            Phase::Closing => self.release(slot),
            Phase::Upgrading | Phase::Joining | Phase::Open => {
                if result > 0 && result & POLL_HUNG != 0 {
                    peer.set(HUNG);
                }
                if !more {
                    peer.set(ARMED);
                    let id = peer.id(slot);
                    self.io.poll(id);
                }
                self.receive(slot);
            }
            Phase::Free | Phase::Connecting | Phase::Abandoned => {}
        }
    }

    fn receive(&mut self, slot: u32) {
        let peer = &mut self.peers[slot as usize];
        if !peer.phase.is_live() {
            return;
        }
        if peer.is(RECEIVING) {
            return peer.set(AGAIN);
        }
        match self.pool.lease() {
            Some(buffer) => {
                peer.set(RECEIVING);
                let id = peer.id(slot);
                self.io.recv(id, Inbound::Buffer(buffer, usize::MAX));
            }
            None => self.starved.push(slot),
        }
    }

    fn handle_received(&mut self, slot: u32, bytes: &[u8], result: i32, more_waits: bool) {
        let peer = &mut self.peers[slot as usize];
        let came_meanwhile = peer.is(AGAIN);
        let again = more_waits || came_meanwhile || peer.is(HUNG);
        peer.clear(RECEIVING | AGAIN);
        match peer.phase {
            Phase::Closing => return self.release(slot),
            Phase::Upgrading | Phase::Joining | Phase::Open => {}
            Phase::Free | Phase::Connecting | Phase::Abandoned => return,
        }
        if result == -EAGAIN {
            if came_meanwhile {
                self.receive(slot);
            }
            return;
        }
        if result <= 0 {
            return self.end(slot, result);
        }
        let mut input = bytes;
        if self.peers[slot as usize].phase == Phase::Upgrading && !self.read_upgrade(slot, &mut input) {
            return;
        }
        match self.spec.target.speech {
            Speech::Echo | Speech::Bytes => self.read_messages(slot, input),
            Speech::Topic | Speech::Channels => self.listen(slot, input),
        }
        if again {
            self.receive(slot);
        }
    }

    /// True once the upgrade is through; what follows it is left in `input`.
    fn read_upgrade(&mut self, slot: u32, input: &mut &[u8]) -> bool {
        let peer = &mut self.peers[slot as usize];
        let mut partial = peer.partial.take().unwrap_or_default();
        let joined = [&partial.kept, *input].concat();
        match client::parse_upgrade_response(&joined) {
            Ok(None) => {
                partial.kept = joined;
                peer.partial = Some(partial);
                false
            }
            Ok(Some(response)) if response.status == 101 && response.accept.as_ref() == Some(ACCEPT) => {
                *input = &input[response.consumed - partial.kept.len()..];
                self.upgraded(slot);
                true
            }
            Ok(Some(response)) => {
                let announced = retry_after_s(&joined[..response.consumed]).is_some();
                self.refuse(slot, response.status, announced);
                false
            }
            Err(_) => {
                self.refuse(slot, 0, false);
                false
            }
        }
    }

    fn read_messages(&mut self, slot: u32, mut input: &[u8]) {
        let number = self.number(slot) as u32;
        let message_bytes = self.script.message_bytes();
        let mut pongs = Vec::new();
        let mut verified = 0;
        let fault = loop {
            let peer = &mut self.peers[slot as usize];
            let heard = match self.spec.target.speech {
                Speech::Bytes => Ok(hear_bytes(&mut peer.partial, &mut input, message_bytes)),
                _ => hear(&mut peer.partial, &mut input),
            };
            match heard {
                Ok(None) => break false,
                Ok(Some(Heard::Data { bytes, at, last })) => {
                    let whole = !last || at + bytes.len() == message_bytes;
                    let expected = peer.outstanding() > 0 && whole;
                    if !expected || !self.script.matches(number, peer.heard, at, bytes) {
                        self.tally.mismatched += 1;
                        break true;
                    }
                    if last {
                        peer.heard = peer.heard.wrapping_add(1);
                        verified += 1;
                    }
                }
                Ok(Some(Heard::Ping(body))) => {
                    self.tally.pings += 1;
                    client::encode_masked(&mut pongs, Opcode::Pong, number.to_le_bytes(), &body);
                }
                Ok(Some(Heard::Pong)) => {}
                Ok(Some(Heard::Close(_))) | Err(_) => break true,
            }
        };
        if verified > 0 {
            self.answered(slot, verified, &mut pongs);
        }
        if fault {
            return self.end(slot, 0);
        }
        if !pongs.is_empty() {
            self.say(slot, pongs);
        }
    }

    /// The connection's own number among all of the server.
    fn number(&self, slot: u32) -> u64 {
        self.spec.first + u64::from(slot)
    }

    /// Sends `bytes` now, or behind what is in flight.
    fn say(&mut self, slot: u32, bytes: Vec<u8>) {
        let segment = Segment::owned(bytes);
        let peer = &self.peers[slot as usize];
        if peer.is(SENDING | SPOKE) {
            return self.backlog.entry(slot).or_default().push(segment);
        }
        let id = peer.id(slot);
        self.mark_spoke(slot);
        self.io.send_now(id, Outbound::Segment(segment));
    }

    fn mark_spoke(&mut self, slot: u32) {
        self.peers[slot as usize].set(SPOKE);
        self.spoke.push(slot);
    }

    fn handle_sent(&mut self, slot: u32, rest: Outbound, result: i32) {
        let peer = &mut self.peers[slot as usize];
        peer.clear(SENDING);
        match peer.phase {
            Phase::Closing => self.release(slot),
            _ if result < 0 => self.end(slot, result),
            _ if rest.bytes() > 0 => {
                peer.set(SENDING);
                let id = peer.id(slot);
                self.io.send_all(id, rest);
            }
            _ => {}
        }
    }

    /// Begins to close: cancel what is armed, await its end, then free the descriptor.
    fn begin_close(&mut self, slot: u32) {
        let peer = &mut self.peers[slot as usize];
        let id = peer.id(slot);
        peer.partial = None;
        peer.phase = Phase::Closing;
        if peer.is(ARMED) {
            self.io.cancel_poll(id);
        }
        if peer.is(SENDING) {
            self.io.cancel_send(id);
        }
        self.backlog.remove(&slot);
        self.pieces.remove(&slot);
        self.release(slot);
    }

    /// Frees the descriptor once nothing of the connection is in flight.
    fn release(&mut self, slot: u32) {
        let peer = &self.peers[slot as usize];
        if !peer.is(ARMED | RECEIVING | SENDING) {
            let id = peer.id(slot);
            self.io.close(id);
        }
    }

    fn timeout(&self) -> Option<Duration> {
        if !self.starved.is_empty() {
            return Some(Duration::ZERO);
        }
        let work = self.work.as_ref()?;
        let at = match (&work.kind, &self.clients) {
            (Kind::Return { .. }, Some(clients)) if !work.draining => clients.wakes_at_us(self.now_us)?,
            _ => work.wakes_at_us()?,
        };
        Some(Duration::from_micros(at.saturating_sub(self.now_us).max(1)))
    }
}

const EAGAIN: i32 = 11;
