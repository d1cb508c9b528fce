//! Echo servers to measure megasock against, one a process: `compare-peers NAME PORT MESSAGE_BYTES_MAX`.
//!
//! Each listens on 127.0.0.1, runs on one thread with TCP_NODELAY on, and echoes until it is killed.

mod fastwebsockets_echo;
mod floor;
mod tungstenite;

use std::io;
use tokio::net::{TcpListener, TcpStream};

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, port, message_bytes_max] = &arguments[..] else { return Err(usage()) };
    let port: u16 = port.parse().map_err(|_| usage())?;
    let message_bytes_max: usize = message_bytes_max.parse().map_err(|_| usage())?;
    match name.as_str() {
        "floor" => floor::serve(port),
        "fastwebsockets" => {
            on_tokio(port, move |stream| fastwebsockets_echo::serve(stream, message_bytes_max))
        }
        "tokio-tungstenite" => {
            on_tokio(port, move |stream| tungstenite::serve(stream, message_bytes_max, None))
        }
        "tokio-tungstenite-4k" => {
            on_tokio(port, move |stream| tungstenite::serve(stream, message_bytes_max, Some(4096)))
        }
        _ => Err(usage()),
    }
}

fn usage() -> io::Error {
    io::Error::other(
        "usage: compare-peers floor|fastwebsockets|tokio-tungstenite|tokio-tungstenite-4k PORT BYTES",
    )
}

/// Accepts for ever on one thread, a task for each connection.
fn on_tokio<F>(port: u16, serve: impl Fn(TcpStream) -> F) -> io::Result<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        loop {
            // A connection reset before its accept is the driver's doing, not the end of the server.
            let Ok((stream, _)) = listener.accept().await else { continue };
            if stream.set_nodelay(true).is_ok() {
                tokio::spawn(serve(stream));
            }
        }
    })
}
