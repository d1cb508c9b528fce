//! A client that checks everything it is sent.

use crate::handler::ConnId;
use std::collections::{BTreeMap, VecDeque};

/// The value of `key` in one of the frames the hub sends: a number, or a string without its quotes.
pub fn field<'a>(json: &'a str, key: &str) -> Option<&'a str> {
    let at = json.find(&format!("\"{key}\":"))? + key.len() + 3;
    let value = &json[at..];
    match value.strip_prefix('"') {
        Some(text) => text.split('"').next(),
        None => value.split([',', '}']).next(),
    }
}

pub fn number(json: &str, key: &str) -> u64 {
    field(json, key).and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {key} in {json}"))
}

/// Where a client stands in a topic it is subscribed to.
#[derive(Clone, Debug)]
pub struct Stand {
    pub epoch: String,
    /// The publication it must get next.
    pub next: u64,
}

/// Publications by topic, epoch and offset, as all clients together have seen them.
pub type Ledger = BTreeMap<(String, String, u64), String>;

pub struct Client {
    pub number: usize,
    pub core: usize,
    /// Its connection, while it has one.
    pub conn: Option<ConnId>,
    /// The address it last came from.
    pub address: u32,
    /// It waits to be let in.
    pub deciding: bool,
    pub welcomed: bool,
    /// The server has ended it: it is sent nothing more, and what it sends is not heard.
    pub closing: bool,
    pub held: bool,
    /// It does not read: its socket fills.
    pub stalled: bool,
    /// The hub was told that its socket is full.
    pub blocked: bool,
    /// Sent to it and not read.
    pub socket: VecDeque<String>,
    /// Commands the server has not received.
    pub unsent: VecDeque<String>,
    /// Topics it has joined, or will have when the reply comes.
    pub stands: BTreeMap<String, Stand>,
    /// Where it stood in topics it has lost by losing its connection.
    pub left: BTreeMap<String, Stand>,
    /// Recovered publications that the reply has still to account for.
    pub recovering: BTreeMap<String, Vec<u64>>,
    /// Replies it waits for, in the order they must come for commands on subscriptions.
    pub awaited: BTreeMap<u64, String>,
    /// Publications it skipped, which must be its own that it did not want: topic, epoch, offset.
    pub skipped: Vec<(String, String, u64)>,
    pub gaps: u64,
}

impl Client {
    pub fn new(number: usize, core: usize) -> Client {
        Client {
            number,
            core,
            conn: None,
            address: 0,
            deciding: false,
            welcomed: false,
            closing: false,
            held: false,
            stalled: false,
            blocked: false,
            socket: VecDeque::new(),
            unsent: VecDeque::new(),
            stands: BTreeMap::new(),
            left: BTreeMap::new(),
            recovering: BTreeMap::new(),
            awaited: BTreeMap::new(),
            skipped: Vec::new(),
            gaps: 0,
        }
    }

    /// Its connection is gone; where it stood is remembered.
    pub fn lose_connection(&mut self) {
        self.conn = None;
        self.left.append(&mut self.stands);
        self.socket.clear();
        self.unsent.clear();
        self.recovering.clear();
        self.awaited.clear();
        (self.welcomed, self.held, self.stalled, self.blocked) = (false, false, false, false);
        (self.deciding, self.closing) = (false, false);
    }

    /// Reads one frame and checks it against everything it knows.
    pub fn read(&mut self, json: &str, ledger: &mut Ledger) {
        match field(json, "type").expect("every frame has a type") {
            "welcome" => assert!(!std::mem::replace(&mut self.welcomed, true), "welcomed twice"),
            "server_shutdown" => assert!(self.welcomed, "before its welcome"),
            "message" => self.read_message(json, ledger),
            "gap" => self.read_gap(json),
            "subscribed" => self.read_subscribed(json),
            "user_joined" | "user_left" | "presence_change" => {
                let topic = field(json, "channel").expect("a channel");
                assert!(self.stands.contains_key(topic), "news of a topic it is not in: {json}");
                assert!(!topic.starts_with("bare:"), "news of a topic that has none: {json}");
            }
            "error" => {
                let code = field(json, "code").expect("a code");
                if code == "invalid_json" {
                    return; // it misbehaves, and that has no id
                }
                if code == "connection_limit" {
                    return assert!(!self.welcomed, "welcomed, and then one too many");
                }
                assert!(
                    matches!(code, "try_again" | "bad_request" | "not_subscribed" | "topic_limit"),
                    "{json}"
                );
                self.expect(json);
            }
            "unsubscribed" => {
                let topic = field(json, "channel").expect("a channel");
                self.expect(json);
                self.stands.remove(topic);
            }
            "published" | "sent" => self.expect(json),
            other => panic!("{other}: {json}"),
        }
    }

