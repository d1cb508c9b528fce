//! Cores, the rings between them, and clients, moved by one random step after the other.

use super::client::{Client, Ledger, field, number};
use crate::buf::Payload;
use crate::ds::Rate;
use crate::handler::{Action, ConnId, Decision, Handler, Kind, Message, Origin, Outbox, Work};
use crate::hub::handshake::Newcomer;
use crate::hub::{
    Board, Budget, Connect, Hub, Limits, Mail, Name, Namespaces, Open, Options, Publishers, Settings,
    SlowConsumer,
};
use crate::proto::address::AddressKey;
use crate::proto::client::decode_server_header;
use crate::proto::close::CloseReason;
use crate::proto::command::ErrorCode;
use rtrb::Consumer;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Topics with every kind of settings.
const TOPICS: [&str; 6] = ["cut:a", "cut:b", "newest:a", "oldest:a", "latest:a", "bare:a"];
const USERS: [Option<&str>; 4] = [Some("ann"), Some("bob"), None, Some("cat")];
const QUEUE_BYTES: usize = 700;
const ADDRESSES: usize = 3;

/// splitmix64: Steele et al., "Fast splittable pseudorandom number generators", 2014.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }
}

struct Core {
    hub: Hub<Open>,
    out: Outbox<Mail>,
    incoming: Vec<Option<Consumer<Mail>>>,
}

/// A publication that was asked for.
struct Asked {
    topic: String,
    data: String,
    /// The client that does not want it back.
    silent_for: Option<usize>,
    offset: Option<u64>,
    refused: bool,
}

/// What clients were told, and the log, that is counted too.
#[derive(Default)]
struct Told {
    errors: BTreeMap<String, u64>,
    /// Errors that were one too many: of those the Close tells.
    too_many: u64,
    slow_gaps: u64,
    slow_consumers: u64,
}

impl Told {
    fn note(&mut self, json: &str) {
        match (field(json, "type"), field(json, "code"), field(json, "reason")) {
            (Some("error"), Some(code), _) => *self.errors.entry(code.to_owned()).or_default() += 1,
            (Some("gap"), _, Some("slow_consumer")) => self.slow_gaps += 1,
            _ => {}
        }
    }
}

struct World {
    limits: Limits,
    board: Arc<Board>,
    told: Told,
    cores: Vec<Core>,
    clients: Vec<Client>,
    random: Random,
    ledger: Ledger,
    asked: BTreeMap<u64, Asked>,
    ids: u64,
    generations: u32,
    now_ms: u64,
    tells: bool,
}

fn namespaces() -> Namespaces {
    let settings = |slow_consumer, history_count_max| Settings {
        slow_consumer,
        history_count_max,
        presence_events_max: if history_count_max == 0 { 0 } else { 3 },
        publishers: Publishers::Anyone,
        ..Settings::CHANNEL
    };
    let mut namespaces = Namespaces::default();
    for (pattern, settings) in [
        ("cut:a", settings(SlowConsumer::Disconnect, 50)),
        ("cut:b", settings(SlowConsumer::Disconnect, 3)),
        ("newest:*", settings(SlowConsumer::DropNewest, 4)),
        ("oldest:*", settings(SlowConsumer::DropOldest, 50)),
        ("latest:*", settings(SlowConsumer::Conflate, 4)),
        ("bare:*", settings(SlowConsumer::DropOldest, 0)),
    ] {
        namespaces.add(pattern, settings).unwrap();
    }
    namespaces
}

/// In half of all cases none.
fn limits(random: &mut Random) -> Limits {
    if random.one_in(2) {
        return Limits::NONE;
    }
    Limits {
        connections_per_address: (!random.one_in(3)).then_some(1 + random.below(3) as u32),
        accepts_per_address: (!random.one_in(3)).then_some(Rate::new(1, 3)),
        connections_per_user: (!random.one_in(3)).then_some(2),
        ..Limits::NONE
    }
}

