//! Deadlines in virtual time: heartbeat, idleness, unfinished messages. The reactor must wake by itself for each.

use super::super::timers::LOOK_AGAIN_MS;
use super::*;
use std::collections::HashMap;

const IDLE_MS: u64 = 60_000;

/// Advances a second at a time and answers pings; the number answered.
fn pass_answering(rig: &mut Rig, peer: Peer, seconds: u64) -> usize {
    let mut pings = 0;
    for _ in 0..seconds {
        rig.pass_ms(1_000);
        for (opcode, payload) in rig.take_frames(peer) {
            if opcode == Opcode::Ping {
                rig.arrive(peer, &frame(Opcode::Pong, &payload));
                pings += 1;
            }
        }
    }
    pings
}

/// Lets time pass until a ping comes; its body.
pub(super) fn wait_for_ping(rig: &mut Rig, peer: Peer) -> Vec<u8> {
    let begun_ms = rig.now_ms();
    while rig.peer(peer).output.is_empty() {
        assert!(rig.now_ms() - begun_ms <= 2 * PING_MS + LATE_MS, "no ping");
        rig.pass_ms(TICK_MS);
    }
    let mut frames = rig.take_frames(peer);
    assert_eq!(frames.len(), 1, "{frames:?}");
    let (opcode, body) = frames.remove(0);
    assert_eq!(opcode, Opcode::Ping);
    body
}

#[test]
fn connections_opened_together_are_not_pinged_together() {
    let mut rig = Rig::new();
    let peers = rig.open_many(1_000);
    let begun_ms = rig.now_ms();
    let mut most_at_once = 0;
    let mut pinged = 0;
    while pinged < peers.len() {
        rig.pass_ms(TICK_MS);
        let now: usize = peers.iter().map(|peer| rig.take_frames(*peer).len()).sum();
        if now > 0 {
            assert!(
                rig.now_ms() - begun_ms >= PING_MS / 2 - TICK_MS,
                "not in the first half of the interval"
            );
        }
        most_at_once = most_at_once.max(now);
        pinged += now;
        assert!(rig.now_ms() - begun_ms <= 2 * PING_MS + LATE_MS, "{pinged} pinged within two intervals");
    }
    // Ten a batch on average; three times as many would be a burst.
    assert!(most_at_once <= 30, "{most_at_once} in one batch");
    assert_eq!(rig.counters().pings_sent.get(), 1_000);
    rig.finish();
}

#[test]
fn who_answers_pings_stays() {
    let mut rig = Rig::new();
    let peer = rig.open();
    let pings = pass_answering(&mut rig, peer, 600);
    assert!((600 / 25 - 2..=600 / 25).contains(&pings), "{pings} pings in ten minutes");
    assert_eq!(rig.reason(peer), None);
    rig.finish();
}

#[test]
fn any_byte_is_an_answer_to_a_ping() {
    let mut rig = Rig::new();
    let peer = rig.open();
    wait_for_ping(&mut rig, peer);
    rig.arrive(peer, &text("busy")[..3]);
    rig.pass_ms(PONG_MS + LATE_MS);
    assert_eq!(rig.reason(peer), None);
    rig.finish();
}

#[test]
fn who_does_not_answer_is_cut_without_a_frame() {
    let mut rig = Rig::new();
    let peer = rig.open();
    wait_for_ping(&mut rig, peer);
    rig.pass_ms(PONG_MS - LATE_MS);
    assert_eq!(rig.reason(peer), None);
    rig.pass_ms(2 * LATE_MS);
    assert!(rig.peer(peer).gone);
    assert_eq!(rig.reason(peer), Some(CloseReason::HeartbeatTimeout));
    assert_eq!(rig.take(peer), b"");
    rig.finish();
}

#[test]
fn who_speaks_within_the_interval_is_not_pinged() {
    let mut rig = Rig::new();
    let peer = rig.open();
    for _ in 0..20 {
        rig.pass_ms(PING_MS / 2 - LATE_MS);
        rig.arrive(peer, &text("here"));
        assert_eq!(rig.take_frames(peer), [(Opcode::Text, b"here".to_vec())]);
    }
    assert_eq!(rig.counters().pings_sent.get(), 0);
    // Then it falls silent, and is pinged within two intervals.
    rig.pass_ms(2 * PING_MS);
    assert_eq!(rig.counters().pings_sent.get(), 1);
    rig.finish();
}

