//! `megasock serve`: start, say what it will carry, stop on a signal.

use super::log::Log;
use super::reload::{NO_KEYS, Reload};
use super::stop::{self, Stop};
use super::{failed, say};
use crate::config::{Config, Sources};
use crate::control::{self, Operator, Settings};
use crate::hub::{Mail, Open};
use crate::proto::close::CloseReason;
use crate::reactor::Totals;
use crate::server::{self, Running, Server};
use crate::sys::host::HostFacts;
use crate::sys::{memory, probe};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::net::TcpListener;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Serves until told to stop.
pub(super) fn run(config: Config, sources: Sources) -> ExitCode {
    memory::prepare();
    let log = match Log::start(&config) {
        Ok(log) => log,
        Err(error) => return failed(format!("cannot write a log on standard error: {error}")),
    };
    let facts = HostFacts::read();
    if let Err(missing) = probe::setup(&facts) {
        return failed(missing.explain(&facts));
    }
    let signals = match Signals::new([SIGTERM, SIGINT, SIGHUP]) {
        Ok(signals) => signals,
        Err(error) => return failed(format!("cannot watch for signals: {error}")),
    };
    let admin = match admin_listener(&config) {
        Ok(admin) => admin,
        Err(problem) => return failed(problem),
    };
    let harden = config.harden;
    let (replaces, is_open_to_all) = (config.replace, config.keys.is_empty() && !config.production);
    let server = Server::builder().config(config.clone()).hub(|_core| Open);
    let started = if harden { server.start_hardened() } else { server.start() };
    let running = match started {
        Ok(running) => running,
        Err(error) => return failed(error),
    };
    if let Err(error) = log.detach() {
        return failed(format!("cannot start the log's thread: {error}"));
    }
    let handle = running.handle().clone();
    let stop = Stop::new(handle.clone());
    let reload = Reload::new(sources, handle.clone(), log.clone());
    if let Err(problem) = start_control(admin, &running, &config, (stop.clone(), reload.clone(), &log)) {
        return failed(problem);
    }
    announce(&running, replaces, is_open_to_all);
    stop::on_signal(signals, stop, reload, log.clone());
    let started = Instant::now();
    running.wait();
    log.flush();
    say(summary(&handle.counters(), started.elapsed()));
    ExitCode::SUCCESS
}

/// The admin listener's socket, taken before privileges are given up.
fn admin_listener(config: &Config) -> Result<Option<TcpListener>, String> {
    let Some(address) = config.admin_listen else { return Ok(None) };
    control::listen(address, config.replace).map(Some).map_err(|error| {
        format!(
            "cannot listen on {address} for the admin listener: {error}\n  fix: choose another address with --admin-listen, \
             or go without by --admin-listen off"
        )
    })
}

fn start_control(
    listener: Option<TcpListener>,
    running: &Running<Mail>,
    config: &Config,
    (stop, reload, log): (Stop, Reload, &Log),
) -> Result<(), String> {
    let Some(listener) = listener else { return Ok(()) };
    let cannot = |error: std::io::Error| format!("cannot start the admin listener: {error}");
    let address = listener.local_addr().map_err(cannot)?;
    let operator = Operator {
        handle: running.handle().clone(),
        settings: Settings {
            server_id: server::server_id(config),
            max_connections: running.plan().connections_total,
            slow_budget_bytes: server::auto_slow_budget_bytes(),
        },
        drain: Box::new(move |within| stop.begin(within)),
        reload: Box::new(move || reload.begin()),
        log: log.counts(),
    };
    control::start(listener, operator).map_err(cannot)?;
    say(format_args!("admin on {address}"));
    Ok(())
}

fn announce(running: &Running<Mail>, replaces: bool, is_open_to_all: bool) {
    let plan = running.plan();
    // First: who waits for the line after it may rely on it.
    if replaces && running.shares_address() {
        say(
            "beside the server it replaces: stop that one (SIGTERM), and it leaves its newcomers to this one",
        );
    } else if replaces {
        say("nobody to replace: no other server listens there");
    }
    let (version, address) = (env!("CARGO_PKG_VERSION"), running.handle().local_address());
    say(format_args!("megasock {version} listening on {address}"));
    say(plan);
    if is_open_to_all {
        say(NO_KEYS);
    }
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
