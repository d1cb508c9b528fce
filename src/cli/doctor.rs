//! `megasock doctor`: what this host has, what a target needs, and the command that mends each gap.
//!
//! A row *stops* the target when the server could not carry it: io_uring, descriptors, memory, a conntrack table in use.
//! Everything else that is short slows a ramp or loses packets and is a warning. Exit code 1 where something stops.
//! Without a target the host is judged for what it carries as it is, so that an untuned machine is not called broken; if
//! it carries nothing, for a million. All of it for the process as it will be: with `harden`, without the privileges it gives up.
//! Changes nothing; `scripts/tune` does.

use super::say;
use super::table::{Row, Table, Verdict, grouped};
use crate::budget::{self, Amount, CoreBudget, HOST_NEEDS, HostNeed};
use crate::config::Config;
use crate::server::capacity::{self, Limit, Plan, Refusal, Wanted};
use crate::sys::harden::{self, CALLS, HardenError};
use crate::sys::host::{self, HostFacts};
use crate::sys::probe::behaviour::{self, Finding};
use crate::sys::probe::{self, Missing, Needed};
use std::io::IsTerminal;
use std::process::ExitCode;

/// Looks at the host, prints the table, and fails where something stops `connections`.
pub(super) fn run(config: &Config, connections: Option<u64>) -> ExitCode {
    // Like the server, which raises its soft limits before it makes a ring; a refusal shows in the row for it.
    let _ = (host::raise_nofile(), host::raise_memlock());
    let tried = behaviour::try_all(&HostFacts::read());
    // Read after the trial's connection, so that one that is tracked is counted.
    let facts = HostFacts::read();
    let facts = if config.harden { facts.hardened() } else { facts };
    let asked = connections.or(config.max_connections);
    let wanted = Wanted { max_connections: asked, ..Wanted::of(config) };
    let plan = capacity::plan(&facts, &wanted);
    let carried = plan.as_ref().ok().map(|plan| plan.connections_total);
    let (target, why) = target(asked, carried);

    let mut rows = io_uring_rows(&tried, &facts);
    rows.extend(capacity_rows(&facts, target, &plan));
    rows.extend(HOST_NEEDS.iter().map(|need| need_row(need, &facts, target)));
    rows.push(hash_row(&facts, target));
    rows.push(port_row(&facts, config.listen.port()));
    rows.push(harden_row(config.harden.then(harden::rehearse), &facts));

    let terminal = std::io::stdout().is_terminal();
    let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let head = format!(
        "megasock doctor on Linux {}, for {} connections, {why}",
        facts.kernel_release,
        grouped(target)
    );
    let table = Table { rows: &rows, colour };
    // Who closes the pipe early (head, a pager) has read enough; the exit code still counts.
    say(format_args!("{head}\n\n{table}\n{}", summary(&rows, target, &plan)));
    match rows.iter().any(|row| row.verdict == Verdict::Stop) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}

/// How many connections the host is judged for, and why so many.
fn target(asked: Option<u64>, carried: Option<u64>) -> (u64, &'static str) {
    match (asked, carried) {
        (Some(asked), _) => (asked, "as asked"),
        (None, Some(carried)) => (carried, "what this host carries as it is"),
        (None, None) => {
            (budget::TARGET_CONNECTIONS, "though none were asked for: as it is this host carries none")
        }
    }
}

fn summary(rows: &[Row], target: u64, plan: &Result<Plan, Refusal>) -> String {
    let count = |verdict| rows.iter().filter(|row| row.verdict == verdict).count();
    let carries = match plan {
        Ok(plan) => format!("The server would run {plan}."),
        Err(_) => "The server would not start.".to_owned(),
    };
    let (stops, warnings) = (count(Verdict::Stop), count(Verdict::Warning));
    let verdict = match stops {
        0 => format!("Nothing stops {} connections; {warnings} to mend for a smooth run.", grouped(target)),
        _ => format!("{stops} of these stop {} connections; {warnings} more to mend.", grouped(target)),
    };
    format!("{carries}\n{verdict}")
}

fn good_if(good: bool, otherwise: Verdict) -> Verdict {
    if good { Verdict::Good } else { otherwise }
}

