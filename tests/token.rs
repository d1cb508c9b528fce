//! `megasock token`, and tokens a plain library makes: the binary itself, from the secret to what the server reads in it.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{self, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use megasock::config::{Config, Sources};
use megasock::hub::token::Claims;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{SystemTime, UNIX_EPOCH};

/// A folder of keys with a config file, gone with the test.
struct Keyring(PathBuf);

impl Keyring {
    fn new(test: &str) -> Keyring {
        let folder = std::env::temp_dir().join(format!("megasock-token-{test}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Keyring(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.0.join(name), text).unwrap();
    }

    /// Both halves of a key, `NAME.private` and `NAME.public`.
    fn put_pair(&self, name: &str, private_der: &[u8], public_der: &[u8]) {
        for (half, label, der) in
            [("private", "PRIVATE KEY", private_der), ("public", "PUBLIC KEY", public_der)]
        {
            let text = STANDARD.encode(der);
            let pem = format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n");
            self.put(&format!("{name}.{half}"), &pem);
        }
    }

    /// A key of each asymmetric algorithm, called as it.
    fn put_pairs(&self) {
        let random = SystemRandom::new();
        let rsa = rsa::KeyPair::generate(KeySize::Rsa2048).unwrap();
        let private: Pkcs8V1Der<'_> = rsa.as_der().unwrap();
        let public: PublicKeyX509Der<'_> = rsa.public_key().as_der().unwrap();
        self.put_pair("RS256", private.as_ref(), public.as_ref());

        let private = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let ec = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, private.as_ref()).unwrap();
        let public: PublicKeyX509Der<'_> = ec.public_key().as_der().unwrap();
        self.put_pair("ES256", private.as_ref(), public.as_ref());

        let private = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        let ed = Ed25519KeyPair::from_pkcs8(private.as_ref()).unwrap();
        let public: PublicKeyX509Der<'_> = ed.public_key().as_der().unwrap();
        self.put_pair("EdDSA", private.as_ref(), public.as_ref());
    }

    /// `megasock token` with the config file, if there is one.
    fn token(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_megasock"));
        command.arg("token").args(arguments).env_remove("MEGASOCK_CONFIG");
        if self.0.join("megasock.toml").exists() {
            command.args(["--config", &self.path("megasock.toml")]);
        }
        command.output().unwrap()
    }

    /// What a server with this config file reads in the token that was printed.
    #[track_caller]
    fn claims(&self, output: &Output) -> Claims {
        assert!(output.status.success(), "{}", text(&output.stderr));
        let token = text(&output.stdout);
        assert_eq!(token.lines().count(), 1, "the token alone: {token}");
        let sources = Sources { file: Some(self.0.join("megasock.toml")), ..Sources::default() };
        Config::load(&sources).unwrap().keys.verify(token.trim_end(), now_unix_s()).unwrap()
    }
}

impl Drop for Keyring {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[track_caller]
fn assert_fails(output: &Output, code: i32, says: &[&str]) {
    let errors = text(&output.stderr);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(code), String::new()), "{errors}");
    for part in says {
        assert!(errors.contains(part), "{part:?} is not in:\n{errors}");
    }
}

