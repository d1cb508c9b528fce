//! The way in: from a request to a session, on one path.
//!
//! 1. Is the server ready? (503) Has this core heard that the address is beyond its rate? (429)
//! 2. What does the token say? (401) Without keys, what does `?user=` say, where that is believed?
//! 3. What does the application say? It may answer later, from any thread.
//! 4. Does the address have room? Its home core answers. (429)
//! 5. Are newcomers within their rate? (503) Asked last, so that those who are refused take nothing from the others.
//!    The upgrade is accepted, and the session made.
//!
//! Steps 2 and 3 are dear, and the address's home core is asked after them, so that nobody who is let in waits for it twice.
//! So whoever they refuse takes from the address's rate as well ([`Ask::Charge`]), and who has to wait for the application
//! takes from it meanwhile: the next ones are refused by step 1.
//!
//! A [`Newcomer`] is what is kept between the steps. One that goes away meanwhile is forgotten; where its address had let it
//! in already, that is taken back. A refusal never says what was wrong with a token, and nothing here logs one.

use super::guard::Pass;
use super::hooks::{Connect, Hooks};
use super::limit::{Limit, take};
use super::mail::{Ask, Asker, Call, Mail};
use super::name::{Name, home_of_number};
use super::session::Session;
use super::{Hub, token, wire};
use crate::handler::{ConnId, Decision, Outbox, Request, Response};
use crate::proto::address::AddressKey;
use crate::proto::command::is_name;
use crate::proto::event;
use crate::proto::response::Status;
use crate::proto::upgrade;
use std::hash::BuildHasher;

/// The subprotocol that is answered where it is offered: a browser that offers its token as one needs another to be
/// answered.
const SUBPROTOCOL: &str = "megasock";

/// When clients refused for load, in a frame, are asked to come back: each at a time of its own between these.
const RETRY_MS: std::ops::Range<u64> = 1_000..10_000;

/// A handshake that waits for an answer.
pub struct Newcomer {
    address: AddressKey,
    offers_subprotocol: bool,
    pass: Pass,
    /// It has taken from its address's rate already.
    is_charged: bool,
    /// Whom the application has let in; `None` while it is being asked.
    accepted: Option<Option<Name>>,
}

impl Newcomer {
    /// One whom the application has let in, or has still to decide about.
    #[cfg(test)]
    pub fn new(address: AddressKey, accepted: Option<Option<Name>>) -> Newcomer {
        let pass = Pass::without_token(None);
        Newcomer { address, offers_subprotocol: false, pass, is_charged: false, accepted }
    }
}

