//! The address of a server: one listener a reactor, all sharing it by SO_REUSEPORT, and whether another process shares it.
//!
//! Sharing is what replaces a server without refusing anybody: the new one listens beside the old one, and the old one, told
//! to stop, leaves what waits at its listeners to it. The kernel moves that over only where `net.ipv4.tcp_migrate_req` is 1;
//! elsewhere it would be reset, so a server that is to replace another does not start there.

use super::StartError;
use crate::sys::socket;
use std::net::{SocketAddr, TcpListener};

/// Where a server listens.
pub(super) struct Place {
    address: SocketAddr,
    /// The inodes of its listeners.
    inodes: Vec<u64>,
}

/// Listens, once a reactor. With `replaces` beside whoever is there already, without it only where nobody is.
pub(super) fn listen_all(
    address: SocketAddr,
    reactors: usize,
    replaces: bool,
) -> Result<(Vec<TcpListener>, Place), StartError> {
    let failed = |error| StartError::Listen(address, error);
    if !replaces {
        // A second server of the same user would silently take half of the connections of the first. Binding once without
        // SO_REUSEPORT finds out.
        TcpListener::bind(address).map_err(failed)?;
    }
    let first = socket::listen(address).map_err(failed)?;
    let bound = first.local_addr().map_err(failed)?;
    let others = (1..reactors).map(|_| socket::listen(bound));
    let listeners: Result<Vec<_>, _> = std::iter::once(Ok(first)).chain(others).collect();
    let listeners = listeners.map_err(failed)?;
    let inodes: Result<Vec<_>, _> = listeners.iter().map(socket::inode).collect();
    let place = Place { address: bound, inodes: inodes.map_err(failed)? };
    if replaces && place.is_shared() && !socket::listeners_hand_over() {
        return Err(StartError::Replace(bound));
    }
    Ok((listeners, place))
}

impl Place {
    pub fn address(&self) -> SocketAddr {
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
