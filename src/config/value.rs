//! How each kind of value is written, and how it is read.
//!
//! Durations carry a unit always, sizes unless they are plain bytes; zero and endless values are refused here, so that
//! nothing behind the configuration meets them.

use crate::budget;
use crate::hub::{Publishers, SlowConsumer};
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// A kind of value: its name in `--help`, the words that say how to write one, and its reader.
pub(super) struct Kind<T> {
    pub(super) name: &'static str,
    pub(super) written: &'static str,
    pub(super) parse: fn(&str) -> Result<T, String>,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One line a person reads.
    Text,
    /// One JSON object a line.
    Json,
}

pub(super) const ADDRESS: Kind<SocketAddr> = Kind {
    name: "ADDRESS",
    written: "an IP address and port, such as 0.0.0.0:8080 or [::]:8080",
    parse: |text| text.parse().map_err(|_| "is no address with a port".into()),
};

pub(super) const ADDRESS_OR_OFF: Kind<Option<SocketAddr>> = Kind {
    name: "ADDRESS",
    written: "off or an IP address and port, such as 127.0.0.1:9090 or [::1]:9090",
    parse: |text| match text {
        "off" => Ok(None),
        _ => (ADDRESS.parse)(text).map(Some),
    },
};

pub(super) const FILE_OR_NONE: Kind<Option<PathBuf>> = Kind {
    name: "FILE",
    written: "none or the path of a file",
    parse: |text| match text {
        "none" => Ok(None),
        "" => Err("is empty".into()),
        _ => Ok(Some(text.into())),
    },
};

pub(super) const REACTORS: Kind<Option<usize>> = Kind {
    name: "COUNT",
    written: "auto or a number from 1 to 256",
    parse: |text| match text {
        "auto" => Ok(None),
        _ => in_range(text, 1, budget::REACTORS_MAX as u64).map(|count| Some(count as usize)),
    },
};

pub(super) const CORES: Kind<Option<Vec<usize>>> = Kind {
    name: "LIST",
    written: "auto or core numbers and ranges, such as 0,2-5",
    parse: |text| match text {
        "auto" => Ok(None),
        _ => core_list(text).map(Some),
    },
};

pub(super) const COUNT_OR_AUTO: Kind<Option<u64>> = Kind {
    name: "COUNT",
    written: "auto or a number of at least 1, such as 1000000 or 1_000_000",
    parse: |text| match text {
        "auto" => Ok(None),
        _ => in_range(text, 1, u64::from(u32::MAX)).map(Some),
    },
};

pub(super) const COUNT: Kind<u32> = Kind {
    name: "COUNT",
    written: "a number from 1 to 4294967295",
    parse: |text| in_range(text, 1, u64::from(u32::MAX)).map(|count| count as u32),
};

/// From the longest control frame, which must always fit, to half of what a 32-bit length could say.
pub(super) const SIZE: Kind<usize> = Kind {
    name: "SIZE",
    written: "a size from 125B to 1GiB, such as 65536, 64KiB or 1MiB",
    parse: |text| size_between(text, "125B", "1GiB").map(|bytes| bytes as usize),
};

/// Memory that many connections or topics share.
pub(super) const MEMORY: Kind<usize> = Kind {
    name: "SIZE",
    written: "a size from 64KiB to 1TiB, such as 64MiB or 2GiB",
    parse: |text| size_between(text, "64KiB", "1TiB").map(|bytes| bytes as usize),
};

pub(super) const MEMORY_OR_AUTO: Kind<Option<u64>> = Kind {
    name: "SIZE",
    written: "auto or a size from 64KiB to 1TiB, such as 64MiB or 2GiB",
    parse: |text| match text {
        "auto" => Ok(None),
        _ => size_between(text, "64KiB", "1TiB").map(Some),
    },
};

pub(super) const DURATION: Kind<u64> = Kind {
    name: "TIME",
    written: "a time with its unit from 1ms to 7d, such as 500ms, 25s, 5m or 1h",
    parse: duration_ms,
};

pub(super) const DURATION_OR_OFF: Kind<Option<u64>> = Kind {
    name: "TIME",
    written: "off or a time with its unit from 1ms to 7d, such as 500ms, 25s, 5m or 1h",
    parse: |text| match text {
        "off" => Ok(None),
        _ => duration_ms(text).map(Some),
    },
};

pub(super) const SWITCH: Kind<bool> = Kind {
    name: "SWITCH",
    written: "on or off",
    parse: |text| match text {
        "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        _ => Err("is neither on nor off".into()),
    },
};

