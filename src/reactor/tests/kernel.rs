//! A kernel played by a test: sockets with scripted peers, a clock that moves only when told, completions that come
//! when and in the order the test wants.
//!
//! It holds the reactor to its contract at every call: one receive and one send of a connection at a time, nothing on a
//! slot whose close was issued, the close only when nothing else is in flight, every operation under the generation of
//! the slot's present connection. A breach panics where it happens.
//!
//! Refuses to: complete a [`Io::send_now`] later than the turn that submits it, for that is this side's contract.

use super::socket::{InFlight, Socket};
use crate::buf::SendQueue;
use crate::sys::wake::Waker;
use crate::sys::{Completion, ConnId, Inbound, Io, Outbound, RingError};
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

/// A peer, by the order of connecting. Unlike a slot it is never reused, and it outlives its connection.
pub(super) type Peer = usize;

enum Operation {
    Poll,
    Recv(Inbound),
    SendNow(Outbound),
    SendAll(Outbound),
    CancelPoll,
    CancelSend,
    Shutdown,
    Close,
}

/// The scripted [`Io`].
pub(super) struct Kernel {
    pub now_us: u64,
    /// What the thread has used of its core.
    pub cpu_us: u64,
    /// What an enter takes besides waiting.
    pub enter_us: u64,
    /// What passes with each look at the clock.
    pub look_us: u64,
    looked_us: Cell<u64>,
    /// A wait never lasts beyond this.
    pub sleep_until_us: u64,
    /// The timeout of the last turn.
    pub timeout: Option<Duration>,
    /// The last turn neither carried anything out nor delivered anything, and nothing waits for the next.
    idle: bool,
    /// Every socket there ever was.
    pub sockets: Vec<Socket>,
    /// Accepts in flight.
    pub accepts: u32,
    /// Who connects waits, and only when the reactor stops accepting are the first so many accepted.
    pub accepts_late: Option<u32>,
    /// Those who came to its address after it had left, or waited there then.
    pub left_to_others: Vec<Peer>,
    has_left: bool,
    /// Bells of other cores rung.
    pub bells_rung: u32,
    /// Every turn's completions come in an order drawn from this.
    pub shuffle: Option<u64>,
    /// Size of the descriptor table.
    descriptors: u32,
    live: BTreeMap<u32, Peer>,
    /// Freed descriptors; the last one is the next one used.
    free: Vec<u32>,
    backlog: VecDeque<Peer>,
    submitted: Vec<(Peer, Operation)>,
    ready: VecDeque<Completion>,
    #[expect(clippy::vec_box, reason = "they are handed out boxed, as connections hold them")]
    spent: Vec<Box<SendQueue>>,
}

impl Kernel {
    pub fn new(descriptors: u32) -> Kernel {
        Kernel {
            now_us: 0,
            cpu_us: 0,
            enter_us: 0,
            look_us: 0,
            looked_us: Cell::new(0),
            sleep_until_us: 0,
            timeout: None,
            idle: false,
            sockets: Vec::new(),
            accepts: 0,
            accepts_late: None,
            left_to_others: Vec::new(),
            has_left: false,
            bells_rung: 0,
            shuffle: None,
            descriptors,
            live: BTreeMap::new(),
            free: (0..descriptors).rev().collect(),
            backlog: VecDeque::new(),
            submitted: Vec::new(),
            ready: VecDeque::new(),
            spent: Vec::new(),
        }
    }

    /// A peer connects; it is accepted as soon as an accept is in flight.
    pub fn connect(&mut self) -> Peer {
        self.sockets.push(Socket::new());
        let peer = self.sockets.len() - 1;
        if self.has_left {
            self.left_to_others.push(peer);
        } else {
            self.backlog.push_back(peer);
        }
        peer
    }

    /// Whether nothing happens by itself any more.
    pub fn is_idle(&self) -> bool {
        self.idle && self.submitted.is_empty() && (self.accepts == 0 || self.backlog.is_empty())
    }

    /// Accepted sockets whose descriptor is not free again.
    pub fn live(&self) -> usize {
        self.live.len()
    }

    /// Bytes come from the peer.
    pub fn arrive(&mut self, peer: Peer, bytes: &[u8]) {
        self.sockets[peer].input.extend(bytes);
        self.raise(peer);
    }

