//! Settings of topics by the pattern of their names.
//!
//! A pattern is a whole name, or a prefix that ends in `*`. The longest that fits a name decides alone; settings are not
//! merged. Rooms are topics whose name starts with `room:`.

/// Who may publish to a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Publishers {
    /// Every connection.
    Anyone,
    /// Connections subscribed to it.
    Subscribers,
    /// Connections with a user name.
    Users,
    /// Nobody but the server's own code and its API.
    Server,
}

/// What happens when a connection does not read as fast as its topics publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum SlowConsumer {
    /// It is closed with 1013.
    Disconnect,
    /// It keeps what waits for it and misses what comes.
    DropNewest,
    /// It misses the oldest of what waits for it.
    DropOldest,
    /// Only the latest message waits for it.
    Conflate,
}

impl SlowConsumer {
    /// Every one, in the order of their numbers.
    pub const ALL: [SlowConsumer; 4] = [
        SlowConsumer::Disconnect,
        SlowConsumer::DropNewest,
        SlowConsumer::DropOldest,
        SlowConsumer::Conflate,
    ];

    /// Its name in the configuration, and the metric label.
    pub const fn name(self) -> &'static str {
        match self {
            SlowConsumer::Disconnect => "disconnect",
            SlowConsumer::DropNewest => "drop_newest",
            SlowConsumer::DropOldest => "drop_oldest",
            SlowConsumer::Conflate => "conflate",
        }
    }
}

/// Settings of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Messages kept for recovery; 0 keeps none.
    pub history_count_max: usize,
    /// Bytes kept for recovery.
    pub history_bytes_max: usize,
    /// Time a message is kept for recovery.
    pub history_age_ms: u64,
    /// Keep the list of users.
    pub presence: bool,
    /// Tell members who joins and leaves, up to this many members; 0 tells nothing.
    pub presence_events_max: u32,
    /// Who may publish.
    pub publishers: Publishers,
    /// What a slow connection gets.
    pub slow_consumer: SlowConsumer,
    /// Largest `data`, in bytes.
    pub data_bytes_max: usize,
}

impl Settings {
    /// Of channels no pattern fits.
    pub const CHANNEL: Settings = Settings {
        history_count_max: 100,
        history_bytes_max: 256 << 10,
        history_age_ms: 5 * 60_000,
        presence: true,
        presence_events_max: 0,
        publishers: Publishers::Anyone,
        slow_consumer: SlowConsumer::Disconnect,
        data_bytes_max: 64 << 10,
    };

    /// Of rooms no pattern fits.
    pub const ROOM: Settings =
        Settings { presence_events_max: 1_000, publishers: Publishers::Subscribers, ..Settings::CHANNEL };
}

/// The settings of all topics. A topic refers to its own by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespaces {
    patterns: Vec<Pattern>,
    settings: Vec<Settings>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    prefix: String,
    is_exact: bool,
    settings: u16,
}

/// Why a pattern is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatternError {
    /// It is empty, or has a `*` elsewhere than at its end.
    Malformed,
    /// It was given before.
    Duplicate,
    /// There are more than 65,535.
    TooMany,
}

impl std::fmt::Display for PatternError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            PatternError::Malformed => "a pattern is a name, or a prefix that ends in *",
            PatternError::Duplicate => "the pattern was given before",
            PatternError::TooMany => "there are more than 65,535 patterns",
        })
    }
}

impl std::error::Error for PatternError {}

impl Default for Namespaces {
    fn default() -> Namespaces {
        let mut defaults = Namespaces { patterns: Vec::new(), settings: Vec::new() };
        for (pattern, settings) in [("*", Settings::CHANNEL), ("room:*", Settings::ROOM)] {
            defaults.insert(pattern, settings);
        }
        defaults
    }
}

impl Namespaces {
    /// Adds a pattern, or replaces a default one (`*`, `room:*`).
    ///
    /// ```
    /// use megasock::hub::{Namespaces, Settings};
    /// let mut namespaces = Namespaces::default();
    /// namespaces.add("scores:*", Settings { history_count_max: 5, ..Settings::CHANNEL }).unwrap();
    /// assert_eq!(namespaces.of("scores:final").history_count_max, 5);
    /// assert!(namespaces.add("a*b", Settings::CHANNEL).is_err());
    /// ```
    ///
    /// # Errors
    /// The pattern is malformed or was given before.
    pub fn add(&mut self, pattern: &str, settings: Settings) -> Result<(), PatternError> {
        let prefix = pattern.strip_suffix('*').unwrap_or(pattern);
        if pattern.is_empty() || prefix.contains('*') {
            return Err(PatternError::Malformed);
        }
        if self.settings.len() > usize::from(u16::MAX) {
            return Err(PatternError::TooMany);
        }
        let is_exact = prefix.len() == pattern.len();
        let same = |old: &Pattern| old.prefix == prefix && old.is_exact == is_exact;
        match self.patterns.iter().position(same) {
            Some(at) if self.patterns[at].settings >= Self::DEFAULTS => Err(PatternError::Duplicate),
            Some(at) => {
                self.patterns.remove(at);
                self.insert(pattern, settings);
                Ok(())
            }
            None => {
                self.insert(pattern, settings);
                Ok(())
            }
        }
    }