/// Why somebody is not let in.
enum Refusal {
    /// In the application's own words.
    Response(Response),
    /// In ours.
    Plain(Status, &'static str),
    /// A limit is against it, now.
    Limit(Limit),
    /// There is no token that is accepted.
    Token(&'static str),
}

impl<K: Hooks> Hub<K> {
    /// Steps 1 to 3 of a request, and what follows from them.
    pub(super) fn judge(&mut self, request: &Request<'_>, out: &mut Outbox<Mail>) -> Decision {
        let offers_subprotocol = upgrade::subprotocols(request.head).any(|offer| offer == SUBPROTOCOL);
        let address = AddressKey::of(request.peer.ip());
        if let Some(limit) = self.shut_by(request, address, out.unix_ms()) {
            return self.turn_away(Refusal::Limit(limit), offers_subprotocol);
        }
        match self.ask_in(request, address, offers_subprotocol, out) {
            Ok(newcomer) => self.go_on(request.conn, newcomer, out),
            Err(refusal) => {
                self.charge(request.conn, address, out);
                self.turn_away(refusal, offers_subprotocol)
            }
        }
    }

    /// Step 1, which costs nothing.
    fn shut_by(&self, request: &Request<'_>, address: AddressKey, now_ms: u64) -> Option<Limit> {
        let rate = self.options.limits.accepts_per_address.as_ref();
        match request.is_ready {
            false => Some(Limit::Readiness),
            true => self.barred.has(address, rate, now_ms).then_some(Limit::AddressAccepts),
        }
    }

    /// Steps 2 and 3.
    fn ask_in(
        &mut self,
        request: &Request<'_>,
        address: AddressKey,
        offers_subprotocol: bool,
        out: &mut Outbox<Mail>,
    ) -> Result<Newcomer, Refusal> {
        let pass = self.pass_of(request, out.unix_ms() / 1_000)?;
        let accepted = match self.hooks.on_connect(request, pass.bearer.as_deref()) {
            Connect::Accept { user } => Some(checked(user)?),
            Connect::Refuse(response) => return Err(Refusal::Response(response)),
            Connect::Later => None,
        };
        Ok(Newcomer { address, offers_subprotocol, pass, is_charged: false, accepted })
    }

    /// What a request's token, or the name it claims, is good for.
    fn pass_of(&mut self, request: &Request<'_>, now_unix_s: u64) -> Result<Pass, Refusal> {
        let claimed = user_in(request.head.query.unwrap_or_default());
        let keys = &self.options.keys;
        if claimed.is_some() && !(self.options.takes_names && keys.is_empty()) {
            return Err(Refusal::Token(
                "?user= is for development: in production, or where there are keys, a name needs a token.",
            ));
        }
        if keys.is_empty() {
            return Ok(Pass::without_token(claimed.map(|user| Name::new(&user))));
        }
        match token::of_request(request.head) {
            Some(token) => keys.verify(&token, now_unix_s).map(Pass::from).map_err(|error| {
                tracing::debug!(peer = %request.peer, reason = error.name(), "token refused");
                Refusal::Token("The token is not accepted.")
            }),
            None if self.options.anonymous => Ok(Pass::without_token(None)),
            None => {
                Err(Refusal::Token("A token is needed: as Authorization: Bearer, ?token= or a subprotocol."))
            }
        }
    }

    /// The application has decided a request it had left open. One that has gone, or was not left open, is passed over.
    pub(super) fn handle_connect(&mut self, conn: ConnId, connect: Connect, out: &mut Outbox<Mail>) {
        let Some(mut newcomer) = self.newcomers.remove(&conn) else { return };
        let offers = newcomer.offers_subprotocol;
        let decision = match connect {
            _ if newcomer.accepted.is_some() => return drop(self.newcomers.insert(conn, newcomer)),
            Connect::Later => return drop(self.newcomers.insert(conn, newcomer)),
            Connect::Refuse(response) => Decision::Respond(response),
            Connect::Accept { user } => match checked(user) {
                Ok(user) => {
                    newcomer.accepted = Some(user);
                    self.go_on(conn, newcomer, out)
                }
                Err(refusal) => self.turn_away(refusal, offers),
            },
        };
        if !matches!(decision, Decision::Later) {
            out.decide(conn, decision);
        }
    }

    /// Step 4: asks the address's home core, where addresses are counted.
    pub(super) fn go_on(&mut self, conn: ConnId, mut newcomer: Newcomer, out: &mut Outbox<Mail>) -> Decision {
        let address = newcomer.address;
        if newcomer.accepted.is_none() {
            newcomer.is_charged = self.charge(conn, address, out);
        } else if self.options.limits.of_addresses() {
            let ask = Ask::Admit { address, is_charged: newcomer.is_charged };
            self.ask_home_of_address(conn, address, ask, out);
        } else {
            return self.let_in(conn, newcomer, out);
        }
        self.newcomers.insert(conn, newcomer);
        Decision::Later
    }

    /// Takes from an address's rate for a handshake that is not let in, or not yet; false where there is none.
    fn charge(&mut self, conn: ConnId, address: AddressKey, out: &mut Outbox<Mail>) -> bool {
        let has_rate = self.options.limits.accepts_per_address.is_some();
        if has_rate {
            self.ask_home_of_address(conn, address, Ask::Charge { address }, out);
        }
        has_rate
    }

    fn ask_home_of_address(&mut self, conn: ConnId, address: AddressKey, ask: Ask, out: &mut Outbox<Mail>) {
        let call = Call::new(Asker::Client { conn, id: None }, ask);
        self.links.call(self.home_of_address(address), call, out);
    }

    /// An address's home core has answered: it lets a newcomer in, or is against it whatever the application will say.
    pub(super) fn handle_admitted(
        &mut self,
        conn: ConnId,
        address: AddressKey,
        refused: Option<Limit>,
        out: &mut Outbox<Mail>,
    ) {
        if refused == Some(Limit::AddressAccepts) {
            self.barred.bar(address, out.unix_ms());
        }
        match (self.newcomers.remove(&conn), refused) {
            (Some(newcomer), None) => {
                let decision = self.let_in(conn, newcomer, out);
                out.decide(conn, decision);
            }
            (Some(newcomer), Some(limit)) => {
                let decision = self.turn_away(Refusal::Limit(limit), newcomer.offers_subprotocol);
                out.decide(conn, decision);
            }
            // It has gone meanwhile: the home core counts it, and must not.
            (None, None) => self.depart(address, out),
            (None, Some(_)) => {}
        }
    }

    /// Step 5.
    fn let_in(&mut self, conn: ConnId, newcomer: Newcomer, out: &mut Outbox<Mail>) -> Decision {
        let Newcomer { address, offers_subprotocol, pass, accepted, .. } = newcomer;
        if !take(&mut self.accepts, 1, self.accepts_rate.as_ref(), out.unix_ms()) {
            if self.options.limits.of_addresses() {
                self.depart(address, out);
            }
            return self.turn_away(Refusal::Limit(Limit::Accepts), offers_subprotocol);
        }
        self.sessions.insert(conn, Session::new(conn, accepted.flatten()));
        if self.options.watches() {
            self.guards.insert(conn, address, pass);
        }
        Decision::Accept { subprotocol: offers_subprotocol.then(|| SUBPROTOCOL.to_owned()) }
    }

    /// A request that was let in, or waited to be, is never opened.
    pub(super) fn forget(&mut self, conn: ConnId, out: &mut Outbox<Mail>) {
        self.newcomers.remove(&conn);
        self.sessions.remove(conn);
        self.stop_watching(conn, out);
    }

    /// A connection has ended: its address has one less.
    pub(super) fn stop_watching(&mut self, conn: ConnId, out: &mut Outbox<Mail>) {
        if let Some(address) = self.guards.remove(conn)
            && self.options.limits.of_addresses()
        {
            self.depart(address, out);
        }
    }

    fn depart(&mut self, address: AddressKey, out: &mut Outbox<Mail>) {
        self.links.call(self.home_of_address(address), Call::own(Ask::Depart { address }), out);
    }

    fn home_of_address(&self, address: AddressKey) -> usize {
        home_of_number(address.to_bits(), self.links.cores())
    }

    /// The answer to one who is not let in: with a status, or inside a WebSocket, where a browser's page can read it.
    fn turn_away(&mut self, refusal: Refusal, offers_subprotocol: bool) -> Decision {
        let (status, line, limit) = match refusal {
            Refusal::Response(response) => return Decision::Respond(response),
            Refusal::Plain(status, line) => return Decision::Respond(Response::refuse(status, line)),
            Refusal::Token(line) => (Status::Unauthorized, line, Limit::Tokens),
            Refusal::Limit(limit @ (Limit::AddressConnections | Limit::AddressAccepts)) => {
                (Status::TooManyRequests, "Too many connections from your address.", limit)
            }
            Refusal::Limit(limit @ Limit::Accepts) => {
                (Status::Unavailable, "Too many connections at once.", limit)
            }
            Refusal::Limit(limit) => (Status::Unavailable, "The server is full or about to stop.", limit),
        };
        self.counters.refuse(limit);
        if !self.options.refuse_in_band {
            return Decision::Respond(response(status, line));
        }
        self.counters.errors[limit.error() as usize].add(1);
        let delay = status.is_busy().then(|| self.retry_ms());
        let frames = wire::frame(|json| event::append_turned_away(json, limit.error(), line, delay));
        let subprotocol = offers_subprotocol.then(|| SUBPROTOCOL.to_owned());
        Decision::Refuse { frames, reason: limit.reason(), subprotocol }
    }
}

impl<K: Hooks> Hub<K> {
    fn retry_ms(&mut self) -> u64 {
        self.retries_drawn += 1;
        RETRY_MS.start + self.retries.hash_one(self.retries_drawn) % (RETRY_MS.end - RETRY_MS.start)
    }
}

/// The refusal by a status: a 401 says how to do better (RFC 9110 §11.6.1), the others are told when as they are sent.
fn response(status: Status, line: &str) -> Response {
    match status {
        Status::Unauthorized => {
            let how = [("WWW-Authenticate", "Bearer")];
            Response::new(status, "text/plain; charset=utf-8", &how, format!("{line}\n").as_bytes())
        }
        _ => Response::refuse(status, line),
    }
}

/// The name an application gives, if it is one.
fn checked(user: Option<String>) -> Result<Option<Name>, Refusal> {
    match user {
        Some(user) if !is_name(&user) => Err(Refusal::Plain(
            Status::BadRequest,
            "A user name has 1 to 255 bytes, no control characters, and is not made of separators alone.",
        )),
        user => Ok(user.as_deref().map(Name::new)),
    }
}

/// The value of `user` in a query string.
fn user_in(query: &str) -> Option<String> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("user="))?;
    let value = value.replace('+', " "); // as HTML forms and URLSearchParams write a space
    Some(percent_encoding::percent_decode_str(&value).decode_utf8_lossy().into_owned())
}
