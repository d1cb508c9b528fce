//! What must hold together: a server for strangers has keys, origins and limits, or it does not start; and who wants a header
//! of its proxies names them.

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

const NO_PROXIES: &str = "is on, but there is no proxy whose header would be believed: each connection that begins with one \
                          would be refused";
const NO_PROXIES_FIX: &str = "set trusted_proxies to the addresses of the proxies, such as 10.0.0.0/8";

/// What is missing where production is on: problem and fix, each.
pub(super) fn lacking(config: &Config) -> impl Iterator<Item = (String, String)> {
    let no_key = || ("is on, but there is no key to verify tokens with".to_owned(), NO_KEYS_FIX.to_owned());
    let no_key = (config.keys.is_empty() && !config.anonymous).then(no_key);
    let no_values = WANTED.iter().filter(|(.., has_value)| !has_value(config)).map(|(name, unwanted, _)| {
        let written = option_named(name).map_or("a value", |option| option.written);
        let values = written.trim_start_matches(unwanted).trim_start_matches(" or ");
        (format!("is on, but {name} is {unwanted}"), format!("set {name} to {values}"))
    });
    no_key.into_iter().chain(no_values).filter(|_| config.production)
}

impl Loading {
    /// Once all sources are read.
    pub(super) fn settle(&mut self) {
        let config = &mut self.config;
        config.keys.require(config.token_issuer.clone(), config.token_audience.clone());
        if let (true, true, Some((spelled, origin))) = (
            config.proxy_protocol,
            config.trusted_proxies.is_empty(),
            self.places.get("proxy_protocol").cloned(),
        ) {
            self.refuse(&spelled, origin, NO_PROXIES.into(), NO_PROXIES_FIX.into());
        }
        let Some((spelled, origin)) = self.places.get("production").cloned() else { return };
        // A key that cannot be used is a mistake of its own.
        let is_told = |fix: &str| self.names_keys && fix == NO_KEYS_FIX;
        let mistakes: Vec<_> = lacking(&self.config).filter(|(_, fix)| !is_told(fix)).collect();
        for (problem, fix) in mistakes {
            self.refuse(&spelled, origin.clone(), problem, fix);
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
