//! The real binary on hosts that forbid what it needs: cause and fix in under a second, and an exit code that says so.
//!
//! Root never feels RLIMIT_MEMLOCK and is exempt from `kernel.io_uring_disabled = 1`, so those run as `nobody`; not
//! being root, they cannot, and say that they were skipped.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

const NOBODY: u32 = 65_534;
const COMMANDS: [&[&str]; 2] =
    [&["doctor"], &["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]];

struct Ended {
    status: ExitStatus,
    text: String,
    took: Duration,
}

fn run(mut command: Command) -> Ended {
    let started = Instant::now();
    let output = command.output().unwrap();
    let took = started.elapsed();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    Ended { status: output.status, text, took }
}

#[track_caller]
fn assert_explained(ended: &Ended, says: &[&str]) {
    let Ended { status, text, took } = ended;
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(*took < Duration::from_secs(1), "took {took:?}");
    for part in says {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

const BINARY: &str = env!("CARGO_BIN_EXE_megasock");

/// A copy of the binary that `nobody` may reach, wherever the build put the original. Gone with the test.
struct Reachable {
    folder: PathBuf,
}

impl Reachable {
    fn new(test: &str) -> Reachable {
        let folder = PathBuf::from(format!("/tmp/megasock-{test}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(BINARY, folder.join("megasock")).unwrap();
        fs::set_permissions(folder.join("megasock"), fs::Permissions::from_mode(0o755)).unwrap();
        Reachable { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.join("megasock")
    }
}

impl Drop for Reachable {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn is_root(test: &str) -> bool {
    let root = fs::metadata("/proc/self").unwrap().uid() == 0;
    if !root {
        eprintln!("SKIPPED {test}: needs root to become nobody");
    }
    root
}

/// The command under a limit of `ulimit`.
fn limited(ulimit: &str, binary: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit {ulimit} && exec \"$@\""), "sh"]).arg(binary).args(arguments);
    command
}

fn as_nobody(mut command: Command) -> Command {
    command.uid(NOBODY).gid(NOBODY).current_dir("/");
    command
}

/// `kernel.io_uring_disabled`, global to the machine: one test at a time, and back as it was.
struct IoUringDisabled {
    before: String,
    _alone: MutexGuard<'static, ()>,
}

const IO_URING_DISABLED: &str = "/proc/sys/kernel/io_uring_disabled";
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    // A test that failed while alone has put the value back all the same.
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl IoUringDisabled {
    fn set(value: &str) -> IoUringDisabled {
        let alone = alone();
        let before = fs::read_to_string(IO_URING_DISABLED).unwrap();
        fs::write(IO_URING_DISABLED, value).unwrap();
        IoUringDisabled { before, _alone: alone }
    }
}

impl Drop for IoUringDisabled {
    fn drop(&mut self) {
        let _ = fs::write(IO_URING_DISABLED, &self.before);
    }
}

/// Runs `command` from a thread under these filters: they are per thread and inherited by what it starts.
fn under(filters: Vec<serde_json::Value>, command: Command) -> Ended {
    let compile = |filter: serde_json::Value| {
        let json = serde_json::json!({ "thread": filter }).to_string();
        let architecture = std::env::consts::ARCH.try_into().unwrap();
        let mut programs = seccompiler::compile_from_json(json.as_bytes(), architecture).unwrap();
        programs.remove("thread").unwrap()
    };
    let programs: Vec<_> = filters.into_iter().map(compile).collect();
    let filtered = thread::spawn(move || {
        programs.iter().for_each(|program| seccompiler::apply_filter(program).unwrap());
        run(command)
    });
    filtered.join().unwrap()
}

fn refuse(errno: i32, calls: &[&str]) -> serde_json::Value {
    let calls: Vec<_> = calls.iter().map(|call| serde_json::json!({ "syscall": call })).collect();
    serde_json::json!({ "mismatch_action": "allow", "match_action": { "errno": errno }, "filter": calls })
}

#[test]
fn io_uring_disabled_for_all_but_a_group_is_named_to_nobody() {
    if !is_root("io_uring_disabled = 1") {
        return;
    }
    let binary = Reachable::new("disabled");
    let _disabled = IoUringDisabled::set("1");
    for arguments in COMMANDS {
        let mut command = Command::new(binary.path());
        command.args(arguments);
        let ended = run(as_nobody(command));
        assert_explained(
            &ended,
            &["kernel.io_uring_disabled = 1", "sysctl -w kernel.io_uring_disabled=0", "io_uring_group"],
        );
    }
}

#[test]
fn a_seccomp_filter_is_named_with_the_profile_that_lifts_it() {
    let _alone = alone();
    for arguments in COMMANDS {
        let mut command = Command::new(BINARY);
        command.args(arguments);
        let ended = under(vec![refuse(libc::EPERM, &["io_uring_setup"])], command);
        assert_explained(&ended, &["seccomp filter", "deploy/seccomp.json", "io_uring_setup"]);
    }
}

#[test]
fn a_filter_on_registration_alone_is_named_too() {
    let _alone = alone();
    let mut command = Command::new(BINARY);
    command.arg("doctor");
    let ended = under(vec![refuse(libc::EPERM, &["io_uring_register"])], command);
    assert_explained(&ended, &["registered ring", "Operation not permitted"]);
}

#[test]
fn the_seccomp_profile_for_containers_lets_the_doctor_find_nothing_missing() {
    let _alone = alone();
    let profile: serde_json::Value = serde_json::from_str(include_str!("../deploy/seccomp.json")).unwrap();
    let rules = profile["syscalls"].as_array().unwrap();
    // clone3 has a filter of its own; of several, the kernel obeys the one that forbids.
    let names = rules.iter().flat_map(|rule| rule["names"].as_array().unwrap());
    let names: Vec<_> = names.map(|name| serde_json::json!({ "syscall": name })).collect();
    let allowed = serde_json::json!({
        "mismatch_action": { "errno": libc::EPERM }, "match_action": "allow", "filter": names
    });
    let mut command = Command::new(BINARY);
    command.args(["doctor", "--connections", "1000"]);
    let ended = under(vec![refuse(libc::ENOSYS, &["clone3"]), allowed], command);
    assert!(ended.status.success(), "{}", ended.text);
}

#[test]
fn the_doctor_says_what_the_server_gives_up_and_what_keeps_it_from_that() {
    let _alone = alone();
    let doctor = |harden: &str| {
        let mut command = Command::new(BINARY);
        command.args(["doctor", "--connections", "1000", "--harden", harden]);
        command
    };
    let given_up = run(doctor("on"));
    assert!(
        given_up.status.success() && given_up.text.contains("no_new_privs, seccomp: "),
        "{}",
        given_up.text
    );
    let kept = run(doctor("off"));
    assert!(kept.status.success() && kept.text.contains("off: the server keeps all it has"), "{}", kept.text);
    let refused = under(vec![refuse(libc::EPERM, &["capset"])], doctor("on"));
    assert_explained(
        &refused,
        &["STOP", "cannot give up capabilities", "deploy/seccomp.json", "--harden off"],
    );
}

#[test]
fn too_few_descriptors_are_named_with_the_line_of_the_unit() {
    let _alone = alone();
    for arguments in COMMANDS {
        let ended = run(limited("-n 64", Path::new(BINARY), arguments));
        assert_explained(&ended, &["RLIMIT_NOFILE is 64", "LimitNOFILE=1048576", "limits/60-megasock.conf"]);
    }
}

#[test]
fn too_little_locked_memory_is_named_to_nobody() {
    if !is_root("RLIMIT_MEMLOCK") {
        return;
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    if (numbers.next(), numbers.next()) < (Some(6), Some(14)) {
        return eprintln!("SKIPPED RLIMIT_MEMLOCK: Linux {release} does not count rings");
    }
    let binary = Reachable::new("locked");
    let _alone = alone();
    for arguments in COMMANDS {
        // Too little for a ring of any size, and too little for the smallest queues of two reactors.
        for (limit_kib, reactors) in [(4, "1"), (20, "2")] {
            let arguments = [arguments, &["--reactors", reactors]].concat();
            let ended = run(as_nobody(limited(&format!("-l {limit_kib}"), &binary.path(), &arguments)));
            assert_explained(&ended, &["RLIMIT_MEMLOCK", "LimitMEMLOCK=128M", "limits/60-megasock.conf"]);
        }
    }
}

#[test]
fn a_target_the_host_carries_passes_and_one_beyond_it_fails() {
    let _alone = alone();
    let doctor = |connections: &str| {
        let mut command = Command::new(BINARY);
        command.args(["doctor", "--connections", connections]);
        run(command)
    };
    let modest = doctor("1000");
    assert!(modest.status.success() && modest.took < Duration::from_secs(1), "{}", modest.text);
    assert!(modest.text.contains("Nothing stops 1,000 connections"), "{}", modest.text);
    assert_explained(&doctor("4000000000"), &["STOP", "stop 4,000,000,000 connections", "stopped there by"]);
}
