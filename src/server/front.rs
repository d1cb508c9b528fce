//! The public listener of the `megasock` server: which path gets what.

use crate::handler::{Decision, Handler, Message, Outbox, Request, Response};
use crate::proto::response::Status;
use crate::sys::ConnId;

/// Routes requests and echoes messages on `/echo`.
pub struct Front {
    echo: bool,
    health: Response,
    ready: Response,
    page: Response,
    not_ready: Response,
    not_found: Response,
    not_allowed: Response,
    upgrade_required: Response,
}

impl Front {
    /// With `echo`, `GET /echo` upgrades to a WebSocket that sends back what it gets.
    pub fn new(echo: bool) -> Front {
        let text = "text/plain; charset=utf-8";
        let page = include_bytes!("page.html");
        let upgrade = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13")];
        Front {
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

impl Handler for Front {
    type Mail = ();

    fn on_request(&mut self, request: &Request<'_>, _: &mut Outbox) -> Decision {
        let response = match (request.head.path, request.is_upgrade) {
            ("/echo", true) if self.echo => return Decision::ACCEPT,
            (path, _) if !self.has(path) => &self.not_found,
            _ if request.head.method != "GET" => &self.not_allowed,
            ("/echo", false) => &self.upgrade_required,
            ("/health", _) => &self.health,
            ("/ready", _) if request.is_ready => &self.ready,
            ("/ready", _) => &self.not_ready,
            _ => &self.page,
        };
        Decision::Respond(response.clone())
    }

    fn on_message(&mut self, _: ConnId, message: Message<'_>, out: &mut Outbox) {
        out.reply(message);
    }
}

impl Front {
    fn has(&self, path: &str) -> bool {
        matches!(path, "/" | "/health" | "/ready") || (path == "/echo" && self.echo)
    }
}
