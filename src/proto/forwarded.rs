//! Who a request comes from, when proxies stand between: X-Forwarded-For, read from the right.
//!
//! Each proxy appends the address it was called from, so the list is true from its right end up to the first hop that is
//! not a proxy of ours; what stands left of that hop is whatever that hop wrote. Nothing of it is believed, and nothing at
//! all of a peer that is no trusted proxy.
//!
//! Linear in the head, which is bounded; no allocation. `Forwarded` (RFC 7239) is not read: proxies that write it write
//! X-Forwarded-For too, and two lists could disagree.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::head::Head;

/// The address of the client: the right-most hop that is not trusted, `direct` being the right-most of all.
///
/// If all are trusted it is the left-most. A hop that is no address (`unknown`, a made-up name) ends the walk at the last
/// trusted hop, which vouches for nothing better. Addresses mapped into IPv6 come out as IPv4, and are asked about so.
///
/// ```
/// use megasock::proto::{forwarded, head};
/// let head = head::parse(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6, 192.0.2.7, 10.0.0.2\r\n\r\n").unwrap();
/// let is_trusted = |ip: std::net::IpAddr| ip.to_string().starts_with("10.");
/// let client = |direct: &str| forwarded::client(&head, direct.parse().unwrap(), is_trusted).to_string();
/// assert_eq!(client("10.0.0.1"), "192.0.2.7"); // and not 6.6.6.6, which 192.0.2.7 may have made up
/// assert_eq!(client("192.0.2.9"), "192.0.2.9"); // no proxy of ours: the header says nothing
/// ```
pub fn client(head: &Head<'_>, direct: IpAddr, is_trusted: impl Fn(IpAddr) -> bool) -> IpAddr {
    let mut client = direct.to_canonical();
    // Several header lines are one list, in their order (RFC 9110 §5.3).
    let mut hops = head.list("x-forwarded-for").rev();
    while is_trusted(client)
        && let Some(hop) = hops.next().and_then(address)
    {
        client = hop.to_canonical();
    }
    client
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:80`.
fn address(hop: &[u8]) -> Option<IpAddr> {
    let hop = str::from_utf8(hop).ok()?;
    let bracketed = || hop.strip_prefix('[')?.strip_suffix(']')?.parse().map(|v6: Ipv6Addr| v6.into()).ok();
    let with_port = || hop.parse().map(|socket: SocketAddr| socket.ip()).ok();
    hop.parse().ok().or_else(bracketed).or_else(with_port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::head;
    use proptest::prelude::*;

    /// What proxies on 10.0.0.0/8 and fd00::/8 are to us.
    fn is_ours(ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(v4) => v4.octets()[0] == 10,
            IpAddr::V6(v6) => v6.octets()[0] == 0xFD,
        }
    }

    fn client_of(lines: &[&str], direct: &str) -> String {
        let fields: String = lines.iter().map(|line| format!("x-Forwarded-for: {line}\r\n")).collect();
        let bytes = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let head = head::parse(bytes.as_bytes()).unwrap();
        client(&head, direct.parse().unwrap(), is_ours).to_string()
    }

    #[test]
    fn the_rightmost_hop_that_is_not_trusted() {
        let rows: [(&[&str], &str, &str); 24] = [
            (&[], "192.0.2.1", "192.0.2.1"),
            (&[], "10.0.0.1", "10.0.0.1"),
            (&["6.6.6.6"], "192.0.2.1", "192.0.2.1"), // spoofed: the peer is no proxy
            (&["192.0.2.1"], "10.0.0.1", "192.0.2.1"),
            (&["6.6.6.6, 192.0.2.1"], "10.0.0.1", "192.0.2.1"),
            (&["6.6.6.6,192.0.2.1\t, 10.0.0.2"], "10.0.0.1", "192.0.2.1"),
            (&["6.6.6.6", "192.0.2.1", "10.0.0.2"], "10.0.0.1", "192.0.2.1"),
            (&["192.0.2.1, 10.0.0.3", "10.0.0.2"], "10.0.0.1", "192.0.2.1"),
            (&["10.0.0.3, 10.0.0.2"], "10.0.0.1", "10.0.0.3"), // an inner client
            (&["6.6.6.6, unknown, 10.0.0.2"], "10.0.0.1", "10.0.0.2"),
            (&["unknown"], "10.0.0.1", "10.0.0.1"),
            (&["", " , ,192.0.2.1, ,", ""], "10.0.0.1", "192.0.2.1"), // RFC 9110 §5.6.1.2: empty elements
            (&["192.0.2.1:4711"], "10.0.0.1", "192.0.2.1"),
            (&["192.0.2.1:65536"], "10.0.0.1", "10.0.0.1"),
            (&["192.0.2.01"], "10.0.0.1", "10.0.0.1"), // octal to some
            (&["2001:db8::1"], "10.0.0.1", "2001:db8::1"),
            (&["[2001:db8::1]"], "10.0.0.1", "2001:db8::1"),
            (&["[2001:db8::1]:443, fd00::2"], "fd00::1", "2001:db8::1"),
            (&["[192.0.2.1]"], "10.0.0.1", "10.0.0.1"),
            (&["::ffff:192.0.2.1"], "10.0.0.1", "192.0.2.1"),
            (&["192.0.2.1, ::ffff:10.0.0.2"], "::ffff:10.0.0.1", "192.0.2.1"), // trusted, mapped or not
            (&["\"192.0.2.1\""], "10.0.0.1", "10.0.0.1"),
            (&["192.0.2.1 10.0.0.2"], "10.0.0.1", "10.0.0.1"),
            (&["192.0.2.1, \u{fc}"], "10.0.0.1", "10.0.0.1"),
        ];
        for (lines, direct, expected) in rows {
            assert_eq!(client_of(lines, direct), expected, "{lines:?} through {direct}");
        }
    }

    #[test]
    fn a_full_head_of_hops_is_one_pass() {
        let line = "10.1.1.1,".repeat(1_600);
        assert_eq!(client_of(&[&format!("192.0.2.1,{line}")], "10.0.0.1"), "192.0.2.1");
        assert_eq!(client_of(&[&",".repeat(16_000)], "10.0.0.1"), "10.0.0.1");
    }

    fn hop() -> impl Strategy<Value = String> {
        prop_oneof![
            Just("10.0.0.2".to_owned()),
            Just("fd00::2".to_owned()),
            Just("[fd00::2]:80".to_owned()),
            Just("unknown".to_owned()),
            any::<[u8; 4]>().prop_map(|octets| IpAddr::from(octets).to_string()),
            any::<u16>().prop_map(|port| format!("10.9.9.9:{port}")),
            any::<[u16; 8]>().prop_map(|segments| IpAddr::from(segments).to_string()),
        ]
    }

    proptest! {
        /// The same by definition, over one list built beforehand.
        #[test]
        fn the_walk_is_what_the_definition_says(
            lines in proptest::collection::vec(proptest::collection::vec(hop(), 0..5), 0..4),
            direct in prop_oneof![Just("10.0.0.1"), Just("fd00::1"), Just("192.0.2.1")],
        ) {
            let direct_ip: IpAddr = direct.parse().unwrap();
            let hops: Vec<Option<IpAddr>> = lines.iter().flatten()
                .map(|hop| hop.parse().ok().or_else(|| hop.parse().ok().map(|s: SocketAddr| s.ip())))
                .chain([Some(direct_ip)])
                .collect();
            let unknown_end = hops.iter().rposition(Option::is_none).map_or(0, |at| at + 1);
            let known: Vec<IpAddr> = hops[unknown_end..].iter().map(|hop| hop.unwrap()).collect();
            let expected = known.iter().rev().find(|hop| !is_ours(**hop)).unwrap_or(&known[0]);

            let joined: Vec<String> = lines.iter().map(|line| line.join(", ")).collect();
            let joined: Vec<&str> = joined.iter().map(String::as_str).collect();
            prop_assert_eq!(client_of(&joined, direct), expected.to_string());
        }
    }
}
