//! Packets the kernel dropped or sent again. A run counts only while both stay at zero: a drop on loopback is a
//! retransmit of at least 200 ms, and measures the host's settings, not the server.

use super::read;
use serde::Serialize;

/// Counters since boot (drops) or since the network namespace was made (retransmits).
#[derive(Clone, Copy, Debug, Default, Serialize, PartialEq, Eq)]
pub(crate) struct Packets {
    pub(crate) softnet_drops: u64,
    pub(crate) retransmits: u64,
}

impl Packets {
    pub(crate) fn now() -> Packets {
        Packets {
            softnet_drops: softnet_drops(&read("/proc/net/softnet_stat")),
            retransmits: column(&read("/proc/net/snmp"), "Tcp:", "RetransSegs").unwrap_or(0),
        }
    }

    pub(crate) fn since(self, before: Packets) -> Packets {
        Packets {
            softnet_drops: self.softnet_drops - before.softnet_drops,
            retransmits: self.retransmits - before.retransmits,
        }
    }
}

/// The second column of each core's line, in hexadecimal.
fn softnet_drops(text: &str) -> u64 {
    let drops = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
    text.lines().filter_map(drops).sum()
}

/// A value from the pairs of lines (names, values) of /proc/net/snmp.
fn column(text: &str, protocol: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(protocol));
    let at = lines.next()?.split_whitespace().position(|word| word == name)?;
    lines.next()?.split_whitespace().nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_name_and_in_hexadecimal() {
        assert_eq!(softnet_drops("0000 0000000a 0 0\n0001 00000001 0 0\n"), 11);
        let snmp = "Ip: A B\nIp: 1 2\nTcp: InSegs RetransSegs InErrs\nTcp: 7 8 9\n";
        assert_eq!(column(snmp, "Tcp:", "RetransSegs"), Some(8));
        assert_eq!(column(snmp, "Tcp:", "Nothing"), None);
    }
}
