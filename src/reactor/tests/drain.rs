//! Mail and the end of a server: newcomers are refused or left to another process, everybody is told and closed in bounded
//! steps at an even pace, the deadline cuts.

use super::*;
use std::collections::HashMap;
use std::sync::atomic::Ordering;

#[test]
fn mail_is_taken_in_order_and_in_bounded_steps() {
    let mut rig = Rig::new();
    let peer = rig.open();
    let id = rig.id(peer);
    for number in 0u16..1_000 {
        let order = Order(Box::new(move |out| out.send(id, Kind::Binary, &number.to_be_bytes())));
        rig.mail.send(Control::Mail(order)).unwrap();
    }
    rig.turn();
    let left = rig.mail.len();
    assert!((500..1_000).contains(&left), "{left} left after a turn");
    rig.settle();
    let expected: Vec<_> =
        (0u16..1_000).map(|number| (Opcode::Binary, number.to_be_bytes().to_vec())).collect();
    assert_eq!(rig.take_frames(peer), expected);
    rig.finish();
}

#[test]
fn a_parked_core_is_rung_for_mail_and_a_busy_one_does_not_wait() {
    let mut rig = Rig::new();
    let peer = rig.open();
    let id = rig.id(peer);
    // Mail that came before it parked, without a bell: it must not wait.
    let order = Order(Box::new(move |out| out.send(id, Kind::Text, b"x")));
    rig.mail.send(Control::Mail(order)).unwrap();
    rig.turn();
    assert_eq!(rig.kernel().timeout, Some(Duration::ZERO));
    rig.settle();
    assert_eq!(rig.take_frames(peer).len(), 1);
    rig.finish();
}

/// Every `on_drain` so far.
fn told(rig: &Rig) -> Vec<(ConnId, u64)> {
    let drains = rig.reactor.handler.told.iter().filter_map(|told| match told {
        Told::Drain(id, delay_ms) => Some((*id, *delay_ms)),
        _ => None,
    });
    drains.collect()
}

fn order(timeout_ms: u64, close_ms: u64, window_ms: u64) -> DrainOrder {
    let (timeout_ticks, close_ticks) = (ticks(timeout_ms), ticks(close_ms));
    DrainOrder { timeout_ticks, close_ticks, return_window_ms: window_ms, ..DrainOrder::default() }
}

fn leaving(timeout_ms: u64) -> DrainOrder {
    DrainOrder { leaves: true, ..order(timeout_ms, 1, 1_000) }
}

#[test]
fn everybody_is_told_a_time_of_its_own_once_and_before_its_close() {
    let mut rig = Rig::new();
    let peers = rig.open_many(700);
    rig.reactor.handler.on_drain = |conn, out| {
        out.send(conn, Kind::Text, b"going");
        conn.slot % 2 == 0
    };
    rig.order(order(20_000, 1, 70_000));
    let mut before = 0;
    while before < 700 {
        rig.turn();
        let now = told(&rig).len();
        assert!(now > before || before == 0, "it waits before all are told");
        assert!(now - before <= 256, "{now} told after {before}");
        before = now;
    }
    rig.pass_ms(1_000);
    assert_eq!(rig.counters().drain_told.get(), 350, "as the handler says");
    for peer in &peers {
        assert_eq!(rig.take_frames(*peer), [(Opcode::Text, b"going".to_vec()), closing(1012)]);
    }
    let mut delays_ms: Vec<u64> = told(&rig).iter().map(|(_, delay_ms)| *delay_ms).collect();
    delays_ms.sort_unstable();
    // 700 over 70 s, one each 100 ms: the golden ratio leaves no gap of three.
    assert!(delays_ms.windows(2).all(|pair| (1..300).contains(&(pair[1] - pair[0]))), "{delays_ms:?}");
    assert!(delays_ms[0] < 300 && (69_700..70_000).contains(&delays_ms[699]), "{delays_ms:?}");
    rig.finish();
}

#[test]
fn closes_come_at_an_even_pace() {
    let mut rig = Rig::new();
    rig.open_many(1_000);
    rig.order(order(20_000, 10_000, 1_000));
    rig.settle();
    let closing = |rig: &mut Rig| rig.kernel().sockets.iter().filter(|s| !s.output.is_empty()).count();
    assert_eq!(closing(&mut rig), 0);
    for second in 1..=10 {
        rig.pass_ms(1_000);
        let (now, expected) = (closing(&mut rig), second * 100);
        assert!(now.abs_diff(expected) <= 14, "{now} after {second} s, where {expected} are due");
    }
    rig.pass_ms(LATE_MS);
    assert_eq!(closing(&mut rig), 1_000);
    rig.finish();
}

