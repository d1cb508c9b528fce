//! `megasock top` on a real server: one screen for scripts, a line a second for pipes, a screen drawn in place on a terminal
//! that is given back as it was.

mod common;

use common::server::Server;
use common::{PATIENCE, eventually};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

const KEY: &str = "0123456789abcdefghijklmnopqrstuvwxyz";

/// The URL of a server's admin listener.
fn url(server: &Server) -> String {
    let lines = server.lines();
    let admin = lines.iter().find_map(|line| line.strip_prefix("admin on ")).expect("an admin listener");
    format!("http://{admin}")
}

fn top(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_megasock")).arg("top").args(arguments).output().unwrap()
}

#[track_caller]
fn assert_fails(output: &Output, says: &[&str]) {
    let problem = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{problem}");
    for part in says.iter().chain(&["fix: "]) {
        assert!(problem.contains(part), "{part:?} is not in: {problem}");
    }
    assert!(!problem.contains(KEY) && output.stdout.is_empty(), "{problem}");
}

#[test]
fn one_screen_has_what_the_server_has() {
    let server = Server::start(&["--server-id", "top-1"]);
    let _clients: Vec<_> = (0..3).map(|_| server.open()).collect();
    let screen = eventually("three connections", PATIENCE, || {
        let output = top(&["--once", "--url", &url(&server)]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let screen = String::from_utf8(output.stdout).unwrap();
        screen.contains("connections  3 of ").then_some(screen)
    });
    assert!(screen.starts_with("top-1 ready  megasock "), "{screen}");
    for label in ["load ", "messages ", "memory ", "core 0 ", "closed ", "slow ", "errors ", "hub "] {
        assert!(screen.lines().any(|line| line.starts_with(label)), "{label} is not in:\n{screen}");
    }
    assert!(!screen.contains('\u{1b}'), "no colours but on a terminal");
    server.stop();
}

#[test]
fn a_pipe_gets_a_line_a_second_until_nobody_reads() {
    let server = Server::start(&[]);
    let mut child = Command::new(env!("CARGO_BIN_EXE_megasock"))
        .args(["top", "--url", &url(&server)])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let line = lines.next().unwrap().unwrap();
        assert!(line.starts_with("state=ready load=") && line.contains(" connections=0 "), "{line}");
    }
    drop(lines);
    let status = eventually("it ends", PATIENCE, || child.try_wait().unwrap());
    assert!(status.success(), "{status}");
    server.stop();
}