impl World {
    fn new(case: u64, tells: bool) -> World {
        let mut random = Random(case);
        let count = 1 + random.below(4);
        let entries = [8, 16, 64][random.below(3)];
        let budget_bytes = if random.one_in(4) { 0 } else { 64 << 20 };
        let limits = limits(&mut random);
        let board = Arc::<Board>::default();
        let options = Arc::new(Options {
            namespaces: namespaces(),
            topics_per_connection_max: 4,
            send_queue_bytes_max: QUEUE_BYTES,
            replay_bytes_max: 600,
            history_bytes_max: [500, 1 << 20][random.below(2)],
            slow_budget: Budget::new(budget_bytes),
            refuse_in_band: random.one_in(2),
            limits,
            board: Arc::clone(&board),
            ..Options::for_tests()
        });
        let mut producers: Vec<Vec<_>> = (0..count).map(|_| (0..count).map(|_| None).collect()).collect();
        let mut consumers: Vec<Vec<_>> = (0..count).map(|_| (0..count).map(|_| None).collect()).collect();
        for from in 0..count {
            for to in (0..count).filter(|to| *to != from) {
                let (producer, consumer) = rtrb::RingBuffer::new(entries);
                producers[from][to] = Some(producer);
                consumers[to][from] = Some(consumer);
            }
        }
        let core = |(number, (rings, incoming))| Core {
            hub: Hub::new(Arc::clone(&options), Open),
            out: Outbox::new(number, rings),
            incoming,
        };
        World {
            limits,
            board,
            told: Told::default(),
            cores: producers.into_iter().zip(consumers).enumerate().map(core).collect(),
            clients: (0..2 + random.below(5)).map(|number| Client::new(number, number % count)).collect(),
            random,
            ledger: Ledger::new(),
            asked: BTreeMap::new(),
            ids: 0,
            generations: 0,
            now_ms: 0,
            tells,
        }
    }

    fn tell(&self, story: impl FnOnce() -> String) {
        if self.tells {
            println!("{}", story());
        }
    }

    fn step(&mut self) {
        let client = self.random.below(self.clients.len());
        let core = self.random.below(self.cores.len());
        match self.random.below(40) {
            0..10 => drop(self.carry_mail()),
            10..16 => drop(self.turn(core)),
            16..19 => self.subscribe(client),
            19 if self.random.one_in(8) => self.drain(core),
            19 => self.command(client, "unsubscribe", ""),
            20..31 => self.publish(client),
            31..33 => self.stall(client),
            33..35 => self.read_again(client),
            35 if self.random.one_in(3) => self.misbehave(client),
            35 => self.close(client),
            36..39 => self.receive(client, 1),
            39 if self.random.one_in(2) => self.let_in(),
            _ => self.tick(),
        }
        for client in 0..self.clients.len() {
            if self.clients[client].conn.is_none() && self.random.one_in(4) {
                self.open(client);
            }
            if self.random.one_in(3) {
                self.receive(client, 3);
            }
            if self.clients[client].closing && self.random.one_in(20) {
                self.close(client);
            }
        }
    }

    fn open(&mut self, client: usize) {
        self.generations += 1;
        let conn = ConnId { slot: client as u32, generation: self.generations };
        let user = USERS[self.random.below(USERS.len())].map(Name::new);
        let on = self.random.below(self.cores.len());
        let it = &mut self.clients[client];
        (it.conn, it.core, it.deciding) = (Some(conn), on, true);
        it.address = self.random.below(ADDRESSES) as u32;
        let address = AddressKey::of(std::net::Ipv4Addr::from_bits(it.address).into());
        // The application may take its time to say who it is.
        let is_later = self.random.one_in(4);
        self.tell(|| {
            format!("client {client} opens on core {on} from {address}, {user:?}, later: {is_later}")
        });
        let core = &mut self.cores[on];
        core.hub.begin(&core.out);
        let newcomer = Newcomer::new(address, (!is_later).then_some(user));
        let decision = core.hub.go_on(conn, newcomer, &mut core.out);
        core.hub.finish(&mut core.out);
        self.decide(client, decision);
        self.apply(on);
    }

