//! Input: polls that end, lie or come twice, buffers that run out, completions of connections that are gone, messages
//! in any pieces.

use super::*;
use crate::budget::BUFFER_BYTES;
use crate::buf::Buffer;
use crate::sys::{Completion, Inbound};

fn lease(rig: &mut Rig) -> Buffer {
    rig.reactor.pool.lease().expect("a free buffer")
}

#[test]
fn a_poll_the_kernel_ended_is_armed_again() {
    let mut rig = Rig::new();
    let peer = rig.open();
    for round in 0..3 {
        rig.kernel().end_poll(peer, libc::POLLIN.into());
        rig.settle();
        rig.arrive(peer, &text(&format!("round {round}")));
        assert_eq!(rig.take_frames(peer), [(Opcode::Text, format!("round {round}").into_bytes())]);
    }
    rig.finish();
}

#[test]
fn a_poll_that_fails_ends_its_connection_and_no_other() {
    let mut rig = Rig::new();
    let (failing, other) = (rig.open(), rig.open());
    rig.kernel().end_poll(failing, -libc::ENOMEM);
    rig.settle();
    assert_eq!(rig.reason(failing), Some(CloseReason::InternalError));
    assert!(rig.peer(failing).gone && !rig.peer(other).gone);
    rig.finish();
}

#[test]
fn an_event_without_cause_costs_one_empty_receive() {
    let mut rig = Rig::new();
    let peer = rig.open();
    let before = rig.peer(peer).recvs;
    rig.kernel().raise(peer);
    rig.settle();
    assert_eq!(rig.peer(peer).recvs, before + 1);
    assert_eq!(rig.counters().receives_empty.get(), 1);
    assert_eq!(rig.counters().buffers_held.get(), 0);
    // Several events before the receive are one.
    rig.kernel().raise(peer);
    rig.kernel().raise(peer);
    rig.settle();
    assert_eq!(rig.peer(peer).recvs, before + 2);
    rig.arrive(peer, &text("still here"));
    assert_eq!(rig.take_frames(peer).len(), 1);
    rig.finish();
}

#[test]
fn an_interrupted_receive_is_tried_again() {
    let mut rig = Rig::new();
    let peer = rig.open();
    let id = rig.id(peer);
    rig.kernel().raise(peer);
    rig.peer(peer).hold_recv = true;
    rig.turn();
    rig.turn();
    let Some(Completion::Received { into, .. }) = rig.peer(peer).held.pop() else { panic!("a receive") };
    rig.peer(peer).hold_recv = false;
    rig.peer(peer).input.extend(text("now"));
    let interrupted = Completion::Received { id, into, result: -libc::EINTR, nonempty: false };
    rig.kernel().inject(interrupted);
    rig.settle();
    assert_eq!(rig.take_frames(peer), [(Opcode::Text, b"now".to_vec())]);
    rig.finish();
}

#[test]
fn what_the_kernel_says_is_left_is_received_without_another_event() {
    let mut rig = Rig::new();
    let peer = rig.open();
    rig.peer(peer).recv_max = 5;
    rig.arrive(peer, &[text("one"), text("two"), text("three")].concat());
    let echoes = [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()].map(|echo| (Opcode::Text, echo));
    assert_eq!(rig.take_frames(peer), echoes);
    rig.finish();
}

#[test]
fn completions_of_an_earlier_client_are_counted_and_reach_nobody() {
    let mut rig = Rig::new();
    let first = rig.open();
    let old = rig.id(first);
    rig.end(first);
    let second = rig.open();
    assert_eq!(rig.id(second).slot, old.slot);

    let mut buffer = lease(&mut rig);
    let message = text("for the first");
    buffer[..message.len()].copy_from_slice(&message);
    let result = message.len() as i32;
    let unsent = || crate::sys::Outbound::Segment(crate::buf::Segment::owned(b"late".to_vec()));
    let late = [
        Completion::Received { id: old, into: Inbound::Buffer(buffer, usize::MAX), result, nonempty: true },
        Completion::Polled { id: old, result: libc::POLLIN.into(), more: true },
        Completion::Polled { id: old, result: -libc::ECANCELED, more: false },
        Completion::Unsent { id: old, rest: unsent(), result: -libc::EAGAIN },
        Completion::Sent { id: old, rest: unsent(), result: -libc::ECONNRESET },
        Completion::Shut { id: old },
        Completion::Closed { id: old },
    ];
    let count = late.len() as u64;
    late.into_iter().for_each(|completion| rig.kernel().inject(completion));
    rig.settle();
    assert_eq!(rig.counters().completions_stale.get(), count);
    assert_eq!(rig.counters().buffers_held.get(), 0);
    assert_eq!(rig.take(second), b"");
    assert_eq!(rig.messages(second), Vec::<Vec<u8>>::new());
    rig.arrive(second, &text("for the second"));
    assert_eq!(rig.take_frames(second), [(Opcode::Text, b"for the second".to_vec())]);
    rig.finish();
}

