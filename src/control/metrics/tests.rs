//! The table against itself, against its page, and against what is written from it.

use super::table::{ALIASES, METRICS};
use super::{Format, Kind, Metric, Scrape, Source, write};
use crate::control::watch::Look;
use crate::control::watch::cpu::Cpu;
use crate::ds::{BUCKETS, bound};
use crate::hub::Figures;
use crate::reactor::{Counters, Totals};
use crate::server::MemoryUse;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// Everything that is counted, as so many busy cores would have it.
fn busy(cores: usize) -> Vec<Counters> {
    let core = |index: usize| {
        let counters = Counters::default();
        counters.connections_open.set(1 << 20);
        counters.busy_permille.set(100 * index as u64 % 1_000);
        for us in (0..2_000).map(|step| step * step * step) {
            counters.turn_us.record(us);
            counters.handling_us.record(us);
            counters.heartbeat_us.record(us);
        }
        counters.closed.iter().chain(&counters.disconnected).for_each(|count| count.add(1 << 40));
        counters
    };
    (0..cores).map(core).collect()
}

fn scrape(server_id: &str, cores: &[Counters], figures: Figures) -> Scrape {
    let totals = cores.iter().map(|core| {
        let mut totals = Totals::default();
        totals.add(core);
        totals
    });
    let cpus = (0..cores.len()).map(|number| Cpu { number, busy: 0.5 }).collect();
    Scrape {
        look: Look { cpus, ..Look::of(totals, figures, MemoryUse::default(), 123 << 20) },
        load: 0.25,
        server_id: server_id.to_owned(),
        max_connections: 1_000_000,
        slow_budget_bytes: 1 << 30,
        is_draining: false,
        log_dropped: 0,
        cpu_seconds: 1.5,
        open_fds: 20,
        started_s: 1.7e9,
    }
}

fn all() -> impl Iterator<Item = &'static Metric> {
    METRICS.iter().chain(ALIASES)
}

/// The samples of a text by name, without comments.
fn samples(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_once('{').expect("name{labels} number"))
}

#[test]
fn the_table_keeps_to_the_rules_of_names() {
    let names: BTreeSet<&str> = all().map(|metric| metric.name).collect();
    assert_eq!(names.len(), METRICS.len() + ALIASES.len(), "a name is there twice");
    for Metric { name, kind, unit, help, source } in all() {
        assert!(
            name.starts_with("ws_") && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
            "{name}"
        );
        assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
        assert_eq!(matches!(source, Source::Spread(..)), *kind == Kind::Histogram, "{name}");
        assert!(unit.is_empty() || name.contains(unit), "{name} is in {unit} and does not say so");
        assert!(
            help.len() > 10 && !help.contains(['\\', '"', '\n', '|']) && help.ends_with('.'),
            "{name}: {help}"
        );
        // What a family is called, no other may be called with the ending of a sample.
        for suffix in ["_bucket", "_sum", "_count", "_created", "_info"] {
            assert!(!name.ends_with(suffix) || *name == "ws_build_info", "{name}");
        }
    }
}

#[test]
fn histograms_tell_bounds_that_there_are() {
    for metric in all() {
        if let Source::Spread(_, buckets, _) = &metric.source {
            assert!(buckets.bounds.is_sorted() && buckets.bounds.len() <= 18, "{}", metric.name);
            for told in buckets.bounds {
                assert!((0..BUCKETS - 1).any(|bucket| bound(bucket) == *told), "{}: {told}", metric.name);
            }
        }
    }
}

/// A quantile that Prometheus works out may be anywhere between two bounds.
#[test]
fn delays_are_told_in_full_in_the_octave_below_what_alerts_ask() {
    let delays = METRICS.iter().filter_map(|metric| match &metric.source {
        Source::Spread(_, buckets, _) if metric.name.ends_with("latency_seconds") => {
            Some((metric.name, buckets))
        }
        _ => None,
    });
    for (name, buckets) in delays {
        for alert_us in [100_000, 1_050_000] {
            let below = (0..BUCKETS).map(bound).filter(|bound| (alert_us / 2..alert_us).contains(bound));
            let left_out: Vec<u64> = below.filter(|bound| !buckets.bounds.contains(bound)).collect();
            assert!(left_out.is_empty(), "{name}: {left_out:?} us");
        }
    }
}

