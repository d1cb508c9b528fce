//! Pure data structures: no I/O, no clock, no allocation after growth.

mod bucket;
mod counter;
mod park;
mod slab;
mod table;
mod wheel;

/// The atomics of `park.rs`; its model has loom's in their place.
mod atomic {
    pub use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
}

pub use bucket::{Bucket, Rate};
pub use counter::{BUCKETS, Counter, Distribution, Histogram, bound};
pub use park::{PARK_CORES_MAX, Park};
pub use slab::{GENERATION_BITS, Slab};
pub use table::Table;
pub use wheel::{HORIZON_TICKS, Timer, Timers, Wheel};

// Not in park.rs, which the model compiles with atomics that live only inside it.
#[cfg(test)]
mod park_tests {
    use super::*;

    fn taken(park: &Park) -> Vec<usize> {
        let mut cores = Vec::new();
        park.take(|core| cores.push(core));
        cores
    }

    #[test]
    fn a_parked_core_is_rung_once_and_a_busy_one_never() {
        let park = Park::default();
        assert!(!park.announce(3) && !park.rouse());
        assert_eq!(taken(&park), [3]);
        assert!(park.park());
        assert!(park.announce(3));
        assert!(!park.announce(4) && !park.announce(3) && !park.rouse());
        park.unpark();
        assert!(!park.park(), "with mail it does not sleep");
        assert_eq!(taken(&park), [3, 4]);
        assert!(park.park() && park.rouse() && !park.rouse());
    }

    #[test]
    fn every_core_has_its_own_bit() {
        let park = Park::default();
        (0..PARK_CORES_MAX).for_each(|core| assert!(!park.announce(core)));
        assert!(taken(&park).into_iter().eq(0..PARK_CORES_MAX));
        assert!(taken(&park).is_empty());
    }
}
