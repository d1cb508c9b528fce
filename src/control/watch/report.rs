//! What was seen, as `/api/info` and `/api/series` tell it.

use super::{CoreLook, Load, Look, POINTS_MAX, Point, Rates, STEP, State, Watch};
use crate::budget::RSS_PER_CONNECTION_MAX;
use crate::ds::Distribution;
use crate::hub::{Figures, Limit, SlowConsumer};
use crate::proto::close::CloseReason;
use crate::proto::command::ErrorCode;
use crate::reactor::Pressure;
use crate::server::Stopping;
use crate::sys::clock::unix_ms;
use serde_json::{Map, Value, json};
use std::time::Instant;

impl Watch {
    /// The body of `GET /api/info`: the server at the last look, at most a second ago.
    pub fn info(&self) -> Value {
        let past = self.past.borrow();
        let (look, oldest) = (past.now(), past.oldest());
        let (totals, figures) = (&look.totals, &look.figures);
        let settings = &self.operator.settings;
        let stopping = self.operator.handle.stopping();
        let load = Load::of(look, settings.max_connections);
        json!({
            "server_id": settings.server_id,
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_s": rounded(self.started.elapsed().as_secs_f64()),
            "now_ms": unix_ms(),
            "state": State::of(look, settings.max_connections, stopping.as_ref()).name(),
            "listen": self.operator.handle.local_address().to_string(),
            "cores": look.cores.len(),
            "connections": {
                "active": totals.connections_open, "max": settings.max_connections, "total": totals.upgraded,
                "reconnections": figures.reconnections,
            },
            "load": rounded(load.largest()),
            "load_parts": {
                "connections": rounded(load.connections), "memory": rounded(load.memory), "cores": rounded(load.cores),
            },
            "memory": memory(look),
            "rates": rates(past.rates()),
            "totals": {
                "messages_in": totals.messages_received, "messages_out": totals.messages_sent,
                "bytes_in": totals.bytes_received, "bytes_out": totals.bytes_sent,
            },
            "latency_us": {
                "message": latency(&totals.handling_us, &oldest.totals.handling_us),
                "delivery": latency(&figures.delivery_us, &oldest.figures.delivery_us),
                "heartbeat": latency(&totals.heartbeat_us, &oldest.totals.heartbeat_us),
                "turn": latency(&totals.turn_us, &oldest.totals.turn_us),
            },
            "core": cores(look, oldest),
            "cpu": cpus(look),
            "disconnects": counts(CloseReason::ALL.map(CloseReason::name), totals.disconnected),
            "slow": slow(look, self.operator.slow_budget_bytes()),
            "rate_limited": counts(Limit::ALL.map(Limit::name), figures.refusals),
            "errors": counts(ErrorCode::ALL.map(ErrorCode::name), figures.errors),
            "hub": hub(figures),
            "drain": stopping.map(|stopping| drain(&stopping, totals.drain_told, totals.connections_open)),
            "logs": {
                "dropped": totals.events_dropped + self.operator.log.dropped(), "suppressed": totals.events_suppressed,
            },
        })
    }

    /// The body of `GET /api/series`: so many seconds, oldest first, or as many as there are.
    pub fn series(&self, seconds: usize) -> Value {
        let past = self.past.borrow();
        let points = past.points.iter().skip(past.points.len().saturating_sub(seconds.min(POINTS_MAX)));
        let curve =
            |of: fn(&Point) -> f64| -> Vec<f64> { points.clone().map(|point| rounded(of(point))).collect() };
        let number = |of: fn(&Point) -> u64| -> Vec<u64> { points.clone().map(of).collect() };
        json!({
            "step_s": STEP.as_secs(),
            "to_ms": unix_ms().saturating_sub(past.now().at.elapsed().as_millis() as u64),
            "series": {
                "connections": number(|point| point.connections),
                "messages_in": curve(|point| point.rates.messages_in),
                "messages_out": curve(|point| point.rates.messages_out),
                "bytes_in": curve(|point| point.rates.bytes_in),
                "bytes_out": curve(|point| point.rates.bytes_out),
                "busy": curve(|point| point.busy),
                "latency_p99_us": number(|point| point.latency_p99_us),
                "delivery_p99_us": number(|point| point.delivery_p99_us),
                "heartbeat_p99_us": number(|point| point.heartbeat_p99_us),
                "connects": curve(|point| point.rates.connects),
                "disconnects": curve(|point| point.rates.disconnects),
            },
        })
    }
}

