//! What is missing when io_uring is, and what to do about it.
//!
//! A failed set-up names one errno for many causes. [`explain_setup_error`] turns it into the cause on this host and
//! the line that mends it; [`behaviour`] tries what the data plane rests on. Distributions backport, so nothing here
//! trusts a version number where it can try the thing itself; versions only say where to find it.

pub mod behaviour;

use super::host::HostFacts;
use crate::budget;
use io_uring::{Builder, IoUring};
use std::fmt;
use std::io;

/// Why io_uring cannot be used as the data plane needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// `kernel.io_uring_disabled` shuts this process out.
    Disabled {
        /// The sysctl's value, 1 or 2.
        value: u64,
    },
    /// A seccomp filter answers for the kernel.
    Seccomp,
    /// A security module forbids it.
    SecurityModule,
    /// The kernel, or what plays one, has no such call.
    NoSyscall,
    /// The kernel does not know this set-up flag.
    Flag {
        /// Its name.
        name: &'static str,
        /// The first Linux that knows it.
        since: &'static str,
    },
    /// RLIMIT_MEMLOCK is too small for the queues.
    LockedMemory {
        /// Bytes of the smallest queues of all reactors together.
        needed_bytes: u64,
        /// The limit.
        found_bytes: u64,
    },
    /// The kernel found no memory, and no limit says why.
    Memory,
    /// RLIMIT_NOFILE is too small for the ring or its table.
    Descriptors {
        /// The least that works.
        needed: u64,
        /// The limit in force.
        found: u64,
    },
    /// `fs.file-max` is reached.
    SystemFiles,
    /// Anything else the kernel says.
    Errno(i32),
}

/// A set-up flag, and the kernel that brought it.
#[derive(Debug, Clone, Copy)]
pub struct SetupFlag {
    /// Its name, as in io_uring_setup(2).
    pub name: &'static str,
    /// The first Linux that knows it.
    pub since: &'static str,
    set: fn(&mut Builder) -> &mut Builder,
}

/// The flags every ring of the data plane is made with.
pub const SETUP_FLAGS: [SetupFlag; 4] = [
    SetupFlag { name: "IORING_SETUP_CQSIZE", since: "5.5", set: |ring| ring.setup_cqsize(16) },
    SetupFlag { name: "IORING_SETUP_SUBMIT_ALL", since: "5.18", set: Builder::setup_submit_all },
    SetupFlag { name: "IORING_SETUP_SINGLE_ISSUER", since: "6.0", set: Builder::setup_single_issuer },
    // Needs SINGLE_ISSUER, so it comes after it.
    SetupFlag { name: "IORING_SETUP_DEFER_TASKRUN", since: "6.1", set: Builder::setup_defer_taskrun },
];

/// What all rings together ask of the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needed {
    /// Bytes RLIMIT_MEMLOCK counts, at the floor of the budget.
    pub locked_bytes: u64,
    /// Descriptors RLIMIT_NOFILE must allow: the larger of a ring's table and the process's own.
    pub descriptors: u64,
}

impl Needed {
    /// The least with which `reactors` can run.
    pub fn least(reactors: usize) -> Needed {
        let reactors = reactors as u64;
        let ordinary = budget::DESCRIPTORS_BASE + budget::DESCRIPTORS_PER_REACTOR * reactors;
        let table = u64::from(budget::FLOOR.reserve_slots) + 1;
        Needed { locked_bytes: budget::FLOOR.locked_bytes() * reactors, descriptors: ordinary.max(table) }
    }
}

/// A cause, and what mends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// What is the case.
    pub cause: String,
    /// What to do.
    pub fix: String,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  fix: {}", self.cause, self.fix)
    }
}

/// Explains why a ring could not be made: what `serve` says before it exits.
pub fn explain_setup_error(error: &io::Error, facts: &HostFacts, needed: Needed) -> Explanation {
    Missing::from_setup_error(error.raw_os_error().unwrap_or(0), facts, needed).explain(facts)
}

/// Makes one small ring with every flag the data plane uses. The quick check before anything is started.
pub fn setup(facts: &HostFacts) -> Result<IoUring, Missing> {
    let error = match ring_with(&SETUP_FLAGS) {
        Ok(ring) => return Ok(ring),
        Err(error) => error,
    };
    Err(Missing::from_setup_error(error.raw_os_error().unwrap_or(0), facts, Needed::least(1)))
}

/// Whether the smallest queues of `reactors` fit RLIMIT_MEMLOCK: whether this kernel counts them shows only in trying.
pub fn floor_fits(reactors: usize) -> bool {
    let (entries, completions) = (budget::FLOOR.sq_entries, budget::FLOOR.cq_entries);
    let rings: io::Result<Vec<IoUring>> =
        (0..reactors).map(|_| IoUring::builder().setup_cqsize(completions).build(entries)).collect();
    rings.is_ok()
}

