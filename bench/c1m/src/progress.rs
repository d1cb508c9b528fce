//! The progress bar: count, rate and memory. Where standard error is no terminal, a line every few seconds instead.

use crate::observe::memory::rss_bytes_roughly;
use crate::report::table::count;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

const LINE_EVERY: Duration = Duration::from_secs(5);
const MEMORY_EVERY: Duration = Duration::from_millis(500);

pub(crate) struct Progress {
    what: &'static str,
    bar: ProgressBar,
    terminal: bool,
    server_pid: Option<u32>,
    started: Instant,
    /// Last line or reading of memory.
    last: Instant,
    at: u64,
}

impl Progress {
    /// A bar up to `total`; 0 where the end is not known.
    pub(crate) fn new(what: &'static str, total: u64, server_pid: Option<u32>) -> Progress {
        let template = match total {
            0 => "{prefix:>18} {human_pos} {per_sec} {msg}",
            _ => "{prefix:>18} [{bar:32}] {human_pos}/{human_len} {per_sec} {msg}",
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(total).with_style(style).with_prefix(what);
        let now = Instant::now();
        Progress {
            what,
            bar,
            terminal: std::io::stderr().is_terminal(),
            server_pid,
            started: now,
            last: now,
            at: 0,
        }
    }

    pub(crate) fn at(&mut self, position: u64) {
        self.at = position;
        self.bar.set_position(position);
        let every = if self.terminal { MEMORY_EVERY } else { LINE_EVERY };
        if self.last.elapsed() < every {
            return;
        }
        self.last = Instant::now();
        let memory = self.memory();
        if self.terminal {
            self.bar.set_message(memory);
        } else {
            self.line(&memory);
        }
    }

    fn memory(&self) -> String {
        self.server_pid.map_or(String::new(), |pid| format!("server {} MB", rss_bytes_roughly(pid) >> 20))
    }

    fn line(&self, memory: &str) {
        let rate = self.at as f64 / self.started.elapsed().as_secs_f64().max(1e-3);
        eprintln!("{:>18} {} {}/s {memory}", self.what, count(self.at), count(rate as u64));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal {
            self.bar.abandon();
        } else {
            self.line(&self.memory());
        }
    }
}
