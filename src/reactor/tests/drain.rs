//! Mail and the end of a server: newcomers are refused, everybody is told in bounded steps, the deadline cuts.

use super::*;
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

#[test]
fn a_drain_tells_everybody_in_bounded_steps() {
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
