//! HTTP itself: heads that lie, requests that come in pieces or in a row, connections in numbers.

use crate::common::client::{Client, End, Response};
use crate::common::server::Server;
use crate::common::{PATIENCE, raise_descriptor_limit};
use crate::{admin, ask, assert_error, get, post};
use std::io::Read;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Each row's bytes get its status, which the description of the API has, and after a refusal nothing more is read.
fn assert_statuses(address: SocketAddr, rows: &[(&str, u16)]) {
    let document = ask(address, get("/api/openapi.json", "")).body;
    let document: serde_json::Value = serde_json::from_slice(&document).expect("JSON");
    let described = &document["paths"]["/health"]["get"]["responses"];
    let status = |bytes: &str| {
        let mut client = Client::connect(address);
        client.send(bytes.as_bytes());
        match client.response() {
            answer if answer.status >= 400 && answer.header("Connection") == Some("close") => {
                assert_eq!(client.end_within(PATIENCE), Some(End::Eof), "{bytes:.200?}");
                answer.status
            }
            answer => answer.status,
        }
    };
    let wrong: Vec<String> = rows
        .iter()
        .map(|(bytes, wanted)| (bytes, wanted, status(bytes)))
        .filter(|(_, wanted, got)| got != *wanted)
        .map(|(bytes, wanted, got)| format!("{got} instead of {wanted}: {bytes:.200?}"))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let untold = rows.iter().find(|(_, status)| described.get(status.to_string()).is_none());
    assert_eq!(untold, None, "{described:#}");
}

fn assert_serves(address: SocketAddr) {
    let answer = ask(address, get("/health", ""));
    assert_eq!((answer.status, answer.body.trim_ascii()), (200, &b"ok"[..]));
}

