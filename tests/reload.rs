//! The configuration read again by a server that runs: each option that is said to be live is changed while clients are there,
//! and what follows is seen from outside.

mod common;

use common::client::{Client, End, request, upgrade_request, upgrade_request_with};
use common::frames::{CONTINUATION, FIN, PING, TEXT, frame, message, text};
use common::server::Server;
use common::{PATIENCE, eventually, replace_by_pipe, writer_once_read};
use megasock::config::{Needs, OPTIONS};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

/// A server with a configuration file, and what the file says.
struct Reloading {
    server: Server,
    folder: PathBuf,
    base: &'static str,
    reloads: usize,
}

impl Reloading {
    /// A server whose file says what `base` does; `{}` in it is the file's folder.
    fn start(name: &str, base: &'static str) -> Reloading {
        let folder = std::env::temp_dir().join(format!("megasock-reload-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        secret(&folder, 1);
        admin_key(&folder, "admin.key", b'a');
        fs::write(folder.join("megasock.toml"), base).unwrap();
        let server = Server::start(&["--config", folder.join("megasock.toml").to_str().unwrap()]);
        Reloading { server, folder, base, reloads: 0 }
    }

    /// Puts these settings before what the file says, where they win, and has it read; what the log says of it.
    fn set(&mut self, settings: &[(&str, &str)]) -> String {
        let mut file = String::new();
        for (name, value) in settings {
            writeln!(file, "{name} = {value:?}").unwrap();
        }
        for line in self.base.lines() {
            if !settings.iter().any(|(name, _)| line.starts_with(&format!("{name} ="))) {
                writeln!(file, "{line}").unwrap();
            }
        }
        self.reload(&file)
    }

    /// Has this file read.
    fn reload(&mut self, file: &str) -> String {
        fs::write(self.folder.join("megasock.toml"), file).unwrap();
        self.server.signal("HUP");
        self.reloads += 1;
        let told = |line: &String| line.contains("configuration ");
        eventually("it was read", PATIENCE, || {
            let lines: Vec<String> = self.server.lines().into_iter().filter(told).collect();
            lines.get(self.reloads - 1).cloned()
        })
    }

    fn open(&self) -> Client {
        self.server.open()
    }

    /// Where its admin listener is.
    fn admin(&self) -> SocketAddr {
        eventually("the server says where its admin listener is", PATIENCE, || {
            self.server.lines().iter().find_map(|line| line.strip_prefix("admin on ")?.parse().ok())
        })
    }

    /// The status of an upgrade for `target` with more header lines.
    fn knock(&self, target: &str, extra: &str) -> u16 {
        let mut client = Client::connect(self.server.address);
        client.send(upgrade_request_with(target, common::client::KEYS[0].0, extra).as_bytes());
        client.response().status
    }

    /// A token that the server takes, for a user.
    fn token(&self, user: &str) -> String {
        self.mint(&self.folder.join("megasock.toml"), user)
    }

    fn mint(&self, file: &Path, user: &str) -> String {
        let minted = Command::new(env!("CARGO_BIN_EXE_megasock"))
            .args(["token", "--config", file.to_str().unwrap(), "--user", user])
            .output()
            .unwrap();
        assert!(minted.status.success(), "{}", String::from_utf8_lossy(&minted.stderr));
        String::from_utf8(minted.stdout).unwrap().trim().to_owned()
    }

    /// Lines of the log on one event of a user.
    fn told_of(&self, user: &str, event: &str) -> Vec<String> {
        let user = format!("user=\"{user}\"");
        let is_of = |line: &String| line.contains(event) && line.contains(&user);
        self.server.lines().into_iter().filter(is_of).collect()
    }

    /// Waits for the first of them.
    fn wait_for(&self, user: &str, event: &str) -> String {
        eventually(&format!("{event} of {user}"), PATIENCE, || self.told_of(user, event).pop())
    }

    /// A user comes and goes.
    fn visit(&self, user: &str) {
        drop(Client::open_at(self.server.address, &format!("/ws?user={user}")));
    }
}

impl Drop for Reloading {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Writes the secret of the key.
fn secret(folder: &Path, byte: u8) {
    private(&folder.join("secret"), &[byte + b'a'; 32]);
}

/// Writes a file that its owner alone may read.
fn private(path: &Path, contents: &[u8]) {
    fs::write(path, contents).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Sends a command and reads what is answered.
fn ask(client: &mut Client, command: &Value) -> Value {
    client.send(&text(&command.to_string()));
    heard(client)
}

fn heard(client: &mut Client) -> Value {
    let (_, answer) = client.message();
    serde_json::from_slice(&answer).unwrap()
}

/// The connection is closed with this code, within a time that no default allows.
fn is_closed(client: &mut Client, code: u16) {
    let begun = Instant::now();
    assert_eq!(client.close_frame().close_code(), Some(code));
    assert!(begun.elapsed() < 4 * SECOND, "after {:?}", begun.elapsed());
}

/// Settings, the options they show, and what follows for a client that was there before.
type Case = (&'static [(&'static str, &'static str)], &'static str, fn(&mut Reloading, Client));

/// A server for anybody. Without the setting each of these would wait for longer than a test does, or do otherwise.
const DEVELOPMENT: &str =
    "ping_interval = \"off\"\npong_timeout = \"60s\"\nclose_timeout = \"60s\"\nlog_events = \"all\"\n";

const OF_ANYBODY: &[Case] = &[
    (&[("max_message_bytes", "200B")], "max_message_bytes", |_, mut client| {
        client.send(&message(TEXT, &[b'x'; 201]));
        is_closed(&mut client, 1009);
    }),
    (&[("max_fragments", "2")], "max_fragments", |_, mut client| {
        client
            .send(&[frame(TEXT, b"a"), frame(CONTINUATION, b"b"), frame(FIN | CONTINUATION, b"c")].concat());
        is_closed(&mut client, 1008);
    }),
    (&[("ping_interval", "200ms")], "ping_interval", |_, mut client| {
        assert_eq!(client.frame().opcode, PING);
    }),
    (
        &[("ping_interval", "200ms"), ("pong_timeout", "100ms")],
        "ping_interval, pong_timeout",
        |_, mut client| {
            while let Some(frame) = client.frame_by(Instant::now() + PATIENCE) {
                assert_eq!(frame.opcode, PING);
            }
            assert!(client.end_within(SECOND).is_some(), "cut");
        },
    ),
    (&[("idle_timeout", "300ms")], "idle_timeout", |_, mut client| is_closed(&mut client, 1001)),
    (&[("handshake_timeout", "200ms")], "handshake_timeout", |reloading, _| {
        let (mut silent, begun) = (Client::connect(reloading.server.address), Instant::now());
        silent.send(b"GET /ws HTTP/1.1\r\n");
        assert_eq!(silent.response().status, 408);
        assert!(begun.elapsed() < 4 * SECOND);
    }),
    (&[("message_deadline", "200ms")], "message_deadline", |_, mut client| {
        client.send(&text("never whole")[..5]);
        is_closed(&mut client, 1008);
    }),
    (&[("close_timeout", "200ms")], "close_timeout", |_, mut client| {
        client.send(&[0xF1, 0x80, 0, 0, 0, 0]);
        is_closed(&mut client, 1002);
        assert_eq!(client.end_within(4 * SECOND), Some(End::Eof));
    }),
    (&[("max_topics_per_connection", "1")], "max_topics_per_connection", |reloading, _| {
        let mut client = reloading.server.open_channels();
        for (channel, answer) in [("a", "subscribed"), ("b", "error")] {
            assert_eq!(
                ask(&mut client, &json!({"type": "subscribe", "id": 9, "channel": channel}))["type"],
                answer
            );
        }
    }),
    (&[("history_bytes_per_core", "64KiB")], "history_bytes_per_core", |reloading, _| {
        let mut client = reloading.server.open_channels();
        for id in 0..4 {
            let data = "x".repeat(30_000);
            ask(&mut client, &json!({"type": "publish", "channel": "h", "data": data, "id": id}));
        }
        let kept = ask(&mut client, &json!({"type": "history", "id": 9, "channel": "h"}));
        assert_eq!(kept["messages"].as_array().map(Vec::len), Some(2), "{kept}");
    }),
    (&[("origins", "https://a.example")], "origins", |reloading, _| {
        let statuses = ["https://a.example", "https://b.example"]
            .map(|origin| reloading.knock("/ws", &format!("Origin: {origin}\r\n")));
        assert_eq!(statuses, [101, 403]);
    }),
    (&[("trusted_proxies", "127.0.0.0/8")], "trusted_proxies", |reloading, _| {
        reloading.knock("/ws?user=far", "X-Forwarded-For: 203.0.113.7\r\n");
        assert!(reloading.wait_for("far", "ws.connect").contains("ip=203.0.113.7 "));
    }),
    (
        &[("trusted_proxies", "127.0.0.0/8"), ("proxy_protocol", "on")],
        "trusted_proxies, proxy_protocol",
        |reloading, _| {
            let mut client = Client::connect(reloading.server.address);
            client.send(b"PROXY TCP4 203.0.113.8 127.0.0.1 1 2\r\n");
            client.send(upgrade_request("/ws?user=farther").as_bytes());
            assert!(reloading.wait_for("farther", "ws.connect").contains("ip=203.0.113.8 "));
        },
    ),
    (&[("memory_budget", "64KiB")], "memory_budget", |reloading, _| {
        eventually("newcomers are refused", PATIENCE, || (reloading.knock("/ws", "") == 503).then_some(()));
        reloading.set(&[]);
        eventually("and let in again", PATIENCE, || (reloading.knock("/ws", "") == 101).then_some(()));
    }),
    (&[("echo", "off")], "echo", |reloading, mut client| {
        assert_eq!(reloading.knock("/echo", ""), 404);
        client.echo(TEXT, b"who is there stays");
    }),
    (&[("log", "info,ws.connect=off")], "log", |reloading, _| {
        reloading.visit("half");
        reloading.wait_for("half", "ws.disconnect");
        assert_eq!(reloading.told_of("half", "ws.connect"), [""; 0]);
    }),
    (&[("log_events", "off")], "log_events", |reloading, _| {
        reloading.visit("quiet");
        reloading.set(&[]);
        reloading.visit("heard");
        reloading.wait_for("heard", "ws.disconnect"); // what came before it has been told before
        assert_eq!(reloading.told_of("quiet", "ws."), [""; 0]);
    }),
    (&[("metric_aliases", "on")], "metric_aliases", |reloading, _| {
        let asked = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let answer = request(reloading.admin(), asked);
        assert!(String::from_utf8_lossy(&answer.body).contains("\nws_connections_current{"));
    }),
];

/// A server for strangers, with limits that no test reaches.
const PRODUCTION: &str = r#"production = "on"
origins = "https://a.example"
max_connections_per_address = "1000"
accept_rate_per_address = "10000/s"
echo = "on"
close_timeout = "60s"

[key.one]
algorithm = "HS256"
file = "secret"
"#;

/// Upgrades of so many newcomers with a token: how many are let in.
fn let_in(reloading: &Reloading, count: usize) -> (usize, Vec<Client>) {
    let target = format!("/ws?token={}", reloading.token("ann"));
    let knock = |_| {
        let mut client = Client::connect(reloading.server.address);
        client.send(upgrade_request(&target).as_bytes());
        (client.response().status == 101).then_some(client)
    };
    let clients: Vec<Client> = (0..count).filter_map(knock).collect();
    (clients.len(), clients)
}

fn with_token(reloading: &Reloading, token: &str) -> u16 {
    reloading.knock(&format!("/ws?token={token}"), "")
}

const OF_STRANGERS: &[Case] = &[
    (&[("max_connections_per_address", "1")], "max_connections_per_address", |reloading, _| {
        assert_eq!(let_in(reloading, 3).0, 1);
    }),
    (&[("accept_rate_per_address", "1/s")], "accept_rate_per_address", |reloading, _| {
        assert!((1..10).contains(&let_in(reloading, 20).0));
    }),
    (&[("accept_rate", "1/s")], "accept_rate", |reloading, _| {
        assert!((1..15).contains(&let_in(reloading, 20).0));
        reloading.set(&[]);
        eventually("more are let in", PATIENCE, || (let_in(reloading, 1).0 == 1).then_some(()));
    }),
    (&[("max_connections_per_user", "1")], "max_connections_per_user", |reloading, _| {
        let (_, mut clients) = let_in(reloading, 2);
        let first: Vec<String> =
            clients.iter_mut().map(|client| heard(client)["type"].as_str().unwrap().to_owned()).collect();
        assert_eq!(first, ["welcome", "error"]);
    }),
    (&[("message_rate", "1/s")], "message_rate", |reloading, _| {
        assert_eq!(code_of_the_last(reloading, 5, "ping"), "message_rate_exceeded");
    }),
    (
        &[("byte_rate", "125B/s"), ("max_message_bytes", "200B")],
        "max_message_bytes, byte_rate",
        |reloading, _| assert_eq!(code_of_the_last(reloading, 5, &"x".repeat(80)), "byte_rate_exceeded"),
    ),
    (&[("anonymous", "on")], "anonymous", |reloading, _| assert_eq!(reloading.knock("/ws", ""), 101)),
    (&[("token_issuer", "me")], "token_issuer", |reloading, _| {
        assert_eq!(with_token(reloading, &reloading.token("ann")), 101);
        let of_others = reloading.token_of_others();
        assert_eq!(with_token(reloading, &of_others), 401);
    }),
    (&[("token_audience", "us")], "token_audience", |reloading, _| {
        assert_eq!(with_token(reloading, &reloading.token("ann")), 101);
        let of_others = reloading.token_of_others();
        assert_eq!(with_token(reloading, &of_others), 401);
    }),
    (&[("refuse_in_band", "on")], "refuse_in_band", |reloading, _| {
        let mut client = Client::open_at(reloading.server.address, "/ws");
        assert_eq!(heard(&mut client)["code"], "unauthorized");
    }),
];

/// Sends so many messages at once; the code of the last answer.
fn code_of_the_last(reloading: &Reloading, count: usize, kind: &str) -> String {
    let (_, mut clients) = let_in(reloading, 1);
    heard(&mut clients[0]);
    let sent = text(&json!({"type": kind, "id": 9}).to_string());
    clients[0].send(&sent.repeat(count));
    let answers: Vec<Value> = (0..count).map(|_| heard(&mut clients[0])).collect();
    answers[count - 1]["code"].as_str().unwrap_or_default().to_owned()
}

impl Reloading {
    /// A token of the same key for another issuer and audience, minted as a server of others would.
    fn token_of_others(&self) -> String {
        let file = self.folder.join("others.toml");
        let text = self.base.lines().skip_while(|line| !line.starts_with('[')).collect::<Vec<_>>().join("\n");
        fs::write(&file, format!("token_issuer = \"you\"\ntoken_audience = \"them\"\n{text}\n")).unwrap();
        self.mint(&file, "ann")
    }
}

/// Live options of which the effect cannot be told apart from outside, and why.
const UNSEEN: &[(&str, &str)] = &[
    ("send_queue_bytes_max", "what a client does not read first fills the sockets' own buffers"),
    ("slow_consumer_budget", "the same"),
    ("drain_timeout", "seen where a server ends, below"),
    ("reconnect_rate", "seen where a server ends, below"),
    ("restart_time", "seen where a server ends, below"),
];

/// Goes through the cases, each from the file's own settings, and notes what they show.
fn go_through(mut reloading: Reloading, cases: &[Case], seen: &mut BTreeSet<String>) {
    for (settings, applied, check) in cases {
        let client = reloading.open();
        let told = reloading.set(settings);
        assert!(told.contains(&format!("applied=\"{applied}\"")), "{applied}: {told}");
        assert!(told.contains("needs_restart=\"\""), "{told}");
        check(&mut reloading, client);
        reloading.set(&[]);
        seen.extend(settings.iter().map(|(name, _)| (*name).to_owned()));
    }
}

#[test]
fn every_live_option_changes_what_a_running_server_does() {
    let mut seen: BTreeSet<String> = UNSEEN.iter().map(|(name, _)| (*name).to_owned()).collect();
    go_through(Reloading::start("anybody", DEVELOPMENT), OF_ANYBODY, &mut seen);
    go_through(Reloading::start("strangers", PRODUCTION), OF_STRANGERS, &mut seen);
    let live = OPTIONS.iter().filter(|option| option.needs == Needs::Reload);
    let live: BTreeSet<String> = live.map(|option| option.name.to_owned()).collect();
    assert_eq!(seen, live);
}

#[test]
fn a_server_stops_by_the_rate_and_the_time_that_hold_then() {
    let mut reloading = Reloading::start("stop", DEVELOPMENT);
    let _clients: Vec<Client> = (0..3).map(|_| reloading.open()).collect();
    reloading.set(&[("drain_timeout", "5s"), ("reconnect_rate", "1/s"), ("restart_time", "7s")]);
    reloading.server.signal("TERM");
    let told = eventually("it stops", PATIENCE, || {
        reloading.server.lines().into_iter().find(|line| line.contains("stopping; "))
    });
    assert!(told.contains("clients=3 closes_over=3s returns_after=12s "), "{told}");
    assert!(told.contains("deadline=5s "), "{told}");
    assert!(reloading.server.wait(PATIENCE).success());
}

#[test]
fn a_signal_to_stop_does_not_wait_for_a_file_that_hangs() {
    let mut reloading = Reloading::start("hangs", DEVELOPMENT);
    let file = reloading.folder.join("megasock.toml");
    replace_by_pipe(&file);
    reloading.server.signal("HUP");
    let _writer = writer_once_read(&file);
    reloading.server.signal("TERM");
    assert!(reloading.server.wait(PATIENCE).success());
}

#[test]
fn a_file_that_hangs_has_two_threads_however_many_ask_and_then_it_is_read_again() {
    let mut reloading = Reloading::start("hung", DEVELOPMENT);
    let file = reloading.folder.join("megasock.toml");
    replace_by_pipe(&file);
    reloading.server.signal("HUP");
    let mut writer = writer_once_read(&file);
    let ask = |_| {
        let mut client = Client::connect(reloading.admin());
        client.send(RELOAD);
        client
    };
    let asking: Vec<Client> = (0..3).map(ask).collect();
    (0..50).for_each(|_| reloading.server.signal("HUP"));
    for mut client in asking {
        let answer = client.response();
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((answer.status, &body["error"]["code"]), (504, &json!("timeout")), "{body}");
        assert!(body["error"]["message"].as_str().unwrap().contains("reload"), "{body}");
    }
    assert_eq!(reload_threads(&reloading), 2);

    // The one that waits reads what is there when its turn comes, and answers who has asked while it waited.
    let mut client = ask(3);
    // Who came after it has been answered, so it waits by now.
    let health = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(request(reloading.admin(), health).status, 200);
    fs::rename(&file, reloading.folder.join("pipe")).unwrap();
    fs::write(&file, "max_fragments = 9\n").unwrap();
    writer.write_all(b"echo = \"off\"\n").unwrap();
    drop(writer);
    let answer = client.response();
    assert_eq!(answer.status, 200, "{answer:?}");
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(body["applied"], json!(["max_fragments", "echo"]), "{body}");
    eventually("all are done", PATIENCE, || (reload_threads(&reloading) == 0).then_some(()));
    reloading.reloads = 2; // of 54 that asked
    let third = reloading.reload("echo = \"on\"\n");
    assert!(third.contains("applied=\"max_fragments, echo\""), "{third}");
}

/// Threads of the server that reload.
fn reload_threads(reloading: &Reloading) -> usize {
    let threads = fs::read_dir(reloading.server.proc("task")).expect("the process lives");
    let names = threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok());
    names.filter(|name| name.trim_end() == "reload").count()
}

/// What asks for it at the admin listener.
const RELOAD: &[u8] =
    b"POST /api/reload HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

#[test]
fn another_admin_key_is_asked_for_at_once_and_always_one() {
    const FILE: &str = "admin_key_file = \"admin.key\"\n";
    let mut reloading = Reloading::start("admin-key", FILE);
    // One connection throughout: each request on it is looked at.
    let mut client = Client::connect(reloading.admin());
    assert_eq!(b"abc".map(|key| status_with(&mut client, key)), [200, 401, 401]);
    admin_key(&reloading.folder, "admin.key", b'b');
    assert!(reloading.set(&[]).contains("applied=\"admin_key_file\" needs_restart=\"\""));
    assert_eq!(b"abc".map(|key| status_with(&mut client, key)), [401, 200, 401]);
    admin_key(&reloading.folder, "other.key", b'c');
    assert!(reloading.set(&[("admin_key_file", "other.key")]).contains("applied=\"admin_key_file\""));
    assert_eq!(b"abc".map(|key| status_with(&mut client, key)), [401, 401, 200]);
    assert!(reloading.reload("").contains("applied=\"\" needs_restart=\"admin_key_file\""));
    assert_eq!(b"abc".map(|key| status_with(&mut client, key)), [401, 401, 200]);
    let said = reloading.server.lines().join("\n");
    assert!(!b"abc".iter().any(|key| said.contains(&char::from(*key).to_string().repeat(9))), "{said}");
}

#[test]
fn who_was_asked_for_no_admin_key_is_not_asked_for_one_before_a_restart() {
    let mut reloading = Reloading::start("no-admin-key", "");
    let told = reloading.set(&[("admin_key_file", "admin.key")]);
    assert!(told.contains("applied=\"\" needs_restart=\"admin_key_file\""), "{told}");
    assert_eq!(status_with(&mut Client::connect(reloading.admin()), b'x'), 200);
}

/// Writes a key of the admin listener.
fn admin_key(folder: &Path, name: &str, byte: u8) {
    private(&folder.join(name), &[byte; 40]);
}

/// How the admin listener answers who has this key.
fn status_with(client: &mut Client, key: u8) -> u16 {
    let key = char::from(key).to_string().repeat(40);
    let asked = format!("GET /api/info HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\r\n");
    client.send(asked.as_bytes());
    client.response().status
}

#[test]
fn keys_are_read_again_and_their_tokens_with_them() {
    let mut reloading = Reloading::start("keys", PRODUCTION);
    let before = reloading.token("ann");
    assert_eq!(with_token(&reloading, &before), 101);
    secret(&reloading.folder, 2);
    let told = reloading.set(&[]);
    assert!(told.contains("applied=\"key\""), "{told}");
    assert_eq!(with_token(&reloading, &before), 401);
    assert_eq!(with_token(&reloading, &reloading.token("ann")), 101);
}

#[test]
fn who_takes_the_keys_away_is_told_who_may_connect_then() {
    const KEY: &str = "[key.one]\nalgorithm = \"HS256\"\nfile = \"secret\"\n";
    let mut reloading = Reloading::start("no-keys", KEY);
    let warned = |reloading: &Reloading| -> Vec<String> {
        reloading.server.lines().into_iter().filter(|line| line.contains("anyone may connect")).collect()
    };
    assert_eq!(warned(&reloading), [""; 0]);
    assert_eq!(reloading.knock("/ws", ""), 401);
    let told = reloading.reload("");
    assert!(told.contains("applied=\"key\""), "{told}");
    let line = eventually("a warning", PATIENCE, || warned(&reloading).pop());
    assert!(line.contains("WARN"), "{line}");
    assert_eq!(reloading.knock("/ws", ""), 101);
    for fragments in [9, 10] {
        reloading.reload(&format!("max_fragments = {fragments}\n")); // what came before the second's line is there
    }
    assert_eq!(warned(&reloading).len(), 1, "once: nothing has changed about it");
}

#[test]
fn who_came_before_there_were_keys_comes_again_with_its_token() {
    let mut reloading = Reloading::start("first-keys", "");
    let mut client = reloading.server.open_channels();
    let told = reloading.reload("[key.one]\nalgorithm = \"HS256\"\nfile = \"secret\"\n");
    assert!(told.contains("applied=\"key\""), "{told}");
    let token = reloading.token("ann");
    let answer = ask(&mut client, &json!({"type": "refresh", "id": 1, "token": token}));
    assert!(answer["code"] == "unauthorized" && answer.to_string().contains("connect anew"), "{answer}");
    assert_eq!(with_token(&reloading, &token), 101);
}

#[test]
fn topics_that_are_there_get_new_settings_of_their_pattern() {
    const BASE: &str = "[namespace.\"a:*\"]\npublishers = \"anyone\"\n";
    let mut reloading = Reloading::start("topics", BASE);
    let mut client = reloading.server.open_channels();
    let publish = json!({"type": "publish", "channel": "a:x", "data": 1, "id": 1});
    assert_eq!(ask(&mut client, &publish)["type"], "published");
    let told = reloading.reload("[namespace.\"a:*\"]\npublishers = \"server\"\nhistory_count = 0\n");
    assert!(told.contains("applied=\"namespace\""), "{told}");
    assert_eq!(ask(&mut client, &publish)["code"], "forbidden");
    let history = ask(&mut client, &json!({"type": "history", "id": 9, "channel": "a:x"}));
    assert_eq!(history["messages"], json!([]), "{history}");
}

#[test]
fn what_cannot_change_is_named_and_what_is_wrong_changes_nothing() {
    let mut reloading = Reloading::start("wrong", "");
    let told = reloading.set(&[("max_connections", "77"), ("echo", "off")]);
    assert!(told.contains("applied=\"echo\" needs_restart=\"max_connections\""), "{told}");
    assert_eq!(reloading.knock("/echo", ""), 404);

    let told = reloading.reload("echo = \"on\"\nlistne = \"x\"\nping_interval = \"5\"\n");
    assert!(told.contains("ERROR") && told.contains("2 options are wrong"), "{told}");
    let lines = eventually("both are named", PATIENCE, || {
        let lines = reloading.server.lines();
        let named = |part: &str| {
            lines.iter().any(|line| line.contains("configuration not changed") && line.contains(part))
        };
        (named("did you mean listen?") && named("has no unit")).then(|| lines.clone())
    });
    assert!(lines.iter().all(|line| !line.starts_with("  ")), "no line without its time and level");
    assert_eq!(reloading.knock("/echo", ""), 404, "nothing has changed");

    fs::remove_file(reloading.folder.join("megasock.toml")).unwrap();
    reloading.server.signal("HUP");
    eventually("it is missed", PATIENCE, || {
        reloading.server.lines().iter().any(|line| line.contains("cannot be read")).then_some(())
    });
    assert_eq!(reloading.knock("/echo", ""), 404);
    assert!(reloading.server.rss_bytes() > 0, "it runs");
}

#[test]
fn flags_win_over_the_file_still() {
    let folder = std::env::temp_dir().join(format!("megasock-reload-flags-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("megasock.toml");
    fs::write(&file, "").unwrap();
    let server = Server::start(&["--config", file.to_str().unwrap(), "--echo", "on"]);
    fs::write(&file, "echo = \"off\"\nmax_fragments = 9\n").unwrap();
    server.signal("HUP");
    let told = eventually("it was read", PATIENCE, || {
        server.lines().into_iter().find(|line| line.contains("configuration read again"))
    });
    assert!(told.contains("applied=\"max_fragments\""), "{told}");
    server.open().echo(TEXT, b"on");
    let _ = fs::remove_dir_all(&folder);
}
