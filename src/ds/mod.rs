//! Pure data structures: no I/O, no clock, no allocation after growth.

mod park;
mod slab;
mod wheel;

/// The atomics of `park.rs`; its model has loom's in their place.
mod atomic {
    pub use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
}

pub use park::{PARK_CORES_MAX, Park};
pub use slab::Slab;
pub use wheel::{HORIZON_TICKS, Timer, Timers, Wheel};
