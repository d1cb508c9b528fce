//! Plain HTTP: request heads that lie about where they end, that are too large, or that never end.

use crate::common::client::{Client, End, request, upgrade_request, upgrade_request_with};
use crate::common::server::Server;
use std::time::{Duration, Instant};

/// A correct request for `target` with `extra` header lines, each with its CRLF.
fn get(target: &str, extra: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{extra}\r\n")
}

/// Sends each row's bytes on a connection of its own and expects its status, once, and the connection closed.
fn assert_statuses(server: &Server, rows: &[(&str, u16)]) {
    let wrong: Vec<String> = rows
        .iter()
        .map(|(bytes, status)| (bytes, status, request(server.address, bytes.as_bytes()).status))
        .filter(|(_, status, got)| got != *status)
        .map(|(bytes, status, got)| format!("{got} instead of {status}: {bytes:.300?}"))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn row_01_oversized_header_block() {
    let mut server = Server::start(&[]);
    let many = |count: usize| (0..count).map(|n| format!("X-{n}: v\r\n")).collect::<String>();
    let long = |bytes: usize| format!("X-Long: {}\r\n", "a".repeat(bytes));
    assert_statuses(
        &server,
        &[
            // Host is the hundredth.
            (&get("/health", &many(99)), 200),
            (&get("/health", &many(100)), 431),
            (&get("/health", &many(1000)), 431),
            (&get("/health", &long(15 * 1024)), 200),
            (&get("/health", &long(17 * 1024)), 431),
            (&get("/health", &many(60).replace(": v", &format!(": {}", "a".repeat(300)))), 431),
            (&upgrade_request_with("/echo", "dGhlIHNhbXBsZSBub25jZQ==", &long(17 * 1024)), 431),
        ],
    );
    // Refused at the limit: nobody waits for an end that does not come.
    let mut endless = Client::connect(server.address);
    endless.send(
        format!("GET /health HTTP/1.1\r\nHost: localhost\r\nX-Long: {}", "a".repeat(17 * 1024)).as_bytes(),
    );
    assert_eq!(endless.last_response().status, 431);
    server.assert_serves();
}

#[test]
fn row_01_header_flood_costs_no_memory_and_little_cpu() {
    let mut server = Server::start(&[]);
    let (rss, cpu) = (server.warm_rss_bytes(), server.cpu_time());
    let chunk = "X-Flood: ".to_owned() + &"a".repeat(64 * 1024);
    let mut flood = Client::connect(server.address);
    flood.send(b"GET /echo HTTP/1.1\r\nHost: localhost\r\n");
    // 20 MB, if the server takes it. It may stop listening at any point after its 431.
    let sent = (0..320).take_while(|_| flood.offer(chunk.as_bytes(), Duration::from_secs(2))).count();
    assert!(flood.end_within(Duration::from_secs(10)).is_some(), "still open after {sent} chunks");
    assert!(server.cpu_time() - cpu < Duration::from_secs(1));
    server.assert_serves();
    server.assert_rss_returns_to(rss);
}

#[test]
fn row_02_header_drip_ends_at_the_absolute_deadline() {
    let server = Server::start(&["--handshake-timeout", "2s"]);
    assert_drip_ends(&server, Duration::from_millis(100), Duration::from_secs(2));
    assert_eq!(server.stop().closed("handshake_timeout"), 1);
}

#[test]
fn row_02_header_drip_ends_at_ten_seconds_by_default() {
    let server = Server::start(&[]);
    assert_drip_ends(&server, Duration::from_secs(1), Duration::from_secs(10));
}

/// One byte of a correct request per `every`; 408 and the end come at `timeout`, however lively the peer is.
fn assert_drip_ends(server: &Server, every: Duration, timeout: Duration) {
    let began = Instant::now();
    let mut drip = Client::connect(server.address);
    let request = upgrade_request("/echo");
    for byte in request.as_bytes() {
        if !drip.offer(&[*byte], every) || drip.end_within(every).is_some() {
            break;
        }
    }
    assert_ended_at(began, timeout);
    assert_eq!(drip.response().status, 408);
}

/// It is now `timeout` after `began`: not earlier, and later only by what a busy machine needs.
pub(crate) fn assert_ended_at(began: Instant, timeout: Duration) {
    let took = began.elapsed();
    assert!(took + Duration::from_millis(50) >= timeout, "ended after {took:?}, before its {timeout:?}");
    assert!(took < timeout + Duration::from_millis(1500), "ended after {took:?} instead of {timeout:?}");
}

#[test]
fn row_03_silence_ends_at_the_deadline() {
    for (flags, timeout) in [(&["--handshake-timeout", "1s"][..], 1), (&[], 10)] {
        let server = Server::start(flags);
        let began = Instant::now();
        let mut silent = Client::connect(server.address);
        assert_eq!(silent.end_within(Duration::from_secs(20)), Some(End::Eof));
        assert_ended_at(began, Duration::from_secs(timeout));
        assert_eq!(server.stop().closed("handshake_timeout"), 1);
    }
}

#[test]
fn row_04_host_is_required_once() {
    let mut server = Server::start(&[]);
    let two = upgrade_request_with("/echo", "dGhlIHNhbXBsZSBub25jZQ==", "Host: elsewhere\r\n");
    assert_statuses(
        &server,
        &[
            ("GET /health HTTP/1.1\r\n\r\n", 400),
            ("GET /health HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
            ("GET /health HTTP/1.1\r\nHost: a\r\nhOST: b\r\n\r\n", 400),
            (&upgrade_request("/echo").replace("Host: localhost\r\n", ""), 400),
            (&two, 400),
            ("GET /health HTTP/1.1\r\nhOST: a\r\n\r\n", 200),
        ],
    );
    server.assert_serves();
}

#[test]
fn row_10_ambiguous_heads() {
    let mut server = Server::start(&[]);
    let head = |line: &str| format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{line}\r\n\r\n");
    assert_statuses(
        &server,
        &[
            (&head("Content-Length: 3\r\nTransfer-Encoding: chunked"), 400),
            (&head("Content-Length: 3\r\nContent-Length: 4"), 400),
            (&head("X-Folded: a\r\n b"), 400),
            (&head("X-Folded: a\r\n\tb"), 400),
            (&head("X-Bare: a\nX-Smuggled: b"), 400),
            (&head("X-Bare: a\rX-Smuggled: b"), 400),
            (&head("X-Nul: a\0b"), 400),
            (&head("X-Nul\0: a"), 400),
            (&head("X-Space : a"), 400),
            (&head("X-Tab\t: a"), 400),
            (&head(": nameless"), 400),
            (&head("no colon here"), 400),
            ("GET /health HTTP/1.1\nHost: localhost\n\n", 400),
            ("GET /health HTTP/1.1\r\nHost: localhost\r\n\n", 400),
            (" GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
            ("GET  /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
            ("GET /hea\0lth HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
            ("GET /health\r\nHost: localhost\r\n\r\n", 400),
            ("\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\r\n\r\n", 400),
        ],
    );
    server.assert_serves();
}

#[test]
fn row_10_garbage_is_refused_without_waiting_for_its_end() {
    let server = Server::start(&[]);
    // A TLS ClientHello, an SSH banner, and a frame without a handshake: none of them can become a request.
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"\0\0\0\0\0\0\0\0",
        b"\x81\x85\x37\xfa\x21\x3d",
    ] {
        let began = Instant::now();
        assert_eq!(request(server.address, bytes).status, 400, "{bytes:02x?}");
        assert!(began.elapsed() < Duration::from_secs(5), "{bytes:02x?} had to wait");
    }
}

#[test]
fn row_11_nothing_after_a_refusal_is_parsed() {
    let mut server = Server::start(&[]);
    let refused = upgrade_request("/echo").replace("Version: 13", "Version: 8");
    for next in [get("/health", ""), upgrade_request("/echo"), "\u{1}\u{2}garbage".repeat(4000)] {
        let response = request(server.address, (refused.clone() + &next).as_bytes());
        assert_eq!(response.status, 426);
    }
    // The same in two writes, the second on its way while the first is answered.
    let mut client = Client::connect(server.address);
    client.send(refused.as_bytes());
    client.offer(upgrade_request("/echo").as_bytes(), Duration::from_secs(1));
    assert_eq!(client.last_response().status, 426);
    server.assert_serves();
}

#[test]
fn row_13_targets() {
    let mut server = Server::start(&[]);
    let long = |bytes: usize| get(&format!("/health?{}", "a".repeat(bytes)), "");
    assert_statuses(
        &server,
        &[
            (&long(8000), 200),
            (&long(8300), 414),
            (&long(15_000), 414),
            (&get("/../health", ""), 400),
            (&get("/a/../health", ""), 400),
            (&get("/health/..", ""), 400),
            (&get("/%2e%2e/health", ""), 400),
            (&get("/health%00", ""), 400),
            (&get("/health%2f", ""), 400),
            (&get("/a%2Fhealth", ""), 400),
            (&get("/a%5chealth", ""), 400),
            (&get("/a\\health", ""), 400),
            (&upgrade_request("/../echo"), 400),
            (&upgrade_request("/echo%00"), 400),
            (&upgrade_request(&format!("/echo?{}", "a".repeat(9000))), 414),
        ],
    );
    // The target alone is over the limit: refused before the head is whole.
    let mut endless = Client::connect(server.address);
    endless.send(format!("GET /{}", "a".repeat(9000)).as_bytes());
    assert_eq!(endless.last_response().status, 414);
    server.assert_serves();
}

#[test]
fn row_20_admin_paths_are_not_here() {
    let mut server = Server::start(&[]);
    for target in [
        "/metrics",
        "/api/publish",
        "/api/connections",
        "/admin",
        "/dashboard",
        "/healthz",
        "/echo/x",
        "/Health",
    ] {
        assert_eq!(request(server.address, get(target, "").as_bytes()).status, 404, "{target}");
        assert_eq!(
            request(server.address, upgrade_request(target).as_bytes()).status,
            404,
            "upgrade to {target}"
        );
    }
    server.assert_serves();
}

#[test]
fn ordinary_requests_are_answered() {
    let server = Server::start(&[]);
    let health = request(server.address, get("/health", "").as_bytes());
    assert_eq!((health.status, health.body.trim_ascii()), (200, &b"ok"[..]));
    assert_eq!(request(server.address, get("/ready", "").as_bytes()).status, 200);
    let page = request(server.address, get("/", "").as_bytes());
    assert_eq!(page.status, 200);
    assert!(page.header("Content-Type").is_some_and(|kind| kind.starts_with("text/html")), "{page:?}");
    // /echo is for WebSockets: said with the header that names the protocol (RFC 9110 §15.5.22).
    let plain = request(server.address, get("/echo", "").as_bytes());
    assert_eq!((plain.status, plain.header("Upgrade")), (426, Some("websocket")));
    assert_eq!(request(server.address, b"POST /health HTTP/1.1\r\nHost: localhost\r\n\r\n").status, 405);
}

#[test]
fn a_head_may_arrive_in_any_pieces() {
    let server = Server::start(&[]);
    let bytes = get("/health", "X-Some: thing\r\n");
    for split in 1..bytes.len() {
        let mut client = Client::connect(server.address);
        client.send(&bytes.as_bytes()[..split]);
        client.send(&bytes.as_bytes()[split..]);
        assert_eq!(client.last_response().status, 200, "split at {split}");
    }
}

#[test]
fn refusals_never_repeat_the_request() {
    let server = Server::start(&[]);
    let marker = "<script>marker";
    for bytes in [
        get(&format!("/{marker}"), ""),
        get("/nowhere", &format!("X-A: {marker}\r\n")),
        format!("{marker} / HTTP/1.1\r\nHost: {marker}\r\n\r\n"),
        upgrade_request("/echo").replace("Version: 13", &format!("Version: {marker}")),
        upgrade_request_with("/echo", marker, ""),
    ] {
        let response = request(server.address, bytes.as_bytes());
        assert!(response.status >= 400, "{bytes}: {response:?}");
        let all = format!("{:?} {}", response.headers, String::from_utf8_lossy(&response.body));
        assert!(!all.contains("marker"), "{bytes} came back: {all}");
    }
}
