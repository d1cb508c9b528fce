//! Reads the options from file, environment and flags, lowest first, and collects every mistake on the way.

use super::key::KEYS;
use super::namespace::NAMESPACES;
use super::{Config, ConfigError, ConfigErrors, OPTIONS, OptionSpec, Origin, value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Everything a configuration is read from.
#[derive(Debug, Default)]
pub struct Sources {
    /// `(name in the table, value)` of each flag given, in order.
    pub flags: Vec<(String, String)>,
    /// The environment; only `MEGASOCK_*` is looked at.
    pub variables: Vec<(String, String)>,
    /// The TOML file, if one is named.
    pub file: Option<PathBuf>,
}

/// Which files of keys are read: no more than a command works with, since those of a server may be closed to whoever runs
/// the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyFiles {
    /// Those of tokens and of the admin listener.
    All,
    /// That of the admin listener.
    Admin,
    /// The one that tokens are signed with, by its name; without one the only one there is.
    Signing(Option<String>),
    /// None.
    None,
}

const PREFIX: &str = "MEGASOCK_";

impl Config {
    /// Reads all sources. Either everything is right, or every mistake in them is reported.
    ///
    /// ```
    /// use megasock::config::{Config, Sources};
    /// let variables = vec![("MEGASOCK_PING_INTERVAL".to_owned(), "off".to_owned())];
    /// let flags = vec![("listen".to_owned(), "127.0.0.1:9000".to_owned())];
    /// let config = Config::load(&Sources { flags, variables, file: None }).unwrap();
    /// assert_eq!((config.ping_interval_ms, config.listen.port()), (None, 9000));
    /// ```
    pub fn load(sources: &Sources) -> Result<Config, ConfigErrors> {
        Config::load_with(sources, KeyFiles::All)
    }

    /// The same with some of its keys: what else is wrong with them is not found.
    pub fn load_with(sources: &Sources, key_files: KeyFiles) -> Result<Config, ConfigErrors> {
        let mut loading = Loading {
            config: Config::default(),
            errors: Vec::new(),
            places: BTreeMap::new(),
            key_files,
            names_keys: false,
        };
        if let Some(path) = &sources.file {
            loading.file(path);
        }
        for (variable, value) in &sources.variables {
            loading.variable(variable, value);
        }
        for (name, value) in &sources.flags {
            let flag = format!("--{}", name.replace('_', "-"));
            loading.set(name, value, &flag, Origin::Flag);
        }
        loading.admin();
        loading.settle();
        if loading.errors.is_empty() { Ok(loading.config) } else { Err(ConfigErrors(loading.errors)) }
    }
}

pub(super) struct Loading {
    pub(super) config: Config,
    /// How and where each option was written last.
    pub(super) places: BTreeMap<&'static str, (String, Origin)>,
    pub(super) key_files: KeyFiles,
    /// The file has a key, though perhaps not one to use.
    pub(super) names_keys: bool,
    errors: Vec<ConfigError>,
}

impl Loading {
    fn file(&mut self, path: &Path) {
        let origin = Origin::File(path.to_owned());
        let table = match std::fs::read_to_string(path) {
            Err(error) => {
                let fix = "name a TOML file that can be read, or leave --config out";
                return self.refuse("", origin, format!("cannot be read: {error}"), fix.into());
            }
            Ok(text) => match text.parse::<toml::Table>() {
                Err(error) => {
                    let problem = format!("is not TOML:\n{}", error.to_string().trim_end());
                    let fix = match problem.contains("[namespace.") {
                        true => format!("a pattern stands in quotes, such as {}", NAMESPACES.example),
                        false => "mend it there".to_owned(),
                    };
                    return self.refuse("", origin, problem, fix);
                }
                Ok(table) => table,
            },
        };
        for (key, value) in &table {
            match written(value) {
                _ if key == NAMESPACES.key => self.namespaces(value, &origin),
                _ if key == KEYS.key => self.keys(value, &origin),
                Some(text) => self.set(key, &text, key, origin.clone()),
                None => self.refuse(key, origin.clone(), "is a table or a date".into(), wanted(key)),
            }
        }
    }

    fn variable(&mut self, variable: &str, value: &str) {
        let Some(rest) = variable.strip_prefix(PREFIX) else { return };
        let name = rest.to_lowercase();
        // MEGASOCK_CONFIG has already been read.
        let is_read = rest != "CONFIG" && (option_named(&name).is_some() || !is_of_kubernetes(rest));
        if is_read {
            self.set(&name, value, variable, Origin::Variable);
        }
    }

