//! The API: what each endpoint does, as clients on WebSockets see it, and what it refuses.

use crate::common::client::Client;
use crate::common::frames::{TEXT, text};
use crate::common::server::Server;
use crate::common::{PATIENCE, eventually, replace_by_pipe, writer_once_read};
use crate::{admin, ask, assert_error, get, post};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

/// One core, where every home is the own one, and more than the machines have that run this.
const SIZES: [usize; 2] = [1, 5];

/// Names that are odd, each good for a channel, a room and a user.
const ODD_NAMES: [&str; 16] = [
    "a b",
    " a ",
    "\u{e4}\u{f6}",
    "\u{1f4a5}\u{202e}x",
    "\"quoted\"",
    "<img src=x onerror=alert(1)>",
    "a/b?c#d&e=f",
    "100%25+1",
    "back\\slash",
    "it's",
    "{}",
    "[1,2]",
    "null",
    "../../etc/passwd",
    "a\u{feff}\u{200b}",
    "room",
];

struct Api {
    server: Server,
    address: SocketAddr,
}

impl Api {
    fn start(cores: usize, flags: &[&str]) -> Api {
        let server = Server::start_with_reactors(cores, flags);
        let address = admin(&server);
        Api { server, address }
    }

    fn get(&self, target: &str) -> Value {
        let answer = ask(self.address, get(target, ""));
        assert_eq!(answer.status, 200, "{target}: {}", answer.body.escape_ascii());
        serde_json::from_slice(&answer.body).expect("JSON")
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let answer = ask(self.address, post(path, "", &body.to_string()));
        assert_eq!(answer.status, 200, "{path} {body}: {}", answer.body.escape_ascii());
        assert_eq!(answer.header("Content-Type"), Some("application/json"));
        serde_json::from_slice(&answer.body).expect("JSON")
    }

    /// Refused with this code, and what is said begins so.
    fn refuses(&self, request: &str, status: u16, code: &str, begins: &str) {
        let answer = ask(self.address, request);
        assert_error(&answer, status, code);
        let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
        let message = body["error"]["message"].as_str().expect("a message");
        assert!(message.starts_with(begins), "{message:?} does not begin with {begins:?}: {request}");
    }

    fn enter(&self, user: &str) -> Member {
        let query = if user.is_empty() { String::new() } else { format!("?user={}", encoded(user)) };
        Member::enter(self.server.address, &query)
    }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// A client that has been welcomed.
struct Member {
    socket: Client,
    id: String,
}

impl Member {
    fn enter(address: SocketAddr, query: &str) -> Member {
        let socket = Client::open_at(address, &format!("/ws{query}"));
        let mut member = Member { socket, id: String::new() };
        member.id = member.hear()["connectionId"].as_str().expect("a welcome has an id").to_owned();
        member
    }

    fn hear_text(&mut self) -> String {
        let (opcode, body) = self.socket.message();
        assert_eq!(opcode, TEXT);
        String::from_utf8(body).expect("text")
    }

    fn hear(&mut self) -> Value {
        serde_json::from_str(&self.hear_text()).expect("JSON")
    }

    fn does(&mut self, mut command: Value) {
        command["id"] = 1.into();
        self.socket.send(&text(&command.to_string()));
        let reply = self.hear();
        assert!(reply["id"] == 1 && reply["type"] != "error", "{reply}");
    }

    fn subscribe(&mut self, channel: &str) {
        self.does(json!({"type": "subscribe", "channel": channel}));
    }

