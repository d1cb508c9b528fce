//! Waking a parked core.
//!
//! When to ring is [`Park`]'s matter. The bell is an eventfd that the core's ring polls: MSG_RING into a DEFER_TASKRUN
//! ring had a use-after-free (CVE-2025-38453), and polling such a ring from outside hangs. A thread rings by write(2), a
//! core through its own ring with [`super::Io::wake`], which costs no system call of its own.

use crate::budget::REACTORS_MAX;
use crate::ds::{PARK_CORES_MAX, Park};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

const _: () = assert!(REACTORS_MAX <= PARK_CORES_MAX, "every core has a bit in the mask of mail");

/// What is written to ring.
pub(super) static ONCE: [u8; 8] = 1u64.to_ne_bytes();

/// The bell of one core; clones ring the same core.
#[derive(Clone)]
pub struct Waker {
    bell: Arc<Bell>,
}

struct Bell {
    park: Park,
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
            // Of a blocking one the kernel does not write inside the enter but sends the write to a worker thread.
            let fd = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        Ok(Waker { bell: Arc::new(Bell { park: Park::default(), eventfd: File::from(eventfd) }) })
    }

    /// Wakes the core if it is parked. Call after the mail is in place.
    pub fn wake(&self) {
        if self.bell.park.rouse() {
            self.ring();
        }
    }

    /// Rings, whoever hears it.
    pub fn ring(&self) {
        // Cannot fail: the counter would have to reach 2^64 - 2 first.
        let _ = (&self.bell.eventfd).write(&ONCE);
    }

    /// Core `from` has put mail into its ring to this core. True: it is parked, and the caller must ring.
    pub fn announce(&self, from: usize) -> bool {
        self.bell.park.announce(from)
    }

    /// The cores whose rings to this core have got mail. The core must empty them before it parks.
    pub fn take(&self, each: impl FnMut(usize)) {
        self.bell.park.take(each);
    }

    /// Marks the core parked, unless another core has put mail. It must look at other mail again before it waits.
    pub fn park(&self) -> bool {
        self.bell.park.park()
    }

    /// Marks the core awake: nobody needs to ring.
    pub fn unpark(&self) {
        self.bell.park.unpark();
    }
}

#[cfg(test)]
impl Waker {
    /// Whether it was rung since the last time.
    pub(super) fn was_rung(&self) -> bool {
        use std::io::Read;
        (&self.bell.eventfd).read_exact(&mut [0; 8]).is_ok()
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
        assert!(waker.park());
        waker.clone().wake();
        waker.wake();
        let mut count = [0; 8];
        (&waker.bell.eventfd).read_exact(&mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 1);
        assert!(!waker.was_rung());
    }
}
