//! What a run saw, as data: report.json is this, the table and the page are drawn from it. A phase that was not run is
//! absent, never zero.

pub(crate) mod bounds;
pub(crate) mod fanout;
pub(crate) mod guard;
mod method;
pub(crate) mod operator;
pub(crate) mod page;
mod plot;
pub(crate) mod table;

use crate::observe::network::Packets;
use fanout::{Broadcast, Churn, FanOut, Slow};
use guard::{Attack, Drain, Homecoming};
use hdrhistogram::Histogram;
use megasock::sys::host::HostFacts;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Serialize, Default, Clone)]
pub(crate) struct Report {
    /// Which row, or `all`.
    pub(crate) row: String,
    pub(crate) version: &'static str,
    /// UTC.
    pub(crate) date: String,
    pub(crate) host: Host,
    pub(crate) settings: Settings,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) connections: Option<Connections>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ramp: Option<Ramp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<MemoryFigures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hold: Option<Hold>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) echo: Option<Echo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpu: Option<Cpu>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) retention: Option<Retention>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) storm: Option<Storm>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) drain: Option<Drain>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) attacks: Vec<Attack>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) watch: Option<operator::Watch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) flood: Option<operator::Flood>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) fanout: Vec<FanOut>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) broadcast: Option<Broadcast>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) slow: Option<Slow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) churn: Option<Churn>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) packets: Option<Packets>,
    /// What makes a figure doubtful, in words.
    pub(crate) notes: Vec<String>,
    /// Bounds of the row that did not hold, in words: the run has failed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) broken: Vec<String>,
    /// The run was ended by hand.
    pub(crate) interrupted: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) timeline: Vec<Moment>,
    /// Echo latency by percentile.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) echo_latency: Vec<Quantile>,
}

#[derive(Serialize, Default, Clone)]
pub(crate) struct Host {
    pub(crate) kernel: String,
    pub(crate) cores: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) nofile: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tcp_hash_buckets: Option<u64>,
}

impl Host {
    pub(crate) fn of(facts: &HostFacts) -> Host {
        Host {
            kernel: facts.kernel_release.clone(),
            cores: facts.cores.len(),
            memory_bytes: facts.memory_total_bytes,
            nofile: facts.nofile(),
            tcp_hash_buckets: facts.tcp_hash_buckets,
        }
    }
}

#[derive(Serialize, Default, Clone)]
pub(crate) struct Settings {
    pub(crate) url: String,
    /// Reactors of the server this run started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reactors: Option<usize>,
    pub(crate) rings: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_cores: Option<String>,
    pub(crate) driver_cores: String,
    pub(crate) in_flight: u32,
    /// What an echo is: a `message` that comes back, or in channels a `ping command` and its pong.
    pub(crate) echo: &'static str,
    pub(crate) payload_bytes: usize,
}

#[derive(Serialize, Default, Clone)]
pub(crate) struct Connections {
    pub(crate) requested: u64,
    pub(crate) opened: u64,
    pub(crate) failed: u64,
    pub(crate) lost: u64,
    /// Why they failed or were lost.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) reasons: BTreeMap<String, u64>,
    /// Echoes verified byte for byte, and those that were wrong or did not come.
    pub(crate) echoes: u64,
    pub(crate) echoes_mismatched: u64,
    pub(crate) echoes_unanswered: u64,
    /// Deliveries verified, those that were wrong, and gaps the server told of.
    pub(crate) deliveries: u64,
    pub(crate) misdelivered: u64,
    pub(crate) gaps: u64,
    /// Connections open when memory was last read.
    #[serde(skip)]
    pub(crate) measured_at: u64,
}

#[derive(Serialize, Clone)]
pub(crate) struct Ramp {
    pub(crate) seconds: f64,
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p95_ms: f64,
    pub(crate) p99_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_us_each: Option<f64>,
}

#[derive(Serialize, Default, Clone)]
pub(crate) struct MemoryFigures {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_rss_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_rss_per_connection: Option<f64>,
    /// Slab, one end: half of what both ends took where both are on this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kernel_per_connection: Option<f64>,
    /// Growth from a quarter of the connections to all of them, each (`idle`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_rss_slope_per_connection: Option<f64>,
    pub(crate) driver_rss_bytes: u64,
    /// All connections, both ends where both are on this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) slab_bytes: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) slab_bytes_by_cache: Option<BTreeMap<String, i64>>,
    pub(crate) tcp_buffer_bytes: u64,
    pub(crate) available_delta_bytes: i64,
}

#[derive(Serialize, Clone)]
pub(crate) struct Hold {
    pub(crate) seconds: f64,
    /// Pings of the server, each answered.
    pub(crate) pings: u64,
    /// Cores the server kept busy while there was nothing but pings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_cores: Option<f64>,
}

#[derive(Serialize, Default, Clone)]
pub(crate) struct Echo {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rate_intended: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rate_achieved: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p50_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p99_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p999_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_us: Option<u64>,
    /// Closed loop, as fast as it goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) messages_per_second: Option<f64>,
    /// Messages in flight on each connection, or over all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) closed_loop: Option<String>,
    /// Why there are no percentiles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) refused: Option<String>,
}

#[derive(Serialize, Clone)]
pub(crate) struct Cpu {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_us_per_message: Option<f64>,
    /// Cores each side kept busy during the closed loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_cores: Option<f64>,
    pub(crate) driver_cores: f64,
    /// Everything on this host: on loopback one side's packet work is billed to the other.
    pub(crate) host_us_per_message: f64,
}