pub(super) const SWITCH_OR_AUTO: Kind<Option<bool>> = Kind {
    name: "SWITCH",
    written: "auto, on or off",
    parse: |text| match text {
        "auto" => Ok(None),
        _ => (SWITCH.parse)(text).map(Some).map_err(|_| "is neither auto, on nor off".into()),
    },
};

/// Nothing that JSON, a metric's label or a shell would have to escape.
pub(super) const NAME_OR_AUTO: Kind<Option<String>> = Kind {
    name: "NAME",
    written: "auto or a name of 1 to 128 letters, digits and . _ : -",
    parse: |text| match text {
        "auto" => Ok(None),
        "" => Err("is empty".into()),
        _ if text.len() > 128 => Err("is longer than 128 characters".into()),
        _ => match text.chars().find(|c| !c.is_ascii_alphanumeric() && !"._:-".contains(*c)) {
            Some(other) => Err(format!("has {other:?} in it")),
            None => Ok(Some(text.to_owned())),
        },
    },
};

/// An issuer or audience: compared as it is.
pub(super) const TEXT_OR_ANY: Kind<Option<String>> = Kind {
    name: "TEXT",
    written: "any or the exact text, of at most 255 bytes",
    parse: |text| match text {
        "any" => Ok(None),
        "" => Err("is empty".into()),
        _ if text.len() > 255 => Err("is longer than 255 bytes".into()),
        _ => Ok(Some(text.to_owned())),
    },
};

pub(super) const ORIGINS: Kind<Option<Vec<String>>> = Kind {
    name: "LIST",
    written: "any or origins such as https://app.example.com,http://localhost:3000",
    parse: |text| match text {
        "any" => Ok(None),
        _ => text.split(',').map(|one| origin(one.trim())).collect::<Result<_, _>>().map(Some),
    },
};

pub(super) const NETWORKS: Kind<Vec<IpNet>> = Kind {
    name: "LIST",
    written: "none or addresses and networks such as 10.0.0.0/8,192.168.1.7,fd00::/8",
    parse: |text| match text {
        "none" => Ok(Vec::new()),
        _ => text.split(',').map(|one| network(one.trim())).collect(),
    },
};

pub(super) const COUNT_OR_OFF: Kind<Option<u32>> = Kind {
    name: "COUNT",
    written: "off or a number from 1 to 4294967295",
    parse: |text| match text {
        "off" => Ok(None),
        _ => in_range(text, 1, u64::from(u32::MAX)).map(|count| Some(count as u32)),
    },
};

pub(super) const RATE: Kind<u32> =
    Kind { name: "RATE", written: "a number a second from 1 to 10000000, such as 50/s", parse: rate };

pub(super) const RATE_OR_OFF: Kind<Option<u32>> = Kind {
    name: "RATE",
    written: "off or a number a second from 1 to 10000000, such as 50/s",
    parse: |text| match text {
        "off" => Ok(None),
        _ => rate(text).map(Some),
    },
};

pub(super) const BYTE_RATE_OR_OFF: Kind<Option<u32>> = Kind {
    name: "RATE",
    written: "off or a size a second from 125B/s to 1GiB/s, such as 1MiB/s",
    parse: |text| match text {
        "off" => Ok(None),
        _ => size_between(a_second(text), "125B", "1GiB").map(|bytes| Some(bytes as u32)),
    },
};

/// `None` is all of them.
pub(super) const EVENTS: Kind<Option<u32>> = Kind {
    name: "RATE",
    written: "all, off or a number a second from 1 to 10000000, such as 100/s",
    parse: |text| match text {
        "all" => Ok(None),
        "off" => Ok(Some(0)),
        _ => rate(text).map(Some),
    },
};

pub(super) const MESSAGES: Kind<usize> = Kind {
    name: "COUNT",
    written: "a number from 0 to 1000000",
    parse: |text| in_range(text, 0, 1_000_000).map(|count| count as usize),
};

pub(super) const MEMBERS: Kind<u32> = Kind {
    name: "COUNT",
    written: "a number from 0 to 4294967295",
    parse: |text| in_range(text, 0, u64::from(u32::MAX)).map(|count| count as u32),
};

