//! Why a request is not done: a code, and what is wrong in words.

use crate::control::ReloadError;
use crate::control::answers::Late;
use crate::control::http::{Answer, Code};
use crate::server::{Invalid, Unanswered};
use serde_json::{Value, json};

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
        Answer::error(fault.code, &fault.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::http::StatusCode;

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