#[test]
fn each_metric_is_written_with_all_its_labels() {
    let text = write(&scrape("n1", &busy(2), Figures::default()), true, Format::Prometheus);
    for metric in all() {
        let sample = if metric.kind == Kind::Histogram {
            format!("{}_count", metric.name)
        } else {
            metric.name.to_owned()
        };
        let found: Vec<&str> =
            samples(&text).filter(|(name, _)| *name == sample).map(|(_, rest)| rest).collect();
        assert!(!found.is_empty(), "{sample} is not there");
        for rest in found {
            assert!(rest.starts_with("server_id=\"n1\""), "{sample}{{{rest}");
            for label in metric.labels() {
                assert!(rest.contains(&format!(",{label}=\"")), "{sample}{{{rest} has no {label}");
            }
        }
        assert_eq!(text.matches(&format!("# TYPE {} ", metric.name)).count(), 1, "{}", metric.name);
    }
    let plain = write(&scrape("n1", &busy(2), Figures::default()), false, Format::Prometheus);
    assert!(
        ALIASES.iter().all(|alias| !plain.contains(alias.name)),
        "aliases are for those who ask for them"
    );
}

#[test]
fn labels_are_escaped() {
    let text = write(&scrape("a\"b\\c\nd{}", &[], Figures::default()), false, Format::Prometheus);
    assert!(text.contains("ws_connections_active{server_id=\"a\\\"b\\\\c\\nd{}\"} 0\n"), "{text}");
    assert!(text.lines().all(|line| line.starts_with("# ") || line.starts_with("ws_")), "a line was broken");
}

#[test]
fn buckets_add_up() {
    let counters = Counters::default();
    [1, 8, 9, 98_304, 98_305, 1 << 30].into_iter().for_each(|us| counters.handling_us.record(us));
    let text = write(&scrape("n", &[counters], Figures::default()), false, Format::Prometheus);
    let found: Vec<String> = samples(&text)
        .filter(|(name, _)| name.starts_with("ws_message_duration_seconds"))
        .map(|(name, rest)| format!("{name}{{{rest}"))
        .collect();
    let bucket = |le: &str, count| {
        format!("ws_message_duration_seconds_bucket{{server_id=\"n\",le=\"{le}\"}} {count}")
    };
    for (le, count) in [
        ("0.000008", 2),
        ("0.000032", 3),
        ("0.065536", 3),
        ("0.098304", 4),
        ("0.131072", 5),
        ("8.388608", 5),
        ("+Inf", 6),
    ] {
        assert!(found.contains(&bucket(le, count)), "{le} {count} in {found:#?}");
    }
    assert!(
        found.contains(&"ws_message_duration_seconds_sum{server_id=\"n\"} 1073.938451".to_owned()),
        "{found:#?}"
    );
    assert!(found.contains(&"ws_message_duration_seconds_count{server_id=\"n\"} 6".to_owned()), "{found:#?}");
    assert!(
        text.contains("ws_message_size_bytes_bucket{server_id=\"n\",direction=\"in\",le=\"1024.0\"} 0"),
        "{text}"
    );
}

#[test]
fn what_is_read_at_several_moments_is_never_less_than_nothing() {
    let counters = Counters::default();
    counters.send_queue_bytes.subtract(5);
    let text = write(&scrape("n", &[counters], Figures::default()), false, Format::Prometheus);
    assert!(text.contains("ws_send_queue_bytes{server_id=\"n\"} 0\n"), "{text}");
    assert!(samples(&text).all(|(_, rest)| !rest.contains("} -")), "{text}");
}

