//! The table.

use super::Kind::{Counter, Gauge, Histogram};
use super::Source::{By, One, Spread};
use super::{Buckets, Metric, PutNumber, Scrape};
use crate::hub::{Limit, SlowConsumer};
use crate::proto::close::CloseReason;
use crate::proto::command::{ErrorCode, Verb};
use crate::reactor::HANDSHAKE_STATUSES;

/// Microseconds, told as seconds: from some microseconds to half a minute, which a broadcast to a million is within; finer about
/// the tenth of a second and the second, where alerts look.
const LATENCY: Buckets = Buckets {
    bounds: &[
        8, 32, 128, 512, 1_024, 2_048, 4_096, 16_384, 65_536, 98_304, 131_072, 262_144, 524_288, 786_432,
        1_048_576, 2_097_152, 8_388_608, 33_554_432,
    ],
    per_unit: 1e6,
};

/// As [`LATENCY`], for what there is of each core.
const TURN: Buckets =
    Buckets { bounds: &[64, 256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576], per_unit: 1e6 };

/// Bytes of messages.
const SIZE: Buckets = Buckets {
    bounds: &[16, 64, 128, 256, 512, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576, 16_777_216],
    per_unit: 1.0,
};

/// Seconds that connections last: to some six days.
const LIFETIME: Buckets = Buckets {
    bounds: &[1, 4, 16, 64, 128, 256, 512, 1_024, 4_096, 8_192, 16_384, 32_768, 98_304, 524_288],
    per_unit: 1.0,
};

const fn metric(
    name: &'static str,
    kind: super::Kind,
    unit: &'static str,
    help: &'static str,
    source: super::Source,
) -> Metric {
    Metric { name, kind, unit, help, source }
}

/// Rows of a table of counters with their names.
fn each<'a>(names: impl IntoIterator<Item = &'a str>, counts: &[u64], put: PutNumber<'_>) {
    names.into_iter().zip(counts).for_each(|(name, count)| put(&[name], *count as f64));
}

/// A number of cores that each was read at a moment of its own: what one has given up and another not yet taken may be
/// missing, never less than nothing.
fn gauge(sum: u64) -> f64 {
    (sum as i64).max(0) as f64
}

/// Messages received, by type: those on `/echo`, commands, and what was none.
fn received(scrape: &Scrape, put: &mut dyn FnMut(&str, f64)) {
    let hub = &scrape.look.figures;
    put("echo", hub.echoes as f64);
    Verb::ALL.iter().zip(hub.received).for_each(|(verb, count)| put(verb.name(), count as f64));
    put("invalid", hub.invalid as f64);
}

