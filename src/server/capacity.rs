//! How many connections this host permits, over how many reactors, and which limit stops it there.
//!
//! Pure arithmetic on [`HostFacts`] and [`crate::budget`]: `serve` prints and obeys the result, `doctor` compares it with
//! a target. SO_REUSEPORT spreads by hash, so a reactor gets more than its even share; the plan leaves room for that
//! and never promises the last slot of every ring.

use crate::budget::{self, CoreBudget};
use crate::config::Config;
use crate::sys::host::HostFacts;
use crate::sys::probe::Explanation;
use std::fmt;

/// What the operator asked for; `None` leaves it to the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Reactors to run.
    pub reactors: Option<usize>,
    /// Cores to pin them to.
    pub cores: Option<Vec<usize>>,
    /// Connections to carry.
    pub max_connections: Option<u64>,
    /// Memory that server and sockets may take.
    pub memory_budget_bytes: Option<u64>,
}

impl Wanted {
    /// What a configuration asks for.
    pub fn of(config: &Config) -> Wanted {
        Wanted {
            reactors: config.reactors,
            cores: config.cores.clone(),
            max_connections: config.max_connections,
            memory_budget_bytes: config.memory_budget_bytes,
        }
    }
}

/// What the server will carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Reactors to run.
    pub reactors: usize,
    /// The core of each reactor: as long as `reactors`, cores repeat where there are fewer.
    pub cores: Vec<usize>,
    /// Queues and pools of each reactor, already small enough for RLIMIT_MEMLOCK where it binds.
    pub budget: CoreBudget,
    /// Connections all reactors together carry.
    pub connections_total: u64,
    /// Connections one reactor may hold: an even share of the total and room for an uneven spread.
    pub connections_per_reactor: u32,
    /// Why not more.
    pub stopped_by: Limit,
}

/// What keeps a host from carrying more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// `max_connections`.
    Asked,
    /// RLIMIT_NOFILE caps the direct descriptors of each ring.
    Nofile {
        /// The limit.
        per_ring: u64,
    },
    /// io_uring caps the direct descriptors of each ring, whatever RLIMIT_NOFILE says.
    Ring,
    /// `fs.file-max`, of which others use some.
    FileMax {
        /// The limit.
        file_max: u64,
    },
    /// The host's available memory.
    Memory {
        /// Bytes available.
        available_bytes: u64,
    },
    /// The control group's memory limit.
    CgroupMemory {
        /// Bytes still free under the limit.
        available_bytes: u64,
    },
    /// `memory_budget`.
    MemoryBudget {
        /// The budget.
        budget_bytes: u64,
    },
}

/// Why a host cannot carry any connection as asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// A core was asked for that this process may not run on.
    Core {
        /// The core.
        core: usize,
        /// Those it may run on.
        allowed: Vec<usize>,
    },
    /// RLIMIT_NOFILE leaves no room for connections.
    Nofile {
        /// The least that works.
        needed: u64,
        /// The hard limit.
        found: u64,
    },
    /// No room for a single connection.
    Nothing {
        /// What leaves none.
        limit: Limit,
    },
}

/// Standard deviations of a binomial spread to leave room for: one ring in three million fills before the total is reached.
const SPREAD_SIGMA: f64 = 5.0;

/// The largest number of connections this host permits under what is wanted, and how to arrange them.
pub fn plan(facts: &HostFacts, wanted: &Wanted) -> Result<Plan, Refusal> {
    let cores = usable_cores(facts, wanted)?;
    let reactors = match (wanted.reactors, wanted.max_connections) {
        (Some(reactors), _) => reactors,
        (None, Some(connections)) => cores.len().max(reactors_for(connections, facts.nofile())),
        (None, None) => cores.len(),
    };
    let budget = budget_for(facts, reactors);
    let per_ring = slots_per_ring(facts, reactors, budget)?;
    let (connections_total, stopped_by) = most_connections(facts, wanted, reactors, per_ring);
    if connections_total == 0 {
        return Err(Refusal::Nothing { limit: stopped_by });
    }
    Ok(Plan {
        reactors,
        cores: cores.iter().copied().cycle().take(reactors).collect(),
        budget,
        connections_total,
        connections_per_reactor: uneven_share(connections_total, reactors).min(per_ring) as u32,
        stopped_by,
    })
}

