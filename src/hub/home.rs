//! The topics this core is home of: their order, history, presence, and which cores have subscribers.
//!
//! Invariants:
//! - A core gets a topic's publications in offset order, each once or as part of a gap it is told of. `Link::sent` is how
//!   far it has come; a core whose ring was full *lags* and is brought up from history when there is room.
//! - A subscription is answered only when its core does not lag: the answer and what follows it share one ring, so the
//!   subscriber starts exactly where the answer says.
//!
//! It refuses to hold more than its bounds: a topic without subscribers goes when its history has aged, and comes back
//! under a new epoch.

use super::Options;
use super::history::{Entry, History};
use super::link::Links;
use super::mail::{Answer, Ask, Asker, Call, Mail, Position, Subscribed, TopicFacts};
use super::name::Name;
use super::namespace::Settings;
use super::presence::{News, Presence, Telling};
use super::stats::now_us;
use super::wire;
use crate::buf::Payload;
use crate::ds::Table;
use crate::handler::{ConnId, Outbox};
use slab::Slab;
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

/// Time a topic without subscribers or history is kept, so that one who reconnects finds its epoch.
const LINGER_MS: u64 = 60_000;

/// What a topic costs besides its history, counted only while it has no subscribers: names cost an attacker nothing.
const TOPIC_BYTES: usize = 512;

/// Topics looked at each second: for news to be told, for what has aged, for those that may go. The others come later.
const LOOKED_AT_PER_TICK: usize = 4_096;

/// Topics looked at for one page of a list of them.
const LOOKED_AT_PER_PAGE: usize = 1_024;

/// A list of topics that is emptier than one in so many gives memory back.
const SPARSE: usize = 8;

/// All topics of this core.
pub struct Homes {
    options: Arc<Options>,
    by_name: Table<Name, u32>,
    topics: Slab<Topic>,
    /// Topics and cores that lag.
    lagging: Vec<(u32, u16)>,
    /// Topics that keep history, in no order.
    kept: Vec<u32>,
    kept_bytes: usize,
    kept_looked_at: usize,
    /// Topics with news that may have to be gathered.
    with_news: VecDeque<u32>,
    /// Topics that were empty; each is looked at again, and goes when it has been for long enough.
    emptied: VecDeque<u32>,
    now_ms: u64,
    epochs: RandomState,
    epochs_drawn: u64,
}

struct Topic {
    name: Name,
    settings: u16,
    epoch: u32,
    prefix: Box<[u8]>,
    history: History,
    /// Place in `kept`.
    kept_at: Option<u32>,
    links: Vec<Link>,
    presence: Option<Box<Presence>>,
    news: Option<Box<News>>,
    /// When it last had a subscriber or a publication.
    used_ms: u64,
    /// It is in the list of those to be looked at.
    is_watched: bool,
}

/// A core with subscribers.
struct Link {
    core: u16,
    lags: bool,
    subscribers: u32,
    /// The core was sent everything up to this offset.
    sent: u64,
    /// Subscriptions to be answered when it no longer lags; boxed as they came and go.
    #[expect(clippy::vec_box)]
    deferred: Vec<Box<Call>>,
}

impl Topic {
    fn members(&self) -> u64 {
        self.links.iter().map(|link| u64::from(link.subscribers)).sum()
    }

    fn link(&mut self, core: u16) -> Option<&mut Link> {
        self.links.iter_mut().find(|link| link.core == core)
    }

    fn last(&self) -> Position {
        Position { epoch: self.epoch, offset: self.history.last() }
    }
}

impl Homes {
    pub fn new(options: Arc<Options>) -> Homes {
        Homes {
            options,
            by_name: Table::default(),
            topics: Slab::new(),
            lagging: Vec::new(),
            kept: Vec::new(),
            kept_bytes: 0,
            kept_looked_at: 0,
            with_news: VecDeque::new(),
            emptied: VecDeque::new(),
            now_ms: 0,
            epochs: RandomState::new(),
            epochs_drawn: 0,
        }
    }

    /// Topics with this home.
    pub fn len(&self) -> usize {
        self.topics.len()
    }

