//! What clients ask: a command is checked, sent to the home core it concerns, and answered when the call comes back.
//!
//! Of the commands that change subscriptions, and of those with large answers, a connection does one at a time; meanwhile it
//! is held, and what it had sent already waits in order. All others go on at once. Each command with an id gets one reply.

use super::guard::Pass;
use super::hooks::{Client, Hooks};
use super::limit::Limit;
use super::mail::{Answer, Ask, Asker, Call, Mail, Subscribed};
use super::name::Name;
use super::namespace::Publishers;
use super::session::{Leaving, Session, SubRef};
use super::{Hub, seconds, wire};
use crate::buf::Payload;
use crate::handler::{ConnId, Outbox};
use crate::proto::close::CloseReason;
use crate::proto::command::{Command, ErrorCode, Parsed, Place, Recover, Refusal, Topic, parse};
use crate::proto::event::{self, Sender, Start};

/// Users or publications in one answer: what is asked for, at most the second.
const PAGE: (u32, u32) = (100, 1_000);

/// A command that cannot be done.
struct Refused {
    code: ErrorCode,
    text: String,
}

fn refused<T>(code: ErrorCode, text: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { code, text: text.into() })
}

impl<K: Hooks> Hub<K> {
    /// Does what one message asks.
    pub(super) fn run(&mut self, conn: ConnId, text: &str, out: &mut Outbox<Mail>) {
        let parsed = parse(text);
        self.count_message(&parsed);
        match parsed {
            Ok(Parsed { id, command }) => {
                if let Err(Refused { code, text }) = self.execute(conn, id, command, out) {
                    self.refuse(conn, id, code, &text, out);
                }
            }
            Err(refusal) => self.refuse(conn, refusal.id.as_deref(), refusal.code, &refusal.text, out),
        }
    }

    fn count_message(&self, parsed: &Result<Parsed<'_>, Refusal>) {
        match parsed {
            Ok(parsed) => self.counters.received[parsed.command.verb() as usize].add(1),
            Err(_) => self.counters.invalid.add(1),
        }
    }

    fn execute(
        &mut self,
        conn: ConnId,
        id: Option<&str>,
        command: Command<'_>,
        out: &mut Outbox<Mail>,
    ) -> Result<(), Refused> {
        match command {
            Command::Subscribe { topic, recover } => self.subscribe(conn, id, &topic, recover, out),
            Command::Unsubscribe { topic } => self.unsubscribe(conn, id, &topic, out),
            Command::LeaveAll => {
                self.leave_all(conn, id, out);
                Ok(())
            }
            Command::Publish { topic, data, echo } => self.publish(conn, id, &topic, data, echo, out),
            Command::Direct { user, payload } => self.direct(conn, id, &user, payload, out),
            Command::Presence { topic, limit, after } => {
                let topic = self.topic_to_look_at(conn, &topic)?;
                if !self.options.namespaces.of(&topic).presence {
                    return refused(
                        ErrorCode::Forbidden,
                        format!("{} keeps no presence", wire::topic(&topic).name),
                    );
                }
                let after = after.map(|after| after.as_ref().into());
                self.ask(conn, id, Ask::Presence { topic, limit: page(limit), after }, out)
            }
            Command::History { topic, limit, since_id } => {
                let topic = self.topic_to_look_at(conn, &topic)?;
                self.ask(conn, id, Ask::History { topic, limit: page(limit), since: since_id }, out)
            }
            Command::Refresh { token } => self.refresh(conn, id, &token, out),
            Command::Ping => {
                let now = out.unix_ms();
                out.send_frame(conn, wire::frame(|json| event::append_pong(json, id, now)));
                Ok(())
            }
        }
    }