fn usable_cores(facts: &HostFacts, wanted: &Wanted) -> Result<Vec<usize>, Refusal> {
    let allowed = &facts.cores;
    let cores = wanted.cores.as_ref().unwrap_or(allowed);
    match cores.iter().find(|core| !allowed.contains(core)) {
        Some(&core) => Err(Refusal::Core { core, allowed: allowed.clone() }),
        None => Ok(cores.iter().copied().take(budget::REACTORS_MAX).collect()),
    }
}

/// The fewest reactors whose rings, unevenly filled, hold `connections`.
fn reactors_for(connections: u64, nofile: u64) -> usize {
    let even = budget::reactors_for(connections, nofile);
    let fits = |reactors: usize| {
        let reserve = u64::from(CoreBudget::for_reactors(reactors).reserve_slots);
        uneven_share(connections, reactors) + reserve <= ring_descriptors(nofile)
    };
    (even..=budget::REACTORS_MAX).find(|&reactors| fits(reactors)).unwrap_or(budget::REACTORS_MAX)
}

fn ring_descriptors(nofile: u64) -> u64 {
    nofile.min(u64::from(budget::RING_DESCRIPTORS_MAX))
}

/// Queues small enough for RLIMIT_MEMLOCK where it binds. Whether this kernel counts rings at all shows only when one is
/// made (it does again from about 6.14), so the floor is not refused here.
fn budget_for(facts: &HostFacts, reactors: usize) -> CoreBudget {
    let mut budget = CoreBudget::for_reactors(reactors);
    let Some(memlock_bytes) = facts.memlock_binding_bytes() else { return budget };
    while budget.locked_bytes() * reactors as u64 > memlock_bytes {
        match budget.halved() {
            Some(half) => budget = half,
            None => break,
        }
    }
    budget
}

/// Connections the direct descriptors of one ring leave room for.
pub fn slots_per_ring(facts: &HostFacts, reactors: usize, budget: CoreBudget) -> Result<u64, Refusal> {
    let reserve = u64::from(budget.reserve_slots);
    let needed = ordinary_descriptors(reactors).max(reserve + 1);
    match facts.nofile() {
        found if found < needed => Err(Refusal::Nofile { needed, found }),
        found => Ok(ring_descriptors(found) - reserve),
    }
}

fn most_connections(facts: &HostFacts, wanted: &Wanted, reactors: usize, per_ring: u64) -> (u64, Limit) {
    let asked = wanted.max_connections.map(|asked| (asked, Limit::Asked));
    let budgeted = wanted.memory_budget_bytes.map(|budget_bytes| {
        let usable_bytes = budget_bytes / 100 * budget::MEMORY_NEAR.from_percent;
        (usable_bytes / budget::FOOTPRINT_PER_CONNECTION_MAX, Limit::MemoryBudget { budget_bytes })
    });
    let host = limits(facts, reactors, per_ring);
    let all = asked.into_iter().chain(budgeted).chain(host);
    all.min_by_key(|(connections, _)| *connections).expect("the ring's limit is always there")
}

/// Every limit of the host with the connections it permits, for reactors that hold `per_ring` each.
pub fn limits(facts: &HostFacts, reactors: usize, per_ring: u64) -> Vec<(u64, Limit)> {
    let ring = match facts.nofile() {
        nofile if nofile < u64::from(budget::RING_DESCRIPTORS_MAX) => Limit::Nofile { per_ring: nofile },
        _ => Limit::Ring,
    };
    let mut limits = vec![(even_total(per_ring, reactors), ring)];
    if let (Some(file_max), false) = (facts.file_max, facts.capabilities.sys_admin) {
        let taken = facts.files_open.unwrap_or(0) + ordinary_descriptors(reactors);
        limits.push((file_max.saturating_sub(taken), Limit::FileMax { file_max }));
    }
    let available_bytes = facts.memory_available_bytes;
    let carried = carried_by(available_bytes, facts.memory_total_bytes);
    limits.push((carried, Limit::Memory { available_bytes }));
    if let Some(cgroup) = facts.cgroup_memory {
        let available_bytes = cgroup.available_bytes();
        let carried = carried_by(available_bytes, cgroup.limit_bytes);
        limits.push((carried, Limit::CgroupMemory { available_bytes }));
    }
    limits
}

fn ordinary_descriptors(reactors: usize) -> u64 {
    budget::DESCRIPTORS_BASE + budget::DESCRIPTORS_PER_REACTOR * reactors as u64
}

