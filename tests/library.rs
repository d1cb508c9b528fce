//! The hub as a library: what Rust code asks of a running server, seen by clients on real sockets.
//!
//! Everything here runs with one core, where every home is the own one, and with five. Nothing waits for a time to
//! pass: what is asked has an answer, and what clients hear is read until it comes.

mod common;

use common::client::{Client as Socket, KEYS, upgrade_request, upgrade_request_with};
use common::frames::{self, TEXT};
use common::{PATIENCE, eventually};
use megasock::config::Config;
use megasock::hub::{Client, Connect, Figures, Hooks, Mail, Namespaces, Open, Settings};
use megasock::server::{HistoryPage, Invalid, Unanswered, UserPage};
use megasock::{ConnId, Handle, Request, Response, Running, Server, Status};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

/// One core, and more than the machines have that run this.
const SIZES: [usize; 2] = [1, 5];

/// A server of this process, gone with the test.
struct Site {
    running: Option<Running<Mail>>,
    handle: Handle<Mail>,
}

impl Site {
    fn start<K: Hooks>(cores: usize, make: impl Fn(usize) -> K + Send + Sync + 'static) -> Site {
        Site::start_with(cores, Namespaces::default(), make)
    }

    fn start_with<K: Hooks>(
        cores: usize,
        namespaces: Namespaces,
        make: impl Fn(usize) -> K + Send + Sync + 'static,
    ) -> Site {
        let config = Config {
            listen: ([127, 0, 0, 1], 0).into(),
            reactors: Some(cores),
            max_connections: Some(500),
            namespaces,
            ..Config::default()
        };
        let running = Server::builder().config(config).hub(make).start().expect("a server");
        let handle = running.handle().clone();
        assert_eq!(handle.cores(), cores);
        Site { running: Some(running), handle }
    }

    fn enter(&self, query: &str) -> Member {
        Member::enter(&self.handle, query)
    }

    /// Connections of `user` until they are on `cores` cores: the kernel chooses where each goes.
    fn enter_on(&self, cores: usize, user: &str) -> Vec<Member> {
        let mut members = Vec::new();
        let mut found = BTreeSet::new();
        while found.len() < cores {
            assert!(members.len() < 200, "connections come to cores {found:?} alone");
            let member = self.enter(&format!("?user={user}"));
            found.insert(member.core());
            members.push(member);
        }
        members
    }

    fn figures(&self) -> Figures {
        self.handle.figures()
    }

    /// Everybody who left has been noticed.
    fn expect_nobody(&self) {
        eventually("no session and no user is left", PATIENCE, || {
            let figures = self.figures();
            (figures.sessions == 0 && figures.users == 0).then_some(())
        });
    }

