//! Rows 38 and 39: the channel protocol against names, numbers and nesting that are too much.
//!
//! An error answers each; the connection lives until it makes too many, and then ends with 1008.

use crate::common::client::{Client, request, upgrade_request};
use crate::common::frames::{self, TEXT};
use crate::common::server::Server;
use crate::common::{PATIENCE, eventually};
use std::time::Duration;

/// Errors of one connection that a minute forgives.
const ERRORS_PER_MINUTE_MAX: usize = 100;

/// The nesting of row 39.
const DEPTH: usize = 30_000;

/// Sends a command, and expects a reply of this type, with this id or this code.
fn ask(client: &mut Client, command: &str, kind: &str, field: &str) {
    client.send(&frames::text(command));
    let reply = next_text(client);
    let fits = reply.starts_with(&format!(r#"{{"type":"{kind}""#)) && reply.contains(field);
    let [command, reply] = [command, &*reply].map(|text| text.get(..200).unwrap_or(text));
    assert!(fits, "{reply}\nto {command}\nis no {kind} with {field}");
}

fn ask_in_vain(client: &mut Client, command: &str, code: &str) {
    ask(client, command, "error", &format!(r#""code":"{code}""#));
}

fn next_text(client: &mut Client) -> String {
    let (opcode, body) = client.message();
    assert_eq!(opcode, TEXT);
    String::from_utf8(body).expect("text")
}

/// Makes the same error again and again: each is answered, until it is one too many. `before` were made already.
fn insist(client: &mut Client, command: &str, code: &str, before: usize) {
    // Twice as many as a minute may have: one that ends meanwhile saves nobody.
    for _ in 0..=2 * ERRORS_PER_MINUTE_MAX {
        if !client.offer(&frames::text(command), PATIENCE) {
            break;
        }
    }
    let mut errors = 0;
    loop {
        let frame = client.frame();
        if frame.opcode != TEXT {
            assert_eq!(frame.close_code(), Some(1008), "{frame:?}");
            break;
        }
        let text = String::from_utf8(frame.payload).expect("text");
        assert!(text.contains(&format!(r#""code":"{code}""#)), "{text}");
        errors += 1;
    }
    let forgiven = ERRORS_PER_MINUTE_MAX - before..=2 * ERRORS_PER_MINUTE_MAX;
    assert!(forgiven.contains(&errors), "{errors} errors forgiven, {before} before");
    client.offer(&frames::close(1008, b""), PATIENCE);
}

fn subscribe(channel: &str) -> String {
    format!(r#"{{"type":"subscribe","id":1,"channel":"{channel}"}}"#)
}

/// Sends these commands once for each name and reads the replies, which must be of these types.
fn for_each_name(client: &mut Client, names: impl Iterator<Item = String>, commands: &[(&str, &str)]) {
    const AT_ONCE: usize = 100;
    let names: Vec<String> = names.collect();
    for names in names.chunks(AT_ONCE) {
        let texts = names.iter().flat_map(|name| {
            commands
                .iter()
                .map(move |(kind, _)| format!(r#"{{"type":"{kind}","id":1,"channel":"{name}","data":1}}"#))
        });
        client.send(&texts.flat_map(|text| frames::text(&text)).collect::<Vec<u8>>());
        for (_, reply) in names.iter().flat_map(|_| commands) {
            assert!(next_text(client).starts_with(&format!(r#"{{"type":"{reply}","#)));
        }
    }
}

const COME_AND_GO: [(&str, &str); 2] = [("subscribe", "subscribed"), ("unsubscribe", "unsubscribed")];

/// What a server holds that has served channels to ordinary clients, each with all its commands on their way at once.
fn warm_rss_bytes(server: &mut Server) -> u64 {
    let mut clients: Vec<Client> = (0..50).map(|_| server.open_channels()).collect();
    for client in &mut clients {
        for_each_name(client, (0..100).map(|name| format!("warm{name}")), &COME_AND_GO);
        for_each_name(client, (0..100).map(|_| "warm".into()), &[("publish", "published")]);
    }
    drop(clients);
    server.warm_rss_bytes()
}

#[test]
fn row_38_names_that_are_none() {
    let mut server = Server::start_with_reactors(2, &["--max-message-bytes", "1MiB"]);
    let rss = warm_rss_bytes(&mut server);
    let mut client = server.open_channels();
    let wrong = [
        "x".repeat(60_000),
        "x".repeat(256),
        "/".repeat(60_000),
        ":/._- ".into(),
        String::new(),
        "\\u0000".into(),
        "a\\nb".into(),
    ];
    for name in &wrong {
        for command in [
            subscribe(name),
            format!(r#"{{"type":"join","id":1,"room":"{name}"}}"#),
            format!(r#"{{"type":"publish","id":1,"channel":"{name}","data":1}}"#),
            format!(r#"{{"type":"direct_message","id":1,"targetUserId":"{name}","payload":1}}"#),
            format!(r#"{{"type":"presence","id":1,"channel":"{name}"}}"#),
            format!(r#"{{"type":"presence","id":1,"channel":"a","after":"{name}"}}"#),
            format!(r#"{{"type":"history","id":1,"room":"{name}"}}"#),
        ] {
            ask_in_vain(&mut client, &command, "bad_request");
        }
    }
    ask(&mut client, &subscribe(&"x".repeat(255)), "subscribed", r#""id":1"#);
    insist(&mut client, &subscribe(&wrong[0]), "bad_request", 7 * wrong.len());
    for (user, status) in
        [("%2F%3A", 400), (&*"x".repeat(256), 400), ("a%00", 400), (&"x".repeat(60_000), 414)]
    {
        let refused = request(server.address, upgrade_request(&format!("/ws?user={user}")).as_bytes());
        assert_eq!(refused.status, status);
    }
    drop(client);
    server.assert_serves();
    server.assert_rss_returns_to(rss);
}

#[test]
fn row_38_more_topics_than_one_may_have() {
    let mut server = Server::start_with_reactors(2, &[]);
    let mut client = server.open_channels();
    for topic in 0..128 {
        ask(&mut client, &subscribe(&format!("topic{topic}")), "subscribed", r#""id":1"#);
    }
    ask_in_vain(&mut client, &subscribe("more"), "topic_limit");
    ask_in_vain(&mut client, r#"{"type":"join","id":1,"room":"more"}"#, "topic_limit");
    let message = r#"{"type":"publish","id":1,"channel":"topic7","data":1,"echo":false}"#;
    ask(&mut client, message, "published", r#""last_id":1"#);
    insist(&mut client, &subscribe("more"), "topic_limit", 2);
    server.assert_serves();
}

#[test]
fn row_38_churn_of_subscriptions() {
    // While one client has its turn the others are silent, on a slow machine for minutes.
    let mut server = Server::start_with_reactors(2, &["--ping-interval", "10m"]);
    let rss = warm_rss_bytes(&mut server);
    let mut clients: Vec<Client> = (0..8).map(|_| server.open_channels()).collect();
    let same = |rounds: usize| (0..rounds).map(|round| format!("same{}", round % 16));
    clients.iter_mut().for_each(|client| for_each_name(client, same(5_000), &COME_AND_GO));
    for topic in 0..100 {
        clients.iter_mut().for_each(|client| client.send(&frames::text(&subscribe(&format!("left{topic}")))));
    }
    clients.into_iter().for_each(Client::reset);
    server.assert_serves();
    server.assert_rss_returns_to(rss);
    assert_eq!(server.stop().held["slots"], 0);
}

#[test]
fn row_38_commands_whose_replies_nobody_reads() {
    let mut server = Server::start_with_reactors(2, &[]);
    let rss = warm_rss_bytes(&mut server);
    let mut client = server.open_channels();
    let pair = [subscribe("a"), r#"{"type":"unsubscribe","id":1,"channel":"a"}"#.into()]
        .map(|command| frames::text(&command));
    let flood = pair.concat().repeat(1_000);
    let taken = (0..500).take_while(|_| client.offer(&flood, Duration::from_millis(300))).count();
    assert!(
        taken < 500,
        "the server took {taken} floods of {} bytes and answered them to nobody",
        flood.len()
    );
    let rise = server.rss_bytes().saturating_sub(rss);
    assert!(rise < 8 << 20, "unread replies raised resident memory by {} KiB", rise / 1024);
    server.assert_serves();
    client.reset();
    server.assert_rss_returns_to(rss);
}

/// A command of 60 bytes asks for 250,000.
#[test]
fn row_38_large_answers_that_nobody_reads() {
    let mut server = Server::start(&["--ping-interval", "1s", "--pong-timeout", "2s"]);
    let mut publisher = server.open_channels();
    for _ in 0..100 {
        let data = "x".repeat(2_500);
        let publish = format!(r#"{{"type":"publish","id":1,"channel":"a","data":"{data}"}}"#);
        ask(&mut publisher, &publish, "published", "");
    }
    let rss = server.rss_bytes();
    let history = frames::text(r#"{"type":"history","id":1,"channel":"a","limit":1000}"#).repeat(250);
    let floods = (0..10).map(|_| {
        let mut flood = server.open_channels();
        flood.send(&history);
        flood
    });
    let mut floods: Vec<Client> = floods.collect();
    ask(&mut publisher, r#"{"type":"ping","id":7}"#, "pong", r#""id":7"#); // all they sent has been received
    let rise = server.rss_bytes().saturating_sub(rss);
    assert!(rise < 32 << 20, "answers that nobody reads raised resident memory by {} KiB", rise / 1024);
    for flood in &mut floods {
        eventually("it is cut", PATIENCE, || flood.is_cut().then_some(()));
    }
    server.assert_serves();
    drop(publisher);
    assert_eq!(server.stop().closed("slow_consumer"), 10);
}

#[test]
fn row_39_publications_over_the_cap() {
    let mut server = Server::start_with_reactors(2, &["--max-message-bytes", "1MiB"]);
    let rss = warm_rss_bytes(&mut server);
    let publish = |bytes: usize| {
        // Two of them are the quotes.
        format!(r#"{{"type":"publish","id":1,"channel":"a","data":"{}"}}"#, "x".repeat(bytes - 2))
    };
    let mut client = server.open_channels();
    ask(&mut client, &publish(64 << 10), "published", r#""last_id":1"#);
    ask_in_vain(&mut client, &publish((64 << 10) + 1), "too_large");
    ask_in_vain(&mut client, &publish(1_000_000), "too_large");
    ask(&mut client, &publish(2), "published", r#""last_id":2"#);
    insist(&mut client, &publish(100_000), "too_large", 2);
    let mut other = server.open_channels();
    other.send(&frames::text(&publish(1 << 20)));
    other.expect_close(1009);
    drop((client, other));
    server.assert_serves();
    server.assert_rss_returns_to(rss);
}

#[test]
fn row_39_nesting_without_end() {
    let mut server = Server::start_with_reactors(2, &["--max-message-bytes", "1MiB"]);
    let rss = warm_rss_bytes(&mut server);
    let (open, close) = ("[".repeat(DEPTH), "]".repeat(DEPTH));
    let objects = format!("{}1{}", r#"{"a":"#.repeat(DEPTH), "}".repeat(DEPTH));
    let publish = |data: &str| format!(r#"{{"type":"publish","id":1,"channel":"a","data":{data}}}"#);
    let mut client = server.open_channels();
    for command in [
        publish(&format!("{open}{close}")),
        publish(&objects),
        format!(r#"{{"type":"ping","unknown":{objects}}}"#),
        format!(r#"{{"type":"ping","id":{open}{close}}}"#),
        format!(r#"{{"type":{objects}}}"#),
        format!(r#"{{"type":"subscribe","channel":{open}{close}}}"#),
        format!(r#"{{"type":"direct_message","targetUserId":"a","payload":{open}1{close}}}"#),
    ] {
        ask_in_vain(&mut client, &command, "bad_request");
    }
    for text in [
        publish(&open),
        publish(&format!("{open}{}", "}".repeat(DEPTH))),
        format!("{open}{close}"),
        open.clone(),
    ] {
        ask_in_vain(&mut client, &text, "invalid_json");
    }
    // A string may hold as many brackets as it likes.
    ask(&mut client, &publish(&format!("\"{open}\"")), "published", r#""last_id":1"#);
    insist(&mut client, &publish(&format!("{open}{close}")), "bad_request", 11);
    drop(client);
    server.assert_serves();
    server.assert_rss_returns_to(rss);
}

/// A topic is remembered for a while after its last subscriber, so that one who comes back finds what was missed; what
/// all those may hold is bounded as history is.
fn names_without_end(commands: &[(&str, &str)]) {
    let mut server = Server::start_with_reactors(2, &["--history-bytes-per-core", "1MiB"]);
    let rss = warm_rss_bytes(&mut server);
    let mut client = server.open_channels();
    for_each_name(&mut client, (0..100_000).map(|round| format!("name{round}")), commands);
    let rise = server.rss_bytes().saturating_sub(rss);
    assert!(rise < 8 << 20, "100,000 names raised resident memory by {} KiB", rise / 1024);
    server.assert_serves();
}

#[test]
fn row_38_names_subscribed_to_once() {
    names_without_end(&COME_AND_GO);
}

#[test]
fn row_38_names_published_to_once() {
    names_without_end(&[("publish", "published")]);
}

#[test]
fn row_38_names_asked_about_once() {
    names_without_end(&[("history", "history"), ("presence", "presence")]);
}
