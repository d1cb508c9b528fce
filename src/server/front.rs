//! The public listener of the `megasock` server: which path gets what, and whose pages may ask.
//!
//! Browsers let any page open a WebSocket and send its user's cookies along, so the server must look at `Origin` itself: it
//! compares the whole of it, byte for byte. A client that sends none is no browser and has no user to betray.

use crate::handler::{Decision, Handler, Message, Origin, Outbox, Request, Response, Work};
use crate::hub::{Hooks, Hub, Limit, Mail, Options};
use crate::proto::close::CloseReason;
use crate::proto::head::Head;
use crate::proto::response::Status;
use crate::sys::ConnId;
use std::sync::Arc;

/// Routes requests: the channel protocol to the hub, and an echo on `/echo`.
pub struct Front<K: Hooks> {
    hub: Hub<K>,
    door: Door,
}

/// What is there, and for whose pages.
struct Door {
    echo: bool,
    /// Any origin, or those listed.
    pages: Pages,
    listed: Option<Vec<(String, Pages)>>,
    forbidden: Response,
}

impl<K: Hooks> Front<K> {
    /// Before the hub of one core.
    pub(super) fn new(options: Arc<Options>, hooks: K) -> Front<K> {
        Front { door: Door::new(&options), hub: Hub::new(options, hooks) }
    }

    fn upgrade(&mut self, request: &Request<'_>, out: &mut Outbox<Mail>) -> Decision {
        if !self.door.admits(request.head) {
            self.hub.count_refusal(Limit::Origins);
            return Decision::Respond(self.door.forbidden.clone());
        }
        match request.head.path {
            "/echo" => Decision::ACCEPT,
            _ => self.hub.on_request(request, out),
        }
    }
}

impl Door {
    fn new(options: &Options) -> Door {
        let Options { echo, ref origins, .. } = *options;
        let listed = |origin: &String| {
            let headers = [("Access-Control-Allow-Origin", origin.as_str()), ("Vary", "Origin")];
            (origin.clone(), Pages::new(&headers))
        };
        Door {
            echo,
            pages: match origins {
                None => Pages::new(&[("Access-Control-Allow-Origin", "*")]),
                Some(_) => Pages::new(&[("Vary", "Origin")]),
            },
            listed: origins.as_ref().map(|origins| origins.iter().map(listed).collect()),
            forbidden: Response::refuse(Status::Forbidden, "Pages of this origin may not connect."),
        }
    }

    fn has(&self, path: &str) -> bool {
        matches!(path, "/" | "/ws" | "/health" | "/ready") || (path == "/echo" && self.echo)
    }

    /// Whether whoever asks may connect.
    fn admits(&self, head: &Head<'_>) -> bool {
        self.listed.is_none() || head.values("origin").next().is_none() || self.listing(head).is_some()
    }

    /// The answers for the origin of a request, if it is listed. `null`, which a sandboxed page sends, never is.
    fn listing(&self, head: &Head<'_>) -> Option<&Pages> {
        let origin = head.values("origin").next()?;
        let (_, pages) = self.listed.as_ref()?.iter().find(|(listed, _)| listed.as_bytes() == origin)?;
        Some(pages)
    }

    fn respond(&self, request: &Request<'_>) -> &Response {
        let pages = self.listing(request.head).unwrap_or(&self.pages);
        match (request.head.path, request.head.method) {
            (path, _) if !self.has(path) => &pages.not_found,
            (_, "OPTIONS") => &pages.preflight,
            (_, method) if method != "GET" => &pages.not_allowed,
            ("/echo" | "/ws", _) => &pages.upgrade_required,
            ("/health", _) => &pages.health,
            ("/ready", _) if request.is_ready => &pages.ready,
            ("/ready", _) => &pages.not_ready,
            _ => &pages.page,
        }
    }
}

/// The plain answers, encoded once.
struct Pages {
    health: Response,
    ready: Response,
    page: Response,
    not_ready: Response,
    not_found: Response,
    not_allowed: Response,
    preflight: Response,
    upgrade_required: Response,
}

impl Pages {
    /// With these headers on all of them, which say whose scripts may read them (Fetch Standard §3.3).
    fn new(cors: &[(&str, &str)]) -> Pages {
        let text = "text/plain; charset=utf-8";
        let encode = |status, content_type, headers: &[(&str, &str)], body: &[u8]| {
            Response::new(status, content_type, &[headers, cors].concat(), body)
        };
        let upgrade = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13")];
        let preflight = [
            ("Access-Control-Allow-Methods", "GET"),
            ("Access-Control-Allow-Headers", "*"),
            ("Access-Control-Max-Age", "86400"),
        ];
        let page = include_bytes!("page.html");
        Pages {
            health: encode(Status::Ok, text, &[], b"ok\n"),
            ready: encode(Status::Ok, text, &[], b"ready\n"),
            page: encode(Status::Ok, "text/html; charset=utf-8", &[], page),
            not_ready: encode(Status::Unavailable, text, &[], b"The server is full or about to stop.\n"),
            not_found: encode(Status::NotFound, text, &[], b"Nothing here.\n"),
            not_allowed: encode(
                Status::MethodNotAllowed,
                text,
                &[("Allow", "GET, OPTIONS")],
                b"Only GET is answered.\n",
            ),
            preflight: encode(Status::NoContent, text, &preflight, b""),
            upgrade_required: encode(
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
        if request.is_upgrade && is_websocket(request.head.path) && self.door.has(request.head.path) {
            self.upgrade(request, out)
        } else {
            Decision::Respond(self.door.respond(request).clone())
        }
    }

    fn on_abandon(&mut self, conn: ConnId, out: &mut Outbox<Mail>) {
        self.hub.on_abandon(conn, out);
    }

    fn on_control(&mut self, conn: ConnId, bytes: usize, out: &mut Outbox<Mail>) {
        self.hub.on_control(conn, bytes, out);
    }

    fn on_drain(&mut self, conn: ConnId, reconnect_delay_ms: u64, out: &mut Outbox<Mail>) -> bool {
        self.hub.on_drain(conn, reconnect_delay_ms, out) // who is connected at /echo is not spoken to
    }

    fn on_open(&mut self, conn: ConnId, out: &mut Outbox<Mail>) {
        self.hub.on_open(conn, out);
    }

    fn on_message(&mut self, conn: ConnId, message: Message<'_>, out: &mut Outbox<Mail>) {
        if self.hub.has(conn) {
            return self.hub.on_message(conn, message, out);
        }
        self.hub.count_echo();
        out.reply(message);
    }

    fn on_mail(&mut self, from: Origin, mail: Mail, out: &mut Outbox<Mail>) {
        if let Mail::Tune(options) = &mail {
            self.door = Door::new(options); // who is connected at /echo stays
        }
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

    fn user(&mut self, conn: ConnId) -> Option<String> {
        self.hub.user(conn)
    }

    fn on_tick(&mut self, now_ms: u64, out: &mut Outbox<Mail>) {
        self.hub.on_tick(now_ms, out);
    }

    fn on_close(&mut self, conn: ConnId, reason: CloseReason, out: &mut Outbox<Mail>) {
        self.hub.on_close(conn, reason, out);
    }
}

/// Paths that are upgraded.
fn is_websocket(path: &str) -> bool {
    matches!(path, "/" | "/ws" | "/echo")
}
