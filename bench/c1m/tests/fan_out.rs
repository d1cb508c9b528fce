//! The rows that publish, against the real hub, a plain server that is sound, and ones that cheat. A delivery lost,
//! doubled, altered or out of order must fail the run.

mod driver;

use driver::{c1m, folder, run, text};
use megasock::{Server, hub};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// The address of a hub on two cores that lives as long as this process.
fn hub_server() -> SocketAddr {
    let any_port = ([127, 0, 0, 1], 0).into();
    let builder = Server::builder().listen(any_port).reactors(2).max_connections(2_000);
    let running = builder.hub(|_core| hub::Open).start().expect("a server");
    running.handle().local_address()
}

#[test]
fn every_row_that_publishes_passes_against_the_hub() {
    let url = format!("ws://{}/ws?user=u{{n}}", hub_server());
    for row in ["fanout", "slow", "churn", "alive"] {
        let arguments = [row, "--url", &url, "--connections", "150", "--load", "500ms", "--hold", "100ms"];
        let (output, report) =
            run(&format!("hub {row}"), &[&arguments[..], &["--echo-rate", "200"]].concat());
        assert!(output.status.success(), "{row}: {}", text(&output));
        let connections = &report["connections"];
        for (name, expected) in [("failed", 0), ("lost", 0), ("misdelivered", 0), ("gaps", 0)] {
            assert_eq!(connections[name], expected, "{row}: {name} in {report:#}");
        }
        assert!(connections["deliveries"].as_u64() >= Some(150), "{row}: {report:#}");
        let (block, names) = match row {
            "fanout" => {
                (&report[row][1], "subscribers deliveries deliveries_per_second last_p50_us last_p99_us")
            }
            "slow" => (&report[row], "baseline_p99_us p99_us stalled disconnected"),
            "churn" => (&report[row], "cut reopened publications deliveries seconds"),
            _ => (&report["broadcast"], "seconds_to_last p50_ms p99_ms deliveries_per_second missing"),
        };
        for name in names.split(' ') {
            assert!(block.get(name).is_some(), "{row}: no {name} in {report:#}");
        }
        assert_eq!(block["missing"], 0, "{row}: {report:#}");
        for (others, name) in [("fanout", "fanout"), ("slow", "slow"), ("alive", "broadcast")] {
            assert_eq!(report.get(name).is_some(), row == others, "{row} and {name}");
        }
    }
}

type Frames = Vec<Vec<u8>>;
/// What subscriber `who` is sent for publication `number`, whose frame is given.
type Bring = fn(who: usize, number: usize, frame: &[u8]) -> Frames;

fn soundly(_: usize, _: usize, frame: &[u8]) -> Frames {
    vec![frame.to_vec()]
}

/// A server that brings each message of 64 bytes to all who are connected, through `bring`.
fn topic_server(bring: Bring) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let topic = Arc::new(Mutex::new((0, Vec::<TcpStream>::new())));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let topic = Arc::clone(&topic);
            std::thread::spawn(move || {
                let mut head = [0; 1024];
                // A connection that ends in its handshake is the driver's to report.
                let _ = stream.read(&mut head);
                topic.lock().unwrap().1.push(stream.try_clone().unwrap());
                let _ = stream.write_all(
                    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
                );
                serve(stream, &topic, bring);
            });
        }
    });
    address
}

fn serve(mut stream: TcpStream, topic: &Mutex<(usize, Vec<TcpStream>)>, bring: Bring) {
    let mut masked = [0; 6 + 64];
    while stream.read_exact(&mut masked).is_ok() {
        let key = [masked[2], masked[3], masked[4], masked[5]];
        let unmasked = masked[6..].iter().enumerate().map(|(at, byte)| byte ^ key[at % 4]);
        let frame: Vec<u8> = [0x81, 64].into_iter().chain(unmasked).collect();
        let (number, subscribers) = &mut *topic.lock().unwrap();
        for (who, subscriber) in subscribers.iter_mut().enumerate() {
            let bytes = bring(who, *number, &frame).concat();
            // A subscriber the driver gave up is gone.
            let _ = subscriber.write_all(&bytes);
        }
        *number += 1;
    }
}

/// Several on their way, so that what follows a lost one shows that it is lost.
const ARGUMENTS: [&str; 7] = ["fanout", "--connections", "4", "--load", "300ms", "--outstanding", "4"];

#[test]
fn a_sound_plain_server_passes() {
    let url = format!("ws://{}/", topic_server(soundly));
    let (output, report) = run("sound topic", &[&ARGUMENTS[..], &["--url", &url]].concat());
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!((&report["fanout"][0]["missing"], &report["connections"]["lost"]), (&0.into(), &0.into()));
    assert!(report["fanout"][0]["deliveries"].as_u64() > Some(4), "{report:#}");
}

#[test]
fn a_server_that_cheats_with_deliveries_fails_the_run() {
    let cheats: [(&str, Bring); 4] = [
        ("loses", |who, number, frame| match (who, number) {
            (1, 5) => vec![],
            _ => vec![frame.to_vec()],
        }),
        ("doubles", |who, number, frame| match (who, number) {
            (1, 5) => vec![frame.to_vec(); 2],
            _ => vec![frame.to_vec()],
        }),
        ("alters", |who, number, frame| {
            let mut frame = frame.to_vec();
            frame[50] ^= u8::from((who, number) == (1, 5));
            vec![frame]
        }),
        ("answers before it is asked", |who, number, frame| {
            let mut next = frame.to_vec();
            // The least significant digit of its number comes first.
            next[2] += u8::from((who, number) == (1, 5));
            vec![next]
        }),
    ];
    std::thread::scope(|scope| {
        for (name, bring) in cheats {
            scope.spawn(move || {
                let url = format!("ws://{}/", topic_server(bring));
                let (output, report) =
                    run(&format!("topic that {name}"), &[&ARGUMENTS[..], &["--url", &url]].concat());
                assert_eq!(output.status.code(), Some(1), "{name}: {}", text(&output));
                assert_eq!(report["connections"]["misdelivered"], 1, "{name}: {report:#}");
                assert_eq!(report["connections"]["lost"], 1, "{name}: {report:#}");
            });
        }
    });
}

#[test]
fn servers_of_both_dialects_take_turns() {
    let pid = std::process::id();
    let json = folder("fan-out turns").join("turns.json");
    let hub = format!("hub={pid}@ws://{}/ws?user=u{{n}}", hub_server());
    let plain = format!("plain={pid}@ws://{}/", topic_server(soundly));
    let cheat = format!("cheat={pid}@ws://{}/", topic_server(|_, _, frame| vec![frame.to_vec(); 2]));
    let targets = ["--target", &hub, "--target", &plain, "--target", &cheat];
    let settings =
        ["--row", "fanout", "--connections", "5", "--rounds", "2", "--warmup", "1", "--window", "20ms"];
    let output =
        c1m(&[&["turns"], &targets[..], &settings[..], &["--json", json.to_str().unwrap()]].concat())
            .output()
            .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let figures: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    for at in [0, 1] {
        let target = &figures["targets"][at];
        assert!(target.get("failed").is_none() && target["us_per_delivery"].is_object(), "{figures:#}");
    }
    assert!(figures["targets"][2]["failed"].as_str().is_some_and(|why| why.contains("twice")), "{figures:#}");
}