#[test]
fn a_key_is_read_from_its_file_and_its_lack_is_told() {
    let path = std::env::temp_dir().join(format!("megasock-top-key-{}", std::process::id()));
    let file = |secret: &str| {
        fs::write(&path, format!("{secret}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    let name = path.to_str().unwrap();
    file(KEY);
    let server = Server::start(&["--admin-key-file", name]);
    let url = url(&server);
    assert!(top(&["--once", "--url", &url, "--admin-key-file", name]).status.success());
    assert_fails(&top(&["--once", "--url", &url]), &["wants a key", "--admin-key-file"]);
    file(&KEY.to_uppercase());
    assert_fails(&top(&["--once", "--url", &url, "--admin-key-file", name]), &["wants another key"]);
    fs::remove_file(&path).unwrap();
    server.stop();
}

#[test]
fn who_is_not_there_or_somebody_else_is_told_apart() {
    assert_fails(&top(&["--admin-listen", "off"]), &["there is no admin listener"]);
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_fails(&top(&["--admin-listen", &free.to_string()]), &["no admin listener answers", "--url"]);
    assert_fails(&top(&["--url", "https://127.0.0.1:1"]), &["ssh -L"]);

    // The public listener has no such page; another service may speak anything.
    let server = Server::start(&[]);
    let public = format!("http://{}", server.address);
    assert_fails(&top(&["--once", "--url", &public]), &["the status 404", "no admin listener of megasock"]);
    server.stop();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    let banner = thread::spawn(move || {
        let (mut stream, _) = other.accept().unwrap();
        let _ = stream.write_all(b"SSH-2.0-other\r\n\r\n");
        let _ = stream.read(&mut [0; 1024]);
    });
    assert_fails(&top(&["--url", &format!("http://{address}")]), &["answers with no HTTP"]);
    banner.join().unwrap();
}

/// A byte at a time is no answer either.
#[test]
fn an_answer_has_three_seconds_in_all() {
    let slow = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", slow.local_addr().unwrap());
    let drip = thread::spawn(move || {
        let (mut stream, _) = slow.accept().unwrap();
        // It ends by itself, so that who waits for all of it is told apart.
        for byte in b"HTTP/1.1 200 OK\r\n\r\n{}".iter().chain(&[b' '; 30]) {
            thread::sleep(Duration::from_millis(200));
            if stream.write_all(&[*byte]).is_err() {
                return;
            }
        }
    });
    assert_fails(&top(&["--once", "--url", &url]), &["no answer within 3 s"]);
    drip.join().unwrap();
}

/// `megasock top` on a pseudo-terminal, which `script` of util-linux makes.
struct Terminal {
    script: Child,
    shown: Arc<Mutex<String>>,
}

impl Terminal {
    fn open(command: &str) -> Terminal {
        let mut script = Command::new("script")
            .args(["--quiet", "--return", "--command", command, "/dev/null"])
            .env("TERM", "xterm")
            .env_remove("NO_COLOR")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script, of util-linux");
        let shown = Arc::<Mutex<String>>::default();
        let (mut output, seen) = (script.stdout.take().unwrap(), Arc::clone(&shown));
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(len @ 1..) = output.read(&mut chunk) {
                seen.lock().unwrap().push_str(&String::from_utf8_lossy(&chunk[..len]));
            }
        });
        Terminal { script, shown }
    }

    fn press(&mut self, key: &str) {
        self.script.stdin.as_mut().unwrap().write_all(key.as_bytes()).unwrap();
    }

    fn wait_for(&self, part: &str) -> String {
        eventually(&format!("{part:?} is shown"), PATIENCE, || {
            let shown = self.shown.lock().unwrap().clone();
            shown.contains(part).then_some(shown)
        })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended, which is what the test is for.
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

/// Ends the alternate screen, with a cursor again.
const GIVEN_BACK: &str = "\x1b[?25h\x1b[?1049l";

#[test]
fn a_terminal_is_drawn_in_place_and_given_back() {
    let server = Server::start(&[]);
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_megasock"));
    let command = format!("{} top --url {}; stty -a; exit 7", binary.display(), url(&server));
    for (end, colour, rows) in [("q", "", 50), ("\u{3}", "NO_COLOR=1 ", 12)] {
        // Ctrl-C is for the whole foreground: a shell with no trap may end by it (dash does) before it shows the modes.
        let mut terminal =
            Terminal::open(&format!("trap : INT; stty rows {rows} columns 80; {colour}{command}"));
        let shown = terminal.wait_for("q ends");
        assert!(shown.contains("\x1b[?1049h\x1b[?25l\x1b[H"), "{shown:?}");
        assert_eq!(shown.contains("\x1b[32mready"), colour.is_empty(), "{shown:?}");
        // Drawn again, from the same corner.
        eventually("a second screen", PATIENCE, || {
            (terminal.shown.lock().unwrap().matches("\x1b[H").count() >= 2).then_some(())
        });
        // The last row, which a low terminal has too, says that the figures are of before.
        server.signal("STOP");
        terminal.wait_for("no answer: ");
        server.signal("CONT");
        terminal.press(end);
        let shown = terminal.wait_for(GIVEN_BACK);
        for frame in shown.split(GIVEN_BACK).next().unwrap().split("\x1b[H").skip(1) {
            assert!(frame.lines().count() <= rows, "{frame:?}");
        }
        assert!(!shown.contains("\x1b[?1049l\x1b[?1049h"), "once");
        let modes = terminal.wait_for("echoctl");
        assert!(modes.contains(" icanon ") && modes.contains(" echo "), "{modes:?}");
    }
    server.stop();
}

/// The next to ask, before it is answered.
fn asked(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    let (mut stream, _) = eventually("a connection", PATIENCE, || listener.accept().ok());
    let _ = stream.read(&mut [0; 1024]).unwrap();
    stream
}

#[test]
fn q_is_heard_while_an_answer_is_awaited() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut terminal = Terminal::open(&format!("{} top --url {url}", env!("CARGO_BIN_EXE_megasock")));
    asked(&listener).write_all(b"HTTP/1.1 200 OK\r\n\r\n{}").unwrap();
    let _unanswered = asked(&listener);
    terminal.press("q");
    let shown = terminal.wait_for(GIVEN_BACK);
    assert!(!shown.contains("no answer"), "{shown:?}");
}

#[test]
fn a_terminal_that_cannot_draw_gets_lines() {
    let server = Server::start(&[]);
    for kind in ["TERM=dumb", "TERM=", "-u TERM"] {
        let top = format!("env {kind} {} top --url {}", env!("CARGO_BIN_EXE_megasock"), url(&server));
        let terminal = Terminal::open(&format!("{top} --once; {top}"));
        eventually("two lines", PATIENCE, || {
            (terminal.shown.lock().unwrap().matches("\nstate=ready ").count() >= 2).then_some(())
        });
        let shown = terminal.shown.lock().unwrap();
        assert!(shown.contains(" ready  megasock ") && !shown.contains('\x1b'), "{kind}: {shown:?}");
    }
    server.stop();
}
