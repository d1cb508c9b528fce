//! What clients that come back saw, after a cut or a drain; and honest clients beside attackers. The blocks of report.json
//! and their lines in the table.

use super::table::{count, time};
use super::{Report, median};
use crate::arrivals::Arrivals;
use crate::ring::Returns;
use serde::Serialize;
use std::collections::BTreeMap;

/// Clients that went away and came back by the JS client's schedule.
#[derive(Serialize, Clone, Default)]
pub(crate) struct Homecoming {
    pub(crate) clients: u64,
    pub(crate) returned: u64,
    pub(crate) attempts: u64,
    pub(crate) attempts_per_client: f64,
    pub(crate) attempts_per_client_max: u64,
    /// By a 429 or 503 with Retry-After; in a frame with a delay; in any other way, which must not be.
    pub(crate) refused_retry_after: u64,
    pub(crate) refused_in_band: u64,
    pub(crate) refused_unannounced: u64,
    /// Told to stay away.
    pub(crate) stopped: u64,
    /// Clients welcomed, at most, in a second and in a tenth of one, as the driver saw it; and of those of a second the ones
    /// that asked in it too, so that the server did welcome them in it.
    pub(crate) peak_1s: u64,
    pub(crate) peak_100ms: u64,
    pub(crate) peak_1s_certain: u64,
    /// What the server was told to keep to, and the worst second over it, as seen and for certain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) limit_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peak_over_limit: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) certain_over_limit: Option<f64>,
    /// From a client's cut to its being back.
    pub(crate) away_p50_ms: u64,
    pub(crate) away_p99_ms: u64,
    pub(crate) away_max_ms: u64,
    pub(crate) attempts_per_100ms: Arrivals,
    pub(crate) welcomed_per_100ms: Arrivals,
}

impl Homecoming {
    pub(crate) fn of(clients: u64, mut returns: Returns, limit_per_second: Option<f64>) -> Homecoming {
        returns.away_ms.sort_unstable();
        let away = |quantile: f64| {
            let last = returns.away_ms.len().saturating_sub(1);
            returns.away_ms.get((last as f64 * quantile) as usize).copied().unwrap_or(0).into()
        };
        let [peak_1s, peak_1s_certain] = [returns.welcomed.peak_1s(), returns.answered.peak_1s()];
        let over = |peak: u64| limit_per_second.map(|limit| peak as f64 / limit);
        Homecoming {
            clients,
            returned: returns.away_ms.len() as u64,
            attempts: returns.attempts,
            attempts_per_client: returns.attempts as f64 / clients.max(1) as f64,
            attempts_per_client_max: returns.attempts_most,
            refused_retry_after: returns.refused_retry_after,
            refused_in_band: returns.refused_in_band,
            refused_unannounced: returns.refused_unannounced,
            stopped: returns.stopped,
            peak_1s,
            peak_100ms: returns.welcomed.peak_100ms(),
            peak_1s_certain,
            limit_per_second,
            peak_over_limit: over(peak_1s),
            certain_over_limit: over(peak_1s_certain),
            away_p50_ms: away(0.5),
            away_p99_ms: away(0.99),
            away_max_ms: away(1.0),
            attempts_per_100ms: returns.began,
            welcomed_per_100ms: returns.welcomed,
        }
    }

    fn rows(&self, row: &mut impl FnMut(&str, String, String)) {
        let each =
            format!("{:.2} a client, at most {}", self.attempts_per_client, self.attempts_per_client_max);
        row("attempts", count(self.attempts), each);
        let announced = self.refused_retry_after + self.refused_in_band;
        let how = format!(
            "{} with Retry-After, {} in band; unannounced {}",
            count(self.refused_retry_after),
            count(self.refused_in_band),
            count(self.refused_unannounced)
        );
        row("refused", count(announced + self.refused_unannounced), how);
        let limit = match (self.limit_per_second, self.peak_over_limit, self.certain_over_limit) {
            (Some(limit), Some(seen), Some(certain)) => {
                format!("; {seen:.2} of the limit {}/s, {certain:.2} for certain", count(limit as u64))
            }
            _ => String::new(),
        };
        let burst = format!(
            "{} for certain, {} in 100 ms{limit}",
            count(self.peak_1s_certain),
            count(self.peak_100ms)
        );
        row("welcomed in the worst second", count(self.peak_1s), burst);
        let [p50, p99, max] =
            [self.away_p50_ms, self.away_p99_ms, self.away_max_ms].map(|ms| time(ms * 1_000));
        row("away p50", p50, format!("p99 {p99}, max {max}"));
        if self.returned < self.clients {
            let away = self.clients - self.returned;
            row("not back", count(away), format!("{} told to stay away", count(self.stopped)));
        }
    }
}

