//! Who may ask the admin listener something, found out from the head of a request alone.
//!
//! | rule | what it stops |
//! |---|---|
//! | With a key, `Authorization: Bearer KEY` for everything but `GET /` and `GET /health` | whoever reaches the port off this host |
//! | Keys are compared in constant time | learning a key byte by byte from how soon it is refused |
//! | A wrong key is answered after [`WRONG_KEY_DELAY`], gives up its connection first when seats are short, and is told in the log | trying keys in numbers |
//! | Without a key, Host is an IP address or `localhost` | DNS rebinding: a page of `evil.example`, which has let that name point to 127.0.0.1, reads and steers as if it were ours; it cannot give itself such a Host |
//! | Without a key, an `Origin` is that of the Host | a page of any site that sends requests to 127.0.0.1 from the operator's browser |
//! | A POST is `application/json` | a form of any site, sent without a question: a browser asks before it sends JSON (CORS), and gets no leave |
//!
//! With a key the middle two are not needed, and a proxy may serve the dashboard under a name: no page knows the key.
//! The page at `GET /` holds nothing secret; it asks for the key.

use super::Operator;
use super::audit::TARGET;
use super::http::{Answer, Code, Request, Standing};
use crate::ds::{Bucket, Rate};
use ::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, ORIGIN, WWW_AUTHENTICATE};
use ::http::{Method, StatusCode};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use std::cell::Cell;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::rc::Rc;
use std::time::{Duration, Instant};

const WRONG_KEY_DELAY: Duration = Duration::from_millis(250);

/// Wrong keys that the log tells of: ten at once, then one a second.
const WRONG_KEYS_TOLD: Rate = Rate::new(1, 10);

/// What a browser needs before it can send a key, and what balancers ask.
pub(super) const OPEN_PATHS: [&str; 2] = ["/", "/health"];

/// What the admin listener asks for off the loopback.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(Vec<u8>);

impl Key {
    /// Shorter ones could be guessed.
    pub const BYTES_MIN: usize = 32;

    /// A key, if it is long enough and a header can carry it.
    pub fn new(secret: Vec<u8>) -> Option<Key> {
        (secret.len() >= Key::BYTES_MIN && secret.iter().all(u8::is_ascii_graphic)).then_some(Key(secret))
    }

    /// As who has it sends it in `Authorization`.
    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", String::from_utf8_lossy(&self.0))
    }

    fn is(&self, given: &[u8]) -> bool {
        // Only their lengths can be told apart by time.
        verify_slices_are_equal(&self.0, given).is_ok()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// The rules, of a listener with or without a key.
pub(super) struct Access {
    operator: Rc<Operator>,
    began: Instant,
    /// What is left of [`WRONG_KEYS_TOLD`].
    may_tell: Cell<Bucket>,
    /// Wrong keys since the last that was told.
    left_out: Cell<u64>,
}

impl Access {
    pub fn new(operator: Rc<Operator>) -> Access {
        Access { operator, began: Instant::now(), may_tell: Cell::new(Bucket::FULL), left_out: Cell::new(0) }
    }

    /// Whether the request may go on; who may not gets this answer.
    pub fn check(&self, request: &Request) -> Result<Standing, Answer> {
        let standing = match self.operator.key() {
            Some(key) => check_key(&key, request)?,
            None => {
                check_host(request)?;
                check_origin(request)?;
                Standing::Known
            }
        };
        check_content_type(request)?;
        Ok(standing)
    }

    /// The same, and slow to say that a key is wrong.
    pub async fn admit(&self, request: &Request) -> Result<Standing, Answer> {
        let checked = self.check(request);
        if checked.as_ref().is_err_and(|answer| answer.status == StatusCode::UNAUTHORIZED) {
            self.tell(request);
            monoio::time::sleep(WRONG_KEY_DELAY).await;
        }
        checked
    }

    /// Tells the log of a key that is wrong or missing: who sent it, and nothing of what was sent.
    fn tell(&self, request: &Request) {
        let Request { peer, id, .. } = request;
        if !request.headers.contains_key(AUTHORIZATION) {
            // As a browser does before anybody has typed one.
            tracing::debug!(target: TARGET, %peer, request = %id, "asked without a key");
            return;
        }
        let now_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut may_tell = self.may_tell.get();
        if may_tell.take(1, &WRONG_KEYS_TOLD, now_ms) {
            let left_out = Some(self.left_out.take()).filter(|count| *count > 0);
            tracing::warn!(target: TARGET, %peer, request = %id, left_out, "asked with a wrong key");
        } else {
            self.left_out.set(self.left_out.get() + 1);
        }
        self.may_tell.set(may_tell);
    }
}

fn check_key(key: &Key, request: &Request) -> Result<Standing, Answer> {
    if request.method == Method::GET && OPEN_PATHS.contains(&&*request.path) {
        return Ok(Standing::Stranger);
    }
    // RFC 9110 §11.1: the scheme in any case.
    let given = request.header(AUTHORIZATION).and_then(|value| value.split_once(' '));
    match given {
        Some((scheme, given)) if scheme.eq_ignore_ascii_case("bearer") && key.is(given.trim().as_bytes()) => {
            Ok(Standing::Known)
        }
        _ => {
            let message =
                "send the header Authorization: Bearer KEY, with the key in the server's admin_key_file";
            let challenge = HeaderValue::from_static("Bearer realm=\"megasock\"");
            Err(Answer::error(Code::Unauthorized, message).with(WWW_AUTHENTICATE, challenge))
        }
    }
}

fn check_host(request: &Request) -> Result<(), Answer> {
    // Only HTTP/1.0 gets here without one, which no browser speaks.
    if !request.headers.contains_key(HOST) || request.header(HOST).is_some_and(is_address_or_localhost) {
        return Ok(());
    }
    Err(forbidden(
        "without a key this listener is asked by its address or as localhost; to ask it by name, set admin_key_file",
    ))
}

fn is_address_or_localhost(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    match name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4()),
    }
}

fn check_origin(request: &Request) -> Result<(), Answer> {
    if !request.headers.contains_key(ORIGIN) {
        return Ok(());
    }
    let origin = request.header(ORIGIN).and_then(|origin| origin.split_once("://"));
    let is_own = origin.zip(request.header(HOST)).is_some_and(|((scheme, from), host)| {
        ["http", "https"].contains(&scheme) && from.eq_ignore_ascii_case(host)
    });
    match is_own {
        true => Ok(()),
        false => Err(forbidden("pages of other sites may not ask this listener")),
    }
}

fn check_content_type(request: &Request) -> Result<(), Answer> {
    let is_json = || {
        let media_type = request.header(CONTENT_TYPE).and_then(|value| value.split(';').next());
        media_type.is_some_and(|media_type| media_type.trim().eq_ignore_ascii_case("application/json"))
    };
    if request.method != Method::POST || is_json() {
        return Ok(());
    }
    Err(Answer::error(Code::UnsupportedMediaType, "a POST has the header Content-Type: application/json"))
}

fn forbidden(message: &str) -> Answer {
    Answer::error(Code::Forbidden, message)
}
