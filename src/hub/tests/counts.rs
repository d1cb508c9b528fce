//! What is counted: each figure by what makes it so, on cores that are driven by hand.

use super::client::field;
use crate::ds::Rate;
use crate::handler::{Action, ConnId, Decision, Handler, Kind, Message, Origin, Outbox, Work};
use crate::hub::handshake::Newcomer;
use crate::hub::{Board, Figures, Hub, Limit, Mail, Name, Open, Options, Publishers, Settings, SlowConsumer};
use crate::proto::address::AddressKey;
use crate::proto::client::decode_server_header;
use crate::proto::close::CloseReason;
use crate::proto::command::{ErrorCode, Verb};
use rtrb::Consumer;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Entries of a ring: deliveries leave half of them free.
const RING_ENTRIES: usize = 8;

struct Core {
    hub: Hub<Open>,
    out: Outbox<Mail>,
    incoming: Vec<Option<Consumer<Mail>>>,
}

/// Cores, what their connections were sent, and the board.
struct Site {
    board: Arc<Board>,
    options: Arc<Options>,
    cores: Vec<Core>,
    slots: u32,
    core_of: BTreeMap<u32, usize>,
    sent: Vec<(ConnId, String)>,
    ended: Vec<(ConnId, CloseReason)>,
    reported: Vec<(ConnId, &'static str, usize)>,
}

impl Site {
    fn options(board: &Arc<Board>) -> Options {
        Options { topics_per_connection_max: 3, board: Arc::clone(board), ..Options::for_tests() }
    }

    /// So many cores, with namespaces and limits as `set` leaves them.
    fn start(count: usize, set: impl FnOnce(&mut Options)) -> Site {
        let board = Arc::<Board>::default();
        let mut options = Site::options(&board);
        set(&mut options);
        let options = Arc::new(options);
        let mut rings: Vec<Vec<_>> = (0..count).map(|_| (0..count).map(|_| None).collect()).collect();
        let mut incoming: Vec<Vec<_>> = (0..count).map(|_| (0..count).map(|_| None).collect()).collect();
        for (from, to) in
            (0..count * count).map(|at| (at / count, at % count)).filter(|(from, to)| from != to)
        {
            let (producer, consumer) = rtrb::RingBuffer::new(RING_ENTRIES);
            (rings[from][to], incoming[to][from]) = (Some(producer), Some(consumer));
        }
        let core = |(number, (rings, incoming))| {
            let mut core =
                Core { hub: Hub::new(Arc::clone(&options), Open), out: Outbox::new(number, rings), incoming };
            core.hub.begin(&core.out);
            core
        };
        let cores = rings.into_iter().zip(incoming).enumerate().map(core).collect();
        Site {
            board,
            options,
            cores,
            slots: 0,
            core_of: BTreeMap::new(),
            sent: Vec::new(),
            ended: Vec::new(),
            reported: Vec::new(),
        }
    }

    /// A connection on this core, by its name if it has one; none if it is not let in.
    fn knock(&mut self, on: usize, user: Option<&str>) -> Option<ConnId> {
        let conn = ConnId { slot: self.slots, generation: 1 };
        self.slots += 1;
        self.core_of.insert(conn.slot, on);
        let address = AddressKey::of(std::net::Ipv4Addr::from_bits(conn.slot).into());
        let Core { hub, out, .. } = &mut self.cores[on];
        let decision = hub.go_on(conn, Newcomer::new(address, Some(user.map(Name::new))), out);
        if !matches!(decision, Decision::Accept { .. }) {
            return None;
        }
        hub.on_open(conn, out);
        self.settle();
        Some(conn)
    }

    fn enter(&mut self, on: usize, user: &str) -> ConnId {
        self.knock(on, Some(user)).expect("it is let in")
    }

    fn leave(&mut self, conn: ConnId) {
        let core = &mut self.cores[self.core_of[&conn.slot]];
        core.hub.on_close(conn, CloseReason::PeerEof, &mut core.out);
        self.settle();
    }

