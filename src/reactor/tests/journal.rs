//! What the log is told: what befell whom, within the allowance of a second, and never by waiting.

use super::*;
use crate::proto::close::Violation;
use crate::reactor::journal::{Desk, Event, Journal, Who};
use crossbeam_channel::Receiver;

impl Rig {
    /// With a journal that holds `room` events.
    fn keeping(per_second: Option<u32>, room: usize) -> (Rig, Receiver<Event>) {
        let mut rig = Rig::with(Options { events_per_second: per_second, ..options() });
        let (sender, events) = crossbeam_channel::bounded(room);
        rig.reactor.desk = Desk::new(Some(Journal { sender }), per_second);
        (rig, events)
    }

    fn who(&mut self, peer: Peer) -> Who {
        let conn = self.id(peer);
        Who { core: 0, conn, peer: kernel::address(peer), user: Some(format!("user {}", conn.slot)) }
    }

    /// Events kept from the log: too many in a second, and no room.
    fn untold(&self) -> (u64, u64) {
        (self.counters().events_suppressed.get(), self.counters().events_dropped.get())
    }
}

/// Ends an open connection, and says with which code and for which reason.
type Ending = (&'static str, fn(&mut Rig, Peer), Option<u16>, CloseReason);

const ENDINGS: [Ending; 9] = [
    (
        "the client closes",
        |rig, peer| rig.arrive(peer, &close_frame(4_321)),
        Some(4_321),
        CloseReason::ClientClosed,
    ),
    (
        "without a code",
        |rig, peer| rig.arrive(peer, &frame(Opcode::Close, b"")),
        None,
        CloseReason::ClientClosed,
    ),
    ("it ends its side", |rig, peer| rig.end(peer), None, CloseReason::PeerEof),
    (
        "it breaks a rule",
        |rig, peer| {
            rig.arrive(peer, b"\xff");
            rig.end(peer);
        },
        Some(1_002),
        CloseReason::ProtocolError,
    ),
    (
        "the handler closes",
        |rig, peer| {
            let id = rig.id(peer);
            rig.tell(move |out| out.close(id, 4_000, "bye"));
            rig.arrive(peer, &text("late").repeat(3)); // which does not count as activity
            rig.arrive(peer, &close_frame(4_000));
        },
        Some(4_000),
        CloseReason::HandlerClosed,
    ),
    (
        "the handler ends it",
        |rig, peer| {
            let id = rig.id(peer);
            rig.tell(move |out| out.end(id, CloseReason::TokenExpired));
            rig.arrive(peer, &close_frame(4_401));
        },
        Some(4_401),
        CloseReason::TokenExpired,
    ),
    (
        "it does not close in time",
        |rig, peer| {
            let id = rig.id(peer);
            rig.tell(move |out| out.end(id, CloseReason::TooManyErrors));
            rig.pass_ms(CLOSE_MS + LATE_MS);
        },
        Some(1_008),
        CloseReason::CloseTimeout,
    ),
    (
        "it does not answer",
        |rig, _| rig.pass_ms(2 * PING_MS + PONG_MS + LATE_MS),
        None,
        CloseReason::HeartbeatTimeout,
    ),
    (
        "the server stops",
        |rig, peer| {
            rig.drain(60_000);
            rig.settle();
            rig.arrive(peer, &close_frame(1_012));
        },
        Some(1_012),
        CloseReason::ServerShutdown,
    ),
];

#[test]
fn an_end_is_told_with_its_code_its_reason_and_how_long_it_took_to_come() {
    for (what, end, code, reason) in ENDINGS {
        let (mut rig, events) = Rig::keeping(None, 10);
        let peer = rig.open();
        let who = rig.who(peer);
        assert_eq!(events.try_recv(), Ok(Event::Connect { who: who.clone() }));
        let begun_ms = rig.now_ms();
        rig.pass_ms(7_000);
        end(&mut rig, peer);
        let lasted_ms = rig.now_ms() - begun_ms;
        let Some(Event::Disconnect { who: gone, code: told, reason: told_reason, duration_ms }) =
            events.try_iter().last()
        else {
            panic!("{what}: nothing is told");
        };
        assert_eq!((gone, told, told_reason), (who, code, reason), "{what}");
        assert!((7_000 - TICK_MS..=lasted_ms + TICK_MS).contains(&duration_ms), "{what}: {duration_ms} ms");
        assert_eq!(rig.untold(), (0, 0));
        if reason != CloseReason::ServerShutdown {
            rig.finish();
        }
    }
}

#[test]
fn who_was_never_open_is_not_told_of() {
    let (mut rig, events) = Rig::keeping(None, 10);
    let refused = rig.request("/refuse");
    let told_why = rig.request("/refuse-in-band");
    let broken = rig.connect();
    rig.arrive(broken, b"\0\r\n\r\n");
    rig.connect();
    rig.end(refused);
    rig.end(told_why);
    rig.pass_ms(HANDSHAKE_MS + LATE_MS);
    assert_eq!(events.try_iter().count(), 0);
    assert_eq!(rig.reactor.handler.names_asked, 0);
    rig.finish();
}

#[test]
fn a_rule_that_is_broken_is_named() {
    let (mut rig, events) = Rig::keeping(None, 10);
    let peer = rig.open();
    let who = rig.who(peer);
    rig.arrive(peer, b"\x81\x01a");
    rig.end(peer);
    let told: Vec<Event> = events.try_iter().skip(1).collect();
    assert_eq!(told[0], Event::Error { who, violation: Violation::Unmasked });
    assert!(matches!(told[1..], [Event::Disconnect { .. }]), "{told:?}");
    rig.finish();
}

#[test]
fn a_slow_consumer_is_told_of_before_it_is_cut() {
    let (mut rig, events) = Rig::keeping(None, 10);
    let peers = rig.open_many(2);
    let (by_limit, by_heartbeat) = (peers[0], peers[1]);
    let who = [rig.who(by_limit), rig.who(by_heartbeat)];
    rig.block(by_heartbeat);
    rig.peer(by_limit).room = 0;
    let id = rig.id(by_limit);
    // Of its first output so much has found the socket full; the limit is for what comes behind it.
    for size in [1_000, QUEUE_BYTES - 100, 200] {
        rig.tell(move |out| out.send(id, Kind::Binary, &vec![1; size]));
    }
    let told: Vec<Event> = events.try_iter().skip(2).collect();
    let owed_bytes = 1_004 + (QUEUE_BYTES - 100) + 10;
    assert_eq!(told[0], Event::SlowConsumer { who: who[0].clone(), action: "disconnect", owed_bytes });
    assert!(
        matches!(told[1..], [Event::Disconnect { reason: CloseReason::SlowConsumer, code: None, .. }]),
        "{told:?}"
    );
    rig.pass_ms(2 * PING_MS + PONG_MS + LATE_MS);
    let told: Vec<Event> = events.try_iter().collect();
    assert!(matches!(&told[0], Event::SlowConsumer { who: told, .. } if *told == who[1]), "{told:?}");
    rig.finish();
}

#[test]
fn a_handler_may_tell_of_a_slow_consumer_while_it_is_open() {
    let (mut rig, events) = Rig::keeping(None, 10);
    let peer = rig.open();
    let (id, who) = (rig.id(peer), rig.who(peer));
    rig.reactor.handler.on_close = |conn, out| out.report_slow(conn, "dropped", 79); // it is no longer open
    rig.tell(move |out| {
        out.report_slow(id, "dropped", 77);
        out.end(id, CloseReason::SlowConsumer);
    });
    rig.arrive(peer, &close_frame(1_013));
    rig.tell(move |out| out.report_slow(id, "dropped", 78)); // it has gone
    let told: Vec<Event> = events.try_iter().skip(1).collect();
    assert_eq!(told[0], Event::SlowConsumer { who, action: "dropped", owed_bytes: 77 });
    assert!(matches!(told[1..], [Event::Disconnect { code: Some(1_013), .. }]), "{told:?}");
    rig.finish();
}

#[test]
fn each_kind_has_an_allowance_of_its_own_anew_each_second() {
    let (mut rig, events) = Rig::keeping(Some(3), 100);
    let peers = rig.open_many(10);
    assert_eq!((events.len(), rig.untold()), (3, (7, 0)));
    assert_eq!(rig.reactor.handler.names_asked, 3, "who is not told of is not asked for");
    for peer in &peers[..5] {
        rig.end(*peer);
    }
    assert_eq!((events.try_iter().count(), rig.untold()), (6, (9, 0)));
    rig.pass_ms(1_000 + LATE_MS);
    for peer in &peers[5..] {
        rig.end(*peer);
    }
    assert_eq!((events.try_iter().count(), rig.untold()), (3, (11, 0)));
    rig.finish();
}

#[test]
fn an_allowance_of_nothing_is_no_journal() {
    let (mut rig, events) = Rig::keeping(Some(0), 100);
    let peers = rig.open_many(10);
    rig.end(peers[0]);
    assert_eq!((events.len(), rig.untold(), rig.reactor.handler.names_asked), (0, (0, 0), 0));
    rig.finish();
    let mut rig = Rig::new(); // all events, but nowhere to tell them
    let peer = rig.open();
    rig.end(peer);
    assert_eq!((rig.untold(), rig.reactor.handler.names_asked), ((0, 0), 0));
    rig.finish();
}

#[test]
fn a_log_that_does_not_keep_up_loses_events_and_they_are_counted() {
    let (mut rig, events) = Rig::keeping(None, 4);
    let peers = rig.open_many(10);
    assert_eq!((events.try_iter().count(), rig.untold()), (4, (0, 6)));
    rig.end(peers[0]);
    assert_eq!((events.len(), rig.untold()), (1, (0, 6)));
    drop(events);
    rig.end(peers[1]);
    assert_eq!(rig.untold(), (0, 7));
    rig.finish();
}
