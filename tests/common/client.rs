//! A suspicious WebSocket client over a blocking socket.
//!
//! Whatever the server sends is held to RFC 6455 before a test sees it: frames unmasked (§5.1), no RSV bit (§5.2, no
//! extension was negotiated), lengths in the shortest form, control frames whole and short (§5.5), close payloads valid
//! (§7.4), nothing after a close frame, text that is UTF-8, and an end of the connection that is really one.

use super::PATIENCE;
use super::frames::{self, BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, TEXT};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Keys with the accept value each must get (§4.2.2): base64(sha1(key + GUID)), computed elsewhere. The first is the RFC's.
pub(crate) const KEYS: [(&str, &str); 4] = [
    ("dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
    ("AAAAAAAAAAAAAAAAAAAAAA==", "ICX+Yqv66kxgM0FcWaLWlFLwTAI="),
    ("/////////////////////w==", "XXpj4jYzLM2yUE0C7TIgMwTQh2g="),
    ("AQIDBAUGBwgJCgsMDQ4PEA==", "C/0nmHhBztSRGR1CwL6Tf4ZjwpY="),
];

/// A frame from the server, already found valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) fin: bool,
    pub(crate) opcode: u8,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The code of a close frame; `None` for one without a body.
    pub(crate) fn close_code(&self) -> Option<u16> {
        assert_eq!(self.opcode, CLOSE, "a close frame, not {self:?}");
        self.payload.first_chunk().map(|code| u16::from_be_bytes(*code))
    }
}

/// How the connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// FIN: everything the server sent has arrived.
    Eof,
    /// RST: something may have been lost.
    Reset,
}

/// What an HTTP request was answered with.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// The only header of this name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self
            .headers
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str());
        let first = found.next();
        assert!(found.next().is_none(), "two headers {name}: {self:?}");
        first
    }

    /// The lists of every header of this name hold `token`.
    fn lists(&self, name: &str, token: &str) -> bool {
        let values =
            self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        values.flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(token))
    }
}

/// One connection to the server.
pub(crate) struct Client {
    stream: TcpStream,
    /// Received and not yet looked at.
    pending: Vec<u8>,
    /// How it ended, once it did.
    ended: Option<End>,
    /// The server's close frame has been seen: nothing may follow it (§5.5.1).
    closed: bool,
}

