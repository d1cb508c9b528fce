//! What the driver reads of the host and the server while it runs: memory, CPU time, dropped packets. From `/proc`
//! alone; what this user may not read is absent, never zero.

pub(crate) mod cpu;
pub(crate) mod memory;
pub(crate) mod network;

use std::fs;

/// The number after `name` in a `/proc` file of lines.
fn number_after(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
