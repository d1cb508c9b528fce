//! The product on top of the reactor: channels, rooms, users, presence and history across cores.
//!
//! An application starts it with [`crate::Builder::hub`], adds its own rules by [`Hooks`], sets topics up by
//! [`Namespaces`], and publishes through its [`crate::Handle`]. docs/channels.md is what clients speak.
//!
//! Every topic and every user has a *home core*, chosen by the hash of its name. A topic's home (`home.rs`) gives it its
//! order, its history and its presence, and knows which cores have subscribers; each of those (`local.rs`) serves its own.
//! A user's home (`users.rs`) knows where its connections are. Between cores goes `mail.rs`, under the flow control of
//! `link.rs`. A session (`session.rs`) is what a core knows of one of its connections; `command.rs` does what clients ask.
//!
//! One [`Hub`] is one core's share. It is a [`Handler`] and knows no reactor, no ring and no socket.
//!
//! Mail to the own core is sent like any other and handled when the callback at hand is done: so there is one order of
//! events, wherever a home lies.

mod command;
mod history;
mod home;
mod hooks;
mod lease;
mod link;
mod local;
mod mail;
mod name;
mod namespace;
mod presence;
mod session;
mod slow;
mod stats;
pub mod token;
mod users;
mod wire;

pub use hooks::{Client, Connect, Hooks, Open};
pub use lease::Budget;
pub use mail::Mail;
pub(crate) use mail::{Answer, Ask, Asker, Call};
pub use name::{Name, home};
pub use namespace::{Namespaces, PatternError, Publishers, Settings, SlowConsumer};
pub use stats::Figures;
pub(crate) use wire::{direct_from_server, epoch, history_items, parse_connection_id};

use crate::handler::{ConnId, Decision, Handler, Message, Origin, Outbox, Request, Response, Work};
use crate::proto::close::CloseReason;
use crate::proto::command::is_name;
use crate::proto::event;
use crate::proto::response::Status;
use home::Homes;
use lease::Lease;
use link::Links;
use local::{Item, Locals};
use session::{Session, Sessions};
use std::sync::Arc;
use users::Users;

/// Why a whole core missed something, in a gap.
const OVERLOAD: &str = "overload";

/// Settings of a hub, the same for all cores.
pub struct Options {
    /// Settings of topics.
    pub namespaces: Namespaces,
    /// Subscriptions of one connection.
    pub topics_per_connection_max: usize,
    /// Bytes a connection that does not read may be owed.
    pub send_queue_bytes_max: usize,
    /// Bytes sent at once to one who recovers or asks for history.
    pub replay_bytes_max: usize,
    /// Bytes of history each core keeps.
    pub history_bytes_max: usize,
    /// Bytes that all who do not read may be owed.
    pub slow_budget: Arc<Budget>,
    /// This node, as clients see it.
    pub server_id: String,
    /// Time between pings, as clients are told; 0 for none.
    pub ping_interval_ms: u64,
    /// Anyone may take any name with `?user=`.
    pub takes_names: bool,
}

/// One core's share of channels, rooms and users.
pub struct Hub<K: Hooks = Open> {
    options: Arc<Options>,
    hooks: K,
    sessions: Sessions,
    locals: Locals,
    homes: Homes,
    users: Users,
    links: Links,
}

impl<K: Hooks> Hub<K> {
    /// An empty hub.
    pub(crate) fn new(options: Arc<Options>, hooks: K) -> Hub<K> {
        let lease = Lease::new(Arc::clone(&options.slow_budget));
        Hub {
            hooks,
            sessions: Sessions::default(),
            locals: Locals::new(options.send_queue_bytes_max, lease),
            homes: Homes::new(Arc::clone(&options)),
            users: Users::default(),
            links: Links::default(),
            options,
        }
    }

    /// Whether a connection speaks the channel protocol.
    pub(crate) fn has(&mut self, conn: ConnId) -> bool {
        self.sessions.get(conn).is_some()
    }

