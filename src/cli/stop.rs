//! A server told to stop, by a signal or through the admin listener: says what it is going to do and how far it is, and obeys
//! a second signal at once.

use super::log::Log;
use super::reload::Reload;
use crate::hub::Mail;
use crate::server::{Drain, Handle};
use signal_hook::consts::SIGHUP;
use signal_hook::iterator::Signals;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Between two lines on the progress of a drain.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// Stops one server; whoever asks for it.
#[derive(Clone)]
pub(super) struct Stop {
    handle: Handle<Mail>,
    is_reporting: Arc<AtomicBool>,
}

impl Stop {
    pub fn new(handle: Handle<Mail>) -> Stop {
        Stop { handle, is_reporting: Arc::default() }
    }

    /// Begins to stop, within this time or else `drain_timeout`, and reports. Told again it may end sooner.
    pub fn begin(&self, within: Option<Duration>) -> Drain {
        let configured = || Duration::from_millis(self.handle.configured(|config| config.drain_timeout_ms));
        let drain = self.handle.stop(within.unwrap_or_else(configured));
        announce(&drain);
        if !self.is_reporting.swap(true, Ordering::Relaxed) {
            let stop = self.clone();
            thread::spawn(move || stop.report());
        }
        drain
    }

    /// Until the process ends.
    fn report(&self) {
        loop {
            thread::sleep(PROGRESS_EVERY);
            let Some(stopping) = self.handle.stopping() else { return };
            let totals = self.handle.counters();
            tracing::info!(
                open = totals.connections_open,
                told = totals.drain_told,
                closed = stopping.clients.saturating_sub(totals.connections_open),
                seconds_left = stopping.deadline.saturating_duration_since(Instant::now()).as_secs(),
                "stopping"
            );
        }
    }
}

/// Of those that stop it the first drains, the second ends at once; SIGHUP reloads.
pub(super) fn on_signal(mut signals: Signals, stop: Stop, reload: Reload, log: Log) {
    thread::spawn(move || {
        let mut seen = 0;
        for signal in signals.forever() {
            if signal == SIGHUP {
                drop(reload.begin()); // told in the log
                continue;
            }
            seen += 1;
            if seen > 1 {
                tracing::warn!("second signal: ending at once");
                log.flush();
                std::process::exit(128 + signal);
            }
            stop.begin(None);
        }
    });
}

fn announce(drain: &Drain) {
    let newcomers = if drain.is_handed_over { "left to the server beside this one" } else { "answered 503" };
    tracing::info!(
        clients = drain.clients,
        closes_over = ?drain.closes_over,
        returns_after = ?drain.returns_after,
        returns_over = ?drain.returns_over,
        deadline = ?drain.timeout,
        newcomers,
        "stopping; a second signal ends at once"
    );
}
