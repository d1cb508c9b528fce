//! A terminal that gives its keys one by one, without showing them, until the value is dropped.

use std::io::{self, IsTerminal};
use std::mem::MaybeUninit;

/// Standard input, as it is not by default. Signals by keys (Ctrl-C) stay.
pub struct Keys {
    before: libc::termios,
}

impl Keys {
    /// `None` where standard input is no terminal.
    ///
    /// # Errors
    /// As tcgetattr(3) and tcsetattr(3).
    pub fn read_singly() -> io::Result<Option<Keys>> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        let mut before = MaybeUninit::<libc::termios>::uninit();
        // SAFETY: the kernel writes one termios, to where there is room for one.
        if unsafe { libc::tcgetattr(libc::STDIN_FILENO, before.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call before has succeeded, so it is written.
        let before = unsafe { before.assume_init() };
        let mut singly = before;
        singly.c_lflag &= !(libc::ICANON | libc::ECHO);
        set(&singly)?;
        Ok(Some(Keys { before }))
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        let _ = set(&self.before); // a terminal that has gone needs it no more
    }
}

fn set(how: &libc::termios) -> io::Result<()> {
    // SAFETY: the kernel reads one termios, which outlives the call.
    match unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, how) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Columns and rows of the terminal on standard output, where it is one and knows them.
pub fn size() -> Option<(usize, usize)> {
    let mut size = MaybeUninit::<libc::winsize>::zeroed();
    // SAFETY: the kernel writes one winsize, to where there is room for one.
    if unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, size.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: all of it was zero before the call, which is a winsize.
    let size = unsafe { size.assume_init() };
    let known = size.ws_col > 0 && size.ws_row > 0;
    known.then(|| (size.ws_col.into(), size.ws_row.into()))
}
