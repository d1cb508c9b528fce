//! One scripted socket: what its peer has sent and read, how much it takes, what the reactor has begun on it.

use crate::sys::{Completion, ConnId, Inbound, Outbound};
use std::collections::VecDeque;

/// What one peer and its socket are up to.
pub(super) struct Socket {
    /// Set by the first operation on it.
    pub id: Option<ConnId>,
    /// What came from the peer and is not yet received.
    pub input: VecDeque<u8>,
    /// The peer has ended its side.
    pub eof: bool,
    /// The peer has reset the connection.
    pub reset: bool,
    /// What the server sent.
    pub output: Vec<u8>,
    /// Bytes the socket still takes before it is full.
    pub room: usize,
    /// Most bytes of one receive.
    pub recv_max: usize,
    /// A waiting send ends as soon as it has sent something.
    pub ends_short: bool,
    /// Final completions wait in [`Socket::held`] instead of being delivered; those of receives only with `hold_recv`.
    pub hold: bool,
    pub hold_recv: bool,
    pub held: Vec<Completion>,
    /// The server has sent FIN.
    pub fin: bool,
    /// The descriptor is free again.
    pub gone: bool,
    /// When that was.
    pub gone_us: u64,
    /// Receives so far.
    pub recvs: u32,
    /// The kernel's view of the poll; [`InFlight::poll`] is the reactor's.
    pub poll_armed: bool,
    /// A waiting send and the bytes of it already sent.
    pub waiting: Option<(Outbound, usize)>,
    pub in_flight: InFlight,
    /// A cancel was asked for; nothing of that kind may begin again.
    pub poll_cancelled: bool,
    pub send_cancelled: bool,
}

/// What the reactor has begun and not seen the end of.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct InFlight {
    pub poll: bool,
    pub recv: bool,
    pub send_now: bool,
    pub send_all: bool,
    pub shutdown: bool,
    pub close: bool,
}

impl Socket {
    pub fn new() -> Socket {
        Socket {
            id: None,
            input: VecDeque::new(),
            eof: false,
            reset: false,
            output: Vec::new(),
            room: usize::MAX,
            recv_max: usize::MAX,
            ends_short: false,
            hold: false,
            hold_recv: false,
            held: Vec::new(),
            fin: false,
            gone: false,
            gone_us: 0,
            recvs: 0,
            poll_armed: false,
            waiting: None,
            in_flight: InFlight::default(),
            poll_cancelled: false,
            send_cancelled: false,
        }
    }

    pub fn holds(&self, completion: &Completion) -> bool {
        match completion {
            Completion::Polled { more: true, .. } => false,
            Completion::Received { .. } => self.hold_recv,
            _ => self.hold,
        }
    }

    pub fn has_event(&self) -> bool {
        !self.input.is_empty() || self.eof || self.reset
    }

    /// Takes what fits and returns the count, or a negated errno.
    pub fn take(&mut self, bytes: &mut Outbound) -> i32 {
        if self.reset {
            return -libc::ECONNRESET;
        }
        let all = match bytes {
            Outbound::Segment(segment) => segment.bytes().to_vec(),
            Outbound::Queue(queue) => queue.iter().flat_map(|segment| segment.bytes()).copied().collect(),
        };
        let count = all.len().min(self.room);
        self.output.extend_from_slice(&all[..count]);
        self.room -= if self.room == usize::MAX { 0 } else { count };
        match bytes {
            Outbound::Segment(segment) => segment.advance(count),
            Outbound::Queue(queue) => queue.advance(count),
        }
        count as i32
    }

    /// Moves a waiting send on; its result once it ends.
    pub fn continue_waiting(&mut self) -> Option<(Outbound, i32)> {
        let (mut bytes, mut sent) = self.waiting.take()?;
        let count = self.take(&mut bytes);
        if count < 0 {
            return Some((bytes, count));
        }
        sent += count as usize;
        if bytes.bytes() == 0 || (self.ends_short && count > 0) {
            return Some((bytes, sent as i32));
        }
        self.waiting = Some((bytes, sent));
        None
    }

    pub fn receive(&mut self, mut into: Inbound) -> (Inbound, i32) {
        self.recvs += 1;
        if self.reset {
            return (into, -libc::ECONNRESET);
        }
        if self.input.is_empty() {
            return (into, if self.eof { 0 } else { -libc::EAGAIN });
        }
        let max = self.recv_max.min(self.input.len());
        let count = match &mut into {
            Inbound::Buffer(buffer, bytes_max) => {
                let count = max.min(buffer.len()).min(*bytes_max);
                buffer.iter_mut().zip(self.input.drain(..count)).for_each(|(to, from)| *to = from);
                count
            }
            Inbound::Append(bytes, bytes_max) => {
                let capacity = bytes.capacity();
                assert!(
                    *bytes_max > 0 && *bytes_max <= capacity - bytes.len(),
                    "a direct receive without room"
                );
                let count = max.min(*bytes_max);
                bytes.extend(self.input.drain(..count));
                assert_eq!(bytes.capacity(), capacity, "the kernel cannot make room");
                count
            }
        };
        (into, count as i32)
    }
}