#[test]
fn without_a_heartbeat_an_idle_connection_has_no_timer() {
    let mut rig = Rig::with(Options { ping_interval_ticks: None, ..options() });
    let peer = rig.open();
    assert_eq!(rig.reactor.wheel.next_in_ticks(), None);
    rig.pass_ms(10 * PING_MS);
    assert_eq!((rig.take(peer), rig.reason(peer)), (Vec::new(), None));
    rig.finish();
}

#[test]
fn who_is_paused_and_makes_no_progress_is_slow_rather_than_gone() {
    let mut rig = Rig::new();
    let peer = rig.open();
    rig.block(peer);
    rig.pass_ms(2 * PING_MS + PONG_MS + LATE_MS);
    assert_eq!(rig.reason(peer), Some(CloseReason::SlowConsumer));
    rig.finish();
}

#[test]
fn who_has_said_all_and_does_not_read_the_answer_is_slow_too() {
    let mut rig = Rig::new();
    let peer = rig.open();
    rig.peer(peer).room = 0;
    rig.arrive(peer, &text("no pong comes before this is read"));
    rig.pass_ms(2 * PING_MS + PONG_MS + LATE_MS);
    assert_eq!(rig.reason(peer), Some(CloseReason::SlowConsumer));
    rig.finish();
}

#[test]
fn who_is_paused_inside_a_message_has_the_whole_time_for_the_rest() {
    let idle_ms = 2 * MESSAGE_MS;
    let mut rig = Rig::with(Options { idle_timeout_ticks: Some(ticks(idle_ms)), ..options() });
    let peer = rig.open();
    rig.peer(peer).ends_short = true;
    let message = frame(Opcode::Binary, &[5; 8_000]);
    rig.block(peer);
    rig.take(peer);
    rig.kernel().arrive(peer, &message[..4_000]);
    // It reads, but so slowly that for a long time nothing is read from it.
    for _ in 0..2 * idle_ms / 1_000 {
        rig.pass_ms(1_000);
        rig.kernel().give_room(peer, 10);
    }
    assert_eq!(rig.reason(peer), None);
    rig.kernel().give_room(peer, usize::MAX);
    rig.pass_ms(MESSAGE_MS - LATE_MS);
    rig.arrive(peer, &message[4_000..]);
    assert_eq!(rig.reason(peer), None);
    assert_eq!(rig.take_frames(peer).last(), Some(&(Opcode::Binary, vec![5; 8_000])));
    // It is watched again.
    rig.arrive(peer, &message[..4_000]);
    rig.pass_ms(MESSAGE_MS + CLOSE_MS + 2 * LATE_MS);
    assert_eq!(rig.reason(peer), Some(CloseReason::MessageDeadline));
    rig.finish();
}

#[test]
fn who_reads_slowly_but_reads_is_not_cut_by_the_heartbeat() {
    let mut rig = Rig::new();
    let peer = rig.open();
    rig.peer(peer).ends_short = true;
    rig.block(peer);
    for _ in 0..120 {
        rig.pass_ms(1_000);
        rig.kernel().give_room(peer, 100);
    }
    assert_eq!(rig.reason(peer), None);
    rig.finish();
}

#[test]
fn idleness_is_the_absence_of_messages_and_gets_a_close() {
    let mut rig = Rig::with(Options { idle_timeout_ticks: Some(ticks(IDLE_MS)), ..options() });
    let peer = rig.open();
    pass_answering(&mut rig, peer, IDLE_MS / 1_000 - 5);
    rig.arrive(peer, &text("not idle"));
    rig.take(peer);
    // Pings and pongs are no messages.
    let spoke_ms = rig.now_ms();
    let mut closes = Vec::new();
    while closes.is_empty() {
        rig.pass_ms(500);
        rig.arrive(peer, &frame(Opcode::Ping, b""));
        closes = rig.take_frames(peer);
        closes.retain(|(opcode, _)| *opcode == Opcode::Close);
        assert!(rig.now_ms() - spoke_ms <= IDLE_MS + 500 + LATE_MS);
    }
    assert!(rig.now_ms() - spoke_ms >= IDLE_MS - TICK_MS);
    assert_eq!(closes, [closing(1001)]);
    rig.arrive(peer, &close_frame(1001));
    assert_eq!(rig.reason(peer), Some(CloseReason::IdleTimeout));
    rig.finish();
}