#[test]
fn heads_that_lie_are_refused() {
    let server = Server::start(&[]);
    let address = admin(&server);
    let many = |count: usize| (0..count).map(|n| format!("X-{n}: v\r\n")).collect::<String>();
    let long_name = |bytes: usize| format!("{}: v\r\n", "n".repeat(bytes));
    let with = |lines: &str| get("/health", &format!("{lines}\r\n"));
    assert_statuses(
        address,
        &[
            (&get("/health", &many(63)), 200),
            (&get("/health", &many(64)), 431),
            (&get("/health", &many(100)), 431),
            (&get("/health", &many(1000)), 431),
            (&get("/health", &format!("X-Long: {}\r\n", "a".repeat(15 * 1024))), 200),
            (&get("/health", &format!("X-Long: {}\r\n", "a".repeat(17 * 1024))), 431),
            (&get("/health", &long_name(128)), 200),
            (&get("/health", &long_name(129)), 431),
            (&get(&format!("/health?{}", "a".repeat(8000)), ""), 200),
            (&get(&format!("/health?{}", "a".repeat(8300)), ""), 414),
            (&with("Content-Length: 3\r\nTransfer-Encoding: chunked"), 400),
            (&with("Transfer-Encoding: chunked"), 411),
            (&with("Transfer-Encoding: identity"), 411),
            (&with("Content-Length: 3\r\nContent-Length: 3"), 400),
            (&with("Content-Length: 3, 3"), 400),
            (&with("Content-Length: +3"), 400),
            (&with("Content-Length: -1"), 400),
            (&with("Content-Length: 0x3"), 400),
            (&with("Content-Length:"), 400),
            (&with("Content-Length: 1048577"), 413),
            (&with("Content-Length: 99999999999999999999999"), 413),
            (&with("X-Folded: a\r\n b"), 400),
            (&with("X-Folded: a\r\n\tb"), 400),
            (&with("X-Bare: a\nX-Smuggled: b"), 400),
            (&with("X-Bare: a\rX-Smuggled: b"), 400),
            (&with("X-Bare: a\r"), 400),
            (&with("X-Nul: a\0b"), 400),
            (&with("X-Nul\0: a"), 400),
            (&with("X-Delete: \x7f"), 400),
            (&with("X-Space : a"), 400),
            (&with("X-(Comment): a"), 400),
            (&with(": nameless"), 400),
            (&with("no colon here"), 400),
            (&with("Expect: a miracle"), 417),
            (&with("Host: elsewhere"), 400),
            ("GET /health HTTP/1.1\r\n\r\n", 400),
            ("GET /health HTTP/1.0\r\n\r\n", 200),
            ("GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n", 200),
            ("GET /health HTTP/1.2\r\nHost: localhost\r\n\r\n", 505),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
            ("GET /health FTP/1.1\r\nHost: localhost\r\n\r\n", 400),
            ("GET /health\r\nHost: localhost\r\n\r\n", 400),
            ("GET  /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
            ("\r\nGET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
            ("\r\n\r\n\r\n\r\n", 400),
            ("G(T /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
            ("ABCDEFGHIJKLMNOPQR /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
            ("GET /h\u{e4}lth HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
            ("GET /health#part HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
            ("GET http://localhost/health HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
            ("GET http://elsewhere/health HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
            ("CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
            (&get("/health?a=%ff", ""), 400),
            ("\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}", 400),
            ("\u{81}\u{85}7", 400),
        ],
    );
    assert_serves(address);
}

#[test]
fn the_largest_name_of_a_header_the_parser_would_panic_at_is_refused_long_before() {
    let server = Server::start(&[]);
    let mut client = Client::connect(admin(&server));
    client.offer(get("/health", &format!("{}: v\r\n", "n".repeat(70_000))).as_bytes(), PATIENCE);
    assert_eq!(client.last_response().status, 431);
    assert_serves(admin(&server));
}

#[test]
fn every_answer_has_its_headers() {
    let server = Server::start(&[]);
    let address = admin(&server);
    for (bytes, status) in
        [(get("/health", ""), 200), (get("/nowhere", ""), 404), ("garbage\r\n\r\n".into(), 400)]
    {
        let answer = ask(address, bytes);
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("Cache-Control"), Some("no-store"));
        assert_eq!(answer.header("X-Content-Type-Options"), Some("nosniff"));
        assert!(answer.header("X-Request-Id").is_some_and(|id| !id.is_empty()), "{answer:?}");
    }
    assert_error(&ask(address, "garbage\r\n\r\n"), 400, "bad_request");
}

#[test]
fn a_request_keeps_its_own_name_if_that_is_well_formed() {
    let server = Server::start(&[]);
    let address = admin(&server);
    let named = |id: &str| ask(address, get("/health", &format!("X-Request-Id: {id}\r\n")));
    for id in ["a", "req-1.b_C", &"x".repeat(64)] {
        assert_eq!(named(id).header("X-Request-Id"), Some(id));
    }
    let two = "a\r\nX-Request-Id: b";
    for id in ["", "a b", "a<script>", "\u{e4}", &"x".repeat(65), two] {
        let answer = named(id);
        let ours = answer.header("X-Request-Id").expect("one of ours");
        assert!(ours != id && ours.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-'), "{ours}");
    }
    let ids = [ask(address, get("/health", "")), ask(address, get("/health", ""))];
    assert_ne!(ids[0].header("X-Request-Id"), ids[1].header("X-Request-Id"));
}

#[test]
fn connections_stay_open_until_somebody_closes() {
    let server = Server::start(&[]);
    let address = admin(&server);
    let mut client = Client::connect(address);
    for _ in 0..3 {
        client.send(get("/health", "").as_bytes());
        let answer = client.response();
        assert_eq!((answer.status, answer.header("Connection")), (200, None));
    }
    client.send(get("/health", "Connection: Keep-Alive, Close\r\n").as_bytes());
    assert_eq!(client.last_response().status, 200);
    let mut old = Client::connect(address);
    old.send(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n");
    assert_eq!(old.last_response().status, 200);
}

#[test]
fn pipelined_requests_are_answered_in_order_however_they_are_cut() {
    let server = Server::start(&[]);
    let address = admin(&server);
    let named = |n: usize| get("/health", &format!("X-Request-Id: n{n}\r\n"));
    let posted = |n: usize| post("/nowhere", &format!("X-Request-Id: n{n}\r\n"), "{\"a\":1}");
    let all: String = (0..20).map(|n| if n % 3 == 1 { posted(n) } else { named(n) }).collect();
    for piece_len in [1, 7, 100, all.len()] {
        let mut client = Client::connect(address);
        all.as_bytes().chunks(piece_len).for_each(|piece| client.send(piece));
        for n in 0..20 {
            let answer = client.response();
            assert_eq!(answer.header("X-Request-Id"), Some(&*format!("n{n}")), "pieces of {piece_len}");
            assert_eq!(answer.status, if n % 3 == 1 { 404 } else { 200 });
        }
    }
}

#[test]
fn a_thousand_requests_are_enough_for_one_connection() {
    let server = Server::start(&[]);
    let mut client = Client::connect(admin(&server));
    let hundred = get("/health", "").repeat(100);
    let mut answers: Vec<Response> = Vec::new();
    for _ in 0..10 {
        client.send(hundred.as_bytes());
        answers.extend((0..100).map(|_| client.response()));
    }
    let closing = answers.iter().position(|answer| answer.header("Connection") == Some("close"));
    assert_eq!(closing, Some(999));
    assert_eq!(client.end_within(PATIENCE), Some(End::Eof));
}

#[test]
fn a_head_is_answered_as_its_get_without_the_body() {
    let server = Server::start(&[]);
    let address = admin(&server);
    let got = ask(address, get("/health", ""));
    let mut client = Client::connect(address);
    let asked = get("/health", "Connection: close\r\n").replacen("GET", "HEAD", 1);
    client.send(asked.as_bytes());
    let mut said = String::new();
    client.stream().read_to_string(&mut said).expect("an answer and its end");
    assert!(said.starts_with("HTTP/1.1 200 OK\r\n") && said.ends_with("\r\n\r\n"), "{said}");
    assert!(said.contains(&format!("Content-Length: {}\r\n", got.body.len())), "{said}");
}

#[test]
fn a_path_says_what_methods_it_takes() {
    let server = Server::start(&[]);
    let mut client = Client::connect(admin(&server));
    let mut with = |method: &str, target: &str| {
        client.send(post(target, "", "{}").replacen("POST", method, 1).as_bytes());
        client.response()
    };
    for (target, methods) in
        [("/metrics", "GET, HEAD, OPTIONS"), ("/", "GET, HEAD, OPTIONS"), ("/api/publish", "POST, OPTIONS")]
    {
        let asked = with("OPTIONS", target);
        assert_eq!((asked.status, asked.header("Allow")), (204, Some(methods)), "{target}");
        let refused = with("DELETE", target);
        assert_error(&refused, 405, "method_not_allowed");
        assert_eq!(refused.header("Allow"), Some(methods), "{target}");
    }
    assert_error(&with("get", "/metrics"), 405, "method_not_allowed");
    assert_error(&with("DELETE", "/nowhere"), 404, "not_found");
}

#[test]
fn who_waits_for_a_100_gets_one_and_who_does_not_need_it_none() {
    let server = Server::start(&[]);
    let mut client = Client::connect(admin(&server));
    let whole = post("/nowhere", "Expect: 100-continue\r\n", "{\"a\":1}");
    let (head, body) = whole.split_at(whole.len() - 7);
    client.send(head.as_bytes());
    let mut interim = [0; 25];
    client.stream().set_read_timeout(Some(PATIENCE)).expect("a read timeout");
    client.stream().read_exact(&mut interim).expect("an interim answer");
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.send(body.as_bytes());
    assert_eq!(client.response().status, 404);
    client.send(whole.as_bytes());
    assert_eq!(client.response().status, 404, "the body was there already");
    // Refused before its body was asked for.
    let large = whole.replace("Content-Length: 7", "Content-Length: 2000000");
    client.send(large.split("{").next().expect("a head").as_bytes());
    assert_error(&client.last_response(), 413, "too_large");
}

#[test]
fn a_head_that_drips_ends_at_its_deadline() {
    let server = Server::start(&[]);
    let began = Instant::now();
    let mut drip = Client::connect(admin(&server));
    let every = Duration::from_millis(500);
    for byte in get("/health", "").as_bytes() {
        if !drip.offer(&[*byte], every) || drip.end_within(every).is_some() {
            break;
        }
    }
    let (took, least) = (began.elapsed(), Duration::from_millis(9_900));
    assert!((least..least + PATIENCE).contains(&took), "{took:?}");
    assert_error(&drip.response(), 408, "request_timeout");
}

/// What is sent by clients that are not from here.
const GARBAGE: [&[u8]; 5] = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\0\0\0\0\0\0\0\0",
    b"GET / HTTP/1.1\r\nX-Endless: ",
    b"POST /api/publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n{",
    b"",
];

#[test]
fn among_hundreds_that_send_garbage_a_scraper_is_served_and_memory_stays() {
    raise_descriptor_limit();
    let mut server = Server::start(&[]);
    let address = admin(&server);
    // What serving takes once is no memory that garbage takes.
    (0..50).for_each(|_| assert_serves(address));
    let before = server.warm_rss_bytes();
    let mut open = Vec::new();
    for _ in 0..4 {
        for n in 0..150 {
            let mut client = Client::connect(address);
            client.offer(GARBAGE[n % GARBAGE.len()], PATIENCE);
            open.push(client);
        }
        assert_serves(address);
    }
    let grown = server.rss_bytes().saturating_sub(before);
    assert!(grown < 32 << 20, "{} KiB more", grown / 1024);
    assert!(server.descriptors() < 300, "{} descriptors", server.descriptors());
    server.assert_serves();
    drop(open);
    assert_serves(address);
    server.stop();
}

#[test]
fn the_thread_of_the_admin_listener_comes_after_the_cores() {
    let server = Server::start(&[]);
    assert_serves(admin(&server));
    let tasks = std::fs::read_dir(server.proc("task")).expect("threads");
    let stats: Vec<String> = tasks
        .map(|task| std::fs::read_to_string(task.expect("a thread").path().join("stat")).expect("its stat"))
        .collect();
    let niceness = |stat: &str| -> (String, i32) {
        // The name may hold spaces; what follows its closing parenthesis does not. Niceness is field 19.
        let (name, fields) = stat.rsplit_once(')').expect("a name in parentheses");
        let field = fields.split_whitespace().nth(16).expect("field 19");
        (name.to_owned(), field.parse().expect("a number"))
    };
    // What the server inherits.
    let own = niceness(&std::fs::read_to_string("/proc/self/stat").expect("a stat of this process")).1;
    for stat in stats {
        let (name, niceness) = niceness(&stat);
        assert_eq!(niceness > own, name.ends_with("(control"), "{stat}");
    }
}
