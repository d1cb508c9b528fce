//! Input: readable connections receive into a pool buffer, or straight into a large message, and their bytes become
//! messages.
//!
//! An idle connection waits on a multishot poll and owns no buffer. The poll is edge-triggered: a connection is received
//! from until the kernel says the socket is empty, a part of it a turn (`readable.rs`), so that no peer starves the others.

use super::Reactor;
use super::conn::{Phase, flag};
use crate::buf::{Buffer, Payload, Segment};
use crate::handler::{Handler, Message};
use crate::proto::close::{CloseReason, Violation};
use crate::proto::frame::{Opcode, encode_header};
use crate::proto::message::{ControlBody, Event, HEADROOM, Input, Kind, Place, Spill, next};
use crate::sys::{ConnId, Inbound, Io};
use std::ops::Range;

/// Receives of one turn: enough to share the system call, few enough to keep their bytes in the cache.
const RECEIVES_PER_TURN: usize = 64;

/// From so many bytes received and missing on, the kernel writes straight into the message.
const DIRECT_BYTES_MIN: usize = 4096;

/// Of so many messages the handling of one is timed, on average.
const MESSAGES_PER_TIMING: u32 = 16;

/// Received bytes and what owns them.
pub(super) enum Owner {
    Buffer(Buffer),
    Bytes(Vec<u8>),
    /// The bytes are in the spill already.
    Spill,
}

impl Owner {
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Owner::Buffer(buffer) => buffer,
            Owner::Bytes(bytes) => bytes,
            Owner::Spill => &mut [],
        }
    }

    fn into_segment(self, range: Range<usize>) -> Option<Segment> {
        match self {
            Owner::Buffer(buffer) => Some(Segment::Buffer(buffer, range)),
            Owner::Bytes(bytes) => Some(Segment::Bytes(bytes, range)),
            Owner::Spill => None,
        }
    }
}

/// How a run of frames ended.
enum Stop {
    /// All bytes are read.
    End,
    /// The connection is no longer open; what follows is ignored.
    Closed,
    Violation(Violation),
}

impl<I: Io, H: Handler> Reactor<I, H> {
    pub(super) fn handle_polled(&mut self, id: ConnId, result: i32, more: bool) {
        let Some(conn) = self.conns.get_mut(id.slot, id.generation) else {
            return self.counters.completions_stale.add(1);
        };
        if !more {
            conn.clear(flag::POLL_ARMED);
        }
        if conn.phase == Phase::Releasing {
            return self.try_release(id);
        }
        if result < 0 {
            return self.begin_release(id, CloseReason::InternalError); // the kernel cannot watch it
        }
        if !more {
            // The kernel ends a multishot poll when completions overflow.
            conn.set(flag::POLL_ARMED);
            self.io.poll(id);
        }
        if result & i32::from(libc::POLLERR | libc::POLLHUP | libc::POLLRDHUP) != 0 {
            conn.set(flag::HUNG_UP);
        }
        self.mark_readable(id);
    }

    pub(super) fn mark_readable(&mut self, id: ConnId) {
        if self.newly_readable(id) {
            self.readable.push_quiet(id);
        }
    }

    /// More is there than was taken.
    pub(super) fn mark_unread(&mut self, id: ConnId) {
        if !self.newly_readable(id) {
            return;
        }
        if !self.conn(id).is_some_and(|conn| conn.phase.ignores_input()) {
            return self.readable.push_busy(id);
        }
        if let Some(ousted) = self.readable.push_ignored(id) {
            self.release(ousted);
        }
    }

    fn newly_readable(&mut self, id: ConnId) -> bool {
        self.conn(id).is_some_and(|conn| conn.newly(flag::READABLE))
    }

    /// Leaves the input of an open connection in the socket until [`Reactor::resume`].
    pub(super) fn hold(&mut self, id: ConnId) {
        if let Some(conn) = self.conn(id).filter(|conn| conn.phase == Phase::Open) {
            conn.set(flag::HELD);
        }
    }

    /// Reads a held connection again.
    pub(super) fn resume(&mut self, id: ConnId) {
        let Some(conn) = self.conn(id).filter(|conn| conn.has(flag::HELD)) else { return };
        conn.clear(flag::HELD);
        if conn.has(flag::PAUSED) {
            conn.clear(flag::PAUSED);
            self.mark_unread(id); // if it is still clogged, it is found out there
        }
        self.restart_deadlines(id);
    }

