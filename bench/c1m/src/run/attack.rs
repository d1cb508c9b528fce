//! Honest clients beside attackers: the same load alone and beside them in turns, what the honest notice and what the server
//! takes.

use super::{RATE_MIN, Run, achieved};
use crate::attackers::Attackers;
use crate::cli::AttackKind;
use crate::fleet::Fleet;
use crate::observe::cpu::Waits;
use crate::observe::memory::{rss_bytes_roughly, tcp_buffer_bytes};
use crate::report::guard::{Attack, AttackMemory, Honest, Round};
use std::time::{Duration, Instant};

/// What the server may hold beside twice the attackers' bytes.
const GROWTH_BESIDE_BYTES: u64 = 64 << 20;
/// Attackers alone, so that the honest are measured when the attack is in full.
const GATHER: Duration = Duration::from_secs(2);
/// Time for the server to let go of what the attackers made it hold; less where the load is short.
const RECOVER: Duration = Duration::from_secs(5);
const MEMORY_EVERY: Duration = Duration::from_millis(250);

/// What the server holds, and at most. Read as cheaply as it goes, and beside the quiet too: a look at each slab cache takes the
/// driver's core for milliseconds, which would be the echoes' worst.
#[derive(Clone, Copy)]
struct Held {
    rss_before_bytes: u64,
    rss_peak_bytes: u64,
    tcp_buffer_before_bytes: u64,
    tcp_buffer_peak_bytes: u64,
    looked: Option<Instant>,
}

impl Held {
    fn by(pid: Option<u32>) -> Held {
        let [rss_bytes, tcp_buffer_bytes] = [pid.map_or(0, rss_bytes_roughly), tcp_buffer_bytes()];
        Held {
            rss_before_bytes: rss_bytes,
            rss_peak_bytes: rss_bytes,
            tcp_buffer_before_bytes: tcp_buffer_bytes,
            tcp_buffer_peak_bytes: tcp_buffer_bytes,
            looked: None,
        }
    }

    fn look(&mut self, pid: Option<u32>) {
        if self.looked.is_some_and(|at| at.elapsed() < MEMORY_EVERY) {
            return;
        }
        self.looked = Some(Instant::now());
        self.rss_peak_bytes = self.rss_peak_bytes.max(pid.map_or(0, rss_bytes_roughly));
        self.tcp_buffer_peak_bytes = self.tcp_buffer_peak_bytes.max(tcp_buffer_bytes());
    }

    /// With what there is now, where the server is here.
    fn told(&self, pid: Option<u32>, growth_max_bytes: u64) -> Option<AttackMemory> {
        Some(AttackMemory {
            rss_before_bytes: self.rss_before_bytes,
            rss_peak_bytes: self.rss_peak_bytes,
            rss_after_bytes: rss_bytes_roughly(pid?),
            growth_max_bytes,
            tcp_buffer_before_bytes: self.tcp_buffer_before_bytes,
            tcp_buffer_peak_bytes: self.tcp_buffer_peak_bytes,
        })
    }
}

impl Run {
    /// Attackers of one kind beside `per_second` honest echoes, after as long without them; so many rounds.
    pub(crate) fn attack(&mut self, kind: AttackKind, attackers: u32, rounds: u32, per_second: f64) {
        let mut attack = Attack { kind: name_of(kind), attackers, deed: deed_of(kind), ..Attack::default() };
        let before = Held::by(self.pid());
        for _ in 0..rounds {
            if self.over() {
                break;
            }
            let round = self.round(kind, attackers, per_second, before);
            if self.fleet.interrupted() {
                break; // its windows were cut short
            }
            match round {
                Ok(round) => attack.rounds.push(round),
                Err(why) => {
                    self.fail(format!("{}: {why}", name_of(kind)));
                    break;
                }
            }
        }
        if !attack.rounds.is_empty() {
            self.report.attacks.push(attack);
        }
    }

    fn round(
        &mut self,
        kind: AttackKind,
        attackers: u32,
        per_second: f64,
        before: Held,
    ) -> Result<Round, String> {
        let pid = self.pid();
        let mut held = before;
        let quiet = self.honest("alone", per_second, &mut |pid| held.look(pid));
        let mut held = before;
        let spent_before = self.spent();
        let started = Instant::now();
        let hostile = Attackers::start(kind, attackers, &self.target, &self.cores.driver)?;
        self.fleet.hold(GATHER, |_| held.look(pid));
        let beside = self.honest(name_of(kind), per_second, &mut |pid| held.look(pid));
        let spent = self.since(&spent_before);
        let wall = started.elapsed().as_secs_f64();
        let ledger = hostile.end();
        self.fleet.hold(RECOVER.min(4 * self.options.load), |_| {});
        Ok(Round {
            quiet,
            beside,
            wire_bytes: ledger.wire_bytes(),
            deeds: ledger.deeds(),
            ended_by_server: ledger.ended_by_server(),
            memory: held.told(pid, 2 * ledger.wire_bytes() + GROWTH_BESIDE_BYTES),
            server_cores: spent.server.map(|cpu| cpu.as_secs_f64() / wall),
        })
    }

    /// The honest load, as long as a load lasts.
    pub(super) fn honest(
        &mut self,
        what: &'static str,
        per_second: f64,
        look: &mut dyn FnMut(Option<u32>),
    ) -> Honest {
        let (load, pid) = (self.options.load, self.pid());
        let before = self.fleet.tally();
        let waits = || {
            [(std::process::id(), "ring-"), (pid.unwrap_or(0), "reactor-")]
                .map(|(pid, names)| Waits::of(pid, names))
        };
        let waits_before = waits();
        let joint = self.paced_echoes(what, per_second, load, |_: &Fleet| look(pid));
        let achieved = achieved(&joint, load);
        if achieved < per_second * RATE_MIN {
            self.note(format!(
                "{what}: {:.1} % of the honest rate was reached",
                achieved / per_second * 100.0
            ));
        }
        let waited = waits();
        let waited = |side: usize| waited[side].us_each_since(waits_before[side]);
        let after = self.fleet.tally();
        let at = |quantile| joint.latency_us.value_at_quantile(quantile);
        Honest {
            rate_achieved: achieved,
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: joint.latency_us.max(),
            errors: after.lost - before.lost + after.mismatched - before.mismatched + joint.unanswered,
            driver_wait_us: waited(0),
            server_wait_us: pid.map(|_| waited(1)),
        }
    }
}

fn name_of(kind: AttackKind) -> &'static str {
    match kind {
        AttackKind::SlowHead => "slow-head",
        AttackKind::PingFlood => "ping-flood",
        AttackKind::Fragments => "fragments",
        AttackKind::NeverRead => "never-read",
        AttackKind::SubscribeChurn => "subscribe-churn",
        AttackKind::ConnectionChurn => "connection-churn",
    }
}

/// What one attacker's unit of work is called.
fn deed_of(kind: AttackKind) -> &'static str {
    match kind {
        AttackKind::SlowHead => "bytes dripped",
        AttackKind::PingFlood => "pings",
        AttackKind::Fragments => "fragments",
        AttackKind::NeverRead => "echoes asked for",
        AttackKind::SubscribeChurn => "commands",
        AttackKind::ConnectionChurn => "connections",
    }
}
