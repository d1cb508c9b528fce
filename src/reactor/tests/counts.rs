//! What is counted, and how often: answers, endings, sizes, times, bytes that wait. That the books add up is checked after
//! every turn of every test, see [`Rig::turn`].

use super::timers::wait_for_ping;
use super::*;
use crate::handler::encode_message;
use crate::reactor::HANDSHAKE_STATUSES;

/// A request for `/echo` with one thing changed.
fn changed(from: &str, to: &str) -> Vec<u8> {
    let request = String::from_utf8(upgrade("/echo")).unwrap();
    assert!(request.contains(from), "{request}");
    request.replace(from, to).into_bytes()
}

fn page(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes()
}

/// Handshakes counted, by status.
fn handshakes(rig: &Rig) -> Vec<(u16, u64)> {
    let counted = rig.counters().handshakes.iter().map(|counter| counter.get());
    HANDSHAKE_STATUSES.into_iter().zip(counted).filter(|(_, count)| *count > 0).collect()
}

#[test]
fn the_answer_to_a_handshake_is_counted_by_its_status_and_a_page_is_none() {
    let huge = format!("GET /echo HTTP/1.1\r\nHost: localhost\r\nX: {}", "x".repeat(20_000));
    let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(10_000));
    for (what, request, status, responses) in [
        ("an upgrade", upgrade("/echo"), Some(101), 0),
        ("one refused", upgrade("/refuse"), Some(403), 1),
        ("one refused for browsers", upgrade("/refuse-in-band"), Some(101), 1),
        ("another version", changed("Version: 13", "Version: 8"), Some(426), 1),
        ("another method", changed("GET ", "POST "), Some(405), 1),
        ("another protocol", changed("pgrade: websocket", "pgrade: h2c"), Some(426), 1),
        ("no host", changed("Host: ", "Ghost: "), Some(400), 1),
        ("no HTTP", b"EHLO localhost\r\n\r\n".to_vec(), Some(400), 1),
        ("no end", huge.into_bytes(), Some(431), 1),
        ("a long path", long.into_bytes(), Some(414), 1),
        ("a page", page("/refuse"), None, 1),
        ("no page where sockets are", page("/echo"), Some(426), 1),
    ] {
        let mut rig = Rig::new();
        let peer = rig.connect();
        rig.arrive(peer, &request);
        assert_eq!(
            handshakes(&rig),
            status.map(|status| (status, 1)).into_iter().collect::<Vec<_>>(),
            "{what}"
        );
        assert_eq!(rig.counters().responses.get(), responses, "{what}");
        rig.finish();
    }
}

#[test]
fn a_handshake_that_is_not_finished_in_time_is_counted_if_it_was_begun() {
    let mut rig = Rig::new();
    rig.connect();
    let begun = rig.connect();
    rig.arrive(begun, b"GET /echo");
    rig.request("/later");
    rig.pass_ms(HANDSHAKE_MS + LATE_MS);
    assert_eq!(handshakes(&rig), [(408, 1), (503, 1)]);
    let decided = rig.request("/later");
    let id = rig.id(decided);
    rig.tell(move |out| out.decide(id, Decision::Respond(Response::refuse(Status::Forbidden, "no"))));
    let opened = rig.request("/later");
    let id = rig.id(opened);
    rig.tell(move |out| out.decide(id, Decision::ACCEPT));
    assert_eq!(handshakes(&rig), [(101, 1), (403, 1), (408, 1), (503, 1)]);
    rig.finish();
}

