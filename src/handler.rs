//! What an application implements, and what it may do to connections.
//!
//! Callbacks run on the reactor's thread and must not block. They see bytes that lie in the receive buffer and answer
//! through an [`Outbox`], a plain list of actions that the reactor carries out after the callback returns.

use crate::buf::Payload;
use crate::proto::close::CloseReason;
use crate::proto::frame::encode_header;
pub use crate::proto::message::Kind;
use crate::proto::response::{self, Status};
pub use crate::sys::ConnId;
use rtrb::{Producer, PushError};
use std::net::SocketAddr;

/// One core's share of an application. Every core has its own value; no callback runs concurrently with another of the
/// same value.
pub trait Handler: Sized {
    /// What cores send each other with [`Outbox::post`] and other threads with [`crate::Handle::send`]. Keep it small: it is
    /// stored by value in a ring for every pair of cores.
    type Mail: Send;

    /// A request arrived: accept the upgrade, answer something else, or decide [`Decision::Later`].
    fn on_request(&mut self, request: &Request<'_>, out: &mut Outbox<Self::Mail>) -> Decision;

    /// A request left open with [`Decision::Later`] will never be opened: its connection ended, its time was up, or the server
    /// began to stop. Not called for one that was decided otherwise.
    fn on_abandon(&mut self, conn: ConnId, out: &mut Outbox<Self::Mail>) {
        let _ = (conn, out);
    }

    /// The upgrade is done; frames may be sent.
    fn on_open(&mut self, conn: ConnId, out: &mut Outbox<Self::Mail>) {
        let _ = (conn, out);
    }

    /// A whole message arrived. Text is valid UTF-8.
    fn on_message(&mut self, conn: ConnId, message: Message<'_>, out: &mut Outbox<Self::Mail>);

    /// A ping or pong with a payload of so many bytes arrived. The reactor answers it; a handler may count it.
    fn on_control(&mut self, conn: ConnId, bytes: usize, out: &mut Outbox<Self::Mail>) {
        let _ = (conn, bytes, out);
    }

    /// The server is stopping and will close this connection soon. Its client should come back `reconnect_delay_ms` after
    /// that, which is a time of its own, so that not all come at once. Says whether the client is told, which is counted.
    fn on_drain(&mut self, conn: ConnId, reconnect_delay_ms: u64, out: &mut Outbox<Self::Mail>) -> bool {
        let _ = (conn, reconnect_delay_ms, out);
        false
    }

    /// Mail from another core or thread. What one core posts arrives in the order it was posted.
    fn on_mail(&mut self, from: Origin, mail: Self::Mail, out: &mut Outbox<Self::Mail>) {
        let _ = (from, mail, out);
    }

    /// The socket of a connection is full: what it is sent from now on waits, until [`Handler::on_writable`].
    fn on_blocked(&mut self, conn: ConnId, out: &mut Outbox<Self::Mail>) {
        let _ = (conn, out);
    }

    /// A connection that could not take all it was sent has taken it, and has room again.
    fn on_writable(&mut self, conn: ConnId, out: &mut Outbox<Self::Mail>) {
        let _ = (conn, out);
    }

    /// Once a turn, after everything that came in: for work done in bounded steps. Says when it is to be called again.
    fn on_turn(&mut self, out: &mut Outbox<Self::Mail>) -> Work {
        let _ = out;
        Work::None
    }

    /// Whose connection this is, for logs and look-ups; called rarely.
    fn user(&mut self, conn: ConnId) -> Option<String> {
        let _ = conn;
        None
    }

    /// About once a second.
    fn on_tick(&mut self, now_ms: u64, out: &mut Outbox<Self::Mail>) {
        let _ = (now_ms, out);
    }

    /// An open connection ended. Called exactly once for each [`Handler::on_open`].
    fn on_close(&mut self, conn: ConnId, reason: CloseReason, out: &mut Outbox<Self::Mail>) {
        let _ = (conn, reason, out);
    }
}

/// An HTTP request, as far as an application needs it.
pub struct Request<'a> {
    /// The connection; an answer given later names it.
    pub conn: ConnId,
    /// Who asks: the peer of the TCP connection, or the client that a trusted proxy named; its port is 0 where that is not
    /// known.
    pub peer: SocketAddr,
    /// The request head.
    pub head: &'a crate::proto::head::Head<'a>,
    /// A well-formed WebSocket upgrade; anything else can only be answered with [`Decision::Respond`].
    pub is_upgrade: bool,
    /// False while the server drains, is full or short of memory: then it cannot be upgraded, whatever is decided, and gets
    /// a 503 unless it is answered or refused.
    pub is_ready: bool,
}

/// The answer to a request.
#[derive(Clone)]
pub enum Decision {
    /// Upgrade, naming a subprotocol the client offered where there is one.
    Accept {
        /// The value of Sec-WebSocket-Protocol.
        subprotocol: Option<String>,
    },
    /// Answer this and close.
    Respond(Response),
    /// Upgrade only to say why not: these frames, then a Close. A browser shows its page neither the status nor the headers of
    /// a refused upgrade.
    Refuse {
        /// Whole frames, see [`encode_message`].
        frames: Payload,
        /// Gives the close code, and is counted.
        reason: CloseReason,
        /// As in `Accept`: a browser that offers subprotocols, and is answered none, reads no frames.
        subprotocol: Option<String>,
    },
    /// Not known yet: [`Outbox::decide`] follows, or the handshake timeout ends it.
    Later,
}

/// An HTTP response that ends its connection. Cloning shares the bytes.
///
/// A 429 or 503 that does not say in `Retry-After` when to come back is given one as it is sent: one to ten seconds, another
/// for each client, so that those who were refused together do not come back together.
#[derive(Clone)]
pub struct Response {
    pub(crate) status: Status,
    pub(crate) bytes: Payload,
    /// When to come back is still to be said.
    pub(crate) is_undated: bool,
}

impl Response {
    /// Encodes a response once; it may be sent any number of times.
    ///
    /// ```
    /// use megasock::{Response, Status};
    /// let health = Response::new(Status::Ok, "text/plain", &[], b"ok");
    /// ```
    pub fn new(status: Status, content_type: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let says_when = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("retry-after"));
        Response {
            status,
            bytes: Payload::new(&[&response::encode(status, content_type, headers, body)]),
            is_undated: status.is_busy() && !says_when,
        }
    }

