//! Output: short sends, full sockets, peers that stop reading, and the order of bytes under all of it.

use super::*;
use crate::buf::SendQueue;
use crate::sys::Io;
use proptest::prelude::*;

fn binary(payload: &[u8]) -> Vec<u8> {
    frame(Opcode::Binary, payload)
}

#[test]
fn a_full_socket_gets_the_rest_when_it_has_room() {
    for room in [0, 1, 5] {
        let mut rig = Rig::new();
        let peer = rig.open();
        rig.peer(peer).room = room;
        rig.arrive(peer, &text("0123456789"));
        assert_eq!(rig.peer(peer).output, b"\x81\x0a0123456789"[..room]);
        assert_eq!(rig.counters().sends_short.get(), 1);
        // What comes meanwhile queues behind it.
        rig.arrive(peer, &text("next"));
        rig.kernel().give_room(peer, 4);
        rig.settle();
        assert_eq!(rig.peer(peer).output.len(), room + 4);
        rig.kernel().give_room(peer, usize::MAX);
        rig.settle();
        let echoes = [(Opcode::Text, b"0123456789".to_vec()), (Opcode::Text, b"next".to_vec())];
        assert_eq!(rig.take_frames(peer), echoes);
        rig.finish();
    }
}

#[test]
fn a_waiting_send_that_ends_short_is_continued() {
    let mut rig = Rig::new();
    let peer = rig.open();
    rig.peer(peer).room = 0;
    rig.peer(peer).ends_short = true;
    rig.arrive(peer, &text("0123456789"));
    for _ in 0..12 {
        rig.kernel().give_room(peer, 1);
        rig.settle();
    }
    assert_eq!(rig.take_frames(peer), [(Opcode::Text, b"0123456789".to_vec())]);
    rig.finish();
}

#[test]
fn a_queue_longer_than_one_send_takes_goes_out_whole_and_in_order() {
    let mut rig = Rig::new();
    let peer = rig.open();
    let id = rig.id(peer);
    let count = Kernel::SEGMENTS_PER_SEND as u8 * 3;
    rig.tell(move |out| (0..count).for_each(|at| out.send(id, Kind::Binary, &[at])));
    let expected: Vec<_> = (0..count).map(|at| (Opcode::Binary, vec![at])).collect();
    assert_eq!(rig.take_frames(peer), expected);
    // The same when the socket is full at once.
    rig.peer(peer).room = 0;
    rig.tell(move |out| (0..count).for_each(|at| out.send(id, Kind::Binary, &[at])));
    rig.kernel().give_room(peer, usize::MAX);
    rig.settle();
    assert_eq!(rig.take_frames(peer), expected);
    rig.finish();
}

#[test]
fn all_output_of_a_turn_is_one_send() {
    let mut rig = Rig::new();
    let peer = rig.open();
    let id = rig.id(peer);
    // A second send of the same turn would breach the kernel's contract and panic.
    rig.kernel().arrive(peer, &[text("a"), frame(Opcode::Ping, b"b"), text("c")].concat());
    rig.tell(move |out| out.send(id, Kind::Text, b"d"));
    let sent: Vec<Vec<u8>> = rig.take_frames(peer).into_iter().map(|(_, payload)| payload).collect();
    assert_eq!(sent, [b"d", b"a", b"b", b"c"]);
    rig.finish();
}

#[test]
fn every_ping_is_answered_in_its_place() {
    let mut rig = Rig::new();
    let peer = rig.open();
    rig.arrive(peer, &[text("a"), frame(Opcode::Ping, b"1"), frame(Opcode::Ping, b"2"), text("b")].concat());
    let expected = [
        (Opcode::Text, b"a".to_vec()),
        (Opcode::Pong, b"1".to_vec()),
        (Opcode::Pong, b"2".to_vec()),
        (Opcode::Text, b"b".to_vec()),
    ];
    assert_eq!(rig.take_frames(peer), expected);
    rig.finish();
}

#[test]
fn a_queue_over_its_limit_ends_the_slow_and_leaves_the_others() {
    let mut rig = Rig::new();
    let (slow, other) = (rig.open(), rig.open());
    let ids = [rig.id(slow), rig.id(other)];
    rig.peer(slow).room = 0;
    // What finds the socket full does not count.
    rig.tell(move |out| ids.into_iter().for_each(|id| out.send(id, Kind::Binary, &[0; 1_000])));
    // Exactly the limit, headers included: kept.
    let chunk = vec![9; QUEUE_BYTES / 4 - 4];
    for _ in 0..4 {
        let chunk = chunk.clone();
        rig.tell(move |out| ids.into_iter().for_each(|id| out.send(id, Kind::Binary, &chunk)));
    }
    assert_eq!(rig.reason(slow), None);
    rig.tell(move |out| ids.into_iter().for_each(|id| out.send(id, Kind::Binary, &[])));
    assert_eq!(rig.reason(slow), Some(CloseReason::SlowConsumer));
    assert!(rig.peer(slow).gone && !rig.peer(other).gone);
    assert_eq!(rig.take_frames(other).len(), 6);
    rig.finish();
}

