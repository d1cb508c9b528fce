//! Which thread goes first where several want one core.

use std::io;

/// Gives this thread a niceness from 0 to 19; a thread of an ordinary process has 0 and cannot go back.
///
/// # Errors
/// As setpriority(2).
pub fn lower(niceness: i32) -> io::Result<()> {
    // SAFETY: takes numbers. On Linux niceness is of a thread, and 0 is the calling one (setpriority(2)).
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
