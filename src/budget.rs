//! The allowed bytes, descriptors and queue entries per connection and per core, summed line by line.
//!
//! One place holds these numbers. Upper layers const-assert their sizes against it; `serve`, `doctor`, the tests and
//! the files in `sysctl/` and `limits/` all read it. Nothing here does I/O.

use Amount::{AtLeast, AtMost, PerThousand};

/// Connections the project is built to hold on one host.
pub const TARGET_CONNECTIONS: u64 = 1_000_000;

/// User memory a slot of the connection table may take, in bytes: one cache line.
pub const SLOT_BYTES: usize = 64;

/// User memory beside each slot, in bytes: when its connection was opened.
pub const OPENED_TICK_BYTES: usize = 4;

/// Resident bytes per idle connection at a million, everything in the process counted.
pub const RSS_PER_CONNECTION_MAX: u64 = 256;

/// Kernel memory of one idle connection at the server's end, in bytes: socket, inode, file, dentry (3,829, any server
/// pays it) and the armed multishot poll (288). Measured on Linux 6.18.
pub const KERNEL_PER_CONNECTION: u64 = 3_829 + 288;

/// Resident plus kernel bytes per idle connection at the server's end.
pub const FOOTPRINT_PER_CONNECTION_MAX: u64 = 4_400;

/// Size of a receive buffer: a 16 KiB message with its frame header, and an odd number of cache lines more so that
/// buffers do not all start in the same cache sets.
pub const BUFFER_BYTES: usize = 16 * 1024 + 5 * 64;

/// Direct descriptors one ring can hold whatever RLIMIT_NOFILE says (`IORING_MAX_FIXED_FILES`).
pub const RING_DESCRIPTORS_MAX: u32 = 1 << 20;

/// Ordinary descriptors a reactor holds: its ring, its listener, its wake-up eventfd.
pub const DESCRIPTORS_PER_REACTOR: u64 = 3;

/// Ordinary descriptors of the process besides its reactors: standard streams, log, signals, control plane, spare.
pub const DESCRIPTORS_BASE: u64 = 64;

/// RLIMIT_NOFILE the host files ask for: what the fullest ring can hold, since more is of no use to it. The kernel's own
/// `fs.nr_open` allows it.
pub const NOFILE: u64 = RING_DESCRIPTORS_MAX as u64;

/// Where [`NOFILE`] is set, for messages.
pub const NOFILE_LINES: &str = "LimitNOFILE=1048576 in the unit (deploy/systemd-limits.conf), \
    limits/60-megasock.conf for logins, or ulimit -n 1048576";

/// Where [`MEMLOCK_BYTES`] is set, for messages.
pub const MEMLOCK_LINES: &str = "LimitMEMLOCK=128M in the unit (deploy/systemd-limits.conf), \
    limits/60-megasock.conf for logins, or ulimit -l 131072; CAP_IPC_LOCK lifts it";

/// RLIMIT_MEMLOCK the host files ask for, in bytes: the queues of the most reactors, with room for a second server.
pub const MEMLOCK_BYTES: u64 = 128 << 20;

const _: () =
    assert!(MEMLOCK_BYTES >= 2 * REACTORS_MAX as u64 * CoreBudget::for_reactors(REACTORS_MAX).locked_bytes());
const _: () = assert!(NOFILE > TARGET_CONNECTIONS);

/// `fs.file-max` the host files set.
pub const FILE_MAX: u64 = FILES.number(TARGET_CONNECTIONS);

/// Each end of a connection is a file, and both may be on this box; a tenth for everyone else.
const FILES: Amount = PerThousand(2_200);

/// Buckets of the TCP hash per connection: with fewer, every packet walks a chain.
pub const TCP_HASH_BUCKETS_PER_CONNECTION: u64 = 2;

/// Where a measure begins and where it ends, in percent of the memory budget. It ends lower than it begins, or it would
/// come and go with every connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Band {
    /// From here on it is taken.
    pub from_percent: u64,
    /// Below this it is given up.
    pub until_percent: u64,
}

/// Newcomers are refused: what is left belongs to those inside, whose messages, backlogs and socket buffers come and go.
pub const MEMORY_NEAR: Band = Band { from_percent: 90, until_percent: 85 };

/// Idle connections are closed, since those inside grow although nobody comes: until there is as much room as when
/// newcomers were refused.
pub const MEMORY_OVER: Band = Band { from_percent: 95, until_percent: 90 };

/// Connections that do not read are cut, since closing idle ones did not keep up: the last percents before the kernel would
/// choose a process to kill.
pub const MEMORY_FAR_OVER: Band = Band { from_percent: 98, until_percent: 95 };

/// Bytes a second by which a busy host's use of memory may rise: sixty thousand newcomers. How soon it is looked at again
/// follows from it.
pub const MEMORY_RISE_PER_SECOND: u64 = 60_000 * FOOTPRINT_PER_CONNECTION_MAX;

/// Most reactors one process starts.
pub const REACTORS_MAX: usize = 256;

