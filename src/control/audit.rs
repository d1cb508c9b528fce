//! Who asked the admin listener for what, and what came of it: a line of the log for each request that was let in.
//!
//! What steers the server is told at `info`. What programs ask for many times a second is told at `debug`. No line has a
//! key, a query or a body in it.

use super::http::{Answer, Request, RequestId};
use ::http::{Method, StatusCode};
use std::net::SocketAddr;
use std::thread;

/// What a filter of the log picks these lines by.
pub(super) const TARGET: &str = "ws.admin";

/// Of those that change something, applications use these, as often as they have something to say.
const SENDING: [&str; 3] = ["/api/publish", "/api/broadcast", "/api/send"];

/// A request that was let in. Its line is written when it is answered, or when it ends without an answer.
pub(super) struct Asked {
    peer: SocketAddr,
    id: RequestId,
    method: Method,
    path: String,
    status: Option<StatusCode>,
}

impl Asked {
    pub fn of(request: &Request) -> Asked {
        let Request { peer, id, method, path, .. } = request;
        Asked { peer: *peer, id: id.clone(), method: method.clone(), path: path.clone(), status: None }
    }

    pub fn answered(mut self, answer: &Answer) {
        self.status = Some(answer.status);
    }

    fn steers(&self) -> bool {
        self.method == Method::POST && !SENDING.contains(&&*self.path)
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let Asked { peer, id, method, path, .. } = &*self;
        match self.status.map(|status| status.as_u16()) {
            None if thread::panicking() => {
                tracing::error!(target: TARGET, %peer, request = %id, %method, path, "panicked");
            }
            status if self.steers() => {
                tracing::info!(target: TARGET, %peer, request = %id, %method, path, status);
            }
            status => tracing::debug!(target: TARGET, %peer, request = %id, %method, path, status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic while it is held").write(line)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn told(act: impl FnOnce(Asked)) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
        let asked = Asked {
            peer: ([127, 0, 0, 1], 7).into(),
            id: RequestId::named("mine"),
            method: Method::POST,
            path: "/api/drain".to_owned(),
            status: None,
        };
        tracing::subscriber::with_default(log, || {
            let _ = catch_unwind(AssertUnwindSafe(|| act(asked)));
        });
        String::from_utf8(lines.0.lock().expect("no panic while it is held").clone()).expect("UTF-8")
    }

    #[test]
    fn a_request_is_told_however_it_ends() {
        const NAMED: &str = "peer=127.0.0.1:7 request=mine method=POST path=\"/api/drain\"";
        let panicked = told(|_asked| panic!("planted"));
        assert!(panicked.contains("ERROR ws.admin: panicked ") && panicked.contains(NAMED), "{panicked}");
        let given_up = told(drop);
        assert!(given_up.trim_end().ends_with(&format!("INFO ws.admin: {NAMED}")), "{given_up}");
        let answered = told(|asked| asked.answered(&Answer::text(StatusCode::OK, "")));
        assert!(answered.trim_end().ends_with(&format!("{NAMED} status=200")), "{answered}");
    }
}
