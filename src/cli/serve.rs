//! `megasock serve`: what this host will carry, then the server.

use crate::config::Config;
use crate::server::capacity::{self, Plan, Wanted};
use crate::sys::host::{HostFacts, raise_nofile};
use crate::sys::probe;
use std::process::ExitCode;

/// Serves until a signal ends it.
pub(super) fn run(config: Config) -> ExitCode {
    match check_host(&config) {
        Ok(plan) => {
            println!("megasock: {plan}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("megasock: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Raises the soft descriptor limit, makes sure of io_uring, and plans what the host carries.
fn check_host(config: &Config) -> Result<Plan, String> {
    // Where it cannot rise, the plan below says what the limit in force permits.
    let _ = raise_nofile();
    let facts = HostFacts::read();
    probe::setup(&facts).map_err(|missing| missing.explain(&facts).to_string())?;
    let wanted = Wanted {
        reactors: config.reactors,
        cores: config.cores.clone(),
        max_connections: config.max_connections,
    };
    capacity::plan(&facts, &wanted).map_err(|refusal| refusal.to_string())
}
