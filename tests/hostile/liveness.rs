//! Timers: heartbeats, idleness, deadlines of messages and of closing, and peers that are gone.

use crate::common::client::{Client, End, Frame};
use crate::common::eventually;
use crate::common::frames::{self, BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, TEXT};
use crate::common::server::Server;
use crate::http::assert_ended_at;
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

/// The next frame that is no ping, and how many pings were answered before it.
fn answering_pings(client: &mut Client) -> (Frame, u32) {
    let mut pings = 0;
    loop {
        let frame = client.frame();
        if frame.opcode != PING {
            return (frame, pings);
        }
        pings += 1;
        client.send(&frames::message(PONG, &frame.payload));
    }
}

#[test]
fn pings_come_at_the_interval_and_pongs_keep_alive() {
    let server = Server::start(&["--ping-interval", "1s", "--pong-timeout", "1s"]);
    let mut client = server.open();
    let opened = Instant::now();
    let mut last = None;
    for n in 0..4 {
        let ping = client.frame();
        assert_eq!(ping.opcode, PING);
        // The first is spread over the interval; the others keep their distance.
        if let Some(last) = last {
            let gap = Instant::now() - last;
            assert!(gap > SECOND / 2 && gap < 2 * SECOND, "ping {n} came {gap:?} after the one before");
        } else {
            assert!(opened.elapsed() < 3 * SECOND);
        }
        last = Some(Instant::now());
        client.send(&frames::message(PONG, &ping.payload));
    }
    client.echo(TEXT, b"alive after four intervals");
}

#[test]
fn a_missing_pong_ends_tcp_without_a_frame() {
    let server = Server::start(&["--ping-interval", "1s", "--pong-timeout", "1s"]);
    let mut client = server.open();
    let ping = client.frame();
    assert_eq!(ping.opcode, PING);
    let pinged = Instant::now();
    // Other traffic is no pong, but it is a sign of life; silence is not.
    let end = client.end_within(10 * SECOND);
    assert!(end.is_some(), "still open {:?} after an unanswered ping", pinged.elapsed());
    assert_ended_at(pinged, SECOND);
    assert!(client.frame_by(Instant::now()).is_none(), "heartbeat_timeout sends no close frame");
    assert_eq!(server.stop().closed("heartbeat_timeout"), 1);
}

#[test]
fn pings_of_many_are_spread_over_the_interval() {
    let server = Server::start(&["--ping-interval", "2s"]);
    let mut clients: Vec<Client> = (0..100).map(|_| server.open()).collect();
    let mut came: Vec<Instant> = std::thread::scope(|scope| {
        let waiting: Vec<_> = clients
            .iter_mut()
            .map(|client| {
                scope.spawn(|| {
                    assert_eq!(client.frame().opcode, PING);
                    Instant::now()
                })
            })
            .collect();
        waiting.into_iter().map(|thread| thread.join().expect("a ping")).collect()
    });
    came.sort();
    let middle = came[75] - came[25];
    assert!(middle > Duration::from_millis(300), "half of the pings came within {middle:?}: one burst");
}

#[test]
fn idle_connections_are_told_to_go() {
    let server = Server::start(&["--idle-timeout", "1s"]);
    let mut client = server.open();
    client.echo(TEXT, b"busy");
    let quiet_since = Instant::now();
    assert_eq!(client.close_frame().close_code(), Some(1001));
    assert_ended_at(quiet_since, SECOND);
    client.send(&frames::close(1001, b""));
    client.ends_with(End::Eof);
    assert_eq!(server.stop().closed("idle_timeout"), 1);
}

#[test]
fn traffic_defers_the_idle_timeout_and_pongs_do_not() {
    let server = Server::start(&["--idle-timeout", "2s", "--ping-interval", "1s", "--pong-timeout", "1s"]);
    let mut client = server.open();
    // Busy for longer than the timeout: an echo after each ping.
    let opened = Instant::now();
    while opened.elapsed() < 3 * SECOND {
        client.send(&frames::text("busy"));
        assert_eq!(answering_pings(&mut client).0.opcode, TEXT);
        let until = Instant::now() + SECOND / 4;
        if let Some(ping) = client.frame_by(until) {
            assert_eq!(ping.opcode, PING);
            client.send(&frames::message(PONG, &ping.payload));
        }
    }
    let quiet_since = Instant::now();
    let (frame, pings) = answering_pings(&mut client);
    assert_eq!(frame.close_code(), Some(1001));
    assert!(pings > 0, "no ping in the meantime: the test did not test pongs");
    assert!(quiet_since.elapsed() < 4 * SECOND);
    client.send(&frames::close(1001, b""));
    client.ends_with(End::Eof);
    assert_eq!(server.stop().closed("idle_timeout"), 1);
}

#[test]
fn row_30_unfinished_messages_end_at_the_deadline() {
    let server = Server::start(&["--message-deadline", "1s"]);
    let beginnings = [
        // A fragment without an end, half a header, half a payload.
        frames::frame(TEXT, b"to be continued"),
        b"\x82\xfe\x01".to_vec(),
        frames::header(FIN | BINARY, 60_000),
        frames::header(FIN | BINARY, 10),
        [frames::header(FIN | BINARY, 60_000), vec![0; 30_000]].concat(),
    ];
    for bytes in &beginnings {
        println!("{:02x?}", &bytes[..bytes.len().min(20)]);
        let mut client = server.open();
        client.echo(TEXT, b"a message before does not count");
        let began = Instant::now();
        client.send(bytes);
        assert_eq!(client.close_frame().close_code(), Some(1008));
        assert_ended_at(began, SECOND);
        client.ends_with(End::Eof);
    }
    assert_eq!(server.stop().closed("message_deadline"), beginnings.len() as u64);
}