/// Idle connections that `available_bytes` hold: an eighth is left for buffers in use and everyone else, and at least what
/// must be left of `total_bytes` for newcomers to be let in.
fn carried_by(available_bytes: u64, total_bytes: u64) -> u64 {
    let left_bytes = total_bytes / 100 * (100 - budget::MEMORY_NEAR.from_percent);
    available_bytes.saturating_sub(left_bytes.max(available_bytes / 8)) / budget::FOOTPRINT_PER_CONNECTION_MAX
}

/// What the fullest of `reactors` holds when `total` connections are spread by hash.
fn uneven_share(total: u64, reactors: usize) -> u64 {
    let even = total.div_ceil(reactors as u64);
    match reactors {
        1 => even,
        _ => (even + (SPREAD_SIGMA * (even as f64).sqrt()).ceil() as u64).min(total),
    }
}

/// The largest total whose uneven share still fits `per_ring`: solves `x + sigma * sqrt(x) = per_ring` for the even share
/// x. However uneven, `per_ring` connections always fit.
fn even_total(per_ring: u64, reactors: usize) -> u64 {
    if reactors == 1 {
        return per_ring;
    }
    let root = ((SPREAD_SIGMA * SPREAD_SIGMA + 4.0 * per_ring as f64).sqrt() - SPREAD_SIGMA) / 2.0;
    let mut even = (root * root) as u64;
    // The square root is rounded; the promise is not.
    while even > 0 && uneven_share(even * reactors as u64, reactors) > per_ring {
        even -= 1;
    }
    per_ring.max(even * reactors as u64)
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::Asked => write!(f, "max_connections"),
            Limit::Nofile { per_ring } => write!(f, "RLIMIT_NOFILE: {per_ring} descriptors in each ring"),
            Limit::Ring => write!(f, "io_uring: {} descriptors in each ring", budget::RING_DESCRIPTORS_MAX),
            Limit::FileMax { file_max } => write!(f, "fs.file-max = {file_max}"),
            Limit::Memory { available_bytes } => write!(f, "memory: {} MiB available", available_bytes >> 20),
            Limit::CgroupMemory { available_bytes } => {
                write!(f, "the control group's memory limit: {} MiB left of it", available_bytes >> 20)
            }
            Limit::MemoryBudget { budget_bytes } => {
                write!(f, "memory_budget: {} MiB", budget_bytes >> 20)
            }
        }
    }
}

