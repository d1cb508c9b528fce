//! Endings: who says Close first, what still goes out, how long we wait, and every order in which the kernel may give
//! back what it holds.

use super::kernel::draw;
use super::*;
use proptest::prelude::*;

fn close_by_handler(rig: &mut Rig, peer: Peer, code: u16) {
    let id = rig.id(peer);
    rig.tell(move |out| out.close(id, code, ""));
}

/// A frame no client may send: it has no mask.
const UNMASKED: &[u8] = b"\x81\x01x";

#[test]
fn the_peers_close_is_echoed_and_ends_the_connection() {
    for (sent, expected) in [
        (close_frame(1000), closing(1000)),
        (close_frame(4_999), closing(4_999)),
        (frame(Opcode::Close, b""), (Opcode::Close, Vec::new())),
        (frame(Opcode::Close, b"\x03\xe8bye"), closing(1000)),
    ] {
        let mut rig = Rig::new();
        let peer = rig.open();
        rig.arrive(peer, &[text("last"), sent].concat());
        assert_eq!(rig.take_frames(peer), [(Opcode::Text, b"last".to_vec()), expected]);
        assert!(rig.peer(peer).gone);
        assert_eq!(rig.reason(peer), Some(CloseReason::ClientClosed));
        rig.finish();
    }
}

#[test]
fn a_close_with_more_behind_it_lingers_so_that_no_reset_overtakes_ours() {
    let mut rig = Rig::new();
    let peer = rig.open();
    rig.arrive(peer, &[close_frame(1000), text("behind")].concat());
    assert_eq!(rig.take_frames(peer), [closing(1000)]);
    assert!(rig.peer(peer).fin && !rig.peer(peer).gone);
    rig.arrive(peer, &text("more"));
    assert!(rig.peer(peer).input.is_empty() && rig.messages(peer).is_empty());
    rig.end(peer);
    assert!(rig.peer(peer).gone);
    assert_eq!(rig.reason(peer), Some(CloseReason::ClientClosed));
    rig.finish();
}

#[test]
fn who_goes_on_after_our_close_as_if_nothing_had_been_said_is_cut() {
    let closed_by_handler: fn(&mut Rig, Peer) = |rig, peer| close_by_handler(rig, peer, 4_000);
    let violated: fn(&mut Rig, Peer) = |rig, peer| rig.arrive(peer, UNMASKED);
    for (end, reason) in
        [(closed_by_handler, CloseReason::HandlerClosed), (violated, CloseReason::ProtocolError)]
    {
        let mut rig = Rig::new();
        let peer = rig.open();
        end(&mut rig, peer);
        let flood = text(&"x".repeat(60_000)).repeat(4);
        let floods = (4 << 20) / flood.len();
        (1..floods).for_each(|_| rig.arrive(peer, &flood));
        assert!(!rig.peer(peer).gone, "it may have been on its way");
        (0..3).for_each(|_| rig.arrive(peer, &flood));
        assert!(rig.peer(peer).gone);
        assert_eq!(rig.reason(peer), Some(reason));
        rig.finish();
    }
}

#[test]
fn a_close_and_the_end_of_input_at_once() {
    let mut rig = Rig::new();
    let peer = rig.open();
    rig.kernel().arrive(peer, &close_frame(1000));
    rig.end(peer);
    assert_eq!(rig.take_frames(peer), [closing(1000)]);
    assert!(rig.peer(peer).gone);
    assert_eq!(rig.reason(peer), Some(CloseReason::ClientClosed));
    rig.finish();
}

#[test]
fn a_close_while_a_send_waits_goes_out_behind_it() {
    let mut rig = Rig::new();
    let peer = rig.open();
    rig.peer(peer).room = 4;
    rig.arrive(peer, &[text("0123456789"), text("more")].concat());
    rig.arrive(peer, &close_frame(1000));
    assert!(!rig.peer(peer).gone);
    rig.kernel().give_room(peer, usize::MAX);
    rig.settle();
    let echoes = [(Opcode::Text, b"0123456789".to_vec()), (Opcode::Text, b"more".to_vec()), closing(1000)];
    assert_eq!(rig.take_frames(peer), echoes);
    assert!(rig.peer(peer).gone);
    rig.finish();
}

