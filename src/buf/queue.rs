//! What a connection still has to send: an ordered queue of segments, bounded in bytes by its user.

use super::{Buffer, Payload};
use std::collections::VecDeque;
use std::ops::Range;

/// A run of bytes to send, kept alive by whatever owns them. Ranges are the bytes still unsent and never empty.
pub enum Segment {
    /// Part of a receive buffer in which a reply was built in place.
    Buffer(Buffer, Range<usize>),
    /// A frame encoded once, perhaps shared with other connections.
    Payload(Payload, Range<usize>),
    /// Bytes that belong to this segment alone.
    Bytes(Vec<u8>, Range<usize>),
}

impl Segment {
    /// A whole payload.
    pub fn payload(payload: Payload) -> Segment {
        let len = payload.len();
        Segment::Payload(payload, 0..len)
    }

    /// All of these bytes, which belong to it alone.
    pub fn owned(bytes: Vec<u8>) -> Segment {
        let len = bytes.len();
        Segment::Bytes(bytes, 0..len)
    }

    /// The bytes still to be sent.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Segment::Buffer(buffer, range) => &buffer[range.clone()],
            Segment::Payload(payload, range) => &payload[range.clone()],
            Segment::Bytes(bytes, range) => &bytes[range.clone()],
        }
    }

    /// Drops the first `sent` bytes.
    pub fn advance(&mut self, sent: usize) {
        self.range_mut().start += sent;
    }

    /// Copies what lies in a receive buffer, so that the buffer is free again.
    pub fn unpin(&mut self) {
        if let Segment::Buffer(..) = self {
            *self = Segment::owned(self.bytes().to_vec());
        }
    }

    fn range_mut(&mut self) -> &mut Range<usize> {
        match self {
            Segment::Buffer(_, range) | Segment::Payload(_, range) | Segment::Bytes(_, range) => range,
        }
    }
}

/// Largest segment that is joined to the one before it.
const JOINED_BYTES_MAX: usize = 256;
/// Largest segment that others are joined to.
const JOINED_INTO_BYTES_MAX: usize = 4096;
/// Capacity up to which an empty queue is kept.
const SEGMENTS_KEPT_MAX: usize = 16;

/// Segments in the order they go out.
#[derive(Default)]
pub struct SendQueue {
    segments: VecDeque<Segment>,
    bytes: usize,
    /// Bytes of this connection that a waiting send holds at the moment.
    in_flight_bytes: usize,
    /// Those of them that were queued before the socket was known to be full.
    burst_bytes: usize,
}

impl SendQueue {
    /// Bytes not yet handed to the kernel's socket: queued and in flight.
    pub fn backlog_bytes(&self) -> usize {
        self.bytes + self.in_flight_bytes
    }

    /// The backlog but for the burst that found the socket full: one turn's output to a peer that had read everything is
    /// no sign that it reads slowly.
    pub fn overdue_bytes(&self) -> usize {
        self.backlog_bytes() - self.burst_bytes
    }

    /// A waiting send holds so many bytes, of which the burst of before is what is left of it.
    pub fn set_in_flight(&mut self, bytes: usize, burst_bytes: usize) {
        self.in_flight_bytes = bytes;
        self.burst_bytes = burst_bytes.min(bytes);
    }

    /// What of the burst is still in flight.
    pub fn burst_bytes(&self) -> usize {
        self.burst_bytes
    }

    /// Appends a segment; one without bytes is dropped.
    pub fn push(&mut self, segment: Segment) {
        let len = segment.bytes().len();
        if len > 0 {
            self.bytes += len;
            self.segments.push_back(segment);
        }
    }

    /// Appends a segment that may wait for long: it pins no receive buffer, and small ones are joined, for a segment of
    /// its own costs more than a small frame.
    pub fn push_waiting(&mut self, mut segment: Segment) {
        let len = segment.bytes().len();
        match self.segments.back_mut() {
            Some(Segment::Bytes(last, range))
                if len <= JOINED_BYTES_MAX && last.len() < JOINED_INTO_BYTES_MAX =>
            {
                last.truncate(range.end); // bytes behind the range were never to be sent
                last.extend_from_slice(segment.bytes());
                range.end += len;
                self.bytes += len;
            }
            _ if len <= JOINED_BYTES_MAX => self.push(Segment::owned(segment.bytes().to_vec())),
            _ => {
                segment.unpin();
                self.push(segment);
            }
        }
    }

    /// Unsent bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it is small enough to be kept for reuse.
    pub fn is_small(&self) -> bool {
        self.segments.capacity() <= SEGMENTS_KEPT_MAX
    }

    /// True when nothing is left to send.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Segments in order.
    pub fn iter(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter()
    }

    /// Number of segments.
    pub fn len(&self) -> usize {
        self.segments.len()
    }

    /// Takes the only segment out, if there is exactly one.
    pub fn take_single(&mut self) -> Option<Segment> {
        if self.segments.len() != 1 {
            return None;
        }
        self.bytes = 0;
        self.segments.pop_front()
    }

    /// Drops the first `sent` bytes; what is fully sent is released.
    pub fn advance(&mut self, mut sent: usize) {
        debug_assert!(sent <= self.bytes, "the kernel sent more than it was given");
        self.bytes -= sent.min(self.bytes);
        while let Some(front) = self.segments.front_mut() {
            let range = front.range_mut();
            if sent < range.len() {
                range.start += sent;
                return;
            }
            sent -= range.len();
            self.segments.pop_front();
        }
    }

    /// [`Segment::unpin`] for all of them.
    pub fn unpin(&mut self) {
        self.segments.iter_mut().for_each(Segment::unpin);
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.bytes = 0;
        self.set_in_flight(0, 0);
        self.segments.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_short_sends_give_the_same_bytes(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..9),
            sends in prop::collection::vec(1usize..7, 1..99),
            joined in any::<bool>(),
        ) {
            let mut queue = SendQueue::default();
            for (at, chunk) in chunks.iter().enumerate() {
                let segment = match at % 3 {
                    0 => Segment::payload(Payload::new(&[chunk])),
                    _ => Segment::Bytes([chunk, &b"unsent"[..]].concat(), 0..chunk.len()),
                };
                if joined { queue.push_waiting(segment) } else { queue.push(segment) }
            }
            let expected: Vec<u8> = chunks.concat();
            let mut seen = Vec::new();
            for send in sends.into_iter().cycle() {
                prop_assert_eq!(queue.bytes(), expected.len() - seen.len());
                let all: Vec<u8> = queue.iter().flat_map(|s| s.bytes().iter().copied()).collect();
                let now = send.min(all.len());
                seen.extend_from_slice(&all[..now]);
                queue.advance(now);
                if queue.is_empty() { break; }
            }
            prop_assert_eq!(seen, expected);
            prop_assert_eq!(queue.bytes(), 0);
        }
    }

    #[test]
    fn small_frames_that_wait_cost_no_segment_each() {
        let mut queue = SendQueue::default();
        let frame = Payload::new(&[b"\x8a\x00"]);
        for _ in 0..10_000 {
            queue.push_waiting(Segment::payload(frame.clone()));
        }
        assert_eq!(queue.bytes(), 20_000);
        assert!(queue.len() <= 20_000 / JOINED_INTO_BYTES_MAX + 1);
    }
}
