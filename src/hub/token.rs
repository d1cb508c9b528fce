//! Tokens: JWTs (RFC 7519) that say who a client is and what it may do, verified and never made up on trust.
//!
//! The keys decide, not the token: each key has one algorithm, which the token's header must name (RFC 8725 §3.1), and a
//! header that brings or points to a key of its own is refused before anything is computed. A token that never ends is
//! refused. Nothing here keeps, prints or logs a token, a secret or a part of them.
//!
//! `key.rs` is what a key is, `grants.rs` what a token allows, `request.rs` where a handshake carries one, `mint.rs` makes
//! one for trying out.

mod grants;
mod key;
mod mint;
mod request;
#[cfg(test)]
mod tests;

pub use grants::Grants;
pub use key::{Algorithm, KeyError, SECRET_BYTES_MIN};
pub use mint::MintError;
pub use request::of_request;

use crate::proto::command::is_name;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use key::Key;
use serde_json::{Map, Value};
use std::fmt;

/// Longest token, in bytes; as long as the longest request target.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// How far the clock of who mints may be ahead of ours. The end of a token is exact.
pub const LEEWAY_S: u64 = 30;
/// The end of the year 9999: what is later is no date, and sums with it would not fit.
const EXPIRES_UNIX_S_MAX: u64 = 253_402_300_799;
/// Headers that bring or point to a key, or change what the others mean (RFC 7515 §4.1).
const HEADERS_REFUSED: [&str; 5] = ["jku", "jwk", "x5u", "x5c", "crit"];

/// The keys tokens are verified with, by the name a token's `kid` calls them, and whose tokens are wanted.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Keys {
    keys: Vec<Key>,
    issuer: Option<String>,
    audience: Option<String>,
}

/// Why a token is refused. Says nothing of what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenError {
    /// It has more than [`TOKEN_BYTES_MAX`] bytes.
    TooLong,
    /// It is not three parts in base64url with a plain header.
    Malformed,
    /// No key has the name in `kid`, or there is no `kid` to choose one of several.
    UnknownKey,
    /// `alg` is not the key's.
    WrongAlgorithm,
    /// The signature is not the key's.
    BadSignature,
    /// `exp` has passed.
    Expired,
    /// `nbf` is to come.
    NotYet,
    /// `iss` is not the one wanted.
    WrongIssuer,
    /// `aud` does not have the one wanted.
    WrongAudience,
    /// A claim is missing or not of its kind.
    BadClaims,
}

/// Writes the texts of each error from one row.
macro_rules! token_errors {
    ($($error:ident = $name:literal, $text:literal;)+) => {
        impl TokenError {
            /// All there are.
            pub const ALL: &[TokenError] = &[$(TokenError::$error),+];

            /// Its name in the log.
            pub const fn name(self) -> &'static str {
                match self { $(TokenError::$error => $name,)+ }
            }
        }

        impl fmt::Display for TokenError {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(TokenError::$error => $text,)+ })
            }
        }
    };
}

token_errors! {
    TooLong = "too_long", "the token has more than 8 KiB";
    Malformed = "malformed", "the token is no signed JWT with a plain header";
    UnknownKey = "unknown_key", "no key has the name in the token's kid";
    WrongAlgorithm = "wrong_algorithm", "the token's alg is not its key's";
    BadSignature = "bad_signature", "the token's signature is not its key's";
    Expired = "expired", "the token's exp has passed";
    NotYet = "not_yet", "the token's nbf is to come";
    WrongIssuer = "wrong_issuer", "the token's iss is not token_issuer";
    WrongAudience = "wrong_audience", "the token's aud does not have token_audience";
    BadClaims = "bad_claims", "a claim of the token is missing or not of its kind";
}

impl std::error::Error for TokenError {}

/// What a token says, all of it checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Claims {
    /// `sub`: the user, whose name is one (see [`is_name`]); without it the bearer is anonymous.
    pub user: Option<String>,
    /// `exp`: from this second on the token is worth nothing.
    pub expires_unix_s: u64,
    /// `channels`: what the bearer may subscribe and publish to.
    pub grants: Grants,
}

impl Keys {
    /// Whether the keys are the same, whatever issuer and audience are wanted.
    pub fn are_those_of(&self, other: &Keys) -> bool {
        self.keys == other.keys
    }

