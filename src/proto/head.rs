//! The head of an HTTP/1.1 request (RFC 9112), read strictly: whatever two parsers could understand differently is 400.
//!
//! The caller collects bytes until [`find_end`] finds the end, asking [`refuse_early`] in between; both look only at
//! what is new, so a head that drips in byte by byte costs no more than one that comes whole. Then [`parse`] reads it
//! once. Bodies are not read: a request that has one is refused where that matters ([`super::upgrade`]).

use super::response::Status;

/// Largest head, with its final empty line, in bytes.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most header fields.
pub const HEADERS_MAX: usize = 100;
/// Longest request target, in bytes.
pub const TARGET_BYTES_MAX: usize = 8 * 1024;
/// Longest method, in bytes; the longest registered one has 17 (UPDATEREDIRECTREF).
const METHOD_BYTES_MAX: usize = 17;

/// The end of the head, behind its empty line. `from` is how many bytes earlier calls have searched already.
///
/// ```
/// use megasock::proto::head::find_end;
/// assert_eq!(find_end(b"GET / HTTP/1.1\r\n\r", 0), None);
/// assert_eq!(find_end(b"GET / HTTP/1.1\r\n\r\n\x81", 17), Some(18));
/// ```
pub fn find_end(bytes: &[u8], from: usize) -> Option<usize> {
    let start = from.saturating_sub(3); // the end may have begun in bytes searched before
    bytes.get(start..)?.windows(4).position(|window| window == b"\r\n\r\n").map(|at| start + at + 4)
}

/// Refuses a head that is incomplete but can no longer become acceptable. `from` as in [`find_end`].
pub fn refuse_early(bytes: &[u8], from: usize) -> Result<(), Status> {
    check_method(bytes)?;
    check_target_len(bytes, from)?;
    check_line_ends(bytes, from)?;
    check_first_line(bytes, from)?;
    if bytes.len() >= HEAD_BYTES_MAX {
        return Err(Status::HeadTooLarge);
    }
    Ok(())
}

/// The first bytes must be a method and a space: a TLS hello or another protocol is told at once.
fn check_method(bytes: &[u8]) -> Result<(), Status> {
    let start = &bytes[..bytes.len().min(METHOD_BYTES_MAX + 1)];
    match start.iter().position(|byte| !is_token_byte(*byte)) {
        Some(end) if end > 0 && start[end] == b' ' => Ok(()),
        None if start.len() <= METHOD_BYTES_MAX => Ok(()),
        _ => Err(Status::BadRequest),
    }
}

/// Looks at the target once, when its first byte too many may have come.
fn check_target_len(bytes: &[u8], from: usize) -> Result<(), Status> {
    let method_end = bytes.iter().take(METHOD_BYTES_MAX + 1).position(|byte| *byte == b' ');
    let Some(start) = method_end.map(|at| at + 1) else { return Ok(()) };
    let end_max = start + TARGET_BYTES_MAX;
    if from > end_max || bytes.len() <= end_max {
        return Ok(());
    }
    let ends = bytes[start..=end_max].iter().any(|byte| matches!(byte, b' ' | b'\r' | b'\n'));
    if ends { Ok(()) } else { Err(Status::UriTooLong) }
}

/// No bare CR, no bare LF (RFC 9112 §2.2), no NUL.
fn check_line_ends(bytes: &[u8], from: usize) -> Result<(), Status> {
    for at in from.saturating_sub(1)..bytes.len() {
        let fits = match bytes[at] {
            0 => false,
            b'\r' => bytes.get(at + 1).is_none_or(|next| *next == b'\n'),
            b'\n' => at > 0 && bytes[at - 1] == b'\r',
            _ => true,
        };
        if !fits {
            return Err(Status::BadRequest);
        }
    }
    Ok(())
}

/// The first line, as soon as it is complete, must end in an HTTP version.
fn check_first_line(bytes: &[u8], from: usize) -> Result<(), Status> {
    if !bytes[from.min(bytes.len())..].contains(&b'\n') {
        return Ok(());
    }
    let Some(line) = bytes.split(|byte| *byte == b'\n').next() else { return Ok(()) };
    let version = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    match version.strip_suffix(b"\r") {
        Some(b"HTTP/1.1") => Ok(()),
        Some([b'H', b'T', b'T', b'P', b'/', rest @ ..]) if !rest.is_empty() => {
            Err(Status::VersionNotSupported)
        }
        _ => Err(Status::BadRequest),
    }
}

