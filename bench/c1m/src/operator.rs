//! What an operator's programs ask of the admin listener while clients are served: scrapes and publications at fixed times, each
//! timed from when it was due.

use hdrhistogram::Histogram;
use httparse::{EMPTY_HEADER, Response, Status};
use std::io::{Error, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(5);
/// Between two scrapes: many times as often as anybody scrapes, for there to be a p99.
const SCRAPE_EVERY: Duration = Duration::from_millis(100);
const PUBLISH_EVERY: Duration = Duration::from_millis(10);
const PUBLICATION: &str = r#"{"channel":"from-the-operator","data":{"bid":101.25,"ask":101.5}}"#;

/// What was asked and how long each answer took.
#[derive(Default, Clone)]
pub(crate) struct Asked {
    pub(crate) latency_us: Vec<u64>,
    /// Of the last answer's body.
    pub(crate) body_bytes: usize,
    /// No answer, or one that is no 200.
    pub(crate) failed: u64,
}

impl Asked {
    pub(crate) fn histogram(&self) -> Histogram<u64> {
        let mut histogram = Histogram::new(3).expect("three figures are allowed");
        self.latency_us.iter().for_each(|us| histogram.saturating_record(*us));
        histogram
    }
}

/// Asks until it is ended.
pub(crate) struct Asker {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Asked>,
}

impl Asker {
    /// Scrapes the metrics.
    pub(crate) fn scrapes(admin: SocketAddr) -> Asker {
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {admin}\r\n\r\n");
        Asker::start(admin, request, SCRAPE_EVERY)
    }

    /// Publishes through the API.
    pub(crate) fn publishes(admin: SocketAddr) -> Asker {
        let request = format!(
            "POST /api/publish HTTP/1.1\r\nHost: {admin}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n\
             {PUBLICATION}",
            PUBLICATION.len()
        );
        Asker::start(admin, request, PUBLISH_EVERY)
    }

    fn start(admin: SocketAddr, request: String, every: Duration) -> Asker {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || ask_on(admin, request.as_bytes(), every, &stopped));
        Asker { stop, thread }
    }

    pub(crate) fn end(self) -> Asked {
        self.stop.store(true, Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

fn ask_on(admin: SocketAddr, request: &[u8], every: Duration, stop: &AtomicBool) -> Asked {
    let mut asked = Asked::default();
    let mut stream = None;
    let mut due = Instant::now();
    while !stop.load(Relaxed) {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let answer = ask(&mut stream, admin, request);
        match answer {
            Ok(Answer { status: 200, body_bytes, .. }) => {
                asked.latency_us.push(due.elapsed().as_micros() as u64);
                asked.body_bytes = body_bytes;
            }
            _ => asked.failed += 1,
        }
        due += every;
    }
    asked
}

/// What an answer says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head_bytes: usize,
    body_bytes: usize,
    /// No other follows on its connection.
    closes: bool,
}

/// One request on the connection that was kept, or a new one. It is kept for the next unless something went wrong or the answer
/// says that none follows: a connection has so many requests and no more.
pub(crate) fn ask(kept: &mut Option<TcpStream>, admin: SocketAddr, request: &[u8]) -> Result<Answer, Error> {
    let mut stream = match kept.take() {
        Some(stream) => stream,
        None => open(admin)?,
    };
    stream.write_all(request)?;
    let mut received = Vec::new();
    let mut piece = [0; 16 << 10];
    loop {
        match stream.read(&mut piece)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            count => received.extend_from_slice(&piece[..count]),
        }
        if let Some(answer) = head(&received)?
            && received.len() >= answer.head_bytes + answer.body_bytes
        {
            *kept = (!answer.closes).then_some(stream);
            return Ok(answer);
        }
    }
}

fn open(admin: SocketAddr) -> Result<TcpStream, Error> {
    let stream = TcpStream::connect_timeout(&admin, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// What the head says, once it is whole.
fn head(received: &[u8]) -> Result<Option<Answer>, Error> {
    let mut headers = [EMPTY_HEADER; 32];
    let mut response = Response::new(&mut headers);
    let Status::Complete(head_bytes) = response.parse(received).map_err(Error::other)? else {
        return Ok(None);
    };
    let value = |name: &str| {
        let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        header.and_then(|header| std::str::from_utf8(header.value).ok())
    };
    Ok(Some(Answer {
        status: response.code.unwrap_or(0),
        head_bytes,
        body_bytes: value("content-length").and_then(|length| length.parse().ok()).unwrap_or(0),
        closes: value("connection").is_some_and(|options| {
            options.split(',').any(|option| option.trim().eq_ignore_ascii_case("close"))
        }),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn an_answer_is_whole_when_its_body_is() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc";
        assert_eq!(head(&answer[..30]).unwrap(), None);
        let whole = Answer { status: 200, head_bytes: answer.len() - 3, body_bytes: 3, closes: true };
        assert_eq!(head(answer).unwrap(), Some(whole));
        assert!(head(b"nonsense\r\n\r\n").is_err());
    }

    #[test]
    fn a_connection_whose_last_answer_has_come_is_left() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let admin = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            for _ in 0..3 {
                let (mut stream, _) = listener.accept().unwrap();
                for word in ["", "", "Connection: x, Close\r\n"] {
                    assert!(stream.read(&mut [0; 1024]).unwrap() > 0);
                    let text = format!("HTTP/1.1 200 OK\r\n{word}Content-Length: 2\r\n\r\nok");
                    stream.write_all(text.as_bytes()).unwrap();
                }
            }
        });
        let mut kept = None;
        for number in 1..=9 {
            let answer = ask(&mut kept, admin, b"GET / HTTP/1.1\r\n\r\n").unwrap();
            assert_eq!((answer.status, kept.is_none()), (200, number % 3 == 0), "answer {number}");
        }
        server.join().unwrap();
    }
}
