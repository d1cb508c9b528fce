//! `megasock serve`: start, say what it will carry, stop on a signal.

use crate::config::{Config, LogFormat};
use crate::hub::{Mail, Open};
use crate::proto::close::CloseReason;
use crate::reactor::Totals;
use crate::server::{Handle, Running, Server};
use crate::sys::host::HostFacts;
use crate::sys::{memory, probe};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

/// Serves until told to stop.
pub(super) fn run(config: Config) -> ExitCode {
    memory::prepare();
    start_log(&config);
    let facts = HostFacts::read();
    if let Err(missing) = probe::setup(&facts) {
        return failed(&missing.explain(&facts).to_string());
    }
    let signals = match Signals::new([SIGTERM, SIGINT]) {
        Ok(signals) => signals,
        Err(error) => return failed(&format!("cannot watch for signals: {error}")),
    };
    let (drain_timeout, harden) = (Duration::from_millis(config.drain_timeout_ms), config.harden);
    let server = Server::builder().config(config).hub(|_core| Open);
    let started = if harden { server.start_hardened() } else { server.start() };
    let running = match started {
        Ok(running) => running,
        Err(error) => return failed(&error.to_string()),
    };
    announce(&running);
    stop_on_signal(signals, running.handle().clone(), drain_timeout);
    let started = Instant::now();
    let handle = running.handle().clone();
    running.wait();
    println!("{}", summary(&handle.counters(), started.elapsed()));
    ExitCode::SUCCESS
}

fn failed(problem: &str) -> ExitCode {
    eprintln!("megasock: {problem}");
    ExitCode::FAILURE
}

fn start_log(config: &Config) {
    let levels: Targets = config.log.parse().expect("checked when the configuration was loaded");
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match config.log_format {
        LogFormat::Text => tracing_subscriber::registry().with(lines.with_filter(levels)).init(),
        LogFormat::Json => tracing_subscriber::registry().with(lines.json().with_filter(levels)).init(),
    }
}

fn announce(running: &Running<Mail>) {
    let plan = running.plan();
    println!("megasock {} listening on {}", env!("CARGO_PKG_VERSION"), running.handle().local_address());
    println!("{plan}");
}

/// The first signal drains, the second ends at once.
fn stop_on_signal(mut signals: Signals, handle: Handle<Mail>, drain_timeout: Duration) {
    thread::spawn(move || {
        let mut seen = 0;
        for signal in signals.forever() {
            seen += 1;
            if seen > 1 {
                tracing::warn!("second signal: ending at once");
                std::process::exit(128 + signal);
            }
            tracing::info!(
                ?drain_timeout,
                "stopping: newcomers get 503, connections a close 1001; again to end at once"
            );
            handle.stop(drain_timeout);
        }
    });
}

/// What happened, in lines that people and scripts can read.
fn summary(totals: &Totals, uptime: Duration) -> String {
    let closed: Vec<String> = CloseReason::ALL
        .iter()
        .zip(totals.closed)
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| format!("{}={count}", reason.name()))
        .collect();
    format!(
        "served: seconds={:.1} accepted={} upgraded={} messages_received={} messages_sent={} turns={} \
         receives_empty={} sends_short={}\nclosed: {}\nheld: slots={} \
         buffers={}",
        uptime.as_secs_f64(),
        totals.accepted,
        totals.upgraded,
        totals.messages_received,
        totals.messages_sent,
        totals.turns,
        totals.receives_empty,
        totals.sends_short,
        closed.join(" "),
        totals.slots_held,
        totals.buffers_held,
    )
}
