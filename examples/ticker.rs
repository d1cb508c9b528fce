//! A price feed published from a tokio task: `cargo run --release --example ticker` says what to open and to type.
//!
//! Clients may only listen; one that reads too slowly gets the latest price alone instead of all it missed.

use megasock::config::Config;
use megasock::hub::{Mail, Namespaces, Open, Publishers, Settings, SlowConsumer};
use megasock::server::{Invalid, Unanswered};
use megasock::{Handle, Server};
use std::time::Duration;

const SYMBOLS: [&str; 3] = ["ACME", "INIT", "OOPS"];

/// A new price for every symbol, ten times a second, until the server stops.
async fn publish(server: Handle<Mail>) -> Result<(), Invalid> {
    let mut every = tokio::time::interval(Duration::from_millis(100));
    let mut cents = SYMBOLS.map(|_| 10_000);
    for step in 0u64.. {
        every.tick().await;
        for (at, symbol) in SYMBOLS.iter().enumerate() {
            cents[at] += (step * 31 + at as u64 * 17) % 7; // no market, but it moves
            cents[at] -= (step * 13 + at as u64 * 5) % 7;
            let price = format!(r#"{{"symbol":"{symbol}","cents":{}}}"#, cents[at]);
            match server.publish(&format!("prices:{symbol}"), price)?.await {
                Ok(offset) if offset % 600 == 0 => println!("{symbol}: {offset} prices"),
                Ok(_) => {}
                Err(Unanswered::Stopped) => return Err(Invalid::Stopped),
                Err(missed) => println!("{symbol}: {missed}"), // the next price comes soon
            }
        }
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut namespaces = Namespaces::default();
    let prices = Settings {
        publishers: Publishers::Server,
        slow_consumer: SlowConsumer::Conflate,
        ..Settings::CHANNEL
    };
    namespaces.add("prices:*", prices).expect("a pattern, given once");
    let config = Config { listen: ([127, 0, 0, 1], 8080).into(), namespaces, ..Config::default() };
    let running = Server::builder().config(config).hub(|_core| Open).start()?;
    let address = running.handle().local_address();
    println!("npx wscat -c ws://{address}/ws");
    println!(r#"  {{"type":"subscribe","id":1,"channel":"prices:ACME"}}          its price, live"#);
    println!(r#"  {{"type":"history","id":2,"channel":"prices:ACME","limit":5}}  the last five"#);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(async { runtime.spawn(publish(running.handle().clone())).await })??;
    Ok(())
}
