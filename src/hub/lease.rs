//! The bytes that slow consumers of the whole process may make it hold, leased to cores in shares.
//!
//! A core touches the shared number only when its need crosses a share, never for a message.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A share.
const SHARE_BYTES: usize = 256 << 10;

/// What all cores together may hold.
pub struct Budget {
    bytes_max: AtomicUsize,
    leased: AtomicUsize,
}

impl Budget {
    /// A budget of which nothing is leased.
    pub fn new(bytes_max: usize) -> Arc<Budget> {
        Arc::new(Budget { bytes_max: AtomicUsize::new(bytes_max), leased: AtomicUsize::new(0) })
    }

    /// Becomes as large as another one. Shares that are out beyond it come back as they are not needed.
    pub fn resize_to(&self, other: &Budget) {
        self.bytes_max.store(other.bytes_max.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// One core's part.
pub struct Lease {
    budget: Arc<Budget>,
    held: usize,
}

impl Lease {
    /// A core that holds nothing yet.
    pub fn new(budget: Arc<Budget>) -> Lease {
        Lease { budget, held: 0 }
    }

    /// What it is a part of.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Takes or gives back shares; false when the budget does not cover `bytes`.
    pub fn covers(&mut self, bytes: usize) -> bool {
        while self.held < bytes {
            let before = self.budget.leased.fetch_add(SHARE_BYTES, Ordering::Relaxed);
            if before + SHARE_BYTES > self.budget.bytes_max.load(Ordering::Relaxed) {
                self.budget.leased.fetch_sub(SHARE_BYTES, Ordering::Relaxed);
                return false;
            }
            self.held += SHARE_BYTES;
        }
        while self.held >= bytes + 2 * SHARE_BYTES {
            self.held -= SHARE_BYTES;
            self.budget.leased.fetch_sub(SHARE_BYTES, Ordering::Relaxed);
        }
        true
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.budget.leased.fetch_sub(self.held, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_share_what_there_is_and_give_it_back() {
        let budget = Budget::new(4 * SHARE_BYTES);
        let (mut a, mut b) = (Lease::new(Arc::clone(&budget)), Lease::new(Arc::clone(&budget)));
        assert!(a.covers(3 * SHARE_BYTES) && b.covers(1));
        assert!(!a.covers(3 * SHARE_BYTES + 1) && a.covers(3 * SHARE_BYTES));
        assert!(a.covers(0) && b.covers(2 * SHARE_BYTES));
        budget.resize_to(&Budget::new(SHARE_BYTES));
        assert!(a.covers(0) && b.covers(2 * SHARE_BYTES), "what is out is not taken away");
        assert!(!a.covers(2 * SHARE_BYTES) && b.covers(0) && !b.covers(2 * SHARE_BYTES));
        drop((a, b));
        assert_eq!(budget.leased.load(Ordering::Relaxed), 0);
    }
}