fn io_uring_rows(tried: &Result<Vec<Finding>, Missing>, facts: &HostFacts) -> Vec<Row> {
    let findings = match tried {
        Ok(findings) => findings,
        Err(missing) => {
            let why = missing.explain(facts);
            return vec![Row::new(Verdict::Stop, "io_uring", why.cause, String::new(), why.fix)];
        }
    };
    let set_up = Row::new(Verdict::Good, "io_uring", "works".into(), "Linux 6.1".into(), String::new());
    let rows = findings.iter().map(|Finding { what, since, required, seen }| {
        let (found, verdict) = match seen {
            Ok(seen) => (seen.clone(), Verdict::Good),
            Err(instead) => (instead.clone(), if *required { Verdict::Stop } else { Verdict::Warning }),
        };
        let fix = match required {
            true => format!("run on Linux {since} or later; 6.12 LTS or later by preference"),
            false => "update the kernel (6.18.20, 7.0 or a backport); until then the ping finds dead peers"
                .to_owned(),
        };
        Row::new(verdict, what, found, format!("Linux {since}"), fix)
    });
    std::iter::once(set_up).chain(rows).collect()
}

/// What decides how many connections fit: descriptors, locked memory, memory.
fn capacity_rows(facts: &HostFacts, target: u64, plan: &Result<Plan, Refusal>) -> Vec<Row> {
    let plan = match plan {
        Ok(plan) => plan,
        Err(refusal) => {
            let why = refusal.explain();
            return vec![Row::new(Verdict::Stop, "start", why.cause, String::new(), why.fix)];
        }
    };
    let per_ring = capacity::slots_per_ring(facts, plan.reactors, plan.budget).unwrap_or(0);
    let limits = capacity::limits(facts, plan.reactors, per_ring);
    let mut rows =
        vec![nofile_row(facts, target, plan, &limits), nr_open_row(facts), memlock_row(facts, plan)];
    for (carries, limit) in limits {
        let subject = match limit {
            Limit::Memory { .. } => "memory available",
            Limit::CgroupMemory { .. } => "control group memory",
            // The first has its row above, the other among the sysctls.
            Limit::Nofile { .. } | Limit::Ring | Limit::FileMax { .. } => continue,
            Limit::Asked | Limit::MemoryBudget { .. } => continue, // the operator's own
        };
        let found = format!("room for {}", grouped(carries));
        let needed = format!("{} B each", grouped(budget::FOOTPRINT_PER_CONNECTION_MAX));
        rows.push(Row::new(good_if(carries >= target, Verdict::Stop), subject, found, needed, limit.fix()));
    }
    rows
}

fn nofile_row(facts: &HostFacts, target: u64, plan: &Plan, limits: &[(u64, Limit)]) -> Row {
    let carried = limits.iter().find(|(_, limit)| matches!(limit, Limit::Nofile { .. } | Limit::Ring));
    let enough = carried.is_some_and(|(carries, _)| *carries >= target);
    let verdict = match enough {
        false => Verdict::Stop,
        true => good_if(plan.reactors <= facts.cores.len(), Verdict::Warning),
    };
    let needed = match (verdict, plan.reactors) {
        (Verdict::Warning, reactors) => {
            format!("as it is, {reactors} reactors share {} cores", facts.cores.len())
        }
        (_, reactors) => {
            let each = plan.budget.descriptors(plan.connections_per_reactor);
            format!("{} for each of {reactors} rings", grouped(each.into()))
        }
    };
    let found = format!("{} soft, {} hard", limit_text(facts.nofile_soft), limit_text(facts.nofile_hard));
    Row::new(verdict, "RLIMIT_NOFILE", found, needed, budget::NOFILE_LINES.into())
}

fn nr_open_row(facts: &HostFacts) -> Row {
    let found = facts.nr_open.unwrap_or(0);
    let enough = found >= budget::NOFILE || facts.nofile() >= budget::NOFILE;
    let fix = format!("sysctl -w fs.nr_open={}", budget::NOFILE);
    let needed = format!("{}, or RLIMIT_NOFILE cannot rise to it", grouped(budget::NOFILE));
    Row::new(good_if(enough, Verdict::Warning), "fs.nr_open", grouped(found), needed, fix)
}

