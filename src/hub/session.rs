//! What this core knows of each of its connections: 40 bytes for one that has a name and one subscription.

use super::name::Name;
use crate::handler::ConnId;
use std::collections::VecDeque;

/// Errors a client may make in one minute; more close it with 1008.
const ERRORS_PER_MINUTE_MAX: u8 = 100;

/// A subscription: its topic on this core, and its place among the topic's subscribers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubRef {
    pub topic: u32,
    pub at: u32,
}

/// The subscriptions of one connection; most have one.
#[derive(Default)]
enum Subs {
    #[default]
    None,
    One(SubRef),
    /// Boxed twice, because a session pays for the widest variant.
    #[expect(clippy::box_collection)]
    Many(Box<Vec<SubRef>>),
}

/// Facts of a session that are either so or not.
mod flag {
    /// A command that must be done before the next one is under way.
    pub const BUSY: u8 = 1 << 0;
    /// Its socket is full.
    pub const BLOCKED: u8 = 1 << 1;
    /// It is being given what it is owed.
    pub const CATCHING_UP: u8 = 1 << 2;
    /// The application has been told that it is open.
    pub const WELCOMED: u8 = 1 << 3;
    /// It is being closed: nothing is done for it any more.
    pub const ENDED: u8 = 1 << 4;
    /// It has said where it stood in a topic when it was last connected.
    pub const RETURNED: u8 = 1 << 5;
    /// Busy with nothing but a large answer that has not left yet.
    pub const ANSWERED: u8 = 1 << 6;
}

/// One connection that speaks the channel protocol.
pub struct Session {
    generation: u32,
    flags: u8,
    errors: u8,
    /// The minute `errors` are of.
    errors_minute: u16,
    user: Option<Name>,
    subs: Subs,
    rare: Option<Box<Rare>>,
}

const _: () = assert!(size_of::<Option<Session>>() <= 40);

/// What few sessions have at a time.
#[derive(Default)]
pub struct Rare {
    /// Commands that wait until it is no longer busy.
    pub waiting: VecDeque<Box<str>>,
    /// Bytes its topics owe it.
    pub owed_bytes: usize,
    pub leaving: Option<Leaving>,
    /// The server stops, and it has not been welcomed yet: when it is to come back.
    pub reconnect_delay_ms: Option<u64>,
}

/// A `leave_all` under way.
pub struct Leaving {
    /// The command's.
    pub id: Option<Box<str>>,
    pub rooms: Vec<Name>,
    /// How many of them have not been left yet.
    pub outstanding: usize,
}

impl Session {
    /// One whose upgrade is about to be accepted.
    pub fn new(conn: ConnId, user: Option<Name>) -> Session {
        Session {
            generation: conn.generation,
            flags: 0,
            errors: 0,
            errors_minute: 0,
            user,
            subs: Subs::None,
            rare: None,
        }
    }

    pub fn user(&self) -> Option<&Name> {
        self.user.as_ref()
    }

