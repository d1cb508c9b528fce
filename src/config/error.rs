//! What can be wrong with the options, told all at once.

use std::fmt;
use std::path::{Path, PathBuf};

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// On the command line.
    Flag,
    /// In the environment.
    Variable,
    /// In this file.
    File(PathBuf),
    /// Nowhere: the server that runs was started with it.
    Running,
}

impl Origin {
    /// Where a path written there leads: in a file it starts where the file is.
    pub(super) fn path(&self, written: PathBuf) -> PathBuf {
        match self {
            Origin::File(config) => config.parent().unwrap_or(Path::new("")).join(written),
            Origin::Flag | Origin::Variable | Origin::Running => written,
        }
    }
}

/// One thing to mend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The option as its origin spells it: `--ping-interval`, `MEGASOCK_PING_INTERVAL`, `ping_interval`; empty where a
    /// whole file is at fault.
    pub option: String,
    /// Where it was written.
    pub origin: Origin,
    /// What is wrong, as a clause without a subject.
    pub problem: String,
    /// What to do about it.
    pub fix: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Flag => write!(f, "{} (command line)", self.option)?,
            Origin::Variable => write!(f, "{} (environment)", self.option)?,
            Origin::Running => write!(f, "{} (in force until a restart)", self.option)?,
            Origin::File(path) if self.option.is_empty() => write!(f, "{}", path.display())?,
            Origin::File(path) => write!(f, "{} ({})", self.option, path.display())?,
        }
        write!(f, ": {}; {}", self.problem, self.fix)
    }
}

/// Every mistake found, never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => write!(f, "an option is wrong:")?,
            count => write!(f, "{count} options are wrong:")?,
        }
        self.0.iter().try_for_each(|error| write!(f, "\n  {error}"))
    }
}

impl std::error::Error for ConfigErrors {}
