//! report.json and report.html. The page is one file that needs nothing else: table, plots, settings.

use super::guard::Homecoming;
use super::{Report, method, plot, table};
use serde::Serialize;
use serde_json::{Map, Value};
use std::fmt::Write;
use std::path::Path;

const STYLE: &str = include_str!("page.css");

/// report.json: the report, and how its figures were measured.
#[derive(Serialize)]
struct Written<'a> {
    #[serde(flatten)]
    report: &'a Report,
    method: Map<String, Value>,
}

/// Writes both files into `out`; returns their paths.
pub(crate) fn write(report: &Report, out: &Path) -> Result<[String; 2], String> {
    let method = method::of(&serde_json::to_value(report).map_err(|error| error.to_string())?);
    let page = html(report, &method);
    let json =
        serde_json::to_string_pretty(&Written { report, method }).map_err(|error| error.to_string())?;
    let files = [("report.json", json), ("report.html", page)];
    let written = files.map(|(name, text)| {
        let path = out.join(name);
        let shown = path.display().to_string();
        std::fs::write(&path, text).map(|()| shown.clone()).map_err(|error| format!("{shown}: {error}"))
    });
    let [json, html] = written;
    Ok([json?, html?])
}

fn html(report: &Report, method: &Map<String, Value>) -> String {
    let opened = report.connections.as_ref().map_or(0, |connections| connections.opened);
    let title = format!("{} WebSocket connections", table::count(opened));
    let mut body = format!("<h1>{title}</h1>\n<p class=\"where\">{}</p>\n", escape(&place(report)));
    if report.interrupted {
        body += "<p class=\"note\">Ended by hand: this is what was measured until then.</p>\n";
    }
    body += &figures(report);
    let broken = report.broken.iter().map(|bound| format!("Broken: {bound}"));
    for note in broken.chain(report.notes.iter().cloned()) {
        // Writing to a String cannot fail.
        let _ = writeln!(body, "<p class=\"note\">{}</p>", escape(&note));
    }
    let plots = [
        ("Ramp", plot::ramp(&report.timeline)),
        ("Memory", plot::memory(&report.timeline)),
        ("Latency", plot::latency(&report.echo_latency)),
        ("Coming back", homecoming(report).and_then(plot::homecoming)),
    ];
    for (name, svg) in plots {
        if let Some(svg) = svg {
            let _ = writeln!(body, "<h2>{name}</h2>\n<figure>{svg}</figure>");
        }
    }
    body += &settings(report);
    body += "<h2>How it was measured</h2>\n<dl>";
    for (block, how) in method {
        let _ =
            write!(body, "<dt>{}</dt><dd>{}</dd>", escape(block), escape(how.as_str().unwrap_or_default()));
    }
    body += "</dl>\n";
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )
}

/// Of the row that has one.
fn homecoming(report: &Report) -> Option<&Homecoming> {
    let storm = report.storm.as_ref().and_then(|storm| storm.homecoming.as_ref());
    storm.or(report.drain.as_ref().map(|drain| &drain.homecoming))
}

fn place(report: &Report) -> String {
    let host = &report.host;
    let gib = host.memory_bytes as f64 / f64::from(1 << 30);
    let date = report.date.replace('T', " ").replace('Z', " UTC");
    format!("{date} · Linux {} · {} cores · {gib:.0} GB", host.kernel, host.cores)
}

fn figures(report: &Report) -> String {
    let mut rows = String::new();
    for row in table::rows(report) {
        let [name, value, remark] = row.map(|cell| escape(&cell));
        let _ = writeln!(rows, "<tr><th scope=\"row\">{name}</th><td>{value}</td><td>{remark}</td></tr>");
    }
    format!("<table>\n{rows}</table>\n")
}

fn settings(report: &Report) -> String {
    let settings = &report.settings;
    let mut pairs = vec![
        ("row", report.row.clone()),
        ("c1m", report.version.to_owned()),
        ("server", settings.url.clone()),
        ("driver", format!("{} rings on cores {}", settings.rings, settings.driver_cores)),
        ("handshakes in flight", settings.in_flight.to_string()),
        ("payload", format!("{} B", settings.payload_bytes)),
        ("RLIMIT_NOFILE", table::count(report.host.nofile)),
    ];
    if let (Some(reactors), Some(cores)) = (settings.reactors, &settings.server_cores) {
        pairs.push(("reactors", format!("{reactors} on cores {cores}")));
    }
    if let Some(buckets) = report.host.tcp_hash_buckets {
        pairs.push(("TCP hash", format!("{} buckets", table::count(buckets))));
    }
    let mut list = String::new();
    for (name, value) in pairs {
        let _ = write!(list, "<dt>{name}</dt><dd>{}</dd>", escape(&value));
    }
    format!("<h2>Settings</h2>\n<dl>{list}</dl>\n")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_stands_alone_and_escapes_what_it_is_given() {
        let notes = vec!["<script>".into()];
        let report = Report { notes, broken: vec!["a & b".into()], ..Report::default() };
        let page = html(&report, &Map::new());
        assert!(page.contains("&lt;script&gt;") && !page.contains("<script"));
        assert!(page.contains("Broken: a &amp; b"));
        for outside in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