#[test]
fn our_close_waits_for_the_peers_and_hears_nothing_else() {
    let mut rig = Rig::new();
    let peer = rig.open();
    close_by_handler(&mut rig, peer, 4_000);
    assert_eq!(rig.take_frames(peer), [closing(4_000)]);
    rig.arrive(peer, &[text("data"), frame(Opcode::Ping, b"?")].concat());
    assert!(rig.messages(peer).is_empty());
    assert_eq!(rig.take(peer), b"", "nothing follows a Close, RFC 6455 section 5.5.1");
    let id = rig.id(peer);
    rig.tell(move |out| out.send(id, Kind::Text, b"no more"));
    assert_eq!(rig.take(peer), b"");
    rig.arrive(peer, &close_frame(4_000));
    assert!(rig.peer(peer).gone);
    assert_eq!(rig.reason(peer), Some(CloseReason::HandlerClosed));
    rig.finish();
}

#[test]
fn our_close_may_come_in_the_middle_of_the_peers_message() {
    let message = frame(Opcode::Binary, &[0; 60_000]);
    for cut in [1, 3, 100, 20_000, 50_000] {
        let mut rig = Rig::new();
        let peer = rig.open();
        rig.arrive(peer, &message[..cut]);
        close_by_handler(&mut rig, peer, 4_000);
        // It had not seen our Close yet: the message goes on, and is no garbage.
        rig.arrive(peer, &message[cut..]);
        assert!(!rig.peer(peer).gone, "cut at {cut}: {:?}", rig.reason(peer));
        rig.arrive(peer, &close_frame(4_000));
        assert_eq!(rig.take_frames(peer), [closing(4_000)]);
        assert_eq!(rig.reason(peer), Some(CloseReason::HandlerClosed), "cut at {cut}");
        assert!(rig.messages(peer).is_empty());
        rig.finish();
    }
}

#[test]
fn an_invalid_code_of_the_handler_is_not_sent() {
    let mut rig = Rig::new();
    let peer = rig.open();
    close_by_handler(&mut rig, peer, 1_006);
    assert_eq!(rig.take_frames(peer), [closing(1011)]);
    rig.finish();
}

#[test]
fn a_close_nobody_answers_ends_at_an_absolute_deadline() {
    for chatty in [false, true] {
        let mut rig = Rig::new();
        let peer = rig.open();
        close_by_handler(&mut rig, peer, 4_000);
        let begun_ms = rig.now_ms();
        while !rig.peer(peer).gone {
            assert!(rig.now_ms() - begun_ms <= CLOSE_MS + LATE_MS, "traffic must not extend it");
            if chatty {
                rig.arrive(peer, &[text("data"), frame(Opcode::Pong, b"")].concat());
            }
            rig.pass_ms(TICK_MS);
        }
        assert!(rig.now_ms() - begun_ms >= CLOSE_MS - TICK_MS);
        assert_eq!(rig.reason(peer), Some(CloseReason::CloseTimeout));
        rig.finish();
    }
}

#[test]
fn a_violation_gets_a_close_then_our_end_then_silence_until_its_end() {
    for (bytes, code, reason) in [
        (UNMASKED.to_vec(), 1002, CloseReason::ProtocolError),
        (frame(Opcode::Text, b"\xff"), 1007, CloseReason::InvalidPayload),
        (b"\x82\xff\x00\x00\x00\x00\x00\x20\x00\x00\0\0\0\0".to_vec(), 1009, CloseReason::MessageTooBig),
    ] {
        let mut rig = Rig::new();
        let peer = rig.open();
        rig.arrive(peer, &[text("good"), bytes].concat());
        let close = closing(code);
        assert_eq!(rig.take_frames(peer), [(Opcode::Text, b"good".to_vec()), close]);
        assert!(rig.peer(peer).fin && !rig.peer(peer).gone);
        // A Close, a message, another violation: all discarded.
        rig.arrive(peer, &[close_frame(1000), text("more"), UNMASKED.to_vec()].concat());
        assert_eq!(rig.take(peer), b"");
        assert!(rig.peer(peer).input.is_empty());
        rig.end(peer);
        assert!(rig.peer(peer).gone);
        assert_eq!(rig.reason(peer), Some(reason));
        assert_eq!(rig.messages(peer), [b"good".to_vec()]);
        rig.finish();
    }
}

