//! A listener of its own on loopback, with a service that does what no endpoint should.

use super::{Answer, Code, Limits, Request, Service, Standing, breathe, serve};
use ::http::{Method, StatusCode};
use bytes::Bytes;
use std::cell::Cell;
use std::future::pending;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

/// How long any single event may take before the test calls it missing.
const PATIENCE: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);

/// More than two sockets hold.
const LARGE_BYTES: usize = 32 << 20;

struct Unruly {
    /// Requests that wait for an answer that does not come, or that stall the server until nobody waits.
    waiting: Arc<AtomicUsize>,
    leaving: Cell<bool>,
}

impl Service for Unruly {
    fn leaves(&self) -> bool {
        self.leaving.get()
    }

    async fn admit(&self, head: &Request) -> Result<Standing, Answer> {
        assert!(head.body.is_empty());
        match &*head.path {
            "/secret" => Err(Answer::error(Code::Unauthorized, "no")),
            "/open" => Ok(Standing::Stranger),
            _ => Ok(Standing::Known),
        }
    }

    async fn answer(&self, request: Request) -> Answer {
        match &*request.path {
            "/panic" => panic!("as a test asked"),
            "/panic/later" => {
                breathe().await;
                panic!("as a test asked, later")
            }
            "/stall" => {
                self.waiting.fetch_add(1, Relaxed);
                while self.waiting.load(Relaxed) > 0 {
                    thread::sleep(Duration::from_millis(1));
                }
                Answer::text(StatusCode::OK, "at last")
            }
            "/never" => {
                self.waiting.fetch_add(1, Relaxed);
                pending().await
            }
            "/leave" => {
                self.leaving.set(true);
                Answer::text(StatusCode::OK, "on its way out")
            }
            "/large" => Answer::text(StatusCode::OK, vec![b'l'; LARGE_BYTES]),
            "/nothing" => Answer::text(StatusCode::NO_CONTENT, Bytes::new()),
            _ if request.method == Method::POST => Answer::text(StatusCode::OK, request.body),
            path => Answer::text(StatusCode::OK, format!("{path} {:?}", request.query)),
        }
    }
}

/// Where it listens, until the tests end.
fn served(limits: Limits) -> SocketAddr {
    served_by(Unruly { waiting: Arc::default(), leaving: Cell::default() }, limits)
}

fn served_by(service: Unruly, limits: Limits) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let mut runtime =
            monoio::RuntimeBuilder::<monoio::LegacyDriver>::new().enable_timer().build().unwrap();
        runtime.block_on(serve(listener, Rc::new(service), limits)).unwrap();
    });
    address
}

struct Client(TcpStream);

impl Client {
    fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Client(stream)
    }

    fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).unwrap();
    }

    fn get(&mut self, target: &str) -> (u16, String) {
        self.send(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        self.answer()
    }

    fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            let taken = self.0.read(&mut byte).unwrap();
            assert_eq!(taken, 1, "an answer, not {:?} and the end", head.escape_ascii().to_string());
            head.push(byte[0]);
        }
        String::from_utf8(head).unwrap()
    }

    fn answer(&mut self) -> (u16, String) {
        let head = self.head();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        self.0.read_exact(&mut body).unwrap();
        (status, String::from_utf8(body).unwrap())
    }

    /// The server has closed and said nothing more. A reset is an end too: of who had sent what nobody read.
    fn ends(&mut self) {
        match self.0.read(&mut [0]) {
            Ok(0) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            other => panic!("the end, not {other:?}"),
        }
    }
}

