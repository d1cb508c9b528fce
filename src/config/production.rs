//! What must hold together: a server for strangers has keys, origins and limits, or it does not start.

use super::Config;
use super::load::{Loading, option_named};

type HasValue = fn(&Config) -> bool;

/// Options that production wants a value of: what they must not be, and whether they are something else.
const WANTED: &[(&str, &str, HasValue)] = &[
    ("origins", "any", |config| config.origins.is_some()),
    ("max_connections_per_address", "off", |config| config.max_connections_per_address.is_some()),
    ("max_connections_per_user", "off", |config| config.max_connections_per_user.is_some()),
    ("accept_rate_per_address", "off", |config| config.accept_rate_per_address.is_some()),
    ("accept_rate", "off", |config| config.accept_rate.is_some()),
    ("message_rate", "off", |config| config.message_rate.is_some()),
    ("byte_rate", "off", |config| config.byte_rate.is_some()),
];

const NO_KEYS_FIX: &str = "write [key.\"2026-10\"] with its algorithm and file in the TOML file (megasock token --new-key \
                           FILE makes one), or anonymous = \"on\" to let everybody in";

impl Loading {
    /// Once all sources are read.
    pub(super) fn settle(&mut self) {
        let config = &mut self.config;
        config.keys.require(config.token_issuer.clone(), config.token_audience.clone());
        let Some((spelled, origin)) =
            self.places.get("production").cloned().filter(|_| self.config.production)
        else {
            return;
        };
        if self.config.keys.is_empty() && !self.names_keys && !self.config.anonymous {
            let problem = "is on, but there is no key to verify tokens with";
            self.refuse(&spelled, origin.clone(), problem.into(), NO_KEYS_FIX.into());
        }
        for (name, unwanted, has_value) in WANTED {
            if has_value(&self.config) {
                continue;
            }
            let written = option_named(name).map_or("a value", |option| option.written);
            let values = written.trim_start_matches(unwanted).trim_start_matches(" or ");
            let problem = format!("is on, but {name} is {unwanted}");
            self.refuse(&spelled, origin.clone(), problem, format!("set {name} to {values}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OPTIONS;

    #[test]
    fn every_limit_that_can_be_off_is_wanted() {
        let is_limit = |name: &str| name.contains("_rate") || name.contains("_per_");
        for option in OPTIONS.iter().filter(|option| is_limit(option.name)) {
            let can_be_off = option.written.starts_with("off");
            assert_eq!(WANTED.iter().any(|(name, ..)| *name == option.name), can_be_off, "{}", option.name);
        }
    }
}
