//! Channels, rooms and users of a running server, from any thread or task.
//!
//! A request goes to the home core it concerns; what comes back is a [`Pending`], which a thread waits for, a task awaits,
//! and who does not care drops. Nothing here blocks until somebody waits.

use super::handle::Handle;
use super::{Builder, Front, Server};
use crate::config::Config;
use crate::ds::Rate;
use crate::handler::ConnId;
use crate::hub::{
    self, Answer, Ask, Asker, Board, Budget, Call, Connect, Figures, Hooks, Limits, Mail, Name,
};
use crate::proto::command::{ROOM_MARK, is_name};
use crate::sys::clock;
use crate::sys::host::{self, HostFacts};
use serde::de::IgnoredAny;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

impl Builder {
    /// The application is the hub: channels, rooms, users, presence and history. `make(core)` is called once on each
    /// core and gives what the application adds; [`hub::Open`] adds nothing.
    ///
    /// ```no_run
    /// use megasock::{Server, hub::Open};
    /// let running = Server::builder().hub(|_core| Open).start()?;
    /// running.handle().publish("scores", br#"{"home":1}"#)?;
    /// running.wait();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn hub<K, F>(self, make: F) -> Server<impl Fn(usize) -> Front<K> + Send + Sync + 'static>
    where
        K: Hooks,
        F: Fn(usize) -> K + Send + Sync + 'static,
    {
        let options = Arc::new(options(&self.config));
        let board = Arc::clone(&options.board);
        let server = self.handler(move |core| Front::new(Arc::clone(&options), make(core)));
        Server { board, ..server }
    }
}

/// The hub's part of a configuration.
pub(super) fn options(config: &Config) -> hub::Options {
    let slow_budget_bytes = config.slow_consumer_budget_bytes.unwrap_or_else(auto_slow_budget_bytes);
    hub::Options {
        namespaces: config.namespaces.clone(),
        topics_per_connection_max: config.max_topics_per_connection as usize,
        send_queue_bytes_max: config.send_queue_bytes_max,
        replay_bytes_max: config.send_queue_bytes_max / 2,
        history_bytes_max: config.history_bytes_per_core,
        slow_budget: Budget::new(slow_budget_bytes as usize),
        server_id: server_id(config),
        ping_interval_ms: config.ping_interval_ms.unwrap_or(0),
        takes_names: !config.production,
        keys: config.keys.clone(),
        anonymous: config.anonymous,
        refuse_in_band: config.refuse_in_band,
        limits: limits(config),
        board: Arc::new(Board::default()),
        origins: config.origins.clone(),
        echo: config.echo.unwrap_or(!config.production),
    }
}

/// The bytes of `slow_consumer_budget = "auto"`: a quarter of the memory.
pub(crate) fn auto_slow_budget_bytes() -> u64 {
    HostFacts::read().memory_bytes() / 4
}

/// This node, as clients and metrics name it: by its host where the configuration does not say.
pub(crate) fn server_id(config: &Config) -> String {
    config.server_id.clone().unwrap_or_else(host::name)
}

/// The limits of a configuration: those on addresses, users and rates hold in production only.
fn limits(config: &Config) -> Limits {
    if !config.production {
        return Limits::NONE;
    }
    // Two seconds' worth at once: who was quiet for a moment may catch up.
    let rate = |per_s: Option<u32>| per_s.map(|per_s| Rate::new(per_s.into(), 2 * u64::from(per_s)));
    // Of bytes at least one message of the largest size, or it could never be sent.
    let bytes = |per_s: u32| {
        let at_once = (2 * u64::from(per_s)).max(config.max_message_bytes as u64);
        Rate::new(per_s.into(), at_once)
    };
    Limits {
        accepts_per_s: config.accept_rate,
        accepts_per_address: rate(config.accept_rate_per_address),
        connections_per_address: config.max_connections_per_address,
        connections_per_user: config.max_connections_per_user,
        messages: rate(config.message_rate),
        bytes: config.byte_rate.map(bytes),
    }
}

/// Users or messages in one answer.
const PAGE_MAX: usize = 1_000;

