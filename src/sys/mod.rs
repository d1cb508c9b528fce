//! Linux: the seam between the reactor and the kernel, and everything that needs a system call.
//!
//! All `unsafe` for system calls lives in this folder. The reactor above sees [`Io`], a safe interface: memory that the
//! kernel reads or writes is *owned* by the `Io` from the call until the completion hands it back, so no caller can
//! free or change it too early. [`uring::Uring`] is the real one; tests script their own.
//!
//! Not a stable interface: public for `bench/c1m`, which parks its connections exactly as the server does.

pub mod clock;
mod enter;
pub mod harden;
pub mod host;
pub mod memory;
pub mod priority;
pub mod probe;
pub mod process;
pub mod socket;
pub mod terminal;
pub mod uring;
pub mod wake;

use crate::buf::{Buffer, Segment, SendQueue};
use std::net::SocketAddr;
use std::time::Duration;

/// Names the connection an operation belongs to: a slot and the generation it had.
///
/// The kernel hands a freed direct descriptor to the very next accept, so a completion counts only if the slot's
/// generation still matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnId {
    /// Index in the connection table, equal to the direct descriptor.
    pub slot: u32,
    /// How often the slot had been freed when this connection took it; [`crate::ds::GENERATION_BITS`] bits.
    pub generation: u32,
}

/// Where a receive puts its bytes. Owned by the [`Io`] until the completion returns it.
pub enum Inbound {
    /// A pool buffer, filled from its start, at most with so many bytes.
    Buffer(Buffer, usize),
    /// Behind the vector's length, at most this many bytes and never beyond its capacity; the length grows by what
    /// arrived.
    Append(Vec<u8>, usize),
}

/// What a send sends. Owned by the [`Io`] until it is sent or handed back.
pub enum Outbound {
    /// One run of bytes.
    Segment(Segment),
    /// All of these, gathered into one send.
    Queue(Box<SendQueue>),
}

impl Outbound {
    /// Unsent bytes.
    pub fn bytes(&self) -> usize {
        match self {
            Outbound::Segment(segment) => segment.bytes().len(),
            Outbound::Queue(queue) => queue.bytes(),
        }
    }
}

/// One thing the kernel finished. `result` is the kernel's: a count, or a negated errno.
pub enum Completion {
    /// A connection was accepted into direct descriptor `slot`.
    Accepted {
        /// The direct descriptor, which is also the slot.
        slot: u32,
        /// Who connected.
        peer: SocketAddr,
    },
    /// An accept failed with this errno (positive).
    AcceptFailed {
        /// The errno, positive.
        errno: i32,
    },
    /// The armed poll saw an event. Without `more` it is disarmed and this was its last completion.
    Polled {
        /// The connection.
        id: ConnId,
        /// The poll mask, or a negated errno (-ECANCELED after a cancel).
        result: i32,
        /// The poll is still armed.
        more: bool,
    },
    /// A receive ended.
    Received {
        /// The connection.
        id: ConnId,
        /// The memory lent.
        into: Inbound,
        /// Bytes received, 0 at end of stream, or a negated errno (-EAGAIN: nothing there).
        result: i32,
        /// The socket holds more (`IORING_CQE_F_SOCK_NONEMPTY`).
        nonempty: bool,
    },
    /// A send that may not wait did not send everything. What is left comes back; nothing is lost. A send that sent
    /// everything is silent.
    Unsent {
        /// The connection.
        id: ConnId,
        /// What was not sent.
        rest: Outbound,
        /// 0 after a short send, or a negated errno (-EAGAIN: the socket is full).
        result: i32,
    },
    /// A send that may wait ended.
    Sent {
        /// The connection.
        id: ConnId,
        /// What is left; empty when all was sent.
        rest: Outbound,
        /// Bytes sent, or a negated errno.
        result: i32,
    },
    /// A shutdown ended.
    Shut {
        /// The connection.
        id: ConnId,
    },
    /// The direct descriptor is free again.
    Closed {
        /// The connection.
        id: ConnId,
    },
    /// Somebody rang this core's [`wake::Waker`].
    Woken,
    /// An outgoing connect ended (`bench/c1m`).
    Connected {
        /// The connection.
        id: ConnId,
        /// 0, or a negated errno.
        result: i32,
    },
}

/// The ring cannot go on; the process must end.
#[derive(Debug)]
pub enum RingError {
    /// The kernel lost a completion (EBADR): the state of its connection is unknown.
    CompletionLost,
    /// `io_uring_enter` failed.
    Enter(std::io::Error),
}

impl std::fmt::Display for RingError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RingError::CompletionLost => {
                write!(f, "the kernel dropped an io_uring completion (EBADR): out of memory?")
            }
            RingError::Enter(error) => write!(f, "io_uring_enter failed: {error}"),
        }
    }
}

impl std::error::Error for RingError {}

/// What a reactor asks of the kernel. Every call queues one operation; [`Io::turn`] submits and waits.
pub trait Io {
    /// Most segments one gathered send takes; a longer queue must use [`Io::send_all`].
    const SEGMENTS_PER_SEND: usize;

    /// Accepts one connection into a free direct descriptor.
    fn accept(&mut self);
    /// Leaves the listening address for good: accepts in flight end as [`Completion::AcceptFailed`], but for those that have
    /// somebody already. Newcomers that the kernel holds go to another listener of the address, or are reset
    /// (`net.ipv4.tcp_migrate_req`).
    fn stop_accepting(&mut self);
    /// Arms a multishot poll for input and hang-up.
    fn poll(&mut self, id: ConnId);
    /// Receives what is there now, without waiting.
    fn recv(&mut self, id: ConnId, into: Inbound);
    /// Sends without waiting: ends within the next [`Io::turn`], silently, or as [`Completion::Unsent`].
    fn send_now(&mut self, id: ConnId, bytes: Outbound);
    /// The queue of a [`Io::send_now`] that sent it all, empty, to be used again.
    fn spent_queue(&mut self) -> Option<Box<SendQueue>>;
    /// Sends all, waiting for room as long as it takes, and ends as [`Completion::Sent`].
    fn send_all(&mut self, id: ConnId, bytes: Outbound);
    /// Cancels the armed poll; its last completion follows.
    fn cancel_poll(&mut self, id: ConnId);
    /// Cancels a waiting [`Io::send_all`]; its completion follows.
    fn cancel_send(&mut self, id: ConnId);
    /// Shuts down the sending direction (FIN).
    fn shutdown(&mut self, id: ConnId);
    /// Frees the direct descriptor.
    fn close(&mut self, id: ConnId);
    /// Rings the bell of another core, as part of the next [`Io::turn`].
    fn wake(&mut self, waker: &wake::Waker);
    /// Submits everything queued, waits for a completion or the timeout (`None`: for ever; zero: not at all), and
    /// appends what finished to `done`.
    fn turn(&mut self, timeout: Option<Duration>, done: &mut Vec<Completion>) -> Result<(), RingError>;
    /// Monotonic time in microseconds since an arbitrary start.
    fn now_us(&self) -> u64;
    /// CPU time of the calling thread in microseconds; to be asked rarely.
    fn cpu_us(&self) -> u64;
}