fn memlock_row(facts: &HostFacts, plan: &Plan) -> Row {
    let reactors = plan.reactors as u64;
    let kib = |bytes: u64| format!("{} KiB", grouped(bytes.div_ceil(1024)));
    let full = CoreBudget::for_reactors(plan.reactors).locked_bytes() * reactors;
    let floor = Needed::least(plan.reactors).locked_bytes;
    let (verdict, found) = match facts.memlock_binding_bytes() {
        None => (Verdict::Good, "does not bind: unlimited, or CAP_IPC_LOCK while rings are made".to_owned()),
        Some(limit) if limit >= full => (Verdict::Good, kib(limit)),
        Some(limit) if limit >= floor || probe::floor_fits(plan.reactors) => (Verdict::Warning, kib(limit)),
        Some(limit) => (Verdict::Stop, kib(limit)),
    };
    let needed = format!("{}, at least {}", kib(full), kib(floor));
    Row::new(verdict, "RLIMIT_MEMLOCK", found, needed, budget::MEMLOCK_LINES.into())
}

fn need_row(need: &HostNeed, facts: &HostFacts, target: u64) -> Row {
    let numbers = |amounts: Vec<u64>| amounts.into_iter().map(grouped).collect::<Vec<_>>().join(" ");
    let wanted: Vec<u64> = need.amounts.iter().map(|amount| amount.number(target)).collect();
    let plain: Vec<String> = wanted.iter().map(u64::to_string).collect();
    let fix = format!("sysctl -w {}=\"{}\" (scripts/tune sets all)", need.key, plain.join(" "));
    let Some(found) = sysctl(need.key, facts) else {
        return Row::new(Verdict::Good, need.key, "not shown here".into(), numbers(wanted), fix);
    };
    let met = |(amount, found): (&Amount, &u64)| amount.met_by(*found, target);
    let verdict = match need.amounts.iter().zip(&found).all(met) {
        true => Verdict::Good,
        false if stops(need.key, facts, target) => Verdict::Stop,
        false => Verdict::Warning,
    };
    Row::new(verdict, need.key, numbers(found), numbers(wanted), fix)
}

/// Whether being short of this sysctl keeps connections out, rather than slow.
fn stops(key: &str, facts: &HostFacts, target: u64) -> bool {
    match key {
        "fs.file-max" => {
            let free = facts.file_max.unwrap_or(u64::MAX).saturating_sub(facts.files_open.unwrap_or(0));
            !facts.capabilities.sys_admin && free < target
        }
        // The trial's own connection was tracked, so each of the target's would be.
        "net.netfilter.nf_conntrack_max" => {
            facts.conntrack_count.is_some_and(|count| count > 0)
                && facts.conntrack_max.is_some_and(|max| max < target)
        }
        _ => false,
    }
}

/// What the host has set for a key of [`HOST_NEEDS`]; `None` where the kernel has no such key here.
fn sysctl(key: &str, facts: &HostFacts) -> Option<Vec<u64>> {
    let one = |value: Option<u64>| value.map(|number| vec![number]);
    match key {
        "fs.file-max" => one(facts.file_max),
        "net.core.somaxconn" => one(facts.somaxconn),
        "net.ipv4.tcp_max_syn_backlog" => one(facts.tcp_max_syn_backlog),
        "net.core.netdev_max_backlog" => one(facts.netdev_max_backlog),
        "net.ipv4.tcp_mem" => facts.tcp_mem_pages.map(|pages| pages.to_vec()),
        "net.ipv4.tcp_max_tw_buckets" => one(facts.tcp_max_tw_buckets),
        "net.ipv4.tcp_max_orphans" => one(facts.tcp_max_orphans),
        "net.ipv4.tcp_migrate_req" => one(facts.tcp_migrate_req),
        "net.ipv4.ip_local_port_range" => {
            facts.port_range.map(|(first, last)| vec![first.into(), last.into()])
        }
        "net.netfilter.nf_conntrack_max" => one(facts.conntrack_max),
        _ => None,
    }
}

