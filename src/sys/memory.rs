//! Giving memory back to the kernel.
//!
//! glibc frees only the top of a heap by itself, so one small block that lives on keeps everything below it resident: after
//! a burst a server would look as large as in it. The library leaves the process's allocator alone; the `megasock`
//! command asks for this.

/// Free bytes inside the heaps from which on they are given back, at least.
const FREE_BYTES_MIN: usize = 128 << 10;

/// Blocks from this size on get a mapping of their own, which goes back as it is freed. Set, because glibc would raise it
/// with every such block freed, and then keep them in the heap.
const MAPPED_BYTES_MIN: libc::c_int = 256 * 1024;

/// Prepares the allocator; once, before threads start.
pub fn prepare() {
    // SAFETY: mallopt takes two integers and changes only the allocator's own settings.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES_MIN);
        libc::mallopt(libc::M_TRIM_THRESHOLD, MAPPED_BYTES_MIN);
    }
}

/// Gives free pages back, if free memory is more than an eighth of that in use. Not for a reactor's thread: while it
/// works through a heap, that heap's users wait for some microseconds.
pub fn give_back() {
    // SAFETY: mallinfo2 only reads, malloc_trim only returns pages that nobody uses; both lock the heaps they look at.
    unsafe {
        let info = libc::mallinfo2();
        if info.fordblks > FREE_BYTES_MIN.max(info.uordblks / 8) {
            libc::malloc_trim(0);
        }
    }
}
