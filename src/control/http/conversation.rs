//! One connection: requests read and answered in their order, until one side has had enough.

use super::head::{self, Head, Refusal};
use super::seats::{Doing, Seat};
use super::{Answer, Code, Ids, Limits, Request, RequestId, Service, Standing, breathe};
use crate::proto::head::find_end;
use ::http::header::CACHE_CONTROL;
use ::http::{Method, StatusCode};
use bytes::{Bytes, BytesMut};
use monoio::io::{AsyncReadRent, AsyncWriteRent, AsyncWriteRentExt};
use monoio::net::TcpStream;
use monoio::time::{Instant, timeout, timeout_at};
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

/// Bytes received at a time.
const RECEIVE_BYTES: usize = 8 * 1024;
/// A body up to here is copied behind its head, so that both go out in one packet.
const JOINED_BYTES_MAX: usize = 64 * 1024;
/// Who goes on sending after its last answer is cut off here.
const LEFT_BYTES_MAX: usize = 256 * 1024;

/// Why a conversation does not go on.
enum Stop {
    /// The peer has gone, or said nothing, or did not listen: there is nobody to tell.
    Gone,
    Refused(Refusal),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Stop {
        Stop::Refused(refusal)
    }
}

struct Conversation<'a, S> {
    stream: TcpStream,
    /// Received and not read yet: at most a head and what was received with its end, but for a body.
    received: BytesMut,
    /// Lent to each receive.
    chunk: Vec<u8>,
    peer: SocketAddr,
    service: &'a S,
    ids: &'a Ids,
    seat: &'a Seat,
    limits: &'a Limits,
}

pub(super) async fn converse<S: Service>(
    stream: TcpStream,
    peer: SocketAddr,
    service: &S,
    ids: &Ids,
    seat: &Seat,
    limits: &Limits,
) {
    // Without it the second write of an answer would wait for the first to be acknowledged.
    let _ = stream.set_nodelay(true);
    let (received, chunk) = (BytesMut::new(), Vec::new());
    let mut conversation = Conversation { stream, received, chunk, peer, service, ids, seat, limits };
    for number in 1..=limits.requests_per_connection {
        match conversation.exchange(number).await {
            Ok(true) => breathe().await,
            Ok(false) => break,
            Err(Stop::Gone) => return,
            Err(Stop::Refused(refusal)) => match conversation.refuse(refusal, &ids.of(None)).await {
                Ok(()) => break,
                Err(_) => return,
            },
        }
    }
    conversation.leave().await;
}

/// Tells a newcomer that there is no seat for it.
pub(super) async fn turn_away(mut stream: TcpStream, id: &RequestId) {
    let answer = Refusal::FULL.answer();
    let bytes = [&head_of(&answer, id, true)[..], &answer.body].concat();
    // A fresh socket has room for it.
    let _ = stream.write(bytes).await;
}