#[test]
fn only_who_was_connected_is_disconnected() {
    let mut rig = Rig::new();
    let opened = rig.open_many(3);
    let refused = rig.request("/refuse");
    rig.connect();
    rig.end(refused);
    rig.arrive(opened[0], &close_frame(1000));
    rig.arrive(opened[1], b"\xff");
    rig.end(opened[1]);
    rig.end(opened[2]);
    rig.pass_ms(HANDSHAKE_MS + LATE_MS);
    let count = |reasons: &[crate::ds::Counter]| -> Vec<(CloseReason, u64)> {
        let counted = CloseReason::ALL.into_iter().zip(reasons.iter().map(|counter| counter.get()));
        counted.filter(|(_, count)| *count > 0).collect()
    };
    use CloseReason::*;
    let disconnected = [(ClientClosed, 1), (PeerEof, 1), (ProtocolError, 1)];
    let closed =
        [(ClientClosed, 1), (PeerEof, 1), (HandshakeTimeout, 1), (HandshakeRefused, 1), (ProtocolError, 1)];
    assert_eq!(count(&rig.counters().disconnected), disconnected);
    assert_eq!(count(&rig.counters().closed), closed);
    rig.finish();
}

#[test]
fn sizes_are_those_of_payloads() {
    let sizes = [0, 1, 125, 126, 127, 128, 65_535, 65_536, 300_000];
    let all: usize = sizes.iter().sum();
    let mut rig = Rig::new();
    let peer = rig.open();
    let id = rig.id(peer);
    for size in sizes {
        rig.arrive(peer, &frame(Opcode::Binary, &vec![1; size]));
    }
    let counters = rig.counters();
    for (direction, seen) in [("in", counters.received_bytes.get()), ("out", counters.sent_bytes.get())] {
        assert_eq!(
            (seen.count(), seen.sum),
            (sizes.len() as u64, all as u64),
            "{direction}, replies in place"
        );
    }
    for size in sizes {
        rig.tell(move |out| out.send(id, Kind::Binary, &vec![1; size]));
    }
    let sent = rig.counters().sent_bytes.get();
    assert_eq!((sent.count(), sent.sum), (2 * sizes.len() as u64, 2 * all as u64));
    // Several in one piece: each is as large as their mean.
    let three = encode_message(Kind::Text, &[b'x'; 50]).repeat(3);
    rig.tell(move |out| out.send_frames(id, crate::buf::Payload::new(&[&three]), 3));
    let more = rig.counters().sent_bytes.get().since(&sent);
    assert_eq!((more.count(), more.sum, more.count_up_to(48)), (3, 150, 0));
    rig.finish();
}

#[test]
fn one_message_in_sixteen_is_timed() {
    let mut rig = Rig::new();
    let peer = rig.open();
    rig.kernel().look_us = 3; // between the look before a message and that after it
    let messages = 6_400;
    for _ in 0..messages / 100 {
        rig.arrive(peer, &text("timed?").repeat(100));
    }
    let timed = rig.counters().handling_us.get();
    assert!((messages / 32..=messages / 8).contains(&timed.count()), "{} of {messages}", timed.count());
    assert_eq!(timed.sum, 3 * timed.count());
    rig.kernel().look_us = 0;
    rig.finish();
}

#[test]
fn a_connection_has_lasted_from_its_upgrade_to_its_end() {
    let mut rig = Rig::with(Options { ping_interval_ticks: None, ..options() });
    rig.pass_ms(100_000);
    let peer = rig.connect();
    rig.pass_ms(HANDSHAKE_MS / 2);
    rig.arrive(peer, &upgrade("/echo"));
    rig.pass_ms(90_500);
    rig.end(peer);
    let lasted = rig.counters().lifetime_s.get();
    assert_eq!((lasted.count(), lasted.sum), (1, 90));
    // The next one in the same slot begins anew.
    let slot = rig.id(peer).slot;
    let next = rig.open();
    assert_eq!(rig.id(next).slot, slot);
    rig.pass_ms(2_500);
    rig.end(next);
    assert_eq!(rig.counters().lifetime_s.get().sum, 90 + 2);
    rig.finish();
}

