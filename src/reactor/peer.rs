//! Who a connection comes from, where proxies stand between: the PROXY header it begins with, and X-Forwarded-For.
//!
//! Only a trusted proxy is believed, and each of the two is read from nobody else: bytes of a header that nobody expects
//! are a broken request. A proxy that is to send a PROXY header and does not is cut without a word, for what it forwards
//! would be taken for its own.

use super::Reactor;
use super::conn::flag;
use super::recv::Owner;
use crate::buf::Buffer;
use crate::handler::Handler;
use crate::proto::close::CloseReason;
use crate::proto::head::Head;
use crate::proto::{forwarded, proxy};
use crate::sys::{ConnId, Io};
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The proxies in front of a server.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    /// Networks of those that are believed.
    pub trusted: Arc<[IpNet]>,
    /// They begin each connection with a PROXY header.
    pub send_header: bool,
}

impl Proxies {
    fn trusts(&self, ip: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&ip))
    }

    /// Whether a connection of `peer` begins with a PROXY header.
    pub(super) fn announce(&self, peer: SocketAddr) -> bool {
        self.send_header && self.trusts(peer.ip().to_canonical())
    }

    /// Who sent a request that came from `direct`. The port of one that a proxy named is not known.
    pub(super) fn client(&self, head: &Head<'_>, direct: SocketAddr) -> SocketAddr {
        if self.trusted.is_empty() {
            return direct;
        }
        match forwarded::client(head, direct.ip(), |ip| self.trusts(ip)) {
            ip if ip == direct.ip() => direct,
            ip => SocketAddr::new(ip, 0),
        }
    }
}

impl<I: Io, H: Handler> Reactor<I, H> {
    /// Reads `received` more bytes of a PROXY header, and what stands behind it as a request.
    pub(super) fn read_preamble(&mut self, id: ConnId, buffer: Buffer, received: usize) {
        let mut bytes = self.take_head_bytes(id);
        let before = bytes.len();
        let preamble = if bytes.is_empty() {
            proxy::parse(&buffer[..received])
        } else {
            bytes.extend_from_slice(&buffer[..received]);
            proxy::parse(&bytes)
        };
        let preamble = match preamble {
            Ok(Some(preamble)) => preamble,
            Ok(None) if before == 0 => return self.keep_head(id, buffer[..received].to_vec()),
            Ok(None) => return self.keep_head(id, bytes),
            Err(malformed) => {
                tracing::debug!(slot = id.slot, %malformed, "a trusted proxy does not say who its client is");
                return self.begin_release(id, CloseReason::ProxyHeader);
            }
        };
        let Some(conn) = self.conn(id) else { return };
        conn.clear(flag::PREAMBLE);
        if let Some(client) = preamble.client {
            conn.set_peer(client);
        }
        let start = preamble.consumed.saturating_sub(before);
        if start < received {
            self.read_head(id, Owner::Buffer(buffer), start..received);
        }
    }
}