#[test]
fn completions_of_slots_that_never_were_are_counted() {
    let mut rig = Rig::new();
    let id = ConnId { slot: 7_000, generation: 3 };
    let into = Inbound::Buffer(lease(&mut rig), usize::MAX);
    rig.kernel().inject(Completion::Received { id, into, result: 10, nonempty: false });
    rig.kernel().inject(Completion::Polled { id, result: 1, more: true });
    rig.settle();
    assert_eq!(rig.counters().completions_stale.get(), 2);
    rig.finish();
}

#[test]
fn with_every_buffer_lent_out_input_waits_and_nobody_spins() {
    let mut rig = Rig::with(few_buffers());
    let peers = rig.open_many(12);
    let held: Vec<Buffer> = (0..4).map(|_| lease(&mut rig)).collect();
    for peer in &peers {
        rig.kernel().arrive(*peer, &text("hello"));
    }
    rig.settle();
    assert!(rig.kernel().timeout.is_some_and(|timeout| timeout >= Duration::from_millis(1)), "it spins");
    assert_eq!(rig.reactor.readable.len(), 12);
    drop(held);
    rig.settle();
    for peer in &peers {
        assert_eq!(rig.take_frames(*peer), [(Opcode::Text, b"hello".to_vec())]);
    }
    rig.finish();
}

#[test]
fn buffers_that_this_turns_sends_give_back_are_not_waited_for() {
    let mut rig = Rig::with(few_buffers());
    let peers = rig.open_many(8);
    for peer in &peers {
        rig.peer(*peer).recv_max = 64;
        rig.kernel().arrive(*peer, &text("x").repeat(500));
    }
    let begun_us = rig.kernel().now_us;
    rig.kernel().sleep_until_us = u64::MAX;
    let has_input = |rig: &Rig| peers.iter().any(|peer| !rig.reactor.io.sockets[*peer].input.is_empty());
    for _ in 0..4_000 {
        if has_input(&rig) {
            rig.turn();
        }
    }
    assert!(!has_input(&rig));
    assert_eq!(rig.kernel().now_us, begun_us, "a full pool is emptied without a pause");
    rig.kernel().sleep_until_us = 0;
    rig.finish();
}

#[test]
fn a_turn_takes_less_of_each_while_messages_take_long() {
    let mut rig = Rig::new();
    let flooders = rig.open_many(8);
    let messages = 20_000;
    for flooder in &flooders {
        rig.kernel().arrive(*flooder, &text("x").repeat(messages));
    }
    let taken = |rig: &mut Rig| {
        let before: usize = flooders.iter().map(|peer| rig.reactor.io.sockets[*peer].input.len()).sum();
        rig.turn();
        before - flooders.iter().map(|peer| rig.reactor.io.sockets[*peer].input.len()).sum::<usize>()
    };
    rig.turn(); // their events
    let of_cheap_ones = taken(&mut rig);
    rig.kernel().look_us = 10; // what a message takes, of those that are timed
    (0..6).for_each(|_| assert!(taken(&mut rig) > 0));
    let of_long_ones = taken(&mut rig);
    assert!(of_long_ones * 4 < of_cheap_ones, "{of_long_ones} bytes after {of_cheap_ones}");
    rig.kernel().look_us = 0;
    (0..30).for_each(|_| assert!(taken(&mut rig) > 0));
    let of_cheap_ones_again = taken(&mut rig);
    assert!(of_long_ones * 2 < of_cheap_ones_again, "{of_cheap_ones_again} bytes after {of_long_ones}");
    rig.settle();
    for flooder in flooders {
        assert_eq!(rig.take_frames(flooder).len(), messages);
    }
    rig.finish();
}

/// Four receive buffers for everybody.
fn few_buffers() -> Options {
    Options { budget: CoreBudget { buffers_max: 4, ..CoreBudget::for_reactors(1) }, ..options() }
}

#[test]
fn one_who_floods_does_not_starve_one_who_is_quiet() {
    let mut rig = Rig::with(few_buffers());
    let flooders = rig.open_many(8);
    let quiet = rig.open();
    for flooder in &flooders {
        rig.peer(*flooder).recv_max = 64;
        rig.kernel().arrive(*flooder, &text(&"x".repeat(20)).repeat(3_000));
    }
    for _ in 0..20 {
        rig.turn();
    }
    assert!(!rig.peer(flooders[0]).input.is_empty(), "they still have input");
    rig.kernel().arrive(quiet, &text("me too"));
    // Its event, its receive before all of theirs, and its send.
    for _ in 0..3 {
        rig.turn();
    }
    assert_eq!(rig.take_frames(quiet), [(Opcode::Text, b"me too".to_vec())]);
    rig.settle();
    for flooder in flooders {
        assert_eq!(rig.take_frames(flooder).len(), 3_000);
    }
    rig.finish();
}

