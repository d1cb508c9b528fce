//! One server replaced by another on the same port, under load: nobody is refused, nobody reset, everybody told.
//!
//! Runs in a network namespace of its own, where `net.ipv4.tcp_migrate_req` can be set without touching the host's; that
//! takes root, and without it the tests say so and check nothing.

mod common;

use common::client::{Client, End, KEYS, upgrade_request};
use common::server::Server;
use common::{PATIENCE, eventually};
use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;

/// Set in the process inside the namespace. Not `MEGASOCK_…`: that would be an option, and none that exists.
const INSIDE: &str = "TEST_OF_MEGASOCK_INSIDE";

/// What it is set to: servers started there have it in their environment, and nobody may see it among arguments.
const SECRET: &str = "a secret\nof two = lines";

/// Runs this very test again in a network namespace with `tcp_migrate_req` set so, and says whether this is that run.
fn inside_a_namespace(test: &str, migrate: u8) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let script = format!("ip link set lo up && sysctl -qw net.ipv4.tcp_migrate_req={migrate} && exec \"$@\"");
    let may = Command::new("unshare").args(["--net", "true"]).output().expect("unshare, of util-linux");
    if !may.status.success() {
        eprintln!(
            "{test}: not run, a network namespace takes root: {}",
            String::from_utf8_lossy(&may.stderr)
        );
        return false;
    }
    let run = Command::new("unshare")
        .args(["--net", "sh", "-c", &script, "sh"])
        .arg(std::env::current_exe().expect("this binary"))
        .args([test, "--exact", "--nocapture"])
        .env(INSIDE, SECRET)
        .status()
        .expect("unshare, of util-linux");
    assert!(run.success(), "inside the namespace: {run}");
    false
}

/// Handshakes in a loop on several threads, each of which panics at the first that fails.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(address: SocketAddr, threads: usize) -> Load {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = |_| {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            std::thread::spawn(move || {
                while !stop.load(Relaxed) {
                    let mut client = Client::connect(address);
                    client.send(upgrade_request("/echo").as_bytes());
                    client.accepted(KEYS[0].1);
                    done.fetch_add(1, Relaxed);
                }
            })
        };
        let threads = (0..threads).map(thread).collect();
        Load { stop, done, threads }
    }

    /// Waits for so many handshakes more.
    fn pass(&self, more: u64) {
        let until = self.done.load(Relaxed) + more;
        eventually("handshakes go on", PATIENCE, || {
            assert!(!self.threads.iter().any(JoinHandle::is_finished), "a handshake failed, see above");
            (self.done.load(Relaxed) >= until).then_some(())
        });
    }

    fn end(self) -> u64 {
        self.stop.store(true, Relaxed);
        for thread in self.threads {
            thread.join().expect("no handshake fails");
        }
        self.done.load(Relaxed)
    }
}

/// A server beside the one at `address`, to replace it.
fn replacement(address: SocketAddr, reactors: usize) -> Server {
    Server::start_with_reactors(reactors, &["--listen", &address.to_string(), "--replace", "on"])
}

fn says(server: &Server, words: &str) {
    // The log is written by a thread of its own, a moment later.
    eventually(words, PATIENCE, || server.lines().iter().any(|line| line.contains(words)).then_some(()));
}

