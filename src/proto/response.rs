//! HTTP responses other than 101: refusals and the few small pages the public listener has.
//!
//! Every response ends its connection, so `Connection: close` is always there and whatever the client sent after its
//! request is discarded. No byte of a request is ever echoed (RFC 6455 §10.3).

macro_rules! statuses {
    ($($variant:ident $code:literal $phrase:literal;)*) => {
        /// The statuses this server answers with.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum Status {
            $(#[doc = $phrase] $variant = $code,)*
        }

        impl Status {
            /// Every status, in the order of their codes.
            pub const ALL: [Status; [$($code),*].len()] = [$(Status::$variant),*];

            /// The number.
            pub const fn code(self) -> u16 {
                self as u16
            }

            /// The phrase on the status line (RFC 9110 §15).
            pub const fn phrase(self) -> &'static str {
                match self { $(Status::$variant => $phrase,)* }
            }

            /// It refuses for load: whoever gets it may come back, and is told when.
            pub const fn is_busy(self) -> bool {
                matches!(self, Status::TooManyRequests | Status::Unavailable)
            }
        }
    };
}

statuses! {
    Ok 200 "OK";
    NoContent 204 "No Content";
    BadRequest 400 "Bad Request";
    Unauthorized 401 "Unauthorized";
    Forbidden 403 "Forbidden";
    NotFound 404 "Not Found";
    MethodNotAllowed 405 "Method Not Allowed";
    RequestTimeout 408 "Request Timeout";
    UriTooLong 414 "URI Too Long";
    UpgradeRequired 426 "Upgrade Required";
    TooManyRequests 429 "Too Many Requests";
    HeadTooLarge 431 "Request Header Fields Too Large";
    InternalError 500 "Internal Server Error";
    Unavailable 503 "Service Unavailable";
    VersionNotSupported 505 "HTTP Version Not Supported";
}

/// A whole response; a 204 has no body.
///
/// Names and values in `headers` are the server's own: they are not checked.
///
/// ```
/// use megasock::proto::response::{Status, encode};
/// let bytes = encode(Status::Ok, "text/plain", &[], b"ok");
/// assert!(bytes.starts_with(b"HTTP/1.1 200 OK\r\n") && bytes.ends_with(b"\r\n\r\nok"));
/// ```
pub fn encode(status: Status, content_type: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {} {}\r\nConnection: close\r\n", status.code(), status.phrase());
    // RFC 9110 §8.6: a 204 has no length, nor anything that would have one.
    if status != Status::NoContent {
        head.push_str(&format!("Content-Type: {content_type}\r\nContent-Length: {}\r\n", body.len()));
    }
    for (name, value) in headers.iter().copied() {
        head.extend([name, ": ", value, "\r\n"]);
    }
    head.push_str("\r\n");
    [head.as_bytes(), body].concat()
}

/// A refusal whose body is one line of text for the person who reads it.
pub fn refuse(status: Status, headers: &[(&str, &str)], line: &str) -> Vec<u8> {
    encode(status, "text/plain; charset=utf-8", headers, format!("{line}\n").as_bytes())
}

/// An encoded response that says when to come back, besides.
pub fn with_retry_after(response: &[u8], seconds: u32) -> Vec<u8> {
    let status_line = response.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let (head, rest) = response.split_at(status_line);
    [head, format!("Retry-After: {seconds}\r\n").as_bytes(), rest].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(status: Status, headers: &[(&str, &str)]) -> String {
        String::from_utf8(encode(status, "text/plain", headers, b"body")).unwrap()
    }

    #[test]
    fn every_response_closes_and_says_its_length() {
        for status in Status::ALL {
            let response = text(status, &[]);
            assert!(response.starts_with(&format!("HTTP/1.1 {} {}\r\n", status.code(), status.phrase())));
            assert!(response.contains("\r\nConnection: close\r\n"));
            if status != Status::NoContent {
                assert!(response.contains("\r\nContent-Length: 4\r\n"));
                assert!(response.ends_with("\r\n\r\nbody"));
            }
        }
        let nothing = String::from_utf8(encode(Status::NoContent, "text/plain", &[], b"")).unwrap();
        assert_eq!(nothing, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
    }

    #[test]
    fn a_time_to_come_back_is_a_header_of_its_own() {
        let plain = text(Status::Unavailable, &[("Vary", "Origin")]);
        let dated = String::from_utf8(with_retry_after(plain.as_bytes(), 7)).unwrap();
        assert!(dated.starts_with("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nConnection: "));
        assert_eq!(dated.replace("Retry-After: 7\r\n", ""), plain);
    }
}
