//! The real binary when it has given up its privileges, and inside what hosts put around it: the seccomp profile for
//! containers and the filter of the systemd unit.
//!
//! A filter is per thread and inherited by what the thread starts, so a server is put inside one by starting it from a
//! thread that has put it on.

mod common;

use common::PATIENCE;
use common::frames::{BINARY, TEXT};
use common::server::Server;
use megasock::sys::harden::CALLS;
use megasock::{ConnId, Decision, Handler, Message, Outbox, Request};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::thread;

/// capabilities(7)
const CAP_IPC_LOCK: u32 = 14;

/// What `/proc` says of each of the server's threads.
fn threads(server: &Server) -> Vec<String> {
    let tasks = fs::read_dir(server.proc("task")).unwrap();
    tasks.map(|task| fs::read_to_string(task.unwrap().path().join("status")).unwrap()).collect()
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    status.lines().find_map(|line| line.strip_prefix(name)).expect("a line of status").trim()
}

/// Serves both kinds of client, more than fits one packet, then drains and ends with 0.
fn serves_and_drains(mut server: Server) {
    server.assert_serves();
    let mut client = server.open();
    client.echo(BINARY, &vec![7; 60_000]);
    server.open_channels();
    client.echo(TEXT, b"and goes on");
    drop(client);
    server.stop();
}

#[test]
fn every_thread_has_given_up_everything_and_the_server_serves() {
    let server = Server::start_with_reactors(2, &["--harden", "on"]);
    server.open().echo(TEXT, b"hello");
    let threads = threads(&server);
    assert!(threads.len() >= 3, "two reactors and the main thread");
    for status in threads {
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            assert_eq!(field(&status, set), "0000000000000000", "{set} of {}", field(&status, "Name:"));
        }
        assert_eq!((field(&status, "NoNewPrivs:"), field(&status, "Seccomp:")), ("1", "2"));
    }
    serves_and_drains(server);
}

#[test]
fn hardening_is_on_by_default_and_can_be_turned_off() {
    let own = fs::read_to_string("/proc/self/status").unwrap();
    for (flags, filtered) in [(&[][..], "2"), (&["--harden", "off"], field(&own, "Seccomp:"))] {
        let server = Server::start(flags);
        assert_eq!(field(&threads(&server)[0], "Seccomp:"), filtered);
        if !flags.is_empty() {
            assert_eq!(field(&threads(&server)[0], "CapEff:"), field(&own, "CapEff:"));
        }
        server.stop();
    }
}

#[test]
fn a_second_signal_ends_a_hardened_server_at_once() {
    let mut server = Server::start(&["--drain-timeout", "60s", "--close-timeout", "60s"]);
    let _stays = server.open();
    server.signal("TERM");
    server.signal("INT");
    let status = server.wait(PATIENCE);
    // Which of the two it sees last is not said.
    assert!([Some(130), Some(143)].contains(&status.code()), "{status}");
}

#[test]
fn rings_are_made_while_root_is_still_exempt_from_the_memlock_limit() {
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let capabilities = u64::from_str_radix(field(&own, "CapEff:"), 16).unwrap();
    if capabilities >> CAP_IPC_LOCK & 1 == 0 {
        return eprintln!("SKIPPED RLIMIT_MEMLOCK of root: needs CAP_IPC_LOCK");
    }
    // Where there is no limit, or a higher one, it would not bind even who is not exempt. The tests beside this are.
    let limits = ["--pid", &std::process::id().to_string(), "--memlock=8388608:8388608"];
    assert!(Command::new("prlimit").args(limits).status().expect("prlimit, of util-linux").success());
    // Together more than that.
    let server = Server::start_with_reactors(60, &[]);
    let said = server.lines().join("\n");
    assert!(!said.contains("RLIMIT_MEMLOCK") && !said.contains("smaller queues"), "{said}");
    serves_and_drains(server);
}

