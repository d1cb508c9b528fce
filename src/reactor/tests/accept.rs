//! Newcomers: how many may come, what a full server says, what happens when the kernel has nothing left to accept with.

use super::*;
use crate::sys::Completion;

fn small() -> Options {
    let budget = CoreBudget { accepts_in_flight: 4, reserve_slots: 2, ..CoreBudget::for_reactors(1) };
    Options { connections_max: 3, budget, ..options() }
}

#[test]
fn accepts_are_kept_in_flight_and_never_exceed_the_free_descriptors() {
    let mut rig = Rig::with(small());
    rig.settle();
    assert_eq!(rig.kernel().accepts, 4);
    // Five descriptors in all; the kernel of the test panics on an accept too many.
    for expected in [4, 3, 2, 1, 0] {
        rig.connect();
        assert_eq!(rig.kernel().accepts, expected);
    }
    assert_eq!(rig.counters().accepted.get(), 5);
    rig.finish();
}

#[test]
fn a_full_server_answers_503_from_its_reserve_then_waits_and_goes_on_after_a_close() {
    let mut rig = Rig::with(small());
    let carried: Vec<Peer> = (0..3).map(|_| rig.open()).collect();
    let surplus: Vec<Peer> = (0..2).map(|_| rig.request("/echo")).collect();
    for peer in &surplus {
        assert!(rig.take(*peer).starts_with(b"HTTP/1.1 503 "));
        assert!(rig.peer(*peer).fin);
    }
    assert_eq!(rig.reactor.handler.open.len(), 3, "accepted or not, who is beyond the limit does not get in");
    let outside = rig.connect();
    assert_eq!(rig.peer(outside).id, None, "no slot left: it waits in the kernel's queue");

    rig.end(surplus[0]);
    rig.arrive(outside, &upgrade("/echo"));
    assert!(rig.take(outside).starts_with(b"HTTP/1.1 503 "));
    rig.end(outside);
    rig.end(surplus[1]);
    rig.end(carried[0]);
    let newcomer = rig.open();
    rig.arrive(newcomer, &text("in"));
    assert_eq!(rig.take_frames(newcomer), [(Opcode::Text, b"in".to_vec())]);
    rig.finish();
}

#[test]
fn out_of_descriptors_is_a_pause_and_one_peers_failure_is_not() {
    for errno in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
        let mut rig = Rig::with(small());
        rig.settle();
        for _ in 0..4 {
            rig.kernel().accepts -= 1;
            rig.kernel().inject(Completion::AcceptFailed { errno });
        }
        rig.settle();
        assert_eq!(rig.kernel().accepts, 0, "it would fail again at once");
        rig.pass_ms(1000 + LATE_MS);
        assert_eq!(rig.kernel().accepts, 4);
        assert_eq!(rig.counters().accept_failures.get(), 4);
        rig.open();
        rig.finish();
    }
    let mut rig = Rig::with(small());
    rig.settle();
    rig.kernel().accepts -= 1;
    rig.kernel().inject(Completion::AcceptFailed { errno: libc::ECONNABORTED });
    rig.settle();
    assert_eq!(rig.kernel().accepts, 4);
    rig.finish();
}

#[test]
fn the_handler_sees_who_asks() {
    let mut rig = Rig::new();
    let (a, b) = (rig.open(), rig.open());
    for peer in [a, b] {
        let id = rig.id(peer);
        let conn = rig.reactor.conns.get(id.slot, id.generation).unwrap();
        assert_eq!(conn.peer(), kernel::address(peer));
    }
    rig.finish();
}

#[test]
fn a_freed_slot_comes_back_under_another_generation() {
    let mut rig = Rig::new();
    let first = rig.open();
    rig.end(first);
    let second = rig.open();
    let (old, new) = (rig.id(first), rig.id(second));
    assert_eq!(old.slot, new.slot);
    assert_ne!(old.generation, new.generation);
    // What is meant for the first never reaches the second.
    rig.tell(move |out| {
        out.send(old, Kind::Text, b"late");
        out.close(old, 4000, "late");
        out.decide(old, Decision::ACCEPT);
    });
    assert_eq!(rig.take(second), b"");
    assert_eq!(rig.reason(second), None);
    rig.finish();
}