    fn is_closed(&mut self, code: u16, reason: &str) {
        let frame = self.socket.close_frame();
        assert_eq!((frame.close_code(), &frame.payload[2..]), (Some(code), reason.as_bytes()));
    }
}

#[test]
fn what_is_published_reaches_subscribers_and_has_its_place() {
    for cores in SIZES {
        let api = Api::start(cores, &[]);
        let (mut ann, mut bob) = (api.enter("ann"), api.enter(""));
        ann.subscribe("scores");
        bob.does(json!({"type": "join", "room": "lobby"}));
        for id in 1..=3 {
            let answer = api.post("/api/publish", &json!({"channel": "scores", "data": {"home": id}}));
            assert_eq!(answer, json!({"channel": "scores", "last_id": id}));
            let heard = ann.hear();
            assert_eq!(
                (&heard["type"], &heard["id"], &heard["data"], &heard["userId"]),
                (&json!("message"), &json!(id), &json!({"home": id}), &Value::Null)
            );
        }
        for (named, id) in [(json!({"room": "lobby"}), 1), (json!({"channel": "room:lobby"}), 2)] {
            let mut body = named;
            body["data"] = json!("hi");
            let answer = api.post("/api/publish", &body);
            assert_eq!(answer, json!({"channel": "room:lobby", "last_id": id}));
            let heard = bob.hear();
            assert_eq!(
                (&heard["type"], &heard["id"], &heard["payload"]),
                (&json!("room_message"), &json!(id), &json!("hi"))
            );
        }
        let answer = api
            .post("/api/broadcast", &json!({"channels": ["scores", "room:lobby", "nobody"], "data": null}));
        let expected = json!({"results": [
            {"channel": "scores", "last_id": 4},
            {"channel": "room:lobby", "last_id": 3},
            {"channel": "nobody", "last_id": 1},
        ]});
        assert_eq!(answer, expected);
        assert_eq!((&ann.hear()["data"], &bob.hear()["payload"]), (&Value::Null, &Value::Null));
        let answer = api.post("/api/broadcast", &json!({"rooms": ["lobby"], "data": 1}));
        assert_eq!(answer, json!({"results": [{"channel": "room:lobby", "last_id": 4}]}));
        assert_eq!(bob.hear()["payload"], 1);
    }
}

#[test]
fn data_goes_through_byte_for_byte_and_no_larger_than_a_client_may_send() {
    let api = Api::start(2, &["--max-message-bytes", "4KiB"]);
    let mut ann = api.enter("ann");
    ann.subscribe("scores");
    let deep = format!("{}1{}", "[".repeat(127), "]".repeat(127));
    let odd = ["1e400", "12345678901234567890.10", r#"{"a":1,"a":2}"#, r#""\ud83d\udca5 \/""#, &deep];
    for data in odd {
        let answer =
            ask(api.address, post("/api/publish", "", &format!(r#"{{"channel":"scores","data": {data} }}"#)));
        assert_eq!(answer.status, 200, "{}", answer.body.escape_ascii());
        let heard = ann.hear_text();
        assert!(heard.contains(&format!(r#""data":{data},"#)), "{heard}");
    }
    let history = ask(api.address, get("/api/history?channel=scores", ""));
    let history = String::from_utf8(history.body).expect("text");
    for data in odd {
        assert!(history.contains(&format!(r#""data":{data},"#)), "{history}");
    }
    let publish = |data: &str| post("/api/publish", "", &format!(r#"{{"channel":"scores","data":{data}}}"#));
    let text = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
    assert_eq!(ask(api.address, publish(&text(4096))).status, 200);
    api.refuses(&publish(&text(4097)), 413, "too_large", "data may have no more than 4096 bytes");
    let send = post("/api/send", "", &format!(r#"{{"userId":"ann","data":{}}}"#, text(4097)));
    api.refuses(&send, 413, "too_large", "data");
    api.refuses(&publish(&format!("[{deep}]")), 400, "bad_request", "the body is nested deeper");
}

#[test]
fn a_user_is_sent_something_on_every_connection() {
    for cores in SIZES {
        let api = Api::start(cores, &[]);
        let mut anns = [api.enter("ann"), api.enter("ann"), api.enter("ann")];
        let mut bob = api.enter("bob");
        assert_eq!(
            api.post("/api/send", &json!({"userId": "ann", "data": {"a": 1}})),
            json!({"connections": 3})
        );
        for ann in &mut anns {
            let heard = ann.hear();
            assert_eq!(
                (&heard["type"], &heard["fromUserId"], &heard["payload"]),
                (&json!("direct_message"), &Value::Null, &json!({"a": 1}))
            );
        }
        assert_eq!(api.post("/api/send", &json!({"userId": "nobody", "data": 1})), json!({"connections": 0}));
        assert_eq!(api.post("/api/send", &json!({"userId": "bob", "data": 2})), json!({"connections": 1}));
        assert_eq!(bob.hear()["payload"], 2); // and nothing before it
    }
}

#[test]
fn a_user_or_a_connection_is_closed_as_asked() {
    for cores in SIZES {
        let api = Api::start(cores, &[]);
        let mut anns = [api.enter("ann"), api.enter("ann")];
        let (mut bob, mut cat) = (api.enter("bob"), api.enter(""));
        let reason = "\u{e4}".repeat(61); // 122 bytes
        let answer = api.post("/api/disconnect", &json!({"userId": "ann", "code": 4242, "reason": reason}));
        assert_eq!(answer, json!({"connections": 2}));
        anns.iter_mut().for_each(|ann| ann.is_closed(4242, &reason));
        assert_eq!(api.post("/api/disconnect", &json!({"connectionId": cat.id})), json!({"connections": 1}));
        cat.is_closed(1000, "");
        let again = post("/api/disconnect", "", &json!({"connectionId": cat.id}).to_string());
        drop(cat);
        eventually("the connection has gone", PATIENCE, || {
            (ask(api.address, &again).status == 404).then_some(())
        });
        api.refuses(&again, 404, "not_found", "there is no such connection");
        assert_eq!(api.post("/api/disconnect", &json!({"userId": "nobody"})), json!({"connections": 0}));
        bob.does(json!({"type": "publish", "channel": "scores", "data": 1}));
    }
}

#[test]
fn who_is_there_comes_in_pages() {
    let api = Api::start(2, &[]);
    let mut members: Vec<Member> = ["dan", "ann", "cat", "bob", "ann"].map(|user| api.enter(user)).into();
    members.iter_mut().for_each(|member| member.subscribe("scores"));
    let user = |name: &str, connections: u32| json!({"userId": name, "connections": connections});
    let all = json!({"users": [user("ann", 2), user("bob", 1), user("cat", 1), user("dan", 1)], "total": 4});
    assert_eq!(api.get("/api/presence?channel=scores"), all);
    let page = api.get("/api/presence?channel=scores&limit=2&after=ann");
    assert_eq!(page, json!({"users": [user("bob", 1), user("cat", 1)], "total": 4}));
    assert_eq!(api.get("/api/presence?room=scores&limit=0"), json!({"users": [], "total": 0}));
}

#[test]
fn history_is_the_newest_or_what_came_after() {
    let api = Api::start(2, &[]);
    for number in 1..=7 {
        api.post("/api/publish", &json!({"channel": "scores", "data": number}));
    }
    let told = |target: &str| {
        let page = api.get(target);
        assert_eq!(page["last_id"], 7, "{page}");
        assert!(page["epoch"].as_str().is_some_and(|epoch| !epoch.is_empty()));
        let messages = page["messages"].as_array().expect("a list").clone();
        messages
            .iter()
            .map(|message| {
                assert_eq!(message["id"], message["data"]);
                message["id"].as_u64().expect("an id")
            })
            .collect::<Vec<u64>>()
    };
    assert_eq!(told("/api/history?channel=scores"), [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(told("/api/history?channel=scores&limit=2"), [6, 7]);
    assert_eq!(told("/api/history?channel=scores&since=4"), [5, 6, 7]);
    assert_eq!(told("/api/history?channel=scores&since=1&limit=2"), [2, 3]);
    assert_eq!(told("/api/history?channel=scores&since=9007199254740991"), [0; 0]);
    let none = api.get("/api/history?channel=nobody");
    assert_eq!((&none["last_id"], &none["messages"]), (&json!(0), &json!([])));
}

#[test]
fn channels_are_all_found_and_the_most_subscribed_told_first() {
    for cores in SIZES {
        let api = Api::start(cores, &[]);
        let mut members: Vec<Member> = (0..4).map(|_| api.enter("")).collect();
        for (topic, subscribers) in [("b:two", 2), ("b:four", 4), ("a:one", 1)] {
            members[..subscribers].iter_mut().for_each(|member| member.subscribe(topic));
        }
        members[0].does(json!({"type": "join", "room": "b"}));
        // More than one page on every core.
        for thousand in 0..7 {
            let names: Vec<String> = (0..1_000).map(|n| format!("many:{thousand}:{n}")).collect();
            api.post("/api/broadcast", &json!({"channels": names, "data": 1}));
        }
        let channel = |name: &str, subscribers: u32, last_id: u32| json!({"channel": name, "subscribers": subscribers, "last_id": last_id});
        let answer = api.get("/api/channels?limit=4");
        let first = [channel("b:four", 4, 0), channel("b:two", 2, 0), channel("a:one", 1, 0)];
        assert_eq!(answer["channels"].as_array().expect("a list")[..3], first);
        assert_eq!(answer["channels"][3], channel("room:b", 1, 0));
        assert_eq!(answer["total"], 7_004);
        let answer = api.get("/api/channels?prefix=b%3A");
        assert_eq!(answer, json!({"channels": [first[0], first[1]], "total": 2}));
        assert_eq!(api.get("/api/channels?prefix=many&limit=0"), json!({"channels": [], "total": 7_000}));
        let answer = api.get("/api/channels?prefix=many:3:&limit=1000");
        let names: BTreeSet<&str> = answer["channels"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|channel| {
                assert_eq!((&channel["last_id"], &channel["subscribers"]), (&json!(1), &json!(0)));
                channel["channel"].as_str().expect("a name")
            })
            .collect();
        assert_eq!((names.len(), &answer["total"]), (1_000, &json!(1_000)));
    }
}

#[test]
fn a_connection_is_looked_up_by_its_id_and_by_its_user() {
    for cores in SIZES {
        let api = Api::start(cores, &[]);
        let now_ms = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64;
        let before_ms = now_ms();
        let (mut ann, other, nobody) = (api.enter("ann"), api.enter("ann"), api.enter(""));
        for number in 0..120 {
            ann.subscribe(&format!("c{number}"));
        }
        ann.does(json!({"type": "join", "room": "lobby"}));
        let one = api.get(&format!("/api/connections?connectionId={}", ann.id));
        assert_eq!(one["total"], 1);
        let facts = &one["connections"][0];
        assert_eq!(facts["connectionId"], ann.id.as_str());
        assert_eq!((&facts["userId"], &facts["ip"]), (&json!("ann"), &json!("127.0.0.1")));
        let core = usize::from_str_radix(ann.id.split('-').next().expect("a core"), 16).expect("a number");
        assert_eq!(facts["core"], core);
        let topics: Vec<String> = (0..100).map(|number| format!("c{number}")).collect();
        assert_eq!((&facts["subscriptions"], &facts["subscriptionCount"]), (&json!(topics), &json!(121)));
        assert_eq!(facts["queueBytes"], 0);
        for time in ["connectedAt", "lastActivity"] {
            // Ticks and the start of the wall clock's milliseconds lie between.
            let at_ms = facts[time].as_u64().expect("a time");
            assert!((before_ms - 1_000..=now_ms() + 1_000).contains(&at_ms), "{time}: {at_ms}");
        }
        assert!(facts["connectedAt"].as_u64() <= facts["lastActivity"].as_u64(), "{facts}");

        let ids = |found: &Value| -> BTreeSet<String> {
            let connections = found["connections"].as_array().expect("a list");
            connections
                .iter()
                .map(|found| found["connectionId"].as_str().expect("an id").to_owned())
                .collect()
        };
        let both = api.get("/api/connections?userId=ann");
        assert_eq!((ids(&both), &both["total"]), ([ann.id.clone(), other.id.clone()].into(), &json!(2)));
        let first = api.get("/api/connections?userId=ann&limit=1");
        assert_eq!((ids(&first).len(), &first["total"]), (1, &json!(2)));
        assert_eq!(api.get("/api/connections?userId=bob"), json!({"connections": [], "total": 0}));
        let found = api.get(&format!("/api/connections?connectionId={}", nobody.id));
        let found = &found["connections"][0];
        assert_eq!((&found["userId"], &found["subscriptions"]), (&Value::Null, &json!([])));

        let gone = get(&format!("/api/connections?connectionId={}", nobody.id), "");
        drop(nobody);
        eventually("the connection has gone", PATIENCE, || {
            (ask(api.address, &gone).status == 404).then_some(())
        });
        for id in ["ffff-1-1", "0-ffffffff-1", "0-0-ffffffff"] {
            api.refuses(
                &get(&format!("/api/connections?connectionId={id}"), ""),
                404,
                "not_found",
                "there is",
            );
        }
    }
}

#[test]
fn names_may_be_as_odd_as_they_like() {
    let api = Api::start(2, &[]);
    let longest = "\u{1f4a5}".repeat(63) + "xyz"; // 255 bytes
    for name in ODD_NAMES.into_iter().chain([longest.as_str()]) {
        let mut member = api.enter(name);
        member.subscribe(name);
        member.does(json!({"type": "join", "room": name}));
        let answer = api.post("/api/publish", &json!({"channel": name, "data": 1}));
        assert_eq!(answer, json!({"channel": name, "last_id": 1}));
        assert_eq!(member.hear()["channel"], name);
        api.post("/api/publish", &json!({"room": name, "data": 1}));
        assert_eq!(member.hear()["roomId"], name);
        api.post("/api/send", &json!({"userId": name, "data": 3}));
        assert_eq!(member.hear()["payload"], 3);
        let here = json!({"users": [{"userId": name, "connections": 1}], "total": 1});
        let name_encoded = encoded(name);
        assert_eq!(api.get(&format!("/api/presence?channel={name_encoded}")), here);
        assert_eq!(api.get(&format!("/api/presence?room={name_encoded}")), here);
        assert_eq!(api.get(&format!("/api/history?channel={name_encoded}"))["last_id"], 1);
        assert_eq!(api.get(&format!("/api/channels?prefix={name_encoded}"))["channels"][0]["channel"], name);
        let connections = api.get(&format!("/api/connections?userId={name_encoded}"));
        assert_eq!(connections["connections"][0]["subscriptions"][0], name);
        let answer = api.post("/api/disconnect", &json!({"userId": name, "reason": "x"}));
        assert_eq!(answer, json!({"connections": 1}));
        member.is_closed(1000, "x");
    }
}

#[test]
fn what_is_not_as_it_must_be_is_named() {
    let api = Api::start(2, &[]);
    let long = "x".repeat(256);
    for name in ["", ":", "- _", "a\u{0}", "a\u{7f}", "a\u{85}", &long] {
        for path in ["/api/presence?channel=", "/api/history?channel=", "/api/presence?room="] {
            let begins = if path.ends_with("room=") { "room must" } else { "channel must" };
            api.refuses(&get(&format!("{path}{}", encoded(name)), ""), 400, "bad_request", begins);
        }
        let publish = post("/api/publish", "", &json!({"channel": name, "data": 1}).to_string());
        api.refuses(&publish, 400, "bad_request", "channel must have 1 to 255 bytes");
        let broadcast = post("/api/broadcast", "", &json!({"channels": ["a", name], "data": 1}).to_string());
        api.refuses(&broadcast, 400, "bad_request", "channels has a name that must have");
        let send = post("/api/send", "", &json!({"userId": name, "data": 1}).to_string());
        api.refuses(&send, 400, "bad_request", "userId must");
    }
    let body = |path: &str, body: &str| post(path, "", body);
    let reason = "\u{e4}".repeat(62);
    let long = format!("there is no parameter {:?}: there may be prefix, limit", "y".repeat(32));
    let many = json!({"channels": vec!["a"; 1_001], "data": 1}).to_string();
    let rows = [
        (body("/api/publish", ""), "the body is not a JSON object"),
        (body("/api/publish", "[]"), "the body is not a JSON object"),
        (body("/api/publish", "{} {}"), "the body is not a JSON object"),
        (body("/api/publish", "{\"channel\":\"a\""), "the body is not a JSON object"),
        (body("/api/publish", "{}"), "data is missing"),
        (body("/api/publish", r#"{"data":1}"#), "channel or room is missing"),
        (body("/api/publish", r#"{"channel":"a"}"#), "data is missing"),
        (body("/api/publish", r#"{"channel":"a","room":"a","data":1}"#), "only one of channel and room"),
        (body("/api/publish", r#"{"channel":"a","channel":"a","data":1}"#), "channel comes twice"),
        (body("/api/publish", r#"{"channel":1,"data":1}"#), "channel must be a string"),
        (body("/api/publish", r#"{"channel":null,"data":1}"#), "channel must be a string"),
        (body("/api/publish", r#"{"channel":"\ud800","data":1}"#), "channel must be a string"),
        (body("/api/broadcast", r#"{"channels":"a","data":1}"#), "channels must be a list"),
        (body("/api/broadcast", r#"{"channels":[],"data":1}"#), "channels must be 1 to 1000 names"),
        (body("/api/broadcast", &many), "channels must be 1 to 1000 names"),
        (body("/api/send", r#"{"userId":"ann"}"#), "data is missing"),
        (body("/api/disconnect", "{}"), "userId or connectionId is missing"),
        (body("/api/disconnect", r#"{"userId":"a","connectionId":"0-1-1"}"#), "only one of userId and"),
        (body("/api/disconnect", r#"{"connectionId":"me"}"#), "connectionId must be an id"),
        (body("/api/disconnect", r#"{"userId":"a","code":1001}"#), "code must be 1000, or from"),
        (body("/api/disconnect", r#"{"userId":"a","code":2999}"#), "code must be 1000, or from"),
        (body("/api/disconnect", r#"{"userId":"a","code":5000}"#), "code must be 1000, or from"),
        (body("/api/disconnect", r#"{"userId":"a","code":"4000"}"#), "code must be a whole number"),
        (body("/api/disconnect", r#"{"userId":"a","code":4000.5}"#), "code must be a whole number"),
        (body("/api/disconnect", &json!({"userId": "a", "reason": reason}).to_string()), "reason may have"),
        (body("/api/drain", r#"{"timeout":30}"#), "timeout must be a string"),
        (body("/api/drain", r#"{"timeout":"soon"}"#), "timeout is not a whole number; write a time with"),
        (
            body("/api/drain", r#"{"timeout":"0s"}"#),
            "timeout is zero; write a time with its unit from 1ms to 7d",
        ),
        (body("/api/drain", r#"{"timeout":"8d"}"#), "timeout is longer than 7d; write a time with"),
        (
            body("/api/drain", r#"{"timout":"30s"}"#),
            r#"there is no parameter "timout": did you mean timeout?"#,
        ),
        (body("/api/reload", r#"{"x":1}"#), r#"there is no parameter "x": nothing is taken here"#),
        (
            body("/api/send", r#"{"userId":"a","data":1,"x":2}"#),
            r#"there is no parameter "x": there may be userId, data"#,
        ),
        (get("/api/channels?perfix=a", ""), r#"there is no parameter "perfix": did you mean prefix?"#),
        (get(&format!("/api/channels?{}", "y".repeat(100)), ""), &long),
        (get("/api/presence", ""), "channel or room is missing"),
        (get("/api/presence?channel=a&channel=a", ""), "channel comes twice"),
        (get("/api/presence?channel=a&limit=1001", ""), "limit may be no more than 1000"),
        (get("/api/presence?channel=a&limit=-1", ""), "limit must be a whole number"),
        (get("/api/presence?channel=a&limit=", ""), "limit must be a whole number"),
        (get("/api/history?channel=a&since=1e3", ""), "since must be a whole number"),
        (get("/api/history?channel=a&since=99999999999999999999", ""), "since must be a whole number"),
        (get("/api/connections", ""), "userId or connectionId is missing"),
        (get("/api/connections?connectionId=1-2", ""), "connectionId must be an id"),
        (get("/api/series?seconds=x", ""), "seconds must be a whole number"),
    ];
    for (request, begins) in rows {
        api.refuses(&request, 400, "bad_request", begins);
    }
    // Where nothing is taken, a query keeps caches away.
    assert!(api.get("/api/info?1700000000")["uptime_s"].is_number());
}

#[test]
fn each_path_says_which_methods_it_takes() {
    let api = Api::start(1, &[]);
    let document = api.get("/api/openapi.json");
    let paths = document["paths"].as_object().expect("paths");
    let page = std::fs::read_to_string("docs/admin.md").expect("a page about it");
    assert!(paths.len() > 12, "{paths:?}");
    for (path, operations) in paths {
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "TRACE"] {
            if operations.get(method.to_ascii_lowercase()).is_some() {
                assert!(
                    page.contains(&format!("{method} {path}\n"))
                        || page.contains(&format!("`{method} {path}`"))
                );
                continue;
            }
            let request = get(path, "").replacen("GET", method, 1);
            let answer = ask(api.address, request);
            assert_error(&answer, 405, "method_not_allowed");
            let allowed =
                if operations.get("get").is_some() { "GET, HEAD, OPTIONS" } else { "POST, OPTIONS" };
            assert_eq!(answer.header("Allow"), Some(allowed), "{method} {path}");
        }
        api.refuses(&get(&format!("{path}/nowhere"), ""), 404, "not_found", "");
    }
}

#[test]
fn a_reload_says_what_has_changed() {
    let api = Api::start(1, &[]);
    assert_eq!(api.post("/api/reload", &json!({})), json!({"applied": [], "needs_restart": []}));
}

#[test]
fn a_reload_keeps_nobody_else_waiting() {
    let folder = std::env::temp_dir().join(format!("megasock-admin-reload-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("megasock.toml");
    fs::write(&file, "").unwrap();
    let api = Api::start(1, &["--config", file.to_str().unwrap()]);
    replace_by_pipe(&file);
    let mut client = Client::connect(api.address);
    client.send(post("/api/reload", "", "{}").as_bytes());
    let mut writer = writer_once_read(&file);
    assert_eq!(ask(api.address, get("/health", "")).status, 200);
    writer.write_all(b"echo = \"off\"\n").unwrap();
    drop(writer);
    let body: Value = serde_json::from_slice(&client.response().body).expect("JSON");
    assert_eq!(body, json!({"applied": ["echo"], "needs_restart": []}));
    let _ = fs::remove_dir_all(&folder);
}

#[test]
fn a_drain_is_announced_and_carried_out() {
    let mut api = Api::start(2, &[]);
    let mut members: Vec<Member> = (0..10).map(|_| api.enter("ann")).collect();
    let answer = api.post("/api/drain", &json!({"timeout": "7s"}));
    assert_eq!(
        (&answer["clients"], &answer["timeout_ms"], &answer["handed_over"]),
        (&json!(10), &json!(7_000), &json!(false))
    );
    assert!(answer["returns_over_ms"].as_u64() >= Some(1_000), "{answer}");
    for member in &mut members {
        assert_eq!(member.hear()["type"], "server_shutdown");
        member.socket.expect_close(1012);
    }
    assert!(api.server.wait(PATIENCE).success());
}

#[test]
fn a_drain_asked_for_again_answers_with_the_times_that_are_left() {
    let api = Api::start(1, &["--reconnect-rate", "1"]);
    let _members: Vec<Member> = (0..8).map(|_| api.enter("")).collect();
    let drain = |timeout: &str| api.post("/api/drain", &json!({"timeout": timeout}));
    let first = drain("20s");
    assert_eq!((&first["clients"], &first["closes_over_ms"]), (&json!(8), &json!(8_000)));
    let same = |answer: &Value| {
        ["clients", "returns_over_ms"].iter().for_each(|field| assert_eq!(answer[field], first[field]));
    };
    let longer = drain("5m");
    same(&longer);
    assert!(longer["timeout_ms"].as_u64() <= Some(20_000), "{longer}");
    assert!(longer["closes_over_ms"].as_u64() <= Some(8_000), "{longer}");
    let shorter = drain("5s");
    same(&shorter);
    assert_eq!(shorter["timeout_ms"], 5_000);
    assert!(shorter["closes_over_ms"].as_u64() <= Some(4_000), "{shorter}");
}

#[test]
fn a_server_without_clients_answers_before_it_ends() {
    for _ in 0..5 {
        let mut api = Api::start(2, &[]);
        assert_eq!(api.post("/api/drain", &json!({}))["clients"], 0);
        assert!(api.server.wait(PATIENCE).success());
    }
}
