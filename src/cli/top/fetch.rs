//! `/api/info` of an admin listener, over a plain connection.

use crate::config::Config;
use crate::control::Key;
use serde_json::Value;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// All of one asking: reaching the server, and its whole answer.
const WITHIN: Duration = Duration::from_secs(3);

/// More than any answer has; it keeps what is no megasock from filling the memory.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Where the figures come from.
pub(super) struct Source {
    /// Tried in this order: a name may have one where nobody listens.
    addresses: Vec<SocketAddr>,
    /// As the server is called, for its check of `Host`.
    host: String,
    key: Option<Key>,
}

impl Source {
    /// The admin listener of the configuration, or of a URL.
    pub fn new(config: &Config, url: Option<&str>) -> Result<Source, String> {
        let (addresses, host) = match (url, config.admin_listen) {
            (Some(url), _) => of_url(url)?,
            (None, Some(address)) => (vec![reachable(address)], reachable(address).to_string()),
            (None, None) => {
                return Err(
                    "there is no admin listener (admin_listen is off)\n  fix: start the server with \
                                        --admin-listen 127.0.0.1:9090, or name another server with --url"
                        .into(),
                );
            }
        };
        Ok(Source { addresses, host, key: config.admin_key.clone() })
    }

    /// The figures now.
    pub fn info(&self) -> Result<Value, String> {
        let answer = self.ask().map_err(|error| {
            format!(
                "no admin listener answers at {}: {}\n  fix: start the server, or name its admin listener with \
                 --admin-listen or --url",
                self.host,
                said(&error)
            )
        })?;
        let (status, body) = parted(&answer).ok_or_else(|| self.foreign("no HTTP"))?;
        match status {
            200 => serde_json::from_slice(body).map_err(|_| self.foreign("no JSON")),
            401 => Err(format!(
                "{} wants {} key\n  fix: name the file of its admin_key_file with --admin-key-file",
                self.host,
                if self.key.is_some() { "another" } else { "a" }
            )),
            _ => match serde_json::from_slice::<Value>(body).unwrap_or_default().pointer("/error/message") {
                Some(Value::String(message)) => Err(format!("{} refuses: {message}", self.host)),
                _ => Err(self.foreign(&format!("the status {status}"))),
            },
        }
    }

    fn foreign(&self, what: &str) -> String {
        format!(
            "{} answers with {what}: it is no admin listener of megasock\n  fix: name one with --url",
            self.host
        )
    }

    fn ask(&self) -> io::Result<Vec<u8>> {
        let deadline = Instant::now() + WITHIN;
        let mut stream = self.connected(deadline)?;
        stream.set_write_timeout(Some(left(deadline)?))?;
        let authorization = |key: &Key| format!("Authorization: {}\r\n", key.bearer());
        let key = self.key.as_ref().map_or(String::new(), authorization);
        let host = &self.host;
        stream.write_all(
            format!("GET /api/info HTTP/1.1\r\nHost: {host}\r\n{key}Connection: close\r\n\r\n").as_bytes(),
        )?;
        let mut answer = Vec::new();
        Hurried { stream, deadline }.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
        Ok(answer)
    }

    /// The first address that accepts. Each has its share of the time: one that is silent leaves some for the next.
    fn connected(&self, deadline: Instant) -> io::Result<TcpStream> {
        let mut failed = io::ErrorKind::AddrNotAvailable.into();
        for (address, untried) in self.addresses.iter().zip((1..=self.addresses.len() as u32).rev()) {
            match TcpStream::connect_timeout(address, left(deadline)? / untried) {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}

/// A connection that is read until a deadline, however little comes at a time.
struct Hurried {
    stream: TcpStream,
    deadline: Instant,
}

impl Read for Hurried {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(left(self.deadline)?))?;
        self.stream.read(into)
    }
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// An error in words; the system has other ones for a time that is over.
fn said(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
            format!("no answer within {} s", WITHIN.as_secs())
        }
        _ => error.to_string(),
    }
}

/// Status and body of an answer that ends with its connection.
fn parted(answer: &[u8]) -> Option<(u16, &[u8])> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(answer) {
        Ok(httparse::Status::Complete(head_bytes)) => Some((response.code?, &answer[head_bytes..])),
        _ => None,
    }
}

/// A server that listens everywhere is reached on the loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}

fn of_url(url: &str) -> Result<(Vec<SocketAddr>, String), String> {
    let fix = "write it as http://10.0.0.7:9090; what stands behind TLS is reached through a tunnel: ssh -L";
    let host = url.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
    let is_host = |host: &&str| {
        !host.is_empty() && !host.contains(['/', '@', '?', '#']) && !host.contains(char::is_whitespace)
    };
    let Some(host) = host.filter(is_host) else {
        return Err(format!("--url {url} is no address of an admin listener\n  fix: {fix}"));
    };
    let with_port = if host.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok()) {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    match with_port.to_socket_addrs() {
        Ok(addresses) => Ok((addresses.collect(), host.to_owned())),
        Err(error) => Err(format!("--url {url}: {error}\n  fix: {fix}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    #[test]
    fn a_url_is_a_host_with_or_without_a_port() {
        for (url, address, host) in [
            ("http://127.0.0.1:9090", "127.0.0.1:9090", "127.0.0.1:9090"),
            ("http://127.0.0.1/", "127.0.0.1:80", "127.0.0.1"),
            ("http://[::1]:9090/", "[::1]:9090", "[::1]:9090"),
        ] {
            assert_eq!(of_url(url), Ok((vec![address.parse().unwrap()], host.to_owned())), "{url}");
        }
        for wrong in
            ["https://a.example", "127.0.0.1:9090", "http://", "http://a/b", "http://a b", "http://u@a:1"]
        {
            assert!(of_url(wrong).unwrap_err().contains("fix: "), "{wrong}");
        }
    }

    /// Accepts one connection and no more: what comes after is left without an answer.
    fn full() -> (socket2::Socket, TcpStream) {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let first = TcpStream::connect(address(&listener)).unwrap();
        (listener, first)
    }

    fn address(listener: &socket2::Socket) -> SocketAddr {
        listener.local_addr().unwrap().as_socket().unwrap()
    }

    #[test]
    fn every_address_of_a_host_is_tried() {
        let refusing = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (silent, _first) = full();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let last = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1024]).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n7").unwrap();
        });
        let mut source =
            Source { addresses: vec![refusing, address(&silent), last], host: "a".into(), key: None };
        assert_eq!(source.info(), Ok(7.into()));
        source.addresses = vec![refusing];
        assert!(source.info().unwrap_err().contains("refused"));
        source.addresses = vec![address(&silent)];
        assert!(source.info().unwrap_err().contains("no answer within 3 s"));
    }

    #[test]
    fn who_listens_everywhere_is_asked_on_the_loopback() {
        for (listens, asked) in
            [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("10.0.0.7:1", "10.0.0.7:1")]
        {
            assert_eq!(reachable(listens.parse().unwrap()), asked.parse().unwrap());
        }
    }

    #[test]
    fn an_answer_is_a_head_and_the_rest() {
        assert_eq!(parted(b"HTTP/1.1 200 OK\r\na: b\r\n\r\n{}"), Some((200, &b"{}"[..])));
        assert_eq!((parted(b"HTTP/1.1 200 OK\r\n"), parted(b"SSH-2.0-x\r\n\r\n")), (None, None));
    }
}
