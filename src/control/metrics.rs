//! `/metrics`: the one table of metrics, from which the text of a scrape, docs/metrics.md and the tests come.
//!
//! Not by the crate `prometheus-client`: the values are counted already, by their cores, without a locked instruction. Its
//! registry would be a second set of them, and its collectors one type a metric where here is one row.
//!
//! A scrape adds counters up and writes text. It asks no core and walks no connection, so its cost follows the cores, not the
//! connections.

mod table;
#[cfg(test)]
mod tests;
mod text;

use super::watch::Scrape;
use crate::ds::Distribution;
pub(super) use text::{Format, write};

/// What a metric's number does over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    /// As the text formats say it.
    const fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// Takes the values of a metric's labels, and its number.
type PutNumber<'a> = &'a mut dyn FnMut(&[&str], f64);

/// Takes the values of a metric's labels, and its distribution.
type PutSpread<'a> = &'a mut dyn FnMut(&[&str], &Distribution);

/// Where a metric's numbers come from.
enum Source {
    /// One number, without labels.
    One(fn(&Scrape) -> f64),
    /// A number for each set of values of these labels.
    By(&'static [&'static str], fn(&Scrape, PutNumber<'_>)),
    /// A histogram for each set of values of these labels.
    Spread(&'static [&'static str], Buckets, fn(&Scrape, PutSpread<'_>)),
}

/// Which bounds of a [`Distribution`] are told, and in which unit.
struct Buckets {
    /// In the unit of the distribution; each is one of its own bounds.
    bounds: &'static [u64],
    /// How many of that unit are one of the metric's.
    per_unit: f64,
}

/// One metric.
struct Metric {
    name: &'static str,
    kind: Kind,
    /// The unit as names of metrics write it; empty for what is counted.
    unit: &'static str,
    help: &'static str,
    source: Source,
}

impl Metric {
    /// Its labels besides `server_id`.
    fn labels(&self) -> &'static [&'static str] {
        match self.source {
            Source::One(_) => &[],
            Source::By(labels, _) | Source::Spread(labels, ..) => labels,
        }
    }

    /// All metrics that are served; under their other names too with `aliases`.
    fn all(aliases: bool) -> impl Iterator<Item = &'static Metric> {
        let aliases: &[Metric] = if aliases { table::ALIASES } else { &[] };
        table::METRICS.iter().chain(aliases)
    }
}
