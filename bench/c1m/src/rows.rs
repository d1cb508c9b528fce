//! The rows: which connections each opens, and the phases it is made of.

use crate::cli::{Attack, Drain, Flood, Options, Row, Storm};
use crate::fleet::Fleet;
use crate::plan::{Carry, Cores, Ends, carry, reactors, rings};
use crate::production::{Production, read_token};
use crate::report::{Host, Report, Settings, fanout, page, table};
use crate::run::Run;
use crate::server::{Launch, Server, beside_this_program};
use crate::target::{Speech, Target};
use megasock::config::Config;
use megasock::sys::host::{HostFacts, raise_nofile};
use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

/// What a row opens when `--connections` does not say.
#[derive(Clone, Copy)]
enum Size {
    /// What the host carries.
    Carry,
    /// As many, or what the host carries where that is less.
    UpTo(u64),
}

/// A row as data.
struct Recipe<'a> {
    name: &'static str,
    size: Size,
    /// Server and driver on different cores.
    splits: bool,
    depth: u32,
    payload_bytes: usize,
    /// Path at a server of its own.
    path: &'static str,
    /// The server gets room for one more in so many: a connection is opened again before the server has noticed the end of
    /// the last.
    spare_one_in: u64,
    /// It makes no sense without a topic.
    fans_out: bool,
    /// Room the server has besides.
    spare: u64,
    /// As it was asked for.
    row: Option<&'a Row>,
    phases: fn(&mut Run, &Recipe),
}

/// Room the server has beside its share, where the row needs no more.
const SERVER_SPARE: u64 = 64;
/// Room for newcomers and attackers, those included that the server has not done with.
const STRANGERS_SPARE: u64 = 8_000;
/// From the server's port to that of its admin listener.
const ADMIN_PORT_OFFSET: u16 = 100;
const ECHO: &str = "/echo";
/// Each connection a user of its own.
const CHANNELS: &str = "/ws?user=u{n}";

fn recipe(row: Option<&Row>) -> Recipe<'_> {
    let many = Size::UpTo(200_000);
    let plain = Recipe {
        name: "all",
        size: Size::Carry,
        splits: false,
        depth: 1,
        payload_bytes: 64,
        path: ECHO,
        spare_one_in: 64,
        fans_out: false,
        spare: SERVER_SPARE,
        row,
        phases: all,
    };
    let few = Recipe { size: Size::UpTo(300), splits: true, ..plain };
    let topic = Recipe { size: Size::UpTo(10_000), splits: true, path: CHANNELS, fans_out: true, ..plain };
    // A name is refused in production, where everyone has the same token. Times count: the driver has cores of its own.
    let clients =
        Recipe { size: Size::UpTo(100_000), splits: true, path: "/ws", spare: STRANGERS_SPARE, ..plain };
    match row {
        None => Recipe { path: CHANNELS, ..plain },
        Some(Row::Idle) => Recipe { name: "idle", size: many, phases: idle, ..plain },
        Some(Row::Ramp) => Recipe { name: "ramp", size: many, phases: |run, _| run.ramp(1.0), ..plain },
        Some(Row::Echo | Row::Turns(_)) => Recipe { name: "echo", phases: echo, ..few },
        Some(Row::Pipeline) => Recipe { name: "pipeline", depth: 16, phases: pipeline, ..few },
        Some(Row::Alive) => Recipe { name: "alive", path: CHANNELS, phases: alive, ..plain },
        Some(Row::Storm(Storm { schedule: true })) => Recipe { name: "storm", phases: storm, ..clients },
        Some(Row::Storm(_)) => Recipe { name: "storm", size: many, phases: storm, ..plain },
        Some(Row::Drain(_)) => Recipe { name: "drain", phases: drain, ..clients },
        Some(Row::Attack(_)) => {
            Recipe { name: "attack", size: Size::UpTo(1_000), spare: STRANGERS_SPARE, phases: attack, ..few }
        }
        Some(Row::Watch) => Recipe { name: "watch", phases: watch, ..clients },
        Some(Row::Flood(_)) => Recipe { name: "flood", size: Size::UpTo(1_000), phases: flood, ..few },
        Some(Row::Fanout) => Recipe { name: "fanout", phases: fan_out, ..topic },
        Some(Row::Slow) => Recipe { name: "slow", payload_bytes: 1024, phases: slow, ..topic },
        Some(Row::Churn) => {
            Recipe { name: "churn", size: Size::UpTo(3_000), spare_one_in: 2, phases: churn, ..topic }
        }
    }
}

/// Echoes a second of an open loop that nobody set.
const ECHO_RATE: f64 = 20_000.0;

