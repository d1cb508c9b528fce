//! What the tests of the real binary share: a server process and a client that trusts it in nothing.
//!
//! The client is written against the RFC with `std::net` alone and does not use `megasock::proto`: a mistake made in
//! both places by the same code would hide itself. Nothing here sleeps and hopes; every wait is for an event and has
//! a deadline.

// Each test target compiles this module for itself and uses a part of it.
#![allow(dead_code)]

pub(crate) mod client;
pub(crate) mod frames;
pub(crate) mod server;

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long any single event may take before the test calls it missing. Far above what a loaded machine needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Looks again and again until `look` finds something; panics with `what` at the deadline.
pub(crate) fn eventually<T>(what: &str, within: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Puts a pipe in the place of a file: who reads it waits for what [`writer_once_read`] writes, and for its end.
pub(crate) fn replace_by_pipe(file: &Path) {
    fs::remove_file(file).expect("a file");
    assert!(Command::new("mkfifo").arg(file).status().expect("mkfifo").success());
}

/// The pipe's other end, when somebody has begun to read it.
pub(crate) fn writer_once_read(pipe: &Path) -> File {
    eventually("the file is read", PATIENCE, || {
        // Without a reader ENXIO, see fifo(7).
        File::options().write(true).custom_flags(libc::O_NONBLOCK).open(pipe).ok()
    })
}

/// Raises this process's soft descriptor limit to the hard one and says what it is now.
pub(crate) fn raise_descriptor_limit() -> u64 {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("limits of this process");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line for open files");
    let hard = line.split_whitespace().nth(4).expect("a hard limit");
    let done = std::process::Command::new("prlimit")
        .args(["--pid", &std::process::id().to_string(), &format!("--nofile={hard}:{hard}")])
        .status()
        .expect("prlimit, of util-linux");
    assert!(done.success());
    hard.parse().expect("a number")
}
