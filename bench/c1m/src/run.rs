//! One run: a server, a fleet, the report they fill, and the phases every row is put together from.
//!
//! Each phase is bounded in time and leaves the connections idle. After Ctrl-C the remaining phases do nothing, so the
//! report holds what was measured until then.

mod attack;
mod drain;
mod operator;
mod publish;
mod storm;

use crate::cli::Options;
use crate::fleet::{Fleet, Joint, openers};
use crate::observe::cpu::{ProcessCpu, host_busy};
use crate::observe::memory::{Memory, rss_bytes_roughly, slab_total_bytes};
use crate::observe::network::Packets;
use crate::plan::Cores;
use crate::progress::Progress;
use crate::report::{
    Connections, Cpu, Hold, MemoryFigures, Moment, Ramp, Report, Retention, Storm, bounds, quantiles,
};
use crate::ring::Order;
use crate::server::Server;
use crate::target::{Speech, Target};
use std::time::{Duration, Instant};

/// A ramp slower than this, on average, is ended.
const RAMP_PER_SECOND_MIN: u64 = 1_000;
/// Echoes slower than this, on average, when every connection echoes once.
const ECHOES_PER_SECOND_MIN: u64 = 2_000;
/// What every phase may take besides.
const GRACE: Duration = Duration::from_secs(30);
/// Unanswered messages of all rings together when every connection echoes.
const SWEEP_IN_FLIGHT: usize = 512;
/// Part of the intended rate below which latencies say nothing.
const RATE_MIN: f64 = 0.99;
/// Time for the kernel to free what a phase left behind before memory is read.
const SETTLE: Duration = Duration::from_secs(2);
const MOMENT_EVERY: Duration = Duration::from_millis(500);
/// Start of a paced load, so that all rings begin together.
const PACED_LEAD: Duration = Duration::from_millis(100);
/// A side that used more than this part of its cores was at its limit.
const BUSY: f64 = 0.95;

pub(crate) struct Run {
    pub(crate) options: Options,
    pub(crate) fleet: Fleet,
    pub(crate) server: Option<Server>,
    pub(crate) report: Report,
    pub(crate) target: Target,
    /// There is a topic, and everyone is subscribed to it.
    publishes: bool,
    /// Most resident memory of the server seen during the last publications.
    rss_peak_bytes: u64,
    server_cpu: Option<ProcessCpu>,
    driver_cpu: ProcessCpu,
    cores: Cores,
    before: Memory,
    packets_before: Packets,
    started: Instant,
}

/// CPU used between two looks.
struct Spent {
    server: Option<Duration>,
    driver: Duration,
    host: Duration,
}

impl Run {
    pub(crate) fn new(
        options: Options,
        fleet: Fleet,
        target: Target,
        server: Option<Server>,
        report: Report,
        cores: &Cores,
    ) -> Run {
        let pid = server.as_ref().map(Server::pid);
        Run {
            before: Memory::now(pid),
            server_cpu: pid.map(ProcessCpu::of),
            driver_cpu: ProcessCpu::of_this_program(),
            cores: cores.clone(),
            packets_before: Packets::now(),
            started: Instant::now(),
            publishes: target.speech.publishes(),
            rss_peak_bytes: 0,
            target,
            options,
            fleet,
            server,
            report,
        }
    }

    fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Server::pid)
    }

    fn spent(&mut self) -> Spent {
        let server = self.server_cpu.as_mut().map(ProcessCpu::used);
        Spent { server, driver: self.driver_cpu.used(), host: host_busy() }
    }

    fn since(&mut self, before: &Spent) -> Spent {
        let now = self.spent();
        Spent {
            server: now.server.zip(before.server).map(|(now, before)| now.saturating_sub(before)),
            driver: now.driver.saturating_sub(before.driver),
            host: now.host.saturating_sub(before.host),
        }
    }

    fn note(&mut self, note: String) {
        eprintln!("c1m: {note}");
        self.report.notes.push(note);
    }

    /// What the row is for cannot be measured.
    fn fail(&mut self, why: String) {
        self.report.broken.push(why);
    }

    /// Nothing more to measure: ended by hand, or no connection is left.
    fn over(&self) -> bool {
        self.fleet.interrupted() || (self.report.ramp.is_some() && self.fleet.tally().open == 0)
    }

    /// Opens connections up to `part` of every ring.
    pub(crate) fn ramp(&mut self, part: f64) {
        if self.fleet.interrupted() {
            return;
        }
        let wanted = |fleet: &Fleet, ring| (f64::from(fleet.slots(ring)) * part).ceil() as u32;
        let target: u64 = (0..self.fleet.len()).map(|ring| u64::from(wanted(&self.fleet, ring))).sum();
        let slowest = self.options.rate.map_or(RAMP_PER_SECOND_MIN as f64, |rate| rate * 0.8);
        let deadline = Instant::now() + Duration::from_secs_f64(target as f64 / slowest) + GRACE;
        let at_once = openers(self.cores.driver.len()).min(self.fleet.len());
        let in_flight = (self.options.in_flight / at_once as u32).max(1);
        let per_second = self.options.rate.map(|rate| rate / at_once as f64);
        let rings: Vec<usize> = (0..self.fleet.len()).collect();
        let before = self.spent();
        let (started, pid) = (self.started, self.pid());
        let mut progress = Progress::new("opening", target, pid);
        let mut timeline = std::mem::take(&mut self.report.timeline);
        let joint = self.fleet.run(
            &rings,
            at_once,
            deadline,
            |ring| Order::Ramp { count: wanted(&self.fleet, ring), in_flight, per_second },
            |fleet| {
                progress.at(fleet.tally().open);
                let due = timeline.last().is_none_or(|last| started.elapsed() >= last.at() + MOMENT_EVERY);
                if due {
                    timeline.push(moment(started, fleet, pid));
                }
            },
        );
        timeline.push(moment(started, &self.fleet, pid));
        self.report.timeline = timeline;
        drop(progress);
        let spent = self.since(&before);
        self.note_failures(&joint);
        self.report.ramp = Some(merge_ramp(self.report.ramp.take(), &joint, &spent));
        self.count(target.max(self.report.connections.as_ref().map_or(0, |c| c.requested)), &joint);
    }

    /// One verified echo on every open connection; in channels a ping and its pong. Where what one says goes to all, there
    /// is nothing to echo.
    pub(crate) fn echo_each(&mut self) {
        let what = match self.target.speech {
            Speech::Echo | Speech::Bytes => "every one echoes",
            Speech::Channels => "every one pings",
            Speech::Topic => return,
        };
        if self.over() {
            return;
        }
        let open = self.fleet.tally().open;
        let deadline = Instant::now() + Duration::from_secs(open / ECHOES_PER_SECOND_MIN) + GRACE;
        let window = (SWEEP_IN_FLIGHT / self.fleet.len()).max(2) as u32;
        let payload_bytes = self.options.payload();
        let echoed = self.fleet.tally().echoes;
        let mut progress = Progress::new(what, open, self.pid());
        let joint = self.fleet.run_all(
            deadline,
            |_| Order::Sweep { payload_bytes, window, until: None },
            |fleet| progress.at(fleet.tally().echoes - echoed),
        );
        drop(progress);
        if joint.echoes < open && !self.over() {
            self.note(format!("{what}: {} of {open} were answered", joint.echoes));
        }
        self.note_failures(&joint);
        self.count(0, &joint);
    }

    /// Memory for each open connection, once everything is at rest.
    pub(crate) fn measure_memory(&mut self) {
        if self.over() {
            return;
        }
        let open = self.fleet.tally().open;
        self.fleet.hold(SETTLE, |_| {});
        let now = Memory::now(self.pid());
        let ends = if self.server.is_some() { 2.0 } else { 1.0 };
        let each = |bytes: i64| bytes as f64 / open.max(1) as f64;
        let by_cache = now.slab_since(&self.before);
        let slab_bytes = by_cache.as_ref().map(|caches| caches.values().sum::<i64>());
        let slope = self.report.memory.as_ref().and_then(|m| m.server_rss_bytes).zip(now.server_rss_bytes);
        let grown = open as f64 - self.report.connections.as_ref().map_or(0.0, |c| c.measured_at as f64);
        self.report.memory = Some(MemoryFigures {
            server_rss_bytes: now.server_rss_bytes,
            server_rss_per_connection: now.server_rss_bytes.map(|bytes| each(bytes as i64)),
            kernel_per_connection: slab_bytes.map(|bytes| each(bytes) / ends),
            server_rss_slope_per_connection: slope
                .map(|(quarter, all)| (all as f64 - quarter as f64) / grown.max(1.0)),
            driver_rss_bytes: now.driver_rss_bytes,
            slab_bytes,
            // The largest only: the rest is noise of the host.
            slab_bytes_by_cache: by_cache.map(|caches| {
                caches.into_iter().filter(|(_, bytes)| bytes.unsigned_abs() > 1 << 20).collect()
            }),
            tcp_buffer_bytes: now.tcp_buffer_bytes,
            available_delta_bytes: self.before.available_bytes as i64 - now.available_bytes as i64,
        });
        if let Some(connections) = &mut self.report.connections {
            connections.measured_at = open;
        }
    }

    /// Nothing but pings.
    pub(crate) fn hold(&mut self, time: Duration) {
        if self.over() || time.is_zero() {
            return;
        }
        let pings = self.fleet.tally().pings;
        let before = self.spent();
        let mut progress = Progress::new("holding, pings", 0, self.pid());
        let held = self.fleet.hold(time, |fleet| progress.at(fleet.tally().pings - pings));
        drop(progress);
        let spent = self.since(&before);
        self.report.hold = Some(Hold {
            seconds: held.as_secs_f64(),
            pings: self.fleet.tally().pings - pings,
            server_cores: spent.server.map(|cpu| cpu.as_secs_f64() / held.as_secs_f64()),
        });
    }

    /// Closed loop over all connections, a few hundred messages in flight at all times.
    pub(crate) fn closed_loop_over_all(&mut self) {
        let rings = self.fleet.len();
        let window = (SWEEP_IN_FLIGHT / rings).max(1) as u32;
        let payload_bytes = self.options.payload();
        let how = format!("{} in flight over all connections", window as usize * rings);
        self.closed(how, |until| Order::Sweep { payload_bytes, window, until: Some(until) });
    }

    /// Closed loop on each connection.
    pub(crate) fn closed_loop_on_each(&mut self, depth: u32) {
        let payload_bytes = self.options.payload();
        let how = format!("{depth} in flight on each connection");
        self.closed(how, |until| Order::Closed { payload_bytes, connections: u32::MAX, depth, until });
    }

    fn closed(&mut self, how: String, order: impl Fn(Instant) -> Order) {
        if self.over() {
            return;
        }
        let load = self.options.load;
        let until = Instant::now() + load;
        let echoed = self.fleet.tally().echoes;
        let before = self.spent();
        let mut progress = Progress::new("echo, closed loop", 0, self.pid());
        let look = |fleet: &Fleet| progress.at(fleet.tally().echoes - echoed);
        let joint = self.fleet.run_all(until + GRACE, |_| order(until), look);
        drop(progress);
        let spent = self.since(&before);
        let wall = joint.wall.as_secs_f64();
        let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / joint.echoes.max(1) as f64;
        let cpu = Cpu {
            server_us_per_message: spent.server.map(each),
            server_cores: spent.server.map(|cpu| cpu.as_secs_f64() / wall),
            driver_cores: spent.driver.as_secs_f64() / wall,
            host_us_per_message: each(spent.host),
        };
        self.note_bottleneck(&cpu);
        let echo = self.report.echo.get_or_insert_default();
        echo.messages_per_second = Some(joint.per_second(joint.echoes));
        echo.closed_loop = Some(how);
        if let Some(retention) = &mut self.report.retention {
            let rate = joint.per_second(joint.echoes);
            retention.rate_percent = Some(rate / retention.messages_per_second * 100.0);
            retention.per_cpu_percent = Some(retention.host_us_per_message / cpu.host_us_per_message * 100.0);
        }
        self.report.cpu = Some(cpu);
        self.note_failures(&joint);
        self.count(0, &joint);
    }

    /// Takes the closed loop just measured as what later ones are compared with.
    pub(crate) fn remember_for_retention(&mut self) {
        let (Some(echo), Some(cpu)) = (self.report.echo.take(), self.report.cpu.take()) else { return };
        self.report.retention = Some(Retention {
            connections: self.fleet.tally().open,
            messages_per_second: echo.messages_per_second.unwrap_or(0.0),
            server_us_per_message: cpu.server_us_per_message,
            rate_percent: None,
            per_cpu_percent: None,
            host_us_per_message: cpu.host_us_per_message,
        });
    }

    fn note_bottleneck(&mut self, cpu: &Cpu) {
        let driver = cpu.driver_cores / self.cores.driver.len() as f64;
        let server = cpu.server_cores.map_or(0.0, |cores| cores / self.cores.server.len() as f64);
        if driver > BUSY && server < BUSY {
            self.note(format!(
                "the driver was at {:.0} % of its cores and the server at {:.0} %: messages a second are the driver's \
                 limit, not the server's; CPU per message stands",
                driver * 100.0,
                server * 100.0
            ));
        }
    }

    /// Open loop: random connections at fixed times; latency counts from the time a message was due.
    pub(crate) fn open_loop(&mut self, per_second: f64, load: Duration) {
        if self.over() {
            return;
        }
        let joint = self.paced_echoes("echo, open loop", per_second, load, |_| {});
        let achieved = achieved(&joint, load);
        let echo = self.report.echo.get_or_insert_default();
        echo.rate_intended = Some(per_second);
        echo.rate_achieved = Some(achieved);
        if achieved < per_second * RATE_MIN {
            let why = format!("{:.1} % of the intended rate", achieved / per_second * 100.0);
            echo.refused = Some(why);
        } else {
            let at = |quantile| Some(joint.latency_us.value_at_quantile(quantile));
            (echo.p50_us, echo.p99_us, echo.p999_us) = (at(0.5), at(0.99), at(0.999));
            echo.max_us = Some(joint.latency_us.max());
            self.report.echo_latency = quantiles(&joint.latency_us);
        }
    }

    /// Messages at fixed times for so long; `look` is called while they are under way.
    fn paced_echoes(
        &mut self,
        what: &'static str,
        per_second: f64,
        load: Duration,
        mut look: impl FnMut(&Fleet),
    ) -> Joint {
        let rings = self.fleet.len();
        let from = Instant::now() + PACED_LEAD;
        let until = from + load;
        let payload_bytes = self.options.payload();
        let echoed = self.fleet.tally().echoes;
        // A ring's share of the rate is its share of the connections; the rings start evenly apart.
        let slots = self.fleet.slots_total() as f64;
        let share = |ring| f64::from(self.fleet.slots(ring)) / slots;
        let mut progress = Progress::new(what, (per_second * load.as_secs_f64()) as u64, self.pid());
        let joint = self.fleet.run_all(
            until + GRACE,
            |ring| {
                let stagger =
                    Duration::from_secs_f64(ring as f64 / rings as f64 / (per_second * share(ring)));
                Order::Paced {
                    payload_bytes,
                    per_second: per_second * share(ring),
                    from: from + stagger,
                    until,
                }
            },
            |fleet| {
                progress.at(fleet.tally().echoes - echoed);
                look(fleet);
            },
        );
        drop(progress);
        self.note_failures(&joint);
        self.count(0, &joint);
        joint
    }

    /// Cuts every connection and opens as many again.
    pub(crate) fn storm(&mut self) {
        if self.over() {
            return;
        }
        let before = self.fleet.tally();
        let deadline = Instant::now() + Duration::from_secs(before.open / RAMP_PER_SECOND_MIN) + GRACE;
        let started = Instant::now();
        let mut progress = Progress::new("cutting", before.open, self.pid());
        let cut = self.fleet.run_all(
            deadline,
            |_| Order::Cut { part: 1.0 },
            |fleet| progress.at(before.open - fleet.tally().open),
        );
        drop(progress);
        self.note_failures(&cut);
        let ramp = self.report.ramp.take();
        self.ramp(1.0);
        self.report.ramp = ramp;
        let after = self.fleet.tally();
        self.report.storm = Some(Storm {
            seconds: started.elapsed().as_secs_f64(),
            refused: after.refused - before.refused,
            failed: after.failed - before.failed,
            reopened: after.open,
            homecoming: None,
        });
    }

    fn note_failures(&mut self, joint: &Joint) {
        if let Some(connections) = &mut self.report.connections {
            for (reason, count) in &joint.failures {
                *connections.reasons.entry(reason.clone()).or_default() += count;
            }
        }
        if joint.unanswered > 0 {
            self.note(format!("{} echoes did not come", joint.unanswered));
        }
    }

    /// Brings the counts of connections and echoes up to date.
    fn count(&mut self, requested: u64, joint: &Joint) {
        let tally = self.fleet.tally();
        let connections = self
            .report
            .connections
            .get_or_insert_with(|| Connections { reasons: joint.failures.clone(), ..Connections::default() });
        connections.requested = connections.requested.max(requested);
        connections.opened = connections.opened.max(tally.open + tally.lost);
        connections.failed = tally.failed;
        connections.lost = tally.lost;
        connections.echoes = tally.echoes;
        connections.echoes_mismatched = tally.mismatched;
        connections.echoes_unanswered += joint.unanswered;
        connections.deliveries = tally.deliveries;
        connections.misdelivered = tally.misdelivered;
        connections.gaps = tally.gaps;
    }

    /// Ends everything and returns the report.
    pub(crate) fn end(mut self) -> Report {
        let nothing = Joint::default();
        self.count(0, &nothing);
        let packets = Packets::now().since(self.packets_before);
        self.report.packets = Some(packets);
        if packets.softnet_drops > 0 {
            self.note(
                "the kernel dropped packets: raise net.core.netdev_max_backlog; this run does not count"
                    .into(),
            );
        }
        if self.server.as_mut().is_some_and(|server| !server.alive()) {
            self.note("the server ended during the run".into());
        }
        self.report.interrupted = self.fleet.interrupted();
        if !self.report.interrupted {
            self.report.broken.extend(bounds::broken(&self.report));
        }
        // The connections go first: a server that closes a million of them politely takes its time.
        self.fleet.quit();
        drop(self.server);
        self.report
    }
}

