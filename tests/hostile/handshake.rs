//! The opening handshake (RFC 6455 §4): what a request must have to become a WebSocket.

use crate::common::client::{Client, KEYS, request, upgrade_request, upgrade_request_with};
use crate::common::frames::{self, BINARY, TEXT};
use crate::common::server::Server;

const KEY_LINE: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const VERSION_LINE: &str = "Sec-WebSocket-Version: 13\r\n";

/// A correct request but for one line, which becomes `instead`.
fn replacing(line: &str, instead: &str) -> String {
    let correct = upgrade_request("/echo");
    assert!(correct.contains(line));
    correct.replace(line, instead)
}

/// Sends each row's bytes and expects its status, once, and the connection closed.
fn assert_refused(server: &mut Server, rows: &[(String, u16)]) {
    for (bytes, status) in rows {
        let response = request(server.address, bytes.as_bytes());
        assert_eq!(response.status, *status, "{bytes:?}: {response:?}");
    }
    server.assert_serves();
}

#[test]
fn every_key_gets_its_own_accept_value() {
    let server = Server::start(&[]);
    for (key, accept) in KEYS {
        let mut client = Client::connect(server.address);
        client.send(upgrade_request_with("/echo", key, "").as_bytes());
        client.accepted(accept);
        client.echo(TEXT, b"hello");
    }
}

#[test]
fn what_browsers_and_proxies_vary_is_accepted() {
    let server = Server::start(&[]);
    for bytes in [
        replacing("Upgrade: websocket", "upgrade: WebSocket"),
        replacing("Connection: Upgrade", "connection: keep-alive, Upgrade"),
        replacing("Connection: Upgrade", "Connection:upgrade"),
        replacing("Sec-WebSocket-Key", "sec-websocket-key"),
        replacing("/echo", "/echo?a=b&c=%20d"),
        replacing(VERSION_LINE, "Sec-WebSocket-Version: 13\r\nContent-Length: 0\r\n"),
        replacing(
            VERSION_LINE,
            "Sec-WebSocket-Version: 13\r\nOrigin: https://example.com\r\nCookie: a=b\r\n",
        ),
    ] {
        let mut client = Client::connect(server.address);
        client.send(bytes.as_bytes());
        client.accepted(KEYS[0].1);
        client.echo(BINARY, b"\0\xff");
    }
}

#[test]
fn row_05_only_get_upgrades() {
    let mut server = Server::start(&[]);
    for method in ["POST", "PUT", "OPTIONS", "DELETE", "BREW"] {
        let bytes = upgrade_request("/echo").replacen("GET", method, 1);
        let response = request(server.address, bytes.as_bytes());
        assert_eq!((response.status, response.header("Allow")), (405, Some("GET")), "{method}: {response:?}");
    }
    server.assert_serves();
}

#[test]
fn row_06_key_is_sixteen_bytes_once() {
    let mut server = Server::start(&[]);
    let with = |line: &str| (replacing(KEY_LINE, line), 400);
    let rows = [
        with(""),
        with(&KEY_LINE.repeat(2)),
        with(
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
        ),
        with("Sec-WebSocket-Key:\r\n"),
        with("Sec-WebSocket-Key: c2hvcnQ=\r\n"),
        with("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAA\r\n"),
        with("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAAA=\r\n"),
        with("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ\r\n"),
        with("Sec-WebSocket-Key: !!!!!!!!!!!!!!!!!!!!!!==\r\n"),
        with("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ==\r\n"),
    ];
    assert_refused(&mut server, &rows);
}

#[test]
fn row_07_version_is_thirteen() {
    let mut server = Server::start(&[]);
    let lines = ["7", "8", "99", "", "013", "13, 8", "-13", "x"]
        .map(|version| format!("Sec-WebSocket-Version: {version}\r\n"));
    for line in lines.iter().map(String::as_str).chain([""]) {
        // What follows would be a correct request; it must not be looked at.
        let bytes = replacing(VERSION_LINE, line) + &upgrade_request("/echo");
        let response = request(server.address, bytes.as_bytes());
        assert_eq!(
            (response.status, response.header("Sec-WebSocket-Version")),
            (426, Some("13")),
            "{line:?}: {response:?}"
        );
    }
    server.assert_serves();
}

