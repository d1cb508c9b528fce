//! What publications gave: the blocks of report.json for the rows that publish, and their lines in the table.

use super::Report;
use super::table::{count, time};
use serde::Serialize;

/// One publishes to all, again and again, a few publications on their way at all times.
#[derive(Serialize, Clone)]
pub(crate) struct FanOut {
    pub(crate) subscribers: u64,
    pub(crate) outstanding: u32,
    pub(crate) publications: u64,
    pub(crate) deliveries: u64,
    /// Deliveries that did not come.
    pub(crate) missing: u64,
    pub(crate) deliveries_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_us_per_delivery: Option<f64>,
    pub(crate) host_us_per_delivery: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_cores: Option<f64>,
    pub(crate) driver_cores: f64,
    /// From a publication to its last delivery.
    pub(crate) last_p50_us: u64,
    pub(crate) last_p99_us: u64,
    /// From a publication to each delivery.
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
}

/// One message to every connection.
#[derive(Serialize, Clone)]
pub(crate) struct Broadcast {
    pub(crate) subscribers: u64,
    pub(crate) seconds_to_last: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) deliveries_per_second: f64,
    pub(crate) missing: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_us_per_delivery: Option<f64>,
    pub(crate) host_us_per_delivery: f64,
}

/// Subscribers that never read, and what the others notice of them. Times are from when a publication was due to each of
/// its deliveries to those who read.
#[derive(Serialize, Clone)]
pub(crate) struct Slow {
    pub(crate) baseline_p50_us: u64,
    pub(crate) baseline_p99_us: u64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) publications: u64,
    pub(crate) missing: u64,
    /// Resident memory of the server before the stalled came, its peak while they were there, and the difference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rss_before_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rss_peak_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rss_growth_bytes: Option<i64>,
    pub(crate) stalled: u64,
    /// Of these, ended by the server.
    pub(crate) disconnected: u64,
}

/// A third of the subscribers cut at random and back again, over and over, while one publishes.
#[derive(Serialize, Default, Clone)]
pub(crate) struct Churn {
    pub(crate) seconds: f64,
    pub(crate) rounds: u64,
    pub(crate) cut: u64,
    pub(crate) reopened: u64,
    pub(crate) publications: u64,
    pub(crate) deliveries: u64,
    /// Altered, doubled, out of order, or where another was due.
    pub(crate) misdelivered: u64,
    /// Announced by the server.
    pub(crate) gaps: u64,
    /// Of the last publication, which all must receive.
    pub(crate) missing: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rss_start_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rss_end_bytes: Option<u64>,
}

/// Deliveries that should have come and did not, in all of a report.
pub(crate) fn missing(report: &Report) -> u64 {
    let fanout: u64 = report.fanout.iter().map(|fanout| fanout.missing).sum();
    let single = [
        report.broadcast.as_ref().map(|broadcast| broadcast.missing),
        report.slow.as_ref().map(|slow| slow.missing),
        report.churn.as_ref().map(|churn| churn.missing),
    ];
    fanout + single.into_iter().flatten().sum::<u64>()
}

/// The table's lines.
pub(crate) fn rows(report: &Report, row: &mut impl FnMut(&str, String, String)) {
    let each = |us: Option<f64>| us.map_or(String::new(), |us| format!(", {us:.2} µs server CPU each"));
    for fanout in &report.fanout {
        let name = format!("fan-out to {}", count(fanout.subscribers));
        let rate = format!("{}/s", count(fanout.deliveries_per_second as u64));
        let how = format!("{} outstanding, {} missing", fanout.outstanding, count(fanout.missing));
        row(&name, rate, how + &each(fanout.server_us_per_delivery));
        let tail = format!("p99 {}", time(fanout.last_p99_us));
        row("time to last p50", time(fanout.last_p50_us), tail);
    }
    if let Some(broadcast) = &report.broadcast {
        let missing = format!("to {}, {} missing", count(broadcast.subscribers), count(broadcast.missing));
        row("broadcast", format!("{:.2} s", broadcast.seconds_to_last), missing);
        let rate = format!("{}/s", count(broadcast.deliveries_per_second as u64));
        row("deliveries", rate, each(broadcast.server_us_per_delivery).trim_start_matches(", ").to_owned());
        let tail = format!("p99 {:.0} ms", broadcast.p99_ms);
        row("delivery p50", format!("{:.0} ms", broadcast.p50_ms), tail);
    }
    if let Some(slow) = &report.slow {
        let stalled = format!("{} ended by the server", count(slow.disconnected));
        row("stalled subscribers", count(slow.stalled), stalled);
        let before = format!("{} without them", time(slow.baseline_p99_us));
        row("delivery p99 of the others", time(slow.p99_us), before);
        if let (Some(growth), Some(peak)) = (slow.rss_growth_bytes, slow.rss_peak_bytes) {
            row("server RSS growth", format!("{} KB", growth >> 10), format!("peak {} MB", peak >> 20));
        }
    }
    if let Some(churn) = &report.churn {
        let how =
            format!("{} rounds, {} cut, {} back", churn.rounds, count(churn.cut), count(churn.reopened));
        row("churn", format!("{:.0} s", churn.seconds), how);
        let wrong = format!("{} wrong, {} missing", count(churn.misdelivered), count(churn.missing));
        row("deliveries", count(churn.deliveries), format!("{wrong}, {} gaps announced", count(churn.gaps)));
        if let (Some(start), Some(end)) = (churn.rss_start_bytes, churn.rss_end_bytes) {
            row("server RSS", format!("{} KB", end >> 10), format!("{} KB at the start", start >> 10));
        }
    }
}
