use super::super::Options;
use super::super::session::Session;
use super::*;

fn conn(slot: u32) -> ConnId {
    ConnId { slot, generation: 0 }
}

#[test]
fn topics_that_go_while_they_are_served_leave_the_others_theirs() {
    let options = Options::for_tests();
    let lease = Lease::new(Arc::clone(&options.slow_budget));
    let mut locals = Locals::new(1 << 20, lease, Arc::default());
    let name = |number: u32| Name::new(&number.to_string());
    let item = || Item { from: 1, to: 1, frame: Payload::new(&[b"x"]), except: None, made_us: 0 };
    let count = 4 * GIVEN_PER_TURN as u32;
    let subs: Vec<SubRef> = (0..count)
        .map(|number| locals.attach(&name(number), conn(number), false, &options.namespaces))
        .collect();
    (0..count).for_each(|number| locals.append(&name(number), item()));
    let (gone, stay) = subs.split_at(subs.len() / 2);
    gone.iter().for_each(|sub| assert_eq!(locals.detach(*sub), 0));
    // A topic in the place of one that has gone is served once all the same.
    let new = locals.attach(&name(count), conn(count), false, &options.namespaces);
    assert!(gone.iter().any(|sub| sub.topic == new.topic));
    locals.append(&name(count), item());
    let (mut sessions, mut out, mut steps) = (Sessions::default(), Outbox::default(), 1);
    while !locals.step(&mut sessions, &options.namespaces, &mut out) {
        steps += 1;
    }
    assert_eq!(steps, 3, "as many as those who are left take");
    assert_eq!(locals.counters.delivery_us.get().count(), stay.len() as u64 + 1);
    stay.iter().chain([&new]).for_each(|sub| assert_eq!(locals.detach(*sub), 0));
    assert!(locals.is_empty());
}

#[test]
fn after_a_crowd_has_left_a_walk_looks_at_those_who_stayed() {
    let options = Options::for_tests();
    let mut locals = Locals::new(1 << 20, Lease::new(Arc::clone(&options.slow_budget)), Arc::default());
    let (mut sessions, mut out, name) = (Sessions::default(), Outbox::default(), Name::new("crowd"));
    for slot in 0..10_000 {
        sessions.insert(conn(slot), Session::new(conn(slot), None));
        let sub = locals.attach(&name, conn(slot), slot == 7_000, &options.namespaces);
        sessions.get(conn(slot)).unwrap().add_sub(sub);
    }
    let stays = |slot: &u32| slot.is_multiple_of(1_000);
    for slot in (0..10_000).filter(|slot| !stays(slot)) {
        let session = sessions.remove(conn(slot)).unwrap();
        session.subs().for_each(|sub| assert_eq!(locals.detach(sub), 0));
    }
    for _ in 0..2 {
        locals.append(&name, Item { from: 1, to: 1, frame: Payload::new(&[b"x"]), except: None, made_us: 0 });
        while !locals.step(&mut sessions, &options.namespaces, &mut out) {}
    }
    let topic = &locals.topics[locals.number(&name).unwrap() as usize];
    assert_eq!((topic.subs.len(), topic.subs.capacity(), topic.holes.len()), (10, 20, 0));
    assert_eq!(topic.lags.keys().collect::<Vec<_>>(), [&7], "who was passed by is owed both still");
    for slot in (0..10_000).filter(stays) {
        let session = sessions.remove(conn(slot)).unwrap();
        let owed: usize = session.subs().map(|sub| locals.detach(sub)).sum();
        assert_eq!(owed, if slot == 7_000 { 2 } else { 0 });
    }
    assert!(locals.is_empty() && locals.bytes() == 0);
}
