//! Stopping: newcomers are told to come back, those inside are told to go, and the process ends in time.

use crate::common::client::{Client, End, request, upgrade_request};
use crate::common::frames::{self, BINARY, TEXT};
use crate::common::server::Server;
use crate::common::{PATIENCE, eventually};
use std::collections::BTreeSet;
use std::io;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const READY: &[u8] = b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n";
const HEALTH: &[u8] = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[test]
fn sigterm_drains() {
    let mut server = Server::start(&["--close-timeout", "20s"]);
    let mut polite = server.open();
    let mut late = server.open();
    let mut unready = Client::connect(server.address);
    assert_eq!(request(server.address, READY).status, 200);
    server.signal("TERM");

    polite.expect_close(1012);
    assert_eq!(late.close_frame().close_code(), Some(1012));
    // The one that has not answered keeps the server in its drain.
    assert_eq!(request(server.address, READY).status, 503);
    assert_eq!(request(server.address, HEALTH).status, 200);
    for target in ["/echo", "/ws"] {
        let waits = (0..60).map(|_| {
            let refused = request(server.address, upgrade_request(target).as_bytes());
            assert_eq!(refused.status, 503);
            refused.header("Retry-After").expect("Retry-After").parse::<u32>().expect("seconds")
        });
        let waits: BTreeSet<u32> = waits.collect();
        assert!(waits.len() > 3 && waits.iter().all(|wait| (1..=10).contains(wait)), "{target}: {waits:?}");
    }
    // Connected before, asking only now: a newcomer too.
    unready.send(upgrade_request("/echo").as_bytes());
    assert_eq!(unready.last_response().status, 503);
    // Refused and told so; the server still waits for its FIN.
    drop(unready);

    late.send(&frames::close(1012, b""));
    late.ends_with(End::Eof);
    let status = server.wait(PATIENCE);
    assert!(status.success(), "{status}: {:#?}", server.lines());
    let summary = server.summary();
    assert_eq!(summary.closed("server_shutdown"), 2, "{summary:?}");
    assert!(summary.held.values().all(|held| *held == 0), "{summary:?}");
}

#[test]
fn an_idle_server_stops_at_once() {
    for signal in ["TERM", "INT"] {
        let mut server = Server::start(&[]);
        server.signal(signal);
        let began = Instant::now();
        assert!(server.wait(PATIENCE).success());
        assert!(began.elapsed() < Duration::from_secs(2), "SIG{signal}: {:?}", began.elapsed());
    }
}

#[test]
fn the_drain_timeout_ends_those_who_stay() {
    let mut server = Server::start_with_reactors(2, &["--drain-timeout", "1s", "--close-timeout", "60s"]);
    let mut stays: Vec<Client> = (0..20).map(|_| server.open()).collect();
    server.signal("TERM");
    let began = Instant::now();
    for client in &mut stays {
        assert_eq!(client.close_frame().close_code(), Some(1012));
    }
    assert!(server.wait(PATIENCE).success(), "{:#?}", server.lines());
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    for client in &mut stays {
        assert!(client.end_within(PATIENCE).is_some());
    }
    let summary = server.summary();
    assert_eq!(summary.closed("server_shutdown"), 20, "{summary:?}");
    assert!(summary.held.values().all(|held| *held == 0), "what was cut is no leak: {summary:?}");
}

#[test]
fn each_client_is_told_its_own_time_to_come_back_and_closed_at_its_turn() {
    let flags = ["--reconnect-rate", "20/s", "--drain-timeout", "2s", "--restart-time", "off"];
    let mut server = Server::start(&flags);
    let mut clients: Vec<Client> = (0..60).map(|_| server.open_channels()).collect();
    server.signal("TERM");
    let mut delays_ms: Vec<u64> = clients.iter_mut().map(told_delay_ms).collect();
    delays_ms.sort_unstable();
    // 60 at 20 a second and some margin, evenly: about one each 50 ms.
    assert!(delays_ms[59] < 3_200 && delays_ms[59] > 2_800, "{delays_ms:?}");
    assert!(delays_ms.windows(2).all(|pair| (1..160).contains(&(pair[1] - pair[0]))), "{delays_ms:?}");
    let began = Instant::now();
    for client in &mut clients {
        client.expect_close(1012);
    }
    // Spread over four fifths of the timeout: at the rate it would take longer, and at once no time.
    assert!(began.elapsed() > Duration::from_millis(500), "{:?}", began.elapsed());
    assert!(server.wait(PATIENCE).success(), "{:#?}", server.lines());
    assert_eq!(server.summary().closed("server_shutdown"), 60);
}

/// A lone server that is started again, as a service manager does it: who comes when told finds it, and no second brings
/// more than was announced.
#[test]
fn a_restart_brings_clients_back_at_the_rate_and_refuses_none() {
    const RATE: usize = 20;
    let flags = ["--reconnect-rate", "20/s", "--close-timeout", "1s", "--restart-time", "4s"];
    let mut old = Server::start(&flags);
    let address = old.address;
    let clients: Vec<Client> = (0..60).map(|_| old.open_channels()).collect();
    old.signal("TERM");
    let began = Instant::now();
    let returning = |mut client: Client| {
        std::thread::spawn(move || {
            let delay = Duration::from_millis(told_delay_ms(&mut client));
            assert_eq!(client.close_frame().close_code(), Some(1012));
            let due = began.elapsed() + delay;
            client.send(&frames::close(1012, b""));
            client.ends_with(End::Eof);
            drop(client);
            std::thread::sleep(due.saturating_sub(began.elapsed()));
            Client::open_at(address, "/ws"); // panics where it is refused
            due
        })
    };
    let returning: Vec<_> = clients.into_iter().map(returning).collect();
    assert!(old.wait(PATIENCE).success(), "{:#?}", old.lines());
    let ended = began.elapsed();
    let listen = address.to_string();
    let new = Server::start(&["--listen", &listen]);
    let returns = returning.into_iter().map(|client| client.join().expect("nobody is refused"));
    let mut returns: Vec<Duration> = returns.collect();
    returns.sort_unstable();
    assert!(returns[0] > ended + Duration::from_secs(3), "{ended:?} {returns:?}");
    let in_a_second = |from: &Duration| {
        returns.iter().filter(|at| *at >= from && **at - *from < Duration::from_secs(1)).count()
    };
    let peak = returns.iter().map(in_a_second).max().expect("some");
    // A host that stands still for a moment moves some Closes, and the returns after them.
    assert!(peak <= RATE * 3 / 2, "{peak} in one second: {returns:?}");
    new.stop();
}

