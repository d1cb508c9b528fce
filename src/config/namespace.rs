//! The options of a namespace: settings of the topics a pattern fits, read from the `[namespace]` tables of the file.
//!
//! A namespace starts from the defaults of channels or of rooms as changed by `[namespace."*"]`; what other patterns say
//! never reaches it, so that one place in the file answers for a topic.

use super::load::Loading;
use super::rows::{Mistake, Section, rows};
use super::{Origin, value};
use crate::hub::{Namespaces, PatternError, Settings};

pub(super) const NAMESPACES: Section<Settings> = Section {
    key: "namespace",
    one: "a namespace",
    example: "[namespace.\"scores:*\"]",
    dotted: "[namespace.\"scores.*\"]",
    place: "below the topics it is for: [namespace.\"*\"] is all",
    rows: NAMESPACE_OPTIONS,
};

const ALL: &str = "*";
const ROOMS: &str = "room:*";

rows! {
    /// Every option of a namespace, in the order of the documentation. The first default is of channels, the second of
    /// rooms.
    pub const NAMESPACE_OPTIONS: &[Row<Settings>] =
    "Messages kept for those who come back; 0 keeps none."
    history_count => history_count_max = ["100", "100"] as value::MESSAGES;

    "Bytes kept for those who come back."
    history_bytes => history_bytes_max = ["256KiB", "256KiB"] as value::SIZE;

    "Time a message is kept."
    history_age => history_age_ms = ["5m", "5m"] as value::DURATION;

    "Keep the list of users, for those who ask who is there."
    presence => presence = ["on", "on"] as value::SWITCH;

    "Tell members who comes and goes, up to this many members; 0 tells nobody."
    presence_events_max => presence_events_max = ["0", "1000"] as value::MEMBERS;

    "Who may publish: any connection, those subscribed, those with a user name, or only the server's API and own code."
    publishers => publishers = ["anyone", "subscribers"] as value::PUBLISHERS;

    "What happens to a connection that reads too slowly: it is closed with 1013, misses what comes, misses the oldest of \
     what waits, or gets only the latest."
    slow_consumer => slow_consumer = ["disconnect", "disconnect"] as value::SLOW_CONSUMER;

    "Largest `data` of one message."
    data_bytes_max => data_bytes_max = ["64KiB", "64KiB"] as value::SIZE;
}

impl Loading {
    /// Reads all namespaces of a file.
    pub(super) fn namespaces(&mut self, all: &toml::Value, origin: &Origin) {
        NAMESPACES.refuse_others(all, origin, self);
        let none = toml::Table::new();
        let for_all = all.get(ALL).and_then(toml::Value::as_table).unwrap_or(&none);
        // Rooms have defaults of their own, which `*` changes even where the file does not name them.
        if all.get(ROOMS).is_none() {
            self.namespace(ROOMS, for_all, &none, origin);
        }
        for (pattern, keys) in Section::<Settings>::tables(all) {
            self.namespace(pattern, for_all, keys, origin);
        }
    }

    fn namespace(&mut self, pattern: &str, for_all: &toml::Table, keys: &toml::Table, origin: &Origin) {
        let place = format!("{}.{pattern:?}", NAMESPACES.key);
        let mut settings = Namespaces::default().of(pattern).clone();
        // Mistakes in what is for all are told where it stands.
        NAMESPACES.fill(&mut settings, for_all);
        for Mistake { key, problem, fix } in NAMESPACES.fill(&mut settings, keys) {
            self.refuse(&format!("{place}.{key}"), origin.clone(), problem, fix);
        }
        if let Err(error) = self.config.namespaces.add(pattern, settings) {
            let (problem, fix) = match error {
                PatternError::Malformed => {
                    ("is no pattern", "write a whole name, or a prefix that ends in *")
                }
                PatternError::Duplicate => ("is there twice", "join the two"),
                PatternError::TooMany => {
                    ("is one pattern too many", "let one prefix stand for several names")
                }
            };
            self.refuse(&place, origin.clone(), problem.into(), fix.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::{Publishers, SlowConsumer};

    /// No field is a default, so a field without a row stays wrong.
    const OTHER: Settings = Settings {
        history_count_max: 1,
        history_bytes_max: 1,
        history_age_ms: 1,
        presence: false,
        presence_events_max: 1,
        publishers: Publishers::Server,
        slow_consumer: SlowConsumer::DropNewest,
        data_bytes_max: 1,
    };

    #[test]
    fn every_setting_has_a_row_and_its_defaults_are_the_hubs() {
        let (mut channel, mut room) = (OTHER, OTHER);
        for option in NAMESPACE_OPTIONS {
            (option.set)(&mut channel, option.defaults[0]).unwrap();
            (option.set)(&mut room, option.defaults[1]).unwrap();
        }
        assert_eq!((channel, room), (Settings::CHANNEL, Settings::ROOM));
    }
}
