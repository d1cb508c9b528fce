//! Listening sockets: one per reactor on the same address, sharing it by SO_REUSEPORT; and who else shares it.

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// Connections the kernel may hold ready for `accept`; it applies `net.core.somaxconn` on top.
pub const BACKLOG: i32 = 65_535;

/// A listener on `address`. Accepted sockets inherit TCP_NODELAY and keep-alive 60/10/6 from it.
///
/// # Errors
/// As bind(2) and listen(2): EADDRINUSE, EACCES for a port below 1024, EADDRNOTAVAIL.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_keepalive(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(Duration::from_secs(60))
            .with_interval(Duration::from_secs(10))
            .with_retries(6),
    )?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The inode of a listener, by which /proc names it.
///
/// # Errors
/// As dup(2): EMFILE.
pub fn inode(listener: &TcpListener) -> io::Result<u64> {
    Ok(File::from(OwnedFd::from(listener.try_clone()?)).metadata()?.ino())
}

/// Whether sockets other than `own`, of the same user and the very same address, listen there too: they share it by
/// SO_REUSEPORT. A wildcard and one of its addresses are not the same.
///
/// # Errors
/// /proc cannot be read.
pub fn others_listen(address: SocketAddr, own: &[u64]) -> io::Result<bool> {
    // Not /proc/net, which a service manager may hide (ProcSubset=pid).
    let table = if address.is_ipv4() { "/proc/self/net/tcp" } else { "/proc/self/net/tcp6" };
    others_in(BufReader::new(File::open(table)?), own)
}

/// The listeners come first, and a million connections after them: it reads no further than the first.
fn others_in(table: impl BufRead, own: &[u64]) -> io::Result<bool> {
    const LISTEN: &str = "0A";
    let mut listeners = Vec::new();
    for line in table.lines().skip(1) {
        let line = line?;
        let fields: Vec<&str> = line.split_ascii_whitespace().take(10).collect();
        // sl local_address rem_address st queues timer retransmits uid timeout inode
        let [_, address, _, LISTEN, _, _, _, user, _, inode] = fields[..] else { break };
        listeners.push(((address.to_owned(), user.to_owned()), inode.parse().unwrap_or(0u64)));
    }
    let (mine, others): (Vec<_>, Vec<_>) = listeners.into_iter().partition(|(_, inode)| own.contains(inode));
    Ok(others.iter().any(|(place, _)| mine.iter().any(|(own, _)| own == place)))
}

/// Whether the kernel hands what waits at a listener that closes over to the others of its address:
/// `net.ipv4.tcp_migrate_req`, of this network namespace.
pub fn listeners_hand_over() -> bool {
    fs::read_to_string("/proc/sys/net/ipv4/tcp_migrate_req").is_ok_and(|value| value.trim() == "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_share_a_port_and_pass_their_options_on() {
        let first = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        let _second = listen(address).unwrap();
        let _clients: Vec<_> = (0..64).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        let (accepted, _) = first.accept().unwrap();
        assert!(accepted.nodelay().unwrap());
        assert!(Socket::from(accepted).keepalive().unwrap());
    }

    fn table(lines: &[(&str, &str, &str, u64)]) -> String {
        let mut text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n".to_owned();
        for (at, (address, state, user, inode)) in lines.iter().enumerate() {
            text += &format!(
                "{at:4}: {address} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 {user:>5}        0 {inode} 1 0 100 0\n"
            );
        }
        text
    }

    #[test]
    fn others_are_listeners_of_the_same_address_and_user() {
        let (mine, other, wild) = ("0100007F:1F90", "0100007F:1F91", "00000000:1F90");
        let others = |lines: &[_], own: &[u64]| others_in(table(lines).as_bytes(), own).unwrap();
        let own = (mine, "0A", "1000", 7);
        assert!(!others(&[own, (mine, "0A", "1000", 8)], &[7, 8]));
        assert!(others(&[(mine, "0A", "1000", 9), own], &[7]));
        assert!(!others(&[own, (other, "0A", "1000", 9), (wild, "0A", "1000", 9)], &[7]));
        assert!(!others(&[own, (mine, "0A", "0", 9)], &[7]), "another user's is in no group with these");
        assert!(!others(&[(mine, "0A", "1000", 9)], &[7]), "this one has left");
        assert!(!others(&[], &[7]));
    }

    #[test]
    fn nothing_is_read_behind_the_listeners() {
        struct Endless;
        impl io::Read for Endless {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                panic!("it reads on");
            }
        }
        let lines = [("0100007F:1F90", "0A", "0", 7), ("0100007F:1F90", "01", "0", 9)];
        let text = table(&lines);
        let reader = BufReader::new(io::Read::chain(text.as_bytes(), Endless));
        assert!(!others_in(reader, &[7]).unwrap());
    }

    #[test]
    fn another_listener_of_the_address_is_seen_until_it_closes() {
        for address in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let first = listen(address.parse().unwrap()).unwrap();
            let (address, own) = (first.local_addr().unwrap(), [inode(&first).unwrap()]);
            assert!(!others_listen(address, &own).unwrap(), "{address}");
            let second = listen(address).unwrap();
            assert!(others_listen(address, &own).unwrap(), "{address}");
            assert!(!others_listen(address, &[own[0], inode(&second).unwrap()]).unwrap(), "{address}");
            drop(second);
            assert!(!others_listen(address, &own).unwrap(), "{address}");
        }
    }
}