#[test]
fn open_metrics_names_families_and_ends() {
    assert_eq!(
        Format::accepted("application/openmetrics-text;version=1.0.0,text/plain;q=0.5"),
        Format::OpenMetrics
    );
    assert_eq!(Format::accepted("text/plain;version=0.0.4, */*"), Format::Prometheus);
    assert_eq!(Format::accepted(""), Format::Prometheus);
    let text = write(&scrape("n", &busy(1), Figures::default()), true, Format::OpenMetrics);
    assert!(text.ends_with("\n# EOF\n") && text.matches("# EOF").count() == 1);
    assert!(text.contains("# TYPE ws_connections counter\n") && text.contains("\nws_connections_total{"));
    assert!(text.contains("# UNIT ws_turn_seconds seconds\n") && !text.contains("# UNIT ws_bytes_received "));
    let families: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert_eq!(families.len(), METRICS.len() + ALIASES.len());
    assert_eq!(families.iter().collect::<BTreeSet<_>>().len(), families.len(), "two families of one name");
}

#[test]
fn a_scrape_of_many_cores_is_quick() {
    let cores = busy(64);
    let timed = (0..5).map(|_| {
        let begun = Instant::now();
        let text = write(&scrape("n", &cores, Figures::default()), true, Format::Prometheus);
        (begun.elapsed(), text.len())
    });
    // The quickest: the others shared their core with other tests.
    let (quickest, bytes) = timed.min().expect("five of them");
    println!("64 cores: {bytes} bytes in {quickest:?}");
    assert!(quickest < Duration::from_millis(50), "{quickest:?}");
    assert!(bytes < 256 << 10, "{bytes}");
}

#[test]
fn the_page_of_metrics_is_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page(), "UPDATE_DOCS=1 cargo test --lib the_page_of_metrics");
}

fn page() -> String {
    let mut page = String::from(PAGE);
    rows(&mut page, METRICS);
    page.push_str(PAGE_ALIASES);
    rows(&mut page, ALIASES);
    page
}

fn rows(page: &mut String, metrics: &[Metric]) {
    page.push_str("| name | type | labels | unit | what it is |\n|---|---|---|---|---|\n");
    for metric in metrics {
        let labels: Vec<String> = metric.labels().iter().map(|label| format!("`{label}`")).collect();
        let (labels, kind) = (labels.join(", "), metric.kind.name());
        let _ =
            writeln!(page, "| `{}` | {kind} | {labels} | {} | {} |", metric.name, metric.unit, metric.help);
    }
}

const PAGE: &str = "\
# Metrics

This page is made from the table in `src/control/metrics/table.rs`; a test keeps it equal to it
(`UPDATE_DOCS=1 cargo test --lib the_page_of_metrics` writes it anew).

`GET /metrics` on the admin listener (`admin_listen`, `127.0.0.1:9090`) serves them: the text of Prometheus 0.0.4, or OpenMetrics
1.0 where that is accepted. [deploy/prometheus](../deploy/prometheus) has what to put into Prometheus, with alerts that
[alerts.md](alerts.md) explains; [deploy/grafana](../deploy/grafana/megasock.json) is a dashboard.

Every sample has the label `server_id` besides those below. Counters start at 0 with the server; each value a label can have is
there from the start, so a rate sees the first event too. Numbers are of the moment of the scrape, `ws_reactor_busy_ratio` and
`ws_cpu_busy_ratio` of the second before it. They are read while all cores go on counting, so two of them may be apart by what
happened in between.

With `server_id = \"auto\"` that label is the host's name, and a container has another one after each start: its counters are
then new series. Name servers (`server_id`, `MEGASOCK_SERVER_ID`) so that a name outlives a restart.

A scrape adds up what each core has counted. It asks no core and looks at no connection: with a million of them it takes as long
as with none.

`ws_connections_active` is `ws_connections_total` less the sum of `ws_disconnections_total`. `ws_load` is for balancers and
autoscalers: one number from 0 to 1, whatever is scarce.

`ws_reactor_busy_ratio` is the time that a reactor's thread ran, `ws_cpu_busy_ratio` how full a CPU is: the run times of all
reactors pinned to it added up, or, if that is more, the longest that one of them ran or was ready to, as when other processes
take that CPU. Where the kernel does not count waits (`CONFIG_SCHED_INFO`) only run times are in it, and time that a hypervisor
takes is in neither. A reactor that could not be pinned counts to the CPU it was meant for. `ws_load` goes by the busiest CPU.

";

const PAGE_ALIASES: &str = "
With `metric_aliases = true` the same is served under other names in common use too:

";