#[test]
fn a_library_user_with_threads_is_told_and_one_who_does_not_ask_keeps_all() {
    struct Silent;
    impl Handler for Silent {
        type Mail = ();
        fn on_request(&mut self, _: &Request<'_>, _: &mut Outbox) -> Decision {
            Decision::ACCEPT
        }
        fn on_message(&mut self, _: ConnId, _: Message<'_>, _: &mut Outbox) {}
    }
    let builder =
        || megasock::Server::builder().listen("127.0.0.1:0".parse().unwrap()).reactors(1).max_connections(10);
    let refused = builder().handler(|_| Silent).start_hardened();
    let Err(refused) = refused else { panic!("tests run on threads") };
    assert!(
        refused.to_string().contains("fix: start the hardened server before any other thread"),
        "{refused}"
    );
    let running = builder().handler(|_| Silent).start().unwrap();
    Command::new("true").status().unwrap();
    running.handle().stop(PATIENCE);
    running.wait();
}

// What hosts put around it.

/// A rule of `deploy/seccomp.json` for `seccompiler`: its names, each with its conditions.
fn rules_of(rule: &Value) -> Vec<Value> {
    let condition = |argument: &Value| {
        assert_eq!(argument["op"], "SCMP_CMP_MASKED_EQ", "what else is in the profile, this test must learn");
        json!({
            "index": argument["index"], "type": "qword",
            "op": { "masked_eq": argument["value"] }, "val": argument["valueTwo"]
        })
    };
    let conditions: Vec<Value> = rule["args"].as_array().into_iter().flatten().map(condition).collect();
    let call = |name: &Value| match conditions.is_empty() {
        true => json!({ "syscall": name }),
        false => json!({ "syscall": name, "args": conditions }),
    };
    rule["names"].as_array().unwrap().iter().map(call).collect()
}

fn profile() -> Value {
    serde_json::from_str(include_str!("../deploy/seccomp.json")).unwrap()
}

/// A filter that answers what it does not allow with `errno`.
fn allow(errno: i32, calls: Vec<Value>) -> Value {
    json!({ "mismatch_action": { "errno": errno }, "match_action": "allow", "filter": calls })
}

fn refuse(errno: i32, calls: Vec<Value>) -> Value {
    json!({ "mismatch_action": "allow", "match_action": { "errno": errno }, "filter": calls })
}

/// The profile as two filters: what it allows, and what it answers otherwise. Of several the kernel obeys the one that
/// forbids, so what has an answer of its own is let through the first.
fn filters_of(profile: &Value, left_out: &[&str]) -> Vec<Value> {
    assert_eq!(
        (&profile["defaultAction"], &profile["defaultErrnoRet"]),
        (&json!("SCMP_ACT_ERRNO"), &json!(1))
    );
    let rules = profile["syscalls"].as_array().unwrap();
    let (allowed, answered): (Vec<_>, Vec<_>) =
        rules.iter().partition(|rule| rule["action"] == "SCMP_ACT_ALLOW");
    let mut through: Vec<Value> = rules.iter().flat_map(rules_of).collect();
    through.retain(|call| !left_out.contains(&call["syscall"].as_str().unwrap()));
    assert!(allowed.len() > answered.len());
    let answers =
        answered.iter().map(|rule| refuse(rule["errnoRet"].as_i64().unwrap() as i32, rules_of(rule)));
    answers.chain([allow(libc::EPERM, through)]).collect()
}

/// Runs `test` on a thread under these filters.
fn under(filters: Vec<Value>, test: impl FnOnce() + Send + 'static) {
    let compile = |filter: Value| {
        let json = json!({ "thread": filter }).to_string();
        let architecture = std::env::consts::ARCH.try_into().unwrap();
        seccompiler::compile_from_json(json.as_bytes(), architecture).unwrap().remove("thread").unwrap()
    };
    let programs: Vec<_> = filters.into_iter().map(compile).collect();
    let filtered = thread::spawn(move || {
        programs.iter().for_each(|program| seccompiler::apply_filter(program).unwrap());
        test();
    });
    filtered.join().unwrap();
}

#[test]
fn the_containers_profile_holds_every_call_of_a_running_server() {
    let profile = profile();
    let rules =
        profile["syscalls"].as_array().unwrap().iter().filter(|rule| rule["action"] == "SCMP_ACT_ALLOW");
    let allowed: BTreeSet<&str> =
        rules.flat_map(|rule| rule["names"].as_array().unwrap()).map(|name| name.as_str().unwrap()).collect();
    let calls = CALLS.iter().flat_map(|group| group.calls).map(|(name, _)| name.trim_start_matches("SYS_"));
    let missing: Vec<&str> = calls.filter(|name| !allowed.contains(name)).collect();
    assert!(missing.is_empty(), "deploy/seccomp.json lacks {missing:?}");
    for start in ["seccomp", "capset", "prctl", "execve", "io_uring_setup"] {
        assert!(allowed.contains(start), "{start}: what starting takes");
    }
}

#[test]
fn a_server_in_a_container_serves_and_drains() {
    under(filters_of(&profile(), &[]), || {
        let refused = Command::new("unshare").args(["--user", "true"]).output().unwrap();
        assert!(!refused.status.success(), "the profile is on");
        serves_and_drains(Server::start_with_reactors(2, &[]));
    });
}

#[test]
fn without_the_three_calls_it_names_the_profile() {
    let without = ["io_uring_setup", "io_uring_enter", "io_uring_register"];
    under(filters_of(&profile(), &without), move || {
        let command = env!("CARGO_BIN_EXE_megasock");
        let ended = Command::new(command)
            .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
            .output()
            .unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(1), "{said}");
        assert!(
            said.contains("deploy/seccomp.json") && without.iter().all(|call| said.contains(call)),
            "{said}"
        );
    });
}