    /// Bytes of all histories.
    pub fn history_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// Epoch and newest offset of a topic, as clients see them.
    #[cfg(test)]
    pub fn position(&self, name: &str) -> Option<(String, u64)> {
        let topic = self.by_name.get(name).and_then(|number| self.topics.get(*number as usize))?;
        Some((wire::epoch(topic.epoch), topic.history.last()))
    }

    /// No core has subscribers, and nobody is present.
    #[cfg(test)]
    pub fn is_without_subscribers(&self) -> bool {
        let is_empty = |topic: &Topic| {
            topic.links.is_empty() && topic.presence.as_ref().is_none_or(|presence| presence.total() == 0)
        };
        self.lagging.is_empty() && self.topics.iter().all(|(_, topic)| is_empty(topic))
    }

    /// Does what a call about a topic asks, and answers it.
    pub fn handle_call(&mut self, from: usize, call: Box<Call>, links: &mut Links, out: &mut Outbox<Mail>) {
        let answer = match &call.ask {
            Ask::Subscribe { topic, .. } => {
                let topic = self.topic(topic);
                return self.subscribe(topic, from, call, links, out);
            }
            Ask::Unsubscribe { topic, user } => {
                self.unsubscribe(topic, user.as_ref(), from as u16, links, out);
                Answer::Done
            }
            Ask::Publish { topic, data, user, except } => {
                let (topic, except) = (self.topic(topic), except.map(|conn| (from as u16, conn)));
                Answer::Published { offset: self.publish(topic, data, user.as_deref(), except, links, out) }
            }
            Ask::Presence { topic, limit, after } => {
                let presence = self.existing(topic).and_then(|topic| topic.presence.as_ref());
                let users = presence.map_or(Vec::new(), |presence| presence.page(after.as_deref(), *limit));
                Answer::Presence { users, total: presence.map_or(0, |presence| presence.total()) }
            }
            Ask::History { topic, limit, since } => match self.by_name.get(topic).copied() {
                Some(topic) => self.history(topic, *limit, *since),
                None => Answer::History { last: Position { epoch: 0, offset: 0 }, frames: Vec::new() },
            },
            Ask::Topics { prefix, from } => self.page(prefix, *from),
            _ => {
                unreachable!("it is not about a topic")
            }
        };
        links.give(from, call, answer, out);
    }

    /// Topics in the next so many places; what comes and goes between two pages may be in none or in both.
    fn page(&self, prefix: &str, from: usize) -> Answer {
        let end = from.saturating_add(LOOKED_AT_PER_PAGE).min(self.topics.capacity());
        let topics = (from..end).filter_map(|number| self.topics.get(number));
        let facts = |topic: &Topic| TopicFacts {
            name: topic.name.clone(),
            subscribers: topic.members(),
            last_id: topic.history.last(),
        };
        let topics = topics.filter(|topic| topic.name.starts_with(prefix)).map(facts).collect();
        Answer::Topics { topics, next: (end < self.topics.capacity()).then_some(end) }
    }

    /// Goes by other settings from now on.
    pub fn tune(&mut self, options: Arc<Options>) {
        self.options = options;
    }

    fn existing(&self, name: &Name) -> Option<&Topic> {
        self.by_name.get(name).and_then(|topic| self.topics.get(*topic as usize))
    }

    /// The topic of this name, made if there is none.
    fn topic(&mut self, name: &Name) -> u32 {
        if let Some(topic) = self.by_name.get(name) {
            return *topic;
        }
        let settings = self.options.namespaces.number(name);
        self.epochs_drawn += 1;
        let epoch = self.epochs.hash_one(self.epochs_drawn) as u32;
        let topic = self.topics.insert(Topic {
            name: name.clone(),
            settings,
            epoch,
            prefix: wire::prefix(name),
            history: History::default(),
            kept_at: None,
            links: Vec::new(),
            presence: self.options.namespaces.numbered(settings).presence.then(Box::default),
            news: None,
            used_ms: 0,
            is_watched: false,
        }) as u32;
        self.by_name.insert(name.clone(), topic);
        self.note_empty(topic);
        topic
    }

