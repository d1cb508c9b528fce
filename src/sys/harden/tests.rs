//! What a thread can do that has given up its privileges, and what it cannot.

use super::calls::filter;
use super::*;
use std::collections::BTreeSet;
use std::fs::File;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread;

/// Runs `test` on a thread that has given up its privileges.
fn hardened(test: fn()) {
    let given_up = move || {
        give_up().unwrap();
        test();
    };
    thread::spawn(given_up).join().unwrap();
}

#[track_caller]
fn assert_missing<T>(tried: io::Result<T>) {
    assert_eq!(tried.err().and_then(|error| error.raw_os_error()), Some(libc::ENOSYS));
}

fn syscall(number: libc::c_long, arguments: [libc::c_long; 3]) -> io::Result<libc::c_long> {
    let [a, b, c] = arguments;
    // SAFETY: tests pass numbers and null; what would do harm is refused, which is what they test.
    match unsafe { libc::syscall(number, a, b, c, 0, 0, 0) } {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

/// Calls that no table of ours may ever hold.
const NEVER: [(&str, libc::c_long); 36] = [
    ("execve", libc::SYS_execve),
    ("execveat", libc::SYS_execveat),
    ("ptrace", libc::SYS_ptrace),
    ("process_vm_readv", libc::SYS_process_vm_readv),
    ("process_vm_writev", libc::SYS_process_vm_writev),
    ("setuid", libc::SYS_setuid),
    ("setgid", libc::SYS_setgid),
    ("setresuid", libc::SYS_setresuid),
    ("setgroups", libc::SYS_setgroups),
    ("capset", libc::SYS_capset),
    ("mount", libc::SYS_mount),
    ("umount2", libc::SYS_umount2),
    ("pivot_root", libc::SYS_pivot_root),
    ("chroot", libc::SYS_chroot),
    ("unshare", libc::SYS_unshare),
    ("setns", libc::SYS_setns),
    ("bpf", libc::SYS_bpf),
    ("perf_event_open", libc::SYS_perf_event_open),
    ("init_module", libc::SYS_init_module),
    ("finit_module", libc::SYS_finit_module),
    ("delete_module", libc::SYS_delete_module),
    ("kexec_load", libc::SYS_kexec_load),
    ("reboot", libc::SYS_reboot),
    ("keyctl", libc::SYS_keyctl),
    ("add_key", libc::SYS_add_key),
    ("request_key", libc::SYS_request_key),
    ("io_uring_setup", libc::SYS_io_uring_setup),
    ("clone3", libc::SYS_clone3),
    ("kill", libc::SYS_kill),
    ("setrlimit", libc::SYS_setrlimit),
    ("memfd_create", libc::SYS_memfd_create),
    ("userfaultfd", libc::SYS_userfaultfd),
    ("unlinkat", libc::SYS_unlinkat),
    ("renameat2", libc::SYS_renameat2),
    ("fchmodat", libc::SYS_fchmodat),
    ("seccomp", libc::SYS_seccomp),
];

#[test]
fn nothing_is_left_in_any_set() {
    hardened(|| {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let value = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            u64::from_str_radix(line.trim(), 16).unwrap()
        };
        // Whoever may not take from the bounding set has nothing to lose by it.
        let bounding = if value("CapBnd:") == 0 { 0 } else { value("CapPrm:") };
        assert_eq!(["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"].map(value), [0; 4]);
        assert_eq!((bounding, value("NoNewPrivs:"), value("Seccomp:")), (0, 1, 2), "{status}");
    });
}

#[test]
fn what_takes_over_a_host_does_not_exist() {
    let listed: BTreeSet<libc::c_long> =
        CALLS.iter().flat_map(|group| group.calls).map(|(_, number)| *number).collect();
    assert_eq!(NEVER.iter().find(|(_, number)| listed.contains(number)), None);
    hardened(|| {
        for (name, number) in NEVER {
            let error = syscall(number, [0; 3]).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOSYS), "{name}");
        }
        assert_missing(Command::new("/bin/true").spawn());
        assert_missing(io_uring::IoUring::new(8));
    });
}

