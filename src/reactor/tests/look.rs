//! One connection, looked at from another thread.

use super::*;
use crate::reactor::ConnectionFacts;

impl Rig {
    fn look(&mut self, conn: ConnId) -> Option<ConnectionFacts> {
        let (answer, receiver) = oneshot::channel();
        self.mail.send(Control::Look { conn, answer }).unwrap();
        self.waker.wake();
        self.settle();
        receiver.try_recv().expect("it always answers")
    }
}

#[test]
fn an_open_connection_is_as_its_core_knows_it() {
    let mut rig = Rig::new();
    let (talker, peer) = (rig.open(), rig.open());
    rig.pass_ms(10_000);
    rig.arrive(talker, &text("here"));
    rig.pass_ms(5_000);
    let id = rig.id(talker);
    let facts = rig.look(id).expect("it is open");
    assert_eq!((facts.peer, facts.user.as_deref()), (kernel::address(talker), Some("user 0")));
    let about = |ms: u64| ms.saturating_sub(LATE_MS)..=ms + LATE_MS;
    assert!(about(15_000).contains(&facts.opened_ms_ago), "{facts:?}");
    assert!(about(5_000).contains(&facts.active_ms_ago), "{facts:?}");
    assert_eq!((facts.queue_bytes, facts.is_blocked, facts.is_paused), (0, false, false));

    let id = rig.id(peer);
    let facts = rig.look(id).expect("it is open");
    assert!(about(15_000).contains(&facts.active_ms_ago), "{facts:?}");
    rig.peer(peer).room = 0;
    rig.tell(move |out| out.send(id, Kind::Binary, &[1; 100]));
    let facts = rig.look(id).expect("it is open");
    assert_eq!((facts.queue_bytes, facts.is_blocked, facts.is_paused), (102, true, false));
    rig.block(peer);
    let facts = rig.look(id).expect("it is open");
    assert!(facts.queue_bytes >= QUEUE_BYTES / 2 && facts.is_blocked && facts.is_paused, "{facts:?}");
    rig.finish();
}

#[test]
fn a_connection_that_is_held_is_paused() {
    let mut rig = Rig::new();
    let peer = rig.open();
    let id = rig.id(peer);
    rig.tell(move |out| out.hold(id));
    let facts = rig.look(id).expect("it is open");
    assert_eq!((facts.is_blocked, facts.is_paused), (false, true));
    rig.tell(move |out| out.resume(id));
    assert!(!rig.look(id).expect("it is open").is_paused);
    rig.finish();
}

#[test]
fn nothing_is_said_of_one_that_is_not_open() {
    let mut rig = Rig::new();
    let peer = rig.open();
    let (silent, undecided) = (rig.connect(), rig.request("/later"));
    let id = rig.id(peer);
    for other in [silent, undecided] {
        let other = rig.id(other);
        assert_eq!(rig.look(other), None);
    }
    assert_eq!(rig.look(ConnId { generation: id.generation + 1, ..id }), None, "one to come");
    assert_eq!(rig.look(ConnId { slot: u32::MAX, generation: 0 }), None);
    rig.tell(move |out| out.close(id, 4_000, ""));
    assert_eq!(rig.look(id), None, "it is closing");
    rig.end(peer);
    rig.open();
    assert_eq!(rig.look(id), None, "its slot has another one");
    // Who asked has not waited for the answer.
    let (answer, receiver) = oneshot::channel();
    drop(receiver);
    rig.mail.send(Control::Look { conn: id, answer }).unwrap();
    rig.settle();
    rig.finish();
}