#[test]
fn a_violator_that_stays_is_cut_at_the_deadline_whatever_it_sends() {
    let mut rig = Rig::new();
    let peer = rig.open();
    rig.arrive(peer, UNMASKED);
    let begun_ms = rig.now_ms();
    while !rig.peer(peer).gone {
        assert!(rig.now_ms() - begun_ms <= CLOSE_MS + LATE_MS);
        rig.arrive(peer, &[0xAA; 5_000]);
        rig.pass_ms(100);
    }
    assert_eq!(rig.reason(peer), Some(CloseReason::ProtocolError));
    rig.finish();
}

#[test]
fn a_violator_that_does_not_read_is_cut_at_the_deadline() {
    let mut rig = Rig::new();
    let peer = rig.open();
    rig.peer(peer).room = 0;
    rig.arrive(peer, UNMASKED);
    assert!(!rig.peer(peer).fin, "its Close is not out yet");
    rig.pass_ms(CLOSE_MS + LATE_MS);
    assert!(rig.peer(peer).gone);
    rig.finish();
}

#[test]
fn a_half_close_during_the_last_output_still_gets_it() {
    for last in [UNMASKED.to_vec(), close_frame(1000)] {
        let mut rig = Rig::new();
        let peer = rig.open();
        rig.peer(peer).room = 0;
        rig.arrive(peer, &last);
        rig.end(peer);
        assert!(!rig.peer(peer).gone);
        rig.kernel().give_room(peer, usize::MAX);
        rig.settle();
        assert_eq!(rig.take_frames(peer).len(), 1);
        assert!(rig.peer(peer).gone);
        rig.finish();
    }
}

#[test]
fn the_end_of_input_ends_an_open_connection_whose_send_waits() {
    let mut rig = Rig::new();
    let peer = rig.open();
    rig.peer(peer).room = 5;
    rig.arrive(peer, &text("0123456789"));
    rig.end(peer);
    assert!(rig.peer(peer).gone);
    assert_eq!(rig.reason(peer), Some(CloseReason::PeerEof));
    rig.finish();
}

#[test]
fn the_end_of_input_while_our_close_waits_for_an_answer_is_an_answer() {
    let mut rig = Rig::new();
    let peer = rig.open();
    close_by_handler(&mut rig, peer, 4_000);
    rig.end(peer);
    assert!(rig.peer(peer).gone);
    assert_eq!(rig.reason(peer), Some(CloseReason::HandlerClosed));
    rig.finish();
}

#[test]
fn a_message_and_the_end_of_input_at_once_is_answered() {
    let mut rig = Rig::new();
    let peer = rig.open();
    rig.kernel().arrive(peer, &text("last"));
    rig.end(peer);
    assert_eq!(rig.take_frames(peer), [(Opcode::Text, b"last".to_vec())]);
    assert_eq!(rig.reason(peer), Some(CloseReason::PeerEof));
    rig.finish();
}

#[test]
fn a_reset_ends_every_phase() {
    type Prepare = fn(&mut Rig) -> Peer;
    let cases: [(Prepare, CloseReason); 6] = [
        (|rig| rig.connect(), CloseReason::PeerReset),
        (|rig| rig.request("/later"), CloseReason::PeerReset),
        (Rig::open, CloseReason::PeerReset),
        (
            |rig| {
                let peer = rig.open();
                close_by_handler(rig, peer, 4_000);
                peer
            },
            CloseReason::HandlerClosed,
        ),
        (
            |rig| {
                let peer = rig.open();
                rig.arrive(peer, UNMASKED);
                peer
            },
            CloseReason::ProtocolError,
        ),
        (
            |rig| {
                let peer = rig.open();
                rig.peer(peer).room = 0;
                rig.arrive(peer, &close_frame(1000));
                peer
            },
            CloseReason::ClientClosed,
        ),
    ];
    for (at, (prepare, reason)) in cases.into_iter().enumerate() {
        let mut rig = Rig::new();
        let peer = prepare(&mut rig);
        rig.kernel().reset(peer);
        rig.settle();
        assert!(rig.peer(peer).gone, "case {at}");
        assert_eq!(rig.closed(reason), 1, "case {at}: not the reason noted before");
        rig.finish();
    }
}

