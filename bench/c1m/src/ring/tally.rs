//! What a ring counts, and how other threads see it: relaxed atomics, written once a turn.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a ring counts, published once a turn.
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Connections open now.
    pub(crate) open: u64,
    /// Connects and upgrades that failed.
    pub(crate) failed: u64,
    /// Of these, refused by the server: 503, or a reset.
    pub(crate) refused: u64,
    /// Connections that ended and should not have.
    pub(crate) lost: u64,
    /// Echoes verified.
    pub(crate) echoes: u64,
    /// Echoes that were not what was sent.
    pub(crate) mismatched: u64,
    /// Pings answered.
    pub(crate) pings: u64,
    /// Deliveries, each the right one.
    pub(crate) deliveries: u64,
    /// Deliveries that were altered, doubled, out of order, or came where another was due.
    pub(crate) misdelivered: u64,
    /// Gaps the server told of.
    pub(crate) gaps: u64,
    /// Clients that were away and are back.
    pub(crate) returned: u64,
}

const COUNTERS: usize = 11;

impl Tally {
    /// Changes exactly when a work gets further: pings go on whatever it does, and a lost connection is no progress.
    pub(crate) fn progress(&self) -> [u64; 3] {
        [self.open + self.lost, self.failed, self.echoes + self.deliveries]
    }

    fn fields(&self) -> [u64; COUNTERS] {
        let Tally { open, failed, refused, lost, echoes, mismatched, .. } = *self;
        let Tally { pings, deliveries, misdelivered, gaps, returned, .. } = *self;
        [open, failed, refused, lost, echoes, mismatched, pings, deliveries, misdelivered, gaps, returned]
    }

    fn from_fields(fields: [u64; COUNTERS]) -> Tally {
        let [
            open,
            failed,
            refused,
            lost,
            echoes,
            mismatched,
            pings,
            deliveries,
            misdelivered,
            gaps,
            returned,
        ] = fields;
        Tally {
            open,
            failed,
            refused,
            lost,
            echoes,
            mismatched,
            pings,
            deliveries,
            misdelivered,
            gaps,
            returned,
        }
    }
}

impl std::iter::Sum for Tally {
    fn sum<I: Iterator<Item = Tally>>(tallies: I) -> Tally {
        let add = |a: [u64; COUNTERS], b: Tally| std::array::from_fn(|at| a[at] + b.fields()[at]);
        Tally::from_fields(tallies.fold([0; COUNTERS], add))
    }
}

/// A ring's tally as other threads see it.
#[derive(Default)]
pub(crate) struct Published([AtomicU64; COUNTERS]);

impl Published {
    pub(crate) fn load(&self) -> Tally {
        Tally::from_fields(std::array::from_fn(|at| self.0[at].load(Ordering::Relaxed)))
    }

    pub(super) fn store(&self, tally: &Tally) {
        for (cell, value) in self.0.iter().zip(tally.fields()) {
            cell.store(value, Ordering::Relaxed);
        }
    }
}
