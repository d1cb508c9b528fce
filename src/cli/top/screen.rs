//! The figures of `/api/info` as text: a screen, or a line.
//!
//! What is not there is shown as `-`: an older server, or a newer one, is shown as far as it goes. Text of the server is
//! shown without its control characters, whoever it is.

use crate::cli::table::grouped;
use serde_json::Value;

/// Cells of a bar.
const BAR: usize = 20;

/// Cores that are shown, the busiest first.
const CORES_MAX: usize = 16;

const LABEL: usize = 13;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Paint {
    Plain,
    Dim,
    Good,
    Warning,
    Bad,
}

impl Paint {
    fn code(self) -> &'static str {
        match self {
            Paint::Plain => "",
            Paint::Dim => "\x1b[2m",
            Paint::Good => "\x1b[32m",
            Paint::Warning => "\x1b[33m",
            Paint::Bad => "\x1b[1;31m",
        }
    }

    /// Of a part of a whole that is full at 1.
    fn of_part(part: f64) -> Paint {
        match part {
            part if part >= 0.95 => Paint::Bad,
            part if part >= 0.8 => Paint::Warning,
            _ => Paint::Good,
        }
    }
}

/// A line in the making: pieces and how they are painted.
struct Line(Vec<(Paint, String)>);

impl Line {
    fn labelled(label: &str) -> Line {
        Line(vec![(Paint::Dim, format!("{label:LABEL$}"))])
    }

    fn add(mut self, text: impl Into<String>) -> Line {
        self.0.push((Paint::Plain, text.into()));
        self
    }

    fn painted(mut self, paint: Paint, text: impl Into<String>) -> Line {
        self.0.push((paint, text.into()));
        self
    }

    /// `#####-----` for a part of a whole.
    fn bar(self, part: f64) -> Line {
        let filled = (part.clamp(0.0, 1.0) * BAR as f64).round() as usize;
        self.painted(Paint::of_part(part), "#".repeat(filled)).painted(Paint::Dim, "-".repeat(BAR - filled))
    }

    /// No wider than so many columns.
    fn written(&self, columns: usize, colour: bool) -> String {
        let (mut written, mut left) = (String::new(), columns);
        for (paint, text) in &self.0 {
            let text = cut(text, left);
            left -= text.chars().count();
            match colour && *paint != Paint::Plain && !text.is_empty() {
                true => written.extend([paint.code(), &text, "\x1b[0m"]),
                false => written.push_str(&text),
            }
        }
        written.trim_end().to_owned()
    }
}

/// As much of a text as fits, without control characters.
fn cut(text: &str, columns: usize) -> String {
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(shown).take(columns).collect()
}

/// One screen.
pub(super) fn screen(info: &Value, columns: usize, colour: bool) -> Vec<String> {
    let mut lines = vec![head(info), load(info), connections(info), messages(info), memory(info)];
    lines.extend(latencies(info));
    lines.extend(cores(info));
    lines.push(counts("closed", info, "/disconnects"));
    lines.push(slow(info));
    lines.push(counts("refused", info, "/rate_limited"));
    lines.push(counts("errors", info, "/errors"));
    lines.push(counts("hub", info, "/hub"));
    lines.push(counts("log left out", info, "/logs"));
    lines.extend(drain(info));
    lines.iter().map(|line| line.written(columns, colour)).collect()
}

/// What stands below a screen that is drawn again and again.
pub(super) fn status(problem: Option<&str>, columns: usize, colour: bool) -> String {
    let line = Line(Vec::new());
    let line = match problem {
        Some(problem) => line.painted(Paint::Bad, format!("no answer: {problem}")),
        None => line.add("q ends"),
    };
    line.written(columns, colour)
}

/// One line: names and values, the same in every line.
pub(super) fn line(info: &Value) -> String {
    let columns = [
        ("connections", "/connections/active"),
        ("messages_in", "/rates/messages_in"),
        ("messages_out", "/rates/messages_out"),
        ("bytes_in", "/rates/bytes_in"),
        ("bytes_out", "/rates/bytes_out"),
        ("rss_bytes", "/memory/rss_bytes"),
    ]
    .map(|(name, at)| (name, number(info, at)));
    let latencies = [("message_p99_us", "message"), ("delivery_p99_us", "delivery")]
        .map(|(name, kind)| (name, latency_us(info, kind, "p99")));
    let pair = |(name, value): &(&str, Option<f64>)| {
        format!(" {name}={}", value.map_or("-".to_owned(), |value| format!("{value:.0}")))
    };
    let pairs: String = columns.iter().chain(&latencies).map(pair).collect();
    let load = number(info, "/load").map_or("-".to_owned(), |load| format!("{load:.2}"));
    format!("state={} load={load}{pairs}", text(info, "/state"))
}

