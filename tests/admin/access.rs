//! Who may ask: keys off the loopback, and nothing for pages of other sites.

use crate::common::client::Client;
use crate::common::server::Server;
use crate::common::{PATIENCE, eventually};
use crate::{admin, ask, assert_error, get, post};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

pub(crate) const KEY: &str = "0123456789abcdefghijklmnopqrstuvwxyz-._~+/=";

/// A file that is gone when the test is.
pub(crate) struct KeyFile(PathBuf);

impl KeyFile {
    pub(crate) fn new(name: &str, contents: &[u8], mode: u32) -> KeyFile {
        let path = std::env::temp_dir().join(format!("megasock-admin-{}-{name}", std::process::id()));
        fs::write(&path, contents).expect("a file");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("its mode");
        KeyFile(path)
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().expect("a plain path")
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn without_a_key_only_this_host_may_ask_and_no_page_but_its_own() {
    let server = Server::start(&[]);
    let address = admin(&server);
    let request = |method: &str, host: &str, extra: &str| {
        let text = post("/api/nothing", extra, "{}").replacen("POST", method, 1);
        ask(address, text.replace("Host: localhost", &format!("Host: {host}")))
    };
    let own = ["localhost", "LOCALHOST:9090", "127.0.0.1", "127.0.0.1:9090", "[::1]:9090", "10.1.2.3:80"];
    for host in own {
        assert_eq!(request("POST", host, "").status, 404, "{host}");
        assert_eq!(request("POST", host, &format!("Origin: http://{host}\r\n")).status, 404, "{host}");
    }
    let rebound = ["evil.example", "evil.example:9090", "localhost.evil.example", "127.0.0.1.evil.example"];
    let odd =
        ["[::1", "::1", "[127.0.0.1]", "localhost:", "user@localhost", "localhost:80:80", "", "0x7f000001"];
    for host in rebound.into_iter().chain(odd) {
        for method in ["GET", "POST"] {
            assert_eq!(
                request(method, host, "").status,
                if host == "localhost:" { 404 } else { 403 },
                "{host}"
            );
        }
    }
    let strange =
        ["https://evil.example", "null", "http://localhost:1", "http://127.0.0.1", "file://localhost", ""];
    for origin in strange {
        for method in ["GET", "POST", "OPTIONS"] {
            let answer = request(method, "localhost", &format!("Origin: {origin}\r\n"));
            assert_error(&answer, 403, "forbidden");
            let allows =
                |(name, _): &(String, String)| name.to_ascii_lowercase().starts_with("access-control");
            assert!(!answer.headers.iter().any(allows), "{answer:?}");
        }
    }
    let two = request("GET", "localhost", "Origin: http://localhost\r\nOrigin: http://localhost\r\n");
    assert_error(&two, 403, "forbidden");
}

#[test]
fn a_form_of_another_site_is_not_json() {
    let server = Server::start(&[]);
    let address = admin(&server);
    let typed = |line: &str| {
        ask(address, post("/api/nothing", "", "{}").replace("Content-Type: application/json\r\n", line))
            .status
    };
    for line in ["", "Content-Type: text/plain\r\n", "Content-Type: application/jsonx\r\n"] {
        assert_eq!(typed(line), 415, "{line}");
    }
    let twice = "Content-Type: application/json\r\nContent-Type: text/plain\r\n";
    assert_eq!(typed(twice), 415);
    for line in ["Content-Type: application/json; charset=utf-8\r\n", "content-type: APPLICATION/JSON\r\n"] {
        assert_eq!(typed(line), 404, "{line}");
    }
}

#[test]
fn with_a_key_everything_but_the_page_and_the_health_asks_for_it() {
    let file = KeyFile::new("asks", format!("{KEY}\n").as_bytes(), 0o600);
    let server = Server::start(&["--admin-key-file", file.path()]);
    let address = admin(&server);
    let with = |value: &str| get("/api/info", &format!("Authorization: {value}\r\n"));
    assert_eq!(ask(address, with(&format!("Bearer {KEY}"))).status, 200);
    assert_eq!(ask(address, with(&format!("bearer  {KEY}"))).status, 200);
    assert_eq!(ask(address, get("/health", "")).status, 200);
    assert_ne!(ask(address, get("/", "")).status, 401);
    // A proxy may serve it under a name, to a page of another one: neither knows the key.
    let named = with(&format!("Bearer {KEY}")).replace("localhost", "admin.example");
    assert_eq!(ask(address, named).status, 200);
    let one_more = format!("Bearer {KEY}a");
    let twice = format!("Bearer {KEY}\r\nAuthorization: Bearer {KEY}");
    let wrong = [
        "",
        "Bearer",
        "Bearer ",
        "Basic Og==",
        &KEY[1..],
        &one_more[..one_more.len() - 2],
        &one_more,
        &twice,
    ];
    for value in wrong {
        let began = Instant::now();
        let answer = ask(address, with(value));
        assert_error(&answer, 401, "unauthorized");
        assert!(answer.header("WWW-Authenticate").is_some_and(|value| value.starts_with("Bearer")));
        assert!(began.elapsed() >= Duration::from_millis(240), "{value:?} was answered at once");
    }
    for target in ["/api/nothing", "/metrics", "/health/", "//", "/?a=b#"] {
        let text = get(target.trim_end_matches('#'), "");
        let open = target.starts_with("/?");
        assert_eq!(ask(address, text).status == 401, !open, "{target}");
    }
    assert_eq!(ask(address, post("/health", "", "{}")).status, 401);
    let said = server.lines().join("\n");
    assert!(!said.contains(&KEY[..16]), "the key is shown: {said}");
    server.stop();
}

#[test]
fn wrong_keys_are_told_by_who_sent_them_and_a_flood_of_them_by_its_size() {
    const WRONG: &str = "a-key-that-is-long-enough-but-not-the-one";
    let file = KeyFile::new("wrong", KEY.as_bytes(), 0o600);
    let server = Server::start(&["--admin-key-file", file.path()]);
    let address = admin(&server);
    let told = || server.lines().into_iter().filter(|line| line.contains("wrong key")).collect::<Vec<_>>();
    let wrong = get("/api/info", &format!("Authorization: Bearer {WRONG}\r\nX-Request-Id: mine\r\n"));
    // Who has not been asked yet sends none.
    assert_eq!(ask(address, get("/api/info", "")).status, 401);
    assert_eq!(ask(address, &wrong).status, 401);
    let line = eventually("it is told", PATIENCE, || told().pop());
    assert!(line.contains("WARN ws.admin: ") && line.contains(" peer=127.0.0.1:"), "{line}");
    assert!(line.contains(" request=mine") && told().len() == 1, "{line}");
    let began = Instant::now();
    let mut flood: Vec<Client> = (0..100).map(|_| Client::connect(address)).collect();
    flood.iter_mut().for_each(|client| client.send(wrong.as_bytes()));
    flood.iter_mut().for_each(|client| assert_eq!(client.response().status, 401));
    let counted = eventually("the others are counted", PATIENCE, || {
        assert_eq!(ask(address, &wrong).status, 401);
        told().into_iter().find(|line| line.contains("left_out="))
    });
    let lines = told().len();
    assert!(lines <= 12 + began.elapsed().as_secs() as usize, "{lines} lines, as {counted}");
    assert!(!server.lines().iter().any(|line| line.contains(WRONG) || line.contains(KEY)));
    server.stop();
}

#[test]
fn a_stranger_is_refused_before_the_body_is_waited_for() {
    let file = KeyFile::new("stranger", KEY.as_bytes(), 0o600);
    let server = Server::start(&["--admin-key-file", file.path()]);
    let text = post("/api/publish", "Expect: 100-continue\r\n", "{}")
        .replace("Content-Length: 2", "Content-Length: 900000");
    let answer = ask(admin(&server), text.split("{}").next().expect("a head"));
    assert_error(&answer, 401, "unauthorized");
    assert_eq!(answer.header("Connection"), Some("close"));
}

/// What the server says about these flags, which it must refuse.
fn refused(flags: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_megasock"));
    let ended = command.args(["--listen", "127.0.0.1:0"]).args(flags).output().expect("the binary");
    let said = String::from_utf8(ended.stderr).expect("UTF-8");
    assert!(!ended.status.success(), "{flags:?} was accepted: {said}");
    said
}

#[test]
fn off_the_loopback_there_is_a_key_and_it_is_a_good_one() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:9090"] {
        let said = refused(&["--admin-listen", address]);
        assert!(said.contains("--admin-listen") && said.contains("set admin_key_file"), "{said}");
    }
    let short = KeyFile::new("short", &KEY.as_bytes()[..31], 0o600);
    let open = KeyFile::new("open", KEY.as_bytes(), 0o604);
    let lines = KeyFile::new("lines", format!("{KEY}\n{KEY}\n").as_bytes(), 0o600);
    let rows = [
        (short.path(), "fewer than 32 bytes"),
        (open.path(), "everybody on this host can read the secret"),
        (lines.path(), "more than one line"),
        ("/nowhere/at-all", "cannot be read"),
        ("/dev/zero", "is no file"),
    ];
    for (path, problem) in rows {
        let said = refused(&["--admin-listen", "0.0.0.0:0", "--admin-key-file", path]);
        assert!(said.contains("--admin-key-file") && said.contains(problem), "{said}");
        assert!(!said.contains(&KEY[..16]), "the key is shown: {said}");
    }
    let good = KeyFile::new("good", KEY.as_bytes(), 0o640);
    let server = Server::start(&["--admin-listen", "0.0.0.0:0", "--admin-key-file", good.path()]);
    let port = admin(&server).port();
    assert_eq!(ask(([127, 0, 0, 1], port).into(), get("/api/info", "")).status, 401);
}
