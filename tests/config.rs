//! One table of options: file, variables, flags, help and page agree, and every mistake is reported at once.

use megasock::config::{self, Config, LogFormat, OPTIONS, Origin, Sources};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A TOML file that is gone with the test.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> File {
        let path = std::env::temp_dir().join(format!("megasock-config-{name}-{}.toml", std::process::id()));
        fs::write(&path, text).unwrap();
        File(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn megasock(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_megasock")).args(arguments).output().unwrap()
}

#[test]
fn the_page_of_options_is_the_tables() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/config.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, config::markdown()).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap() == config::markdown(),
        "UPDATE_DOCS=1 cargo test --test config"
    );
}

#[test]
fn the_defaults_are_those_documented() {
    let config = Config::default();
    assert_eq!(config.listen, "0.0.0.0:8080".parse().unwrap());
    assert_eq!((config.reactors, &config.cores, config.max_connections), (None, &None, None));
    assert_eq!((config.max_message_bytes, config.max_fragments), (65_536, 4_096));
    assert_eq!((config.ping_interval_ms, config.pong_timeout_ms), (Some(25_000), 10_000));
    assert_eq!((config.idle_timeout_ms, config.handshake_timeout_ms), (None, 10_000));
    assert_eq!((config.message_deadline_ms, config.close_timeout_ms), (30_000, 5_000));
    assert_eq!((config.drain_timeout_ms, config.send_queue_bytes_max), (30_000, 1 << 20));
    assert_eq!((config.echo, config.log.as_str(), config.log_format), (true, "info", LogFormat::Text));
}

#[test]
fn flag_over_variable_over_file_over_default() {
    let file = File::new(
        "order",
        "ping_interval = \"1s\"\npong_timeout = \"1s\"\nidle_timeout = \"1s\"\ncores = [0, \"2-3\"]\necho = false\n",
    );
    let sources = Sources {
        file: Some(file.0.clone()),
        variables: pairs(&[
            ("MEGASOCK_PING_INTERVAL", "2s"),
            ("MEGASOCK_PONG_TIMEOUT", "2s"),
            ("PATH", "/bin"),
        ]),
        flags: pairs(&[("ping_interval", "3s")]),
    };
    let config = Config::load(&sources).unwrap();
    assert_eq!(config.ping_interval_ms, Some(3_000));
    assert_eq!(config.pong_timeout_ms, 2_000);
    assert_eq!(config.idle_timeout_ms, Some(1_000));
    assert_eq!(config.cores, Some(vec![0, 2, 3]));
    assert!(!config.echo);
    assert_eq!(config.close_timeout_ms, Config::default().close_timeout_ms);
}

#[test]
fn all_mistakes_of_all_sources_come_together_each_with_its_origin_and_fix() {
    let file = File::new(
        "mistakes",
        "ping-intervall = \"25s\"\nmax_fragments = -1\nlisten = 1979-05-27\n[limits]\n",
    );
    let sources = Sources {
        file: Some(file.0.clone()),
        variables: pairs(&[("MEGASOCK_ECHOO", "on"), ("MEGASOCK_REACTORS", "none")]),
        flags: pairs(&[("close_timeout", "5")]),
    };
    let errors = Config::load(&sources).unwrap_err();
    let origins: Vec<&Origin> = errors.0.iter().map(|error| &error.origin).collect();
    let in_file = Origin::File(file.0.clone());
    assert_eq!(
        origins,
        [&in_file, &in_file, &in_file, &in_file, &Origin::Variable, &Origin::Variable, &Origin::Flag]
    );
    let text = errors.to_string();
    for part in [
        "7 options are wrong:",
        "did you mean ping_interval?",
        "\"-1\" is not a whole number; write a number from 1",
        "listen (",
        "limits (",
        "MEGASOCK_ECHOO (environment): is no option; did you mean echo?",
        "MEGASOCK_REACTORS (environment): \"none\" is not a whole number; write auto or a number from 1 to 256",
        "--close-timeout (command line): \"5\" has no unit; write a time with its unit",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[test]
fn a_file_that_cannot_be_read_does_not_hide_other_mistakes() {
    let broken = File::new("broken", "listen = \n");
    for (path, problem) in
        [(broken.0.clone(), "is not TOML"), (PathBuf::from("/nowhere/at/all.toml"), "cannot be read")]
    {
        let sources = Sources { file: Some(path), flags: pairs(&[("echo", "maybe")]), variables: Vec::new() };
        let text = Config::load(&sources).unwrap_err().to_string();
        assert!(text.contains(problem) && text.contains("--echo"), "{text}");
    }
}

#[test]
fn variables_of_a_kubernetes_service_called_megasock_are_not_ours() {
    let variables = pairs(&[
        ("MEGASOCK_PORT", "tcp://10.0.0.1:8080"),
        ("MEGASOCK_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("MEGASOCK_SERVICE_HOST", "10.0.0.1"),
    ]);
    let sources = Sources { variables, ..Sources::default() };
    assert_eq!(Config::load(&sources).unwrap(), Config::default());
}

#[test]
fn the_binary_takes_every_option_and_explains_it() {
    let help = String::from_utf8(megasock(&["--help"]).stdout).unwrap();
    let mut arguments = vec!["doctor".to_owned()];
    for option in OPTIONS {
        assert!(
            help.contains(&format!("--{}", option.flag())) && help.contains(option.doc),
            "{}",
            option.name
        );
        arguments.extend([format!("--{}", option.flag()), option.default.to_owned()]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output = megasock(&arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_binary_reports_typing_mistakes_with_all_others() {
    let file = File::new("typed", "listen = \"nowhere\"\n");
    let path = file.0.to_str().unwrap();
    let output = megasock(&[
        "--bogus",
        "1",
        "serve",
        "--ping-intervall=2s",
        "--ping-interval",
        "25",
        "--config",
        path,
    ]);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    for part in [
        "--bogus (command line): is no option; megasock --help lists all options",
        "--ping-intervall (command line): is no option; did you mean --ping-interval?",
        "--ping-interval (command line): \"25\" has no unit",
        "listen (",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[test]
fn the_version_is_the_packages() {
    let output = megasock(&["--version"]);
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        format!("megasock {}\n", env!("CARGO_PKG_VERSION"))
    );
}
