//! The product on top of the reactor: topics, users, presence and history, each with a home core.

mod namespace;

pub use namespace::{Namespaces, PatternError, Publishers, Settings, SlowConsumer};