    fn subscribe(
        &mut self,
        conn: ConnId,
        id: Option<&str>,
        topic: &Topic<'_>,
        recover: Option<Recover<'_>>,
        out: &mut Outbox<Mail>,
    ) -> Result<(), Refused> {
        let name = wire::internal(topic);
        let number = self.locals.number(&name);
        let Some(session) = self.sessions.get(conn) else { return Ok(()) };
        if number.is_some_and(|number| session.sub(number).is_some()) {
            return refused(ErrorCode::BadRequest, format!("already subscribed to {}", topic.name));
        }
        let most = self.options.topics_per_connection_max;
        if session.subs().count() >= most {
            return refused(ErrorCode::TopicLimit, format!("a connection may have {most} subscriptions"));
        }
        let user = session.user().cloned();
        if !self.may_subscribe(conn, user.as_ref(), &name) {
            return refused(ErrorCode::Forbidden, format!("may not subscribe to {}", topic.name));
        }
        if recover.is_some() && self.sessions.get(conn).is_some_and(|session| session.note_return()) {
            self.counters.reconnections.add(1);
        }
        let since = recover.and_then(|recover| wire::position(&recover.epoch, recover.last_id));
        self.set_busy(conn, out);
        let topic = Name::new(&name);
        let home = topic.home(self.links.cores());
        let call = client_call(conn, id, Ask::Subscribe { topic, user, since });
        self.links.call(home, call, out);
        Ok(())
    }

    /// Whether token and application let a client subscribe to a topic.
    fn may_subscribe(&mut self, conn: ConnId, user: Option<&Name>, topic: &str) -> bool {
        self.guards.may_subscribe(conn, topic) && self.hooks.may_subscribe(&self.client(conn, user), topic)
    }

