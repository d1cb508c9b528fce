//! The driver's binary against servers in this process: the real one, and ones that cheat. What counts as broken must
//! fail the run; what was not measured must be absent from the report.

mod driver;

use driver::{c1m, folder, report, run, text};
use megasock::{ConnId, Decision, Handler, Message, Outbox, Request, Server};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

struct Echo;

impl Handler for Echo {
    type Mail = ();

    fn on_request(&mut self, _: &Request<'_>, _: &mut Outbox) -> Decision {
        Decision::ACCEPT
    }

    fn on_message(&mut self, _: ConnId, message: Message<'_>, out: &mut Outbox) {
        out.reply(message);
    }
}

/// The address of a server that lives as long as this process.
fn sound_server() -> SocketAddr {
    let any_port = ([127, 0, 0, 1], 0).into();
    let builder = Server::builder().listen(any_port).reactors(1).max_connections(2_000);
    let running = builder.handler(|_core| Echo).start().expect("a server");
    running.handle().local_address()
}

#[test]
fn every_row_measures_a_sound_server_and_loses_nothing() {
    let url = format!("ws://{}/", sound_server());
    let rows = [
        ("ramp", vec!["ramp"]),
        ("echo", vec!["echo", "echo_latency"]),
        ("pipeline", vec!["echo"]),
        ("alive", vec!["echo", "hold"]),
        ("storm", vec!["storm"]),
    ];
    for (row, phases) in rows {
        let arguments = [
            row,
            "--url",
            &url,
            "--connections",
            "150",
            "--load",
            "300ms",
            "--hold",
            "300ms",
            "--echo-rate",
            "200",
        ];
        let (output, report) = run(row, &arguments);
        assert!(output.status.success(), "{row}: {}", text(&output));
        let connections = &report["connections"];
        for (name, expected) in [("requested", 150), ("opened", 150), ("failed", 0), ("lost", 0)] {
            assert_eq!(connections[name], expected, "{row}: {name} in {report:#}");
        }
        assert_eq!(connections["echoes_mismatched"], 0);
        for phase in phases {
            assert!(!report[phase].is_null(), "{row} has no {phase}: {report:#}");
        }
        for absent in ["memory.server_rss_bytes", "cpu.server_us_per_message", "broadcast"] {
            let (phase, name) = absent.split_once('.').unwrap_or((absent, ""));
            assert!(report[phase].get(name).is_none(), "{row}: the server is not c1m's own, yet {absent}");
        }
        assert_eq!(report.get("storm").is_some(), row == "storm");
        assert!(text(&output).contains("connections opened"));
    }
}

#[test]
fn ctrl_c_ends_with_the_report_of_what_was_measured() {
    let url = format!("ws://{}/", sound_server());
    let out = folder("interrupted");
    let mut child = c1m(&["alive", "--url", &url, "--connections", "50", "--hold", "10m"])
        .args(["--out", out.to_str().unwrap()])
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut stderr = child.stderr.take().unwrap();
    let mut piece = [0; 256];
    while !said.contains("every one echoes 50") {
        let read = stderr.read(&mut piece).unwrap();
        assert!(read > 0, "ended early: {said}");
        said += &String::from_utf8_lossy(&piece[..read]);
    }
    let started = Instant::now();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(started.elapsed() < Duration::from_secs(30));
    let report = report(&out);
    assert_eq!((&report["interrupted"], &report["connections"]["opened"]), (&true.into(), &50.into()));
    assert!(report.get("echo").is_none(), "not measured, so absent: {report:#}");
}

/// A server that accepts the upgrade and gives each connection to `serve`.
fn cheat(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = std::sync::Arc::new(serve);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let serve = std::sync::Arc::clone(&serve);
            std::thread::spawn(move || {
                let mut head = [0; 1024];
                // A connection that ends in its handshake is the driver's to report.
                let _ = stream.read(&mut head);
                let _ = stream.write_all(
                    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
                );
                serve(stream);
            });
        }
    });
    address
}