#[test]
fn sockets_are_tcp_or_of_this_host() {
    hardened(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        TcpStream::connect(listener.local_addr().unwrap()).unwrap().set_nonblocking(true).unwrap();
        listener.accept().unwrap();
        UnixStream::pair().unwrap();
        assert_missing(UdpSocket::bind("127.0.0.1:0"));
        for family in [libc::AF_NETLINK, libc::AF_PACKET, libc::AF_VSOCK, libc::AF_ALG, libc::AF_BLUETOOTH] {
            assert_missing(syscall(libc::SYS_socket, [family.into(), libc::SOCK_RAW.into(), 0]));
        }
    });
}

#[test]
fn files_are_read_and_not_written_or_made() {
    hardened(|| {
        assert!(!std::fs::read("/proc/self/status").unwrap().is_empty());
        assert!(std::fs::read_dir("/proc/self/fd").unwrap().next().is_some());
        assert_missing(File::create("/tmp/megasock-must-not-be"));
        assert_missing(File::options().write(true).open("/dev/null"));
        assert_missing(File::options().append(true).open("/dev/null"));
    });
}

#[test]
fn memory_is_never_executable_and_limits_and_rings_stay_as_they_are() {
    hardened(|| {
        let executable = (libc::PROT_READ | libc::PROT_EXEC).into();
        assert_missing(syscall(libc::SYS_mmap, [0, 4096, executable]));
        assert_missing(syscall(libc::SYS_mprotect, [0, 4096, executable]));
        assert_missing(syscall(libc::SYS_prlimit64, [0, libc::RLIMIT_NOFILE.into(), 1]));
        assert_missing(syscall(libc::SYS_prlimit64, [1, libc::RLIMIT_NOFILE.into(), 0]));
        let register_restrictions = 11;
        assert_missing(syscall(libc::SYS_io_uring_register, [-1, register_restrictions, 0]));
        assert_missing(syscall(libc::SYS_tgkill, [1, 1, 0]));
        let this = syscall(libc::SYS_gettid, [0; 3]).unwrap();
        syscall(libc::SYS_tgkill, [std::process::id().into(), this, 0]).expect("abort sends itself a signal");
    });
}

#[test]
fn threads_start_sleep_panic_and_end() {
    hardened(|| {
        let child = thread::Builder::new().name("child".into()).spawn(|| {
            thread::sleep(std::time::Duration::from_millis(1));
            std::panic::resume_unwind(Box::new("caught"));
        });
        assert!(child.unwrap().join().is_err());
        core_affinity::set_for_current(core_affinity::get_core_ids().unwrap()[0]);
    });
}

#[test]
fn a_call_stands_in_one_group_and_the_program_is_short_enough() {
    let mut seen = BTreeSet::new();
    for (name, number) in CALLS.iter().flat_map(|group| group.calls) {
        assert!(seen.insert(number), "{name} stands there twice");
    }
    assert!(filter().len() < 4096, "BPF_MAXINSNS");
}

#[test]
fn a_process_with_threads_is_told_so_and_a_rehearsal_leaves_it_as_it_was() {
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let other = thread::spawn(move || held.recv());
    let refused = apply().unwrap_err();
    assert!(matches!(refused, HardenError::OtherThreads(2..)), "{refused}");
    drop(hold);
    other.join().unwrap().unwrap_err();
    rehearse().unwrap();
    assert!(Command::new("/bin/true").status().unwrap().success());
}

#[test]
fn threads_nobody_counts_are_not_taken_for_one() {
    alone(Some(1)).unwrap();
    let refused = alone(None).unwrap_err().to_string();
    assert!(refused.contains("fix: mount /proc"), "{refused}");
    assert!(matches!(alone(Some(2)).unwrap_err(), HardenError::OtherThreads(2)));
}

#[test]
fn a_thread_may_come_later_itself_and_nobody_else() {
    hardened(|| {
        crate::sys::priority::lower(5).unwrap();
        let other = libc::c_long::from(std::process::id());
        for (which, who) in
            [(libc::PRIO_PROCESS, other), (libc::PRIO_PROCESS, 1), (libc::PRIO_PGRP, 0), (libc::PRIO_USER, 0)]
        {
            assert_missing(syscall(libc::SYS_setpriority, [which.into(), who, 5]));
        }
    });
}
