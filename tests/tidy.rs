//! The house rules that a compiler does not know, held to the tree that git tracks.
//!
//! Each check is a function from text to complaints and has a test with a planted offence, so that none of them can
//! have gone blind. The rules themselves are in CONTRIBUTING.md and docs/ARCHITECTURE.md.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// The layers of src/, lowest first. A room may import from layers below its own.
const LAYERS: [&[&str]; 6] = [
    &["ds", "buf", "budget"],
    &["proto", "sys"],
    &["handler"],
    &["reactor", "hub"],
    &["control", "config", "server"],
    &["cli"],
];

/// Layers whose rooms may also import from each other; in the others, neighbours do not know each other.
const OPEN_LAYERS: [usize; 2] = [0, 4];

/// Where `unsafe` may stand.
const UNSAFE_PLACES: [&str; 2] = ["src/sys/", "src/buf/payload.rs"];

/// Most lines of code in one file: not blank, not a comment.
const CODE_LINES_MAX: usize = 700;

/// The project's list of hostile inputs has so many.
const HOSTILE_ROWS: usize = 40;

/// Words that say nothing, in names of files, folders, modules, types and functions.
const EMPTY_WORDS: [&str; 3] = ["util", "helper", "manager"];

// The words looked for are split, since this file is looked at too.
const UNFINISHED: [&str; 6] = [
    concat!("to", "do!"),
    concat!("TO", "DO"),
    concat!("unimpl", "emented!"),
    concat!("FIX", "ME"),
    concat!("X", "XX"),
    concat!("#[ig", "nore"),
];

/// Hosts that a registry's client knows by itself, and settings that send it elsewhere.
const REGISTRIES: [&str; 8] = [
    concat!("index.crates", ".io"),
    concat!("static.crates", ".io"),
    concat!("registry.npmjs", ".org"),
    concat!("files.pythonhosted", ".org"),
    concat!("pypi", ".org"),
    concat!("proxy.golang", ".org"),
    concat!("replace", "-with"),
    concat!("index", "-url"),
];

