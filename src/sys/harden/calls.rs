//! The system calls of a running server, one table: what is not in it does not exist for the process.
//!
//! `deploy/seccomp.json`, the profile of a container, is wider: it also holds what starting takes. A test compares the two.

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use std::collections::BTreeMap;

/// Calls that are there for one reason.
#[derive(Debug)]
pub struct CallGroup {
    /// What the server does with them.
    pub why: &'static str,
    /// Name and number on this architecture.
    pub calls: &'static [(&'static str, c_long)],
    /// Allowed with any of these lists of arguments; with all arguments where it is empty.
    pub only: &'static [&'static [Argument]],
}

/// What an argument must be.
#[derive(Debug, Clone, Copy)]
pub struct Argument {
    /// Which one, from 0.
    pub index: u8,
    /// The bits looked at.
    pub mask: u64,
    /// What they must be; this process's number where it is `None`.
    pub value: Option<u64>,
}

const fn argument(index: u8, mask: u64, value: u64) -> Argument {
    Argument { index, mask, value: Some(value) }
}

const THIS_PROCESS: Argument = Argument { index: 0, mask: 0xFFFF_FFFF, value: None };

/// An `int`, of which the kernel looks at 32 bits.
const fn number(index: u8, value: u32) -> Argument {
    argument(index, 0xFFFF_FFFF, value as u64)
}

/// A group of calls by the names of their numbers in `libc`.
macro_rules! group {
    ($why:literal: $($call:ident)+) => { group!($why: $($call)+; only &[]) };
    ($why:literal: $($call:ident)+; only $only:expr) => {
        CallGroup { why: $why, calls: &[$((stringify!($call), libc::$call)),+], only: $only }
    };
}

/// io_uring_register(2): what puts a prepared ring into the hands of its thread.
const REGISTER_ENABLE_RINGS: u32 = 12;
const REGISTER_RING_FDS: u32 = 20;
const UNREGISTER_RING_FDS: u32 = 21;

/// `prctl` with which allocators and languages name anonymous memory.
const PR_SET_VMA: u32 = 0x5356_4d41;

const NEW_NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32 as u64;

const STREAM: Argument = argument(1, 0xF, libc::SOCK_STREAM as u64);

