//! Keys that tokens are verified with: the tables `[key."NAME"]` of the file, each with an algorithm and a file.
//!
//! A key's file is read when the options are, by a command that works with it. What is in it is never shown. A secret that
//! everybody on the host can read is refused.

use super::Origin;
use super::load::{KeyFiles, Loading};
use super::rows::{Mistake, Section, rows};
use super::value::Kind;
use crate::hub::token::{Algorithm, KeyError};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

pub(super) const KEYS: Section<KeyFile> = Section {
    key: "key",
    one: "a key",
    example: "[key.\"2026-10\"]",
    dotted: "[key.\"2026.10\"]",
    place: "below the name of its key, such as [key.\"2026-10\"]",
    rows: KEY_OPTIONS,
};

/// Larger than any key; it keeps a path such as /dev/zero from filling the memory.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// What a table says.
#[derive(Debug, Default)]
pub struct KeyFile {
    algorithm: Option<Algorithm>,
    file: Option<PathBuf>,
}

rows! {
    /// Every option of a key, in the order of the documentation. None has a default.
    pub const KEY_OPTIONS: &[Row<KeyFile>] =
    "How its tokens are signed. A token that says otherwise is refused."
    algorithm => algorithm = [] as ALGORITHM;

    "Public key in PEM, or for HS256 the secret itself: all bytes of the file but a line end after them, at least 32. A \
     relative path starts where this file is."
    file => file = [] as FILE;
}

const ALGORITHM: Kind<Option<Algorithm>> = Kind {
    name: "ALGORITHM",
    written: "HS256, RS256, ES256 or EdDSA",
    parse: |text| match Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == text) {
        None => Err("is no algorithm of tokens".into()),
        known => Ok(known),
    },
};

const FILE: Kind<Option<PathBuf>> = Kind {
    name: "FILE",
    written: "the path of a file",
    parse: |text| match text {
        "" => Err("is empty".into()),
        _ => Ok(Some(text.into())),
    },
};

/// What is wrong, and what to do about it.
pub(super) type Complaint = (String, String);

impl Loading {
    /// Reads all keys of a file.
    pub(super) fn keys(&mut self, all: &toml::Value, origin: &Origin) {
        // An empty table names none, and production would be open; what is no table is a mistake of its own.
        self.names_keys = all.as_table().is_none_or(|tables| !tables.is_empty());
        KEYS.refuse_others(all, origin, self);
        let signing = match self.key_files.clone() {
            KeyFiles::Signing(wanted) => self.signing(all, wanted.as_deref()),
            _ => None,
        };
        for (name, keys) in Section::<KeyFile>::tables(all) {
            let is_read = self.key_files == KeyFiles::All || signing == Some(name);
            self.key(name, keys, origin, is_read);
        }
    }

    /// The name of the key that tokens are signed with.
    fn signing<'a>(&mut self, all: &'a toml::Value, wanted: Option<&str>) -> Option<&'a str> {
        let names: Vec<&str> = Section::<KeyFile>::tables(all).map(|(name, _)| &**name).collect();
        let (problem, fix) = match (names.as_slice(), wanted) {
            ([], _) => return None,
            ([only], None) => return Some(only),
            (_, None) => ("is missing where there are several keys".to_owned(), "choose one with --key:"),
            (some, Some(wanted)) => match some.iter().find(|name| **name == wanted) {
                Some(name) => return Some(name),
                None => (format!("{wanted:?} is no key"), "choose one of"),
            },
        };
        let names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
        self.refuse("--key", Origin::Flag, problem, format!("{fix} {}", names.join(", ")));
        None
    }

    fn key(&mut self, name: &str, keys: &toml::Table, origin: &Origin, is_read: bool) {
        let place = format!("{}.{name:?}", KEYS.key);
        let mut entry = KeyFile::default();
        let mistakes = KEYS.fill(&mut entry, keys);
        let missing = KEY_OPTIONS.iter().filter(|row| !keys.contains_key(row.name)).map(|row| Mistake {
            key: row.name.into(),
            problem: "is missing".into(),
            fix: format!("write {}", row.written),
        });
        for Mistake { key, problem, fix } in missing.chain(mistakes) {
            self.refuse(&format!("{place}.{key}"), origin.clone(), problem, fix);
        }
        let (Some(algorithm), Some(file), true) = (entry.algorithm, entry.file, is_read) else { return };
        let path = origin.path(file);
        let is_secret = algorithm == Algorithm::Hs256;
        let added = material(&path, is_secret).and_then(|material| {
            let added = self.config.keys.add(name, algorithm, &material);
            added.map_err(|error| complaint(error, algorithm, &path))
        });
        if let Err((problem, fix)) = added {
            self.refuse(&format!("{place}.file"), origin.clone(), problem, fix);
        }
    }
}

/// The bytes of a key's file. Those of a secret without a line end, and only if not everybody can read them.
pub(super) fn material(path: &Path, is_secret: bool) -> Result<Vec<u8>, Complaint> {
    let shown = path.display();
    let unreadable = |error| {
        let fix = "name a file that the server's user can read; megasock token --new-key FILE makes a secret";
        (format!("{shown} cannot be read: {error}"), fix.to_owned())
    };
    let facts = fs::metadata(path).map_err(unreadable)?;
    if !facts.is_file() || facts.len() > FILE_BYTES_MAX {
        return Err((
            format!("{shown} is no file of at most 64 KiB"),
            "name the file the key is in".to_owned(),
        ));
    }
    let mode = facts.permissions().mode() & 0o777;
    if is_secret && mode & 0o007 != 0 {
        let problem = format!("{shown} has the mode {mode:04o}: everybody on this host can read the secret");
        return Err((problem, format!("chmod o= {shown}")));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(unreadable)?;
    if is_secret {
        // An editor ends the last line; it is no part of the secret.
        let end = bytes.strip_suffix(b"\n").map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        bytes.truncate(end.map_or(bytes.len(), <[u8]>::len));
    }
    Ok(bytes)
}

fn complaint(error: KeyError, algorithm: Algorithm, path: &Path) -> Complaint {
    let (shown, name) = (path.display(), algorithm.name());
    let (problem, fix) = match error {
        KeyError::Duplicate => ("is of a key that is there twice".into(), "join the two".into()),
        KeyError::ShortSecret => (
            "holds a secret of fewer than 32 bytes".to_owned(),
            "make one that nobody can guess: megasock token --new-key FILE".to_owned(),
        ),
        KeyError::PemSecret => (
            "holds a key in PEM, which is no secret".into(),
            "write the algorithm of that key, or name the file of the secret".into(),
        ),
        KeyError::Private => (
            "holds a private key; this server needs the public half alone".into(),
            format!(
                "keep it where tokens are made, and name its public half: openssl pkey -in {shown} -pubout"
            ),
        ),
        KeyError::NotOfAlgorithm => (
            format!("holds no public key for {name} in PEM"),
            "name a file with -----BEGIN PUBLIC KEY-----, or write the algorithm of the key in it".into(),
        ),
        KeyError::Weak => (
            "holds an RSA key of fewer than 2048 bits".into(),
            "make a longer one: openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048".into(),
        ),
    };
    (format!("{shown} {problem}"), fix)
}