/// Beginnings of paths that exist on one machine only.
const MACHINE_PATHS: [&str; 4] =
    [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/Us", "ers/")];

/// The one source a locked dependency may have.
const LOCK_SOURCE: &str = concat!("registry+https://github.com/rust-lang/crates", ".io-index");

#[test]
fn imports_never_point_up() {
    let lib = read("src/lib.rs");
    assert_none(tracked_matching(|path| path.starts_with("src/") && path.ends_with(".rs")), |path, text| {
        imports_up(path, text, &lib)
    });
}

#[test]
fn unsafe_stays_in_its_places() {
    assert_none(tracked_matching(|path| path.ends_with(".rs")), misplaced_unsafe);
}

#[test]
fn every_folder_is_in_the_architecture() {
    let folders: BTreeSet<String> = tracked().iter().flat_map(|path| folders_of(path)).collect();
    let unnamed = unnamed_folders(&folders, &read("docs/ARCHITECTURE.md"));
    assert!(unnamed.is_empty(), "docs/ARCHITECTURE.md does not name: {unnamed:?}");
}

#[test]
fn files_have_one_subject() {
    assert_none(tracked_matching(is_code), too_long);
}

#[test]
fn nothing_is_unfinished() {
    assert_none(tracked_matching(|_| true), unfinished);
}

#[test]
fn nothing_knows_the_machine_it_was_written_on() {
    assert_none(tracked_matching(|path| path != "Cargo.lock"), machine_traces);
    assert_none(tracked_matching(|path| path == "Cargo.lock"), foreign_sources);
}

#[test]
fn names_say_something() {
    assert_none(tracked_matching(|_| true), empty_names);
}

#[test]
fn every_hostile_input_is_where_the_table_says() {
    let table = read("tests/hostile/main.rs");
    let paths = tracked_matching(|path| path.starts_with("tests/hostile/") && path.ends_with(".rs"));
    let files: Vec<(String, String)> = paths.into_iter().map(|path| (path.clone(), read(&path))).collect();
    let complaints = misplaced_rows(&table, &files);
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

// What the checks look at.

/// Every file git tracks and the tree still has.
fn tracked() -> Vec<String> {
    let listed =
        Command::new("git").args(["ls-files", "-z"]).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let listed = listed.expect("git, to know which files count");
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let paths = String::from_utf8(listed.stdout).expect("paths in UTF-8");
    let exists = |path: &&str| !path.is_empty() && Path::new(env!("CARGO_MANIFEST_DIR")).join(path).is_file();
    paths.split('\0').filter(exists).map(str::to_owned).collect()
}

fn tracked_matching(wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let found: Vec<String> = tracked().into_iter().filter(|path| wanted(path)).collect();
    assert!(!found.is_empty(), "a check that looks at nothing");
    found
}

fn read(path: &str) -> String {
    let bytes = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
        .unwrap_or_else(|error| panic!("{path}: {error}"));
    // Images and the like are no text and have nothing to say.
    String::from_utf8(bytes).unwrap_or_default()
}

fn assert_none(paths: Vec<String>, check: impl Fn(&str, &str) -> Vec<String>) {
    let complaints: Vec<String> = paths
        .iter()
        .flat_map(|path| {
            check(path, &read(path)).into_iter().map(move |complaint| format!("{path}: {complaint}"))
        })
        .collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

fn is_code(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    [".rs", ".py", ".js", ".sh"].iter().any(|ending| name.ends_with(ending)) || !name.contains('.')
}

// The checks.

/// Imports of `path` that its layer does not allow. `lib` is src/lib.rs, which says where re-exported names live.
fn imports_up(path: &str, text: &str, lib: &str) -> Vec<String> {
    let Some(room) = room_of(path) else { return Vec::new() };
    let Some(own) = layer_of(room) else { return vec![format!("room {room} is in no layer")] };
    // How often `super` must be said to reach the crate's root.
    let inner = path.strip_suffix("/mod.rs").unwrap_or(path);
    let depth = inner.matches('/').count();
    let code = code_only(text);
    let mut complaints = Vec::new();
    for name in imported(&code, "crate::").into_iter().chain(imported(&code, &"super::".repeat(depth))) {
        let target =
            if layer_of(&name).is_some() { name } else { reexported_from(&name, lib).unwrap_or(name) };
        let allowed = match layer_of(&target) {
            Some(layer) => layer < own || target == room || (layer == own && OPEN_LAYERS.contains(&own)),
            // Macros and consts of the crate's root have no room; a room's own children after `super` are its own.
            None => true,
        };
        if !allowed {
            complaints.push(format!("{room} imports {target}"));
        }
    }
    complaints
}

/// The room of a file in src/: its folder, or itself. The crate's root and the binary stand above all rooms.
fn room_of(path: &str) -> Option<&str> {
    let inside = path.strip_prefix("src/")?;
    match inside.split_once('/') {
        Some((room, _)) => Some(room),
        None => inside.strip_suffix(".rs").filter(|name| !matches!(*name, "lib" | "main")),
    }
}

fn layer_of(room: &str) -> Option<usize> {
    LAYERS.iter().position(|rooms| rooms.contains(&room))
}

/// The first segments of paths that begin with `root`, those of a group in braces each for itself.
fn imported(code: &str, root: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in code.match_indices(root) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let rest = code[at + root.len()..].trim_start();
        match rest.strip_prefix('{') {
            Some(group) => names.extend(group_heads(group)),
            None => names.push(identifier(rest)),
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// The first segment of each path in a group, whose opening brace has been taken off.
fn group_heads(group: &str) -> Vec<String> {
    let mut heads = Vec::new();
    let mut depth = 0;
    let mut start = 0;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' | ',' if depth == 0 => {
                heads.push(identifier(group[start..at].trim_start()));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    heads
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The room from which src/lib.rs re-exports `name`.
fn reexported_from(name: &str, lib: &str) -> Option<String> {
    code_only(lib).split("pub use ").skip(1).find_map(|rest| {
        let (statement, _) = rest.split_once(';')?;
        let statement = statement.trim_start_matches("crate::");
        let mut words = statement.split(|c: char| !c.is_alphanumeric() && c != '_');
        let room = words.next()?.to_owned();
        words.any(|word| word == name).then_some(room)
    })
}

fn misplaced_unsafe(path: &str, text: &str) -> Vec<String> {
    if UNSAFE_PLACES.iter().any(|place| path.starts_with(place)) {
        return Vec::new();
    }
    let code = code_only(text);
    let words = code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| *word == "unsafe");
    words.map(|_| "unsafe outside its places".to_owned()).collect()
}

/// The folders a path lies in, down to two levels.
fn folders_of(path: &str) -> Vec<String> {
    let parts: Vec<&str> = path.split('/').collect();
    (1..parts.len().min(3)).map(|depth| parts[..depth].join("/")).collect()
}

fn unnamed_folders(folders: &BTreeSet<String>, architecture: &str) -> Vec<String> {
    let named = |folder: &&String| {
        let name = format!("{}/", folder.rsplit('/').next().unwrap_or(folder));
        architecture.match_indices(&name).any(|(at, _)| {
            let before = architecture[..at].chars().next_back();
            before.is_none_or(|c| !(c.is_alphanumeric() || "_-.".contains(c)))
        })
    };
    folders.iter().filter(|folder| !named(folder)).cloned().collect()
}

fn too_long(_: &str, text: &str) -> Vec<String> {
    let is_comment =
        |line: &str| line.starts_with("//") || (line.starts_with('#') && !line.starts_with("#["));
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !is_comment(line)).count();
    if lines > CODE_LINES_MAX {
        vec![format!("{lines} lines of code, more than {CODE_LINES_MAX}")]
    } else {
        Vec::new()
    }
}

fn unfinished(_: &str, text: &str) -> Vec<String> {
    numbered(text, |line| UNFINISHED.iter().find(|word| line.contains(**word)).copied())
}

fn machine_traces(_: &str, text: &str) -> Vec<String> {
    numbered(text, |line| {
        let registry = REGISTRIES.iter().find(|host| line.contains(**host));
        // A path begins here: what is before it is no part of one.
        let begins = |path: &&&str| {
            line.match_indices(**path)
                .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "_-./~}".contains(c)))
        };
        registry.or_else(|| MACHINE_PATHS.iter().find(begins)).copied()
    })
}

fn foreign_sources(_: &str, text: &str) -> Vec<String> {
    numbered(text, |line| {
        line.strip_prefix("source = ").filter(|source| source.trim_matches('"') != LOCK_SOURCE)
    })
}

/// Rows of the list of hostile inputs that are tested elsewhere than the table says, or nowhere and not to come.
fn misplaced_rows(table: &str, files: &[(String, String)]) -> Vec<String> {
    let listed = |place: &str| -> BTreeSet<usize> {
        let lines = table.lines().filter(|line| line.starts_with("//! |") && line.contains(place));
        lines.flat_map(|line| numbers(line.split('|').nth(1).unwrap_or_default())).collect()
    };
    let mut complaints = Vec::new();
    let mut known = listed("| to come |");
    for (path, text) in files {
        let name = path.rsplit('/').next().unwrap_or(path);
        let tests = text.split("fn row_").skip(1);
        let tested: BTreeSet<usize> = tests.filter_map(|rest| rest.get(..2)?.parse().ok()).collect();
        let listed = listed(&format!("`{name}`"));
        if listed != tested {
            complaints.push(format!("{name} has the rows {tested:?} and is listed with {listed:?}"));
        }
        known.extend(tested);
    }
    let unknown = (1..=HOSTILE_ROWS).filter(|row| !known.contains(row));
    complaints.extend(unknown.map(|row| format!("row {row} has no test and is not to come")));
    complaints
}

/// `1-3, 5 (some of it)` as numbers.
fn numbers(list: &str) -> Vec<usize> {
    let ranges = list.split(',').filter_map(|part| {
        let part = part.split('(').next()?.trim();
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    });
    ranges.flatten().collect()
}

/// `line number: what` for every line in which `offence` finds something.
fn numbered<'a>(text: &'a str, offence: impl Fn(&'a str) -> Option<&'a str>) -> Vec<String> {
    let lines = text.lines().enumerate();
    lines.filter_map(|(at, line)| offence(line).map(|what| format!("line {}: {what}", at + 1))).collect()
}

fn empty_names(path: &str, text: &str) -> Vec<String> {
    let empty = |name: &str| {
        // CamelCase and snake_case alike, in their words.
        let snake: String = name
            .chars()
            .flat_map(|c| if c.is_uppercase() { vec!['_', c.to_ascii_lowercase()] } else { vec![c] })
            .collect();
        snake
            .split(|c: char| !c.is_alphabetic())
            .any(|word| EMPTY_WORDS.contains(&word.trim_end_matches('s')))
    };
    let mut complaints: Vec<String> =
        path.split('/').filter(|part| empty(part)).map(|part| format!("the name {part}")).collect();
    if path.ends_with(".rs") {
        let code = code_only(text);
        let words: Vec<&str> = code.split_whitespace().collect();
        let defined = words
            .windows(2)
            .filter(|pair| ["mod", "struct", "enum", "trait", "fn", "type"].contains(&pair[0]));
        let names = defined.map(|pair| identifier(pair[1])).filter(|name| empty(name));
        complaints.extend(names.map(|name| format!("the name {name}")));
    }
    complaints
}

/// Rust without its comments and the contents of its strings and characters.
fn code_only(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |at| at + 2)
        } else if c == '"' {
            string_len(rest)
        } else if let Some(hashes) = raw_string_hashes(rest) {
            let end = format!("\"{}", "#".repeat(hashes));
            let body = 2 + hashes;
            rest[body..].find(&end).map_or(rest.len(), |at| body + at + end.len())
        } else if c == '\'' {
            char_len(rest)
        } else {
            0
        };
        if skipped == 0 {
            code.push(c);
            rest = &rest[c.len_utf8()..];
            // An identifier is taken whole, or the `r` at its end would open a raw string.
            if c.is_alphanumeric() || c == '_' {
                let more = identifier(rest);
                code.push_str(&more);
                rest = &rest[more.len()..];
            }
        } else {
            code.push(' ');
            rest = &rest[skipped..];
        }
    }
    code
}