/// A ramp takes this part of a server's accept rate, and at most what comes in so many seconds at once: each core has a share
/// of the rate, and the kernel does not spread evenly.
const RAMP_PART: f64 = 0.5;
const RAMP_BURST_S: f64 = 0.05;

/// The same of the honest beside attackers: a load that leaves the server idle most of the time.
const HONEST_RATE: f64 = 2_000.0;

/// A run of ten times as many measures how much of their echo rate is left.
const RETENTION_FROM: f64 = 10_000.0;

fn all(run: &mut Run, _: &Recipe) {
    let part = RETENTION_FROM / run.fleet.slots_total() as f64;
    if part <= 0.1 {
        run.ramp(part);
        run.closed_loop_over_all();
        run.remember_for_retention();
    }
    run.ramp(1.0);
    run.echo_each();
    run.measure_memory();
    run.hold(run.options.hold);
    run.broadcast();
    run.closed_loop_over_all();
    run.open_loop(run.options.echo_rate.unwrap_or(ECHO_RATE), run.options.load);
    run.echo_each();
}

fn idle(run: &mut Run, _: &Recipe) {
    for part in [0.25, 1.0] {
        run.ramp(part);
        run.echo_each();
        run.measure_memory();
    }
}

fn echo(run: &mut Run, recipe: &Recipe) {
    run.ramp(1.0);
    run.closed_loop_on_each(run.options.depth.unwrap_or(recipe.depth));
    let reached = run.report.echo.as_ref().and_then(|echo| echo.messages_per_second);
    if let Some(rate) = run.options.echo_rate.or(reached.map(|rate| rate / 2.0)) {
        run.open_loop(rate, run.options.load);
    }
}

fn pipeline(run: &mut Run, recipe: &Recipe) {
    run.ramp(1.0);
    run.closed_loop_on_each(run.options.depth.unwrap_or(recipe.depth));
}

fn alive(run: &mut Run, _: &Recipe) {
    run.ramp(1.0);
    run.echo_each();
    run.measure_memory();
    run.hold(run.options.hold);
    run.broadcast();
    run.open_loop(run.options.echo_rate.unwrap_or(ECHO_RATE), run.options.hold.max(run.options.load));
    run.echo_each();
}

fn storm(run: &mut Run, recipe: &Recipe) {
    let accept_rate = heed_accept_rate(run);
    run.ramp(1.0);
    run.echo_each();
    match recipe.row {
        Some(Row::Storm(Storm { schedule: true })) => run.storm_by_schedule(accept_rate),
        _ => run.storm(),
    }
    run.echo_each();
}

fn drain(run: &mut Run, recipe: &Recipe) {
    let Some(Row::Drain(Drain { newcomers })) = recipe.row else { return };
    heed_accept_rate(run);
    run.ramp(1.0);
    run.echo_each();
    let announced = announced_rate(run, "--reconnect-rate", Some(Config::default().reconnect_rate));
    if let Some(rate) = announced {
        run.drain(rate, *newcomers);
    }
    run.echo_each();
}

/// What the server keeps to, outside of which the ramp stays. No rate holds on the echo, nor outside production.
fn heed_accept_rate(run: &mut Run) -> Option<f64> {
    let guarded = run.options.production && run.target.speech == Speech::Channels;
    let rate = guarded.then(|| announced_rate(run, "--accept-rate", Config::default().accept_rate)).flatten();
    if let Some(rate) = rate {
        run.options.rate.get_or_insert(rate * RAMP_PART);
        run.options.in_flight = run.options.in_flight.min((rate * RAMP_BURST_S) as u32).max(1);
    }
    rate
}

fn attack(run: &mut Run, recipe: &Recipe) {
    let Some(Row::Attack(Attack { kinds, attackers, rounds })) = recipe.row else { return };
    run.ramp(1.0);
    run.echo_each();
    let per_second = run.options.echo_rate.unwrap_or(HONEST_RATE);
    for kind in kinds {
        run.attack(*kind, *attackers, *rounds, per_second);
    }
    run.echo_each();
}

fn watch(run: &mut Run, _: &Recipe) {
    run.ramp(1.0);
    run.echo_each();
    run.watch(run.options.echo_rate.unwrap_or(HONEST_RATE));
    run.echo_each();
}

fn flood(run: &mut Run, recipe: &Recipe) {
    let Some(Row::Flood(Flood { garbage, rounds })) = recipe.row else { return };
    run.ramp(1.0);
    run.echo_each();
    run.flood(*garbage, *rounds, run.options.echo_rate.unwrap_or(HONEST_RATE));
    run.echo_each();
}

