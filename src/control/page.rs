//! The dashboard: one page that carries its style and its script, served at `/`.
//!
//! It is public, even where there is a key: there is nothing in it but code. What it shows it asks the API for, as any other
//! client does.
//!
//! The names of channels and users are chosen by strangers, and a page that shows them beside a button that stops the server
//! must not take one for markup. Its policy sees to that in the browser: only the very script and style that are here run,
//! known by their hashes; nothing is loaded from anywhere, no frame holds it, no form leaves it; and what would make markup
//! or code of a text does not work at all (Trusted Types, without any policy).

use super::http::{Answer, Request};
use ::http::StatusCode;
use ::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, ETAG, HeaderValue, IF_NONE_MATCH, REFERRER_POLICY,
};
use aws_lc_rs::digest::{SHA256, digest};
use base64::prelude::{BASE64_STANDARD, Engine};
use bytes::Bytes;

const MARKUP: &str = include_str!("dashboard/page.html");
const STYLE: &str = include_str!("dashboard/style.css");
/// One script of several files, each of one subject; later ones use what earlier ones declare.
const SCRIPT: &str = concat!(
    "\"use strict\";\n",
    include_str!("dashboard/figures.js"),
    include_str!("dashboard/page.js"),
    include_str!("dashboard/ask.js"),
    include_str!("dashboard/curves.js"),
    include_str!("dashboard/now.js"),
    include_str!("dashboard/looks.js"),
    include_str!("dashboard/dialogs.js"),
    include_str!("dashboard/main.js"),
);

/// The page as it is served, and the headers that go with it.
pub(super) struct Page {
    body: Bytes,
    policy: HeaderValue,
    /// A hash of the page: it changes when the page does.
    tag: HeaderValue,
}

impl Page {
    pub fn new() -> Page {
        let body = MARKUP.replacen("<style></style>", &format!("<style>{STYLE}</style>"), 1).replacen(
            "<script></script>",
            &format!("<script>{SCRIPT}</script>"),
            1,
        );
        let policy = format!(
            "default-src 'none'; script-src '{}'; style-src '{}'; img-src data:; connect-src 'self'; base-uri 'none'; \
             form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
            source(SCRIPT),
            source(STYLE)
        );
        let header = |text: String| HeaderValue::from_maybe_shared(text).expect("hashes and words of ASCII");
        Page { policy: header(policy), tag: header(format!("\"{}\"", source(&body))), body: body.into() }
    }

    /// The page, or that the asker's copy of it is still good (RFC 9110 §13.1.2).
    pub fn answer(&self, request: &Request) -> Answer {
        let known = request.headers.get_all(IF_NONE_MATCH).iter();
        let is_known = known
            .filter_map(|value| value.to_str().ok())
            .flat_map(|tags| tags.split(','))
            .any(|tag| tag.trim().trim_start_matches("W/").as_bytes() == self.tag.as_bytes());
        let (status, body) = if is_known {
            (StatusCode::NOT_MODIFIED, Bytes::new())
        } else {
            (StatusCode::OK, self.body.clone())
        };
        let headers = vec![
            (CONTENT_SECURITY_POLICY, self.policy.clone()),
            (ETAG, self.tag.clone()),
            // May be kept, but is asked for again each time: another version of the server has another page.
            (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
            (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        ];
        Answer { status, content_type: "text/html; charset=utf-8", headers, body }
    }
}

/// How a policy names an inline text (CSP Level 3 §2.3.1, hash-source).
fn source(text: &str) -> String {
    format!("sha256-{}", BASE64_STANDARD.encode(digest(&SHA256, text.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A browser normalises line ends before it hashes, and ends an element where its end tag stands, whatever is round it.
    #[test]
    fn hashes_are_of_what_a_browser_sees() {
        for (name, text) in [("style", STYLE), ("script", SCRIPT)] {
            assert!(!text.contains('\r'), "{name}");
            assert!(!text.to_ascii_lowercase().contains(&format!("</{name}")), "{name}");
            assert!(!text.contains("<!--"), "{name}");
        }
        let page = Page::new();
        let body = std::str::from_utf8(&page.body).expect("a text");
        assert_eq!((body.matches("<script>").count(), body.matches("<style>").count()), (1, 1));
        assert!(
            body.contains(&format!("<script>{SCRIPT}</script>"))
                && body.contains(&format!("<style>{STYLE}</style>"))
        );
        // The hash of the empty text, computed elsewhere.
        assert_eq!(source(""), "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
    }

    /// None of these would run under the policy: the page would be broken, quietly.
    #[test]
    fn the_page_needs_nothing_that_its_policy_forbids() {
        for forbidden in [" style=", " onclick=", "javascript:", "src=", "http://", "https://"] {
            let found = MARKUP.find(forbidden).map(|at| &MARKUP[at..(at + 40).min(MARKUP.len())]);
            let is_namespace = found.is_some_and(|text| text.starts_with("http://www.w3.org/2000/svg"));
            assert!(found.is_none() || is_namespace, "{found:?}");
        }
        for forbidden in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"]
        {
            assert!(!SCRIPT.contains(forbidden), "{forbidden}");
        }
    }
}