/// Bytes of the string literal at the start, both quotes included.
fn string_len(text: &str) -> usize {
    let mut escaped = false;
    let closing = text.char_indices().skip(1).find(|(_, c)| {
        let closes = *c == '"' && !escaped;
        escaped = *c == '\\' && !escaped;
        closes
    });
    closing.map_or(text.len(), |(at, _)| at + 1)
}

/// The hash marks of the raw string that starts here.
fn raw_string_hashes(text: &str) -> Option<usize> {
    let rest = text.strip_prefix('r')?;
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    rest[hashes..].starts_with('"').then_some(hashes)
}

/// Bytes of the character literal at the start; 0 where the quote begins a lifetime.
fn char_len(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some((escaped, _))) => {
            text[escaped + 1..].find('\'').map_or(0, |at| escaped + 1 + at + 1)
        }
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 0,
    }
}

// Each check with an offence planted.

#[test]
fn planted_imports_are_found() {
    let lib = "pub use buf::Payload;\npub use server::{Handle, Server};\npub use handler::*;";
    let allowed = [
        ("src/reactor/send.rs", "use crate::{buf::{self, Payload}, sys::Io, Payload};"),
        ("src/sys/uring.rs", "use super::Io; use super::super::buf::Pool; use crate::sys::host;"),
        ("src/config/mod.rs", "use crate::server::plan;"),
        ("src/buf/mod.rs", "use crate::budget::SLOT_BYTES;"),
        (
            "src/proto/mod.rs",
            "//! Unlike [`crate::cli`].\n/* crate::cli */ const A: &str = \"crate::cli\"; const Q: char = '\"'; // crate::cli",
        ),
        ("src/main.rs", "use megasock::cli;"),
        ("src/lib.rs", "use crate::cli;"),
    ];
    for (path, text) in allowed {
        assert_eq!(imports_up(path, text, lib), [""; 0], "{path}: {text}");
    }
    let planted = [
        ("src/ds/slab.rs", "use crate::proto::frame;", "ds imports proto"),
        ("src/proto/mod.rs", "use crate::sys::Io;", "proto imports sys"),
        ("src/sys/mod.rs", "fn f() { crate::proto::mask::apply(); }", "sys imports proto"),
        ("src/sys/mod.rs", "use super::reactor;", "sys imports reactor"),
        ("src/sys/uring.rs", "use super::super::reactor::Reactor;", "sys imports reactor"),
        ("src/reactor/a/b.rs", "use super::super::super::cli::main;", "reactor imports cli"),
        (
            "src/handler.rs",
            "use crate::{\n    buf::{Payload, Pool},\n    reactor::Conn,\n};",
            "handler imports reactor",
        ),
        ("src/reactor/mod.rs", "use crate::{hub};", "reactor imports hub"),
        (
            "src/budget.rs",
            "const C: char = '\\''; pub(in crate) use crate::config::Options; // '",
            "budget imports config",
        ),
        ("src/reactor/conn.rs", "use crate::Handle;", "reactor imports server"),
        ("src/buf/queue.rs", "const S: &str = r#\"\"\"#; use crate::sys;", "buf imports sys"),
        ("src/attic/mod.rs", "", "room attic is in no layer"),
    ];
    for (path, text, complaint) in planted {
        assert_eq!(imports_up(path, text, lib), [complaint], "{path}: {text}");
    }
}