    pub fn subs(&self) -> impl Iterator<Item = SubRef> + '_ {
        let subs: &[SubRef] = match &self.subs {
            Subs::None => &[],
            Subs::One(sub) => std::slice::from_ref(sub),
            Subs::Many(subs) => subs,
        };
        subs.iter().copied()
    }

    /// The subscription to a topic, by the topic's number on this core.
    pub fn sub(&self, topic: u32) -> Option<SubRef> {
        self.subs().find(|sub| sub.topic == topic)
    }

    pub fn add_sub(&mut self, sub: SubRef) {
        self.subs = match std::mem::take(&mut self.subs) {
            Subs::None => Subs::One(sub),
            Subs::One(first) => Subs::Many(Box::new(vec![first, sub])),
            Subs::Many(mut subs) => {
                subs.push(sub);
                Subs::Many(subs)
            }
        };
    }

    pub fn remove_sub(&mut self, sub: SubRef) {
        match &mut self.subs {
            Subs::Many(subs) => subs.retain(|other| *other != sub),
            _ => self.subs = Subs::None,
        }
    }

    /// A subscription has another place now.
    pub fn move_sub(&mut self, from: SubRef, to: SubRef) {
        let subs: &mut [SubRef] = match &mut self.subs {
            Subs::None => &mut [],
            Subs::One(sub) => std::slice::from_mut(sub),
            Subs::Many(subs) => subs,
        };
        subs.iter_mut().filter(|sub| **sub == from).for_each(|sub| *sub = to);
    }

    pub fn is_busy(&self) -> bool {
        self.has(flag::BUSY)
    }

    pub fn set_busy(&mut self, busy: bool) {
        self.put(flag::BUSY, busy);
    }

    /// It is busy until the large answer it was given has left.
    pub fn set_answered(&mut self) {
        self.flags |= flag::ANSWERED;
    }

    /// The large answer has left; false if there was none.
    pub fn take_answered(&mut self) -> bool {
        let answered = self.has(flag::ANSWERED);
        self.put(flag::ANSWERED, false);
        answered
    }

    pub fn is_blocked(&self) -> bool {
        self.has(flag::BLOCKED)
    }

    pub fn set_blocked(&mut self, blocked: bool) {
        self.put(flag::BLOCKED, blocked);
    }

    /// Whether walks pass it by.
    pub fn is_passed_by(&self) -> bool {
        self.has(flag::BLOCKED | flag::CATCHING_UP)
    }

    /// False if it does so already.
    pub fn begin_catching_up(&mut self) -> bool {
        let begins = !self.has(flag::CATCHING_UP);
        self.flags |= flag::CATCHING_UP;
        begins
    }

    pub fn end_catching_up(&mut self) {
        self.put(flag::CATCHING_UP, false);
        self.forget_rare();
    }

    pub fn is_welcomed(&self) -> bool {
        self.has(flag::WELCOMED)
    }

    pub fn set_welcomed(&mut self) {
        self.put(flag::WELCOMED, true);
    }

    pub fn is_ended(&self) -> bool {
        self.has(flag::ENDED)
    }

    pub fn end(&mut self) {
        self.flags |= flag::ENDED;
    }

    /// It says where it stood when it was last connected; true the first time.
    pub fn note_return(&mut self) -> bool {
        let is_first = !self.has(flag::RETURNED);
        self.flags |= flag::RETURNED;
        is_first
    }

    /// What only few have; made on first use.
    pub fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Bytes its topics owe it.
    pub fn owed_bytes(&mut self) -> &mut usize {
        &mut self.rare().owed_bytes
    }

    /// Its next command that waited.
    pub fn take_waiting(&mut self) -> Option<Box<str>> {
        let next = self.rare.as_mut()?.waiting.pop_front();
        self.forget_rare();
        next
    }

    /// When it is to come back, if it could not be told yet.
    pub fn take_reconnect_delay(&mut self) -> Option<u64> {
        let delay_ms = self.rare.as_mut()?.reconnect_delay_ms.take();
        self.forget_rare();
        delay_ms
    }

    fn forget_rare(&mut self) {
        if self.rare.as_ref().is_some_and(|rare| {
            rare.waiting.is_empty()
                && rare.owed_bytes == 0
                && rare.leaving.is_none()
                && rare.reconnect_delay_ms.is_none()
        }) {
            self.rare = None;
        }
    }

    /// Notes an error the client made; false when it makes too many.
    pub fn forgive(&mut self, unix_ms: u64) -> bool {
        let minute = (unix_ms / 60_000) as u16;
        if self.errors_minute != minute {
            (self.errors_minute, self.errors) = (minute, 0);
        }
        self.errors = self.errors.saturating_add(1);
        self.errors <= ERRORS_PER_MINUTE_MAX
    }

    fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }

    fn put(&mut self, flags: u8, set: bool) {
        if set {
            self.flags |= flags;
        } else {
            self.flags &= !flags;
        }
    }
}

/// The sessions of this core, by slot.
#[derive(Default)]
pub struct Sessions {
    by_slot: Vec<Option<Session>>,
    len: usize,
}

impl Sessions {
    /// The session of a connection that has not ended.
    pub fn get(&mut self, conn: ConnId) -> Option<&mut Session> {
        let session = self.by_slot.get_mut(conn.slot as usize)?.as_mut()?;
        (session.generation == conn.generation).then_some(session)
    }

    /// Takes the place of an earlier one that never opened.
    pub fn insert(&mut self, conn: ConnId, session: Session) {
        let at = conn.slot as usize;
        if at >= self.by_slot.len() {
            self.by_slot.resize_with(at + 1, || None);
        }
        self.len += usize::from(self.by_slot[at].replace(session).is_none());
    }

    pub fn remove(&mut self, conn: ConnId) -> Option<Session> {
        self.get(conn)?;
        self.len -= 1;
        self.by_slot[conn.slot as usize].take()
    }

    pub fn len(&self) -> usize {
        self.len
    }
}