/// A server that is replaced by another on the same port while its clients are told to come back.
#[derive(Serialize, Clone, Default)]
pub(crate) struct Drain {
    #[serde(flatten)]
    pub(crate) homecoming: Homecoming,
    /// From SIGTERM to the old server's end, and to the last client back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seconds_to_exit: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seconds_to_all_back: Option<f64>,
    /// The old server's; absent if a signal ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exit_code: Option<i32>,
    /// The last lines it printed.
    pub(crate) summary: Vec<String>,
    /// Clients told their own delay before they were closed.
    pub(crate) told: u64,
    /// How connections ended, by close code or error.
    pub(crate) endings: BTreeMap<String, u64>,
    pub(crate) newcomers: Newcomers,
}

/// Handshakes at a steady rate all along.
#[derive(Serialize, Clone, Default)]
pub(crate) struct Newcomers {
    pub(crate) opened: u64,
    pub(crate) refused: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) reasons: BTreeMap<String, u64>,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) max_us: u64,
}

/// Honest clients beside attackers of one kind.
#[derive(Serialize, Clone, Default)]
pub(crate) struct Attack {
    pub(crate) kind: &'static str,
    pub(crate) attackers: u32,
    /// What the attackers do, as the deeds of a round are called.
    pub(crate) deed: &'static str,
    pub(crate) rounds: Vec<Round>,
}

/// The honest without attackers, and then for as long beside them.
#[derive(Serialize, Clone, Copy, Default)]
pub(crate) struct Round {
    pub(crate) quiet: Honest,
    pub(crate) beside: Honest,
    /// What the attackers sent and received, the bytes of their TCP streams.
    pub(crate) wire_bytes: u64,
    /// What they did, and how often the server ended a connection of theirs.
    pub(crate) deeds: u64,
    pub(crate) ended_by_server: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<AttackMemory>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_cores: Option<f64>,
}

impl Attack {
    /// p99 of the honest beside the attackers over theirs without: the median of the rounds.
    pub(crate) fn p99_ratio(&self) -> f64 {
        median(self.p99_ratios())
    }

    fn p99_ratios(&self) -> impl Iterator<Item = f64> {
        self.rounds.iter().map(|round| round.beside.p99_us as f64 / round.quiet.p99_us.max(1) as f64)
    }

    pub(crate) fn errors(&self) -> u64 {
        self.rounds.iter().map(|round| round.beside.errors + round.quiet.errors).sum()
    }

    pub(crate) fn deeds(&self) -> u64 {
        self.rounds.iter().map(|round| round.deeds).sum()
    }

    /// Of the round in which the server took the most beyond what it may, or was nearest to that.
    pub(crate) fn memory(&self) -> Option<AttackMemory> {
        let memories = self.rounds.iter().filter_map(|round| round.memory);
        memories.max_by_key(|memory| i128::from(memory.growth_bytes()) - i128::from(memory.growth_max_bytes))
    }