    /// The peer ends its side.
    pub fn end(&mut self, peer: Peer) {
        self.sockets[peer].eof = true;
        self.raise(peer);
    }

    /// The peer resets the connection: what it had sent is lost, and a waiting send fails.
    pub fn reset(&mut self, peer: Peer) {
        let socket = &mut self.sockets[peer];
        socket.reset = true;
        socket.input.clear();
        self.give_room(peer, 0);
        self.raise(peer);
    }

    /// The peer has read `bytes`: so much more fits.
    pub fn give_room(&mut self, peer: Peer, bytes: usize) {
        let socket = &mut self.sockets[peer];
        socket.room = socket.room.saturating_add(bytes);
        let (Some(id), Some((rest, result))) = (socket.id, socket.continue_waiting()) else { return };
        self.deliver(Completion::Sent { id, rest, result });
    }

    /// An event without cause.
    pub fn raise(&mut self, peer: Peer) {
        if let (true, Some(id)) = (self.sockets[peer].poll_armed, self.sockets[peer].id) {
            self.deliver(Completion::Polled { id, result: libc::POLLIN.into(), more: true });
        }
    }

    /// The kernel gives the poll up, if it is armed.
    pub fn end_poll(&mut self, peer: Peer, result: i32) {
        let socket = &mut self.sockets[peer];
        if let (true, Some(id)) = (std::mem::take(&mut socket.poll_armed), socket.id) {
            self.deliver(Completion::Polled { id, result, more: false });
        }
    }

    /// Puts a completion into the next turn's, held or not.
    pub fn inject(&mut self, completion: Completion) {
        self.ready.push_back(completion);
    }

    fn deliver(&mut self, completion: Completion) {
        let socket =
            id_of(&completion).and_then(|id| self.live.get(&id.slot)).map(|peer| &mut self.sockets[*peer]);
        match socket {
            Some(socket) if socket.holds(&completion) => socket.held.push(completion),
            _ => self.ready.push_back(completion),
        }
    }

    /// Lets one of the completions held go.
    pub fn let_go(&mut self, peer: Peer, at: usize) {
        let completion = self.sockets[peer].held.remove(at);
        self.ready.push_back(completion);
    }

    /// Holds no more.
    pub fn let_all_go(&mut self, peer: Peer) {
        let socket = &mut self.sockets[peer];
        (socket.hold, socket.hold_recv) = (false, false);
        self.ready.extend(socket.held.drain(..));
    }

    /// The socket at the slot, which this connection must own and must not be closing.
    fn socket(&mut self, id: ConnId, what: &str) -> &mut Socket {
        let peer =
            self.live.get(&id.slot).unwrap_or_else(|| panic!("{what} on slot {} that is free", id.slot));
        let socket = &mut self.sockets[*peer];
        let known = *socket.id.get_or_insert(id);
        assert_eq!(known, id, "{what} on behalf of another connection");
        assert!(!socket.in_flight.close, "{what} after the close of {id:?}");
        socket
    }

    fn submit(&mut self, id: ConnId, operation: Operation) {
        self.submitted.push((self.live[&id.slot], operation));
    }

    fn accept_waiting(&mut self) {
        if self.accepts_late.is_some() {
            return;
        }
        while self.accepts > 0 && !self.backlog.is_empty() {
            let slot = self.free.pop().expect("accepts in flight never exceed the free descriptors");
            let peer = self.backlog.pop_front().expect("just seen");
            self.accepts -= 1;
            self.live.insert(slot, peer);
            self.ready.push_back(Completion::Accepted { slot, peer: address(peer) });
        }
    }

