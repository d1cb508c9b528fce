//! What watches over each connection: its rates, its address, what its token allows, and when that ends.
//!
//! It lies beside the sessions, by slot, and is empty where there are neither limits nor keys: then it costs nothing. Ends
//! of tokens stand in an ordered set, one entry a connection, so nothing walks over all connections to find them.

use super::limit::{Limit, Limits, take};
use super::name::Name;
use super::token::{Claims, Grants};
use crate::ds::Bucket;
use crate::handler::ConnId;
use crate::proto::address::AddressKey;
use std::collections::BTreeSet;

/// How long before its token ends a client is told.
const WARNING_S: u32 = 60;

/// The end of what never ends. That of a token would be in 2106.
const NEVER: u32 = u32::MAX;

/// What a token, or the lack of one, gives its bearer.
#[derive(Debug, Clone)]
pub struct Pass {
    /// The user it names. The session's may be another one, given by the application.
    pub bearer: Option<Name>,
    pub grants: Grants,
    expires_unix_s: u32,
}

impl Pass {
    /// Of one who has no token: whatever the namespaces allow, for as long as it likes.
    pub fn without_token(user: Option<Name>) -> Pass {
        Pass { bearer: user, grants: Grants::default(), expires_unix_s: NEVER }
    }

    /// Seconds until it ends.
    pub fn expires_in_s(&self, now_unix_s: u32) -> u32 {
        self.expires_unix_s.saturating_sub(now_unix_s)
    }
}

impl From<Claims> for Pass {
    fn from(claims: Claims) -> Pass {
        Pass {
            bearer: claims.user.as_deref().map(Name::new),
            grants: claims.grants,
            expires_unix_s: u32::try_from(claims.expires_unix_s).unwrap_or(NEVER),
        }
    }
}

/// One connection's.
struct Guard {
    generation: u32,
    /// When something is to be done about its token: the second of its entry in the set.
    due_unix_s: u32,
    messages: Bucket,
    bytes: Bucket,
    address: AddressKey,
    pass: Pass,
}

const _: () = assert!(size_of::<Option<Guard>>() <= 64);

/// What is to be done about a token.
#[derive(Debug, PartialEq, Eq)]
pub enum Due {
    /// It ends soon: its bearer is told.
    Warn { expires_in_s: u32 },
    /// It has ended.
    End,
}

/// All of this core, by slot.
#[derive(Default)]
pub struct Guards {
    by_slot: Vec<Option<Guard>>,
    /// Second and slot of what is due.
    due: BTreeSet<(u32, u32)>,
}

impl Guards {
    fn get(&mut self, conn: ConnId) -> Option<&mut Guard> {
        let guard = self.by_slot.get_mut(conn.slot as usize)?.as_mut()?;
        (guard.generation == conn.generation).then_some(guard)
    }

    /// Begins to watch a connection.
    pub fn insert(&mut self, conn: ConnId, address: AddressKey, pass: Pass) {
        let at = conn.slot as usize;
        if at >= self.by_slot.len() {
            self.by_slot.resize_with(at + 1, || None);
        }
        let (messages, bytes) = (Bucket::FULL, Bucket::FULL);
        self.by_slot[at] =
            Some(Guard { generation: conn.generation, due_unix_s: NEVER, messages, bytes, address, pass });
    }

    /// Forgets a connection; its address, if it was watched.
    pub fn remove(&mut self, conn: ConnId) -> Option<AddressKey> {
        let due_unix_s = self.get(conn)?.due_unix_s;
        self.due.remove(&(due_unix_s, conn.slot));
        self.by_slot[conn.slot as usize].take().map(|guard| guard.address)
    }

    /// Counts a message of so many bytes; names the limit that is against it.
    pub fn charge(&mut self, conn: ConnId, bytes: usize, limits: &Limits, now_ms: u64) -> Result<(), Limit> {
        if !limits.of_rates() {
            return Ok(());
        }
        let Some(guard) = self.get(conn) else { return Ok(()) };
        if !take(&mut guard.messages, 1, limits.messages.as_ref(), now_ms) {
            return Err(Limit::Messages);
        }
        match take(&mut guard.bytes, bytes as u64, limits.bytes.as_ref(), now_ms) {
            true => Ok(()),
            false => Err(Limit::Bytes),
        }
    }

    /// What a connection was let in with; nothing where nobody is watched.
    pub fn pass(&mut self, conn: ConnId) -> Option<&Pass> {
        self.get(conn).map(|guard| &guard.pass)
    }

    /// Whether its token lets it subscribe to a topic.
    pub fn may_subscribe(&mut self, conn: ConnId, topic: &str) -> bool {
        self.pass(conn).is_none_or(|pass| pass.grants.may_subscribe(topic))
    }

    /// Whether its token lets it publish to a topic.
    pub fn may_publish(&mut self, conn: ConnId, topic: &str) -> bool {
        self.pass(conn).is_none_or(|pass| pass.grants.may_publish(topic))
    }

    /// Puts a new token in the place of the old one.
    pub fn renew(&mut self, conn: ConnId, pass: Pass, now_unix_s: u32) {
        if let Some(guard) = self.get(conn) {
            guard.pass = pass;
            self.schedule(conn, now_unix_s);
        }
    }

    /// Enters in the set when something is to be done next about its token. Called once it is open, or its welcome could come
    /// behind the warning.
    pub fn schedule(&mut self, conn: ConnId, now_unix_s: u32) {
        let Some(guard) = self.get(conn) else { return };
        let before = guard.due_unix_s;
        guard.due_unix_s = match guard.pass.expires_unix_s {
            NEVER => NEVER,
            expires => expires.saturating_sub(WARNING_S).max(now_unix_s),
        };
        let due = guard.due_unix_s;
        self.due.remove(&(before, conn.slot));
        if due != NEVER {
            self.due.insert((due, conn.slot));
        }
    }

