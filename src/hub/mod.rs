//! The product on top of the reactor: channels, rooms, users, presence and history across cores.
//!
//! An application starts it with [`crate::Builder::hub`], adds its own rules by [`Hooks`], sets topics up by
//! [`Namespaces`], and publishes through its [`crate::Handle`]. docs/channels.md is what clients speak.
//!
//! Every topic and every user has a *home core*, chosen by the hash of its name. A topic's home (`home.rs`) gives it its
//! order, its history and its presence, and knows which cores have subscribers; each of those (`local.rs`) serves its own.
//! A user's home (`users.rs`) knows where its connections are, an address's (`addresses.rs`) how many it has. Between cores
//! goes `mail.rs`, under the flow control of `link.rs`. A session (`session.rs`) is what a core knows of one of its
//! connections; `command.rs` does what clients ask, `handshake.rs` lets them in, `guard.rs` watches over them, `limit.rs` is
//! the table of what they may not have.
//!
//! One [`Hub`] is one core's share. It is a [`Handler`] and knows no reactor, no ring and no socket.
//!
//! Mail to the own core is sent like any other and handled when the callback at hand is done: so there is one order of
//! events, wherever a home lies.

mod addresses;
mod command;
mod guard;
mod handshake;
mod history;
mod home;
mod hooks;
mod lease;
mod limit;
mod link;
mod local;
mod mail;
mod name;
mod namespace;
mod outgoing;
mod presence;
mod session;
mod slow;
mod stats;
pub mod token;
mod users;
mod wire;

pub use hooks::{Client, Connect, Hooks, Open};
pub use lease::Budget;
pub use limit::{Limit, Limits};
pub(crate) use mail::{Answer, Ask, Asker, Call};
pub use mail::{Mail, SessionFacts, TopicFacts};
pub use name::{Name, home};
pub use namespace::{Namespaces, PatternError, Publishers, Settings, SlowConsumer};
pub use stats::{Board, Counters, Figures};
pub(crate) use wire::{connection_id, direct_from_server, epoch, history_items, parse_connection_id};

use crate::ds::{Bucket, Rate, Table};
use crate::handler::{ConnId, Decision, Handler, Message, Origin, Outbox, Request, Work};
use crate::proto::close::CloseReason;
use crate::proto::event;
use addresses::{Addresses, Barred};
use guard::{Due, Guards};
use handshake::Newcomer;
use home::Homes;
use lease::Lease;
use link::Links;
use local::{Item, Locals};
use outgoing::Outgoing;
use session::Sessions;
use stats::now_us;
use std::hash::RandomState;
use std::sync::Arc;
use token::Keys;
use users::Users;

/// Why a whole core missed something, in a gap.
const OVERLOAD: &str = "overload";

/// Why a server closes all its connections, in what clients are told.
const RESTART: &str = "restart";

/// Connections whose tokens are looked after in one turn: a million may end in the same second.
const TOKENS_PER_TURN: usize = 256;

/// Subscriptions of a connection that who looks it up is told.
const SUBSCRIPTIONS_TOLD: usize = 100;

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
    /// Anyone may take any name with `?user=`, where there are no keys.
    pub takes_names: bool,
    /// What tokens are verified with; without any, no token is asked for.
    pub keys: Keys,
    /// Who has no token is let in all the same.
    pub anonymous: bool,
    /// Say inside a WebSocket why somebody is not let in.
    pub refuse_in_band: bool,
    /// Limits on connections and rates.
    pub limits: Limits,
    /// Where each core's counters are added up.
    pub board: Arc<Board>,
    /// Origins whose pages may connect; `None` is any. Looked at before a request comes here.
    pub origins: Option<Vec<String>>,
    /// The echo is served beside the hub.
    pub echo: bool,
}

impl Options {
    /// Whether each connection has something that watches over it.
    fn watches(&self) -> bool {
        self.limits.of_addresses() || self.limits.of_rates() || !self.keys.is_empty()
    }

    /// Room for all, no limits and no keys: tests change what they are about.
    #[cfg(test)]
    fn for_tests() -> Options {
        Options {
            namespaces: Namespaces::default(),
            topics_per_connection_max: 4,
            send_queue_bytes_max: 1_000,
            replay_bytes_max: 1 << 20,
            history_bytes_max: 1 << 20,
            slow_budget: Budget::new(64 << 20),
            server_id: "n".into(),
            ping_interval_ms: 0,
            takes_names: true,
            keys: Keys::default(),
            anonymous: false,
            refuse_in_band: true,
            limits: Limits::NONE,
            board: Arc::default(),
            origins: None,
            echo: false,
        }
    }
}

/// One core's share of channels, rooms and users.
pub struct Hub<K: Hooks = Open> {
    options: Arc<Options>,
    hooks: K,
    sessions: Sessions,
    locals: Locals,
    homes: Homes,
    users: Users,
    addresses: Addresses,
    barred: Barred,
    guards: Guards,
    /// Handshakes that wait for the application or for an address's home core.
    newcomers: Table<ConnId, Newcomer>,
    /// Connections that were given a large answer, until it has left.
    outgoing: Outgoing,
    /// This core's share of the newcomers, once the number of cores is known.
    accepts_rate: Option<Rate>,
    accepts: Bucket,
    counters: Arc<Counters>,
    /// For the times at which clients are asked to come back.
    retries: RandomState,
    retries_drawn: u64,
    links: Links,
}

