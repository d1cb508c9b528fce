//! Composition: what a server is put together from.

pub mod capacity;
