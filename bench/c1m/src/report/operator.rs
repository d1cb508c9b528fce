//! The blocks of the rows that look at the admin listener.

use super::table::{count, time};
use super::{Report, median};
use hdrhistogram::Histogram;
use serde::Serialize;

/// The admin listener while clients are served.
#[derive(Serialize, Clone)]
pub(crate) struct Watch {
    pub(crate) connections: u64,
    pub(crate) echoes_per_second: f64,
    pub(crate) scrapes: Answers,
    pub(crate) publications: Answers,
}

/// Answers, each timed from when its request was due.
#[derive(Serialize, Clone, Copy)]
pub(crate) struct Answers {
    pub(crate) count: u64,
    pub(crate) failed: u64,
    pub(crate) body_bytes: usize,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) max_us: u64,
}

impl Answers {
    pub(crate) fn of(latency_us: &Histogram<u64>, failed: u64, body_bytes: usize) -> Answers {
        let at = |quantile| latency_us.value_at_quantile(quantile);
        Answers {
            count: latency_us.len(),
            failed,
            body_bytes,
            p50_us: at(0.5),
            p99_us: at(0.99),
            max_us: latency_us.max(),
        }
    }
}

/// Echoes beside a flood of garbage on the admin listener, against the same flood on another process's.
#[derive(Serialize, Clone, Default)]
pub(crate) struct Flood {
    pub(crate) connections: u32,
    /// p99 of the echoes alone.
    pub(crate) quiet_p99_us: u64,
    /// p99 of each round: beside the flood elsewhere, and beside that of the server's own listener.
    pub(crate) rounds: Vec<(u64, u64)>,
    /// Lost connections, and echoes that were wrong or did not come.
    pub(crate) errors: u64,
    /// Garbage taken by the sockets, elsewhere and here.
    pub(crate) sent_bytes: (u64, u64),
    pub(crate) ended_by_server: u64,
    /// The listener answers once the flood is over.
    pub(crate) answers_after: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rss_before_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rss_peak_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rss_after_bytes: Option<u64>,
}

impl Flood {
    /// Own listener over elsewhere: the median of the rounds, each compared with its neighbour.
    pub(crate) fn ratio(&self) -> f64 {
        median(self.rounds.iter().map(|(elsewhere, own)| *own as f64 / (*elsewhere).max(1) as f64))
    }

    /// What the server's memory rose by.
    pub(crate) fn growth_bytes(&self) -> u64 {
        self.rss_peak_bytes.unwrap_or(0).saturating_sub(self.rss_before_bytes.unwrap_or(0))
    }
}

/// The table's lines.
pub(crate) fn rows(report: &Report, row: &mut impl FnMut(&str, String, String)) {
    if let Some(watch) = &report.watch {
        for (what, answers) in [("scrape p99", watch.scrapes), ("API publish p99", watch.publications)] {
            let rest = format!(
                "p50 {}, max {}; {} asked, {} failed, {} bytes each",
                time(answers.p50_us),
                time(answers.max_us),
                count(answers.count + answers.failed),
                answers.failed,
                count(answers.body_bytes as u64)
            );
            row(what, time(answers.p99_us), rest);
        }
    }
    if let Some(flood) = &report.flood {
        let of = |side: fn(&(u64, u64)) -> u64| {
            time(median(flood.rounds.iter().map(|round| side(round) as f64)) as u64)
        };
        let rest = format!(
            "echo p99 {} beside a flood of the admin listener, {} of another process's, {} alone; median of {} rounds",
            of(|round| round.1),
            of(|round| round.0),
            time(flood.quiet_p99_us),
            flood.rounds.len()
        );
        row("flood of the admin listener", format!("{:.2}×", flood.ratio()), rest);
        let sent = format!(
            "{} MB taken here, {} MB elsewhere, {} ended by the server; {} errors; {}",
            flood.sent_bytes.1 >> 20,
            flood.sent_bytes.0 >> 20,
            count(flood.ended_by_server),
            flood.errors,
            if flood.answers_after { "answers after it" } else { "does not answer after it" }
        );
        row("  connections of garbage", count(flood.connections.into()), sent);
        let around = format!(
            "{} KiB before, {} KiB after",
            flood.rss_before_bytes.unwrap_or(0) >> 10,
            flood.rss_after_bytes.unwrap_or(0) >> 10
        );
        row("  server RSS growth", format!("{} KiB", flood.growth_bytes() >> 10), around);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_compared_pair_by_pair() {
        let flood = Flood { rounds: vec![(100, 110), (200, 200), (50, 100)], ..Flood::default() };
        assert!((flood.ratio() - 1.1).abs() < 1e-9);
        let even = Flood { rounds: vec![(100, 100), (100, 120)], ..flood };
        assert!((even.ratio() - 1.1).abs() < 1e-9);
    }
}
