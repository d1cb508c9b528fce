//! The topics with subscribers on this core, and the walks that serve them.
//!
//! What arrives for a topic is appended to its *log*. Every subscriber has a *cursor* in that log, and a walk gives each
//! one everything after its cursor in one frame run, a bounded number of subscribers a turn. So a burst of publications
//! costs each subscriber one send, and nobody waits for a walk to end.
//!
//! A subscriber whose socket is full is passed by: its cursor stays, what it is owed is counted, and the log keeps it.
//! When there is room again it *catches up* in bounded steps. What happens when too much is owed is [`super::slow`]'s.
//!
//! Invariants:
//! - Removals leave a hole, so nothing moves under a walk.
//! - A publication lies in the log until the walk has passed all subscribers and none is owed it.
//! - A subscriber gets the log's items in order, each once, or a gap that names them.

use super::Options;
use super::lease::Lease;
use super::mail::Mail;
use super::name::Name;
use super::namespace::Namespaces;
use super::session::{Sessions, SubRef};
use super::slow::{Lag, Verdict};
use super::stats::{Counters, now_us};
use super::wire;
use crate::buf::Payload;
use crate::ds::{GENERATION_BITS, Table};
use crate::handler::{ConnId, Outbox};
use crate::proto::close::CloseReason;
use slab::Slab;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Subscribers given something in one turn: as many sends go into one enter.
const GIVEN_PER_TURN: usize = 128;

/// Subscribers looked at in one turn.
const LOOKED_AT_PER_TURN: usize = 2_048;

/// Bytes and items one subscriber is given in one turn; more goes by catching up.
const GIVEN_BYTES_MAX: usize = 64 << 10;
const GIVEN_ITEMS_MAX: usize = if cfg!(test) { 3 } else { 256 }; // simulated cases are short

/// Largest frame that is copied to be sent with others.
const JOINED_BYTES_MAX: usize = 4 << 10;

/// A topic with more holes than this for each subscriber closes them.
const HOLES_PER_SUBSCRIBER: usize = if cfg!(test) { 1 } else { 32 };

/// Why a client missed something, in a gap.
const SLOW: &str = "slow_consumer";

/// Something to be given to all subscribers.
pub struct Item {
    pub frame: Payload,
    /// Publications it carries, or says are lost; both 0 for an event.
    pub from: u64,
    pub to: u64,
    /// A connection that does not get it.
    pub except: Option<ConnId>,
    /// When it was made, by [`now_us`].
    pub made_us: u32,
}

const _: () = assert!(size_of::<Item>() <= 40);

impl Item {
    fn age_us(&self, now_us: u32) -> u32 {
        now_us.wrapping_sub(self.made_us)
    }
}

/// Items by their sequence number, which wraps.
#[derive(Default)]
pub struct Log {
    items: VecDeque<Item>,
    first: u32,
    bytes: usize,
}

impl Log {
    /// The number the next item will have.
    pub fn next(&self) -> u32 {
        self.first.wrapping_add(self.items.len() as u32)
    }

    /// Items numbered from `from` on.
    pub fn since(&self, from: u32) -> impl Iterator<Item = &Item> {
        self.items.range(from.wrapping_sub(self.first) as usize..)
    }

    /// The item of this number.
    pub fn get(&self, number: u32) -> &Item {
        &self.items[number.wrapping_sub(self.first) as usize]
    }

    /// Whether there is more from `from` on than one turn gives. A single item never is.
    fn is_more_than_a_batch(&self, from: u32) -> bool {
        let count = self.next().wrapping_sub(from) as usize;
        let bytes = |items: usize| self.since(from).take(items).map(|item| item.frame.len()).sum::<usize>();
        count > GIVEN_ITEMS_MAX
            || (count > 1 && self.bytes > GIVEN_BYTES_MAX && bytes(count) > GIVEN_BYTES_MAX)
    }

    fn push(&mut self, item: Item) {
        self.bytes += item.frame.len();
        self.items.push_back(item);
    }

    fn drop_before(&mut self, number: u32) {
        while self.first != number {
            let Some(item) = self.items.pop_front() else { return };
            self.bytes -= item.frame.len();
            self.first = self.first.wrapping_add(1);
        }
        if self.items.is_empty() {
            self.items.shrink_to(4);
        }
    }
}

/// One subscriber: 12 bytes.
struct Sub {
    slot: u32,
    /// The connection's generation and, above its bits, flags; all ones: a hole.
    generation: u32,
    /// The item it gets next.
    cursor: u32,
}