fn number(info: &Value, at: &str) -> Option<f64> {
    info.pointer(at).and_then(Value::as_f64)
}

fn text(info: &Value, at: &str) -> String {
    cut(info.pointer(at).and_then(Value::as_str).unwrap_or("-"), usize::MAX)
}

fn count(info: &Value, at: &str) -> String {
    number(info, at).map_or("-".to_owned(), |value| grouped(value.round().max(0.0) as u64))
}

fn bytes(info: &Value, at: &str) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let Some(mut value) = number(info, at) else { return "-".to_owned() };
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{value:.0} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

fn head(info: &Value) -> Line {
    let state = text(info, "/state");
    let paint = match &*state {
        "ready" => Paint::Good,
        "full" | "shedding" => Paint::Bad,
        _ => Paint::Warning,
    };
    let up_s = number(info, "/uptime_s").unwrap_or(0.0) as u64;
    let up = format!("{}d {:02}:{:02}:{:02}", up_s / 86_400, up_s / 3_600 % 24, up_s / 60 % 60, up_s % 60);
    let name = format!("{} ", text(info, "/server_id"));
    let about = format!("  megasock {} on {}, up {up}", text(info, "/version"), text(info, "/listen"));
    Line(Vec::new()).add(name).painted(paint, state).painted(Paint::Dim, about)
}

fn load(info: &Value) -> Line {
    let load = number(info, "/load").unwrap_or(0.0);
    let percent = |at| number(info, at).map_or("-".to_owned(), |part| format!("{:.0} %", part * 100.0));
    let parts = format!(
        "  {}  of connections {}, memory {}, busiest CPU {}",
        percent("/load"),
        percent("/load_parts/connections"),
        percent("/load_parts/memory"),
        percent("/load_parts/cores")
    );
    Line::labelled("load").bar(load).add(parts)
}

fn connections(info: &Value) -> Line {
    Line::labelled("connections").add(format!(
        "{} of {}  +{}/s -{}/s  {} since the start, {} of them came back",
        count(info, "/connections/active"),
        count(info, "/connections/max"),
        count(info, "/rates/connects"),
        count(info, "/rates/disconnects"),
        count(info, "/connections/total"),
        count(info, "/connections/reconnections"),
    ))
}

fn messages(info: &Value) -> Line {
    Line::labelled("messages").add(format!(
        "in {}/s, {}/s  out {}/s, {}/s",
        count(info, "/rates/messages_in"),
        bytes(info, "/rates/bytes_in"),
        count(info, "/rates/messages_out"),
        bytes(info, "/rates/bytes_out"),
    ))
}

fn memory(info: &Value) -> Line {
    let pressure = text(info, "/memory/pressure");
    let paint = if pressure == "calm" { Paint::Good } else { Paint::Bad };
    let sizes = format!(
        "{} of {}  {} resident, {} a connection (budget {})  ",
        bytes(info, "/memory/used_bytes"),
        bytes(info, "/memory/budget_bytes"),
        bytes(info, "/memory/rss_bytes"),
        bytes(info, "/memory/per_connection_bytes"),
        bytes(info, "/memory/per_connection_budget_bytes"),
    );
    Line::labelled("memory").add(sizes).painted(paint, pressure)
}

/// Unknown where nothing was measured, for which the server has 0.
fn latency_us(info: &Value, kind: &str, part: &str) -> Option<f64> {
    let of_kind = info.pointer("/latency_us")?.get(kind)?;
    let is_measured = number(of_kind, "/count") != Some(0.0);
    of_kind.get(part).and_then(Value::as_f64).filter(|_| is_measured)
}

/// Median, 99 % and 99.9 %, two kinds a line.
fn latencies(info: &Value) -> Vec<Line> {
    let one = |kind: &str| {
        let part = |part: &str| match latency_us(info, kind, part) {
            None => "-".to_owned(),
            Some(us) if us < 10_000.0 => format!("{us:.0} us"),
            Some(us) => format!("{:.0} ms", us / 1_000.0),
        };
        format!("{kind:9} {:>8} {:>8} {:>8}  ", part("p50"), part("p99"), part("p999"))
    };
    let first = Line::labelled("p50 p99 p99.9").add("  ").add(one("message")).add(one("delivery"));
    let second = Line::labelled("").add("  ").add(one("heartbeat")).add(one("turn"));
    vec![first, second]
}