/// When each comes back that waits for its Close, in milliseconds from the order: one that spreads Closes over 10 s, and returns
/// over 50 s from the 15th on.
fn returns_ms(rig: &mut Rig, staying: &[Peer]) -> Vec<u64> {
    let delays_ms: HashMap<ConnId, u64> = told(rig).into_iter().collect();
    let began_ms = rig.now_ms();
    let mut waiting = staying.to_vec();
    let mut returns_ms = Vec::new();
    while !waiting.is_empty() {
        rig.pass_ms(TICK_MS);
        let at_ms = rig.now_ms() - began_ms;
        waiting.retain(|peer| {
            let is_closed = !rig.take(*peer).is_empty();
            if is_closed {
                returns_ms.push(at_ms + delays_ms[&rig.id(*peer)]);
            }
            !is_closed
        });
    }
    returns_ms.sort_unstable();
    returns_ms
}

#[test]
fn nobody_comes_back_before_the_time_ordered_whoever_leaves_before() {
    const AFTER_MS: u64 = 15_000;
    for leaving in [0..0, 0..400, 600..1_000] {
        let mut rig = Rig::new();
        let peers = rig.open_many(1_000);
        rig.order(DrainOrder { return_after_ms: AFTER_MS, ..order(20_000, 10_000, 50_000) });
        rig.settle();
        peers[leaving.clone()].iter().for_each(|peer| rig.kernel().end(*peer));
        let staying = [&peers[..leaving.start], &peers[leaving.end..]].concat();
        let returns_ms = returns_ms(&mut rig, &staying);
        let first = returns_ms[0];
        assert!(first + LATE_MS > AFTER_MS, "{first} without {leaving:?}");
        if leaving.is_empty() {
            // 1,000 over 50 s, and what was closed late comes no later: one each 50 ms, in ticks.
            assert!(first < AFTER_MS + 2 * LATE_MS && returns_ms[999] < AFTER_MS + 50_000 + LATE_MS);
            assert!(returns_ms.windows(2).all(|pair| pair[1] - pair[0] < 150 + LATE_MS), "{returns_ms:?}");
        }
        rig.finish();
    }
}

#[test]
fn a_core_that_paces_its_closes_sleeps_between_them() {
    let mut rig = Rig::new();
    rig.open_many(10);
    rig.order(order(20_000, 10_000, 1_000));
    rig.settle();
    let before = rig.counters().turns.get();
    rig.pass_ms(5_000);
    let turns = rig.counters().turns.get() - before;
    assert!(turns < 5_000 / TICK_MS + 100, "{turns} turns");
    rig.finish();
}

#[test]
fn who_leaves_early_or_is_ended_when_told_is_not_closed_again() {
    let mut rig = Rig::new();
    let peers = rig.open_many(3);
    rig.reactor.handler.on_drain = |conn, out| {
        if conn.slot == 0 {
            out.close(ConnId { slot: 1, ..conn }, 4000, "");
        }
        true
    };
    let first = peers.iter().copied().find(|peer| rig.id(*peer).slot == 0).unwrap();
    let second = peers.iter().copied().find(|peer| rig.id(*peer).slot == 1).unwrap();
    rig.order(order(20_000, 1, 1_000));
    rig.settle();
    rig.end(first);
    rig.pass_ms(1_000);
    assert_eq!(told(&rig).len(), 2, "one was closed before its turn");
    assert_eq!(rig.take_frames(first), []);
    assert_eq!(rig.take_frames(second), [closing(4000)]);
    rig.finish();
}

#[test]
fn a_core_that_leaves_accepts_nobody_and_serves_those_it_has() {
    let mut rig = Rig::new();
    let (open, asking, undecided) = (rig.open(), rig.connect(), rig.request("/later"));
    rig.arrive(asking, &upgrade("/echo")[..10]);
    rig.order(leaving(20_000));
    rig.settle();
    assert_eq!((rig.kernel().accepts, rig.reactor.accepts_in_flight), (0, 0));
    let newcomer = rig.connect();
    rig.pass_ms(1_000);
    assert_eq!(rig.kernel().left_to_others, [newcomer]);
    assert_eq!(rig.take_frames(open), [closing(1012)]);
    rig.end(open);
    assert!(!rig.reactor.is_drained(), "two were promised an answer");

    // Both walks have passed them: they are told and closed all the same.
    rig.arrive(asking, &upgrade("/echo")[10..]);
    let id = rig.id(undecided);
    rig.tell(move |out| out.decide(id, Decision::ACCEPT));
    for peer in [asking, undecided] {
        let id = rig.id(peer);
        assert_eq!(told(&rig).iter().filter(|(told, _)| *told == id).count(), 1);
        let output = rig.take(peer);
        let end = output.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        assert!(output.starts_with(b"HTTP/1.1 101 "));
        assert_eq!(frames(&output[end..]), [closing(1012)]);
        rig.end(peer);
    }
    assert!(rig.reactor.is_drained());
    rig.finish();
}

#[test]
fn who_is_accepted_in_the_moment_of_leaving_is_served() {
    let mut rig = Rig::new();
    rig.settle();
    rig.kernel().accepts_late = Some(2);
    let late: Vec<Peer> = (0..3).map(|_| rig.kernel().connect()).collect();
    rig.order(leaving(20_000));
    rig.turn();
    assert!(!rig.reactor.is_drained(), "accepts are in flight");
    rig.settle();
    for peer in &late[..2] {
        rig.arrive(*peer, &upgrade("/echo"));
        assert!(rig.take(*peer).starts_with(b"HTTP/1.1 101 "));
    }
    assert_eq!(rig.kernel().left_to_others, late[2..]);
    rig.finish();
}

