//! Servers side by side: all are up and hold connections, and they take turns under load in short windows.
//!
//! A host's speed drifts by a factor of two within a minute, so whole runs one after another prove nothing. Here each
//! round gives every server a window, in an order that rotates and reverses; what counts is the ratio of two servers in
//! the same round, and its median. Server CPU is that of all threads of the process and its descendants, read while
//! nothing is in flight.

use crate::cli::{Options, Turns, TurnsRow};
use crate::fleet::{Fleet, Joint};
use crate::observe::cpu::{ProcessCpu, host_busy};
use crate::observe::memory::rss_bytes;
use crate::observe::network::Packets;
use crate::plan::rings;
use crate::report::Host;
use crate::report::table::count;
use crate::ring::{Order, Publish};
use crate::rows::catch_interrupts;
use crate::target::{Speech, Target};
use megasock::sys::host::{HostFacts, raise_nofile};
use serde::Serialize;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Longest a stage may take before the servers that have not finished it are given up.
const STAGE_MAX: Duration = Duration::from_secs(120);
/// Time for a server to fall asleep after the last answer, so that its CPU time is booked.
const SETTLE: Duration = Duration::from_millis(5);
/// The same before resident memory is read: allocators and collectors lag.
const SETTLE_MEMORY: Duration = Duration::from_secs(3);
const CONNECTIONS: u64 = 300;
/// A side above this part of its core was at its limit.
const BUSY: f64 = 0.95;

/// A server under comparison, and what its windows gave.
struct Contender {
    name: String,
    pid: u32,
    target: Target,
    cpu: ProcessCpu,
    /// Its rings in the fleet.
    rings: Vec<usize>,
    windows: Vec<Window>,
    rss_each: Option<f64>,
    failed: Option<String>,
}

/// One turn.
#[derive(Clone, Copy)]
struct Window {
    /// Messages, deliveries or upgrades.
    done: u64,
    wall: Duration,
    server: Duration,
    driver: Duration,
    host: Duration,
}

impl Window {
    fn server_us(&self) -> f64 {
        self.server.as_secs_f64() * 1e6 / self.done.max(1) as f64
    }

    fn per_second(&self) -> f64 {
        self.done as f64 / self.wall.as_secs_f64()
    }
}

/// What `--json` holds.
#[derive(Serialize)]
struct Comparison {
    row: String,
    host: Host,
    driver_core: usize,
    connections: u64,
    payload_bytes: usize,
    depth: u32,
    outstanding: u32,
    window_ms: u128,
    rounds: u32,
    warmup_rounds: u32,
    packets: Packets,
    interrupted: bool,
    targets: Vec<Figures>,
}

/// One server's figures. A ratio is this server's over the first one's, round by round.
#[derive(Serialize, Default)]
struct Figures {
    name: String,
    pid: u32,
    url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    us_per_message: Option<Spread>,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages_per_second: Option<Spread>,
    #[serde(skip_serializing_if = "Option::is_none")]
    us_per_delivery: Option<Spread>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deliveries_per_second: Option<Spread>,
    #[serde(skip_serializing_if = "Option::is_none")]
    us_per_upgrade: Option<Spread>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upgrades_per_second: Option<Spread>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rss_per_connection: Option<f64>,
    /// CPU of the whole host for each message or upgrade: on loopback one side's packet work is billed to the other.
    #[serde(skip_serializing_if = "Option::is_none")]
    host_us_each: Option<f64>,
    /// Cores kept busy during the windows.
    #[serde(skip_serializing_if = "Option::is_none")]
    server_cores: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    driver_cores: Option<f64>,
    /// `driver`, `server` or `neither`: who was at its limit. Where it was the driver, a rate is no server figure.
    #[serde(skip_serializing_if = "Option::is_none")]
    bottleneck: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_ratio: Option<Spread>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_ratio: Option<Spread>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rss_ratio: Option<f64>,
}

/// Median and quartiles over the rounds.
#[derive(Serialize, Clone, Copy, Debug, PartialEq)]
struct Spread {
    median: f64,
    q1: f64,
    q3: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let last = values.len().checked_sub(1)? as f64;
        let at = |part: f64| {
            let (low, high) = ((last * part).floor(), (last * part).ceil());
            let (a, b) = (values[low as usize], values[high as usize]);
            a + (b - a) * (last * part - low)
        };
        Some(Spread { median: at(0.5), q1: at(0.25), q3: at(0.75) })
    }
}

