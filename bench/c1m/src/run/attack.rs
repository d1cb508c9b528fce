//! Honest clients beside attackers: the same load alone and beside them in turns, what the honest notice and what the server
//! takes.

use super::{RATE_MIN, Run, achieved};
use crate::attackers::Attackers;
use crate::cli::AttackKind;
use crate::fleet::Fleet;
use crate::observe::cpu::Waits;
use crate::observe::memory::{Memory, rss_bytes};
use crate::report::guard::{Attack, AttackMemory, Honest, median};
use std::time::{Duration, Instant};

/// Windows without attackers before the first attack. Each attack is compared with as many before it and the one after it.
const QUIET_BEFORE: usize = 2;
/// What the server may hold beside twice the attackers' bytes.
const GROWTH_BESIDE_BYTES: u64 = 64 << 20;
/// Attackers alone, so that the honest are measured when the attack is in full.
const GATHER: Duration = Duration::from_secs(2);
/// Time for the server to let go of what the attackers made it hold; less where the load is short.
const RECOVER: Duration = Duration::from_secs(5);
const MEMORY_EVERY: Duration = Duration::from_millis(250);

/// Most seen of the server's resident memory and of socket buffers.
#[derive(Default)]
struct Peak {
    rss_bytes: u64,
    tcp_buffer_bytes: u64,
    looked: Option<Instant>,
}

impl Peak {
    fn look(&mut self, pid: Option<u32>) {
        if self.looked.is_some_and(|at| at.elapsed() < MEMORY_EVERY) {
            return;
        }
        self.looked = Some(Instant::now());
        let now = Memory::now(pid);
        self.rss_bytes = self.rss_bytes.max(now.server_rss_bytes.unwrap_or(0));
        self.tcp_buffer_bytes = self.tcp_buffer_bytes.max(now.tcp_buffer_bytes);
    }

    /// With what was there before and is now, where the server is here.
    fn around(&self, before: &Memory, pid: Option<u32>, growth_max_bytes: u64) -> Option<AttackMemory> {
        let (pid, rss_before_bytes) = pid.zip(before.server_rss_bytes)?;
        Some(AttackMemory {
            rss_before_bytes,
            rss_peak_bytes: self.rss_bytes,
            rss_after_bytes: rss_bytes(pid),
            growth_max_bytes,
            tcp_buffer_before_bytes: before.tcp_buffer_bytes,
            tcp_buffer_peak_bytes: self.tcp_buffer_bytes,
        })
    }
}

impl Run {
    /// Attacks one after another, each between windows in which the honest are alone: what an attack is compared with was
    /// seen shortly before and after it.
    pub(crate) fn attacks(&mut self, kinds: &[AttackKind], attackers: u32, per_second: f64) {
        let mut quiet = Vec::new();
        for _ in 0..QUIET_BEFORE {
            if self.over() {
                return;
            }
            quiet.push(self.alone(per_second));
        }
        for kind in kinds {
            if self.over() {
                return;
            }
            let attack = self.attack(*kind, attackers, per_second, &mut quiet);
            if self.fleet.interrupted() {
                return; // windows were cut short
            }
            match attack {
                Ok(attack) => self.report.attacks.push(attack),
                Err(why) => self.fail(format!("{}: {why}", name_of(*kind))),
            }
        }
    }

    fn alone(&mut self, per_second: f64) -> Honest {
        self.honest("alone", per_second, &mut |_| {})
    }

    /// One kind of attack: `per_second` honest echoes beside the attackers, and then alone, which is added to `quiet`.
    fn attack(
        &mut self,
        kind: AttackKind,
        attackers: u32,
        per_second: f64,
        quiet: &mut Vec<Honest>,
    ) -> Result<Attack, String> {
        let pid = self.pid();
        let memory_before = Memory::now(pid);
        let spent_before = self.spent();
        let started = Instant::now();
        let hostile = Attackers::start(kind, attackers, &self.target, &self.driver_cores)?;
        let mut peak = Peak::default();
        self.fleet.hold(GATHER, |_| peak.look(pid));
        let beside = self.honest(name_of(kind), per_second, &mut |pid| peak.look(pid));
        let spent = self.since(&spent_before);
        let wall = started.elapsed().as_secs_f64();
        let ledger = hostile.end();
        self.fleet.hold(RECOVER.min(4 * self.options.load), |_| {});
        let memory = peak.around(&memory_before, pid, 2 * ledger.wire_bytes() + GROWTH_BESIDE_BYTES);
        quiet.push(self.alone(per_second));
        let near = &quiet[quiet.len().saturating_sub(QUIET_BEFORE + 1)..];
        let quiet = median(near);
        Ok(Attack {
            kind: name_of(kind),
            attackers,
            quiet,
            beside,
            quiet_p99_us: near.iter().map(|window| window.p99_us).collect(),
            p99_ratio: beside.p99_us as f64 / quiet.p99_us.max(1) as f64,
            wire_bytes: ledger.wire_bytes(),
            deeds: ledger.deeds(),
            deed: deed_of(kind),
            ended_by_server: ledger.ended_by_server(),
            memory,
            server_cores: spent.server.map(|cpu| cpu.as_secs_f64() / wall),
            driver_cores: spent.driver.as_secs_f64() / wall,
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
