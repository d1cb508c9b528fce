//! Hostile tokens get nothing, good ones of every algorithm what they say. All keys are made when the tests run.

use super::*;
use crate::proto::head;
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{self, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
};
use jsonwebtoken::{EncodingKey, Header};
use proptest::prelude::*;
use serde_json::json;
use std::sync::LazyLock;

const NOW_UNIX_S: u64 = 1_800_000_000;
const SECRET: &[u8] = b"a secret of thirty-two bytes, or so";

/// Both halves of a key in PEM.
struct Pair {
    private: String,
    public: String,
}

impl Pair {
    fn new(private_der: &[u8], public_der: &[u8]) -> Pair {
        Pair { private: pem("PRIVATE KEY", private_der), public: pem("PUBLIC KEY", public_der) }
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn rsa_pair(size: KeySize) -> Pair {
    let pair = rsa::KeyPair::generate(size).unwrap();
    let private: Pkcs8V1Der<'_> = pair.as_der().unwrap();
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    Pair::new(private.as_ref(), public.as_ref())
}

fn ec_pair(curve: &'static aws_lc_rs::signature::EcdsaSigningAlgorithm) -> Pair {
    let private = EcdsaKeyPair::generate_pkcs8(curve, &SystemRandom::new()).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(curve, private.as_ref()).unwrap();
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    Pair::new(private.as_ref(), public.as_ref())
}

fn ed_pair() -> Pair {
    let private = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(private.as_ref()).unwrap();
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    Pair::new(private.as_ref(), public.as_ref())
}

static RSA: LazyLock<Pair> = LazyLock::new(|| rsa_pair(KeySize::Rsa2048));
static EC: LazyLock<Pair> = LazyLock::new(|| ec_pair(&ECDSA_P256_SHA256_FIXED_SIGNING));
static ED: LazyLock<Pair> = LazyLock::new(ed_pair);

/// One key of each algorithm, called as it.
static ALL: LazyLock<Keys> = LazyLock::new(|| {
    let mut keys = Keys::default();
    for algorithm in Algorithm::ALL {
        let material = private(algorithm).map_or(SECRET, |pair| pair.public.as_bytes());
        keys.add(algorithm.name(), algorithm, material).unwrap();
    }
    keys
});

fn private(algorithm: Algorithm) -> Option<&'static Pair> {
    match algorithm {
        Algorithm::Hs256 => None,
        Algorithm::Rs256 => Some(&RSA),
        Algorithm::Es256 => Some(&EC),
        Algorithm::EdDsa => Some(&ED),
    }
}

/// Only the secret.
fn secret_alone() -> Keys {
    let mut keys = Keys::default();
    keys.add("HS256", Algorithm::Hs256, SECRET).unwrap();
    keys
}

/// A token with any header, signed with the secret as HS256 whatever the header says.
fn signed(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let key = EncodingKey::from_secret(SECRET);
    let signature =
        jsonwebtoken::crypto::sign(signed.as_bytes(), &key, jsonwebtoken::Algorithm::HS256).unwrap();
    format!("{signed}.{signature}")
}

fn with_claims(claims: Value) -> String {
    signed(&json!({"alg": "HS256", "kid": "HS256"}), &claims)
}

fn good_claims() -> Value {
    json!({"sub": "ann", "exp": NOW_UNIX_S + 60})
}

#[test]
fn a_good_token_of_every_algorithm_says_what_it_says() {
    for algorithm in Algorithm::ALL {
        let pem = private(algorithm).map(|pair| pair.private.as_bytes());
        let token = ALL.mint(algorithm.name(), pem, &good_claims(), NOW_UNIX_S).unwrap();
        let claims = ALL.verify(&token, NOW_UNIX_S).unwrap();
        assert_eq!((claims.user.as_deref(), claims.expires_unix_s), (Some("ann"), NOW_UNIX_S + 60));
        assert!(claims.grants.is_unlimited());
    }
}

/// Row 17 of the hostile inputs, and its relatives.
#[test]
fn hostile_headers_are_refused() {
    let header = |extra: Value| {
        let mut header = json!({"alg": "HS256", "kid": "HS256"});
        header.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        signed(&header, &good_claims())
    };
    let unsigned = |alg: &str| {
        let token = header(json!({"alg": alg}));
        token[..=token.rfind('.').unwrap()].to_owned()
    };
    // The classic: a public key everybody knows, taken for the secret of an HMAC.
    let confused = |kid: &str, public: &str| {
        let header = Header { kid: Some(kid.into()), ..Header::new(jsonwebtoken::Algorithm::HS256) };
        let key = EncodingKey::from_secret(public.as_bytes());
        jsonwebtoken::encode(&header, &good_claims(), &key).unwrap()
    };
    let good = header(json!({}));
    let parts: Vec<&str> = good.split('.').collect();
    let rows = [
        ("alg none", header(json!({"alg": "none"})), TokenError::WrongAlgorithm),
        ("alg none, unsigned", unsigned("none"), TokenError::WrongAlgorithm),
        ("alg nOnE, unsigned", unsigned("nOnE"), TokenError::WrongAlgorithm),
        ("no signature", unsigned("HS256"), TokenError::BadSignature),
        ("no alg", header(json!({"alg": null})), TokenError::WrongAlgorithm),
        ("alg of another kind", header(json!({"alg": ["HS256"]})), TokenError::WrongAlgorithm),
        ("HS384", header(json!({"alg": "HS384"})), TokenError::WrongAlgorithm),
        ("HS256 with the RSA public key", confused("RS256", &RSA.public), TokenError::WrongAlgorithm),
        ("HS256 with the EC public key", confused("ES256", &EC.public), TokenError::WrongAlgorithm),
        ("HS256 with the Ed25519 public key", confused("EdDSA", &ED.public), TokenError::WrongAlgorithm),
        ("ES256 for the secret", header(json!({"alg": "ES256"})), TokenError::WrongAlgorithm),
        ("an unknown kid", header(json!({"kid": "2020-01"})), TokenError::UnknownKey),
        ("a kid that is a path", header(json!({"kid": "../../dev/null"})), TokenError::UnknownKey),
        ("an empty kid", header(json!({"kid": ""})), TokenError::UnknownKey),
        ("a kid that is no text", header(json!({"kid": 1})), TokenError::Malformed),
        ("jku", header(json!({"jku": "https://evil.example/jwks"})), TokenError::Malformed),
        ("x5u", header(json!({"x5u": "https://evil.example/cert"})), TokenError::Malformed),
        ("x5c", header(json!({"x5c": ["MIIB"]})), TokenError::Malformed),
        ("jwk", header(json!({"jwk": {"kty": "oct", "k": "AAAA"}})), TokenError::Malformed),
        ("crit", header(json!({"crit": ["b64"], "b64": false})), TokenError::Malformed),
        ("a null crit", header(json!({"crit": null})), TokenError::Malformed),
        ("another's signature", [parts[0], parts[1], "AAAA"].join("."), TokenError::BadSignature),
        ("a padded signature", format!("{good}="), TokenError::BadSignature),
        ("nothing", String::new(), TokenError::Malformed),
        ("dots", "..".into(), TokenError::Malformed),
        ("one part", parts[0].into(), TokenError::Malformed),
        ("two parts", parts[..2].join("."), TokenError::Malformed),
        ("four parts", format!("{good}.{}", parts[2]), TokenError::BadSignature),
        ("five parts, encrypted", "eyJhbGciOiJkaXIifQ..a.b.c".into(), TokenError::WrongAlgorithm),
        ("no JSON", format!("AAAA.{}.{}", parts[1], parts[2]), TokenError::Malformed),
        (
            "a header of brackets",
            format!("{}.A.A", URL_SAFE_NO_PAD.encode("[".repeat(6_000))),
            TokenError::Malformed,
        ),
        ("8 KiB and a byte", "a".repeat(TOKEN_BYTES_MAX + 1), TokenError::TooLong),
        ("1 MB", "a".repeat(1_000_000), TokenError::TooLong),
    ];
    let mut keys = ALL.clone();
    assert!(keys.verify(&good, NOW_UNIX_S).is_ok());
    // Encrypted tokens have no kid, so that they meet the only key.
    let alone = secret_alone();
    for (what, token, error) in &rows {
        let keys = if what.starts_with("five") { &alone } else { &keys };
        assert_eq!(keys.verify(token, NOW_UNIX_S), Err(*error), "{what}");
    }
    keys.keys.clear();
    assert_eq!(keys.verify(&good, NOW_UNIX_S), Err(TokenError::UnknownKey), "no keys at all");
}

#[test]
fn a_token_without_kid_is_of_the_only_key() {
    let token = signed(&json!({"alg": "HS256", "typ": "JWT"}), &good_claims());
    assert!(secret_alone().verify(&token, NOW_UNIX_S).is_ok());
    assert_eq!(ALL.verify(&token, NOW_UNIX_S), Err(TokenError::UnknownKey));
}

#[test]
fn claims_are_checked_each() {
    let mut keys = secret_alone();
    keys.require(Some("https://id.example".into()), Some("chat".into()));
    let exp = NOW_UNIX_S + 60;
    let base = json!({"exp": exp, "iss": "https://id.example", "aud": "chat"});
    let changed = |changes: Value| {
        let mut claims = base.clone();
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        keys.verify(&with_claims(claims), NOW_UNIX_S).map(|claims| (claims.user, claims.expires_unix_s))
    };
    let anonymous = Ok((None, exp));
    let rows = [
        ("no sub", json!({}), anonymous.clone()),
        ("a sub", json!({"sub": "ann"}), Ok((Some("ann".into()), exp))),
        ("several audiences", json!({"aud": ["mail", "chat"]}), anonymous.clone()),
        ("an audience among other things", json!({"aud": [1, null, "chat"]}), anonymous.clone()),
        ("a fraction of a second", json!({"exp": exp as f64 + 0.9}), anonymous.clone()),
        ("nbf within the leeway", json!({"nbf": NOW_UNIX_S + LEEWAY_S}), anonymous.clone()),
        ("nbf beyond it", json!({"nbf": NOW_UNIX_S + LEEWAY_S + 1}), Err(TokenError::NotYet)),
        ("nbf as text", json!({"nbf": "0"}), Err(TokenError::BadClaims)),
        ("a second left", json!({"exp": NOW_UNIX_S + 1}), Ok((None, NOW_UNIX_S + 1))),
        ("exp is now", json!({"exp": NOW_UNIX_S}), Err(TokenError::Expired)),
        ("exp long ago", json!({"exp": -1}), Err(TokenError::Expired)),
        ("exp as text", json!({"exp": exp.to_string()}), Err(TokenError::BadClaims)),
        ("exp null", json!({"exp": null}), Err(TokenError::BadClaims)),
        ("exp never", json!({"exp": u64::MAX}), Err(TokenError::BadClaims)),
        ("exp in milliseconds", json!({"exp": exp * 1_000}), Err(TokenError::BadClaims)),
        ("another issuer", json!({"iss": "https://id.example/"}), Err(TokenError::WrongIssuer)),
        ("issuers", json!({"iss": ["https://id.example"]}), Err(TokenError::WrongIssuer)),
        ("another audience", json!({"aud": "chats"}), Err(TokenError::WrongAudience)),
        ("no audience", json!({"aud": []}), Err(TokenError::WrongAudience)),
        ("a sub that is no text", json!({"sub": 7}), Err(TokenError::BadClaims)),
        ("a sub that is null", json!({"sub": null}), Err(TokenError::BadClaims)),
        ("an empty sub", json!({"sub": ""}), Err(TokenError::BadClaims)),
        ("a sub that is no name", json!({"sub": "ann\n"}), Err(TokenError::BadClaims)),
        ("a sub that is too long", json!({"sub": "a".repeat(256)}), Err(TokenError::BadClaims)),
        ("no channels", json!({"channels": null}), Err(TokenError::BadClaims)),
        ("a list of channels", json!({"channels": ["chat"]}), Err(TokenError::BadClaims)),
        ("a pattern alone", json!({"channels": {"subscribe": "chat"}}), Err(TokenError::BadClaims)),
        ("a pattern of another kind", json!({"channels": {"publish": [1]}}), Err(TokenError::BadClaims)),
        ("an empty pattern", json!({"channels": {"publish": [""]}}), Err(TokenError::BadClaims)),
        ("a star inside", json!({"channels": {"publish": ["a*b"]}}), Err(TokenError::BadClaims)),
    ];
    for (what, changes, outcome) in rows {
        assert_eq!(changed(changes), outcome, "{what}");
    }
    let without_exp = with_claims(json!({"sub": "ann"}));
    assert_eq!(secret_alone().verify(&without_exp, NOW_UNIX_S), Err(TokenError::BadClaims));
    let header = json!({"alg": "HS256"});
    assert_eq!(secret_alone().verify(&signed(&header, &json!([])), NOW_UNIX_S), Err(TokenError::BadClaims));
}

#[test]
fn grants_are_whole_names_and_beginnings() {
    let grants = |channels| {
        let claims = json!({"exp": NOW_UNIX_S + 60, "channels": channels});
        secret_alone().verify(&with_claims(claims), NOW_UNIX_S).unwrap().grants
    };
    let some = grants(json!({"subscribe": ["scores:*", "room:lobby"], "publish": ["chat"], "later": 1}));
    for (topic, subscribe, publish) in [
        ("scores:1", true, false),
        ("scores:", true, false),
        ("scores", false, false),
        ("room:lobby", true, false),
        ("room:lobby2", false, false),
        ("lobby", false, false),
        ("chat", false, true),
        ("chats", false, false),
        ("Chat", false, false),
    ] {
        assert_eq!((some.may_subscribe(topic), some.may_publish(topic)), (subscribe, publish), "{topic}");
    }
    let reader = grants(json!({"subscribe": ["*"]}));
    assert!(reader.may_subscribe("anything") && reader.may_subscribe("room:any"));
    assert!(!reader.may_publish("anything") && !reader.is_unlimited());
    assert!(!grants(json!({})).may_subscribe("a"), "a claim without lists allows nothing");
    assert!(Grants::default().may_publish("a") && Grants::default().is_unlimited());
    assert_eq!(size_of::<Grants>(), 8);
}

#[test]
fn weak_and_mistaken_keys_are_refused() {
    let weak = "-----BEGIN PUBLIC KEY-----\n\
        MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAK34jnk8tMHFYC4dvhJBqZKXqf12dLx9\n\
        xlcpYaVXHyI8xgeAOWEJFfLZ3kR3QmgaJqi4x9MNZzSmiMHq4b3ZTfsCAwEAAQ==\n\
        -----END PUBLIC KEY-----\n";
    let p384 = ec_pair(&ECDSA_P384_SHA384_FIXED_SIGNING);
    let certificate = RSA.public.replace("PUBLIC KEY", "CERTIFICATE");
    let cut = RSA.public.replacen("MII", "MIJ", 1);
    let rows = [
        ("31 bytes", Algorithm::Hs256, "a".repeat(31), KeyError::ShortSecret),
        ("nothing", Algorithm::Hs256, String::new(), KeyError::ShortSecret),
        ("a public key as secret", Algorithm::Hs256, RSA.public.clone(), KeyError::PemSecret),
        ("a private RSA key", Algorithm::Rs256, RSA.private.clone(), KeyError::Private),
        ("a private EC key", Algorithm::Es256, EC.private.clone(), KeyError::Private),
        ("a private Ed25519 key", Algorithm::EdDsa, ED.private.clone(), KeyError::Private),
        ("512 bits", Algorithm::Rs256, weak.into(), KeyError::Weak),
        ("EC for RSA", Algorithm::Rs256, EC.public.clone(), KeyError::NotOfAlgorithm),
        ("RSA for EC", Algorithm::Es256, RSA.public.clone(), KeyError::NotOfAlgorithm),
        ("another curve", Algorithm::Es256, p384.public, KeyError::NotOfAlgorithm),
        ("EC for Ed25519", Algorithm::EdDsa, EC.public.clone(), KeyError::NotOfAlgorithm),
        ("a certificate", Algorithm::Rs256, certificate, KeyError::NotOfAlgorithm),
        ("no DER", Algorithm::Rs256, cut, KeyError::NotOfAlgorithm),
        ("a secret for EC", Algorithm::Es256, "a".repeat(40), KeyError::NotOfAlgorithm),
        ("nothing for EC", Algorithm::Es256, String::new(), KeyError::NotOfAlgorithm),
    ];
    for (what, algorithm, material, error) in rows {
        let mut keys = Keys::default();
        assert_eq!(keys.add("k", algorithm, material.as_bytes()), Err(error), "{what}");
        assert!(keys.is_empty());
    }
    assert_eq!(ALL.clone().add("HS256", Algorithm::Hs256, SECRET), Err(KeyError::Duplicate));
    assert!(Keys::default().add("k", Algorithm::Hs256, &[0xFF; 32]).is_ok(), "a secret is any bytes");
}

#[test]
fn a_token_is_minted_only_if_it_would_be_accepted() {
    let mint = |name: &str, pem: Option<&str>, claims: Value| {
        ALL.mint(name, pem.map(str::as_bytes), &claims, NOW_UNIX_S).unwrap_err()
    };
    let other = ed_pair();
    for (error, expected) in [
        (mint("none", None, good_claims()), MintError::NoKey),
        (mint("EdDSA", None, good_claims()), MintError::NeedsPrivate),
        (mint("HS256", Some(&ED.private), good_claims()), MintError::NeedsNone),
        (mint("EdDSA", Some(&EC.private), good_claims()), MintError::NotOfAlgorithm),
        (mint("EdDSA", Some(&ED.public), good_claims()), MintError::NotOfAlgorithm),
        (mint("EdDSA", Some(&other.private), good_claims()), MintError::Refused(TokenError::BadSignature)),
        (mint("HS256", None, json!({"exp": 1})), MintError::Refused(TokenError::Expired)),
    ] {
        assert_eq!(error, expected);
    }
}

#[test]
fn nothing_shows_a_secret_or_a_token() {
    let shown = format!("{:?}", *ALL);
    assert!(shown.contains("\"HS256\" (HS256)"), "{shown}");
    let bytes = format!("{:?}", &SECRET[..8]);
    assert!(!shown.contains("secret of") && !shown.contains(&bytes[1..bytes.len() - 1]), "{shown}");
    for error in TokenError::ALL {
        assert!(error.name().chars().all(|c| c.is_ascii_lowercase() || c == '_'));
        assert!(!error.to_string().is_empty());
    }
}

#[test]
fn keys_are_equal_when_all_of_them_is() {
    let mut other = secret_alone();
    assert_eq!(other, secret_alone());
    other.require(None, Some("chat".into()));
    assert_ne!(other, secret_alone());
    let mut other = Keys::default();
    other.add("HS256", Algorithm::Hs256, &SECRET[1..]).unwrap();
    assert_ne!(other, secret_alone());
}

#[test]
fn a_request_carries_its_token_in_one_of_three_places() {
    let rows = [
        ("/ws", "Authorization: Bearer a.b.c\r\n", Some("a.b.c")),
        ("/ws", "authorization: bEARER  a.b.c \r\n", Some("a.b.c")),
        ("/ws?token=q", "Authorization: Bearer h\r\nSec-WebSocket-Protocol: token.p\r\n", Some("h")),
        ("/ws?token=q", "Sec-WebSocket-Protocol: megasock, token.p\r\n", Some("p")),
        ("/ws", "Sec-WebSocket-Protocol: token.p\r\nSec-WebSocket-Protocol: megasock\r\n", Some("p")),
        ("/ws?user=a&token=q%2Er", "Authorization: Basic dTpw\r\n", Some("q.r")),
        ("/ws?token=", "", Some("")),
        ("/ws", "Authorization: Bearer\r\n", None),
        ("/ws?mytoken=q&Token=q", "Sec-WebSocket-Protocol: megasock, mytoken.p\r\n", None),
        ("/ws", "", None),
    ];
    for (target, headers, token) in rows {
        let bytes = format!("GET {target} HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
        let head = head::parse(bytes.as_bytes()).unwrap();
        assert_eq!(of_request(&head).as_deref(), token, "{target} {headers}");
    }
}

proptest! {
    #[test]
    fn one_bit_changed_anywhere_is_refused(algorithm in 0..4_usize, at in any::<prop::sample::Index>(), bit in 0..7_u8) {
        let algorithm = Algorithm::ALL[algorithm];
        let pem = private(algorithm).map(|pair| pair.private.as_bytes());
        let mut bytes = ALL.mint(algorithm.name(), pem, &good_claims(), NOW_UNIX_S).unwrap().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let changed = String::from_utf8(bytes).unwrap(); // ASCII stays ASCII without its eighth bit
        prop_assert!(ALL.verify(&changed, NOW_UNIX_S).is_err());
    }

    #[test]
    fn any_text_is_refused_without_a_panic(text in "[A-Za-z0-9_.{}\":=-]{0,300}") {
        prop_assert!(ALL.verify(&text, NOW_UNIX_S).is_err());
    }

    #[test]
    fn any_header_and_claims_never_panic(header in any::<Vec<u8>>(), claims in any::<Vec<u8>>()) {
        let token = format!("{}.{}.AA", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        prop_assert!(ALL.verify(&token, NOW_UNIX_S).is_err());
    }
}
