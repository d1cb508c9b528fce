//! What an application adds to the hub: who may do what, and what happens when they do.

use super::wire;
use crate::handler::{ConnId, Request, Response};

/// Decisions and reactions of an application, one value a core. All of it runs on the core's thread: it must not block, not
/// even on a [`crate::server::Pending`], and a panic ends the process. To publish from here, put the server's handle where
/// the hooks find it once it has started, in an `Arc<OnceLock<…>>` as `examples/chat.rs` does: cores start before there is a
/// handle.
///
/// ```
/// use megasock::hub::{Client, Hooks};
///
/// struct Members;
/// impl Hooks for Members {
///     fn may_subscribe(&mut self, client: &Client<'_>, topic: &str) -> bool {
///         client.user.is_some() || !topic.starts_with("members:")
///     }
/// }
/// ```
pub trait Hooks: Sized {
    /// A client asks to connect as `user`: the `sub` of its token, or the name from `?user=` where that is believed.
    fn on_connect(&mut self, request: &Request<'_>, user: Option<&str>) -> Connect {
        let _ = request;
        Connect::Accept { user: user.map(str::to_owned) }
    }

    /// A client is connected and has been welcomed.
    fn on_open(&mut self, client: &Client<'_>) {
        let _ = client;
    }

    /// Whether it may subscribe to a topic, or look at its presence and history; a room's name begins with `room:`.
    fn may_subscribe(&mut self, client: &Client<'_>, topic: &str) -> bool {
        let _ = (client, topic);
        true
    }

    /// It has subscribed.
    fn on_subscribe(&mut self, client: &Client<'_>, topic: &str) {
        let _ = (client, topic);
    }

    /// It has unsubscribed, or its connection has ended.
    fn on_unsubscribe(&mut self, client: &Client<'_>, topic: &str) {
        let _ = (client, topic);
    }

    /// Whether it may publish this JSON to a topic. The topic's namespace has allowed it already.
    fn may_publish(&mut self, client: &Client<'_>, topic: &str, data: &str) -> bool {
        let _ = (client, topic, data);
        true
    }

    /// Its message has been put into the topic, with this offset.
    fn on_publish(&mut self, client: &Client<'_>, topic: &str, offset: u64) {
        let _ = (client, topic, offset);
    }

    /// Its connection has ended.
    fn on_close(&mut self, client: &Client<'_>) {
        let _ = client;
    }
}

/// Whoever a hook is about.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// Its connection on this core.
    pub conn: ConnId,
    /// This core.
    pub core: usize,
    /// Its name, unless it is anonymous.
    pub user: Option<&'a str>,
}

impl Client<'_> {
    /// The id its welcome told, as [`crate::Handle::disconnect`] wants it.
    pub fn connection_id(&self) -> String {
        wire::connection_id(self.core, self.conn)
    }
}

/// The answer to a client that wants to connect.
pub enum Connect {
    /// Come in, under this name or none.
    Accept {
        /// 1 to 255 bytes, no control characters.
        user: Option<String>,
    },
    /// Answer this instead.
    Refuse(Response),
    /// Not known yet: [`crate::Handle::connect`] says so from any thread or task. Until then the handshake waits, and the
    /// handshake timeout ends it. The limits on its address are looked at once it is accepted: what looks it up bounds its
    /// own work.
    ///
    /// ```
    /// use megasock::hub::{Connect, Hooks, Mail};
    /// use megasock::{Handle, Request, Response, Status};
    /// use std::sync::{Arc, OnceLock};
    ///
    /// /// One core's, made by `|core| Sessions { core, server: Arc::clone(&server) }`.
    /// struct Sessions {
    ///     core: usize,
    ///     server: Arc<OnceLock<Handle<Mail>>>,
    /// }
    ///
    /// impl Hooks for Sessions {
    ///     fn on_connect(&mut self, request: &Request<'_>, _: Option<&str>) -> Connect {
    ///         let cookie = request.head.header("cookie").unwrap_or_default().to_owned();
    ///         let (core, conn, server) = (self.core, request.conn, Arc::clone(&self.server));
    ///         std::thread::spawn(move || {
    ///             let connect = match look_up(&cookie) {
    ///                 Some(user) => Connect::Accept { user: Some(user) },
    ///                 None => Connect::Refuse(Response::refuse(Status::Unauthorized, "Log in first.")),
    ///             };
    ///             let server = server.get().expect("set right after the start");
    ///             let _ = server.connect(core, conn, connect); // a server that has stopped lets nobody in
    ///         });
    ///         Connect::Later
    ///     }
    /// }
    /// # fn look_up(_: &str) -> Option<String> { None }
    /// ```
    Later,
}

/// Everybody may do what the namespaces allow.
#[derive(Debug, Clone, Copy, Default)]
pub struct Open;

impl Hooks for Open {}