    fn subscribe(
        &mut self,
        number: u32,
        from: usize,
        call: Box<Call>,
        links: &mut Links,
        out: &mut Outbox<Mail>,
    ) {
        let topic = &mut self.topics[number as usize];
        let core = from as u16;
        let last = topic.last();
        match topic.link(core) {
            Some(link) if link.lags => return link.deferred.push(call),
            Some(link) => link.subscribers += 1,
            None => {
                let sent = last.offset;
                topic.links.push(Link { core, lags: false, subscribers: 1, sent, deferred: Vec::new() });
            }
        }
        let Ask::Subscribe { user, since, .. } = &call.ask else { return };
        self.trim(number);
        let topic = &self.topics[number as usize];
        let missed = since.and_then(|since| missed(topic, since, self.options.replay_bytes_max));
        let answer = Subscribed {
            last,
            recovered: missed.is_some(),
            missed: missed.unwrap_or_default(),
            members: topic.members(),
        };
        let user = user.clone();
        let joiner = match &call.asker {
            Asker::Client { conn, .. } => Some((core, *conn)),
            _ => None,
        };
        links.give(from, call, Answer::Subscribed(answer), out);
        if let Some(user) = user
            && let Some(presence) = &mut self.topics[number as usize].presence
            && presence.join(&user)
        {
            self.add_news(number, &user, true, joiner, links, out);
        }
    }

    fn unsubscribe(
        &mut self,
        name: &Name,
        user: Option<&Name>,
        core: u16,
        links: &mut Links,
        out: &mut Outbox<Mail>,
    ) {
        let Some(number) = self.by_name.get(name).copied() else { return };
        let topic = &mut self.topics[number as usize];
        let Some(at) = topic.links.iter().position(|link| link.core == core) else { return };
        topic.links[at].subscribers -= 1;
        // Those who wait for an answer will be subscribers.
        if topic.links[at].subscribers == 0 && topic.links[at].deferred.is_empty() {
            let link = topic.links.swap_remove(at);
            if link.lags {
                self.lagging.retain(|lagging| *lagging != (number, core));
            }
        }
        if let Some(user) = user
            && let Some(presence) = &mut topic.presence
            && presence.leave(user)
        {
            self.add_news(number, user, false, None, links, out);
        }
        if self.topics[number as usize].links.is_empty() {
            self.note_empty(number);
        }
    }

    fn publish(
        &mut self,
        number: u32,
        data: &str,
        user: Option<&str>,
        except: Option<(u16, ConnId)>,
        links: &mut Links,
        out: &mut Outbox<Mail>,
    ) -> u64 {
        let topic = &mut self.topics[number as usize];
        let offset = topic.history.last() + 1;
        let frame = wire::publication(
            &topic.name,
            &topic.prefix,
            offset,
            data,
            user,
            out.unix_ms(),
            &self.options.server_id,
        );
        topic.used_ms = self.now_ms;
        let entry = Entry::new(frame, self.now_ms, now_us(), except);
        self.deliver(number, offset, &entry, links, out);
        self.change_history(number, |history, settings| history.push(entry, settings));
        self.keep_within_bytes();
        offset
    }

    /// Sends a publication, or with offset 0 an event, to every core with subscribers. Who lags already will find the
    /// publication in the history; an event it misses.
    fn deliver(
        &mut self,
        number: u32,
        offset: u64,
        entry: &Entry,
        links: &mut Links,
        out: &mut Outbox<Mail>,
    ) {
        let Topic { name, links: cores, .. } = &mut self.topics[number as usize];
        for link in cores {
            if link.lags {
                continue;
            }
            let mail = delivery(name, offset, entry, link.core);
            let sent = links.try_deliver(link.core.into(), mail, out).is_ok();
            if sent && offset > 0 {
                link.sent = offset;
            } else if !sent && offset > 0 {
                link.lags = true;
                self.lagging.push((number, link.core));
            }
        }
    }

    /// Brings up cores that lag, as far as there is room. True when none lags any more.
    pub fn bring_up(&mut self, links: &mut Links, out: &mut Outbox<Mail>) -> bool {
        let mut at = 0;
        while at < self.lagging.len() {
            let (number, core) = self.lagging[at];
            if self.bring_up_one(number, core, links, out) {
                self.lagging.swap_remove(at);
                self.answer_deferred(number, core, links, out);
            } else {
                at += 1;
            }
        }
        self.lagging.is_empty()
    }

