//! The host files, the messages and `budget.rs` say the same numbers, and `scripts/tune` does what it says.

use megasock::budget::{self, HOST_NEEDS, TARGET_CONNECTIONS};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SYSCTL: &str = include_str!("../sysctl/60-megasock.conf");
const MODULES: &str = include_str!("../sysctl/60-megasock.modules");
const LIMITS: &str = include_str!("../limits/60-megasock.conf");
const UNIT_LIMITS: &str = include_str!("../deploy/systemd-limits.conf");
const UNIT: &str = include_str!("../deploy/systemd/megasock.service");
const HAPROXY: &str = include_str!("../deploy/haproxy/haproxy.cfg");
const SECCOMP: &str = include_str!("../deploy/seccomp.json");

/// Each setting of a file of `key = value`, with the comment above it.
fn settings(text: &str) -> BTreeMap<String, (String, String)> {
    let mut comment = "";
    let mut settings = BTreeMap::new();
    for line in text.lines() {
        match (line.strip_prefix("# "), line.split_once('=')) {
            (Some(words), _) => comment = words,
            (None, Some((key, value))) => {
                let key = key.trim().trim_start_matches('-').to_owned();
                settings.insert(key, (value.trim().to_owned(), std::mem::take(&mut comment).to_owned()));
            }
            (None, None) => {}
        }
    }
    settings
}

fn numbers(amounts: &[budget::Amount]) -> String {
    let numbers: Vec<String> =
        amounts.iter().map(|amount| amount.number(TARGET_CONNECTIONS).to_string()).collect();
    numbers.join(" ")
}

#[test]
fn the_sysctl_file_sets_the_budgets_needs_and_says_why() {
    let mut settings = settings(SYSCTL);
    for need in &HOST_NEEDS {
        let (value, why) =
            settings.remove(need.key).unwrap_or_else(|| panic!("{} is not in the file", need.key));
        assert_eq!(value, numbers(need.amounts), "{}", need.key);
        let reason = need.why.to_lowercase();
        assert!(
            why.to_lowercase().starts_with(&reason),
            "{}: the file says {why:?}, the budget {reason:?}",
            need.key
        );
    }
    assert!(settings.is_empty(), "the budget does not know {settings:?}");
}

#[test]
fn the_limits_are_the_budgets() {
    let lines: Vec<Vec<&str>> = LIMITS
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| !words.is_empty())
        .collect();
    let (nofile, memlock_kib) = (budget::NOFILE.to_string(), (budget::MEMLOCK_BYTES >> 10).to_string());
    assert_eq!(
        lines,
        [
            ["*", "-", "nofile", &nofile],
            ["root", "-", "nofile", &nofile],
            ["*", "-", "memlock", &memlock_kib]
        ]
    );
    let unit = settings(UNIT_LIMITS);
    assert_eq!(unit["LimitNOFILE"].0, nofile);
    assert_eq!(unit["LimitMEMLOCK"].0, format!("{}M", budget::MEMLOCK_BYTES >> 20));
    assert!(unit.values().all(|(_, why)| !why.is_empty()));
    for limit in ["LimitNOFILE", "LimitMEMLOCK"] {
        assert_eq!(settings(UNIT)[limit].0, unit[limit].0, "the unit and the drop-in");
    }
    assert!(budget::NOFILE_LINES.contains(&format!("LimitNOFILE={nofile}")));
    assert!(budget::NOFILE_LINES.contains(&format!("ulimit -n {nofile}")));
    assert!(budget::MEMLOCK_LINES.contains(&format!("ulimit -l {memlock_kib}")));
    assert!(budget::MEMLOCK_LINES.contains(&format!("LimitMEMLOCK={}", unit["LimitMEMLOCK"].0)));
    assert_eq!(settings(SYSCTL)["fs.file-max"].0, budget::FILE_MAX.to_string());
}

#[test]
fn exactly_a_million_files_would_be_too_few() {
    let reactors = budget::reactors_for(TARGET_CONNECTIONS, budget::NOFILE);
    let queues = budget::CoreBudget::for_reactors(reactors);
    assert!(u64::from(queues.descriptors(TARGET_CONNECTIONS as u32)) <= budget::NOFILE);
    assert!(u64::from(queues.descriptors(TARGET_CONNECTIONS as u32)) > 1_000_000);
}