/// Mail that the ring between two cores holds, a power of two. Each of `reactors` cores has a ring to each of the others,
/// so their length shrinks with the square of the cores: 2 rings of 4,096 for two cores, 12 for four, 56 of 512 for eight.
/// Up to 19 cores all rings together hold at most 49,152 mails, 2 MiB at [`MAIL_BYTES_MAX`]. Beyond, a ring keeps the 128 that
/// one turn of a busy core needs: 3,540 rings of sixty cores hold 453,120 mails, 17 MiB, of which only what was ever used
/// at once is resident.
///
/// ```
/// use megasock::budget::mesh_ring_entries;
/// assert_eq!([2, 4, 8, 60].map(mesh_ring_entries), [4096, 4096, 512, 128]);
/// ```
pub const fn mesh_ring_entries(reactors: usize) -> usize {
    let rings = match reactors {
        0..=4 => 12,
        _ => reactors * (reactors - 1),
    };
    let even = MESH_ENTRIES / rings;
    if even <= MESH_RING_ENTRIES_MIN { MESH_RING_ENTRIES_MIN } else { 1 << even.ilog2() }
}

/// Bytes of one mail between cores.
pub const MAIL_BYTES_MAX: usize = 40;

/// Mail that all rings of few cores hold together.
const MESH_ENTRIES: usize = 12 * 4096;

/// Mail that a ring holds however many cores there are.
const MESH_RING_ENTRIES_MIN: usize = 128;

/// Addresses a core remembers that have no connection any more, for the two seconds in which their rate matters: some 3 MiB.
/// Those with connections are bounded by the connections.
pub const ADDRESSES_LEFT_MAX: usize = 65_536;

/// Smallest queues a reactor can work with; below this an ENOMEM from the kernel is an error.
pub const FLOOR: CoreBudget =
    CoreBudget { sq_entries: 64, cq_entries: 256, accepts_in_flight: 8, reserve_slots: 16, buffers_max: 32 };

/// What one core may use. All fields are counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoreBudget {
    /// Submission queue entries: operations prepared between two enters.
    pub sq_entries: u32,
    /// Completion queue entries: at least twice `sq_entries`, or a full turn could overflow it. The kernel also sizes the
    /// ring's hash of armed polls by it, a 32nd of it and at most 256 buckets: with fewer every close would walk a
    /// longer chain, so it does not shrink with the number of reactors.
    pub cq_entries: u32,
    /// Single-shot accepts kept in flight, each with its own address.
    pub accepts_in_flight: u16,
    /// Slots beyond `max_connections` from which a full server still answers 503.
    pub reserve_slots: u16,
    /// Receive buffers that may exist at once.
    pub buffers_max: u16,
}

impl CoreBudget {
    /// The budget of each of `reactors` cores. Queues shrink as reactors grow, so that the process total stays level.
    ///
    /// ```
    /// use megasock::budget::CoreBudget;
    /// assert!(CoreBudget::for_reactors(60).sq_entries < CoreBudget::for_reactors(2).sq_entries);
    /// ```
    pub const fn for_reactors(reactors: usize) -> CoreBudget {
        match reactors {
            0..=8 => CoreBudget {
                sq_entries: 2048,
                cq_entries: 8192,
                accepts_in_flight: 64,
                reserve_slots: 256,
                buffers_max: 1024,
            },
            9..=32 => CoreBudget {
                sq_entries: 512,
                cq_entries: 8192,
                accepts_in_flight: 32,
                reserve_slots: 128,
                buffers_max: 256,
            },
            _ => CoreBudget {
                sq_entries: 256,
                cq_entries: 8192,
                accepts_in_flight: 16,
                reserve_slots: 64,
                buffers_max: 128,
            },
        }
    }

    /// Half the queues, for another try after ENOMEM; `None` below [`FLOOR`].
    pub fn halved(self) -> Option<CoreBudget> {
        (self.sq_entries > FLOOR.sq_entries).then(|| CoreBudget {
            sq_entries: (self.sq_entries / 2).max(FLOOR.sq_entries),
            cq_entries: (self.cq_entries / 2).max(FLOOR.cq_entries),
            accepts_in_flight: (self.accepts_in_flight / 2).max(FLOOR.accepts_in_flight),
            reserve_slots: (self.reserve_slots / 2).max(FLOOR.reserve_slots),
            buffers_max: (self.buffers_max / 2).max(FLOOR.buffers_max),
        })
    }

    /// Bytes of kernel memory the two queues take, which RLIMIT_MEMLOCK counts without CAP_IPC_LOCK: 64 bytes
    /// and a 4-byte index per submission entry, 16 bytes per completion entry, and two pages for the head and rounding.
    pub const fn locked_bytes(self) -> u64 {
        self.sq_entries as u64 * (64 + 4) + self.cq_entries as u64 * 16 + 2 * 4096
    }

    /// Direct descriptors a reactor registers to carry `connections`.
    pub const fn descriptors(self, connections: u32) -> u32 {
        connections + self.reserve_slots as u32
    }
}

