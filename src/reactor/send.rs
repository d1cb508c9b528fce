//! Output: queued on the connection, gathered once a turn, sent without waiting; what does not fit waits in the kernel.
//!
//! The cheap send is silent when all went out. When it did not, the rest comes back and is sent again as one waiting send;
//! until that ends, new output queues behind it, so bytes never reorder.

use super::Reactor;
use super::conn::{Phase, flag};
use crate::buf::{Payload, Segment, SendQueue};
use crate::handler::Handler;
use crate::proto::close::CloseReason;
use crate::sys::{ConnId, Io, Outbound};

impl<I: Io, H: Handler> Reactor<I, H> {
    /// Queues encoded messages for an open connection.
    pub(super) fn send_messages(&mut self, to: ConnId, frames: Payload, messages: u32) {
        if self.conn(to).is_some_and(|conn| conn.phase == Phase::Open) {
            self.count_sent(frames.len(), messages);
            self.enqueue(to, Segment::payload(frames));
        }
    }

    /// Counts messages that lie in `frame_bytes`, headers included.
    fn count_sent(&mut self, frame_bytes: usize, messages: u32) {
        let mean_bytes = frame_bytes / messages.max(1) as usize;
        self.counters.messages_sent.add(messages.into());
        self.counters.sent_bytes.record_many(payload_bytes(mean_bytes) as u64, messages.into());
    }

    /// Queues output. A connection whose socket is full and whose backlog would pass the limit ends instead; what one turn
    /// queues for a socket that is not known to be full is the handler's to bound.
    pub(super) fn enqueue(&mut self, id: ConnId, segment: Segment) {
        let Some(conn) = self.conn(id) else { return };
        let overdue = if conn.has(flag::BLOCKED) { conn.overdue_bytes() } else { 0 };
        // One message alone may exceed the limit: that of its own size has let it in.
        if overdue > 0 && overdue + segment.bytes().len() > self.options.send_queue_bytes_max {
            return self.cut_slow(id);
        }
        self.enqueue_anyway(id, segment);
    }

    /// Queues output whatever the backlog.
    pub(super) fn enqueue_anyway(&mut self, id: ConnId, segment: Segment) {
        let len = segment.bytes().len();
        let Some(conn) = self.conns.get_mut(id.slot, id.generation) else { return };
        if matches!(conn.phase, Phase::Lingering | Phase::Releasing) {
            return;
        }
        let waits = conn.has(flag::SENDING);
        let queue = conn.out.get_or_insert_with(|| self.spare_queues.pop().unwrap_or_default());
        if waits {
            queue.push_waiting(segment);
            self.counters.send_queue_bytes.add(len as u64);
        } else {
            queue.push(segment)
        }
        self.counters.bytes_sent.add(len as u64);
        if !waits && conn.newly(flag::DIRTY) {
            self.dirty.push(id);
        }
    }

    /// Has this turn's flush look at a connection: for output, or for what its phase waits for.
    pub(super) fn mark_dirty(&mut self, id: ConnId) {
        if self.conn(id).is_some_and(|conn| conn.newly(flag::DIRTY)) {
            self.dirty.push(id);
        }
    }

    /// One gathered send for each connection with output.
    pub(super) fn flush_dirty(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for id in dirty.drain(..) {
            self.flush(id);
        }
        self.dirty = dirty; // sending queues nothing, so the list kept its memory and lost nothing
    }

