//! New connections: a pool of single-shot accepts, kept full while there are slots.
//!
//! Not a multishot accept: that cannot tell the peer's address of a direct descriptor. A full descriptor table would
//! drop an accepted socket silently, so accepts in flight never exceed the free slots.

use super::conn::{Conn, flag};
use super::{Reactor, TICK_MS};
use crate::handler::Handler;
use crate::sys::{ConnId, Io};
use std::net::SocketAddr;

/// Rest after the kernel ran out of descriptors or memory.
const ACCEPT_PAUSE_MS: u64 = 256;

impl<I: Io, H: Handler> Reactor<I, H> {
    pub(super) fn refill_accepts(&mut self) {
        if self.now_tick < self.accept_pause_tick || self.has_left() {
            return;
        }
        let slots = self.options.budget.descriptors(self.options.connections_max);
        let free = slots.saturating_sub(self.conns.len() as u32);
        let wanted = free.min(self.options.budget.accepts_in_flight.into());
        while self.accepts_in_flight < wanted {
            self.accepts_in_flight += 1;
            self.io.accept();
        }
    }

    pub(super) fn handle_accepted(&mut self, slot: u32, peer: SocketAddr) {
        self.accepts_in_flight -= 1;
        self.counters.accepted.add(1);
        let due = self.now_tick + self.options.handshake_timeout_ticks;
        let mut conn = Conn::new(peer, due);
        conn.set(flag::POLL_ARMED);
        if self.conns.len() >= self.options.connections_max as usize {
            conn.set(flag::SURPLUS);
        }
        if self.options.proxies.announce(peer) {
            conn.set(flag::PREAMBLE);
        }
        let generation =
            self.conns.insert(slot, conn).expect("the kernel hands out a descriptor only when it is free");
        self.wheel.arm(&mut self.conns, slot, due);
        self.io.poll(ConnId { slot, generation });
    }

    pub(super) fn handle_accept_failed(&mut self, errno: i32) {
        self.accepts_in_flight -= 1;
        self.counters.accept_failures.add(1);
        // ECONNABORTED and the like concern one peer; these concern the host and would fail again at once.
        if matches!(errno, libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) {
            self.accept_pause_tick = self.now_tick + (ACCEPT_PAUSE_MS / TICK_MS) as u32;
        }
    }
}
