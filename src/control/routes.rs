//! The one table of what the admin listener serves: method and path to what answers.

use super::access::Access;
use super::http::{Answer, Request, Service};
use super::page::Page;
use super::watch::Watch;
use super::{Operator, metrics};
use ::http::header::ACCEPT;
use ::http::{Method, StatusCode};
use std::rc::Rc;

/// All endpoints of one server.
pub(super) struct Routes {
    operator: Rc<Operator>,
    watch: Rc<Watch>,
    access: Access,
    page: Page,
}

impl Routes {
    pub fn new(operator: Rc<Operator>, watch: Rc<Watch>) -> Routes {
        let access = Access::new(operator.settings.key.clone());
        Routes { operator, watch, access, page: Page::new() }
    }

    fn metrics(&self, request: &Request) -> Answer {
        let accept = request.headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or("");
        let format = metrics::Format::accepted(accept);
        let text = metrics::write(&self.watch.scrape(), self.operator.settings.metric_aliases, format);
        Answer { content_type: format.content_type(), ..Answer::text(StatusCode::OK, text) }
    }

    /// The last five minutes, or the last `seconds`.
    fn series(&self, request: &Request) -> Answer {
        let asked = request.query.iter().find(|(name, _)| name == "seconds").map(|(_, value)| value.parse());
        match asked.unwrap_or(Ok(usize::MAX)) {
            Ok(seconds) => Answer::json(StatusCode::OK, &self.watch.series(seconds)),
            Err(_) => Answer::error(StatusCode::BAD_REQUEST, "bad_request", "seconds is not a whole number"),
        }
    }
}

impl Service for Routes {
    async fn admit(&self, head: &Request) -> Result<(), Answer> {
        self.access.admit(head).await
    }

    async fn answer(&self, request: Request) -> Answer {
        match (&request.method, &*request.path) {
            (&Method::GET, "/") => self.page.answer(&request),
            (&Method::GET, "/health") => Answer::text(StatusCode::OK, "ok\n"),
            (&Method::GET, "/metrics") => self.metrics(&request),
            (&Method::GET, "/api/info") => Answer::json(StatusCode::OK, &self.watch.info()),
            (&Method::GET, "/api/series") => self.series(&request),
            _ => Answer::error(StatusCode::NOT_FOUND, "not_found", "there is nothing here"),
        }
    }
}
