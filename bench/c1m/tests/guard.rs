//! The rows that put a server on its guard: a storm by schedule, a drain, attackers, and a look at its admin listener. Against
//! servers that refuse in every way, and the real one.

mod driver;

use driver::{megasock, run, text};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const ACCEPTED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// What a server does to the connection of this number.
type Welcome = fn(usize) -> Reception;

enum Reception {
    Serve,
    /// From now on nobody's ping is answered soon.
    Suffer,
    /// An answer and its end.
    Status(&'static str),
    /// Accepted only to say when to come back.
    InBand,
    /// Closed without a word.
    Reset,
}

/// How long a pong then takes: far longer than otherwise on a busy machine.
const SUFFERING: Duration = Duration::from_millis(1_500);

/// A server of the channel protocol, as much of it as the driver speaks.
fn channel_server(welcome: Welcome) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/ws", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let suffers = Arc::new(AtomicBool::new(false));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let reception = welcome(count.fetch_add(1, Ordering::Relaxed));
            let suffers = Arc::clone(&suffers);
            // A connection the driver cuts ends its thread.
            std::thread::spawn(move || receive(stream, reception, &suffers));
        }
    });
    url
}

fn receive(mut stream: TcpStream, reception: Reception, suffers: &AtomicBool) -> std::io::Result<()> {
    let mut head = [0; 1024];
    if matches!(reception, Reception::Reset) {
        return Ok(());
    }
    let _ = stream.read(&mut head)?;
    match reception {
        Reception::Status(answer) => return stream.write_all(answer.as_bytes()),
        Reception::InBand => {
            stream.write_all(ACCEPTED.as_bytes())?;
            say(&mut stream, r#"{"type":"error","code":"try_again","error":"full","reconnectDelay":20}"#)?;
            stream.write_all(&[0x88, 2, 0x03, 0xF5])?; // 1013
            // What the driver says meanwhile is taken, or its end would be a reset.
            return std::io::copy(&mut stream, &mut std::io::sink()).map(drop);
        }
        Reception::Suffer => suffers.store(true, Ordering::Relaxed),
        Reception::Serve | Reception::Reset => {}
    }
    stream.write_all(ACCEPTED.as_bytes())?;
    say(&mut stream, r#"{"type":"welcome","connectionId":"a","pingInterval":25000}"#)?;
    while let Some(command) = hear(&mut stream)? {
        let command: serde_json::Value = serde_json::from_slice(&command)?;
        let id = &command["id"];
        match command["type"].as_str() {
            Some("subscribe") => {
                say(&mut stream, &format!(r#"{{"type":"subscribed","id":{id},"last_id":0}}"#))?
            }
            Some("ping") => {
                if suffers.load(Ordering::Relaxed) {
                    std::thread::sleep(SUFFERING);
                }
                say(&mut stream, &format!(r#"{{"type":"pong","id":{id},"ts":1}}"#))?
            }
            _ => {}
        }
    }
    Ok(())
}

fn say(stream: &mut TcpStream, text: &str) -> std::io::Result<()> {
    stream.write_all(&[&[0x81, text.len() as u8], text.as_bytes()].concat())
}

/// The text of the next frame, masked and short as the driver's are.
fn hear(stream: &mut TcpStream) -> std::io::Result<Option<Vec<u8>>> {
    let mut header = [0; 6];
    stream.read_exact(&mut header)?;
    if header[0] != 0x81 {
        return Ok(None);
    }
    let mut text = vec![0; usize::from(header[1] & 0x7F)];
    stream.read_exact(&mut text)?;
    text.iter_mut().enumerate().for_each(|(at, byte)| *byte ^= header[2 + at % 4]);
    Ok(Some(text))
}

/// The bounds a report says are broken; one of them and the run has failed.
fn broken(output: &Output, report: &Value) -> Vec<String> {
    let said = report["broken"].as_array().cloned().unwrap_or_default();
    let broken: Vec<String> = said.iter().map(|bound| bound.as_str().unwrap().to_owned()).collect();
    for bound in &broken {
        assert_eq!(output.status.code(), Some(1), "{bound}");
        assert!(text(output).contains(&format!("broken: {bound}")), "{bound} in {}", text(output));
    }
    broken
}

const CLIENTS: usize = 40;
const STORM: [&str; 4] = ["storm", "--schedule", "--connections", "40"];

#[test]
fn a_storm_comes_back_through_refusals_that_say_when() {
    let url = channel_server(|number| match number {
        0..CLIENTS => Reception::Serve,
        n if n < 2 * CLIENTS && n % 4 == 0 => {
            Reception::Status("HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\nContent-Length: 0\r\n\r\n")
        }
        n if n < 2 * CLIENTS && n % 4 == 1 => Reception::InBand,
        _ => Reception::Serve,
    });
    let (output, report) = run("storm schedule", &[&STORM[..], &["--url", &url]].concat());
    assert!(output.status.success(), "{}", text(&output));
    let storm = &report["storm"];
    let expected = [
        ("clients", 40),
        ("returned", 40),
        ("reopened", 40),
        ("refused", 20),
        ("refused_retry_after", 10),
        ("refused_in_band", 10),
        ("refused_unannounced", 0),
        ("attempts", 60),
        ("failed", 0),
    ];
    for (name, count) in expected {
        assert_eq!(storm[name], count, "{name} in {storm:#}");
    }
    assert!(
        storm["peak_1s"].as_u64() <= Some(40) && storm["peak_1s"].as_u64() >= storm["peak_100ms"].as_u64()
    );
    assert!(storm.get("limit_per_second").is_none(), "nothing is known of this server's limit");
    assert_eq!(report["connections"]["failed"], 0);
    assert!(
        text(&output).contains("20  10 with Retry-After, 10 in band; unannounced 0"),
        "{}",
        text(&output)
    );
}

#[test]
fn a_client_refused_unannounced_fails_the_storm() {
    let silent: [(&str, Welcome); 2] = [
        ("status alone", |number| match number {
            CLIENTS => Reception::Status("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"),
            _ => Reception::Serve,
        }),
        ("reset", |number| if number == CLIENTS { Reception::Reset } else { Reception::Serve }),
    ];
    for (name, welcome) in silent {
        let url = channel_server(welcome);
        let (output, report) = run(&format!("storm {name}"), &[&STORM[..], &["--url", &url]].concat());
        assert_eq!(output.status.code(), Some(1), "{name}: {}", text(&output));
        let storm = &report["storm"];
        assert_eq!((&storm["refused_unannounced"], &storm["returned"]), (&1.into(), &40.into()), "{name}");
        assert_eq!(report["connections"]["failed"], 1, "{name}");
        assert_eq!(broken(&output, &report), ["storm: 1 refused without being told when to come back"]);
    }
}

#[test]
fn a_server_in_production_stands_a_storm_and_its_token_is_nowhere() {
    let server = megasock();
    let arguments = ["--production", "--server", server.to_str().unwrap(), "--port", "9310"];
    let (output, report) = run("storm production", &[&STORM[..], &arguments].concat());
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(
        (&report["storm"]["returned"], &report["storm"]["refused_unannounced"]),
        (&40.into(), &0.into())
    );
    assert_eq!(report["storm"]["limit_per_second"], 10_000.0, "the default of accept_rate");
    let out = driver::folder("storm production");
    for entry in std::fs::read_dir(out).unwrap().flatten() {
        let text = std::fs::read(entry.path()).unwrap();
        assert!(!text.windows(4).any(|bytes| bytes == b"eyJ0"), "a token in {}", entry.path().display());
    }
}

#[test]
fn every_attack_is_measured_against_the_honest_alone() {
    let server = megasock();
    let arguments = [
        "attack",
        "--connections",
        "50",
        "--attackers",
        "2",
        "--rounds",
        "2",
        "--load",
        "300ms",
        "--echo-rate",
        "100",
        "--port",
        "9320",
        "--server",
        server.to_str().unwrap(),
    ];
    let (output, report) = run("attack", &arguments);
    let said = text(&output);
    assert!(!report["connections"].is_null(), "{said}");
    assert_eq!(
        (&report["connections"]["opened"], &report["connections"]["lost"]),
        (&50.into(), &0.into()),
        "{said}"
    );
    let attacks = report["attacks"].as_array().unwrap();
    let kinds: Vec<&str> = attacks.iter().filter_map(|attack| attack["kind"].as_str()).collect();
    let all = ["slow-head", "ping-flood", "fragments", "never-read", "subscribe-churn", "connection-churn"];
    assert_eq!(kinds, all);
    let mut broken = broken(&output, &report);
    for attack in attacks {
        // On a busy machine nothing may be left for those who only get what nobody else wants.
        let idle = format!("{}: the attackers did nothing", attack["kind"].as_str().unwrap());
        let is_idle = attack["rounds"].as_array().unwrap().iter().all(|round| round["deeds"] == 0);
        assert_eq!(is_idle, broken.contains(&idle), "{attack:#}");
        broken.retain(|bound| *bound != idle);
        let rounds = attack["rounds"].as_array().unwrap();
        assert_eq!(rounds.len(), 2, "{attack:#}");
        for round in rounds {
            for load in ["quiet", "beside"] {
                assert!(round[load]["p99_us"].as_u64() > Some(0), "{attack:#}");
                assert_eq!(round[load]["errors"], 0, "{attack:#}");
            }
            assert!(round["deeds"] == 0 || round["wire_bytes"].as_u64() > Some(0), "{attack:#}");
            assert!(round["memory"]["rss_peak_bytes"].as_u64() > Some(1 << 20), "{attack:#}");
            assert!(round["memory"]["tcp_buffer_peak_bytes"].is_u64(), "{attack:#}");
        }
    }
    for bound in broken {
        assert!(bound.contains("honest p99"), "on a busy machine only times may be: {said}");
    }
}

#[test]
fn the_honest_that_wait_too_long_beside_attackers_fail_the_run() {
    let url = channel_server(|number| if number < CLIENTS { Reception::Serve } else { Reception::Suffer });
    let arguments = ["attack", "--kind", "subscribe-churn", "--attackers", "1", "--connections", "40"];
    let load = ["--load", "2s", "--rounds", "1", "--echo-rate", "20", "--url", &url];
    let (output, report) = run("attack felt", &[&arguments[..], &load].concat());
    let attack = &report["attacks"][0];
    assert!(attack["rounds"][0]["beside"]["p99_us"].as_u64() >= Some(1_500_000), "{attack:#}");
    let broken = broken(&output, &report);
    assert!(broken.len() == 1 && broken[0].contains("subscribe-churn: honest p99"), "{broken:?}");
}

#[test]
fn the_admin_listener_is_watched_and_flooded() {
    let server = megasock();
    let load = ["--connections", "50", "--load", "500ms", "--echo-rate", "100", "--server"];
    let load = [&load[..], &[server.to_str().unwrap()]].concat();

    let (output, report) = run("watch", &[&["watch", "--port", "9340"], &load[..]].concat());
    for asked in ["scrapes", "publications"] {
        let answers = &report["watch"][asked];
        assert!(answers["count"].as_u64() > Some(2) && answers["failed"] == 0, "{report:#}");
    }
    for bound in broken(&output, &report) {
        assert!(bound.contains("p99"), "on a busy machine only times may be: {bound}");
    }

    let flood = ["flood", "--garbage", "20", "--rounds", "1", "--port", "9350"];
    let (output, report) = run("flood", &[&flood, &load[..]].concat());
    let flood = &report["flood"];
    assert!(flood["answers_after"] == true && flood["errors"] == 0, "{report:#}");
    assert!(flood["rss_peak_bytes"].as_u64() > Some(1 << 20), "{report:#}");
    for bound in broken(&output, &report) {
        assert!(bound.contains("echo p99"), "on a busy machine only times may be: {bound}");
    }
}

#[test]
fn a_server_is_replaced_under_load_and_nobody_is_refused() {
    const MIGRATE: &str = "/proc/sys/net/ipv4/tcp_migrate_req";
    let before = std::fs::read_to_string(MIGRATE).unwrap();
    if before.trim() != "1" && std::fs::OpenOptions::new().write(true).open(MIGRATE).is_err() {
        eprintln!("skipped: {MIGRATE} is 0 and not to be changed by this user");
        return;
    }
    let server = megasock();
    let arguments = ["drain", "--connections", "200", "--newcomers", "50", "--port", "9330"];
    let own = ["--server", server.to_str().unwrap(), "--server-arg=--reconnect-rate=100/s"];
    let (output, report) = run("drain", &[&arguments[..], &own].concat());
    for bound in broken(&output, &report) {
        // A driver that had no core asks late, and for several seconds' worth at once.
        assert!(bound.contains("the limit is"), "{}", text(&output));
    }
    let drain = &report["drain"];
    let expected = [
        ("clients", 200),
        ("returned", 200),
        ("told", 200),
        ("refused_retry_after", 0),
        ("refused_in_band", 0),
        ("refused_unannounced", 0),
        ("exit_code", 0),
        ("limit_per_second", 100),
    ];
    for (name, count) in expected {
        assert_eq!(drain[name].as_f64(), Some(f64::from(count)), "{name} in {drain:#}");
    }
    assert_eq!(drain["endings"], serde_json::json!({ "close 1012": 200 }));
    assert!(
        drain["newcomers"]["opened"].as_u64() > Some(0) && drain["newcomers"]["refused"] == 0,
        "{drain:#}"
    );
    assert!(drain["summary"].to_string().contains("server_shutdown=200"), "{drain:#}");
    assert_eq!(std::fs::read_to_string(MIGRATE).unwrap(), before, "the setting is put back");
}

#[test]
fn only_a_server_started_here_can_be_replaced() {
    let url = channel_server(|_| Reception::Serve);
    let (output, _) = run("drain elsewhere", &["drain", "--connections", "5", "--url", &url]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("leave out --url"), "{}", text(&output));
}