/// Sends `first`, then `drip` every second, until the server closes; the seconds that took.
fn seconds_until_deadline(first: &[u8], drip: &[u8]) -> u64 {
    let mut rig = Rig::new();
    let peer = rig.open();
    rig.arrive(peer, first);
    let begun_ms = rig.now_ms();
    loop {
        rig.pass_ms(1_000);
        if rig.take_frames(peer).contains(&closing(1008)) {
            break;
        }
        rig.arrive(peer, drip);
        assert!(rig.now_ms() - begun_ms < 3 * MESSAGE_MS, "no deadline");
    }
    let seconds = (rig.now_ms() - begun_ms) / 1_000;
    rig.end(peer);
    assert_eq!(rig.reason(peer), Some(CloseReason::MessageDeadline));
    rig.finish();
    seconds
}

#[test]
fn a_message_has_its_deadline_from_its_first_byte_however_it_drips() {
    let mut start = frame(Opcode::Binary, &[0; 200]);
    start.truncate(20);
    let mut large = frame(Opcode::Binary, &[0; 60_000]);
    large.truncate(30_000);
    let mut fragment = text("a");
    fragment[0] &= 0x7F; // without FIN
    let mut more = frame(Opcode::Continuation, b"b");
    more[0] &= 0x7F;
    let ping = frame(Opcode::Ping, b"");
    let header = b"\x82";
    for (case, first, drip) in [
        ("byte by byte", &start[..], &b"x"[..]),
        ("half a large one", &large, b"x"),
        ("in fragments", &fragment, &more),
        ("with pings between", &fragment, &ping),
        ("only a header's first byte", header, b""),
    ] {
        let seconds = seconds_until_deadline(first, drip);
        assert!((30..=31).contains(&seconds), "{case}: {seconds} s");
    }
}

#[test]
fn each_message_has_its_own_deadline() {
    // A receive never ends between two messages, yet each of them is soon complete.
    let mut rig = Rig::new();
    let peer = rig.open();
    let message = text("soon complete");
    rig.arrive(peer, &message[..4]);
    for _ in 0..60 {
        rig.pass_ms(1_000);
        rig.arrive(peer, &[&message[4..], &message[..4]].concat());
    }
    assert_eq!(rig.reason(peer), None);
    assert_eq!(rig.messages(peer).len(), 60);
    rig.finish();
}

#[test]
fn each_ping_in_pieces_has_its_own_deadline() {
    let mut rig = Rig::new();
    let peer = rig.open();
    let ping = frame(Opcode::Ping, b"soon complete");
    rig.arrive(peer, &ping[..4]);
    for second in 0..60 {
        rig.pass_ms(1_000);
        rig.arrive(peer, &[&ping[4..], &ping[..4]].concat());
        let pong = (Opcode::Pong, b"soon complete".to_vec());
        assert_eq!(rig.take_frames(peer).last(), Some(&pong), "after {second} s");
    }
    assert_eq!(rig.reason(peer), None);
    rig.finish();
}

#[test]
fn the_message_deadline_does_not_shorten_the_close_deadline() {
    let mut rig = Rig::with(Options { message_deadline_ticks: ticks(1_000), ..options() });
    let peer = rig.open();
    let id = rig.id(peer);
    rig.tell(move |out| out.close(id, 4_000, ""));
    rig.arrive(peer, &text("begun")[..4]);
    rig.pass_ms(CLOSE_MS - LATE_MS);
    assert_eq!(rig.reason(peer), None);
    rig.arrive(peer, &[&text("begun")[4..], &close_frame(4_000)].concat());
    assert_eq!(rig.reason(peer), Some(CloseReason::HandlerClosed));
    rig.finish();
}

#[test]
fn a_parked_core_wakes_for_each_deadline() {
    let mut rig = Rig::new();
    let mut begun_ms = Vec::new();
    for _ in 0..20 {
        rig.pass_ms(133);
        rig.connect();
        begun_ms.push(rig.now_ms());
    }
    // Nothing else happens for a minute, so nothing else wakes it.
    rig.pass_ms(60_000);
    for (peer, begun_ms) in begun_ms.into_iter().enumerate() {
        let lived_ms = rig.peer(peer).gone_us / 1_000 - begun_ms;
        let deadline_ms = HANDSHAKE_MS - TICK_MS..=HANDSHAKE_MS + LATE_MS;
        assert!(deadline_ms.contains(&lived_ms), "{lived_ms} ms of silence");
    }
    rig.finish();
}

#[test]
fn the_handler_is_called_about_once_a_second() {
    let mut rig = Rig::new();
    rig.pass_ms(60_000);
    let ticks_ms = &rig.reactor.handler.ticks_ms;
    assert!((55..=61).contains(&ticks_ms.len()), "{} in a minute", ticks_ms.len());
    assert!(ticks_ms.windows(2).all(|pair| (1_000..=1_000 + LATE_MS).contains(&(pair[1] - pair[0]))));
    rig.finish();
}

