//! One ordinary blocking connection: for threads that do one thing at a time and are not what is measured.

use crate::target::Target;
use megasock::proto::client;
use socket2::{Domain, Socket, Type};
use std::io::{Error, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Why there is no connection, as far as somebody who counts wants it.
#[derive(Debug)]
pub(crate) enum Refused {
    /// By TCP, or no answer in time.
    Io(Error),
    /// By HTTP.
    Status(u16),
    /// The answer was no HTTP.
    Garbled,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refused::Io(error) => error.fmt(f),
            Refused::Status(status) => write!(f, "HTTP status {status}"),
            Refused::Garbled => f.write_str("not an HTTP response"),
        }
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Refused {
        Refused::Io(error)
    }
}

/// A socket connected to where connection `n` goes. `receive_buffer_bytes` is set before, so that it bounds the window.
pub(crate) fn connect(
    target: &Target,
    n: u64,
    receive_buffer_bytes: Option<usize>,
    patience: Duration,
) -> Result<TcpStream, Error> {
    let (to, from) = target.route(n);
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    if let Some(bytes) = receive_buffer_bytes {
        socket.set_recv_buffer_size(bytes)?;
    }
    if let Some(from) = from {
        socket.bind(&from.into())?;
    }
    socket.connect_timeout(&to.into(), patience)?;
    socket.set_read_timeout(Some(patience))?;
    socket.set_write_timeout(Some(patience))?;
    Ok(TcpStream::from(socket))
}

/// The upgrade on it; returns what the server said after its answer.
pub(crate) fn upgrade(stream: &mut TcpStream, target: &Target, n: u64) -> Result<Vec<u8>, Refused> {
    stream.write_all(&target.request(n))?;
    let mut received = Vec::new();
    loop {
        read_more(stream, &mut received)?;
        match client::parse_upgrade_response(&received) {
            Ok(None) => {}
            Ok(Some(response)) if response.status == 101 => {
                received.drain(..response.consumed);
                return Ok(received);
            }
            Ok(Some(response)) => return Err(Refused::Status(response.status)),
            Err(_) => return Err(Refused::Garbled),
        }
    }
}

/// Waits for more; the end of the stream is an error.
pub(crate) fn read_more(stream: &mut TcpStream, received: &mut Vec<u8>) -> Result<(), Error> {
    let mut piece = [0; 4096];
    match stream.read(&mut piece)? {
        0 => Err(Error::new(ErrorKind::UnexpectedEof, "closed by the server")),
        count => {
            received.extend_from_slice(&piece[..count]);
            Ok(())
        }
    }
}
