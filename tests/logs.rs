//! The log of the real binary: what it says of connections, how much of it, that no name forges a line, and that nobody who
//! does not read it stops the server.

mod common;

use common::client::{Client, KEYS, request, upgrade_request};
use common::frames::{TEXT, close, message};
use common::server::Server;
use common::{PATIENCE, eventually};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A client of the channel protocol and the id its welcome told.
fn open_as(server: &Server, user: &str) -> (Client, String) {
    let mut client = Client::open_at(server.address, &format!("/ws?user={user}"));
    let (_, welcome) = client.message();
    let welcome: Value = serde_json::from_slice(&welcome).unwrap();
    (client, welcome["connectionId"].as_str().expect("an id").to_owned())
}

/// Lines that have all of `parts`, once there are so many.
fn lines_with(server: &Server, parts: &[&str], count: usize) -> Vec<String> {
    eventually(&format!("{count} lines with {parts:?}"), PATIENCE, || {
        let mut lines = server.lines();
        lines.retain(|line| parts.iter().all(|part| line.contains(part)));
        (lines.len() >= count).then_some(lines)
    })
}

#[test]
fn a_connection_is_told_of_with_the_id_its_client_knows() {
    let server = Server::start(&["--log-events", "all"]);
    let (mut client, id) = open_as(&server, "ann");
    lines_with(&server, &["INFO ws.connect: ", &format!("id=\"{id}\""), "ip=127.0.0.1", "user=\"ann\""], 1);
    client.send(&close(1000, b""));
    client.close_frame();
    let ended = lines_with(&server, &["INFO ws.disconnect: ", &format!("id=\"{id}\""), "user=\"ann\""], 1);
    assert!(ended[0].contains("code=1000 reason=\"client_closed\" duration_ms="), "{}", ended[0]);

    let mut rude = server.open();
    rude.send(&[0xF1, 0x80, 0, 0, 0, 0]);
    rude.expect_close(1002);
    let error = lines_with(&server, &["WARN ws.error: "], 1);
    assert!(error[0].contains("code=1002 violation=a reserved bit is set"), "{}", error[0]);
    assert!(!error[0].contains("user="), "{}", error[0]);
    server.stop();
}

#[test]
fn json_has_the_same_and_a_filter_leaves_a_kind_out() {
    let flags = ["--log-format", "json", "--log-events", "all", "--log", "info,ws.connect=off"];
    let server = Server::start(&flags);
    let (client, id) = open_as(&server, "ann");
    drop(client);
    let ended = lines_with(&server, &["ws.disconnect"], 1);
    let ended: Value = serde_json::from_str(&ended[0]).unwrap();
    assert_eq!((&ended["target"], &ended["level"]), (&"ws.disconnect".into(), &"INFO".into()));
    let fields = &ended["fields"];
    assert_eq!((&fields["id"], &fields["user"]), (&Value::from(id), &"ann".into()));
    assert!(fields["reason"].is_string() && fields["duration_ms"].is_u64(), "{fields}");
    assert!(!server.lines().iter().any(|line| line.contains("ws.connect")));
    server.stop();
}

/// Quotes, fields, a line end as JSON would write it, and letters that turn the direction of writing.
const FORGED: &str = "a\" user=\"root\" \\n ws.error: \u{202e}x";

#[test]
fn a_name_forges_neither_a_field_nor_a_line() {
    let encoded: String = FORGED.bytes().map(|byte| format!("%{byte:02X}")).collect();
    for format in ["text", "json"] {
        let server = Server::start(&["--log-format", format, "--log-events", "all"]);
        // What has a line end or an escape in it is no name, and not let in.
        for byte in ["%0A", "%1B%5B2K", "%C2%9B", "%0D"] {
            let target = format!("/ws?user=ann{byte}ws.connect");
            let asked = request(server.address, upgrade_request(&target).as_bytes());
            assert_ne!(asked.status, 101, "{byte}");
        }
        let _client = open_as(&server, &encoded);
        let line = lines_with(&server, &["ws.connect"], 1).remove(0);
        match format {
            "text" => {
                let escaped = r#"user="a\" user=\"root\" \\n ws.error: \u{202e}x""#;
                assert!(line.ends_with(escaped), "{line}");
            }
            _ => {
                let line: Value = serde_json::from_str(&line).unwrap();
                assert_eq!(line["fields"]["user"], FORGED);
            }
        }
        assert!(!server.lines().iter().any(|line| line.trim_start().starts_with("ws.")));
        server.stop();
    }
}

