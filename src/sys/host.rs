//! What this host allows, read once from `/proc` and `/sys`.
//!
//! [`HostFacts`] is a plain struct: the doctor, the capacity plan and the explanations of a failed ring set-up judge it,
//! and tests make their own. A fact the kernel does not show is `None`, never a guess. Nothing here changes the host
//! but [`raise_nofile`] and [`raise_memlock`], and those only for this process and never beyond the hard limits.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A limit that is not set.
pub const UNLIMITED: u64 = u64::MAX;

/// What the host allows this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// `uname -r`.
    pub kernel_release: String,
    /// RLIMIT_NOFILE in force.
    pub nofile_soft: u64,
    /// RLIMIT_NOFILE to which this process may raise itself.
    pub nofile_hard: u64,
    /// RLIMIT_MEMLOCK in force, in bytes.
    pub memlock_bytes: u64,
    /// `fs.nr_open`: the most RLIMIT_NOFILE can be.
    pub nr_open: Option<u64>,
    /// `fs.file-max`: open files of the whole system, direct descriptors included.
    pub file_max: Option<u64>,
    /// Open files now, from `fs.file-nr`.
    pub files_open: Option<u64>,
    /// The capabilities that lift limits.
    pub capabilities: Capabilities,
    /// A seccomp filter is on this process.
    pub seccomp_filtered: bool,
    /// This process is in the group of `kernel.io_uring_group`.
    pub in_io_uring_group: bool,
    /// `kernel.io_uring_disabled`: 0 open, 1 for a group and CAP_SYS_ADMIN, 2 for nobody.
    pub io_uring_disabled: Option<u64>,
    /// `kernel.io_uring_group`; none is -1.
    pub io_uring_group: Option<i64>,
    /// `net.core.somaxconn`: the longest accept queue of a listener.
    pub somaxconn: Option<u64>,
    /// `net.core.netdev_max_backlog`: packets that may wait for a core; absent in a network namespace.
    pub netdev_max_backlog: Option<u64>,
    /// `net.ipv4.tcp_max_syn_backlog`.
    pub tcp_max_syn_backlog: Option<u64>,
    /// `net.ipv4.tcp_mem`, in pages: low, pressure, high; absent in a network namespace.
    pub tcp_mem_pages: Option<[u64; 3]>,
    /// `net.ipv4.tcp_migrate_req`, of this network namespace.
    pub tcp_migrate_req: Option<u64>,
    /// `net.ipv4.tcp_max_tw_buckets`.
    pub tcp_max_tw_buckets: Option<u64>,
    /// `net.ipv4.tcp_max_orphans`; absent in a network namespace.
    pub tcp_max_orphans: Option<u64>,
    /// Buckets of the hash every TCP packet is looked up in.
    pub tcp_hash_buckets: Option<u64>,
    /// `net.ipv4.ip_local_port_range`, both ends included.
    pub port_range: Option<(u16, u16)>,
    /// `net.ipv4.ip_local_reserved_ports`, as ranges with both ends included.
    pub reserved_ports: Vec<(u16, u16)>,
    /// `net.netfilter.nf_conntrack_max`, where the module is loaded.
    pub conntrack_max: Option<u64>,
    /// Connections tracked now, in this network namespace.
    pub conntrack_count: Option<u64>,
    /// All memory, in bytes.
    pub memory_total_bytes: u64,
    /// `MemAvailable`, in bytes.
    pub memory_available_bytes: u64,
    /// The tightest memory limit of the control groups this process is in.
    pub cgroup_memory: Option<CgroupMemory>,
    /// The cores this process may run on.
    pub cores: Vec<usize>,
}

/// The capabilities that lift limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// CAP_IPC_LOCK: RLIMIT_MEMLOCK does not bind.
    pub ipc_lock: bool,
    /// CAP_SYS_ADMIN: fs.file-max and `kernel.io_uring_disabled = 1` do not bind.
    pub sys_admin: bool,
    /// CAP_SYS_RESOURCE: the hard RLIMIT_NOFILE can be raised.
    pub sys_resource: bool,
    /// How many of all there are.
    pub held: u32,
}

/// A control group's memory limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CgroupMemory {
    /// The limit, in bytes.
    pub limit_bytes: u64,
    /// Charged already, in bytes, without the page cache that can be dropped.
    pub used_bytes: u64,
}

impl CgroupMemory {
    /// What may still be charged, in bytes.
    pub fn available_bytes(self) -> u64 {
        self.limit_bytes.saturating_sub(self.used_bytes)
    }
}

