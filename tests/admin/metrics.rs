//! The metrics of the real binary after known traffic, and the figures that tell the same.

use super::common::client::Client;
use super::common::frames::{PONG, TEXT, close, message, text};
use super::common::server::Server;
use super::common::{PATIENCE, eventually};
use super::{admin, ask, get};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

/// Every name that protocol.md promises, but those marked later: a sample of each.
const PROMISED: &[&str] = &[
    "ws_connections_active",
    "ws_connections_total",
    "ws_reconnections_total",
    "ws_disconnections_total{reason=\"client_closed\"}",
    "ws_handshakes_total{status=\"101\"}",
    "ws_messages_received_total{type=\"publish\"}",
    "ws_messages_sent_total",
    "ws_bytes_received_total",
    "ws_bytes_sent_total",
    "ws_message_size_bytes_count{direction=\"in\"}",
    "ws_message_size_bytes_count{direction=\"out\"}",
    "ws_message_duration_seconds_count",
    "ws_connection_duration_seconds_count",
    "ws_heartbeat_latency_seconds_count",
    "ws_delivery_latency_seconds_count",
    "ws_send_queue_bytes",
    "ws_slow_consumers_total{action=\"disconnect\"}",
    "ws_rate_limited_total{kind=\"message_rate_exceeded\"}",
    "ws_errors_total{code=\"invalid_json\"}",
    "ws_topics",
    "ws_subscriptions",
    "ws_mesh_full_total",
    "ws_memory_rss_bytes",
    "ws_memory_per_connection_bytes",
    "ws_load",
    "ws_reactor_busy_ratio{core=\"1\"}",
    "ws_turn_seconds_count{core=\"1\"}",
];

/// A scrape: the number of each sample, by name and labels without `server_id`, which all must have.
type Samples = BTreeMap<String, f64>;

