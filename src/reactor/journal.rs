//! What a core tells the log of its connections, without waiting for it: events go into a bounded queue, so many of a kind
//! a second. A million clients that come at once are a million events at most in the counters.
//!
//! An event is made only when it may be told: nobody is asked for a name that is not written down.

use super::Reactor;
use super::conn::{Conn, flag};
use crate::handler::Handler;
use crate::proto::close::{CloseReason, Violation};
use crate::sys::{ConnId, Io};
use crossbeam_channel::Sender;
use std::net::SocketAddr;

/// Where a core's events go.
#[derive(Clone)]
pub struct Journal {
    /// A bounded queue; what it has no room for is counted and dropped. Its reader looks from time to time: waking one that
    /// blocks would be a system call of the core.
    pub sender: Sender<Event>,
}

/// Whom an event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// The core that holds the connection.
    pub core: usize,
    /// The connection on that core.
    pub conn: ConnId,
    /// Its address, or that of the client for whom a trusted proxy speaks.
    pub peer: SocketAddr,
    /// What [`Handler::user`] says.
    pub user: Option<String>,
}

/// Something that befell an upgraded connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It was opened.
    Connect {
        /// Which one.
        who: Who,
    },
    /// It ended.
    Disconnect {
        /// Which one.
        who: Who,
        /// The code of the Close it was sent; `None` where it was sent none, or one without a code.
        code: Option<u16>,
        /// Why.
        reason: CloseReason,
        /// Since its upgrade.
        duration_ms: u64,
    },
    /// Its client broke the protocol.
    Error {
        /// Which one.
        who: Who,
        /// Which rule.
        violation: Violation,
    },
    /// Its client does not read what it is sent.
    SlowConsumer {
        /// Which one.
        who: Who,
        /// What is done about it.
        action: &'static str,
        /// What it is owed.
        owed_bytes: usize,
    },
}

/// The kinds of [`Event`], each with an allowance of its own.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Connect,
    Disconnect,
    Error,
    SlowConsumer,
}

/// What is done about a connection whose backlog is over the limit.
const DISCONNECTED: &str = "disconnect";

/// A core's end of the journal.
pub(super) struct Desk {
    sender: Option<Sender<Event>>,
    /// Events that may still be told in this second, by [`Kind`].
    left: [u32; 4],
}

impl Desk {
    pub fn new(journal: Option<Journal>, per_second: Option<u32>) -> Desk {
        let mut desk = Desk { sender: journal.map(|journal| journal.sender), left: [0; 4] };
        desk.refill(per_second);
        desk
    }

    /// A second begins.
    pub fn refill(&mut self, per_second: Option<u32>) {
        self.left = [per_second.unwrap_or(u32::MAX); 4];
    }
}

impl<I: Io, H: Handler> Reactor<I, H> {
    pub(super) fn tell_connect(&mut self, id: ConnId) {
        if let Some(who) = self.who(id, Kind::Connect) {
            self.tell_event(Event::Connect { who });
        }
    }

    /// To be called while the connection is still known.
    pub(super) fn tell_disconnect(
        &mut self,
        id: ConnId,
        code: Option<u16>,
        reason: CloseReason,
        duration_ms: u64,
    ) {
        if let Some(who) = self.who(id, Kind::Disconnect) {
            self.tell_event(Event::Disconnect { who, code, reason, duration_ms });
        }
    }

    pub(super) fn tell_violation(&mut self, id: ConnId, violation: Violation) {
        if let Some(who) = self.who(id, Kind::Error) {
            self.tell_event(Event::Error { who, violation });
        }
    }

    pub(super) fn tell_slow(&mut self, id: ConnId, action: &'static str, owed_bytes: usize) {
        if let Some(who) = self.who(id, Kind::SlowConsumer) {
            self.tell_event(Event::SlowConsumer { who, action, owed_bytes });
        }
    }

    /// Cuts a connection that does not read what it is sent.
    pub(super) fn cut_slow(&mut self, id: ConnId) {
        let owed_bytes = self.conn(id).map_or(0, |conn| conn.backlog_bytes());
        self.tell_slow(id, DISCONNECTED, owed_bytes);
        self.begin_release(id, CloseReason::SlowConsumer);
    }

    /// Whom an event is about, if it may be told and the connection is one that was opened and has not ended.
    fn who(&mut self, id: ConnId, kind: Kind) -> Option<Who> {
        self.desk.sender.as_ref()?;
        let opened = |conn: &&mut Conn| conn.has(flag::OPENED) && conn.phase != super::conn::Phase::Releasing;
        let peer = self.conn(id).filter(opened)?.peer();
        if self.options.events_per_second == Some(0) {
            return None;
        }
        let left = &mut self.desk.left[kind as usize];
        if *left == 0 {
            self.counters.events_suppressed.add(1);
            return None;
        }
        *left -= 1;
        Some(Who { core: self.outbox.core(), conn: id, peer, user: self.handler.user(id) })
    }

    fn tell_event(&mut self, event: Event) {
        if self.desk.sender.as_ref().is_some_and(|sender| sender.try_send(event).is_err()) {
            self.counters.events_dropped.add(1);
        }
    }
}