#[test]
fn messages_point_at_files_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let named = [
        "deploy/systemd-limits.conf",
        "deploy/systemd-io-uring.conf",
        "deploy/seccomp.json",
        "deploy/systemd/megasock.service",
        "limits/60-megasock.conf",
        "scripts/tune",
        "docs/operating.md",
        "docs/config.md",
    ];
    for file in named {
        assert!(root.join(file).is_file(), "{file}");
    }
}

/// Of 10: what `systemd-analyze` says a process in this unit could still do to the host.
const EXPOSURE_MAX: f64 = 2.0;

#[test]
fn the_unit_exposes_little() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd/megasock.service");
    let analysed = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager"])
        .arg(unit)
        .output()
        .expect("systemd-analyze, of the package systemd");
    let said = String::from_utf8_lossy(&analysed.stdout);
    let (_, level) =
        said.split_once("exposure level for megasock.service: ").unwrap_or_else(|| panic!("{said}"));
    let exposure: f64 = level.split_whitespace().next().unwrap().parse().unwrap();
    assert!(exposure > 0.0 && exposure <= EXPOSURE_MAX, "{said}");
}

#[test]
fn the_unit_gives_a_drain_the_time_it_takes_and_stops_by_a_signal_that_drains() {
    let unit = settings(UNIT);
    let stop_ms = unit["TimeoutStopSec"].0.parse::<u64>().unwrap() * 1_000;
    assert!(stop_ms > megasock::config::Config::default().drain_timeout_ms);
    assert_eq!(unit["KillSignal"].0, "SIGTERM");
}

#[test]
fn the_unit_is_started_again_however_often_it_fails_and_not_after_a_drain() {
    let (of_the_unit, of_the_service) = UNIT.split_once("[Service]").unwrap();
    assert_eq!(settings(of_the_unit)["StartLimitIntervalSec"].0, "0", "no number of starts is the last");
    let service = settings(of_the_service);
    assert_eq!(service["Restart"].0, "on-failure");
    // Rings of a killed server hold its port for about a second.
    let pause_s = service["RestartSec"].0.strip_suffix('s').unwrap().parse::<u64>().unwrap();
    assert!(pause_s >= 2, "{pause_s} s");
}

#[test]
fn haproxy_opens_no_more_connections_to_a_server_than_an_address_has_ports() {
    let range = &settings(SYSCTL)["net.ipv4.ip_local_port_range"].0;
    let (first, last) = range.split_once(' ').unwrap();
    let ports = last.parse::<u32>().unwrap() - first.parse::<u32>().unwrap() + 1;
    let line = HAPROXY.lines().find(|line| line.trim_start().starts_with("default-server check")).unwrap();
    let (_, connections_max) = line.split_once(" maxconn ").expect("a limit of its own");
    assert!(connections_max.parse::<u32>().unwrap() < ports, "{line}; there are {ports}");
}

#[test]
fn the_units_command_line_is_one_the_binary_takes() {
    let file = std::env::temp_dir().join(format!("megasock-unit-{}.toml", std::process::id()));
    fs::write(&file, "listen = \"127.0.0.1:0\"\n").unwrap();
    let settings = settings(UNIT);
    let mut words = settings["ExecStart"].0.split(' ').skip(1);
    assert_eq!(words.next(), Some("serve"));
    let mut arguments: Vec<String> = words.map(str::to_owned).collect();
    let config = arguments.iter().position(|word| word == "--config").expect("a configuration") + 1;
    assert!(arguments[config].starts_with("/etc/megasock/"), "below ConfigurationDirectory=");
    arguments[config] = file.display().to_string();
    // The doctor takes all options that serve takes, judges the host, and starts nothing.
    let ended = Command::new(env!("CARGO_BIN_EXE_megasock"))
        .args(["doctor", "--connections", "10"])
        .args(&arguments)
        .output()
        .unwrap();
    fs::remove_file(file).unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
}

#[test]
fn the_seccomp_profile_allows_the_three_calls_and_refuses_what_it_does_not_name() {
    let profile: serde_json::Value = serde_json::from_str(SECCOMP).unwrap();
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let allowed: Vec<&str> = profile["syscalls"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|rule| rule["action"] == "SCMP_ACT_ALLOW")
        .flat_map(|rule| rule["names"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()))
        .collect();
    for call in ["io_uring_setup", "io_uring_enter", "io_uring_register"] {
        assert!(allowed.contains(&call), "{call}");
    }
    for call in ["mount", "ptrace", "bpf", "unshare", "setns", "init_module", "kexec_load"] {
        assert!(!allowed.contains(&call), "{call}");
    }
}

