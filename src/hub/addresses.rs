//! The addresses this core is home of: how many connections each has, and how fast they come. And, of all addresses, those
//! that this core has heard are beyond their rate.
//!
//! Invariants:
//! - Every connection and handshake that was admitted is counted until it departs, once.
//! - Every handshake takes from its address's rate once, let in or not.
//! - An address without connections is forgotten when its rate allows all again, which takes two seconds.
//!
//! Those with connections are as many as the connections at most. Those without are bounded by [`ADDRESSES_LEFT_MAX`]; beyond
//! it, the one that was left first is forgotten and may come anew as if it had never come. An attacker who has that many
//! addresses gains nothing by it that more addresses would not give.

use super::limit::{Limit, Limits, take};
use super::link::Links;
use super::mail::{Answer, Ask, Call, Mail};
use crate::budget::ADDRESSES_LEFT_MAX;
use crate::ds::{Bucket, Rate, Table};
use crate::handler::Outbox;
use crate::proto::address::AddressKey;
use std::collections::VecDeque;

/// Addresses without connections that are looked at each second.
const LOOKED_AT_PER_TICK: usize = 16_384;

/// All addresses of this core.
#[derive(Default)]
pub struct Addresses {
    by_key: Table<AddressKey, Address>,
    /// Those that were left by their last connection, each once, the first first. Some may have connections again.
    left: VecDeque<AddressKey>,
}

struct Address {
    connections: u32,
    accepts: Bucket,
    is_listed: bool,
}