/// The TCP hash is fixed at boot; only a new network namespace can have another.
fn hash_row(facts: &HostFacts, target: u64) -> Row {
    let needed = target * budget::TCP_HASH_BUCKETS_PER_CONNECTION;
    let entries = needed.next_power_of_two();
    let fix = format!(
        "thash_entries={entries} on the kernel command line; or a namespace with a table of its own: \
         sysctl -w net.ipv4.tcp_child_ehash_entries={entries}, then ip netns add megasock (docs/operating.md)"
    );
    let found = facts.tcp_hash_buckets;
    let verdict = good_if(found.is_none_or(|buckets| buckets >= needed), Verdict::Warning);
    let found = found.map_or("not shown".to_owned(), |buckets| format!("{} buckets", grouped(buckets)));
    Row::new(verdict, "TCP hash", found, format!("{}, or packets walk chains", grouped(needed)), fix)
}

/// A listening port that is also ephemeral can be taken by any outgoing connection before the server starts.
fn port_row(facts: &HostFacts, port: u16) -> Row {
    let within = |(first, last): (u16, u16)| (first..=last).contains(&port);
    let ephemeral = facts.port_range.is_some_and(within);
    let reserved = facts.reserved_ports.iter().any(|range| within(*range));
    let found = match (ephemeral, reserved) {
        (false, _) => "outside the ephemeral ports",
        (true, true) => "ephemeral, but reserved",
        (true, false) => "ephemeral",
    };
    let verdict = good_if(!ephemeral || reserved, Verdict::Warning);
    let mut ports: Vec<String> =
        facts.reserved_ports.iter().map(|(first, last)| format!("{first}-{last}")).collect();
    ports.push(port.to_string());
    let fix = format!("sysctl -w net.ipv4.ip_local_reserved_ports={}", ports.join(","));
    Row::new(verdict, &format!("port {port}"), found.into(), "outside, or reserved".into(), fix)
}

/// What the server gives up before it serves; `tried` on a thread, where it is asked for.
fn harden_row(tried: Option<Result<(), HardenError>>, facts: &HostFacts) -> Row {
    let (verdict, found, fix) = match tried {
        Some(Ok(())) => (Verdict::Good, given_up(facts), String::new()),
        Some(Err(error)) => {
            let said = error.to_string();
            let (cause, fix) = said.split_once("\n  fix: ").expect("every error names its fix");
            (Verdict::Stop, cause.to_owned(), fix.to_owned())
        }
        None => (Verdict::Warning, "off: the server keeps all it has".to_owned(), "--harden on".to_owned()),
    };
    Row::new(verdict, "hardening", found, "capabilities, exec, new rings given up".to_owned(), fix)
}

fn given_up(facts: &HostFacts) -> String {
    let calls: usize = CALLS.iter().map(|group| group.calls.len()).sum();
    let capabilities = match facts.capabilities.held {
        0 => "no capabilities to drop".to_owned(),
        held => format!("drops {held} capabilities"),
    };
    format!("{capabilities}, no_new_privs, seccomp: {calls} calls left")
}