/// All messages of a paced load are due within `load`; an answer after it counts, its lateness is in its latency. The rate is
/// what came back over the time until the last one did.
fn achieved(joint: &Joint, load: Duration) -> f64 {
    joint.echoes as f64 / (joint.wall - PACED_LEAD.min(joint.wall)).max(load).as_secs_f64()
}

fn moment(started: Instant, fleet: &Fleet, pid: Option<u32>) -> Moment {
    Moment {
        seconds: started.elapsed().as_secs_f64(),
        open: fleet.tally().open,
        server_rss_bytes: pid.map(rss_bytes_roughly),
        slab_bytes: slab_total_bytes(),
    }
}

/// A ramp in two steps counts as one: times and openings add up, the percentiles are those of the larger step.
fn merge_ramp(earlier: Option<Ramp>, joint: &Joint, spent: &Spent) -> Ramp {
    let at = |quantile| joint.latency_us.value_at_quantile(quantile) as f64 / 1e3;
    let opened = joint.opened as f64;
    let seconds = joint.wall.as_secs_f64();
    let (seconds_before, opened_before) =
        earlier.as_ref().map_or((0.0, 0.0), |r| (r.seconds, r.seconds * r.per_second));
    let server_us = spent.server.map(|cpu| {
        let us_before = earlier.as_ref().and_then(|r| r.server_us_each).unwrap_or(0.0) * opened_before;
        (cpu.as_secs_f64() * 1e6 + us_before) / (opened + opened_before).max(1.0)
    });
    Ramp {
        seconds: seconds + seconds_before,
        per_second: (opened + opened_before) / (seconds + seconds_before).max(1e-6),
        p50_ms: at(0.5),
        p95_ms: at(0.95),
        p99_ms: at(0.99),
        server_us_each: server_us,
    }
}