#[test]
fn one_message_alone_may_be_larger_than_the_queue() {
    let mut rig = Rig::new();
    let peer = rig.open();
    let id = rig.id(peer);
    rig.peer(peer).room = 10;
    let large = vec![3; QUEUE_BYTES * 2];
    let copy = large.clone();
    rig.tell(move |out| out.send(id, Kind::Binary, &copy));
    rig.kernel().give_room(peer, usize::MAX);
    rig.settle();
    assert!(rig.take_frames(peer) == [(Opcode::Binary, large)]);
    rig.finish();
}

#[test]
fn a_burst_to_a_peer_that_has_read_everything_does_not_make_it_slow() {
    let mut rig = Rig::new();
    let peer = rig.open();
    let id = rig.id(peer);
    rig.peer(peer).room = 10_000;
    let chunk = vec![7; 10_000];
    let burst = move |out: &mut Outbox<Order>| (0..30).for_each(|_| out.send(id, Kind::Binary, &chunk));
    // Three times the limit in one turn, of which a little fits.
    rig.tell(burst.clone());
    assert_eq!(rig.reason(peer), None);
    // What comes while it is being read counts for itself.
    rig.tell(move |out| out.send(id, Kind::Binary, &vec![8; QUEUE_BYTES - 10]));
    assert_eq!(rig.reason(peer), None);
    // It has read the burst, but not what came behind it, and that counts: a little more is too much.
    rig.kernel().give_room(peer, 290_120);
    rig.settle();
    assert_eq!(rig.reason(peer), None);
    rig.tell(move |out| out.send(id, Kind::Binary, &[9; 100]));
    assert_eq!(rig.reason(peer), Some(CloseReason::SlowConsumer));
    // Once it has read everything, it may have another.
    let mut rig = Rig::new();
    let peer = rig.open();
    for _ in 0..3 {
        rig.peer(peer).room = 10_000;
        rig.tell(burst.clone());
        rig.kernel().give_room(peer, usize::MAX);
        rig.settle();
        assert_eq!(rig.take_frames(peer).len(), 30);
    }
    rig.finish();
}

#[test]
fn a_burst_is_still_one_when_its_send_ends_short() {
    let mut rig = Rig::new();
    let peer = rig.open();
    let id = rig.id(peer);
    rig.peer(peer).room = 0;
    rig.peer(peer).ends_short = true;
    rig.tell(move |out| out.send(id, Kind::Binary, &vec![7; 3 * QUEUE_BYTES]));
    for _ in 0..20 {
        rig.kernel().give_room(peer, 1_000);
        rig.settle();
        rig.tell(move |out| out.send(id, Kind::Binary, &[0; 4_000]));
        assert_eq!(rig.reason(peer), None);
    }
    rig.kernel().give_room(peer, usize::MAX);
    rig.settle();
    assert_eq!(rig.take_frames(peer).len(), 21);
    rig.finish();
}

/// What the handler was told of a connection's socket.
fn socket_told(rig: &mut Rig) -> Vec<Told> {
    let told = rig.reactor.handler.told.drain(..);
    told.filter(|told| matches!(told, Told::Blocked(_) | Told::Writable(_))).collect()
}

#[test]
fn a_full_socket_is_told_once_and_room_once_all_is_sent() {
    for segments in [1, Kernel::SEGMENTS_PER_SEND * 2] {
        let mut rig = Rig::new();
        let peer = rig.open();
        let id = rig.id(peer);
        let order =
            move |out: &mut Outbox<Order>| (0..segments).for_each(|_| out.send(id, Kind::Text, b"123"));
        rig.tell(order);
        assert_eq!(socket_told(&mut rig), [], "it has room");
        rig.peer(peer).room = 3;
        rig.tell(order);
        assert_eq!(socket_told(&mut rig), [Told::Blocked(id)]);
        rig.tell(order);
        rig.kernel().give_room(peer, segments * 5);
        rig.settle();
        assert_eq!(socket_told(&mut rig), [], "told already, and it is still full");
        rig.kernel().give_room(peer, usize::MAX);
        rig.settle();
        assert_eq!(socket_told(&mut rig), [Told::Writable(id)]);
        rig.peer(peer).room = 0;
        rig.tell(order);
        assert_eq!(socket_told(&mut rig), [Told::Blocked(id)]);
        rig.finish();
    }
}

