//! The PROXY protocol, versions 1 and 2 (HAProxy's proxy-protocol.txt): what a proxy writes before the client's first
//! byte, to say who the client is.
//!
//! Read only from peers that are trusted proxies; that, and for how long to wait, is the caller's. Strict: whatever a
//! sender must not emit is malformed, told at the first byte that shows it. So more bytes never change an answer, and a
//! client that came without a proxy is not kept waiting. No allocation, and no bytes kept: the caller calls again with all
//! it has, at most [`BYTES_MAX`].
//!
//! Additions to version 2 (TLVs) are skipped unread, so their checksum is not checked either: TCP has one, and who could
//! forge the header could forge it too.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

#[cfg(test)]
mod tests;

/// Longest header of version 1, its line end included (§2.1).
const V1_BYTES_MAX: usize = 107;

/// Longest header of version 2. The specification has senders stay within 536 bytes unless told otherwise; some add a
/// client's certificate or identifiers of a cloud, and none more than this.
const V2_BYTES_MAX: usize = 2048;

/// Most bytes that [`parse`] ever needs.
pub const BYTES_MAX: usize = V2_BYTES_MAX;

/// How version 2 begins (§2.2): bytes that no other protocol starts with.
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Bytes before the addresses: the signature, version and command, family, and the length of what follows.
const V2_FIXED_BYTES: usize = 16;

/// What the proxy said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preamble {
    /// Bytes of the header; the client's begin behind it.
    pub consumed: usize,
    /// The client; one that is mapped into IPv6 comes as IPv4. `None` if the proxy speaks for itself (a health check)
    /// or the client has no address: then the connection's own counts.
    pub client: Option<SocketAddr>,
}

/// Bytes that are no PROXY header, and why. They may be secret: not even the first is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(&'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PROXY protocol header: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

/// Reads the header at the start of `bytes`; `Ok(None)` while it is incomplete and nothing is wrong so far.
///
/// ```
/// use megasock::proto::proxy::parse;
/// let preamble = parse(b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 443\r\nGET").unwrap().unwrap();
/// assert_eq!((preamble.consumed, preamble.client), (40, Some("192.0.2.1:4711".parse().unwrap())));
/// assert_eq!(parse(b"PROXY TC"), Ok(None));
/// assert!(parse(b"GET /").is_err());
/// ```
pub fn parse(bytes: &[u8]) -> Result<Option<Preamble>, Malformed> {
    match bytes.first() {
        None => Ok(None),
        Some(b'P') => parse_v1(bytes),
        Some(b'\r') => parse_v2(bytes),
        Some(_) => Err(Malformed("neither version 1 nor 2 begins so; is the peer a proxy that sends it?")),
    }
}

/// Whether `bytes` begin with `expected`; `None` if they end before that is known.
fn begins_with(bytes: &[u8], expected: &[u8]) -> Option<bool> {
    let known = bytes.len().min(expected.len());
    if bytes[..known] != expected[..known] { Some(false) } else { (known == expected.len()).then_some(true) }
}

/// What may stand behind `PROXY ` in version 1.
#[derive(Clone, Copy)]
enum V1Family {
    Tcp4,
    Tcp6,
    Unknown,
}

const V1_FAMILIES: [(&[u8], V1Family); 4] = [
    (b"PROXY TCP4 ", V1Family::Tcp4),
    (b"PROXY TCP6 ", V1Family::Tcp6),
    (b"PROXY UNKNOWN ", V1Family::Unknown),
    (b"PROXY UNKNOWN\r", V1Family::Unknown),
];

fn parse_v1(bytes: &[u8]) -> Result<Option<Preamble>, Malformed> {
    let mut incomplete = false;
    for (start, family) in V1_FAMILIES {
        match begins_with(bytes, start) {
            Some(true) => return parse_v1_line(bytes, start.len(), family),
            Some(false) => {}
            None => incomplete = true,
        }
    }
    if incomplete { Ok(None) } else { Err(Malformed("version 1 names TCP4, TCP6 or UNKNOWN")) }
}

/// The rest of the line, from the first address on.
fn parse_v1_line(bytes: &[u8], start: usize, family: V1Family) -> Result<Option<Preamble>, Malformed> {
    let line = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let is_foreign = |byte: &u8| match family {
        V1Family::Tcp4 => !matches!(byte, b'0'..=b'9' | b'.' | b' '),
        V1Family::Tcp6 => !matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F' | b':' | b'.' | b' '),
        V1Family::Unknown => matches!(byte, b'\r' | b'\n'), // §2.1: ignore anything before the CRLF
    };
    // `PROXY UNKNOWN\r` has the CR in its start.
    let start = start - usize::from(line[start - 1] == b'\r');
    let Some(end) = line[start..].iter().position(is_foreign).map(|at| start + at) else {
        return if line.len() < V1_BYTES_MAX {
            Ok(None)
        } else {
            Err(Malformed("version 1 ends within 107 bytes"))
        };
    };
    match begins_with(&line[end..], b"\r\n") {
        Some(true) => {}
        None if line.len() < V1_BYTES_MAX => return Ok(None),
        _ => return Err(Malformed("version 1 is addresses, ports and CRLF")),
    }
    let client = match family {
        V1Family::Unknown => None,
        V1Family::Tcp4 => Some(v1_client::<Ipv4Addr>(&line[start..end])?),
        V1Family::Tcp6 => Some(v1_client::<Ipv6Addr>(&line[start..end])?),
    };
    Ok(Some(Preamble { consumed: end + 2, client }))
}

