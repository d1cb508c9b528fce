//! `docs/config.md`, made from the table.

use super::OPTIONS;
use std::fmt::Write;

const HEAD: &str = "\
# Options

This page is made from the table in `src/config/mod.rs`; a test keeps it equal to it
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

| key | default | a value is | what it does |
|---|---|---|---|
";

/// The page that documents every option.
pub fn markdown() -> String {
    let mut page = HEAD.to_owned();
    for option in OPTIONS {
        let (name, default) = (option.name, option.default);
        writeln!(page, "| `{name}` | `{default}` | {} | {} |", option.written, option.doc)
            .expect("a String takes everything");
    }
    page
}
