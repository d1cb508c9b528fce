//! What a handler does in steps: called once a turn, after what came in, and again when it says.

use super::*;

#[test]
fn a_handler_with_more_to_do_is_called_again_without_a_wait() {
    for (work, range) in [
        (Work::Now, Duration::ZERO..=Duration::ZERO),
        (Work::Soon, Duration::from_micros(1)..=Duration::from_millis(1)),
        (Work::None, Duration::from_millis(2)..=Duration::from_millis(1_100)),
    ] {
        let mut rig = Rig::new();
        rig.reactor.handler.on_turn = match work {
            Work::Now => |_| Work::Now,
            Work::Soon => |_| Work::Soon,
            Work::None => |_| Work::None,
        };
        (0..3).for_each(|_| rig.turn());
        let timeout = rig.kernel().timeout.expect("it never waits for ever");
        assert!(range.contains(&timeout), "{work:?} waits {timeout:?}");
    }
}

#[test]
fn it_comes_after_the_mail_of_the_turn_and_its_output_goes_out_in_the_next() {
    let mut rig = Rig::new();
    let peer = rig.open();
    let id = rig.id(peer);
    // The handler's own step: whatever is open gets a message, once.
    rig.tell(move |out| out.send(id, Kind::Text, b"mail"));
    rig.reactor.handler.on_turn = |out| {
        let first = ConnId { slot: 0, generation: 0 };
        out.send(first, Kind::Text, b"step");
        Work::None
    };
    assert_eq!((id.slot, id.generation), (0, 0));
    rig.take(peer);
    let order = Order(Box::new(move |out| out.send(id, Kind::Text, b"mail")));
    rig.mail.send(Control::Mail(order)).unwrap();
    rig.turn();
    rig.reactor.handler.on_turn = |_| Work::None;
    rig.turn();
    let sent: Vec<Vec<u8>> = rig.take_frames(peer).into_iter().map(|(_, payload)| payload).collect();
    assert_eq!(sent, [b"mail", b"step"]);
    rig.finish();
}

#[test]
fn steps_do_not_keep_a_core_from_its_sockets() {
    let mut rig = Rig::new();
    let peer = rig.open();
    rig.reactor.handler.on_turn = |_| Work::Now;
    rig.kernel().arrive(peer, &text("heard"));
    for _ in 0..4 {
        rig.turn();
    }
    assert_eq!(rig.take_frames(peer), [(Opcode::Text, b"heard".to_vec())]);
    rig.reactor.handler.on_turn = |_| Work::None;
    rig.settle();
    rig.finish();
}
