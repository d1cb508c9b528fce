//! Options that stand below a name, in the TOML file alone: the tables `[namespace."scores:*"]` and `[key."2026-10"]`.
//!
//! Each kind of table is one [`Section`]: its rows, and the words its mistakes are told in. What the options are of, and
//! what the name means, is the section's own affair.

use super::Origin;
use super::load::{Loading, nearest, option_named, written};

/// One option that stands below a name; `S` is what it sets.
#[derive(Debug)]
pub struct Row<S: 'static> {
    /// The key in the TOML file.
    pub name: &'static str,
    /// The default as a user would write it, of each sort of thing in the section; none where it must be written.
    pub defaults: &'static [&'static str],
    /// How a value is written, after the word "write".
    pub written: &'static str,
    /// What it does, in one sentence.
    pub doc: &'static str,
    pub(super) set: fn(&mut S, &str) -> Result<(), String>,
}

/// Writes a table of rows: `pub const NAME: &[Row<Settings>] = "doc" key => field = ["default"] as KIND;`
macro_rules! rows {
    ($(#[$about:meta])* pub const $table:ident: &[Row<$settings:ty>] =
        $($doc:literal $name:ident => $field:ident = [$($default:literal),*] as $kind:expr;)+) => {
        $(#[$about])*
        pub const $table: &[$crate::config::rows::Row<$settings>] = &[$($crate::config::rows::Row {
            name: stringify!($name),
            defaults: &[$($default),*],
            written: $kind.written,
            doc: $doc,
            set: |settings, text| {
                settings.$field = ($kind.parse)(text)?;
                Ok(())
            },
        },)+];
    };
}
pub(super) use rows;

/// One kind of table.
pub(super) struct Section<S: 'static> {
    /// The key of the file that holds all of its tables.
    pub(super) key: &'static str,
    /// What one table is of, with its article.
    pub(super) one: &'static str,
    /// A table's head, as a user would write it.
    pub(super) example: &'static str,
    /// The same with a dot in its name.
    pub(super) dotted: &'static str,
    /// Where an option goes that was written outside the tables.
    pub(super) place: &'static str,
    pub(super) rows: &'static [Row<S>],
}

/// A value below a name that cannot be taken.
pub(super) struct Mistake {
    pub(super) key: String,
    pub(super) problem: String,
    pub(super) fix: String,
}

impl<S> Section<S> {
    /// The option of exactly this name.
    fn named(&self, name: &str) -> Option<&'static Row<S>> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// What to write where something else stands in the place of a table.
    pub(super) fn wanted(&self) -> String {
        format!("write tables in the TOML file such as {}", self.example)
    }

    /// What to write in the file for a name that is of no flag, no variable and no key outside the tables.
    pub(super) fn file_only(&self, name: &str) -> Option<String> {
        if name.strip_suffix('s').unwrap_or(name) == self.key {
            return Some(self.wanted());
        }
        self.named(name).map(|row| format!("write {} in the TOML file, {}", row.name, self.place))
    }

    /// Reports whatever in the section is no table.
    pub(super) fn refuse_others(&self, all: &toml::Value, origin: &Origin, loading: &mut Loading) {
        let Some(tables) = all.as_table() else {
            return loading.refuse(self.key, origin.clone(), "is no table".into(), self.wanted());
        };
        for (name, _) in tables.iter().filter(|(_, value)| !value.is_table()) {
            let fix = match self.named(name) {
                Some(_) => format!("write it {}", self.place),
                None => self.wanted(),
            };
            let option = format!("{}.{name}", self.key);
            loading.refuse(&option, origin.clone(), "is no table".into(), fix);
        }
    }

    /// The tables of the section by their names.
    pub(super) fn tables(all: &toml::Value) -> impl Iterator<Item = (&String, &toml::Table)> {
        let entries = all.as_table().into_iter().flatten();
        entries.filter_map(|(name, value)| Some((name, value.as_table()?)))
    }

    /// Changes the settings that `keys` name, and returns the keys it could not use.
    pub(super) fn fill(&self, settings: &mut S, keys: &toml::Table) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        for (key, value) in keys {
            let (problem, fix) = match (self.named(key), written(value)) {
                (Some(row), Some(text)) => match (row.set)(settings, text.trim()) {
                    Ok(()) => continue,
                    Err(problem) => (format!("{text:?} {problem}"), format!("write {}", row.written)),
                },
                (Some(row), None) => ("is a table or a date".into(), format!("write {}", row.written)),
                (None, _) => (format!("is no option of {}", self.one), self.meant(key, value)),
            };
            mistakes.push(Mistake { key: key.clone(), problem, fix });
        }
        mistakes
    }

    /// What an unknown key was probably meant to be.
    fn meant(&self, key: &str, value: &toml::Value) -> String {
        if value.is_table() {
            return format!("a dot in it needs quotes, such as {}", self.dotted);
        }
        if option_named(key).is_some() {
            return "it is the whole server's: write it above the first table of the file".into();
        }
        match nearest(key, self.rows.iter().map(|row| row.name)) {
            Some(near) => format!("did you mean {near}?"),
            None => "docs/config.md lists all options".into(),
        }
    }
}
