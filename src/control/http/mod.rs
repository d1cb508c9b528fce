//! HTTP/1.1 of the admin listener: monoio-http's parser of heads, and limits of our own before it sees a byte.
//!
//! A connection is one task, which reads a request, has it answered by the `Service` and writes the answer, then reads the
//! next: pipelined requests are answered in order. What monoio-http 0.3.12 leaves open is closed here:
//!
//! | there | here |
//! |---|---|
//! | A head, and the buffer it is read into, may grow for ever. | 16 KiB, target 8 KiB (`head.rs`) |
//! | `HeaderName::from_bytes(..).unwrap()`: a name of 64 KiB panics. | names are tokens of at most 128 bytes |
//! | Values become `HeaderValue`s unchecked. | no control character, no bare CR or LF, no NUL, no folded line |
//! | Empty lines before a request line are eaten in silence, for ever. | the first byte is of a method, or 400 |
//! | 96 headers, then an error like any other. | 64, then 431 |
//! | Any version but 1.1 is taken for 1.0. | 505 |
//! | The first `Content-Length` counts; there may be others, and `Transfer-Encoding` wins over it. | one, of digits; both are 400 |
//! | Chunk sizes up to `usize::MAX`, each chunk buffered whole. | `Transfer-Encoding` is 411 |
//! | A body of any declared length is buffered whole. | 1 MiB each, 8 MiB together; memory grows with what has come |
//! | A timeout for the first byte alone. | idle, head, body, answer, writing: [`Limits`] |
//! | `DecodeError::clone` calls itself without end, and so does `EncodeError::clone`. | neither is ever cloned |
//! | The encoder cannot say how long a HEAD's answer is, and gives a 204 a length. | `conversation.rs` writes answers |
//!
//! A connection that panics or is evicted ends alone (`seats.rs`). Refused: chunked bodies, trailers, upgrades, HTTP/2, TLS;
//! a proxy in front has them.

mod code;
mod conversation;
pub mod head;
mod seats;
#[cfg(test)]
mod tests;

pub use code::Code;

use crate::sys::clock::unix_ms;
use ::http::header::{AsHeaderName, HeaderName, HeaderValue, RETRY_AFTER};
use ::http::{HeaderMap, Method, StatusCode};
use bytes::Bytes;
use monoio::net::TcpListener;
use monoio::time::timeout;
use seats::{Guarded, Seats};
use std::cell::Cell;
use std::fmt;
use std::future::ready;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// A request that came whole. It is not `Debug`: its headers may hold a key.
pub(super) struct Request {
    /// A HEAD is given as the GET it asks about (RFC 9110 §9.3.2).
    pub method: Method,
    /// Without the query, not decoded.
    pub path: String,
    /// Decoded names and values, in their order.
    pub query: Vec<(String, String)>,
    pub headers: HeaderMap,
    /// Empty while [`Service::admit`] looks at it.
    pub body: Bytes,
    pub peer: SocketAddr,
    pub id: RequestId,
}

impl Request {
    /// The only header of this name, if it is ASCII. A second one makes it none: two readers may choose differently.
    pub fn header(&self, name: impl AsHeaderName) -> Option<&str> {
        only(&self.headers, name)
    }
}

/// What it is answered.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub content_type: &'static str,
    /// Besides those that every answer has. Without a Cache-Control of its own it is `no-store`.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
}

impl Answer {
    pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
        Answer { status, content_type: "text/plain; charset=utf-8", headers: Vec::new(), body: body.into() }
    }

    pub fn json(status: StatusCode, value: &serde_json::Value) -> Answer {
        Answer {
            status,
            content_type: "application/json",
            headers: Vec::new(),
            body: value.to_string().into(),
        }
    }

    pub fn error(code: Code, message: &str) -> Answer {
        let error = serde_json::json!({"error": {"code": code.text(), "message": message}});
        let answer = Answer::json(code.status(), &error);
        match code.retry_after_s() {
            Some(seconds) => answer.with(RETRY_AFTER, seconds.into()),
            None => answer,
        }
    }

    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Answer {
        self.headers.push((name, value));
        self
    }
}

fn only(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    value.to_str().ok()
}

/// What a request is called in logs and in its answer: the caller's own name for it, or ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RequestId(String);

