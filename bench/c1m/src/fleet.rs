//! The rings seen from the coordinator: starting them, giving orders, watching the counters, and ending what takes
//! too long.

use crate::ring::{Order, Outcome, Published, Returns, Ring, Spec, Tally, Wires, histogram};
use crate::target::Target;
use hdrhistogram::Histogram;
use megasock::budget::CoreBudget;
use megasock::sys::wake::Waker;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Rings on a core that do not get in each other's way.
const RINGS_PER_CORE_FEW: usize = 8;

/// How often the coordinator looks at counters while it waits.
const LOOK: Duration = Duration::from_millis(100);
/// Time for what is in flight once nothing new is started.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// A work whose counters stand still this long has failed.
const STALL_MAX: Duration = Duration::from_secs(20);
/// Driver threads keep small stacks: there may be hundreds.
const STACK_BYTES: usize = 512 << 10;

/// All rings and the way to them.
pub(crate) struct Fleet {
    rings: Vec<Handle>,
    outcomes: Receiver<Outcome>,
    interrupted: Arc<AtomicBool>,
}

struct Handle {
    orders: Sender<Order>,
    waker: Waker,
    published: Arc<Published>,
    slots: u32,
    thread: JoinHandle<()>,
}

/// What all rings together report of a work.
pub(crate) struct Joint {
    pub(crate) wall: Duration,
    pub(crate) echoes: u64,
    pub(crate) unanswered: u64,
    pub(crate) published: u64,
    pub(crate) missing: u64,
    pub(crate) opened: u64,
    pub(crate) failures: BTreeMap<String, u64>,
    pub(crate) latency_us: Histogram<u32>,
    pub(crate) returns: Returns,
}

impl Default for Joint {
    fn default() -> Joint {
        Joint {
            wall: Duration::ZERO,
            echoes: 0,
            unanswered: 0,
            published: 0,
            missing: 0,
            opened: 0,
            failures: BTreeMap::new(),
            latency_us: histogram(),
            returns: Returns::default(),
        }
    }
}

impl Joint {
    fn add(&mut self, outcome: Outcome) {
        self.echoes += outcome.echoes;
        self.unanswered += outcome.unanswered;
        self.published += outcome.published;
        self.missing += outcome.missing;
        self.opened += outcome.opened;
        for (reason, count) in outcome.failures {
            *self.failures.entry(reason).or_default() += count;
        }
        self.returns.add(outcome.returns);
        // Both have the same bounds.
        self.latency_us.add(&outcome.latency_us).expect("histograms of one shape");
    }

    pub(crate) fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.wall.as_secs_f64().max(1e-6)
    }
}

impl Fleet {
    /// Starts a thread for each ring of each target: `slots[t]` lists the rings of `targets[t]`.
    pub(crate) fn start(
        targets: &[(Target, Vec<u32>)],
        cores: &[usize],
        interrupted: Arc<AtomicBool>,
    ) -> Result<Fleet, String> {
        let clock = Instant::now();
        let total = targets.iter().map(|(_, slots)| slots.len()).sum();
        let budget = CoreBudget::for_reactors(total);
        let (outcome_sender, outcomes) = channel();
        let mut fleet = Fleet { rings: Vec::new(), outcomes, interrupted };
        let mut starts = Vec::new();
        let shares_core = targets.len() == 1 && total > RINGS_PER_CORE_FEW * cores.len().max(1);
        for (target, slots) in targets {
            let mut first = 0;
            for &slots in slots {
                let ring = fleet.rings.len();
                let core = (!cores.is_empty()).then(|| cores[ring % cores.len()]);
                let spec =
                    Spec { ring, target: target.clone(), slots, first, budget, core, shares_core, clock };
                let (handle, started) = spawn(spec, outcome_sender.clone())?;
                fleet.rings.push(handle);
                starts.push(started);
                first += u64::from(slots);
            }
        }
        for started in starts {
            let ended = Err("a driver thread ended at its start".to_owned());
            started.recv().unwrap_or(ended)?;
        }
        Ok(fleet)
    }

    pub(crate) fn len(&self) -> usize {
        self.rings.len()
    }

    pub(crate) fn slots(&self, ring: usize) -> u32 {
        self.rings[ring].slots
    }

    pub(crate) fn slots_total(&self) -> u64 {
        self.rings.iter().map(|ring| u64::from(ring.slots)).sum()
    }

    pub(crate) fn tally(&self) -> Tally {
        self.rings.iter().map(|ring| ring.published.load()).sum()
    }

    pub(crate) fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Gives one ring an order, without waiting.
    pub(crate) fn order(&self, ring: usize, order: Order) {
        // A ring that is gone shows as an outcome that never comes, which the stall limit ends.
        let _ = self.rings[ring].orders.send(order);
        self.rings[ring].waker.wake();
    }

