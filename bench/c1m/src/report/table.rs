//! The one table a run prints.

use super::{Report, fanout, guard, operator};
use std::fmt::Write;

/// Rows of name, value and remark.
pub(crate) fn rows(report: &Report) -> Vec<[String; 3]> {
    let mut rows: Vec<[String; 3]> = Vec::new();
    let mut row = |name: &str, value: String, remark: String| rows.push([name.to_owned(), value, remark]);
    let verb = if report.settings.echo == "ping command" { "pings and pongs" } else { "echoes" };
    if let Some(connections) = &report.connections {
        let asked = format!("of {} asked for", count(connections.requested));
        row("connections opened", count(connections.opened), asked);
        row(
            "failed / lost",
            format!("{} / {}", count(connections.failed), count(connections.lost)),
            String::new(),
        );
        let wrong = connections.echoes_mismatched + connections.echoes_unanswered;
        row(
            &format!("{verb} verified"),
            count(connections.echoes),
            format!("{} wrong or missing", count(wrong)),
        );
    }
    if let Some(ramp) = &report.ramp {
        let each = ramp.server_us_each.map_or(String::new(), |us| format!(", {us:.1} µs server CPU each"));
        row("ramp", format!("{:.1} s", ramp.seconds), format!("{}/s{each}", count(ramp.per_second as u64)));
        let tail = format!("p95 {:.1} ms, p99 {:.1} ms", ramp.p95_ms, ramp.p99_ms);
        row("upgrade p50", format!("{:.1} ms", ramp.p50_ms), tail);
    }
    if let Some(memory) = &report.memory {
        if let (Some(rss), Some(each)) = (memory.server_rss_bytes, memory.server_rss_per_connection) {
            row("server RSS", format!("{each:.0} B/connection"), format!("{} MB in all", rss >> 20));
        }
        if let Some(slope) = memory.server_rss_slope_per_connection {
            row("server RSS slope", format!("{slope:.0} B/connection"), "from a quarter to all".into());
        }
        if let (Some(each), Some(slab)) = (memory.kernel_per_connection, memory.slab_bytes) {
            row(
                "kernel memory",
                format!("{each:.0} B/connection"),
                format!("{} MB of slab in all", slab >> 20),
            );
        }
    }
    if let Some(hold) = &report.hold {
        let pings = format!("{} pings answered", count(hold.pings));
        row("hold", format!("{:.0} s", hold.seconds), pings);
        if let Some(cores) = hold.server_cores {
            row("server CPU holding", format!("{cores:.2} cores"), String::new());
        }
    }
    if let Some(echo) = &report.echo {
        if let (Some(rate), Some(how)) = (echo.messages_per_second, &echo.closed_loop) {
            row(&format!("{verb}, closed loop"), format!("{}/s", count(rate as u64)), how.clone());
        }
        if let (Some(intended), Some(achieved)) = (echo.rate_intended, echo.rate_achieved) {
            let aim = format!("of {}/s intended", count(intended.round() as u64));
            row(&format!("{verb}, open loop"), format!("{}/s", count(achieved.round() as u64)), aim);
        }
        if let (Some(p50), Some(p99), Some(p999), Some(max)) =
            (echo.p50_us, echo.p99_us, echo.p999_us, echo.max_us)
        {
            let tail = format!("p99 {}, p99.9 {}, max {}", time(p99), time(p999), time(max));
            row(&format!("{verb}, p50"), time(p50), tail);
        }
        if let Some(why) = &echo.refused {
            row(&format!("{verb} latency"), "refused".into(), why.clone());
        }
    }
    if let Some(cpu) = &report.cpu {
        let host = format!("whole host {:.2} µs", cpu.host_us_per_message);
        if let Some(us) = cpu.server_us_per_message {
            row("server CPU", format!("{us:.2} µs/message"), host);
        }
        let server = cpu.server_cores.map_or(String::new(), |cores| format!("server {cores:.2} cores"));
        row("busy in closed loop", server, format!("driver {:.2} cores", cpu.driver_cores));
    }
    if let Some(retention) = &report.retention
        && let (Some(rate), Some(per_cpu)) = (retention.rate_percent, retention.per_cpu_percent)
    {
        let then =
            format!("{}/s at {}", count(retention.messages_per_second as u64), count(retention.connections));
        row("retention", format!("{rate:.0} %"), format!("of {then}; {per_cpu:.0} % per CPU"));
    }
    fanout::rows(report, &mut row);
    if let Some(storm) = &report.storm {
        let refused = format!("{} refused, {} failed", count(storm.refused), count(storm.failed));
        row("storm", format!("{:.1} s", storm.seconds), refused);
    }
    guard::rows(report, &mut row);
    operator::rows(report, &mut row);
    if let Some(packets) = &report.packets {
        let resent = format!("{} retransmits", count(packets.retransmits));
        row("packets dropped", count(packets.softnet_drops), resent);
    }
    rows
}

/// The table as text.
pub(crate) fn text(report: &Report) -> String {
    let rows = rows(report);
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let (first, second) = (width(0), width(1));
    let mut out = String::new();
    for [name, value, remark] in &rows {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  {name:<first$}  {value:>second$}  {remark}");
    }
    for note in &report.notes {
        let _ = writeln!(out, "  ! {note}");
    }
    for bound in &report.broken {
        let _ = writeln!(out, "  broken: {bound}");
    }
    out
}

/// 1234567 as 1,234,567.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|g| std::str::from_utf8(g).unwrap_or("")).collect();
    groups.join(",")
}

/// Microseconds in the unit that reads best.
pub(crate) fn time(us: u64) -> String {
    match us {
        0..=999 => format!("{us} µs"),
        1_000..=999_999 => format!("{:.2} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Connections, Echo};

    #[test]
    fn only_what_was_measured_has_a_row() {
        assert_eq!(text(&Report::default()), "");
        let connections = Some(Connections { requested: 1_000_000, opened: 999_999, ..Default::default() });
        let echo = Some(Echo { refused: Some("too slow".into()), ..Default::default() });
        let table = text(&Report {
            connections,
            echo,
            notes: vec!["a note".into()],
            broken: vec!["a bound".into()],
            ..Default::default()
        });
        for expected in ["999,999", "of 1,000,000", "refused", "too slow", "! a note", "broken: a bound"] {
            assert!(table.contains(expected), "{expected} in\n{table}");
        }
        assert!(!table.contains("ramp"));
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [count(0), count(999), count(1_000), count(1_234_567)],
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!([time(5), time(1_500), time(2_000_000)], ["5 µs", "1.50 ms", "2.00 s"]);
    }
}
