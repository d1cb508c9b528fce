//! Bytes on their way: reusable receive buffers, encoded frames shared by many, and a connection's send queue.
//!
//! Safe code apart from `payload.rs`. A buffer returns to its pool when dropped, so none can be lost.

mod payload;
mod pool;
mod queue;

pub use payload::Payload;
pub use pool::{Buffer, Pool};
pub use queue::{Segment, SendQueue};
