//! The server, looked at once a second: what it has and does now, and what it did in the last minutes.
//!
//! Looking is adding up counters that every core writes anyway, and reading small files of the kernel, among them one for each
//! core's thread. No core is asked anything, so a server that no longer answers is still seen. Of the past five minutes a few
//! numbers a second are kept, of the last ten seconds everything.

pub(super) mod cpu;
mod look;
mod report;
#[cfg(test)]
mod tests;

use super::Operator;
use crate::ds::Distribution;
use crate::reactor::Pressure;
use crate::server::Stopping;
use crate::sys::process;
use cpu::Meter;
pub(super) use look::{CoreLook, Look};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Between two looks.
const STEP: Duration = Duration::from_secs(1);

/// Looks whose distributions are kept: percentiles are over the last ten seconds.
const LOOKS_MAX: usize = 11;

/// Points of the curves: five minutes.
const POINTS_MAX: usize = 300;

/// Whether newcomers are let in, and why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// They are.
    Ready,
    /// There is no room for them: connections, or memory.
    Full,
    /// And connections are closed because memory runs out.
    Shedding,
    /// The server stops.
    Draining,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            State::Ready => "ready",
            State::Full => "full",
            State::Shedding => "shedding",
            State::Draining => "draining",
        }
    }

    fn of(look: &Look, max_connections: u64, stopping: Option<&Stopping>) -> State {
        let is_full = look.totals.connections_open >= max_connections;
        match (stopping, look.memory.pressure) {
            (Some(_), _) => State::Draining,
            (None, Pressure::Over | Pressure::FarOver) => State::Shedding,
            (None, Pressure::Near) => State::Full,
            (None, Pressure::Calm) if is_full => State::Full,
            (None, Pressure::Calm) => State::Ready,
        }
    }
}

/// How near the server is to each of its limits: 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Load {
    connections: f64,
    memory: f64,
    /// The busiest CPU that a core is pinned to.
    cores: f64,
}

impl Load {
    fn of(look: &Look, max_connections: u64) -> Load {
        let part = |used: u64, of: u64| if of == 0 { 0.0 } else { (used as f64 / of as f64).min(1.0) };
        Load {
            connections: part(look.totals.connections_open, max_connections),
            memory: part(look.memory.used_bytes, look.memory.budget_bytes),
            cores: look.busiest(),
        }
    }

    fn largest(self) -> f64 {
        self.connections.max(self.memory).max(self.cores)
    }
}

/// What a scrape of the metrics is made from.
pub(super) struct Scrape {
    pub look: Look,
    pub load: f64,
    pub server_id: String,
    pub max_connections: u64,
    pub slow_budget_bytes: u64,
    pub is_draining: bool,
    pub log_dropped: u64,
    pub cpu_seconds: f64,
    pub open_fds: u64,
    /// Since 1970.
    pub started_s: f64,
}

/// Watches over one server.
pub(super) struct Watch {
    operator: Rc<Operator>,
    started: Instant,
    started_at: SystemTime,
    meter: RefCell<Meter>,
    past: RefCell<Past>,
}

impl Watch {
    pub fn new(operator: Rc<Operator>) -> Watch {
        let mut meter = Meter::default();
        let past = RefCell::new(Past::new(meter.look(&operator.handle)));
        let meter = RefCell::new(meter);
        Watch { operator, started: Instant::now(), started_at: SystemTime::now(), meter, past }
    }

    /// Looks once a second, for ever.
    pub async fn run(&self) {
        // A second after the first look: of less time the kernel's account of waits is too coarse.
        let mut next = monoio::time::interval_at(monoio::time::Instant::now() + STEP, STEP);
        next.set_missed_tick_behavior(monoio::time::MissedTickBehavior::Delay);
        loop {
            next.tick().await;
            let look = self.meter.borrow_mut().look(&self.operator.handle);
            self.past.borrow_mut().add(look);
        }
    }

    /// The server at this moment; how busy its CPUs are, at the last look.
    pub fn scrape(&self) -> Scrape {
        let cpus = self.past.borrow().now().cpus.clone();
        let look = Look { cpus, ..Look::take(&self.operator.handle) };
        let settings = &self.operator.settings;
        Scrape {
            load: Load::of(&look, settings.max_connections).largest(),
            server_id: settings.server_id.clone(),
            max_connections: settings.max_connections,
            slow_budget_bytes: self.operator.slow_budget_bytes(),
            is_draining: self.operator.handle.stopping().is_some(),
            log_dropped: look.totals.events_dropped + self.operator.log.dropped(),
            cpu_seconds: process::cpu_us() as f64 / 1e6,
            open_fds: process::open_descriptors(),
            started_s: self.started_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
            look,
        }
    }
}

/// What happened in a second, or between two looks that were further apart.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Rates {
    messages_in: f64,
    messages_out: f64,
    bytes_in: f64,
    bytes_out: f64,
    connects: f64,
    disconnects: f64,
}

impl Rates {
    fn between(before: &Look, now: &Look) -> Rates {
        let seconds = now.at.saturating_duration_since(before.at).as_secs_f64();
        let (from, to) = (&before.totals, &now.totals);
        let rate = |before: u64, now: u64| match seconds {
            0.0 => 0.0,
            seconds => now.saturating_sub(before) as f64 / seconds,
        };
        Rates {
            messages_in: rate(from.messages_received, to.messages_received),
            messages_out: rate(from.messages_sent, to.messages_sent),
            bytes_in: rate(from.bytes_received, to.bytes_received),
            bytes_out: rate(from.bytes_sent, to.bytes_sent),
            connects: rate(from.upgraded, to.upgraded),
            disconnects: rate(from.disconnected.iter().sum(), to.disconnected.iter().sum()),
        }
    }
}

/// One second of the curves.
#[derive(Debug, Clone, Copy)]
struct Point {
    connections: u64,
    rates: Rates,
    /// Of the busiest CPU.
    busy: f64,
    latency_p99_us: u64,
    delivery_p99_us: u64,
    heartbeat_p99_us: u64,
}

/// What has been seen, oldest first. There is always at least one look.
struct Past {
    looks: VecDeque<Look>,
    points: VecDeque<Point>,
}

impl Past {
    fn new(first: Look) -> Past {
        Past { looks: VecDeque::from([first]), points: VecDeque::new() }
    }

    fn add(&mut self, look: Look) {
        let before = self.now();
        let p99 = |now: &Distribution, before| now.since(before).quantile(0.99);
        let point = Point {
            connections: look.totals.connections_open,
            rates: Rates::between(before, &look),
            busy: look.busiest(),
            latency_p99_us: p99(&look.totals.handling_us, &before.totals.handling_us),
            delivery_p99_us: p99(&look.figures.delivery_us, &before.figures.delivery_us),
            heartbeat_p99_us: p99(&look.totals.heartbeat_us, &before.totals.heartbeat_us),
        };
        push(&mut self.points, point, POINTS_MAX);
        push(&mut self.looks, look, LOOKS_MAX);
    }

    fn now(&self) -> &Look {
        self.looks.back().expect("there is always one")
    }

    /// The look to which the last ten seconds are compared.
    fn oldest(&self) -> &Look {
        self.looks.front().expect("there is always one")
    }

    fn rates(&self) -> Rates {
        self.points.back().map_or_else(Rates::default, |point| point.rates)
    }
}

fn push<T>(ring: &mut VecDeque<T>, item: T, most: usize) {
    if ring.len() == most {
        ring.pop_front();
    }
    ring.push_back(item);
}