#[test]
fn who_floods_a_connection_that_has_ended_is_taken_little_of_and_few_may() {
    let mut rig = Rig::new();
    let flooders = rig.open_many(40);
    for flooder in &flooders {
        rig.kernel().arrive(*flooder, &[b"\x81\x01x", &vec![b'x'; 100_000][..]].concat());
    }
    let waiting = |rig: &Rig| -> usize {
        let there = flooders.iter().filter(|peer| !rig.reactor.io.sockets[**peer].gone);
        there.map(|peer| rig.reactor.io.sockets[*peer].input.len()).sum()
    };
    (0..6).for_each(|_| rig.turn()); // their events, the violations, the Closes, and what is behind
    let gone = |rig: &Rig| flooders.iter().filter(|peer| rig.reactor.io.sockets[**peer].gone).count();
    assert_eq!(gone(&rig), 8, "those that came first");
    let before = waiting(&rig);
    rig.turn();
    let taken = before - waiting(&rig);
    assert!((1..=BUFFER_BYTES).contains(&taken), "{taken}");
    rig.settle();
    assert_eq!((gone(&rig), waiting(&rig)), (8, 0), "the others are read to their end");
    for flooder in flooders {
        rig.end(flooder);
    }
    rig.finish();
}

#[test]
fn peers_that_do_not_read_hold_no_receive_buffers() {
    let mut rig = Rig::with(few_buffers());
    let slow = rig.open_many(6);
    for peer in &slow {
        rig.peer(*peer).room = 0;
        // A pong and an echo: a gathered send.
        rig.arrive(*peer, &[frame(Opcode::Ping, b"p"), text("stuck")].concat());
        rig.arrive(*peer, &text("more"));
    }
    assert_eq!(rig.counters().buffers_held.get(), 0);
    let lively = rig.open();
    rig.arrive(lively, &text("free"));
    assert_eq!(rig.take_frames(lively), [(Opcode::Text, b"free".to_vec())]);
    rig.finish();
}

#[test]
fn an_echo_behind_the_one_that_finds_the_socket_full_holds_no_buffer_either() {
    let mut rig = Rig::with(few_buffers());
    let slow = rig.open_many(4);
    for peer in slow {
        rig.peer(peer).room = 0;
        rig.peer(peer).recv_max = text("x").len();
        rig.arrive(peer, &text("x").repeat(2)); // the second is received in the enter that sends the first echo
        assert_eq!(rig.counters().buffers_held.get(), 0);
    }
    let lively = rig.open();
    rig.arrive(lively, &text("free"));
    assert_eq!(rig.take_frames(lively), [(Opcode::Text, b"free".to_vec())]);
    rig.finish();
}

#[test]
fn a_large_message_in_any_chunks_is_echoed() {
    for (len, recv_max) in
        [(20_000, 7_777), (100_000, 1_000), (90_000, usize::MAX), (99_000, 16_384), (16_705, 1)]
    {
        let mut rig = Rig::with(Options { send_queue_bytes_max: 1 << 20, ..options() });
        let peer = rig.open();
        rig.peer(peer).recv_max = recv_max;
        let payload: Vec<u8> = (0..len).map(|at| (at * 31 % 251) as u8).collect();
        rig.arrive(peer, &[frame(Opcode::Binary, &payload), text("after")].concat());
        let expected = [(Opcode::Binary, payload), (Opcode::Text, b"after".to_vec())];
        assert!(rig.take_frames(peer) == expected, "{len} bytes, {recv_max} at a time");
        rig.finish();
    }
}

#[test]
fn memory_grows_with_what_came_never_with_what_was_declared() {
    let mut rig = Rig::new();
    let peer = rig.open();
    let message = frame(Opcode::Binary, &vec![7; 1 << 20]);
    rig.arrive(peer, &message[..100]);
    let id = rig.id(peer);
    let held = |rig: &Rig| {
        rig.reactor.conns.get(id.slot, id.generation).unwrap().spill.as_ref().unwrap().memory_bytes()
    };
    assert!(held(&rig) < 20_000, "a megabyte was declared, {} bytes are held for 86", held(&rig));
    rig.arrive(peer, &message[100..200_000]);
    assert!(held(&rig) < 450_000, "{} bytes are held for 200,000", held(&rig));
    assert_eq!(rig.counters().buffers_held.get(), 0);
    rig.finish();
}

#[test]
fn input_may_end_or_break_in_the_middle_of_a_large_message() {
    for reset in [false, true] {
        for cut in [3, 100, 20_000, 50_000] {
            let mut rig = Rig::new();
            let peer = rig.open();
            rig.arrive(peer, &frame(Opcode::Binary, &[1; 60_000])[..cut]);
            let (end, reason): (fn(&mut Kernel, Peer), _) = match reset {
                true => (Kernel::reset, CloseReason::PeerReset),
                false => (Kernel::end, CloseReason::PeerEof),
            };
            end(rig.kernel(), peer);
            rig.settle();
            assert_eq!(rig.reason(peer), Some(reason));
            assert!(rig.peer(peer).gone);
            assert!(rig.messages(peer).is_empty());
            rig.finish();
        }
    }
}
