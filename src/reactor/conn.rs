//! The state of one connection: 48 bytes, with its slot's generation and timer one cache line.

use crate::budget::SLOT_BYTES;
use crate::buf::SendQueue;
use crate::ds::Slab;
use crate::proto::close::CloseReason;
use crate::proto::message::Spill;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

const _: () = assert!(Slab::<Conn>::SLOT_BYTES <= SLOT_BYTES, "a slot is one cache line");

/// Where a connection is in its life. Only ever moves downwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its request head is arriving.
    Request,
    /// The handler has its request and will decide later.
    Deciding,
    /// Frames flow.
    Open,
    /// Our Close is queued or sent; the peer's is awaited, its data ignored.
    Closing,
    /// The last output is on its way, then the connection is released. Input is discarded.
    Finishing,
    /// The last output is on its way, then the sending side is shut. Input is discarded.
    Refusing,
    /// The sending side is shut; input is discarded until the peer ends it, or a reset would overtake our last words.
    Lingering,
    /// Operations are being cancelled; the descriptor is freed after the last completion.
    Releasing,
}

impl Phase {
    /// Input is received only to be gone. While a Close is awaited it is not: that comes with the input.
    pub fn ignores_input(self) -> bool {
        matches!(self, Phase::Finishing | Phase::Refusing | Phase::Lingering)
    }
}

/// Facts of a connection that are either so or not.
pub(super) mod flag {
    /// The kernel holds a poll of this connection.
    pub const POLL_ARMED: u16 = 1 << 0;
    /// The kernel holds a receive.
    pub const RECEIVING: u16 = 1 << 1;
    /// The kernel holds a send that waits for room.
    pub const SENDING: u16 = 1 << 2;
    /// The kernel holds a shutdown.
    pub const SHUTTING: u16 = 1 << 3;
    /// The kernel holds the close of the descriptor.
    pub const FREEING: u16 = 1 << 4;
    /// What the kernel holds of a connection; while any is set, its slot is not freed.
    pub const IN_FLIGHT: u16 = POLL_ARMED | RECEIVING | SENDING | SHUTTING | FREEING;
    /// In the list of connections with input to receive.
    pub const READABLE: u16 = 1 << 5;
    /// In the list of connections with output to send.
    pub const DIRTY: u16 = 1 << 6;
    /// Has input, but is not read until its backlog shrinks or its handler resumes it.
    pub const PAUSED: u16 = 1 << 7;
    /// Pinged, and nothing heard since.
    pub const PINGED: u16 = 1 << 8;
    /// `on_open` was called, so `on_close` must be.
    pub const OPENED: u16 = 1 << 9;
    /// Accepted into a reserve slot of a full server: it gets a 503.
    pub const SURPLUS: u16 = 1 << 10;
    /// Its socket was full, and the handler has been told: once all is sent it is told that there is room.
    pub const BLOCKED: u16 = 1 << 11;
    /// A poll saw a hang-up or an error: input is received to its end, for no further event announces it.
    pub const HUNG_UP: u16 = 1 << 12;
    /// The handler holds it: its input stays in the socket, and it has no deadlines.
    pub const HELD: u16 = 1 << 13;
    /// Its ping was left out for messages; the next one is not.
    pub const GAVE_WAY: u16 = 1 << 14;
    /// A trusted proxy's, of which the PROXY header has not come whole.
    pub const PREAMBLE: u16 = 1 << 15;
}

/// One connection.
pub(super) struct Conn {
    /// An incomplete message or frame; `None` at a message boundary.
    pub spill: Option<Box<Spill>>,
    /// Output that waits; `None` when there is none.
    pub out: Option<Box<SendQueue>>,
    /// IPv4 addresses are mapped.
    ip: Ipv6Addr,
    port: u16,
    /// Bits of [`flag`].
    pub flags: u16,
    /// `Open`: tick of the last message, or of the upgrade. After that: the code of the Close it was sent, or 0.
    pub active_tick: u32,
    /// The next step of the phase, as a tick. `Request`, `Deciding`: the handshake deadline. `Open`: when to ping, or,
    /// with [`flag::PINGED`], when the answer is overdue. After that: the absolute close deadline.
    pub due_tick: u32,
    pub phase: Phase,
    /// Why it ends; meaningful after `Open`.
    pub reason: CloseReason,
    /// Input that came after our last words, in blocks of [`IGNORED_BLOCK_BYTES`].
    ignored_blocks: u16,
}

/// So many bytes that a count of 16 bits ends at 4 MiB.
const IGNORED_BLOCK_BYTES: usize = 64;

impl Conn {
    pub fn new(peer: SocketAddr, due_tick: u32) -> Conn {
        Conn {
            spill: None,
            out: None,
            ip: mapped(peer.ip()),
            port: peer.port(),
            flags: 0,
            active_tick: 0,
            due_tick,
            phase: Phase::Request,
            reason: CloseReason::InternalError,
            ignored_blocks: 0,
        }
    }

    /// Counts input that came after our last words; false when it is too much to be what was on its way.
    pub fn ignore(&mut self, bytes: usize) -> bool {
        let blocks = bytes.div_ceil(IGNORED_BLOCK_BYTES).try_into().unwrap_or(u16::MAX);
        self.ignored_blocks = self.ignored_blocks.saturating_add(blocks);
        self.ignored_blocks < u16::MAX
    }

    /// Who is at the other end: the client, as far as it is known yet.
    pub fn peer(&self) -> SocketAddr {
        SocketAddr::new(self.ip.to_canonical(), self.port)
    }

    /// A proxy has said for whom it speaks.
    pub fn set_peer(&mut self, client: SocketAddr) {
        (self.ip, self.port) = (mapped(client.ip()), client.port());
    }

    pub fn has(&self, flags: u16) -> bool {
        self.flags & flags != 0
    }

    /// Whether its input stays in the socket, because it does not read what it is sent or its handler is not ready.
    pub fn is_unread(&self) -> bool {
        self.has(flag::PAUSED | flag::HELD)
    }

    pub fn set(&mut self, flags: u16) {
        self.flags |= flags;
    }

    /// Sets it; false if it was set already.
    pub fn newly(&mut self, flag: u16) -> bool {
        let newly = !self.has(flag);
        self.set(flag);
        newly
    }

    pub fn clear(&mut self, flags: u16) {
        self.flags &= !flags;
    }

    /// A Close with this code is queued; after `Open`.
    pub fn set_close_code(&mut self, code: Option<u16>) {
        self.active_tick = code.map_or(0, u32::from);
    }

    /// The code of the Close it was sent; `None` before, and where there was none.
    pub fn close_code(&self) -> Option<u16> {
        let is_closing = !matches!(self.phase, Phase::Request | Phase::Deciding | Phase::Open);
        u16::try_from(self.active_tick).ok().filter(|code| is_closing && *code != 0)
    }

    /// The backlog that counts against the limit, see [`SendQueue::overdue_bytes`].
    pub fn overdue_bytes(&self) -> usize {
        self.out.as_ref().map_or(0, |queue| queue.overdue_bytes())
    }

    /// Bytes queued and in flight.
    pub fn backlog_bytes(&self) -> usize {
        self.out.as_ref().map_or(0, |queue| queue.backlog_bytes())
    }

    /// Those of them that wait because the socket was full.
    pub fn waiting_bytes(&self) -> usize {
        if self.has(flag::SENDING) { self.backlog_bytes() } else { 0 }
    }
}

fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}