    fn set(&mut self, name: &str, value: &str, spelled: &str, origin: Origin) {
        let Some(option) = option_named(name) else {
            return self.refuse(spelled, origin, "is no option".into(), wanted(name));
        };
        self.places.insert(option.name, (spelled.to_owned(), origin.clone()));
        if let Err(problem) = (option.set)(&mut self.config, value.trim()) {
            self.refuse(spelled, origin, format!("{value:?} {problem}"), wanted(name));
        }
    }

    pub(super) fn refuse(&mut self, option: &str, origin: Origin, problem: String, fix: String) {
        self.errors.push(ConfigError { option: option.to_owned(), origin, problem, fix });
    }
}

/// Whether Kubernetes sets such a variable: it describes the services called megasock, and those whose name begins so, to
/// every container in their namespace.
fn is_of_kubernetes(rest: &str) -> bool {
    let rest = format!("_{rest}");
    let has_number = |tail: &str| tail.split('_').next().is_some_and(|number| number.parse::<u16>().is_ok());
    ["_SERVICE_HOST", "_PORT"].iter().any(|end| rest.ends_with(end))
        || rest.contains("_SERVICE_PORT")
        || rest.match_indices("_PORT_").any(|(at, port)| has_number(&rest[at + port.len()..]))
}

/// A TOML value as it would be written on the command line.
pub(super) fn written(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(flag) => Some(if *flag { "on" } else { "off" }.to_owned()),
        toml::Value::Array(items) => {
            let items: Option<Vec<String>> = items.iter().map(written).collect();
            items.map(|items| items.join(","))
        }
        toml::Value::Table(_) | toml::Value::Datetime(_) => None,
    }
}

/// Reads a time as options are written.
///
/// ```
/// assert_eq!(megasock::config::duration_ms("5m"), Ok(300_000));
/// assert!(megasock::config::duration_ms("5").unwrap_err().starts_with("has no unit; write a time with its unit"));
/// ```
///
/// # Errors
/// What is wrong with it, and what to write.
pub fn duration_ms(text: &str) -> Result<u64, String> {
    (value::DURATION.parse)(text).map_err(|problem| format!("{problem}; write {}", value::DURATION.written))
}

/// What to write for `name`: a value of its kind, or the option it was probably meant to be.
fn wanted(name: &str) -> String {
    let near = || suggestion(name).map(|near| format!("did you mean {near}?"));
    match option_named(name) {
        Some(option) => format!("write {}", option.written),
        None => {
            file_only(name).or_else(near).unwrap_or_else(|| "docs/config.md lists all options".to_owned())
        }
    }
}

/// The option of exactly this name.
pub fn option_named(name: &str) -> Option<&'static OptionSpec> {
    OPTIONS.iter().find(|option| option.name == name)
}

/// The option whose name is nearest to `name`, unless none is near or it has a place in the file alone.
///
/// ```
/// assert_eq!(megasock::config::suggestion("ping-intervall"), Some("ping_interval"));
/// assert_eq!(megasock::config::suggestion("zzz"), None);
/// assert_eq!(megasock::config::suggestion("slow-consumer"), None);
/// ```
pub fn suggestion(name: &str) -> Option<&'static str> {
    match file_only(name) {
        Some(_) => None,
        None => nearest(name, OPTIONS.iter().map(|option| option.name)),
    }
}

/// What to write in the file for a name that is of no flag, no variable and no key outside the tables.
///
/// ```
/// assert!(megasock::config::file_only("slow-consumer").unwrap().starts_with("write slow_consumer in the TOML file"));
/// assert_eq!(megasock::config::file_only("ping-interval"), None);
/// ```
pub fn file_only(name: &str) -> Option<String> {
    let name = name.to_lowercase().replace('-', "_");
    NAMESPACES.file_only(&name).or_else(|| KEYS.file_only(&name))
}

/// The one of `names` that `name` was probably meant to be.
pub(crate) fn nearest(name: &str, names: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let name = name.to_lowercase().replace('-', "_");
    let scored = names.map(|candidate| (strsim::jaro_winkler(candidate, &name), candidate));
    let (nearness, nearest) = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (nearness > 0.8).then_some(nearest)
}
