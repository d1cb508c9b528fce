//! Tokens: only what is signed with a key, named as that key's, gets in; and then exactly if its claims hold. The signature
//! is made here, so that claims are met at all.
//!
//! The first byte chooses what is required and what the rest is: a token, or a header and claims with a line feed between.
#![no_main]

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::EncodingKey;
use libfuzzer_sys::fuzz_target;
use megasock::hub::token::{Algorithm, Claims, Keys, LEEWAY_S, TOKEN_BYTES_MAX, TokenError, of_request};
use megasock::proto::{command, head};
use serde_json::Value;

const NOW_UNIX_S: u64 = 1_790_000_000;
const EXPIRES_UNIX_S_MAX: f64 = 253_402_300_799.0;
const SECRET: &[u8] = b"known to this file and to no server at all";
/// The public halves of keys whose private ones were thrown away.
const RSA_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\n\
    MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEArlEELxkM13LfPjRZJN3N\n\
    jj8nuTRr5VqvLcTpet5XctP2SErRGa7gKtZAZJ+ecITaBalIJZW3wnNmPKncRkqD\n\
    SqkM5mD/ml4wWa32haveeiHCgtvAKtqat/vD+6+M29wj6yJFHEMrNER10ZM1abHw\n\
    MID76g1UgLzQxDjz6nv6CQbEH9J5dXWxcgJEmfJ/N1vFVCcDCF8LR8dNdvMcvHMW\n\
    bG82o/fgi7TN7OxQfcbD3ImkqXbQjawP1JQdYZEp3nsoxX1w7I/KnW3EhKgyZd2O\n\
    sSMsbGwIIwBQIgafy+KM7tcsIUT6mWX/sflnNKS1uTUH68r2p4iAZ+e9nqz1NOSN\n\
    /QIDAQAB\n\
    -----END PUBLIC KEY-----\n";
const EC_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\n\
    MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEAfzjLXeQ85JSdbtwNnqRlml67aMU\n\
    eXk9I+Ui3JgAde+qsfcr4M4Bln9AZFnV444W0HD628TgsbV8AXDUITZ4dQ==\n\
    -----END PUBLIC KEY-----\n";
const ED_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\n\
    MCowBQYDK2VwAyEA3abO2g75CM0nOLAW1LZA4LNnlEhwj+vytmsoQGueev0=\n\
    -----END PUBLIC KEY-----\n";

/// Keys of all algorithms that want nothing more; and the same for one issuer and audience.
static KEYS: LazyLock<[Keys; 2]> = LazyLock::new(|| {
    let mut keys = Keys::default();
    for (algorithm, material) in [
        (Algorithm::Hs256, SECRET),
        (Algorithm::Rs256, RSA_PUBLIC.as_bytes()),
        (Algorithm::Es256, EC_PUBLIC.as_bytes()),
        (Algorithm::EdDsa, ED_PUBLIC.as_bytes()),
    ] {
        keys.add(algorithm.name(), algorithm, material).expect("a key of its algorithm");
    }
    let mut choosy = keys.clone();
    choosy.require(Some("i".to_owned()), Some("a".to_owned()));
    [keys, choosy]
});

fuzz_target!(|input: &[u8]| {
    let [choice, rest @ ..] = input else { return };
    let is_choosy = choice & 1 != 0;
    let keys = &KEYS[usize::from(is_choosy)];
    if choice & 2 != 0 {
        if let Ok(token) = str::from_utf8(rest) {
            is_no_forgery(keys, token);
            travels(token);
        }
        return;
    }
    let cut = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    let (header, claims) = (&rest[..cut], rest.get(cut + 1..).unwrap_or_default());
    let signed = [URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims)].join(".");
    let token = format!("{signed}.{}", signature(&signed));
    let verified = keys.verify(&token, NOW_UNIX_S);
    let holds = token.len() <= TOKEN_BYTES_MAX && header_holds(header) && claims_hold(claims, is_choosy);
    assert_eq!(verified.is_ok(), holds, "{verified:?}");
    if let Ok(verified) = verified {
        says(&verified, claims);
        let late = keys.verify(&token, verified.expires_unix_s);
        assert_eq!(late, Err(TokenError::Expired), "it never ends");
    }
});

