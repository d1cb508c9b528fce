//! Channels and rooms: publishing, who is there, what was said, which there are.

use super::arguments::Arguments;
use super::fault::Fault;
use super::shape::Shape;
use super::{data, limit, ok};
use crate::control::answers::deadline;
use crate::control::http::Answer;
use crate::control::routes::Routes;
use crate::hub::TopicFacts;
use ::http::StatusCode;
use serde_json::{Value, json};

pub const PUBLISHED: Shape = Shape::Object(&[("channel", Shape::Text), ("last_id", Shape::Count)]);

pub const BROADCAST: Shape = Shape::Object(&[(
    "results",
    Shape::List(&Shape::Either(&[
        PUBLISHED,
        Shape::Object(&[
            ("channel", Shape::Text),
            ("error", Shape::Object(&[("code", Shape::Text), ("message", Shape::Text)])),
        ]),
    ])),
)]);

pub const PRESENCE: Shape = Shape::Object(&[
    ("users", Shape::List(&Shape::Object(&[("userId", Shape::Text), ("connections", Shape::Count)]))),
    ("total", Shape::Count),
]);

/// Those of a room are as rooms have them.
pub const HISTORY: Shape = Shape::Object(&[
    ("epoch", Shape::Text),
    ("last_id", Shape::Count),
    (
        "messages",
        Shape::List(&Shape::Either(&[
            Shape::Object(&[("id", Shape::Count), ("data", Shape::Any), ("ts", Shape::Count)]),
            Shape::Object(&[("id", Shape::Count), ("payload", Shape::Any), ("timestamp", Shape::Count)]),
        ])),
    ),
]);

pub const CHANNELS: Shape = Shape::Object(&[
    (
        "channels",
        Shape::List(&Shape::Object(&[
            ("channel", Shape::Text),
            ("subscribers", Shape::Count),
            ("last_id", Shape::Count),
        ])),
    ),
    ("total", Shape::Count),
]);

/// Answers once the home core has given the publication its place.
pub async fn publish(routes: &Routes, arguments: Arguments) -> Result<Answer, Fault> {
    let (topic, data) = (arguments.topic(), data(routes, &arguments)?);
    let offset = routes.answers.by(deadline(), routes.operator.handle.publish(&topic, data)?).await??;
    Ok(ok(&json!({"channel": topic, "last_id": offset})))
}

/// All publications are under way before the first answer is waited for.
pub async fn broadcast(routes: &Routes, arguments: Arguments) -> Result<Answer, Fault> {
    let (topics, data) = (arguments.topics(), data(routes, &arguments)?);
    let deadline = deadline();
    let pending: Vec<_> = topics.iter().map(|topic| routes.operator.handle.publish(topic, data)).collect();
    let mut results = Vec::with_capacity(topics.len());
    for (topic, pending) in topics.iter().zip(pending) {
        let published = match pending {
            Ok(pending) => match routes.answers.by(deadline, pending).await {
                Ok(answered) => answered.map_err(Fault::from),
                Err(late) => Err(late.into()),
            },
            Err(invalid) => Err(invalid.into()),
        };
        results.push(match published {
            Ok(offset) => json!({"channel": topic, "last_id": offset}),
            Err(fault) => json!({"channel": topic, "error": Value::from(fault)}),
        });
    }
    Ok(ok(&json!({"results": results})))
}

pub async fn presence(routes: &Routes, arguments: Arguments) -> Result<Answer, Fault> {
    let pending =
        routes.operator.handle.presence(&arguments.topic(), arguments.text("after"), limit(&arguments))?;
    let page = routes.answers.by(deadline(), pending).await??;
    let user = |(user, connections): (String, u32)| json!({"userId": user, "connections": connections});
    let users: Vec<Value> = page.users.into_iter().map(user).collect();
    Ok(ok(&json!({"users": users, "total": page.total})))
}

/// The messages are passed on byte for byte: read and written anew, their numbers could change.
pub async fn history(routes: &Routes, arguments: Arguments) -> Result<Answer, Fault> {
    let pending =
        routes.operator.handle.history(&arguments.topic(), arguments.number("since"), limit(&arguments))?;
    let page = routes.answers.by(deadline(), pending).await??;
    let messages = page.messages.join(",");
    let body = format!(r#"{{"epoch":"{}","last_id":{},"messages":[{messages}]}}"#, page.epoch, page.last_id);
    Ok(Answer {
        status: StatusCode::OK,
        content_type: "application/json",
        headers: Vec::new(),
        body: body.into(),
    })
}

/// Goes through all topics page by page, on all cores at once, and keeps the most subscribed.
pub async fn channels(routes: &Routes, arguments: Arguments) -> Result<Answer, Fault> {
    let (handle, prefix) = (&routes.operator.handle, arguments.text("prefix").unwrap_or(""));
    let (deadline, limit) = (deadline(), limit(&arguments));
    let mut most: Vec<TopicFacts> = Vec::new();
    let mut total = 0;
    let mut places: Vec<(usize, usize)> = (0..handle.cores()).map(|core| (core, 0)).collect();
    while !places.is_empty() {
        let pages: Result<Vec<_>, _> =
            places.iter().map(|&(core, from)| handle.topics(core, prefix, from)).collect();
        let mut further = Vec::new();
        for ((core, _), page) in places.into_iter().zip(pages?) {
            let page = routes.answers.by(deadline, page).await??;
            total += page.topics.len();
            most.extend(page.topics);
            further.extend(page.next.map(|from| (core, from)));
        }
        most.sort_unstable_by(|one, other| {
            other.subscribers.cmp(&one.subscribers).then_with(|| one.name.cmp(&other.name))
        });
        most.truncate(limit);
        places = further;
    }
    let channel = |topic: TopicFacts| json!({"channel": &*topic.name, "subscribers": topic.subscribers, "last_id": topic.last_id});
    let channels: Vec<Value> = most.into_iter().map(channel).collect();
    Ok(ok(&json!({"channels": channels, "total": total})))
}
