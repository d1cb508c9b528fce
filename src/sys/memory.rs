//! What this process takes of the host's memory, and giving it back.
//!
//! glibc frees only the top of a heap by itself, so one small block that lives on keeps everything below it resident: after
//! a burst a server would look as large as in it, and one that has made room would not see it. The settings of the
//! process's allocator are left alone by the library; only the `megasock` command changes them.

use std::fs;

/// Bytes of a page in the figures of `/proc`.
const PAGE_BYTES: u64 = 4096;

/// Free bytes inside the heaps from which on they are given back, at least.
const FREE_BYTES_MIN: usize = 128 << 10;

/// Blocks from this size on get a mapping of their own, which goes back as it is freed. Set, because glibc would raise it
/// with every such block freed, and then keep them in the heap.
const MAPPED_BYTES_MIN: libc::c_int = 256 * 1024;

/// Resident memory of this process, in bytes; 0 where `/proc` does not say.
pub fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    resident_pages(&statm).unwrap_or(0) * PAGE_BYTES
}

fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_whitespace().nth(1)?.parse().ok()
}

/// What the buffers of `sockets` TCP sockets hold, in bytes: their share of what those of the whole host do, for the kernel
/// tells no more without a walk over all of them.
pub fn socket_buffer_bytes(sockets: u64) -> u64 {
    let sockstat = fs::read_to_string("/proc/self/net/sockstat").unwrap_or_default();
    share_of_buffers(&sockstat, sockets).unwrap_or(0)
}

/// `TCP: inuse 5 orphan 0 tw 28 alloc 5 mem 49`: `alloc` and `mem`, in pages, are the host's.
fn share_of_buffers(sockstat: &str, sockets: u64) -> Option<u64> {
    let line = sockstat.lines().find_map(|line| line.strip_prefix("TCP: "))?;
    let number = |name: &str| line.split_whitespace().skip_while(|word| *word != name).nth(1)?.parse().ok();
    let (all, pages): (u64, u64) = (number("alloc")?, number("mem")?);
    Some((pages * PAGE_BYTES).saturating_mul(sockets) / all.max(sockets).max(1))
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_what_is_touched() {
        let before = resident_bytes();
        assert!(before > 1 << 20, "{before}");
        let touched = vec![1u8; 64 << 20];
        let grown = resident_bytes() - before;
        assert!(grown > 60 << 20, "{grown} of {}", touched.len());
    }

    #[test]
    fn buffers_are_shared_by_the_number_of_sockets() {
        let sockstat = "sockets: used 39\nTCP: inuse 5 orphan 0 tw 28 alloc 200 mem 50\nUDP: inuse 0 mem 9\n";
        assert_eq!(share_of_buffers(sockstat, 100), Some(25 * 4096));
        assert_eq!(share_of_buffers(sockstat, 0), Some(0));
        // Those just closed are still counted here.
        assert_eq!(share_of_buffers(sockstat, 300), Some(50 * 4096));
        assert_eq!(share_of_buffers("", 100), None);
        let this_host = fs::read_to_string("/proc/self/net/sockstat").unwrap();
        assert_eq!(share_of_buffers(&this_host, 0), Some(0));
    }
}