    /// Queues receives for connections with input, in the order `readable.rs` gives them.
    pub(super) fn receive_readable(&mut self) {
        let pause_bytes = self.options.send_queue_bytes_max / 2;
        self.readable.begin_turn(RECEIVES_PER_TURN.min(self.options.budget.sq_entries as usize / 2));
        while let Some(id) = self.readable.next() {
            let Some(conn) = self.conns.get_mut(id.slot, id.generation) else { continue };
            if conn.phase == Phase::Releasing {
                continue;
            }
            let clogged = conn.has(flag::SENDING) && conn.backlog_bytes() >= pause_bytes;
            if clogged || conn.has(flag::HELD) {
                // It does not read what it is sent, or its handler is not ready: TCP holds the rest back for us.
                conn.clear(flag::READABLE);
                conn.set(flag::PAUSED);
                continue;
            }
            let into = match conn.spill.as_mut().and_then(|spill| spill.begin_direct(DIRECT_BYTES_MIN)) {
                Some((message, bytes_max)) => Inbound::Append(message, bytes_max),
                None => match self.pool.lease() {
                    Some(buffer) => Inbound::Buffer(buffer, self.readable.quantum_bytes()),
                    None => return self.readable.put_back(id),
                },
            };
            conn.clear(flag::READABLE);
            conn.set(flag::RECEIVING);
            self.io.recv(id, into);
        }
    }

    pub(super) fn handle_received(&mut self, id: ConnId, into: Inbound, result: i32, nonempty: bool) {
        let Some(conn) = self.conns.get_mut(id.slot, id.generation) else {
            return self.counters.completions_stale.add(1);
        };
        conn.clear(flag::RECEIVING);
        if conn.phase == Phase::Releasing {
            return self.try_release(id);
        }
        let owner = match into {
            Inbound::Buffer(buffer, _) => Owner::Buffer(buffer),
            Inbound::Append(message, _) => {
                if let Some(spill) = &mut conn.spill {
                    spill.finish_direct(message);
                }
                Owner::Spill
            }
        };
        match result {
            0 => self.handle_end_of_input(id),
            error if error == -libc::EAGAIN => self.counters.receives_empty.add(1),
            error if error == -libc::EINTR => self.mark_readable(id),
            error if error < 0 => self.handle_broken(id, CloseReason::PeerReset),
            received => {
                self.counters.bytes_received.add(received as u64);
                self.answering = self.options.pinged_tick(conn).map(|tick| (id, tick));
                self.options.heard(conn);
                let has_hung_up = conn.has(flag::HUNG_UP);
                if nonempty {
                    self.mark_unread(id);
                } else if has_hung_up {
                    self.mark_readable(id); // only its end is left
                }
                self.handle_bytes(id, owner, received as usize);
            }
        }
    }

    fn handle_bytes(&mut self, id: ConnId, owner: Owner, received: usize) {
        let Some(conn) = self.conn(id) else { return };
        let is_ending = !matches!(conn.phase, Phase::Open | Phase::Request | Phase::Deciding);
        if is_ending && !conn.ignore(received) {
            // It goes on as if nothing had been said: reading that until the close deadline would be work for nothing.
            return self.release(id);
        }
        match conn.phase {
            Phase::Open | Phase::Closing => self.read_frames(id, owner, 0..received),
            Phase::Request | Phase::Deciding => {
                if let Owner::Buffer(buffer) = owner {
                    self.read_request(id, buffer, received);
                }
            }
            // Discarded, but noticed: more may follow, and a reset must not overtake the last output.
            Phase::Finishing | Phase::Refusing | Phase::Lingering | Phase::Releasing => {}
        }
    }

    /// Hands every message in `range` of the received bytes to the handler.
    pub(super) fn read_frames(&mut self, id: ConnId, mut owner: Owner, range: Range<usize>) {
        let Some(conn) = self.conns.get_mut(id.slot, id.generation) else { return };
        let mut spill = conn.spill.take();
        let bytes =
            if matches!(owner, Owner::Spill) { &mut [] } else { &mut owner.bytes_mut()[range.clone()] };
        let mut input = Input { bytes, at: 0 };
        let mut replies = 0..0;
        let mut messages = 0;
        let stop = loop {
            match next(&mut spill, &mut input, &self.options.limits) {
                Ok(None) => break Stop::End,
                Err(violation) => break Stop::Violation(violation),
                Ok(Some(Event::Message { kind, body })) => {
                    messages += 1;
                    let timed_from_us = self.begin_timing();
                    self.handle_message(id, kind, body, &mut spill, &mut input, &mut replies);
                    self.end_timing(timed_from_us);
                }
                Ok(Some(Event::Ping(body))) => {
                    self.send_replies(id, input.bytes, &mut replies);
                    self.send_pong(id, &body);
                    self.handle_control(id, body.len(), input.bytes, &mut replies);
                }
                Ok(Some(Event::Pong(body))) => {
                    self.note_pong(id, &body);
                    self.handle_control(id, body.len(), input.bytes, &mut replies);
                }
                Ok(Some(Event::Close(code))) => {
                    self.send_replies(id, input.bytes, &mut replies);
                    self.handle_close_frame(id, code, input.at < input.bytes.len());
                }
            }
            if self.conn(id).is_none_or(|conn| !matches!(conn.phase, Phase::Open | Phase::Closing)) {
                break Stop::Closed;
            }
        };
        self.counters.messages_received.add(messages);
        if !replies.is_empty() {
            let replies = range.start + replies.start..range.start + replies.end;
            if let Some(segment) = owner.into_segment(replies) {
                self.enqueue(id, segment);
            }
        }
        match stop {
            Stop::End => self.keep_spill(id, spill, messages > 0),
            Stop::Violation(violation) => {
                self.tell_violation(id, violation);
                self.fail(id, violation.reason());
            }
            Stop::Closed => {}
        }
    }

