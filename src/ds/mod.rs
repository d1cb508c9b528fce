//! Pure data structures: no I/O, no clock, no allocation after growth.

mod slab;
mod wheel;

pub use slab::Slab;
pub use wheel::{HORIZON_TICKS, Timer, Timers, Wheel};
