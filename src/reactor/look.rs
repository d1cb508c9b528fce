//! What a core says of one connection when another thread asks. No connection is walked to: the asker names it.

use super::conn::{Phase, flag};
use super::{Reactor, TICK_MS};
use crate::handler::Handler;
use crate::sys::{ConnId, Io};
use std::net::SocketAddr;

/// An open connection, as its core knows it. Times are exact to a tick of [`TICK_MS`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionFacts {
    /// Its address, or that of the client for whom a trusted proxy speaks; the port of the latter is 0.
    pub peer: SocketAddr,
    /// Whose it is, see [`Handler::user`].
    pub user: Option<String>,
    /// Since its upgrade.
    pub opened_ms_ago: u64,
    /// Since its last message, or its upgrade where it has sent none.
    pub active_ms_ago: u64,
    /// Bytes queued for it that its socket has not taken.
    pub queue_bytes: usize,
    /// Its socket is full.
    pub is_blocked: bool,
    /// Its input is left unread, because it does not read what it is sent or its handler holds it.
    pub is_paused: bool,
}

impl<I: Io, H: Handler> Reactor<I, H> {
    /// The facts of an open connection; `None` for one that is not open, or no more.
    pub(super) fn look(&mut self, id: ConnId) -> Option<ConnectionFacts> {
        let now_tick = self.now_tick;
        let ago_ms = |tick: u32| u64::from(now_tick.saturating_sub(tick)) * TICK_MS;
        let opened_tick = self.opened_tick(id.slot);
        let conn = self.conns.get(id.slot, id.generation).filter(|conn| conn.phase == Phase::Open)?;
        Some(ConnectionFacts {
            peer: conn.peer(),
            user: self.handler.user(id),
            opened_ms_ago: ago_ms(opened_tick),
            active_ms_ago: ago_ms(conn.active_tick),
            queue_bytes: conn.backlog_bytes(),
            is_blocked: conn.has(flag::BLOCKED),
            is_paused: conn.is_unread(),
        })
    }
}
