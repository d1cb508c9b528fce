//! Who a request is from: PROXY headers in pieces, missing or not expected, and X-Forwarded-For.

use super::*;
use crate::proto::head::HEAD_BYTES_MAX;
use kernel::address;

const V1: &[u8] = b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 443\r\n";
/// The proxy speaks for itself.
const V2_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Version 2 for 2001:db8::7, port 4711, with `more` bytes of additions.
fn v2(more: usize) -> Vec<u8> {
    let mut bytes = [V2_SIGNATURE, b"\x21\x21"].concat();
    bytes.extend((36 + more as u16).to_be_bytes());
    bytes.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
    bytes.extend([0; 16]);
    bytes.extend([4711u16.to_be_bytes(), 443u16.to_be_bytes()].concat());
    bytes.resize(bytes.len() + more, 0);
    bytes
}

fn rig(trusted: &[&str], send_header: bool) -> Rig {
    let trusted = trusted.iter().map(|network| network.parse().unwrap()).collect();
    Rig::with(Options { proxies: Proxies { trusted, send_header }, ..options() })
}

/// Behind a proxy that sends PROXY headers: the test kernel's peers are on 127.0.0.1.
fn behind_proxy() -> Rig {
    rig(&["127.0.0.0/8", "10.0.0.0/8"], true)
}

fn forwarded(path: &str, by: &str) -> Vec<u8> {
    let request = String::from_utf8(upgrade(path)).unwrap();
    request.replacen("\r\n", &format!("\r\nX-Forwarded-For: {by}\r\n"), 1).into_bytes()
}

#[test]
fn a_header_in_any_two_pieces_names_the_client() {
    for (header, client) in
        [(V1.to_vec(), "192.0.2.1:4711"), (v2(0), "[2001:db8::7]:4711"), (v2(9), "[2001:db8::7]:4711")]
    {
        let whole = [header, upgrade("/echo"), text("first")].concat();
        for cut in 1..=whole.len() {
            let mut rig = behind_proxy();
            let peer = rig.connect();
            rig.arrive(peer, &whole[..cut]);
            rig.arrive(peer, &whole[cut..]);
            assert_eq!(rig.reactor.handler.clients, [client.parse().unwrap()], "cut at {cut}");
            assert_eq!(rig.messages(peer), [b"first"], "cut at {cut}");
            let id = rig.id(peer);
            assert_eq!(rig.reactor.conn(id).unwrap().peer(), client.parse().unwrap());
            rig.finish();
        }
    }
}

#[test]
fn a_header_byte_by_byte_is_one_too() {
    let mut rig = behind_proxy();
    let peer = rig.connect();
    rig.peer(peer).recv_max = 1;
    rig.arrive(peer, &[&v2(3)[..], &upgrade("/echo"), &text("first")].concat());
    assert_eq!(rig.reactor.handler.clients, ["[2001:db8::7]:4711".parse().unwrap()]);
    assert_eq!(rig.messages(peer), [b"first"]);
    rig.finish();
}

#[test]
fn a_proxy_that_speaks_for_itself_keeps_its_address() {
    for header in [V2_LOCAL, b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"] {
        let mut rig = behind_proxy();
        let peer = rig.connect();
        rig.arrive(peer, &[header, &upgrade("/echo")[..]].concat());
        assert_eq!(rig.reactor.handler.clients, [address(peer)]);
        rig.finish();
    }
}

#[test]
fn a_proxy_that_does_not_say_is_cut_without_a_word() {
    let rows: [&[u8]; 8] = [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 65536\r\n",
        b"PROXY TCP4 192.0.2.1\r\n",
        b"PROXY \0",
        b"\r\n\r\n\0\r\nQUIT\r",
        b"\r\n\r\n\0\r\nQUIT\n\x31",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        b"\x16\x03\x01",
    ];
    for bytes in rows {
        for cut in 0..bytes.len() {
            let mut rig = behind_proxy();
            let peer = rig.connect();
            rig.arrive(peer, &bytes[..cut]);
            rig.arrive(peer, &bytes[cut..]);
            assert!(rig.peer(peer).gone, "{}, cut at {cut}", bytes.escape_ascii());
            assert_eq!((rig.take(peer), rig.closed(CloseReason::ProxyHeader)), (Vec::new(), 1));
            assert!(rig.reactor.handler.clients.is_empty());
            rig.finish();
        }
    }
}