    /// The next connection whose token something is to be done about now.
    pub fn take_due(&mut self, now_unix_s: u32) -> Option<(ConnId, Due)> {
        let first = *self.due.first().filter(|(due, _)| *due <= now_unix_s)?;
        self.due.remove(&first);
        let guard = self.by_slot[first.1 as usize].as_mut()?;
        let expires = guard.pass.expires_unix_s;
        let conn = ConnId { slot: first.1, generation: guard.generation };
        if expires <= now_unix_s {
            guard.due_unix_s = NEVER;
            return Some((conn, Due::End));
        }
        guard.due_unix_s = expires;
        self.due.insert((expires, conn.slot));
        Some((conn, Due::Warn { expires_in_s: expires - now_unix_s }))
    }

    /// Nobody is watched.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.due.is_empty() && self.by_slot.iter().all(Option::is_none)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ds::Rate;
    use proptest::prelude::*;

    const START_S: u32 = 1_790_000_000;

    fn conn(slot: u32, generation: u32) -> ConnId {
        ConnId { slot, generation }
    }

    fn address() -> AddressKey {
        AddressKey::of(std::net::Ipv4Addr::LOCALHOST.into())
    }

    fn pass(expires_unix_s: u32) -> Pass {
        Pass { expires_unix_s, ..Pass::without_token(None) }
    }

    proptest! {
        /// Whoever comes, goes and renews: each is warned a minute before its end, or at once, and ends at its end.
        #[test]
        fn every_token_is_warned_of_and_ends(steps in prop::collection::vec((0u32..4, 1u32..200, 0..5), 1..80)) {
            let (mut guards, mut now) = (Guards::default(), START_S);
            // By slot: generation, end, whether it was warned.
            let mut model: [Option<(u32, u32, bool)>; 4] = [None; 4];
            for (generation, (slot, seconds, what)) in (1u32..).zip(steps) {
                let known = &mut model[slot as usize];
                match (what, *known) {
                    (0, None) => {
                        guards.insert(conn(slot, generation), address(), pass(now + seconds));
                        guards.schedule(conn(slot, generation), now);
                        *known = Some((generation, now + seconds, false));
                    }
                    (1, Some((generation, ..))) => {
                        guards.renew(conn(slot, generation), pass(now + seconds), now);
                        *known = Some((generation, now + seconds, false));
                    }
                    (2, Some((generation, ..))) => {
                        prop_assert!(guards.remove(conn(slot, generation + 1)).is_none(), "another one");
                        prop_assert!(guards.remove(conn(slot, generation)).is_some());
                        *known = None;
                    }
                    _ => now += seconds / 4,
                }
                let mut heard = Vec::new();
                while let Some((conn, due)) = guards.take_due(now) {
                    heard.push((conn.slot, conn.generation, due));
                }
                let mut expected = Vec::new();
                for (slot, known) in (0u32..).zip(&mut model) {
                    let Some((generation, end, warned)) = *known else { continue };
                    if end <= now {
                        expected.push((slot, generation, Due::End));
                        prop_assert!(guards.remove(conn(slot, generation)).is_some());
                        *known = None;
                    } else if !warned && end - now <= WARNING_S {
                        expected.push((slot, generation, Due::Warn { expires_in_s: end - now }));
                        *known = Some((generation, end, true));
                    }
                }
                heard.sort_by_key(|(slot, ..)| *slot);
                prop_assert_eq!(heard, expected);
            }
            for (slot, known) in (0u32..).zip(model) {
                known.map(|(generation, ..)| guards.remove(conn(slot, generation)));
            }
            prop_assert!(guards.is_empty());
        }
    }

    #[test]
    fn rates_are_of_one_connection_and_nobody_elses() {
        let limits =
            Limits { messages: Some(Rate::new(1, 2)), bytes: Some(Rate::new(10, 100)), ..Limits::NONE };
        let mut guards = Guards::default();
        for slot in 0..2 {
            guards.insert(conn(slot, 1), address(), Pass::without_token(None));
        }
        let mut charge =
            |slot, generation, bytes| guards.charge(conn(slot, generation), bytes, &limits, 7_000);
        assert_eq!(
            [charge(0, 1, 60), charge(0, 1, 60), charge(0, 1, 1)],
            [Ok(()), Err(Limit::Bytes), Err(Limit::Messages)]
        );
        assert_eq!([charge(1, 1, 60), charge(1, 1, 40)], [Ok(()), Ok(())]);
        assert_eq!(charge(0, 2, 1_000_000), Ok(()), "an earlier one of this slot is not it");
        assert_eq!(charge(9, 1, 1_000_000), Ok(()), "nobody watches it");
    }

    #[test]
    fn what_has_no_end_is_never_due() {
        let mut guards = Guards::default();
        let late = Claims { user: None, expires_unix_s: 250_000_000_000, grants: Grants::default() };
        guards.insert(conn(0, 1), address(), late.into());
        guards.insert(conn(1, 1), address(), Pass::without_token(None));
        (0..2).for_each(|slot| guards.schedule(conn(slot, 1), START_S));
        assert_eq!(guards.take_due(u32::MAX), None);
        assert!(guards.may_subscribe(conn(0, 1), "a") && guards.may_publish(conn(5, 1), "a"));
    }
}
