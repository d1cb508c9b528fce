//! From a TCP connection to a WebSocket: the request head, the refusals, the handler's decision, the 101.

use super::conn::{Phase, flag};
use super::recv::Owner;
use super::{Pressure, Reactor};
use crate::buf::{Buffer, Payload, Segment};
use crate::handler::{Decision, Handler, Request, Response};
use crate::proto::close::{self, CloseReason};
use crate::proto::head::{self, HEAD_BYTES_MAX};
use crate::proto::response::{self, Status};
use crate::proto::upgrade::{self, Refusal, accept_response};
use crate::sys::{ConnId, Io};
use std::ops::Range;

/// The status of an upgrade.
const UPGRADED: u16 = 101;

/// The longest that a client is asked to stay away for want of room. Each draws its own time.
const RETRY_AFTER_S_MAX: u32 = 10;

/// What is kept of a request that did not come whole, or is not decided.
pub(super) struct PartialHead {
    /// The head so far, or the PROXY header before it; once undecided, what the client sent behind it.
    bytes: Vec<u8>,
    /// The accept key, once undecided.
    accept: Option<[u8; 28]>,
}

/// What a request gets. A page is what was asked for without an upgrade; any other response refuses a handshake, or what
/// cannot be told from one.
enum Answer {
    Upgrade { accept: [u8; 28], subprotocol: Option<String> },
    Undecided { accept: [u8; 28] },
    Page(Response),
    Respond(Response),
    Refuse { accept: [u8; 28], subprotocol: Option<String>, frames: Payload, reason: CloseReason },
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Answer {
        let (status, bytes) = (refusal.status(), Payload::new(&[&refusal.response()]));
        Answer::Respond(Response { status, bytes, is_undated: false })
    }
}

impl From<Status> for Answer {
    fn from(status: Status) -> Answer {
        Answer::Respond(Response::refuse(status, status.phrase()))
    }
}

impl<I: Io, H: Handler> Reactor<I, H> {
    /// Reads `received` more bytes of a connection that is not open.
    pub(super) fn read_request(&mut self, id: ConnId, buffer: Buffer, received: usize) {
        if self.conn(id).is_some_and(|conn| conn.has(flag::PREAMBLE)) {
            return self.read_preamble(id, buffer, received);
        }
        self.read_head(id, Owner::Buffer(buffer), 0..received);
    }

    /// Reads more of a request: `range` of what was received.
    pub(super) fn read_head(&mut self, id: ConnId, mut owner: Owner, range: Range<usize>) {
        let fresh = &owner.bytes_mut()[range.clone()];
        let received = fresh.len();
        let (answer, end) = match self.heads.remove(&id.slot) {
            Some(ahead) if ahead.accept.is_some() => return self.keep_ahead(id, ahead, fresh),
            Some(mut partial) => {
                let before = partial.bytes.len();
                partial.bytes.extend_from_slice(fresh);
                match find_head(&partial.bytes, before) {
                    Ok(Some(end)) => (self.judge(id, &partial.bytes[..end]), end - before),
                    Ok(None) => return self.keep_head(id, partial.bytes),
                    Err(status) => (status.into(), received),
                }
            }
            None => match find_head(fresh, 0) {
                Ok(Some(end)) => (self.judge(id, &fresh[..end]), end),
                Ok(None) => return self.keep_head(id, fresh.to_vec()),
                Err(status) => (status.into(), received),
            },
        };
        self.answer(id, answer, owner, range.start + end..range.end);
    }

    /// What has come of a head before.
    pub(super) fn take_head_bytes(&mut self, id: ConnId) -> Vec<u8> {
        self.heads.remove(&id.slot).map_or_else(Vec::new, |partial| partial.bytes)
    }

    pub(super) fn keep_head(&mut self, id: ConnId, bytes: Vec<u8>) {
        self.heads.insert(id.slot, PartialHead { bytes, accept: None });
    }

