//! A server short of memory: newcomers are told to come back, idle connections go, those in use stay, and when there is
//! room again all is as before.
//!
//! The budget is set, and small, so that a few megabytes of connections reach its end; the host itself must have memory.

mod common;

use common::client::{Client, Response, request, upgrade_request};
use common::frames::{self, BINARY, CLOSE, FIN, TEXT};
use common::server::Server;
use common::{PATIENCE, eventually, raise_descriptor_limit};
use megasock::config::Config;
use std::time::{Duration, Instant};

/// What connections may take before newcomers are refused.
const ROOM_BYTES: u64 = 5 << 20;

/// More connections than fit into [`ROOM_BYTES`].
const CONNECTIONS_MAX: usize = 5_000;

const SECOND: Duration = Duration::from_secs(1);

fn get(server: &Server, path: &str) -> Response {
    request(server.address, format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
}

/// Asks for an upgrade: the connection, or the refusal.
fn knock(server: &Server) -> Result<Client, Response> {
    let mut client = Client::connect(server.address);
    client.send(upgrade_request("/echo").as_bytes());
    let response = client.response();
    if response.status == 101 { Ok(client) } else { Err(response) }
}

/// Starts a server whose budget has [`ROOM_BYTES`] left until newcomers are refused.
fn start_with_little_room() -> Server {
    let flags = ["--ping-interval", "4s", "--pong-timeout", "120s", "--message-deadline", "120s"];
    let empty_bytes = Server::start(&flags).warm_rss_bytes();
    let budget_kib = (empty_bytes + ROOM_BYTES) * 100 / 90 / 1024;
    let budget = format!("{budget_kib}KiB");
    let mut server = Server::start(&[&flags[..], &["--memory-budget", &budget]].concat());
    server.warm_rss_bytes();
    server
}

/// Looks at connections that do not speak: those that were closed, always with 1013, are taken out. The talkers go on
/// talking meanwhile.
fn take_closed(idle: &mut Vec<Client>, talkers: &mut [Client]) -> usize {
    let before = idle.len();
    let mut talked = Instant::now();
    idle.retain_mut(|client| {
        if talked.elapsed() > SECOND / 2 {
            talk(talkers);
            talked = Instant::now();
        }
        while let Some(frame) = client.frame_by(Instant::now() + Duration::from_micros(200)) {
            if frame.opcode == CLOSE {
                assert_eq!(frame.close_code(), Some(1013));
                return false;
            }
        }
        true
    });
    talk(talkers);
    before - idle.len()
}

fn talk(talkers: &mut [Client]) {
    talkers.iter_mut().for_each(|client| client.echo(TEXT, b"in use"));
}

#[test]
fn near_its_budget_a_server_refuses_beyond_it_idle_connections_go_and_then_all_is_well_again() {
    raise_descriptor_limit();
    let mut server = start_with_little_room();
    let mut talkers: Vec<Client> = (0..5).map(|_| knock(&server).expect("room")).collect();
    let mut writers: Vec<Client> = (0..60).map(|_| knock(&server).expect("room")).collect();
    assert_eq!(get(&server, "/ready").status, 200);

    // Near.
    let mut idle = Vec::new();
    let refusal = loop {
        match knock(&server) {
            Ok(client) => idle.push(client),
            Err(refusal) => break refusal,
        }
        assert!(idle.len() < CONNECTIONS_MAX, "nobody was refused");
    };
    assert!(idle.len() > 300, "refused after {} connections", idle.len());
    assert_eq!(refusal.status, 503);
    let wait_s: u32 = refusal.header("Retry-After").expect("Retry-After").parse().expect("seconds");
    assert!(wait_s > 0);
    let unready = get(&server, "/ready");
    assert!(unready.status == 503 && unready.header("Retry-After").is_some(), "{unready:?}");
    assert_eq!(get(&server, "/health").status, 200, "it is not ill");
    talk(&mut talkers);

    // Over: messages under way take more. Idle connections go, until there is room for those in use.
    let message = frames::header(FIN | BINARY, 60_000);
    for client in &mut writers {
        client.send(&message);
        client.send(&[0; 50_000]);
    }
    let mut closed = 0;
    eventually("idle connections are closed", PATIENCE, || {
        closed += take_closed(&mut idle, &mut talkers);
        (closed >= 100).then_some(())
    });
    says(&server, "idle connections are closed");
    // Those with a message under way have not been idle, and those who talked have not either.
    let mut payload = vec![0; 60_000];
    frames::mask(&mut payload, frames::KEY);
    for client in &mut writers {
        client.send(&[0; 10_000]);
        client.expect_echo(BINARY, &payload);
    }
    talk(&mut talkers);

    // Calm.
    drop((writers, idle));
    eventually("newcomers are let in again", PATIENCE, || {
        talk(&mut talkers);
        knock(&server).ok()
    });
    assert_eq!(get(&server, "/ready").status, 200);
    talk(&mut talkers);
    server.assert_serves();
    says(&server, "newcomers are let in");
    let summary = server.stop();
    assert!(summary.closed("shed") >= closed as u64, "{summary:?}");
    assert_eq!(summary.closed("slow_consumer"), 0, "{summary:?}");
}

/// The log is written by a thread of its own, a moment later.
fn says(server: &Server, words: &str) {
    eventually(words, PATIENCE, || server.lines().iter().any(|line| line.contains(words)).then_some(()));
}

/// Accepts everything and echoes.
struct Echo;

impl megasock::Handler for Echo {
    type Mail = ();

    fn on_request(&mut self, _: &megasock::Request<'_>, _: &mut megasock::Outbox) -> megasock::Decision {
        megasock::Decision::ACCEPT
    }

    fn on_message(
        &mut self,
        _: megasock::ConnId,
        message: megasock::Message<'_>,
        out: &mut megasock::Outbox,
    ) {
        out.reply(message);
    }
}

#[test]
fn a_library_server_watches_its_memory_too_and_leaves_no_thread_behind() {
    let config = Config {
        listen: ([127, 0, 0, 1], 0).into(),
        reactors: Some(1),
        max_connections: Some(100),
        memory_budget_bytes: Some(1 << 20), // less than this process has
        ..Config::default()
    };
    let running = megasock::Server::builder().config(config).handler(|_core| Echo).start().expect("a server");
    let address = running.handle().local_address();
    eventually("a newcomer is refused", PATIENCE, || {
        let mut client = Client::connect(address);
        client.send(upgrade_request("/").as_bytes());
        (client.response().status == 503).then_some(())
    });
    assert_eq!(threads_named("memory"), 1);
    running.handle().stop(Duration::ZERO);
    running.wait();
    assert_eq!(threads_named("memory"), 0);
}

fn threads_named(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("this process").flatten();
    let names = tasks.map(|task| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default());
    names.filter(|comm| comm.trim() == name).count()
}