impl HostFacts {
    /// Reads them all; takes well under a millisecond.
    pub fn read() -> HostFacts {
        let status = text("/proc/self/status");
        let limits = text("/proc/self/limits");
        let memory = text("/proc/meminfo");
        let (nofile_soft, nofile_hard) = limit(&limits, "Max open files");
        let capabilities = u64::from_str_radix(field(&status, "CapEff:"), 16).unwrap_or(0);
        let io_uring_group = sysctl("kernel/io_uring_group").and_then(|value| value.parse().ok());
        HostFacts {
            kernel_release: sysctl("kernel/osrelease").unwrap_or_default(),
            nofile_soft,
            nofile_hard,
            memlock_bytes: limit(&limits, "Max locked memory").0,
            nr_open: number("fs/nr_open"),
            file_max: number("fs/file-max"),
            files_open: number("fs/file-nr"),
            capabilities: Capabilities {
                ipc_lock: capabilities >> 14 & 1 == 1,
                sys_admin: capabilities >> 21 & 1 == 1,
                sys_resource: capabilities >> 24 & 1 == 1,
                held: capabilities.count_ones(),
            },
            seccomp_filtered: field(&status, "Seccomp:") == "2",
            in_io_uring_group: io_uring_group.is_some_and(|group| in_group(&status, group)),
            io_uring_disabled: number("kernel/io_uring_disabled"),
            io_uring_group,
            somaxconn: number("net/core/somaxconn"),
            netdev_max_backlog: number("net/core/netdev_max_backlog"),
            tcp_max_syn_backlog: number("net/ipv4/tcp_max_syn_backlog"),
            tcp_migrate_req: number("net/ipv4/tcp_migrate_req"),
            tcp_mem_pages: sysctl("net/ipv4/tcp_mem").and_then(|value| numbers(&value).try_into().ok()),
            tcp_max_tw_buckets: number("net/ipv4/tcp_max_tw_buckets"),
            tcp_max_orphans: number("net/ipv4/tcp_max_orphans"),
            // Negative in a namespace that shares the table of the first one: the size is the same.
            tcp_hash_buckets: sysctl("net/ipv4/tcp_ehash_entries")
                .and_then(|value| value.parse::<i64>().ok())
                .map(i64::unsigned_abs),
            port_range: sysctl("net/ipv4/ip_local_port_range").and_then(|value| match numbers(&value)[..] {
                [first, last] => Some((first.try_into().ok()?, last.try_into().ok()?)),
                _ => None,
            }),
            reserved_ports: sysctl("net/ipv4/ip_local_reserved_ports")
                .map(|value| ranges(&value))
                .unwrap_or_default(),
            conntrack_max: number("net/netfilter/nf_conntrack_max"),
            conntrack_count: number("net/netfilter/nf_conntrack_count"),
            memory_total_bytes: kib(&memory, "MemTotal:"),
            memory_available_bytes: kib(&memory, "MemAvailable:"),
            cgroup_memory: cgroup_memory(&text("/proc/self/cgroup"), Path::new("/sys/fs/cgroup")),
            cores: ranges(field(&status, "Cpus_allowed_list:"))
                .into_iter()
                .flat_map(|(first, last): (usize, usize)| first..=last)
                .collect(),
        }
    }

    /// The most files one ring can register, and one process open, once the soft limit is raised.
    pub fn nofile(&self) -> u64 {
        self.nofile_hard.max(self.nofile_soft)
    }

    /// The memory this process may use, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.cgroup_memory.map_or(u64::MAX, |limit| limit.limit_bytes).min(self.memory_total_bytes)
    }

    /// What binds this process when it has given up its privileges ([`super::harden`]): `fs.file-max` at every accept. Not
    /// what the kernel asks when a ring is made, for the rings are made before: RLIMIT_MEMLOCK, `kernel.io_uring_disabled`.
    pub fn hardened(mut self) -> HostFacts {
        self.capabilities.sys_admin = false;
        self.capabilities.sys_resource = false;
        self
    }

    /// What there will be for a process that replaces another of its kind: what that one holds now comes over or is freed.
    pub fn replacing(mut self) -> HostFacts {
        self.memory_available_bytes = self.memory_total_bytes;
        if let Some(group) = &mut self.cgroup_memory {
            group.used_bytes = 0;
        }
        self.files_open = Some(0);
        self
    }

    /// RLIMIT_MEMLOCK, in bytes, unless this process is exempt from it.
    pub fn memlock_binding_bytes(&self) -> Option<u64> {
        (!self.capabilities.ipc_lock && self.memlock_bytes != UNLIMITED).then_some(self.memlock_bytes)
    }
}

/// What this host calls itself.
pub fn name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "localhost".to_owned() } else { name.trim().to_owned() }
}

/// Threads of this process, where /proc says.
pub fn threads() -> Option<u64> {
    field(&text("/proc/self/status"), "Threads:").parse().ok()
}