/// Every metric, as protocol.md orders them.
#[rustfmt::skip] // a row a metric
pub(super) const METRICS: &[Metric] = &[
    metric("ws_connections_active", Gauge, "", "WebSocket connections open now.",
        One(|s| gauge(s.look.totals.connections_open))),
    metric("ws_max_connections", Gauge, "", "Connections that may be open at a time; newcomers beyond are refused.",
        One(|s| s.max_connections as f64)),
    metric("ws_connections_total", Counter, "", "WebSocket connections opened.",
        One(|s| s.look.totals.upgraded as f64)),
    metric("ws_reconnections_total", Counter, "", "Sessions that came back with the place in a topic where they stood.",
        One(|s| s.look.figures.reconnections as f64)),
    metric("ws_disconnections_total", Counter, "", "WebSocket connections ended, by close reason.",
        By(&["reason"], |s, put| each(CloseReason::ALL.iter().map(|reason| reason.name()), &s.look.totals.disconnected, put))),
    metric("ws_handshakes_total", Counter, "", "Upgrade requests answered, by HTTP status; 101 was let in.",
        By(&["status"], |s, put| {
            for (status, count) in HANDSHAKE_STATUSES.iter().zip(s.look.totals.handshakes) {
                put(&[&status.to_string()], count as f64);
            }
        })),
    metric("ws_http_responses_total", Counter, "", "Requests on the public listener answered without an upgrade.",
        One(|s| s.look.totals.responses as f64)),
    metric("ws_accepts_total", Counter, "", "TCP connections accepted.",
        One(|s| s.look.totals.accepted as f64)),
    metric("ws_accept_failures_total", Counter, "", "Accepts that the kernel failed.",
        One(|s| s.look.totals.accept_failures as f64)),
    metric("ws_messages_received_total", Counter, "", "Messages received: commands by their type, invalid for what was none, and echo for those on /echo.",
        By(&["type"], |s, put| received(s, &mut |kind, count| put(&[kind], count)))),
    metric("ws_messages_sent_total", Counter, "", "Messages queued to be sent.",
        One(|s| s.look.totals.messages_sent as f64)),
    metric("ws_bytes_received_total", Counter, "bytes", "Bytes received from clients, with frame headers.",
        One(|s| s.look.totals.bytes_received as f64)),
    metric("ws_bytes_sent_total", Counter, "bytes", "Bytes queued to be sent to clients, with frame headers.",
        One(|s| s.look.totals.bytes_sent as f64)),
    metric("ws_message_size_bytes", Histogram, "bytes", "Payload of a message, received (in) or queued to be sent (out).",
        Spread(&["direction"], SIZE, |s, put| {
            put(&["in"], &s.look.totals.received_bytes);
            put(&["out"], &s.look.totals.sent_bytes);
        })),
    metric("ws_message_duration_seconds", Histogram, "seconds", "Handling of a message, from its last byte to the end of what was done at once; about one in 16 is timed.",
        Spread(&[], LATENCY, |s, put| put(&[], &s.look.totals.handling_us))),
    metric("ws_connection_duration_seconds", Histogram, "seconds", "Life of a connection that has ended.",
        Spread(&[], LIFETIME, |s, put| put(&[], &s.look.totals.lifetime_s))),
    metric("ws_heartbeat_latency_seconds", Histogram, "seconds", "From a ping to its pong.",
        Spread(&[], LATENCY, |s, put| put(&[], &s.look.totals.heartbeat_us))),
    metric("ws_delivery_latency_seconds", Histogram, "seconds", "From the publication of a message to its handing over to each subscriber's connection.",
        Spread(&[], LATENCY, |s, put| put(&[], &s.look.figures.delivery_us))),
    metric("ws_send_queue_bytes", Gauge, "bytes", "Bytes that wait because sockets are full.",
        One(|s| gauge(s.look.totals.send_queue_bytes))),
    metric("ws_owed_bytes", Gauge, "bytes", "Bytes of channels kept for subscribers that do not read fast enough.",
        One(|s| gauge(s.look.figures.owed_bytes))),
    metric("ws_owed_budget_bytes", Gauge, "bytes", "What ws_owed_bytes may reach before slow subscribers lose more.",
        One(|s| s.slow_budget_bytes as f64)),
    metric("ws_slow_consumers_total", Counter, "", "Subscribers that began to lose messages or were closed for not reading, by what their topic does with such.",
        By(&["action"], |s, put| each(SlowConsumer::ALL.iter().map(|policy| policy.name()), &s.look.slow(), put))),
    metric("ws_slow_dropped_total", Counter, "", "Messages not given to subscribers that do not read.",
        One(|s| s.look.figures.dropped as f64)),
    metric("ws_slow_gaps_total", Counter, "", "Gaps announced to subscribers in place of what they were not given.",
        One(|s| s.look.figures.gaps as f64)),
    metric("ws_rate_limited_total", Counter, "", "Refusals, by the limit that refused.",
        By(&["kind"], |s, put| each(Limit::ALL.iter().map(|limit| limit.name()), &s.look.figures.refusals, put))),
    metric("ws_errors_total", Counter, "", "Errors told to clients, by their code.",
        By(&["code"], |s, put| each(ErrorCode::ALL.iter().map(|code| code.name()), &s.look.figures.errors, put))),
    metric("ws_sessions", Gauge, "", "Connections that speak the channel protocol.",
        One(|s| gauge(s.look.figures.sessions))),
    metric("ws_users", Gauge, "", "Users with connections.",
        One(|s| gauge(s.look.figures.users))),
    metric("ws_topics", Gauge, "", "Channels and rooms with an order, a history or subscribers.",
        One(|s| gauge(s.look.figures.topics))),
    metric("ws_subscriptions", Gauge, "", "Subscriptions of connections to channels and rooms.",
        One(|s| gauge(s.look.figures.subscriptions))),
    metric("ws_history_bytes", Gauge, "bytes", "Bytes of history.",
        One(|s| gauge(s.look.figures.history_bytes))),
    metric("ws_deliveries_total", Counter, "", "Messages and events given to subscribers.",
        One(|s| s.look.figures.deliveries as f64)),
    metric("ws_mesh_posted_total", Counter, "", "Mail from core to core.",
        One(|s| s.look.totals.mesh_posted as f64)),
    metric("ws_mesh_full_total", Counter, "", "Mail from core to core that found the ring full.",
        One(|s| s.look.totals.mesh_full as f64)),
    metric("ws_memory_rss_bytes", Gauge, "bytes", "Resident memory of the process; the kernel's, of sockets, is not in it.",
        One(|s| s.look.rss_bytes as f64)),
    metric("ws_memory_per_connection_bytes", Gauge, "bytes", "Resident memory by open connections: everything in the process counts, so it tells nothing while they are few.",
        One(|s| s.look.per_connection_bytes())),
    metric("ws_memory_used_bytes", Gauge, "bytes", "Memory in use by that measure (host, control group, memory_budget) which is closest to its end.",
        One(|s| s.look.memory.used_bytes as f64)),
    metric("ws_memory_budget_bytes", Gauge, "bytes", "What there is by the measure of ws_memory_used_bytes; at 90 % newcomers are refused.",
        One(|s| s.look.memory.budget_bytes as f64)),
    metric("ws_load", Gauge, "", "0 to 1: the largest of connections, memory and busiest CPU against their limits.",
        One(|s| s.load)),
    metric("ws_reactor_busy_ratio", Gauge, "ratio", "Part of the last second in which the core's reactor ran.",
        By(&["core"], |s, put| {
            for (index, core) in s.look.cores.iter().enumerate() {
                put(&[&index.to_string()], core.busy());
            }
        })),
    metric("ws_cpu_busy_ratio", Gauge, "ratio", "Part of the last second in which a reactor pinned to the CPU ran, or was ready to and had to wait.",
        By(&["cpu"], |s, put| s.look.cpus.iter().for_each(|cpu| put(&[&cpu.number.to_string()], cpu.busy)))),
    metric("ws_reactor_connections", Gauge, "", "WebSocket connections open on the core.",
        By(&["core"], |s, put| {
            for (index, core) in s.look.cores.iter().enumerate() {
                put(&[&index.to_string()], gauge(core.connections));
            }
        })),
    metric("ws_turn_seconds", Histogram, "seconds", "A turn of the core's reactor: how long it was deaf to anything new.",
        Spread(&["core"], TURN, |s, put| {
            for (index, core) in s.look.cores.iter().enumerate() {
                put(&[&index.to_string()], &core.turn_us);
            }
        })),
    metric("ws_log_dropped_total", Counter, "", "Log lines and events lost because nobody took them fast enough.",
        One(|s| s.log_dropped as f64)),
    metric("ws_log_suppressed_total", Counter, "", "Events left out of the log because there were more of their kind than log_events allows.",
        One(|s| s.look.totals.events_suppressed as f64)),
    metric("ws_draining", Gauge, "", "1 while the server stops, else 0.",
        One(|s| f64::from(u8::from(s.is_draining)))),
    metric("ws_build_info", Gauge, "", "Always 1, with the version.",
        By(&["version"], |_, put| put(&[env!("CARGO_PKG_VERSION")], 1.0))),
    metric("ws_process_cpu_seconds_total", Counter, "seconds", "CPU time of the process, user and kernel.",
        One(|s| s.cpu_seconds)),
    metric("ws_process_open_fds", Gauge, "", "Ordinary file descriptors of the process; client connections have none.",
        One(|s| s.open_fds as f64)),
    metric("ws_process_start_time_seconds", Gauge, "seconds", "When the server started, in seconds since 1970.",
        One(|s| s.started_s)),
];

/// Names in common use for what is served under another name; with `metric_aliases` only.
#[rustfmt::skip]
pub(super) const ALIASES: &[Metric] = &[
    metric("ws_connections_current", Gauge, "", "As ws_connections_active.",
        One(|s| gauge(s.look.totals.connections_open))),
    metric("ws_active_connections", Gauge, "", "As ws_connections_active.",
        One(|s| gauge(s.look.totals.connections_open))),
    metric("ws_messages_total", Counter, "", "As ws_messages_received_total (in) and ws_messages_sent_total (out, of one type).",
        By(&["direction", "type"], |s, put| {
            received(s, &mut |kind, count| put(&["in", kind], count));
            put(&["out", "any"], s.look.totals.messages_sent as f64);
        })),
];