    /// Adds a key: a secret's bytes for HS256, a public key in PEM for the others.
    ///
    /// ```
    /// use megasock::hub::token::{Algorithm, KeyError, Keys};
    /// let mut keys = Keys::default();
    /// keys.add("2026-10", Algorithm::Hs256, b"thirty-two bytes, or more than that").unwrap();
    /// assert_eq!(keys.add("2026-11", Algorithm::Hs256, b"too short"), Err(KeyError::ShortSecret));
    /// ```
    ///
    /// # Errors
    /// The key is weak, of another kind, private where public is meant, or there is one of its name.
    pub fn add(&mut self, name: &str, algorithm: Algorithm, material: &[u8]) -> Result<(), KeyError> {
        if self.keys.iter().any(|key| key.name == name) {
            return Err(KeyError::Duplicate);
        }
        self.keys.push(Key::new(name, algorithm, material)?);
        Ok(())
    }

    /// Wants tokens of this issuer, for this audience; `None` takes any.
    pub fn require(&mut self, issuer: Option<String>, audience: Option<String>) {
        (self.issuer, self.audience) = (issuer, audience);
    }

    /// Whether there is no key: then no token can be verified.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The name and algorithm of each key.
    pub fn names(&self) -> impl Iterator<Item = (&str, Algorithm)> {
        self.keys.iter().map(|key| (key.name.as_str(), key.algorithm))
    }

    /// What a token says, if all of it holds now.
    ///
    /// # Errors
    /// The first thing found wrong with it; the signature is looked at before any claim.
    pub fn verify(&self, token: &str, now_unix_s: u64) -> Result<Claims, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::TooLong);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let header = object(header).ok_or(TokenError::Malformed)?;
        if HEADERS_REFUSED.iter().any(|refused| header.contains_key(*refused)) {
            return Err(TokenError::Malformed);
        }
        let key = self.key_of(&header)?;
        if header.get("alg").and_then(Value::as_str) != Some(key.algorithm.name()) {
            return Err(TokenError::WrongAlgorithm);
        }
        if !key.has_signed(signed, signature) {
            return Err(TokenError::BadSignature);
        }
        self.judge(&object(claims).ok_or(TokenError::BadClaims)?, now_unix_s)
    }

    /// The key `kid` names. A token without one is of the only key there is (RFC 7515 §4.1.4 makes it optional).
    fn key_of(&self, header: &Map<String, Value>) -> Result<&Key, TokenError> {
        let key = match (header.get("kid"), self.keys.as_slice()) {
            (Some(Value::String(name)), keys) => keys.iter().find(|key| key.name == *name),
            (Some(_), _) => return Err(TokenError::Malformed),
            (None, [only]) => Some(only),
            (None, _) => None,
        };
        key.ok_or(TokenError::UnknownKey)
    }

    /// Checks claims whose signature holds.
    fn judge(&self, claims: &Map<String, Value>, now_unix_s: u64) -> Result<Claims, TokenError> {
        let expires_unix_s = seconds(claims, "exp")?.ok_or(TokenError::BadClaims)?;
        if now_unix_s >= expires_unix_s {
            return Err(TokenError::Expired); // RFC 7519 §4.1.4: on or after
        }
        if seconds(claims, "nbf")?
            .is_some_and(|begins_unix_s| begins_unix_s > now_unix_s.saturating_add(LEEWAY_S))
        {
            return Err(TokenError::NotYet);
        }
        let has = |claim: &str, wanted: &str| match claims.get(claim) {
            Some(Value::String(one)) => one == wanted,
            // RFC 7519 §4.1.3: an audience may be several.
            Some(Value::Array(several)) if claim == "aud" => several.iter().any(|one| one == wanted),
            _ => false,
        };
        if self.issuer.as_ref().is_some_and(|wanted| !has("iss", wanted)) {
            return Err(TokenError::WrongIssuer);
        }
        if self.audience.as_ref().is_some_and(|wanted| !has("aud", wanted)) {
            return Err(TokenError::WrongAudience);
        }
        let user = match claims.get("sub") {
            None => None,
            Some(Value::String(name)) if is_name(name) => Some(name.clone()),
            Some(_) => return Err(TokenError::BadClaims),
        };
        let grants = match claims.get("channels") {
            None => Grants::default(),
            Some(channels) => Grants::read(channels).ok_or(TokenError::BadClaims)?,
        };
        Ok(Claims { user, expires_unix_s, grants })
    }
}

/// One part of a token: an object in base64url without padding. Of members that come twice the last counts (RFC 7515
/// §4, RFC 7519 §4).
fn object(part: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

/// A date of the claims (RFC 7519 §2, NumericDate), whose fraction of a second is cut off.
fn seconds(claims: &Map<String, Value>, claim: &str) -> Result<Option<u64>, TokenError> {
    let Some(value) = claims.get(claim) else { return Ok(None) };
    let seconds = value.as_f64().ok_or(TokenError::BadClaims)?;
    if seconds > EXPIRES_UNIX_S_MAX as f64 {
        return Err(TokenError::BadClaims);
    }
    Ok(Some(seconds as u64)) // what is negative becomes 0, which has passed as well
}