fn signature(signed: &str) -> String {
    let key = EncodingKey::from_secret(SECRET);
    jsonwebtoken::crypto::sign(signed.as_bytes(), &key, jsonwebtoken::Algorithm::HS256)
        .expect("an HMAC of bytes")
}

/// A token that is taken was signed with the one key that can sign here.
fn is_no_forgery(keys: &Keys, token: &str) {
    if keys.verify(token, NOW_UNIX_S).is_ok() {
        let (signed, given) = token.rsplit_once('.').expect("a signature");
        assert_eq!(given, signature(signed));
    }
}

/// What stands in a request's query or subprotocol is what arrives.
fn travels(token: &str) {
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
        return;
    }
    for request in [
        format!("GET /?a=b&token={token} HTTP/1.1\r\nHost: a\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Protocol: megasock, token.{token}\r\n\r\n"),
        format!("GET /?token=x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n"),
    ] {
        if let Ok(head) = head::parse(request.as_bytes()) {
            assert_eq!(of_request(&head).as_deref(), Some(token));
        }
    }
}

fn header_holds(header: &[u8]) -> bool {
    let Ok(Value::Object(header)) = serde_json::from_slice(header) else { return false };
    let is_plain = ["jku", "jwk", "x5u", "x5c", "crit"].iter().all(|name| !header.contains_key(*name));
    let is = |name: &str| header.get(name) == Some(&Value::from("HS256"));
    is_plain && is("alg") && is("kid")
}

fn claims_hold(claims: &[u8], is_choosy: bool) -> bool {
    let Ok(claims @ Value::Object(_)) = serde_json::from_slice::<Value>(claims) else { return false };
    let date =
        |name: &str| claims.get(name).map(|value| value.as_f64().filter(|date| *date <= EXPIRES_UNIX_S_MAX));
    let ends = matches!(date("exp"), Some(Some(date)) if date.trunc() > NOW_UNIX_S as f64);
    let begun = match date("nbf") {
        None => true,
        Some(date) => date.is_some_and(|date| date.trunc() <= (NOW_UNIX_S + LEEWAY_S) as f64),
    };
    let aud = claims.get("aud").unwrap_or(&Value::Null);
    let has_audience =
        aud == "a" || aud.as_array().is_some_and(|several| several.contains(&Value::from("a")));
    let is_wanted = !is_choosy || (claims.get("iss") == Some(&Value::from("i")) && has_audience);
    let has_user = claims.get("sub").is_none_or(|sub| sub.as_str().is_some_and(command::is_name));
    let is_pattern = |value: &Value| {
        value
            .as_str()
            .is_some_and(|text| !text.is_empty() && text.find('*').is_none_or(|at| at + 1 == text.len()))
    };
    let has_grants = claims.get("channels").is_none_or(|channels| {
        let list_fits = |list: Option<&Value>| {
            list.is_none_or(|list| list.as_array().is_some_and(|patterns| patterns.iter().all(is_pattern)))
        };
        channels.is_object() && list_fits(channels.get("subscribe")) && list_fits(channels.get("publish"))
    });
    ends && begun && is_wanted && has_user && has_grants
}

/// User, end and grants are the claims', and what is granted is granted for a pattern.
fn says(verified: &Claims, claims: &[u8]) {
    let claims: Value = serde_json::from_slice(claims).expect("verified");
    assert_eq!(verified.user.as_deref(), claims["sub"].as_str());
    assert_eq!(Some(verified.expires_unix_s as f64), claims["exp"].as_f64().map(f64::trunc));
    assert_eq!(verified.grants.is_unlimited(), claims.get("channels").is_none());
    let patterns = |kind: &str| -> Vec<&str> {
        claims["channels"][kind].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    };
    let allows = |kind: &str, topic: &str| {
        claims.get("channels").is_none()
            || patterns(kind).iter().any(|pattern| {
                *pattern == topic || pattern.strip_suffix('*').is_some_and(|start| topic.starts_with(start))
            })
    };
    let named = [patterns("subscribe"), patterns("publish"), vec!["a", "room:a", "*"]].concat();
    for topic in named.iter().flat_map(|name| [(*name).to_owned(), format!("{name}x"), name.replace('*', "")])
    {
        assert_eq!(verified.grants.may_subscribe(&topic), allows("subscribe", &topic), "{topic:?}");
        assert_eq!(verified.grants.may_publish(&topic), allows("publish", &topic), "{topic:?}");
    }
}
