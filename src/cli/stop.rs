//! A server told to stop by a signal: says what it is going to do, how far it is, and obeys a second signal at once.

use crate::hub::Mail;
use crate::proto::close::CloseReason;
use crate::server::{Drain, Handle};
use signal_hook::iterator::Signals;
use std::thread;
use std::time::{Duration, Instant};

/// Between two lines on the progress of a drain.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// The first signal drains, the second ends at once.
pub(super) fn on_signal(mut signals: Signals, handle: Handle<Mail>, timeout: Duration) {
    thread::spawn(move || {
        let mut seen = 0;
        for signal in signals.forever() {
            seen += 1;
            if seen > 1 {
                tracing::warn!("second signal: ending at once");
                std::process::exit(128 + signal);
            }
            let drain = handle.stop(timeout);
            announce(&drain);
            let handle = handle.clone();
            thread::spawn(move || report(&handle, &drain));
        }
    });
}

fn announce(drain: &Drain) {
    let newcomers = if drain.is_handed_over { "left to the server beside this one" } else { "answered 503" };
    tracing::info!(
        clients = drain.clients,
        closes_over = ?drain.closes_over,
        returns_over = ?drain.returns_over,
        deadline = ?drain.timeout,
        newcomers,
        "stopping; a second signal ends at once"
    );
}

/// Until the process ends.
fn report(handle: &Handle<Mail>, drain: &Drain) {
    let began = Instant::now();
    loop {
        thread::sleep(PROGRESS_EVERY);
        let totals = handle.counters();
        tracing::info!(
            open = totals.connections_open,
            told = totals.drain_told,
            closed = totals.closed[CloseReason::ServerShutdown as usize],
            seconds_left = drain.timeout.saturating_sub(began.elapsed()).as_secs(),
            "stopping"
        );
    }
}