impl Limit {
    /// What would let the host carry more.
    pub fn fix(&self) -> String {
        match self {
            Limit::Asked => "raise max_connections".into(),
            Limit::Nofile { .. } => format!(
                "raise the hard limit ({}), or set max_connections: as many reactors start as it needs",
                budget::NOFILE_LINES
            ),
            Limit::Ring => "set max_connections: as many reactors start as it needs".into(),
            Limit::FileMax { .. } => format!("sysctl -w fs.file-max={} (scripts/tune)", budget::FILE_MAX),
            Limit::Memory { .. } => "add memory, or stop what uses it".into(),
            Limit::CgroupMemory { .. } => {
                "raise the memory limit of the container or unit (MemoryMax=)".into()
            }
            Limit::MemoryBudget { .. } => "raise memory_budget".into(),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { reactors, connections_total, stopped_by, .. } = self;
        let mut cores = self.cores.clone();
        cores.sort_unstable();
        cores.dedup();
        let of = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
        write!(f, "{} on {}, ", of(*reactors, "reactor"), of(cores.len(), "core"))?;
        write!(f, "up to {connections_total} connections; stopped there by {stopped_by}")?;
        if self.budget != CoreBudget::for_reactors(*reactors) {
            write!(f, "; queues of {} entries because RLIMIT_MEMLOCK binds", self.budget.sq_entries)?;
        }
        Ok(())
    }
}

impl Refusal {
    /// Says it in words an operator can act on.
    pub fn explain(&self) -> Explanation {
        let (cause, fix) = match self {
            Refusal::Core { core, allowed } => (
                format!("core {core} is not in the affinity mask {allowed:?}"),
                "choose cores from it, or widen it (taskset, cpuset)".to_owned(),
            ),
            Refusal::Nofile { needed, found } => (
                format!("RLIMIT_NOFILE is {found}, at least {needed} are needed"),
                budget::NOFILE_LINES.to_owned(),
            ),
            Refusal::Nothing { limit } => (format!("no room for a connection: {limit}"), limit.fix()),
        };
        Explanation { cause, fix }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.explain().fmt(f)
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::host::{Capabilities, CgroupMemory, roomy};

    fn wanted(max_connections: Option<u64>) -> Wanted {
        Wanted { max_connections, ..Wanted::default() }
    }

    /// Two cores, 24 GB, a hard NOFILE limit of 20,000: where this project is built.
    fn small_nofile() -> HostFacts {
        HostFacts {
            nofile_soft: 20_000,
            nofile_hard: 20_000,
            file_max: Some(2_466_177),
            memory_available_bytes: 24_200_000_000,
            capabilities: Capabilities { ipc_lock: true, sys_admin: true, sys_resource: false, held: 39 },
            cores: vec![0, 1],
            ..roomy()
        }
    }

    #[test]
    fn a_million_needs_some_more_reactors_where_nofile_is_twenty_thousand() {
        let plan = plan(&small_nofile(), &wanted(Some(1_000_000))).unwrap();
        assert!((51..=60).contains(&plan.reactors), "{plan:?}");
        assert_eq!((plan.connections_total, plan.stopped_by), (1_000_000, Limit::Asked));
        let even = 1_000_000 / plan.reactors as u32;
        assert!(plan.connections_per_reactor > even + 500, "room for an uneven spread: {plan:?}");
        assert!(plan.budget.descriptors(plan.connections_per_reactor) <= 20_000, "{plan:?}");
        assert_eq!(plan.cores.len(), plan.reactors);
        assert_eq!(plan.cores[..4], [0, 1, 0, 1]);
    }

    #[test]
    fn a_hardened_root_still_carries_a_million_there_and_fs_file_max_binds_it() {
        let hardened = plan(&small_nofile().hardened(), &wanted(Some(1_000_000))).unwrap();
        assert_eq!(hardened, plan(&small_nofile(), &wanted(Some(1_000_000))).unwrap());
        assert_eq!(hardened.budget, CoreBudget::for_reactors(hardened.reactors), "rings come before it");
        let files = HostFacts { file_max: Some(500_000), ..small_nofile() };
        let stopped_by = |facts: &HostFacts| plan(facts, &wanted(Some(1_000_000))).unwrap().stopped_by;
        assert_eq!(stopped_by(&files), Limit::Asked, "CAP_SYS_ADMIN lifts it");
        assert_eq!(stopped_by(&files.hardened()), Limit::FileMax { file_max: 500_000 });
    }

    #[test]
    fn left_alone_it_takes_one_reactor_a_core_and_says_what_stops_it() {
        let plan = plan(&small_nofile(), &Wanted::default()).unwrap();
        assert_eq!((plan.reactors, plan.stopped_by), (2, Limit::Nofile { per_ring: 20_000 }));
        assert!((37_000..39_488).contains(&plan.connections_total), "{plan:?}");
        assert_eq!(uneven_share(plan.connections_total, 2), u64::from(plan.connections_per_reactor));
    }

    #[test]
    fn each_limit_stops_it_in_turn() {
        let connections = |facts: &HostFacts| {
            let plan = plan(facts, &Wanted::default()).unwrap();
            (plan.connections_total, plan.stopped_by)
        };
        let (memory_total_bytes, memory_available_bytes) = (40_000_000, 8 * 4_400 * 1_000);
        let memory = HostFacts { memory_total_bytes, memory_available_bytes, ..roomy() };
        assert_eq!(connections(&memory), (7_000, Limit::Memory { available_bytes: 35_200_000 }));
        // Half of it is taken: from 90 % on newcomers are refused, which is more to leave than an eighth of the rest.
        let half = HostFacts { memory_total_bytes: 2 * memory_available_bytes, ..memory };
        assert_eq!(connections(&half).0, 8_000 - 1_600);

        let cgroup = CgroupMemory { limit_bytes: 4_400 * 1_000, used_bytes: 4_400 * 200 };
        let contained = HostFacts { cgroup_memory: Some(cgroup), ..roomy() };
        assert_eq!(connections(&contained), (700, Limit::CgroupMemory { available_bytes: 3_520_000 }));

        let files = HostFacts { file_max: Some(100_000), files_open: Some(20_000), ..roomy() };
        assert_eq!(connections(&files), (80_000 - 64 - 3 * 8, Limit::FileMax { file_max: 100_000 }));
        let exempt = Capabilities { sys_admin: true, ..Capabilities::default() };
        assert_ne!(
            connections(&HostFacts { capabilities: exempt, ..files }).1,
            Limit::FileMax { file_max: 100_000 }
        );

        let endless =
            HostFacts { memory_available_bytes: 1 << 50, file_max: None, nofile_hard: u64::MAX, ..roomy() };
        assert_eq!(connections(&endless).1, Limit::Ring);
    }

    #[test]
    fn asking_for_more_than_the_host_permits_names_the_limit() {
        let facts = HostFacts { memory_total_bytes: 1 << 30, memory_available_bytes: 1 << 30, ..roomy() };
        let plan = plan(&facts, &wanted(Some(1_000_000))).unwrap();
        assert_eq!(plan.stopped_by, Limit::Memory { available_bytes: 1 << 30 });
        assert!(plan.connections_total < 250_000 && plan.connections_total > 200_000, "{plan:?}");
    }

    #[test]
    fn a_budget_of_memory_is_a_limit() {
        let budgeted = Wanted { memory_budget_bytes: Some(440_000_000), ..wanted(Some(1_000_000)) };
        let plan = plan(&roomy(), &budgeted).unwrap();
        assert_eq!(plan.stopped_by, Limit::MemoryBudget { budget_bytes: 440_000_000 });
        assert_eq!(plan.connections_total, 90_000, "up to where newcomers are refused");
    }

    #[test]
    fn who_replaces_a_server_carries_as_many() {
        let before = plan(&small_nofile(), &wanted(Some(1_000_000))).unwrap();
        let cgroup_memory = Some(CgroupMemory { limit_bytes: 20 << 30, used_bytes: 15 << 30 });
        let beside = HostFacts {
            memory_available_bytes: 1 << 30,
            files_open: Some(2_000_000),
            cgroup_memory,
            ..small_nofile()
        };
        assert!(plan(&beside, &wanted(Some(1_000_000))).is_err(), "what is left over is too little");
        let replacing = plan(&beside.replacing(), &wanted(Some(1_000_000))).unwrap();
        assert_eq!(replacing.connections_total, before.connections_total);
    }

    #[test]
    fn a_single_reactor_holds_exactly_what_was_asked() {
        let plan = plan(&roomy(), &Wanted { reactors: Some(1), ..wanted(Some(4)) }).unwrap();
        assert_eq!((plan.connections_total, plan.connections_per_reactor, plan.reactors), (4, 4, 1));
    }

    #[test]
    fn queues_shrink_until_locked_memory_suffices_but_not_below_the_floor() {
        let locked =
            |memlock_bytes| plan(&HostFacts { memlock_bytes, ..roomy() }, &Wanted::default()).unwrap();
        assert_eq!(locked(8 << 20).budget, CoreBudget::for_reactors(8));
        let halved = locked(1 << 20);
        assert!(
            halved.budget.locked_bytes() * 8 <= 1 << 20
                && halved.budget.sq_entries > budget::FLOOR.sq_entries
        );
        assert!(halved.to_string().contains("RLIMIT_MEMLOCK"), "{halved}");
        assert_eq!(locked(4096).budget, budget::FLOOR);
    }

    #[test]
    fn refusals_name_cause_and_fix() {
        let tiny = HostFacts { nofile_soft: 64, nofile_hard: 64, ..roomy() };
        let refusal = plan(&tiny, &Wanted::default()).unwrap_err();
        assert_eq!(refusal, Refusal::Nofile { needed: 257, found: 64 });
        assert!(refusal.to_string().contains("LimitNOFILE=1048576"));

        let elsewhere = Wanted { cores: Some(vec![3, 99]), ..Wanted::default() };
        assert_eq!(
            plan(&roomy(), &elsewhere).unwrap_err(),
            Refusal::Core { core: 99, allowed: (0..8).collect() }
        );
        let full = HostFacts { file_max: Some(1_000), files_open: Some(1_000), ..roomy() };
        assert!(plan(&full, &Wanted::default()).unwrap_err().to_string().contains("fs.file-max=2200000"));
    }

    #[test]
    fn the_total_promised_is_the_largest_that_fits() {
        for per_ring in [1, 10, 300, 19_744, 19_936, 1_048_320] {
            for reactors in [1, 2, 52, 1024usize] {
                let total = even_total(per_ring, reactors);
                assert!(uneven_share(total, reactors) <= per_ring, "{per_ring} {reactors}");
                assert!(
                    uneven_share(total + reactors as u64, reactors) > per_ring || total == 0,
                    "{per_ring} {reactors}"
                );
            }
        }
    }
}