#[test]
fn a_heartbeat_takes_from_the_ping_to_its_pong() {
    let mut rig = Rig::new();
    let peer = rig.open();
    for (times, latency_ms) in [(1, 250), (2, 0), (3, PONG_MS - 1_000)] {
        let before = rig.counters().heartbeat_us.get();
        let stamp = wait_for_ping(&mut rig, peer);
        rig.pass_ms(latency_ms);
        // A second pong, and one that nobody asked for, say nothing.
        rig.arrive(peer, &frame(Opcode::Pong, &stamp).repeat(2));
        rig.arrive(peer, &frame(Opcode::Pong, &stamp));
        let (now, seen) =
            (rig.counters().heartbeat_us.get(), rig.counters().heartbeat_us.get().since(&before));
        assert_eq!((now.count(), seen.count()), (times, 1));
        let latency_us = latency_ms * 1000..=(latency_ms + LATE_MS) * 1000;
        assert!(latency_us.contains(&seen.sum), "{} for {latency_ms} ms", seen.sum);
    }
    rig.finish();
}

#[test]
fn a_pong_that_answers_no_ping_of_ours_is_not_believed() {
    let mut rig = Rig::new();
    let peer = rig.open();
    let stamp = |us: u64| frame(Opcode::Pong, &(us as u32).to_be_bytes());
    // It has answered its last ping otherwise, and the next is not due: no time it could name is that of a ping.
    wait_for_ping(&mut rig, peer);
    rig.arrive(peer, &text("here"));
    rig.take(peer);
    rig.pass_ms(PING_MS - 5_000);
    let now_us = rig.kernel().now_us;
    for tick in 0..2 * PING_MS / TICK_MS {
        rig.arrive(peer, &stamp(now_us.wrapping_sub(tick * TICK_MS * 1000)));
    }
    assert_eq!(rig.counters().heartbeat_us.get().count(), 0);
    let forgeries = |pinged: [u8; 4]| {
        let pinged_us = u64::from(u32::from_be_bytes(pinged));
        let tick_us = TICK_MS * 1000;
        let early = stamp(pinged_us - pinged_us % tick_us - 1);
        [
            early,
            stamp(pinged_us - pinged_us % tick_us + tick_us),
            stamp(u64::MAX),
            frame(Opcode::Pong, b""),
            frame(Opcode::Pong, &[0; 125]),
        ]
    };
    for at in 0..5 {
        let pinged = wait_for_ping(&mut rig, peer);
        rig.pass_ms(300);
        rig.arrive(peer, &forgeries(pinged.try_into().unwrap())[at]);
        assert_eq!(rig.counters().heartbeat_us.get().count(), 0, "forgery {at}");
    }
    let pinged = wait_for_ping(&mut rig, peer);
    rig.arrive(peer, &frame(Opcode::Pong, &pinged));
    assert_eq!(rig.counters().heartbeat_us.get().count(), 1, "but this one is");
    rig.finish();
}

#[test]
fn a_pong_that_is_read_while_another_connection_answers_is_not_its_answer() {
    let mut rig = Rig::new();
    let peer = rig.open();
    let pinged = wait_for_ping(&mut rig, peer);
    let waiting = rig.request("/later");
    rig.arrive(waiting, &frame(Opcode::Pong, &pinged));
    assert_eq!(rig.id(waiting), ConnId { slot: 1, generation: 0 });
    rig.reactor.handler.on_message =
        |_, _, out| out.decide(ConnId { slot: 1, generation: 0 }, Decision::ACCEPT);
    rig.arrive(peer, &text("here"));
    assert_eq!(rig.counters().connections_open.get(), 2);
    assert_eq!(rig.counters().heartbeat_us.get().count(), 0);
    rig.finish();
}