#[test]
fn a_server_is_replaced_under_load_and_nobody_is_refused() {
    if !inside_a_namespace("a_server_is_replaced_under_load_and_nobody_is_refused", 1) {
        return;
    }
    let mut old = Server::start_with_reactors(2, &[]);
    let address = old.address;
    let load = Load::start(address, 4);
    let mut replaced = 0;
    // Each is replaced by one with another number of listeners.
    for reactors in [3, 1, 2, 2] {
        let mut clients: Vec<Client> = (0..50).map(|_| old.open()).collect();
        load.pass(600);
        let new = replacement(address, reactors);
        says(&new, "beside the server it replaces");
        load.pass(600);
        old.signal("TERM");
        for client in &mut clients {
            client.expect_close(1012);
        }
        load.pass(600);
        let status = old.wait(PATIENCE);
        assert!(status.success(), "{status}: {:#?}", old.lines());
        let summary = old.summary();
        assert!(summary.held.values().all(|held| *held == 0), "{summary:?}");
        assert!(summary.closed("server_shutdown") >= 1, "{summary:?}");
        assert_eq!(summary.closed("handshake_refused"), 0, "{summary:?}");
        replaced += 1;
        old = new;
    }
    load.pass(600);
    let done = load.end();
    assert!(done >= 5_000, "{done} handshakes over {replaced} replacements");
    old.assert_serves();
    old.stop();
}

/// Who stands in the queue of the old server, or is about to, is served by the new one.
#[test]
fn who_waits_at_the_old_one_is_served_by_the_new_one() {
    if !inside_a_namespace("who_waits_at_the_old_one_is_served_by_the_new_one", 1) {
        return;
    }
    let mut old = Server::start(&[]);
    old.signal("STOP");
    let mut waiting: Vec<Client> = (0..1_000).map(|_| Client::connect(old.address)).collect();
    waiting.iter_mut().for_each(|client| client.send(upgrade_request("/echo").as_bytes()));
    let new = replacement(old.address, 1);
    // One signal while it stands still, so that it finds both at once when it goes on.
    old.signal("TERM");
    old.signal("CONT");
    for client in &mut waiting {
        client.accepted(KEYS[0].1);
    }
    // Some the old one had accepted, and closed; the rest is the new one's.
    drop(waiting);
    assert!(old.wait(PATIENCE).success(), "{:#?}", old.lines());
    let refused = old.summary().closed("handshake_refused");
    assert_eq!(refused, 0, "{:?}", old.summary());
    new.stop();
}

#[test]
fn without_the_kernels_help_it_does_not_start_beside_another() {
    if !inside_a_namespace("without_the_kernels_help_it_does_not_start_beside_another", 0) {
        return;
    }
    let mut old = Server::start(&[]);
    let new = Command::new(env!("CARGO_BIN_EXE_megasock"))
        .args([
            "--listen",
            &old.address.to_string(),
            "--admin-listen",
            "127.0.0.1:0",
            "--replace",
            "on",
            "--reactors",
            "1",
        ])
        .output()
        .expect("the binary starts");
    let said = String::from_utf8_lossy(&new.stderr);
    assert!(!new.status.success());
    assert!(said.contains("sysctl -w net.ipv4.tcp_migrate_req=1"), "{said}");
    old.assert_serves();
    // It drains as ever: nobody takes over.
    let mut client = old.open();
    old.signal("TERM");
    client.expect_close(1012);
    client.ends_with(End::Eof);
    assert!(old.wait(PATIENCE).success());
}

#[test]
fn with_nobody_to_replace_it_starts_and_says_so() {
    let mut server = Server::start(&["--replace", "on"]);
    says(&server, "nobody to replace");
    server.assert_serves();
    server.stop();
}

/// The process that the script says it started, which outlives the script.
struct Started(String);

impl Started {
    /// By what the script said.
    fn of(said: &str) -> Started {
        let pid = said.lines().find_map(|line| line.strip_prefix("process ")?.split_once(" listens beside"));
        Started(pid.unwrap_or_else(|| panic!("{said}")).0.to_owned())
    }

    /// The variables it was started with.
    fn environment(&self) -> Vec<String> {
        let bytes = fs::read(format!("/proc/{}/environ", self.0)).expect("it runs");
        bytes.split(|byte| *byte == 0).map(|entry| String::from_utf8_lossy(entry).into_owned()).collect()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-s", "KILL", &self.0]).status();
    }
}