impl<K: Hooks> Hub<K> {
    /// An empty hub.
    pub(crate) fn new(options: Arc<Options>, hooks: K) -> Hub<K> {
        let lease = Lease::new(Arc::clone(&options.slow_budget));
        let counters = options.board.add_core();
        Hub {
            hooks,
            sessions: Sessions::default(),
            locals: Locals::new(options.send_queue_bytes_max, lease, Arc::clone(&counters)),
            homes: Homes::new(Arc::clone(&options)),
            users: Users::default(),
            addresses: Addresses::default(),
            barred: Barred::default(),
            guards: Guards::default(),
            newcomers: Table::default(),
            outgoing: Outgoing::default(),
            accepts_rate: None,
            accepts: Bucket::FULL,
            counters,
            retries: RandomState::new(),
            retries_drawn: 0,
            links: Links::default(),
            options,
        }
    }

    /// Whether a connection speaks the channel protocol.
    pub(crate) fn has(&mut self, conn: ConnId) -> bool {
        self.sessions.get(conn).is_some()
    }

    /// Counts a message that was sent back beside the hub.
    pub(crate) fn count_echo(&self) {
        self.counters.echoes.add(1);
    }

    /// Counts what a limit outside the hub has refused.
    pub(crate) fn count_refusal(&self, limit: Limit) {
        self.counters.refuse(limit);
    }

    /// Goes by other settings from now on. What is counted over all cores goes on being counted where it was.
    fn tune(&mut self, options: Arc<Options>) {
        self.locals.tune(&options);
        self.homes.tune(Arc::clone(&options));
        self.accepts_rate = options.limits.accepts_of_core(self.links.cores());
        self.options = options;
    }

    /// Mail from a core.
    fn receive(&mut self, from: usize, mail: Mail, out: &mut Outbox<Mail>) {
        match mail {
            Mail::Ask(call) => self.handle_call(from, call, out),
            Mail::Answer(call) => {
                self.links.on_answer(from, out);
                self.handle_answer(*call, out);
            }
            Mail::Deliver { topic, offset, frame, except, made_us } => {
                self.locals.append(&topic, Item { frame, from: offset, to: offset, except, made_us });
            }
            Mail::Gap { topic, from, to } => {
                let frame = wire::gap(&topic, from, to, OVERLOAD);
                self.locals.append(&topic, Item { frame, from, to, except: None, made_us: now_us() });
            }
            Mail::Forward { conn, frame } => out.send_frame(conn, frame),
            Mail::Cut { conn, code, reason } => out.close(conn, code, &reason),
            Mail::Tune(options) => self.tune(options),
            Mail::Connect { conn, connect } => self.handle_connect(conn, *connect, out),
        }
    }

    fn handle_call(&mut self, from: usize, call: Box<Call>, out: &mut Outbox<Mail>) {
        match &call.ask {
            Ask::Open { .. }
            | Ask::Close { .. }
            | Ask::Direct { .. }
            | Ask::Disconnect { .. }
            | Ask::Connections { .. } => {
                let most = self.options.limits.connections_per_user;
                self.users.handle_call(from, call, most, &mut self.links, out);
            }
            Ask::Charge { .. } | Ask::Admit { .. } | Ask::Depart { .. } => {
                self.addresses.handle_call(from, call, &self.options.limits, &mut self.links, out);
            }
            Ask::Session { conn } => {
                let session = Answer::Session(self.look(*conn));
                self.links.give(from, call, session, out);
            }
            _ => self.homes.handle_call(from, call, &mut self.links, out),
        }
    }

    /// What is known of a connection of this core that speaks the channel protocol.
    fn look(&mut self, conn: ConnId) -> Option<SessionFacts> {
        let session = self.sessions.get(conn)?;
        let topics = session.subs().take(SUBSCRIPTIONS_TOLD);
        Some(SessionFacts {
            user: session.user().cloned(),
            subscriptions: topics.map(|sub| self.locals.name(sub.topic).clone()).collect(),
            subscription_count: session.subs().count(),
        })
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
            self.accepts_rate = self.options.limits.accepts_of_core(out.cores());
        }
    }
}

impl<K: Hooks> Handler for Hub<K> {
    type Mail = Mail;

    fn on_request(&mut self, request: &Request<'_>, out: &mut Outbox<Mail>) -> Decision {
        self.begin(out);
        let decision = self.judge(request, out);
        self.finish(out);
        decision
    }

    fn on_abandon(&mut self, conn: ConnId, out: &mut Outbox<Mail>) {
        self.forget(conn, out);
        self.finish(out);
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
                self.links.call(home, Call::new(asker, Ask::Open { user, conn }), out);
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
        if let Err(limit) = self.guards.charge(conn, text.len(), &self.options.limits, out.unix_ms()) {
            return self.refuse_over_rate(conn, text, limit, out);
        }
        let Some(session) = self.sessions.get(conn) else { return };
        if session.is_busy() {
            session.rare().waiting.push_back(text.into());
        } else {
            self.run(conn, text, out);
        }
        self.finish(out);
    }

