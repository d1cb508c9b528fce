//! The one table of what the admin listener serves: method and path to what answers.

use super::Operator;
use super::http::{Answer, Request, Service};
use super::page::Page;
use ::http::{Method, StatusCode};

/// All endpoints of one server.
pub(super) struct Routes {
    operator: Operator,
    page: Page,
}

impl Routes {
    pub fn new(operator: Operator) -> Routes {
        Routes { operator, page: Page::new() }
    }
}

impl Service for Routes {
    async fn answer(&self, request: Request) -> Answer {
        match (&request.method, &*request.path) {
            (&Method::GET, "/") => self.page.answer(&request),
            (&Method::GET, "/health") => Answer::text(StatusCode::OK, "ok\n"),
            (&Method::GET, "/api/info") => {
                let info = serde_json::json!({
                    "server_id": self.operator.settings.server_id,
                    "connections": {"active": self.operator.handle.counters().connections_open},
                });
                Answer::json(StatusCode::OK, &info)
            }
            _ => Answer::error(StatusCode::NOT_FOUND, "not_found", "there is nothing here"),
        }
    }
}