fn limit_text(limit: u64) -> String {
    if limit == host::UNLIMITED { "unlimited".to_owned() } else { grouped(limit) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::host::{Capabilities, roomy};
    use std::io;

    fn rows(facts: &HostFacts, target: u64) -> Vec<Row> {
        let plan = capacity::plan(facts, &Wanted { max_connections: Some(target), ..Wanted::default() });
        let mut rows = capacity_rows(facts, target, &plan);
        rows.extend(HOST_NEEDS.iter().map(|need| need_row(need, facts, target)));
        rows.extend([hash_row(facts, target), port_row(facts, 8080)]);
        rows
    }

    fn short(facts: &HostFacts, target: u64) -> Vec<(String, Verdict)> {
        let rows = rows(facts, target).into_iter();
        rows.filter(|row| row.verdict != Verdict::Good).map(|row| (row.subject, row.verdict)).collect()
    }

    #[test]
    fn the_target_says_where_it_is_from() {
        assert_eq!(target(Some(7), Some(9)), (7, "as asked"));
        assert_eq!(target(None, Some(9)).0, 9);
        let (count, why) = target(None, None);
        assert!(count == 1_000_000 && why.contains("none were asked for"), "{why}");
    }

    #[test]
    fn every_need_of_the_budget_is_a_fact_the_doctor_reads() {
        let conntrack = HostFacts { conntrack_max: Some(1), ..roomy() };
        for need in &HOST_NEEDS {
            let found =
                sysctl(need.key, &conntrack).unwrap_or_else(|| panic!("{} is never looked at", need.key));
            assert_eq!(found.len(), need.amounts.len(), "{}", need.key);
        }
    }

    #[test]
    fn a_roomy_host_has_nothing_to_mend() {
        assert_eq!(short(&roomy(), 1_000_000), []);
    }

    #[test]
    fn what_keeps_connections_out_stops_and_what_slows_them_warns() {
        use Verdict::{Stop, Warning};
        let tracked = HostFacts { conntrack_max: Some(1_000), conntrack_count: Some(1), ..roomy() };
        let loaded = HostFacts { conntrack_count: Some(0), ..tracked.clone() };
        let files = HostFacts { file_max: Some(900_000), ..roomy() };
        let exempt = Capabilities { sys_admin: true, ..Capabilities::default() };
        let exempt = HostFacts { capabilities: exempt, ..files.clone() };
        for (facts, subject, verdict) in [
            (&tracked, "net.netfilter.nf_conntrack_max", Stop),
            (&loaded, "net.netfilter.nf_conntrack_max", Warning),
            (&files, "fs.file-max", Stop),
            (&exempt, "fs.file-max", Warning),
            (
                &HostFacts { memory_total_bytes: 2 << 30, memory_available_bytes: 1 << 30, ..roomy() },
                "memory available",
                Stop,
            ),
            (&HostFacts { tcp_hash_buckets: Some(262_144), ..roomy() }, "TCP hash", Warning),
            (
                &HostFacts { netdev_max_backlog: Some(1_000), ..roomy() },
                "net.core.netdev_max_backlog",
                Warning,
            ),
            (&HostFacts { port_range: Some((1_024, 65_535)), ..roomy() }, "port 8080", Warning),
            (
                &HostFacts { port_range: Some((32_768, 60_999)), ..roomy() },
                "net.ipv4.ip_local_port_range",
                Warning,
            ),
            (&HostFacts { nofile_hard: 20_000, nofile_soft: 20_000, ..roomy() }, "RLIMIT_NOFILE", Warning),
            (&HostFacts { nofile_hard: 64, nofile_soft: 64, ..roomy() }, "start", Stop),
        ] {
            assert_eq!(short(facts, 1_000_000), [(subject.to_owned(), verdict)]);
        }
    }

    #[test]
    fn a_reserved_port_is_safe_and_the_fix_keeps_those_reserved_already() {
        let wide = HostFacts { port_range: Some((1_024, 65_535)), ..roomy() };
        let reserved = HostFacts { reserved_ports: vec![(8_000, 8_100)], ..wide.clone() };
        assert_eq!(port_row(&reserved, 8_080).verdict, Verdict::Good);
        assert!(port_row(&reserved, 9_000).fix.ends_with("=8000-8100,9000"));
    }

    #[test]
    fn the_hash_is_mended_at_boot_or_by_a_namespace() {
        let row = hash_row(&HostFacts { tcp_hash_buckets: Some(262_144), ..roomy() }, 1_000_000);
        assert!(
            row.fix.contains("thash_entries=2097152") && row.fix.contains("tcp_child_ehash_entries=2097152")
        );
    }

    #[test]
    fn the_hardening_row_says_what_is_given_up_or_why_not() {
        let root =
            HostFacts { capabilities: Capabilities { held: 41, ..Capabilities::default() }, ..roomy() };
        let row = harden_row(Some(Ok(())), &root);
        assert!(
            row.verdict == Verdict::Good && row.found.starts_with("drops 41 capabilities"),
            "{}",
            row.found
        );
        assert_eq!(harden_row(None, &roomy()).verdict, Verdict::Warning);
        let refused = HardenError::Capabilities(io::Error::from_raw_os_error(libc::EPERM));
        let row = harden_row(Some(Err(refused)), &roomy());
        assert!(row.verdict == Verdict::Stop && row.fix.contains("deploy/seccomp.json"), "{}", row.fix);
    }

    #[test]
    fn missing_io_uring_is_one_row_with_cause_and_fix() {
        let rows = io_uring_rows(&Err(Missing::Seccomp), &roomy());
        assert_eq!(rows.len(), 1);
        assert!(rows[0].verdict == Verdict::Stop && rows[0].fix.contains("deploy/seccomp.json"));
    }
}