#[test]
fn a_second_order_may_have_a_core_leave_and_tells_nobody_twice() {
    let mut rig = Rig::new();
    let peer = rig.open();
    rig.order(order(20_000, 10_000, 1_000));
    rig.settle();
    rig.order(leaving(20_000));
    rig.order(leaving(20_000));
    rig.pass_ms(LATE_MS);
    assert_eq!(told(&rig).len(), 1);
    assert_eq!(rig.take_frames(peer), [closing(1012)], "its Closes were due sooner");
    let newcomer = rig.connect();
    assert_eq!(rig.kernel().left_to_others, [newcomer]);
    rig.finish();
}

#[test]
fn a_drain_closes_everybody_in_bounded_steps() {
    let mut rig = Rig::new();
    let peers = rig.open_many(700);
    rig.drain(20_000);
    let mut told_before = 0;
    for _ in 0..20 {
        rig.turn();
        let told = peers.iter().filter(|peer| !rig.reactor.io.sockets[**peer].output.is_empty()).count();
        assert!(told - told_before <= 256, "{told} told after {told_before}");
        told_before = told;
    }
    assert_eq!(told_before, 700);
    assert!(!rig.reactor.is_drained());
    for peer in &peers {
        assert_eq!(rig.take_frames(*peer), [closing(1012)]);
        rig.kernel().arrive(*peer, &close_frame(1012));
    }
    rig.settle();
    assert_eq!(rig.closed(CloseReason::ServerShutdown), 700);
    assert!(rig.reactor.is_drained());
    rig.finish();
}

#[test]
fn newcomers_and_those_still_asking_get_503() {
    let mut rig = Rig::new();
    let (stays, asking) = (rig.open(), rig.connect());
    rig.arrive(asking, &upgrade("/echo")[..10]);
    rig.drain(20_000);
    rig.settle();
    rig.arrive(asking, &upgrade("/echo")[10..]);
    let newcomer = rig.request("/echo");
    for peer in [asking, newcomer] {
        assert!(rig.take(peer).starts_with(b"HTTP/1.1 503 "));
        rig.end(peer);
    }
    assert_eq!(rig.take_frames(stays), [closing(1012)]);
    rig.end(stays);
    assert!(rig.reactor.is_drained());
    rig.finish();
}

#[test]
fn a_decision_during_a_drain_opens_nothing() {
    let mut rig = Rig::new();
    let peer = rig.request("/later");
    rig.drain(20_000);
    rig.settle();
    let id = rig.id(peer);
    rig.tell(move |out| out.decide(id, Decision::ACCEPT));
    assert!(rig.take(peer).starts_with(b"HTTP/1.1 503 "));
    rig.end(peer);
    assert!(rig.reactor.is_drained());
    rig.finish();
}

#[test]
fn the_deadline_cuts_whoever_is_left() {
    let mut rig = Rig::new();
    let peers = rig.open_many(300);
    rig.peer(peers[0]).room = 0;
    rig.connect();
    rig.request("/later");
    rig.drain(1_000);
    rig.pass_ms(1_000 - LATE_MS);
    assert_eq!(rig.kernel().live(), 302);
    assert!(!rig.reactor.is_drained());
    rig.pass_ms(2 * LATE_MS);
    assert_eq!(rig.kernel().live(), 0);
    assert_eq!(rig.closed(CloseReason::ServerShutdown), 302);
    assert!(rig.reactor.is_drained());
    rig.finish();
}

#[test]
fn a_second_order_may_shorten_the_drain_and_not_extend_it() {
    for (first, second, expected_ms) in [(10_000, 1_000, 1_000), (1_000, 10_000, 1_000)] {
        let mut rig = Rig::new();
        rig.open();
        rig.drain(first);
        rig.drain(second);
        rig.pass_ms(expected_ms - LATE_MS);
        assert_eq!(rig.kernel().live(), 1);
        rig.pass_ms(2 * LATE_MS);
        assert_eq!(rig.kernel().live(), 0);
        rig.finish();
    }
}

#[test]
fn a_drained_core_goes_on_refusing_until_its_siblings_are_drained() {
    let mut rig = Rig::new();
    rig.reactor.siblings.store(2, Ordering::Release);
    rig.drain(20_000);
    rig.settle();
    assert!(!rig.reactor.is_drained() && !rig.reactor.is_drained());
    assert_eq!(rig.reactor.siblings.load(Ordering::Acquire), 1, "it takes itself out once");
    let newcomer = rig.request("/echo");
    assert!(rig.take(newcomer).starts_with(b"HTTP/1.1 503 "));
    rig.end(newcomer);
    rig.reactor.siblings.store(0, Ordering::Release);
    assert!(rig.reactor.is_drained());
    rig.finish();
}
