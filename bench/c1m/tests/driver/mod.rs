//! Running the driver's binary and reading what it leaves.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Once;
use std::time::SystemTime;

pub fn c1m(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_c1m"));
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs to the end; what it printed, and its report if it wrote one.
pub fn run(name: &str, arguments: &[&str]) -> (Output, Value) {
    let out = folder(name);
    let output = c1m(arguments).args(["--out", out.to_str().unwrap()]).output().expect("c1m runs");
    (output, report(&out))
}

pub fn folder(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    // A report of an earlier run must not be taken for this one's.
    let _ = std::fs::remove_file(folder.join("report.json"));
    folder
}

pub fn report(folder: &std::path::Path) -> Value {
    let text = std::fs::read_to_string(folder.join("report.json")).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or(Value::Null)
}

pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The server's own program. The workspace's tests have built it already; where this package is tested alone, it may have to
/// be. Built every time it would be with other features than the tests', and all of it.
#[allow(dead_code, reason = "not every test starts it")]
pub fn megasock() -> PathBuf {
    static BUILT: Once = Once::new();
    let program = PathBuf::from(env!("CARGO_BIN_EXE_c1m")).with_file_name("megasock");
    BUILT.call_once(|| {
        let sources = newest(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../src")));
        if program.metadata().and_then(|built| built.modified()).is_ok_and(|built| built >= sources) {
            return;
        }
        let release = program.parent().is_some_and(|folder| folder.ends_with("release"));
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "megasock", "--bin", "megasock"]);
        build.args(release.then_some("--release"));
        assert!(build.status().expect("cargo runs").success(), "the server does not build");
    });
    program
}

/// When a file below `folder` was last changed.
#[allow(dead_code, reason = "only for the above")]
fn newest(folder: &Path) -> SystemTime {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    let changed = entries.map(|entry| match entry.file_type().unwrap().is_dir() {
        true => newest(&entry.path()),
        false => entry.metadata().unwrap().modified().unwrap(),
    });
    changed.max().unwrap_or(SystemTime::UNIX_EPOCH)
}