const HOLE: u32 = u32::MAX;
/// It is passed by: its socket is full, or it is catching up.
const PASSED_BY: u32 = 1 << GENERATION_BITS;
const GENERATION: u32 = PASSED_BY - 1;

impl Sub {
    fn conn(&self) -> ConnId {
        ConnId { slot: self.slot, generation: self.generation & GENERATION }
    }

    fn is_passed_by(&self) -> bool {
        self.generation & PASSED_BY != 0
    }
}

struct Topic {
    name: Name,
    settings: u16,
    subs: Vec<Sub>,
    holes: Vec<u32>,
    log: Log,
    /// Where the walk goes on, and how many it still has to look at; none is under way at 0.
    at: u32,
    left: u32,
    /// Subscribers that are owed something, by their place.
    lags: BTreeMap<u32, Lag>,
    joined: Option<Joined>,
}

/// The items of a log from one cursor up to another, in one payload: for all subscribers that are to be given the same.
struct Joined {
    from: u32,
    to: u32,
    frames: Payload,
}

/// All topics with subscribers on this core.
pub struct Locals {
    by_name: Table<Name, u32>,
    topics: Slab<Topic>,
    /// Topics with a walk under way, and some that have gone.
    walking: VecDeque<u32>,
    /// Connections that catch up.
    catching_up: VecDeque<ConnId>,
    /// Bytes in all logs.
    bytes: usize,
    lease: Lease,
    queue_bytes_max: usize,
    subscriptions: usize,
    counters: Arc<Counters>,
}

impl Locals {
    pub fn new(queue_bytes_max: usize, lease: Lease, counters: Arc<Counters>) -> Locals {
        Locals {
            by_name: Table::default(),
            topics: Slab::new(),
            walking: VecDeque::new(),
            catching_up: VecDeque::new(),
            bytes: 0,
            lease,
            queue_bytes_max,
            subscriptions: 0,
            counters,
        }
    }

    /// Goes by other settings from now on; the budget stays the one that is leased from, as large as the other.
    pub fn tune(&mut self, options: &Options) {
        self.queue_bytes_max = options.send_queue_bytes_max;
        self.lease.budget().resize_to(&options.slow_budget);
    }

    /// The number of a topic with subscribers here.
    pub fn number(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    /// Its name.
    pub fn name(&self, number: u32) -> &Name {
        &self.topics[number as usize].name
    }

    /// Nobody here is subscribed to anything.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty() && self.by_name.is_empty() && self.walking.is_empty()
    }

    /// Subscriptions of connections of this core.
    pub fn subscriptions(&self) -> usize {
        self.subscriptions
    }

    /// Bytes held in logs.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes a connection a subscriber of what arrives from now on.
    pub fn attach(&mut self, name: &Name, conn: ConnId, passed_by: bool, namespaces: &Namespaces) -> SubRef {
        let number = match self.by_name.get(name) {
            Some(number) => *number,
            None => {
                let number = self.topics.insert(Topic {
                    name: name.clone(),
                    settings: namespaces.number(name),
                    subs: Vec::new(),
                    holes: Vec::new(),
                    log: Log::default(),
                    at: 0,
                    left: 0,
                    lags: BTreeMap::new(),
                    joined: None,
                }) as u32;
                self.by_name.insert(name.clone(), number);
                number
            }
        };
        let topic = &mut self.topics[number as usize];
        let generation = conn.generation | if passed_by { PASSED_BY } else { 0 };
        let sub = Sub { slot: conn.slot, generation, cursor: topic.log.next() };
        let at = match topic.holes.pop() {
            Some(hole) => {
                topic.subs[hole as usize] = sub;
                hole
            }
            None => {
                topic.subs.push(sub);
                topic.left += u32::from(topic.left > 0); // a walk under way still has all the others before it
                topic.subs.len() as u32 - 1
            }
        };
        self.subscriptions += 1;
        SubRef { topic: number, at }
    }

    /// Ends a subscription; returns the bytes it was owed.
    pub fn detach(&mut self, sub: SubRef) -> usize {
        let topic = &mut self.topics[sub.topic as usize];
        let cursor = topic.subs[sub.at as usize].cursor;
        topic.subs[sub.at as usize].generation = HOLE;
        topic.holes.push(sub.at);
        let lag = topic.lags.remove(&sub.at);
        let owed = lag.as_ref().map_or(0, |lag| lag.owed_bytes(&topic.log, cursor));
        if topic.holes.len() == topic.subs.len() {
            self.bytes -= topic.log.bytes;
            let topic = self.topics.remove(sub.topic as usize);
            self.by_name.remove(&topic.name);
        } else if lag.is_some() {
            self.release_log(sub.topic);
        }
        self.subscriptions -= 1;
        owed
    }

