//! One encoded frame, shared by as many connections as receive it.
//!
//! A thin pointer (8 bytes) to a heap block of count, length and bytes. The bytes never change after construction, so
//! a payload may be read from any thread; the last reference frees the block.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering, fence};

#[repr(C)]
struct Head {
    references: AtomicU32,
    len: u32,
}

/// An immutable, reference-counted run of encoded bytes.
///
/// ```
/// use megasock::Payload;
/// let frame = Payload::new(&[b"\x81\x02", b"hi"]);
/// let same = frame.clone();
/// assert_eq!(&same[..], b"\x81\x02hi");
/// ```
pub struct Payload {
    head: NonNull<Head>,
}

// SAFETY: the block is immutable after construction and its count is atomic.
unsafe impl Send for Payload {}
// SAFETY: as above; `&Payload` gives only shared reads.
unsafe impl Sync for Payload {}

impl Payload {
    /// Joins `parts` into one payload.
    ///
    /// # Panics
    /// When the parts together exceed 4 GiB.
    pub fn new(parts: &[&[u8]]) -> Payload {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        let len = u32::try_from(total).expect("a payload is at most 4 GiB");
        let layout = Payload::layout(len);
        // SAFETY: the layout has non-zero size (the head); the block is written in full before it is shared: the head
        // once, then each part behind the last, `total` bytes in all, which the layout has room for.
        unsafe {
            let Some(head) = NonNull::new(alloc(layout).cast::<Head>()) else { handle_alloc_error(layout) };
            head.write(Head { references: AtomicU32::new(1), len });
            let mut at = head.add(1).cast::<u8>();
            for part in parts {
                at.copy_from_nonoverlapping(NonNull::from(*part).cast(), part.len());
                at = at.add(part.len());
            }
            Payload { head }
        }
    }

    fn layout(len: u32) -> Layout {
        Layout::from_size_align(size_of::<Head>() + len as usize, align_of::<Head>())
            .expect("below isize::MAX")
    }
}

impl Deref for Payload {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the block lives while `self` does, and `len` bytes behind the head were written at construction.
        unsafe {
            std::slice::from_raw_parts(self.head.add(1).cast().as_ptr(), self.head.as_ref().len as usize)
        }
    }
}

impl Clone for Payload {
    fn clone(&self) -> Payload {
        // SAFETY: `self` holds a reference, so the block is alive. Relaxed suffices: the new reference comes from one
        // that already exists (as in std::sync::Arc).
        let before = unsafe { self.head.as_ref() }.references.fetch_add(1, Ordering::Relaxed);
        if before > u32::MAX / 2 {
            std::process::abort(); // two billion leaked references: the count must never wrap
        }
        Payload { head: self.head }
    }
}

impl Drop for Payload {
    fn drop(&mut self) {
        // SAFETY: `self` holds a reference, so the block is alive until the count reaches zero, which happens once;
        // the acquire fence orders every other holder's reads before the block is freed with the layout it had.
        unsafe {
            if self.head.as_ref().references.fetch_sub(1, Ordering::Release) == 1 {
                fence(Ordering::Acquire);
                let layout = Payload::layout(self.head.as_ref().len);
                dealloc(self.head.as_ptr().cast(), layout);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_joined_and_shared_across_threads() {
        let payload = Payload::new(&[b"ab", b"", b"cde"]);
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let payload = payload.clone();
                std::thread::spawn(move || assert_eq!(&payload[..], b"abcde"))
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        // SAFETY: `payload` is alive.
        assert_eq!(unsafe { payload.head.as_ref() }.references.load(Ordering::Acquire), 1);
    }

    #[test]
    fn an_empty_payload_and_the_size_of_a_handle() {
        assert!(Payload::new(&[]).is_empty());
        assert_eq!(size_of::<Payload>(), 8);
    }
}
