//! X-Forwarded-For: the client is the direct peer or a hop, everyone between is trusted, and nothing left of the first who
//! is not has a say. And the keys that addresses are counted by: equal for one address or one network alone.
//!
//! The first byte chooses the direct peer and whom to trust; the rest is header lines, cut at line feeds.
#![no_main]

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use megasock::proto::address::AddressKey;
use megasock::proto::{forwarded, head};

fuzz_target!(|input: &[u8]| {
    let [choice, lines @ ..] = input else { return };
    let direct: IpAddr =
        ["10.0.0.1", "192.0.2.1", "::ffff:10.0.0.1", "fd00::1"][usize::from(choice % 4)].parse().unwrap();
    let trusts_all = choice & 4 != 0;
    let is_ours = |ip: IpAddr| {
        trusts_all
            || matches!(ip, IpAddr::V4(v4) if v4.octets()[0] == 10)
            || matches!(ip, IpAddr::V6(v6) if v6.octets()[0] == 0xFD)
    };

    let mut bytes = b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec();
    for line in lines.split(|byte| *byte == b'\n') {
        bytes.extend([b"X-Forwarded-For:", line, b"\r\n"].concat());
    }
    bytes.extend(b"\r\n");
    let Ok(head) = head::parse(&bytes) else { return };

    let asked = Cell::new(0);
    let client = forwarded::client(&head, direct, |ip| {
        asked.set(asked.get() + 1);
        is_ours(ip)
    });

    let joined = lines.iter().map(|byte| if *byte == b'\n' { b',' } else { *byte }).collect::<Vec<u8>>();
    let hops: Vec<Option<IpAddr>> = joined
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|hop| !hop.is_empty())
        .map(|hop| naive_address(&String::from_utf8_lossy(hop)))
        .chain([Some(direct.to_canonical())])
        .collect();
    let known_from = hops.iter().rposition(Option::is_none).map_or(0, |at| at + 1);
    let known: Vec<IpAddr> = hops[known_from..].iter().flatten().copied().collect();
    let expected = known.iter().rev().find(|ip| !is_ours(**ip)).unwrap_or(&known[0]);
    assert_eq!(client, *expected, "{hops:?}");
    assert!(asked.get() <= hops.len(), "each hop is asked about once");

    for (a, b) in known.iter().zip(&known[1..]) {
        assert_eq!(AddressKey::of(*a) == AddressKey::of(*b), counts_as(*a) == counts_as(*b), "{a} {b}");
    }
});

/// What stands in a hop, by its shape.
fn naive_address(hop: &str) -> Option<IpAddr> {
    let ip = match hop.strip_prefix('[') {
        Some(rest) if rest.ends_with(']') => IpAddr::V6(rest[..rest.len() - 1].parse().ok()?),
        Some(_) => hop.parse::<SocketAddr>().ok()?.ip(),
        None if hop.matches(':').count() == 1 => hop.parse::<SocketAddr>().ok()?.ip(),
        None => hop.parse().ok()?,
    };
    Some(ip.to_canonical())
}

/// The address, or the first half of it; all of ::/32 is one.
fn counts_as(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) if v6.octets()[..4] == [0; 4] => vec![0, 0, 0, 1, 0, 0, 0, 0],
        IpAddr::V6(v6) => v6.octets()[..8].to_vec(),
    }
}
