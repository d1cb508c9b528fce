//! The public listener of the `megasock` server: which path gets what.

use crate::handler::{Decision, Handler, Message, Origin, Outbox, Request, Response, Work};
use crate::hub::{Hooks, Hub, Mail};
use crate::proto::close::CloseReason;
use crate::proto::response::Status;
use crate::sys::ConnId;

/// Routes requests: the channel protocol to the hub, and an echo on `/echo`.
pub struct Front<K: Hooks> {
    hub: Hub<K>,
    echo: bool,
    health: Response,
    ready: Response,
    page: Response,
    not_ready: Response,
    not_found: Response,
    not_allowed: Response,
    upgrade_required: Response,
}

impl<K: Hooks> Front<K> {
    /// With `echo`, `GET /echo` upgrades to a WebSocket that sends back what it gets.
    pub(super) fn new(hub: Hub<K>, echo: bool) -> Front<K> {
        let text = "text/plain; charset=utf-8";
        let page = include_bytes!("page.html");
        let upgrade = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13")];
        Front {
            hub,
            echo,
            health: Response::new(Status::Ok, text, &[], b"ok\n"),
            ready: Response::new(Status::Ok, text, &[], b"ready\n"),
            page: Response::new(Status::Ok, "text/html; charset=utf-8", &[], page),
            not_ready: Response::refuse(Status::Unavailable, "The server is full or about to stop."),
            not_found: Response::refuse(Status::NotFound, "Nothing here."),
            not_allowed: Response::new(
                Status::MethodNotAllowed,
                text,
                &[("Allow", "GET")],
                b"Only GET is answered.\n",
            ),
            upgrade_required: Response::new(
                Status::UpgradeRequired,
                text,
                &upgrade,
                b"This address speaks WebSocket.\n",
            ),
        }
    }
}

impl<K: Hooks> Handler for Front<K> {
    type Mail = Mail;

    fn on_request(&mut self, request: &Request<'_>, out: &mut Outbox<Mail>) -> Decision {
        let response = match (request.head.path, request.is_upgrade) {
            ("/echo", true) if self.echo => return Decision::ACCEPT,
            ("/" | "/ws", true) => return self.hub.on_request(request, out),
            (path, _) if !self.has(path) => &self.not_found,
            _ if request.head.method != "GET" => &self.not_allowed,
            ("/echo" | "/ws", _) => &self.upgrade_required,
            ("/health", _) => &self.health,
            ("/ready", _) if request.is_ready => &self.ready,
            ("/ready", _) => &self.not_ready,
            _ => &self.page,
        };
        Decision::Respond(response.clone())
    }

    fn on_open(&mut self, conn: ConnId, out: &mut Outbox<Mail>) {
        self.hub.on_open(conn, out);
    }

    fn on_message(&mut self, conn: ConnId, message: Message<'_>, out: &mut Outbox<Mail>) {
        if self.hub.has(conn) { self.hub.on_message(conn, message, out) } else { out.reply(message) }
    }

    fn on_mail(&mut self, from: Origin, mail: Mail, out: &mut Outbox<Mail>) {
        self.hub.on_mail(from, mail, out);
    }

    fn on_blocked(&mut self, conn: ConnId, out: &mut Outbox<Mail>) {
        self.hub.on_blocked(conn, out);
    }

    fn on_writable(&mut self, conn: ConnId, out: &mut Outbox<Mail>) {
        self.hub.on_writable(conn, out);
    }

    fn on_turn(&mut self, out: &mut Outbox<Mail>) -> Work {
        self.hub.on_turn(out)
    }

    fn on_tick(&mut self, now_ms: u64, out: &mut Outbox<Mail>) {
        self.hub.on_tick(now_ms, out);
    }

    fn on_close(&mut self, conn: ConnId, reason: CloseReason, out: &mut Outbox<Mail>) {
        self.hub.on_close(conn, reason, out);
    }
}

impl<K: Hooks> Front<K> {
    fn has(&self, path: &str) -> bool {
        matches!(path, "/" | "/ws" | "/health" | "/ready") || (path == "/echo" && self.echo)
    }
}
