//! What a token allows its bearer, on top of what the namespaces allow everybody.

use serde_json::Value;
use std::sync::Arc;

/// What a token lets its bearer subscribe to and publish to. Topics are internal names: a room's starts with `room:`.
///
/// The default is unlimited, as is a token without `channels`. It is 8 bytes wide, for a million sessions have one.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Grants(Option<Arc<Lists>>);

/// Patterns: a whole name, or the beginning of names followed by `*`.
#[derive(Debug, PartialEq)]
struct Lists {
    subscribe: Box<[String]>,
    publish: Box<[String]>,
}

impl Grants {
    /// Whether the bearer may subscribe to a topic, or look at its presence and history.
    pub fn may_subscribe(&self, topic: &str) -> bool {
        self.0.as_ref().is_none_or(|lists| fits(&lists.subscribe, topic))
    }

    /// Whether the bearer may publish to a topic.
    pub fn may_publish(&self, topic: &str) -> bool {
        self.0.as_ref().is_none_or(|lists| fits(&lists.publish, topic))
    }

    /// Whether nothing is forbidden here.
    pub fn is_unlimited(&self) -> bool {
        self.0.is_none()
    }

    /// The claim `channels`. A list that is left out allows nothing of its kind; `None` if it is no such claim.
    pub(super) fn read(channels: &Value) -> Option<Grants> {
        let lists = channels.as_object()?;
        let list = |kind| match lists.get(kind) {
            None => Some(Box::default()),
            Some(patterns) => patterns.as_array()?.iter().map(pattern).collect(),
        };
        Some(Grants(Some(Arc::new(Lists { subscribe: list("subscribe")?, publish: list("publish")? }))))
    }
}

/// As in a namespace: not empty, and no `*` but at the end.
fn pattern(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    let is_pattern = !text.is_empty() && !text[..text.len() - text.ends_with('*') as usize].contains('*');
    is_pattern.then(|| text.to_owned())
}

fn fits(patterns: &[String], topic: &str) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(beginning) => topic.starts_with(beginning),
        None => topic == pattern,
    })
}
