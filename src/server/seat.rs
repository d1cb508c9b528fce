//! Where a reactor's thread runs: told by the thread as it begins, read by others.

use crate::ds::Counter;
use crate::sys::process;

/// The place of one reactor's thread.
#[derive(Debug, Default)]
pub(crate) struct Seat {
    cpu: usize,
    /// As the kernel numbers it; 0 until it has begun.
    thread_id: Counter,
}

impl Seat {
    pub fn on(cpu: usize) -> Seat {
        Seat { cpu, thread_id: Counter::default() }
    }

    /// Pins the calling thread, which is the reactor's. Where the kernel refuses it runs wherever there is room.
    pub fn take(&self) {
        core_affinity::set_for_current(core_affinity::CoreId { id: self.cpu });
        self.thread_id.set(process::thread_id());
    }

    /// The CPU it is pinned to.
    pub fn cpu(&self) -> usize {
        self.cpu
    }

    /// How long so far it was ready to run, in microseconds, and did not. Reads a file of the kernel: not for a reactor.
    pub fn waited_us(&self) -> u64 {
        process::waited_us(self.thread_id.get())
    }
}