/// The first of two addresses and of two ports, with one space between each.
fn v1_client<Address: std::str::FromStr + Into<IpAddr>>(fields: &[u8]) -> Result<SocketAddr, Malformed> {
    let malformed = Malformed("version 1 has two addresses and two ports, one space apart");
    let mut fields = str::from_utf8(fields).map_err(|_| malformed)?.split(' ');
    let mut field = || fields.next().ok_or(malformed);
    let address = |text: &str| text.parse::<Address>().map_err(|_| malformed);
    let (source, _destination) = (address(field()?)?, address(field()?)?);
    let (port, _destination_port) = (v1_port(field()?)?, v1_port(field()?)?);
    if field().is_ok() {
        return Err(malformed);
    }
    Ok(canonical(source.into(), port))
}

/// A port without a leading zero or sign (§2.1).
fn v1_port(text: &str) -> Result<u16, Malformed> {
    let is_plain = text == "0" || !text.starts_with(['0', '+']);
    let port = if is_plain { text.parse().ok() } else { None };
    port.ok_or(Malformed("a port is a number up to 65535 without leading zeros"))
}

/// What the address block of version 2 holds (§2.2); other values must be rejected.
#[derive(Clone, Copy)]
enum V2Family {
    Unspecified,
    Inet,
    Inet6,
    Unix,
}

impl V2Family {
    /// From the byte of family and transport. A datagram's client is one too: a proxy may speak QUIC with it.
    fn from_wire(byte: u8) -> Option<V2Family> {
        Some(match byte {
            0x00 => V2Family::Unspecified,
            0x11 | 0x12 => V2Family::Inet,
            0x21 | 0x22 => V2Family::Inet6,
            0x31 | 0x32 => V2Family::Unix,
            _ => return None,
        })
    }

    /// Bytes of two addresses and two ports; of two paths for Unix.
    fn addresses_len(self) -> usize {
        match self {
            V2Family::Unspecified => 0,
            V2Family::Inet => 12,
            V2Family::Inet6 => 36,
            V2Family::Unix => 216,
        }
    }
}

fn parse_v2(bytes: &[u8]) -> Result<Option<Preamble>, Malformed> {
    match begins_with(bytes, V2_SIGNATURE) {
        Some(true) => {}
        Some(false) => return Err(Malformed("version 2 has another signature")),
        None => return Ok(None),
    }
    let Some(&version_and_command) = bytes.get(12) else { return Ok(None) };
    let is_local = match version_and_command {
        0x20 => true,
        0x21 => false,
        _ => return Err(Malformed("version 2 knows LOCAL and PROXY only")),
    };
    let Some(&family) = bytes.get(13) else { return Ok(None) };
    // §2.2: of LOCAL the family is ignored, and all that follows is skipped.
    let family = if is_local { Some(V2Family::Unspecified) } else { V2Family::from_wire(family) };
    let family = family.ok_or(Malformed("version 2 knows IPv4, IPv6 and Unix, stream or datagram"))?;

    let Some(wire_len) = bytes.get(14..).and_then(<[u8]>::first_chunk) else { return Ok(None) };
    let len = usize::from(u16::from_be_bytes(*wire_len));
    if len < family.addresses_len() {
        return Err(Malformed("version 2 is shorter than its addresses"));
    }
    if len > V2_BYTES_MAX - V2_FIXED_BYTES {
        return Err(Malformed("version 2 is longer than 2048 bytes"));
    }
    let consumed = V2_FIXED_BYTES + len;
    let Some(block) = bytes.get(V2_FIXED_BYTES..consumed) else { return Ok(None) };
    Ok(Some(Preamble { consumed, client: v2_client(family, block) }))
}

/// The source of an address block: two addresses, then two ports, in network order.
fn v2_client(family: V2Family, block: &[u8]) -> Option<SocketAddr> {
    let port_at = |at: usize| Some(u16::from_be_bytes(*block.get(at..)?.first_chunk()?));
    match family {
        V2Family::Unspecified | V2Family::Unix => None,
        V2Family::Inet => Some(canonical(Ipv4Addr::from(*block.first_chunk::<4>()?).into(), port_at(8)?)),
        V2Family::Inet6 => Some(canonical(Ipv6Addr::from(*block.first_chunk::<16>()?).into(), port_at(32)?)),
    }
}

fn canonical(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address.to_canonical(), port)
}