    /// A refusal with one line of text for the person who reads it.
    pub fn refuse(status: Status, line: &str) -> Response {
        Response {
            status,
            bytes: Payload::new(&[&response::refuse(status, &[], line)]),
            is_undated: status.is_busy(),
        }
    }
}

impl Decision {
    /// Upgrade without a subprotocol.
    pub const ACCEPT: Decision = Decision::Accept { subprotocol: None };
}

/// A message in the receive buffer. It may be edited in place and sent back without a copy.
#[derive(Debug)]
pub struct Message<'a> {
    conn: ConnId,
    kind: Kind,
    payload: &'a mut [u8],
}

impl<'a> Message<'a> {
    pub(crate) fn new(conn: ConnId, kind: Kind, payload: &'a mut [u8]) -> Message<'a> {
        Message { conn, kind, payload }
    }

    /// Who sent it.
    pub fn conn(&self) -> ConnId {
        self.conn
    }

    /// Text or binary.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The payload. Of a text message it is valid UTF-8.
    pub fn payload(&self) -> &[u8] {
        self.payload
    }

    /// The payload, to be edited in place before [`Outbox::reply`]. Text must stay valid UTF-8.
    pub fn payload_mut(&mut self) -> &mut [u8] {
        self.payload
    }

    /// The payload of a text message.
    pub fn text(&self) -> Option<&str> {
        match self.kind {
            Kind::Text => std::str::from_utf8(self.payload).ok(),
            Kind::Binary => None,
        }
    }
}

/// A complete frame that carries `payload` as one message, encoded once for any number of connections.
///
/// ```
/// use megasock::{Kind, encode_message};
/// assert_eq!(&encode_message(Kind::Text, b"hi")[..], b"\x81\x02hi");
/// ```
pub fn encode_message(kind: Kind, payload: &[u8]) -> Payload {
    let (header, header_len) = encode_header(kind.into(), payload.len());
    Payload::new(&[&header[..header_len], payload])
}

/// What a handler has left to do when its turn ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Nothing, until something comes in.
    None,
    /// Something that waits for another core: look again within a millisecond.
    Soon,
    /// More of the same: the next turn does not wait.
    Now,
}

/// Who sent a mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Another core of this server.
    Core(usize),
    /// A thread that is no core, through a [`crate::Handle`].
    Thread,
}

/// What callbacks want done to connections, in order, carried out when the callback returns; and the way to other cores.
pub struct Outbox<M = ()> {
    /// The message just handled goes back in place: its kind and length.
    reply: Option<(Kind, usize)>,
    actions: Vec<Action>,
    core: usize,
    /// The rings to the other cores, by core; none to itself.
    rings: Vec<Option<Producer<M>>>,
    /// Cores posted to since the reactor last told them.
    posted: Vec<usize>,
    /// Mail posted, and mail refused for want of room, since the reactor last counted it.
    posts: PostCounts,
    unix_ms: u64,
}

/// What became of mail to other cores.
#[derive(Default)]
pub(crate) struct PostCounts {
    pub posted: u64,
    pub refused: u64,
}

/// One thing to do to a connection.
pub(crate) enum Action {
    Send { to: ConnId, frame: Payload, messages: u32 },
    Close { conn: ConnId, code: u16, reason: String },
    End { conn: ConnId, reason: CloseReason },
    Decide { conn: ConnId, decision: Decision },
    ReportSlow { conn: ConnId, action: &'static str, owed_bytes: usize },
    Hold { conn: ConnId },
    Resume { conn: ConnId },
}

impl<M> Default for Outbox<M> {
    fn default() -> Outbox<M> {
        Outbox::new(0, vec![None])
    }
}

impl<M> Outbox<M> {
    /// The outbox of `core`, with a ring to each of the other cores.
    pub(crate) fn new(core: usize, rings: Vec<Option<Producer<M>>>) -> Outbox<M> {
        Outbox {
            reply: None,
            actions: Vec::new(),
            core,
            rings,
            posted: Vec::new(),
            posts: PostCounts::default(),
            unix_ms: 0,
        }
    }

