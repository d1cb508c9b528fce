//! HTTP/1.1 for the admin listener: monoio-http's parser behind limits of our own.

use ::http::header::{HeaderName, HeaderValue};
use ::http::{HeaderMap, Method, StatusCode};
use bytes::{Bytes, BytesMut};
use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream};
use monoio_codec::{Decoded, Decoder};
use monoio_http::h1::codec::decoder::RequestHeadDecoder;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

/// A head may have so many bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// A request that came whole.
pub(super) struct Request {
    pub method: Method,
    /// Without the query.
    pub path: String,
    /// Decoded names and values, in their order.
    pub query: Vec<(String, String)>,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub peer: SocketAddr,
}

/// What it is answered.
pub(super) struct Answer {
    pub status: StatusCode,
    pub content_type: &'static str,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
}

impl Answer {
    pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
        Answer { status, content_type: "text/plain; charset=utf-8", headers: Vec::new(), body: body.into() }
    }

    pub fn json(status: StatusCode, value: &serde_json::Value) -> Answer {
        Answer {
            status,
            content_type: "application/json",
            headers: Vec::new(),
            body: value.to_string().into(),
        }
    }

    pub fn error(status: StatusCode, code: &str, message: &str) -> Answer {
        Answer::json(status, &serde_json::json!({"error": {"code": code, "message": message}}))
    }
}

/// What answers requests.
pub(super) trait Service: 'static {
    async fn answer(&self, request: Request) -> Answer;
}

/// Serves until the listener fails.
pub(super) async fn serve<S: Service>(listener: std::net::TcpListener, service: Rc<S>) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, peer) = listener.accept().await?;
        let service = Rc::clone(&service);
        monoio::spawn(async move {
            let _ = converse(stream, peer, &*service).await;
        });
    }
}

async fn converse<S: Service>(mut stream: TcpStream, peer: SocketAddr, service: &S) -> io::Result<()> {
    let mut received = BytesMut::new();
    let head = loop {
        match RequestHeadDecoder.decode(&mut received) {
            Ok(Decoded::Some(head)) => break head,
            Ok(_) if received.len() <= HEAD_BYTES_MAX => {}
            _ => return Ok(()),
        }
        let (result, buffer) = stream.read(vec![0; 4096]).await;
        match result? {
            0 => return Ok(()),
            len => received.extend_from_slice(&buffer[..len]),
        }
    };
    let request = Request {
        method: head.method,
        path: head.uri.path().to_owned(),
        query: Vec::new(),
        headers: head.headers,
        body: Bytes::new(),
        peer,
    };
    let answer = service.answer(request).await;
    let head = format!(
        "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        answer.status,
        answer.content_type,
        answer.body.len()
    );
    let (result, _) = stream.write_all([head.as_bytes(), &answer.body].concat()).await;
    result.map(drop)
}