#[test]
fn room_is_told_even_while_something_is_sent_in_every_turn() {
    let mut rig = Rig::new();
    let peer = rig.open();
    let id = rig.id(peer);
    rig.peer(peer).room = 0;
    rig.tell(move |out| out.send(id, Kind::Text, b"123"));
    // One echo a turn, queued before the core looks at what the turn has sent.
    let echoed = text("echo");
    rig.peer(peer).recv_max = echoed.len();
    rig.kernel().arrive(peer, &echoed.repeat(30));
    rig.turn();
    rig.kernel().give_room(peer, usize::MAX);
    (0..10).for_each(|_| rig.turn());
    assert!((10..25).contains(&(rig.peer(peer).input.len() / echoed.len())), "it goes on");
    assert_eq!(socket_told(&mut rig), [Told::Blocked(id), Told::Writable(id)]);
    rig.settle();
    rig.finish();
}

#[test]
fn a_gathered_send_that_went_out_gives_its_queue_to_the_next() {
    let mut rig = Rig::new();
    let peers = [rig.open(), rig.open()];
    let order = |id| move |out: &mut Outbox<Order>| (0..3).for_each(|_| out.send(id, Kind::Text, b"x"));
    let first = rig.id(peers[0]);
    rig.tell(order(first));
    let spare: Vec<*const SendQueue> =
        rig.reactor.spare_queues.iter().map(|queue| &raw const **queue).collect();
    assert_eq!(spare.len(), 1);
    let second = rig.id(peers[1]);
    rig.mail.send(Control::Mail(Order(Box::new(order(second))))).unwrap();
    rig.turn();
    assert!(rig.reactor.spare_queues.is_empty(), "in use");
    rig.settle();
    assert!(rig.reactor.spare_queues.iter().map(|queue| &raw const **queue).eq(spare));
    assert!(rig.reactor.spare_queues[0].is_empty() && rig.reactor.spare_queues[0].backlog_bytes() == 0);
    rig.finish();
}

#[test]
fn who_does_not_read_is_not_read_from_half_the_limit_on() {
    let mut rig = Rig::new();
    let peer = rig.open();
    let sent = rig.block(peer);
    let backlog = (sent - 1) * 8_004;
    assert!((QUEUE_BYTES / 2..QUEUE_BYTES / 2 + 2 * 8_004).contains(&backlog), "paused at {backlog}");
    assert_eq!(rig.reason(peer), None);
    assert_eq!(rig.counters().buffers_held.get(), 0);
    rig.kernel().give_room(peer, usize::MAX);
    rig.settle();
    assert!(rig.peer(peer).input.is_empty(), "reading resumes without another event");
    assert_eq!(rig.take_frames(peer).len(), sent);
    let id = rig.id(peer);
    assert!(rig.reactor.handler.told.contains(&Told::Writable(id)));
    rig.finish();
}

#[test]
fn a_reset_in_the_middle_of_a_send_ends_the_connection() {
    // Found by the send that may not wait.
    let mut rig = Rig::new();
    let peer = rig.open();
    let id = rig.id(peer);
    rig.peer(peer).reset = true;
    rig.tell(move |out| out.send(id, Kind::Text, b"x"));
    assert_eq!(rig.reason(peer), Some(CloseReason::PeerReset));
    rig.finish();
    // Found by the one that waits, and by poll and receive at the same time.
    let mut rig = Rig::new();
    let peer = rig.open();
    rig.peer(peer).room = 3;
    rig.arrive(peer, &text("0123456789"));
    rig.kernel().reset(peer);
    rig.settle();
    assert_eq!(rig.reason(peer), Some(CloseReason::PeerReset));
    assert!(rig.peer(peer).gone);
    rig.finish();
}

proptest! {
    /// Whatever a socket takes at a time, the peer gets what was sent, in order.
    #[test]
    fn short_sends_never_reorder(
        messages in prop::collection::vec((0usize..3_000, any::<bool>()), 1..30),
        rooms in prop::collection::vec(0usize..2_000, 1..60),
        ends_short: bool,
    ) {
        let mut rig = Rig::new();
        let peer = rig.open();
        let id = rig.id(peer);
        rig.peer(peer).room = 0;
        rig.peer(peer).ends_short = ends_short;
        let mut rooms = rooms.into_iter().cycle();
        let mut expected = Vec::new();
        for (at, (len, echoed)) in messages.into_iter().enumerate() {
            let payload = vec![at as u8; len];
            expected.push((Opcode::Binary, payload.clone()));
            if echoed {
                rig.arrive(peer, &binary(&payload));
            } else {
                rig.tell(move |out| out.send(id, Kind::Binary, &payload));
            }
            rig.kernel().give_room(peer, rooms.next().unwrap());
            rig.settle();
        }
        prop_assert_eq!(rig.reason(peer), None);
        rig.kernel().give_room(peer, usize::MAX);
        rig.settle();
        prop_assert_eq!(rig.take_frames(peer), expected);
        rig.finish();
    }
}
