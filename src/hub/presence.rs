//! Who is in a topic, and the news of who came and went.
//!
//! News are told at once where a topic is quiet, and otherwise gathered and told together once a second: a thousand
//! that join a room at once are one frame, not a thousand to each of a thousand.

use super::name::Name;
use std::collections::BTreeMap;
use std::ops::Bound;

/// Users of one topic, by name, each with its number of subscribed connections.
#[derive(Default)]
pub struct Presence {
    users: BTreeMap<Name, u32>,
}

impl Presence {
    /// A connection of `user` has subscribed. True for the user's first.
    pub fn join(&mut self, user: &Name) -> bool {
        match self.users.get_mut(user) {
            Some(connections) => {
                *connections += 1;
                false
            }
            None => self.users.insert(user.clone(), 1).is_none(),
        }
    }

    /// A connection of `user` has gone. True for the user's last.
    pub fn leave(&mut self, user: &Name) -> bool {
        let Some(connections) = self.users.get_mut(user) else { return false };
        *connections -= 1;
        *connections == 0 && self.users.remove(user).is_some()
    }

    /// Users present.
    pub fn total(&self) -> usize {
        self.users.len()
    }

    /// Up to `limit` users whose names come after `after`.
    pub fn page(&self, after: Option<&str>, limit: usize) -> Vec<(Name, u32)> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let rest = self.users.range::<str, _>((start, Bound::Unbounded));
        rest.take(limit).map(|(user, connections)| (user.clone(), *connections)).collect()
    }
}

/// News of one topic that are not told yet.
#[derive(Default)]
pub struct News {
    /// True: joined; false: left. Who came and went again is in neither.
    changes: BTreeMap<Name, bool>,
    /// Something was told in this second, so what follows is gathered.
    told: bool,
}

/// What is to be told.
#[derive(Debug, PartialEq, Eq)]
pub enum Telling {
    Joined(Name),
    Left(Name),
    Change { joined: Vec<Name>, left: Vec<Name> },
}

impl News {
    /// Notes that `user` came or went; what is to be told at once, if anything.
    pub fn add(&mut self, user: &Name, joined: bool) -> Option<Telling> {
        if !self.told {
            self.told = true;
            return Some(telling_of_one(user.clone(), joined));
        }
        if self.changes.get(user) == Some(&!joined) {
            self.changes.remove(user);
        } else {
            self.changes.insert(user.clone(), joined);
        }
        None
    }

    /// What was gathered about `user` is not told.
    pub fn forget(&mut self, user: &Name) {
        self.changes.remove(user);
    }

    /// A second is over: what was gathered. After a second without news the next one is told at once.
    pub fn gather(&mut self) -> Option<Telling> {
        let changes = std::mem::take(&mut self.changes);
        self.told = !changes.is_empty();
        if changes.len() == 1 {
            return changes.into_iter().next().map(|(user, joined)| telling_of_one(user, joined));
        }
        let (joined, left): (Vec<_>, Vec<_>) = changes.into_iter().partition(|(_, joined)| *joined);
        let names = |changes: Vec<(Name, bool)>| changes.into_iter().map(|(user, _)| user).collect();
        self.told.then(|| Telling::Change { joined: names(joined), left: names(left) })
    }

    /// Whether another look is needed a second later.
    pub fn is_active(&self) -> bool {
        self.told
    }
}

fn telling_of_one(user: Name, joined: bool) -> Telling {
    if joined { Telling::Joined(user) } else { Telling::Left(user) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_comes_with_the_first_connection_and_goes_with_the_last() {
        let (mut presence, ann) = (Presence::default(), Name::new("ann"));
        assert!(presence.join(&ann) && !presence.join(&ann));
        assert_eq!(presence.page(None, 10), [(ann.clone(), 2)]);
        assert!(!presence.leave(&ann) && presence.leave(&ann) && !presence.leave(&ann));
        assert_eq!(presence.total(), 0);
    }

    #[test]
    fn pages_follow_one_another_by_name() {
        let mut presence = Presence::default();
        for name in ["d", "a", "c", "b"] {
            presence.join(&Name::new(name));
        }
        let names =
            |after, limit| presence.page(after, limit).iter().map(|(n, _)| n.to_string()).collect::<String>();
        assert_eq!(
            (names(None, 3), names(Some("c"), 3), names(Some("bb"), 1)),
            ("abc".into(), "d".into(), "c".into())
        );
    }

    #[test]
    fn news_of_a_quiet_topic_are_told_at_once_and_those_of_a_busy_one_together() {
        let (ann, bob, cat) = (Name::new("ann"), Name::new("bob"), Name::new("cat"));
        let mut news = News::default();
        assert_eq!(news.add(&ann, true), Some(Telling::Joined(ann.clone())));
        assert_eq!(news.add(&bob, true), None);
        assert_eq!(news.add(&cat, true), None);
        assert_eq!(news.add(&ann, false), None);
        assert_eq!(news.add(&cat, false), None); // came and went: nobody needs to know
        assert_eq!(
            news.gather(),
            Some(Telling::Change { joined: vec![bob.clone()], left: vec![ann.clone()] })
        );
        assert_eq!(news.add(&bob, false), None);
        assert_eq!(news.gather(), Some(Telling::Left(bob.clone())));
        assert!(news.is_active());
        assert_eq!(news.gather(), None);
        assert!(!news.is_active());
        assert_eq!(news.add(&bob, true), Some(Telling::Joined(bob)));
    }
}
