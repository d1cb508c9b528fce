//! Makes tokens: for `megasock token` and for tests. A server only verifies.

use super::{Algorithm, Keys, TokenError};
use jsonwebtoken::{EncodingKey, Header};
use serde_json::Value;
use std::fmt;

/// Why a token was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MintError {
    /// There is no key of this name.
    NoKey,
    /// Only the public half of the key is here.
    NeedsPrivate,
    /// A secret signs by itself: there is no private half.
    NeedsNone,
    /// It is no private key of this algorithm, in PKCS #8 and PEM.
    NotOfAlgorithm,
    /// What it signed, this server would refuse.
    Refused(TokenError),
}

impl fmt::Display for MintError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MintError::NoKey => f.write_str("there is no key of this name"),
            MintError::NeedsPrivate => f.write_str("the private half of the key is needed to sign"),
            MintError::NeedsNone => f.write_str("a secret signs by itself"),
            MintError::NotOfAlgorithm => {
                f.write_str("it is no private key of this algorithm, in PKCS #8 and PEM")
            }
            MintError::Refused(TokenError::BadSignature) => {
                f.write_str("it is not the private half of this key")
            }
            MintError::Refused(error) => write!(f, "the server would refuse it: {error}"),
        }
    }
}

impl std::error::Error for MintError {}

impl Keys {
    /// Signs claims with the key of this name, of which `private_pem` is the private half unless it is a secret.
    ///
    /// # Errors
    /// It cannot sign, or what it signed is a token that [`Keys::verify`] refuses.
    pub fn mint(
        &self,
        name: &str,
        private_pem: Option<&[u8]>,
        claims: &Value,
        now_unix_s: u64,
    ) -> Result<String, MintError> {
        let key = self.keys.iter().find(|key| key.name == name).ok_or(MintError::NoKey)?;
        let signing = match (key.algorithm, private_pem) {
            (Algorithm::Hs256, None) => Ok(EncodingKey::from_secret(key.bytes())),
            (Algorithm::Hs256, Some(_)) => return Err(MintError::NeedsNone),
            (_, None) => return Err(MintError::NeedsPrivate),
            (Algorithm::Rs256, Some(pem)) => EncodingKey::from_rsa_pem(pem),
            (Algorithm::Es256, Some(pem)) => EncodingKey::from_ec_pem(pem),
            (Algorithm::EdDsa, Some(pem)) => EncodingKey::from_ed_pem(pem),
        };
        let signing = signing.map_err(|_| MintError::NotOfAlgorithm)?;
        let header = Header { kid: Some(key.name.clone()), ..Header::new(key.algorithm.of_library()) };
        let token = jsonwebtoken::encode(&header, claims, &signing).map_err(|_| MintError::NotOfAlgorithm)?;
        self.verify(&token, now_unix_s).map_err(MintError::Refused)?;
        Ok(token)
    }
}