    /// The server receives this, and nothing follows from it yet on other cores or for subscribers.
    fn hand_over(&mut self, conn: ConnId, text: &str) {
        let core = &mut self.cores[self.core_of[&conn.slot]];
        let mut bytes = text.as_bytes().to_vec();
        core.hub.on_message(conn, Message::new(conn, Kind::Text, &mut bytes), &mut core.out);
        self.apply();
    }

    fn say(&mut self, conn: ConnId, text: &str) {
        self.hand_over(conn, text);
        self.settle();
    }

    fn subscribe(&mut self, conn: ConnId, channel: &str) {
        self.say(conn, &format!(r#"{{"type":"subscribe","channel":"{channel}"}}"#));
    }

    fn publish(&mut self, conn: ConnId, channel: &str) {
        self.say(
            conn,
            &format!(r#"{{"type":"publish","channel":"{channel}","data":"{}"}}"#, "x".repeat(300)),
        );
    }

    /// Other settings for all channels, while everything goes on.
    fn tune(&mut self, settings: Settings) {
        let mut options = Site::options(&self.board);
        options.namespaces.add("*", settings).unwrap();
        options.namespaces = options.namespaces.in_place_of(&self.options.namespaces).expect("few patterns");
        self.options = Arc::new(options);
        for core in &mut self.cores {
            core.hub.on_mail(Origin::Thread, Mail::Tune(Arc::clone(&self.options)), &mut core.out);
        }
        self.settle();
    }

    /// News of this second have been told.
    fn tick(&mut self) {
        self.cores.iter_mut().for_each(|core| core.hub.on_tick(1_000, &mut core.out));
        self.settle();
    }

    fn block(&mut self, conn: ConnId) {
        let core = &mut self.cores[self.core_of[&conn.slot]];
        core.hub.on_blocked(conn, &mut core.out);
    }

    fn unblock(&mut self, conn: ConnId) {
        let core = &mut self.cores[self.core_of[&conn.slot]];
        core.hub.on_writable(conn, &mut core.out);
        self.settle();
    }

    /// Does what callbacks have asked for.
    fn apply(&mut self) {
        for core in &mut self.cores {
            for action in core.out.take_actions(Vec::new()) {
                match action {
                    Action::Send { to, frame, .. } => {
                        let mut rest = &frame[..];
                        while let Some(header) = decode_server_header(rest).expect("a frame") {
                            let end = header.header_len + header.payload_len as usize;
                            let text = String::from_utf8(rest[header.header_len..end].to_vec());
                            self.sent.push((to, text.expect("text")));
                            rest = &rest[end..];
                        }
                    }
                    Action::End { conn, reason } => self.ended.push((conn, reason)),
                    Action::ReportSlow { conn, action, owed_bytes } => {
                        self.reported.push((conn, action, owed_bytes));
                    }
                    _ => {}
                }
            }
        }
    }

    /// Everything arrives, and every core has its turns.
    fn settle(&mut self) {
        let mut moves = true;
        while moves {
            moves = false;
            for core in &mut self.cores {
                for from in 0..core.incoming.len() {
                    while let Some(Ok(mail)) = core.incoming[from].as_mut().map(Consumer::pop) {
                        core.hub.on_mail(Origin::Core(from), mail, &mut core.out);
                        moves = true;
                    }
                }
                moves |= core.hub.on_turn(&mut core.out) != Work::None;
            }
            self.apply();
        }
    }

    fn figures(&self) -> Figures {
        self.board.figures()
    }

    fn sent(&self, is_it: impl Fn(&str) -> bool) -> u64 {
        self.sent.iter().filter(|(_, json)| is_it(json)).count() as u64
    }

    fn sent_of_type(&self, kind: &str) -> u64 {
        self.sent(|json| field(json, "type") == Some(kind))
    }
}

/// The core that `channel` has its home on.
fn home(channel: &str, site: &Site) -> usize {
    Name::new(channel).home(site.cores.len())
}

/// A channel with its home on this core.
fn channel_of(core: usize, site: &Site) -> String {
    (0..).map(|number| format!("c{number}")).find(|name| home(name, site) == core).expect("there are many")
}

/// Time passes: it is over when the clock says so.
fn pass(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

#[test]
fn messages_are_counted_by_their_type() {
    let mut site = Site::start(1, |_| {});
    let ann = site.enter(0, "ann");
    // One more of each than of the one before; whether a command can be done does not matter.
    for verb in Verb::ALL {
        for _ in 0..=verb as usize {
            let place = match verb {
                Verb::Join | Verb::Leave | Verb::LeaveAll | Verb::RoomMessage => r#""room":"a""#,
                _ => r#""channel":"a""#,
            };
            let more = r#""data":1,"payload":1,"targetUserId":"bob","token":"t""#;
            site.say(ann, &format!(r#"{{"type":"{}",{place},{more}}}"#, verb.name()));
        }
    }
    let figures = site.figures();
    assert_eq!(figures.received, std::array::from_fn(|verb| verb as u64 + 1));
    assert_eq!(figures.invalid, 0);
    for wrong in ["", "[]", r#"{"type":"publish","channel":"a"}"#, r#"{"type":"fly"}"#] {
        site.say(ann, wrong);
    }
    assert_eq!((site.figures().received, site.figures().invalid), (figures.received, 4));
}

#[test]
fn a_message_over_its_rate_is_counted_too() {
    let mut site = Site::start(1, |options| options.limits.messages = Some(Rate::new(1, 2)));
    let ann = site.enter(0, "ann");
    for kind in ["ping", "ping", "ping", "?"] {
        site.say(ann, &format!(r#"{{"type":"{kind}"}}"#));
    }
    site.say(ann, "");
    let figures = site.figures();
    assert_eq!((figures.received[Verb::Ping as usize], figures.invalid), (3, 2));
    assert_eq!(figures.errors[ErrorCode::MessageRateExceeded as usize], 3);
    assert_eq!(figures.refusals[Limit::Messages as usize], 3);
}

#[test]
fn errors_are_counted_by_their_code() {
    let mut site = Site::start(1, |options| {
        options.limits.connections_per_user = Some(1);
        let settings = Settings { publishers: Publishers::Server, ..Settings::CHANNEL };
        options.namespaces.add("news:*", settings).unwrap();
        let settings = Settings { data_bytes_max: 4, ..Settings::CHANNEL };
        options.namespaces.add("small:*", settings).unwrap();
    });
    let ann = site.enter(0, "ann");
    for (times, text) in (1..).zip([
        "{",
        r#"{"type":"fly"}"#,
        r#"{"type":"subscribe"}"#,
        r#"{"type":"unsubscribe","channel":"a"}"#,
        r#"{"type":"publish","channel":"news:a","data":1}"#,
        r#"{"type":"publish","channel":"small:a","data":12345}"#,
    ]) {
        (0..times).for_each(|_| site.say(ann, text));
    }
    for channel in ["a", "b", "c", "d"] {
        site.subscribe(ann, channel);
    }
    site.enter(0, "ann");
    let expected = [
        (ErrorCode::InvalidJson, 1),
        (ErrorCode::UnknownType, 2),
        (ErrorCode::BadRequest, 3),
        (ErrorCode::NotSubscribed, 4),
        (ErrorCode::Forbidden, 5),
        (ErrorCode::TooLarge, 6),
        (ErrorCode::TopicLimit, 1),
        (ErrorCode::ConnectionLimit, 1),
    ];
    for code in ErrorCode::ALL {
        let count = expected.iter().find(|(expected, _)| *expected == code).map_or(0, |(_, count)| *count);
        assert_eq!(site.figures().errors[code as usize], count, "{code:?}");
        assert_eq!(site.sent(|json| field(json, "code") == Some(code.name())), count, "{code:?}");
    }
    let refusals = site.figures().refusals;
    assert_eq!([Limit::Topics, Limit::UserConnections].map(|limit| refusals[limit as usize]), [1, 1]);
    assert_eq!(refusals.iter().sum::<u64>(), 2);
}

#[test]
fn an_error_told_at_the_door_is_counted() {
    let mut site = Site::start(1, |options| options.limits.accepts_per_s = Some(1));
    let entered = (0..10).filter_map(|_| site.knock(0, None)).count() as u64;
    let figures = site.figures();
    assert!((1..10).contains(&entered), "{entered} were let in");
    assert_eq!(figures.errors[ErrorCode::TryAgain as usize], 10 - entered);
    assert_eq!(figures.refusals[Limit::Accepts as usize], 10 - entered);
}

#[test]
fn a_session_comes_back_once() {
    let mut site = Site::start(2, |_| {});
    let (ann, bob, eve) = (site.enter(0, "ann"), site.enter(1, "bob"), site.enter(0, "eve"));
    site.subscribe(ann, "a");
    assert_eq!(site.figures().reconnections, 0);
    site.say(ann, r#"{"type":"subscribe","channel":"b","epoch":"never","last_id":7}"#);
    assert_eq!(site.figures().reconnections, 1);
    site.say(ann, r#"{"type":"join","room":"c","epoch":"never","last_id":7}"#);
    assert_eq!(site.figures().reconnections, 1);
    site.say(bob, r#"{"type":"join","room":"c","epoch":"0","last_id":0}"#);
    site.say(eve, r#"{"type":"subscribe","channel":"c","epoch":"0"}"#);
    assert_eq!(site.figures().reconnections, 2);
}

#[test]
fn a_channel_without_news_tells_none_to_who_comes_next() {
    let mut site = Site::start(2, |_| {});
    let (ann, bob) = (site.enter(0, "ann"), site.enter(1, "bob"));
    for _ in 0..3 {
        site.subscribe(ann, "a");
        site.say(ann, r#"{"type":"unsubscribe","channel":"a"}"#);
    }
    site.subscribe(bob, "a");
    site.tick();
    assert_eq!(site.sent_of_type("user_joined") + site.sent_of_type("user_left"), 0);
}

#[test]
fn what_there_is_now() {
    let mut site = Site::start(2, |options| {
        options.limits.connections_per_address = Some(9);
    });
    // Where addresses are counted, the handshake waits for their home core.
    let guests: Vec<Option<ConnId>> = (0..3).map(|_| site.knock(1, Some("guest"))).collect();
    assert_eq!((guests, site.figures().sessions), (vec![None; 3], 0));
    site.settle();
    assert_eq!((site.figures().sessions, site.figures().addresses), (3, 3));

    let mut site = Site::start(2, |_| {});
    let members = [(0, "ann"), (1, "ann"), (1, "bob")].map(|(on, user)| site.enter(on, user));
    for channel in ["a", "b"] {
        members.iter().for_each(|member| site.subscribe(*member, channel));
    }
    let users = members.map(|member| site.cores[site.core_of[&member.slot]].hub.user(member));
    assert_eq!(users, ["ann", "ann", "bob"].map(|user| Some(user.to_owned())));
    let figures = site.figures();
    assert_eq!((figures.sessions, figures.users, figures.topics), (3, 2, 2));
    assert_eq!((figures.subscriptions, figures.history_bytes, figures.owed_bytes), (6, 0, 0));
    site.say(members[0], r#"{"type":"unsubscribe","channel":"b"}"#);
    assert_eq!(site.figures().subscriptions, 5);
    site.block(members[2]);
    site.publish(members[0], "a");
    let figures = site.figures();
    assert!(figures.history_bytes > 300 && figures.owed_bytes > 300, "{figures:?}");
    site.leave(members[2]);
    let figures = site.figures();
    assert_eq!((figures.sessions, figures.users, figures.subscriptions), (2, 1, 3));
    assert_eq!(figures.owed_bytes, 0);
}

/// Subscribers that lose something are counted once until they have been told of it; what they lose each time.
#[test]
fn slow_consumers_are_counted_by_what_is_done_with_them() {
    for policy in SlowConsumer::ALL {
        let mut site = Site::start(1, |options| {
            let settings = Settings { slow_consumer: policy, ..Settings::CHANNEL };
            options.namespaces.add("*", settings).unwrap();
        });
        let (writer, slow, quick) = (site.enter(0, "w"), site.enter(0, "s"), site.enter(0, "q"));
        [slow, quick].iter().for_each(|member| site.subscribe(*member, "a"));
        let rounds = if policy == SlowConsumer::Disconnect { 1 } else { 3 };
        for round in 1..=rounds {
            site.block(slow);
            (0..10).for_each(|_| site.publish(writer, "a"));
            let figures = site.figures();
            let by_policy = std::array::from_fn(|at| if at == policy as usize { round } else { 0 });
            assert_eq!(figures.slow, by_policy, "{policy:?}");
            // Of ten messages of 300 bytes and more, two fit into 1,000 bytes; one where only the latest is wanted.
            let kept = if policy == SlowConsumer::Conflate { 1 } else { 2 };
            match policy {
                SlowConsumer::Disconnect => {
                    assert_eq!((figures.slow_disconnected, figures.dropped), (1, 0));
                    assert_eq!(site.ended, [(slow, CloseReason::SlowConsumer)]);
                }
                _ => assert_eq!((figures.slow_disconnected, figures.dropped), (0, round * (10 - kept))),
            }
            assert_eq!(figures.gaps, if policy == SlowConsumer::Disconnect { 0 } else { round - 1 });
            site.unblock(slow);
        }
        let (figures, reported) = (site.figures(), site.reported.len() as u64);
        assert_eq!(reported, rounds, "the log is told whenever one is counted");
        let is_it = |(conn, action, owed): &(ConnId, &str, usize)| {
            (*conn, *action) == (slow, policy.name()) && (300..=1_000).contains(owed)
        };
        assert!(site.reported.iter().all(is_it), "{:?}", site.reported);
        assert_eq!(figures.gaps, site.sent_of_type("gap"), "{policy:?}");
        assert_eq!(figures.deliveries, site.sent_of_type("message"), "{policy:?}");
        assert_eq!(figures.deliveries + figures.dropped, rounds * 20 - u64::from(rounds == 1) * 10);
    }
}

/// Who lags while the policy is changed is told the whole story all the same: what it gets and what it is told to have missed
/// follow each other.
#[test]
fn a_policy_is_changed_in_the_middle_of_a_lag() {
    let pairs = SlowConsumer::ALL.iter().flat_map(|from| SlowConsumer::ALL.map(|to| (*from, to)));
    for (from, to) in pairs {
        let with = |slow_consumer| Settings { slow_consumer, ..Settings::CHANNEL };
        let mut site = Site::start(1, |options| options.namespaces.add("*", with(from)).unwrap());
        let (writer, slow) = (site.enter(0, "w"), site.enter(0, "s"));
        site.subscribe(slow, "a");
        site.block(slow);
        let before = if from == SlowConsumer::Disconnect { 1 } else { 10 };
        (0..before).for_each(|_| site.publish(writer, "a"));
        site.tune(with(to));
        (0..2).for_each(|_| site.publish(writer, "a"));
        site.unblock(slow);
        site.publish(writer, "a");
        assert_eq!(site.ended.is_empty(), from != SlowConsumer::Disconnect, "{from:?} to {to:?}");
        if !site.ended.is_empty() {
            continue;
        }
        let number = |json: &str, name: &str| field(json, name).and_then(|text| text.parse::<u64>().ok());
        let mut told = 0;
        for (_, json) in site.sent.iter().filter(|(conn, _)| *conn == slow) {
            let (first, last) = match field(json, "type") {
                Some("message") => (number(json, "id"), number(json, "id")),
                Some("gap") => (number(json, "from"), number(json, "to")),
                _ => continue,
            };
            assert_eq!(first, Some(told + 1), "{from:?} to {to:?}: {json}");
            told = last.expect("a number");
        }
        assert_eq!(told, before + 3, "{from:?} to {to:?}");
    }
}

#[test]
fn each_delivery_is_counted_once() {
    let mut site = Site::start(2, |_| {});
    let mut members: Vec<ConnId> = (0..300).map(|at| site.enter(at % 2, "ann")).collect();
    members.iter().for_each(|member| site.subscribe(*member, "a"));
    site.publish(members[7], "a");
    assert_eq!(site.figures().deliveries, 300);
    // Who does not want it back does not get it.
    site.say(members[7], r#"{"type":"publish","channel":"a","data":1,"echo":false}"#);
    assert_eq!(site.figures().deliveries, 599);
    site.hand_over(members[7], r#"{"type":"publish","channel":"a","data":2,"echo":false}"#);
    site.hand_over(members[7], r#"{"type":"publish","channel":"a","data":3}"#);
    site.settle();
    assert_eq!(site.figures().deliveries, 599 + 299 + 300);
    // Several are given together, and not the same to all.
    let on = site.core_of[&members[7].slot];
    for number in 0..5 {
        let late = site.enter(on, "ann");
        members.push(late);
        site.hand_over(members[7], &format!(r#"{{"type":"publish","channel":"a","data":{number}}}"#));
        site.hand_over(late, r#"{"type":"subscribe","channel":"a"}"#);
    }
    site.settle();
    // News are deliveries too.
    site.say(members[0], r#"{"type":"join","room":"r"}"#);
    site.tick();
    let bob = site.enter(1, "bob");
    site.say(bob, r#"{"type":"join","room":"r"}"#);
    assert_eq!(site.sent_of_type("user_joined"), 1);
    let figures = site.figures();
    assert_eq!(figures.deliveries, site.sent_of_type("message") + 1);
    assert_eq!(figures.delivery_us.count(), figures.deliveries);
}

/// The least and the most that all deliveries together may have taken since a moment.
fn expect_latency(before: &Figures, after: &Figures, deliveries: u64, least: Duration, most: Duration) {
    let since = after.delivery_us.since(&before.delivery_us);
    assert_eq!(since.count(), deliveries);
    // Moments are cut to microseconds, so what lies between two may be one more than it was.
    let bounds = [least.as_micros(), most.as_micros() + 1].map(|each_us| each_us as u64 * deliveries);
    assert!((bounds[0]..=bounds[1]).contains(&since.sum), "{} µs, not in {bounds:?}", since.sum);
}

#[test]
fn latency_is_from_the_home_core_to_the_connection() {
    const WAIT: Duration = Duration::from_millis(2);
    let mut site = Site::start(2, |_| {});
    let channel = channel_of(0, &site);
    let members: Vec<ConnId> = (0..10).map(|_| site.enter(1, "ann")).collect();
    members.iter().for_each(|member| site.subscribe(*member, &channel));
    let writer = site.enter(0, "w");

    // It waits between the cores.
    let (before, start) = (site.figures(), Instant::now());
    site.hand_over(writer, &format!(r#"{{"type":"publish","channel":"{channel}","data":1}}"#));
    pass(WAIT);
    site.settle();
    expect_latency(&before, &site.figures(), 10, WAIT, start.elapsed());

    // It waits for one who does not read; the others have theirs.
    let (before, start) = (site.figures(), Instant::now());
    site.block(members[3]);
    site.publish(writer, &channel);
    expect_latency(&before, &site.figures(), 9, Duration::ZERO, start.elapsed());
    let blocked = site.figures();
    pass(WAIT);
    site.unblock(members[3]);
    expect_latency(&blocked, &site.figures(), 1, WAIT, start.elapsed());

    // It waits in the history, as the ring is full; of some the subscribers are only told.
    let (before, start) = (site.figures(), Instant::now());
    for number in 0..20 {
        site.hand_over(writer, &format!(r#"{{"type":"publish","channel":"{channel}","data":{number}}}"#));
    }
    pass(WAIT);
    site.settle();
    expect_latency(&before, &site.figures(), 200, WAIT, start.elapsed());
}
