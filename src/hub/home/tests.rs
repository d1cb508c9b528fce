use super::*;
use crate::hub::Namespaces;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn homes() -> Homes {
    Homes::new(Arc::new(Options { history_bytes_max: 64 << 20, ..Options::for_tests() }))
}

#[test]
fn pages_together_have_every_topic_once() {
    let mut homes = homes();
    for number in 0..5_000 {
        homes.topic(&Name::new(&format!("{}:{number}", ["a", "b"][number % 2])));
    }
    let (mut found, mut from, mut pages) = (Vec::new(), Some(0), 0);
    while let Some(at) = from {
        let Answer::Topics { topics, next } = homes.page("a:", at) else { panic!("no topics") };
        assert!(topics.len() <= LOOKED_AT_PER_PAGE);
        found.extend(topics.into_iter().map(|topic| topic.name.to_string()));
        (from, pages) = (next, pages + 1);
    }
    assert!(pages >= 5, "{pages}");
    found.sort_unstable();
    let mut expected: Vec<String> = (0..5_000).step_by(2).map(|number| format!("a:{number}")).collect();
    expected.sort_unstable();
    assert_eq!(found, expected);
    for from in [homes.topics.capacity(), 1 << 20, usize::MAX] {
        assert!(matches!(homes.page("", from), Answer::Topics { topics, next: None } if topics.is_empty()));
    }
}

#[test]
fn a_flood_of_names_leaves_no_memory_behind() {
    let mut homes = homes();
    for number in 0..50_000 {
        let topic = homes.topic(&Name::new(&number.to_string()));
        homes.note_empty(topic);
    }
    assert_eq!(homes.len(), 50_000);
    for second in 0..=50_000 / LOOKED_AT_PER_TICK as u64 {
        homes.on_tick(LINGER_MS + second, &mut Links::default(), &mut Outbox::default());
    }
    assert_eq!(homes.len(), 0);
    assert!(homes.topics.capacity() < 100 && homes.by_name.capacity() < 100);
}

/// What a core may be asked of one of a few topics, or that time passes, or that settings change.
#[derive(Clone, Debug)]
enum Step {
    Publish(u8),
    History(u8),
    Subscribe(u8),
    Unsubscribe(u8),
    Tick(u64),
    Keep(usize),
}

/// Room for three empty topics, or a few publications.
const FEW_BYTES: usize = 3 * TOPIC_BYTES;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let topic = || 0..8u8;
    let step = prop_oneof![
        4 => topic().prop_map(Step::Publish),
        2 => topic().prop_map(Step::History),
        2 => topic().prop_map(Step::Subscribe),
        2 => topic().prop_map(Step::Unsubscribe),
        3 => prop_oneof![Just(1_000), Just(50_000), Just(LINGER_MS)].prop_map(Step::Tick),
        1 => (0..3usize).prop_map(Step::Keep),
    ];
    prop::collection::vec(step, 1..60)
}

/// Options under which a topic keeps so many publications, for a little longer than one without any stays, and the core so
/// many bytes.
fn keeping(count: usize, history_bytes_max: usize) -> Arc<Options> {
    let mut namespaces = Namespaces::default();
    let settings =
        Settings { history_count_max: count, history_age_ms: LINGER_MS + 5_000, ..Settings::CHANNEL };
    namespaces.add("*", settings).unwrap();
    Arc::new(Options { namespaces, history_bytes_max, ..Options::for_tests() })
}

/// The topics that keep history are known, each by its place, and what they keep is their sum.
fn agrees(homes: &Homes) -> Result<(), TestCaseError> {
    let keeping = homes.topics.iter().filter(|(_, topic)| !topic.history.is_empty());
    let keeping: BTreeSet<u32> = keeping.map(|(number, _)| number as u32).collect();
    prop_assert_eq!(&homes.kept.iter().copied().collect::<BTreeSet<u32>>(), &keeping);
    prop_assert_eq!(homes.kept.len(), keeping.len());
    for (number, topic) in &homes.topics {
        let at = homes.kept.iter().position(|kept| *kept as usize == number);
        prop_assert_eq!(topic.kept_at, at.map(|at| at as u32));
    }
    let bytes: usize = homes.topics.iter().map(|(_, topic)| topic.history.bytes()).sum();
    prop_assert_eq!(homes.kept_bytes, bytes);
    prop_assert!(bytes <= homes.options.history_bytes_max);
    prop_assert_eq!(homes.by_name.len(), homes.topics.len());
    Ok(())
}

proptest! {
    #[test]
    fn what_is_kept_is_known_whoever_looks_at_it(steps in steps()) {
        let mut homes = Homes::new(keeping(2, FEW_BYTES));
        let (mut links, mut out, mut now_ms) = (Links::default(), Outbox::default(), 0);
        for step in steps {
            let ask = match step {
                Step::Publish(topic) => {
                    Ask::Publish { topic: name(topic), data: "1".repeat(300).into(), user: None, except: None }
                }
                Step::History(topic) => Ask::History { topic: name(topic), limit: 1, since: None },
                Step::Subscribe(topic) => Ask::Subscribe { topic: name(topic), user: None, since: None },
                Step::Unsubscribe(topic) => Ask::Unsubscribe { topic: name(topic), user: None },
                Step::Tick(ms) => {
                    now_ms += ms;
                    homes.on_tick(now_ms, &mut links, &mut out);
                    agrees(&homes)?;
                    continue;
                }
                Step::Keep(count) => {
                    homes.tune(keeping(count, FEW_BYTES));
                    continue;
                }
            };
            homes.handle_call(0, Call::own(ask), &mut links, &mut out);
            while links.take_own().is_some() {}
            agrees(&homes)?;
        }
    }
}

fn name(topic: u8) -> Name {
    Name::new(&topic.to_string())
}

#[test]
fn topics_that_go_before_their_turn_are_not_looked_at_again() {
    let mut homes = Homes::new(keeping(1, 64 << 20));
    let (mut links, mut out) = (Links::default(), Outbox::default());
    let count = 3 * LOOKED_AT_PER_TICK as u32;
    for number in 0..count {
        let topic = homes.topic(&Name::new(&number.to_string()));
        homes.publish(topic, "1", None, None, &mut links, &mut out);
    }
    let aged_ms = LINGER_MS + 5_000;
    homes.now_ms = aged_ms;
    (0..count).for_each(|topic| drop(homes.history(topic, 1, None)));
    (0..9).for_each(|second| homes.on_tick(aged_ms + second * 1_000, &mut links, &mut out));
    assert_eq!((homes.len(), homes.kept.len(), homes.kept_bytes), (0, 0, 0));
}
