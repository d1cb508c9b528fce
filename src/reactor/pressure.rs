//! What a core does while memory is short: newcomers are told to come back, then idle connections are closed, then slow
//! ones. Who measures is outside; every core reads one number.
//!
//! A connection is looked at when its own timer fires, which a heartbeat sees to once an interval, or pong timeout:
//! nothing here walks all of them. Without a heartbeat and an idle timeout no timer fires, and newcomers alone are refused.

use super::conn::{Conn, flag};
use super::{Options, Reactor};
use crate::handler::Handler;
use crate::proto::close::CloseReason;
use crate::sys::{ConnId, Io};
use std::sync::atomic::{AtomicU8, Ordering};

/// How short memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Pressure {
    /// There is enough.
    #[default]
    Calm,
    /// Newcomers get a 503.
    Near,
    /// And idle connections are closed.
    Over,
    /// And connections that do not read what they are sent.
    FarOver,
}

impl Pressure {
    /// From the least to the most.
    pub const ALL: [Pressure; 4] = [Pressure::Calm, Pressure::Near, Pressure::Over, Pressure::FarOver];
}

/// The pressure as all cores see it: one thread writes, and nobody waits for it.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU8);

impl Gauge {
    /// Shows another pressure from now on.
    pub fn set(&self, pressure: Pressure) {
        self.0.store(pressure as u8, Ordering::Relaxed);
    }

    /// The pressure now.
    pub fn get(&self) -> Pressure {
        Pressure::ALL[usize::from(self.0.load(Ordering::Relaxed)).min(Pressure::ALL.len() - 1)]
    }
}

impl Options {
    /// When an open connection counts as idle, if it stays as it is: nothing is on its way in or out, and no whole message
    /// has come for the time in which it would be pinged. Pings and pongs are no messages.
    fn idle_from_tick(&self, conn: &Conn) -> Option<u32> {
        let in_message = conn.spill.as_ref().is_some_and(|spill| spill.in_message());
        if in_message || conn.out.is_some() || conn.has(flag::READABLE | flag::RECEIVING | flag::HELD) {
            return None;
        }
        let quiet_ticks = self.ping_interval_ticks.or(self.idle_timeout_ticks)?;
        Some(conn.active_tick + quiet_ticks)
    }
}

impl<I: Io, H: Handler> Reactor<I, H> {
    /// Ends an open connection whose timer fired, if memory is so short that it has to go.
    pub(super) fn shed(&mut self, id: ConnId) -> bool {
        let pressure = self.pressure.get();
        if pressure < Pressure::Over {
            return false;
        }
        let Some(conn) = self.conns.get(id.slot, id.generation) else { return false };
        if pressure == Pressure::FarOver && conn.has(flag::SENDING) {
            // At once: a Close behind its backlog would hold the memory for the close timeout.
            self.cut_slow(id);
            return true;
        }
        let idle_from = self.options.idle_from_tick(conn);
        let idle = idle_from.is_some_and(|from| self.now_tick >= from && !self.may_be_our_delay(conn, from));
        if idle {
            let reason = CloseReason::Shed;
            self.begin_close(id, reason.code(), "", reason);
        }
        idle
    }
}
