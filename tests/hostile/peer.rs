//! Who a request is from, over real sockets: a library server that answers with the address it was given.
//!
//! Row 15 of the list, and PROXY headers in pieces.

use crate::common::client::{Client, End, Response as Answer, upgrade_request_with};
use megasock::config::Config;
use megasock::{
    CloseReason, ConnId, Decision, Handler, Message, Outbox, Request, Response, Running, Server, Status,
};
use std::net::SocketAddr;
use std::time::Duration;

const V1: &[u8] = b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 443\r\n";
const V2_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";

/// Version 2 for [2001:db8::7]:4711.
fn v2() -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x24".to_vec();
    bytes.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
    bytes.extend([0; 16]);
    bytes.extend([4711u16.to_be_bytes(), 443u16.to_be_bytes()].concat());
    bytes
}

/// Answers every request with who sent it, upgrade or not.
struct WhoAmI;

impl Handler for WhoAmI {
    type Mail = ();

    fn on_request(&mut self, request: &Request<'_>, _: &mut Outbox) -> Decision {
        let peer = request.peer.to_string();
        Decision::Respond(Response::new(Status::Ok, "text/plain", &[], peer.as_bytes()))
    }

    fn on_message(&mut self, _: ConnId, _: Message<'_>, _: &mut Outbox) {}
}

struct Site {
    running: Option<Running<()>>,
    address: SocketAddr,
}

impl Site {
    fn start(trusted: &[&str], proxy_protocol: bool) -> Site {
        let config = Config {
            listen: ([127, 0, 0, 1], 0).into(),
            reactors: Some(1),
            max_connections: Some(100),
            trusted_proxies: trusted.iter().map(|network| network.parse().expect("a network")).collect(),
            proxy_protocol,
            handshake_timeout_ms: 1_000,
            ..Config::default()
        };
        let running = Server::builder().config(config).handler(|_core| WhoAmI).start().expect("a server");
        let address = running.handle().local_address();
        Site { running: Some(running), address }
    }

    /// Whom the server takes the sender of these writes for. What it answers if the bytes are no request is its status.
    fn ask(&self, writes: &[&[u8]]) -> Result<String, u16> {
        let mut client = Client::connect(self.address);
        let port = client.stream().local_addr().expect("an address").port();
        for bytes in writes {
            client.send(bytes);
        }
        let Answer { status, body, .. } = client.last_response();
        let said = String::from_utf8(body).expect("text");
        if status == 200 { Ok(said.replace(&port.to_string(), "PORT")) } else { Err(status) }
    }

    fn closed(&self, reason: CloseReason) -> u64 {
        let running = self.running.as_ref().expect("until it is dropped");
        running.handle().counters().closed[reason as usize]
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.handle().stop(Duration::ZERO);
            running.wait();
        }
    }
}

fn forwarded(by: &str) -> Vec<u8> {
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    upgrade_request_with("/", key, &format!("X-Forwarded-For: {by}\r\n")).into_bytes()
}

#[test]
fn row_15_forwarded_for_of_a_stranger_is_ignored() {
    for trusted in [&[][..], &["10.0.0.0/8", "::1/128"]] {
        let site = Site::start(trusted, false);
        for by in ["6.6.6.6", "127.0.0.2", "10.0.0.1, 10.0.0.2", "::1", "localhost"] {
            assert_eq!(site.ask(&[&forwarded(by)]), Ok("127.0.0.1:PORT".into()), "{by} behind {trusted:?}");
        }
    }
}

#[test]
fn row_15_of_a_trusted_proxy_the_rightmost_untrusted_hop_counts() {
    let site = Site::start(&["127.0.0.0/8", "10.0.0.0/8"], false);
    for (by, client) in [
        ("192.0.2.7", "192.0.2.7:0"),
        ("6.6.6.6, 192.0.2.7", "192.0.2.7:0"),
        ("6.6.6.6, 192.0.2.7, 10.1.2.3", "192.0.2.7:0"),
        ("2001:db8::9", "[2001:db8::9]:0"),
        // Not one of these is an address: the proxy's own is the best that is known.
        ("unknown", "127.0.0.1:PORT"),
        ("192.0.2.7, 6.6.6.6.6", "127.0.0.1:PORT"),
    ] {
        assert_eq!(site.ask(&[&forwarded(by)]), Ok(client.into()), "{by}");
    }
    // Two lines are one list, in their order.
    let two = String::from_utf8(forwarded("6.6.6.6\r\nX-Forwarded-For: 192.0.2.7")).expect("text");
    assert_eq!(site.ask(&[two.as_bytes()]), Ok("192.0.2.7:0".into()));
}

#[test]
fn proxy_headers_in_pieces_name_the_client() {
    let site = Site::start(&["127.0.0.1/32"], true);
    let request = forwarded("6.6.6.6");
    for (header, client) in [(V1, "192.0.2.1:4711"), (&v2(), "[2001:db8::7]:4711"), (V2_LOCAL, "6.6.6.6:0")] {
        let whole = [header, &request].concat();
        for cut in (1..header.len() + 3).chain([whole.len() - 1, whole.len()]) {
            let said = site.ask(&[&whole[..cut], &whole[cut..]]);
            assert_eq!(said.as_deref(), Ok(client), "{}, cut at {cut}", header.escape_ascii());
        }
        let bytes: Vec<&[u8]> = whole.chunks(1).collect();
        assert_eq!(site.ask(&bytes).as_deref(), Ok(client), "byte by byte");
    }
    assert_eq!(site.closed(CloseReason::ProxyHeader), 0);
}

#[test]
fn a_proxy_that_sends_no_header_is_cut_without_a_word() {
    let site = Site::start(&["127.0.0.1/32"], true);
    let rows: [&[u8]; 4] = [
        &forwarded("192.0.2.7"),
        b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 65536\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ];
    for bytes in rows {
        let mut client = Client::connect(site.address);
        client.send(bytes);
        client.ends_with(End::Eof);
    }
    assert_eq!(site.closed(CloseReason::ProxyHeader), rows.len() as u64);
    // Half of one ends with the handshake's time, and is not told either.
    let mut client = Client::connect(site.address);
    client.send(&V1[..20]);
    client.ends_with(End::Eof);
    assert_eq!(site.closed(CloseReason::HandshakeTimeout), 1);
}

#[test]
fn a_proxy_header_of_a_stranger_is_a_broken_request() {
    for site in [Site::start(&["10.0.0.0/8"], true), Site::start(&["127.0.0.1/32"], false)] {
        assert_eq!(site.ask(&[V1, &forwarded("6.6.6.6")]), Err(400));
        assert_eq!(site.ask(&[&v2(), &forwarded("6.6.6.6")]), Err(400));
        assert_eq!(site.closed(CloseReason::ProxyHeader), 0);
    }
}