fn cores(info: &Value) -> Vec<Line> {
    let none = Vec::new();
    let mut cores: Vec<&Value> = info.get("core").and_then(Value::as_array).unwrap_or(&none).iter().collect();
    let busy = |core: &Value| number(core, "/busy").unwrap_or(0.0);
    if cores.len() > CORES_MAX {
        cores.sort_by(|one, other| busy(other).total_cmp(&busy(one)));
    }
    let left_out = cores.len().saturating_sub(CORES_MAX);
    let mut lines: Vec<Line> = cores.iter().take(CORES_MAX).map(|core| core_line(core, busy(core))).collect();
    if left_out > 0 {
        lines.push(Line::labelled("").painted(Paint::Dim, format!("and {left_out} that are less busy")));
    }
    lines
}

fn core_line(core: &Value, busy: f64) -> Line {
    // No turn takes 0: none was measured.
    let turn_us = number(core, "/turn_p99_us").filter(|us| *us > 0.0);
    let turn = turn_us.map_or("-".to_owned(), |us| format!("{} us", grouped(us as u64)));
    let connections = count(core, "/connections");
    let figures = format!(" {:>3.0} %  {connections} connections, turn p99 {turn}", busy * 100.0);
    Line::labelled(&format!("core {}", count(core, "/core"))).bar(busy).add(figures)
}

fn slow(info: &Value) -> Line {
    let owed =
        format!("  owed {} of {}", bytes(info, "/slow/owed_bytes"), bytes(info, "/slow/owed_budget_bytes"));
    let losses = ["dropped", "gaps", "disconnected"].map(|name| {
        let lost = number(info, &format!("/slow/{name}")).unwrap_or(0.0);
        let paint = if lost > 0.0 { Paint::Warning } else { Paint::Plain };
        (paint, format!("{name} {}  ", count(info, &format!("/slow/{name}"))))
    });
    let mut line = Line::labelled("slow");
    line.0.extend(losses);
    line.add(owed.trim_start())
}

/// Names and counts of an object, the largest first, those that are 0 left out.
fn counts(label: &str, info: &Value, at: &str) -> Line {
    let Some(object) = info.pointer(at).and_then(Value::as_object) else {
        return Line::labelled(label).add("-");
    };
    let value = |value: &Value| value.as_u64().unwrap_or(0);
    let mut rows: Vec<(&String, u64)> = object.iter().map(|(name, count)| (name, value(count))).collect();
    rows.retain(|(_, count)| *count > 0);
    rows.sort_by_key(|(_, count)| u64::MAX - count);
    match rows.is_empty() {
        true => Line::labelled(label).painted(Paint::Dim, "none"),
        false => {
            let row = |(name, count): &(&String, u64)| format!("{name} {}", grouped(*count));
            Line::labelled(label).add(rows.iter().map(row).collect::<Vec<_>>().join("  "))
        }
    }
}

