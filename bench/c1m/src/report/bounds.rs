//! The bounds a server is held to beside what every run is held to, which is that no connection is lost and no echo wrong: which
//! of them a report breaks, in words. One that is broken fails the run.

use super::Report;
use super::guard::{Attack, Drain, Homecoming, Round};
use super::operator::{Answers, Flood, Watch};
use super::table::{count, time};

/// Welcomes in one second for certain, over the rate that is announced: a bucket lets a tenth of a second come at once.
const PEAK_OVER_LIMIT_MAX: f64 = 1.1;
/// p99 of honest echoes beside attackers, over that without.
const HONEST_RATIO_MAX: f64 = 3.0;
const SCRAPE_P99_US_MAX: u64 = 50_000;
const PUBLISH_P99_US_MAX: u64 = 10_000;
/// p99 of echoes beside a flood of the server's own admin listener, over that beside a flood elsewhere.
const FLOOD_RATIO_MAX: f64 = 1.1;
const FLOOD_GROWTH_BYTES_MAX: u64 = 32 << 20;

/// Whether a bound is broken, and what is said then.
type Bound = (bool, String);

/// The bounds that do not hold.
pub(crate) fn broken(report: &Report) -> Vec<String> {
    let storm = report.storm.as_ref().and_then(|storm| storm.homecoming.as_ref());
    let bounds = storm
        .into_iter()
        .flat_map(|home| homecoming("storm", home))
        .chain(report.drain.iter().flat_map(drain))
        .chain(report.attacks.iter().flat_map(attack))
        .chain(report.watch.iter().flat_map(watch))
        .chain(report.flood.iter().flat_map(flood));
    bounds.filter(|(is_broken, _)| *is_broken).map(|(_, what)| what).collect()
}

fn homecoming(row: &str, home: &Homecoming) -> Vec<Bound> {
    let limit = home.limit_per_second.unwrap_or(f64::INFINITY);
    vec![
        (
            home.refused_unannounced > 0,
            format!(
                "{row}: {} refused without being told when to come back",
                count(home.refused_unannounced)
            ),
        ),
        (
            home.returned < home.clients,
            format!("{row}: {} of {} not back", count(home.clients - home.returned), count(home.clients)),
        ),
        (
            home.certain_over_limit.is_some_and(|over| over > PEAK_OVER_LIMIT_MAX),
            format!(
                "{row}: {} welcomed within one second for certain, the limit is {limit}/s",
                count(home.peak_1s_certain)
            ),
        ),
    ]
}

fn drain(drain: &Drain) -> Vec<Bound> {
    let home = &drain.homecoming;
    let refused = home.refused_retry_after + home.refused_in_band;
    let mut bounds = homecoming("drain", home);
    bounds.extend([
        (refused > 0, format!("drain: {} refused on their way back", count(refused))),
        (drain.newcomers.refused > 0, format!("drain: {} newcomers refused", count(drain.newcomers.refused))),
        (
            drain.exit_code != Some(0),
            match drain.exit_code {
                Some(code) => format!("drain: the old server ended with exit code {code}"),
                None => "drain: the old server did not end by itself".into(),
            },
        ),
    ]);
    bounds
}

fn attack(attack: &Attack) -> Vec<Bound> {
    let (kind, errors, ratio) = (attack.kind, attack.errors(), attack.p99_ratio());
    let (growth, most) =
        attack.memory().map_or((0, 0), |memory| (memory.growth_bytes(), memory.growth_max_bytes));
    let p99 = |figure: fn(&Round) -> u64| time(attack.typical(|round| figure(round) as f64) as u64);
    vec![
        (attack.deeds() == 0, format!("{kind}: the attackers did nothing")),
        (errors > 0, format!("{kind}: {} echoes or connections of the honest lost", count(errors))),
        (
            ratio > HONEST_RATIO_MAX,
            format!(
                "{kind}: honest p99 {}, {ratio:.2}× quiet {}, at most {HONEST_RATIO_MAX}×",
                p99(|round| round.beside.p99_us),
                p99(|round| round.quiet.p99_us)
            ),
        ),
        (
            growth > most,
            format!("{kind}: the server's RSS grew by {} MB, at most {} MB", growth >> 20, most >> 20),
        ),
    ]
}