    /// The median of the rounds.
    pub(crate) fn typical(&self, figure: impl Fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().map(figure))
    }

    fn rows(&self, row: &mut impl FnMut(&str, String, String)) {
        let of = |window: fn(&Round) -> Honest, figure: fn(Honest) -> u64| {
            time(self.typical(|round| figure(window(round)) as f64) as u64)
        };
        let quiet: fn(&Round) -> Honest = |round| round.quiet;
        let beside: fn(&Round) -> Honest = |round| round.beside;
        let ratios: Vec<String> = self.p99_ratios().map(|ratio| format!("{ratio:.2}")).collect();
        let ratio = format!(
            "{:.2}× quiet {}, median of {}; p50 {} ({}), p99.9 {} ({}), {} errors",
            self.p99_ratio(),
            of(quiet, |window| window.p99_us),
            ratios.join(", "),
            of(beside, |window| window.p50_us),
            of(quiet, |window| window.p50_us),
            of(beside, |window| window.p999_us),
            of(quiet, |window| window.p999_us),
            self.errors()
        );
        row(&format!("{}: honest p99", self.kind), of(beside, |window| window.p99_us), ratio);
        // Of a server elsewhere nothing is known.
        let of_server = |figure: &dyn Fn(&Round) -> Option<f64>, words: &dyn Fn(f64) -> String| {
            let figures: Option<Vec<f64>> = self.rounds.iter().map(figure).collect();
            figures
                .map_or(String::new(), |figures| format!(", server {}", words(median(figures.into_iter()))))
        };
        let waited = |window: fn(&Round) -> Honest| {
            let driver = self.typical(|round| window(round).driver_wait_us);
            let server = of_server(&|round| window(round).server_wait_us, &|us| format!("{us:.0} µs"));
            format!("driver {driver:.0} µs{server}")
        };
        row("  waited for a core", waited(beside), format!("each time it woke; {} quiet", waited(quiet)));
        let ended = format!(
            "{} MB on the wire, {} ended by the server{}",
            self.rounds.iter().map(|round| round.wire_bytes).sum::<u64>() >> 20,
            count(self.rounds.iter().map(|round| round.ended_by_server).sum()),
            of_server(&|round| round.server_cores, &|cores| format!("{cores:.2} cores"))
        );
        row(&format!("  {}", self.deed), count(self.deeds()), ended);
        if let Some(memory) = self.memory() {
            let grown = [memory.growth_bytes(), memory.tcp_buffer_growth_bytes()];
            let [rss, buffers] = grown.map(|bytes| bytes >> 20);
            row("  server RSS / TCP buffers grew", format!("{rss} / {buffers} MB"), memory.remark());
        }
    }
}

/// Echoes at a fixed rate, each latency from when its message was due.
#[derive(Serialize, Clone, Copy, Default)]
pub(crate) struct Honest {
    pub(crate) rate_achieved: f64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) p999_us: u64,
    pub(crate) max_us: u64,
    /// Lost connections, and echoes that were wrong or did not come.
    pub(crate) errors: u64,
    /// How long the driver's rings and the server's reactors were ready and had no core, each time they woke. Part of every
    /// latency; what the driver waited is no fault of the server.
    pub(crate) driver_wait_us: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_wait_us: Option<f64>,
}

/// Resident memory of the server around an attack, against what the attackers' bytes allow; and what the kernel held for it.
#[derive(Serialize, Clone, Copy, Default)]
pub(crate) struct AttackMemory {
    pub(crate) rss_before_bytes: u64,
    pub(crate) rss_peak_bytes: u64,
    pub(crate) rss_after_bytes: u64,
    /// Twice the attackers' bytes and 64 MiB.
    pub(crate) growth_max_bytes: u64,
    /// Kernel buffers of all TCP sockets, both ends where both are on this host: before, and at most.
    pub(crate) tcp_buffer_before_bytes: u64,
    pub(crate) tcp_buffer_peak_bytes: u64,
}

impl AttackMemory {
    pub(crate) fn growth_bytes(&self) -> u64 {
        self.rss_peak_bytes.saturating_sub(self.rss_before_bytes)
    }

    fn tcp_buffer_growth_bytes(&self) -> u64 {
        self.tcp_buffer_peak_bytes.saturating_sub(self.tcp_buffer_before_bytes)
    }