#[test]
fn a_turn_takes_from_one_wait_to_the_next() {
    let mut rig = Rig::new();
    let peer = rig.open();
    let taken = |rig: &mut Rig| {
        let before = rig.counters().turn_us.get();
        rig.kernel().now_us += 500; // work since the last wait
        rig.turn();
        let turn = rig.counters().turn_us.get().since(&before);
        assert_eq!(turn.count(), 1);
        (turn.sum, rig.kernel().timeout == Some(Duration::ZERO))
    };
    // An enter that waits is a wait, whatever else it does.
    rig.kernel().enter_us = 70;
    rig.kernel().sleep_until_us = u64::MAX;
    assert_eq!(taken(&mut rig), (500, false));
    // One that does not wait is work.
    rig.reactor.handler.on_turn = |_| Work::Now;
    rig.turn();
    assert_eq!(taken(&mut rig), (570, true));
    rig.reactor.handler.on_turn = |_| Work::None;
    rig.kernel().enter_us = 0;
    rig.kernel().sleep_until_us = 0;
    rig.settle();
    rig.end(peer);
    rig.finish();
}

#[test]
fn bytes_that_wait_are_counted_until_they_are_sent_or_dropped() {
    let mut rig = Rig::new();
    let peers = rig.open_many(200);
    let ids: Vec<ConnId> = peers.iter().map(|peer| rig.id(*peer)).collect();
    for peer in &peers {
        rig.peer(*peer).room = 10;
    }
    let everyone = ids.clone();
    // The first message finds the socket full, the others wait behind it; small ones are joined.
    rig.tell(move |out| everyone.iter().for_each(|id| out.send(*id, Kind::Binary, &[1; 3_000])));
    let each = 3_004 - 10;
    assert_eq!(rig.counters().send_queue_bytes.get(), 200 * each);
    for size in [10, 20, 1_000] {
        let everyone = ids.clone();
        rig.tell(move |out| everyone.iter().for_each(|id| out.send(*id, Kind::Binary, &vec![1; size])));
    }
    let each = each + 12 + 22 + 1_004;
    assert_eq!(rig.counters().send_queue_bytes.get(), 200 * each);
    // More segments than one send takes wait in one piece too.
    let one = ids[0];
    rig.kernel().give_room(peers[0], usize::MAX);
    rig.settle();
    assert_eq!(rig.counters().send_queue_bytes.get(), 199 * each);
    rig.peer(peers[0]).room = 0;
    rig.tell(move |out| (0..20).for_each(|_| out.send(one, Kind::Binary, &[1; 300])));
    assert_eq!(rig.counters().send_queue_bytes.get(), 199 * each + 20 * 304);
    // Sent in part, in whole, cut, reset, closed by the handler.
    rig.peer(peers[1]).ends_short = true;
    rig.kernel().give_room(peers[1], 1_000);
    rig.settle();
    assert_eq!(rig.counters().send_queue_bytes.get(), 199 * each + 20 * 304 - 1_000);
    for (at, peer) in peers.iter().enumerate() {
        match at % 4 {
            0 => rig.kernel().give_room(*peer, usize::MAX),
            1 => rig.kernel().end(*peer),
            2 => rig.kernel().reset(*peer),
            _ => {}
        }
    }
    rig.settle();
    assert_eq!(rig.counters().send_queue_bytes.get(), 50 * each);
    rig.tell(move |out| ids.iter().for_each(|id| out.end(*id, CloseReason::SlowConsumer)));
    rig.pass_ms(CLOSE_MS + LATE_MS);
    assert_eq!(rig.counters().send_queue_bytes.get(), 0);
    rig.finish();
}

#[test]
fn a_core_is_as_busy_as_its_thread_was_in_the_last_second() {
    let mut rig = Rig::new();
    rig.pass_ms(5_000);
    assert_eq!(rig.counters().busy_permille.get(), 0);
    for (worked_us, permille) in
        [(300_000, 260..=300), (900_000, 800..=900), (9_000_000, 1_000..=1_000), (0, 0..=0)]
    {
        let ticks = rig.reactor.handler.ticks_ms.len();
        rig.kernel().cpu_us += worked_us;
        while rig.reactor.handler.ticks_ms.len() == ticks {
            rig.pass_ms(TICK_MS);
        }
        let busy = rig.counters().busy_permille.get();
        assert!(permille.contains(&busy), "{busy} of {worked_us} us in a second");
    }
    rig.finish();
}