    /// A client, as the application sees it.
    fn client<'a>(&self, conn: ConnId, user: Option<&'a Name>) -> Client<'a> {
        Client { conn, core: self.links.core(), user: user.map(|user| &**user) }
    }

    fn unsubscribe(
        &mut self,
        conn: ConnId,
        id: Option<&str>,
        topic: &Topic<'_>,
        out: &mut Outbox<Mail>,
    ) -> Result<(), Refused> {
        let number = self.locals.number(&wire::internal(topic));
        let sub = self.sessions.get(conn).and_then(|session| session.sub(number?));
        let Some(sub) = sub else {
            return refused(ErrorCode::NotSubscribed, format!("not subscribed to {}", topic.name));
        };
        self.set_busy(conn, out);
        self.drop_subscription(conn, sub, client_asks(conn, id), out);
        Ok(())
    }

    /// Ends a subscription here at once and tells its home, whose answer is for `asker`.
    fn drop_subscription(&mut self, conn: ConnId, sub: SubRef, asker: Asker, out: &mut Outbox<Mail>) -> Name {
        let topic = self.locals.name(sub.topic).clone();
        let owed = self.locals.detach(sub);
        let mut user = None;
        if let Some(session) = self.sessions.get(conn) {
            session.remove_sub(sub);
            if owed > 0 {
                *session.owed_bytes() -= owed;
            }
            user = session.user().cloned();
        }
        self.hooks.on_unsubscribe(&self.client(conn, user.as_ref()), &topic);
        let home = topic.home(self.links.cores());
        let ask = Ask::Unsubscribe { topic: topic.clone(), user };
        self.links.call(home, Call::new(asker, ask), out);
        topic
    }

    fn leave_all(&mut self, conn: ConnId, id: Option<&str>, out: &mut Outbox<Mail>) {
        let Some(session) = self.sessions.get(conn) else { return };
        let is_room = |number| wire::topic(self.locals.name(number)).place == Place::Room;
        let rooms: Vec<_> = session.subs().filter(|sub| is_room(sub.topic)).collect();
        if rooms.is_empty() {
            return reply_left_all(conn, id, &[], out);
        }
        self.set_busy(conn, out);
        let drop_one = |sub| self.drop_subscription(conn, sub, client_asks(conn, id), out);
        let rooms: Vec<Name> = rooms.into_iter().map(drop_one).collect();
        if let Some(session) = self.sessions.get(conn) {
            let outstanding = rooms.len();
            session.rare().leaving = Some(Leaving { id: id.map(Box::from), rooms, outstanding });
        }
    }

    fn publish(
        &mut self,
        conn: ConnId,
        id: Option<&str>,
        topic: &Topic<'_>,
        data: &str,
        echo: bool,
        out: &mut Outbox<Mail>,
    ) -> Result<(), Refused> {
        let name = wire::internal(topic);
        let number = self.locals.number(&name);
        let Some(session) = self.sessions.get(conn) else { return Ok(()) };
        let settings = self.options.namespaces.of(&name);
        let is_subscribed = number.is_some_and(|number| session.sub(number).is_some());
        let user = session.user().cloned();
        let allowed = match settings.publishers {
            Publishers::Anyone => true,
            Publishers::Subscribers if !is_subscribed => {
                return refused(ErrorCode::NotSubscribed, format!("not subscribed to {}", topic.name));
            }
            Publishers::Subscribers => true,
            Publishers::Users => user.is_some(),
            Publishers::Server => false,
        };
        if !allowed
            || !self.guards.may_publish(conn, &name)
            || !self.hooks.may_publish(&self.client(conn, user.as_ref()), &name, data)
        {
            return refused(ErrorCode::Forbidden, format!("may not publish to {}", topic.name));
        }
        if data.len() > settings.data_bytes_max {
            let most = settings.data_bytes_max;
            return refused(ErrorCode::TooLarge, format!("{} takes {most} bytes at a time", topic.name));
        }
        let except = (!echo).then_some(conn);
        self.ask(conn, id, Ask::Publish { topic: Name::new(&name), data: data.into(), user, except }, out)
    }

    fn direct(
        &mut self,
        conn: ConnId,
        id: Option<&str>,
        user: &str,
        payload: &str,
        out: &mut Outbox<Mail>,
    ) -> Result<(), Refused> {
        let Some(session) = self.sessions.get(conn) else { return Ok(()) };
        let from = session.user().map_or(Sender::Anonymous, |from| Sender::User(from));
        let now = out.unix_ms();
        let frame = wire::frame(|json| event::append_direct_message(json, from, payload, now));
        self.ask(conn, id, Ask::Direct { user: Name::new(user), frame }, out)
    }

    /// A new token takes the place of the old one, if it is the same user's.
    fn refresh(
        &mut self,
        conn: ConnId,
        id: Option<&str>,
        token: &str,
        out: &mut Outbox<Mail>,
    ) -> Result<(), Refused> {
        if self.options.keys.is_empty() {
            return refused(ErrorCode::BadRequest, "this server takes no tokens");
        }
        let now_unix_s = seconds(out);
        let pass = match self.options.keys.verify(token, now_unix_s.into()) {
            Ok(claims) => Pass::from(claims),
            Err(error) => {
                tracing::debug!(reason = error.name(), "token of a refresh refused");
                return refused(ErrorCode::Unauthorized, "the token is not accepted");
            }
        };
        match self.guards.pass(conn) {
            Some(old) if old.bearer == pass.bearer => {}
            Some(_) => return refused(ErrorCode::Unauthorized, "the token is another user's"),
            // It came when there were neither keys nor limits.
            None => return refused(ErrorCode::Unauthorized, "connect anew with the token"),
        }
        let expires_in_s = pass.expires_in_s(now_unix_s);
        self.guards.renew(conn, pass, now_unix_s);
        self.drop_what_is_not_granted(conn, out);
        reply(conn, id, out, |json, id| event::append_refreshed(json, id, expires_in_s.into()));
        Ok(())
    }

    /// Ends the subscriptions that a new token does not allow; the client is told of each.
    fn drop_what_is_not_granted(&mut self, conn: ConnId, out: &mut Outbox<Mail>) {
        let Some(session) = self.sessions.get(conn) else { return };
        let subs: Vec<SubRef> = session.subs().collect();
        for sub in subs {
            if !self.guards.may_subscribe(conn, self.locals.name(sub.topic)) {
                let topic = self.drop_subscription(conn, sub, Asker::Core, out);
                let frame = wire::frame(|json| event::append_unsubscribed(json, None, &wire::topic(&topic)));
                out.send_frame(conn, frame);
            }
        }
    }

    /// A topic whose presence or history a client may see: one it is or could be subscribed to.
    fn topic_to_look_at(&mut self, conn: ConnId, topic: &Topic<'_>) -> Result<Name, Refused> {
        let name = wire::internal(topic);
        let number = self.locals.number(&name);
        let session = self.sessions.get(conn);
        let user = session.as_ref().and_then(|session| session.user().cloned());
        let is_subscribed =
            number.is_some_and(|number| session.is_some_and(|session| session.sub(number).is_some()));
        let is_allowed = if is_subscribed {
            self.guards.may_subscribe(conn, &name) // the application has let it subscribe
        } else {
            self.may_subscribe(conn, user.as_ref(), &name)
        };
        if !is_allowed {
            return refused(ErrorCode::Forbidden, format!("may not look at {}", topic.name));
        }
        Ok(Name::new(&name))
    }

    /// Sends a call that may be refused. While one is out whose answer may be large, the next command waits.
    fn ask(
        &mut self,
        conn: ConnId,
        id: Option<&str>,
        ask: Ask,
        out: &mut Outbox<Mail>,
    ) -> Result<(), Refused> {
        let name = match &ask {
            Ask::Publish { topic, .. } | Ask::Presence { topic, .. } | Ask::History { topic, .. } => topic,
            Ask::Direct { user, .. } => user,
            _ => unreachable!("it changes subscriptions, and may not be refused"),
        };
        let home = name.home(self.links.cores());
        let is_for_much = matches!(ask, Ask::Presence { .. } | Ask::History { .. });
        if self.links.try_call(home, client_call(conn, id, ask), out).is_err() {
            return refused(ErrorCode::TryAgain, "the server is busy");
        }
        if is_for_much {
            self.set_busy(conn, out);
        }
        Ok(())
    }

    /// A call has come back.
    pub(super) fn handle_answer(&mut self, call: Call, out: &mut Outbox<Mail>) {
        let Call { asker: Asker::Client { conn, id }, ask, answer: Some(answer) } = call else { return };
        let id = id.as_deref();
        match (ask, answer) {
            (Ask::Subscribe { topic, user, .. }, Answer::Subscribed(subscribed)) => {
                self.handle_subscribed(conn, id, topic, user, subscribed, out);
            }
            (Ask::Unsubscribe { topic, .. }, _) => self.handle_unsubscribed(conn, id, &topic, out),
            (Ask::Admit { address, .. }, Answer::Done) => self.handle_admitted(conn, address, None, out),
            (Ask::Admit { address, .. } | Ask::Charge { address }, Answer::Refused(limit)) => {
                self.handle_admitted(conn, address, Some(limit), out);
            }
            (Ask::Charge { .. }, _) => {}
            (Ask::Open { .. }, Answer::Refused(limit)) => self.handle_unopened(conn, limit, out),
            (Ask::Open { .. }, _) => {
                self.welcome(conn, out);
                self.end_busy(conn, out);
            }
            (Ask::Publish { topic, user, .. }, Answer::Published { offset }) => {
                self.hooks.on_publish(&self.client(conn, user.as_ref()), &topic, offset);
                reply_published(conn, id, &topic, offset, out);
            }
            (Ask::Presence { topic, .. }, Answer::Presence { users, total }) => {
                reply(conn, id, out, |json, id| {
                    let users = users.iter().map(|(user, connections)| (&**user, u64::from(*connections)));
                    event::append_presence(json, id, &wire::topic(&topic), users, total as u64);
                });
                self.wait_until_sent(conn);
            }
            (Ask::History { topic, .. }, Answer::History { last, frames }) => {
                reply(conn, id, out, |json, id| {
                    let (prefix, epoch) = (wire::prefix(&topic), wire::epoch(last.epoch));
                    let items = frames.iter().map(|frame| wire::rest(frame, &prefix));
                    event::append_history(json, id, &wire::topic(&topic), &epoch, last.offset, items);
                });
                self.wait_until_sent(conn);
            }
            (Ask::Direct { .. }, Answer::Sent { connections }) => reply(conn, id, out, |json, id| {
                event::append_sent(json, id, Some(connections as u64));
            }),
            (Ask::Presence { .. } | Ask::History { .. }, Answer::TryAgain) => {
                self.refuse(conn, id, ErrorCode::TryAgain, "the server is busy", out);
                self.end_busy(conn, out);
            }
            (_, Answer::TryAgain) => self.refuse(conn, id, ErrorCode::TryAgain, "the server is busy", out),
            _ => unreachable!("a home core answers what was asked"),
        }
    }

    /// Its user has too many connections: it is told, and ends.
    fn handle_unopened(&mut self, conn: ConnId, limit: Limit, out: &mut Outbox<Mail>) {
        self.counters.refuse(limit);
        if !self.has(conn) {
            return; // it has gone, and is told nothing
        }
        let code = limit.error();
        self.counters.errors[code as usize].add(1);
        out.send_frame(conn, wire::frame(|json| event::append_error(json, None, code, code.text())));
        self.end(conn, limit.reason(), out);
    }

    fn handle_subscribed(
        &mut self,
        conn: ConnId,
        id: Option<&str>,
        topic: Name,
        user: Option<Name>,
        subscribed: Subscribed,
        out: &mut Outbox<Mail>,
    ) {
        let Some(session) = self.sessions.get(conn) else {
            // It has gone meanwhile: the home core counts it, and must not.
            let home = topic.home(self.links.cores());
            return self.links.call(home, Call::own(Ask::Unsubscribe { topic, user }), out);
        };
        let sub = self.locals.attach(&topic, conn, session.is_passed_by(), &self.options.namespaces);
        session.add_sub(sub);
        let Subscribed { last, recovered, missed, members } = subscribed;
        let is_large = !missed.is_empty();
        if is_large {
            let frames: Vec<&[u8]> = missed.iter().map(|frame| &frame[..]).collect();
            out.send_frames(conn, Payload::new(&frames), missed.len() as u32);
        }
        let epoch = wire::epoch(last.epoch);
        let start = Start { epoch: &epoch, last_id: last.offset, recovered };
        let keeps_history = self.options.namespaces.of(&topic).history_count_max > 0;
        reply(conn, id, out, |json, id| {
            let Topic { place, name } = wire::topic(&topic);
            match place {
                Place::Channel => event::append_subscribed(json, id, &name, &start),
                Place::Room => {
                    event::append_joined(json, id, &name, members, keeps_history.then_some(&start))
                }
            }
        });
        self.hooks.on_subscribe(&self.client(conn, user.as_ref()), &topic);
        if is_large { self.wait_until_sent(conn) } else { self.end_busy(conn, out) }
    }

    fn handle_unsubscribed(&mut self, conn: ConnId, id: Option<&str>, topic: &Name, out: &mut Outbox<Mail>) {
        let Some(session) = self.sessions.get(conn) else { return };
        match &mut session.rare().leaving {
            Some(Leaving { outstanding, .. }) if *outstanding > 1 => return *outstanding -= 1,
            leaving => match leaving.take() {
                Some(Leaving { id, rooms, .. }) => reply_left_all(conn, id.as_deref(), &rooms, out),
                None => reply(conn, id, out, |json, id| {
                    event::append_unsubscribed(json, Some(id), &wire::topic(topic));
                }),
            },
        }
        self.end_busy(conn, out);
    }

    pub(super) fn set_busy(&mut self, conn: ConnId, out: &mut Outbox<Mail>) {
        if let Some(session) = self.sessions.get(conn) {
            session.set_busy(true);
            out.hold(conn);
        }
    }

    /// It was given a large answer, and stays busy until that has left.
    fn wait_until_sent(&mut self, conn: ConnId) {
        if let Some(session) = self.sessions.get(conn) {
            session.set_answered();
            self.outgoing.add(conn);
        }
    }

    /// Ends the wait of those whose large answers have left. Of those whose sockets were full, their room does.
    pub(super) fn end_waits(&mut self, out: &mut Outbox<Mail>) {
        for conn in self.outgoing.end_turn() {
            if self.sessions.get(conn).is_some_and(|session| !session.is_blocked()) {
                self.end_wait(conn, out);
            }
        }
    }

    pub(super) fn end_wait(&mut self, conn: ConnId, out: &mut Outbox<Mail>) {
        if self.sessions.get(conn).is_some_and(Session::take_answered) {
            self.end_busy(conn, out);
        }
    }

    /// Goes on with the commands that waited.
    fn end_busy(&mut self, conn: ConnId, out: &mut Outbox<Mail>) {
        if let Some(session) = self.sessions.get(conn) {
            session.set_busy(false);
        }
        while let Some(session) = self.sessions.get(conn)
            && !session.is_busy()
            && !session.is_ended()
        {
            match session.take_waiting() {
                Some(text) => self.run(conn, &text, out),
                None => return out.resume(conn),
            }
        }
    }

    /// A message came too soon: it is not done, and its sender is told so.
    pub(super) fn refuse_over_rate(
        &mut self,
        conn: ConnId,
        text: &str,
        limit: Limit,
        out: &mut Outbox<Mail>,
    ) {
        let code = limit.error();
        let parsed = parse(text);
        self.count_message(&parsed);
        match parsed {
            Ok(Parsed { id, .. }) => self.refuse(conn, id, code, code.text(), out),
            Err(refusal) => self.refuse(conn, refusal.id.as_deref(), code, code.text(), out),
        }
    }

    fn refuse(
        &mut self,
        conn: ConnId,
        id: Option<&str>,
        code: ErrorCode,
        text: &str,
        out: &mut Outbox<Mail>,
    ) {
        let Some(session) = self.sessions.get(conn) else { return };
        self.counters.errors[code as usize].add(1);
        let limit = Limit::of_command(code);
        if let Some(limit) = limit {
            self.counters.refuse(limit);
        }
        // Being asked to try again is no fault of the client's.
        if code != ErrorCode::TryAgain && !session.forgive(out.unix_ms()) {
            let reason = match limit {
                Some(limit @ (Limit::Messages | Limit::Bytes)) => limit.reason(),
                _ => CloseReason::TooManyErrors,
            };
            return self.end(conn, reason, out);
        }
        out.send_frame(conn, wire::frame(|json| event::append_error(json, id, code, text)));
    }
}