/// What the server started here was told of a rate, or else its default; `None` where it is off.
fn announced_rate(run: &Run, argument: &str, default: Option<u32>) -> Option<f64> {
    let written = run.server.as_ref().and_then(|server| server.launch.argument(argument));
    match written {
        Some(text) => text.trim_end_matches("/s").replace('_', "").parse().ok(),
        None => default.map(f64::from),
    }
}

fn fan_out(run: &mut Run, _: &Recipe) {
    for part in [0.1, 1.0] {
        run.ramp(part);
        run.echo_each();
        run.fan_out();
    }
}

fn slow(run: &mut Run, _: &Recipe) {
    run.ramp(1.0);
    run.echo_each();
    run.slow();
}

fn churn(run: &mut Run, _: &Recipe) {
    run.ramp(1.0);
    run.churn();
    run.echo_each();
}

/// Runs a row and reports it.
pub(crate) fn measure(row: Option<&Row>, options: &Options) -> Result<ExitCode, String> {
    let recipe = recipe(row);
    let mut options = options.clone();
    options.payload.get_or_insert(recipe.payload_bytes);
    raise_nofile().map_err(|error| format!("RLIMIT_NOFILE: {error}"))?;
    let facts = HostFacts::read();
    let mut run = prepare(&recipe, &options, &facts)?;
    (recipe.phases)(&mut run, &recipe);
    let report = run.end();
    print!("\n{}", table::text(&report));
    let files = page::write(&report, &options.out)?;
    println!("  {}", files.join("\n  "));
    Ok(if failed(&report) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A connection failed or was lost, an echo was wrong or missing, a rate was not reached, or a bound of the row is broken.
fn failed(report: &Report) -> bool {
    let connections = report.connections.as_ref();
    let lossy = connections.is_none_or(|c| {
        let wrong = c.echoes_mismatched + c.echoes_unanswered + c.misdelivered;
        c.failed + c.lost + wrong + fanout::missing(report) > 0 || c.opened < c.requested
    });
    let refused = report.echo.as_ref().is_some_and(|echo| echo.refused.is_some());
    !report.interrupted && (lossy || refused || !report.broken.is_empty())
}

fn prepare(recipe: &Recipe, options: &Options, facts: &HostFacts) -> Result<Run, String> {
    if options.url.is_some() && matches!(recipe.row, Some(Row::Drain(_) | Row::Watch | Row::Flood(_))) {
        return Err("this row replaces its server or asks its admin listener: leave out --url".into());
    }
    let interrupted = catch_interrupts()?;
    std::fs::create_dir_all(&options.out).map_err(|error| format!("{}: {error}", options.out.display()))?;
    let cores = Cores::assign(facts, options.pin, recipe.splits && options.url.is_none());
    let mut target = options.url.as_deref().map(|url| Target::parse(url, &options.sources)).transpose()?;
    let connections = decide(recipe.size, options.connections, &carried(facts, target.as_ref()))?;
    let reactors = options.reactors.unwrap_or_else(|| reactors(facts, connections, cores.server.len()));
    let mut server = None;
    let mut token = options.token_file.as_deref().map(read_token).transpose()?;
    let mut settings = Settings {
        driver_cores: Cores::list(&cores.driver),
        in_flight: options.in_flight,
        payload_bytes: options.payload(),
        ..Settings::default()
    };
    if target.is_none() {
        let server_cores = Cores::list(&cores.server);
        let path = options.path.as_deref().unwrap_or(recipe.path);
        let program = options.server.clone().map_or_else(beside_this_program, Ok)?;
        let mut args = options.server_args.clone();
        if options.production {
            let production = Production::prepare(&program, &options.out, path.starts_with("/ws"))?;
            args.extend(["--config".to_owned(), production.config.display().to_string()]);
            token = Some(production.token);
        }
        let launch = Launch {
            program,
            port: options.port,
            admin_port: options.port.saturating_add(ADMIN_PORT_OFFSET),
            reactors,
            connections: connections + connections / recipe.spare_one_in + recipe.spare,
            cores: server_cores.clone(),
            message_bytes: options.payload(),
            args,
            log: options.out.join("server.log"),
        };
        let started = Server::start(launch)?;
        let url = format!("ws://127.0.0.1:{}{path}", started.launch.port);
        target = Some(Target::parse(&url, &options.sources)?);
        server = Some(started);
        (settings.reactors, settings.server_cores) = (Some(reactors), Some(server_cores));
    }
    let mut target = target.ok_or("no server")?;
    if recipe.fans_out {
        target.fans_out()?;
    }
    if let Some(token) = token {
        target.authorize(&token);
    }
    target.spread(connections, binds(&facts.kernel_release));
    settings.url.clone_from(&target.url);
    settings.echo = if target.speech == Speech::Channels { "ping command" } else { "message" };
    let slots = match target.speech.publishes() {
        // The publisher has a ring to itself: it can publish while the others do something else.
        true => [vec![1], rings(facts, connections.saturating_sub(1), cores.driver.len())].concat(),
        false => rings(facts, connections, cores.driver.len()),
    };
    settings.rings = slots.len();
    announce(&settings, connections, &target);
    let fleet = Fleet::start(&[(target.clone(), slots)], &cores.driver, interrupted)?;
    let report = Report {
        row: recipe.name.to_owned(),
        version: env!("CARGO_PKG_VERSION"),
        date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        host: Host::of(facts),
        settings,
        ..Report::default()
    };
    Ok(Run::new(options.clone(), fleet, target, server, report, &cores))
}

/// Whether io_uring can bind a socket (Linux 6.11).
fn binds(kernel_release: &str) -> bool {
    let mut numbers = kernel_release.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (6, 11)
}

fn carried(facts: &HostFacts, target: Option<&Target>) -> Carry {
    let address_pairs = target.and_then(|target| {
        let loopback =
            target.addresses.iter().all(|address| matches!(address.ip(), IpAddr::V4(ip) if ip.is_loopback()));
        (!loopback).then(|| (target.addresses.len() * target.sources.len().max(1)) as u64)
    });
    carry(facts, Ends { server_here: target.is_none(), address_pairs })
}

/// How many connections to open; more than the host carries is refused before anything starts.
fn decide(size: Size, asked: Option<u64>, carry: &Carry) -> Result<u64, String> {
    let connections = match (asked, size) {
        (Some(asked), _) if asked > carry.connections => {
            return Err(format!(
                "{} connections asked for, this host carries {}: {}",
                table::count(asked),
                table::count(carry.connections),
                carry.stopped_by
            ));
        }
        (Some(asked), _) => asked,
        (None, Size::Carry) => carry.connections,
        (None, Size::UpTo(most)) => carry.connections.min(most),
    };
    if asked.is_none() && matches!(size, Size::Carry) {
        eprintln!("c1m: this host carries {}: {}", table::count(carry.connections), carry.stopped_by);
    }
    if connections == 0 { Err("not a single connection to open".into()) } else { Ok(connections) }
}

fn announce(settings: &Settings, connections: u64, target: &Target) {
    let server = match (settings.reactors, &settings.server_cores) {
        (Some(reactors), Some(cores)) => format!(", server with {reactors} reactors on cores {cores}"),
        _ => String::new(),
    };
    eprintln!(
        "c1m: {} connections to {} on {} addresses, {} rings on cores {}{server}",
        table::count(connections),
        target.url,
        target.addresses.len(),
        settings.rings,
        settings.driver_cores
    );
}

/// The first Ctrl-C ends the run with its report, the second ends the program.
pub(crate) fn catch_interrupts() -> Result<Arc<AtomicBool>, String> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&interrupted))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&interrupted)))
            .map_err(|error| format!("signal {signal}: {error}"))?;
    }
    Ok(interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Connections, Echo};

    #[test]
    fn more_than_the_host_carries_is_refused_with_the_reason() {
        let carry = Carry { connections: 5_000, stopped_by: "fs.file-max 9999".into() };
        let why = decide(Size::Carry, Some(6_000), &carry).unwrap_err();
        assert!(why.contains("5,000") && why.contains("fs.file-max 9999"));
        assert_eq!(decide(Size::UpTo(300), None, &carry), Ok(300));
        assert_eq!(decide(Size::UpTo(200_000), None, &carry), Ok(5_000));
        assert_eq!(decide(Size::Carry, Some(7), &carry), Ok(7));
    }

    #[test]
    fn the_kernel_is_old_enough_to_bind() {
        assert!(binds("6.11.0") && binds("6.18.44-fc") && binds("7.0.1"));
        assert!(!binds("6.10.14") && !binds("5.15.0-91-generic") && !binds(""));
    }

    #[test]
    fn a_lost_connection_a_missed_rate_or_a_broken_bound_fails_the_run() {
        let whole = Connections { requested: 2, opened: 2, ..Default::default() };
        let good = Report { connections: Some(whole.clone()), ..Default::default() };
        assert!(!failed(&good));
        let lost = Report { connections: Some(Connections { lost: 1, ..whole }), ..good.clone() };
        assert!(failed(&lost));
        let missed = Echo { refused: Some("98 %".into()), ..Default::default() };
        assert!(failed(&Report { echo: Some(missed), ..good.clone() }));
        let broken = Report { broken: vec!["a bound".into()], ..good };
        assert!(failed(&broken) && !failed(&Report { interrupted: true, ..broken }));
    }
}
