//! Memory is short: who is refused, who is closed, who is left alone, and that all of it ends with the pressure.

use super::*;
use crate::reactor::Pressure::{self, Calm, FarOver, Near, Over};

/// Any idle connection has been looked at in this time.
const LOOK_MS: u64 = 2 * PING_MS + LATE_MS;

/// A server's ping begins with this, and has so many bytes.
const PING: &[u8] = b"\x89\x04";
const PING_BYTES: usize = 6;
/// A server's Close with 1013.
const TRY_AGAIN_LATER: &[u8] = b"\x88\x02\x03\xf5";

impl Rig {
    fn press(&mut self, pressure: Pressure) {
        self.reactor.pressure.set(pressure);
    }

    /// Lets time pass in which pings are answered, and each of `talkers` sends a message a second.
    fn pass_alive(&mut self, ms: u64, talkers: &[Peer]) {
        for _ in 0..ms.div_ceil(1_000) {
            self.pass_ms(1_000);
            for peer in 0..self.kernel().sockets.len() {
                let last = self.peer(peer).output.rchunks(PING_BYTES).next();
                if last.is_some_and(|last| last.starts_with(PING)) {
                    self.take(peer);
                    self.arrive(peer, &frame(Opcode::Pong, b""));
                }
            }
            talkers.iter().for_each(|peer| self.arrive(*peer, &text("busy")));
        }
    }

    /// So many of these have been sent a Close with 1013.
    fn told_to_go(&mut self, peers: &[Peer]) -> usize {
        peers.iter().filter(|peer| self.peer(**peer).output.ends_with(TRY_AGAIN_LATER)).count()
    }
}

#[test]
fn newcomers_are_refused_until_memory_suffices() {
    let mut rig = Rig::new();
    let inside = rig.open();
    for pressure in [Near, Over, FarOver] {
        rig.press(pressure);
        let newcomer = rig.request("/echo");
        let refusal = String::from_utf8(rig.take(newcomer)).unwrap();
        assert!(refusal.starts_with("HTTP/1.1 503 ") && refusal.contains("\r\nRetry-After: "), "{refusal}");
        assert!(rig.peer(newcomer).fin);
        let in_band = rig.request("/refuse-in-band");
        assert!(rig.take(in_band).ends_with(TRY_AGAIN_LATER), "1013 under {pressure:?}");
        rig.arrive(inside, &text("still here"));
        assert_eq!(rig.take_frames(inside), [(Opcode::Text, b"still here".to_vec())]);
    }
    rig.press(Calm);
    rig.open();
    rig.finish();
}

#[test]
fn idle_connections_are_closed_as_their_timers_fire_and_others_are_not() {
    let mut rig = Rig::new();
    let idle = rig.open_many(50);
    let (talker, writer) = (rig.open(), rig.open());
    rig.press(Near);
    rig.pass_alive(LOOK_MS, &[talker]);
    assert_eq!(rig.counters().connections_open.get(), 52, "near, nobody is closed");

    // One message is under way and has its own deadline.
    rig.arrive(writer, &text("begun")[..3]);
    rig.take(talker);
    rig.press(Over);
    let mut closed_at_once = 0;
    for _ in 0..LOOK_MS / 5_000 + 1 {
        let before = rig.told_to_go(&idle);
        rig.pass_alive(5_000, &[talker]);
        closed_at_once = closed_at_once.max(rig.told_to_go(&idle) - before);
    }
    assert_eq!(rig.told_to_go(&idle), 50);
    assert!(closed_at_once <= 40, "{closed_at_once} of 50 in five seconds: timers spread them, at random");
    assert_eq!(rig.reason(talker), None);
    assert!(rig.messages(talker).len() > 10);
    assert_ne!(rig.reason(writer), Some(CloseReason::Shed));
    for peer in idle {
        assert_eq!(rig.reason(peer), Some(CloseReason::Shed), "whether it answers or not");
    }
    rig.finish();
}

#[test]
fn closing_ends_with_the_pressure() {
    let mut rig = Rig::new();
    let idle = rig.open_many(100);
    rig.press(Over);
    // The first timers fire between one and two intervals after the upgrade.
    rig.pass_ms(PING_MS + PING_MS / 2);
    let closed = rig.told_to_go(&idle);
    assert!((20..=80).contains(&closed), "{closed} of a hundred, half way");
    rig.press(Near);
    rig.pass_alive(LOOK_MS, &[]);
    assert_eq!(rig.told_to_go(&idle), closed);
    rig.finish();
}

#[test]
fn who_was_shed_and_answers_leaves_in_order() {
    let mut rig = Rig::new();
    let peer = rig.open();
    rig.press(Over);
    while rig.peer(peer).output.is_empty() {
        rig.pass_ms(TICK_MS);
    }
    assert_eq!(rig.take_frames(peer), [closing(1013)]);
    rig.arrive(peer, &close_frame(1013));
    assert!(rig.peer(peer).gone);
    assert_eq!((rig.reason(peer), rig.closed(CloseReason::Shed)), (Some(CloseReason::Shed), 1));
    rig.finish();
}

#[test]
fn who_reads_too_slowly_is_cut_last() {
    let mut rig = Rig::new();
    let (slow, talker) = (rig.open(), rig.open());
    rig.peer(slow).ends_short = true;
    rig.block(slow);
    // It reads as much as keeps a heartbeat from cutting it.
    for (pressure, ended) in [(Over, None), (FarOver, Some(CloseReason::SlowConsumer))] {
        rig.press(pressure);
        for _ in 0..2 * LOOK_MS / 1_000 {
            rig.pass_alive(1_000, &[talker]);
            rig.kernel().give_room(slow, 100);
        }
        assert_eq!((rig.reason(slow), rig.reason(talker)), (ended, None), "{pressure:?}");
    }
    rig.finish();
}

#[test]
fn a_core_that_is_behind_sheds_nobody_whose_message_it_may_not_have_read() {
    let mut rig = Rig::new();
    let (late, others) = (rig.open(), rig.open_many(40));
    rig.press(Over);
    for peer in &others {
        rig.kernel().arrive(*peer, &text("in time"));
    }
    // Its message has come too, but the kernel tells of so many others first.
    rig.peer(late).input.extend(text("in time"));
    rig.kernel().now_us += LOOK_MS * 1000;
    rig.turn();
    rig.kernel().raise(late);
    rig.settle();
    assert_eq!(rig.messages(late), [b"in time"]);
    assert_eq!((rig.told_to_go(&[late]), rig.told_to_go(&others)), (0, 0));
    rig.finish();
}

#[test]
fn without_timers_nobody_is_closed() {
    let mut rig = Rig::with(Options { ping_interval_ticks: None, ..options() });
    let peer = rig.open();
    rig.press(FarOver);
    rig.pass_ms(10 * PING_MS);
    assert_eq!((rig.take(peer), rig.reason(peer)), (Vec::new(), None));
    rig.finish();
}
