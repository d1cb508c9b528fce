//! `docs/config.md`, made from the tables.

use super::{KEY_OPTIONS, NAMESPACE_OPTIONS, Needs, OPTIONS};
use std::fmt::Write;

const HEAD: &str = "\
# Options

This page is made from the tables in `src/config/mod.rs`, `namespace.rs` and `key.rs`; a test keeps it equal to them
(`UPDATE_DOCS=1 cargo test --test config` writes it anew).

Each option has three spellings: a key in the TOML file named by `--config FILE` or `MEGASOCK_CONFIG`, a variable
`MEGASOCK_UPPER_CASE`, a flag `--kebab-case`. A flag wins over a variable, a variable over the file, the file over the
default. Sizes and durations are written with units. An unknown key is an error; all errors are reported together.

```toml
# megasock.toml: start with `megasock --config megasock.toml`
listen = \"0.0.0.0:8080\"
ping_interval = \"25s\"
max_message_bytes = \"64KiB\"
```

Most options can be changed while the server runs: it reads all of this again on SIGHUP or `POST /api/reload` of the admin
listener, where flags and variables of its start still win over the file. What cannot change is marked *restart*, and named in
the answer. A file with mistakes changes nothing.

| key | default | a change needs | a value is | what it does |
|---|---|---|---|---|
";

const PRODUCTION: &str = "
With `production = \"on\"` the server does not start without a key or `anonymous = \"on\"`, without `origins`, or with a
limit that is `off`.
";

const NAMESPACES: &str = "
# Namespaces

Settings of channels and rooms by their names, in the TOML file alone:

```toml
[namespace.\"scores:*\"]
history_count = 100
history_age = \"5m\"
slow_consumer = \"conflate\"

[namespace.\"room:*\"]
presence_events_max = 50
```

A pattern is a whole name, or the beginning of names followed by `*`. It stands in quotes. A room's name starts with
`room:` here, so `[namespace.\"room:*\"]` is for all rooms. Of several patterns that fit a name, a whole name decides,
else the longest beginning. Patterns do not add up: what the deciding one leaves out has the default below, whatever
shorter ones say. `[namespace.\"*\"]` alone is more: it changes these defaults for all the others, rooms included.

On a reload a pattern that was there before has its new settings at once, for all its topics, but for `presence`. Topics that
exist keep the pattern they had: one that is new, or gone, is so for topics made from then on, but for `publishers` and
`data_bytes_max`, which always follow the patterns that are there.

| key | default | in rooms | a value is | what it does |
|---|---|---|---|---|
";

const KEYS: &str = "
# Keys

What tokens are verified with, in the TOML file alone; [tokens.md](tokens.md) tells what a token is.

```toml
[key.\"2026-10\"]
algorithm = \"ES256\"
file = \"/etc/megasock/2026-10.pem\"
```

A token's `kid` says which key it is signed with; where there is one key alone, it may be left out. A secret (HS256) that
everybody on the host can read is refused, and so is a private key: its public half is enough here. On a reload the files are read
again; who is connected with a token of a key that is gone stays until the token ends.
`megasock token --new-key FILE` makes a secret and prints the lines that name it.

| key | a value is | what it does |
|---|---|---|
";

/// The page that documents every option.
pub fn markdown() -> String {
    let mut page = HEAD.to_owned();
    for option in OPTIONS {
        let (name, default) = (option.name, option.default);
        let change = match option.needs {
            Needs::Reload => "reload",
            Needs::ReloadOnceSet => "reload; *restart* from or to none",
            Needs::Restart => "*restart*",
        };
        writeln!(page, "| `{name}` | `{default}` | {change} | {} | {} |", option.written, option.doc)
            .expect("a String takes everything");
    }
    page.push_str(PRODUCTION);
    page.push_str(NAMESPACES);
    for option in NAMESPACE_OPTIONS {
        let defaults: Vec<String> = option.defaults.iter().map(|default| format!("`{default}`")).collect();
        let defaults = defaults.join(" | ");
        writeln!(page, "| `{}` | {defaults} | {} | {} |", option.name, option.written, option.doc)
            .expect("a String takes everything");
    }
    page.push_str(KEYS);
    for option in KEY_OPTIONS {
        writeln!(page, "| `{}` | {} | {} |", option.name, option.written, option.doc)
            .expect("a String takes everything");
    }
    page
}