fn drain(info: &Value) -> Option<Line> {
    let drain = info.get("drain").filter(|drain| drain.is_object())?;
    let progress = format!(
        "{} of {} told, {} closed, {} s left",
        count(drain, "/told"),
        count(drain, "/clients"),
        count(drain, "/closed"),
        count(drain, "/seconds_left")
    );
    Some(Line::labelled("stopping").painted(Paint::Warning, progress))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn info() -> Value {
        json!({
            "server_id": "n1", "version": "0.1.0", "uptime_s": 93_784.5, "state": "ready", "listen": "0.0.0.0:8080",
            "connections": {"active": 100_000, "max": 1_000_000, "total": 123_456, "reconnections": 12},
            "load": 0.42, "load_parts": {"connections": 0.1, "memory": 0.2, "cores": 0.42},
            "memory": {"rss_bytes": 13_000_000, "per_connection_bytes": 121, "per_connection_budget_bytes": 256,
                "used_bytes": 1 << 30, "budget_bytes": 5u64 << 30, "pressure": "calm"},
            "rates": {"messages_in": 1_500.4, "messages_out": 2.0, "bytes_in": 2_048.0, "bytes_out": 1.0, "connects": 3.0,
                "disconnects": 0.0},
            "latency_us": {"message": {"count": 1, "p50": 3, "p99": 250, "p999": 12_345},
                "delivery": {"count": 0, "p50": 0, "p99": 0, "p999": 0}},
            "core": [{"core": 0, "busy": 0.5, "connections": 50_000, "turn_p99_us": 120}],
            "disconnects": {"client_closed": 12, "shed": 0, "protocol_error": 2_000},
            "slow": {"dropped": 1, "gaps": 0, "disconnected": 0, "owed_bytes": 1, "owed_budget_bytes": 2_097_152},
            "rate_limited": {}, "drain": null, "logs": {"dropped": 0, "suppressed": 0},
        })
    }

    #[test]
    fn a_screen_has_every_figure_where_it_belongs() {
        let screen = screen(&info(), 200, false);
        for line in [
            "n1 ready  megasock 0.1.0 on 0.0.0.0:8080, up 1d 02:03:04",
            "load         ########------------  42 %  of connections 10 %, memory 20 %, busiest CPU 42 %",
            "connections  100,000 of 1,000,000  +3/s -0/s  123,456 since the start, 12 of them came back",
            "messages     in 1,500/s, 2.0 KiB/s  out 2/s, 1 B/s",
            "memory       1.0 GiB of 5.0 GiB  12.4 MiB resident, 121 B a connection (budget 256 B)  calm",
            "p50 p99 p99.9  message       3 us   250 us    12 ms  delivery         -        -        -",
            "core 0       ##########----------  50 %  50,000 connections, turn p99 120 us",
            "closed       protocol_error 2,000  client_closed 12",
            "slow         dropped 1  gaps 0  disconnected 0  owed 1 B of 2.0 MiB",
            "refused      none",
            "errors       -",
            "log left out none",
        ] {
            assert!(screen.iter().any(|shown| shown == line), "{line:?} is not in:\n{}", screen.join("\n"));
        }
        assert!(!screen.iter().any(|line| line.starts_with("stopping")));
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_and_colour_takes_no_room() {
        for columns in [0, 1, 20, 80] {
            let plain = screen(&info(), columns, false);
            assert!(plain.iter().all(|line| line.chars().count() <= columns), "{columns}: {plain:#?}");
            assert!(!plain.concat().contains('\x1b'));
            let painted = screen(&info(), columns, true);
            let stripped = painted.iter().map(|line| {
                let parts = line.split('\x1b').enumerate();
                let unpainted =
                    parts.map(|(at, part)| if at == 0 { part } else { part.split_once('m').unwrap().1 });
                unpainted.collect::<String>().trim_end().to_owned()
            });
            assert_eq!(stripped.collect::<Vec<_>>(), plain);
        }
    }

    #[test]
    fn figures_of_before_have_a_line_below_that_says_so() {
        assert_eq!(status(None, 80, true), "q ends");
        assert_eq!(status(Some("gone\nfix"), 80, false), "no answer: gone fix");
        assert_eq!(status(Some("gone"), 9, true), "\x1b[1;31mno answer\x1b[0m");
    }

    #[test]
    fn a_drain_shows_and_many_cores_are_the_busiest() {
        let mut info = info();
        info["drain"] = json!({"clients": 10, "told": 9, "closed": 8, "seconds_left": 7});
        info["core"] = (0..60).map(|core| json!({"core": core, "busy": f64::from(core) / 60.0})).collect();
        let screen = screen(&info, 120, false);
        assert!(screen.contains(&"stopping     9 of 10 told, 8 closed, 7 s left".to_owned()));
        assert!(
            screen.iter().any(|line| line.starts_with("core 59 ")) && !screen.concat().contains("core 43 ")
        );
        assert!(screen.iter().any(|line| line.trim() == "and 44 that are less busy"));
    }

    #[test]
    fn what_was_not_measured_is_no_zero() {
        let mut info = info();
        info["core"][0]["turn_p99_us"] = json!(0);
        let line = "core 0       ##########----------  50 %  50,000 connections, turn p99 -";
        assert!(screen(&info, 120, false).iter().any(|shown| shown == line));
    }

    #[test]
    fn what_is_missing_or_hostile_is_shown_harmlessly() {
        for strange in [json!({}), json!([]), json!({"core": 7, "load": "high", "errors": [], "drain": {}})] {
            assert!(screen(&strange, 80, false).iter().any(|line| line.starts_with("connections  - of -")));
        }
        let forged = json!({"server_id": "a\u{1b}[2Jb\nc\u{9b}", "state": "\u{7}"});
        let screen = screen(&forged, 80, true);
        assert!(screen[0].starts_with("a [2Jb c  "), "{:?}", screen[0]);
        assert_eq!(line(&forged).lines().count(), 1);
    }

    #[test]
    fn a_line_has_the_same_names_always() {
        let (full, empty) = (line(&info()), line(&json!({})));
        assert!(full.starts_with("state=ready load=0.42 connections=100000 messages_in=1500 "), "{full}");
        assert!(full.ends_with(" message_p99_us=250 delivery_p99_us=-"), "{full}");
        let names =
            |line: &str| line.split(' ').map(|pair| pair.split('=').next().unwrap().to_owned()).collect();
        let (full, empty): (Vec<String>, Vec<String>) = (names(&full), names(&empty));
        assert_eq!(full, empty);
    }
}