/// A request head, borrowed from the bytes it was read from.
#[derive(Debug, Clone)]
pub struct Head<'a> {
    /// The method, as sent: methods are case-sensitive.
    pub method: &'a str,
    /// The path, not percent-decoded: it has no `..` segment and no encoded slash, backslash, dot or control byte.
    pub path: &'a str,
    /// What follows the first `?`, if there is one.
    pub query: Option<&'a str>,
    fields: Vec<httparse::Header<'a>>,
}

impl<'a> Head<'a> {
    /// All header fields as sent, in their order. Values may be any bytes but control characters.
    pub fn headers(&self) -> impl DoubleEndedIterator<Item = (&'a str, &'a [u8])> {
        self.fields.iter().map(|field| (field.name, field.value))
    }

    /// The values of all fields of this name, in any case.
    pub fn values<'s>(&'s self, name: &'s str) -> impl DoubleEndedIterator<Item = &'a [u8]> + 's {
        self.headers().filter(move |(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The value of the first field of this name, in any case; `None` also if it is not UTF-8.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.values(name).next().and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The elements of a comma-separated header (RFC 9110 §5.6.1), over all fields of this name.
    pub fn list<'s>(&'s self, name: &'s str) -> impl DoubleEndedIterator<Item = &'a [u8]> + 's {
        let elements = self.values(name).flat_map(|value| value.split(|byte| *byte == b','));
        elements.map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
    }
}

/// Reads a complete head: `bytes` end where [`find_end`] said.
///
/// ```
/// use megasock::proto::head::parse;
/// let head = parse(b"GET /ws?user=ann HTTP/1.1\r\nHost: example\r\n\r\n").unwrap();
/// assert_eq!((head.path, head.query, head.header("HOST")), ("/ws", Some("user=ann"), Some("example")));
/// ```
pub fn parse(bytes: &[u8]) -> Result<Head<'_>, Status> {
    check_method(bytes)?;
    check_target_len(bytes, 0)?;
    if bytes.len() > HEAD_BYTES_MAX {
        return Err(Status::HeadTooLarge);
    }
    check_line_ends(bytes, 0)?;
    check_first_line(bytes, 0)?;

    let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(end)) if end == bytes.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Status::HeadTooLarge),
        _ => return Err(Status::BadRequest),
    }
    let (Some(method), Some(target)) = (request.method, request.path) else { return Err(Status::BadRequest) };
    let mut head = Head { method, path: "", query: None, fields: request.headers.to_vec() };

    // RFC 9112 §3.2: exactly one Host.
    let mut hosts = head.values("host");
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return Err(Status::BadRequest) };
    drop(hosts);

    // RFC 9112 §6.3: two ways to say how long the body is, or one way twice, are how requests are smuggled.
    let lengths = head.values("content-length").count();
    if lengths > 1 || (lengths == 1 && head.values("transfer-encoding").next().is_some()) {
        return Err(Status::BadRequest);
    }

    let target = origin_form(target, host).ok_or(Status::BadRequest)?;
    (head.path, head.query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    if !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') || !is_plain_path(head.path) {
        return Err(Status::BadRequest);
    }
    Ok(head)
}

/// The path and query of a target. A full URI (RFC 9112 §3.2.2, RFC 6455 §4.1) must name the host that Host names.
fn origin_form<'a>(target: &'a str, host: &[u8]) -> Option<&'a str> {
    if target.starts_with('/') {
        return Some(target);
    }
    let (scheme, rest) = target.split_once("://")?;
    let (authority, path) = rest.split_at(rest.find('/')?);
    let is_http = ["http", "https", "ws", "wss"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    (is_http && authority.as_bytes().eq_ignore_ascii_case(host)).then_some(path)
}

/// No `..` segment, no backslash, and nothing percent-encoded that could become a separator, a dot or a control byte
/// behind a proxy that decodes it.
fn is_plain_path(path: &str) -> bool {
    let escapes_fit = path.split('%').skip(1).all(|after| {
        // from_str_radix takes "+a" for a number too, but one that is a control byte.
        let decoded = after.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.is_some_and(|byte| !byte.is_ascii_control() && !matches!(byte, b'/' | b'\\' | b'.'))
    });
    escapes_fit && !path.contains('\\') && path.split('/').all(|segment| segment != "..")
}

