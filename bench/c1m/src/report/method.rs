//! How each block of a report was measured, in a sentence. It goes into report.json and report.html beside the figures, so
//! that a report read elsewhere says what its numbers are.

use serde_json::{Map, Value};

const METHOD: [(&str, &str); 15] = [
    (
        "ramp",
        "From the first connect to the last connection open; in channels one is open once its subscription is \
         confirmed. Server CPU is the schedstat time of all its threads over the number opened.",
    ),
    (
        "memory",
        "Two seconds after every connection had one answer: resident memory from smaps_rollup over the open \
         connections; kernel memory is the growth of slab, halved where both ends are on this host.",
    ),
    ("hold", "Nothing but the server's pings, each answered; server CPU from schedstat."),
    (
        "echo",
        "Closed loop: the next is sent when one is answered. Open loop: sent at fixed times on random connections, \
         latency from the time each was due; without 99 % of the rate there are no percentiles.",
    ),
    ("cpu", "Schedstat time of all threads of the server during the closed loop, over the answers."),
    ("retention", "The same closed loop with few and with all connections open, in one run."),
    (
        "storm",
        "From the first cut to the last connection open again: as fast as it goes, or, where there are attempts, each client \
         by itself as clients/js does: after a cut a random delay below 1 s, after the n-th failure in a row one below \
         min(30 s, 1 s x 2^n), after a hint exactly that. A browser does not see Retry-After, so it is counted and not \
         followed. Peaks are over any second, and any tenth of one, of welcomes as they reach the driver, which \
         is later than they were given while both ends are busy; certain are those also asked for in that second.",
    ),
    (
        "drain",
        "A second server starts on the port of the first, which is then sent SIGTERM. Each client comes back after the delay \
         it was told, counted from its close; newcomers handshake at a steady rate all along, from threads of their own. \
         Peaks are over any second, and any tenth of one, of welcomes as they reach the driver.",
    ),
    (
        "attacks",
        "Honest clients echo in an open loop, each latency from when its message was due, in windows of the same length: \
         alone and beside the attackers in turns. The ratio is the median of the rounds, pair by pair. The attackers are \
         threads on the driver's cores that run when nothing else there wants to (SCHED_IDLE), so that what the honest \
         clients lose they lose at the server; a system call of an attacker is not interrupted, which still costs them \
         some. Wire bytes are those of the attackers' TCP streams, both ways, in one round. Resident memory as the kernel's \
         counters have it, over what it was before the first round, kernel buffers of all TCP sockets from sockstat, their \
         peaks four times a second.",
    ),
    (
        "watch",
        "GET /metrics ten times a second and POST /api/publish a hundred times a second, each on a connection that is kept, from \
         when it was due to the end of its answer, while connections echo in an open loop.",
    ),
    (
        "flood",
        "Echoes in an open loop beside connections that send garbage as fast as it is taken and come back when they are ended: to \
         the admin listener of another server without clients and to that of the server measured, in turns. The flooding threads \
         run under SCHED_IDLE on the driver's cores. The ratio is the median of the rounds, pair by pair.",
    ),
    (
        "fanout",
        "One publishes in a closed loop; every delivery is counted, compared byte for byte and must be the next in \
         order. Server CPU is the schedstat time of all its threads over the deliveries; time to the last runs from \
         a publication to its arrival at the last subscriber.",
    ),
    (
        "broadcast",
        "One message to all after the hold; the percentiles are over its deliveries, each compared byte for byte, \
         from its publication to its arrival.",
    ),
    (
        "slow",
        "Publications at fixed times, first without and then with subscribers that are never read and have the \
         smallest receive buffer. Percentiles are over the deliveries to the others, from when a publication was \
         due; resident memory is read before the stalled connect and twice a second while they stall.",
    ),
    (
        "churn",
        "Publications at fixed times while a third of the subscribers is closed at random and connected again, round \
         after round. Each must receive all that follows its subscription, once and in order.",
    ),
];

/// The sentences for the blocks that `report` has.
pub(super) fn of(report: &Value) -> Map<String, Value> {
    let present = METHOD.iter().filter(|(block, _)| report.get(block).is_some());
    present.map(|(block, how)| ((*block).to_owned(), Value::from(*how))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_was_measured_is_explained() {
        let how = of(&json!({ "ramp": {}, "host": {}, "fanout": [] }));
        assert_eq!(how.keys().collect::<Vec<_>>(), ["fanout", "ramp"]);
    }
}
