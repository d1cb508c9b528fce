//! Looking things up in a running server: which topics there are, where a user's connections are, what a connection does.
//!
//! No core walks more than a bounded number of entries for it: who wants all topics asks for one page after the other.

use super::channels::user_name;
use super::{Handle, Invalid, Pending};
use crate::handler::ConnId;
use crate::hub::{self, Answer, Ask, Mail, SessionFacts, TopicFacts};

/// Connections of a user in one answer.
const CONNECTIONS_MAX: usize = 1_000;

/// Some of the topics that one core is home of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPage {
    /// In no order.
    pub topics: Vec<TopicFacts>,
    /// Where the next page begins.
    pub next: Option<usize>,
}

/// Where a user is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserConnections {
    /// Their ids.
    pub connection_ids: Vec<String>,
    /// How many there are in all.
    pub total: usize,
}

impl Handle<Mail> {
    /// Topics that this core is home of and whose names begin with `prefix`: a page, from `from` on. The first begins at 0.
    /// What comes and goes between two pages may be in none of them or in both.
    ///
    /// # Errors
    /// There is no such core, or the server has stopped.
    pub fn topics(&self, core: usize, prefix: &str, from: usize) -> Result<Pending<TopicPage>, Invalid> {
        let answer = self.ask(core, Ask::Topics { prefix: prefix.into(), from })?;
        Ok(Pending::new(answer, |answer| match answer {
            Answer::Topics { topics, next } => Some(TopicPage { topics, next }),
            _ => None,
        }))
    }

    /// The connections of a user: up to `limit`, at most 1,000.
    ///
    /// # Errors
    /// The name is invalid, or the server has stopped.
    pub fn connections_of(&self, user: &str, limit: usize) -> Result<Pending<UserConnections>, Invalid> {
        let user = user_name(user)?;
        let home = user.home(self.cores());
        let answer = self.ask(home, Ask::Connections { user, limit: limit.min(CONNECTIONS_MAX) })?;
        Ok(Pending::new(answer, |answer| match answer {
            Answer::Connections { places, total } => {
                let ids = places.into_iter().map(|(core, conn)| hub::connection_id(core, conn));
                Some(UserConnections { connection_ids: ids.collect(), total })
            }
            _ => None,
        }))
    }

    /// What the hub knows of a connection, by the id its welcome told; `None` once it has gone.
    ///
    /// # Errors
    /// The id is malformed or names a core that does not exist, or the server has stopped.
    pub fn session(&self, connection_id: &str) -> Result<Pending<Option<SessionFacts>>, Invalid> {
        let (core, conn) = self.place(connection_id).ok_or(Invalid::ConnectionId)?;
        let answer = self.ask(core, Ask::Session { conn })?;
        Ok(Pending::new(answer, |answer| match answer {
            Answer::Session(session) => Some(session),
            _ => None,
        }))
    }

    /// The core and connection of an id.
    pub(crate) fn place(&self, connection_id: &str) -> Option<(usize, ConnId)> {
        hub::parse_connection_id(connection_id).filter(|(core, _)| *core < self.cores())
    }
}
