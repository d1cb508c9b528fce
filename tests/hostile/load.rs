//! A full server, and memory that follows what arrives instead of what is announced.

use crate::common::client::{Client, request, upgrade_request};
use crate::common::frames::{self, BINARY, FIN, TEXT};
use crate::common::server::Server;
use crate::common::{PATIENCE, eventually, raise_descriptor_limit};
use std::time::Instant;

const HEALTH: &[u8] = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
const READY: &[u8] = b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[test]
fn row_16_a_full_server_says_so_and_when_to_return() {
    let mut server = Server::start(&["--max-connections", "5"]);
    assert_eq!(request(server.address, READY).status, 200);
    let mut inside: Vec<Client> = (0..5).map(|_| server.open()).collect();
    for _ in 0..50 {
        let refused = request(server.address, upgrade_request("/echo").as_bytes());
        assert_eq!(refused.status, 503);
        let wait: u32 = refused.header("Retry-After").expect("Retry-After").parse().expect("seconds");
        assert!(wait > 0);
    }
    // Those who watch the server are not refused, a balancer is told to look elsewhere, and those inside notice nothing.
    assert_eq!(request(server.address, HEALTH).status, 200);
    let unready = request(server.address, READY);
    assert!(unready.status == 503 && unready.header("Retry-After").is_some(), "{unready:?}");
    for client in &mut inside {
        client.echo(TEXT, b"inside");
    }
    // One leaves, one gets in.
    let mut leaver = inside.pop().expect("five");
    leaver.send(&frames::close(1000, b""));
    assert_eq!(leaver.close_frame().close_code(), Some(1000));
    inside.push(eventually("a place for one", PATIENCE, || {
        let mut client = Client::connect(server.address);
        client.send(upgrade_request("/echo").as_bytes());
        (client.response().status == 101).then_some(client)
    }));
    assert_eq!(request(server.address, upgrade_request("/echo").as_bytes()).status, 503);
    drop(inside);
    eventually("places for all", PATIENCE, || {
        let mut client = Client::connect(server.address);
        client.send(upgrade_request("/echo").as_bytes());
        (client.response().status == 101).then_some(())
    });
    assert_eq!(request(server.address, READY).status, 200);
    server.assert_serves();
}

#[test]
fn a_full_server_refuses_a_crowd_without_dropping_anybody() {
    // More at once than there are places to refuse from: each must get its 503, some a little later.
    let mut server = Server::start(&["--max-connections", "5"]);
    let inside: Vec<Client> = (0..5).map(|_| server.open()).collect();
    let mut crowd: Vec<Client> = (0..600).map(|_| Client::connect(server.address)).collect();
    for client in &mut crowd {
        client.offer(upgrade_request("/echo").as_bytes(), PATIENCE);
    }
    for client in &mut crowd {
        assert_eq!(client.last_response().status, 503);
    }
    drop(inside);
    eventually("a place", PATIENCE, || {
        let mut client = Client::connect(server.address);
        client.send(upgrade_request("/echo").as_bytes());
        (client.response().status == 101).then_some(())
    });
    server.assert_serves();
}

#[test]
fn a_declared_length_allocates_nothing() {
    let mut server = Server::start(&["--max-message-bytes", "1GiB", "--ping-interval", "60s"]);
    let rss = server.warm_rss_bytes();
    let mut clients: Vec<Client> = (0..200).map(|_| server.open()).collect();
    for client in &mut clients {
        client.send(&frames::header(FIN | BINARY, 1 << 30));
        client.send(b"x");
    }
    // One that is served shows that the others have been.
    server.assert_serves();
    let rise = server.rss_bytes().saturating_sub(rss);
    assert!(rise < 8 << 20, "200 declared gibibytes raised resident memory by {} KiB", rise / 1024);
    let mut absurd = server.open();
    absurd.send(&frames::header(FIN | BINARY, 1 << 40));
    absurd.expect_close(1009);
    drop(clients);
    server.assert_rss_returns_to(rss);
}

#[test]
fn five_thousand_begun_messages_cost_what_they_sent() {
    const CLIENTS: u64 = 5000;
    // A page: what is reserved ahead of the bytes may be touched at its beginning, and no further.
    const EACH_BYTES_MAX: u64 = 4096;
    raise_descriptor_limit();
    let mut server = Server::start(&["--ping-interval", "60s"]);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| server.open()).collect();
    let rss = server.rss_bytes();
    for client in &mut clients {
        client.send(&frames::header(FIN | TEXT, 60 * 1024));
        client.send(&[b'x' ^ frames::KEY[0]]);
    }
    server.assert_serves();
    let rise = server.rss_bytes().saturating_sub(rss);
    assert!(rise < CLIENTS * EACH_BYTES_MAX, "{} bytes for each begun message", rise / CLIENTS);
    drop(clients);
    server.assert_serves();
    server.assert_rss_returns_to(rss);
}