    /// These patterns in the place of earlier ones, to whose settings topics refer: a pattern that was there keeps its number,
    /// so all its topics have its new settings, and one that is gone keeps its settings for the topics it has. `None` when
    /// there are too many, then and now.
    pub fn in_place_of(&self, earlier: &Namespaces) -> Option<Namespaces> {
        let mut numbered = Namespaces { patterns: Vec::new(), settings: earlier.settings.clone() };
        for pattern in &self.patterns {
            let settings = self.numbered(pattern.settings).clone();
            let same = |old: &&Pattern| (&old.prefix, old.is_exact) == (&pattern.prefix, pattern.is_exact);
            let number = match earlier.patterns.iter().find(same) {
                Some(old) => {
                    numbered.settings[usize::from(old.settings)] = settings;
                    old.settings
                }
                None => {
                    numbered.settings.push(settings);
                    u16::try_from(numbered.settings.len() - 1).ok()?
                }
            };
            numbered.patterns.push(Pattern { settings: number, ..pattern.clone() });
        }
        Some(numbered)
    }

    const DEFAULTS: u16 = 2;

    fn insert(&mut self, pattern: &str, settings: Settings) {
        let prefix = pattern.strip_suffix('*').unwrap_or(pattern).to_owned();
        let number = self.settings.len() as u16;
        self.settings.push(settings);
        self.patterns.push(Pattern { is_exact: prefix.len() == pattern.len(), prefix, settings: number });
        // The first that fits is the most special: whole names, then longer prefixes.
        self.patterns.sort_by_key(|pattern| (!pattern.is_exact, usize::MAX - pattern.prefix.len()));
    }

    /// The number of the settings of a topic.
    pub(super) fn number(&self, name: &str) -> u16 {
        let fits = |pattern: &&Pattern| match pattern.is_exact {
            true => pattern.prefix == name,
            false => name.starts_with(&pattern.prefix),
        };
        self.patterns.iter().find(fits).map_or(0, |pattern| pattern.settings)
    }

    /// The settings of this number.
    pub(super) fn numbered(&self, number: u16) -> &Settings {
        &self.settings[usize::from(number)]
    }

    /// The settings of a topic; a room's name starts with `room:`.
    pub fn of(&self, name: &str) -> &Settings {
        self.numbered(self.number(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_special_pattern_decides() {
        let mut namespaces = Namespaces::default();
        let counted = |count| Settings { history_count_max: count, ..Settings::CHANNEL };
        for (pattern, count) in [("a:*", 1), ("a:b:*", 2), ("a:b:c", 3), ("*", 4)] {
            namespaces.add(pattern, counted(count)).unwrap();
        }
        for (name, count) in [("a:x", 1), ("a:b:x", 2), ("a:b:c", 3), ("a:b:cd", 2), ("z", 4)] {
            assert_eq!(namespaces.of(name).history_count_max, count, "{name}");
        }
        assert_eq!(namespaces.of("room:a"), &Settings::ROOM);
    }

    #[test]
    fn topics_keep_their_pattern_when_others_take_its_place() {
        let counted = |count| Settings { history_count_max: count, ..Settings::CHANNEL };
        let mut earlier = Namespaces::default();
        for (pattern, count) in [("a:*", 1), ("b:*", 2)] {
            earlier.add(pattern, counted(count)).unwrap();
        }
        let topics = ["a:x", "b:x", "c:x"].map(|name| earlier.number(name));
        let mut later = Namespaces::default();
        for (pattern, count) in [("c:*", 30), ("a:*", 10)] {
            later.add(pattern, counted(count)).unwrap();
        }
        let later = later.in_place_of(&earlier).unwrap();
        let counts = topics.map(|number| later.numbered(number).history_count_max);
        assert_eq!(counts, [10, 2, 100], "one has changed, one is gone, one had the default");
        let counts = ["a:x", "b:x", "c:x"].map(|name| later.of(name).history_count_max);
        assert_eq!(counts, [10, 100, 30], "of topics made from now on");
        assert_eq!(later.of("room:a"), &Settings::ROOM);
    }

    #[test]
    fn numbers_are_never_given_twice_and_run_out() {
        let one = |pattern: &str| {
            let mut namespaces = Namespaces::default();
            namespaces.add(pattern, Settings::CHANNEL).unwrap();
            namespaces
        };
        let mut numbered = one("first");
        numbered.settings.resize(usize::from(u16::MAX), Settings::CHANNEL);
        numbered = one("last").in_place_of(&numbered).unwrap();
        assert_eq!(numbered.number("last"), u16::MAX);
        assert!(one("more").in_place_of(&numbered).is_none());
        assert!(one("last").in_place_of(&numbered).is_some());
    }

    #[test]
    fn a_pattern_is_a_name_or_a_prefix_and_given_once() {
        let mut namespaces = Namespaces::default();
        for wrong in ["", "**", "a*b", "*a"] {
            assert_eq!(namespaces.add(wrong, Settings::CHANNEL), Err(PatternError::Malformed), "{wrong}");
        }
        for pattern in ["a", "a*", "*", "room:*"] {
            assert_eq!(namespaces.add(pattern, Settings::CHANNEL), Ok(()));
            assert_eq!(namespaces.add(pattern, Settings::CHANNEL), Err(PatternError::Duplicate), "{pattern}");
        }
    }
}
