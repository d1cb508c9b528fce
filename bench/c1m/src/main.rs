//! `c1m`: opens up to a million WebSocket connections against a server and reports what it saw.
//!
//! The path through it: [`cli`] says what is wanted, [`rows`] plans it and puts its phases together from [`run`], which
//! gives orders to a [`fleet`] of [`ring`]s and reads the host through [`observe`]; [`report`] is what comes out. What is
//! published is in [`topic`]. [`turns`] compares servers side by side instead.

mod arrivals;
mod attackers;
mod backoff;
mod blocking;
mod channels;
mod cli;
mod fleet;
mod flood;
mod migrate;
mod newcomers;
mod observe;
mod operator;
mod plan;
mod production;
mod progress;
mod report;
mod ring;
mod rows;
mod run;
mod server;
mod stalled;
mod target;
mod topic;
mod turns;
mod wire;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let outcome = match &cli.row {
        Some(cli::Row::Turns(turns)) => turns::compare(turns, &cli.options),
        row => rows::measure(row.as_ref(), &cli.options),
    };
    outcome.unwrap_or_else(|why| {
        eprintln!("c1m: {why}");
        ExitCode::from(2)
    })
}
