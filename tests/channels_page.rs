//! docs/channels.md is true: its conversations are played against the server, and its settings are taken.
//!
//! A line `ann → …` is sent, `ann ← …` is what ann gets next, `ann ✗` loses ann's connection. Only what nobody can
//! know beforehand may differ: epochs, which are learnt from replies, times, tokens, and connection ids. News of who came and
//! went are gathered by the second, so those that a conversation does not mention are passed over.

mod common;

use common::client::{Client, KEYS, upgrade_request};
use common::frames::{self, TEXT};
use common::server::Server;
use megasock::config::{Config, Sources};
use megasock::hub::token::{Algorithm, Keys};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::time::{SystemTime, UNIX_EPOCH};

const PAGE: &str = include_str!("../docs/channels.md");

/// The contents of the page's blocks of one language.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    PAGE.split(&fence).skip(1).map(|rest| rest.split("```").next().expect("an end")).collect()
}

/// Everybody who has spoken, and the server's epochs by the names the page gives them.
struct Play {
    server: Server,
    actors: HashMap<&'static str, Client>,
    epochs: HashMap<String, String>,
}

impl Play {
    fn line(&mut self, line: &'static str) {
        let (actor, rest) = line.split_once(' ').expect("an actor");
        if rest.starts_with('✗') {
            return drop(self.actors.remove(actor));
        }
        let (arrow, text) = rest.split_once(' ').expect("an arrow and a frame");
        if !self.actors.contains_key(actor) {
            let mut client = self.enter(actor);
            // A conversation that begins with it shows it.
            if !text.contains(r#""type":"welcome""#) {
                client.message();
            }
            self.actors.insert(actor, client);
        }
        match arrow {
            "→" => self.say(actor, text),
            "←" => self.hear(actor, serde_json::from_str(text).expect(line)),
            other => panic!("{other:?} is no arrow: {line}"),
        }
    }

    fn enter(&self, actor: &str) -> Client {
        let query = if actor == "guest" { String::new() } else { format!("?token={}", token(actor)) };
        let mut client = Client::connect(self.server.address);
        client.send(upgrade_request(&format!("/ws{query}")).as_bytes());
        client.accepted(KEYS[0].1);
        client
    }

    fn say(&mut self, actor: &str, text: &str) {
        let known = |text: String, (page, real): (&String, &String)| text.replace(page, real);
        let text = self.epochs.iter().fold(text.to_owned(), known).replace("eyJ…", &token(actor));
        self.actors.get_mut(actor).expect("connected").send(&frames::message(TEXT, text.as_bytes()));
    }

    fn hear(&mut self, actor: &str, expected: Value) {
        let client = self.actors.get_mut(actor).expect("connected");
        let got = loop {
            let got: Value = serde_json::from_slice(&client.message().1).expect("JSON");
            if !is_news(&got) || is_news(&expected) {
                break got;
            }
        };
        if let (Some(page), Some(real)) = (expected["epoch"].as_str(), got["epoch"].as_str()) {
            let known = self.epochs.entry(page.to_owned()).or_insert_with(|| real.to_owned());
            assert_eq!(known, real, "{actor}: {got}");
        }
        assert_eq!(without_chance(got), without_chance(expected), "{actor}");
    }
}

const SECRET: &[u8] = b"a secret of thirty-two bytes, or so";

/// A token of an actor's, good for an hour.
fn token(actor: &str) -> String {
    let mut keys = Keys::default();
    keys.add("k", Algorithm::Hs256, SECRET).unwrap();
    let now_unix_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    keys.mint("k", None, &json!({ "sub": actor, "exp": now_unix_s + 3_600 }), now_unix_s).unwrap()
}

/// A server that takes these tokens, and guests.
fn server() -> Server {
    let folder = std::env::temp_dir().join(format!("megasock-page-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (secret, file) = (folder.join("secret"), folder.join("megasock.toml"));
    std::fs::write(&secret, SECRET).unwrap();
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::write(&file, "anonymous = true\n[key.k]\nalgorithm = \"HS256\"\nfile = \"secret\"\n").unwrap();
    let server = Server::start(&["--server-id", "n1", "--config", file.to_str().unwrap()]);
    std::fs::remove_dir_all(folder).unwrap();
    server
}

fn is_news(frame: &Value) -> bool {
    ["user_joined", "user_left", "presence_change"].iter().any(|kind| frame["type"] == *kind)
}

/// What cannot be known is replaced by what it is: a number or a string.
fn without_chance(mut frame: Value) -> Value {
    for field in ["epoch", "ts", "timestamp", "connectionId", "expiresIn"] {
        if let Some(value) = frame.get_mut(field) {
            *value = Value::from(if value.is_u64() { "a number" } else { "a string" });
        }
    }
    if let Some(items) = frame.get_mut("messages").and_then(Value::as_array_mut) {
        items.iter_mut().for_each(|item| *item = without_chance(item.take()));
    }
    frame
}

#[test]
fn every_conversation_goes_as_the_page_says() {
    let mut play = Play { server: server(), actors: HashMap::new(), epochs: HashMap::new() };
    let lines: Vec<&str> = blocks("text").iter().flat_map(|block| block.lines()).collect();
    for line in &lines {
        play.line(line);
    }
    // What they have not been told: nothing else was said to them.
    for (actor, mut client) in play.actors {
        client.send(&frames::message(TEXT, br#"{"type":"ping","id":"end"}"#));
        let rest = std::iter::repeat_with(|| serde_json::from_slice::<Value>(&client.message().1).unwrap());
        let next = rest.into_iter().find(|frame| !is_news(frame)).unwrap();
        assert_eq!(next["id"], "end", "{actor} has heard more than the page says: {next}");
    }
    let commands: Vec<&str> =
        lines.iter().filter_map(|line| line.split_once(" → {\"type\":\"")?.1.split('"').next()).collect();
    for command in [
        "subscribe",
        "unsubscribe",
        "publish",
        "join",
        "leave",
        "leave_all",
        "room_message",
        "direct_message",
        "presence",
        "history",
        "refresh",
        "ping",
    ] {
        assert!(commands.contains(&command), "the page has no {command}");
    }
}

#[test]
fn its_settings_are_taken_and_its_events_are_json() {
    for (at, block) in blocks("toml").iter().enumerate() {
        let path = std::env::temp_dir().join(format!("megasock-page-{at}-{}.toml", std::process::id()));
        std::fs::write(&path, block).unwrap();
        let sources = Sources { file: Some(path.clone()), ..Sources::default() };
        let loaded = Config::load(&sources);
        std::fs::remove_file(path).unwrap();
        assert!(loaded.is_ok(), "{}", loaded.unwrap_err());
    }
    for block in blocks("json") {
        let event: Value = serde_json::from_str(block).expect(block);
        assert!(event["type"].is_string(), "{block}");
    }
}