    /// Appends what arrived for a topic; without subscribers here it is nobody's.
    pub fn append(&mut self, name: &Name, item: Item) {
        let Some(number) = self.by_name.get(name).copied() else { return };
        let topic = &mut self.topics[number as usize];
        self.bytes += item.frame.len();
        topic.log.push(item);
        if topic.left == 0 {
            self.walking.push_back(number);
        }
        topic.left = topic.subs.len() as u32;
    }

    /// Goes on with the walks and with those who catch up, in bounded steps. True when nothing is left to do.
    pub fn step(&mut self, sessions: &mut Sessions, namespaces: &Namespaces, out: &mut Outbox<Mail>) -> bool {
        if self.walking.is_empty() && self.catching_up.is_empty() {
            return true;
        }
        let now_us = now_us();
        self.catch_up(now_us, sessions, out);
        let mut left = Left { given: GIVEN_PER_TURN, looked_at: LOOKED_AT_PER_TURN };
        while left.given > 0 && left.looked_at > 0 {
            let Some(number) = self.walking.pop_front() else { break };
            if self.topics.get(number as usize).is_none_or(|topic| topic.left == 0) {
                left.looked_at -= 1; // it has gone, and another topic may have its place
                continue;
            }
            self.walk(number, now_us, &mut left, sessions, namespaces, out);
            if self.topics[number as usize].left > 0 {
                self.walking.push_back(number);
            } else {
                self.release_log(number);
                left.looked_at = left.looked_at.saturating_sub(self.close_holes(number, sessions));
            }
        }
        self.walking.is_empty() && self.catching_up.is_empty()
    }

    fn walk(
        &mut self,
        number: u32,
        now_us: u32,
        left: &mut Left,
        sessions: &mut Sessions,
        namespaces: &Namespaces,
        out: &mut Outbox<Mail>,
    ) {
        let mut served = Served { now_us, cursor: 0, subscribers: 0 };
        while self.topics[number as usize].left > 0 && left.given > 0 && left.looked_at > 0 {
            let topic = &mut self.topics[number as usize];
            topic.left -= 1;
            left.looked_at -= 1;
            if topic.at as usize >= topic.subs.len() {
                topic.at = 0;
            }
            let at = topic.at;
            topic.at += 1;
            let sub = &topic.subs[at as usize];
            let next = topic.log.next();
            if sub.generation == HOLE {
                continue;
            }
            if sub.is_passed_by() {
                self.owe(number, at, sessions, namespaces, out);
            } else if sub.cursor != next {
                left.given -= 1;
                if topic.log.is_more_than_a_batch(sub.cursor) {
                    let conn = sub.conn();
                    self.pass_by(sessions, conn);
                    self.begin_catching_up(sessions, conn);
                    self.owe(number, at, sessions, namespaces, out);
                } else {
                    self.give_all(number, at, &mut served, out);
                }
            }
        }
        served.count(&self.topics[number as usize].log, &self.counters);
    }

    /// Gives a subscriber everything after its cursor.
    fn give_all(&mut self, number: u32, at: u32, served: &mut Served, out: &mut Outbox<Mail>) {
        let topic = &mut self.topics[number as usize];
        let next = topic.log.next();
        let sub = &mut topic.subs[at as usize];
        let (cursor, conn) = (std::mem::replace(&mut sub.cursor, next), sub.conn());
        let count = next.wrapping_sub(cursor);
        if topic.log.since(cursor).any(|item| item.except == Some(conn)) {
            for item in topic.log.since(cursor).filter(|item| item.except != Some(conn)) {
                self.counters.delivery_us.record(item.age_us(served.now_us).into());
                out.send_frame(conn, item.frame.clone());
            }
            return;
        }
        served.add(cursor, &topic.log, &self.counters);
        if count == 1 {
            return out.send_frame(conn, topic.log.get(cursor).frame.clone());
        }
        let is_joined = matches!(topic.joined, Some(Joined { from, to, .. }) if (from, to) == (cursor, next));
        if !is_joined {
            let frames: Vec<&[u8]> = topic.log.since(cursor).map(|item| &item.frame[..]).collect();
            topic.joined = Some(Joined { from: cursor, to: next, frames: Payload::new(&frames) });
        }
        if let Some(joined) = &topic.joined {
            out.send_frames(conn, joined.frames.clone(), count);
        }
    }

