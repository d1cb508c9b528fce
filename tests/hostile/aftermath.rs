//! What is always so: once attackers are gone the process lives, and its memory is what it was.
//!
//! The other files look at each answer; here every kind of refusal and violation comes many times over, from clients
//! that read nothing and leave in any way, and only what is left of them is looked at.

use crate::common::client::{Client, upgrade_request, upgrade_request_with};
use crate::common::frames::{self, BINARY, CLOSE, CONTINUATION, FIN, PING, TEXT};
use crate::common::server::Server;
use std::time::Duration;

const ROUNDS: usize = 30;

/// For bytes after an offence: the server may be gone.
const BRIEFLY: Duration = Duration::from_secs(1);

/// Sends each row on connections of its own and leaves, the first time with FIN, then with RST, and so on.
fn send_and_leave(rows: &[Vec<u8>], open: impl Fn() -> Client) {
    for round in 0..ROUNDS {
        for bytes in rows {
            let mut client = open();
            client.offer(bytes, BRIEFLY);
            match round % 3 {
                0 => drop(client),
                1 => client.reset(),
                _ => {
                    client.end_within(BRIEFLY);
                }
            }
        }
    }
}

#[test]
fn nothing_is_left_of_requests_that_are_refused() {
    let mut server = Server::start(&["--handshake-timeout", "1s"]);
    let rss = server.warm_rss_bytes();
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    let line = |line: &str| upgrade_request_with("/echo", key, &format!("{line}\r\n")).into_bytes();
    let instead = |old: &str, new: &str| upgrade_request("/echo").replace(old, new).into_bytes();
    let rows = [
        line(&format!("X-Long: {}", "a".repeat(20_000))),
        line(&(0..200).map(|n| format!("X-{n}: v")).collect::<Vec<_>>().join("\r\n")),
        line("Host: again"),
        line("Content-Length: 5"),
        line("Transfer-Encoding: chunked"),
        line("X-Bare: a\nX: b"),
        line(&format!("Sec-WebSocket-Key: {key}")),
        instead("GET", "POST"),
        instead("Version: 13", "Version: 8"),
        instead("websocket", "h2c"),
        instead("/echo", &format!("/{}", "a".repeat(9_000))),
        instead("/echo", "/%00"),
        instead("/echo", "/metrics"),
        upgrade_request("/echo").into_bytes()[..40].to_vec(),
        b"\x16\x03\x01\x02\x00".to_vec(),
        b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\n".to_vec(),
        Vec::new(),
    ];
    send_and_leave(&rows, || Client::connect(server.address));
    server.assert_serves();
    server.assert_rss_returns_to(rss);
    let summary = server.stop();
    assert!(summary.held.values().all(|held| *held == 0), "{summary:?}");
}

#[test]
fn nothing_is_left_of_clients_that_break_the_protocol() {
    let mut server = Server::start(&["--close-timeout", "1s"]);
    let rss = server.warm_rss_bytes();
    let rows = [
        b"\x81\x02hi".to_vec(),
        frames::frame(FIN | 0x40 | TEXT, b"rsv"),
        frames::header(FIN | 0x3, 1 << 62),
        frames::header(FIN | BINARY, 1 << 63),
        frames::header(FIN | BINARY, 1 << 40),
        frames::frame(PING, b"a fragment"),
        frames::frame(FIN | CONTINUATION, b"orphan"),
        [frames::frame(TEXT, b"a"), frames::frame(FIN | TEXT, b"b")].concat(),
        frames::frame(CONTINUATION, b"").repeat(5_000),
        [frames::frame(TEXT, b""), frames::frame(CONTINUATION, b"x").repeat(5_000)].concat(),
        [frames::frame(BINARY, &[0; 60_000]), frames::frame(CONTINUATION, &[0; 60_000])].concat(),
        frames::message(TEXT, b"\xed\xa0\x80"),
        frames::message(CLOSE, b"\x03"),
        frames::close(1005, b""),
        frames::close(1000, b"\xff"),
        frames::message(BINARY, &[0; 60_000]).repeat(20),
        frames::message(BINARY, &[0; 60_000])[..50_000].to_vec(),
    ];
    send_and_leave(&rows, || server.open());
    server.assert_serves();
    server.assert_rss_returns_to(rss);
    let summary = server.stop();
    assert!(summary.held.values().all(|held| *held == 0), "{summary:?}");
}