    /// The core stops, and says so to each connection with a delay of its own; one that waits to be welcomed hears it after that.
    fn drain(&mut self, on: usize) {
        for client in 0..self.clients.len() {
            let it = &self.clients[client];
            let (Some(conn), true) = (it.conn, it.core == on) else { continue };
            let core = &mut self.cores[on];
            let welcomed = core.hub.sessions.get(conn).is_some_and(|session| session.is_welcomed());
            core.hub.on_drain(conn, client as u64, &mut core.out);
            let said = core.out.take_actions(Vec::new());
            assert_eq!(
                said.len(),
                usize::from(welcomed),
                "to those who were welcomed, the others hear it then"
            );
            for action in said {
                let Action::Send { to, frame, .. } = action else { panic!("a frame and nothing else") };
                let header = decode_server_header(&frame).unwrap().expect("a frame");
                let json = std::str::from_utf8(&frame[header.header_len..]).expect("text");
                assert_eq!((to, field(json, "type")), (conn, Some("server_shutdown")));
                assert_eq!(number(json, "reconnectDelay"), client as u64);
            }
        }
    }

    /// The application lets in all who wait for it.
    fn let_in(&mut self) {
        for client in 0..self.clients.len() {
            let it = &self.clients[client];
            let (Some(conn), true, on) = (it.conn, it.deciding, it.core) else { continue };
            let user = USERS[self.random.below(USERS.len())].map(str::to_owned);
            let connect = Box::new(Connect::Accept { user });
            let core = &mut self.cores[on];
            core.hub.on_mail(Origin::Thread, Mail::Connect { conn, connect }, &mut core.out);
            self.apply(on);
        }
    }

    /// What became of a handshake.
    fn decide(&mut self, client: usize, decision: Decision) {
        let it = &mut self.clients[client];
        let (Some(conn), true, on) = (it.conn, it.deciding, it.core) else {
            panic!("client {client} is decided about twice")
        };
        match decision {
            Decision::Later => {}
            Decision::Accept { .. } => {
                it.deciding = false;
                let address = it.address;
                let same = |it: &&Client| it.address == address && it.conn.is_some() && !it.deciding;
                let connections = self.clients.iter().filter(same).count() as u32;
                assert!(self.limits.connections_per_address.is_none_or(|most| connections <= most));
                let core = &mut self.cores[on];
                core.hub.on_open(conn, &mut core.out);
                self.apply(on);
            }
            decision => {
                if let Decision::Refuse { frames, .. } = decision {
                    let header = decode_server_header(&frames).unwrap().expect("a frame");
                    self.told.note(std::str::from_utf8(&frames[header.header_len..]).expect("text"));
                }
                self.tell(|| format!("client {client} is turned away"));
                self.clients[client].lose_connection();
            }
        }
    }

    /// The connection is gone, whoever ended it.
    fn close(&mut self, client: usize) {
        let it = &mut self.clients[client];
        let (Some(conn), deciding, on) = (it.conn, it.deciding, it.core) else { return };
        it.lose_connection();
        self.tell(|| format!("client {client} closes"));
        let core = &mut self.cores[on];
        match deciding {
            true => core.hub.on_abandon(conn, &mut core.out),
            false => core.hub.on_close(conn, CloseReason::PeerEof, &mut core.out),
        }
        self.apply(on);
    }

    fn command(&mut self, client: usize, kind: &str, more: &str) {
        let topic = TOPICS[self.random.below(TOPICS.len())];
        self.send(client, topic, kind, more);
    }

