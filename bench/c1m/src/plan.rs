//! How many connections this host can carry with both ends on it, which limit stops it there, and how the driver
//! spreads them over rings.

use crate::cli::Pin;
use megasock::budget::{self, FOOTPRINT_PER_CONNECTION_MAX, RING_DESCRIPTORS_MAX, TARGET_CONNECTIONS};
use megasock::sys::host::HostFacts;

/// Most driver threads; beyond it their own stacks and rings would be what is measured.
const RINGS_MAX: u64 = 256;
/// Share of the available memory a run may take, in percent: the rest is for traffic in flight.
const MEMORY_PERCENT: u64 = 90;
/// Open files left to the rest of the system.
const FILES_SPARE: u64 = 4_096;

/// What a run needs to know of the other end.
#[derive(Clone, Copy)]
pub(crate) struct Ends {
    /// The server runs on this host too, and what it takes counts.
    pub(crate) server_here: bool,
    /// (source, destination) pairs; `None` on loopback, where there is always another address.
    pub(crate) address_pairs: Option<u64>,
}

/// The most connections, and what stops them there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Carry {
    pub(crate) connections: u64,
    pub(crate) stopped_by: String,
}

pub(crate) fn carry(facts: &HostFacts, ends: Ends) -> Carry {
    let here = if ends.server_here { 2 } else { 1 };
    let bytes_each = here * FOOTPRINT_PER_CONNECTION_MAX;
    let mut limits = vec![
        (TARGET_CONNECTIONS, "the target itself".to_owned()),
        (
            RINGS_MAX * per_ring(facts),
            format!(
                "RLIMIT_NOFILE {} allows as many descriptors in each of {RINGS_MAX} rings",
                facts.nofile()
            ),
        ),
        (
            facts.memory_available_bytes * MEMORY_PERCENT / 100 / bytes_each,
            format!(
                "{} MB of memory available, {bytes_each} B a connection",
                facts.memory_available_bytes >> 20
            ),
        ),
    ];
    if let Some(group) = facts.cgroup_memory {
        let available = group.available_bytes();
        limits.push((
            available * MEMORY_PERCENT / 100 / bytes_each,
            format!("{} MB left to this control group, {bytes_each} B a connection", available >> 20),
        ));
    }
    if let (Some(max), Some(open), false) = (facts.file_max, facts.files_open, facts.capabilities.sys_admin) {
        let left = max.saturating_sub(open + FILES_SPARE);
        limits.push((left / here, format!("fs.file-max {max}, {open} open")));
    }
    if let (Some(pairs), Some((first, last))) = (ends.address_pairs, facts.port_range) {
        let ports = u64::from(last) - u64::from(first) + 1;
        limits.push((
            ports * pairs,
            format!("ports {first}-{last} for each of {pairs} pairs of addresses: widen ip_local_port_range or give more --sources"),
        ));
    }
    let (connections, stopped_by) = limits.into_iter().min_by_key(|limit| limit.0).expect("never empty");
    Carry { connections, stopped_by }
}

fn per_ring(facts: &HostFacts) -> u64 {
    facts.nofile().min(u64::from(RING_DESCRIPTORS_MAX))
}

/// Slots of each driver ring for `connections`: evenly, at least one ring for each core.
pub(crate) fn rings(facts: &HostFacts, connections: u64, cores: usize) -> Vec<u32> {
    let rings = connections.div_ceil(per_ring(facts)).max(cores as u64).min(connections.max(1));
    let (each, more) = (connections / rings, connections % rings);
    (0..rings).map(|ring| (each + u64::from(ring < more)) as u32).collect()
}

/// Cores of the server and of the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cores {
    pub(crate) server: Vec<usize>,
    pub(crate) driver: Vec<usize>,
}

impl Cores {
    /// Split halves, or all for both. One core alone is always shared.
    pub(crate) fn assign(facts: &HostFacts, pin: Pin, row_splits: bool) -> Cores {
        let split = match pin {
            Pin::Auto => row_splits,
            Pin::Split => true,
            Pin::Share => false,
        };
        let cores = &facts.cores;
        if !split || cores.len() < 2 {
            return Cores { server: cores.clone(), driver: cores.clone() };
        }
        let (server, driver) = cores.split_at(cores.len() / 2);
        Cores { server: server.to_vec(), driver: driver.to_vec() }
    }

    pub(crate) fn list(cores: &[usize]) -> String {
        cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
    }
}

/// Reactors for a server on this host: at least one a core, and as many as its descriptors ask for. SO_REUSEPORT spreads
/// unevenly, so each gets room for six standard deviations above its share.
pub(crate) fn reactors(facts: &HostFacts, connections: u64, cores: usize) -> usize {
    let fits = |reactors: &usize| {
        let share = connections as f64 / *reactors as f64;
        let reserve = f64::from(budget::CoreBudget::for_reactors(*reactors).reserve_slots);
        share + 6.0 * share.sqrt() + reserve <= per_ring(facts) as f64
    };
    // Whole multiples of the cores, so that none carries one more than another.
    (1..).map(|n| n * cores).find(fits).unwrap_or(cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> HostFacts {
        let mut facts = HostFacts::read();
        facts.nofile_soft = 20_000;
        facts.nofile_hard = 20_000;
        facts.memory_available_bytes = 24 << 30;
        facts.cgroup_memory = None;
        facts.file_max = Some(2_400_000);
        facts.files_open = Some(1_000);
        facts.capabilities = Default::default();
        facts.port_range = Some((32_768, 60_999));
        facts.cores = vec![0, 1];
        facts
    }

    const LOOPBACK: Ends = Ends { server_here: true, address_pairs: None };

    #[test]
    fn a_million_fits_where_nofile_is_twenty_thousand() {
        let facts = facts();
        assert_eq!(carry(&facts, LOOPBACK).connections, 1_000_000);
        let slots = rings(&facts, 1_000_000, 2);
        assert_eq!(slots.len(), 50);
        assert_eq!(slots.iter().map(|&n| u64::from(n)).sum::<u64>(), 1_000_000);
        assert!(slots.iter().all(|&n| n <= 20_000));
        let reactors = reactors(&facts, 1_000_000, 2);
        assert!((52..=60).contains(&reactors) && reactors.is_multiple_of(2), "{reactors}");
    }

    #[test]
    fn the_tightest_limit_is_named() {
        let small = HostFacts { memory_available_bytes: 1 << 30, ..facts() };
        assert!(carry(&small, LOOPBACK).stopped_by.contains("memory"));
        let few_files = HostFacts { file_max: Some(100_000), ..facts() };
        let carried = carry(&few_files, LOOPBACK);
        assert!(carried.stopped_by.contains("fs.file-max") && carried.connections < 50_000, "{carried:?}");
        let remote = carry(&facts(), Ends { server_here: false, address_pairs: Some(2) });
        assert_eq!(remote.connections, 2 * 28_232);
    }

    #[test]
    fn few_connections_still_use_every_driver_core() {
        assert_eq!(rings(&facts(), 301, 2), [151, 150]);
        assert_eq!(rings(&facts(), 1, 2), [1]);
    }
}
