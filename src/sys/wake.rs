//! Waking a parked core.
//!
//! A core that is about to wait marks itself parked, looks at its mail once more, and only then waits. A sender puts its
//! mail first and looks at the mark second. Both use sequentially consistent operations on the same mark, so either the
//! sender sees it and rings, or the core sees the mail: a wake-up is never lost, and a busy core is never rung.
//!
//! The bell is an eventfd that the core's ring polls: MSG_RING into a DEFER_TASKRUN ring had a use-after-free
//! (CVE-2025-38453), and polling such a ring from outside hangs.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// The bell of one core; clones ring the same core.
#[derive(Clone)]
pub struct Waker {
    bell: Arc<Bell>,
}

struct Bell {
    parked: AtomicBool,
    eventfd: File,
}

impl Waker {
    /// A bell nobody waits on yet.
    ///
    /// # Errors
    /// EMFILE, ENFILE or ENOMEM from eventfd(2).
    pub fn new() -> io::Result<Waker> {
        // SAFETY: eventfd takes no pointers; the descriptor is fresh and owned by nobody else.
        let eventfd = unsafe {
            let fd = libc::eventfd(0, libc::EFD_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        Ok(Waker { bell: Arc::new(Bell { parked: AtomicBool::new(false), eventfd: File::from(eventfd) }) })
    }

    /// Wakes the core if it is parked. Call after the mail is in place.
    pub fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.bell.parked.load(Ordering::Relaxed) && self.bell.parked.swap(false, Ordering::AcqRel) {
            // Cannot fail: the counter would have to reach 2^64 - 2 first.
            let _ = (&self.bell.eventfd).write(&1u64.to_ne_bytes());
        }
    }

    /// Marks the core parked. It must look at its mail again before it waits.
    pub fn park(&self) {
        self.bell.parked.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Marks the core awake: nobody needs to ring.
    pub fn unpark(&self) {
        self.bell.parked.store(false, Ordering::Relaxed);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.eventfd.as_fd()
    }
}

impl AsRawFd for Waker {
    fn as_raw_fd(&self) -> RawFd {
        self.bell.eventfd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_parked_core_is_rung_once_and_a_busy_one_never() {
        let waker = Waker::new().unwrap();
        waker.wake();
        waker.park();
        waker.clone().wake();
        waker.wake();
        let mut count = [0; 8];
        (&waker.bell.eventfd).read_exact(&mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 1);
    }
}