#[test]
fn planted_unsafe_is_found() {
    let text = "fn f() { unsafe { g() } }";
    assert_eq!(misplaced_unsafe("src/reactor/mod.rs", text).len(), 1);
    assert_eq!(misplaced_unsafe("src/buf/pool.rs", "unsafe impl Send for Pool {}").len(), 1);
    assert_eq!(misplaced_unsafe("bench/c1m/src/main.rs", "unsafe fn f() {}").len(), 1);
    assert!(misplaced_unsafe("src/sys/uring.rs", text).is_empty());
    assert!(misplaced_unsafe("src/buf/payload.rs", text).is_empty());
    assert!(
        misplaced_unsafe("src/ds/mod.rs", "// unsafe\n#![deny(unsafe_code)] const A: &str = \"unsafe\";")
            .is_empty()
    );
}

#[test]
fn planted_folders_are_found() {
    let folders: BTreeSet<String> = ["src/reactor/mod.rs", "src/ds/a/b.rs", "README.md", ".ci/run"]
        .into_iter()
        .flat_map(folders_of)
        .collect();
    assert_eq!(
        folders.iter().map(String::as_str).collect::<Vec<_>>(),
        [".ci", "src", "src/ds", "src/reactor"]
    );
    assert!(unnamed_folders(&folders, "`src/`\n  ds/ \n`src/reactor/` and .ci/").is_empty());
    assert_eq!(unnamed_folders(&folders, "src/ pods/ reactor/ x.ci/"), [".ci", "src/ds"]);
}

