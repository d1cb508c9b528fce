//! A rolling restart: a second server starts on the port of the first, which is told to drain; its clients come back by
//! themselves, to the second, and newcomers keep coming all along.

use super::Run;
use crate::migrate::Migrate;
use crate::newcomers::Stream;
use crate::progress::Progress;
use crate::report::guard::{Drain, Homecoming};
use crate::server::Server;
use std::time::{Duration, Instant};

/// Newcomers alone, before and after.
const REST: Duration = Duration::from_secs(1);
/// What draining may take beside what the announced rate needs: the default of `drain_timeout`, and some.
const DRAIN_MAX: Duration = Duration::from_secs(90);
/// Last lines of the old server that are kept: its summary.
const SUMMARY_LINES: usize = 3;

impl Run {
    /// Replaces the server under load. `reconnect_rate` is what the old one announces, `newcomers` handshakes come a second.
    pub(crate) fn drain(&mut self, reconnect_rate: f64, newcomers: f64) {
        if self.over() {
            return;
        }
        let Some(mut old) = self.server.take() else { return };
        match self.hand_over(&mut old, reconnect_rate, newcomers) {
            Ok(new) => self.server = Some(new),
            Err(why) => {
                self.server = Some(old);
                self.fail(format!("nothing was replaced: {why}"));
            }
        }
    }

    fn hand_over(&mut self, old: &mut Server, rate: f64, newcomers: f64) -> Result<Server, String> {
        let _migrate = Migrate::on()?;
        let stream = Stream::start(&self.target, newcomers)?;
        let before = self.fleet.tally();
        let clients = before.open;
        self.fleet.hold(REST, |_| {});
        let mut new = old.start_beside()?;
        let signalled = Instant::now();
        self.order_returns(false, signalled);
        old.terminate();
        let mut progress = Progress::new("coming back", clients, Some(new.pid()));
        let (mut exit_s, mut back_s, mut status) = (None, None, None);
        let deadline = signalled + Duration::from_secs_f64(2.0 * clients as f64 / rate) + DRAIN_MAX;
        self.fleet.wait(deadline, |fleet| {
            let returned = fleet.tally().returned - before.returned;
            progress.at(returned);
            if status.is_none() {
                status = old.ended();
                exit_s = status.map(|_| signalled.elapsed().as_secs_f64());
            }
            if back_s.is_none() && returned >= clients {
                back_s = Some(signalled.elapsed().as_secs_f64());
            }
            (status.is_some() && back_s.is_some()) || !new.alive()
        });
        drop(progress);
        self.fleet.hold(REST, |_| {});
        let newcomers = stream.end();
        let joint = self.end_returns();
        let summary = old.said();
        let lines: Vec<String> = summary.lines().map(str::to_owned).collect();
        let home = Homecoming::of(clients, joint.returns.clone(), Some(rate));
        self.report.drain = Some(Drain {
            homecoming: home,
            seconds_to_exit: exit_s,
            seconds_to_all_back: back_s,
            exit_code: status.and_then(|status| status.code()),
            summary: lines[lines.len().saturating_sub(SUMMARY_LINES)..].to_vec(),
            told: joint.returns.told,
            endings: joint.returns.endings,
            newcomers,
        });
        Ok(new)
    }
}
