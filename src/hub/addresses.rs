//! The addresses this core is home of: how many connections each has, and how fast they come.
//!
//! Invariants:
//! - Every connection and handshake that was admitted is counted until it departs, once.
//! - An address without connections is forgotten when its rate allows all again, which takes two seconds.
//!
//! Those with connections are as many as the connections at most. Those without are bounded by [`ADDRESSES_LEFT_MAX`]; beyond
//! it, the one that was left first is forgotten and may come anew as if it had never come. An attacker who has that many
//! addresses gains nothing by it that more addresses would not give.

use super::limit::{Limit, Limits, take};
use super::link::Links;
use super::mail::{Answer, Ask, Call, Mail};
use crate::budget::ADDRESSES_LEFT_MAX;
use crate::ds::Bucket;
use crate::handler::Outbox;
use crate::proto::address::AddressKey;
use std::collections::{HashMap, VecDeque};

/// Addresses without connections that are looked at each second.
const LOOKED_AT_PER_TICK: usize = 16_384;

/// All addresses of this core.
#[derive(Default)]
pub struct Addresses {
    by_key: HashMap<AddressKey, Address>,
    /// Those that were left by their last connection, each once, the first first. Some may have connections again.
    left: VecDeque<AddressKey>,
}

struct Address {
    connections: u32,
    accepts: Bucket,
    is_listed: bool,
}

impl Addresses {
    /// Connections and handshakes of all of them.
    #[cfg(test)]
    pub fn connections(&self) -> usize {
        self.by_key.values().map(|address| address.connections as usize).sum()
    }

    /// Addresses known.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Does what a call about an address asks, and answers it.
    pub fn handle_call(
        &mut self,
        from: usize,
        call: Box<Call>,
        limits: &Limits,
        links: &mut Links,
        out: &mut Outbox<Mail>,
    ) {
        let answer = match &call.ask {
            Ask::Admit { address } => match self.admit(*address, limits, out.unix_ms()) {
                Ok(()) => Answer::Done,
                Err(limit) => Answer::Refused(limit),
            },
            Ask::Depart { address } => {
                self.depart(*address);
                Answer::Done
            }
            _ => unreachable!("it is not about an address"),
        };
        links.give(from, call, answer, out);
    }

    fn admit(&mut self, key: AddressKey, limits: &Limits, now_ms: u64) -> Result<(), Limit> {
        let new = || Address { connections: 0, accepts: Bucket::FULL, is_listed: false };
        let address = self.by_key.entry(key).or_insert_with(new);
        if limits.connections_per_address.is_some_and(|most| address.connections >= most) {
            return Err(Limit::AddressConnections);
        }
        // Who is refused here has come before, and is listed or has connections.
        if !take(&mut address.accepts, 1, limits.accepts_per_address.as_ref(), now_ms) {
            return Err(Limit::AddressAccepts);
        }
        address.connections += 1;
        Ok(())
    }

    fn depart(&mut self, key: AddressKey) {
        let Some(address) = self.by_key.get_mut(&key) else { return };
        address.connections = address.connections.saturating_sub(1);
        if address.connections == 0 && !std::mem::replace(&mut address.is_listed, true) {
            self.left.push_back(key);
            if self.left.len() > ADDRESSES_LEFT_MAX {
                self.look_at_first(|_| true);
            }
        }
    }

    /// About once a second: forgets those that were left long enough ago.
    pub fn on_tick(&mut self, limits: &Limits, now_ms: u64) {
        let rate = limits.accepts_per_address;
        for _ in 0..self.left.len().min(LOOKED_AT_PER_TICK) {
            self.look_at_first(|address| rate.is_none_or(|rate| address.accepts.is_full(&rate, now_ms)));
        }
        if self.by_key.len() < self.by_key.capacity() / 8 {
            self.by_key.shrink_to(self.by_key.len() * 2); // after a flood of addresses
        }
    }

    /// Looks at the address that was left first: one with connections leaves the list, one that `may_go` goes, any other
    /// is looked at again after all others.
    fn look_at_first(&mut self, may_go: impl FnOnce(&mut Address) -> bool) {
        let Some(key) = self.left.pop_front() else { return };
        let Some(address) = self.by_key.get_mut(&key) else { return };
        if address.connections > 0 {
            address.is_listed = false;
        } else if may_go(address) {
            self.by_key.remove(&key);
        } else {
            self.left.push_back(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ds::Rate;
    use proptest::prelude::*;

    fn key(number: u32) -> AddressKey {
        AddressKey::of(std::net::Ipv4Addr::from_bits(number).into())
    }

    const LIMITS: Limits = Limits {
        connections_per_address: Some(3),
        accepts_per_address: Some(Rate::new(2, 4)),
        ..Limits::NONE
    };

    proptest! {
        #[test]
        fn each_address_has_its_number_and_its_rate(steps in prop::collection::vec((0u32..3, 0u64..700, 0..4), 0..200)) {
            let (mut addresses, mut model, mut now_ms) = (Addresses::default(), [(0u32, Bucket::FULL); 3], 1_000_000);
            for (number, pause_ms, what) in steps {
                now_ms += pause_ms;
                let (connections, bucket) = &mut model[number as usize];
                match what {
                    0..2 => {
                        let expected = match *connections {
                            3.. => Err(Limit::AddressConnections),
                            _ if !bucket.take(1, &LIMITS.accepts_per_address.unwrap(), now_ms) => Err(Limit::AddressAccepts),
                            _ => {
                                *connections += 1;
                                Ok(())
                            }
                        };
                        prop_assert_eq!(addresses.admit(key(number), &LIMITS, now_ms), expected);
                    }
                    2 if *connections > 0 => {
                        *connections -= 1;
                        addresses.depart(key(number));
                    }
                    _ => addresses.on_tick(&LIMITS, now_ms),
                }
                let total: u32 = model.iter().map(|(connections, _)| connections).sum();
                prop_assert_eq!(addresses.connections(), total as usize);
            }
            for (number, (connections, _)) in model.into_iter().enumerate() {
                (0..connections).for_each(|_| addresses.depart(key(number as u32)));
            }
            addresses.on_tick(&LIMITS, now_ms + 2_000);
            prop_assert_eq!((addresses.len(), addresses.left.len()), (0, 0), "forgotten once all is allowed again");
        }
    }

    #[test]
    fn addresses_that_come_once_are_bounded() {
        let mut addresses = Addresses::default();
        for number in 0..ADDRESSES_LEFT_MAX as u32 + 100 {
            addresses.admit(key(number), &LIMITS, 5_000).unwrap();
            addresses.depart(key(number));
        }
        assert_eq!((addresses.len(), addresses.left.len()), (ADDRESSES_LEFT_MAX, ADDRESSES_LEFT_MAX));
        for _ in 0..ADDRESSES_LEFT_MAX / LOOKED_AT_PER_TICK {
            addresses.on_tick(&LIMITS, 7_000);
        }
        assert_eq!((addresses.len(), addresses.left.len()), (0, 0));
        addresses.on_tick(&LIMITS, 7_000);
        assert!(addresses.by_key.capacity() < 1_000);
    }
}
