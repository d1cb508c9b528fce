//! The users this core is home of, and where their connections are.

use super::limit::Limit;
use super::link::Links;
use super::mail::{Answer, Ask, Call, Mail};
use super::name::Name;
use crate::ds::Table;
use crate::handler::{ConnId, Outbox};

/// One connection of a user, on any core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    core: u16,
    conn: ConnId,
}

/// Users by name, each with at least one connection.
#[derive(Default)]
pub struct Users {
    by_name: Table<Name, Connections>,
}

/// Most users have one connection.
struct Connections {
    first: Place,
    #[expect(clippy::box_collection)]
    others: Option<Box<Vec<Place>>>,
}

impl Connections {
    fn iter(&self) -> impl Iterator<Item = Place> {
        std::iter::once(self.first).chain(self.others.iter().flat_map(|others| others.iter().copied()))
    }
}

impl Users {
    /// Users with connections.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Does what a call about a user asks, and answers it.
    /// A user may have `connections_max`.
    pub fn handle_call(
        &mut self,
        from: usize,
        call: Box<Call>,
        connections_max: Option<u32>,
        links: &mut Links,
        out: &mut Outbox<Mail>,
    ) {
        let core = from as u16;
        let answer = match &call.ask {
            Ask::Open { user, .. } if self.has_all(user, connections_max) => {
                Answer::Refused(Limit::UserConnections)
            }
            Ask::Open { user, conn } => {
                self.open(user, Place { core, conn: *conn });
                Answer::Done
            }
            Ask::Close { user, conn } => {
                self.close(user, Place { core, conn: *conn });
                Answer::Done
            }
            Ask::Direct { user, frame } => {
                let mut connections = 0;
                let mut found = false;
                for place in self.places(user) {
                    found = true;
                    let mail = Mail::Forward { conn: place.conn, frame: frame.clone() };
                    connections += usize::from(links.try_deliver(place.core.into(), mail, out).is_ok());
                }
                if found && connections == 0 { Answer::TryAgain } else { Answer::Sent { connections } }
            }
            Ask::Disconnect { user, code, reason } => {
                let mut connections = 0;
                for place in self.places(user) {
                    connections += 1;
                    let cut = Mail::Cut { conn: place.conn, code: *code, reason: reason.clone() };
                    links.order(place.core.into(), cut, out);
                }
                Answer::Sent { connections }
            }
            Ask::Connections { user, limit } => {
                let places = self.places(user).take(*limit);
                let places = places.map(|place| (place.core.into(), place.conn)).collect();
                Answer::Connections { places, total: self.count(user) }
            }
            _ => unreachable!("calls about topics go to the topics' home"),
        };
        links.give(from, call, answer, out);
    }

    fn places(&self, user: &Name) -> impl Iterator<Item = Place> {
        self.by_name.get(user).into_iter().flat_map(Connections::iter)
    }

    /// How many connections a user has.
    fn count(&self, user: &Name) -> usize {
        let others = |connections: &Connections| connections.others.as_ref().map_or(0, |others| others.len());
        self.by_name.get(user).map_or(0, |connections| 1 + others(connections))
    }

    /// Whether a user has as many connections as it may.
    fn has_all(&self, user: &Name, connections_max: Option<u32>) -> bool {
        connections_max.is_some_and(|most| self.count(user) >= most as usize)
    }

    fn open(&mut self, user: &Name, place: Place) {
        match self.by_name.get_mut(user) {
            Some(connections) => connections.others.get_or_insert_default().push(place),
            None => {
                self.by_name.insert(user.clone(), Connections { first: place, others: None });
            }
        }
    }

    fn close(&mut self, user: &Name, place: Place) {
        let Some(connections) = self.by_name.get_mut(user) else { return };
        let Some(others) = &mut connections.others else {
            if connections.first == place {
                self.by_name.remove(user);
            }
            return;
        };
        if connections.first == place {
            connections.first = others.swap_remove(0);
        } else {
            others.retain(|other| *other != place);
        }
        if others.is_empty() {
            connections.others = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_user_is_where_its_connections_are(steps in prop::collection::vec((0u32..3, 0u32..5, any::<bool>()), 0..60)) {
            let (mut users, mut model) = (Users::default(), Vec::new());
            for (user, slot, opens) in steps {
                let name = Name::new(&user.to_string());
                let place = Place { core: 1, conn: ConnId { slot, generation: 0 } };
                let known = model.iter().position(|known| *known == (user, slot));
                match (opens, known) {
                    (true, None) => { users.open(&name, place); model.push((user, slot)); }
                    (false, Some(at)) => { users.close(&name, place); model.remove(at); }
                    (false, None) => users.close(&name, place),
                    (true, Some(_)) => {}
                }
                for user in 0..3u32 {
                    let mut found: Vec<u32> = users.places(&Name::new(&user.to_string())).map(|p| p.conn.slot).collect();
                    let mut expected: Vec<u32> = model.iter().filter(|m| m.0 == user).map(|m| m.1).collect();
                    found.sort_unstable();
                    expected.sort_unstable();
                    prop_assert_eq!(found, expected);
                }
            }
            let names: std::collections::HashSet<u32> = model.iter().map(|m| m.0).collect();
            prop_assert_eq!(users.len(), names.len());
        }
    }
}
