//! The reactor on a scripted kernel: what a real one does not do on demand, at the moment a test wants it.
//!
//! [`Rig`] is one reactor with its [`Kernel`] and an [`App`] that notes every callback. Time is the kernel's: it passes
//! only in [`Rig::pass_ms`], in which the reactor must wake by itself for whatever is due. After every turn the
//! reactor's books are compared with the kernel's; [`Rig::finish`] ends all connections and finds nothing held.

mod accept;
mod any;
mod close;
mod counts;
mod drain;
mod hold;
mod journal;
mod kernel;
mod look;
mod mesh;
mod peer;
mod pressure;
mod receive;
mod request;
mod send;
mod socket;
mod timers;
mod tune;
mod turn;

use super::{
    Control, Counters, DrainOrder, Mailbox, Mesh, Options, Proxies, Reactor, Shared, TICK_MS, ticks,
};
use crate::budget::CoreBudget;
use crate::handler::{ConnId, Decision, Handler, Kind, Message, Origin, Outbox, Request, Response, Work};
use crate::proto::client::{decode_server_header, encode_masked, upgrade_request};
use crate::proto::close::CloseReason;
use crate::proto::frame::Opcode;
use crate::proto::message::Limits;
use crate::proto::response::Status;
use crate::sys::wake::Waker;
use crossbeam_channel::Sender;
use kernel::{Kernel, Peer};
use socket::Socket;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

const HANDSHAKE_MS: u64 = 10_000;
const PING_MS: u64 = 25_000;
const PONG_MS: u64 = 10_000;
const MESSAGE_MS: u64 = 30_000;
const CLOSE_MS: u64 = 5_000;
const QUEUE_BYTES: usize = 100_000;
const CONNECTIONS: u32 = 1_200;

/// A deadline may be noticed this much late: a tick of rounding and the tick that is under way.
const LATE_MS: u64 = 2 * TICK_MS;

fn options() -> Options {
    Options {
        connections_max: CONNECTIONS,
        budget: CoreBudget::for_reactors(1),
        limits: Limits { message_bytes_max: 1 << 20, fragments_max: 64 },
        send_queue_bytes_max: QUEUE_BYTES,
        ping_interval_ticks: Some(ticks(PING_MS)),
        pong_timeout_ticks: ticks(PONG_MS),
        idle_timeout_ticks: None,
        handshake_timeout_ticks: ticks(HANDSHAKE_MS),
        message_deadline_ticks: ticks(MESSAGE_MS),
        close_timeout_ticks: ticks(CLOSE_MS),
        proxies: Proxies::default(),
        events_per_second: None,
    }
}

/// What a handler was told.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Open(ConnId),
    Message(ConnId, Vec<u8>),
    Blocked(ConnId),
    Writable(ConnId),
    Close(ConnId, CloseReason),
    Abandon(ConnId),
    Control(ConnId, usize),
    Drain(ConnId, u64),
}

/// What to do to connections, sent by mail.
struct Order(Deed);
type Deed = Box<dyn FnOnce(&mut Outbox<Order>) + Send>;

/// An application that notes what it is told and, unless a test says otherwise, echoes.
struct App {
    told: Vec<Told>,
    open: HashSet<ConnId>,
    blocked: HashSet<ConnId>,
    requests: Vec<ConnId>,
    /// Who each request was from.
    clients: Vec<SocketAddr>,
    ticks_ms: Vec<u64>,
    mail_from: Vec<Origin>,
    names_asked: u32,
    on_message: fn(ConnId, Message<'_>, &mut Outbox<Order>),
    on_open: fn(ConnId, &mut Outbox<Order>),
    on_drain: fn(ConnId, &mut Outbox<Order>) -> bool,
    on_close: fn(ConnId, &mut Outbox<Order>),
    on_turn: fn(&mut Outbox<Order>) -> Work,
}

impl Handler for App {
    type Mail = Order;

    fn on_request(&mut self, request: &Request<'_>, _: &mut Outbox<Order>) -> Decision {
        self.requests.push(request.conn);
        self.clients.push(request.peer);
        match request.head.path {
            "/later" => Decision::Later,
            "/refuse" => Decision::Respond(Response::refuse(Status::Forbidden, "no")),
            "/refuse-in-band" => {
                let reason = if request.is_ready { CloseReason::Unauthorized } else { CloseReason::Overload };
                Decision::Refuse {
                    frames: crate::handler::encode_message(Kind::Text, b"no"),
                    reason,
                    subprotocol: None,
                }
            }
            _ => Decision::ACCEPT,
        }
    }

