//! Echo on fastwebsockets as its example writes it: hyper for the upgrade, a fragment collector, frames written as read.

use fastwebsockets::{FragmentCollector, OpCode, WebSocketError, upgrade};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Echoes until the peer ends.
pub async fn serve(stream: TcpStream, message_bytes_max: usize) {
    let service = service_fn(move |request| accept(request, message_bytes_max));
    // A connection that ends early is the driver's doing.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
}

async fn accept(
    mut request: Request<Incoming>,
    message_bytes_max: usize,
) -> Result<Response<Empty<Bytes>>, WebSocketError> {
    let (response, upgraded) = upgrade::upgrade(&mut request)?;
    tokio::spawn(async move {
        let _ = echo(upgraded, message_bytes_max).await;
    });
    Ok(response)
}

async fn echo(upgraded: upgrade::UpgradeFut, message_bytes_max: usize) -> Result<(), WebSocketError> {
    let mut socket = upgraded.await?;
    socket.set_max_message_size(message_bytes_max);
    let mut socket = FragmentCollector::new(socket);
    loop {
        let frame = socket.read_frame().await?;
        match frame.opcode {
            OpCode::Close => return Ok(()),
            OpCode::Text | OpCode::Binary => socket.write_frame(frame).await?,
            _ => {}
        }
    }
}
