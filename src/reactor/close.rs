//! How connections end. Begin: nothing new is started and what is armed is cancelled. Join: every operation's last
//! completion is awaited. Release: the descriptor is closed, and only then the slot is free.
//!
//! Closing the descriptor earlier would neither cancel what is pending nor send FIN, and its number would be handed to the
//! next client while late completions still carry it.

use super::conn::{Phase, flag};
use super::{Reactor, TICK_MS};
use crate::buf::Segment;
use crate::handler::Handler;
use crate::proto::close::{self, CloseReason};
use crate::sys::{ConnId, Io};

impl<I: Io, H: Handler> Reactor<I, H> {
    /// The peer's Close: ours goes back with its code (RFC 6455 §5.5.1), unless it was sent first.
    pub(super) fn handle_close_frame(&mut self, id: ConnId, code: Option<u16>, more_input: bool) {
        let Some(conn) = self.conn(id) else { return };
        // With unread input a close of the descriptor would reset, and the reset could overtake our Close.
        let more_input = more_input || conn.has(flag::READABLE);
        let phase = if more_input { Phase::Refusing } else { Phase::Finishing };
        match conn.phase {
            Phase::Open => {
                self.end_with_close(id, code, "", phase, CloseReason::ClientClosed);
            }
            Phase::Closing => {
                conn.phase = phase;
                self.mark_dirty(id);
            }
            _ => {}
        }
    }

    /// Ends a connection whose peer broke a rule: a Close that says so, then its input is discarded.
    pub(super) fn fail(&mut self, id: ConnId, reason: CloseReason) {
        match self.conn(id).map(|conn| conn.phase) {
            Some(Phase::Open) => self.end_with_close(id, reason.code(), "", Phase::Refusing, reason),
            Some(Phase::Closing) => self.begin_release(id, reason),
            _ => {}
        }
    }

    /// Begins the closing handshake: our Close, then the peer's is awaited until the deadline.
    pub(super) fn begin_close(&mut self, id: ConnId, code: Option<u16>, text: &str, reason: CloseReason) {
        if self.conn(id).is_some_and(|conn| conn.phase == Phase::Open) {
            self.end_with_close(id, code, text, Phase::Closing, reason);
        }
    }

    /// [`Reactor::end_with`] a Close.
    fn end_with_close(
        &mut self,
        id: ConnId,
        code: Option<u16>,
        text: &str,
        phase: Phase,
        reason: CloseReason,
    ) {
        self.end_with(id, Segment::owned(close::encode(code, text)), phase, reason);
        if let Some(conn) = self.conn(id) {
            conn.set_close_code(code);
        }
    }

    pub(super) fn close_by_handler(&mut self, id: ConnId, code: u16, text: &str) {
        let code = if close::is_valid(code) { code } else { close::code::INTERNAL_ERROR };
        self.begin_close(id, Some(code), text, CloseReason::HandlerClosed);
    }

    /// Queues the last output, behind any backlog, and goes on to `phase`, with the absolute close deadline: traffic does
    /// not extend it.
    pub(super) fn end_with(&mut self, id: ConnId, last: Segment, phase: Phase, reason: CloseReason) {
        self.resume(id); // the peer's Close is among its input
        self.enqueue_anyway(id, last);
        let due = self.now_tick + self.options.close_timeout_ticks;
        let Some(conn) = self.conn(id) else { return };
        if conn.phase == Phase::Releasing {
            return;
        }
        conn.phase = phase;
        conn.reason = reason;
        conn.due_tick = due;
        if phase != Phase::Closing {
            conn.spill = None; // while its Close is awaited, the message under way must be read to its end
        }
        self.heads.remove(&id.slot);
        self.wheel.arm(&mut self.conns, id.slot, due);
    }

    /// Goes on with connections of which all output was sent, as far as somebody waits for that; where it is not yet,
    /// its completion comes back here through the next flush.
    pub(super) fn finish_sent(&mut self) {
        let mut finishing = std::mem::take(&mut self.finishing);
        for id in finishing.drain(..) {
            let Some(conn) = self.conns.get_mut(id.slot, id.generation) else { continue };
            if conn.has(flag::SENDING) {
                self.note_blocked(id);
                continue;
            }
            let all_sent = conn.out.is_none();
            match conn.phase {
                Phase::Finishing if all_sent => self.release(id),
                Phase::Refusing if all_sent => {
                    conn.phase = Phase::Lingering;
                    conn.set(flag::SHUTTING);
                    self.io.shutdown(id);
                }
                // What this turn has queued since does not matter: what was sent before it was taken.
                Phase::Open if conn.has(flag::BLOCKED) => {
                    conn.clear(flag::BLOCKED);
                    self.handler.on_writable(id, &mut self.outbox);
                    self.apply_actions();
                }
                _ => {}
            }
        }
        self.finishing = finishing;
    }