#[test]
fn a_core_that_slept_through_many_deadlines_keeps_them_all() {
    let mut rig = Rig::new();
    let peers = rig.open_many(50);
    let silent = rig.connect();
    // A machine that was suspended: the clock jumps by far more than the wheel's horizon.
    rig.kernel().now_us += 600_000_000;
    rig.settle();
    assert!(rig.peer(silent).gone);
    assert_eq!(rig.counters().pings_sent.get(), 50);
    for peer in peers {
        assert!(matches!(rig.take_frames(peer)[..], [(Opcode::Ping, _)]));
        assert_eq!(rig.reason(peer), None, "it has not had time to answer");
    }
    rig.finish();
}

#[test]
fn a_core_that_is_behind_accuses_nobody() {
    let mut rig = Rig::new();
    let peers = rig.open_many(40);
    let begun_ms = rig.now_ms();
    while rig.counters().pings_sent.get() < 40 {
        assert!(rig.now_ms() - begun_ms <= 2 * PING_MS + LATE_MS, "no ping");
        rig.pass_ms(TICK_MS);
        for peer in &peers {
            if rig.reactor.counters.pings_sent.get() < 40 && !rig.take_frames(*peer).is_empty() {
                rig.arrive(*peer, &frame(Opcode::Pong, b""));
            }
        }
    }
    // The last one pinged answers in time, but the core does nothing until its deadline has passed.
    for peer in &peers {
        rig.kernel().arrive(*peer, &frame(Opcode::Pong, b""));
    }
    rig.kernel().now_us += (PONG_MS + LATE_MS) * 1000;
    rig.settle();
    assert_eq!(rig.closed(CloseReason::HeartbeatTimeout), 0);
    assert_eq!(rig.counters().connections_open.get(), 40);
    rig.finish();
}

#[test]
fn those_who_send_without_end_delay_no_deadline_of_others() {
    let mut rig = Rig::new();
    let (flooders, gone) = (rig.open_many(20), rig.open());
    flooders.iter().for_each(|flooder| rig.peer(*flooder).recv_max = 64);
    let (silent, begun_ms) = (rig.connect(), rig.now_ms());
    let lived_ms = |rig: &mut Rig, peer: Peer| (rig.peer(peer).gone_us / 1_000).saturating_sub(begun_ms);
    while !rig.peer(gone).gone {
        assert!(rig.now_ms() - begun_ms <= 3 * PING_MS, "no end of one who does not answer");
        for flooder in &flooders {
            if rig.peer(*flooder).input.len() < 1_000 {
                rig.kernel().arrive(*flooder, &text("more").repeat(2_000));
            }
        }
        rig.kernel().now_us += 5_000;
        rig.turn();
        flooders.iter().for_each(|flooder| drop(rig.take(*flooder)));
    }
    // A deadline that fires in the tick in which it is due is looked at once more.
    let late_ms = LATE_MS + LOOK_AGAIN_MS;
    let silence_ms = lived_ms(&mut rig, silent);
    assert!(silence_ms <= HANDSHAKE_MS + late_ms, "{silence_ms} ms of silence");
    let unanswered_ms = lived_ms(&mut rig, gone);
    assert!(unanswered_ms <= 2 * PING_MS + PONG_MS + 2 * late_ms, "{unanswered_ms} ms without an answer");
    rig.finish();
}

#[test]
fn pings_give_way_to_messages_once() {
    let mut rig = Rig::new();
    let peers = rig.open_many(30); // each is due at a random point of its second interval
    rig.reactor.handler.on_turn = |_| Work::Now;
    let start_ms = rig.now_ms();
    let mut pinged_ms = HashMap::new();
    while rig.now_ms() < start_ms + 3 * PING_MS + 4 * LATE_MS {
        rig.kernel().now_us += 50_000;
        rig.turn();
        for peer in &peers {
            if !rig.take(*peer).is_empty() {
                let now_ms = rig.now_ms();
                pinged_ms.entry(*peer).or_insert(now_ms - start_ms);
            }
        }
    }
    assert_eq!(
        pinged_ms.len(),
        peers.len(),
        "messages without end, and nobody is asked whether it is still there"
    );
    let third = 2 * PING_MS - 4 * LATE_MS..;
    assert!(pinged_ms.values().all(|ms| third.contains(ms)), "a ping before messages: {pinged_ms:?}");
    rig.reactor.handler.on_turn = |_| Work::None;
    rig.finish();
}