    fn execute(&mut self, peer: Peer, operation: Operation) {
        let socket = &mut self.sockets[peer];
        let id = socket.id.expect("known since submission");
        match operation {
            Operation::Poll => {
                socket.poll_armed = true;
                if socket.has_event() {
                    self.raise(peer);
                }
            }
            Operation::Recv(into) => {
                let (into, result) = socket.receive(into);
                let nonempty = result > 0 && socket.has_event();
                self.deliver(Completion::Received { id, into, result, nonempty });
            }
            Operation::SendNow(mut bytes) => {
                let result = socket.take(&mut bytes);
                socket.in_flight.send_now = false;
                if bytes.bytes() > 0 {
                    let result = if result == 0 { -libc::EAGAIN } else { result.min(0) };
                    self.ready.push_back(Completion::Unsent { id, rest: bytes, result });
                } else if let Outbound::Queue(queue) = bytes {
                    self.spent.push(queue);
                }
            }
            Operation::SendAll(bytes) => {
                socket.waiting = Some((bytes, 0));
                self.give_room(peer, 0);
            }
            Operation::CancelPoll => {
                // One that the kernel has ended itself is not found.
                if std::mem::take(&mut socket.poll_armed) {
                    self.deliver(Completion::Polled { id, result: -libc::ECANCELED, more: false });
                }
            }
            Operation::CancelSend => {
                if let Some((rest, sent)) = socket.waiting.take() {
                    let result = if sent > 0 { sent as i32 } else { -libc::ECANCELED };
                    self.deliver(Completion::Sent { id, rest, result });
                }
            }
            Operation::Shutdown => {
                socket.fin = true;
                self.deliver(Completion::Shut { id });
            }
            Operation::Close => self.deliver(Completion::Closed { id }),
        }
    }

    /// What the reactor is about to learn is no longer in flight.
    fn note_delivery(&mut self, completion: &Completion) {
        let Some((id, peer)) = id_of(completion).and_then(|id| Some((id, *self.live.get(&id.slot)?))) else {
            return;
        };
        let socket = &mut self.sockets[peer];
        if socket.id != Some(id) {
            return;
        }
        let in_flight = &mut socket.in_flight;
        match completion {
            Completion::Polled { more: false, .. } => in_flight.poll = false,
            Completion::Received { .. } => in_flight.recv = false,
            Completion::Sent { .. } => in_flight.send_all = false,
            Completion::Shut { .. } => in_flight.shutdown = false,
            Completion::Closed { .. } => {
                in_flight.close = false;
                socket.gone = true;
                socket.gone_us = self.now_us;
                self.live.remove(&id.slot);
                self.free.push(id.slot);
            }
            _ => {}
        }
    }

    /// Swaps neighbours at random. The polls of one connection keep their order: the final one is the last.
    fn shuffle_ready(&mut self) {
        let Some(mut random) = self.shuffle else { return };
        for at in (1..self.ready.len()).chain(1..self.ready.len()) {
            let (a, b) = (&self.ready[at - 1], &self.ready[at]);
            let polls = matches!((a, b), (Completion::Polled { .. }, Completion::Polled { .. }));
            if draw(&mut random).is_multiple_of(2) && !(polls && id_of(a) == id_of(b)) {
                self.ready.swap(at - 1, at);
            }
        }
        self.shuffle = Some(random);
    }
}

/// A step of a generator that is good enough to pick cases (xorshift64*, Vigna 2016).
pub(super) fn draw(state: &mut u64) -> u64 {
    *state |= 1;
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32
}

/// Where a peer connects from.
pub(super) fn address(peer: Peer) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 10_000 + peer as u16))
}

fn id_of(completion: &Completion) -> Option<ConnId> {
    match completion {
        Completion::Polled { id, .. }
        | Completion::Received { id, .. }
        | Completion::Unsent { id, .. }
        | Completion::Sent { id, .. }
        | Completion::Shut { id }
        | Completion::Closed { id }
        | Completion::Connected { id, .. } => Some(*id),
        Completion::Accepted { .. } | Completion::AcceptFailed { .. } | Completion::Woken => None,
    }
}

impl Io for Kernel {
    const SEGMENTS_PER_SEND: usize = 4;

    fn accept(&mut self) {
        assert!(!self.has_left, "an accept at an address that was left");
        self.accepts += 1;
        assert!(
            self.accepts as usize + self.live() <= self.descriptors as usize,
            "an accept without a free descriptor"
        );
    }

    fn stop_accepting(&mut self) {
        assert!(!std::mem::replace(&mut self.has_left, true), "it leaves its address a second time");
        let late = self.accepts_late.take().unwrap_or(0);
        for _ in late..std::mem::replace(&mut self.accepts, late) {
            self.ready.push_back(Completion::AcceptFailed { errno: libc::EINVAL });
        }
        self.left_to_others.extend(self.backlog.drain(late as usize..));
    }

    fn poll(&mut self, id: ConnId) {
        let socket = self.socket(id, "poll");
        assert!(!std::mem::replace(&mut socket.in_flight.poll, true), "a second poll of {id:?}");
        assert!(!socket.poll_cancelled, "a poll of {id:?}, which is ending");
        self.submit(id, Operation::Poll);
    }

