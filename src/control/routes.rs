//! The one table of what the admin listener serves: from it come the dispatch, the checks of what is asked, and the description
//! at `/api/openapi.json`.

use super::Operator;
use super::access::Access;
use super::answers::{Answers, deadline};
use super::api::arguments::{Arguments, Kind, Need, OFFSET, Parameter};
use super::api::fault::Fault;
use super::api::shape::Shape;
use super::api::{channels, connections, figures, process};
use super::audit::Asked;
use super::gate::Gate;
use super::http::{Answer, Code, Request, Service, Standing};
use super::page::Page;
use super::watch::Watch;
use ::http::header::{ALLOW, HeaderValue};
use ::http::{Method, StatusCode};
use monoio::time::timeout_at;
use std::future::ready;
use std::pin::Pin;
use std::rc::Rc;

/// One thing that is served.
pub(super) struct Endpoint {
    pub method: Method,
    pub path: &'static str,
    /// What it does, in one line.
    pub about: &'static str,
    pub takes: &'static [Parameter],
    pub gives: Gives,
    pub asks: Asks,
    /// Besides what any request may fail with, and any that asks cores.
    pub fails: &'static [Code],
    pub run: Run,
}

/// Who is asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asks {
    Nobody,
    /// Cores, which have the answer at hand.
    Cores,
    /// All cores, for all their topics.
    EveryTopic,
    /// All cores, for all their connections.
    EveryConnection,
}

/// What is answered where all is well.
pub(super) enum Gives {
    Json(Shape),
    /// Of this content type.
    Text(&'static str),
}

type Run = for<'a> fn(&'a Routes, Request, Arguments) -> Running<'a>;
type Running<'a> = Pin<Box<dyn Future<Output = Result<Answer, Fault>> + 'a>>;

/// What is served by an endpoint of the API.
macro_rules! run {
    ($function:path) => {
        |routes, _, arguments| Box::pin($function(routes, arguments))
    };
}

const fn parameter(name: &'static str, kind: Kind, need: Need, about: &'static str) -> Parameter {
    Parameter { name, kind, need, about }
}

const CHANNEL: Parameter =
    parameter("channel", Kind::Topic, Need::OneOf, "The channel; `room:NAME` is the room NAME.");
const ROOM: Parameter = parameter("room", Kind::Name, Need::OneOf, "The room, instead of a channel.");
const DATA: Parameter = parameter(
    "data",
    Kind::Data,
    Need::Required,
    "What is sent: any JSON value, no larger than `max_message_bytes`.",
);
const LIMIT: Parameter =
    parameter("limit", Kind::Count(1_000), Need::Optional, "Entries in the answer; 100 unless told.");
const USER: Parameter = parameter("userId", Kind::Name, Need::OneOf, "The user.");
const CONNECTION: Parameter = parameter(
    "connectionId",
    Kind::ConnectionId,
    Need::OneOf,
    "The connection, by the id its `welcome` told.",
);

/// Requests that ask cores at a time: enough to keep cores busy, too few to keep one from its clients.
const ASKING_AT_ONCE: usize = 8;

/// Requests that ask for all topics at a time; others must not wait for them.
const LISTING_AT_ONCE: usize = 1;