/// Raises the soft RLIMIT_NOFILE to the hard one.
///
/// # Errors
/// As setrlimit(2): the hard limit is above `fs.nr_open`.
pub fn raise_nofile() -> io::Result<()> {
    raise(libc::RLIMIT_NOFILE)
}

/// Raises the soft RLIMIT_MEMLOCK to the hard one.
///
/// # Errors
/// As setrlimit(2).
pub fn raise_memlock() -> io::Result<()> {
    raise(libc::RLIMIT_MEMLOCK)
}

/// What `getrlimit` takes; glibc has a type for it.
#[cfg(target_env = "gnu")]
type Resource = libc::__rlimit_resource_t;
#[cfg(not(target_env = "gnu"))]
type Resource = libc::c_int;

fn raise(resource: Resource) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit for the kernel to write, and lives across the call.
    if unsafe { libc::getrlimit(resource, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is initialised and only read.
    match unsafe { libc::setrlimit(resource, &limit) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A file's text; empty where there is none, so that each fact in it reads as absent.
fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn sysctl(key: &str) -> Option<String> {
    fs::read_to_string(Path::new("/proc/sys").join(key)).ok().map(|value| value.trim().to_owned())
}

/// The first number of a sysctl.
fn number(key: &str) -> Option<u64> {
    numbers(&sysctl(key)?).first().copied()
}

fn numbers(value: &str) -> Vec<u64> {
    value.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// What follows `name` on its line.
fn field<'a>(text: &'a str, name: &str) -> &'a str {
    text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim()
}

fn kib(meminfo: &str, name: &str) -> u64 {
    let kib: u64 = field(meminfo, name).trim_end_matches(" kB").parse().unwrap_or(0);
    kib * 1024
}

/// Soft and hard value of a line of `/proc/self/limits`.
fn limit(limits: &str, name: &str) -> (u64, u64) {
    let mut words = field(limits, name).split_whitespace().map(|word| match word {
        "unlimited" => UNLIMITED,
        _ => word.parse().unwrap_or(0),
    });
    (words.next().unwrap_or(0), words.next().unwrap_or(0))
}

/// `0-1,4` as pairs of first and last.
fn ranges<T: std::str::FromStr + Copy>(list: &str) -> Vec<(T, T)> {
    let pair = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    list.split(',').filter_map(pair).collect()
}

/// The effective group or a supplementary one, as `in_group_p` has it in the kernel.
fn in_group(status: &str, group: i64) -> bool {
    let effective = field(status, "Gid:").split_whitespace().nth(1);
    effective
        .into_iter()
        .chain(field(status, "Groups:").split_whitespace())
        .any(|gid| gid.parse() == Ok(group))
}

/// Where one version of control groups keeps what is asked here.
struct CgroupVersion {
    /// Its name in `/proc/self/cgroup`.
    controller: &'static str,
    mount: &'static str,
    limit_file: &'static str,
    used_file: &'static str,
    /// The line of `memory.stat` that says how much page cache can be dropped.
    droppable: &'static str,
}

const CGROUP_V2: CgroupVersion = CgroupVersion {
    controller: "",
    mount: "",
    limit_file: "memory.max",
    used_file: "memory.current",
    droppable: "inactive_file ",
};

const CGROUP_VERSIONS: [CgroupVersion; 3] = [
    CGROUP_V2,
    // Where version 1 holds the controllers, systemd mounts version 2 here.
    CgroupVersion { mount: "unified", ..CGROUP_V2 },
    CgroupVersion {
        controller: "memory",
        mount: "memory",
        limit_file: "memory.limit_in_bytes",
        used_file: "memory.usage_in_bytes",
        droppable: "total_inactive_file ",
    },
];

/// The tightest limit on the way from this process's group to the root, in either version of control groups.
fn cgroup_memory(membership: &str, root: &Path) -> Option<CgroupMemory> {
    let limit_of = |version: &CgroupVersion, directory: &Path| {
        let read = |file: &str| numbers(&text(directory.join(file))).first().copied();
        // Version 2 says "max" where there is no limit, version 1 the largest multiple of a page.
        let limit_bytes = read(version.limit_file).filter(|limit| *limit < 1 << 60)?;
        let stat = text(directory.join("memory.stat"));
        let droppable_bytes = field(&stat, version.droppable).parse().unwrap_or(0);
        let used_bytes = read(version.used_file).unwrap_or(0).saturating_sub(droppable_bytes);
        Some(CgroupMemory { limit_bytes, used_bytes })
    };
    let limits = CGROUP_VERSIONS.iter().flat_map(|version| {
        let directories = cgroup_directories(membership, version.controller, &root.join(version.mount));
        directories.into_iter().filter_map(move |directory| limit_of(version, &directory))
    });
    limits.min_by_key(|limit| limit.available_bytes())
}

/// The group's directory and those above it. In a container the path may name directories that only the host sees; the
/// mount's own root is then the group.
fn cgroup_directories(membership: &str, controller: &str, mount: &Path) -> Vec<PathBuf> {
    let path = membership.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let controllers = parts.next()?;
        controllers.split(',').any(|name| name == controller).then(|| parts.next().unwrap_or("/"))
    });
    let below = Path::new(path.unwrap_or("/").trim_start_matches('/'));
    below.ancestors().map(|part| mount.join(part)).collect()
}