fn client_asks(conn: ConnId, id: Option<&str>) -> Asker {
    Asker::Client { conn, id: id.map(Box::from) }
}

fn client_call(conn: ConnId, id: Option<&str>, ask: Ask) -> Box<Call> {
    Call::new(client_asks(conn, id), ask)
}

fn page(limit: Option<u32>) -> usize {
    let (asked, most) = PAGE;
    limit.unwrap_or(asked).min(most) as usize
}

/// Replies to a command that has an id.
fn reply(conn: ConnId, id: Option<&str>, out: &mut Outbox<Mail>, append: impl FnOnce(&mut Vec<u8>, &str)) {
    if let Some(id) = id {
        out.send_frame(conn, wire::frame(|json| append(json, id)));
    }
}

fn reply_published(conn: ConnId, id: Option<&str>, topic: &str, offset: u64, out: &mut Outbox<Mail>) {
    let Topic { place, name } = wire::topic(topic);
    reply(conn, id, out, |json, id| match place {
        Place::Channel => event::append_published(json, id, &name, offset),
        Place::Room => event::append_sent(json, id, None),
    });
}

fn reply_left_all(conn: ConnId, id: Option<&str>, rooms: &[Name], out: &mut Outbox<Mail>) {
    let rooms: Vec<_> = rooms.iter().map(|room| wire::topic(room).name).collect();
    reply(conn, id, out, |json, id| event::append_left_all(json, id, rooms.iter().map(|room| &**room)));
}
