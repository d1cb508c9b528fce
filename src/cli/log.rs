//! The log: events as lines on standard error, which a thread of its own writes.
//!
//! Whoever logs never waits for a reader: a line goes into a bounded queue, and where that has no room it is dropped and
//! counted. Until the thread runs, lines are written at once: giving up privileges wants no thread before it. A reader that
//! has gone, or never reads, holds up that thread alone.

use crate::config::{Config, LogFormat};
use crate::control::LogCounts;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};
use tracing_subscriber::Registry;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::prelude::*;
use tracing_subscriber::reload;

/// Lines that wait to be written; some 200 bytes each.
const LINES_MAX: usize = 8_192;

/// A longer line is cut: the queue is bounded in bytes too.
const LINE_BYTES_MAX: usize = 16 * 1024;

/// Between two lines on what was dropped.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// How long the end of the process waits for who reads the log.
const FLUSHED_WITHIN: Duration = Duration::from_secs(1);

/// The log of this process.
#[derive(Clone)]
pub(super) struct Log {
    lines: Lines,
    levels: reload::Handle<Targets, Registry>,
}

impl Log {
    /// Installs it; from now on events are lines.
    pub fn start(config: &Config) -> io::Result<Log> {
        // A descriptor of its own: the lock of std's would be held while a pipe is full, and a panic needs it.
        let stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        let lines = Lines { stderr: Arc::new(stderr), queue: Arc::default(), counts: Arc::default() };
        let (levels, handle) = reload::Layer::new(levels(&config.log));
        let layer =
            tracing_subscriber::fmt::layer().with_writer(lines.clone()).with_ansi(io::stderr().is_terminal());
        match config.log_format {
            LogFormat::Text => tracing_subscriber::registry().with(layer.with_filter(levels)).init(),
            LogFormat::Json => tracing_subscriber::registry().with(layer.json().with_filter(levels)).init(),
        }
        Ok(Log { lines, levels: handle })
    }

    /// From now on a thread writes.
    pub fn detach(&self) -> io::Result<()> {
        let (sender, queue) = crossbeam_channel::bounded(LINES_MAX);
        let lines = self.lines.clone();
        thread::Builder::new().name("log".to_owned()).spawn(move || lines.write_all_of(&queue))?;
        let _ = self.lines.queue.set(sender); // called once
        Ok(())
    }

    /// Tells other levels from now on.
    pub fn set_levels(&self, log: &str) {
        let _ = self.levels.reload(levels(log)); // the subscriber lives as long as the process
    }

    /// What did not get into the log.
    pub fn counts(&self) -> Arc<LogCounts> {
        Arc::clone(&self.lines.counts)
    }

    /// Waits until what was logged is written, a while at most.
    pub fn flush(&self) {
        let Some(queue) = self.lines.queue.get() else { return };
        let (written, all_written) = oneshot::channel();
        if queue.send_timeout(Job::Flush(written), FLUSHED_WITHIN).is_ok() {
            let _ = all_written.recv_timeout(FLUSHED_WITHIN); // or nobody reads
        }
    }
}

fn levels(log: &str) -> Targets {
    log.parse().expect("checked when the configuration was loaded")
}

/// Where lines go.
#[derive(Clone)]
struct Lines {
    stderr: Arc<File>,
    /// To the thread, once there is one.
    queue: Arc<OnceLock<Sender<Job>>>,
    counts: Arc<LogCounts>,
}

enum Job {
    Line(Box<[u8]>),
    Flush(oneshot::Sender<()>),
}

impl Lines {
    /// The thread: until the process ends.
    fn write_all_of(&self, queue: &Receiver<Job>) {
        let (mut told, mut told_at) = (0, Instant::now());
        loop {
            let job = match self.counts.dropped() == told {
                true => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
                false => queue.recv_timeout(COUNT_EVERY),
            };
            match job {
                // Where it cannot be written there is nobody to tell.
                Ok(Job::Line(line)) => drop((&*self.stderr).write_all(&line)),
                Ok(Job::Flush(written)) => drop(written.send(())),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let dropped = self.counts.dropped();
            if dropped > told && told_at.elapsed() >= COUNT_EVERY {
                let lines = dropped - told;
                (told, told_at) = (dropped, Instant::now());
                tracing::warn!(target: "ws.left_out", lines, "lines of the log were dropped: its reader was too slow");
            }
        }
    }
}

/// One event: the formatter writes it in one piece.
impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let Some(queue) = self.queue.get() else { return (&*self.stderr).write(line) };
        let mut kept: Vec<u8> = line[..line.len().min(LINE_BYTES_MAX)].to_vec();
        if kept.len() < line.len() {
            kept.push(b'\n');
        }
        if queue.try_send(Job::Line(kept.into())).is_err() {
            self.counts.drop_line();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Lines;

    fn make_writer(&'a self) -> Lines {
        self.clone()
    }
}
