//! Users and their connections: messages to them, where they are, ending them.

use super::arguments::Arguments;
use super::fault::Fault;
use super::shape::Shape;
use super::{data, limit, ok};
use crate::control::answers::deadline;
use crate::control::http::{Answer, Code};
use crate::control::routes::Routes;
use crate::hub::SessionFacts;
use crate::reactor::ConnectionFacts;
use crate::server::{Pending, Unanswered};
use crate::sys::clock::unix_ms;
use monoio::time::Instant;
use serde_json::{Value, json};

/// Closes without a fault of anybody's (RFC 6455 §7.4.1).
const NORMAL: u64 = 1000;

pub const REACHED: Shape = Shape::Object(&[("connections", Shape::Count)]);

pub const CONNECTIONS: Shape = Shape::Object(&[
    (
        "connections",
        Shape::List(&Shape::Object(&[
            ("connectionId", Shape::Text),
            ("userId", Shape::OrNull(&Shape::Text)),
            ("ip", Shape::Text),
            ("core", Shape::Count),
            ("connectedAt", Shape::Count),
            ("lastActivity", Shape::Count),
            ("subscriptions", Shape::List(&Shape::Text)),
            ("subscriptionCount", Shape::Count),
            ("queueBytes", Shape::Count),
        ])),
    ),
    ("total", Shape::Count),
]);

/// A direct message to every connection of a user.
pub async fn send(routes: &Routes, arguments: Arguments) -> Result<Answer, Fault> {
    let (user, data) = (arguments.text("userId").unwrap_or_default(), data(routes, &arguments)?);
    let connections =
        routes.answers.by(deadline(), routes.operator.handle.send_to_user(user, data)?).await??;
    Ok(ok(&json!({"connections": connections})))
}

/// Closes every connection of a user, or one.
pub async fn disconnect(routes: &Routes, arguments: Arguments) -> Result<Answer, Fault> {
    let handle = &routes.operator.handle;
    let code = arguments.number("code").unwrap_or(NORMAL) as u16;
    let reason = arguments.text("reason").unwrap_or_default();
    let connections = match (arguments.text("userId"), arguments.text("connectionId")) {
        (Some(user), _) => {
            routes.answers.by(deadline(), handle.disconnect_user(user, code, reason)?).await??
        }
        (None, id) => {
            let id = id.unwrap_or_default();
            Look::at(routes, id)?.told(routes, deadline()).await?.ok_or_else(gone)?;
            handle.disconnect(id, code, reason)?;
            1
        }
    };
    Ok(ok(&json!({"connections": connections})))
}

/// Where a user is connected, or what one connection does.
pub async fn connections(routes: &Routes, arguments: Arguments) -> Result<Answer, Fault> {
    let deadline = deadline();
    let Some(user) = arguments.text("userId") else {
        let look = Look::at(routes, arguments.text("connectionId").unwrap_or_default())?;
        let connection = look.told(routes, deadline).await?.ok_or_else(gone)?;
        return Ok(ok(&json!({"connections": [connection], "total": 1})));
    };
    let pending = routes.operator.handle.connections_of(user, limit(&arguments))?;
    let found = routes.answers.by(deadline, pending).await??;
    let looks: Result<Vec<Look<'_>>, Fault> =
        found.connection_ids.iter().map(|id| Look::at(routes, id)).collect();
    let mut connections = Vec::new();
    for look in looks? {
        connections.extend(look.told(routes, deadline).await?); // one that has gone meanwhile is left out
    }
    Ok(ok(&json!({"connections": connections, "total": found.total})))
}

/// A connection of which its core and the hub have been asked.
struct Look<'a> {
    id: &'a str,
    core: usize,
    facts: oneshot::Receiver<Option<ConnectionFacts>>,
    session: Pending<Option<SessionFacts>>,
}

impl Look<'_> {
    fn at<'a>(routes: &Routes, id: &'a str) -> Result<Look<'a>, Fault> {
        let handle = &routes.operator.handle;
        let (core, conn) = handle.place(id).ok_or_else(gone)?;
        let facts = handle.look(core, conn).ok_or(Unanswered::Stopped)?;
        Ok(Look { id, core, facts, session: handle.session(id)? })
    }

    /// What they have told: nothing of a connection that is not open.
    async fn told(self, routes: &Routes, deadline: Instant) -> Result<Option<Value>, Fault> {
        let facts = routes.answers.by(deadline, self.facts).await?.map_err(|_| Unanswered::Stopped)?;
        let session = routes.answers.by(deadline, self.session).await??;
        let Some(facts) = facts else { return Ok(None) };
        let now_ms = unix_ms();
        // One that does not speak the channel protocol has no session.
        let session = session.as_ref();
        let subscriptions = session.map_or(&[][..], |session| &session.subscriptions);
        Ok(Some(json!({
            "connectionId": self.id,
            "userId": session.and_then(|session| session.user.as_deref()),
            "ip": facts.peer.ip().to_string(),
            "core": self.core,
            "connectedAt": now_ms.saturating_sub(facts.opened_ms_ago),
            "lastActivity": now_ms.saturating_sub(facts.active_ms_ago),
            "subscriptions": subscriptions.iter().map(|topic| &**topic).collect::<Vec<&str>>(),
            "subscriptionCount": session.map_or(0, |session| session.subscription_count),
            "queueBytes": facts.queue_bytes,
        })))
    }
}

fn gone() -> Fault {
    Fault::new(Code::NotFound, "there is no such connection")
}
