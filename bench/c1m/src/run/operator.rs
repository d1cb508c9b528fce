//! The admin listener beside clients: how long its answers take, and what a flood of garbage on it does to the clients.

use super::{PACED_LEAD, Run};
use crate::flood::Flood;
use crate::observe::memory::{rss_bytes, rss_bytes_roughly};
use crate::operator::{Asked, Asker, ask};
use crate::report::operator::{Answers, Flood as Floods, Watch};
use crate::server::{Launch, Server};
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// The flood alone, so that it is in full when echoes are measured.
const GATHER: Duration = Duration::from_secs(1);
/// Time for the listener to let go of what it held.
const RECOVER: Duration = Duration::from_secs(2);
const SECOND_PORT_OFFSET: u16 = 10;

impl Run {
    /// Scrapes and publications through the admin listener while connections echo.
    pub(crate) fn watch(&mut self, per_second: f64) {
        let Some(admin) = self.admin() else { return };
        if self.over() {
            return;
        }
        let connections = self.fleet.tally().open;
        self.fleet.hold(PACED_LEAD, |_| {});
        let askers = [Asker::scrapes(admin), Asker::publishes(admin)];
        self.open_loop(per_second, self.options.load);
        let [scrapes, publications] = askers.map(Asker::end);
        let answers = |asked: &Asked| Answers::of(&asked.histogram(), asked.failed, asked.body_bytes);
        self.report.watch = Some(Watch {
            connections,
            echoes_per_second: per_second,
            scrapes: answers(&scrapes),
            publications: answers(&publications),
        });
    }

    /// The same echoes beside the same flood: of an admin listener in another process, and of the server's own, in turns.
    pub(crate) fn flood(&mut self, connections: u32, rounds: u32, per_second: f64) {
        let Some(admin) = self.admin() else { return };
        if self.over() {
            return;
        }
        let unrelated = match self.unrelated_server() {
            Ok(server) => server,
            Err(why) => return self.fail(format!("no flood without a server elsewhere: {why}")),
        };
        let mut floods = Floods { connections, ..Floods::default() };
        floods.quiet_p99_us = self.honest("alone", per_second, &mut |_| {}).p99_us;
        floods.rss_before_bytes = self.pid().map(rss_bytes);
        for _ in 0..rounds {
            if self.over() {
                break;
            }
            let (elsewhere, _) = self.beside_flood(unrelated.launch.admin(), connections, per_second);
            let (own, peak_bytes) = self.beside_flood(admin, connections, per_second);
            floods.rounds.push((elsewhere.p99_us, own.p99_us));
            floods.errors += elsewhere.errors + own.errors;
            floods.rss_peak_bytes = floods.rss_peak_bytes.max(peak_bytes);
            floods.sent_bytes.0 += elsewhere.sent_bytes;
            floods.sent_bytes.1 += own.sent_bytes;
            floods.ended_by_server += own.ended_by_server;
        }
        self.fleet.hold(RECOVER, |_| {});
        let health = format!("GET /health HTTP/1.1\r\nHost: {admin}\r\n\r\n");
        floods.answers_after =
            matches!(ask(&mut None, admin, health.as_bytes()), Ok(answer) if answer.status == 200);
        floods.rss_after_bytes = self.pid().map(rss_bytes);
        self.report.flood = Some(floods);
    }

    fn beside_flood(
        &mut self,
        to: SocketAddr,
        connections: u32,
        per_second: f64,
    ) -> (BesideFlood, Option<u64>) {
        let flood = Flood::start(to, connections, &self.cores.driver);
        self.fleet.hold(GATHER, |_| {});
        let (pid, mut peak_bytes) = (self.pid(), None);
        let honest = self.honest("beside a flood", per_second, &mut |_| {
            peak_bytes = peak_bytes.max(pid.map(rss_bytes_roughly));
        });
        let spilled = flood.end();
        let beside = BesideFlood {
            p99_us: honest.p99_us,
            errors: honest.errors,
            sent_bytes: spilled.sent_bytes.load(Relaxed),
            ended_by_server: spilled.ended_by_server.load(Relaxed),
        };
        (beside, peak_bytes)
    }

    fn admin(&self) -> Option<SocketAddr> {
        self.server.as_ref().map(|server| server.launch.admin())
    }

    /// Another server of the same kind that has no clients.
    fn unrelated_server(&self) -> Result<Server, String> {
        let own = &self.server.as_ref().ok_or("only beside a server started here")?.launch;
        Server::start(Launch {
            port: own.port + SECOND_PORT_OFFSET,
            admin_port: own.admin_port + SECOND_PORT_OFFSET,
            reactors: 1,
            connections: 16,
            args: Vec::new(),
            log: own.log.with_file_name("server-unrelated.log"),
            ..own.clone()
        })
    }
}

struct BesideFlood {
    p99_us: u64,
    errors: u64,
    sent_bytes: u64,
    ended_by_server: u64,
}
