//! Other options while connections are open: what was armed by the old ones is brought into line.

use super::timers::wait_for_ping;
use super::*;
use crate::ds::Timers;

const SHORT_MS: u64 = 2_000;

/// Has the core go by other options.
fn tune(rig: &mut Rig, options: Options) {
    let (done, is_done) = oneshot::channel();
    rig.mail.send(Control::Tune { options: Box::new(options), done }).unwrap();
    rig.waker.wake();
    rig.settle();
    is_done.try_recv().expect("in force when it settles");
}

fn without_heartbeat() -> Options {
    Options { ping_interval_ticks: None, ..options() }
}

#[test]
fn a_heartbeat_that_is_turned_on_reaches_who_is_idle_and_is_spread() {
    let mut rig = Rig::with(without_heartbeat());
    let peers = rig.open_many(1_000);
    rig.pass_ms(10 * PING_MS);
    tune(&mut rig, options());
    let (begun_ms, mut pinged) = (rig.now_ms(), 0);
    while pinged < peers.len() {
        rig.pass_ms(TICK_MS);
        let now: usize = peers.iter().map(|peer| rig.take_frames(*peer).len()).sum();
        assert!(now == 0 || rig.now_ms() - begun_ms >= PING_MS - LATE_MS, "not before an interval is over");
        assert!(now <= 30, "{now} at once, where ten is the average");
        pinged += now;
        assert!(rig.now_ms() - begun_ms <= 2 * PING_MS + LATE_MS, "{pinged} pinged within two intervals");
    }
    rig.finish();
}

#[test]
fn a_heartbeat_that_is_turned_off_neither_pings_nor_cuts() {
    let mut rig = Rig::new();
    let pinged = rig.open();
    wait_for_ping(&mut rig, pinged);
    let idle = rig.open();
    tune(&mut rig, without_heartbeat());
    assert_eq!(rig.reactor.wheel.next_in_ticks(), None);
    rig.pass_ms(10 * PING_MS);
    assert_eq!((rig.reason(pinged), rig.reason(idle)), (None, None));
    assert_eq!((rig.take(pinged), rig.take(idle)), (Vec::new(), Vec::new()));
    rig.finish();
}

#[test]
fn a_shorter_interval_is_that_of_connections_that_are_open() {
    let mut rig = Rig::new();
    let peer = rig.open();
    tune(&mut rig, Options { ping_interval_ticks: Some(ticks(SHORT_MS)), ..options() });
    rig.pass_ms(2 * SHORT_MS + LATE_MS);
    assert_eq!(rig.take_frames(peer).len(), 1, "a ping");
    rig.finish();
}

#[test]
fn who_was_pinged_has_the_whole_new_time_to_answer() {
    for new_ms in [SHORT_MS, 4 * PONG_MS] {
        let mut rig = Rig::new();
        let peer = rig.open();
        wait_for_ping(&mut rig, peer);
        rig.pass_ms(PONG_MS - LATE_MS);
        tune(&mut rig, Options { pong_timeout_ticks: ticks(new_ms), ..options() });
        rig.pass_ms(new_ms - LATE_MS);
        assert_eq!(rig.reason(peer), None, "{new_ms} ms");
        rig.pass_ms(2 * LATE_MS);
        assert_eq!(rig.reason(peer), Some(CloseReason::HeartbeatTimeout), "{new_ms} ms");
        rig.finish();
    }
}

/// A million that were allowed to be silent are not closed in one moment, to come back in one.
#[test]
fn those_idle_for_too_long_by_a_new_timeout_are_closed_one_after_another() {
    const IDLE: usize = 40;
    let mut rig = Rig::with(without_heartbeat());
    let idle: Vec<_> = (0..IDLE).map(|_| rig.open()).collect();
    let talker = rig.open();
    rig.pass_ms(60_000);
    rig.arrive(talker, &text("here"));
    rig.take(talker);
    tune(&mut rig, Options { idle_timeout_ticks: Some(ticks(30_000)), ..without_heartbeat() });
    let mut closed = Vec::new();
    for _ in 0..10 {
        rig.pass_ms(3_000 - TICK_MS);
        closed.push(idle.iter().filter(|peer| rig.take_frames(**peer) == [closing(1001)]).count());
    }
    assert!(closed.iter().all(|count| *count <= IDLE / 2), "{closed:?}");
    assert_eq!(rig.take_frames(talker), [], "from the last message on");
    rig.pass_ms(LATE_MS + 10 * TICK_MS);
    let last = idle.iter().filter(|peer| rig.take_frames(**peer) == [closing(1001)]).count();
    assert_eq!(closed.iter().sum::<usize>() + last, IDLE, "{closed:?}");
    assert_eq!(rig.take_frames(talker), [closing(1001)]);
    rig.finish();
}

#[test]
fn a_message_under_way_is_held_to_a_shorter_deadline() {
    let mut rig = Rig::with(without_heartbeat());
    let peer = rig.open();
    rig.arrive(peer, &text("slow")[..3]);
    tune(&mut rig, Options { message_deadline_ticks: ticks(SHORT_MS), ..without_heartbeat() });
    rig.pass_ms(SHORT_MS + LATE_MS);
    assert_eq!(rig.take_frames(peer), [closing(1008)]);
    rig.finish();
}

#[test]
fn who_is_held_has_no_deadlines_either() {
    let mut rig = Rig::with(without_heartbeat());
    let peer = rig.open();
    let id = rig.id(peer);
    rig.tell(move |out| out.hold(id));
    tune(&mut rig, Options { ping_interval_ticks: Some(ticks(SHORT_MS)), ..options() });
    assert_eq!(rig.reactor.wheel.next_in_ticks(), None);
    rig.tell(move |out| out.resume(id));
    rig.pass_ms(2 * SHORT_MS + LATE_MS);
    assert_eq!(rig.take_frames(peer).len(), 1, "a ping");
    rig.finish();
}

#[test]
fn limits_are_new_and_what_the_core_was_made_with_is_not() {
    let mut rig = Rig::new();
    let peer = rig.open();
    let limits = Limits { message_bytes_max: 3, fragments_max: 64 };
    tune(&mut rig, Options { connections_max: 1, limits, ..options() });
    rig.arrive(peer, &text("four"));
    assert_eq!(rig.take_frames(peer), [closing(1009)]);
    rig.open_many(10);
    rig.finish();
}

#[test]
fn a_walk_over_many_is_in_steps_and_a_second_one_begins_anew() {
    let connections = 5_000;
    let mut rig = Rig::with(Options { connections_max: connections, ..without_heartbeat() });
    let peers = rig.open_many(connections as usize);
    let (dones, are_done): (Vec<_>, Vec<_>) = (0..2).map(|_| oneshot::channel()).unzip();
    for done in dones {
        assert!(are_done.iter().all(|is_done| is_done.try_recv().is_err()), "one turn is one step");
        rig.mail.send(Control::Tune { options: Box::new(options()), done }).unwrap();
        rig.waker.wake();
        rig.turn();
    }
    rig.settle();
    assert!(are_done.iter().all(|is_done| is_done.try_recv().is_ok()));
    assert!(peers.into_iter().all(|peer| {
        let id = rig.id(peer);
        rig.reactor.conns.timer(id.slot).deadline().is_some()
    }));
    rig.finish();
}