    fn bring_up_one(&mut self, number: u32, core: u16, links: &mut Links, out: &mut Outbox<Mail>) -> bool {
        let Topic { name, history, links: cores, .. } = &mut self.topics[number as usize];
        let Some(link) = cores.iter_mut().find(|link| link.core == core) else { return true };
        while link.sent < history.last() {
            let from = link.sent + 1;
            let (to, mail) = match history.get(from) {
                Some(entry) => (from, delivery(name, from, entry, core)),
                None => {
                    let to = history.first() - 1;
                    (to, Mail::Gap { topic: name.clone(), from, to })
                }
            };
            if links.try_deliver(core.into(), mail, out).is_err() {
                return false;
            }
            link.sent = to;
        }
        link.lags = false;
        true
    }

    fn answer_deferred(&mut self, number: u32, core: u16, links: &mut Links, out: &mut Outbox<Mail>) {
        let Some(link) = self.topics[number as usize].link(core) else { return };
        for call in std::mem::take(&mut link.deferred) {
            self.subscribe(number, core.into(), call, links, out);
        }
    }

    fn history(&mut self, number: u32, limit: usize, since: Option<u64>) -> Answer {
        self.trim(number);
        let topic = &self.topics[number as usize];
        let (first, last) = (topic.history.first(), topic.last());
        let mut room = self.options.replay_bytes_max;
        let mut take = |offset| {
            let frame = &topic.history.get(offset)?.frame;
            room = room.checked_sub(frame.len())?;
            Some(frame.clone())
        };
        let frames = match since {
            Some(since) => {
                let start = first.max(since.saturating_add(1));
                (start..=last.offset).take(limit).map_while(&mut take).collect()
            }
            None => {
                let newest = (first..=last.offset).rev().take(limit).map_while(&mut take);
                let mut frames: Vec<Payload> = newest.collect();
                frames.reverse();
                frames
            }
        };
        Answer::History { last, frames }
    }

    fn add_news(
        &mut self,
        number: u32,
        user: &Name,
        joined: bool,
        except: Option<(u16, ConnId)>,
        links: &mut Links,
        out: &mut Outbox<Mail>,
    ) {
        let topic = &mut self.topics[number as usize];
        let most = self.options.namespaces.numbered(topic.settings).presence_events_max;
        if most == 0 || topic.members() > u64::from(most) {
            // What was to be told of this user before is no longer so.
            topic.news.iter_mut().for_each(|news| news.forget(user));
            return;
        }
        if topic.news.is_none() {
            self.with_news.push_back(number);
        }
        if let Some(telling) = topic.news.get_or_insert_default().add(user, joined) {
            let frame = wire::telling(&topic.name, &telling);
            let event = Entry::new(frame, self.now_ms, now_us(), except);
            self.deliver(number, 0, &event, links, out);
        }
    }

    /// About once a second: news are told, what has aged goes.
    pub fn on_tick(&mut self, now_ms: u64, links: &mut Links, out: &mut Outbox<Mail>) {
        self.now_ms = now_ms;
        for _ in 0..self.with_news.len().min(LOOKED_AT_PER_TICK) {
            let Some(number) = self.with_news.pop_front() else { break };
            let Some(topic) = self.topics.get_mut(number as usize) else { continue };
            let Some(news) = &mut topic.news else { continue };
            let telling: Option<Telling> = news.gather();
            if news.is_active() {
                self.with_news.push_back(number);
            } else {
                topic.news = None;
            }
            if let Some(telling) = telling {
                let frame = wire::telling(&topic.name, &telling);
                let event = Entry::new(frame, now_ms, now_us(), None);
                self.deliver(number, 0, &event, links, out);
            }
        }
        self.drop_aged();
        self.drop_empty();
    }

    fn drop_aged(&mut self) {
        for _ in 0..LOOKED_AT_PER_TICK.min(self.kept.len()) {
            if self.kept_looked_at >= self.kept.len() {
                self.kept_looked_at = 0;
            }
            let number = self.kept[self.kept_looked_at];
            self.trim(number);
            self.kept_looked_at += usize::from(self.is_kept(number));
        }
    }

    /// Every topic gives up its oldest publication in turn until the core's bound holds.
    fn keep_within_bytes(&mut self) {
        while self.kept_bytes > self.options.history_bytes_max {
            if self.kept_looked_at >= self.kept.len() {
                self.kept_looked_at = 0;
            }
            let Some(number) = self.kept.get(self.kept_looked_at).copied() else { return };
            self.change_history(number, |history, _| history.drop_oldest());
            self.kept_looked_at += usize::from(self.is_kept(number));
        }
    }

