//! Giving up privileges: what a process that has been broken into cannot do any more.
//!
//! Three things, each for good and inherited by every thread started later: no capability in any set, so root is an
//! ordinary user who happens to own root's files; no new privileges, so no setuid program helps; and a seccomp filter that
//! knows the calls in [`CALLS`] and no others.
//!
//! What is not in the table is answered with ENOSYS, as if this kernel did not have it. Not with the process's end: the
//! next version of some library would take production down at night with a call that is new to it. And not with EPERM:
//! libraries fall back on ENOSYS, because kernels older than the call answer so (glibc starts threads with clone3, and takes
//! clone, whose flags a filter can see, where that is missing); EPERM they report as a failure.
//!
//! All of it is per thread: it must come before the first thread, and after everything that needs privileges: limits, ports
//! below 1024, and the rings, which the kernel checks when they are made ([`super::uring::PreparedRing`]). No ring can be
//! made later, for what is submitted to one goes past every filter; those that exist are restricted.
//!
//! Nothing here is done to a process that only uses the library.

mod calls;

pub use calls::{Argument, CALLS, CallGroup};

use super::host;
use std::fmt;
use std::io;

/// Why privileges could not be given up.
#[derive(Debug)]
pub enum HardenError {
    /// There are other threads, which would keep theirs.
    OtherThreads(u64),
    /// Nothing says whether there are.
    UnknownThreads,
    /// The kernel refuses to take capabilities away.
    Capabilities(io::Error),
    /// The filter cannot be put on.
    Filter(seccompiler::Error),
}

impl fmt::Display for HardenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HardenError::OtherThreads(threads) => write!(
                f,
                "cannot give up privileges: {threads} threads run, and each would keep its own\n  fix: start the hardened \
                 server before any other thread"
            ),
            HardenError::UnknownThreads => write!(
                f,
                "cannot give up privileges: /proc/self/status does not say how many threads run, and each would keep its own\n  \
                 fix: mount /proc, or --harden off to serve with all privileges"
            ),
            HardenError::Capabilities(error) => write!(
                f,
                "cannot give up capabilities: {error}\n  fix: allow capset and prctl (deploy/seccomp.json does), or \
                 --harden off to serve with all privileges"
            ),
            HardenError::Filter(error) => write!(
                f,
                "cannot put on a seccomp filter: {error}\n  fix: a kernel with CONFIG_SECCOMP_FILTER, in a container a \
                 profile that allows seccomp and prctl (deploy/seccomp.json), or --harden off to serve without"
            ),
        }
    }
}

impl std::error::Error for HardenError {}

/// Gives up the privileges of this process.
///
/// # Errors
/// Where there are other threads, or may be, or the kernel refuses.
pub fn apply() -> Result<(), HardenError> {
    alone(host::threads())?;
    give_up()
}

fn alone(threads: Option<u64>) -> Result<(), HardenError> {
    match threads {
        Some(1) => Ok(()),
        Some(threads) => Err(HardenError::OtherThreads(threads)),
        None => Err(HardenError::UnknownThreads),
    }
}

/// Whether [`apply`] would do here: tried on a thread that ends with it.
///
/// # Errors
/// What [`apply`] would say.
pub fn rehearse() -> Result<(), HardenError> {
    std::thread::spawn(give_up).join().expect("nothing here panics")
}

/// Of the calling thread, and of those it starts.
fn give_up() -> Result<(), HardenError> {
    drop_capabilities().map_err(HardenError::Capabilities)?;
    // Sets no_new_privs first, without which an ordinary user may not filter.
    seccompiler::apply_filter(&calls::filter()).map_err(HardenError::Filter)
}

/// `_LINUX_CAPABILITY_VERSION_3`, capset(2): 64 bits in two words.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Default, Clone, Copy)]
struct CapabilityWord {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Empties all five sets. The bounding set comes first, while CAP_SETPCAP is still there: it is what root would get back by
/// exec, if there were an exec.
fn drop_capabilities() -> io::Result<()> {
    for capability in 0..64 {
        // SAFETY: prctl with integers only.
        let known = unsafe { libc::prctl(libc::PR_CAPBSET_READ, capability, 0, 0, 0) };
        if known < 0 {
            break; // beyond the last this kernel has
        }
        // SAFETY: prctl with integers only. Refused without CAP_SETPCAP, to one who has no capability to lose by exec.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
    // SAFETY: prctl with integers only.
    if unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    let none = [CapabilityWord::default(); 2];
    // SAFETY: the header and both words outlive the call, and are laid out as version 3 has them; the kernel reads them.
    match unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests;