#[test]
fn row_30_a_drip_does_not_move_the_deadline() {
    let server = Server::start(&["--message-deadline", "1s"]);
    let drips: [fn(u32) -> Vec<u8>; 3] = [
        // Fragments, payload bytes, and pings between fragments.
        |n| frames::frame(if n == 0 { TEXT } else { CONTINUATION }, b"x"),
        |n| if n == 0 { frames::header(FIN | BINARY, 60_000) } else { vec![0] },
        |n| if n == 0 { frames::frame(TEXT, b"x") } else { frames::message(PING, b"") },
    ];
    for drip in drips {
        let mut client = server.open();
        let began = Instant::now();
        let mut n = 0;
        let close = eventually("a close frame", 10 * SECOND, || {
            client.offer(&drip(n), SECOND);
            n += 1;
            client.frame_by(Instant::now() + SECOND / 10).filter(|frame| frame.opcode == CLOSE)
        });
        assert_eq!(close.close_code(), Some(1008));
        assert_ended_at(began, SECOND);
    }
}

#[test]
fn a_finished_message_has_no_deadline() {
    let server = Server::start(&["--message-deadline", "1s"]);
    let mut client = server.open();
    for _ in 0..3 {
        client.send(&frames::frame(TEXT, b"in "));
        assert_eq!(client.frame_by(Instant::now() + SECOND / 2), None);
        client.send(&frames::frame(FIN | CONTINUATION, b"time"));
        client.expect_echo(TEXT, b"in time");
    }
}

#[test]
fn row_35_the_close_deadline_is_absolute() {
    for (flags, timeout) in [(&["--close-timeout", "1s"][..], SECOND), (&[], 5 * SECOND)] {
        let server = Server::start(flags);
        let mut client = server.open();
        let began = Instant::now();
        client.send(b"\x81\x02hi");
        assert_eq!(client.close_frame().close_code(), Some(1002));
        // No close frame from us, only traffic. The connection is gone when our writes fail: a server that still
        // reads takes them all.
        let gone = eventually("the TCP connection is gone", timeout + 5 * SECOND, || {
            (!client.offer(&frames::text("still talking"), SECOND)).then(Instant::now)
        });
        assert!(gone - began < timeout + 2 * SECOND, "gone after {:?} instead of {timeout:?}", gone - began);
    }
}

#[test]
fn a_peer_that_does_not_answer_a_close_is_ended() {
    // idle_timeout begins the close, the peer keeps its side open and says nothing.
    let server = Server::start(&["--idle-timeout", "1s", "--close-timeout", "1s"]);
    let mut client = server.open();
    assert_eq!(client.close_frame().close_code(), Some(1001));
    let closed = Instant::now();
    assert!(client.end_within(10 * SECOND).is_some());
    assert!(closed.elapsed() < 3 * SECOND);
}

/// A server with room for one: the next client gets in only when the one before has left its slot.
fn server_for_one() -> Server {
    Server::start(&["--max-connections", "1"])
}

/// A new client is accepted within a second of now.
fn assert_slot_freed(server: &Server) -> Client {
    eventually("the slot is free", SECOND, || {
        let mut client = Client::connect(server.address);
        client.send(crate::common::client::upgrade_request("/echo").as_bytes());
        let response = client.response();
        assert!(matches!(response.status, 101 | 503), "{response:?}");
        (response.status == 101).then_some(client)
    })
}

#[test]
fn row_37_eof_frees_the_slot() {
    let server = server_for_one();
    let mut client = server.open();
    for _ in 0..20 {
        // Idle at its end; then with a send just before it, in one packet as far as the server can tell.
        drop(client);
        client = assert_slot_freed(&server);
        client.send(&frames::text("and gone"));
        client.finish_sending();
        assert!(client.end_within(SECOND).is_some(), "a half-closed connection lives on");
        client = assert_slot_freed(&server);
    }
    assert_eq!(server.stop().closed("peer_eof"), 40);
}

#[test]
fn row_37_half_close_is_the_end() {
    let server = server_for_one();
    let mut client = server.open();
    client.echo(TEXT, b"hello");
    client.finish_sending();
    assert!(client.end_within(SECOND).is_some(), "a half-closed connection lives on");
    // Inside a frame, inside a message, and before the handshake.
    for bytes in [frames::header(FIN | BINARY, 100), frames::frame(TEXT, b"x")] {
        let mut client = assert_slot_freed(&server);
        client.send(&bytes);
        client.finish_sending();
        assert!(client.end_within(SECOND).is_some(), "{bytes:02x?}");
    }
    drop(assert_slot_freed(&server));
}

#[test]
fn row_37_reset_frees_the_slot() {
    let server = server_for_one();
    let mut client = server.open();
    for round in 0..20 {
        if round % 2 == 1 {
            // With echoes on their way to a peer that is gone.
            client.send(&frames::message(BINARY, &[1; 60_000]).repeat(5));
        }
        client.reset();
        client = assert_slot_freed(&server);
    }
    drop(client);
    let summary = server.stop();
    assert!(summary.closed("peer_reset") >= 10, "{summary:?}");
}

#[test]
fn row_37_leaving_before_the_handshake_frees_the_slot() {
    let server = server_for_one();
    for bytes in [&b""[..], b"GET /echo HTT"] {
        let mut client = Client::connect(server.address);
        client.send(bytes);
        drop(client);
        drop(assert_slot_freed(&server));
        let mut client = Client::connect(server.address);
        client.send(bytes);
        client.reset();
        drop(assert_slot_freed(&server));
    }
}