    /// Keeps frames sent before the request is decided, within the cap on handshake bytes.
    fn keep_ahead(&mut self, id: ConnId, mut ahead: PartialHead, fresh: &[u8]) {
        if ahead.bytes.len() + fresh.len() > HEAD_BYTES_MAX {
            self.abandon(id);
            return self
                .respond(id, Response::refuse(Status::BadRequest, "Too much was sent before the upgrade."));
        }
        ahead.bytes.extend_from_slice(fresh);
        self.heads.insert(id.slot, ahead);
    }

    /// Judges a complete head, asking the handler where the protocol leaves a choice.
    fn judge(&mut self, id: ConnId, head_bytes: &[u8]) -> Answer {
        let head = match head::parse(head_bytes) {
            Ok(head) => head,
            Err(status) => return status.into(),
        };
        let accept = match upgrade::wants_upgrade(&head).then(|| upgrade::check(&head)).transpose() {
            Ok(upgrade) => upgrade.map(|upgrade| upgrade.accept),
            Err(refusal) => return refusal.into(),
        };
        let Some(conn) = self.conns.get_mut(id.slot, id.generation) else {
            return Status::InternalError.into();
        };
        let peer = self.options.proxies.client(&head, conn.peer());
        conn.set_peer(peer);
        let is_full = conn.has(flag::SURPLUS) || self.pressure.get() > Pressure::Calm;
        let is_ready = !self.turns_away() && !is_full;
        let request = Request { conn: id, peer, head: &head, is_upgrade: accept.is_some(), is_ready };
        let decision = self.handler.on_request(&request, &mut self.outbox);
        if matches!(decision, Decision::Later) && (!is_ready || accept.is_none()) {
            self.handler.on_abandon(id, &mut self.outbox);
        }
        match (decision, accept) {
            (Decision::Respond(response), None) => Answer::Page(response),
            (Decision::Respond(response), Some(_)) => Answer::Respond(response),
            (Decision::Refuse { frames, reason, subprotocol }, Some(accept)) => {
                Answer::Refuse { accept, subprotocol, frames, reason }
            }
            (_, None) => Refusal::NotWebSocket.into(),
            (Decision::Accept { .. } | Decision::Later, Some(_)) if !is_ready => Status::Unavailable.into(),
            (Decision::Accept { subprotocol }, Some(accept)) => Answer::Upgrade { accept, subprotocol },
            (Decision::Later, Some(accept)) => Answer::Undecided { accept },
        }
    }

    /// Answers; `rest` is what the client sent behind its request.
    fn answer(&mut self, id: ConnId, answer: Answer, mut owner: Owner, rest: Range<usize>) {
        match answer {
            Answer::Page(response) => self.give(id, response, CloseReason::HandshakeRefused),
            Answer::Respond(response) => self.respond(id, response),
            Answer::Refuse { accept, subprotocol, frames, reason } => {
                self.refuse(id, &accept_response(&accept, subprotocol.as_deref()), &frames, reason);
            }
            Answer::Upgrade { accept, subprotocol } => {
                self.open(id, &accept, subprotocol.as_deref());
                if !rest.is_empty() {
                    self.read_frames(id, owner, rest);
                }
            }
            Answer::Undecided { accept } => {
                let bytes = owner.bytes_mut()[rest].to_vec();
                self.heads.insert(id.slot, PartialHead { bytes, accept: Some(accept) });
                if let Some(conn) = self.conn(id) {
                    conn.phase = Phase::Deciding;
                }
            }
        }
        self.apply_actions();
    }