    fn trim(&mut self, number: u32) {
        let now_ms = self.now_ms;
        self.change_history(number, |history, settings| history.trim(now_ms, settings));
    }

    /// The one way a history changes, so that `kept` and `kept_bytes` always agree with it.
    fn change_history(&mut self, number: u32, change: impl FnOnce(&mut History, &Settings)) {
        let topic = &mut self.topics[number as usize];
        let before = topic.history.bytes();
        change(&mut topic.history, self.options.namespaces.numbered(topic.settings));
        self.kept_bytes = self.kept_bytes + topic.history.bytes() - before;
        if topic.history.is_empty() {
            self.forget_kept(number);
        } else if topic.kept_at.is_none() {
            topic.kept_at = Some(self.kept.len() as u32);
            self.kept.push(number);
        }
    }

    fn is_kept(&self, number: u32) -> bool {
        self.topics[number as usize].kept_at.is_some()
    }

    fn forget_kept(&mut self, number: u32) {
        let Some(at) = self.topics[number as usize].kept_at.take() else { return };
        self.kept.swap_remove(at as usize);
        if let Some(moved) = self.kept.get(at as usize) {
            self.topics[*moved as usize].kept_at = Some(at);
        }
    }

    /// Removes a topic and what it keeps.
    fn remove(&mut self, number: u32) {
        self.forget_kept(number);
        let topic = self.topics.remove(number as usize);
        self.kept_bytes -= topic.history.bytes();
        self.by_name.remove(&topic.name);
    }

    /// A topic has no subscribers: it is looked at again when its history has aged.
    fn note_empty(&mut self, number: u32) {
        let topic = &mut self.topics[number as usize];
        topic.used_ms = self.now_ms;
        if !std::mem::replace(&mut topic.is_watched, true) {
            self.emptied.push_back(number);
            self.keep_emptied_within_bytes();
        }
    }

    /// Those without subscribers for longest go, with their history, until the others may take no more than all
    /// histories may. The newest stays: it may be about to be subscribed to.
    fn keep_emptied_within_bytes(&mut self) {
        while self.emptied.len() > 1 && self.emptied.len() * TOPIC_BYTES > self.options.history_bytes_max {
            let Some(number) = self.emptied.pop_front() else { return };
            let topic = &mut self.topics[number as usize];
            if topic.links.is_empty() {
                self.remove(number);
            } else {
                topic.is_watched = false;
            }
        }
    }

    fn drop_empty(&mut self) {
        for _ in 0..self.emptied.len().min(LOOKED_AT_PER_TICK) {
            let Some(number) = self.emptied.pop_front() else { return };
            let topic = &mut self.topics[number as usize];
            if !topic.links.is_empty() {
                topic.is_watched = false;
                continue;
            }
            if self.now_ms < topic.used_ms + LINGER_MS || !topic.history.is_empty() {
                // One that is not due does not stop the others. Its history goes with age, by `drop_aged`.
                self.emptied.push_back(number);
                continue;
            }
            self.remove(number);
        }
        // After a flood of names: as far as no topic lies behind them.
        if self.topics.len() < self.topics.capacity() / SPARSE {
            self.topics.shrink_to_fit();
        }
    }
}

/// The mail that brings a publication, or with offset 0 an event, to a core.
fn delivery(topic: &Name, offset: u64, entry: &Entry, core: u16) -> Mail {
    let Entry { frame, made_us, .. } = entry;
    let except = entry.except_on(core);
    Mail::Deliver { topic: topic.clone(), offset, frame: frame.clone(), except, made_us: *made_us }
}

/// What came after `since`, if all of it is kept and not too much to send.
fn missed(topic: &Topic, since: Position, bytes_max: usize) -> Option<Vec<Payload>> {
    if since.epoch != topic.epoch {
        return None;
    }
    let frames: Vec<Payload> = topic.history.after(since.offset)?.cloned().collect();
    let bytes: usize = frames.iter().map(|frame| frame.len()).sum();
    (bytes <= bytes_max).then_some(frames)
}

#[cfg(test)]
mod tests;
