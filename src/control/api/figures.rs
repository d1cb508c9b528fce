//! What the server has and does: the metrics, the figures of the dashboard, and how they are described.

use super::arguments::Arguments;
use super::fault::Fault;
use super::ok;
use super::shape::Shape;
use crate::control::http::{Answer, Request};
use crate::control::metrics;
use crate::control::routes::Routes;
use ::http::StatusCode;
use ::http::header::ACCEPT;

const COUNTS: Shape = Shape::Map(&Shape::Count);

/// Over the last ten seconds, in microseconds.
const LATENCY: Shape = Shape::Object(&[
    ("count", Shape::Count),
    ("p50", Shape::Count),
    ("p99", Shape::Count),
    ("p999", Shape::Count),
]);

const CONNECTIONS: Shape = Shape::Object(&[
    ("active", Shape::Count),
    ("max", Shape::Count),
    ("total", Shape::Count),
    ("reconnections", Shape::Count),
]);

const LOAD_PARTS: Shape =
    Shape::Object(&[("connections", Shape::Number), ("memory", Shape::Number), ("cores", Shape::Number)]);

const MEMORY: Shape = Shape::Object(&[
    ("rss_bytes", Shape::Count),
    ("per_connection_bytes", Shape::Count),
    ("per_connection_budget_bytes", Shape::Count),
    ("used_bytes", Shape::Count),
    ("budget_bytes", Shape::Count),
    ("pressure", Shape::Text),
]);

const RATES: Shape = Shape::Object(&[
    ("messages_in", Shape::Number),
    ("messages_out", Shape::Number),
    ("bytes_in", Shape::Number),
    ("bytes_out", Shape::Number),
    ("connects", Shape::Number),
    ("disconnects", Shape::Number),
]);

const TOTALS: Shape = Shape::Object(&[
    ("messages_in", Shape::Count),
    ("messages_out", Shape::Count),
    ("bytes_in", Shape::Count),
    ("bytes_out", Shape::Count),
]);

const LATENCIES: Shape =
    Shape::Object(&[("message", LATENCY), ("delivery", LATENCY), ("heartbeat", LATENCY), ("turn", LATENCY)]);

const CORE: Shape = Shape::Object(&[
    ("core", Shape::Count),
    ("busy", Shape::Number),
    ("connections", Shape::Count),
    ("turn_p99_us", Shape::Count),
]);

const CPU: Shape = Shape::Object(&[("cpu", Shape::Count), ("busy", Shape::Number)]);

const SLOW: Shape = Shape::Object(&[
    ("dropped", Shape::Count),
    ("gaps", Shape::Count),
    ("disconnected", Shape::Count),
    ("owed_bytes", Shape::Count),
    ("owed_budget_bytes", Shape::Count),
]);

const HUB: Shape = Shape::Object(&[
    ("sessions", Shape::Count),
    ("users", Shape::Count),
    ("topics", Shape::Count),
    ("subscriptions", Shape::Count),
    ("history_bytes", Shape::Count),
    ("deliveries", Shape::Count),
]);

const DRAIN: Shape = Shape::Object(&[
    ("clients", Shape::Count),
    ("told", Shape::Count),
    ("closed", Shape::Count),
    ("seconds_left", Shape::Count),
]);

pub const INFO: Shape = Shape::Object(&[
    ("server_id", Shape::Text),
    ("version", Shape::Text),
    ("uptime_s", Shape::Number),
    ("now_ms", Shape::Count),
    ("state", Shape::Text),
    ("listen", Shape::Text),
    ("cores", Shape::Count),
    ("connections", CONNECTIONS),
    ("load", Shape::Number),
    ("load_parts", LOAD_PARTS),
    ("memory", MEMORY),
    ("rates", RATES),
    ("totals", TOTALS),
    ("latency_us", LATENCIES),
    ("core", Shape::List(&CORE)),
    ("cpu", Shape::List(&CPU)),
    ("disconnects", COUNTS),
    ("slow", SLOW),
    ("rate_limited", COUNTS),
    ("errors", COUNTS),
    ("hub", HUB),
    ("drain", Shape::OrNull(&DRAIN)),
    ("logs", Shape::Object(&[("dropped", Shape::Count), ("suppressed", Shape::Count)])),
]);

pub const SERIES: Shape = Shape::Object(&[
    ("step_s", Shape::Count),
    ("to_ms", Shape::Count),
    ("series", Shape::Map(&Shape::List(&Shape::Number))),
]);

pub async fn info(routes: &Routes, _: Arguments) -> Result<Answer, Fault> {
    Ok(ok(&routes.watch.info()))
}

pub async fn series(routes: &Routes, arguments: Arguments) -> Result<Answer, Fault> {
    let seconds = arguments.number("seconds").map_or(usize::MAX, |seconds| seconds as usize);
    Ok(ok(&routes.watch.series(seconds)))
}

/// In the format that the asker accepts.
pub fn metrics(routes: &Routes, request: &Request) -> Answer {
    let accept = request.headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or("");
    let format = metrics::Format::accepted(accept);
    let text = metrics::write(&routes.watch.scrape(), routes.operator.metric_aliases(), format);
    Answer { content_type: format.content_type(), ..Answer::text(StatusCode::OK, text) }
}