    fn recv(&mut self, id: ConnId, into: Inbound) {
        let socket = self.socket(id, "recv");
        assert!(!std::mem::replace(&mut socket.in_flight.recv, true), "a second receive of {id:?}");
        self.submit(id, Operation::Recv(into));
    }

    fn send_now(&mut self, id: ConnId, bytes: Outbound) {
        let segments = if let Outbound::Queue(queue) = &bytes { queue.len() } else { 1 };
        assert!(segments <= Self::SEGMENTS_PER_SEND && bytes.bytes() > 0);
        let socket = self.socket(id, "send_now");
        assert!(
            !socket.in_flight.send_all && !socket.fin && !socket.in_flight.shutdown,
            "a send of {id:?} too many"
        );
        assert!(!std::mem::replace(&mut socket.in_flight.send_now, true), "a second send of {id:?}");
        self.submit(id, Operation::SendNow(bytes));
    }

    fn spent_queue(&mut self) -> Option<Box<SendQueue>> {
        self.spent.pop()
    }

    fn send_all(&mut self, id: ConnId, bytes: Outbound) {
        assert!(bytes.bytes() > 0);
        let socket = self.socket(id, "send_all");
        assert!(
            !socket.in_flight.send_now && !socket.fin && !socket.in_flight.shutdown,
            "a send of {id:?} too many"
        );
        assert!(!std::mem::replace(&mut socket.in_flight.send_all, true), "a second send of {id:?}");
        assert!(!socket.send_cancelled, "a send of {id:?}, which is ending");
        self.submit(id, Operation::SendAll(bytes));
    }

    fn cancel_poll(&mut self, id: ConnId) {
        let socket = self.socket(id, "cancel_poll");
        assert!(
            !std::mem::replace(&mut socket.poll_cancelled, true),
            "a second cancel of the poll of {id:?}"
        );
        self.submit(id, Operation::CancelPoll);
    }

    fn cancel_send(&mut self, id: ConnId) {
        let socket = self.socket(id, "cancel_send");
        assert!(
            !std::mem::replace(&mut socket.send_cancelled, true),
            "a second cancel of the send of {id:?}"
        );
        self.submit(id, Operation::CancelSend);
    }

    fn shutdown(&mut self, id: ConnId) {
        let socket = self.socket(id, "shutdown");
        let sending = socket.in_flight.send_now || socket.in_flight.send_all;
        assert!(!sending && !socket.fin, "a shutdown of {id:?} that overtakes its output, or a second one");
        assert!(!std::mem::replace(&mut socket.in_flight.shutdown, true), "a second shutdown of {id:?}");
        self.submit(id, Operation::Shutdown);
    }

    fn close(&mut self, id: ConnId) {
        let socket = self.socket(id, "close");
        assert_eq!(
            socket.in_flight,
            InFlight::default(),
            "a close of {id:?} that does not wait for the rest"
        );
        socket.in_flight.close = true;
        self.submit(id, Operation::Close);
    }

    fn wake(&mut self, _: &Waker) {
        self.bells_rung += 1;
    }

    fn turn(&mut self, timeout: Option<Duration>, done: &mut Vec<Completion>) -> Result<(), RingError> {
        self.accept_waiting();
        self.idle = self.submitted.is_empty() && self.ready.is_empty();
        for (peer, operation) in std::mem::take(&mut self.submitted) {
            self.execute(peer, operation);
        }
        self.timeout = timeout;
        self.now_us += self.enter_us;
        if self.ready.is_empty() {
            let wait_us = timeout.map_or(u64::MAX, |timeout| timeout.as_micros() as u64);
            self.now_us = self.now_us.saturating_add(wait_us).min(self.sleep_until_us.max(self.now_us));
        }
        self.shuffle_ready();
        for completion in std::mem::take(&mut self.ready) {
            self.note_delivery(&completion);
            done.push(completion);
        }
        Ok(())
    }

    fn now_us(&self) -> u64 {
        let looked_us = self.looked_us.get();
        self.looked_us.set(looked_us + self.look_us);
        self.now_us + looked_us
    }

    fn cpu_us(&self) -> u64 {
        self.cpu_us
    }
}