    /// The handler has decided a request it had left open.
    pub(super) fn handle_decision(&mut self, id: ConnId, decision: Decision) {
        if self.conn(id).is_none_or(|conn| conn.phase != Phase::Deciding) {
            return;
        }
        let Some(PartialHead { bytes, accept: Some(accept) }) = self.heads.remove(&id.slot) else { return };
        let answer = match decision {
            Decision::Accept { .. } if self.turns_away() => {
                self.handler.on_abandon(id, &mut self.outbox);
                Status::Unavailable.into()
            }
            Decision::Accept { subprotocol } => Answer::Upgrade { accept, subprotocol },
            Decision::Respond(response) => Answer::Respond(response),
            Decision::Refuse { frames, reason, subprotocol } => {
                Answer::Refuse { accept, subprotocol, frames, reason }
            }
            Decision::Later => Answer::Undecided { accept },
        };
        let rest = 0..bytes.len();
        self.answer(id, answer, Owner::Bytes(bytes), rest);
    }

    fn open(&mut self, id: ConnId, accept: &[u8; 28], subprotocol: Option<&str>) {
        let (now, due) = (self.now_tick, self.first_heartbeat_tick());
        let Some(conn) = self.conn(id) else { return };
        conn.phase = Phase::Open;
        conn.set(flag::OPENED);
        conn.active_tick = now;
        conn.due_tick = due;
        self.note_opened(id.slot);
        self.counters.add_handshake(UPGRADED);
        self.counters.upgraded.add(1);
        self.counters.connections_open.add(1);
        self.enqueue(id, Segment::owned(accept_response(accept, subprotocol)));
        self.arm_next(id);
        self.handler.on_open(id, &mut self.outbox);
        self.tell_connect(id);
        self.apply_actions();
        self.tell_if_passed(id);
    }

    /// Refuses a handshake.
    fn respond(&mut self, id: ConnId, response: Response) {
        self.counters.add_handshake(response.status.code());
        self.give(id, response, CloseReason::HandshakeRefused);
    }

    /// Answers without an upgrade: the response, the end of our side, then what the client still sends is discarded.
    fn give(&mut self, id: ConnId, response: Response, reason: CloseReason) {
        self.counters.responses.add(1);
        let last = if response.is_undated {
            let seconds = 1 + self.random_below(RETRY_AFTER_S_MAX);
            Segment::owned(response::with_retry_after(&response.bytes, seconds))
        } else {
            Segment::payload(response.bytes)
        };
        self.end_with(id, last, Phase::Refusing, reason);
    }

    /// Upgrades only to say why not. The handler never hears of it as open.
    fn refuse(&mut self, id: ConnId, response: &[u8], frames: &Payload, reason: CloseReason) {
        self.counters.add_handshake(UPGRADED);
        self.counters.responses.add(1);
        let close = close::encode(reason.code(), "");
        let all = [response, &frames[..], &close[..]].concat();
        self.end_with(id, Segment::owned(all), Phase::Refusing, reason);
    }

    /// A request that was left open ends without an upgrade.
    pub(super) fn abandon(&mut self, id: ConnId) {
        if self.conn(id).is_some_and(|conn| conn.phase == Phase::Deciding) {
            self.handler.on_abandon(id, &mut self.outbox);
        }
    }

    /// The handshake deadline has come: who has begun a request is told, who said nothing is not.
    pub(super) fn handle_handshake_timeout(&mut self, id: ConnId) {
        let Some(conn) = self.conn(id) else { return };
        let undecided = conn.phase == Phase::Deciding;
        if conn.has(flag::PREAMBLE) || self.heads.get(&id.slot).is_none() {
            return self.begin_release(id, CloseReason::HandshakeTimeout);
        }
        self.abandon(id);
        let response = match undecided {
            true => Response::refuse(Status::Unavailable, "No answer in time."),
            false => Response::refuse(Status::RequestTimeout, Status::RequestTimeout.phrase()),
        };
        self.counters.add_handshake(response.status.code());
        self.give(id, response, CloseReason::HandshakeTimeout);
    }
}

/// The end of the head in `bytes`, of which the first `searched` were looked at before.
fn find_head(bytes: &[u8], searched: usize) -> Result<Option<usize>, Status> {
    match head::find_end(bytes, searched) {
        Some(end) => Ok(Some(end)),
        None => head::refuse_early(bytes, searched).map(|()| None),
    }
}