#[test]
fn nobody_else_may_send_a_header() {
    for mut rig in [rig(&["10.0.0.0/8"], true), rig(&["127.0.0.0/8"], false), Rig::new()] {
        let spoofed = rig.connect();
        rig.arrive(spoofed, &[V1, &upgrade("/echo")[..]].concat());
        assert!(rig.take(spoofed).starts_with(b"HTTP/1.1 400 "));
        let spoofed_v2 = rig.connect();
        rig.arrive(spoofed_v2, &v2(0));
        assert!(rig.take(spoofed_v2).starts_with(b"HTTP/1.1 400 "));
        let plain = rig.open();
        assert_eq!(rig.reactor.handler.clients, [address(plain)]);
        rig.finish();
    }
}

#[test]
fn one_header_is_enough() {
    let mut rig = behind_proxy();
    let peer = rig.connect();
    rig.arrive(peer, &[V1, V1, &upgrade("/echo")[..]].concat());
    assert!(rig.take(peer).starts_with(b"HTTP/1.1 400 "));
    assert!(rig.reactor.handler.clients.is_empty());
    rig.finish();
}

#[test]
fn the_head_has_its_whole_size_behind_a_header() {
    let fill = HEAD_BYTES_MAX - upgrade("/echo").len() - "X: \r\n".len();
    for (fill, expected) in [(fill, b"HTTP/1.1 101 "), (fill + 1, b"HTTP/1.1 431 ")] {
        let request = String::from_utf8(upgrade("/echo")).unwrap();
        let request = request.replacen("\r\n", &format!("\r\nX: {}\r\n", "x".repeat(fill)), 1);
        let mut rig = behind_proxy();
        let peer = rig.connect();
        rig.arrive(peer, &[v2(1_996), request.into_bytes()].concat());
        assert!(rig.take(peer).starts_with(expected));
        rig.finish();
    }
}

#[test]
fn a_header_in_part_ends_at_the_handshake_deadline_without_a_word() {
    for sent in [0, 1, 20] {
        let mut rig = behind_proxy();
        let peer = rig.connect();
        rig.arrive(peer, &V1[..sent]);
        rig.pass_ms(HANDSHAKE_MS - LATE_MS);
        assert!(!rig.peer(peer).gone);
        rig.pass_ms(2 * LATE_MS);
        assert!(rig.peer(peer).gone);
        assert_eq!((rig.take(peer), rig.closed(CloseReason::HandshakeTimeout)), (Vec::new(), 1));
        rig.finish();
    }
}

#[test]
fn the_header_does_not_extend_the_handshake_deadline() {
    let mut rig = behind_proxy();
    let peer = rig.connect();
    rig.pass_ms(HANDSHAKE_MS - 1_000);
    rig.arrive(peer, &[V1, b"GET"].concat());
    rig.pass_ms(1_000 + LATE_MS);
    assert!(rig.take(peer).starts_with(b"HTTP/1.1 408 "));
    rig.finish();
}

#[test]
fn forwarded_for_is_read_of_trusted_proxies_alone() {
    let rows: [(&[&str], &[u8], &str, &str); 6] = [
        (&["127.0.0.1/32"], b"", "6.6.6.6, 192.0.2.7", "192.0.2.7:0"),
        (&["127.0.0.1/32", "10.0.0.0/8"], b"", "6.6.6.6, 192.0.2.7, 10.1.1.1", "192.0.2.7:0"),
        (&["127.0.0.1/32"], b"", "made up", "127.0.0.1:10000"),
        (&["10.0.0.0/8"], b"", "192.0.2.7", "127.0.0.1:10000"),
        (&[], b"", "192.0.2.7", "127.0.0.1:10000"),
        // The PROXY header has named one that is no proxy: what that one writes is its own.
        (&["127.0.0.1/32"], V1, "6.6.6.6", "192.0.2.1:4711"),
    ];
    for (trusted, header, by, client) in rows {
        let mut rig = rig(trusted, !header.is_empty());
        let peer = rig.connect();
        rig.arrive(peer, &[header, &forwarded("/echo", by)].concat());
        assert_eq!(rig.reactor.handler.clients, [client.parse().unwrap()], "{by} through {trusted:?}");
        rig.finish();
    }
    // It has named the inner one of two proxies, which knows more.
    let mut rig = rig(&["127.0.0.1/32", "192.0.2.1/32"], true);
    let peer = rig.connect();
    rig.arrive(peer, &[V1, &forwarded("/echo", "198.51.100.9")].concat());
    assert_eq!(rig.reactor.handler.clients, ["198.51.100.9:0".parse().unwrap()]);
    rig.finish();
}
