//! Connections that their handler holds: nothing more is read, nothing is lost, nobody is accused of what it could not
//! be heard saying.

use super::*;

fn hold(rig: &mut Rig, peer: Peer) {
    let id = rig.id(peer);
    rig.tell(move |out| out.hold(id));
}

fn resume(rig: &mut Rig, peer: Peer) {
    let id = rig.id(peer);
    rig.tell(move |out| out.resume(id));
}

#[test]
fn what_is_received_already_is_handed_over_and_the_rest_stays_in_the_socket() {
    let mut rig = Rig::new();
    rig.reactor.handler.on_message = |conn, message, out| {
        if message.payload() == b"hold" {
            out.hold(conn);
        }
    };
    let peer = rig.open();
    rig.arrive(peer, &[text("hold"), text("with it")].concat());
    assert_eq!(rig.messages(peer), [&b"hold"[..], b"with it"]);
    rig.arrive(peer, &text("later"));
    rig.arrive(peer, &text("last"));
    assert_eq!(rig.messages(peer).len(), 2);
    assert_eq!(rig.counters().buffers_held.get(), 0, "it owns no buffer");
    resume(&mut rig, peer);
    assert_eq!(rig.messages(peer)[2..], [&b"later"[..], b"last"]);
    rig.finish();
}

#[test]
fn a_resume_without_input_waits_for_some_and_one_too_many_does_nothing() {
    let mut rig = Rig::new();
    let peer = rig.open();
    resume(&mut rig, peer);
    hold(&mut rig, peer);
    resume(&mut rig, peer);
    let recvs = rig.peer(peer).recvs;
    resume(&mut rig, peer);
    assert_eq!(rig.peer(peer).recvs, recvs);
    rig.arrive(peer, &text("x"));
    assert_eq!(rig.messages(peer), [b"x"]);
    rig.finish();
}

#[test]
fn a_held_connection_gets_its_output() {
    let mut rig = Rig::new();
    let peer = rig.open();
    hold(&mut rig, peer);
    let id = rig.id(peer);
    rig.peer(peer).room = 2;
    rig.tell(move |out| out.send(id, Kind::Text, b"x"));
    rig.arrive(peer, &text("unread"));
    rig.kernel().give_room(peer, usize::MAX);
    rig.settle();
    assert_eq!(rig.take_frames(peer), [(Opcode::Text, b"x".to_vec())]);
    assert_eq!(rig.messages(peer).len(), 0, "room for output is no reason to read");
    resume(&mut rig, peer);
    rig.finish();
}

#[test]
fn the_heartbeat_does_not_accuse_whom_nobody_hears() {
    let mut rig = Rig::new();
    let peer = rig.open();
    // Held just after a ping: the pong lies in the socket.
    while rig.take_frames(peer).is_empty() {
        rig.pass_ms(TICK_MS);
    }
    hold(&mut rig, peer);
    rig.arrive(peer, &frame(Opcode::Pong, b""));
    rig.pass_ms(10 * PING_MS);
    assert_eq!((rig.reason(peer), rig.take_frames(peer).len()), (None, 0));
    resume(&mut rig, peer);
    rig.pass_ms(2 * LATE_MS);
    assert_eq!(rig.reason(peer), None);
    // Read again, it is watched again.
    rig.pass_ms(2 * PING_MS + PONG_MS + LATE_MS);
    assert_eq!(rig.reason(peer), Some(CloseReason::HeartbeatTimeout));
    rig.finish();
}

#[test]
fn one_that_is_held_must_take_what_it_is_sent() {
    let mut rig = Rig::new();
    let peer = rig.open();
    hold(&mut rig, peer);
    rig.pass_ms(10 * PING_MS); // its timer has fired
    rig.peer(peer).room = 0;
    let id = rig.id(peer);
    rig.tell(move |out| out.send(id, Kind::Text, b"x"));
    rig.pass_ms(PONG_MS - LATE_MS);
    assert_eq!(rig.reason(peer), None);
    rig.pass_ms(2 * PING_MS + PONG_MS + LATE_MS);
    assert_eq!(rig.reason(peer), Some(CloseReason::SlowConsumer));
    rig.finish();
}

#[test]
fn a_deadline_between_two_sends_to_one_that_is_held_is_not_lost() {
    let mut rig = Rig::new();
    let peer = rig.open();
    let id = rig.id(peer);
    hold(&mut rig, peer);
    rig.peer(peer).room = 0;
    rig.tell(move |out| out.send(id, Kind::Text, b"in flight"));
    rig.tell(move |out| out.send(id, Kind::Text, b"behind it"));
    let due_ticks = rig.reactor.wheel.next_in_ticks().expect("it must take what it is sent");
    rig.pass_ms((u64::from(due_ticks) - 2) * TICK_MS);
    rig.kernel().now_us += 4 * TICK_MS * 1_000;
    rig.kernel().give_room(peer, 2 + "in flight".len());
    rig.turn(); // the first send ends, and the timer fires
    rig.settle();
    assert_eq!(rig.reason(peer), None, "it has read something");
    rig.pass_ms(2 * PING_MS + PONG_MS + LATE_MS);
    assert_eq!(rig.reason(peer), Some(CloseReason::SlowConsumer));
    rig.finish();
}