    fn expect(&mut self, json: &str) {
        let id = number(json, "id");
        assert!(self.awaited.remove(&id).is_some(), "a reply nobody awaits, or the second: {json}");
    }

    fn read_message(&mut self, json: &str, ledger: &mut Ledger) {
        let (topic, id) = (field(json, "channel").expect("a channel").to_owned(), number(json, "id"));
        let data = field(json, "data").expect("data").to_owned();
        let epoch = match self.stands.get_mut(&topic) {
            Some(stand) => {
                assert!(id >= stand.next, "again, or out of order: {json}, next was {}", stand.next);
                for skipped in stand.next..id {
                    self.skipped.push((topic.clone(), stand.epoch.clone(), skipped));
                }
                stand.next = id + 1;
                stand.epoch.clone()
            }
            None => {
                // What was missed comes before the reply to the subscription that asked for it.
                let (epoch, last_id) =
                    self.recovery_of(&topic).unwrap_or_else(|| panic!("not subscribed: {json}"));
                let recovering = self.recovering.entry(topic.clone()).or_default();
                let next = recovering.last().unwrap_or(&last_id) + 1;
                assert_eq!(id, next, "recovery with a hole: {json}");
                recovering.push(id);
                epoch
            }
        };
        let known = ledger.entry((topic, epoch, id)).or_insert_with(|| data.clone());
        assert_eq!(*known, data, "two publications with one offset: {json}");
    }

    /// What the next subscription to be answered asks to recover: epoch and last offset.
    fn recovery_of(&self, topic: &str) -> Option<(String, u64)> {
        let is_it = |text: &&String| {
            field(text, "type") == Some("subscribe") && field(text, "channel") == Some(topic)
        };
        let asked = self.awaited.values().find(is_it)?;
        field(asked, "epoch").map(|epoch| (epoch.to_owned(), number(asked, "last_id")))
    }

    fn read_gap(&mut self, json: &str) {
        let topic = field(json, "channel").expect("a channel");
        let stand = self.stands.get_mut(topic).unwrap_or_else(|| panic!("not subscribed: {json}"));
        let (from, to) = (number(json, "from"), number(json, "to"));
        assert!(from >= stand.next && to >= from, "a gap that is none: {json}, next was {}", stand.next);
        for skipped in stand.next..from {
            self.skipped.push((topic.to_owned(), stand.epoch.clone(), skipped));
        }
        stand.next = to + 1;
        self.gaps += 1;
    }

    fn read_subscribed(&mut self, json: &str) {
        let topic = field(json, "channel").expect("a channel").to_owned();
        let asked = self.recovery_of(&topic);
        self.expect(json);
        let (epoch, last_id) = (field(json, "epoch").expect("an epoch").to_owned(), number(json, "last_id"));
        let recovered = self.recovering.remove(&topic).unwrap_or_default();
        if json.contains("\"recovered\":true") {
            let (asked_epoch, from) = asked.expect("it had asked for recovery");
            assert_eq!(asked_epoch, epoch, "recovered from another epoch");
            let complete: Vec<u64> = (from + 1..=last_id).collect();
            assert_eq!(recovered, complete, "recovery must be complete: {json}");
        } else {
            assert!(recovered.is_empty(), "missed publications without recovery: {json}");
        }
        self.left.remove(&topic);
        let before = self.stands.insert(topic, Stand { epoch, next: last_id + 1 });
        assert!(before.is_none(), "subscribed twice: {json}");
    }
}
