//! What a ring can be told to do, and what it answers.
//!
//! One work at a time, each bounded: by a count, by a deadline, or by [`Order::Finish`]. A message that is still
//! unanswered when its work is finished early is *unanswered*; its connection is given up, because nothing more can be
//! proved about it.

use super::clients::Returns;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::Instant;

/// The coordinator's word to a ring.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    /// Open connections on the first `count` slots, `in_flight` handshakes at a time; a slot that fails is not retried.
    Ramp { count: u32, in_flight: u32, per_second: Option<f64> },
    /// One message on every open connection, `window` unanswered at a time; again and again until the deadline, or once.
    Sweep { payload_bytes: usize, window: u32, until: Option<Instant> },
    /// Open loop: messages on random connections at fixed times, whether or not earlier ones were answered.
    Paced { payload_bytes: usize, per_second: f64, from: Instant, until: Instant },
    /// Closed loop: `depth` messages unanswered on each of the first `connections` at all times.
    Closed { payload_bytes: usize, connections: u32, depth: u32, until: Instant },
    /// The ring's first connection publishes, `outstanding` at a time: as soon as all subscribers have received one,
    /// or so many a second, whether or not earlier ones have arrived. It ends with the time or the count.
    Publish(Publish),
    /// Ends at once, with the latency of all deliveries since the last such order.
    Collect,
    /// Close this part of the open connections, chosen at random.
    Cut { part: f64 },
    /// From now on clients whose connection ends come back by the schedule, until the order to drain; with `cut` all of
    /// them are cut first. `from` is when the rings begin to count time.
    Return { cut: bool, from: Instant },
    /// Start nothing new; the work ends when everything in flight has ended.
    Drain,
    /// End the work in hand now.
    Finish,
    /// Leave everything to the kernel and end the thread.
    Quit,
}

/// A work of publications.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Publish {
    pub(crate) payload_bytes: usize,
    pub(crate) subscribers: u32,
    pub(crate) outstanding: u32,
    pub(crate) per_second: Option<f64>,
    pub(crate) count: u32,
    pub(crate) until: Instant,
}

/// How a work ended.
pub(crate) struct Outcome {
    pub(crate) ring: usize,
    pub(crate) elapsed_us: u64,
    /// Messages verified.
    pub(crate) echoes: u64,
    /// Messages whose echo did not come before the end.
    pub(crate) unanswered: u64,
    /// Publications that every subscriber has received, and the deliveries that others lack.
    pub(crate) published: u64,
    pub(crate) missing: u64,
    /// Connections opened, and those that failed by reason.
    pub(crate) opened: u64,
    pub(crate) failures: BTreeMap<String, u64>,
    /// Time from the intended send to the echo, or from connect to upgrade; of publications, to the last subscriber, and
    /// as the answer to [`Order::Collect`] to each.
    pub(crate) latency_us: Histogram<u32>,
    /// Of clients that come back.
    pub(crate) returns: Returns,
}

/// Longest time a histogram tells apart, in microseconds.
const LATENCY_US_MAX: u64 = 120_000_000;

/// A histogram for microseconds, three digits.
pub(crate) fn histogram() -> Histogram<u32> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("valid bounds")
}

/// The work in hand.
pub(super) struct Work {
    pub(super) kind: Kind,
    pub(super) started_us: u64,
    /// No new messages; the work ends when nothing is unanswered.
    pub(super) draining: bool,
    /// Handshakes or messages in flight.
    pub(super) in_flight: u32,
    pub(super) outcome: Outcome,
}

pub(super) enum Kind {
    Ramp {
        next: u32,
        count: u32,
        window: u32,
        per_second: Option<f64>,
    },
    Sweep {
        next: u32,
        window: u32,
        until_us: Option<u64>,
    },
    Paced {
        next_us: f64,
        interval_us: f64,
        until_us: u64,
        retry_us: u64,
    },
    Closed {
        next: u32,
        connections: u32,
        depth: u32,
        until_us: u64,
    },
    /// `oldest` is the first publication not yet received by all.
    Publish {
        order: Publish,
        until_us: u64,
        left: u32,
        oldest: u32,
        next_us: f64,
    },
    Collect,
    Cut {
        next: u32,
        part: f64,
    },
    /// `next` is the first slot still to be cut; times are in [`super::clients::Clients`].
    Return {
        next: u32,
    },
}

impl Work {
    pub(super) fn new(ring: usize, kind: Kind, now_us: u64) -> Work {
        let outcome = Outcome {
            ring,
            elapsed_us: 0,
            echoes: 0,
            unanswered: 0,
            published: 0,
            missing: 0,
            opened: 0,
            failures: BTreeMap::new(),
            latency_us: histogram(),
            returns: Returns::default(),
        };
        Work { kind, started_us: now_us, draining: false, in_flight: 0, outcome }
    }

    /// When this work needs a turn though nothing completes.
    pub(super) fn wakes_at_us(&self) -> Option<u64> {
        match &self.kind {
            _ if self.draining => None,
            Kind::Ramp { next, window, per_second: Some(rate), .. } if self.in_flight < *window => {
                Some(self.started_us + (f64::from(*next) * 1e6 / rate) as u64)
            }
            Kind::Ramp { .. } | Kind::Cut { .. } | Kind::Return { .. } | Kind::Collect => None,
            Kind::Sweep { until_us, .. } => *until_us,
            Kind::Paced { next_us, until_us, retry_us, .. } => {
                Some((*next_us as u64).min(*until_us).max(*retry_us))
            }
            Kind::Closed { until_us, .. } => Some(*until_us),
            Kind::Publish { order, until_us, next_us, .. } => Some(match order.per_second {
                Some(_) => (*next_us as u64).min(*until_us),
                None => *until_us,
            }),
        }
    }
}
