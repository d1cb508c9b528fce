//! `io_uring_enter` on a registered ring descriptor.
//!
//! The `io-uring` crate remembers a registered ring only in a `Submitter` that borrows the ring, so the two calls that
//! need its index are made here. Entering by index saves the kernel a descriptor look-up on every turn.

use io_uring::EnterFlags;
use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

/// `IORING_REGISTER_RING_FDS` (Linux 5.18), io_uring_register(2).
const REGISTER_RING_FDS: libc::c_uint = 20;
/// `IORING_ENTER_REGISTERED_RING`, io_uring_enter(2).
const ENTER_REGISTERED_RING: u32 = 1 << 4;

/// `struct io_uring_rsrc_update`.
#[repr(C)]
struct RsrcUpdate {
    offset: u32,
    reserved: u32,
    data: u64,
}

/// `struct io_uring_getevents_arg`.
#[repr(C)]
struct GetEventsArg {
    sigmask: u64,
    sigmask_bytes: u32,
    min_wait_us: u32,
    timespec: u64,
}

/// What an enter waits for.
#[derive(Clone, Copy)]
pub(super) struct Want {
    pub completions: u32,
    /// After this one is enough.
    pub patience_us: u32,
}

impl Want {
    pub const NOTHING: Want = Want { completions: 0, patience_us: 0 };
    pub const ONE: Want = Want { completions: 1, patience_us: 0 };
}

/// A ring descriptor registered with the calling thread, which alone may enter by it.
#[derive(Clone, Copy)]
pub(super) struct RegisteredRing {
    index: u32,
}

impl RegisteredRing {
    /// Registers `ring` with the calling thread; the kernel drops the registration when the thread ends.
    pub(super) fn new(ring: RawFd) -> io::Result<RegisteredRing> {
        let mut update = RsrcUpdate { offset: u32::MAX, reserved: 0, data: ring as u64 };
        // SAFETY: one update entry is passed by a pointer valid for the call; the kernel writes its offset.
        let result = unsafe {
            libc::syscall(libc::SYS_io_uring_register, ring, REGISTER_RING_FDS, &raw mut update, 1)
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(RegisteredRing { index: update.offset }) }
    }

    /// Submits `queued` entries, waits for a completion or the timeout, and runs deferred completions. Within `patience`
    /// it waits for so many completions (IORING_FEAT_MIN_TIMEOUT, Linux 6.12, where that is not zero).
    pub(super) fn enter(self, queued: u32, want: Want, timeout: Option<Duration>) -> io::Result<()> {
        let flags = (EnterFlags::GETEVENTS | EnterFlags::EXT_ARG).bits() | ENTER_REGISTERED_RING;
        let timespec =
            timeout.map(|t| libc::timespec { tv_sec: t.as_secs() as i64, tv_nsec: t.subsec_nanos().into() });
        let at = timespec.as_ref().map_or(0, |t| std::ptr::from_ref(t) as u64);
        let arg = GetEventsArg { sigmask: 0, sigmask_bytes: 0, min_wait_us: want.patience_us, timespec: at };
        // SAFETY: the argument and the timespec it points to outlive the call, and its size is what EXT_ARG expects.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.index,
                queued,
                want.completions,
                flags,
                &raw const arg,
                size_of::<GetEventsArg>(),
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}
