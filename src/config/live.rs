//! What another configuration changes while a server runs, and what it cannot.

use super::key::KEYS;
use super::namespace::NAMESPACES;
use super::production::lacking;
use super::{Config, ConfigError, ConfigErrors, Needs, OPTIONS, Origin};

/// The options in which a configuration differs from the one in force, by name; `namespace` and `key` are their tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// In force now.
    pub applied: Vec<String>,
    /// In force after a restart.
    pub needs_restart: Vec<String>,
}

impl Config {
    /// Takes over from another configuration what a running server can change, and says what that is.
    ///
    /// ```
    /// use megasock::config::Config;
    /// let (mut running, mut wanted) = (Config::default(), Config::default());
    /// (wanted.max_fragments, wanted.reactors) = (16, Some(2));
    /// let changes = running.adopt(&wanted).unwrap();
    /// assert_eq!((changes.applied, changes.needs_restart), (vec!["max_fragments".into()], vec!["reactors".into()]));
    /// assert_eq!((running.max_fragments, running.reactors), (16, None));
    /// ```
    ///
    /// # Errors
    /// What a server in production must have, and would not have any more. Nothing is changed then.
    pub fn adopt(&mut self, other: &Config) -> Result<Changes, ConfigErrors> {
        let (mut next, mut changes) = (self.clone(), Changes::default());
        for option in OPTIONS.iter().filter(|option| !(option.is_same)(self, other)) {
            match option.needs {
                Needs::Reload => {
                    (option.copy)(&mut next, other);
                    changes.applied.push(option.name.to_owned());
                }
                Needs::ReloadOnceSet => {} // by what is in the file, below
                Needs::Restart => changes.needs_restart.push(option.name.to_owned()),
            }
        }
        if (&self.admin_key_file, &self.admin_key) != (&other.admin_key_file, &other.admin_key) {
            // A listener that asks for a key never ceases to, nor does one begin to among those who know of none.
            let changed = if self.admin_key.is_some() && other.admin_key.is_some() {
                (next.admin_key_file, next.admin_key) =
                    (other.admin_key_file.clone(), other.admin_key.clone());
                &mut changes.applied
            } else {
                &mut changes.needs_restart
            };
            changed.push("admin_key_file".to_owned());
        }
        if next.namespaces != other.namespaces {
            next.namespaces = other.namespaces.clone();
            changes.applied.push(NAMESPACES.key.to_owned());
        }
        if !next.keys.are_those_of(&other.keys) {
            changes.applied.push(KEYS.key.to_owned());
        }
        next.keys = other.keys.clone();
        let still_on = |(problem, fix): (String, String)| ConfigError {
            option: "production".to_owned(),
            origin: Origin::Running,
            problem,
            fix,
        };
        let errors: Vec<ConfigError> = lacking(&next).map(still_on).collect();
        if !errors.is_empty() {
            return Err(ConfigErrors(errors));
        }
        *self = next;
        Ok(changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Key;
    use crate::hub::token::Algorithm;
    use crate::hub::{Namespaces, Settings};

    /// A server for strangers, as small as it may be.
    fn production() -> Config {
        Config {
            production: true,
            anonymous: true,
            origins: Some(vec!["https://a.example".into()]),
            ..Config::default()
        }
    }

    #[test]
    fn nothing_changes_where_nothing_is_different() {
        assert_eq!(production().adopt(&production()), Ok(Changes::default()));
    }

    #[test]
    fn tables_are_taken_over_whole() {
        let (mut running, mut wanted) = (Config::default(), Config::default());
        wanted.namespaces.add("a:*", Settings { history_count_max: 1, ..Settings::CHANNEL }).unwrap();
        wanted.keys.add("2026-10", Algorithm::Hs256, &[7; 32]).unwrap();
        assert_eq!(running.adopt(&wanted).unwrap().applied, ["namespace", "key"]);
        assert_eq!(running, wanted);
        let none = Config { namespaces: Namespaces::default(), ..Config::default() };
        assert_eq!(running.adopt(&none).unwrap().applied, ["namespace", "key"]);
        assert_eq!(running, none);
    }

    #[test]
    fn a_key_with_other_bytes_is_another_and_an_issuer_is_no_key() {
        let keyed = |byte: u8, issuer: &str| {
            let mut config = Config { token_issuer: Some(issuer.to_owned()), ..Config::default() };
            config.keys.add("2026-10", Algorithm::Hs256, &[byte; 32]).unwrap();
            config.keys.require(config.token_issuer.clone(), None);
            config
        };
        let mut running = keyed(1, "a");
        assert_eq!(running.adopt(&keyed(2, "a")).unwrap().applied, ["key"]);
        assert_eq!(running.adopt(&keyed(2, "b")).unwrap().applied, ["token_issuer"]);
        assert_eq!(running, keyed(2, "b"));
    }

    #[test]
    fn an_admin_key_is_replaced_but_never_added_or_taken_away() {
        let keyed = |byte: u8, file: &str| Config {
            admin_key_file: Some(file.into()),
            admin_key: Key::new(vec![byte; Key::BYTES_MIN]),
            ..Config::default()
        };
        let named = || vec!["admin_key_file".to_owned()];
        let applied = Changes { applied: named(), ..Changes::default() };
        let needs_restart = Changes { needs_restart: named(), ..Changes::default() };
        let mut running = keyed(b'a', "one");
        for other in [keyed(b'b', "one"), keyed(b'b', "two"), keyed(b'c', "three")] {
            assert_eq!(running.adopt(&other).as_ref(), Ok(&applied));
            assert_eq!(running, other);
        }
        assert_eq!(running.adopt(&Config::default()).as_ref(), Ok(&needs_restart));
        assert_eq!(running, keyed(b'c', "three"));
        let mut open = Config::default();
        assert_eq!(open.adopt(&keyed(b'a', "one")).as_ref(), Ok(&needs_restart));
        assert_eq!(open, Config::default());
    }

    #[test]
    fn production_stays_on_and_keeps_its_limits_until_a_restart() {
        let mut running = production();
        let lax = Config { message_rate: None, anonymous: false, ..Config::default() };
        let errors = running.adopt(&lax).unwrap_err();
        assert_eq!(running, production(), "nothing has changed");
        let text = errors.to_string();
        for part in ["3 options are wrong", "in force", "origins is any", "message_rate is off", "no key"] {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
        let other = Config { production: false, byte_rate: Some(1_000), ..production() };
        let changes = running.adopt(&other).unwrap();
        assert_eq!(
            (changes.applied, changes.needs_restart),
            (vec!["byte_rate".into()], vec!["production".into()])
        );
        assert!(running.production);
    }
}