pub(super) const PUBLISHERS: Kind<Publishers> = Kind {
    name: "WHO",
    written: "anyone, subscribers, users or server",
    parse: |text| match text {
        "anyone" => Ok(Publishers::Anyone),
        "subscribers" => Ok(Publishers::Subscribers),
        "users" => Ok(Publishers::Users),
        "server" => Ok(Publishers::Server),
        _ => Err("is none of those who can publish".into()),
    },
};

pub(super) const SLOW_CONSUMER: Kind<SlowConsumer> = Kind {
    name: "POLICY",
    written: "disconnect, drop_newest, drop_oldest or conflate",
    parse: |text| {
        let named = SlowConsumer::ALL.into_iter().find(|policy| policy.name() == text);
        named.ok_or_else(|| "is no policy".into())
    },
};

pub(super) const LOG_FILTER: Kind<String> = Kind {
    name: "FILTER",
    written: "off, error, warn, info, debug or trace, or levels by target such as info,megasock::reactor=debug",
    parse: |text| match text.split(',').find(|part| !is_log_level(part)) {
        None => Ok(text.to_owned()),
        Some(part) => Err(format!("has {part:?}, which is no level and no target with its level")),
    },
};

pub(super) const LOG_FORMAT: Kind<LogFormat> = Kind {
    name: "FORMAT",
    written: "text or json",
    parse: |text| match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("is neither text nor json".into()),
    },
};

/// A level, or a target and its level. The library takes a lone word for a target, so that a mistyped level would silence
/// everything.
fn is_log_level(part: &str) -> bool {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let (target, level) = part.rsplit_once('=').unwrap_or(("all", part));
    let is_parsed = part.parse::<tracing_subscriber::filter::Targets>().is_ok();
    let is_target = !target.is_empty() && !target.contains(char::is_whitespace);
    is_parsed && is_target && LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level))
}

const DURATION_MS_MAX: u64 = 7 * 24 * 3_600_000;
const DURATION_UNITS_MS: &[(&str, u64)] =
    &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 24 * 3_600_000)];

const SIZE_UNITS_BYTES: &[(&str, u64)] = &[
    ("", 1),
    ("B", 1),
    ("kB", 1_000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
    ("TB", 1_000_000_000_000),
    ("TiB", 1 << 40),
];

fn duration_ms(text: &str) -> Result<u64, String> {
    match with_unit(text, DURATION_UNITS_MS, "time")? {
        0 => Err("is zero".into()),
        ms if ms > DURATION_MS_MAX => Err("is longer than 7d".into()),
        ms => Ok(ms),
    }
}

/// A size no smaller than `least` and no larger than `most`, which are written as a user would write them.
fn size_between(text: &str, least: &str, most: &str) -> Result<u64, String> {
    let size_bytes = |text| with_unit(text, SIZE_UNITS_BYTES, "size");
    match size_bytes(text)? {
        bytes if bytes < size_bytes(least)? => Err(format!("is smaller than {least}")),
        bytes if bytes > size_bytes(most)? => Err(format!("is larger than {most}")),
        bytes => Ok(bytes),
    }
}

/// A whole number followed by one of `units`, perhaps with a space between.
fn with_unit(text: &str, units: &[(&str, u64)], what: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let (number, unit) = (whole(&text[..digits])?, text[digits..].trim());
    let Some((_, factor)) = units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) else {
        return Err(match unit {
            "" => "has no unit".into(),
            _ => format!("has the unit {unit:?}, which is no {what}"),
        });
    };
    number.checked_mul(*factor).ok_or_else(|| "is too large".into())
}

/// What stands before `/s`.
fn a_second(text: &str) -> &str {
    text.strip_suffix("/s").unwrap_or(text).trim()
}

fn rate(text: &str) -> Result<u32, String> {
    in_range(a_second(text), 1, 10_000_000).map(|rate| rate as u32)
}

