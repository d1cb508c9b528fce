//! Newcomers: handshakes at a steady rate from threads of their own, each connection left as soon as it is open. What they
//! meet while a server is replaced is what users would.

use crate::blocking::{connect, upgrade};
use crate::report::guard::Newcomers;
use crate::ring::histogram;
use crate::target::Target;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// So many wait for an answer at most; then handshakes come late, and their times say so.
const THREADS: u32 = 16;
/// A handshake that takes longer counts as refused.
const PATIENCE: Duration = Duration::from_secs(20);
const STACK_BYTES: usize = 256 << 10;
/// Numbers far from those of other connections.
const FIRST: u64 = 1 << 32;

/// At work until they are told to stop.
pub(crate) struct Stream {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Seen>>,
}

/// What one thread saw.
struct Seen {
    opened: u64,
    reasons: BTreeMap<String, u64>,
    latency_us: Histogram<u32>,
}

impl Stream {
    pub(crate) fn start(target: &Target, per_second: f64) -> Result<Stream, String> {
        let stop = Arc::new(AtomicBool::new(false));
        let every = Duration::from_secs_f64(f64::from(THREADS) / per_second);
        let started = Instant::now();
        let spawn = |at: u32| {
            let (target, stop) = (target.clone(), Arc::clone(&stop));
            let first = started + every * at / THREADS;
            let body = move || come(&target, &stop, first, every, FIRST + u64::from(at));
            let thread = thread::Builder::new().name(format!("newcomer-{at}")).stack_size(STACK_BYTES);
            thread.spawn(body).map_err(|error| format!("thread: {error}"))
        };
        let threads = (0..THREADS).map(spawn).collect::<Result<_, _>>()?;
        Ok(Stream { stop, threads })
    }

    pub(crate) fn end(mut self) -> Newcomers {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Newcomers::default();
        let mut latency_us = histogram();
        for thread in std::mem::take(&mut self.threads) {
            // A thread that panicked has said so itself.
            let Ok(seen) = thread.join() else { continue };
            all.opened += seen.opened;
            for (reason, count) in seen.reasons {
                all.refused += count;
                *all.reasons.entry(reason).or_default() += count;
            }
            latency_us.add(&seen.latency_us).expect("histograms of one shape");
        }
        let at = |quantile| latency_us.value_at_quantile(quantile);
        (all.p50_us, all.p99_us, all.max_us) = (at(0.5), at(0.99), latency_us.max());
        all
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn come(target: &Target, stop: &AtomicBool, first: Instant, every: Duration, number: u64) -> Seen {
    let mut seen = Seen { opened: 0, reasons: BTreeMap::new(), latency_us: histogram() };
    let mut due = first;
    for turn in 0.. {
        if let Some(early) = due.checked_duration_since(Instant::now()) {
            thread::sleep(early);
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let n = number + turn * u64::from(THREADS);
        let opened = connect(target, n, None, PATIENCE).map_err(Into::into);
        match opened.and_then(|mut stream| upgrade(&mut stream, target, n)) {
            Ok(_) => {
                seen.opened += 1;
                seen.latency_us.saturating_record(due.elapsed().as_micros() as u64);
            }
            Err(why) => *seen.reasons.entry(why.to_string()).or_default() += 1,
        }
        due = (due + every).max(Instant::now());
    }
    seen
}