    fn on_open(&mut self, conn: ConnId, out: &mut Outbox<Order>) {
        assert!(self.open.insert(conn), "{conn:?} is open already");
        self.told.push(Told::Open(conn));
        (self.on_open)(conn, out);
    }

    fn on_message(&mut self, conn: ConnId, message: Message<'_>, out: &mut Outbox<Order>) {
        assert!(self.open.contains(&conn), "a message of {conn:?}, which is not open");
        self.told.push(Told::Message(conn, message.payload().to_vec()));
        (self.on_message)(conn, message, out);
    }

    fn on_mail(&mut self, from: Origin, order: Order, out: &mut Outbox<Order>) {
        self.mail_from.push(from);
        (order.0)(out);
    }

    fn on_abandon(&mut self, conn: ConnId, _: &mut Outbox<Order>) {
        assert!(!self.open.contains(&conn), "{conn:?} was opened");
        self.told.push(Told::Abandon(conn));
    }

    fn on_control(&mut self, conn: ConnId, bytes: usize, _: &mut Outbox<Order>) {
        assert!(self.open.contains(&conn), "a ping of {conn:?}, which is not open");
        self.told.push(Told::Control(conn, bytes));
    }

    fn on_drain(&mut self, conn: ConnId, reconnect_delay_ms: u64, out: &mut Outbox<Order>) -> bool {
        assert!(self.open.contains(&conn), "{conn:?} is told of the drain and is not open");
        self.told.push(Told::Drain(conn, reconnect_delay_ms));
        (self.on_drain)(conn, out)
    }

    fn user(&mut self, conn: ConnId) -> Option<String> {
        assert!(self.open.contains(&conn), "the user of {conn:?}, which is not open");
        self.names_asked += 1;
        Some(format!("user {}", conn.slot))
    }

    fn on_tick(&mut self, now_ms: u64, _: &mut Outbox<Order>) {
        self.ticks_ms.push(now_ms);
    }

    fn on_blocked(&mut self, conn: ConnId, _: &mut Outbox<Order>) {
        assert!(self.open.contains(&conn) && self.blocked.insert(conn), "{conn:?} is blocked already");
        self.told.push(Told::Blocked(conn));
    }

    fn on_turn(&mut self, out: &mut Outbox<Order>) -> Work {
        (self.on_turn)(out)
    }

    fn on_writable(&mut self, conn: ConnId, _: &mut Outbox<Order>) {
        assert!(self.open.contains(&conn), "room on {conn:?}, which is not open");
        assert!(self.blocked.remove(&conn), "room on {conn:?}, which was not blocked");
        self.told.push(Told::Writable(conn));
    }

    fn on_close(&mut self, conn: ConnId, reason: CloseReason, out: &mut Outbox<Order>) {
        assert!(self.open.remove(&conn), "{conn:?} closed, which is not open");
        self.blocked.remove(&conn);
        self.told.push(Told::Close(conn, reason));
        (self.on_close)(conn, out);
    }
}

/// One reactor, its kernel, its application.
struct Rig {
    reactor: Reactor<Kernel, App>,
    mail: Sender<Control<Order>>,
    waker: Waker,
}

impl Rig {
    fn new() -> Rig {
        Rig::with(options())
    }

    fn with(options: Options) -> Rig {
        Rig::many(options, 1, 1).pop().expect("one")
    }

    /// So many cores of one server, with rings for `entries` mails between them.
    fn many(options: Options, cores: usize, entries: usize) -> Vec<Rig> {
        let wakers: Vec<Waker> = (0..cores).map(|_| Waker::new().unwrap()).collect();
        let siblings = Arc::new(AtomicUsize::new(cores));
        let ends = super::mesh(&wakers, entries).into_iter().zip(wakers);
        ends.map(|(mesh, waker)| Rig::core(options.clone(), mesh, waker, &siblings)).collect()
    }

    fn core(options: Options, mesh: Mesh<Order>, waker: Waker, siblings: &Arc<AtomicUsize>) -> Rig {
        let (mail, receiver) = crossbeam_channel::unbounded();
        let mailbox = Mailbox { mail: receiver, waker: waker.clone() };
        let app = App {
            told: Vec::new(),
            open: HashSet::new(),
            blocked: HashSet::new(),
            requests: Vec::new(),
            clients: Vec::new(),
            ticks_ms: Vec::new(),
            mail_from: Vec::new(),
            names_asked: 0,
            on_message: |_, message, out| out.reply(message),
            on_open: |_, _| {},
            on_drain: |_, _| true,
            on_close: |_, _| {},
            on_turn: |_| Work::None,
        };
        let shared = Shared { siblings: Arc::clone(siblings), ..Shared::default() };
        let kernel = Kernel::new(options.budget.descriptors(options.connections_max));
        Rig { reactor: Reactor::new(kernel, app, options, mailbox, mesh, shared), mail, waker }
    }