/// A byte of a token (RFC 9110 §5.6.2).
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: &str = "GET / HTTP/1.1\r\nHost: a\r\n";

    /// What a server answers when the bytes come in pieces of this length: a refusal, or the parsed head.
    fn receive(bytes: &[u8], piece_len: usize) -> Option<Result<Head<'_>, Status>> {
        let mut received = 0;
        while received < bytes.len() {
            let from = received;
            received = bytes.len().min(received + piece_len);
            if let Some(end) = find_end(&bytes[..received], from) {
                return Some(parse(&bytes[..end]));
            }
            if let Err(status) = refuse_early(&bytes[..received], from) {
                return Some(Err(status));
            }
        }
        None
    }

    fn status(bytes: &[u8], piece_len: usize) -> Option<Status> {
        receive(bytes, piece_len).map(|outcome| outcome.err().unwrap_or(Status::Ok))
    }

    #[test]
    fn hostile_heads_get_their_status_however_they_are_cut() {
        let with = |lines: &str| format!("{START}{lines}\r\n").into_bytes();
        let request = |line: &str| format!("{line}\r\nHost: a\r\n\r\n").into_bytes();
        let target = |len: usize| request(&format!("GET /{} HTTP/1.1", "a".repeat(len - 1)));
        let rows: Vec<(&str, Vec<u8>, Status)> = vec![
            ("a plain one", with(""), Status::Ok),
            ("100 headers", with(&"A: b\r\n".repeat(99)), Status::Ok),
            ("101 headers", with(&"A: b\r\n".repeat(100)), Status::HeadTooLarge),
            ("exactly 16 KiB", with(&format!("A: {}\r\n", "b".repeat(HEAD_BYTES_MAX - 32))), Status::Ok),
            (
                "a byte more",
                with(&format!("A: {}\r\n", "b".repeat(HEAD_BYTES_MAX - 31))),
                Status::HeadTooLarge,
            ),
            ("a target of 8 KiB", target(TARGET_BYTES_MAX), Status::Ok),
            ("a byte more", target(TARGET_BYTES_MAX + 1), Status::UriTooLong),
            ("a target of 20 KB", target(20_000), Status::UriTooLong),
            ("no Host", b"GET / HTTP/1.1\r\nA: b\r\n\r\n".to_vec(), Status::BadRequest),
            ("two Hosts", with("host: b\r\n"), Status::BadRequest),
            ("two lengths", with("Content-Length: 0\r\nContent-Length: 0\r\n"), Status::BadRequest),
            (
                "a length and chunks",
                with("content-length: 3\r\nTransfer-Encoding: chunked\r\n"),
                Status::BadRequest,
            ),
            ("a bare LF in a header", with("A: b\nC: d\r\n"), Status::BadRequest),
            ("bare LFs only", b"GET / HTTP/1.1\nHost: a\n\n".to_vec(), Status::BadRequest),
            ("a bare CR", with("A: b\rC: d\r\n"), Status::BadRequest),
            ("a NUL", with("A: b\0\r\n"), Status::BadRequest),
            ("another control byte", with("A: b\x01\r\n"), Status::BadRequest),
            ("obs-fold", with("A: b\r\n c\r\n"), Status::BadRequest),
            ("a space before the colon", with("A : b\r\n"), Status::BadRequest),
            ("a header without a name", with(": b\r\n"), Status::BadRequest),
            ("a header without a colon", with("A\r\n"), Status::BadRequest),
            ("HTTP/1.0", request("GET / HTTP/1.0"), Status::VersionNotSupported),
            ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), Status::VersionNotSupported),
            ("no version", request("GET /"), Status::BadRequest),
            ("another protocol", request("GET / FTP/1.1"), Status::BadRequest),
            ("an empty first line", b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), Status::BadRequest),
            ("no method", request(" / HTTP/1.1"), Status::BadRequest),
            ("a method of 18 letters", request("ABCDEFGHIJKLMNOPQR / HTTP/1.1"), Status::BadRequest),
            ("two spaces", request("GET  / HTTP/1.1"), Status::BadRequest),
            ("a dot-dot segment", request("GET /a/../b HTTP/1.1"), Status::BadRequest),
            ("a last dot-dot segment", request("GET /a/.. HTTP/1.1"), Status::BadRequest),
            ("dots that are no segment", request("GET /a..b/...?../ HTTP/1.1"), Status::Ok),
            ("encoded dots", request("GET /%2E%2e/b HTTP/1.1"), Status::BadRequest),
            ("an encoded NUL", request("GET /a%00 HTTP/1.1"), Status::BadRequest),
            ("an encoded line end", request("GET /a%0d%0aB:c HTTP/1.1"), Status::BadRequest),
            ("an encoded slash", request("GET /a%2Fb HTTP/1.1"), Status::BadRequest),
            ("an encoded slash, small", request("GET /a%2fb HTTP/1.1"), Status::BadRequest),
            ("an encoded backslash", request("GET /a%5cb HTTP/1.1"), Status::BadRequest),
            ("a backslash", request("GET /a\\b HTTP/1.1"), Status::BadRequest),
            ("an escape cut off", request("GET /a%2 HTTP/1.1"), Status::BadRequest),
            ("an escape of no digits", request("GET /a%+1 HTTP/1.1"), Status::BadRequest),
            ("an encoded space and letter", request("GET /a%20%C3%BC HTTP/1.1"), Status::Ok),
            ("an encoded slash in the query", request("GET /a?b=%2F%00 HTTP/1.1"), Status::Ok),
            ("a letter that is not ASCII", request("GET /\u{fc} HTTP/1.1"), Status::BadRequest),
            ("a fragment", request("GET /a#b HTTP/1.1"), Status::BadRequest),
            ("a target that is no path", request("GET a HTTP/1.1"), Status::BadRequest),
            ("a whole URI", request("GET http://A/b HTTP/1.1"), Status::Ok),
            ("a URI of another host", request("GET http://b/ HTTP/1.1"), Status::BadRequest),
            ("a URI of another scheme", request("GET file://a/b HTTP/1.1"), Status::BadRequest),
            ("a URI with dot-dot", request("GET http://a/../b HTTP/1.1"), Status::BadRequest),
        ];
        for (name, bytes, expected) in &rows {
            for piece_len in [1, 2, 3, 7, 1000, 16_384, usize::MAX / 2] {
                assert_eq!(status(bytes, piece_len), Some(*expected), "{name} in pieces of {piece_len}");
            }
        }
    }

    #[test]
    fn what_cannot_become_a_request_is_refused_before_its_end() {
        let rows: [(&[u8], Status); 8] = [
            (b"\x16", Status::BadRequest),            // a TLS hello
            (b"\x81", Status::BadRequest),            // a frame
            (b"GET\t", Status::BadRequest),           // no space after the method
            (b"hello world\r\n", Status::BadRequest), // a line, but no request line
            (b"GET / HTTP/1.0\r\n", Status::VersionNotSupported),
            (b"GET / HTTP/1.1\r\nA: \0", Status::BadRequest),
            (b"GET / HTTP/1.1\r\nA: b\n", Status::BadRequest),
            (b"GET / HTTP/1.1\r\nA: b\rC", Status::BadRequest),
        ];
        for (bytes, expected) in rows {
            assert_eq!(status(bytes, 1), Some(expected), "{bytes:?}");
            assert_eq!(status(&bytes[..bytes.len() - 1], 1), None, "{bytes:?} without its last byte");
        }
        let long_target = [b"GET /", &[b'a'; TARGET_BYTES_MAX][..]].concat();
        assert_eq!(status(&long_target, 100), Some(Status::UriTooLong));
        assert_eq!(
            status(&long_target[..long_target.len() - 1], 100),
            None,
            "exactly 8 KiB may still end here"
        );
        let long_head = [START.as_bytes(), b"A: ", &[b'b'; HEAD_BYTES_MAX][..]].concat();
        assert_eq!(status(&long_head[..HEAD_BYTES_MAX], 100), Some(Status::HeadTooLarge));
        assert_eq!(status(&long_head[..HEAD_BYTES_MAX - 1], 100), None);
    }

    #[test]
    fn the_end_is_found_at_any_cut_and_searched_bytes_are_not_searched_again() {
        let bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n\x81\x80";
        for from in 0..27 {
            assert_eq!(find_end(bytes, from), Some(27), "{from} bytes searched before");
            assert_eq!(find_end(&bytes[..26], from), None);
        }
        assert_eq!(find_end(bytes, 27), None, "an end lying wholly in searched bytes is not looked for");
        assert_eq!(find_end(b"", 4), None);
    }

    #[test]
    fn a_head_reads_back() {
        let head = parse(b"GET /ws?a=1?b HTTP/1.1\r\nHost: a\r\nX-A: b, c\r\nx-a:  d,,\r\nRaw: \xFC\r\n\r\n")
            .unwrap();
        assert_eq!((head.method, head.path, head.query), ("GET", "/ws", Some("a=1?b")));
        assert_eq!(head.header("x-A"), Some("b, c"));
        assert_eq!(head.list("X-A").collect::<Vec<_>>(), [b"b", b"c", b"d"]);
        assert_eq!((head.header("raw"), head.values("raw").next()), (None, Some(&b"\xFC"[..])));
        assert_eq!(head.headers().count(), 4);
        assert_eq!(parse(START.replace("\r\nHost", "\r\nNost").as_bytes()).err(), Some(Status::BadRequest));
    }
}