#[test]
fn where_no_filter_can_be_put_on_it_says_so_and_serves_only_without() {
    under(vec![refuse(libc::EPERM, vec![json!({ "syscall": "capset" })])], || {
        let command = env!("CARGO_BIN_EXE_megasock");
        let ended = Command::new(command)
            .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
            .output()
            .unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(1), "{said}");
        assert!(said.contains("deploy/seccomp.json") && said.contains("--harden off"), "{said}");
        serves_and_drains(Server::start(&["--harden", "off"]));
    });
}

const UNIT: &str = include_str!("../deploy/systemd/megasock.service");

/// The names behind the words of the unit's SystemCallFilter= lines, applied in order as systemd does.
fn calls_of_the_unit() -> BTreeSet<String> {
    let mut allowed = BTreeSet::new();
    let mut words: Vec<&str> = UNIT
        .lines()
        .filter_map(|line| line.strip_prefix("SystemCallFilter="))
        .flat_map(|line| {
            let without = line.starts_with('~');
            line.trim_start_matches('~')
                .split(' ')
                .flat_map(move |word| [if without { "-" } else { "+" }, word])
        })
        .collect();
    words.splice(0..0, ["+", "@default"]); // always allowed
    for pair in words.chunks(2) {
        for name in expanded(pair[1]) {
            match pair[0] {
                "+" => allowed.insert(name),
                _ => allowed.remove(&name),
            };
        }
    }
    allowed
}

/// A call, or all of a set's, as this host's systemd knows them.
fn expanded(word: &str) -> Vec<String> {
    if !word.starts_with('@') {
        return vec![word.to_owned()];
    }
    let listed = Command::new("systemd-analyze").args(["syscall-filter", "--no-pager", word]).output();
    let listed = String::from_utf8(listed.expect("systemd-analyze, of the package systemd").stdout).unwrap();
    let names =
        listed.lines().skip(1).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let names: Vec<String> = names.flat_map(expanded).collect();
    assert!(!names.is_empty(), "{word} is no set");
    names
}

#[test]
fn a_server_under_the_units_filter_serves_and_drains() {
    let allowed = calls_of_the_unit();
    for name in CALLS.iter().flat_map(|group| group.calls).map(|(name, _)| name.trim_start_matches("SYS_")) {
        assert!(allowed.contains(name), "the unit refuses {name}");
    }
    assert!(!allowed.contains("ptrace") && !allowed.contains("mount") && !allowed.contains("setuid"));
    // Sets name calls of every architecture; a filter can only name those of this one.
    let here = |name: &String| {
        let probe = json!({ "thread": allow(1, vec![json!({ "syscall": name })]) }).to_string();
        seccompiler::compile_from_json(probe.as_bytes(), std::env::consts::ARCH.try_into().unwrap()).is_ok()
    };
    let calls: Vec<Value> =
        allowed.iter().filter(|name| here(name)).map(|name| json!({ "syscall": name })).collect();
    assert!(calls.len() > 100);
    under(vec![allow(libc::EPERM, calls)], || serves_and_drains(Server::start_with_reactors(2, &[])));
}