    fn send(&mut self, client: usize, topic: &str, kind: &str, more: &str) -> u64 {
        self.ids += 1;
        let it = &mut self.clients[client];
        if it.conn.is_some() {
            let text = format!(r#"{{"type":"{kind}","id":{},"channel":"{topic}"{more}}}"#, self.ids);
            it.awaited.insert(self.ids, text.clone());
            it.unsent.push_back(text);
        }
        self.ids
    }

    fn subscribe(&mut self, client: usize) {
        let topic = TOPICS[self.random.below(TOPICS.len())];
        let left = self.clients[client].left.get(topic);
        let more = left.map(|left| format!(r#","epoch":"{}","last_id":{}"#, left.epoch, left.next - 1));
        self.send(client, topic, "subscribe", &more.unwrap_or_default());
    }

    fn publish(&mut self, client: usize) {
        if self.clients[client].conn.is_none() {
            return;
        }
        let topic = TOPICS[self.random.below(TOPICS.len())];
        let echo = !self.random.one_in(4);
        let data = format!("{}0{}", self.ids + 1, "7".repeat(self.random.below(60)));
        let id = self.send(client, topic, "publish", &format!(r#","data":{data},"echo":{echo}"#));
        let silent_for = (!echo).then_some(client);
        let topic = topic.to_owned();
        self.asked.insert(id, Asked { topic, data, silent_for, offset: None, refused: false });
    }

    /// The server receives what a client has sent, unless it holds it; what came together is handed over together.
    fn receive(&mut self, client: usize, most: usize) {
        let it = &self.clients[client];
        if it.held || it.deciding || it.closing {
            return;
        }
        for _ in 0..most {
            let it = &mut self.clients[client];
            let (Some(conn), false) = (it.conn, it.closing) else { return };
            let Some(text) = it.unsent.pop_front() else { return };
            let on = it.core;
            if text != "{" {
                self.tell(|| format!("client {client} → {text}"));
            }
            let mut bytes = text.into_bytes();
            let core = &mut self.cores[on];
            core.hub.on_message(conn, Message::new(conn, Kind::Text, &mut bytes), &mut core.out);
            self.apply(on);
        }
    }

    /// More errors than are forgiven: the hub ends it, whatever it is owed.
    fn misbehave(&mut self, client: usize) {
        self.tell(|| format!("client {client} sends what is no command, again and again"));
        if self.clients[client].conn.is_none() {
            return;
        }
        for _ in 0..=100 {
            self.clients[client].unsent.push_back("{".to_owned());
        }
        self.receive(client, usize::MAX);
    }

    fn stall(&mut self, client: usize) {
        self.clients[client].stalled = true;
    }

    fn read_again(&mut self, client: usize) {
        let it = &mut self.clients[client];
        let Some(conn) = it.conn else { return };
        it.stalled = false;
        if it.closing {
            return;
        }
        let on = it.core;
        while let Some(json) = self.clients[client].socket.pop_front() {
            self.read(client, &json);
        }
        if std::mem::take(&mut self.clients[client].blocked) {
            self.tell(|| format!("client {client} has room"));
            let core = &mut self.cores[on];
            core.hub.on_writable(conn, &mut core.out);
            self.apply(on);
        }
    }

    fn read(&mut self, client: usize, json: &str) {
        self.tell(|| format!("client {client} ← {json}"));
        let kind = field(json, "type");
        if matches!(kind, Some("published" | "error"))
            && let Some(asked) = field(json, "id").and_then(|id| self.asked.get_mut(&id.parse().unwrap()))
        {
            asked.refused = kind == Some("error");
            asked.offset = (kind == Some("published")).then(|| number(json, "last_id"));
        }
        self.clients[client].read(json, &mut self.ledger);
    }

    fn tick(&mut self) {
        self.now_ms += [300, 1_000, 70_000][self.random.below(3)];
        for on in 0..self.cores.len() {
            let core = &mut self.cores[on];
            core.out.set_unix_ms(self.now_ms);
            core.hub.on_tick(self.now_ms, &mut core.out);
            self.apply(on);
        }
    }

    /// One core sees one mail of one ring; false when all rings are empty.
    fn carry_mail(&mut self) -> bool {
        let (count, start) = (self.cores.len(), self.random.below(16));
        for step in 0..count * count {
            let at = (start + step) % (count * count);
            let (to, from) = (at / count, at % count);
            let core = &mut self.cores[to];
            let Some(mail) = core.incoming[from].as_mut().and_then(|ring| ring.pop().ok()) else { continue };
            core.hub.on_mail(Origin::Core(from), mail, &mut core.out);
            self.apply(to);
            return true;
        }
        false
    }

    fn turn(&mut self, on: usize) -> bool {
        let core = &mut self.cores[on];
        let work = core.hub.on_turn(&mut core.out);
        self.apply(on);
        work != Work::None
    }

    /// Does what a callback asked for, as the reactor would.
    fn apply(&mut self, on: usize) {
        for action in self.cores[on].out.take_actions(Vec::new()) {
            let (Action::Send { to: conn, .. }
            | Action::Close { conn, .. }
            | Action::End { conn, .. }
            | Action::Hold { conn }
            | Action::Resume { conn }
            | Action::ReportSlow { conn, .. }
            | Action::Decide { conn, .. }) = &action;
            let client = conn.slot as usize;
            if self.clients[client].conn != Some(*conn) {
                continue;
            }
            match action {
                Action::Send { frame, .. } => self.put(client, &frame),
                Action::Hold { .. } => self.clients[client].held = true,
                Action::Resume { .. } => self.clients[client].held = false,
                Action::Close { .. } | Action::End { .. } => {
                    let reason = if let Action::End { reason, .. } = action { Some(reason) } else { None };
                    self.told.too_many += u64::from(reason == Some(CloseReason::TooManyErrors));
                    self.tell(|| format!("client {client} is ended"));
                    self.clients[client].closing = true;
                }
                Action::Decide { decision, .. } => self.decide(client, decision),
                Action::ReportSlow { .. } => self.told.slow_consumers += 1,
            }
        }
    }

    /// Frames arrive at a client's socket; a stalled one's fills, and the hub is told.
    fn put(&mut self, client: usize, frames: &Payload) {
        let mut rest = &frames[..];
        while let Some(header) = decode_server_header(rest).expect("a frame") {
            let end = header.header_len + header.payload_len as usize;
            let json = std::str::from_utf8(&rest[header.header_len..end]).expect("text").to_owned();
            rest = &rest[end..];
            self.told.note(&json);
            if self.clients[client].closing {
                continue; // its Close has been said
            }
            if self.clients[client].stalled {
                self.clients[client].socket.push_back(json);
            } else {
                self.read(client, &json);
            }
        }
        let it = &mut self.clients[client];
        if it.stalled && !it.closing && !std::mem::replace(&mut it.blocked, true) {
            let (on, conn) = (it.core, it.conn.expect("it is connected"));
            self.tell(|| format!("client {client} is full"));
            let core = &mut self.cores[on];
            core.hub.on_blocked(conn, &mut core.out);
        }
    }

    /// Everything in flight arrives, everybody reads.
    fn settle(&mut self) {
        for _ in 0..100_000 {
            self.let_in();
            let mut moved = false;
            for on in 0..self.cores.len() {
                moved |= self.turn(on);
            }
            for client in 0..self.clients.len() {
                if self.clients[client].closing {
                    self.close(client);
                    moved = true;
                }
                moved |= self.clients[client].blocked;
                self.read_again(client);
                moved |= !self.clients[client].unsent.is_empty() && !self.clients[client].held;
                self.receive(client, 1);
            }
            moved |= self.carry_mail(); // last: all of the above may have posted some
            if !moved {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    /// At rest each subscriber has everything, each command its reply, and each skip its reason.
    fn check_at_rest(&self) {
        for client in &self.clients {
            assert!(client.awaited.is_empty(), "client {}: no reply to {:?}", client.number, client.awaited);
            assert!(!client.held && !client.deciding && (client.conn.is_none() || client.welcomed));
            let mut skipped = client.skipped.clone();
            for (topic, stand) in &client.stands {
                let (epoch, last) = self.last(topic);
                assert_eq!(epoch, stand.epoch, "a topic with subscribers has one epoch");
                assert!(stand.next <= last + 1, "it got more of {topic} than there is");
                skipped.extend((stand.next..=last).map(|offset| (topic.clone(), epoch.clone(), offset)));
            }
            for (topic, epoch, offset) in skipped {
                let data = self.ledger.get(&(topic.clone(), epoch.clone(), offset));
                // A publication nobody has seen and nobody was told of: its publisher has gone with the reply.
                let own = self.asked.values().any(|asked| {
                    let by_reply = asked.topic == topic && asked.offset == Some(offset);
                    let by_data = data == Some(&asked.data);
                    asked.silent_for == Some(client.number) && (by_reply || by_data || asked.offset.is_none())
                });
                assert!(own, "client {} misses {offset} of {topic} and was not told", client.number);
            }
        }
        for ((topic, _, offset), data) in &self.ledger {
            let asked = self.asked.values().find(|asked| &asked.data == data).expect("somebody published it");
            assert!(&asked.topic == topic && !asked.refused, "{data} in {topic}");
            assert!(asked.offset.is_none_or(|told| told == *offset), "the publisher was told another offset");
        }
    }

    fn last(&self, topic: &str) -> (String, u64) {
        let home = Name::new(topic).home(self.cores.len());
        self.cores[home].hub.homes.position(topic).expect("it has subscribers")
    }

    /// When everybody has gone, nothing is held for anybody; when topics have lingered, they are gone too.
    fn check_nothing_is_held(&mut self) {
        for client in 0..self.clients.len() {
            self.close(client);
        }
        self.settle();
        let figures = self.board.figures();
        assert_eq!(
            (figures.slow.iter().sum(), figures.gaps),
            (self.told.slow_consumers, self.told.slow_gaps)
        );
        let mut untold = 0;
        for code in ErrorCode::ALL {
            let told = self.told.errors.get(code.name()).copied().unwrap_or(0);
            untold += figures.errors[code as usize].checked_sub(told).expect("no more are told than counted");
        }
        assert_eq!(untold, self.told.too_many, "errors that nobody was told of");
        assert_eq!((figures.sessions, figures.users, figures.subscriptions), (0, 0, 0));
        assert_eq!(figures.owed_bytes, 0, "kept for who is gone");
        for core in &self.cores {
            assert!(core.hub.locals.is_empty(), "subscribers that are gone");
            assert!(core.hub.homes.is_without_subscribers(), "counted, but gone");
            assert_eq!(core.hub.addresses.connections(), 0, "connections of addresses that are gone");
            assert!(core.hub.newcomers.is_empty() && core.hub.guards.is_empty(), "watched, but gone");
        }
        for _ in 0..3 {
            self.now_ms += 3_600_000;
            for core in &mut self.cores {
                core.out.set_unix_ms(self.now_ms);
                core.hub.on_tick(self.now_ms, &mut core.out);
                core.hub.on_turn(&mut core.out);
            }
        }
        let figures = self.board.figures();
        assert_eq!((figures.topics, figures.history_bytes), (0, 0), "kept for nobody");
        assert_eq!(figures.addresses, 0, "an address is forgotten when it may have all again");
    }
}

/// Plays one case.
pub fn play(case: u64, tells: bool) {
    let mut world = World::new(case, tells);
    let steps = 30 + world.random.below(120);
    for _ in 0..steps {
        world.step();
    }
    world.settle();
    world.check_at_rest();
    world.check_nothing_is_held();
}
