//! One look at all counters of a server.

use super::cpu::Cpu;
use crate::ds::Distribution;
use crate::hub::{Figures, Mail, SlowConsumer};
use crate::proto::close::CloseReason;
use crate::reactor::Totals;
use crate::server::{Handle, MemoryUse};
use crate::sys::memory;
use std::time::Instant;

/// What a server had and had done at one moment.
#[derive(Debug, Clone)]
pub(in crate::control) struct Look {
    pub at: Instant,
    pub totals: Totals,
    pub figures: Figures,
    pub cores: Vec<CoreLook>,
    /// Those that cores are pinned to; none in what [`Look::take`] sees, which has no look before it.
    pub cpus: Vec<Cpu>,
    pub memory: MemoryUse,
    pub rss_bytes: u64,
}

/// What is told of each core by itself.
#[derive(Debug, Clone)]
pub(in crate::control) struct CoreLook {
    pub busy_permille: u64,
    pub connections: u64,
    pub turn_us: Distribution,
}

impl CoreLook {
    /// 0 to 1.
    pub fn busy(&self) -> f64 {
        self.busy_permille.min(1_000) as f64 / 1_000.0
    }
}

impl Look {
    pub fn take(handle: &Handle<Mail>) -> Look {
        let cores = (0..handle.cores()).map(|core| handle.counters_of(core));
        Look::of(cores, handle.figures(), handle.memory(), memory::resident_bytes())
    }

    /// What each core counts, added up.
    pub fn of(
        counted: impl Iterator<Item = Totals>,
        figures: Figures,
        memory: MemoryUse,
        rss_bytes: u64,
    ) -> Look {
        let (mut totals, mut cores) = (Totals::default(), Vec::new());
        for of_core in counted {
            totals += &of_core;
            cores.push(CoreLook {
                busy_permille: of_core.busy_permille,
                connections: of_core.connections_open,
                turn_us: of_core.turn_us,
            });
        }
        Look { at: Instant::now(), totals, figures, cores, cpus: Vec::new(), memory, rss_bytes }
    }

    /// How busy the busiest CPU is: 0 to 1.
    pub fn busiest(&self) -> f64 {
        self.cpus.iter().map(|cpu| cpu.busy).fold(0.0, f64::max)
    }

    /// Subscribers that began to lose messages, or were closed, by what is done with them: also those closed by their core,
    /// whatever their topics say, for what they were sent besides.
    pub fn slow(&self) -> [u64; SlowConsumer::ALL.len()] {
        let mut slow = self.figures.slow;
        slow[SlowConsumer::Disconnect as usize] =
            self.totals.disconnected[CloseReason::SlowConsumer as usize];
        slow
    }

    /// Resident memory by open connections; 0 where there are none.
    pub fn per_connection_bytes(&self) -> f64 {
        match self.totals.connections_open {
            0 => 0.0,
            connections => self.rss_bytes as f64 / connections as f64,
        }
    }
}
