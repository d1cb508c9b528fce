//! The API: what it takes ([`arguments`]), what it answers (`shape`, `fault`), and what it does.

pub mod arguments;
pub(super) mod channels;
pub(super) mod connections;
pub mod fault;
pub(super) mod figures;
pub(super) mod process;
pub(super) mod shape;

use super::http::{Answer, Code};
use super::routes::Routes;
use ::http::StatusCode;
use arguments::Arguments;
use fault::Fault;
use serde_json::Value;

/// Entries of a list where no limit is given.
const LIMIT: u64 = 100;

/// What is to be sent: no larger than what clients may send.
fn data<'a>(routes: &Routes, arguments: &'a Arguments) -> Result<&'a str, Fault> {
    let (data, most) = (arguments.text("data").unwrap_or("null"), routes.operator.max_message_bytes());
    if data.len() > most {
        return Err(Fault::new(Code::TooLarge, format!("data may have no more than {most} bytes")));
    }
    Ok(data)
}

fn limit(arguments: &Arguments) -> usize {
    arguments.number("limit").unwrap_or(LIMIT) as usize
}

fn ok(value: &Value) -> Answer {
    Answer::json(StatusCode::OK, value)
}