    fn remark(&self) -> String {
        let [before, peak, after, most, buffers, buffers_peak] = [
            self.rss_before_bytes,
            self.rss_peak_bytes,
            self.rss_after_bytes,
            self.growth_max_bytes,
            self.tcp_buffer_before_bytes,
            self.tcp_buffer_peak_bytes,
        ]
        .map(|bytes| bytes >> 20);
        format!(
            "RSS at most {most} MB more; {before} MB before, {peak} MB peak, {after} MB after; \
             buffers of both ends {buffers} MB before, {buffers_peak} MB peak"
        )
    }
}

/// The table's lines.
pub(crate) fn rows(report: &Report, row: &mut impl FnMut(&str, String, String)) {
    if let Some(home) = report.storm.as_ref().and_then(|storm| storm.homecoming.as_ref()) {
        home.rows(row);
    }
    if let Some(drain) = &report.drain {
        let code = drain.exit_code.map_or("no exit code".to_owned(), |code| format!("exit code {code}"));
        let seconds = |s: Option<f64>| s.map_or("never".to_owned(), |s| format!("{s:.1} s"));
        row("old server ended after", seconds(drain.seconds_to_exit), code);
        let told = format!("{} told when to come back", count(drain.told));
        row("all back after", seconds(drain.seconds_to_all_back), told);
        let endings: Vec<String> =
            drain.endings.iter().map(|(how, n)| format!("{how}: {}", count(*n))).collect();
        row("connections ended", count(drain.endings.values().sum()), endings.join(", "));
        drain.homecoming.rows(row);
        let new = &drain.newcomers;
        let tail = format!(
            "{} refused; p50 {}, p99 {}, max {}",
            new.refused,
            time(new.p50_us),
            time(new.p99_us),
            time(new.max_us)
        );
        row("newcomers let in", count(new.opened), tail);
    }
    report.attacks.iter().for_each(|attack| attack.rows(row));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::table;

    fn returns() -> Returns {
        let mut returns =
            Returns { attempts: 6, attempts_most: 3, away_ms: vec![900, 100, 500], ..Returns::default() };
        [100_000, 150_000, 2_000_000].into_iter().for_each(|us| returns.welcomed.note(us));
        returns.answered.note(1_900_000, 2_000_000);
        returns
    }

    #[test]
    fn a_homecoming_is_counted_against_its_limit() {
        let home = Homecoming::of(3, returns(), Some(4.0));
        assert_eq!((home.clients, home.returned, home.attempts_per_client), (3, 3, 2.0));
        assert_eq!((home.away_p50_ms, home.away_max_ms), (500, 900));
        assert_eq!((home.peak_1s, home.peak_100ms, home.peak_over_limit), (2, 2, Some(0.5)));
        assert_eq!((home.peak_1s_certain, home.certain_over_limit), (1, Some(0.25)));
    }

    #[test]
    fn an_attack_is_told_beside_its_quiet_and_what_it_cost() {
        let window = |p99_us| Honest { p99_us, driver_wait_us: 3.0, ..Honest::default() };
        let memory = |peak_mb: u64| AttackMemory {
            rss_before_bytes: 5 << 20,
            rss_peak_bytes: peak_mb << 20,
            rss_after_bytes: 6 << 20,
            growth_max_bytes: 70 << 20,
            tcp_buffer_before_bytes: 1 << 20,
            tcp_buffer_peak_bytes: 301 << 20,
        };
        let rounds = [(400, 400, 60), (90, 250, 63), (100, 250, 9)].map(|(quiet, beside, peak_mb)| Round {
            quiet: window(quiet),
            beside: window(beside),
            memory: Some(memory(peak_mb)),
            ..Round::default()
        });
        let attack = Attack { kind: "never-read", rounds: rounds.to_vec(), ..Attack::default() };
        let text = table::text(&Report { attacks: vec![attack], ..Report::default() });
        for words in [
            "2.50× quiet 100 µs, median of 1.00, 2.78, 2.50",
            "driver 3 µs",
            "58 / 300 MB",
            "at most 70 MB",
            "buffers of both ends 1 MB before, 301 MB peak",
        ] {
            assert!(text.contains(words), "{words} in\n{text}");
        }
    }
}