    /// EOF. Whoever is owed nothing more is released; a peer that ends an open connection so has vanished.
    pub(super) fn handle_end_of_input(&mut self, id: ConnId) {
        match self.conn(id).map(|conn| conn.phase) {
            Some(Phase::Request | Phase::Deciding | Phase::Open) => {
                self.begin_release(id, CloseReason::PeerEof)
            }
            // A peer that shut only its sending side still gets the last output.
            Some(Phase::Finishing | Phase::Refusing) => {
                if let Some(conn) = self.conn(id) {
                    conn.phase = Phase::Finishing;
                }
            }
            Some(Phase::Closing | Phase::Lingering) => self.release(id),
            Some(Phase::Releasing) | None => {}
        }
    }

    /// An error of the socket. It is the reason only where none was noted before: who violates the protocol and then
    /// resets has violated it.
    pub(super) fn handle_broken(&mut self, id: ConnId, reason: CloseReason) {
        match self.conn(id).map(|conn| conn.phase) {
            Some(Phase::Request | Phase::Deciding | Phase::Open) => self.begin_release(id, reason),
            _ => self.release(id),
        }
    }

    /// Releases for the reason already noted.
    pub(super) fn release(&mut self, id: ConnId) {
        if let Some(reason) = self.conn(id).map(|conn| conn.reason) {
            self.begin_release(id, reason);
        }
    }

    /// Begin: stops timers, drops what is queued, cancels what is armed.
    pub(super) fn begin_release(&mut self, id: ConnId, reason: CloseReason) {
        self.abandon(id);
        self.note_end(id, reason);
        let Some(conn) = self.conns.get_mut(id.slot, id.generation) else { return };
        if conn.phase == Phase::Releasing {
            return;
        }
        conn.phase = Phase::Releasing;
        conn.spill = None;
        if conn.has(flag::POLL_ARMED) {
            self.io.cancel_poll(id);
        }
        if conn.has(flag::SENDING) {
            self.io.cancel_send(id);
        }
        let opened = conn.has(flag::OPENED);
        self.counters.send_queue_bytes.subtract(conn.waiting_bytes() as u64);
        if let Some(queue) = conn.out.take() {
            self.recycle(queue);
        }
        self.wheel.disarm(&mut self.conns, id.slot);
        self.heads.remove(&id.slot);
        if opened {
            self.handler.on_close(id, reason, &mut self.outbox);
        }
        self.try_release(id);
    }

    /// Counts the end of a connection, and has the log tell it.
    fn note_end(&mut self, id: ConnId, reason: CloseReason) {
        let Some(conn) = self.conns.get(id.slot, id.generation) else { return };
        if conn.phase == Phase::Releasing {
            return;
        }
        self.counters.closed[reason as usize].add(1);
        if conn.has(flag::OPENED) {
            let code = conn.close_code();
            let opened_ticks = self.now_tick.saturating_sub(self.opened_tick(id.slot));
            let duration_ms = u64::from(opened_ticks) * TICK_MS;
            self.counters.connections_open.subtract(1);
            self.counters.disconnected[reason as usize].add(1);
            self.counters.lifetime_s.record(duration_ms / 1000);
            self.keep_pace(id.slot);
            self.tell_disconnect(id, code, reason, duration_ms);
        }
    }

    /// The connection in this slot is opened now.
    pub(super) fn note_opened(&mut self, slot: u32) {
        let at = slot as usize;
        if at >= self.opened_ticks.len() {
            self.opened_ticks.resize(at + 1, 0);
        }
        self.opened_ticks[at] = self.now_tick;
    }

    /// When it was opened.
    pub(super) fn opened_tick(&self, slot: u32) -> u32 {
        self.opened_ticks.get(slot as usize).copied().unwrap_or(self.now_tick)
    }

    /// Join: an operation of a connection ended.
    pub(super) fn handle_operation_ended(&mut self, id: ConnId, operation: u16) {
        let Some(conn) = self.conns.get_mut(id.slot, id.generation) else {
            return self.counters.completions_stale.add(1);
        };
        conn.clear(operation);
        if conn.phase == Phase::Releasing {
            self.try_release(id);
        }
    }

    /// Release: frees the descriptor once the kernel holds nothing else of the connection.
    pub(super) fn try_release(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id.slot, id.generation) else { return };
        if !conn.has(flag::IN_FLIGHT) {
            conn.set(flag::FREEING);
            self.io.close(id);
        }
    }

    pub(super) fn handle_closed(&mut self, id: ConnId) {
        if self.conns.remove(id.slot, id.generation).is_none() {
            self.counters.completions_stale.add(1);
        }
    }
}