    /// Gives every ring of `rings` its order, at most `at_once` of them at a time, and waits for all; `look` is called
    /// about ten times a second. Ends early at `deadline`, on Ctrl-C, or when nothing moves any more.
    pub(crate) fn run(
        &self,
        rings: &[usize],
        at_once: usize,
        deadline: Instant,
        order_of: impl Fn(usize) -> Order,
        mut look: impl FnMut(&Fleet),
    ) -> Joint {
        let mut joint = Joint::default();
        let started = Instant::now();
        let mut waiting = rings.iter().copied();
        let mut running: Vec<usize> = Vec::new();
        let mut patience = Patience { stage: Stage::Working, since: started, seen: self.tally().progress() };
        loop {
            while running.len() < at_once && patience.stage == Stage::Working {
                let Some(ring) = waiting.next() else { break };
                self.order(ring, order_of(ring));
                running.push(ring);
            }
            if running.is_empty() {
                break;
            }
            match self.outcomes.recv_timeout(LOOK) {
                Ok(outcome) => {
                    running.retain(|ring| *ring != outcome.ring);
                    joint.add(outcome);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            look(self);
            match patience.step(self, deadline) {
                Some(Ending::Order(order)) => running.iter().for_each(|&ring| self.order(ring, order)),
                Some(Ending::GiveUp) => break,
                None => {}
            }
        }
        joint.wall = started.elapsed();
        joint
    }

    /// The same for every ring at once.
    pub(crate) fn run_all(
        &self,
        deadline: Instant,
        order_of: impl Fn(usize) -> Order,
        look: impl FnMut(&Fleet),
    ) -> Joint {
        let all: Vec<usize> = (0..self.len()).collect();
        self.run(&all, self.len(), deadline, order_of, look)
    }

    /// Waits without giving work: connections are held and pings answered.
    pub(crate) fn hold(&self, time: Duration, mut look: impl FnMut(&Fleet)) -> Duration {
        let started = Instant::now();
        while started.elapsed() < time && !self.interrupted() {
            std::thread::sleep(LOOK.min(time.saturating_sub(started.elapsed())));
            look(self);
        }
        started.elapsed()
    }

    /// Waits until `done` says so, at most until `deadline`; false if it never did.
    pub(crate) fn wait(&self, deadline: Instant, mut done: impl FnMut(&Fleet) -> bool) -> bool {
        loop {
            if done(self) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.interrupted() {
                return false;
            }
            std::thread::sleep(LOOK.min(left));
        }
    }

    /// Ends all threads; the kernel closes what is open.
    pub(crate) fn quit(self) {
        for ring in 0..self.len() {
            self.order(ring, Order::Quit);
        }
        for ring in self.rings {
            // A thread that panicked has said so itself.
            let _ = ring.thread.join();
        }
    }
}

fn spawn(spec: Spec, outcomes: Sender<Outcome>) -> Result<(Handle, Receiver<Result<(), String>>), String> {
    let (orders, orders_receiver) = channel();
    let (started_sender, started) = channel();
    let waker = Waker::new().map_err(|error| format!("eventfd: {error}"))?;
    let published = Arc::new(Published::default());
    let (ring, slots) = (spec.ring, spec.slots);
    let wires =
        Wires { orders: orders_receiver, outcomes, waker: waker.clone(), published: Arc::clone(&published) };
    let body = move || match Ring::new(spec, wires) {
        Ok(ring) => {
            // The coordinator is waiting for this word or gone.
            let _ = started_sender.send(Ok(()));
            if let Err(error) = ring.run() {
                eprintln!("c1m: {error}");
                std::process::exit(1);
            }
        }
        Err(error) => {
            let why =
                format!("io_uring for ring {ring} with {slots} descriptors: {error}; see `megasock doctor`");
            let _ = started_sender.send(Err(why));
        }
    };
    let thread = std::thread::Builder::new()
        .name(format!("ring-{ring}"))
        .stack_size(STACK_BYTES)
        .spawn(body)
        .map_err(|error| format!("thread {ring}: {error}"))?;
    Ok((Handle { orders, waker, published, slots, thread }, started))
}

#[derive(PartialEq, Eq, Clone, Copy)]
enum Stage {
    Working,
    Draining,
    Finishing,
}

/// How long the coordinator still waits, and what it does next.
struct Patience {
    stage: Stage,
    since: Instant,
    seen: [u64; 3],
}

enum Ending {
    Order(Order),
    GiveUp,
}

impl Patience {
    fn step(&mut self, fleet: &Fleet, deadline: Instant) -> Option<Ending> {
        let now = Instant::now();
        let progress = fleet.tally().progress();
        let moved = progress != self.seen;
        self.seen = progress;
        match self.stage {
            Stage::Working if now >= deadline || fleet.interrupted() || self.since + STALL_MAX < now => {
                (self.stage, self.since) = (Stage::Draining, now);
                Some(Ending::Order(Order::Drain))
            }
            Stage::Working if moved => {
                self.since = now;
                None
            }
            Stage::Draining if self.since + DRAIN_MAX < now => {
                (self.stage, self.since) = (Stage::Finishing, now);
                Some(Ending::Order(Order::Finish))
            }
            Stage::Finishing if self.since + DRAIN_MAX < now => Some(Ending::GiveUp),
            _ => None,
        }
    }
}

/// The default cap on rings that open connections at the same time: a few full batches are cheaper than many small ones.
pub(crate) fn openers(cores: usize) -> usize {
    2 * cores
}