/// Why a request could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalid {
    /// A topic or user has 1 to 255 bytes, no control characters, and is not made of separators alone.
    Name,
    /// What is sent must be one JSON value.
    Json,
    /// There is no such connection.
    ConnectionId,
    /// The server has stopped.
    Stopped,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Invalid::Name => {
                "a name has 1 to 255 bytes, no control characters, and is not made of separators alone"
            }
            Invalid::Json => "what is sent must be one JSON value",
            Invalid::ConnectionId => "there is no such connection",
            Invalid::Stopped => "the server has stopped",
        })
    }
}

impl std::error::Error for Invalid {}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unanswered {
    /// The server has stopped.
    Stopped,
    /// There was no room on the way between cores; nothing was done.
    TryAgain,
    /// Not within the time given; it may still happen.
    Timeout,
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unanswered::Stopped => "the server has stopped",
            Unanswered::TryAgain => "the server is busy: try again",
            Unanswered::Timeout => "there was no answer in time",
        })
    }
}

impl std::error::Error for Unanswered {}

/// An answer on its way. Await it, [`Pending::wait`] for it, or drop it: the request is carried out all the same.
pub struct Pending<T> {
    answer: oneshot::Receiver<Answer>,
    /// `None`: nothing was done.
    read: Box<dyn Fn(Answer) -> Option<T> + Send>,
}

impl<T> Pending<T> {
    pub(super) fn new(
        answer: oneshot::Receiver<Answer>,
        read: impl Fn(Answer) -> Option<T> + Send + 'static,
    ) -> Pending<T> {
        Pending { answer, read: Box::new(read) }
    }

    /// Blocks until the answer is there. Not for a core's thread: it would wait for itself.
    ///
    /// # Errors
    /// Why there is no answer, see [`Unanswered`].
    pub fn wait(self, timeout: Duration) -> Result<T, Unanswered> {
        let answer = self.answer.recv_timeout(timeout).map_err(|error| match error {
            oneshot::RecvTimeoutError::Timeout => Unanswered::Timeout,
            oneshot::RecvTimeoutError::Disconnected => Unanswered::Stopped,
        })?;
        (self.read)(answer).ok_or(Unanswered::TryAgain)
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T, Unanswered>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer).poll(context).map(|answer| {
            let answer = answer.map_err(|_| Unanswered::Stopped)?;
            (self.read)(answer).ok_or(Unanswered::TryAgain)
        })
    }
}

/// A page of the users in a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserPage {
    /// Names in order, each with its number of subscribed connections.
    pub users: Vec<(String, u32)>,
    /// Users on all pages.
    pub total: usize,
}

/// Part of a topic's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryPage {
    /// Offsets of another epoch mean other messages.
    pub epoch: String,
    /// The newest message, here or not.
    pub last_id: u64,
    /// JSON objects with `id`, `data` and `ts`, oldest first.
    pub messages: Vec<String>,
}

/// A topic is a channel, or a room when its name begins with `room:`. Data is one JSON value.
impl Handle<Mail> {
    /// Publishes to a topic; the answer is the message's offset.
    ///
    /// # Errors
    /// The name or the data is invalid, or the server has stopped.
    pub fn publish(&self, topic: &str, data: impl AsRef<[u8]>) -> Result<Pending<u64>, Invalid> {
        let (name, data) = (topic_name(topic)?, json(data.as_ref())?);
        let ask = Ask::Publish { topic: name.clone(), data: data.into(), user: None, except: None };
        let answer = self.ask(name.home(self.cores()), ask)?;
        Ok(Pending::new(answer, |answer| match answer {
            Answer::Published { offset } => Some(offset),
            _ => None,
        }))
    }

    /// Sends a direct message to every connection of a user; the answer is their number.
    ///
    /// # Errors
    /// The name or the data is invalid, or the server has stopped.
    pub fn send_to_user(&self, user: &str, data: impl AsRef<[u8]>) -> Result<Pending<usize>, Invalid> {
        let (user, data) = (user_name(user)?, json(data.as_ref())?);
        let frame = hub::direct_from_server(data, clock::unix_ms());
        let answer = self.ask(user.home(self.cores()), Ask::Direct { user, frame })?;
        Ok(Pending::new(answer, connections))
    }

