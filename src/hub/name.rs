//! The name of a topic or a user: one allocation, shared by everything that refers to it, on any core.

use crate::buf::Payload;
use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash, Hasher};
use std::ops::Deref;
use std::sync::LazyLock;

/// An immutable name, 8 bytes wide. A room's begins with `room:`.
#[derive(Clone)]
pub struct Name(Payload);

impl Name {
    /// Copies the text once.
    pub fn new(text: &str) -> Name {
        Name(Payload::new(&[text.as_bytes()]))
    }

    /// The core that owns what is called so. Nobody outside can choose names that fall on one core: the hash is keyed by
    /// a number drawn when the process starts.
    pub fn home(&self, cores: usize) -> usize {
        home(self, cores)
    }
}

/// [`Name::home`] of a text.
pub fn home(text: &str, cores: usize) -> usize {
    home_of_hashed(text, cores)
}

/// The core that owns what has this number.
pub fn home_of_number(number: u64, cores: usize) -> usize {
    home_of_hashed(number, cores)
}

fn home_of_hashed(what: impl Hash, cores: usize) -> usize {
    #[cfg(not(test))]
    static KEY: LazyLock<std::hash::RandomState> = LazyLock::new(Default::default);
    #[cfg(test)] // a failing case must fail again
    static KEY: LazyLock<std::hash::BuildHasherDefault<std::hash::DefaultHasher>> =
        LazyLock::new(Default::default);
    (KEY.hash_one(what) % cores.max(1) as u64) as usize
}

impl Deref for Name {
    type Target = str;
    fn deref(&self) -> &str {
        std::str::from_utf8(&self.0).expect("made from a str, and immutable")
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        self
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Name) -> bool {
        self.0[..] == other.0[..]
    }
}

impl Eq for Name {}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Name) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Name) -> std::cmp::Ordering {
        self.0[..].cmp(&other.0[..]) // UTF-8 sorts as its bytes do
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl std::fmt::Debug for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}