/// Every call a running server may make.
pub const CALLS: &[CallGroup] = &[
    group!("a turn of a reactor": SYS_io_uring_enter),
    group!("a prepared ring gets its thread; none is made, and none is told anything else":
    SYS_io_uring_register;
    only &[
        &[number(1, REGISTER_ENABLE_RINGS)],
        &[number(1, REGISTER_RING_FDS)],
        &[number(1, UNREGISTER_RING_FDS)],
    ]),
    group!("descriptors are read, written and closed":
        SYS_read SYS_readv SYS_pread64 SYS_write SYS_writev SYS_close SYS_dup SYS_dup3 SYS_fcntl SYS_lseek SYS_pipe2),
    group!("connections of the control plane and the backplane":
        SYS_bind SYS_listen SYS_accept SYS_accept4 SYS_connect SYS_shutdown SYS_getsockname SYS_getpeername SYS_getsockopt
        SYS_setsockopt SYS_recvfrom SYS_recvmsg SYS_sendto SYS_sendmsg),
    group!("TCP, and sockets of this host; no netlink, no packets, no UDP":
    SYS_socket;
    only &[
        &[number(0, libc::AF_INET as u32), STREAM],
        &[number(0, libc::AF_INET6 as u32), STREAM],
        &[number(0, libc::AF_UNIX as u32)],
    ]),
    group!("wakes a thread from a signal": SYS_socketpair; only &[&[number(0, libc::AF_UNIX as u32)]]),
    group!("waiting, on the control plane":
        SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_ppoll SYS_eventfd2 SYS_timerfd_create SYS_timerfd_settime
        SYS_nanosleep SYS_clock_nanosleep SYS_restart_syscall),
    #[cfg(target_arch = "x86_64")]
    group!("waiting, by the names that only this architecture has": SYS_poll SYS_epoll_wait),
    group!("non-blocking sockets (FIONBIO, FIOCLEX), bytes waiting (FIONREAD), whether the log is a terminal (TCGETS)":
    SYS_ioctl;
    only &[
        &[number(1, libc::FIONBIO as u32)],
        &[number(1, libc::FIOCLEX as u32)],
        &[number(1, libc::FIONREAD as u32)],
        &[number(1, libc::TCGETS as u32)],
    ]),
    group!("the configuration, keys and certificates on a reload, /proc for metrics: files are read, never written or made":
        SYS_openat;
        only &[&[argument(2, (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC) as u64, libc::O_RDONLY as u64)]]),
    #[cfg(target_arch = "x86_64")]
    group!("the same, by the name that only this architecture has and musl uses":
        SYS_open;
        only &[&[argument(1, (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC) as u64, libc::O_RDONLY as u64)]]),
    group!("what kind of file it is, and what a folder holds":
        SYS_fstat SYS_newfstatat SYS_statx SYS_getdents64 SYS_readlinkat SYS_getcwd),
    #[cfg(target_arch = "x86_64")]
    group!("the same, by names that only this architecture has": SYS_readlink SYS_stat SYS_lstat),
    group!("memory that is not executable": SYS_mmap SYS_mprotect;
        only &[&[argument(2, libc::PROT_EXEC as u64, 0)]]),
    group!("memory given back, and grown": SYS_munmap SYS_mremap SYS_madvise SYS_brk),
    group!("threads, which share everything; no processes, no namespaces":
        SYS_clone;
        only &[&[argument(0, libc::CLONE_THREAD as u64 | NEW_NAMESPACES, libc::CLONE_THREAD as u64)]]),
    group!("a thread's life, locks and core":
        SYS_futex SYS_set_robust_list SYS_rseq SYS_gettid SYS_getpid SYS_sched_getaffinity SYS_sched_setaffinity SYS_sched_yield
        SYS_getcpu SYS_exit SYS_exit_group),
    group!("the control thread comes after the cores: its own niceness, nobody else's": SYS_setpriority;
        only &[&[number(0, libc::PRIO_PROCESS as _), number(1, 0)]]),
    group!("a thread's name, and names of memory": SYS_prctl;
        only &[&[number(0, libc::PR_SET_NAME as u32)], &[number(0, PR_SET_VMA)]]),
    group!("an end by `abort`; no other process gets a signal": SYS_tgkill; only &[&[THIS_PROCESS]]),
    group!("signals are taken": SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_sigaltstack),
    group!("limits are read, of this process; none is set": SYS_prlimit64;
        only &[&[argument(0, u64::MAX, 0), argument(2, u64::MAX, 0)]]),
    group!("clocks, random numbers, what this host is and has used":
        SYS_clock_gettime SYS_clock_getres SYS_gettimeofday SYS_getrandom SYS_uname SYS_sysinfo SYS_getrusage),
];

/// The program for the kernel.
pub(super) fn filter() -> BpfProgram {
    let mut rules: BTreeMap<c_long, Vec<SeccompRule>> = BTreeMap::new();
    for CallGroup { calls, only, .. } in CALLS {
        for (_, call) in *calls {
            rules.insert(*call, only.iter().map(|arguments| rule(arguments)).collect());
        }
    }
    let missing = SeccompAction::Errno(libc::ENOSYS as u32);
    let architecture =
        std::env::consts::ARCH.try_into().expect("a 64-bit architecture Linux has io_uring on");
    SeccompFilter::new(rules, missing, SeccompAction::Allow, architecture)
        .and_then(BpfProgram::try_from)
        .expect("the table is the same everywhere, and tested")
}

fn rule(arguments: &[Argument]) -> SeccompRule {
    let condition = |&Argument { index, mask, value }: &Argument| {
        let value = value.unwrap_or(std::process::id().into());
        SeccompCondition::new(index, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(mask), value)
    };
    let conditions: Result<Vec<_>, _> = arguments.iter().map(condition).collect();
    conditions.and_then(SeccompRule::new).expect("a call has six arguments, and each list names one")
}