    /// Counts what has arrived for a subscriber that is passed by, and applies the policy when that is too much.
    fn owe(
        &mut self,
        number: u32,
        at: u32,
        sessions: &mut Sessions,
        namespaces: &Namespaces,
        out: &mut Outbox<Mail>,
    ) {
        let topic = &mut self.topics[number as usize];
        let sub = &mut topic.subs[at as usize];
        let Some(session) = sessions.get(sub.conn()) else { return };
        let bytes_max = match self.lease.covers(self.bytes) {
            true if session.is_blocked() => self.queue_bytes_max,
            true => usize::MAX, // it reads: what it has not been given is this core's delay
            false => 0,         // what everybody is owed together is bounded too
        };
        if session.is_ended() {
            sub.cursor = topic.log.next();
            topic.lags.remove(&at); // who catches up would go on from a cursor that has passed its end
            return;
        }
        let lag = topic
            .lags
            .entry(at)
            .or_insert_with(|| Lag::from(sub.cursor, namespaces.numbered(topic.settings).slow_consumer));
        let policy = lag.policy();
        let owed = *session.owed_bytes();
        let (mut dropped, had_all) = (0, !lag.has_lost());
        let verdict = lag.owe(&topic.log, &mut sub.cursor, owed, bytes_max, &mut dropped);
        self.counters.dropped.add(dropped);
        if dropped > 0 && had_all || verdict == Verdict::TooSlow {
            self.counters.slow[policy as usize].add(1);
            let owed = if let Verdict::Owed(bytes) = verdict { bytes } else { owed };
            out.report_slow(sub.conn(), policy.name(), owed);
        }
        match verdict {
            Verdict::Owed(bytes) => *session.owed_bytes() = bytes,
            Verdict::TooSlow => {
                self.counters.slow_disconnected.add(1);
                sub.cursor = topic.log.next();
                session.end();
                out.end(sub.conn(), CloseReason::SlowConsumer);
                topic.lags.remove(&at);
            }
        }
    }

    /// A connection's socket is full: walks pass it by from now on.
    pub fn pass_by(&mut self, sessions: &mut Sessions, conn: ConnId) {
        let Some(session) = sessions.get(conn) else { return };
        for sub in session.subs() {
            self.topics[sub.topic as usize].subs[sub.at as usize].generation |= PASSED_BY;
        }
    }

    /// A connection has room again: it is given what it is owed, and then no longer passed by.
    pub fn begin_catching_up(&mut self, sessions: &mut Sessions, conn: ConnId) {
        if sessions.get(conn).is_some_and(|session| session.begin_catching_up()) {
            self.catching_up.push_back(conn);
        }
    }

    fn catch_up(&mut self, now_us: u32, sessions: &mut Sessions, out: &mut Outbox<Mail>) {
        for _ in 0..self.catching_up.len().min(GIVEN_PER_TURN) {
            let Some(conn) = self.catching_up.pop_front() else { return };
            let Some(session) = sessions.get(conn) else { continue };
            if session.is_blocked() {
                session.end_catching_up(); // its next room begins it again
                continue;
            }
            let mut batch = Batch { bytes: GIVEN_BYTES_MAX, items: GIVEN_ITEMS_MAX, freed: 0 };
            let subs: Vec<SubRef> = session.subs().collect();
            let caught_up = subs.into_iter().all(|sub| self.catch_up_one(sub, now_us, &mut batch, out));
            let Some(session) = sessions.get(conn) else { continue };
            *session.owed_bytes() -= batch.freed;
            if caught_up {
                session.end_catching_up();
            } else {
                self.catching_up.push_back(conn);
            }
        }
    }

    /// Gives one subscription what it is owed, as far as the batch goes; true when that was all.
    fn catch_up_one(&mut self, sub: SubRef, now_us: u32, batch: &mut Batch, out: &mut Outbox<Mail>) -> bool {
        let number = sub.topic;
        let topic = &mut self.topics[number as usize];
        let (conn, cursor) = (topic.subs[sub.at as usize].conn(), &mut topic.subs[sub.at as usize].cursor);
        if let Some(lag) = topic.lags.get_mut(&sub.at) {
            if let Some((from, to)) = lag.take_gap_before() {
                self.counters.gaps.add(1);
                out.send_frame(conn, wire::gap(&topic.name, from, to, SLOW));
            }
            let mut run = Run::default();
            while *cursor != lag.end() && batch.items > 0 && batch.bytes > 0 {
                let item = topic.log.get(*cursor);
                *cursor = cursor.wrapping_add(1);
                batch.take(item.frame.len());
                if item.except != Some(conn) {
                    self.counters.delivery_us.record(item.age_us(now_us).into());
                    run.add(&item.frame, conn, out);
                }
            }
            run.send(conn, out);
            if *cursor != lag.end() {
                return false;
            }
            if let Some((from, to)) = lag.take_gap_behind() {
                self.counters.gaps.add(1);
                out.send_frame(conn, wire::gap(&topic.name, from, to, SLOW));
            }
            *cursor = lag.seen();
            topic.lags.remove(&sub.at);
        }
        topic.subs[sub.at as usize].generation &= !PASSED_BY;
        self.release_log(number);
        true
    }