/// What is left of the echo rate of few connections once all are open: closed loop over all of them, then and now.
#[derive(Serialize, Clone)]
pub(crate) struct Retention {
    /// Connections open at the first measurement.
    pub(crate) connections: u64,
    pub(crate) messages_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_us_per_message: Option<f64>,
    /// Rate with all open over the rate then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rate_percent: Option<f64>,
    /// CPU of the whole host for each message then over that with all open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) per_cpu_percent: Option<f64>,
    #[serde(skip)]
    pub(crate) host_us_per_message: f64,
}

#[derive(Serialize, Clone)]
pub(crate) struct Storm {
    /// From the first cut to the last connection open again.
    pub(crate) seconds: f64,
    pub(crate) refused: u64,
    pub(crate) failed: u64,
    pub(crate) reopened: u64,
    /// By the schedule: how the clients came back.
    #[serde(flatten)]
    pub(crate) homecoming: Option<Homecoming>,
}

impl Moment {
    pub(crate) fn at(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

/// One point of the ramp and memory plots.
#[derive(Serialize, Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) seconds: f64,
    pub(crate) open: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_rss_bytes: Option<u64>,
    pub(crate) slab_bytes: u64,
}

#[derive(Serialize, Clone, Copy)]
pub(crate) struct Quantile {
    pub(crate) quantile: f64,
    pub(crate) us: u64,
}

/// The percentiles a plot needs, evenly spaced on the usual scale of nines.
pub(crate) fn quantiles(latency_us: &Histogram<u32>) -> Vec<Quantile> {
    let nines = (0..=100).map(|step| 1.0 - 10f64.powf(-f64::from(step) / 20.0));
    let worth = 1.0 - 1.0 / latency_us.len().max(1) as f64;
    nines
        .filter(|quantile| *quantile <= worth)
        .map(|quantile| Quantile { quantile, us: latency_us.value_at_quantile(quantile) })
        .collect()
}

/// The middle of some figures; zero of none.
fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    match figures.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => figures[odd / 2],
        even => (figures[even / 2 - 1] + figures[even / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_absent_and_the_agreed_names_are_there() {
        let empty = serde_json::to_value(Report::default()).unwrap();
        for phase in [
            "connections",
            "ramp",
            "memory",
            "hold",
            "echo",
            "cpu",
            "storm",
            "fanout",
            "broadcast",
            "slow",
            "churn",
            "drain",
            "attacks",
            "broken",
            "timeline",
        ] {
            assert!(empty.get(phase).is_none(), "{phase}");
        }
        let report = Report {
            connections: Some(Connections::default()),
            ramp: Some(Ramp {
                seconds: 1.0,
                per_second: 2.0,
                p50_ms: 3.0,
                p95_ms: 4.0,
                p99_ms: 5.0,
                server_us_each: None,
            }),
            memory: Some(MemoryFigures {
                server_rss_bytes: Some(1),
                server_rss_per_connection: Some(1.0),
                kernel_per_connection: Some(1.0),
                ..Default::default()
            }),
            echo: Some(Echo {
                rate_intended: Some(1.0),
                rate_achieved: Some(1.0),
                p50_us: Some(1),
                p99_us: Some(1),
                p999_us: Some(1),
                max_us: Some(1),
                messages_per_second: Some(1.0),
                ..Default::default()
            }),
            cpu: Some(Cpu {
                server_us_per_message: Some(1.0),
                server_cores: None,
                driver_cores: 1.0,
                host_us_per_message: 1.0,
            }),
            storm: Some(Storm { seconds: 1.0, refused: 0, failed: 0, reopened: 1, homecoming: None }),
            broadcast: Some(Broadcast {
                subscribers: 1,
                seconds_to_last: 1.0,
                p50_ms: 1.0,
                p99_ms: 1.0,
                deliveries_per_second: 1.0,
                missing: 0,
                server_us_per_delivery: None,
                host_us_per_delivery: 1.0,
            }),
            ..Default::default()
        };
        let json = serde_json::to_value(report).unwrap();
        let agreed = [
            ("host", "kernel cores memory_bytes"),
            ("connections", "requested opened failed lost"),
            ("ramp", "seconds per_second p50_ms p95_ms p99_ms"),
            ("memory", "server_rss_bytes server_rss_per_connection kernel_per_connection"),
            ("echo", "rate_intended rate_achieved p50_us p99_us p999_us max_us messages_per_second"),
            ("cpu", "server_us_per_message"),
            ("storm", "seconds refused"),
            ("broadcast", "seconds_to_last p50_ms p99_ms deliveries_per_second missing"),
        ];
        for (phase, names) in agreed {
            for name in names.split(' ') {
                assert!(json[phase].get(name).is_some(), "{phase}.{name}");
            }
        }
    }

    #[test]
    fn quantiles_end_where_the_samples_do() {
        let mut latency = crate::ring::histogram();
        (1..=1000).for_each(|us| latency.record(us).unwrap());
        let quantiles = quantiles(&latency);
        assert_eq!(quantiles[0].us, 1);
        assert!(quantiles.last().unwrap().quantile <= 0.999 + 1e-9);
        assert!(quantiles.windows(2).all(|pair| pair[0].us <= pair[1].us));
    }
}
