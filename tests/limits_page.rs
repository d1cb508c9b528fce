//! docs/limits.md is true: its limits, options, defaults and endings are the server's, and none is missing.

use megasock::CloseReason;
use megasock::config::{NAMESPACE_OPTIONS, OPTIONS};
use megasock::hub::Limit;

const PAGE: &str = include_str!("../docs/limits.md");

/// The rows of the tables with this heading, cell by cell.
fn rows(heading: &str) -> Vec<Vec<&'static str>> {
    let lines = |rest: &'static str| rest.lines().skip(2).take_while(|line| line.starts_with('|'));
    let cells = |line: &'static str| line.trim_matches('|').split('|').map(str::trim).collect();
    PAGE.split(heading).skip(1).flat_map(lines).map(cells).collect()
}

/// What stands in backticks.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Name and default of every option, of namespaces too.
fn default_of(option: &str) -> &'static str {
    let general = OPTIONS.iter().find(|known| known.name == option).map(|known| known.default);
    let of_namespaces =
        || NAMESPACE_OPTIONS.iter().find(|known| known.name == option).map(|known| known.defaults[0]);
    general.or_else(of_namespaces).unwrap_or_else(|| panic!("{option} is no option"))
}

const HEADING: &str = "| what | option | default | beyond it | counted as | why |";

#[test]
fn every_option_has_the_default_it_says() {
    let rows = rows(HEADING);
    assert!(rows.len() > 25, "{} rows", rows.len());
    for row in &rows {
        assert_eq!(row.len(), 6, "{row:?}");
        let defaults: Vec<&str> = quoted(row[1]).into_iter().map(default_of).collect();
        if !defaults.is_empty() {
            assert_eq!(row[2], defaults.join(", "), "{row:?}");
        }
        assert!(row.iter().enumerate().all(|(at, cell)| !cell.is_empty() || at == 1 || at == 4), "{row:?}");
    }
}

#[test]
fn every_limit_has_a_row_and_every_label_is_one() {
    let rows = rows(HEADING);
    for limit in Limit::ALL {
        let counted = |row: &&Vec<&str>| quoted(row[4]).contains(&limit.name());
        let options: Vec<&str> = rows.iter().filter(counted).flat_map(|row| quoted(row[1])).collect();
        assert!(limit.options().iter().all(|option| options.contains(option)), "{limit:?}: {options:?}");
    }
    for label in rows.iter().flat_map(|row| quoted(row[4])) {
        let is_limit = Limit::ALL.iter().any(|limit| limit.name() == label);
        assert!(is_limit || CloseReason::ALL.iter().any(|reason| reason.name() == label), "{label}");
    }
    let options: Vec<&str> = rows.iter().flat_map(|row| quoted(row[1])).collect();
    let sets_a_limit = |name: &str| {
        ["_rate", "_per_", "max_", "_max", "_budget", "_timeout", "_deadline", "history"]
            .iter()
            .any(|part| name.contains(part))
    };
    for option in OPTIONS.iter().map(|option| option.name).filter(|name| sets_a_limit(name)) {
        assert!(options.contains(&option) || option == "reconnect_rate", "{option} has no row");
    }
}

#[test]
fn every_ending_is_there_with_its_code() {
    let rows = rows("| name | code | |");
    let told: Vec<(&str, &str, &str)> = rows.iter().map(|row| (quoted(row[0])[0], row[1], row[2])).collect();
    let codes = CloseReason::ALL.map(|reason| reason.code().map_or(String::new(), |code| code.to_string()));
    let known = CloseReason::ALL.iter().zip(&codes);
    let known: Vec<_> = known.map(|(reason, code)| (reason.name(), code.as_str(), reason.doc())).collect();
    assert_eq!(told, known);
}