    /// Mail from a core.
    fn receive(&mut self, from: usize, mail: Mail, out: &mut Outbox<Mail>) {
        match mail {
            Mail::Ask(call) => self.handle_call(from, call, out),
            Mail::Answer(call) => {
                self.links.on_answer(from, out);
                self.handle_answer(*call, out);
            }
            Mail::Deliver { topic, offset, frame, except } => {
                self.locals.append(&topic, Item { frame, from: offset, to: offset, except });
            }
            Mail::Gap { topic, from, to } => {
                let frame = wire::gap(&topic, from, to, OVERLOAD);
                self.locals.append(&topic, Item { frame, from, to, except: None });
            }
            Mail::Forward { conn, frame } => out.send_frame(conn, frame),
            Mail::Cut { conn, code, reason } => out.close(conn, code, &reason),
        }
    }

    fn handle_call(&mut self, from: usize, call: Box<Call>, out: &mut Outbox<Mail>) {
        match &call.ask {
            Ask::Open { .. } | Ask::Close { .. } | Ask::Direct { .. } | Ask::Disconnect { .. } => {
                self.users.handle_call(from, call, &mut self.links, out);
            }
            Ask::Figures => {
                let figures = Answer::Figures(self.figures());
                home::give_answer(from, call, figures, &mut self.links, out);
            }
            _ => self.homes.handle_call(from, call, &mut self.links, out),
        }
    }

    /// Handles what the callback at hand has sent to this core itself.
    fn finish(&mut self, out: &mut Outbox<Mail>) {
        while let Some(mail) = self.links.take_own() {
            self.receive(out.core(), mail, out);
        }
    }

    /// Before the first callback: now the rings to the others are known, and empty.
    fn begin(&mut self, out: &Outbox<Mail>) {
        if self.links.cores() == 0 {
            self.links = Links::new(out);
        }
    }

    fn connect(&mut self, request: &Request<'_>) -> Result<Option<Name>, Response> {
        let wanted = user_in(request.head.query.unwrap_or_default());
        if wanted.is_some() && !self.options.takes_names {
            let line = "?user= is for development: in production a name would need a token.";
            return Err(Response::refuse(Status::Unauthorized, line));
        }
        let user = match self.hooks.on_connect(request, wanted.as_deref()) {
            Connect::Accept { user } => user,
            Connect::Refuse(response) => return Err(response),
        };
        if user.as_deref().is_some_and(|user| !is_name(user)) {
            let line = "A user name has 1 to 255 bytes, no control characters, and more than separators.";
            return Err(Response::refuse(Status::BadRequest, line));
        }
        Ok(user.as_deref().map(Name::new))
    }
}

impl<K: Hooks> Handler for Hub<K> {
    type Mail = Mail;

    fn on_request(&mut self, request: &Request<'_>, _: &mut Outbox<Mail>) -> Decision {
        if !request.is_ready {
            return Decision::Respond(Response::refuse(Status::Unavailable, "The server is full or about to stop."));
        }
        match self.connect(request) {
            Ok(user) => {
                self.sessions.insert(request.conn, Session::new(request.conn, user));
                Decision::ACCEPT
            }
            Err(response) => Decision::Respond(response),
        }
    }

    fn on_open(&mut self, conn: ConnId, out: &mut Outbox<Mail>) {
        self.begin(out);
        let Some(session) = self.sessions.get(conn) else { return };
        match session.user().cloned() {
            None => self.welcome(conn, out),
            Some(user) => {
                // Welcomed once it can be reached by its name.
                self.set_busy(conn, out);
                let home = user.home(self.links.cores());
                let asker = Asker::Client { conn, id: None };
                let call = Box::new(Call { asker, ask: Ask::Open { user, conn }, answer: None });
                self.links.call(home, call, out);
            }
        }
        self.finish(out);
    }