#[test]
fn an_unanswered_ping_is_due_anew_after_a_hold() {
    let mut rig = Rig::new();
    let peer = rig.open();
    while rig.take_frames(peer).is_empty() {
        rig.pass_ms(TICK_MS);
    }
    hold(&mut rig, peer);
    rig.pass_ms(PONG_MS - LATE_MS);
    resume(&mut rig, peer);
    rig.pass_ms(PONG_MS - LATE_MS);
    assert_eq!(rig.reason(peer), None);
    rig.pass_ms(2 * LATE_MS);
    assert_eq!(rig.reason(peer), Some(CloseReason::HeartbeatTimeout));
    rig.finish();
}

#[test]
fn a_message_that_could_not_be_read_on_and_an_idle_time_begin_anew() {
    let idle_ms = 60_000;
    let mut rig = Rig::with(Options { idle_timeout_ticks: Some(ticks(idle_ms)), ..options() });
    let (begun, idle) = (rig.open(), rig.open());
    rig.arrive(begun, &text("slow")[..3]);
    for peer in [begun, idle] {
        hold(&mut rig, peer);
    }
    rig.arrive(begun, &text("slow")[3..]);
    rig.pass_ms(2 * idle_ms);
    for peer in [begun, idle] {
        resume(&mut rig, peer);
    }
    assert_eq!(rig.messages(begun), [b"slow"]);
    rig.arrive(begun, &text("slow")[..3]);
    rig.pass_ms(MESSAGE_MS - LATE_MS);
    assert_eq!((rig.reason(begun), rig.reason(idle)), (None, None));
    rig.take(begun);
    rig.pass_ms(2 * LATE_MS);
    assert_eq!(rig.take_frames(begun), [closing(1008)]);
    rig.finish();
}

#[test]
fn whoever_is_closed_is_read_again_for_its_answer() {
    let endings: [fn(&mut Outbox<Order>, ConnId); 2] =
        [|out, id| out.close(id, 4_000, ""), |out, id| out.end(id, CloseReason::ServerShutdown)];
    for (end, code) in endings.into_iter().zip([4_000, 1_012]) {
        let mut rig = Rig::new();
        let peer = rig.open();
        let id = rig.id(peer);
        hold(&mut rig, peer);
        rig.arrive(peer, &text("ignored"));
        rig.tell(move |out| end(out, id));
        assert_eq!(rig.take_frames(peer), [closing(code)]);
        rig.tell(move |out| out.hold(id));
        rig.arrive(peer, &close_frame(code));
        assert!(rig.peer(peer).gone);
        rig.finish();
    }
}

#[test]
fn a_hold_in_on_open_is_in_time_for_what_came_with_the_request() {
    let mut rig = Rig::new();
    rig.reactor.handler.on_open = |conn, out| out.hold(conn);
    let peer = rig.connect();
    rig.arrive(peer, &upgrade("/echo"));
    rig.arrive(peer, &text("later"));
    assert_eq!(rig.messages(peer).len(), 0);
    resume(&mut rig, peer);
    assert_eq!(rig.messages(peer), [b"later"]);
    rig.finish();
}

#[test]
fn an_end_with_a_reason_goes_behind_the_backlog_and_is_cut_at_the_deadline() {
    for reads in [true, false] {
        let mut rig = Rig::new();
        let peer = rig.open();
        let id = rig.id(peer);
        rig.peer(peer).room = 0;
        rig.tell(move |out| out.send(id, Kind::Text, b"in flight"));
        // To the brim: the Close goes behind it all the same.
        rig.tell(move |out| out.send(id, Kind::Binary, &vec![1; QUEUE_BYTES - 10]));
        rig.tell(move |out| out.end(id, CloseReason::SlowConsumer));
        rig.tell(move |out| out.send(id, Kind::Text, b"too late"));
        assert_eq!(rig.closed(CloseReason::SlowConsumer), 0, "it has its time");
        if reads {
            rig.kernel().give_room(peer, usize::MAX);
            rig.settle();
            let frames = rig.take_frames(peer);
            assert_eq!((frames.len(), &frames[2]), (3, &closing(1013)));
            rig.arrive(peer, &close_frame(1013));
        } else {
            rig.pass_ms(CLOSE_MS + LATE_MS);
        }
        assert!(rig.peer(peer).gone);
        assert_eq!(rig.reason(peer), Some(CloseReason::SlowConsumer));
        assert_eq!(rig.closed(CloseReason::SlowConsumer), 1);
        rig.finish();
    }
}

#[test]
fn a_resume_after_the_end_arms_no_timer() {
    let mut rig = Rig::new();
    let peer = rig.open();
    hold(&mut rig, peer);
    rig.peer(peer).hold = true; // its last completions are under way
    rig.peer(peer).reset = true;
    let id = rig.id(peer);
    rig.tell(move |out| out.send(id, Kind::Text, b"finds out"));
    assert_eq!(rig.reason(peer), Some(CloseReason::PeerReset));
    resume(&mut rig, peer);
    assert_eq!(rig.reactor.wheel.next_in_ticks(), None);
    rig.finish();
}