impl Address {
    const NEW: Address = Address { connections: 0, accepts: Bucket::FULL, is_listed: false };
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
            Ask::Charge { address } => answer(self.charge(*address, limits, out.unix_ms())),
            Ask::Admit { address, is_charged } => {
                answer(self.admit(*address, *is_charged, limits, out.unix_ms()))
            }
            Ask::Depart { address } => {
                self.depart(*address);
                Answer::Done
            }
            _ => unreachable!("it is not about an address"),
        };
        links.give(from, call, answer, out);
    }

    /// A handshake that is not let in, or not yet.
    fn charge(&mut self, key: AddressKey, limits: &Limits, now_ms: u64) -> Result<(), Limit> {
        let address = self.by_key.get_or_insert(key, Address::NEW);
        let has_room = take(&mut address.accepts, 1, limits.accepts_per_address.as_ref(), now_ms);
        self.list_if_left(key);
        if has_room { Ok(()) } else { Err(Limit::AddressAccepts) }
    }

    fn admit(
        &mut self,
        key: AddressKey,
        is_charged: bool,
        limits: &Limits,
        now_ms: u64,
    ) -> Result<(), Limit> {
        let address = self.by_key.get_or_insert(key, Address::NEW);
        // Who is refused here has come before, and is listed or has connections.
        if !is_charged && !take(&mut address.accepts, 1, limits.accepts_per_address.as_ref(), now_ms) {
            return Err(Limit::AddressAccepts);
        }
        if limits.connections_per_address.is_some_and(|most| address.connections >= most) {
            return Err(Limit::AddressConnections);
        }
        address.connections += 1;
        Ok(())
    }

    fn depart(&mut self, key: AddressKey) {
        let Some(address) = self.by_key.get_mut(&key) else { return };
        address.connections = address.connections.saturating_sub(1);
        self.list_if_left(key);
    }

    fn list_if_left(&mut self, key: AddressKey) {
        let Some(address) = self.by_key.get_mut(&key) else { return };
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

fn answer(allowed: Result<(), Limit>) -> Answer {
    match allowed {
        Ok(()) => Answer::Done,
        Err(limit) => Answer::Refused(limit),
    }
}

/// Addresses whose home core has said that they are beyond their rate. Whoever comes from one before its rate has room again
/// is refused before its token, or the application, is asked.
///
/// Each stands for a handshake of the last second or two, so there are never many.
#[derive(Default)]
pub struct Barred {
    since_ms: Table<AddressKey, u64>,
}

impl Barred {
    pub fn bar(&mut self, key: AddressKey, now_ms: u64) {
        self.since_ms.insert(key, now_ms);
    }

    pub fn has(&self, key: AddressKey, rate: Option<&Rate>, now_ms: u64) -> bool {
        self.since_ms.get(&key).is_some_and(|since_ms| lasts(*since_ms, rate, now_ms))
    }

    /// About once a second: forgets those that are barred no longer.
    pub fn on_tick(&mut self, rate: Option<&Rate>, now_ms: u64) {
        self.since_ms.retain(|_, since_ms| lasts(*since_ms, rate, now_ms));
    }
}

/// Until a unit has come in; a clock that is set back bars nobody for longer.
fn lasts(since_ms: u64, rate: Option<&Rate>, now_ms: u64) -> bool {
    rate.is_some_and(|rate| now_ms.abs_diff(since_ms) < rate.unit_ms())
}

#[cfg(test)]
mod tests {
    use super::*;
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
        fn each_address_has_its_number_and_its_rate(steps in prop::collection::vec((0u32..3, 0u64..700, 0..6), 0..200)) {
            let (mut addresses, mut model, mut now_ms) = (Addresses::default(), [(0u32, Bucket::FULL); 3], 1_000_000);
            let rate = LIMITS.accepts_per_address.unwrap();
            for (number, pause_ms, what) in steps {
                now_ms += pause_ms;
                let (connections, bucket) = &mut model[number as usize];
                match what {
                    0..3 => {
                        let is_charged = what == 2;
                        let expected = match *connections {
                            _ if !is_charged && !bucket.take(1, &rate, now_ms) => Err(Limit::AddressAccepts),
                            3.. => Err(Limit::AddressConnections),
                            _ => {
                                *connections += 1;
                                Ok(())
                            }
                        };
                        prop_assert_eq!(addresses.admit(key(number), is_charged, &LIMITS, now_ms), expected);
                    }
                    3 => {
                        let expected = bucket.take(1, &rate, now_ms).then_some(()).ok_or(Limit::AddressAccepts);
                        prop_assert_eq!(addresses.charge(key(number), &LIMITS, now_ms), expected);
                    }
                    4 if *connections > 0 => {
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
            match number % 2 {
                0 => addresses.charge(key(number), &LIMITS, 5_000).unwrap(),
                _ => {
                    addresses.admit(key(number), false, &LIMITS, 5_000).unwrap();
                    addresses.depart(key(number));
                }
            }
        }
        assert_eq!((addresses.len(), addresses.left.len()), (ADDRESSES_LEFT_MAX, ADDRESSES_LEFT_MAX));
        for _ in 0..ADDRESSES_LEFT_MAX / LOOKED_AT_PER_TICK {
            addresses.on_tick(&LIMITS, 7_000);
        }
        assert_eq!((addresses.len(), addresses.left.len()), (0, 0));
        addresses.on_tick(&LIMITS, 7_000);
        assert!(addresses.by_key.capacity() < 1_000);
    }

    #[test]
    fn an_address_is_barred_until_its_rate_has_room() {
        let (mut barred, rate) = (Barred::default(), Rate::new(20, 40));
        barred.bar(key(1), 5_000);
        for (number, now_ms, is_barred) in
            [(1, 5_000, true), (1, 5_049, true), (1, 5_050, false), (2, 5_000, false), (1, 900, false)]
        {
            assert_eq!(barred.has(key(number), Some(&rate), now_ms), is_barred, "{number} at {now_ms}");
        }
        assert!(!barred.has(key(1), None, 5_000), "without a rate nobody is beyond it");
        barred.on_tick(Some(&rate), 5_049);
        assert!(barred.has(key(1), Some(&rate), 5_049));
        barred.on_tick(Some(&rate), 5_050);
        assert!(barred.since_ms.is_empty());
    }
}