#[test]
fn the_script_replaces_a_process_by_its_number() {
    if !inside_a_namespace("the_script_replaces_a_process_by_its_number", 1) {
        return;
    }
    let folder = std::env::temp_dir().join(format!("megasock-restart-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder for the log");
    let run = |arguments: &[&str]| run_script(&folder, arguments);
    // The only process in this namespace: every port is free.
    let mut old = Server::start(&["--listen", "127.0.0.1:8080"]);
    let pid = old.pid().to_string();
    let (worked, said) = run(&[&pid, "--check"]);
    assert!(worked && said.contains("--listen 127.0.0.1:8080 --replace on"), "{said}");

    let binary = env!("CARGO_BIN_EXE_megasock");
    let (worked, said) = run(&[&pid, "--", binary, "--listen", "127.0.0.1:8081"]);
    assert!(!worked && said.contains("another address"), "{said}");
    let (worked, said) = run(&[&pid, "--", binary, "--listen", "nonsense"]);
    assert!(!worked && said.contains("did not start"), "{said}");
    old.assert_serves();

    let load = Load::start(old.address, 2);
    let replace = |pid: &str, log| {
        let mut client = Client::open(old.address);
        let told = std::thread::spawn(move || client.expect_close(1012));
        let (worked, said) = run(&[pid, "--log", log]);
        let new = Started::of(&said);
        assert!(worked && said.contains(&format!("process {pid} has ended, {} serves", new.0)), "{said}");
        told.join().expect("told");
        load.pass(200);
        new
    };
    let new = replace(&pid, "new.log");
    let newer = replace(&new.0, "newer.log");
    std::mem::forget(new); // it has ended, and its number may be another's
    load.end();
    assert!(old.wait(PATIENCE).success());
    let flags = fs::read_to_string(format!("/proc/{}/cmdline", newer.0)).expect("it runs");
    assert_eq!(flags.matches("--replace").count(), 1, "{flags:?}");
    fs::remove_dir_all(&folder).expect("its own folder");
}

/// Runs it in `folder`, with an environment that is not the server's; whether it worked, and what it said.
fn run_script(folder: &Path, arguments: &[&str]) -> (bool, String) {
    let path = std::env::var("PATH").expect("PATH");
    let done = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/rolling-restart"))
        .args(arguments)
        .current_dir(folder)
        .env("PATH", format!("{}:{path}", folder.display()))
        .env("ONLY_OF_THE_SCRIPT", "1")
        .env_remove(INSIDE)
        .output()
        .expect("bash");
    let said = [done.stdout, done.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    (done.status.success(), said)
}

#[test]
fn the_script_hands_the_environment_on_and_not_as_arguments() {
    if !inside_a_namespace("the_script_hands_the_environment_on_and_not_as_arguments", 1) {
        return;
    }
    let folder = std::env::temp_dir().join(format!("megasock-environment-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder for the log");
    // The programs it starts the server through write down how they are called.
    for program in ["env", "setsid"] {
        let (note, shim) = (folder.join("called"), folder.join(program));
        let noted =
            format!("#!/bin/sh\necho \"$@\" >>'{}'\nexec /usr/bin/{program} \"$@\"\n", note.display());
        fs::write(&shim, noted).expect("a program");
        fs::set_permissions(&shim, Permissions::from_mode(0o755)).expect("chmod");
    }
    let mut old = Server::start(&["--listen", "127.0.0.1:8080"]);
    let (worked, said) = run_script(&folder, &[&old.pid().to_string(), "--log", "new.log"]);
    let new = Started::of(&said);
    assert!(worked, "{said}");
    let environment = new.environment();
    assert!(environment.contains(&format!("{INSIDE}={SECRET}")), "{environment:#?}");
    assert!(!environment.iter().any(|entry| entry.starts_with("ONLY_OF_THE_SCRIPT")), "{environment:#?}");
    let called = fs::read_to_string(folder.join("called")).expect("both were called");
    assert!(called.contains("--replace on") && !called.contains("a secret"), "{called}");
    assert!(old.wait(PATIENCE).success());
    fs::remove_dir_all(&folder).expect("its own folder");
}