#[test]
fn more_than_a_rate_is_left_out_and_counted() {
    const CLIENTS: usize = 60;
    let server = Server::start(&["--log-events", "5/s"]);
    let clients: Vec<Client> = (0..CLIENTS).map(|_| server.open()).collect();
    let left_out = |server: &Server| -> usize {
        let counts =
            |line: &String| line.split_once("suppressed=")?.1.split(' ').next()?.parse::<usize>().ok();
        server.lines().iter().filter_map(counts).sum()
    };
    let told = |server: &Server| server.lines().iter().filter(|line| line.contains("ws.connect")).count();
    eventually("every connection is told of or counted", PATIENCE, || {
        (told(&server) + left_out(&server) == CLIENTS).then_some(())
    });
    assert!((5..CLIENTS / 2).contains(&told(&server)), "{} lines", told(&server));
    drop(clients);
    server.stop();

    let silent = Server::start(&["--log-events", "off"]);
    drop(silent.open());
    let stopped = silent.lines();
    silent.stop();
    assert!(!stopped.iter().any(|line| line.contains("ws.")), "{stopped:#?}");
}

#[test]
fn a_drain_that_the_admin_listener_begins_reports_like_a_signals() {
    let mut server = Server::start(&["--reconnect-rate", "1/s"]);
    let _clients: Vec<Client> = (0..4).map(|_| server.open()).collect();
    let lines = server.lines();
    let admin = lines.iter().find_map(|line| line.strip_prefix("admin on ")).expect("an admin listener");
    let body = r#"{"timeout":"4s"}"#;
    let asked = format!(
        "POST /api/drain HTTP/1.1\r\nHost: {admin}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    let answer = request(admin.parse().unwrap(), asked.as_bytes());
    assert_eq!(answer.status, 200, "{answer:?}");
    lines_with(&server, &["stopping; a second signal", "clients=4", "deadline=4s"], 1);
    lines_with(&server, &["INFO", "stopping open=", "seconds_left="], 1);
    assert!(server.wait(PATIENCE).success());
}

/// A POST to the admin listener with an id of ours; the status of its answer.
fn post(server: &Server, path: &str, id: &str, body: &str) -> u16 {
    let admin = eventually("it says where its admin listener is", PATIENCE, || {
        server.lines().iter().find_map(|line| line.strip_prefix("admin on ")?.parse::<SocketAddr>().ok())
    });
    let asked = format!(
        "POST {path} HTTP/1.1\r\nHost: {admin}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         X-Request-Id: {id}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    request(admin, asked.as_bytes()).status
}

#[test]
fn who_steers_the_server_is_told_with_the_id_of_the_request_and_what_is_sent_is_not() {
    const PUBLICATION: &str = r#"{"channel":"news","data":"what is sent"}"#;
    let server = Server::start(&[]);
    let _client = open_as(&server, "ann");
    let steering = [
        ("/api/disconnect", r#"{"userId":"ann"}"#, 200),
        ("/api/disconnect", "{}", 400),
        ("/api/reload", "{}", 200),
        ("/api/no%0Athing\"", "{}", 404),
        ("/api/drain?key=secret", r#"{"timeout":"20s"}"#, 200),
    ];
    for (number, (path, body, status)) in steering.into_iter().enumerate() {
        assert_eq!(post(&server, "/api/publish", "much", PUBLICATION), 200);
        assert_eq!(post(&server, path, &format!("who-did-it.{number}"), body), status, "{path}");
        let named = format!(" request=who-did-it.{number} ");
        let line = lines_with(&server, &["INFO ws.admin: peer=127.0.0.1:", &named], 1).remove(0);
        let shown = path.split('?').next().unwrap().replace('"', "\\\"");
        assert!(line.ends_with(&format!("method=POST path=\"{shown}\" status={status}")), "{line}");
    }
    let lines = server.lines();
    assert!(
        !lines.iter().any(|line| ["much", "secret", "what is sent"].iter().any(|part| line.contains(part)))
    );
}

#[test]
fn what_is_sent_and_looked_at_is_told_to_who_debugs() {
    let server = Server::start(&["--log", "info,ws.admin=debug", "--log-format", "json"]);
    assert_eq!(post(&server, "/api/send", "a-message", r#"{"userId":"ann","data":"what is sent"}"#), 200);
    let line = lines_with(&server, &["a-message"], 1).remove(0);
    assert!(!line.contains("what is sent"), "{line}");
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["target"], &line["level"]), (&"ws.admin".into(), &"DEBUG".into()));
    let fields = &line["fields"];
    assert_eq!((&fields["path"], &fields["status"]), (&"/api/send".into(), &200.into()), "{line}");
    server.stop();
}

/// A server whose standard error is a pipe that nobody reads.
struct Unheard {
    child: Child,
    address: SocketAddr,
}

impl Unheard {
    fn start() -> Unheard {
        let mut child = Command::new(env!("CARGO_BIN_EXE_megasock"))
            .args([
                "--listen",
                "127.0.0.1:0",
                "--admin-listen",
                "off",
                "--reactors",
                "1",
                "--log-events",
                "all",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut said = BufReader::new(child.stdout.take().expect("piped"));
        let address = loop {
            let mut line = String::new();
            assert!(said.read_line(&mut line).expect("a line") > 0, "it ended at start");
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.trim().parse().expect("an address");
            }
        };
        // What it says at its end has room in the pipe; closed, it would be told so by a signal.
        child.stdout = Some(said.into_inner());
        Unheard { child, address }
    }
}

impl Drop for Unheard {
    fn drop(&mut self) {
        // It may have ended, which is what the test is for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn nobody_who_does_not_read_the_log_stops_the_server() {
    // More lines than the pipe, the journal and the queue of lines hold together.
    const ROUNDS: usize = 12;
    const CLIENTS: usize = 1_000;
    common::raise_descriptor_limit();
    let mut server = Unheard::start();
    let mut asking = Client::open(server.address);
    let mut slowest = Duration::ZERO;
    for _ in 0..ROUNDS {
        let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::connect(server.address)).collect();
        clients.iter_mut().for_each(|client| client.send(upgrade_request("/echo").as_bytes()));
        clients.iter_mut().for_each(|client| drop(client.accepted(KEYS[0].1)));
        drop(clients);
        let asked = Instant::now();
        asking.send(&message(TEXT, b"still there?"));
        asking.expect_echo(TEXT, b"still there?");
        slowest = slowest.max(asked.elapsed());
    }
    assert!(slowest < PATIENCE / 2, "an answer took {slowest:?}");
    let pid = server.child.id().to_string();
    assert!(Command::new("kill").args(["-s", "TERM", &pid]).status().expect("kill").success());
    drop(asking);
    let status = eventually("it ends", PATIENCE, || server.child.try_wait().expect("its own child"));
    assert!(status.success(), "{status}");
    let mut log = String::new();
    server.child.stderr.take().expect("piped").read_to_string(&mut log).expect("text");
    let told = log.lines().filter(|line| line.contains("ws.")).count();
    assert!(told > 0 && told < 2 * ROUNDS * CLIENTS, "{told} lines: the pipe was to be full");
}
