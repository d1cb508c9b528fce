//! The real binary on loopback against clients that mean harm, or are merely broken.
//!
//! Each test is named after what it does; `row_NN` is its number in the project's list of hostile inputs, and the
//! table at its top says bytes and the answer they must get. Every server a test starts is its own, so the reasons it
//! counted are the test's own too. Real timeouts are shortened by flags; the handshake's is awaited at its default as well.
//! `tests/tidy.rs` holds the table to the names of the tests.
//!
//! | rows | subject | where |
//! |---|---|---|
//! | 1, 2 (HTTP), 3, 4, 10, 11, 13, 20 | request heads | `http.rs` |
//! | 5-9, 12, 19 | the upgrade | `handshake.rs` |
//! | 15 | whose word counts on who the peer is | `peer.rs` |
//! | 14, 16 (429), 17, 18 | who gets in, and for how long | `guard.rs` |
//! | 34, 38, 39 | rates of one connection | `guard.rs` |
//! | 16 (503), 36, 37 (mid-broadcast) | more than there is room for | `load.rs` |
//! | 22-30, 32-36 | frames | `framing.rs` |
//! | 30, 35, 37 | time | `liveness.rs` |
//! | 38, 39 | the channel protocol | `channels.rs` |
//! | all that are refused or violate | memory afterwards | `aftermath.rs` |
//! | 2 (TLS), 21 (TLS), 31 (deflate), 40 (SSE) | parts the server does not have yet | to come |

#[path = "../common/mod.rs"]
mod common;

mod aftermath;
mod channels;
mod drain;
mod echo;
mod framing;
mod guard;
mod handshake;
mod http;
mod liveness;
mod load;
mod peer;