    /// Sends the message just received back to its sender, in place: no copy, no allocation. What is sent earlier in
    /// the same callback goes first, and then the message is copied.
    pub fn reply(&mut self, message: Message<'_>) {
        if self.actions.is_empty() {
            self.reply = Some((message.kind, message.payload.len()));
        } else {
            self.send(message.conn, message.kind, message.payload);
        }
    }

    /// Sends one message. A connection that is gone is passed over.
    pub fn send(&mut self, to: ConnId, kind: Kind, payload: &[u8]) {
        self.send_frame(to, encode_message(kind, payload));
    }

    /// Sends an encoded frame, see [`encode_message`].
    pub fn send_frame(&mut self, to: ConnId, frame: Payload) {
        self.send_frames(to, frame, 1);
    }

    /// Sends several whole frames that lie in one payload, one behind the other; `messages` is their number.
    pub fn send_frames(&mut self, to: ConnId, frames: Payload, messages: u32) {
        self.actions.push(Action::Send { to, frame: frames, messages });
    }

    /// Answers a request left open with [`Decision::Later`].
    pub fn decide(&mut self, conn: ConnId, decision: Decision) {
        self.actions.push(Action::Decide { conn, decision });
    }

    /// Begins the closing handshake with this code and reason. A code that may not be sent (RFC 6455 §7.4 allows 1000-1003,
    /// 1007-1014 and 3000-4999) becomes 1011.
    pub fn close(&mut self, conn: ConnId, code: u16, reason: &str) {
        self.actions.push(Action::Close { conn, code, reason: reason.to_owned() });
    }

    /// Begins the closing handshake with the code of `reason`, which is counted as the reason. What waits for the
    /// connection goes first; the close deadline cuts it short.
    pub fn end(&mut self, conn: ConnId, reason: CloseReason) {
        self.actions.push(Action::End { conn, reason });
    }

    /// Stops receiving from a connection until [`Outbox::resume`]: TCP holds its sender back. What has been received
    /// already is still handed over.
    pub fn hold(&mut self, conn: ConnId) {
        self.actions.push(Action::Hold { conn });
    }

    /// Receives from a held connection again.
    pub fn resume(&mut self, conn: ConnId) {
        self.actions.push(Action::Resume { conn });
    }

    /// Has the log say that a connection does not keep up: what is done about it, and how much it is owed.
    pub fn report_slow(&mut self, conn: ConnId, action: &'static str, owed_bytes: usize) {
        self.actions.push(Action::ReportSlow { conn, action, owed_bytes });
    }

    /// The core this runs on.
    pub fn core(&self) -> usize {
        self.core
    }

    /// Cores of the server, numbered from 0.
    pub fn cores(&self) -> usize {
        self.rings.len()
    }

    /// Mail that the ring to another core takes at least.
    pub fn room(&self, core: usize) -> usize {
        self.rings.get(core).and_then(Option::as_ref).map_or(0, Producer::slots)
    }

    /// Puts mail in the ring to another core, which sees it after this turn. It comes back when the ring is full, or
    /// there is no such core but this one itself.
    pub fn post(&mut self, core: usize, mail: M) -> Result<(), M> {
        let Some(Some(ring)) = self.rings.get_mut(core) else { return Err(mail) };
        if let Err(PushError::Full(mail)) = ring.push(mail) {
            self.posts.refused += 1;
            return Err(mail);
        }
        self.posts.posted += 1;
        if !self.posted.contains(&core) {
            self.posted.push(core);
        }
        Ok(())
    }

    /// Wall-clock time of this turn, in milliseconds since 1970.
    pub fn unix_ms(&self) -> u64 {
        self.unix_ms
    }

    pub(crate) fn set_unix_ms(&mut self, unix_ms: u64) {
        self.unix_ms = unix_ms;
    }

    /// The cores posted to since the last call.
    pub(crate) fn take_posted(&mut self) -> impl Iterator<Item = usize> {
        self.posted.drain(..)
    }

    pub(crate) fn take_post_counts(&mut self) -> PostCounts {
        std::mem::take(&mut self.posts)
    }

    pub(crate) fn take_reply(&mut self) -> Option<(Kind, usize)> {
        self.reply.take()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.actions.is_empty()
    }

    /// Moves the actions out, leaving `spare` (empty) to collect the next ones.
    pub(crate) fn take_actions(&mut self, spare: Vec<Action>) -> Vec<Action> {
        debug_assert!(spare.is_empty());
        std::mem::replace(&mut self.actions, spare)
    }
}
