//! The options of a namespace: settings of the topics a pattern fits, read from the `[namespace]` tables of the file.
//!
//! One table, [`NAMESPACE_OPTIONS`], holds them as `OPTIONS` holds the server's. A namespace starts from the defaults
//! of channels or of rooms as changed by `[namespace."*"]`; what other patterns say never reaches it, so that one place
//! in the file answers for a topic.

use super::load::{Loading, nearest, option_named, written};
use super::{Origin, value};
use crate::hub::{Namespaces, PatternError, Settings};

/// The key of the file that holds all namespaces.
pub(super) const KEY: &str = "namespace";

/// What to write where something else stands in a namespace's place.
pub(super) const TABLE: &str = "write tables in the TOML file such as [namespace.\"scores:*\"]";

const ALL: &str = "*";
const ROOMS: &str = "room:*";

/// One row of the table.
#[derive(Debug)]
pub struct NamespaceOption {
    /// The key below a pattern.
    pub name: &'static str,
    /// The default of channels as a user would write it.
    pub default: &'static str,
    /// The default of rooms.
    pub default_room: &'static str,
    /// How a value is written, after the word "write".
    pub written: &'static str,
    /// What it does, in one sentence.
    pub doc: &'static str,
    set: fn(&mut Settings, &str) -> Result<(), String>,
}

/// Writes the table: `"doc" key => field = "default", rooms "default" as KIND;`
macro_rules! namespace_options {
    ($($doc:literal $name:ident => $field:ident = $default:literal, rooms $room:literal as $kind:ident;)+) => {
        /// Every option of a namespace, in the order of the documentation.
        pub const NAMESPACE_OPTIONS: &[NamespaceOption] = &[$(NamespaceOption {
            name: stringify!($name),
            default: $default,
            default_room: $room,
            written: value::$kind.written,
            doc: $doc,
            set: |settings, text| {
                settings.$field = (value::$kind.parse)(text)?;
                Ok(())
            },
        },)+];
    };
}

namespace_options! {
    "Messages kept for those who come back; 0 keeps none."
    history_count => history_count_max = "100", rooms "100" as MESSAGES;

    "Bytes kept for those who come back."
    history_bytes => history_bytes_max = "256KiB", rooms "256KiB" as SIZE;

    "Time a message is kept."
    history_age => history_age_ms = "5m", rooms "5m" as DURATION;

    "Keep the list of users, for those who ask who is there."
    presence => presence = "on", rooms "on" as SWITCH;

    "Tell members who comes and goes, up to this many members; 0 tells nobody."
    presence_events_max => presence_events_max = "0", rooms "1000" as MEMBERS;

    "Who may publish: any connection, those subscribed, those with a user name, or only the server's API and own code."
    publishers => publishers = "anyone", rooms "subscribers" as PUBLISHERS;

    "What happens to a connection that reads too slowly: it is closed with 1013, misses what comes, misses the oldest of \
     what waits, or gets only the latest."
    slow_consumer => slow_consumer = "disconnect", rooms "disconnect" as SLOW_CONSUMER;

    "Largest `data` of one message."
    data_bytes_max => data_bytes_max = "64KiB", rooms "64KiB" as SIZE;
}

/// The option of exactly this name.
pub(super) fn namespace_option_named(name: &str) -> Option<&'static NamespaceOption> {
    NAMESPACE_OPTIONS.iter().find(|option| option.name == name)
}

/// A key of a namespace that cannot be taken.
struct Mistake {
    key: String,
    problem: String,
    fix: String,
}

impl Loading {
    /// Reads all namespaces of a file.
    pub(super) fn namespaces(&mut self, value: &toml::Value, origin: &Origin) {
        let Some(patterns) = value.as_table() else {
            return self.refuse(KEY, origin.clone(), "is no table".into(), TABLE.into());
        };
        let none = toml::Table::new();
        let for_all = patterns.get(ALL).and_then(toml::Value::as_table).unwrap_or(&none);
        // Rooms have defaults of their own, which `*` changes even where the file does not name them.
        if !patterns.contains_key(ROOMS) {
            self.namespace(ROOMS, for_all, &none, origin);
        }
        for (pattern, value) in patterns {
            match value.as_table() {
                Some(keys) => self.namespace(pattern, for_all, keys, origin),
                None => {
                    let fix = match namespace_option_named(pattern) {
                        Some(_) => "write it below the topics it is for: [namespace.\"*\"] is all",
                        None => TABLE,
                    };
                    self.refuse(
                        &format!("{KEY}.{pattern}"),
                        origin.clone(),
                        "is no table".into(),
                        fix.into(),
                    );
                }
            }
        }
    }

    fn namespace(&mut self, pattern: &str, for_all: &toml::Table, keys: &toml::Table, origin: &Origin) {
        let place = format!("{KEY}.{pattern:?}");
        let mut settings = Namespaces::default().of(pattern).clone();
        // Mistakes in what is for all are told where it stands.
        fill(&mut settings, for_all);
        for Mistake { key, problem, fix } in fill(&mut settings, keys) {
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

/// Changes the settings `keys` name, and returns the keys it could not use.
fn fill(settings: &mut Settings, keys: &toml::Table) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    for (key, value) in keys {
        let (problem, fix) = match (namespace_option_named(key), written(value)) {
            (Some(option), Some(text)) => match (option.set)(settings, text.trim()) {
                Ok(()) => continue,
                Err(problem) => (format!("{text:?} {problem}"), format!("write {}", option.written)),
            },
            (Some(option), None) => ("is a table or a date".into(), format!("write {}", option.written)),
            (None, _) => ("is no option of a namespace".into(), meant(key, value)),
        };
        mistakes.push(Mistake { key: key.clone(), problem, fix });
    }
    mistakes
}

/// What an unknown key of a namespace was probably meant to be.
fn meant(key: &str, value: &toml::Value) -> String {
    if value.is_table() {
        return "a dot in a pattern needs quotes, such as [namespace.\"scores.*\"]".into();
    }
    if option_named(key).is_some() {
        return "it is the whole server's: write it above the first table of the file".into();
    }
    match nearest(key, NAMESPACE_OPTIONS.iter().map(|option| option.name)) {
        Some(near) => format!("did you mean {near}?"),
        None => "docs/config.md lists all options".into(),
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
            (option.set)(&mut channel, option.default).unwrap();
            (option.set)(&mut room, option.default_room).unwrap();
        }
        assert_eq!((channel, room), (Settings::CHANNEL, Settings::ROOM));
    }
}