#[test]
fn large_messages_give_their_memory_back() {
    let mut server = Server::start(&["--max-message-bytes", "16MiB", "--send-queue-bytes-max", "32MiB"]);
    let rss = server.warm_rss_bytes();
    let body = vec![b'x'; 8 << 20];
    let mut clients: Vec<Client> = (0..4).map(|_| server.open()).collect();
    for client in &mut clients {
        client.echo(BINARY, &body);
    }
    // Connected still, but idle: they own nothing.
    server.assert_serves();
    server.assert_rss_returns_to(rss);
    drop(clients);
    server.assert_serves();
}

#[test]
fn ordinary_descriptors_do_not_grow_with_connections() {
    // Connections live in the rings' direct descriptor tables, not in the process's own.
    let server = Server::start(&[]);
    let before = server.descriptors();
    let clients: Vec<Client> = (0..300).map(|_| server.open()).collect();
    assert!(server.descriptors() <= before + 4, "{} → {}", before, server.descriptors());
    drop(clients);
}

/// A member of the room "busy", past the reply to its join.
fn join(server: &Server) -> Client {
    let mut client = server.open_channels();
    client.send(&frames::text(r#"{"type":"join","id":1,"room":"busy"}"#));
    assert!(next_text(&mut client).starts_with(r#"{"type":"joined""#));
    client
}

fn next_text(client: &mut Client) -> String {
    let (opcode, body) = client.message();
    assert_eq!(opcode, TEXT);
    String::from_utf8(body).expect("text")
}

/// The next message to the room, news of members set aside.
fn next_said(client: &mut Client) -> String {
    loop {
        let text = next_text(client);
        if text.starts_with(r#"{"type":"room_message""#) && text.contains(r#""roomId":"#) {
            return text;
        }
    }
}

fn say(client: &mut Client, number: usize, pad: &str) {
    let command =
        format!(r#"{{"type":"room_message","room":"busy","payload":{{"n":{number},"pad":"{pad}"}}}}"#);
    client.send(&frames::text(&command));
}

#[test]
fn row_36_who_does_not_read_a_busy_room_is_dropped_and_others_notice_nothing() {
    const QUEUE_BYTES: u64 = 1 << 20;
    // Far more than its sockets and its queue hold.
    const MESSAGES: usize = 400;
    let mut server = Server::start(&[]);
    let (mut speaker, mut listener) = (join(&server), join(&server));
    let pad = "x".repeat(60_000);
    let mut talk = |from: usize, most_bytes: &mut u64, server: &Server| {
        for number in from..from + MESSAGES {
            say(&mut speaker, number, &pad);
            for client in [&mut speaker, &mut listener] {
                assert!(next_said(client).contains(&format!(r#""n":{number},"#)), "{number} is missing");
            }
            *most_bytes = server.rss_bytes().max(*most_bytes);
        }
    };
    let mut quiet_bytes = 0;
    talk(0, &mut quiet_bytes, &server);

    let mut stalled = join(&server);
    let mut most_bytes = 0;
    talk(MESSAGES, &mut most_bytes, &server);
    let rise = most_bytes.saturating_sub(quiet_bytes);
    assert!(rise < 4 * QUEUE_BYTES, "one that does not read cost {} KiB", rise / 1024);
    // What had been sent to it before is there to be read, and then it is over, with 1013 where that still fitted.
    let deadline = Instant::now() + PATIENCE;
    let mut frames_read = 0;
    while let Some(frame) = stalled.frame_by_or_cut(deadline) {
        if frame.opcode == frames::CLOSE {
            assert_eq!(frame.close_code(), Some(1013));
        }
        frames_read += 1;
    }
    assert!(
        Instant::now() < deadline && frames_read < MESSAGES,
        "{frames_read} frames, and it is still there"
    );
    server.assert_serves();
    drop((speaker, listener));
    assert_eq!(server.stop().closed("slow_consumer"), 1);
}

#[test]
fn row_37_resets_in_the_middle_of_a_broadcast_free_their_slots() {
    const MEMBERS: usize = 40;
    let mut server = Server::start(&[]);
    let rss = server.warm_rss_bytes();
    let (mut speaker, mut listener) = (join(&server), join(&server));
    let pad = "x".repeat(20_000);
    for round in 0..5 {
        let members: Vec<Client> = (0..MEMBERS).map(|_| join(&server)).collect();
        for number in 0..20 {
            say(&mut speaker, 100 * round + number, &pad);
        }
        // Nobody has read any of it.
        members.into_iter().for_each(Client::reset);
        for client in [&mut speaker, &mut listener] {
            for number in 0..20 {
                assert!(next_said(client).contains(&format!(r#""n":{},"#, 100 * round + number)));
            }
        }
    }
    server.assert_serves();
    drop((speaker, listener));
    server.assert_rss_returns_to(rss);
    let summary = server.stop();
    assert!(summary.closed("peer_reset") >= (5 * MEMBERS) as u64, "{summary:?}");
    assert!(summary.held.values().all(|held| *held == 0), "{summary:?}");
}