    fn handle_message(
        &mut self,
        id: ConnId,
        kind: Kind,
        body: Place,
        spill: &mut Option<Box<Spill>>,
        input: &mut Input<'_>,
        replies: &mut Range<usize>,
    ) {
        if self.conn(id).is_none_or(|conn| conn.phase != Phase::Open) {
            return; // after our Close its data no longer counts
        }
        let payload = match (&body, spill.as_mut()) {
            (Place::Input(range), _) => &mut input.bytes[range.clone()],
            (Place::Spill, Some(spill)) => spill.body_mut(),
            (Place::Spill, None) => return,
        };
        self.counters.received_bytes.record(payload.len() as u64);
        self.handler.on_message(id, Message::new(id, kind, payload), &mut self.outbox);
        if let Some((kind, len)) = self.outbox.take_reply() {
            self.counters.messages_sent.add(1);
            self.counters.sent_bytes.record(len as u64);
            match body {
                Place::Input(range) => write_reply(input.bytes, replies, kind, range.start, len),
                Place::Spill => {
                    self.send_replies(id, input.bytes, replies);
                    if let Some(spill) = spill {
                        self.enqueue(id, reply_in_message(spill.take_body(), kind, len));
                    }
                }
            }
        }
        if !self.outbox.is_empty() {
            self.send_replies(id, input.bytes, replies);
            self.apply_actions();
        }
    }

    /// The time, if the handling of this message is timed.
    fn begin_timing(&mut self) -> Option<u64> {
        if self.untimed > 0 {
            self.untimed -= 1;
            return None;
        }
        // Not each sixteenth: of a client that sends in such a rhythm the same message would be timed for ever.
        self.untimed = self.random_below(2 * MESSAGES_PER_TIMING - 1);
        Some(self.io.now_us())
    }

    fn end_timing(&self, from_us: Option<u64>) {
        if let Some(from_us) = from_us {
            self.counters.handling_us.record(self.io.now_us().saturating_sub(from_us));
        }
    }

    /// Queues the replies built so far as a copy, because something else goes between them and the next.
    fn send_replies(&mut self, id: ConnId, bytes: &[u8], replies: &mut Range<usize>) {
        if !Range::is_empty(replies) {
            let copy = bytes[std::mem::take(replies)].to_vec();
            self.enqueue(id, Segment::owned(copy));
        }
    }

    fn send_pong(&mut self, id: ConnId, body: &ControlBody) {
        if self.conn(id).is_some_and(|conn| conn.phase == Phase::Open) {
            let (header, header_len) = encode_header(Opcode::Pong, body.len());
            self.enqueue(id, Segment::payload(Payload::new(&[&header[..header_len], body])));
        }
    }

    /// Tells the handler of a ping or pong.
    fn handle_control(&mut self, id: ConnId, len: usize, bytes: &[u8], replies: &mut Range<usize>) {
        if self.conn(id).is_none_or(|conn| conn.phase != Phase::Open) {
            return;
        }
        self.handler.on_control(id, len, &mut self.outbox);
        if !self.outbox.is_empty() {
            self.send_replies(id, bytes, replies);
            self.apply_actions();
        }
    }

    /// Puts the incomplete rest back; its deadline runs from when it was first seen incomplete.
    fn keep_spill(&mut self, id: ConnId, spill: Option<Box<Spill>>, active: bool) {
        let (now, deadline) = (self.now_tick, self.now_tick + self.options.message_deadline_ticks);
        let Some(conn) = self.conns.get_mut(id.slot, id.generation) else { return };
        if active && conn.phase == Phase::Open {
            conn.active_tick = now;
        }
        let Some(mut spill) = spill else { return };
        let first = spill.started_tick == 0;
        if first {
            spill.started_tick = now.max(1);
        }
        conn.spill = Some(spill);
        if first && conn.phase == Phase::Open {
            self.arm_no_later_than(id, deadline);
        }
    }
}

/// Writes a reply of the message at `body` behind the replies already in the buffer. A server's header is at least four
/// bytes shorter than a client's, so replies never catch up with the input that is still to be read.
fn write_reply(bytes: &mut [u8], replies: &mut Range<usize>, kind: Kind, body: usize, len: usize) {
    let (header, header_len) = encode_header(kind.into(), len);
    if Range::is_empty(replies) {
        *replies = body - header_len..body - header_len;
    }
    let start = replies.end + header_len;
    if start != body {
        bytes.copy_within(body..body + len, start);
    }
    bytes[replies.end..start].copy_from_slice(&header[..header_len]);
    replies.end = start + len;
}

/// A reply whose header goes into the headroom before a message that came in parts.
fn reply_in_message(mut message: Vec<u8>, kind: Kind, len: usize) -> Segment {
    let (header, header_len) = encode_header(kind.into(), len);
    let start = HEADROOM - header_len;
    message[start..HEADROOM].copy_from_slice(&header[..header_len]);
    Segment::Bytes(message, start..HEADROOM + len)
}