fn memory(look: &Look) -> Value {
    json!({
        "rss_bytes": look.rss_bytes,
        "per_connection_bytes": look.per_connection_bytes().round() as u64,
        "per_connection_budget_bytes": RSS_PER_CONNECTION_MAX,
        "used_bytes": look.memory.used_bytes,
        "budget_bytes": look.memory.budget_bytes,
        "pressure": pressure(look.memory.pressure),
    })
}

fn rates(rates: Rates) -> Value {
    json!({
        "messages_in": rounded(rates.messages_in),
        "messages_out": rounded(rates.messages_out),
        "bytes_in": rounded(rates.bytes_in),
        "bytes_out": rounded(rates.bytes_out),
        "connects": rounded(rates.connects),
        "disconnects": rounded(rates.disconnects),
    })
}

/// Of each core by itself.
fn cores(look: &Look, oldest: &Look) -> Vec<Value> {
    let pairs = look.cores.iter().zip(&oldest.cores).enumerate();
    let core = |(index, (now, before)): (usize, (&CoreLook, &CoreLook))| {
        json!({
            "core": index,
            "busy": now.busy(),
            "connections": now.connections,
            "turn_p99_us": now.turn_us.since(&before.turn_us).quantile(0.99),
        })
    };
    pairs.map(core).collect()
}

/// Of each CPU that cores are pinned to.
fn cpus(look: &Look) -> Vec<Value> {
    look.cpus.iter().map(|cpu| json!({"cpu": cpu.number, "busy": rounded(cpu.busy)})).collect()
}

fn slow(look: &Look, budget_bytes: u64) -> Value {
    let figures = &look.figures;
    json!({
        "dropped": figures.dropped,
        "gaps": figures.gaps,
        "disconnected": look.slow()[SlowConsumer::Disconnect as usize],
        "owed_bytes": figures.owed_bytes,
        "owed_budget_bytes": budget_bytes,
    })
}

fn hub(figures: &Figures) -> Value {
    json!({
        "sessions": figures.sessions,
        "users": figures.users,
        "topics": figures.topics,
        "subscriptions": figures.subscriptions,
        "history_bytes": figures.history_bytes,
        "deliveries": figures.deliveries,
    })
}

fn latency(now: &Distribution, before: &Distribution) -> Value {
    let recent = now.since(before);
    json!({
        "count": recent.count(), "p50": recent.quantile(0.5), "p99": recent.quantile(0.99),
        "p999": recent.quantile(0.999),
    })
}

/// What has happened at all, by its name.
fn counts<const ROWS: usize>(names: [&'static str; ROWS], counts: [u64; ROWS]) -> Value {
    let pairs = names.into_iter().zip(counts).filter(|(_, count)| *count > 0);
    Value::Object(pairs.map(|(name, count)| (name.to_owned(), count.into())).collect::<Map<_, _>>())
}

fn drain(stopping: &Stopping, told: u64, open: u64) -> Value {
    json!({
        "clients": stopping.clients,
        "told": told.min(stopping.clients),
        "closed": stopping.clients.saturating_sub(open),
        "seconds_left": stopping.deadline.saturating_duration_since(Instant::now()).as_secs(),
    })
}

const fn pressure(pressure: Pressure) -> &'static str {
    match pressure {
        Pressure::Calm => "calm",
        Pressure::Near => "near",
        Pressure::Over => "over",
        Pressure::FarOver => "far_over",
    }
}

/// To thousandths: what follows is noise, and bytes.
fn rounded(number: f64) -> f64 {
    (number * 1_000.0).round() / 1_000.0
}
