//! What a request may fail with: one table of codes.

use crate::control::ReloadError;
use crate::control::answers::Late;
use crate::control::http::Answer;
use crate::server::{Invalid, Unanswered};
use ::http::StatusCode;
use ::http::header::{HeaderValue, RETRY_AFTER};
use serde_json::{Value, json};

macro_rules! codes {
    ($($name:ident $text:literal $status:ident $doc:literal;)*) => {
        /// A kind of failure.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code { $($name,)* }

        impl Code {
            /// As it is answered.
            pub fn text(self) -> &'static str {
                match self { $(Code::$name => $text,)* }
            }

            pub fn status(self) -> StatusCode {
                match self { $(Code::$name => StatusCode::$status,)* }
            }

            /// When it is the one.
            pub fn about(self) -> &'static str {
                match self { $(Code::$name => $doc,)* }
            }
        }
    };
}

codes! {
    BadRequest "bad_request" BAD_REQUEST "A parameter is missing or is not what it must be; the message names it.";
    Unauthorized "unauthorized" UNAUTHORIZED "The API key is missing or is not the server's.";
    Forbidden "forbidden" FORBIDDEN "Without an API key only this host's own pages and programs may ask.";
    NotFound "not_found" NOT_FOUND "There is nothing of this name.";
    MethodNotAllowed "method_not_allowed" METHOD_NOT_ALLOWED "The path is there, but not for this method.";
    BadConfig "bad_config" CONFLICT "The configuration as it stands now is not valid; nothing has changed.";
    TooLarge "too_large" PAYLOAD_TOO_LARGE "The body, or what is to be sent, is larger than allowed.";
    UnsupportedMediaType "unsupported_media_type" UNSUPPORTED_MEDIA_TYPE "A body must be application/json.";
    TryAgain "try_again" SERVICE_UNAVAILABLE "There was no room on the way; nothing was done.";
    Stopped "stopped" SERVICE_UNAVAILABLE "The server has stopped.";
    Timeout "timeout" GATEWAY_TIMEOUT "A core has not answered in time; it may still happen.";
}

/// Why a request is not done.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    pub code: Code,
    pub message: String,
}

impl Fault {
    pub fn new(code: Code, message: impl Into<String>) -> Fault {
        Fault { code, message: message.into() }
    }

    pub fn bad(message: impl Into<String>) -> Fault {
        Fault::new(Code::BadRequest, message)
    }
}

impl From<Fault> for Value {
    /// As the member `error` of an answer.
    fn from(fault: Fault) -> Value {
        json!({"code": fault.code.text(), "message": fault.message})
    }
}

impl From<Late> for Fault {
    fn from(_: Late) -> Fault {
        Fault::new(Code::Timeout, Unanswered::Timeout.to_string())
    }
}

impl From<Unanswered> for Fault {
    fn from(unanswered: Unanswered) -> Fault {
        let code = match unanswered {
            Unanswered::Stopped => Code::Stopped,
            Unanswered::TryAgain => Code::TryAgain,
            Unanswered::Timeout => Code::Timeout,
        };
        Fault::new(code, unanswered.to_string())
    }
}

impl From<Invalid> for Fault {
    fn from(invalid: Invalid) -> Fault {
        let code = match invalid {
            Invalid::Name | Invalid::Json => Code::BadRequest,
            Invalid::ConnectionId => Code::NotFound,
            Invalid::Stopped => Code::Stopped,
        };
        Fault::new(code, invalid.to_string())
    }
}

impl From<ReloadError> for Fault {
    fn from(error: ReloadError) -> Fault {
        match error {
            ReloadError::Config(wrong) => Fault::new(Code::BadConfig, wrong),
            ReloadError::Late(late) => Fault::new(Code::Timeout, late),
        }
    }
}

impl From<Fault> for Answer {
    fn from(fault: Fault) -> Answer {
        let answer = Answer::error(fault.code.status(), fault.code.text(), &fault.message);
        match fault.code {
            Code::TryAgain => answer.with(RETRY_AFTER, HeaderValue::from_static("1")),
            _ => answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reload_that_is_late_somewhere_is_told_apart_from_one_that_changed_nothing() {
        let answer = Answer::from(Fault::from(ReloadError::Late("on core 1 not yet".into())));
        let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(body["error"], json!({"code": "timeout", "message": "on core 1 not yet"}));
        let answer = Answer::from(Fault::from(ReloadError::Config("mend it".into())));
        assert_eq!(answer.status, StatusCode::CONFLICT);
    }
}
