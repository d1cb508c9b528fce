//! What a request may fail with: one table of codes, from which come the statuses, the API's description and the table in
//! docs/admin.md.

use ::http::StatusCode;

macro_rules! codes {
    ($($name:ident $text:literal $status:ident $doc:literal;)*) => {
        /// A kind of failure.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code { $($name,)* }

        impl Code {
            pub const ALL: &[Code] = &[$(Code::$name,)*];

            /// As it is answered.
            pub fn text(self) -> &'static str {
                match self { $(Code::$name => $text,)* }
            }

            pub fn status(self) -> StatusCode {
                match self { $(Code::$name => StatusCode::$status,)* }
            }

            /// When it is the one.
            pub fn about(self) -> &'static str {
                match self { $(Code::$name => $doc,)* }
            }
        }
    };
}

codes! {
    BadRequest "bad_request" BAD_REQUEST "The request, or one of its parameters, is not what it must be; the message names what is wrong.";
    Unauthorized "unauthorized" UNAUTHORIZED "The key is missing or is not the server's.";
    Forbidden "forbidden" FORBIDDEN "Without a key only this host's own pages and programs may ask.";
    NotFound "not_found" NOT_FOUND "There is nothing of this name: path or connection.";
    MethodNotAllowed "method_not_allowed" METHOD_NOT_ALLOWED "The path is there, but not for this method; `Allow` has those it takes.";
    RequestTimeout "request_timeout" REQUEST_TIMEOUT "The request did not come whole in time; nothing was done.";
    BadConfig "bad_config" CONFLICT "On a reload: the configuration as it stands now is not valid; nothing has changed.";
    LengthRequired "length_required" LENGTH_REQUIRED "A body has a `Content-Length`; `Transfer-Encoding` is not taken.";
    TooLarge "too_large" PAYLOAD_TOO_LARGE "The body (1 MiB), or what is to be sent (`max_message_bytes`), is larger than allowed.";
    UriTooLong "uri_too_long" URI_TOO_LONG "The target, path and query, is longer than 8 KiB.";
    UnsupportedMediaType "unsupported_media_type" UNSUPPORTED_MEDIA_TYPE "A POST has `Content-Type: application/json`.";
    ExpectationFailed "expectation_failed" EXPECTATION_FAILED "Only `100-continue` can be expected.";
    HeadTooLarge "head_too_large" REQUEST_HEADER_FIELDS_TOO_LARGE "The head has more than 16 KiB or 64 headers, or the name of one more than 128 bytes.";
    TryAgain "try_again" SERVICE_UNAVAILABLE "There was no room, on a core or for another connection, body or request; nothing was done. `Retry-After` says when there may be.";
    Stopped "stopped" SERVICE_UNAVAILABLE "The server has stopped.";
    Timeout "timeout" GATEWAY_TIMEOUT "There was no answer in time; it may still happen.";
    VersionNotSupported "version_not_supported" HTTP_VERSION_NOT_SUPPORTED "HTTP/1.1 and HTTP/1.0 are spoken here, nothing else.";
}

impl Code {
    /// When to come back, where that helps: told in `Retry-After`.
    pub fn retry_after_s(self) -> Option<u32> {
        match self {
            Code::TryAgain => Some(1),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;
    use std::fs;
    use std::path::Path;

    #[test]
    fn the_codes_in_the_docs_are_the_table() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/admin.md");
        let mut table = String::from("| code | status | |\n|---|---|---|\n");
        for code in Code::ALL {
            let _ = writeln!(table, "| `{}` | {} | {} |", code.text(), code.status().as_str(), code.about());
        }
        let page = fs::read_to_string(&path).unwrap();
        let (before, rest) = page.split_once("| code | status | |\n").expect("a table of codes");
        let (_, after) = rest.split_once("\n\n").expect("something after it");
        let made = format!("{before}{table}\n{after}");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            fs::write(&path, &made).unwrap();
            return;
        }
        assert!(page == made, "UPDATE_DOCS=1 cargo test --lib the_codes_in_the_docs");
    }

    #[test]
    fn a_code_is_told_apart_by_its_text() {
        for (at, code) in Code::ALL.iter().enumerate() {
            assert!(Code::ALL[..at].iter().all(|other| other.text() != code.text()), "{code:?}");
            assert!(code.status().is_client_error() || code.status().is_server_error(), "{code:?}");
        }
    }
}