/// Echoes masked 64-byte messages through `alter`, which sees the whole server frame and its number.
fn echo_through(mut stream: TcpStream, alter: impl Fn(usize, &mut Vec<u8>)) {
    let mut frame = [0; 6 + 64];
    for number in 0.. {
        if stream.read_exact(&mut frame).is_err() {
            return;
        }
        let key = [frame[2], frame[3], frame[4], frame[5]];
        let unmasked = frame[6..].iter().enumerate().map(|(at, byte)| byte ^ key[at % 4]);
        let mut reply: Vec<u8> = [0x81, 64].into_iter().chain(unmasked).collect();
        alter(number, &mut reply);
        if stream.write_all(&reply).is_err() {
            return;
        }
    }
}

#[test]
fn a_server_that_cheats_fails_the_run() {
    type Alter = fn(usize, &mut Vec<u8>);
    let cheats: [(&str, Alter, &str); 4] = [
        ("alters a byte", |number, reply| reply[40] ^= u8::from(number == 3), "echoes_mismatched"),
        (
            "answers twice",
            |number, reply| {
                if number == 3 {
                    reply.extend(reply.clone())
                }
            },
            "echoes_mismatched",
        ),
        (
            "cuts short",
            |number, reply| {
                if number == 3 {
                    reply.splice(1..3, [63]);
                }
            },
            "echoes_mismatched",
        ),
        (
            "closes",
            |number, reply| {
                if number == 3 {
                    *reply = vec![0x88, 0]
                }
            },
            "lost",
        ),
    ];
    for (name, alter, counted) in cheats {
        let url = format!("ws://{}/", cheat(move |stream| echo_through(stream, alter)));
        let arguments = ["echo", "--url", &url, "--connections", "4", "--load", "300ms", "--echo-rate", "50"];
        let (output, report) = run(&format!("cheat {name}"), &arguments);
        assert_eq!(output.status.code(), Some(1), "{name}: {}", text(&output));
        assert!(report["connections"][counted].as_u64() > Some(0), "{name}: {report:#}");
        assert!(report["connections"]["lost"].as_u64() > Some(0), "{name}: {report:#}");
    }
}

#[test]
fn an_honest_slow_echo_passes_where_the_cheats_fail() {
    let url = format!("ws://{}/", cheat(|stream| echo_through(stream, |_, _| {})));
    let arguments = ["echo", "--url", &url, "--connections", "4", "--load", "300ms", "--echo-rate", "50"];
    let (output, report) = run("honest", &arguments);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(report["connections"]["lost"], 0);
}

#[test]
fn a_rate_the_server_does_not_reach_is_refused() {
    let slow = |stream| echo_through(stream, |_, _| std::thread::sleep(Duration::from_millis(20)));
    let url = format!("ws://{}/", cheat(slow));
    let arguments = ["echo", "--url", &url, "--connections", "2", "--load", "500ms", "--echo-rate", "1000"];
    let (output, report) = run("too fast", &arguments);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(report["echo"]["refused"].is_string() && report["echo"].get("p99_us").is_none(), "{report:#}");
}

#[test]
fn a_refused_upgrade_is_a_failure_with_its_status() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = [0; 1024];
            let _ = stream.read(&mut head);
            let _ = stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let (output, report) = run("refused", &["ramp", "--url", &url, "--connections", "3"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(report["connections"]["failed"], 3);
    assert_eq!(report["connections"]["reasons"]["HTTP status 503"], 3);
}

#[test]
fn servers_take_turns_and_the_bare_floor_needs_no_frames() {
    let floor = TcpListener::bind("127.0.0.1:0").unwrap();
    let floor_address = floor.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in floor.incoming().flatten() {
            std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
        }
    });
    let pid = std::process::id();
    let json = folder("turns").join("turns.json");
    let targets =
        [format!("sound={pid}@ws://{}/", sound_server()), format!("floor={pid}@tcp://{floor_address}")];
    let output = c1m(&[
        "turns",
        "--target",
        &targets[0],
        "--target",
        &targets[1],
        "--connections",
        "5",
        "--rounds",
        "2",
    ])
    .args(["--warmup", "1", "--window", "40ms", "--json", json.to_str().unwrap()])
    .output()
    .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let comparison: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    for at in 0..2 {
        let target = &comparison["targets"][at];
        assert!(target.get("failed").is_none(), "{target:#}");
        for figure in ["us_per_message", "messages_per_second", "cpu_ratio", "rate_ratio"] {
            assert!(target[figure]["median"].as_f64() > Some(0.0), "{figure} in {target:#}");
        }
    }
}
