//! The address of a server: one listener a reactor, all sharing it by SO_REUSEPORT, and whether another process shares it.
//!
//! Sharing is what replaces a server without refusing anybody: the new one listens beside the old one, and the old one, told
//! to stop, leaves what waits at its listeners to it. The kernel moves that over only where `net.ipv4.tcp_migrate_req` is 1;
//! elsewhere it would be reset, so a server that is to replace another does not start there.

use super::StartError;
use crate::sys::socket;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

/// How long the address of a process that has just ended may stay taken: the kernel tears its rings down, which hold its
/// listeners, after the process has gone.
const FREED_WITHIN: Duration = Duration::from_secs(1);

/// Where a server listens, maybe beside another process.
pub(super) struct SharedAddress {
    address: SocketAddr,
    /// The inodes of its listeners.
    inodes: Vec<u64>,
}

/// Listens, once a reactor. With `replaces` beside whoever is there already, without it only where nobody is.
pub(super) fn listen_all(
    address: SocketAddr,
    reactors: usize,
    replaces: bool,
) -> Result<(Vec<TcpListener>, SharedAddress), StartError> {
    let failed = |error| StartError::Listen(address, error);
    let first = listen_one(address, replaces).map_err(failed)?;
    let bound = first.local_addr().map_err(failed)?;
    let others = (1..reactors).map(|_| socket::listen(bound));
    let listeners: Result<Vec<_>, _> = std::iter::once(Ok(first)).chain(others).collect();
    let listeners = listeners.map_err(failed)?;
    let inodes: Result<Vec<_>, _> = listeners.iter().map(socket::inode).collect();
    let address = SharedAddress { address: bound, inodes: inodes.map_err(failed)? };
    if replaces && address.is_shared() && !socket::listeners_hand_over() {
        return Err(StartError::Replace(bound));
    }
    Ok((listeners, address))
}

/// One listener; with `replaces` beside whoever is there already, without it only where nobody is.
pub(crate) fn listen_one(address: SocketAddr, replaces: bool) -> io::Result<TcpListener> {
    if !replaces {
        // A second server of the same user would silently take half of the connections of the first. Binding once without
        // SO_REUSEPORT finds out.
        bind_alone(address)?;
    }
    socket::listen(address)
}

/// Binds without sharing, once whoever has ended here is gone for good.
fn bind_alone(address: SocketAddr) -> io::Result<TcpListener> {
    let began = Instant::now();
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && began.elapsed() < FREED_WITHIN => {
                thread::sleep(Duration::from_millis(20));
            }
            bound => return bound,
        }
    }
}

impl SharedAddress {
    /// The address, with the port that was free where port 0 was asked for.
    pub fn bound(&self) -> SocketAddr {
        self.address
    }

    /// Whether another process listens here too. Where the kernel does not say, nobody does.
    pub fn is_shared(&self) -> bool {
        socket::others_listen(self.address, &self.inodes).unwrap_or(false)
    }

    /// Whether another process takes over what is left to it here.
    pub fn has_successor(&self) -> bool {
        socket::listeners_hand_over() && self.is_shared()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_freed_in_a_moment_is_waited_for_and_one_that_stays_taken_is_not() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        assert_eq!(bind_alone(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let waiting = thread::spawn(move || bind_alone(address).map(drop));
        drop(taken);
        assert!(waiting.join().unwrap().is_ok());
    }
}