fn watch(watch: &Watch) -> Vec<Bound> {
    let answers = |what: &str, answers: &Answers, p99_us_max: u64| {
        [
            (answers.failed > 0, format!("{what}: {} failed", count(answers.failed))),
            (
                answers.p99_us > p99_us_max,
                format!("{what}: p99 {}, at most {}", time(answers.p99_us), time(p99_us_max)),
            ),
        ]
    };
    let scrapes = answers("scrapes", &watch.scrapes, SCRAPE_P99_US_MAX);
    let publications = answers("API publications", &watch.publications, PUBLISH_P99_US_MAX);
    scrapes.into_iter().chain(publications).collect()
}

fn flood(flood: &Flood) -> Vec<Bound> {
    let growth = flood.growth_bytes();
    vec![
        (flood.errors > 0, format!("flood: {} echoes or connections lost", count(flood.errors))),
        (!flood.answers_after, "flood: the admin listener does not answer after it".into()),
        (
            flood.ratio() > FLOOD_RATIO_MAX,
            format!(
                "flood: echo p99 {:.2}× that beside a flood elsewhere, at most {FLOOD_RATIO_MAX}×",
                flood.ratio()
            ),
        ),
        (
            growth > FLOOD_GROWTH_BYTES_MAX,
            format!(
                "flood: the server's RSS grew by {} MB, at most {} MB",
                growth >> 20,
                FLOOD_GROWTH_BYTES_MAX >> 20
            ),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Storm;
    use crate::report::guard::{AttackMemory, Honest, Newcomers};

    /// That `good` breaks nothing, and each of the others one bound, in these words.
    fn assert_one_each<const N: usize>(good: Report, bad: [(Report, &str); N]) {
        assert_eq!(broken(&good), Vec::<String>::new());
        for (report, words) in bad {
            let broken = broken(&report);
            assert!(broken.len() == 1 && broken[0].contains(words), "{words}: {broken:?}");
        }
    }

    fn home() -> Homecoming {
        Homecoming {
            clients: 300,
            returned: 300,
            refused_retry_after: 9,
            peak_1s: 500,
            peak_1s_certain: 110,
            limit_per_second: Some(100.0),
            peak_over_limit: Some(5.0),
            certain_over_limit: Some(1.1),
            ..Homecoming::default()
        }
    }

    #[test]
    fn a_storm_is_announced_bounded_and_over() {
        let storm = |home| Report {
            storm: Some(Storm { seconds: 1.0, refused: 0, failed: 0, reopened: 3, homecoming: Some(home) }),
            ..Report::default()
        };
        let over = Homecoming { peak_1s_certain: 111, certain_over_limit: Some(1.11), ..home() };
        assert_one_each(
            storm(home()),
            [
                (storm(Homecoming { refused_unannounced: 1, ..home() }), "1 refused without"),
                (storm(Homecoming { returned: 299, ..home() }), "storm: 1 of 300 not back"),
                (storm(over), "111 welcomed within one second for certain, the limit is 100/s"),
            ],
        );
        let unlimited =
            Homecoming { limit_per_second: None, peak_over_limit: None, certain_over_limit: None, ..home() };
        assert!(broken(&storm(unlimited)).is_empty());
    }

    #[test]
    fn a_drain_refuses_nobody_and_keeps_to_its_rate() {
        let drain = |drain| Report { drain: Some(drain), ..Report::default() };
        let home = Homecoming { refused_retry_after: 0, ..home() };
        let good = Drain { homecoming: home.clone(), exit_code: Some(0), ..Drain::default() };
        let with = |homecoming| drain(Drain { homecoming, ..good.clone() });
        let newcomers = Newcomers { refused: 1, ..Newcomers::default() };
        assert_one_each(
            drain(good.clone()),
            [
                (with(Homecoming { certain_over_limit: Some(1.2), ..home.clone() }), "the limit is 100/s"),
                (with(Homecoming { refused_in_band: 2, ..home.clone() }), "2 refused on their way back"),
                (drain(Drain { exit_code: None, ..good.clone() }), "did not end by itself"),
                (drain(Drain { exit_code: Some(1), ..good.clone() }), "exit code 1"),
                (drain(Drain { newcomers, ..good.clone() }), "1 newcomers refused"),
            ],
        );
    }

    #[test]
    fn an_attack_harms_the_honest_little_and_takes_little_memory() {
        let honest = Honest { p99_us: 100, ..Honest::default() };
        let memory = AttackMemory {
            rss_before_bytes: 5 << 20,
            rss_peak_bytes: 75 << 20,
            growth_max_bytes: 70 << 20,
            ..AttackMemory::default()
        };
        let good =
            Round { quiet: honest, beside: honest, deeds: 1, memory: Some(memory), ..Round::default() };
        let beside = |p99_us| Round { beside: Honest { p99_us, ..honest }, ..good };
        let report = |rounds: &[Round]| Report {
            attacks: vec![Attack { kind: "ping-flood", rounds: rounds.to_vec(), ..Attack::default() }],
            ..Report::default()
        };
        let lossy = Round { beside: Honest { errors: 1, ..honest }, ..good };
        let swollen = Round { memory: Some(AttackMemory { rss_peak_bytes: 76 << 20, ..memory }), ..good };
        assert_one_each(
            report(&[beside(300), beside(900), good]),
            [
                (report(&[Round { deeds: 0, ..good }]), "did nothing"),
                (report(&[good, lossy, good]), "1 echoes"),
                (report(&[beside(301), beside(100), beside(302)]), "ping-flood: honest p99 301 µs, 3.01×"),
                (report(&[good, swollen, good]), "grew by 71 MB, at most 70 MB"),
            ],
        );
    }

    #[test]
    fn the_admin_listener_answers_in_time() {
        let fast =
            Answers { count: 10, failed: 0, body_bytes: 1, p50_us: 1, p99_us: 10_000, max_us: 900_000 };
        let watch = |scrapes, publications| Report {
            watch: Some(Watch { connections: 1, echoes_per_second: 1.0, scrapes, publications }),
            ..Report::default()
        };
        let at_50_ms = Answers { p99_us: 50_000, ..fast };
        assert_one_each(
            watch(at_50_ms, fast),
            [
                (watch(Answers { failed: 1, ..fast }, fast), "scrapes: 1 failed"),
                (watch(Answers { p99_us: 50_001, ..fast }, fast), "scrapes: p99 50.00 ms, at most 50.00 ms"),
                (watch(fast, at_50_ms), "API publications: p99 50.00 ms, at most 10.00 ms"),
            ],
        );
    }

    #[test]
    fn a_flood_of_the_admin_listener_is_not_felt_and_not_kept() {
        let good = Flood {
            rounds: vec![(100, 500), (100, 110), (100, 90)],
            answers_after: true,
            rss_before_bytes: Some(8 << 20),
            rss_peak_bytes: Some(40 << 20),
            ..Flood::default()
        };
        let report = |flood| Report { flood: Some(flood), ..Report::default() };
        assert_one_each(
            report(good.clone()),
            [
                (report(Flood { errors: 1, ..good.clone() }), "1 echoes"),
                (report(Flood { answers_after: false, ..good.clone() }), "does not answer"),
                (report(Flood { rounds: vec![(100, 120)], ..good.clone() }), "1.20× that beside"),
                (report(Flood { rss_peak_bytes: Some(41 << 20), ..good.clone() }), "grew by 33 MB"),
            ],
        );
    }
}