    fn flush(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id.slot, id.generation) else { return };
        conn.clear(flag::DIRTY);
        if conn.has(flag::SENDING) {
            return;
        }
        let mut goes_on = matches!(conn.phase, Phase::Finishing | Phase::Refusing) || conn.has(flag::BLOCKED);
        if let Some(mut queue) = conn.out.take() {
            if queue.len() > I::SEGMENTS_PER_SEND {
                queue.unpin();
                conn.set(flag::SENDING);
                let burst = if conn.has(flag::BLOCKED) { 0 } else { queue.bytes() };
                let mut marker = self.spare_queues.pop().unwrap_or_default();
                marker.set_in_flight(queue.bytes(), burst);
                conn.out = Some(marker);
                self.counters.send_queue_bytes.add(queue.bytes() as u64);
                goes_on = true; // whether it waits shows in this turn
                self.io.send_all(id, Outbound::Queue(queue));
            } else if let Some(segment) = queue.take_single() {
                self.recycle(queue);
                self.io.send_now(id, Outbound::Segment(segment));
            } else if !queue.is_empty() {
                self.io.send_now(id, Outbound::Queue(queue));
            }
        }
        if goes_on {
            self.finishing.push(id);
        }
    }

    /// Keeps an empty queue for the next connection that needs one.
    pub(super) fn recycle(&mut self, mut queue: Box<SendQueue>) {
        // As many as one submission sends.
        if self.spare_queues.len() < self.options.budget.sq_entries as usize && queue.is_small() {
            queue.clear();
            self.spare_queues.push(queue);
        }
    }

    /// The socket was full: what is left waits in the kernel.
    pub(super) fn handle_unsent(&mut self, id: ConnId, rest: Outbound, result: i32) {
        self.counters.sends_short.add(1);
        let Some(conn) = self.conns.get_mut(id.slot, id.generation) else {
            return self.counters.completions_stale.add(1);
        };
        if conn.phase == Phase::Releasing {
            return;
        }
        if result < 0 && result != -libc::EAGAIN {
            return self.handle_send_error(id, -result);
        }
        self.send_waiting(id, rest);
    }

    fn send_waiting(&mut self, id: ConnId, mut rest: Outbound) {
        match &mut rest {
            Outbound::Segment(segment) => segment.unpin(),
            Outbound::Queue(queue) => queue.unpin(),
        }
        let Some(conn) = self.conns.get_mut(id.slot, id.generation) else { return };
        conn.set(flag::SENDING);
        let was_blocked = conn.has(flag::BLOCKED);
        let queue = conn.out.get_or_insert_with(|| self.spare_queues.pop().unwrap_or_default());
        queue.unpin(); // what was queued in the turn in which the socket turned out to be full waits too
        let burst = if was_blocked { queue.burst_bytes() } else { rest.bytes() };
        queue.set_in_flight(rest.bytes(), burst);
        self.counters.send_queue_bytes.add(conn.waiting_bytes() as u64);
        self.io.send_all(id, rest);
        self.note_blocked(id);
    }

    /// The socket is full: the handler is told, once until there is room again.
    pub(super) fn note_blocked(&mut self, id: ConnId) {
        let Some(conn) = self.conn(id).filter(|conn| !conn.has(flag::BLOCKED)) else { return };
        conn.set(flag::BLOCKED);
        if conn.phase == Phase::Open {
            if conn.is_unread() {
                self.restart_deadlines(id); // from now on it must take what it is sent
            }
            self.handler.on_blocked(id, &mut self.outbox);
            self.apply_actions();
        }
    }

    /// A waiting send ended.
    pub(super) fn handle_sent(&mut self, id: ConnId, rest: Outbound, result: i32) {
        let Some(conn) = self.conns.get_mut(id.slot, id.generation) else {
            return self.counters.completions_stale.add(1);
        };
        if conn.phase == Phase::Releasing {
            return self.handle_operation_ended(id, flag::SENDING);
        }
        self.counters.send_queue_bytes.subtract(conn.waiting_bytes() as u64); // what goes on waiting is added again
        if result < 0 {
            conn.clear(flag::SENDING);
            return self.handle_send_error(id, -result);
        }
        self.options.heard(conn); // it reads: progress is a sign of life
        conn.clear(flag::SENDING);
        if rest.bytes() > 0 { self.send_waiting(id, rest) } else { self.handle_room(id) }
    }

    /// The socket has room: send what queued up, and read again.
    fn handle_room(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id.slot, id.generation) else { return };
        let resumed = conn.has(flag::PAUSED);
        conn.clear(flag::PAUSED);
        if let Some(mut queue) = conn.out.take() {
            queue.set_in_flight(0, 0);
            if queue.is_empty() {
                self.recycle(queue);
            } else {
                conn.out = Some(queue);
            }
        }
        if resumed {
            self.restart_deadlines(id);
            self.mark_unread(id);
        }
        self.mark_dirty(id);
    }

    fn handle_send_error(&mut self, id: ConnId, errno: i32) {
        let reason = match errno {
            libc::EPIPE | libc::ECONNRESET => CloseReason::PeerReset,
            _ => CloseReason::SendFailed,
        };
        self.handle_broken(id, reason);
    }
}

/// The payload of a whole frame of so many bytes.
fn payload_bytes(frame_bytes: usize) -> usize {
    let header_bytes = match frame_bytes {
        0..=127 => 2, // RFC 6455 §5.2: up to 125 bytes
        128..=65_539 => 4,
        _ => 10,
    };
    frame_bytes.saturating_sub(header_bytes)
}