#[test]
fn what_on_close_asks_for_is_done() {
    let mut rig = Rig::new();
    rig.reactor.handler.on_close = |conn, out| {
        // The others hear of it; the one that left does not.
        for slot in 0..3 {
            out.send(ConnId { slot, ..conn }, Kind::Text, b"left");
        }
    };
    let peers = rig.open_many(3);
    rig.end(peers[1]);
    for (peer, expected) in [(0, 1), (1, 0), (2, 1)] {
        assert_eq!(rig.take_frames(peers[peer]).len(), expected);
    }
    rig.finish();
}

/// Ways to end a connection at once, whatever the kernel holds of it.
#[derive(Debug, Clone, Copy)]
enum Cause {
    SlowConsumer,
    Reset,
    PollFailed,
    DrainOver,
    Violation,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Poll, receive, send and shutdown end in any order, with turns between them or not: the descriptor is freed after
    /// the last of them and once (the kernel of the test sees to that), and the handler is told once.
    #[test]
    fn every_order_of_final_completions_frees_the_slot_once(
        cause in prop_oneof![
            Just(Cause::SlowConsumer), Just(Cause::Reset), Just(Cause::PollFailed),
            Just(Cause::DrainOver), Just(Cause::Violation),
        ],
        receiving: bool,
        sending: bool,
        mut order: u64,
    ) {
        let mut rig = Rig::new();
        let peer = rig.open();
        let id = rig.id(peer);
        if sending {
            rig.peer(peer).room = 1;
            rig.arrive(peer, &text("stuck"));
        }
        rig.peer(peer).hold = true;
        if receiving {
            rig.peer(peer).hold_recv = true;
            rig.kernel().raise(peer);
            rig.settle();
            prop_assert_eq!(rig.counters().buffers_held.get(), 1);
        }
        match cause {
            Cause::SlowConsumer => rig.tell(move |out| {
                (0..2).for_each(|_| out.send(id, Kind::Binary, &[0; QUEUE_BYTES]));
            }),
            Cause::PollFailed => rig.kernel().end_poll(peer, -libc::ENOMEM),
            Cause::DrainOver => {
                rig.drain(1);
                rig.pass_ms(1_000);
            }
            // With a receive in the kernel these show in its completion.
            Cause::Reset if !receiving => rig.kernel().reset(peer),
            Cause::Violation if !receiving => rig.kernel().arrive(peer, UNMASKED),
            Cause::Reset | Cause::Violation => rig.kernel().end_poll(peer, -libc::ENOMEM),
        }
        rig.settle();
        while !rig.peer(peer).gone {
            let held = rig.peer(peer).held.len();
            if held == 0 {
                // A violator lingers until its side ends.
                rig.end(peer);
                rig.pass_ms(CLOSE_MS + LATE_MS);
                prop_assert!(rig.peer(peer).gone || !rig.peer(peer).held.is_empty(), "it hangs");
                continue;
            }
            if !receiving && draw(&mut order).is_multiple_of(3) {
                rig.end(peer);
                continue;
            }
            rig.kernel().let_go(peer, draw(&mut order) as usize % held);
            if draw(&mut order).is_multiple_of(2) {
                rig.settle();
            }
            if held == 1 {
                rig.settle();
            }
        }
        rig.settle();
        let closes = rig.reactor.handler.told.iter().filter(|told| matches!(told, Told::Close(..))).count();
        prop_assert_eq!(closes, 1);
        prop_assert_eq!(rig.counters().buffers_held.get(), 0);
        prop_assert_eq!(rig.counters().completions_stale.get(), 0);
        rig.finish();
    }
}
