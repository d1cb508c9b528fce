//! The real binary's admin listener on loopback: what it serves, to whom, and what it bears.

#[path = "../common/mod.rs"]
mod common;

mod access;
mod api;
mod http;
mod metrics;
mod seats;

use common::client::{Client, Response};
use common::server::Server;
use common::{PATIENCE, eventually};
use std::net::SocketAddr;

/// Where the server's admin listener is.
fn admin(server: &Server) -> SocketAddr {
    eventually("the server says where its admin listener is", PATIENCE, || {
        server.lines().iter().find_map(|line| line.strip_prefix("admin on ")?.parse().ok())
    })
}

/// A GET of `target` with `extra` header lines, each with its CRLF.
fn get(target: &str, extra: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{extra}\r\n")
}

/// A POST of JSON to `target`.
fn post(target: &str, extra: &str, body: &str) -> String {
    let len = body.len();
    format!(
        "POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {len}\r\n{extra}\r\n{body}"
    )
}

/// Sends these bytes on a connection of their own; the answer to the first request among them.
fn ask(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Response {
    let mut client = Client::connect(address);
    client.send(bytes.as_ref());
    client.response()
}

/// The answer is an error of this code, in the one shape all errors have.
fn assert_error(response: &Response, status: u16, code: &str) {
    let body: serde_json::Value = serde_json::from_slice(&response.body).expect("JSON");
    assert_eq!((response.status, &body["error"]["code"]), (status, &code.into()), "{body}");
    assert!(body["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{body}");
}