    fn on_control(&mut self, conn: ConnId, bytes: usize, out: &mut Outbox<Mail>) {
        if let Err(limit) = self.guards.charge(conn, bytes, &self.options.limits, out.unix_ms()) {
            // Nothing can be said about a ping but by the close. Some are forgiven, like commands: the one that is too many may be
            // the pong to our own ping.
            self.counters.refuse(limit);
            if self.sessions.get(conn).is_some_and(|session| !session.forgive(out.unix_ms())) {
                self.end(conn, limit.reason(), out);
            }
        }
    }

    fn on_drain(&mut self, conn: ConnId, reconnect_delay_ms: u64, out: &mut Outbox<Mail>) -> bool {
        let Some(session) = self.sessions.get(conn) else { return false };
        if session.is_welcomed() {
            send_shutdown(conn, reconnect_delay_ms, out);
        } else {
            session.rare().reconnect_delay_ms = Some(reconnect_delay_ms); // the welcome is the first frame
        }
        true
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

    fn on_writable(&mut self, conn: ConnId, out: &mut Outbox<Mail>) {
        let Some(session) = self.sessions.get(conn) else { return };
        session.set_blocked(false);
        self.locals.begin_catching_up(&mut self.sessions, conn);
        self.end_wait(conn, out);
        self.finish(out);
    }

    fn on_turn(&mut self, out: &mut Outbox<Mail>) -> Work {
        self.begin(out);
        self.end_waits(out);
        self.finish(out);
        let all_sent = self.links.flush_all(out);
        let none_lags = self.homes.bring_up(&mut self.links, out);
        self.finish(out);
        let all_warned = self.look_after_tokens(out);
        let all_served = self.locals.step(&mut self.sessions, &self.options.namespaces, out);
        self.set_gauges();
        match (all_served && all_warned && self.outgoing.is_empty(), all_sent && none_lags) {
            (false, _) => Work::Now,
            (true, false) => Work::Soon, // a ring is full, and nobody tells when it is not
            (true, true) => Work::None,
        }
    }

    fn user(&mut self, conn: ConnId) -> Option<String> {
        self.sessions.get(conn)?.user().map(|user| user.to_string())
    }

    fn on_tick(&mut self, now_ms: u64, out: &mut Outbox<Mail>) {
        self.begin(out);
        self.homes.on_tick(now_ms, &mut self.links, out);
        self.locals.on_tick();
        self.addresses.on_tick(&self.options.limits, out.unix_ms());
        self.barred.on_tick(self.options.limits.accepts_per_address.as_ref(), out.unix_ms());
        self.finish(out);
    }

    fn on_close(&mut self, conn: ConnId, _: CloseReason, out: &mut Outbox<Mail>) {
        self.begin(out);
        let Some(session) = self.sessions.remove(conn) else { return };
        self.stop_watching(conn, out);
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
        let reconnect_delay_ms = session.take_reconnect_delay();
        let user = session.user().map(|user| &**user);
        let (id, options) = (wire::connection_id(out.core(), conn), &self.options);
        let frame = wire::frame(|json| {
            event::append_welcome(json, &id, user, &options.server_id, options.ping_interval_ms);
        });
        out.send_frame(conn, frame);
        if let Some(delay_ms) = reconnect_delay_ms {
            send_shutdown(conn, delay_ms, out);
        }
        self.hooks.on_open(&Client { conn, core: self.links.core(), user });
        self.guards.schedule(conn, seconds(out));
    }

    /// Warns those whose tokens end soon and closes those whose have, in bounded steps. True when nothing is left to do.
    fn look_after_tokens(&mut self, out: &mut Outbox<Mail>) -> bool {
        for _ in 0..TOKENS_PER_TURN {
            match self.guards.take_due(seconds(out)) {
                None => return true,
                Some((conn, Due::End)) => self.end(conn, CloseReason::TokenExpired, out),
                Some((conn, Due::Warn { expires_in_s })) => {
                    let expires_in_s = expires_in_s.into();
                    out.send_frame(conn, wire::frame(|json| event::append_expiring(json, expires_in_s)));
                }
            }
        }
        false
    }

    /// Closes a connection; nothing is done for it any more.
    fn end(&mut self, conn: ConnId, reason: CloseReason, out: &mut Outbox<Mail>) {
        if let Some(session) = self.sessions.get(conn) {
            session.end();
            out.end(conn, reason);
        }
    }
}

/// The wall clock, in seconds since 1970, as tokens count.
fn seconds(out: &Outbox<Mail>) -> u32 {
    u32::try_from(out.unix_ms() / 1_000).unwrap_or(u32::MAX)
}

/// Tells a client when to come back.
fn send_shutdown(conn: ConnId, reconnect_delay_ms: u64, out: &mut Outbox<Mail>) {
    out.send_frame(
        conn,
        wire::frame(|json| event::append_server_shutdown(json, RESTART, reconnect_delay_ms)),
    );
}

#[cfg(test)]
mod tests;