#[test]
fn row_08_upgrade_and_connection_headers() {
    let mut server = Server::start(&[]);
    let rows = [
        (replacing("Upgrade: websocket", "Upgrade: h2c"), 426),
        (replacing("Upgrade: websocket", "Upgrade: websocketx"), 426),
        (replacing("Connection: Upgrade\r\n", ""), 400),
        (replacing("Connection: Upgrade", "Connection: keep-alive"), 400),
        (replacing("Connection: Upgrade", "Connection: upgraded"), 400),
        (replacing("Connection: Upgrade", "Connection: close"), 400),
    ];
    assert_refused(&mut server, &rows);
}

#[test]
fn row_09_an_upgrade_has_no_body() {
    let mut server = Server::start(&[]);
    let with = |extra: &str| (upgrade_request_with("/echo", KEYS[0].0, extra), 400);
    let rows = [
        with("Content-Length: 5\r\n"),
        with("Content-Length: 18446744073709551616\r\n"),
        with("Content-Length: -1\r\n"),
        with("Content-Length: +0\r\n"),
        with("Transfer-Encoding: chunked\r\n"),
        with("Transfer-Encoding: identity\r\n"),
        with("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n"),
        with("Content-Length: 0\r\nContent-Length: 5\r\n"),
    ];
    assert_refused(&mut server, &rows);
}

#[test]
fn row_12_frames_may_come_with_the_request() {
    let server = Server::start(&[]);
    let early: Vec<u8> =
        [frames::text("one"), frames::message(BINARY, &[7; 300]), frames::text("three")].concat();
    let mut bytes = upgrade_request("/echo").into_bytes();
    bytes.extend(&early);
    // Cut inside the head, at its end, inside a frame header and inside a payload.
    let head = bytes.len() - early.len();
    for split in [1, head - 1, head, head + 1, head + 5, head + 7, head + 12, bytes.len()] {
        let mut client = Client::connect(server.address);
        client.send(&bytes[..split]);
        client.send(&bytes[split..]);
        client.accepted(KEYS[0].1);
        client.expect_echo(TEXT, b"one");
        client.expect_echo(BINARY, &[7; 300]);
        client.expect_echo(TEXT, b"three");
    }
}

#[test]
fn row_12_an_early_violation_is_one_after_the_101() {
    let server = Server::start(&[]);
    let mut client = Client::connect(server.address);
    client.send(&[upgrade_request("/echo").as_bytes(), b"\x81\x02hi"].concat());
    client.accepted(KEYS[0].1);
    client.expect_close(1002);
}

#[test]
fn row_12_many_early_frames_are_all_handled() {
    let server = Server::start(&[]);
    let body = vec![b'x'; 1000];
    let mut client = Client::connect(server.address);
    client.send(&[upgrade_request("/echo").into_bytes(), frames::message(TEXT, &body).repeat(60)].concat());
    client.accepted(KEYS[0].1);
    for _ in 0..60 {
        client.expect_echo(TEXT, &body);
    }
}

#[test]
fn row_19_no_extension_is_ever_agreed_to() {
    let server = Server::start(&[]);
    // A name so short that they fit into a head.
    let thousand = vec!["deflate-frame"; 1000].join(",");
    let offers = [
        "permessage-deflate",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; client_max_window_bits=16",
        "permessage-deflate; client_max_window_bits; client_max_window_bits",
        "x-webkit-deflate-frame",
        "constructor",
        "__proto__; toString=1",
        "a;b=\"c",
        ";;;,,,===",
        &thousand,
    ];
    for offer in offers {
        let extra = format!("Sec-WebSocket-Extensions: {offer}\r\n");
        let mut client = Client::connect(server.address);
        client.send(upgrade_request_with("/echo", KEYS[0].0, &extra).as_bytes());
        // No extension in the answer: `accepted` checks it.
        client.accepted(KEYS[0].1);
        client.echo(TEXT, b"plain");
    }
}

#[test]
fn a_subprotocol_nobody_here_speaks_is_not_agreed_to() {
    let server = Server::start(&[]);
    let mut client = Client::connect(server.address);
    client.send(
        upgrade_request_with("/echo", KEYS[0].0, "Sec-WebSocket-Protocol: chat, superchat\r\n").as_bytes(),
    );
    client.accepted(KEYS[0].1);
    client.echo(TEXT, b"plain");
}
