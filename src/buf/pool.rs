//! Receive buffers of one core, last used first reused, so that the bytes touched stay in the cache.
//!
//! Buffers are made on first need and given back by `Drop`; the pool holds at most its bound. A pool never leaves its
//! thread. The kernel may write into a buffer's heap memory while the [`Buffer`] is owned by [`crate::sys`]; moving
//! the handle does not move those bytes.

use crate::budget::BUFFER_BYTES;
use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

/// The buffers of one core.
#[derive(Clone)]
pub struct Pool {
    home: Rc<Home>,
}

struct Home {
    free: RefCell<Vec<Box<[u8]>>>,
    leased: Cell<u32>,
    leased_max: u32,
}

impl Pool {
    /// A pool that leases at most `buffers_max` buffers at a time.
    pub fn new(buffers_max: u32) -> Pool {
        let home = Home { free: RefCell::default(), leased: Cell::new(0), leased_max: buffers_max };
        Pool { home: Rc::new(home) }
    }

    /// The most recently returned buffer, or `None` while the bound is reached: back-pressure, try again later.
    pub fn lease(&self) -> Option<Buffer> {
        if self.home.leased.get() >= self.home.leased_max {
            return None;
        }
        self.home.leased.set(self.home.leased.get() + 1);
        let free = self.home.free.borrow_mut().pop();
        let bytes = free.unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice());
        Some(Buffer { bytes, home: Rc::clone(&self.home) })
    }

    /// Buffers currently out.
    pub fn leased(&self) -> u32 {
        self.home.leased.get()
    }

    /// Frees memory of buffers that are not in use beyond `keep`.
    pub fn trim(&self, keep: usize) {
        let mut free = self.home.free.borrow_mut();
        // The cold end of the stack goes, the hot end stays.
        let excess = free.len().saturating_sub(keep);
        free.drain(..excess);
    }
}

/// A leased buffer of [`BUFFER_BYTES`]; returns to its pool when dropped.
pub struct Buffer {
    bytes: Box<[u8]>,
    home: Rc<Home>,
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.home.leased.set(self.home.leased.get() - 1);
        self.home.free.borrow_mut().push(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_returned_is_the_next_leased() {
        let pool = Pool::new(4);
        let (mut a, b) = (pool.lease().unwrap(), pool.lease().unwrap());
        a[0] = 7;
        drop(b);
        drop(a);
        assert_eq!(pool.lease().unwrap()[0], 7);
        assert_eq!(pool.leased(), 0);
    }

    #[test]
    fn the_bound_holds_and_trim_frees_the_cold_end() {
        let pool = Pool::new(2);
        let held = [pool.lease().unwrap(), pool.lease().unwrap()];
        assert!(pool.lease().is_none());
        drop(held);
        pool.trim(1);
        assert_eq!(pool.home.free.borrow().len(), 1);
        assert!(pool.lease().is_some());
    }
}