    fn kernel(&mut self) -> &mut Kernel {
        &mut self.reactor.io
    }

    fn peer(&mut self, peer: Peer) -> &mut Socket {
        &mut self.reactor.io.sockets[peer]
    }

    fn counters(&self) -> &Counters {
        &self.reactor.counters
    }

    fn closed(&self, reason: CloseReason) -> u64 {
        self.reactor.counters.closed[reason as usize].get()
    }

    fn turn(&mut self) {
        self.reactor.turn(&mut Vec::new()).unwrap();
        assert!(self.reactor.outbox.is_empty(), "actions left undone");
        let accepted = self.reactor.io.live();
        assert_eq!(self.reactor.conns.len(), accepted, "a slot held by one side only");
        assert_eq!(self.counters().slots_held.get(), accepted as u64);
        let counters = self.counters();
        assert_eq!(counters.connections_open.get(), self.reactor.handler.open.len() as u64);
        let disconnected: u64 = counters.disconnected.iter().map(|reason| reason.get()).sum();
        assert_eq!(counters.upgraded.get() - disconnected, counters.connections_open.get());
        assert_eq!(counters.lifetime_s.get().count(), disconnected);
        assert_eq!(counters.send_queue_bytes.get(), self.waiting_bytes(), "bytes that wait");
    }

    /// What lies in the queues of connections whose sockets are full.
    fn waiting_bytes(&self) -> u64 {
        let conns = &self.reactor.conns;
        let slots = (0..conns.slots()).filter_map(|slot| conns.get(slot, conns.generation(slot)?));
        slots.map(|conn| conn.waiting_bytes() as u64).sum()
    }

    /// Turns until nothing is left to do at this moment.
    fn settle(&mut self) {
        let input: usize = self.kernel().sockets.iter().map(|socket| socket.input.len()).sum();
        for _ in 0..1_000 + 2 * input {
            self.turn();
            let kernel = &self.reactor.io;
            if kernel.is_idle() && kernel.timeout != Some(Duration::ZERO) && self.reactor.dirty.is_empty() {
                return;
            }
        }
        panic!("it spins");
    }

    /// Lets time pass. The reactor waits as long as it likes and must wake for what is due.
    fn pass_ms(&mut self, ms: u64) {
        let until = self.kernel().now_us + ms * 1000;
        self.kernel().sleep_until_us = until;
        for _ in 0..200_000 {
            self.turn();
            if self.kernel().now_us >= until {
                return self.settle();
            }
        }
        panic!("it spins");
    }

    fn now_ms(&mut self) -> u64 {
        self.kernel().now_us / 1000
    }

    fn connect(&mut self) -> Peer {
        let peer = self.kernel().connect();
        self.settle();
        peer
    }

    fn arrive(&mut self, peer: Peer, bytes: &[u8]) {
        self.kernel().arrive(peer, bytes);
        self.settle();
    }

    fn end(&mut self, peer: Peer) {
        self.kernel().end(peer);
        self.settle();
    }

    /// Connects and sends a request to upgrade `path`.
    fn request(&mut self, path: &str) -> Peer {
        let peer = self.connect();
        self.arrive(peer, &upgrade(path));
        peer
    }

    /// Connects and upgrades; the 101 is taken out of the output.
    fn open(&mut self) -> Peer {
        let peer = self.request("/echo");
        let output = self.take(peer);
        assert!(output.starts_with(b"HTTP/1.1 101 ") && output.ends_with(b"\r\n\r\n"));
        peer
    }

    fn open_many(&mut self, count: usize) -> Vec<Peer> {
        let peers: Vec<Peer> = (0..count).map(|_| self.kernel().connect()).collect();
        self.settle();
        for peer in &peers {
            self.kernel().arrive(*peer, &upgrade("/echo"));
        }
        self.settle();
        for peer in &peers {
            assert!(self.take(*peer).starts_with(b"HTTP/1.1 101 "));
        }
        peers
    }