#[cfg(test)]
pub(crate) fn roomy() -> HostFacts {
    HostFacts {
        kernel_release: "6.18.20".into(),
        nofile_soft: 1_048_576,
        nofile_hard: 1_048_576,
        memlock_bytes: 8 << 20,
        nr_open: Some(1_048_576),
        file_max: Some(10_000_000),
        files_open: Some(1_000),
        capabilities: Capabilities::default(),
        seccomp_filtered: false,
        in_io_uring_group: false,
        io_uring_disabled: Some(0),
        io_uring_group: Some(-1),
        somaxconn: Some(65_535),
        netdev_max_backlog: Some(65_535),
        tcp_max_syn_backlog: Some(65_535),
        tcp_migrate_req: Some(1),
        tcp_mem_pages: Some([2_000_000, 3_000_000, 4_000_000]),
        tcp_max_tw_buckets: Some(2_000_000),
        tcp_max_orphans: Some(2_000_000),
        tcp_hash_buckets: Some(4_194_304),
        port_range: Some((10_000, 65_535)),
        reserved_ports: Vec::new(),
        conntrack_max: None,
        conntrack_count: None,
        memory_total_bytes: 64 << 30,
        memory_available_bytes: 60 << 30,
        cgroup_memory: None,
        cores: (0..8).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_is_readable() {
        let facts = HostFacts::read();
        assert!(facts.kernel_release.contains('.'), "{facts:?}");
        assert!(facts.nofile_soft > 0 && facts.nofile_hard >= facts.nofile_soft, "{facts:?}");
        assert!(facts.memory_total_bytes >= facts.memory_available_bytes && facts.memory_available_bytes > 0);
        assert!(
            !facts.cores.is_empty() && facts.file_max.is_some() && facts.somaxconn.is_some(),
            "{facts:?}"
        );
    }

    #[test]
    fn soft_limits_rise_to_the_hard_ones() {
        raise_nofile().unwrap();
        raise_memlock().unwrap();
        let facts = HostFacts::read();
        assert_eq!(facts.nofile_soft, facts.nofile_hard);
        let (memlock_soft, memlock_hard) = limit(&text("/proc/self/limits"), "Max locked memory");
        assert_eq!(memlock_soft, memlock_hard);
    }

    #[test]
    fn limits_lists_and_groups_are_read_as_the_kernel_writes_them() {
        let limits = "Max locked memory         8388608              unlimited            bytes     \n\
                      Max open files            1024                 20000                files     \n";
        assert_eq!(limit(limits, "Max open files"), (1_024, 20_000));
        assert_eq!(limit(limits, "Max locked memory"), (8_388_608, UNLIMITED));
        assert_eq!(ranges::<u16>("8080,9000-9010"), [(8080, 8080), (9000, 9010)]);
        assert_eq!(ranges::<u16>(""), []);
        let status = "Gid:\t100\t65534\t100\t100\nGroups:\t7 8 \n";
        assert!(in_group(status, 65534) && in_group(status, 8));
        assert!(!in_group(status, 100) && !in_group(status, -1));
    }

    #[test]
    fn the_tightest_control_group_counts() {
        let root = std::env::temp_dir().join(format!("megasock-cgroup-{}", std::process::id()));
        let write = |file: &str, value: &str| {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, value).unwrap();
        };
        write("memory.max", "max\n");
        write("app/memory.max", "1000000\n");
        write("app/memory.current", "400000\n");
        write("app/memory.stat", "anon 5\ninactive_file 100000\n");
        write("app/one/memory.max", "900000\n");
        write("app/one/memory.current", "100000\n");
        let v2 = cgroup_memory("0::/app/one\n", &root);
        assert_eq!(v2, Some(CgroupMemory { limit_bytes: 1_000_000, used_bytes: 300_000 }));

        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(cgroup_memory("4:cpu,memory:/of/the/host\n", &root), None);
        write("memory/memory.limit_in_bytes", "5000\n");
        let v1_in_container = cgroup_memory("4:cpu,memory:/of/the/host\n", &root);
        assert_eq!(v1_in_container.map(CgroupMemory::available_bytes), Some(5_000));
        fs::remove_dir_all(root).unwrap();
    }
}