/// A host of files: what `scripts/tune --root` works on.
struct Host {
    root: PathBuf,
}

impl Host {
    fn new(name: &str) -> Host {
        let root = std::env::temp_dir().join(format!("megasock-tune-{name}-{}", std::process::id()));
        let host = Host { root };
        for (key, value) in [
            ("fs/file-max", "9223372036854775807"),
            ("net/core/somaxconn", "4096"),
            ("net/ipv4/tcp_mem", "287901\t383868\t5075802"),
            ("net/ipv4/ip_local_port_range", "1024\t60999"),
        ] {
            host.write(&format!("proc/sys/{key}"), value);
        }
        host
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }

    /// The content of every file, with blanks as sysctl(8) shows them.
    fn files(&self) -> BTreeMap<String, String> {
        let mut files = BTreeMap::new();
        let mut folders = vec![self.root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(&self.root).unwrap().to_str().unwrap().to_owned();
                    files.insert(name, fs::read_to_string(&path).unwrap().trim().replace('\t', " "));
                }
            }
        }
        files
    }

    fn tune(&self, arguments: &[&str]) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/tune");
        let output: Output =
            Command::new(script).arg("--root").arg(&self.root).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

#[test]
fn tune_raises_what_is_short_says_so_and_puts_it_back() {
    let host = Host::new("revert");
    host.write("etc/sysctl.d/60-megasock.conf", "# an older one");
    let before = host.files();

    let said = host.tune(&[]);
    let changed = host.files();
    assert_eq!(changed["proc/sys/net/core/somaxconn"], "65535");
    assert!(said.contains("net.core.somaxconn: 4096 -> 65535"), "{said}");
    assert_eq!(changed["proc/sys/fs/file-max"], "9223372036854775807", "a larger value is kept");
    assert_eq!(changed["proc/sys/net/ipv4/tcp_mem"], "2000000 3000000 5075802", "number by number");
    assert_eq!(changed["proc/sys/net/ipv4/ip_local_port_range"], "1024 65535", "a wider range is kept");
    assert!(said.contains("skipped  net.core.netdev_max_backlog"), "{said}");
    assert_eq!(changed["etc/sysctl.d/60-megasock.conf"], SYSCTL.trim());
    assert_eq!(changed["etc/security/limits.d/60-megasock.conf"], LIMITS.trim());

    let again = host.tune(&[]);
    assert!(!again.contains("changed") && !again.contains("copied"), "{again}");

    let said = host.tune(&["--revert"]);
    assert!(said.contains("restored net.core.somaxconn: 65535 -> 4096"), "{said}");
    assert_eq!(host.files(), before);
    assert_eq!(host.tune(&["--revert"]), "nothing to revert\n");
}

/// The module comes with the first firewall, after the sysctl file at a boot.
#[test]
fn tune_has_connection_tracking_loaded_early_where_there_is_any() {
    const FILE: &str = "etc/modules-load.d/60-megasock.conf";
    let host = Host::new("modules");
    host.write("proc/sys/net/netfilter/nf_log_all_netns", "0");
    host.tune(&[]);
    assert!(!host.files().contains_key(FILE), "connections are not tracked");
    host.tune(&["--revert"]);
    host.write("proc/sys/net/netfilter/nf_conntrack_max", "262144");
    let before = host.files();

    host.tune(&["--dry-run"]);
    host.tune(&["--runtime"]);
    assert!(!host.files().contains_key(FILE));
    let said = host.tune(&[]);
    let changed = host.files();
    assert!(said.contains(FILE), "{said}");
    assert_eq!(changed[FILE], MODULES.trim());
    let modules: Vec<&str> = MODULES.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(modules, ["nf_conntrack"]);
    assert_eq!(changed["proc/sys/net/netfilter/nf_conntrack_max"], "1100000");

    host.tune(&["--revert"]);
    assert!(!host.files().contains_key(FILE));
    assert_eq!(host.files(), before);
}

#[test]
fn a_dry_run_and_a_run_for_the_kernel_only_leave_the_rest_alone() {
    let host = Host::new("dry");
    let before = host.files();
    let said = host.tune(&["--dry-run"]);
    assert!(said.contains("would    net.core.somaxconn: 4096 -> 65535"), "{said}");
    assert_eq!(host.files(), before);

    host.tune(&["--runtime"]);
    let changed = host.files();
    assert_eq!(changed["proc/sys/net/core/somaxconn"], "65535");
    assert!(!changed.keys().any(|file| file.starts_with("etc/")), "{changed:?}");
}
