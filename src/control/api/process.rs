//! The server as a whole: its configuration, its end.

use super::arguments::Arguments;
use super::fault::Fault;
use super::ok;
use super::shape::Shape;
use crate::control::answers::{Late, deadline};
use crate::control::http::{Answer, Code};
use crate::control::openapi;
use crate::control::routes::Routes;
use serde_json::json;
use std::time::Duration;

pub const RELOADED: Shape =
    Shape::Object(&[("applied", Shape::List(&Shape::Text)), ("needs_restart", Shape::List(&Shape::Text))]);

pub const DRAIN: Shape = Shape::Object(&[
    ("clients", Shape::Count),
    ("closes_over_ms", Shape::Count),
    ("returns_after_ms", Shape::Count),
    ("returns_over_ms", Shape::Count),
    ("timeout_ms", Shape::Count),
    ("handed_over", Shape::Bool),
]);

/// Names what is in force now, and what will be after a restart.
pub async fn reload(routes: &Routes, _: Arguments) -> Result<Answer, Fault> {
    let unread = |_| Fault::new(Code::TryAgain, "the server has no thread to spare; nothing has changed");
    let late = |Late| {
        Fault::new(Code::Timeout, "this reload, or the one before it, takes long; the log tells its end")
    };
    let reloading = (routes.operator.reload)();
    let reloaded = routes.answers.by(deadline(), reloading).await.map_err(late)?.map_err(unread)??;
    Ok(ok(&json!({"applied": reloaded.applied, "needs_restart": reloaded.needs_restart})))
}

/// Begins to stop the server, and says what it is going to do.
pub async fn drain(routes: &Routes, arguments: Arguments) -> Result<Answer, Fault> {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let drain = (routes.operator.drain)(arguments.number("timeout").map(Duration::from_millis));
    Ok(ok(&json!({
        "clients": drain.clients,
        "closes_over_ms": ms(drain.closes_over),
        "returns_after_ms": ms(drain.returns_after),
        "returns_over_ms": ms(drain.returns_over),
        "timeout_ms": ms(drain.timeout),
        "handed_over": drain.is_handed_over,
    })))
}

/// This API, described for programs.
pub async fn openapi(routes: &Routes, _: Arguments) -> Result<Answer, Fault> {
    Ok(ok(&openapi::document(routes.operator.key().is_some())))
}
