//! Who may use the admin listener must be settled before it listens: off the loopback there is a key.

use super::key::{Complaint, material};
use super::load::{KeyFiles, Loading};
use crate::control::Key;
use std::net::SocketAddr;
use std::path::Path;

const MAKE_ONE: &str = "make one that nobody can guess: megasock token --new-key FILE";

impl Loading {
    /// Once all sources are read.
    pub(super) fn admin(&mut self) {
        if let (Some(file), Some((spelled, origin))) =
            (self.config.admin_key_file.clone(), self.places.get("admin_key_file").cloned())
        {
            if !matches!(self.key_files, KeyFiles::All | KeyFiles::Admin) {
                return;
            }
            match key(&origin.path(file)) {
                Ok(key) => self.config.admin_key = Some(key),
                Err((problem, fix)) => self.refuse(&spelled, origin, problem, fix),
            }
            return;
        }
        let Some(address) = self.config.admin_listen.filter(|address| !is_loopback(address)) else { return };
        if let Some((spelled, origin)) = self.places.get("admin_listen").cloned() {
            let problem = format!("{address} can be reached from other hosts, and no key is asked for");
            let fix = "set admin_key_file to the file of a key (megasock token --new-key FILE makes one), or listen on 127.0.0.1";
            self.refuse(&spelled, origin, problem, fix.into());
        }
    }
}

fn is_loopback(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

fn key(path: &Path) -> Result<Key, Complaint> {
    let shown = path.display();
    let secret = material(path, true)?;
    if secret.len() < Key::BYTES_MIN {
        return Err((format!("{shown} holds a key of fewer than 32 bytes"), MAKE_ONE.into()));
    }
    Key::new(secret).ok_or_else(|| {
        let problem = format!(
            "{shown} holds more than one line of letters, digits and signs, which no header can carry"
        );
        (problem, MAKE_ONE.into())
    })
}