fn ring_with(flags: &[SetupFlag]) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    flags.iter().for_each(|flag| {
        (flag.set)(&mut builder);
    });
    builder.build(8)
}

/// The first flag with which set-up turns invalid.
fn refused_flag() -> Option<Missing> {
    let invalid = |error: io::Error| error.raw_os_error() == Some(libc::EINVAL);
    let refused =
        (1..=SETUP_FLAGS.len()).find(|&count| ring_with(&SETUP_FLAGS[..count]).is_err_and(invalid))?;
    let SetupFlag { name, since, .. } = SETUP_FLAGS[refused - 1];
    Some(Missing::Flag { name, since })
}

impl Missing {
    /// What an errno of io_uring_setup(2) or io_uring_register(2) means on this host.
    pub fn from_setup_error(errno: i32, facts: &HostFacts, needed: Needed) -> Missing {
        match errno {
            libc::EPERM | libc::EACCES => Missing::from_refusal(facts),
            // Some container runtimes answer ENOSYS for what they filter; an old kernel has no such filter to blame.
            libc::ENOSYS if facts.seccomp_filtered && has_io_uring(&facts.kernel_release) => Missing::Seccomp,
            libc::ENOSYS => Missing::NoSyscall,
            libc::EINVAL => refused_flag().unwrap_or(Missing::Errno(errno)),
            libc::ENOMEM => match facts.memlock_binding_bytes() {
                Some(found_bytes) => Missing::LockedMemory { needed_bytes: needed.locked_bytes, found_bytes },
                None => Missing::Memory,
            },
            libc::EMFILE => Missing::Descriptors { needed: needed.descriptors, found: facts.nofile_soft },
            libc::ENFILE => Missing::SystemFiles,
            _ => Missing::Errno(errno),
        }
    }

    fn from_refusal(facts: &HostFacts) -> Missing {
        let exempt = facts.capabilities.sys_admin || facts.in_io_uring_group;
        match facts.io_uring_disabled {
            Some(value @ 2..) => Missing::Disabled { value },
            Some(value @ 1) if !exempt => Missing::Disabled { value },
            _ if facts.seccomp_filtered => Missing::Seccomp,
            _ => Missing::SecurityModule,
        }
    }

    /// Says it in words an operator can act on.
    pub fn explain(&self, facts: &HostFacts) -> Explanation {
        let kernel = &facts.kernel_release;
        let (cause, fix) = match self {
            Missing::Disabled { value: 1 } => (
                format!("kernel.io_uring_disabled = 1: only CAP_SYS_ADMIN and {} may use io_uring", group(facts)),
                "sysctl -w kernel.io_uring_disabled=0; or make a group and let megasock into it: \
                 sysctl -w kernel.io_uring_group=$(getent group io_uring | cut -d: -f3), \
                 SupplementaryGroups=io_uring in the unit (deploy/systemd-io-uring.conf)"
                    .to_owned(),
            ),
            Missing::Disabled { value } => (
                format!("kernel.io_uring_disabled = {value}: nobody may use io_uring"),
                "sysctl -w kernel.io_uring_disabled=0".to_owned(),
            ),
            Missing::Seccomp => (
                "a seccomp filter forbids io_uring, as container runtimes do by default".to_owned(),
                "docker run --security-opt seccomp=deploy/seccomp.json, which allows io_uring_setup, io_uring_enter \
                 and io_uring_register; in a systemd unit add those three to SystemCallFilter="
                    .to_owned(),
            ),
            Missing::SecurityModule => (
                "io_uring is forbidden, and neither kernel.io_uring_disabled nor a seccomp filter does it: \
                 a security module (SELinux, AppArmor, Landlock)"
                    .to_owned(),
                "allow io_uring for megasock in its policy; the audit log (dmesg, ausearch) names the rule".to_owned(),
            ),
            Missing::NoSyscall => (
                format!("this system has no io_uring: kernel {kernel} (gVisor and other sandboxes have none either)"),
                "run on Linux 6.1 or later, in a container on runc or crun".to_owned(),
            ),
            Missing::Flag { name, since } => (
                format!("kernel {kernel} does not know {name}, which came with Linux {since}"),
                "run on Linux 6.1 or later, 6.12 LTS or later by preference".to_owned(),
            ),
            Missing::LockedMemory { needed_bytes, found_bytes } => (
                format!(
                    "RLIMIT_MEMLOCK is {} KiB, the smallest queues need {} KiB",
                    found_bytes >> 10,
                    needed_bytes.div_ceil(1024)
                ),
                budget::MEMLOCK_LINES.to_owned(),
            ),
            Missing::Memory => (
                "the kernel has no memory for the rings".to_owned(),
                "free memory, or raise the memory limit of the container or unit (MemoryMax=)".to_owned(),
            ),
            Missing::Descriptors { needed, found } => (
                format!("RLIMIT_NOFILE is {found}, at least {needed} are needed"),
                budget::NOFILE_LINES.to_owned(),
            ),
            Missing::SystemFiles => (
                format!("all {} files of fs.file-max are open", facts.file_max.unwrap_or(0)),
                format!("sysctl -w fs.file-max={} (scripts/tune)", budget::FILE_MAX),
            ),
            Missing::Errno(errno) => (
                format!("io_uring cannot be set up: {}", io::Error::from_raw_os_error(*errno)),
                "see io_uring_setup(2) for this error".to_owned(),
            ),
        };
        Explanation { cause, fix }
    }
}