    fn on_message(&mut self, conn: ConnId, message: Message<'_>, out: &mut Outbox<Mail>) {
        let Some(text) = message.text() else { return out.end(conn, CloseReason::UnsupportedData) };
        let Some(session) = self.sessions.get(conn) else { return };
        if session.is_ended() {
            return;
        }
        if session.is_busy() {
            session.rare().waiting.push_back(text.into());
        } else {
            self.run(conn, text, out);
        }
        self.finish(out);
    }

    fn on_mail(&mut self, from: Origin, mail: Mail, out: &mut Outbox<Mail>) {
        self.begin(out);
        let from = match from {
            Origin::Core(core) => core,
            Origin::Thread => out.core(),
        };
        self.receive(from, mail, out);
        self.finish(out);
    }

    fn on_blocked(&mut self, conn: ConnId, _: &mut Outbox<Mail>) {
        let Some(session) = self.sessions.get(conn) else { return };
        session.set_blocked(true);
        self.locals.pass_by(&mut self.sessions, conn);
    }

    fn on_writable(&mut self, conn: ConnId, _: &mut Outbox<Mail>) {
        let Some(session) = self.sessions.get(conn) else { return };
        session.set_blocked(false);
        self.locals.begin_catching_up(&mut self.sessions, conn);
    }

    fn on_turn(&mut self, out: &mut Outbox<Mail>) -> Work {
        self.begin(out);
        let all_sent = self.links.flush_all(out);
        let none_lags = self.homes.bring_up(&mut self.links, out);
        self.finish(out);
        let all_served = self.locals.step(&mut self.sessions, &self.options.namespaces, out);
        match (all_served, all_sent && none_lags) {
            (false, _) => Work::Now,
            (true, false) => Work::Soon, // a ring is full, and nobody tells when it is not
            (true, true) => Work::None,
        }
    }

    fn on_tick(&mut self, now_ms: u64, out: &mut Outbox<Mail>) {
        self.begin(out);
        self.homes.on_tick(now_ms, &mut self.links, out);
        self.locals.on_tick();
        self.finish(out);
    }

    fn on_close(&mut self, conn: ConnId, _: CloseReason, out: &mut Outbox<Mail>) {
        self.begin(out);
        let Some(session) = self.sessions.remove(conn) else { return };
        let client = Client { conn, core: self.links.core(), user: session.user().map(|user| &**user) };
        for sub in session.subs() {
            let topic = self.locals.name(sub.topic).clone();
            self.locals.detach(sub);
            self.hooks.on_unsubscribe(&client, &topic);
            let home = topic.home(self.links.cores());
            let ask = Ask::Unsubscribe { topic, user: session.user().cloned() };
            self.links.call(home, Call::own(ask), out);
        }
        if let Some(user) = session.user() {
            let home = user.home(self.links.cores());
            self.links.call(home, Call::own(Ask::Close { user: user.clone(), conn }), out);
        }
        if session.is_welcomed() {
            self.hooks.on_close(&client);
        }
        self.finish(out);
    }
}

impl<K: Hooks> Hub<K> {
    fn welcome(&mut self, conn: ConnId, out: &mut Outbox<Mail>) {
        let Some(session) = self.sessions.get(conn) else { return };
        session.set_welcomed();
        let user = session.user().map(|user| &**user);
        let (id, options) = (wire::connection_id(out.core(), conn), &self.options);
        let frame = wire::frame(|json| {
            event::append_welcome(json, &id, user, &options.server_id, options.ping_interval_ms);
        });
        out.send_frame(conn, frame);
        self.hooks.on_open(&Client { conn, core: self.links.core(), user });
    }
}

/// The value of `user` in a query string.
fn user_in(query: &str) -> Option<String> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("user="))?;
    let value = value.replace('+', " "); // as HTML forms and URLSearchParams write a space
    Some(percent_encoding::percent_decode_str(&value).decode_utf8_lossy().into_owned())
}

#[cfg(test)]
mod tests;
