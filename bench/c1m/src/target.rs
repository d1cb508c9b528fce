//! What the driver connects to, and what is spoken there: `ws://` with an upgrade and frames, or `tcp://` for a server
//! that echoes bytes and knows no WebSocket (the bare floor).

use crate::topic::Topic;
use megasock::proto::client;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;

/// Connections to one destination address. An ephemeral range has 28,232 ports as shipped and the kernel searches one
/// parity of it first, so beyond about 14,000 each connect walks thousands of taken ports.
pub(crate) const CONNECTIONS_PER_DESTINATION: u64 = 12_000;

/// The key every connection sends; the answer to it is RFC 6455's own example (§1.3), checked on every upgrade.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(crate) const ACCEPT: &[u8; 28] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The channel every connection subscribes to.
const CHANNEL: &str = "c1m";

/// What is spoken over a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speech {
    /// Whatever is sent comes back as a message.
    Echo,
    /// Whatever is sent comes back, byte for byte.
    Bytes,
    /// Whatever one sends, all receive.
    Topic,
    /// megasock's channel protocol: each connection subscribes to one channel.
    Channels,
}

impl Speech {
    /// Everyone is subscribed to one topic.
    pub(crate) fn publishes(self) -> bool {
        matches!(self, Speech::Topic | Speech::Channels)
    }
}

/// The path of megasock's channel protocol.
const CHANNELS_PATH: &str = "/ws";
/// In a URL, it stands for the connection's number.
const NUMBER: &str = "{n}";

/// A server and the way to reach it.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) url: String,
    pub(crate) speech: Speech,
    /// Destinations, used in turn.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Source addresses, used in turn; empty: the kernel chooses.
    pub(crate) sources: Vec<IpAddr>,
    /// On loopback: connect from the very address that is connected to.
    mirrors: bool,
    /// The upgrade request around the connection's number; where it has none, one part.
    request: Vec<String>,
    /// What is published there.
    pub(crate) topic: Arc<Topic>,
}