fn posted(body: &str) -> String {
    format!("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn who_leaves_takes_nobody_new_and_goes_on_with_those_it_has() {
    let address = served(Limits::DEFAULT);
    let mut kept = Client::connect(address);
    assert_eq!(kept.get("/leave").0, 200);
    let asked = Instant::now();
    while TcpStream::connect(address).is_ok() {
        assert!(asked.elapsed() < PATIENCE, "it goes on accepting");
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(kept.get("/still"), (200, "/still []".to_owned()));
}

#[test]
fn a_panic_takes_its_own_connection_and_nobody_elses() {
    let address = served(Limits::DEFAULT);
    let mut other = Client::connect(address);
    other.send("GET /half HTTP/1.1\r\nHo");
    for path in ["/panic", "/panic/later"] {
        for _ in 0..200 {
            let mut client = Client::connect(address);
            client.send(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
            client.ends();
        }
    }
    other.send("st: localhost\r\n\r\n");
    assert_eq!(other.answer(), (200, "/half []".to_owned()));
    assert_eq!(Client::connect(address).get("/new").0, 200);
}

#[test]
fn who_does_not_read_an_answer_holds_up_nobody_and_is_cut() {
    let address = served(Limits { write: SHORT, requests_per_connection: u32::MAX, ..Limits::DEFAULT });
    let mut deaf = Client::connect(address);
    deaf.send("GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n");
    deaf.head();
    let mut lively = Client::connect(address);
    let began = Instant::now();
    while began.elapsed() < SHORT * 2 {
        assert_eq!(lively.get("/a").0, 200);
    }
    let mut taken = Vec::new();
    let end = deaf.0.read_to_end(&mut taken);
    assert!(taken.len() < LARGE_BYTES, "{} bytes came, then {end:?}", taken.len());
    // And who reads gets all of it.
    let (status, body) = Client::connect(served(Limits::DEFAULT)).get("/large");
    assert_eq!((status, body.len()), (200, LARGE_BYTES));
}

#[test]
fn of_answers_too_large_together_the_one_not_taken_for_longest_goes() {
    let address = served(Limits { answers_bytes: LARGE_BYTES * 2, ..Limits::DEFAULT });
    let mut deaf = Client::connect(address);
    deaf.send("GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n");
    deaf.head();
    let mut slow = Client::connect(address);
    slow.send("GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n");
    slow.head();
    let (status, body) = Client::connect(address).get("/large");
    assert_eq!((status, body.len()), (200, LARGE_BYTES));
    let mut taken = Vec::new();
    let end = deaf.0.read_to_end(&mut taken);
    assert!(taken.len() < LARGE_BYTES, "{} bytes came, then {end:?}", taken.len());
    // Two at a time are within the limit.
    slow.0.read_exact(&mut vec![0; LARGE_BYTES]).unwrap();
}

#[test]
fn a_full_house_evicts_who_is_silent_longest() {
    let address = served(Limits { connections: 4, ..Limits::DEFAULT });
    let mut known = Client::connect(address);
    assert_eq!(known.get("/a").0, 200);
    let mut silent: Vec<Client> = (0..3).map(|_| Client::connect(address)).collect();
    // Each takes the seat of the oldest silent one, and one that has asked something keeps its own.
    for _ in 0..10 {
        silent.push(Client::connect(address));
        silent.remove(0).ends();
    }
    assert_eq!(known.get("/b").0, 200);
    let mut newcomer = Client::connect(address);
    assert_eq!(newcomer.get("/c").0, 200);
    silent.remove(0).ends();
    assert_eq!(known.get("/d").0, 200);
}

#[test]
fn who_waits_for_an_answer_is_not_evicted_and_a_newcomer_is_told() {
    let served = Arc::<AtomicUsize>::default();
    let limits = Limits { connections: 2, answer: Duration::from_secs(2), ..Limits::DEFAULT };
    let address = served_by(Unruly { waiting: Arc::clone(&served), leaving: Cell::default() }, limits);
    let mut waiting: Vec<Client> = (0..2).map(|_| Client::connect(address)).collect();
    for client in &mut waiting {
        client.send("GET /never HTTP/1.1\r\nHost: localhost\r\n\r\n");
    }
    while served.load(Relaxed) < 2 {
        thread::yield_now();
    }
    let head = Client::connect(address).head().to_lowercase();
    assert!(head.starts_with("http/1.1 503 ") && head.contains("\r\nretry-after: 1\r\n"), "{head}");
    assert!(head.contains("\r\nx-request-id: "), "{head}");
    for client in &mut waiting {
        let (status, body) = client.answer();
        assert!(status == 504 && body.contains("timeout"), "{status} {body}");
        assert_eq!(client.get("/a").0, 200, "the connection goes on");
    }
}

#[test]
fn who_comes_with_its_request_is_heard_however_many_come_at_once() {
    let stalled = Arc::<AtomicUsize>::default();
    let limits = Limits { connections: 16, ..Limits::DEFAULT };
    let address = served_by(Unruly { waiting: Arc::clone(&stalled), leaving: Cell::default() }, limits);
    let mut first = Client::connect(address);
    first.send("GET /stall HTTP/1.1\r\nHost: localhost\r\n\r\n");
    while stalled.load(Relaxed) == 0 {
        thread::yield_now();
    }
    let many = || -> Vec<Client> { (0..50).map(|_| Client::connect(address)).collect() };
    let before = many();
    let mut scraper = Client::connect(address);
    scraper.send("GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let after = many();
    stalled.store(0, Relaxed);
    assert_eq!(scraper.answer().0, 200);
    drop((before, after));
}

#[test]
fn every_wait_ends_at_its_time() {
    let limits = Limits { idle: SHORT, head: SHORT, body: SHORT, ..Limits::DEFAULT };
    let address = served(limits);
    let ended = |sent: &str, asks_first: bool, answer: Option<u16>| {
        let mut client = Client::connect(address);
        if asks_first {
            assert_eq!(client.get("/a").0, 200);
        }
        let began = Instant::now();
        client.send(sent);
        if let Some(status) = answer {
            assert_eq!(client.answer().0, status, "{sent:?}");
        }
        client.ends();
        assert!(began.elapsed() >= SHORT - Duration::from_millis(50), "{sent:?}: {:?}", began.elapsed());
        assert!(began.elapsed() < PATIENCE / 2, "{sent:?}: {:?}", began.elapsed());
    };
    ended("", false, None);
    ended("", true, None);
    for asks_first in [false, true] {
        ended("GET / HT", asks_first, Some(408));
        ended(&posted("{}").replace("{}", "{"), asks_first, Some(408));
    }
}

#[test]
fn bodies_come_in_any_pieces_up_to_their_size() {
    let address = served(Limits { body_bytes: 100_000, ..Limits::DEFAULT });
    for (bytes, status) in [(0, 200), (1, 200), (9_000, 200), (100_000, 200), (100_001, 413)] {
        let body = "b".repeat(bytes);
        let text = posted(&body);
        let mut client = Client::connect(address);
        client.send(&text[..text.len() / 2]);
        client.send(&text[text.len() / 2..]);
        let (got, echoed) = client.answer();
        assert_eq!(got, status, "{bytes}");
        if status == 200 {
            assert!(echoed == body, "{bytes}");
            client.send(&(posted("next") + &posted("after")));
            assert_eq!((client.answer().1, client.answer().1), ("next".into(), "after".into()));
        }
    }
}

#[test]
fn all_bodies_together_have_a_size_too() {
    let address = served(Limits { bodies_bytes: 100_000, ..Limits::DEFAULT });
    let text = posted(&"b".repeat(60_000));
    let (most, last) = text.split_at(text.len() - 1);
    let mut first = Client::connect(address);
    first.send(most);
    // The second goes too far as soon as the first has been received, which may be after it.
    let mut second = Client::connect(address);
    second.send(most);
    let refused = loop {
        first.0.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        second.0.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        match [first.0.peek(&mut [0]), second.0.peek(&mut [0])] {
            [Ok(_), Err(_)] => break [&mut first, &mut second],
            [Err(_), Ok(_)] => break [&mut second, &mut first],
            [Err(_), Err(_)] => {}
            both => panic!("{both:?}"),
        }
    };
    let [refused, other] = refused.map(|client| {
        client.0.set_read_timeout(Some(PATIENCE)).unwrap();
        client
    });
    let (status, body) = refused.answer();
    assert!(status == 503 && body.contains("try_again"), "{status} {body}");
    other.send(last);
    assert_eq!(other.answer().0, 200);
    other.send(&text);
    assert_eq!(other.answer().0, 200, "what is done with is not counted");
}

#[test]
fn who_may_not_go_on_is_told_before_the_body() {
    let address = served(Limits::DEFAULT);
    let mut client = Client::connect(address);
    for _ in 0..2 {
        assert_eq!(client.get("/secret").0, 401);
    }
    client.send("POST /secret HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n");
    assert_eq!(client.answer().0, 401);
    client.ends();
}

#[test]
fn what_anybody_may_ask_is_answered_without_its_body() {
    let mut client = Client::connect(served(Limits::DEFAULT));
    for _ in 0..2 {
        assert_eq!(client.get("/open").0, 200);
    }
    client.send("POST /open HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n1234");
    assert_eq!(client.answer(), (200, String::new()));
    client.ends();
}

#[test]
fn a_query_is_decoded_and_a_path_is_not() {
    let address = served(Limits::DEFAULT);
    let mut client = Client::connect(address);
    for (target, answer) in [
        (
            "/a%20b?c%20d=e%2Bf+g&h&=i&&j==k",
            r#"/a%20b [("c d", "e+f g"), ("h", ""), ("", "i"), ("j", "=k")]"#,
        ),
        ("/?%C3%A4=%", r#"/ [("ä", "%")]"#),
        ("http://localhost/x?y", r#"/x [("y", "")]"#),
        ("*", "* []"),
    ] {
        assert_eq!(client.get(target), (200, answer.to_owned()));
    }
}

#[test]
fn an_answer_without_a_body_has_no_length_either() {
    let address = served(Limits::DEFAULT);
    let mut client = Client::connect(address);
    client.send("GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let head = client.head();
    assert!(head.starts_with("HTTP/1.1 204 No Content\r\n") && !head.contains("\r\nContent-"), "{head}");
    client.send("HEAD /large HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(client.head().contains(&format!("Content-Length: {}\r\n", LARGE_BYTES)));
    assert_eq!(client.get("/a").0, 200, "the next answer begins where the last one's head ended");
}