/// An origin as browsers send it (RFC 6454 §6.2): a path or an upper-case host would never match.
fn origin(text: &str) -> Result<String, String> {
    let (scheme, host) =
        text.split_once("://").ok_or_else(|| format!("has {text:?}, which lacks https://"))?;
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_host = !host.is_empty() && host.chars().all(|c| is_plain(c) || "-.:[]_".contains(c));
    if scheme.is_empty() || !scheme.chars().all(|c| is_plain(c) || "+-.".contains(c)) || !is_host {
        return Err(format!(
            "has {text:?}, which no browser sends: write scheme and host, in lower case, without a path"
        ));
    }
    let default_port = [("https", ":443"), ("http", ":80")];
    match default_port.iter().find(|(of, port)| *of == scheme && host.ends_with(port)) {
        Some((_, port)) => Err(format!("has {text:?}, which browsers send without {port}")),
        None => Ok(text.to_owned()),
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    let one = |_| text.parse::<IpAddr>().map(IpNet::from);
    let network =
        text.parse::<IpNet>().or_else(one).map_err(|_| format!("has {text:?}, which is no network"))?;
    if network.trunc() != network {
        return Err(format!("has {text:?}, which has bits beyond its length: {} is meant", network.trunc()));
    }
    Ok(network)
}

fn in_range(text: &str, least: u64, most: u64) -> Result<u64, String> {
    let number = whole(text)?;
    match number {
        _ if number < least => Err(format!("is less than {least}")),
        _ if number > most => Err(format!("is more than {most}")),
        _ => Ok(number),
    }
}

fn whole(text: &str) -> Result<u64, String> {
    match text.replace('_', "") {
        digits if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) => {
            Err("is not a whole number".into())
        }
        digits => digits.parse().map_err(|_| "is too large".into()),
    }
}

