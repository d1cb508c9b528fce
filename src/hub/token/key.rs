//! What tokens are verified with: a secret, or the public half of a pair. Each key has one algorithm for all its life.

use jsonwebtoken::DecodingKey;
use jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER;
use std::fmt;

/// Shortest secret of HS256: as long as its hash (RFC 7518 §3.2).
pub const SECRET_BYTES_MIN: usize = 32;
/// Shortest RSA key (RFC 7518 §3.3).
const RSA_BITS_MIN: usize = 2048;

/// How a token is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// A secret that both sides have.
    Hs256,
    /// RSA, PKCS #1 version 1.5.
    Rs256,
    /// The elliptic curve P-256.
    Es256,
    /// The elliptic curve Ed25519.
    EdDsa,
}

impl Algorithm {
    /// All there are.
    pub const ALL: [Algorithm; 4] = [Algorithm::Hs256, Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa];

    /// Its name in a token's header (RFC 7518 §3.1, RFC 8037 §3.1).
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::Hs256 => "HS256",
            Algorithm::Rs256 => "RS256",
            Algorithm::Es256 => "ES256",
            Algorithm::EdDsa => "EdDSA",
        }
    }

    pub(super) const fn of_library(self) -> jsonwebtoken::Algorithm {
        match self {
            Algorithm::Hs256 => jsonwebtoken::Algorithm::HS256,
            Algorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
            Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
            Algorithm::EdDsa => jsonwebtoken::Algorithm::EdDSA,
        }
    }
}

/// A key by its name.
#[derive(Clone)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) algorithm: Algorithm,
    verifying: DecodingKey,
}

impl Key {
    /// Takes a secret's bytes for HS256, a public key in PEM for the others.
    pub(super) fn new(name: &str, algorithm: Algorithm, material: &[u8]) -> Result<Key, KeyError> {
        let verifying = match algorithm {
            Algorithm::Hs256 => secret(material),
            Algorithm::Rs256 => public_half(material, DecodingKey::from_rsa_pem).and_then(strong_rsa),
            // A point of P-256, uncompressed (SEC 1 §2.3.3); of P-384 it has 97 bytes.
            Algorithm::Es256 => {
                public_half(material, DecodingKey::from_ec_pem).and_then(|key| of_len(key, 65))
            }
            Algorithm::EdDsa => {
                public_half(material, DecodingKey::from_ed_pem).and_then(|key| of_len(key, 32))
            }
        }?;
        Ok(Key { name: name.to_owned(), algorithm, verifying })
    }

    /// Whether the signature, in base64url, is this key's for these bytes.
    pub(super) fn has_signed(&self, signed: &str, signature: &str) -> bool {
        let algorithm = self.algorithm.of_library();
        let verified = jsonwebtoken::crypto::verify(signature, signed.as_bytes(), &self.verifying, algorithm);
        verified.unwrap_or(false)
    }

    /// The secret, or the public key.
    pub(super) fn bytes(&self) -> &[u8] {
        self.verifying.try_get_as_bytes().expect("made from a secret or from PEM, which are bytes")
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({})", self.name, self.algorithm.name())
    }
}

/// Compares options with options, at start: an attacker cannot time it.
impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        (&self.name, self.algorithm, self.bytes()) == (&other.name, other.algorithm, other.bytes())
    }
}

/// Why a key is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyError {
    /// A key of this name was given before.
    Duplicate,
    /// A secret has fewer bytes than [`SECRET_BYTES_MIN`].
    ShortSecret,
    /// A secret is a key in PEM, which others may know.
    PemSecret,
    /// It is the private half, which has no business on this host.
    Private,
    /// It is no public key in PEM, or one of another algorithm.
    NotOfAlgorithm,
    /// An RSA key has fewer than 2048 bits.
    Weak,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KeyError::Duplicate => "there is a key of this name",
            KeyError::ShortSecret => "the secret has fewer than 32 bytes",
            KeyError::PemSecret => "a key in PEM is no secret",
            KeyError::Private => "it is a private key, of which only the public half is needed",
            KeyError::NotOfAlgorithm => "it is no public key of this algorithm in PEM",
            KeyError::Weak => "the RSA key has fewer than 2048 bits",
        })
    }
}

impl std::error::Error for KeyError {}

fn secret(material: &[u8]) -> Result<DecodingKey, KeyError> {
    match pem_label(material) {
        Some(_) => Err(KeyError::PemSecret),
        None if material.len() < SECRET_BYTES_MIN => Err(KeyError::ShortSecret),
        None => Ok(DecodingKey::from_secret(material)),
    }
}

type Read = fn(&[u8]) -> jsonwebtoken::errors::Result<DecodingKey>;

fn public_half(material: &[u8], read: Read) -> Result<DecodingKey, KeyError> {
    match pem_label(material) {
        Some(label) if label.contains("PRIVATE") => Err(KeyError::Private),
        // The library would also look into a certificate, whose first bit string may be anything.
        Some("PUBLIC KEY" | "RSA PUBLIC KEY") => read(material).map_err(|_| KeyError::NotOfAlgorithm),
        _ => Err(KeyError::NotOfAlgorithm),
    }
}

fn of_len(key: DecodingKey, len: usize) -> Result<DecodingKey, KeyError> {
    match key.try_get_as_bytes() {
        Ok(bytes) if bytes.len() == len => Ok(key),
        _ => Err(KeyError::NotOfAlgorithm),
    }
}

fn strong_rsa(key: DecodingKey) -> Result<DecodingKey, KeyError> {
    let components =
        key.try_get_as_bytes().and_then(DEFAULT_PROVIDER.key_utils.rsa_pub_components_from_public_key);
    match components {
        Ok((modulus, _)) if modulus.len() * 8 < RSA_BITS_MIN => Err(KeyError::Weak),
        Ok(_) => Ok(key),
        Err(_) => Err(KeyError::NotOfAlgorithm),
    }
}

/// What the first line of a PEM file says is in it.
fn pem_label(material: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(material).ok()?;
    let (_, rest) = text.split_once("-----BEGIN ")?;
    rest.split_once("-----").map(|(label, _)| label)
}