    /// Has a peer that reads nothing send messages of 8,000 bytes until it is not read either; their number.
    fn block(&mut self, peer: Peer) -> usize {
        self.peer(peer).room = 0;
        for sent in 0..100 {
            if !self.peer(peer).input.is_empty() {
                return sent;
            }
            self.arrive(peer, &frame(Opcode::Binary, &[5; 8_000]));
        }
        panic!("it reads on");
    }

    fn id(&mut self, peer: Peer) -> ConnId {
        self.peer(peer).id.expect("accepted")
    }

    /// What the server sent since the last time.
    fn take(&mut self, peer: Peer) -> Vec<u8> {
        std::mem::take(&mut self.peer(peer).output)
    }

    fn take_frames(&mut self, peer: Peer) -> Vec<(Opcode, Vec<u8>)> {
        frames(&self.take(peer))
    }

    fn tell(&mut self, order: impl FnOnce(&mut Outbox<Order>) + Send + 'static) {
        self.mail.send(Control::Mail(Order(Box::new(order)))).unwrap();
        self.waker.wake();
        self.settle();
    }

    /// Orders a drain whose Closes are due at once.
    fn drain(&mut self, timeout_ms: u64) {
        self.order(DrainOrder { timeout_ticks: ticks(timeout_ms), ..DrainOrder::default() });
    }

    fn order(&mut self, order: DrainOrder) {
        self.mail.send(Control::Drain(order)).unwrap();
        self.waker.wake();
    }

    /// Why this connection's handler was told it closed.
    fn reason(&mut self, peer: Peer) -> Option<CloseReason> {
        let id = self.id(peer);
        let closes = |told: &Told| match told {
            Told::Close(closed, reason) if *closed == id => Some(*reason),
            _ => None,
        };
        self.reactor.handler.told.iter().find_map(closes)
    }

    fn messages(&mut self, peer: Peer) -> Vec<Vec<u8>> {
        let id = self.id(peer);
        let messages = self.reactor.handler.told.iter().filter_map(|told| match told {
            Told::Message(from, payload) if *from == id => Some(payload.clone()),
            _ => None,
        });
        messages.collect()
    }

    /// All peers go; nothing may be held afterwards.
    fn finish(mut self) {
        for peer in 0..self.kernel().sockets.len() {
            self.kernel().let_all_go(peer);
            self.kernel().give_room(peer, usize::MAX);
            self.kernel().end(peer);
        }
        self.settle();
        self.pass_ms(CLOSE_MS + LATE_MS);
        let reactor = &mut self.reactor;
        assert_eq!(reactor.conns.len(), 0, "slots held");
        assert_eq!(reactor.pool.leased(), 0, "buffers held");
        assert_eq!(reactor.wheel.next_in_ticks(), None, "timers armed");
        assert!(reactor.heads.is_empty() && reactor.readable.is_empty() && reactor.dirty.is_empty());
        assert!(reactor.handler.open.is_empty(), "an on_open without its on_close");
        let ended: u64 = reactor.counters.closed.iter().map(|reason| reason.get()).sum();
        assert_eq!(ended, reactor.counters.accepted.get(), "every connection ends once, for one reason");
        assert_eq!(reactor.counters.buffers_held.get(), 0);
        assert_eq!(reactor.counters.send_queue_bytes.get(), 0);
    }
}

fn upgrade(path: &str) -> Vec<u8> {
    upgrade_request("localhost", path, "dGhlIHNhbXBsZSBub25jZQ==")
}

/// A whole masked frame.
fn frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_masked(&mut bytes, opcode, KEY, payload);
    bytes
}

fn text(payload: &str) -> Vec<u8> {
    frame(Opcode::Text, payload.as_bytes())
}

fn close_frame(code: u16) -> Vec<u8> {
    frame(Opcode::Close, &code.to_be_bytes())
}

/// A Close as [`frames`] gives it.
fn closing(code: u16) -> (Opcode, Vec<u8>) {
    (Opcode::Close, code.to_be_bytes().to_vec())
}

/// Whole server frames.
fn frames(mut bytes: &[u8]) -> Vec<(Opcode, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some(header) = decode_server_header(bytes).expect("a valid server frame") {
        let end = header.header_len + header.payload_len as usize;
        assert!(header.fin && bytes.len() >= end, "a frame in part");
        frames.push((header.opcode, bytes[header.header_len..end].to_vec()));
        bytes = &bytes[end..];
    }
    assert!(bytes.is_empty(), "a header in part");
    frames
}