    /// The users subscribed to a topic, in the order of their names: up to `limit`, at most 1,000, that come after `after`.
    ///
    /// # Errors
    /// The name is invalid, or the server has stopped.
    pub fn presence(
        &self,
        topic: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Pending<UserPage>, Invalid> {
        let topic = topic_name(topic)?;
        let home = topic.home(self.cores());
        let answer =
            self.ask(home, Ask::Presence { topic, limit: limit.min(PAGE_MAX), after: after.map(Box::from) })?;
        Ok(Pending::new(answer, |answer| match answer {
            Answer::Presence { users, total } => {
                let users =
                    users.iter().map(|(user, connections)| (user.to_string(), *connections)).collect();
                Some(UserPage { users, total })
            }
            _ => None,
        }))
    }

    /// Up to `limit`, at most 1,000, messages of a topic's history: those after `since`, or else the newest.
    ///
    /// # Errors
    /// The name is invalid, or the server has stopped.
    pub fn history(
        &self,
        topic: &str,
        since: Option<u64>,
        limit: usize,
    ) -> Result<Pending<HistoryPage>, Invalid> {
        let topic = topic_name(topic)?;
        let name = topic.clone();
        let answer =
            self.ask(topic.home(self.cores()), Ask::History { topic, limit: limit.min(PAGE_MAX), since })?;
        Ok(Pending::new(answer, move |answer| match answer {
            Answer::History { last, frames } => Some(HistoryPage {
                epoch: hub::epoch(last.epoch),
                last_id: last.offset,
                messages: hub::history_items(&name, &frames),
            }),
            _ => None,
        }))
    }

    /// Closes every connection of a user with this code and reason, see [`crate::Outbox::close`]; the answer is their number.
    ///
    /// # Errors
    /// The name is invalid, or the server has stopped.
    pub fn disconnect_user(&self, user: &str, code: u16, reason: &str) -> Result<Pending<usize>, Invalid> {
        let user = user_name(user)?;
        let home = user.home(self.cores());
        let answer = self.ask(home, Ask::Disconnect { user, code, reason: Name::new(reason) })?;
        Ok(Pending::new(answer, connections))
    }

    /// Closes one connection, by the id its welcome told. One that has gone is passed over.
    ///
    /// # Errors
    /// The id is malformed or names a core that does not exist, or the server has stopped.
    pub fn disconnect(&self, connection_id: &str, code: u16, reason: &str) -> Result<(), Invalid> {
        let (core, conn) = self.place(connection_id).ok_or(Invalid::ConnectionId)?;
        let cut = Mail::Cut { conn, code, reason: Name::new(reason) };
        self.send(core, cut).map_err(|_| Invalid::Stopped)
    }

    /// Decides a request that [`Hooks::on_connect`] has left open with [`Connect::Later`] on this core, for this connection
    /// ([`crate::Request::conn`]). One that has gone meanwhile, or is decided, is passed over.
    ///
    /// # Errors
    /// There is no such core, or the server has stopped.
    pub fn connect(&self, core: usize, conn: ConnId, connect: Connect) -> Result<(), Invalid> {
        if core >= self.cores() {
            return Err(Invalid::ConnectionId);
        }
        let mail = Mail::Connect { conn, connect: Box::new(connect) };
        self.send(core, mail).map_err(|_| Invalid::Stopped)
    }

    /// The hub's counters, summed over all cores. Reads shared counters only: never blocks.
    pub fn figures(&self) -> Figures {
        self.board().figures()
    }

    pub(super) fn ask(&self, core: usize, ask: Ask) -> Result<oneshot::Receiver<Answer>, Invalid> {
        let (reply, answer) = oneshot::channel();
        self.send(core, Mail::Ask(Call::new(Asker::Thread(reply), ask))).map_err(|_| Invalid::Stopped)?;
        Ok(answer)
    }
}

fn connections(answer: Answer) -> Option<usize> {
    match answer {
        Answer::Sent { connections } => Some(connections),
        _ => None,
    }
}

pub(super) fn user_name(user: &str) -> Result<Name, Invalid> {
    if is_name(user) { Ok(Name::new(user)) } else { Err(Invalid::Name) }
}

fn topic_name(topic: &str) -> Result<Name, Invalid> {
    if is_name(topic.strip_prefix(ROOM_MARK).unwrap_or(topic)) {
        Ok(Name::new(topic))
    } else {
        Err(Invalid::Name)
    }
}

fn json(data: &[u8]) -> Result<&str, Invalid> {
    let text = std::str::from_utf8(data).map_err(|_| Invalid::Json)?;
    serde_json::from_str::<IgnoredAny>(text).map_err(|_| Invalid::Json)?;
    Ok(text.trim_ascii())
}