/// Everything that is served.
pub(super) static ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        method: Method::GET,
        path: "/health",
        about: "Whether the control plane answers.",
        takes: &[],
        gives: Gives::Text("text/plain"),
        asks: Asks::Nobody,
        fails: &[],
        run: |_, _, _| Box::pin(ready(Ok(Answer::text(StatusCode::OK, "ok\n")))),
    },
    Endpoint {
        method: Method::GET,
        path: "/",
        about: "The dashboard.",
        takes: &[],
        gives: Gives::Text("text/html"),
        asks: Asks::Nobody,
        fails: &[],
        run: |routes, request, _| Box::pin(ready(Ok(routes.page.answer(&request)))),
    },
    Endpoint {
        method: Method::GET,
        path: "/metrics",
        about: "The metrics, for Prometheus; as OpenMetrics where that is accepted.",
        takes: &[],
        gives: Gives::Text("text/plain"),
        asks: Asks::Nobody,
        fails: &[],
        run: |routes, request, _| Box::pin(ready(Ok(figures::metrics(routes, &request)))),
    },
    Endpoint {
        method: Method::GET,
        path: "/api/info",
        about: "The state of the server and its figures, at most a second old.",
        takes: &[],
        gives: Gives::Json(figures::INFO),
        asks: Asks::Nobody,
        fails: &[],
        run: run!(figures::info),
    },
    Endpoint {
        method: Method::GET,
        path: "/api/series",
        about: "The course of the last minutes, one number a second, oldest first.",
        takes: &[parameter(
            "seconds",
            OFFSET,
            Need::Optional,
            "How many; all that are kept, 300, unless told.",
        )],
        gives: Gives::Json(figures::SERIES),
        asks: Asks::Nobody,
        fails: &[],
        run: run!(figures::series),
    },
    Endpoint {
        method: Method::GET,
        path: "/api/openapi.json",
        about: "This API, described for programs.",
        takes: &[],
        gives: Gives::Json(Shape::Map(&Shape::Any)),
        asks: Asks::Nobody,
        fails: &[],
        run: run!(process::openapi),
    },
    Endpoint {
        method: Method::POST,
        path: "/api/publish",
        about: "Publishes to a channel or a room. The answer has the message's id, given by the channel's home core.",
        takes: &[CHANNEL, ROOM, DATA],
        gives: Gives::Json(channels::PUBLISHED),
        asks: Asks::Cores,
        fails: &[],
        run: run!(channels::publish),
    },
    Endpoint {
        method: Method::POST,
        path: "/api/broadcast",
        about: "Publishes the same to several channels or rooms, up to 1,000. Each has a result of its own.",
        takes: &[
            parameter("channels", Kind::Topics, Need::OneOf, "The channels; `room:NAME` is the room NAME."),
            parameter("rooms", Kind::Names, Need::OneOf, "The rooms, instead of channels."),
            DATA,
        ],
        gives: Gives::Json(channels::BROADCAST),
        asks: Asks::Cores,
        fails: &[],
        run: run!(channels::broadcast),
    },
    Endpoint {
        method: Method::POST,
        path: "/api/send",
        about: "Sends a direct message to every connection of a user; the answer is their number.",
        takes: &[parameter("userId", Kind::Name, Need::Required, "The user."), DATA],
        gives: Gives::Json(connections::REACHED),
        asks: Asks::Cores,
        fails: &[],
        run: run!(connections::send),
    },
    Endpoint {
        method: Method::POST,
        path: "/api/disconnect",
        about: "Closes every connection of a user, or one; the answer is their number.",
        takes: &[
            USER,
            CONNECTION,
            parameter("code", Kind::CloseCode, Need::Optional, "The close code; 1000 unless told."),
            parameter("reason", Kind::Reason, Need::Optional, "The close reason, up to 123 bytes."),
        ],
        gives: Gives::Json(connections::REACHED),
        asks: Asks::Cores,
        fails: &[Code::NotFound],
        run: run!(connections::disconnect),
    },
    Endpoint {
        method: Method::GET,
        path: "/api/presence",
        about: "The users subscribed to a channel or a room, by name.",
        takes: &[
            CHANNEL,
            ROOM,
            LIMIT,
            parameter("after", Kind::Prefix, Need::Optional, "Only users whose names come after this one."),
        ],
        gives: Gives::Json(channels::PRESENCE),
        asks: Asks::Cores,
        fails: &[],
        run: run!(channels::presence),
    },
    Endpoint {
        method: Method::GET,
        path: "/api/history",
        about: "Publications that are kept: those after `since`, or else the newest; oldest first.",
        takes: &[
            CHANNEL,
            ROOM,
            LIMIT,
            parameter("since", OFFSET, Need::Optional, "Only messages with larger ids."),
        ],
        gives: Gives::Json(channels::HISTORY),
        asks: Asks::Cores,
        fails: &[],
        run: run!(channels::history),
    },
    Endpoint {
        method: Method::GET,
        path: "/api/channels",
        about: "Channels and rooms, the most subscribed first. A room is named `room:NAME`.",
        takes: &[parameter("prefix", Kind::Prefix, Need::Optional, "Only names that begin so."), LIMIT],
        gives: Gives::Json(channels::CHANNELS),
        asks: Asks::EveryTopic,
        fails: &[],
        run: run!(channels::channels),
    },
    Endpoint {
        method: Method::GET,
        path: "/api/connections",
        about: "The connections of a user, or one connection.",
        takes: &[USER, CONNECTION, LIMIT],
        gives: Gives::Json(connections::CONNECTIONS),
        asks: Asks::Cores,
        fails: &[Code::NotFound],
        run: run!(connections::connections),
    },
    Endpoint {
        method: Method::POST,
        path: "/api/reload",
        about: "Reads the configuration again. What can change while the server runs does; what cannot is named.",
        takes: &[],
        gives: Gives::Json(process::RELOADED),
        asks: Asks::EveryConnection,
        fails: &[Code::BadConfig],
        run: run!(process::reload),
    },
    Endpoint {
        method: Method::POST,
        path: "/api/drain",
        about: "Begins to stop the server: clients are told, closed and asked to come back, spread over time.",
        takes: &[parameter(
            "timeout",
            Kind::Duration,
            Need::Optional,
            "What is left after it is cut; `drain_timeout` unless told.",
        )],
        gives: Gives::Json(process::DRAIN),
        asks: Asks::Nobody,
        fails: &[],
        run: run!(process::drain),
    },
];