impl Client {
    /// A TCP connection, nothing said yet.
    pub(crate) fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("a TCP connection");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        stream.set_write_timeout(Some(PATIENCE)).expect("a write timeout");
        Client { stream, pending: Vec::new(), ended: None, closed: false }
    }

    /// A connection past its opening handshake on /echo.
    pub(crate) fn open(address: SocketAddr) -> Client {
        Client::open_at(address, "/echo")
    }

    /// A connection past its opening handshake for `target`.
    pub(crate) fn open_at(address: SocketAddr, target: &str) -> Client {
        let mut client = Client::connect(address);
        client.send(upgrade_request(target).as_bytes());
        client.accepted(KEYS[0].1);
        client
    }

    /// Reads the 101 and holds it to §4.1: the accept value right, no extension and no subprotocol that was not asked for.
    pub(crate) fn accepted(&mut self, accept: &str) -> Response {
        let response = self.response();
        assert_eq!(response.status, 101, "{response:?}");
        assert_eq!(response.header("Sec-WebSocket-Accept"), Some(accept), "{response:?}");
        assert!(
            response.header("Upgrade").is_some_and(|value| value.eq_ignore_ascii_case("websocket")),
            "{response:?}"
        );
        assert!(
            response.header("Connection").is_some_and(|value| value.eq_ignore_ascii_case("upgrade")),
            "{response:?}"
        );
        assert_eq!(response.header("Sec-WebSocket-Extensions"), None);
        assert_eq!(response.header("Sec-WebSocket-Protocol"), None);
        response
    }

    /// The socket itself, for options no method here has.
    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends all of it.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server takes what is sent");
    }

    /// Sends what the server will take: false once it takes no more. For bytes that follow an offence, after which the
    /// server may be gone, and for floods, which it may leave unread.
    pub(crate) fn offer(&mut self, bytes: &[u8], patience: Duration) -> bool {
        self.stream.set_write_timeout(Some(patience)).expect("a write timeout");
        let taken = self.stream.write_all(bytes).is_ok();
        self.stream.set_write_timeout(Some(PATIENCE)).expect("a write timeout");
        taken
    }

    /// Whether the connection was reset. Nothing is read to find out.
    pub(crate) fn is_cut(&mut self) -> bool {
        self.stream.set_nonblocking(true).expect("no waiting");
        let written = self.stream.write(&[0]);
        self.stream.set_nonblocking(false).expect("waiting");
        written.is_err_and(|error| error.kind() != ErrorKind::WouldBlock)
    }

    /// Ends our direction only (FIN).
    pub(crate) fn finish_sending(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("a half-close");
    }

    /// Drops the connection with RST instead of FIN.
    pub(crate) fn reset(self) {
        let socket = socket2::SockRef::from(&self.stream);
        socket.set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    }

    /// Reads more, until `deadline`. False at the end of the connection or at the deadline.
    fn receive(&mut self, deadline: Instant) -> bool {
        if self.ended.is_some() {
            return false;
        }
        let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        else {
            return false;
        };
        self.stream.set_read_timeout(Some(left)).expect("a read timeout");
        let mut chunk = [0; 64 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => self.ended = Some(End::Eof),
            Ok(count) => self.pending.extend(&chunk[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                self.ended = Some(End::Reset);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return false;
            }
            // Where the server is in this process: the end of a ring interrupts the thread that made it.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("reading: {error}"),
        }
        self.ended.is_none()
    }

    /// The answer to an HTTP request, framed by its Content-Length.
    pub(crate) fn response(&mut self) -> Response {
        let deadline = Instant::now() + PATIENCE;
        let end = loop {
            if let Some(at) = self.pending.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(
                self.receive(deadline),
                "a whole response head, not {:?}",
                self.pending.escape_ascii().to_string()
            );
        };
        let head: Vec<u8> = self.pending.drain(..end).collect();
        let head = String::from_utf8(head).expect("an ASCII head");
        let mut lines = head.trim_end().split("\r\n");
        let status_line = lines.next().expect("a status line");
        let status = status_line
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3))
            .expect("HTTP/1.1 and a status");
        let status = status.parse().expect("three digits");
        let headers = lines
            .map(|line| {
                line.split_once(": ").map(|(n, v)| (n.to_owned(), v.to_owned())).expect("name: value")
            })
            .collect();
        let mut response = Response { status, headers, body: Vec::new() };
        // Neither has a body (RFC 9110 §15.2, §15.3.5).
        if status != 101 && status != 204 {
            let len = response.header("Content-Length").expect("a Content-Length").parse().expect("a number");
            while self.pending.len() < len {
                assert!(self.receive(deadline), "a body of {len} bytes");
            }
            response.body = self.pending.drain(..len).collect();
        }
        response
    }

    /// A response that ends the connection: said so, whole, and the TCP connection closed after it with nothing more.
    pub(crate) fn last_response(&mut self) -> Response {
        let response = self.response();
        assert!(response.lists("Connection", "close"), "{response:?}");
        self.ends_with(End::Eof);
        response
    }

    /// The next frame, or `None` at `deadline` or at the end of the connection.
    pub(crate) fn frame_by(&mut self, deadline: Instant) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decode() {
                assert!(!self.closed, "after its close frame the server sent {frame:?}");
                self.closed = frame.opcode == CLOSE;
                return Some(frame);
            }
            if !self.receive(deadline) && self.ended.is_some() {
                assert!(
                    self.pending.is_empty(),
                    "the connection ended inside a frame: {} bytes, {:02x?}",
                    self.pending.len(),
                    &self.pending[..self.pending.len().min(16)]
                );
                return None;
            }
            if Instant::now() >= deadline {
                return None;
            }
        }
    }

    /// As [`Client::frame_by`], of a connection that may be cut inside a frame.
    pub(crate) fn frame_by_or_cut(&mut self, deadline: Instant) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decode() {
                return Some(frame);
            }
            if !self.receive(deadline) {
                return None;
            }
        }
    }

    /// The next frame; there must be one.
    pub(crate) fn frame(&mut self) -> Frame {
        let frame = self.frame_by(Instant::now() + PATIENCE);
        frame
            .unwrap_or_else(|| panic!("a frame, but: {:?}, {} bytes pending", self.ended, self.pending.len()))
    }

    /// Takes one frame off the received bytes and holds it to §5.
    fn decode(&mut self) -> Option<Frame> {
        let (&first, &second) = (self.pending.first()?, self.pending.get(1)?);
        let (fin, opcode) = (first & FIN != 0, first & 0x0F);
        assert_eq!(first & 0x70, 0, "RSV bits without an extension: {:02x?}", self.pending);
        assert_eq!(second & 0x80, 0, "a server must not mask: {:02x?}", self.pending);
        assert!(matches!(opcode, CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG), "opcode {opcode:#x}");
        let (start, len) = match second {
            126 => {
                let len = u64::from(u16::from_be_bytes(*self.pending.get(2..)?.first_chunk()?));
                assert!(len > 125, "a 16-bit length for {len} bytes");
                (4, len)
            }
            127 => {
                let len = u64::from_be_bytes(*self.pending.get(2..)?.first_chunk()?);
                assert!(len > 0xFFFF, "a 64-bit length for {len} bytes");
                (10, len)
            }
            short => (2, u64::from(short)),
        };
        if opcode >= CLOSE {
            assert!(fin && len <= 125, "a control frame must be whole and short: fin {fin}, {len} bytes");
        }
        let end = start + usize::try_from(len).expect("a length that fits");
        if self.pending.len() < end {
            return None;
        }
        let payload = self.pending[start..end].to_vec();
        self.pending.drain(..end);
        if opcode == CLOSE {
            check_close_body(&payload);
        }
        Some(Frame { fin, opcode, payload })
    }

    /// The next message, control frames set aside unanswered: its opcode and its whole body.
    pub(crate) fn message(&mut self) -> (u8, Vec<u8>) {
        let mut whole: Option<(u8, Vec<u8>)> = None;
        loop {
            let frame = self.frame();
            match (frame.opcode, &mut whole) {
                (PING | PONG, _) => continue,
                (TEXT | BINARY, None) => whole = Some((frame.opcode, frame.payload)),
                (CONTINUATION, Some((_, body))) => body.extend(frame.payload),
                (opcode, _) => panic!("opcode {opcode:#x} where a message was due: {:02x?}", frame.payload),
            }
            if frame.fin {
                let (opcode, body) = whole.expect("begun");
                assert!(opcode == BINARY || std::str::from_utf8(&body).is_ok(), "text that is not UTF-8");
                return (opcode, body);
            }
        }
    }

    /// Sends a message and expects it back.
    pub(crate) fn echo(&mut self, opcode: u8, payload: &[u8]) {
        self.send(&frames::message(opcode, payload));
        self.expect_echo(opcode, payload);
    }

    /// Expects this message next.
    pub(crate) fn expect_echo(&mut self, opcode: u8, payload: &[u8]) {
        let (got_opcode, got) = self.message();
        assert_eq!(got_opcode, opcode);
        assert!(
            got == payload,
            "an echo of {} bytes came back otherwise ({} bytes)",
            payload.len(),
            got.len()
        );
    }

    /// The server closes with `code`, and after our answer the TCP connection with FIN, since it is the server that
    /// closes first (§7.1.1).
    pub(crate) fn expect_close(&mut self, code: u16) {
        let frame = self.close_frame();
        assert_eq!(frame.close_code(), Some(code), "{frame:?}");
        // It may be gone already, and then there is nobody to answer.
        self.offer(&frames::close(code, b""), PATIENCE);
        self.ends_with(End::Eof);
    }

    /// The server's close frame, heartbeats before it set aside.
    pub(crate) fn close_frame(&mut self) -> Frame {
        loop {
            let frame = self.frame();
            if frame.opcode != PING {
                assert_eq!(frame.opcode, CLOSE, "{frame:?}");
                return frame;
            }
        }
    }

    /// The connection ends this way, with nothing more sent.
    pub(crate) fn ends_with(&mut self, end: End) {
        assert_eq!(self.end_within(PATIENCE), Some(end));
        assert!(
            self.pending.is_empty(),
            "sent before the end: {:?}",
            self.pending.escape_ascii().to_string()
        );
    }

    /// How the connection ends, if it does within this time. What still arrives is kept.
    pub(crate) fn end_within(&mut self, within: Duration) -> Option<End> {
        let deadline = Instant::now() + within;
        while self.receive(deadline) {}
        self.ended
    }
}

/// A close frame's body is empty, or a code that may be on the wire and a reason in UTF-8 (§5.5.1, §7.4).
fn check_close_body(body: &[u8]) {
    let Some((code, reason)) = body.split_first_chunk() else {
        assert!(body.is_empty(), "a close body of one byte");
        return;
    };
    let code = u16::from_be_bytes(*code);
    assert!(matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999), "close code {code} must not be sent");
    assert!(std::str::from_utf8(reason).is_ok(), "a close reason that is not UTF-8");
}

/// A correct upgrade request for `target`, with the first of [`KEYS`].
pub(crate) fn upgrade_request(target: &str) -> String {
    upgrade_request_with(target, KEYS[0].0, "")
}

/// A correct upgrade request with this key and `extra` header lines, each with its CRLF.
pub(crate) fn upgrade_request_with(target: &str, key: &str, extra: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{extra}\r\n"
    )
}

/// Sends one request on a connection of its own and returns its only response, the connection being closed after it.
pub(crate) fn request(address: SocketAddr, bytes: &[u8]) -> Response {
    let mut client = Client::connect(address);
    client.send(bytes);
    client.last_response()
}