#[test]
fn planted_length_is_found() {
    let line = "let a = 1;\n// why\n\n";
    assert!(too_long("", &line.repeat(CODE_LINES_MAX)).is_empty());
    assert_eq!(too_long("", &line.repeat(CODE_LINES_MAX + 1)).len(), 1);
}

#[test]
fn planted_rows_are_found() {
    let table = "//! | 1-38 | most | `most.rs` |\n//! | 39 (a half), 40 | the rest | to come |\n";
    let most: String = (1..=38).map(|row| format!("fn row_{row:02}_is_tested() {{}}\n")).collect();
    let with = |table: &str, most: &str, rest: &str| {
        let files = [("tests/most.rs", most), ("tests/rest.rs", rest)];
        misplaced_rows(table, &files.map(|(path, text)| (path.to_owned(), text.to_owned()))).len()
    };
    assert_eq!(with(table, &most, ""), 0);
    assert_eq!(with(table, &most, "fn row_39_too() {}"), 1, "a test the table does not have");
    assert_eq!(with(table, &most.replace("fn row_07_", "fn seven_"), ""), 2, "a test that has gone");
    assert_eq!(with(&table.replace("40", ""), &most, ""), 1, "a row nobody has");
}

#[test]
fn planted_unfinished_work_is_found() {
    for word in UNFINISHED {
        assert_eq!(unfinished("", &format!("fine\n  {word}  \nfine")), [format!("line 2: {word}")]);
    }
}

#[test]
fn planted_traces_are_found() {
    for host in REGISTRIES {
        assert_eq!(machine_traces("", &format!("https://{host}/x")).len(), 1, "{host}");
    }
    for path in MACHINE_PATHS {
        assert_eq!(machine_traces("", &format!("cd {path}x")).len(), 1, "{path}");
        assert_eq!(machine_traces("", &format!("\"{path}x\"")).len(), 1, "{path}");
        assert!(machine_traces("", &format!("target{path}x")).is_empty(), "{path}");
    }
    assert!(foreign_sources("", &format!("source = \"{LOCK_SOURCE}\"")).is_empty());
    assert_eq!(foreign_sources("", "source = \"registry+https://mirror.example/index\"").len(), 1);
}

#[test]
fn planted_names_are_found() {
    assert_eq!(empty_names(concat!("src/ut", "ils/mod.rs"), ""), [concat!("the name ut", "ils")]);
    for code in [
        concat!("pub struct Conn", "Manager {"),
        concat!("mod test_", "helpers;"),
        concat!("fn ut", "il() {}"),
    ] {
        assert_eq!(empty_names("src/a.rs", code).len(), 1, "{code}");
    }
    assert!(empty_names("src/a.rs", "// helper\nstruct Utility; fn manage() {}").is_empty());
}
