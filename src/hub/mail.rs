//! What cores tell each other.
//!
//! A *call* is a box that goes to a home core and comes back with its answer: one allocation for both ways, and nothing
//! to remember in between. Every call is answered exactly once. Deliveries go from a topic's home to the cores of its
//! subscribers, in the order of their offsets.

use super::Options;
use super::hooks::Connect;
use super::limit::Limit;
use super::name::Name;
use crate::budget::MAIL_BYTES_MAX;
use crate::buf::Payload;
use crate::handler::ConnId;
use crate::proto::address::AddressKey;
use std::sync::Arc;

/// Mail between cores. Small, because a ring of them stands between every two cores.
pub enum Mail {
    /// To a home core.
    Ask(Box<Call>),
    /// Back to where it came from.
    Answer(Box<Call>),
    /// Something in a topic, for its subscribers on this core.
    Deliver {
        /// The topic.
        topic: Name,
        /// Its place in the topic; 0 for an event, which has none.
        offset: u64,
        /// What they are sent.
        frame: Payload,
        /// A connection that does not get it.
        except: Option<ConnId>,
        /// When it was made, in microseconds of a clock that all cores share; it wraps.
        made_us: u32,
    },
    /// Publications that this core will not get.
    Gap {
        /// The topic.
        topic: Name,
        /// The first.
        from: u64,
        /// The last.
        to: u64,
    },
    /// A frame for one connection.
    Forward {
        /// The connection.
        conn: ConnId,
        /// What it is sent.
        frame: Payload,
    },
    /// A connection is to be closed.
    Cut {
        /// The connection.
        conn: ConnId,
        /// Close code.
        code: u16,
        /// Close reason.
        reason: Name,
    },
    /// Other settings, from now on.
    Tune(Arc<Options>),
    /// A handshake that waits for the application is decided; see [`super::Connect::Later`].
    Connect {
        /// The connection.
        conn: ConnId,
        /// What becomes of it.
        connect: Box<Connect>,
    },
}

const _: () = assert!(size_of::<Mail>() <= MAIL_BYTES_MAX);

/// A request to a home core, and its answer.
pub struct Call {
    pub asker: Asker,
    pub ask: Ask,
    pub answer: Option<Answer>,
}

/// Whose request it is.
pub enum Asker {
    /// A client's command; with an id it gets a reply.
    Client { conn: ConnId, id: Option<Box<str>> },
    /// The core's own.
    Core,
    /// Another thread's, through a handle.
    Thread(oneshot::Sender<Answer>),
}

/// What is asked of a home core.
pub enum Ask {
    Subscribe {
        topic: Name,
        user: Option<Name>,
        since: Option<Position>,
    },
    Unsubscribe {
        topic: Name,
        user: Option<Name>,
    },
    Publish {
        topic: Name,
        data: Box<str>,
        user: Option<Name>,
        except: Option<ConnId>,
    },
    Presence {
        topic: Name,
        limit: usize,
        after: Option<Box<str>>,
    },
    History {
        topic: Name,
        limit: usize,
        since: Option<u64>,
    },
    /// A handshake comes from this address that takes from its rate, whatever becomes of it.
    Charge {
        address: AddressKey,
    },
    /// A handshake comes from this address: may it? It takes from the rate unless it has.
    Admit {
        address: AddressKey,
        is_charged: bool,
    },
    /// One that was admitted has ended.
    Depart {
        address: AddressKey,
    },
    /// A connection of a user has opened.
    Open {
        user: Name,
        conn: ConnId,
    },
    /// It has closed.
    Close {
        user: Name,
        conn: ConnId,
    },
    /// A frame for every connection of a user.
    Direct {
        user: Name,
        frame: Payload,
    },
    /// Every connection of a user is to be closed.
    Disconnect {
        user: Name,
        code: u16,
        reason: Name,
    },
    /// Topics of this home whose names begin with `prefix`, looked for from this place on.
    Topics {
        prefix: Box<str>,
        from: usize,
    },
    /// Where the connections of a user are, so many at most.
    Connections {
        user: Name,
        limit: usize,
    },
    /// What this core knows of one of its connections.
    Session {
        conn: ConnId,
    },
}

/// A place in a topic's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub epoch: u32,
    pub offset: u64,
}

/// What a home core answers.
pub enum Answer {
    Done,
    Subscribed(Subscribed),
    Published {
        offset: u64,
    },
    Presence {
        users: Vec<(Name, u32)>,
        total: usize,
    },
    History {
        last: Position,
        frames: Vec<Payload>,
    },
    /// Handed to so many connections.
    Sent {
        connections: usize,
    },
    /// And the place to go on from, where there is one.
    Topics {
        topics: Vec<TopicFacts>,
        next: Option<usize>,
    },
    /// Cores and connections, and how many there are in all.
    Connections {
        places: Vec<(usize, ConnId)>,
        total: usize,
    },
    Session(Option<SessionFacts>),
    /// A limit is against it; nothing was done.
    Refused(Limit),
    /// There is no room on the way; nothing was done.
    TryAgain,
}

/// A topic, as its home core knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicFacts {
    /// Its name.
    pub name: Name,
    /// Connections subscribed to it.
    pub subscribers: u64,
    /// Its newest publication.
    pub last_id: u64,
}

/// A connection that speaks the channel protocol, as the hub knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionFacts {
    /// Whose it is.
    pub user: Option<Name>,
    /// The first 100 topics it is subscribed to.
    pub subscriptions: Vec<Name>,
    /// How many it is subscribed to in all.
    pub subscription_count: usize,
}

/// How a subscription begins: `missed`, then whatever comes after `last`.
pub struct Subscribed {
    pub last: Position,
    pub recovered: bool,
    pub missed: Vec<Payload>,
    pub members: u64,
}

impl Call {
    /// One that is not answered yet.
    pub fn new(asker: Asker, ask: Ask) -> Box<Call> {
        Box::new(Call { asker, ask, answer: None })
    }

    /// A request of this core, whose answer matters to nobody.
    pub fn own(ask: Ask) -> Box<Call> {
        Call::new(Asker::Core, ask)
    }
}