fn group(facts: &HostFacts) -> String {
    match facts.io_uring_group {
        Some(group @ 0..) => format!("group {group} (kernel.io_uring_group)"),
        _ => "no group (kernel.io_uring_group = -1)".to_owned(),
    }
}

/// Whether a kernel of this release has io_uring at all: 5.1.
fn has_io_uring(release: &str) -> bool {
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(5), Some(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::host::{Capabilities, roomy};

    const NEEDED: Needed = Needed { locked_bytes: 100_000, descriptors: 300 };

    fn explained(errno: i32, facts: &HostFacts) -> String {
        Missing::from_setup_error(errno, facts, NEEDED).explain(facts).to_string()
    }

    #[test]
    fn every_cause_is_told_apart_and_names_its_fix() {
        let disabled = |value, group| HostFacts {
            io_uring_disabled: Some(value),
            io_uring_group: Some(group),
            ..roomy()
        };
        let filtered = HostFacts { seccomp_filtered: true, ..roomy() };
        let gvisor = HostFacts { kernel_release: "4.4.0".into(), seccomp_filtered: true, ..roomy() };
        let locked = HostFacts { memlock_bytes: 8192, ..roomy() };
        let lock_exempt = Capabilities { ipc_lock: true, ..Capabilities::default() };
        let exempt = HostFacts { capabilities: lock_exempt, ..locked.clone() };
        let low = HostFacts { nofile_soft: 64, ..roomy() };
        for (errno, facts, says) in [
            (libc::EPERM, &disabled(1, -1), ["kernel.io_uring_disabled = 1", "no group"]),
            (libc::EPERM, &disabled(1, 998), ["group 998", "SupplementaryGroups=io_uring"]),
            (libc::EPERM, &disabled(2, 998), ["kernel.io_uring_disabled = 2: nobody", "io_uring_disabled=0"]),
            (libc::EPERM, &filtered, ["seccomp filter", "deploy/seccomp.json"]),
            (libc::ENOSYS, &filtered, ["seccomp filter", "deploy/seccomp.json"]),
            (libc::EACCES, &roomy(), ["security module", "policy"]),
            (libc::ENOSYS, &gvisor, ["kernel 4.4.0 (gVisor", "Linux 6.1"]),
            (libc::ENOMEM, &locked, ["RLIMIT_MEMLOCK is 8 KiB", "LimitMEMLOCK=128M"]),
            (libc::ENOMEM, &exempt, ["no memory for the rings", "MemoryMax="]),
            (libc::EMFILE, &low, ["RLIMIT_NOFILE is 64, at least 300", "LimitNOFILE=1048576"]),
            (libc::ENFILE, &roomy(), ["fs.file-max", "scripts/tune"]),
            (libc::EIO, &roomy(), ["Input/output error", "io_uring_setup(2)"]),
        ] {
            let text = explained(errno, facts);
            assert!(says.iter().all(|part| text.contains(part)), "{errno}: {text}");
        }
    }

    #[test]
    fn those_whom_the_sysctl_exempts_are_not_told_to_change_it() {
        let shut = HostFacts { io_uring_disabled: Some(1), seccomp_filtered: true, ..roomy() };
        let admin = Capabilities { sys_admin: true, ..Capabilities::default() };
        for exempt in [
            HostFacts { capabilities: admin, ..shut.clone() },
            HostFacts { in_io_uring_group: true, ..shut.clone() },
        ] {
            assert_eq!(Missing::from_setup_error(libc::EPERM, &exempt, NEEDED), Missing::Seccomp);
        }
        assert_eq!(Missing::from_setup_error(libc::EPERM, &shut, NEEDED), Missing::Disabled { value: 1 });
    }

    #[test]
    fn a_flag_the_kernel_does_not_know_is_named() {
        let SetupFlag { name, since, .. } = SETUP_FLAGS[3];
        let flag = Missing::Flag { name, since };
        let text = flag.explain(&HostFacts { kernel_release: "5.15.0".into(), ..roomy() }).to_string();
        assert!(
            text.contains(
                "kernel 5.15.0 does not know IORING_SETUP_DEFER_TASKRUN, which came with Linux 6.1"
            ),
            "{text}"
        );
    }

    #[test]
    fn kernels_since_five_one_have_io_uring() {
        for (release, has) in
            [("4.4.0", false), ("5.0.21", false), ("5.1-rc1", true), ("6.18.44-x", true), ("10.0", true)]
        {
            assert_eq!(has_io_uring(release), has, "{release}");
        }
    }
}