#[test]
fn a_new_secret_signs_tokens_that_the_server_takes() {
    let keyring = Keyring::new("secret");
    let secret = keyring.path("2026-10.secret");
    let made = keyring.token(&["--new-key", &secret]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    assert_eq!(fs::metadata(&secret).unwrap().permissions().mode() & 0o777, 0o600);
    let bytes = fs::read_to_string(&secret).unwrap();
    assert!(bytes.trim_end().len() >= 43, "256 random bits");
    assert!(!text(&[made.stdout.clone(), made.stderr].concat()).contains(bytes.trim_end()), "is not shown");

    // The lines it prints are the config file, and the same file is never overwritten.
    keyring.put("megasock.toml", &text(&made.stdout));
    assert!(text(&made.stdout).starts_with("[key.\"2026-10\"]\nalgorithm = \"HS256\"\nfile = \"/"));
    assert_fails(&keyring.token(&["--new-key", &secret]), 1, &["cannot make", "exists", "name a file"]);
    assert_eq!(fs::read_to_string(&secret).unwrap(), bytes);

    let output = keyring.token(&["--user", "ann", "--subscribe", "scores:*", "--subscribe", "room:lobby"]);
    let claims = keyring.claims(&output);
    assert_eq!(claims.user.as_deref(), Some("ann"));
    assert!((now_unix_s() + 3_590..=now_unix_s() + 3_600).contains(&claims.expires_unix_s));
    assert!(claims.grants.may_subscribe("scores:1") && claims.grants.may_subscribe("room:lobby"));
    assert!(!claims.grants.may_subscribe("chat") && !claims.grants.may_publish("scores:1"));
    let hint = text(&output.stderr);
    assert!(hint.contains("user \"ann\"") && hint.contains("2026-10"), "{hint}");
    assert!(!hint.contains(text(&output.stdout).trim_end()), "the token is on stdout alone");

    let claims = keyring.claims(&keyring.token(&["--expires", "90s"]));
    assert!(claims.user.is_none() && claims.grants.is_unlimited());
    assert!((now_unix_s() + 80..=now_unix_s() + 90).contains(&claims.expires_unix_s));
}

#[test]
fn a_private_key_signs_for_its_public_half() {
    let keyring = Keyring::new("pairs");
    keyring.put_pairs();
    let table = |name| format!("[key.{name}]\nalgorithm = \"{name}\"\nfile = \"{name}.public\"\n");
    let tables = ["RS256", "ES256", "EdDSA"].map(table).concat();
    let head = "token_issuer = \"https://id.example\"\ntoken_audience = \"chat\"\n";
    keyring.put("megasock.toml", &format!("{head}{tables}"));
    for name in ["RS256", "ES256", "EdDSA"] {
        let private = keyring.path(&format!("{name}.private"));
        let output =
            keyring.token(&["--key", name, "--sign-with", &private, "--user", "bob", "--publish", "chat"]);
        let claims = keyring.claims(&output);
        assert_eq!(claims.user.as_deref(), Some("bob"), "{name}");
        assert!(claims.grants.may_publish("chat") && !claims.grants.may_subscribe("chat"), "{name}");
    }

    assert_fails(&keyring.token(&[]), 2, &["several keys; choose one with --key", "\"EdDSA\""]);
    assert_fails(&keyring.token(&["--key", "x"]), 2, &["\"x\" is no key; choose one of", "\"RS256\""]);
    let (ec, rsa) = (keyring.path("ES256.private"), keyring.path("RS256.private"));
    for (arguments, says) in [
        (vec!["--key", "ES256"], ["the private half", "name the file it is in with --sign-with"]),
        (vec!["--key", "ES256", "--sign-with", &rsa], ["no private key of this algorithm", "openssl pkcs8"]),
        (vec!["--key", "ES256", "--sign-with", "/nowhere"], ["--sign-with", "cannot be read"]),
        (vec!["--key", "ES256", "--sign-with", &ec, "--user", ""], ["--user: is no name", "write 1 to 255"]),
        (vec!["--key", "ES256", "--sign-with", &ec, "--publish", "a*b"], ["claim", "write patterns as"]),
    ] {
        assert_fails(&keyring.token(&arguments), 1, &says);
    }
    let other = Keyring::new("other");
    other.put_pairs();
    let output = keyring.token(&["--key", "ES256", "--sign-with", &other.path("ES256.private")]);
    assert_fails(&output, 1, &["it is not the private half of this key"]);
}

#[test]
fn what_is_asked_wrongly_is_told() {
    let keyring = Keyring::new("wrong");
    assert_fails(&keyring.token(&[]), 1, &["there is no key; make one with megasock token --new-key FILE"]);
    assert_fails(&keyring.token(&["--expires", "90"]), 2, &["has no unit; write a time with its unit"]);
    let secret = keyring.path("s");
    assert_fails(&keyring.token(&["--new-key", &secret, "--user", "ann"]), 2, &["cannot be used with"]);
    // A secret has no flag, and what follows one that is made up is not repeated.
    let output = keyring.token(&["--new-key", &secret, "--secret", "hunter2"]);
    assert_fails(&output, 2, &["--secret (command line): is no option"]);
    assert!(!text(&output.stderr).contains("hunter2"));
    assert!(!fs::exists(&secret).unwrap());
}
