//! The hub on simulated cores: the real hub, mail in any legal order, clients that come, go, stall and return.
//!
//! A case is a number: it decides how many cores there are, how small the rings, and every step. `MEGASOCK_CASES` says
//! how many cases to try, `MEGASOCK_CASE` runs one alone and tells its story.

mod client;
mod counts;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// What a client sees of a topic has no reordering, no duplicate and no gap that was not announced; when everything has
/// come to rest each has all that was published; when everybody has gone nothing is held.
#[test]
fn no_reorder_no_duplicate_no_silent_gap() {
    if let Some(case) = number("MEGASOCK_CASE") {
        return world::play(case, true);
    }
    let (cases, next) = (number("MEGASOCK_CASES").unwrap_or(100_000), AtomicU64::new(0));
    let failed = AtomicU64::new(u64::MAX);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while failed.load(Ordering::Relaxed) == u64::MAX {
                    let case = next.fetch_add(1, Ordering::Relaxed);
                    if case >= cases {
                        return;
                    }
                    if catch_unwind(AssertUnwindSafe(|| world::play(case, false))).is_err() {
                        failed.fetch_min(case, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let case = failed.into_inner();
    assert_eq!(case, u64::MAX, "case {case} failed: MEGASOCK_CASE={case} tells its story");
}
