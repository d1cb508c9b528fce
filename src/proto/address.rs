//! What connections are counted by: the address they come from, in one word.
//!
//! An IPv4 address counts alone. An IPv6 host has a /64 to itself (RFC 4291 §2.5.1) and may take another address of
//! it for each connection, so the /64 counts.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Above every IPv4 address; as an IPv6 network it is 0:1::/64.
const LOWEST_NETWORK: u64 = 1 << 32;

/// An IPv4 address, or the /64 of an IPv6 address.
///
/// The two families never meet: an IPv4 address is below 2^32, a network is not. The networks below, ::/32, are
/// raised to the first one that is not. They are among 0::/8, which is reserved (RFC 4291 §2.4): of all of them only
/// the loopback address is ever a sender's, so what they share is nobody else's.
///
/// ```
/// use megasock::proto::address::AddressKey;
/// let key = |address: &str| AddressKey::of(address.parse().unwrap());
/// assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:1"));
/// assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
/// assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AddressKey(u64);

impl AddressKey {
    /// The key of an address; of one that is mapped into IPv6, its IPv4 address.
    pub fn of(address: IpAddr) -> AddressKey {
        AddressKey(match address.to_canonical() {
            IpAddr::V4(v4) => u64::from(v4.to_bits()),
            IpAddr::V6(v6) => ((v6.to_bits() >> 64) as u64).max(LOWEST_NETWORK),
        })
    }

    /// The key as a number, to hash and to send.
    pub fn to_bits(self) -> u64 {
        self.0
    }
}

/// `192.0.2.1`, or `2001:db8::/64`.
impl fmt::Display for AddressKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match u32::try_from(self.0) {
            Ok(v4) => fmt::Display::fmt(&Ipv4Addr::from_bits(v4), f),
            Err(_) => write!(f, "{}/64", Ipv6Addr::from_bits(u128::from(self.0) << 64)),
        }
    }
}

impl fmt::Debug for AddressKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(address: &str) -> AddressKey {
        AddressKey::of(address.parse().unwrap())
    }

    #[test]
    fn the_ends_of_both_families_stay_apart() {
        let rows = [
            ("0.0.0.0", "0.0.0.0"),
            ("127.0.0.1", "127.0.0.1"),
            ("255.255.255.255", "255.255.255.255"),
            ("::ffff:255.255.255.255", "255.255.255.255"),
            ("::", "0:1::/64"),
            ("::1", "0:1::/64"),
            ("::127.0.0.1", "0:1::/64"), // compatible, not mapped: deprecated (RFC 4291 §2.5.5.1)
            ("0:0:ffff:ffff::", "0:1::/64"),
            ("0:1::1", "0:1::/64"),
            ("0:1:0:1::1", "0:1:0:1::/64"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "ffff:ffff:ffff:ffff::/64"),
        ];
        for (address, shown) in rows {
            assert_eq!(key(address).to_string(), shown, "{address}");
            assert_eq!(format!("{:?}", key(address)), shown, "{address}");
            assert_eq!(key(address).to_bits() >> 32 == 0, !shown.contains('/'), "{address}");
        }
    }

    proptest! {
        /// Two keys are equal exactly if the addresses are one IPv4 address or share a /64, ::/32 being one network.
        #[test]
        fn equal_keys_mean_one_address_or_one_network(
            a in any::<u128>(),
            b in any::<u128>(),
            common_bits in 0u32..=128,
            shape in 0..4,
        ) {
            // Two addresses with the same first bits, in all spaces, among the low ones or mapped.
            let mask = u128::MAX.checked_shl(128 - common_bits).unwrap_or(0);
            let shaped = |bits: u128| IpAddr::V6(Ipv6Addr::from_bits(match shape {
                0 => bits,
                1 => bits >> 31,
                2 => bits >> 64,
                _ => 0xFFFF_0000_0000 | bits >> 96,
            }));
            let (a, b) = (shaped(a), shaped(a & mask | b & !mask));
            let class = |address: IpAddr| match address.to_canonical() {
                IpAddr::V4(v4) => (4, v4.octets().to_vec()),
                IpAddr::V6(v6) if v6.segments()[0] == 0 && v6.segments()[1] == 0 => (6, vec![0, 0, 0, 1, 0, 0, 0, 0]),
                IpAddr::V6(v6) => (6, v6.octets()[..8].to_vec()),
            };
            prop_assert_eq!(AddressKey::of(a) == AddressKey::of(b), class(a) == class(b), "{} {}", a, b);
        }
    }
}