#[cfg(test)]
impl RequestId {
    pub fn named(name: &str) -> RequestId {
        RequestId(name.to_owned())
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What who asks has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing: this anybody may ask. Its body is not held, and it gives up its seat before those who are known.
    Stranger,
    /// That it may ask everything.
    Known,
}

/// What answers requests.
pub(super) trait Service: 'static {
    /// Whether a request may go on, by its head; who may not is a stranger. Who waits here can be evicted.
    async fn admit(&self, head: &Request) -> Result<Standing, Answer>;

    async fn answer(&self, request: Request) -> Answer;

    /// Whether newcomers are another process's from now on, that listens on the same address.
    fn leaves(&self) -> bool {
        false
    }
}

/// How much of what anybody gets.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub connections: usize,
    pub requests_per_connection: u32,
    pub body_bytes: usize,
    /// Bodies of all connections together.
    pub bodies_bytes: usize,
    /// Answers of all connections together; a single one may be larger.
    pub answers_bytes: usize,
    /// Between two requests.
    pub idle: Duration,
    /// From accept to the first byte, and from there to the last of the head, however lively it drips.
    pub head: Duration,
    pub body: Duration,
    pub answer: Duration,
    /// Until the peer has taken the whole answer.
    pub write: Duration,
    /// For a peer to notice that it was answered and left: closed at once, what it had sent and nobody read would make the
    /// kernel send RST, which destroys the answer on its way.
    pub leave: Duration,
}

impl Limits {
    pub const DEFAULT: Limits = Limits {
        connections: 128,
        requests_per_connection: 1000,
        body_bytes: 1 << 20,
        bodies_bytes: 8 << 20,
        answers_bytes: 64 << 20,
        idle: Duration::from_secs(60),
        head: Duration::from_secs(10),
        body: Duration::from_secs(10),
        answer: Duration::from_secs(30),
        write: Duration::from_secs(30),
        leave: Duration::from_secs(1),
    };
}

/// When accepting fails, most likely for want of descriptors, it is tried again so much later.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Between two looks at whether to leave.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Serves until the service leaves, then those who are connected.
pub(super) async fn serve<S: Service>(
    listener: std::net::TcpListener,
    service: Rc<S>,
    limits: Limits,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let (seats, ids) = (Rc::new(Seats::new(limits)), Rc::new(Ids::new()));
    let mut is_failing = false;
    while !service.leaves() {
        let Ok(accepted) = timeout(LOOK_EVERY, listener.accept()).await else { continue };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if !std::mem::replace(&mut is_failing, true) {
                    tracing::warn!(%error, "the admin listener cannot accept; it tries again");
                }
                monoio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        is_failing = false;
        match seats.take() {
            None => conversation::turn_away(stream, &ids.of(None)).await,
            Some(seat) => {
                let (service, ids, taken) = (Rc::clone(&service), Rc::clone(&ids), Rc::clone(&seat));
                let conversation = async move {
                    conversation::converse(stream, peer, &*service, &ids, &taken, &limits).await;
                };
                monoio::spawn(Guarded::new(conversation, seat, Rc::clone(&seats)));
            }
        }
        breathe().await;
    }
    // Whoever waits here is moved over by the kernel: without net.ipv4.tcp_migrate_req nobody leaves.
    drop(listener);
    std::future::pending().await
}

/// Lets all other tasks have a turn, and the kernel say what has come: by waiting for a task that is behind them all. One that
/// wakes itself would come before them: monoio puts it in front.
async fn breathe() {
    monoio::spawn(ready(())).await;
}

/// Names for requests that come without one.
struct Ids {
    /// Tells the requests of one run of the server from those of another.
    started: u32,
    next: Cell<u64>,
}

impl Ids {
    const BYTES_MAX: usize = 64;

    fn new() -> Ids {
        Ids { started: (unix_ms() / 1_000) as u32, next: Cell::new(1) }
    }

    /// The caller's own, if it can be put into a header and a log line as it is.
    fn of(&self, asked: Option<&str>) -> RequestId {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let well_formed =
            asked.filter(|name| (1..=Ids::BYTES_MAX).contains(&name.len()) && name.bytes().all(is_plain));
        RequestId(well_formed.map_or_else(|| self.ours(), str::to_owned))
    }

    fn ours(&self) -> String {
        let number = self.next.replace(self.next.get() + 1);
        format!("{:08x}-{number}", self.started)
    }
}
