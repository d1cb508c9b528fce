//! The real binary on loopback against clients that mean harm, or are merely broken.
//!
//! Each test is named after what it does; `row_NN` is its number in the project's list of hostile inputs, and the
//! table at its top says bytes and the answer they must get. Every server a test starts is its own, so the reasons it
//! counted are the test's own too. Real timeouts are shortened by flags, but for one check of each default.

#[path = "../common/mod.rs"]
mod common;

mod channels;
mod drain;
mod echo;
mod framing;
mod handshake;
mod http;
mod liveness;
mod load;
