//! Listening sockets: one per reactor on the same address, sharing it by SO_REUSEPORT.

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};
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
}