/// Runs the comparison, prints it, and writes it where asked.
pub(crate) fn compare(turns: &Turns, options: &Options) -> Result<ExitCode, String> {
    raise_nofile().map_err(|error| format!("RLIMIT_NOFILE: {error}"))?;
    let facts = HostFacts::read();
    let connections = options.connections.unwrap_or(CONNECTIONS);
    let driver_core = turns.driver_core.or(facts.cores.last().copied()).ok_or("no core to run on")?;
    let mut contenders: Vec<Contender> =
        turns.targets.iter().map(|text| Contender::parse(text)).collect::<Result<_, _>>()?;
    let interrupted = catch_interrupts()?;
    let mut spans = Vec::new();
    let mut first = 0;
    for contender in &mut contenders {
        let slots = rings(&facts, connections, 1);
        if turns.compare == TurnsRow::Fanout {
            contender.target.fans_out()?;
        }
        contender.rings = (first..first + slots.len()).collect();
        first += slots.len();
        spans.push((contender.target.clone(), slots));
    }
    let fleet = Fleet::start(&spans, &[driver_core], interrupted)?;
    let packets = Packets::now();
    let mut session = Session { turns, options, fleet, driver: ProcessCpu::of_this_program() };
    match turns.compare {
        TurnsRow::Echo => session.echo(&mut contenders),
        TurnsRow::Fanout => session.fanout(&mut contenders),
        TurnsRow::Ramp => session.ramp(&mut contenders),
        TurnsRow::Idle => session.idle(&mut contenders),
    }
    let comparison = Comparison {
        row: format!("{:?}", turns.compare).to_lowercase(),
        host: Host::of(&facts),
        driver_core,
        connections,
        payload_bytes: options.payload(),
        depth: options.depth.unwrap_or(1),
        outstanding: options.outstanding,
        window_ms: turns.window.as_millis(),
        rounds: turns.rounds,
        warmup_rounds: turns.warmup,
        packets: Packets::now().since(packets),
        interrupted: session.fleet.interrupted(),
        targets: figures(&contenders, turns),
    };
    session.fleet.quit();
    print!("{}", table(&comparison));
    if let Some(path) = &turns.json {
        let json = serde_json::to_string_pretty(&comparison).map_err(|error| error.to_string())?;
        std::fs::write(path, json).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(if contenders.iter().any(|c| c.failed.is_none()) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Contender {
    /// `NAME=PID@URL`.
    fn parse(text: &str) -> Result<Contender, String> {
        let wrong = || format!("{text}: expected NAME=PID@ws://HOST:PORT/PATH");
        let (name, rest) = text.split_once('=').ok_or_else(wrong)?;
        let (pid, url) = rest.split_once('@').ok_or_else(wrong)?;
        let pid: u32 = pid.parse().map_err(|_| wrong())?;
        if !std::path::Path::new(&format!("/proc/{pid}")).exists() {
            return Err(format!("{name}: there is no process {pid}"));
        }
        let target = Target::parse(url, &[])?;
        let cpu = ProcessCpu::of(pid);
        let (rings, windows) = (Vec::new(), Vec::new());
        Ok(Contender {
            name: name.to_owned(),
            pid,
            target,
            cpu,
            rings,
            windows,
            rss_each: None,
            failed: None,
        })
    }
}

struct Session<'a> {
    turns: &'a Turns,
    options: &'a Options,
    fleet: Fleet,
    driver: ProcessCpu,
}

impl Session<'_> {
    fn rounds(&self) -> u32 {
        self.turns.warmup + self.turns.rounds
    }

    /// Opens everything, verifies an echo on each, then lets the servers take turns.
    fn echo(&mut self, contenders: &mut [Contender]) {
        for contender in contenders.iter_mut() {
            self.open(contender, 1.0);
        }
        let (payload_bytes, depth) = (self.options.payload(), self.options.depth.unwrap_or(1));
        for round in 0..self.rounds() {
            for at in order(round, contenders.len()) {
                if self.fleet.interrupted() {
                    return;
                }
                let until = Instant::now() + self.turns.window;
                let closed = Order::Closed { payload_bytes, connections: u32::MAX, depth, until };
                self.take_turn(
                    &mut contenders[at],
                    |session, own| session.run(own, |_| closed),
                    |joint| joint.echoes,
                );
            }
        }
    }

    /// Opens everything, has each connection receive one publication, then lets the servers take turns. A turn ends with
    /// the last delivery of its last publication.
    fn fanout(&mut self, contenders: &mut [Contender]) {
        for contender in contenders.iter_mut() {
            let wanted = self.open(contender, 1.0);
            let once = Publish { count: 1, ..self.publish(wanted, STAGE_MAX) };
            let joint = self.run_publisher(contender, once);
            if joint.published < 1 || joint.missing > 0 || !joint.failures.is_empty() {
                contender
                    .fail(format!("{} of {wanted} received a publication", wanted - joint.missing), &joint);
            }
        }
        for round in 0..self.rounds() {
            for at in order(round, contenders.len()) {
                if self.fleet.interrupted() {
                    return;
                }
                let contender = &mut contenders[at];
                let subscribers: u64 =
                    contender.rings.iter().map(|&ring| u64::from(self.fleet.slots(ring))).sum();
                let order = self.publish(subscribers, self.turns.window);
                self.take_turn(
                    contender,
                    |session, contender| session.run_publisher(contender, order),
                    |joint| joint.published * subscribers,
                );
            }
        }
        // What came too much may have come after the last turn.
        for contender in contenders {
            let late = self.run(contender, |_| Order::Collect);
            if contender.failed.is_none() && !late.failures.is_empty() {
                contender.fail("after its last turn".into(), &late);
            }
        }
    }

    fn publish(&self, subscribers: u64, time: Duration) -> Publish {
        Publish {
            payload_bytes: self.options.payload(),
            subscribers: subscribers as u32,
            outstanding: self.options.outstanding.max(1),
            per_second: None,
            count: u32::MAX,
            until: Instant::now() + time,
        }
    }

    /// The first ring publishes; the others of the server listen whatever they do.
    fn run_publisher(&self, contender: &Contender, publish: Publish) -> Joint {
        let deadline = Instant::now() + STAGE_MAX;
        self.fleet.run(&contender.rings[..1], 1, deadline, |_| Order::Publish(publish), |_| {})
    }

    /// Opens a slice of the connections each turn.
    fn ramp(&mut self, contenders: &mut [Contender]) {
        let rounds = self.rounds();
        for round in 0..rounds {
            for at in order(round, contenders.len()) {
                if self.fleet.interrupted() {
                    return;
                }
                let in_flight = self.options.in_flight;
                let slots: Vec<u32> = (0..self.fleet.len()).map(|ring| self.fleet.slots(ring)).collect();
                let slice = |ring: usize| Order::Ramp {
                    count: (u64::from(slots[ring]) * u64::from(round + 1) / u64::from(rounds)) as u32,
                    in_flight,
                    per_second: None,
                };
                self.take_turn(
                    &mut contenders[at],
                    |session, own| session.run(own, slice),
                    |joint| joint.opened,
                );
            }
        }
    }

    /// One server after the other: what its connections add to its resident memory once each has echoed. The first
    /// tenth is not counted: it pays for what a server allocates once.
    fn idle(&mut self, contenders: &mut [Contender]) {
        for contender in contenders {
            if self.fleet.interrupted() {
                return;
            }
            let first = self.open(contender, 0.1);
            std::thread::sleep(SETTLE_MEMORY);
            let before = rss_bytes(contender.pid);
            let all = self.open(contender, 1.0);
            std::thread::sleep(SETTLE_MEMORY);
            let grown = rss_bytes(contender.pid) as f64 - before as f64;
            contender.rss_each = Some(grown / (all - first).max(1) as f64);
        }
    }

    /// Opens `part` of the connections and verifies an echo on each; returns how many are open then.
    fn open(&mut self, contender: &mut Contender, part: f64) -> u64 {
        let in_flight = self.options.in_flight;
        let count = |ring| (f64::from(self.fleet.slots(ring)) * part).ceil() as u32;
        let wanted: u64 = contender.rings.iter().map(|&ring| u64::from(count(ring))).sum();
        let opened =
            self.run(contender, |ring| Order::Ramp { count: count(ring), in_flight, per_second: None });
        if !opened.failures.is_empty() {
            contender.fail(format!("opening {wanted}"), &opened);
        }
        if contender.target.speech == Speech::Topic {
            return wanted; // whatever one says goes to all
        }
        let sweep = Order::Sweep { payload_bytes: self.options.payload(), window: 64, until: None };
        let echoed = self.run(contender, |_| sweep);
        if echoed.echoes < wanted {
            contender.fail(format!("{} of {wanted} connections echoed", echoed.echoes), &echoed);
        }
        wanted
    }

    fn run(&self, contender: &Contender, order_of: impl Fn(usize) -> Order) -> Joint {
        self.fleet.run(&contender.rings, contender.rings.len(), Instant::now() + STAGE_MAX, order_of, |_| {})
    }

    fn take_turn(
        &mut self,
        contender: &mut Contender,
        work: impl Fn(&Session, &Contender) -> Joint,
        done: impl Fn(&Joint) -> u64,
    ) {
        if contender.failed.is_some() {
            return;
        }
        let (server, driver, host) = (contender.cpu.used(), self.driver.used(), host_busy());
        let joint = work(self, contender);
        std::thread::sleep(SETTLE);
        contender.windows.push(Window {
            done: done(&joint),
            wall: joint.wall,
            server: contender.cpu.used() - server,
            driver: self.driver.used().saturating_sub(driver),
            host: host_busy().saturating_sub(host),
        });
        if !joint.failures.is_empty() || joint.unanswered + joint.missing > 0 {
            let what =
                format!("{} messages unanswered, {} deliveries missing", joint.unanswered, joint.missing);
            contender.fail(what, &joint);
        }
    }
}

impl Contender {
    fn fail(&mut self, what: String, joint: &Joint) {
        let reasons: Vec<String> =
            joint.failures.iter().map(|(why, count)| format!("{count} × {why}")).collect();
        self.failed = Some(if reasons.is_empty() { what } else { format!("{what}: {}", reasons.join(", ")) });
    }
}

/// Whose turn it is: each round begins one further, every other round runs backwards.
fn order(round: u32, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).map(|at| (at + round as usize / 2) % count).collect();
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

fn figures(contenders: &[Contender], turns: &Turns) -> Vec<Figures> {
    let counted = |contender: &Contender| {
        contender.windows.iter().skip(turns.warmup as usize).copied().collect::<Vec<Window>>()
    };
    let first = contenders.first().map(counted).unwrap_or_default();
    let first_rss = contenders.first().and_then(|contender| contender.rss_each);
    let figures_of = |contender: &Contender| {
        let windows = counted(contender);
        let mut figures = Figures {
            name: contender.name.clone(),
            pid: contender.pid,
            url: contender.target.url.clone(),
            failed: contender.failed.clone(),
            rss_per_connection: contender.rss_each,
            rss_ratio: contender.rss_each.zip(first_rss).map(|(own, first)| own / first),
            ..Figures::default()
        };
        if windows.is_empty() || contender.failed.is_some() {
            return figures;
        }
        let cpu = Spread::of(windows.iter().map(Window::server_us));
        let rate = Spread::of(windows.iter().map(Window::per_second));
        let (us_each, per_second) = match turns.compare {
            TurnsRow::Ramp => (&mut figures.us_per_upgrade, &mut figures.upgrades_per_second),
            TurnsRow::Fanout => (&mut figures.us_per_delivery, &mut figures.deliveries_per_second),
            TurnsRow::Echo | TurnsRow::Idle => {
                (&mut figures.us_per_message, &mut figures.messages_per_second)
            }
        };
        (*us_each, *per_second) = (cpu, rate);
        let pairs = || windows.iter().zip(&first);
        figures.cpu_ratio = Spread::of(pairs().map(|(own, first)| own.server_us() / first.server_us()));
        figures.rate_ratio = Spread::of(pairs().map(|(own, first)| own.per_second() / first.per_second()));
        let sum = |part: fn(&Window) -> Duration| windows.iter().map(part).sum::<Duration>().as_secs_f64();
        let wall = sum(|window| window.wall);
        let (server, driver) = (sum(|window| window.server) / wall, sum(|window| window.driver) / wall);
        let done: u64 = windows.iter().map(|window| window.done).sum();
        figures.host_us_each = Some(sum(|window| window.host) * 1e6 / done.max(1) as f64);
        (figures.server_cores, figures.driver_cores) = (Some(server), Some(driver));
        figures.bottleneck = Some(match (server > BUSY, driver > BUSY) {
            (true, _) => "server",
            (false, true) => "driver",
            (false, false) => "neither",
        });
        figures
    };
    contenders.iter().map(figures_of).collect()
}

fn table(comparison: &Comparison) -> String {
    let mut out = String::new();
    let width = comparison.targets.iter().map(|t| t.name.chars().count()).max().unwrap_or(0);
    for target in &comparison.targets {
        let mut line = format!("  {:<width$}", target.name);
        let cpu = target.us_per_message.or(target.us_per_delivery).or(target.us_per_upgrade);
        let rate = target.messages_per_second.or(target.deliveries_per_second).or(target.upgrades_per_second);
        if let (Some(cpu), Some(rate)) = (cpu, rate) {
            let busy = format!(
                "server {:.2} driver {:.2} cores, limit: {}",
                target.server_cores.unwrap_or(0.0),
                target.driver_cores.unwrap_or(0.0),
                target.bottleneck.unwrap_or("unknown")
            );
            line += &format!("  {:>8.2} µs  {:>9}/s  {busy}", cpu.median, count(rate.median as u64));
        }
        if let Some(host) = target.host_us_each {
            line += &format!(", whole host {host:.2} µs");
        }
        if let Some(ratio) = target.cpu_ratio {
            line += &format!("  CPU × {:.2} ({:.2}-{:.2})", ratio.median, ratio.q1, ratio.q3);
        }
        if let Some(ratio) = target.rate_ratio {
            line += &format!("  rate × {:.2}", ratio.median);
        }
        if let Some(rss) = target.rss_per_connection {
            line += &format!("  {rss:.0} B RSS/connection");
        }
        if let Some(why) = &target.failed {
            line += &format!("  failed: {why}");
        }
        out += line.trim_end();
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_lie_between_the_samples() {
        let spread = Spread::of([4.0, 1.0, 3.0, 2.0, 5.0].into_iter()).unwrap();
        assert_eq!(spread, Spread { median: 3.0, q1: 2.0, q3: 4.0 });
        assert_eq!(Spread::of([1.0, 2.0].into_iter()).unwrap().median, 1.5);
        assert_eq!(Spread::of(std::iter::empty()), None);
    }

    #[test]
    fn every_server_takes_every_place_in_the_order() {
        for count in 1..6 {
            let mut seen = vec![vec![false; count]; count];
            for round in 0..2 * count as u32 {
                order(round, count).into_iter().enumerate().for_each(|(place, at)| seen[at][place] = true);
            }
            assert!(seen.iter().flatten().all(|seen| *seen));
        }
    }

    #[test]
    fn a_ratio_pairs_the_windows_of_one_round() {
        let window = |us: u64| Window {
            done: 1,
            wall: Duration::from_secs(1),
            server: Duration::from_micros(us),
            driver: Duration::ZERO,
            host: Duration::ZERO,
        };
        let contender = |name: &str, us: &[u64]| Contender {
            windows: us.iter().map(|us| window(*us)).collect(),
            ..Contender::parse(&format!("{name}={}@tcp://127.0.0.1:1", std::process::id())).unwrap()
        };
        let turns = Turns {
            targets: vec![],
            compare: TurnsRow::Echo,
            window: Duration::ZERO,
            rounds: 3,
            warmup: 1,
            driver_core: None,
            json: None,
        };
        // The host slows down tenfold over the rounds; the ratio stays. The warm-up round says the opposite.
        let figures =
            figures(&[contender("a", &[900, 10, 50, 100]), contender("b", &[1, 20, 100, 200])], &turns);
        assert_eq!(figures[1].cpu_ratio.unwrap(), Spread { median: 2.0, q1: 2.0, q3: 2.0 });
        assert_eq!(figures[0].us_per_message.unwrap().median, 50.0);
    }
}