impl<S: Service> Conversation<'_, S> {
    /// One request and its answer; whether another may follow.
    async fn exchange(&mut self, number: u32) -> Result<bool, Stop> {
        self.seat.begin(Doing::Asking);
        let head = self.head(if number == 1 { self.limits.head } else { self.limits.idle }).await?;
        let keeps_alive = head.keeps_alive && number < self.limits.requests_per_connection;
        let is_head = head.method == Method::HEAD;
        let Head { body_bytes, expects_continue, .. } = head;
        let mut request = self.request(head);
        let id = request.id.clone();

        let admitted = self.service.admit(&request).await;
        let standing = *admitted.as_ref().unwrap_or(&Standing::Stranger);
        self.seat.stand(standing);
        // A stranger's body is not waited for, so what comes next is not known to be a request.
        let keeps_alive = keeps_alive && (standing == Standing::Known || body_bytes == 0);
        if let Err(answer) = admitted {
            self.say(answer, &id, is_head, !keeps_alive).await?;
            return Ok(keeps_alive);
        }
        if standing == Standing::Known {
            request.body = match self.body(body_bytes, expects_continue).await {
                Ok(body) => body,
                Err(Stop::Gone) => return Err(Stop::Gone),
                Err(Stop::Refused(refusal)) => {
                    self.refuse(refusal, &id).await?;
                    return Ok(false);
                }
            };
        }
        self.seat.begin(Doing::Served);
        let answer = timeout(self.limits.answer, self.service.answer(request)).await;
        self.seat.hold(0);
        let late = |_| Answer::error(Code::Timeout, "there was no answer in time; it may still happen");
        let answer = answer.unwrap_or_else(late);
        self.say(answer, &id, is_head, !keeps_alive).await?;
        Ok(keeps_alive)
    }

    fn request(&self, head: Head) -> Request {
        let Head { method, path, query, headers, .. } = head;
        let method = if method == Method::HEAD { Method::GET } else { method };
        let id = self.ids.of(super::only(&headers, "x-request-id"));
        Request { method, path, query, headers, body: Bytes::new(), peer: self.peer, id }
    }

    /// The next head. Who is silent for `silence` is left without a word.
    async fn head(&mut self, silence: Duration) -> Result<Head, Stop> {
        if self.received.is_empty() {
            self.receive(Instant::now() + silence, Stop::Gone).await?;
        }
        let deadline = Instant::now() + self.limits.head;
        let mut searched = 0;
        loop {
            if let Some(end) = find_end(&self.received, searched) {
                return Ok(head::read(self.received.split_to(end), self.limits)?);
            }
            head::refuse_early(&self.received)?;
            searched = self.received.len();
            self.receive(deadline, Refusal::HEAD_TIMEOUT.into()).await?;
        }
    }

    async fn body(&mut self, bytes: usize, expects_continue: bool) -> Result<Bytes, Stop> {
        if expects_continue && self.received.len() < bytes {
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()).await?;
        }
        let deadline = Instant::now() + self.limits.body;
        while self.received.len() < bytes {
            self.receive(deadline, Refusal::BODY_TIMEOUT.into()).await?;
            if !self.seat.hold(self.received.len().min(bytes)) {
                return Err(Refusal::BODIES_TOO_LARGE.into());
            }
        }
        let body = self.received.split_to(bytes).freeze();
        // The rest would keep the whole buffer.
        self.received = BytesMut::from(&self.received[..]);
        Ok(body)
    }

    /// Receives something before `deadline`, or else stops with `late`.
    async fn receive(&mut self, deadline: Instant, late: Stop) -> Result<(), Stop> {
        // Empty where an earlier receive was given up, and its buffer with it.
        let mut chunk = std::mem::take(&mut self.chunk);
        chunk.clear();
        chunk.reserve_exact(RECEIVE_BYTES);
        let Ok((result, chunk)) = timeout_at(deadline, self.stream.read(chunk)).await else {
            return Err(late);
        };
        match result {
            Ok(0) | Err(_) => Err(Stop::Gone),
            Ok(len) => {
                self.received.extend_from_slice(&chunk[..len]);
                self.chunk = chunk;
                Ok(())
            }
        }
    }

    /// The last answer, to what cannot be read any further.
    async fn refuse(&mut self, refusal: Refusal, id: &RequestId) -> Result<(), Stop> {
        self.forget();
        self.say(refusal.answer(), id, false, true).await
    }

    async fn say(&mut self, answer: Answer, id: &RequestId, is_head: bool, closes: bool) -> Result<(), Stop> {
        self.seat.begin(Doing::Reading);
        let mut bytes = head_of(&answer, id, closes);
        let body = if is_head || !has_body(answer.status) { Bytes::new() } else { answer.body };
        if body.len() <= JOINED_BYTES_MAX {
            bytes.extend_from_slice(&body);
            return self.write(bytes).await;
        }
        self.seat.owe(body.len());
        let stream = &mut self.stream;
        let both = async {
            let (head, _) = stream.write_all(bytes).await;
            head?;
            stream.write_all(body).await.0
        };
        let written = settled(timeout(self.limits.write, both).await);
        self.seat.owe(0);
        written
    }

    async fn write(&mut self, bytes: Vec<u8>) -> Result<(), Stop> {
        let written = timeout(self.limits.write, self.stream.write_all(bytes)).await;
        settled(written.map(|(result, _)| result))
    }

    /// Holds nothing more of what has come.
    fn forget(&mut self) {
        self.received = BytesMut::new();
        self.seat.hold(0);
    }

    /// Waits until the peer has seen the end.
    async fn leave(&mut self) {
        self.seat.begin(Doing::Leaving);
        self.forget();
        if self.stream.shutdown().await.is_err() {
            return;
        }
        let deadline = Instant::now() + self.limits.leave;
        let mut left_bytes = 0;
        while left_bytes < LEFT_BYTES_MAX && self.receive(deadline, Stop::Gone).await.is_ok() {
            left_bytes += self.received.len();
            self.received.clear();
        }
    }
}

fn settled<E>(written: Result<std::io::Result<usize>, E>) -> Result<(), Stop> {
    match written {
        Ok(Ok(_)) => Ok(()),
        _ => Err(Stop::Gone),
    }
}

/// Neither of these has a body, and a length would be that of another answer's (RFC 9110 §8.6, §15.4.5).
fn has_body(status: StatusCode) -> bool {
    ![StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status)
}

fn head_of(answer: &Answer, id: &RequestId, closes: bool) -> Vec<u8> {
    let Answer { status, content_type, headers, body } = answer;
    let mut lines = format!("HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or(""));
    if has_body(*status) {
        let _ = write!(lines, "Content-Type: {content_type}\r\nContent-Length: {}\r\n", body.len());
    }
    if !headers.iter().any(|(name, _)| name == CACHE_CONTROL) {
        lines += "Cache-Control: no-store\r\n";
    }
    let _ = write!(lines, "X-Content-Type-Options: nosniff\r\nX-Request-Id: {id}\r\n");
    if closes {
        lines += "Connection: close\r\n";
    }
    let mut head = lines.into_bytes();
    for (name, value) in headers {
        head.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    head.extend_from_slice(b"\r\n");
    head
}