/// How much of a sysctl is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// At least this, however many connections.
    AtLeast(u64),
    /// At most this.
    AtMost(u64),
    /// At least this for every thousand connections.
    PerThousand(u64),
}

impl Amount {
    /// The number to set for `connections`.
    pub const fn number(self, connections: u64) -> u64 {
        match self {
            Amount::AtLeast(number) | Amount::AtMost(number) => number,
            Amount::PerThousand(number) => (connections * number).div_ceil(1000),
        }
    }

    /// Whether `found` is enough for `connections`.
    pub const fn met_by(self, found: u64, connections: u64) -> bool {
        match self {
            Amount::AtMost(number) => found <= number,
            _ => found >= self.number(connections),
        }
    }
}

/// A sysctl the host should have set.
#[derive(Debug, Clone, Copy)]
pub struct HostNeed {
    /// Its name.
    pub key: &'static str,
    /// Its numbers, in order.
    pub amounts: &'static [Amount],
    /// What happens otherwise.
    pub why: &'static str,
}

/// What `sysctl/60-megasock.conf` sets for [`TARGET_CONNECTIONS`] and the doctor compares with its own target.
pub const HOST_NEEDS: [HostNeed; 10] = [
    HostNeed {
        key: "fs.file-max",
        amounts: &[FILES],
        why: "each end of a connection is a file, direct descriptors too; both ends may be on this box",
    },
    HostNeed {
        key: "net.core.somaxconn",
        amounts: &[AtLeast(65_535)],
        why: "a burst of newcomers overflows a shorter accept queue and waits a second for a retry",
    },
    HostNeed {
        key: "net.ipv4.tcp_max_syn_backlog",
        amounts: &[AtLeast(65_535)],
        why: "a burst of handshakes overflows a shorter queue",
    },
    HostNeed {
        key: "net.core.netdev_max_backlog",
        amounts: &[AtLeast(65_535)],
        why: "packets beyond it are dropped, each a retransmit of 200 ms or more; loopback goes through it too",
    },
    HostNeed {
        key: "net.ipv4.tcp_mem",
        amounts: &[PerThousand(2_000), PerThousand(3_000), PerThousand(4_000)],
        why: "pages of TCP buffers: one for each direction at both ends before the kernel drops data",
    },
    HostNeed {
        key: "net.ipv4.tcp_max_tw_buckets",
        amounts: &[PerThousand(1_100)],
        why: "a mass close leaves a TIME_WAIT for each connection; beyond this they are cut short",
    },
    HostNeed {
        key: "net.ipv4.tcp_max_orphans",
        amounts: &[PerThousand(1_100)],
        why: "a mass close leaves sockets without a process; beyond this they are reset and lose data",
    },
    HostNeed {
        key: "net.ipv4.tcp_migrate_req",
        amounts: &[AtLeast(1)],
        why: "a server that is replaced leaves who waits at its listeners to the new one; without it they are reset",
    },
    HostNeed {
        key: "net.ipv4.ip_local_port_range",
        amounts: &[AtMost(10_000), AtLeast(65_535)],
        why: "a proxy or driver on this box has one port per connection and address; it starts above the listeners",
    },
    HostNeed {
        key: "net.netfilter.nf_conntrack_max",
        amounts: &[PerThousand(1_100)],
        why: "where connections are tracked, packets of new ones beyond this are dropped",
    },
];

/// Reactors needed for `connections` where each ring may register `descriptors_per_ring` files.
///
/// ```
/// // A hard NOFILE limit of 20,000 that cannot be raised: a million still fits, in 51 rings.
/// assert_eq!(megasock::budget::reactors_for(1_000_000, 20_000), 51);
/// ```
pub fn reactors_for(connections: u64, descriptors_per_ring: u64) -> usize {
    let reserve = u64::from(CoreBudget::for_reactors(usize::MAX).reserve_slots);
    let per_ring = descriptors_per_ring.min(u64::from(RING_DESCRIPTORS_MAX)).saturating_sub(reserve).max(1);
    connections.div_ceil(per_ring) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_budget_is_above_the_floor_and_halves_down_to_it() {
        for reactors in [1, 2, 8, 9, 32, 33, 60, REACTORS_MAX] {
            let mut budget = CoreBudget::for_reactors(reactors);
            assert!(budget.cq_entries >= 2 * budget.sq_entries);
            while let Some(half) = budget.halved() {
                assert!(half.sq_entries < budget.sq_entries);
                budget = half;
            }
            assert_eq!(budget.sq_entries, FLOOR.sq_entries);
        }
    }

    #[test]
    fn a_million_fits_where_nofile_is_twenty_thousand() {
        let reactors = reactors_for(TARGET_CONNECTIONS, 20_000);
        let budget = CoreBudget::for_reactors(reactors);
        let per_reactor = TARGET_CONNECTIONS.div_ceil(reactors as u64) as u32;
        assert!(budget.descriptors(per_reactor) <= 20_000);
    }
}