/// `0,2-5` as the numbers it names, in the order given, each once.
fn core_list(text: &str) -> Result<Vec<usize>, String> {
    // The kernel's own bound on CPU numbers (NR_CPUS); it also keeps a range from naming billions.
    const CORE_MAX: u64 = 8191;
    let mut cores = Vec::new();
    for part in text.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (in_range(first, 0, CORE_MAX)?, in_range(last, 0, CORE_MAX)?);
        if first > last {
            return Err(format!("has a range that runs backwards: {part}"));
        }
        for core in first as usize..=last as usize {
            if cores.contains(&core) {
                return Err(format!("names core {core} twice"));
            }
            cores.push(core);
        }
    }
    Ok(cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit_and_a_length() {
        for (text, ms) in
            [("25s", 25_000), ("500ms", 500), ("5 m", 300_000), ("1h", 3_600_000), ("7d", 604_800_000)]
        {
            assert_eq!((DURATION.parse)(text), Ok(ms), "{text}");
        }
        for (text, problem) in [
            ("25", "has no unit"),
            ("0s", "is zero"),
            ("8d", "is longer than 7d"),
            ("-1s", "is not a whole number"),
            ("s", "is not a whole number"),
            ("5 parsecs", "has the unit \"parsecs\", which is no time"),
            ("99999999999999999999s", "is too large"),
            ("9999999999999999999d", "is too large"),
        ] {
            assert_eq!((DURATION.parse)(text), Err(problem.to_owned()), "{text}");
        }
        assert_eq!((DURATION_OR_OFF.parse)("off"), Ok(None));
    }

    #[test]
    fn sizes_know_both_families_of_units() {
        for (text, bytes) in
            [("65536", 65_536), ("64KiB", 65_536), ("64kib", 65_536), ("1MB", 1_000_000), ("1GiB", 1 << 30)]
        {
            assert_eq!((SIZE.parse)(text), Ok(bytes), "{text}");
        }
        for text in ["124B", "2GiB", "64K", "1.5MiB", ""] {
            assert!((SIZE.parse)(text).is_err(), "{text}");
        }
    }

    #[test]
    fn shared_memory_may_be_larger_than_one_message() {
        for (text, bytes) in [("64KiB", 64 << 10), ("8GiB", 8 << 30), ("1TB", 1_000_000_000_000)] {
            assert_eq!((MEMORY.parse)(text), Ok(bytes), "{text}");
            assert_eq!((MEMORY_OR_AUTO.parse)(text), Ok(Some(bytes as u64)), "{text}");
        }
        assert_eq!((MEMORY_OR_AUTO.parse)("auto"), Ok(None));
        for (text, problem) in [("63KiB", "is smaller than 64KiB"), ("2TiB", "is larger than 1TiB")] {
            assert_eq!((MEMORY.parse)(text), Err(problem.to_owned()), "{text}");
            assert_eq!((MEMORY_OR_AUTO.parse)(text), Err(problem.to_owned()), "{text}");
        }
    }

    #[test]
    fn every_word_means_what_it_says() {
        for (word, meaning) in [
            ("anyone", Publishers::Anyone),
            ("subscribers", Publishers::Subscribers),
            ("users", Publishers::Users),
            ("server", Publishers::Server),
        ] {
            assert_eq!((PUBLISHERS.parse)(word), Ok(meaning), "{word}");
            assert!(PUBLISHERS.written.contains(word));
        }
        for (word, meaning) in [
            ("disconnect", SlowConsumer::Disconnect),
            ("drop_newest", SlowConsumer::DropNewest),
            ("drop_oldest", SlowConsumer::DropOldest),
            ("conflate", SlowConsumer::Conflate),
        ] {
            assert_eq!((SLOW_CONSUMER.parse)(word), Ok(meaning), "{word}");
            assert!(SLOW_CONSUMER.written.contains(word));
        }
    }

    #[test]
    fn a_server_is_named_so_that_nothing_needs_escaping() {
        assert_eq!((NAME_OR_AUTO.parse)("auto"), Ok(None));
        for name in ["n1", "eu-west_2.example:8080", &"n".repeat(128)] {
            assert_eq!((NAME_OR_AUTO.parse)(name), Ok(Some(name.to_owned())));
        }
        for name in ["", "a b", "a\"", "ä", "a\n", &"n".repeat(129)] {
            assert!((NAME_OR_AUTO.parse)(name).is_err(), "{name}");
        }
    }

    #[test]
    fn origins_are_what_browsers_send() {
        let two = vec!["https://app.example.com".to_owned(), "http://localhost:3000".to_owned()];
        assert_eq!((ORIGINS.parse)("https://app.example.com, http://localhost:3000"), Ok(Some(two)));
        assert_eq!((ORIGINS.parse)("any"), Ok(None));
        for text in [
            "",
            "null",
            "app.example.com",
            "https://",
            "https://a/",
            "https://A",
            "https://a:443",
            "https://*.a",
        ] {
            assert!((ORIGINS.parse)(text).is_err(), "{text}");
        }
    }

    #[test]
    fn networks_are_addresses_or_whole_prefixes() {
        let read = |text| {
            (NETWORKS.parse)(text).map(|all| all.iter().map(IpNet::to_string).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(read("none"), Ok(String::new()));
        assert_eq!(read("10.0.0.0/8, 192.168.1.7,fd00::/8"), Ok("10.0.0.0/8 192.168.1.7/32 fd00::/8".into()));
        assert!(read("10.0.0.1/8").unwrap_err().contains("10.0.0.0/8 is meant"));
        for text in ["", "10.0.0.0/33", "example.com", "10.0.0.0/8,"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_are_a_second() {
        assert_eq!((RATE_OR_OFF.parse)("50/s"), Ok(Some(50)));
        assert_eq!((RATE_OR_OFF.parse)("1_000"), Ok(Some(1000)));
        assert_eq!((BYTE_RATE_OR_OFF.parse)("1MiB/s"), Ok(Some(1 << 20)));
        assert_eq!(((RATE_OR_OFF.parse)("off"), (BYTE_RATE_OR_OFF.parse)("off")), (Ok(None), Ok(None)));
        for text in ["0/s", "50/m", "-1", "fast", "off/s"] {
            assert!((RATE_OR_OFF.parse)(text).is_err() && (BYTE_RATE_OR_OFF.parse)(text).is_err(), "{text}");
        }
        assert!((RATE.parse)("off").is_err());
    }

    #[test]
    fn core_lists_name_each_core_once() {
        assert_eq!((CORES.parse)("0,2-5"), Ok(Some(vec![0, 2, 3, 4, 5])));
        assert_eq!((CORES.parse)("auto"), Ok(None));
        for text in ["", "0,0", "1-3,2", "5-2", "a", "0-99999999", "1,"] {
            assert!((CORES.parse)(text).is_err(), "{text}");
        }
    }

    #[test]
    fn counts_stay_within_their_range() {
        assert_eq!((COUNT_OR_AUTO.parse)("1_000_000"), Ok(Some(1_000_000)));
        for text in ["0", "1025", "two"] {
            assert!((REACTORS.parse)(text).is_err(), "{text}");
        }
        assert!(REACTORS.written.contains(&budget::REACTORS_MAX.to_string()));
    }

    #[test]
    fn a_log_filter_must_be_one() {
        for text in ["off", "WARN", "info,megasock::reactor=debug", "info,ws.connect=off", "megasock=trace"] {
            assert_eq!((LOG_FILTER.parse)(text), Ok(text.to_owned()));
        }
        for text in [
            "inof",
            "nonsense=",
            "=",
            "",
            "=info",
            "loud=very",
            "info,",
            "info, ws.connect=off",
            "info,megasock::reactor",
            "a=b=info",
        ] {
            assert!((LOG_FILTER.parse)(text).is_err(), "{text}");
        }
    }
}