fn scrape(server: &Server) -> Samples {
    let response = ask(admin(server), get("/metrics", ""));
    assert_eq!(response.status, 200);
    assert_eq!(response.header("Content-Type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = String::from_utf8(response.body).expect("UTF-8");
    let mut samples = Samples::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (sample, number) = line.rsplit_once(' ').expect("a sample and a number");
        let (name, labels) = sample.split_once("{server_id=\"n1\"").expect("a server_id, first");
        let labels = labels.trim_start_matches(',');
        let key = if labels == "}" { name.to_owned() } else { format!("{name}{{{labels}") };
        let number: f64 = number.parse().expect("a number");
        assert!(number >= 0.0, "{line}");
        assert!(samples.insert(key, number).is_none(), "twice: {line}");
    }
    samples
}

/// The sum over all values of its label.
fn sum(samples: &Samples, name: &str) -> f64 {
    samples.iter().filter(|(key, _)| key.split('{').next() == Some(name)).map(|(_, number)| number).sum()
}

fn json(server: &Server, target: &str) -> Value {
    let response = ask(admin(server), get(target, ""));
    assert_eq!(response.status, 200, "{target}");
    serde_json::from_slice(&response.body).expect("JSON")
}

fn start() -> Server {
    Server::start_with_reactors(2, &["--server-id", "n1"])
}

/// A client of this name, past its welcome.
fn user(server: &Server, name: &str) -> Client {
    let mut client = Client::open_at(server.address, &format!("/ws?user={name}"));
    client.message();
    client
}

/// Sends a command, and reads until its answer, which has the id 7.
fn command(client: &mut Client, command: &str) -> Value {
    client.send(&text(command));
    loop {
        let (_, message) = client.message();
        let answer: Value = serde_json::from_slice(&message).expect("JSON");
        if answer["id"] == 7 || answer["type"] == "error" {
            return answer;
        }
    }
}

#[test]
fn every_promised_name_is_served_and_counts_what_happened() {
    let server = start();
    let before = scrape(&server);
    for name in PROMISED {
        assert!(before.contains_key(*name), "{name} is not there before the first client");
    }

    // Ten on /echo send seven messages each; of them three say goodbye and one just goes.
    let mut echoing: Vec<Client> = (0..10).map(|_| server.open()).collect();
    for client in &mut echoing {
        (0..7).for_each(|_| client.echo(TEXT, b"0123456789"));
    }
    for client in &mut echoing[..3] {
        client.send(&close(1000, b""));
        client.close_frame();
    }
    echoing.drain(..4);

    // Three in a channel, of whom one publishes twice; the third returns to a place. One says nonsense.
    let [mut ann, mut bob] = ["ann", "bob"].map(|name| user(&server, name));
    let subscribe = r#"{"type":"subscribe","id":7,"channel":"c"}"#;
    let epoch = command(&mut ann, subscribe)["epoch"].as_str().expect("history is kept").to_owned();
    command(&mut bob, subscribe);
    let mut cid = user(&server, "ann");
    let back = format!(r#"{{"type":"subscribe","id":7,"channel":"c","epoch":"{epoch}","last_id":0}}"#);
    assert_eq!(command(&mut cid, &back)["recovered"], true);
    let publish = r#"{"type":"publish","id":7,"channel":"c","data":1}"#;
    (0..2).for_each(|_| drop(command(&mut ann, publish)));
    assert_eq!(command(&mut bob, "nonsense")["code"], "invalid_json");

    let expected = [
        ("ws_connections_total", 13.0),
        ("ws_connections_active", 9.0),
        ("ws_disconnections_total{reason=\"client_closed\"}", 3.0),
        ("ws_disconnections_total{reason=\"peer_eof\"}", 1.0),
        ("ws_connection_duration_seconds_count", 4.0),
        ("ws_handshakes_total{status=\"101\"}", 13.0),
        ("ws_messages_received_total{type=\"echo\"}", 70.0),
        ("ws_messages_received_total{type=\"subscribe\"}", 3.0),
        ("ws_messages_received_total{type=\"publish\"}", 2.0),
        ("ws_messages_received_total{type=\"invalid\"}", 1.0),
        ("ws_message_size_bytes_count{direction=\"in\"}", 76.0),
        ("ws_errors_total{code=\"invalid_json\"}", 1.0),
        ("ws_reconnections_total", 1.0),
        ("ws_sessions", 3.0),
        ("ws_users", 2.0),
        ("ws_topics", 1.0),
        ("ws_subscriptions", 3.0),
        ("ws_deliveries_total", 6.0),
        ("ws_delivery_latency_seconds_count", 6.0),
        ("ws_send_queue_bytes", 0.0),
        ("ws_owed_bytes", 0.0),
    ];
    let differs = |samples: &Samples| -> Vec<String> {
        let wrong = expected.iter().filter(|(name, number)| samples[*name] != *number);
        wrong.map(|(name, number)| format!("{name}: {} for {number}", samples[*name])).collect()
    };
    let after = eventually("the counters say so", PATIENCE, || {
        let samples = scrape(&server);
        let wrong = differs(&samples);
        // Of a test that fails the last line tells why.
        println!("{wrong:?}");
        wrong.is_empty().then_some(samples)
    });
    assert_eq!(
        after["ws_connections_active"],
        after["ws_connections_total"] - sum(&after, "ws_disconnections_total")
    );
    assert_eq!(sum(&after, "ws_errors_total"), 1.0);
    // 76 messages: 70 of ten bytes, and the commands as they were written.
    let commands =
        [subscribe, subscribe, &back, publish, publish, "nonsense"].map(str::len).iter().sum::<usize>();
    assert_eq!(after["ws_message_size_bytes_sum{direction=\"in\"}"], (700 + commands) as f64);
    assert!(
        after["ws_messages_sent_total"] >= 70.0 + 3.0 + 6.0 + 6.0,
        "echoes, welcomes, answers, deliveries"
    );
    assert!(after["ws_memory_rss_bytes"] > 1e6 && after["ws_memory_per_connection_bytes"] > 1e5);
    assert!((0.0..=1.0).contains(&after["ws_load"]));
}

#[test]
fn heartbeats_are_timed() {
    let server = Server::start_with_reactors(2, &["--server-id", "n1", "--ping-interval", "200ms"]);
    let mut client = server.open();
    eventually("a ping, answered, is timed", PATIENCE, || {
        let ping = client.frame();
        client.send(&message(PONG, &ping.payload));
        let samples = scrape(&server);
        (samples["ws_heartbeat_latency_seconds_count"] > 0.0).then_some(())
    });
}

#[test]
fn what_is_refused_is_counted_by_its_status() {
    let server = start();
    let refused = ask(
        server.address,
        "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    );
    assert_eq!(refused.status, 426, "no version is named");
    assert_eq!(ask(server.address, get("/health", "")).status, 200);
    eventually("a handshake refused, a page served", PATIENCE, || {
        let samples = scrape(&server);
        let handshakes =
            (samples["ws_handshakes_total{status=\"426\"}"], samples["ws_handshakes_total{status=\"101\"}"]);
        (handshakes == (1.0, 0.0) && samples["ws_http_responses_total"] == 2.0).then_some(())
    });
}

#[test]
fn aliases_are_served_to_those_who_ask_for_them() {
    let server = Server::start(&["--server-id", "n1", "--metric-aliases", "on"]);
    let mut client = server.open();
    client.echo(TEXT, b"once");
    eventually("the same under all names", PATIENCE, || {
        let samples = scrape(&server);
        let active = ["ws_connections_active", "ws_connections_current", "ws_active_connections"];
        let messages = samples["ws_messages_total{direction=\"in\",type=\"echo\"}"];
        (active.iter().all(|name| samples[*name] == 1.0) && messages == 1.0).then_some(())
    });
    assert!(!scrape(&start()).keys().any(|key| key.starts_with("ws_active_connections")));
}

#[test]
fn open_metrics_is_for_who_accepts_it() {
    let server = start();
    let accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5\r\n";
    let response = ask(admin(&server), get("/metrics", accept));
    let content_type = response.header("Content-Type");
    assert_eq!(content_type, Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    let text = String::from_utf8(response.body).expect("UTF-8");
    assert!(text.ends_with("\n# EOF\n") && text.contains("# TYPE ws_connections counter\n"), "{text}");
}

#[test]
fn the_figures_say_the_same_and_the_curve_grows() {
    let server = start();
    let clients: Vec<Client> = (0..5).map(|_| server.open()).collect();
    let info = eventually("five connections", PATIENCE, || {
        let info = json(&server, "/api/info");
        (info["connections"]["active"] == 5 && info["totals"]["messages_in"] == 0).then_some(info)
    });
    assert_eq!(
        (&info["server_id"], &info["state"], &info["cores"]),
        (&"n1".into(), &"ready".into(), &2.into())
    );
    assert_eq!(info["drain"], Value::Null);
    let on_cores = info["core"].as_array().expect("cores").iter().map(|core| core["connections"].as_u64());
    assert_eq!(on_cores.sum::<Option<u64>>(), Some(5));
    let points = |info: &Value| info["series"]["connections"].as_array().map_or(0, Vec::len);
    let series = eventually("three seconds of curves", PATIENCE, || {
        let series = json(&server, "/api/series?seconds=300");
        (points(&series) >= 3).then_some(series)
    });
    assert_eq!(series["series"]["connections"].as_array().and_then(|curve| curve.last()), Some(&5.into()));
    assert_eq!(points(&json(&server, "/api/series?seconds=2")), 2);
    drop(clients);
}

/// Each of them runs a small part of the time, and there is no room for more.
#[test]
fn reactors_that_share_a_cpu_fill_it_together() {
    let cpu = core_affinity::get_core_ids().expect("CPUs")[0].id.to_string();
    let server = Server::start_with_reactors(8, &["--server-id", "n1", "--cores", &cpu]);
    let (is_over, deadline) = (AtomicBool::new(false), Instant::now() + PATIENCE);
    thread::scope(|scope| {
        for _ in 0..16 {
            let (mut client, is_over) = (server.open(), &is_over);
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) && Instant::now() < deadline {
                    client.echo(TEXT, &[b'x'; 4096]);
                }
            });
        }
        eventually("the CPU is far busier than any of its reactors", PATIENCE, || {
            let info = json(&server, "/api/info");
            let busy = info["core"].as_array()?.iter().map(|core| core["busy"].as_f64());
            let busiest = busy.collect::<Option<Vec<f64>>>()?.into_iter().fold(0.0, f64::max);
            (busiest > 0.0 && info["load_parts"]["cores"].as_f64()? > 2.0 * busiest).then_some(())
        });
        is_over.store(true, Ordering::Relaxed);
    });
    let samples = scrape(&server);
    let cpus: Vec<&String> = samples.keys().filter(|key| key.starts_with("ws_cpu_busy_ratio{")).collect();
    assert_eq!(cpus, [&format!("ws_cpu_busy_ratio{{cpu=\"{cpu}\"}}")]);
}

#[test]
fn a_drain_shows() {
    let server = Server::start(&["--server-id", "n1", "--drain-timeout", "20s", "--reconnect-rate", "1"]);
    let clients: Vec<Client> = (0..8).map(|_| server.open_channels()).collect();
    eventually("eight connections", PATIENCE, || {
        (scrape(&server)["ws_connections_active"] == 8.0).then_some(())
    });
    server.signal("TERM");
    let info = eventually("a drain", PATIENCE, || {
        let info = json(&server, "/api/info");
        (info["state"] == "draining" && info["drain"]["told"] == 8).then_some(info)
    });
    assert_eq!(info["drain"]["clients"], 8);
    assert!(
        info["drain"]["seconds_left"].as_u64().is_some_and(|seconds| (5..=20).contains(&seconds)),
        "{info}"
    );
    assert_eq!(scrape(&server)["ws_draining"], 1.0);
    drop(clients);
}