impl Target {
    /// Parses `ws://HOST:PORT/PATH` or `tcp://HOST:PORT`. A path of `/ws` is megasock's channel protocol; any other is
    /// an echo until [`Target::fans_out`] says otherwise.
    pub(crate) fn parse(url: &str, sources: &[IpAddr]) -> Result<Target, String> {
        let wrong = |why: &str| format!("{url}: {why}; expected ws://HOST:PORT/PATH or tcp://HOST:PORT");
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("no scheme"))?;
        let speech = match scheme {
            "ws" => Speech::Echo,
            "tcp" => Speech::Bytes,
            "wss" => return Err(wrong("TLS is not spoken here")),
            _ => return Err(wrong("unknown scheme")),
        };
        let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let with_port = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
        let mut addresses: Vec<SocketAddr> =
            with_port.to_socket_addrs().map_err(|error| wrong(&error.to_string()))?.collect();
        addresses.truncate(1);
        if addresses.is_empty() {
            return Err(wrong("no address"));
        }
        let channels = speech == Speech::Echo && path.split('?').next() == Some(CHANNELS_PATH);
        let request = String::from_utf8(client::upgrade_request(host, path, KEY))
            .map_err(|_| wrong("not a request line"))?;
        Ok(Target {
            url: url.to_owned(),
            speech: if channels { Speech::Channels } else { speech },
            addresses,
            sources: sources.to_vec(),
            mirrors: false,
            request: request.split(NUMBER).map(str::to_owned).collect(),
            topic: Arc::new(Topic::new(CHANNEL)),
        })
    }

    /// What is said there goes to all who are connected.
    pub(crate) fn fans_out(&mut self) -> Result<(), String> {
        match self.speech {
            Speech::Bytes => return Err(format!("{}: raw bytes have no topic", self.url)),
            Speech::Echo => self.speech = Speech::Topic,
            Speech::Topic | Speech::Channels => {}
        }
        Ok(())
    }

    /// The same server at another path.
    pub(crate) fn on_path(&self, path: &str) -> Target {
        let request = self.request.join(NUMBER);
        let rest = request.split_once(" HTTP/1.1").map_or("", |(_, rest)| rest);
        Target { request: vec![format!("GET {path} HTTP/1.1{rest}")], ..self.clone() }
    }

    /// Every connection sends this token.
    pub(crate) fn authorize(&mut self, token: &str) {
        if let Some(end) = self.request.last_mut() {
            end.truncate(end.len() - "\r\n".len());
            *end += &format!("Authorization: Bearer {token}\r\n\r\n");
        }
    }

    /// The upgrade request of connection `n`.
    pub(crate) fn request(&self, n: u64) -> Vec<u8> {
        self.request.join(&n.to_string()).into_bytes()
    }

    /// Spreads `connections` over as many loopback addresses as they need; another host keeps its one address.
    ///
    /// With `binds` (Linux 6.11) each comes from its own address too. To a listener on 0.0.0.0 the kernel picks the
    /// SO_REUSEPORT socket by source address and port alone; from 127.0.0.1 only, the same few ports would decide for
    /// every destination, and some reactors would fill long before others.
    pub(crate) fn spread(&mut self, connections: u64, binds: bool) {
        let first = self.addresses[0];
        if let IpAddr::V4(address) = first.ip()
            && address.is_loopback()
        {
            let needed = connections.div_ceil(CONNECTIONS_PER_DESTINATION).max(1) as u32;
            let start = u32::from(address);
            let address = |n| SocketAddr::new(IpAddr::V4(Ipv4Addr::from(start + n)), first.port());
            self.addresses = (0..needed).map(address).collect();
            self.mirrors = binds && needed > 1 && self.sources.is_empty();
        }
    }

    /// Source and destination of the `n`th connection.
    pub(crate) fn route(&self, n: u64) -> (SocketAddr, Option<SocketAddr>) {
        let to = self.addresses[(n % self.addresses.len() as u64) as usize];
        if self.mirrors {
            return (to, Some(SocketAddr::new(to.ip(), 0)));
        }
        let turn = n / self.addresses.len() as u64;
        let from = (!self.sources.is_empty())
            .then(|| SocketAddr::new(self.sources[(turn % self.sources.len() as u64) as usize], 0));
        (to, from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_spreads_and_routes_use_every_pair() {
        let sources = ["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
        let mut target = Target::parse("ws://127.0.0.1:9000/echo", &sources).unwrap();
        target.spread(CONNECTIONS_PER_DESTINATION * 2 + 1, true);
        assert_eq!(target.addresses.len(), 3);
        let routes: std::collections::HashSet<_> = (0..6).map(|n| target.route(n)).collect();
        assert_eq!(routes.len(), 6);
    }

    #[test]
    fn on_loopback_every_destination_has_its_own_source() {
        let mut target = Target::parse("ws://127.0.0.1:9000/echo", &[]).unwrap();
        target.spread(CONNECTIONS_PER_DESTINATION * 3, true);
        let sources: Vec<_> =
            (0..3).map(|n| target.route(n)).map(|(to, from)| (to.ip(), from.unwrap().ip())).collect();
        assert!(sources.iter().all(|(to, from)| to == from) && sources[0] != sources[1]);
        target.spread(CONNECTIONS_PER_DESTINATION * 3, false);
        assert_eq!(target.route(1).1, None);
    }

    #[test]
    fn a_url_says_what_is_wrong_with_it() {
        for (url, why) in [("wss://h:1/", "TLS"), ("http://h/", "scheme"), ("127.0.0.1:80", "no scheme")] {
            assert!(Target::parse(url, &[]).err().unwrap().contains(why), "{url}");
        }
        let speech = |url| Target::parse(url, &[]).unwrap().speech;
        assert_eq!(speech("tcp://127.0.0.1:7"), Speech::Bytes);
        assert_eq!(speech("ws://127.0.0.1:7/wsx"), Speech::Echo);
        assert_eq!(speech("ws://127.0.0.1:7/ws?user=u{n}"), Speech::Channels);
    }

    #[test]
    fn each_connection_asks_under_its_own_number() {
        let request = |url, n| {
            let target = Target::parse(url, &[]).unwrap();
            String::from_utf8(target.request(n)).unwrap()
        };
        assert!(request("ws://127.0.0.1:7/ws?user=u{n}", 12).starts_with("GET /ws?user=u12 HTTP/1.1\r\n"));
        assert!(request("ws://127.0.0.1:7/echo", 12).starts_with("GET /echo HTTP/1.1\r\n"));
        let mut target = Target::parse("ws://127.0.0.1:7/ws?n={n}", &[]).unwrap();
        target.authorize("a.b.c");
        let request = String::from_utf8(target.request(3)).unwrap();
        assert!(request.starts_with("GET /ws?n=3 ") && request.matches("\r\n\r\n").count() == 1);
        let elsewhere = String::from_utf8(target.on_path("/echo").request(3)).unwrap();
        assert_eq!(elsewhere, request.replace("/ws?n=3", "/echo"));
        assert!(request.ends_with("\r\nAuthorization: Bearer a.b.c\r\n\r\n"));
    }
}