    /// Drops what nobody is owed any more.
    fn release_log(&mut self, number: u32) {
        let topic = &mut self.topics[number as usize];
        if topic.left > 0 {
            return; // the walk under way has not shown everybody everything
        }
        let Topic { subs, lags, log, .. } = topic;
        let age = |at: &u32| subs[*at as usize].cursor.wrapping_sub(log.first);
        let oldest = lags.keys().map(age).min();
        let before = log.bytes;
        log.drop_before(oldest.map_or(log.next(), |age| log.first.wrapping_add(age)));
        self.bytes -= before - log.bytes;
        topic.joined = None;
    }

    /// After a crowd has left: those who stayed move together, so that walks no longer look at where the others were. Between
    /// two walks only, and by then so many have left that each of them has paid for a part of it. Returns how many it looked
    /// at, holes included: they count for the turn.
    fn close_holes(&mut self, number: u32, sessions: &mut Sessions) -> usize {
        let Topic { subs, holes, lags, at, .. } = &mut self.topics[number as usize];
        let stayed = subs.len() - holes.len();
        if holes.len() <= stayed * HOLES_PER_SUBSCRIBER {
            return 0;
        }
        let looked_at = subs.len();
        let mut to = 0;
        for from in 0..subs.len() {
            if subs[from].generation == HOLE {
                continue;
            }
            subs.swap(from, to as usize);
            let from = from as u32;
            if let Some(session) = sessions.get(subs[to as usize].conn()) {
                session.move_sub(SubRef { topic: number, at: from }, SubRef { topic: number, at: to });
            }
            if let Some(lag) = lags.remove(&from) {
                lags.insert(to, lag);
            }
            to += 1;
        }
        subs.truncate(to as usize);
        subs.shrink_to(2 * subs.len());
        *holes = Vec::new();
        *at = 0;
        looked_at
    }

    /// Gives back what the lease holds beyond need.
    pub fn on_tick(&mut self) {
        self.lease.covers(self.bytes);
    }
}

/// What one step may still do.
struct Left {
    given: usize,
    looked_at: usize,
}

/// Subscribers of one topic that were given the same: all items from `cursor` on. Counted together, since nearly all are.
struct Served {
    now_us: u32,
    cursor: u32,
    subscribers: u64,
}

impl Served {
    fn add(&mut self, cursor: u32, log: &Log, counters: &Counters) {
        if cursor != self.cursor {
            self.count(log, counters);
            self.cursor = cursor;
        }
        self.subscribers += 1;
    }

    fn count(&mut self, log: &Log, counters: &Counters) {
        let subscribers = std::mem::take(&mut self.subscribers);
        if subscribers > 0 {
            for item in log.since(self.cursor) {
                counters.delivery_us.record_many(item.age_us(self.now_us).into(), subscribers);
            }
        }
    }
}

/// Small frames that go out as one payload: a copy costs less than a segment of its own for each.
#[derive(Default)]
struct Run<'a> {
    frames: Vec<&'a [u8]>,
}

impl<'a> Run<'a> {
    fn add(&mut self, frame: &'a Payload, conn: ConnId, out: &mut Outbox<Mail>) {
        if frame.len() <= JOINED_BYTES_MAX {
            return self.frames.push(frame);
        }
        self.send(conn, out);
        out.send_frame(conn, frame.clone());
    }

    fn send(&mut self, conn: ConnId, out: &mut Outbox<Mail>) {
        if !self.frames.is_empty() {
            out.send_frames(conn, Payload::new(&self.frames), self.frames.len() as u32);
            self.frames.clear();
        }
    }
}

/// What one connection may still be given in this turn, and what that freed.
struct Batch {
    bytes: usize,
    items: usize,
    freed: usize,
}

impl Batch {
    fn take(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.items -= 1;
        self.freed += bytes;
    }
}

#[cfg(test)]
mod tests;