/// The delay in the `server_shutdown` that must be the next message.
fn told_delay_ms(client: &mut Client) -> u64 {
    let (opcode, payload) = client.message();
    let frame: serde_json::Value = serde_json::from_slice(&payload).expect("JSON");
    assert_eq!((opcode, &frame["type"]), (TEXT, &"server_shutdown".into()), "{frame}");
    frame["reconnectDelay"].as_u64().expect("milliseconds")
}

#[test]
fn progress_is_on_the_log() {
    let mut server = Server::start(&["--drain-timeout", "60s", "--close-timeout", "60s"]);
    // One that answers its Close, one that does not, and one that is told nothing, for it speaks no protocol of ours.
    let (mut goes, mut stays, mut echo) = (server.open_channels(), server.open_channels(), server.open());
    server.signal("TERM");
    for client in [&mut goes, &mut stays] {
        told_delay_ms(client);
        assert_eq!(client.close_frame().close_code(), Some(1012));
    }
    assert_eq!(echo.close_frame().close_code(), Some(1012));
    goes.send(&frames::close(1012, b""));
    goes.ends_with(End::Eof);
    for words in ["newcomers=\"answered 503\"", "open=2 told=2 closed=1 seconds_left=5"] {
        let said = || server.lines().iter().any(|line| line.contains(words)).then_some(());
        eventually(words, PATIENCE, said);
    }
    for client in [&mut stays, &mut echo] {
        client.send(&frames::close(1012, b""));
    }
    assert!(server.wait(PATIENCE).success());
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut server = Server::start(&["--drain-timeout", "60s", "--close-timeout", "60s"]);
    let mut stays = server.open();
    server.signal("TERM");
    assert_eq!(stays.close_frame().close_code(), Some(1012));
    server.signal("TERM");
    // Within the timeouts.
    assert_eq!(server.wait(PATIENCE).code(), Some(128 + 15));
}

#[test]
fn a_drain_interrupts_nobody_inside_a_message() {
    let large = ["--max-message-bytes", "8MiB", "--send-queue-bytes-max", "16MiB"];
    let mut server = Server::start(&[&large[..], &["--close-timeout", "60s"]].concat());
    // One is inside what it sends, which does not hold up the others' drain, nor is it cut off.
    let message = frames::message(TEXT, b"the rest comes after the Close");
    let (begun, rest) = message.split_at(20);
    let mut sends = server.open();
    sends.send(begun);
    // Some are inside an echo under way: it is more than their sockets hold, and only its beginning has been seen.
    let echo = vec![7; 8 << 20];
    let mut receive: Vec<Client> = (0..3).map(|_| server.open()).collect();
    for client in &mut receive {
        client.send(&frames::message(BINARY, &echo));
        client.stream().peek(&mut [0]).expect("the echo has begun");
    }
    let mut last = server.open();
    server.signal("TERM");

    last.expect_close(1012);
    assert_eq!(sends.close_frame().close_code(), Some(1012));
    for client in &mut receive {
        client.expect_echo(BINARY, &echo);
        client.expect_close(1012);
    }
    sends.send(&[rest, &frames::close(1012, b"")].concat());
    sends.ends_with(End::Eof);
    assert!(server.wait(PATIENCE).success());
}

/// A server without an audience; killed if the test panics.
struct Unheard(Child);

impl Drop for Unheard {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended
        let _ = self.0.wait();
    }
}

#[test]
fn a_server_that_nobody_listens_to_drains_and_ends_with_0() {
    let nobody = || io::pipe().expect("a pipe").1;
    let flags = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--reactors", "1"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_megasock"));
    let started = command.args(flags).stdin(Stdio::null()).stdout(nobody()).stderr(nobody()).spawn();
    let mut server = Unheard(started.expect("the binary starts"));
    let pid = server.0.id().to_string();
    // Where it listens is not known; that it would obey is: bit 14 is SIGTERM, proc(5).
    eventually("it watches for signals", PATIENCE, || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
        (u64::from_str_radix(caught.trim(), 16).ok()? >> 14 & 1 == 1).then_some(())
    });
    assert!(Command::new("kill").args(["-s", "TERM", &pid]).status().expect("kill").success());
    let status = eventually("it ends", PATIENCE, || server.0.try_wait().expect("its own child"));
    assert_eq!(status.code(), Some(0));
}

#[test]
fn the_port_is_free_after_the_end() {
    let mut server = Server::start(&[]);
    server.assert_serves();
    let address = server.address;
    server.stop();
    eventually("nobody listens", PATIENCE, || std::net::TcpStream::connect(address).is_err().then_some(()));
}