/// All endpoints of one server, and what they answer from.
pub(super) struct Routes {
    pub operator: Rc<Operator>,
    pub watch: Rc<Watch>,
    pub answers: Answers,
    pub access: Access,
    pub page: Page,
    asking: Gate,
    listing: Gate,
}

impl Routes {
    pub fn new(operator: Rc<Operator>, watch: Rc<Watch>, answers: Answers) -> Routes {
        let access = Access::new(Rc::clone(&operator));
        Routes {
            operator,
            watch,
            answers,
            access,
            page: Page::new(),
            asking: Gate::new(ASKING_AT_ONCE),
            listing: Gate::new(LISTING_AT_ONCE),
        }
    }
}

impl Service for Routes {
    fn leaves(&self) -> bool {
        self.operator.handle.stopping().is_some_and(|stopping| stopping.is_handed_over)
    }

    async fn admit(&self, head: &Request) -> Result<Standing, Answer> {
        self.access.admit(head).await.map_err(|refusal| match find(&head.method, &head.path) {
            // A form is no way to POST; where nobody may, that is what is wrong.
            Err(no_post)
                if refusal.status == Code::UnsupportedMediaType.status()
                    && no_post.status == Code::MethodNotAllowed.status() =>
            {
                no_post
            }
            _ => refusal,
        })
    }

    async fn answer(&self, request: Request) -> Answer {
        let asked = Asked::of(&request);
        let answer = match find(&request.method, &request.path) {
            Ok(endpoint) => self.run(endpoint, request).await.unwrap_or_else(Answer::from),
            Err(answer) => answer,
        };
        asked.answered(&answer);
        answer
    }
}

impl Routes {
    async fn run(&self, endpoint: &Endpoint, request: Request) -> Result<Answer, Fault> {
        let arguments = Arguments::read(endpoint.takes, &request)?;
        let gate = match endpoint.asks {
            // There is one reload at a time, whoever asks for it.
            Asks::Nobody | Asks::EveryConnection => None,
            Asks::Cores => Some(&self.asking),
            Asks::EveryTopic => Some(&self.listing),
        };
        let _place = match gate {
            Some(gate) => Some(timeout_at(deadline(), gate.enter()).await.map_err(|_| crowded())?),
            None => None,
        };
        (endpoint.run)(self, request, arguments).await
    }
}

/// Whoever has waited for a place asks nobody any more: nothing is done.
fn crowded() -> Fault {
    Fault::new(Code::TryAgain, "other requests ask the server's cores; try again")
}

/// The endpoint for this method at this path.
fn find(method: &Method, path: &str) -> Result<&'static Endpoint, Answer> {
    let at_path: Vec<&Endpoint> = ENDPOINTS.iter().filter(|endpoint| endpoint.path == path).collect();
    if let Some(endpoint) = at_path.iter().find(|endpoint| endpoint.method == *method) {
        return Ok(endpoint);
    }
    if at_path.is_empty() {
        return Err(Fault::new(Code::NotFound, "there is nothing here").into());
    }
    let allowed: Vec<&str> = at_path.iter().map(|endpoint| allow(&endpoint.method)).collect();
    let allowed = format!("{}, OPTIONS", allowed.join(", "));
    let answer = match *method {
        Method::OPTIONS => Answer::text(StatusCode::NO_CONTENT, ""),
        _ => Fault::new(Code::MethodNotAllowed, format!("{path} takes {allowed}")).into(),
    };
    Err(answer.with(ALLOW, HeaderValue::from_str(&allowed).expect("names of methods")))
}

/// Who may GET may HEAD (RFC 9110 §9.3.2).
fn allow(method: &Method) -> &str {
    if method == Method::GET { "GET, HEAD" } else { method.as_str() }
}