    fn stop(&mut self) {
        self.handle.stop(Duration::ZERO);
        if let Some(running) = self.running.take() {
            running.wait();
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A client that has been welcomed.
struct Member {
    socket: Socket,
    welcome: Value,
}

impl Member {
    fn enter(handle: &Handle<Mail>, query: &str) -> Member {
        let mut socket = Socket::connect(handle.local_address());
        socket.send(upgrade_request(&format!("/ws{query}")).as_bytes());
        socket.accepted(KEYS[0].1);
        let mut member = Member { socket, welcome: Value::Null };
        member.welcome = member.hear();
        assert_eq!(member.welcome["type"], "welcome");
        member
    }

    fn id(&self) -> &str {
        self.welcome["connectionId"].as_str().expect("an id")
    }

    fn core(&self) -> usize {
        usize::from_str_radix(self.id().split('-').next().unwrap(), 16).expect("core-slot-generation")
    }

    fn hear_text(&mut self) -> String {
        let (opcode, body) = self.socket.message();
        assert_eq!(opcode, TEXT);
        String::from_utf8(body).unwrap()
    }

    fn hear(&mut self) -> Value {
        serde_json::from_str(&self.hear_text()).expect("JSON")
    }

    /// Sends a command and expects its reply next.
    fn ask(&mut self, mut command: Value) -> Value {
        command["id"] = json!("q");
        self.socket.send(&frames::message(TEXT, command.to_string().as_bytes()));
        let reply = self.hear();
        assert_eq!(reply["id"], "q", "{reply}");
        reply
    }

    fn subscribe(&mut self, channel: &str) -> Value {
        let reply = self.ask(json!({ "type": "subscribe", "channel": channel }));
        assert_eq!(reply["type"], "subscribed", "{reply}");
        reply
    }

    fn unsubscribe(&mut self, channel: &str) {
        let reply = self.ask(json!({ "type": "unsubscribe", "channel": channel }));
        assert_eq!(reply["type"], "unsubscribed", "{reply}");
    }

    /// The next thing it hears is this publication; all else would be too much, or too little before it.
    fn expect_message(&mut self, channel: &str, id: u64, data: &Value) {
        let heard = self.hear();
        assert_eq!(
            (&heard["type"], &heard["channel"], &heard["id"], &heard["data"]),
            (&json!("message"), &json!(channel), &json!(id), data)
        );
    }

    /// The server closes it like this.
    fn expect_cut(&mut self, code: u16, reason: &str) {
        let frame = self.socket.close_frame();
        assert_eq!((frame.close_code(), &frame.payload[2..]), (Some(code), reason.as_bytes()));
    }
}

fn published(handle: &Handle<Mail>, topic: &str, data: &str) -> u64 {
    handle.publish(topic, data).unwrap().wait(PATIENCE).unwrap()
}

fn tasks() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

#[test]
fn threads_and_tasks_publish_and_every_subscriber_hears_all_in_order() {
    for cores in SIZES {
        let site = Site::start(cores, |_| Open);
        let mut members: Vec<Member> = (0..3 * cores).map(|_| site.enter("")).collect();
        members.iter_mut().for_each(|member| drop(member.subscribe("scores")));
        thread::scope(|scope| {
            for writer in 0..4 {
                let handle = site.handle.clone();
                scope.spawn(move || {
                    let offsets: Vec<u64> =
                        (0..25).map(|n| published(&handle, "scores", &format!("[{writer},{n}]"))).collect();
                    assert!(offsets.is_sorted(), "a thread's own are in its order: {offsets:?}");
                });
            }
        });
        let offsets: BTreeSet<u64> = tasks().block_on(async {
            let publish = |n: u64| tokio::task::spawn(site.handle.publish("scores", n.to_string()).unwrap());
            let spawned: Vec<_> = (0..50).map(publish).collect();
            let mut offsets = BTreeSet::new();
            for task in spawned {
                offsets.insert(task.await.unwrap().unwrap());
            }
            offsets
        });
        assert_eq!(offsets, (101..=150).collect());
        for member in &mut members {
            let mut next = [0; 4];
            for id in 1..=150 {
                let heard = member.hear();
                assert_eq!((&heard["channel"], &heard["id"]), (&json!("scores"), &json!(id)), "{heard}");
                assert!(heard.get("userId").is_none(), "a server has no name: {heard}");
                if let Some([writer, n]) = heard["data"].as_array().map(Vec::as_slice) {
                    let next = &mut next[writer.as_u64().unwrap() as usize];
                    assert_eq!(n, &json!(*next), "a thread's messages keep its order");
                    *next += 1;
                }
            }
            assert_eq!(next, [25; 4]);
        }
    }
}

#[test]
fn data_passes_byte_for_byte_to_channels_and_rooms() {
    for cores in SIZES {
        let site = Site::start(cores, |_| Open);
        let mut member = site.enter("?user=ann");
        member.subscribe("scores");
        assert_eq!(member.ask(json!({ "type": "join", "room": "lobby" }))["members"], 1);
        let data = r#"{ "b" : 1.50, "a":[ 1e3 ,"\u00e9é/\/"], "b":null }"#;
        assert_eq!(published(&site.handle, "scores", &format!("  {data}\n")), 1);
        let text = member.hear_text();
        assert!(
            text.starts_with(&format!(r#"{{"type":"message","channel":"scores","id":1,"data":{data},"ts":"#)),
            "{text}"
        );
        assert_eq!(published(&site.handle, "room:lobby", data), 1);
        let text = member.hear_text();
        let start =
            format!(r#"{{"type":"room_message","roomId":"lobby","id":1,"payload":{data},"timestamp":"#);
        assert!(text.starts_with(&start), "{text}");
    }
}

#[test]
fn a_user_is_reached_on_every_connection_and_core() {
    for cores in SIZES {
        let site = Site::start(cores, |_| Open);
        let mut anns = site.enter_on(cores.min(3), "ann");
        let mut bob = site.enter("?user=bob");
        let send = |data: &str| site.handle.send_to_user("ann", data).unwrap();
        assert_eq!(send(r#"{"a":1}"#).wait(PATIENCE), Ok(anns.len()));
        for ann in &mut anns {
            let heard = ann.hear();
            assert_eq!((&heard["type"], &heard["payload"]), (&json!("direct_message"), &json!({ "a": 1 })));
            assert_eq!(heard.get("fromUserId"), Some(&Value::Null), "the server itself: {heard}");
            assert!(heard["timestamp"].as_u64().is_some_and(|ms| ms > 1_700_000_000_000), "{heard}");
        }
        assert_eq!(site.handle.send_to_user("nobody", "1").unwrap().wait(PATIENCE), Ok(0));
        let mut left = anns.split_off(anns.len() / 2);
        drop(anns);
        eventually("those who left are not counted", PATIENCE, || {
            (send("2").wait(PATIENCE).unwrap() == left.len()).then_some(())
        });
        left.iter_mut().for_each(|ann| assert_eq!(ann.hear()["payload"], 2));
        // Whatever else was for ann, bob has heard nothing.
        assert_eq!(bob.ask(json!({ "type": "ping" }))["type"], "pong");
    }
}

#[test]
fn presence_is_paged_by_name() {
    for cores in SIZES {
        let mut namespaces = Namespaces::default();
        namespaces.add("quiet", Settings { presence: false, ..Settings::CHANNEL }).unwrap();
        let site = Site::start_with(cores, namespaces, |_| Open);
        let page = |topic: &str, after: Option<&str>, limit| {
            site.handle.presence(topic, after, limit).unwrap().wait(PATIENCE).unwrap()
        };
        let users = |names: &[(&str, u32)], total| UserPage {
            users: names.iter().map(|(name, connections)| ((*name).to_owned(), *connections)).collect(),
            total,
        };
        let mut members: Vec<Member> = ["?user=dan", "?user=ann", "?user=cat", "?user=bob", "?user=ann", ""]
            .map(|q| site.enter(q))
            .into();
        for member in &mut members {
            member.subscribe("scores");
            member.subscribe("quiet");
        }
        assert_eq!(page("scores", None, 2), users(&[("ann", 2), ("bob", 1)], 4));
        assert_eq!(page("scores", Some("bob"), 2), users(&[("cat", 1), ("dan", 1)], 4));
        assert_eq!(page("scores", Some("dan"), 2), users(&[], 4));
        assert_eq!(page("scores", Some("annabel"), usize::MAX).users.len(), 3);
        assert_eq!(page("scores", None, 0), users(&[], 4));
        for empty in ["quiet", "unheard of", "room:scores"] {
            assert_eq!(page(empty, None, 10), users(&[], 0), "{empty}");
        }
        members[4].unsubscribe("scores");
        assert_eq!(page("scores", None, 1), users(&[("ann", 1)], 4));
        drop(members);
        eventually("nobody is present", PATIENCE, || (page("scores", None, 10).total == 0).then_some(()));
    }
}

#[test]
fn history_gives_the_newest_or_what_came_since() {
    for cores in SIZES {
        let mut namespaces = Namespaces::default();
        namespaces.add("scores", Settings { history_count_max: 5, ..Settings::CHANNEL }).unwrap();
        namespaces.add("none", Settings { history_count_max: 0, ..Settings::CHANNEL }).unwrap();
        let site = Site::start_with(cores, namespaces, |_| Open);
        let history = |topic: &str, since, limit| {
            site.handle.history(topic, since, limit).unwrap().wait(PATIENCE).unwrap()
        };
        let ids = |page: &HistoryPage| -> Vec<u64> {
            let id = |item: &String| serde_json::from_str::<Value>(item).unwrap()["id"].as_u64().unwrap();
            page.messages.iter().map(id).collect()
        };
        assert_eq!((1..=8).map(|n| published(&site.handle, "scores", &n.to_string())).max(), Some(8));
        let epoch = site.enter("").subscribe("scores")["epoch"].as_str().unwrap().to_owned();
        for (since, limit, expected) in [
            (None, 2, vec![7, 8]),
            (None, 100, vec![4, 5, 6, 7, 8]),
            (Some(0), 100, vec![4, 5, 6, 7, 8]),
            (Some(5), 2, vec![6, 7]),
            (Some(8), 2, vec![]),
            (Some(u64::MAX), 2, vec![]),
            (None, 0, vec![]),
        ] {
            let page = history("scores", since, limit);
            assert_eq!((&page.epoch, page.last_id, ids(&page)), (&epoch, 8, expected), "{since:?} {limit}");
        }
        let newest: Value = serde_json::from_str(&history("scores", None, 1).messages[0]).unwrap();
        assert_eq!((&newest["data"], newest["ts"].is_u64()), (&json!(8), true), "{newest}");
        published(&site.handle, "none", "1");
        assert_eq!((history("none", None, 9).last_id, history("none", None, 9).messages), (1, vec![]));
        assert_eq!((history("new", None, 9).last_id, history("new", None, 9).messages), (0, vec![]));
        published(&site.handle, "room:lobby", r#""hi""#);
        let item: Value = serde_json::from_str(&history("room:lobby", None, 1).messages[0]).unwrap();
        assert_eq!((&item["id"], &item["payload"]), (&json!(1), &json!("hi")), "{item}");
    }
}

#[test]
fn users_and_connections_are_disconnected_with_code_and_reason() {
    for cores in SIZES {
        let site = Site::start(cores, |_| Open);
        let cut = |user: &str, code, reason: &str| {
            site.handle.disconnect_user(user, code, reason).unwrap().wait(PATIENCE).unwrap()
        };
        let mut anns = site.enter_on(cores.min(3), "ann");
        let mut bob = site.enter("?user=bob");
        assert_eq!(cut("ann", 4100, "moved on"), anns.len());
        anns.iter_mut().for_each(|ann| ann.expect_cut(4100, "moved on"));
        drop(anns);
        eventually("nobody of that name is left", PATIENCE, || (cut("ann", 4100, "") == 0).then_some(()));

        let (mut first, mut second) = (site.enter("?user=ann"), site.enter("?user=ann"));
        site.handle.disconnect(first.id(), 1000, "enough").unwrap();
        first.expect_cut(1000, "enough");
        assert_eq!(second.ask(json!({ "type": "ping" }))["type"], "pong");
        // A code that may not be on the wire says that the server is at fault; a long reason is cut.
        site.handle.disconnect(second.id(), 1005, &"é".repeat(100)).unwrap();
        second.expect_cut(1011, &"é".repeat(61));

        let (gone, beyond) = (first.id().to_owned(), format!("{cores:x}-0-0"));
        drop((first, second));
        assert_eq!(site.handle.disconnect(&gone, 1000, ""), Ok(()), "one that has gone is passed over");
        for never in ["", "x", "0-1", "0-1-2-3", "0-1-g", "0-123456789-0", &beyond] {
            assert_eq!(site.handle.disconnect(never, 1000, ""), Err(Invalid::ConnectionId), "{never}");
        }
        assert_eq!(bob.ask(json!({ "type": "ping" }))["type"], "pong");
    }
}

#[test]
fn figures_are_those_of_all_cores() {
    for cores in SIZES {
        let site = Site::start(cores, |_| Open);
        let mut members = site.enter_on(cores.min(3), "ann");
        members.extend([site.enter("?user=bob"), site.enter("")]);
        let count = members.len() as u64;
        members.iter_mut().for_each(|member| drop(member.subscribe("scores")));
        (1..=3).for_each(|id| assert_eq!(published(&site.handle, "scores", "[]"), id));
        members
            .iter_mut()
            .for_each(|member| (1..=3).for_each(|id| member.expect_message("scores", id, &json!([]))));
        let figures = site.figures();
        assert_eq!((figures.sessions, figures.users, figures.topics), (count, 2, 1));
        assert_eq!((figures.deliveries, figures.dropped, figures.gaps), (3 * count, 0, 0));
        assert!(figures.history_bytes > 0 && figures.slow_disconnected == 0, "{figures:?}");
        drop(members);
        site.expect_nobody();
    }
}

/// What hooks were told, in words.
struct Recorder {
    told: Sender<String>,
    server: Arc<OnceLock<Handle<Mail>>>,
}

impl Recorder {
    fn tell(&self, client: &Client<'_>, what: &str) {
        // At its end a test listens no more.
        let _ = self.told.send(format!("{} {what}", client.user.unwrap_or("-")));
    }
}

impl Hooks for Recorder {
    fn on_connect(&mut self, request: &Request<'_>, user: Option<&str>) -> Connect {
        match (user, request.head.query) {
            (Some("mallory"), _) => Connect::Refuse(Response::refuse(Status::Forbidden, "Not you.")),
            (_, Some("ticket=7")) => Connect::Accept { user: Some("seven".into()) },
            (_, Some("ticket=bad")) => Connect::Accept { user: Some("\n".into()) },
            (user, _) => Connect::Accept { user: user.map(str::to_uppercase) },
        }
    }
    fn on_open(&mut self, client: &Client<'_>) {
        self.tell(client, "open");
    }
    fn may_subscribe(&mut self, _: &Client<'_>, topic: &str) -> bool {
        !topic.contains("secret")
    }
    fn on_subscribe(&mut self, client: &Client<'_>, topic: &str) {
        self.tell(client, &format!("subscribe {topic}"));
        let server = self.server.get().expect("set before anybody comes");
        drop(server.publish("door", json!({ "user": client.user }).to_string()).expect("a publication"));
    }
    fn on_unsubscribe(&mut self, client: &Client<'_>, topic: &str) {
        self.tell(client, &format!("unsubscribe {topic}"));
    }
    fn may_publish(&mut self, client: &Client<'_>, _: &str, data: &str) -> bool {
        client.user.is_some() && data != "\"rude\""
    }
    fn on_publish(&mut self, client: &Client<'_>, topic: &str, offset: u64) {
        self.tell(client, &format!("publish {topic} {offset}"));
    }
    fn on_close(&mut self, client: &Client<'_>) {
        self.tell(client, "close");
    }
}

fn recorded_site(cores: usize) -> (Site, Receiver<String>) {
    let (told, hear) = mpsc::channel();
    let (told, server) = (Mutex::new(told), Arc::new(OnceLock::new()));
    let shared = Arc::clone(&server);
    let site = Site::start(cores, move |_| Recorder {
        told: told.lock().unwrap().clone(),
        server: Arc::clone(&shared),
    });
    assert!(server.set(site.handle.clone()).is_ok());
    (site, hear)
}

#[test]
fn hooks_decide_who_connects_subscribes_and_publishes() {
    for cores in SIZES {
        let (site, _hear) = recorded_site(cores);
        for (query, status, text) in [
            ("?user=mallory", 403, "Not you."),
            ("?ticket=bad", 400, "A user name has 1 to 255 bytes"),
            ("?user=%20", 400, "A user name has 1 to 255 bytes"),
        ] {
            let mut socket = Socket::connect(site.handle.local_address());
            socket.send(upgrade_request(&format!("/ws{query}")).as_bytes());
            let response = socket.last_response();
            assert_eq!(response.status, status, "{query}");
            assert!(String::from_utf8_lossy(&response.body).starts_with(text), "{response:?}");
        }
        assert_eq!(site.enter("?ticket=7").welcome["userId"], "seven");
        assert!(site.enter("").welcome.get("userId").is_none());
        let mut ann = site.enter("?user=ann");
        assert_eq!(ann.welcome["userId"], "ANN");
        for (command, text) in [
            (json!({ "type": "subscribe", "channel": "secret" }), "may not subscribe to secret"),
            (json!({ "type": "join", "room": "secret" }), "may not subscribe to secret"),
            (json!({ "type": "presence", "channel": "secret" }), "may not look at secret"),
            (json!({ "type": "history", "room": "secret" }), "may not look at secret"),
            (json!({ "type": "publish", "channel": "a", "data": "rude" }), "may not publish to a"),
        ] {
            let reply = ann.ask(command);
            assert_eq!((&reply["code"], &reply["error"]), (&json!("forbidden"), &json!(text)));
        }
        assert_eq!(site.handle.history("a", None, 9).unwrap().wait(PATIENCE).unwrap().last_id, 0);
    }
}

#[test]
fn hooks_are_told_what_happens_in_order() {
    for cores in SIZES {
        let (site, hear) = recorded_site(cores);
        let expect = |lines: &[&str]| {
            for line in lines {
                assert_eq!(hear.recv_timeout(PATIENCE).as_deref(), Ok(*line));
            }
        };
        let mut bob = site.enter("?user=bob");
        bob.subscribe("door");
        expect(&["BOB open", "BOB subscribe door"]);
        bob.expect_message("door", 1, &json!({ "user": "BOB" }));
        let mut ann = site.enter("?user=ann");
        ann.subscribe("scores");
        assert_eq!(ann.ask(json!({ "type": "join", "room": "lobby" }))["type"], "joined");
        assert_eq!(ann.ask(json!({ "type": "publish", "channel": "other", "data": 1 }))["last_id"], 1);
        ann.unsubscribe("scores");
        drop(ann);
        expect(&[
            "ANN open",
            "ANN subscribe scores",
            "ANN subscribe room:lobby",
            "ANN publish other 1",
            "ANN unsubscribe scores",
            "ANN unsubscribe room:lobby",
            "ANN close",
        ]);
        // What the hooks published from a core's own thread has arrived.
        (2..=3).for_each(|id| bob.expect_message("door", id, &json!({ "user": "ANN" })));
    }
}

/// Hooks that know who comes by a cookie, which another thread looks up.
struct Cookies {
    core: usize,
    asked: Sender<Lookup>,
}

/// A client whose cookie is being looked up.
struct Lookup {
    core: usize,
    conn: ConnId,
    cookie: String,
}

impl Hooks for Cookies {
    fn on_connect(&mut self, request: &Request<'_>, _: Option<&str>) -> Connect {
        let cookie = request.head.header("cookie").unwrap_or_default().to_owned();
        let _ = self.asked.send(Lookup { core: self.core, conn: request.conn, cookie });
        Connect::Later
    }
}

fn cookie_site(cores: usize) -> (Site, Receiver<Lookup>) {
    let (asked, lookups) = mpsc::channel();
    let asked = Mutex::new(asked);
    (Site::start(cores, move |core| Cookies { core, asked: asked.lock().unwrap().clone() }), lookups)
}

fn ask_in(site: &Site, cookie: &str) -> Socket {
    let mut socket = Socket::connect(site.handle.local_address());
    let header = format!("Cookie: session={cookie}\r\n");
    socket.send(upgrade_request_with("/ws", KEYS[0].0, &header).as_bytes());
    socket
}

#[test]
fn a_session_is_looked_up_on_another_thread() {
    for cores in SIZES {
        let (site, lookups) = cookie_site(cores);
        let handle = site.handle.clone();
        let database = thread::spawn(move || {
            for Lookup { core, conn, cookie } in lookups {
                let connect = match cookie.strip_prefix("session=") {
                    Some("7") => Connect::Accept { user: Some("seven".into()) },
                    Some("guest") => Connect::Accept { user: None },
                    Some("bad") => Connect::Accept { user: Some("::".into()) },
                    _ => Connect::Refuse(Response::refuse(Status::Unauthorized, "Log in first.")),
                };
                handle.connect(core, conn, connect).expect("it runs");
            }
        });
        // All at once, and answered each for itself.
        let mut sockets: Vec<_> =
            ["7", "none", "guest", "bad", "7"].map(|cookie| (cookie, ask_in(&site, cookie))).into();
        for (cookie, socket) in &mut sockets {
            let response = socket.response();
            let expected = match *cookie {
                "none" => 401,
                "bad" => 400,
                _ => 101,
            };
            assert_eq!(response.status, expected, "{cookie}: {response:?}");
            if response.status == 101 {
                let welcome: Value = serde_json::from_slice(&socket.message().1).unwrap();
                let user = (*cookie == "7").then_some("seven");
                assert_eq!(welcome.get("userId").and_then(Value::as_str), user, "{welcome}");
            }
        }
        assert_eq!(site.figures().sessions, 3);
        drop(sockets);
        site.expect_nobody();
        drop(site);
        database.join().unwrap();
    }
}

#[test]
fn who_goes_away_while_it_is_looked_up_is_not_let_in() {
    for cores in SIZES {
        let (site, lookups) = cookie_site(cores);
        let gone = ask_in(&site, "7");
        let lookup = lookups.recv_timeout(PATIENCE).unwrap();
        gone.reset();
        eventually("its end is noticed", PATIENCE, || (site.handle.counters().slots_held == 0).then_some(()));
        // The next one may have its slot, and is not let in in its place.
        let mut next = ask_in(&site, "8");
        let its = lookups.recv_timeout(PATIENCE).unwrap();
        let accept = |user: &str| Connect::Accept { user: Some(user.into()) };
        site.handle.connect(lookup.core, lookup.conn, accept("seven")).unwrap();
        site.handle.connect(its.core, its.conn, Connect::Later).unwrap();
        site.handle.connect(its.core, its.conn, accept("eight")).unwrap();
        site.handle.connect(its.core, its.conn, accept("nine")).unwrap();
        assert_eq!(next.response().status, 101);
        let welcome: Value = serde_json::from_slice(&next.message().1).unwrap();
        assert_eq!(welcome["userId"], "eight");
        assert_eq!(site.handle.connect(cores, its.conn, Connect::Later).err(), Some(Invalid::ConnectionId));
        assert_eq!(site.figures().sessions, 1);
    }
}

#[test]
fn a_server_that_stops_lets_nobody_in_late() {
    let (mut site, lookups) = cookie_site(1);
    let mut waiting = ask_in(&site, "7");
    let lookup = lookups.recv_timeout(PATIENCE).unwrap();
    site.handle.stop(PATIENCE);
    let accept = |site: &Site| site.handle.connect(lookup.core, lookup.conn, Connect::Accept { user: None });
    accept(&site).unwrap();
    assert_eq!(waiting.response().status, 503);
    drop(waiting);
    site.stop();
    assert_eq!(accept(&site).err(), Some(Invalid::Stopped));
}

/// Hooks that keep their core from when a client comes until the test lets go.
struct Gate {
    entered: Sender<()>,
    open: Arc<Mutex<Receiver<()>>>,
}

impl Hooks for Gate {
    fn on_connect(&mut self, _: &Request<'_>, user: Option<&str>) -> Connect {
        // Errors mean that the test has failed: go on.
        let _ = self.entered.send(());
        let _ = self.open.lock().unwrap().recv();
        Connect::Accept { user: user.map(str::to_owned) }
    }
}

#[test]
fn a_request_nobody_waits_for_is_carried_out() {
    let ((entered, enters), (open, opens)) = (mpsc::channel(), mpsc::channel());
    let (entered, opens) = (Mutex::new(entered), Arc::new(Mutex::new(opens)));
    let site =
        Site::start(1, move |_| Gate { entered: entered.lock().unwrap().clone(), open: Arc::clone(&opens) });
    let open = open; // dropped before the site, so that a failed test does not keep its core
    drop(site.handle.publish("scores", "1").unwrap());
    assert_eq!(published(&site.handle, "scores", "2"), 2, "the one before was dropped, not undone");

    let mut visitor = Socket::connect(site.handle.local_address());
    visitor.send(upgrade_request("/ws").as_bytes());
    enters.recv_timeout(PATIENCE).unwrap();
    let soon = Duration::from_millis(20);
    let answer = site.handle.publish("scores", "3").unwrap().wait(soon);
    assert_eq!(answer, Err(Unanswered::Timeout));
    let answer = tasks().block_on(async {
        let answer = site.handle.publish("scores", "4").unwrap();
        tokio::time::timeout(soon, answer).await
    });
    assert!(answer.is_err(), "the core is held, and yet: {answer:?}");
    open.send(()).unwrap();
    visitor.accepted(KEYS[0].1);
    let history = site.handle.history("scores", None, 10).unwrap().wait(PATIENCE).unwrap();
    let data = |item: &String| serde_json::from_str::<Value>(item).unwrap()["data"].clone();
    let all: Vec<Value> = history.messages.iter().map(data).collect();
    assert_eq!(all, [1, 2, 3, 4], "what was not waited for has happened, once");
}

#[test]
fn a_server_that_has_stopped_says_so_and_keeps_nobody_waiting() {
    for cores in SIZES {
        let mut site = Site::start(cores, |_| Open);
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let handle = site.handle.clone();
                thread::spawn(move || {
                    loop {
                        match handle.publish(&format!("scores:{writer}"), "1") {
                            Ok(answer) => match answer.wait(PATIENCE) {
                                Ok(_) | Err(Unanswered::Stopped) => {}
                                Err(other) => panic!("{other}"),
                            },
                            Err(invalid) => return invalid,
                        }
                    }
                })
            })
            .collect();
        assert_eq!(published(&site.handle, "other", "1"), 1);
        site.stop();
        for writer in writers {
            assert_eq!(writer.join().unwrap(), Invalid::Stopped);
        }
        let handle = &site.handle;
        let stopped = Some(Invalid::Stopped);
        assert_eq!(handle.publish("a", "1").err(), stopped);
        assert_eq!(handle.send_to_user("a", "1").err(), stopped);
        assert_eq!(handle.presence("a", None, 1).err(), stopped);
        assert_eq!(handle.history("a", None, 1).err(), stopped);
        assert_eq!(handle.disconnect_user("a", 1000, "").err(), stopped);
        assert_eq!(handle.disconnect("0-0-0", 1000, "").err(), stopped);
    }
}

#[test]
fn names_and_data_are_checked_before_anything_is_sent() {
    let site = Site::start(1, |_| Open);
    let handle = &site.handle;
    let long = "n".repeat(256);
    for name in ["", "::", " ", "a\n", "a\0", "\u{85}", &long] {
        let wrong = Some(Invalid::Name);
        assert_eq!(handle.publish(name, "1").err(), wrong, "{name:?}");
        assert_eq!(handle.publish(&format!("room:{name}"), "1").err(), wrong, "room:{name:?}");
        assert_eq!(handle.send_to_user(name, "1").err(), wrong, "{name:?}");
        assert_eq!(handle.presence(name, None, 1).err(), wrong, "{name:?}");
        assert_eq!(handle.history(name, None, 1).err(), wrong, "{name:?}");
        assert_eq!(handle.disconnect_user(name, 1000, "").err(), wrong, "{name:?}");
    }
    for data in ["", " ", "{", "1 2", "nul", "{\"a\":1,}", "'a'", "\"\n\"", "NaN"] {
        assert_eq!(handle.publish("a", data).err(), Some(Invalid::Json), "{data:?}");
        assert_eq!(handle.send_to_user("a", data).err(), Some(Invalid::Json), "{data:?}");
    }
    assert_eq!(handle.publish("a", b"\"\xff\"").err(), Some(Invalid::Json));
    let longest = "n".repeat(255);
    for (name, data) in [(longest.as_str(), "1"), ("ünïcode 名", "null"), ("room:a:b", " \"x\" ")] {
        assert_eq!(published(handle, name, data), 1, "{name}");
    }
    eventually("the last topic is counted", PATIENCE, || (site.figures().topics >= 3).then_some(()));
    assert_eq!(site.figures().topics, 3, "what was refused has made no topic");
}
