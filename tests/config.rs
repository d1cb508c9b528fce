//! One table of options: file, variables, flags, help and page agree, and every mistake is reported at once.

use megasock::config::{self, Config, KeyFiles, LogFormat, NAMESPACE_OPTIONS, OPTIONS, Origin, Sources};
use megasock::hub::token::{Algorithm, Keys};
use megasock::hub::{Namespaces, Publishers, Settings, SlowConsumer};
use std::fs;
use std::os::unix::fs::PermissionsExt;
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

/// Reads one file and nothing else.
fn load_file(name: &str, text: &str) -> Result<Config, String> {
    let file = File::new(name, text);
    let sources = Sources { file: Some(file.0.clone()), ..Sources::default() };
    Config::load(&sources).map_err(|errors| errors.to_string().replace(file.0.to_str().unwrap(), "FILE"))
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
    assert_eq!((config.echo, config.log.as_str(), config.log_format), (None, "info", LogFormat::Text));
    assert_eq!((config.slow_consumer_budget_bytes, config.history_bytes_per_core), (None, 64 << 20));
    assert_eq!((config.max_topics_per_connection, config.server_id, config.production), (128, None, false));
    assert_eq!((config.namespaces, config.keys), (Namespaces::default(), Keys::default()));
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
    assert_eq!(config.echo, Some(false));
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
fn topics_are_set_by_the_pattern_of_their_names() {
    let file = r#"
        max_topics_per_connection = 5
        [namespace."scores:*"]
        history_count = 7
        history_bytes = "1MiB"
        history_age = "1m"
        presence = false
        presence_events_max = 9
        publishers = "server"
        slow_consumer = "conflate"
        data_bytes_max = "1KiB"
        [namespace."scores:final"]
        slow_consumer = "drop_oldest"
        [namespace."room:*"]
        presence_events_max = 50
        [namespace.news]
        publishers = "users"
    "#;
    let config = load_file("namespaces", file).unwrap();
    let of = |name| config.namespaces.of(name).clone();
    let scores = Settings {
        history_count_max: 7,
        history_bytes_max: 1 << 20,
        history_age_ms: 60_000,
        presence: false,
        presence_events_max: 9,
        publishers: Publishers::Server,
        slow_consumer: SlowConsumer::Conflate,
        data_bytes_max: 1 << 10,
    };
    assert_eq!(of("scores:1"), scores);
    assert_eq!(of("scores:final"), Settings { slow_consumer: SlowConsumer::DropOldest, ..Settings::CHANNEL });
    assert_eq!(of("room:lobby"), Settings { presence_events_max: 50, ..Settings::ROOM });
    assert_eq!(of("news"), Settings { publishers: Publishers::Users, ..Settings::CHANNEL });
    assert_eq!(of("newspaper"), Settings::CHANNEL);
    assert_eq!(config.max_topics_per_connection, 5);
}

#[test]
fn the_namespace_of_all_changes_the_defaults_of_every_other() {
    let file = r#"
        [namespace."*"]
        history_count = 3
        publishers = "users"
        [namespace."room:vip:*"]
        presence_events_max = 5
        [namespace."a:*"]
        history_count = 4
    "#;
    let namespaces = load_file("all", file).unwrap().namespaces;
    let changed = |settings| Settings { history_count_max: 3, publishers: Publishers::Users, ..settings };
    assert_eq!(namespaces.of("b"), &changed(Settings::CHANNEL));
    assert_eq!(namespaces.of("room:lobby"), &changed(Settings::ROOM));
    assert_eq!(namespaces.of("room:vip:1"), &Settings { presence_events_max: 5, ..changed(Settings::ROOM) });
    assert_eq!(namespaces.of("a:1"), &Settings { history_count_max: 4, ..changed(Settings::CHANNEL) });
}

#[test]
fn every_mistake_in_a_namespace_says_where_and_what_to_write() {
    let file = r#"
        history_age = "5m"
        [namespace]
        slow_consumer = "conflate"
        quiet = true
        [namespace."*"]
        history_age = "5"
        [namespace."a*b"]
        [namespace.""]
        [namespace."scores:*"]
        history_cout = 5
        slow_consumer = "drop-newest"
        publishers = 1979-05-27
        ping_interval = "25s"
        colour = "red"
        [namespace.chat.private]
        presence = false
        [namespaces."x"]
        presence = true
    "#;
    let text = load_file("bad-namespaces", file).unwrap_err();
    let mut expected = [
        r#"history_age (FILE): is no option; write history_age in the TOML file, below the topics it is for: [namespace."*"] is all"#,
        r#"namespace.slow_consumer (FILE): is no table; write it below the topics it is for: [namespace."*"] is all"#,
        r#"namespace.quiet (FILE): is no table; write tables in the TOML file such as [namespace."scores:*"]"#,
        r#"namespace."*".history_age (FILE): "5" has no unit; write a time with its unit from 1ms to 7d, such as 500ms, 25s, 5m or 1h"#,
        r#"namespace."a*b" (FILE): is no pattern; write a whole name, or a prefix that ends in *"#,
        r#"namespace."" (FILE): is no pattern; write a whole name, or a prefix that ends in *"#,
        r#"namespace."scores:*".history_cout (FILE): is no option of a namespace; did you mean history_count?"#,
        r#"namespace."scores:*".slow_consumer (FILE): "drop-newest" is no policy; write disconnect, drop_newest, drop_oldest or conflate"#,
        r#"namespace."scores:*".publishers (FILE): is a table or a date; write anyone, subscribers, users or server"#,
        r#"namespace."scores:*".ping_interval (FILE): is no option of a namespace; it is the whole server's: write it above the first table of the file"#,
        r#"namespace."scores:*".colour (FILE): is no option of a namespace; docs/config.md lists all options"#,
        r#"namespace."chat".private (FILE): is no option of a namespace; a dot in it needs quotes, such as [namespace."scores.*"]"#,
        r#"namespaces (FILE): is a table or a date; write tables in the TOML file such as [namespace."scores:*"]"#,
    ];
    let mut lines: Vec<&str> = text.lines().map(str::trim).collect();
    assert_eq!(lines.remove(0), "13 options are wrong:");
    lines.sort();
    expected.sort();
    assert_eq!(lines, expected);
}

#[test]
fn every_option_of_a_namespace_takes_its_defaults_and_refuses_nonsense() {
    for option in NAMESPACE_OPTIONS {
        for (pattern, default) in ["*", "room:*"].into_iter().zip(option.defaults.iter().copied()) {
            let good = format!("[namespace.{pattern:?}]\n{} = {default:?}\n", option.name);
            let namespaces = load_file(option.name, &good).unwrap().namespaces;
            let name = pattern.replace('*', "x");
            assert_eq!(namespaces.of(&name), Namespaces::default().of(&name), "{good}");
        }
        let bad = format!("[namespace.x]\n{} = \"nonsense\"\n", option.name);
        let text = load_file(option.name, &bad).unwrap_err();
        assert!(text.contains(option.name) && text.contains(option.written), "{text}");
    }
}

#[test]
fn a_pattern_without_quotes_is_told_to_have_them() {
    let text = load_file("unquoted", "[namespace.scores:*]\npresence = true\n").unwrap_err();
    assert!(text.contains("a pattern stands in quotes, such as [namespace.\"scores:*\"]"), "{text}");
    let text = load_file("scalar", "namespace = \"scores\"\n").unwrap_err();
    assert!(text.contains("namespace (FILE): is no table; write tables"), "{text}");
}

#[test]
fn namespaces_are_no_flags_and_no_variables() {
    let sources = Sources {
        flags: pairs(&[
            ("history_count", "5"),
            ("max_topics_per_connection", "0"),
            ("history_bytes_per_core", "2TiB"),
        ]),
        variables: pairs(&[
            ("MEGASOCK_NAMESPACE", "scores"),
            ("MEGASOCK_SLOW_CONSUMER", "conflate"),
            ("MEGASOCK_SERVER_ID", "two words"),
            ("MEGASOCK_PRODUCTION", "yes"),
        ]),
        file: None,
    };
    let text = Config::load(&sources).unwrap_err().to_string();
    for part in [
        "7 options are wrong:",
        "--history-count (command line): is no option; write history_count in the TOML file",
        "MEGASOCK_SLOW_CONSUMER (environment): is no option; write slow_consumer in the TOML file",
        "MEGASOCK_NAMESPACE (environment): is no option; write tables in the TOML file such as [namespace.\"scores:*\"]",
        "MEGASOCK_SERVER_ID (environment): \"two words\" has ' ' in it; write auto or a name",
        "MEGASOCK_PRODUCTION (environment): \"yes\" is neither on nor off",
        "--max-topics-per-connection (command line): \"0\" is less than 1; write a number from 1",
        "--history-bytes-per-core (command line): \"2TiB\" is larger than 1TiB; write a size from 64KiB",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

/// A folder with the files of keys, gone with the test.
struct Keyring(PathBuf);

impl Keyring {
    fn new(test: &str) -> Keyring {
        let folder = std::env::temp_dir().join(format!("megasock-keys-{test}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Keyring(folder)
    }

    /// Puts a file there.
    fn put(&self, name: &str, bytes: &[u8], mode: u32) {
        fs::write(self.0.join(name), bytes).unwrap();
        fs::set_permissions(self.0.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Reads a config file of this text from there.
    fn load(&self, text: &str) -> Result<Config, String> {
        self.put("megasock.toml", text.as_bytes(), 0o644);
        let sources = Sources { file: Some(self.0.join("megasock.toml")), ..Sources::default() };
        Config::load(&sources).map_err(|errors| errors.to_string().replace(self.0.to_str().unwrap(), "DIR"))
    }
}

impl Drop for Keyring {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const SECRET: &[u8] = b"a secret of thirty-two bytes, or so";

/// Test-only public keys, whose private halves were thrown away.
const EC_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEi+/G6AUL4EkvdFfBRde1p+GTM0mT
BBoYSoqJECv37Ll5jlQVSpRtVzx+VACQOl7eq7aw8WOkWFTNPvveqTT5zw==
-----END PUBLIC KEY-----
";
const ED_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAnOv2GVCFpSdwszNDntk1T+Xj/yDs7T8KJNPIuwO/VCI=
-----END PUBLIC KEY-----
";

#[test]
fn keys_are_read_from_files_beside_the_config() {
    let keyring = Keyring::new("good");
    keyring.put("secret", &[SECRET, b"\r\n"].concat(), 0o640);
    keyring.put("ec.pem", EC_PUBLIC.as_bytes(), 0o644);
    keyring.put("ed.pem", ED_PUBLIC.as_bytes(), 0o644);
    let absolute = keyring.0.join("ed.pem");
    let config = keyring.load(&format!(
        "token_issuer = \"https://id.example\"\ntoken_audience = \"chat\"\n\
         [key.\"2026-10\"]\nalgorithm = \"ES256\"\nfile = \"ec.pem\"\n\
         [key.shared]\nalgorithm = \"HS256\"\nfile = \"secret\"\n\
         [key.ed]\nalgorithm = \"EdDSA\"\nfile = {absolute:?}\n"
    ));
    let mut expected = Keys::default();
    expected.add("2026-10", Algorithm::Es256, EC_PUBLIC.as_bytes()).unwrap();
    expected.add("ed", Algorithm::EdDsa, ED_PUBLIC.as_bytes()).unwrap();
    expected.add("shared", Algorithm::Hs256, SECRET).unwrap();
    expected.require(Some("https://id.example".into()), Some("chat".into()));
    let config = config.unwrap();
    assert_eq!(config.keys, expected);
    assert!(!format!("{config:?}").contains("secret of"));
}

#[test]
fn every_mistake_in_a_key_says_where_and_what_to_do() {
    let keyring = Keyring::new("bad");
    keyring.put("open", SECRET, 0o604);
    keyring.put("short", b"short\n", 0o600);
    keyring.put("ec.pem", EC_PUBLIC.as_bytes(), 0o644);
    keyring.put("ec-600.pem", EC_PUBLIC.as_bytes(), 0o600);
    keyring.put("private.pem", EC_PUBLIC.replace("PUBLIC", "PRIVATE").as_bytes(), 0o600);
    keyring.put("large", &[b'a'; 70_000], 0o600);
    let table = |name: &str, algorithm: &str, file: &str| {
        format!("[key.{name}]\nalgorithm = \"{algorithm}\"\nfile = \"{file}\"\n")
    };
    let file = [
        "algorithm = \"HS256\"\n[key]\nfile = \"x\"\nold = 1\n[key.nothing]\n".to_owned(),
        "[key.typed]\nalgoritm = \"HS256\"\nfile = \"\"\nlisten = \"x\"\n".to_owned(),
        "[key.a.b]\nalgorithm = \"HS256\"\n[keys.x]\nfile = \"x\"\n".to_owned(),
        table("unknown", "HS512", "open"),
        table("open", "HS256", "open"),
        table("short", "HS256", "short"),
        table("pem", "HS256", "ec-600.pem"),
        table("private", "ES256", "private.pem"),
        table("other", "RS256", "ec.pem"),
        table("large", "HS256", "large"),
        table("folder", "HS256", "."),
        table("gone", "EdDSA", "gone.pem"),
    ];
    let text = keyring.load(&file.concat()).unwrap_err().replace("DIR/megasock.toml", "FILE");
    let mut expected = [
        r#"algorithm (FILE): is no option; write algorithm in the TOML file, below the name of its key, such as [key."2026-10"]"#,
        r#"key.file (FILE): is no table; write it below the name of its key, such as [key."2026-10"]"#,
        r#"key.old (FILE): is no table; write tables in the TOML file such as [key."2026-10"]"#,
        r#"key."nothing".algorithm (FILE): is missing; write HS256, RS256, ES256 or EdDSA"#,
        r#"key."nothing".file (FILE): is missing; write the path of a file"#,
        r#"key."typed".algorithm (FILE): is missing; write HS256, RS256, ES256 or EdDSA"#,
        r#"key."typed".algoritm (FILE): is no option of a key; did you mean algorithm?"#,
        r#"key."typed".file (FILE): "" is empty; write the path of a file"#,
        r#"key."typed".listen (FILE): is no option of a key; it is the whole server's: write it above the first table of the file"#,
        r#"key."a".algorithm (FILE): is missing; write HS256, RS256, ES256 or EdDSA"#,
        r#"key."a".file (FILE): is missing; write the path of a file"#,
        r#"key."a".b (FILE): is no option of a key; a dot in it needs quotes, such as [key."2026.10"]"#,
        r#"keys (FILE): is a table or a date; write tables in the TOML file such as [key."2026-10"]"#,
        r#"key."unknown".algorithm (FILE): "HS512" is no algorithm of tokens; write HS256, RS256, ES256 or EdDSA"#,
        r#"key."open".file (FILE): DIR/open has the mode 0604: everybody on this host can read the secret; chmod o= DIR/open"#,
        r#"key."short".file (FILE): DIR/short holds a secret of fewer than 32 bytes; make one that nobody can guess: megasock token --new-key FILE"#,
        r#"key."pem".file (FILE): DIR/ec-600.pem holds a key in PEM, which is no secret; write the algorithm of that key, or name the file of the secret"#,
        r#"key."private".file (FILE): DIR/private.pem holds a private key; this server needs the public half alone; keep it where tokens are made, and name its public half: openssl pkey -in DIR/private.pem -pubout"#,
        r#"key."other".file (FILE): DIR/ec.pem holds no public key for RS256 in PEM; name a file with -----BEGIN PUBLIC KEY-----, or write the algorithm of the key in it"#,
        r#"key."large".file (FILE): DIR/large is no file of at most 64 KiB; name the file the key is in"#,
        r#"key."folder".file (FILE): DIR/. is no file of at most 64 KiB; name the file the key is in"#,
        r#"key."gone".file (FILE): DIR/gone.pem cannot be read: No such file or directory (os error 2); name a file that the server's user can read; megasock token --new-key FILE makes a secret"#,
    ];
    let mut lines: Vec<&str> = text.lines().map(str::trim).collect();
    assert_eq!(lines.remove(0), "22 options are wrong:");
    lines.sort();
    expected.sort();
    assert_eq!(lines, expected);
    assert!(!text.contains("thirty-two") && !text.contains("short\n"));
}

#[test]
fn production_wants_keys_origins_and_limits() {
    let load = |flags: &[(&str, &str)]| {
        let sources = Sources { flags: pairs(flags), ..Sources::default() };
        Config::load(&sources).map_err(|errors| errors.to_string())
    };
    let text = load(&[("production", "on")]).unwrap_err();
    for part in [
        "2 options are wrong:",
        "--production (command line): is on, but there is no key to verify tokens with; write [key.\"2026-10\"] with its \
         algorithm and file in the TOML file (megasock token --new-key FILE makes one), or anonymous = \"on\" to let",
        "--production (command line): is on, but origins is any; set origins to origins such as https://app.example.com",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }

    let enough = [("production", "on"), ("origins", "https://app.example.com"), ("anonymous", "on")];
    assert!(load(&enough).is_ok(), "who says that everybody may come in means it");
    for limit in [
        "max_connections_per_address",
        "max_connections_per_user",
        "accept_rate_per_address",
        "accept_rate",
        "message_rate",
        "byte_rate",
    ] {
        let text = load(&[&enough[..], &[(limit, "off")]].concat()).unwrap_err();
        assert!(text.contains(&format!("is on, but {limit} is off; set {limit} to a ")), "{text}");
        assert!(load(&[(limit, "off")]).is_ok(), "development may do without");
    }

    // Where production is written is where its wants are told; a key that is wrong is one mistake, not two.
    let keyring = Keyring::new("production");
    keyring.put("secret", SECRET, 0o600);
    let key = "[key.k]\nalgorithm = \"HS256\"\nfile = \"secret\"\n";
    let text = keyring.load(&format!("production = true\n{key}")).unwrap_err();
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.contains("production (DIR/megasock.toml): is on, but origins is any"), "{text}");
    let origins = "production = true\norigins = [\"https://app.example.com\"]\n";
    assert!(keyring.load(&format!("{origins}{key}")).is_ok());
    let text = keyring.load(&format!("{origins}[key]\n")).unwrap_err();
    assert!(text.contains("there is no key to verify tokens with"), "an empty table is no key: {text}");
    keyring.put("secret", b"short", 0o600);
    let text = keyring.load(&format!("{origins}{key}")).unwrap_err();
    assert!(text.lines().count() == 2 && text.contains("fewer than 32 bytes"), "{text}");
}

#[test]
fn variables_of_a_kubernetes_service_called_megasock_are_not_ours() {
    let variables = pairs(&[
        ("MEGASOCK_PORT", "tcp://10.0.0.1:8080"),
        ("MEGASOCK_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("MEGASOCK_SERVICE_HOST", "10.0.0.1"),
        ("MEGASOCK_SERVICE_PORT", "8080"),
        ("MEGASOCK_SERVICE_PORT_WS", "8080"),
        // Of another service, called megasock-admin.
        ("MEGASOCK_ADMIN_SERVICE_HOST", "10.0.0.2"),
        ("MEGASOCK_ADMIN_SERVICE_PORT", "9090"),
        ("MEGASOCK_ADMIN_SERVICE_PORT_METRICS", "9090"),
        ("MEGASOCK_ADMIN_PORT", "tcp://10.0.0.2:9090"),
        ("MEGASOCK_ADMIN_PORT_9090_TCP", "tcp://10.0.0.2:9090"),
        ("MEGASOCK_ADMIN_PORT_9090_TCP_PORT", "9090"),
    ]);
    let sources = Sources { variables, ..Sources::default() };
    assert_eq!(Config::load(&sources).unwrap(), Config::default());
    for mistyped in ["MEGASOCK_ADMIN_LISTN", "MEGASOCK_PORTS", "MEGASOCK_ADMIN_PORT_TCP", "MEGASOCK_SERVICE"]
    {
        let sources = Sources { variables: pairs(&[(mistyped, "1")]), ..Sources::default() };
        assert!(Config::load(&sources).unwrap_err().to_string().contains(mistyped));
    }
}

#[test]
fn a_proxys_header_is_of_no_use_without_proxies_to_trust() {
    let load = |flags: &[(&str, &str)]| {
        Config::load(&Sources { flags: pairs(flags), ..Sources::default() })
            .map_err(|error| error.to_string())
    };
    let refused = load(&[("proxy_protocol", "on")]).unwrap_err();
    assert!(refused.contains("--proxy-protocol (command line): is on, but there is no proxy"), "{refused}");
    assert!(refused.contains("set trusted_proxies to the addresses of the proxies"), "{refused}");
    assert!(load(&[("proxy_protocol", "on"), ("trusted_proxies", "10.0.0.0/8")]).unwrap().proxy_protocol);
}

#[test]
fn a_command_reads_no_more_keys_than_it_works_with() {
    let keyring = Keyring::new("closed");
    keyring.put("secret", SECRET, 0o600);
    keyring.put(
        "megasock.toml",
        b"admin_key_file = \"gone\"\nproduction = true\norigins = \"https://a.example\"\n\
          [key.a]\nalgorithm = \"HS256\"\nfile = \"secret\"\n[key.b]\nalgorithm = \"HS256\"\nfile = \"gone\"\n",
        0o600,
    );
    let sources = Sources { file: Some(keyring.0.join("megasock.toml")), ..Sources::default() };
    let load = |files| Config::load_with(&sources, files).map_err(|error| error.to_string());
    let signing = |name: &str| KeyFiles::Signing(Some(name.to_owned()));
    assert!(load(KeyFiles::None).unwrap().keys.is_empty());
    let names: Vec<String> =
        load(signing("a")).unwrap().keys.names().map(|(name, _)| name.to_owned()).collect();
    assert_eq!(names, ["a"]);
    for (files, count, says) in [
        (KeyFiles::All, 2, "gone cannot be read"),
        (KeyFiles::Admin, 1, "admin_key_file ("),
        (signing("b"), 1, "key.\"b\".file ("),
        (signing("c"), 1, "--key (command line): \"c\" is no key; choose one of \"a\", \"b\""),
        (
            KeyFiles::Signing(None),
            1,
            "--key (command line): is missing where there are several keys; choose one",
        ),
    ] {
        let refused = load(files).unwrap_err();
        assert!(refused.lines().count() == 1 + count && refused.contains(says), "{refused}");
    }
}

#[test]
fn a_commands_own_options_stand_before_the_servers() {
    for (command, own) in [("token", "--sign-with"), ("top", "--once"), ("doctor", "--connections")] {
        let help = String::from_utf8(megasock(&[command, "--help"]).stdout).unwrap();
        let (before, after) = help.split_once("Options of the server:").expect("a heading");
        assert!(before.contains(own) && !after.contains(own), "{help}");
        assert!(!before.contains("--listen") && after.contains("--listen"), "{help}");
    }
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
        "--sever-id=n1",
        "--slow-consumer",
        "conflate",
        "--namespace=scores",
        "--slow-consumer-budget",
        "lots",
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
        "--sever-id (command line): is no option; did you mean --server-id?",
        "--slow-consumer (command line): is no option; write slow_consumer in the TOML file, below the topics",
        "--namespace (command line): is no option; write tables in the TOML file such as [namespace.\"scores:*\"]",
        "--slow-consumer-budget (command line): \"lots\" is not a whole number; write auto or a size from 64KiB",
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
