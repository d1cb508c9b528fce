//! Rows 14, 16, 17, 18, 34, 38 and 39: who gets in, for how long, what for, and how fast.
//!
//! Rates here are small, so that a test need not send much to be beyond them, and so slow to fill that no pause of a loaded
//! machine fills them again.

use crate::common::client::{Client, KEYS, Response, request, upgrade_request, upgrade_request_with};
use crate::common::frames::{self, PING, PONG, TEXT};
use crate::common::server::Server;
use crate::common::{PATIENCE, eventually};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::EncodingKey;
use megasock::hub::token::{Algorithm, Keys};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const SECRET: &[u8] = b"a secret of thirty-two bytes, or so";
/// Of a key that nobody has the other half of.
const RSA_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA1zG4G9UjLb+u6dl7r1GT
IG9G1IiyG47GEuVjtDIsqFto9koSEq5nQO4ZpNN8oCyN1CMvUEpdvXOrJsv4vVbJ
YdjwUzuvMwcKakq0og6tGHT6HBZao8tI7Q3Jm2EcqqZzYjpRFQlEcfNN66nlIHoq
qRQnleO5JDGVI1ubpoXVxafP28CyXh/s8PZyrnr1e+Z1aPxNvAIWj845squR1hKq
0VZnrbCbiGXljj51X611rNxIPT6yQUBk1QNF89EsOSgd+Vi1Q9ItRaf4YUsm6s3u
Ff3vSL9FKvcPCaPBW717opknm5nvOmvoMVsnBHdibuAL2HziLkqCOFH9Hz4Qk1Ft
RwIDAQAB
-----END PUBLIC KEY-----
";
const ORIGIN: &str = "https://app.example.com";

/// A server with a key.
struct Guarded {
    server: Server,
    _folder: Folder,
}

/// Where its files are; gone with the test.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Guarded {
    /// With these lines in its config file beside the key; they may name `rsa.pem`.
    fn start(test: &str, lines: &str) -> Guarded {
        let folder = std::env::temp_dir().join(format!("megasock-guard-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let secret = folder.join("secret");
        std::fs::write(&secret, SECRET).unwrap();
        std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::write(folder.join("rsa.pem"), RSA_PUBLIC).unwrap();
        let file = folder.join("megasock.toml");
        let text = format!("{lines}\n[key.k]\nalgorithm = \"HS256\"\nfile = \"secret\"\n");
        std::fs::write(&file, text).unwrap();
        let server = Server::start(&["--config", file.to_str().unwrap(), "--log", "debug"]);
        Guarded { server, _folder: Folder(folder) }
    }

    /// In production, with an echo so that it can be asked whether it serves; strangers may come in.
    fn start_production(test: &str, lines: &str) -> Guarded {
        let basis = format!("production = true\nanonymous = true\necho = true\norigins = \"{ORIGIN}\"\n");
        Guarded::start(test, &(basis + lines))
    }

    fn ask_in(&self, target: &str, header_lines: &str) -> Client {
        let mut client = Client::connect(self.server.address);
        client.send(upgrade_request_with(target, KEYS[0].0, header_lines).as_bytes());
        client
    }

    fn refused(&self, target: &str, header_lines: &str) -> Response {
        self.ask_in(target, header_lines).last_response()
    }

    /// A client past its welcome.
    fn enter(&self, query: &str) -> Client {
        let mut client = self.ask_in(&format!("/ws{query}"), "");
        client.accepted(KEYS[0].1);
        assert_eq!(hear(&mut client)["type"], "welcome");
        client
    }

    fn enter_with(&self, claims: &Value) -> Client {
        self.enter(&format!("?token={}", token(claims)))
    }
}

/// The server stops, and has closed so many connections for this reason.
fn assert_closed(guarded: Guarded, reason: &str, count: u64) {
    let summary = guarded.server.stop();
    assert_eq!(summary.closed(reason), count, "{summary:?}");
}

fn in_s(seconds: u64) -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + seconds
}

/// A good token.
fn token(claims: &Value) -> String {
    let mut keys = Keys::default();
    keys.add("k", Algorithm::Hs256, SECRET).unwrap();
    keys.mint("k", None, claims, in_s(0)).unwrap()
}

/// Any header and claims, signed as HS256 with any secret.
fn signed(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let key = EncodingKey::from_secret(secret);
    let signature =
        jsonwebtoken::crypto::sign(signed.as_bytes(), &key, jsonwebtoken::Algorithm::HS256).unwrap();
    format!("{signed}.{signature}")
}

fn hear(client: &mut Client) -> Value {
    let (opcode, body) = client.message();
    assert_eq!(opcode, TEXT);
    serde_json::from_slice(&body).expect("JSON")
}

fn say(client: &mut Client, command: &Value) {
    client.send(&frames::text(&command.to_string()));
}

fn ask(client: &mut Client, command: &Value) -> Value {
    say(client, command);
    hear(client)
}

fn error(client: &mut Client, command: &Value) -> String {
    let reply = ask(client, command);
    assert_eq!((&reply["type"], &reply["id"]), (&json!("error"), &command["id"]), "{reply}");
    reply["code"].as_str().expect("a code").to_owned()
}

/// Between one and ten seconds, as everybody is told for whom there is no room now.
fn assert_says_when(response: &Response) {
    let retry_after = response.header("Retry-After").expect("Retry-After").parse().expect("seconds");
    assert!((1..=10).contains(&retry_after), "{response:?}");
}

#[test]
fn row_14_origins() {
    let mut server = Server::start(&["--origins", "https://app.example.com,http://localhost:3000"]);
    let status = |target: &str, header_lines: &str| {
        let mut client = Client::connect(server.address);
        client.send(upgrade_request_with(target, KEYS[0].0, header_lines).as_bytes());
        client.response().status
    };
    for target in ["/ws", "/", "/echo"] {
        for welcome in ["", "Origin: https://app.example.com\r\n", "origin: http://localhost:3000\r\n"] {
            assert_eq!(status(target, welcome), 101, "{target} {welcome}");
        }
        for origin in [
            "null",
            "",
            "https://evil-app.example.com",
            "https://app.example.com.evil.com",
            "https://app.example.com:443",
            "http://app.example.com",
            "https://APP.example.com",
            "https://app.example.com/",
            "https://app.example.com, https://app.example.com",
            "http://localhost:30000",
            "app.example.com",
            "*",
        ] {
            assert_eq!(status(target, &format!("Origin: {origin}\r\n")), 403, "{target} {origin}");
        }
        let twice = "Origin: https://app.example.com\r\nOrigin: https://evil.com\r\n";
        assert_eq!(status(target, twice), 400);
    }
    server.assert_serves();
}

#[test]
fn row_14_plain_answers_are_for_scripts_of_listed_origins() {
    let ask = |server: &Server, method: &str, path: &str, origin: &str| {
        let text = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{origin}\r\n");
        request(server.address, text.as_bytes())
    };
    let listed = Server::start(&["--origins", ORIGIN]);
    for path in ["/health", "/ready", "/", "/ws", "/echo", "/nothing"] {
        let response = ask(&listed, "GET", path, &format!("Origin: {ORIGIN}\r\n"));
        assert_eq!(response.header("Access-Control-Allow-Origin"), Some(ORIGIN), "{path}");
        for origin in ["", "Origin: null\r\n", "Origin: https://app.example.com.evil.com\r\n"] {
            let response = ask(&listed, "GET", path, origin);
            assert_eq!(response.header("Access-Control-Allow-Origin"), None, "{path} {origin}");
            assert_eq!(response.header("Vary"), Some("Origin"), "a cache must not hand it to others");
        }
    }
    let any = Server::start(&[]);
    let response = ask(&any, "GET", "/health", "Origin: https://anybody.example\r\n");
    assert_eq!(response.header("Access-Control-Allow-Origin"), Some("*"));
    for (server, allowed) in [(&listed, ORIGIN), (&any, "*")] {
        let response = ask(server, "OPTIONS", "/health", &format!("Origin: {ORIGIN}\r\n"));
        assert_eq!((response.status, response.body.len()), (204, 0));
        assert_eq!(response.header("Access-Control-Allow-Origin"), Some(allowed));
        assert_eq!(response.header("Access-Control-Allow-Methods"), Some("GET"));
        assert_eq!(ask(server, "OPTIONS", "/nothing", "").status, 404);
    }
}

#[test]
fn row_16_connections_of_one_address() {
    let mut guarded = Guarded::start_production("address", "max_connections_per_address = 3");
    let mut inside: Vec<Client> = (0..3).map(|_| guarded.enter("")).collect();
    for _ in 0..5 {
        let response = guarded.refused("/ws", "");
        assert_eq!(response.status, 429);
        assert_says_when(&response);
    }
    // An echo is nobody's session, and is not counted.
    (0..5).for_each(|_| guarded.server.open().echo(TEXT, b"hello"));
    // Who leaves makes room, however it leaves.
    inside.pop().unwrap().reset();
    drop(inside.pop());
    inside.extend((0..2).map(|_| {
        eventually("there is room again", PATIENCE, || {
            let mut client = guarded.ask_in("/ws", "");
            (client.response().status == 101).then_some(client)
        })
    }));
    assert_eq!(guarded.refused("/ws", "").status, 429);
    // Frames sent before the answer of the address's home core are handled after it.
    drop(inside.pop());
    let early = upgrade_request("/ws").into_bytes();
    let early = [early, frames::text(r#"{"type":"ping","id":1}"#)].concat();
    let mut client = eventually("there is room again", PATIENCE, || {
        let mut client = Client::connect(guarded.server.address);
        client.send(&early);
        (client.response().status == 101).then_some(client)
    });
    assert_eq!(hear(&mut client)["type"], "welcome");
    assert_eq!(hear(&mut client)["type"], "pong");
    guarded.server.assert_serves();
}

#[test]
fn row_16_newcomers_of_one_address_a_second() {
    let mut guarded = Guarded::start_production("address-rate", "accept_rate_per_address = \"1/s\"");
    let begin = Instant::now();
    let mut statuses = Vec::new();
    for _ in 0..20 {
        let mut client = guarded.ask_in("/ws", "");
        let response = client.response();
        if response.status == 429 {
            assert_says_when(&response);
        }
        statuses.push(response.status);
    }
    let let_in = statuses.iter().filter(|status| **status == 101).count();
    assert!(statuses.iter().all(|status| matches!(status, 101 | 429)), "{statuses:?}");
    let most = 2 + begin.elapsed().as_secs() as usize + 1;
    assert!((2..=most).contains(&let_in) && statuses[..2] == [101, 101], "{statuses:?}");
    guarded.server.assert_serves();
}

#[test]
fn row_16_refused_tokens_of_one_address_a_second() {
    let mut guarded = Guarded::start_production("refused-rate", "accept_rate_per_address = \"1/s\"");
    let begin = Instant::now();
    let mut statuses = Vec::new();
    for _ in 0..100 {
        let response = guarded.refused("/ws?token=x", "");
        if response.status == 429 {
            assert_says_when(&response);
        }
        statuses.push(response.status);
    }
    assert!(statuses.iter().all(|status| matches!(status, 401 | 429)), "{statuses:?}");
    // Two at once, and one that finds the rate used up; from then on such a pair each second.
    let looked_at = statuses.iter().filter(|status| **status == 401).count();
    let most = 3 + 2 * (begin.elapsed().as_secs() as usize + 1);
    assert!((3..=most).contains(&looked_at) && statuses[..3] == [401; 3], "{statuses:?}");
    // No token was looked at besides.
    let told = |server: &Server| server.lines().iter().filter(|line| line.contains("token refused")).count();
    eventually("each refused token is in the log", PATIENCE, || {
        let told = told(&guarded.server);
        assert!(told <= looked_at, "{told} tokens looked at, {looked_at} answered");
        (told == looked_at).then_some(())
    });
    // A neighbour with a good one has the same address, and is let in when that has room.
    let good = format!("/ws?token={}", token(&json!({"sub": "ann", "exp": in_s(600)})));
    eventually("there is room for a neighbour", PATIENCE, || {
        (guarded.ask_in(&good, "").response().status == 101).then_some(())
    });
    guarded.server.assert_serves();
}

#[test]
fn row_16_newcomers_of_all_together() {
    let lines = "accept_rate = \"1/s\"\naccept_rate_per_address = \"1000/s\"";
    let mut guarded = Guarded::start_production("accept-rate", lines);
    let begin = Instant::now();
    let mut let_in = 0;
    for _ in 0..20 {
        let mut client = guarded.ask_in("/ws", "");
        // Who is refused for another reason takes nothing from those who are let in.
        assert_eq!(guarded.refused("/ws?user=eve", "").status, 401);
        match client.response() {
            response if response.status == 101 => let_in += 1,
            response => {
                assert_eq!(response.status, 503);
                assert_says_when(&response);
            }
        }
    }
    // Two cores: four at once each, and one a second.
    assert!((1..=8 + 2 * (1 + begin.elapsed().as_secs())).contains(&let_in), "{let_in} let in");
    guarded.server.assert_serves();
}

#[test]
fn row_17_hostile_tokens() {
    let mut guarded = Guarded::start("tokens", "[key.rsa]\nalgorithm = \"RS256\"\nfile = \"rsa.pem\"\n");
    let rss = guarded.server.warm_rss_bytes();
    let (header, claims) =
        (json!({"alg": "HS256", "kid": "k", "typ": "JWT"}), json!({"sub": "ann", "exp": in_s(600)}));
    let with = |name: &str, value: Value| {
        let mut header = header.clone();
        header[name] = value;
        signed(&header, &claims, SECRET)
    };
    let good = signed(&header, &claims, SECRET);
    let parts: Vec<&str> = good.split('.').collect();
    let unsigned = URL_SAFE_NO_PAD.encode(json!({"alg": "none"}).to_string());
    let confused = json!({"alg": "HS256", "kid": "rsa", "typ": "JWT"});
    let hostile = [
        signed(&confused, &claims, RSA_PUBLIC.as_bytes()),
        signed(&confused, &claims, RSA_PUBLIC.trim_end().as_bytes()),
        format!("{unsigned}.{}.", parts[1]),
        format!("{}.{}.", parts[0], parts[1]),
        with("alg", json!("none")),
        with("alg", json!("RS256")),
        with("alg", json!("HS512")),
        with("kid", json!("another")),
        with("kid", json!("../../../../dev/null")),
        with("kid", json!(["k"])),
        with("jku", json!("https://evil.example/keys")),
        with("x5u", json!("https://evil.example/cert")),
        with("jwk", json!({"kty": "oct", "k": "AAAA"})),
        with("crit", json!(["exp"])),
        signed(&header, &claims, b"another secret of thirty-two bytes"),
        signed(&header, &json!({"sub": "ann", "exp": 1}), SECRET),
        signed(&header, &json!({"sub": "ann"}), SECRET),
        signed(&header, &json!({"sub": "ann", "exp": "tomorrow"}), SECRET),
        signed(&header, &json!({"sub": "\n", "exp": in_s(600)}), SECRET),
        signed(&header, &json!({"sub": "ann", "exp": in_s(600), "nbf": in_s(300)}), SECRET),
        signed(&header, &json!({"sub": "ann", "exp": in_s(600), "channels": ["*"]}), SECRET),
        format!("{good}x"),
        format!("{good}.x"),
        good[1..].to_owned(),
        "x".to_owned(),
        "..".to_owned(),
        "a".repeat(7_000),
    ];
    for token in &hostile {
        for (target, header_lines) in [
            (format!("/ws?token={token}"), String::new()),
            ("/ws".to_owned(), format!("Authorization: Bearer {token}\r\n")),
            ("/".to_owned(), format!("Sec-WebSocket-Protocol: megasock, token.{token}\r\n")),
        ] {
            let response = guarded.refused(&target, &header_lines);
            let body = String::from_utf8(response.body.clone()).unwrap();
            assert_eq!((response.status, &*body), (401, "The token is not accepted.\n"), "{token}");
            assert_eq!(response.header("WWW-Authenticate"), Some("Bearer"));
        }
    }
    let long = "a".repeat(1 << 20);
    // In a target so long a token is not looked for: it is row 13's 414.
    for (target, header_lines, status) in [
        (format!("/ws?token={long}"), String::new(), 414),
        ("/ws".to_owned(), format!("Authorization: Bearer {long}\r\n"), 431),
        ("/ws".to_owned(), format!("Authorization: Bearer {}\r\n", "a".repeat(9_000)), 401),
        ("/ws".to_owned(), String::new(), 401),
        ("/ws".to_owned(), "Authorization: Basic YW5uOmFubg==\r\n".to_owned(), 401),
        ("/ws?user=ann".to_owned(), String::new(), 401),
        (format!("/ws?user=bob&token={good}"), String::new(), 401),
    ] {
        let mut client = Client::connect(guarded.server.address);
        client.offer(upgrade_request_with(&target, KEYS[0].0, &header_lines).as_bytes(), PATIENCE);
        assert_eq!(client.response().status, status, "{} {}", target.len(), header_lines.len());
    }
    let mut client = guarded.ask_in("/ws", &format!("Sec-WebSocket-Protocol: megasock, token.{good}\r\n"));
    let response = client.response();
    assert_eq!((response.status, response.header("Sec-WebSocket-Protocol")), (101, Some("megasock")));
    assert_eq!(hear(&mut client)["userId"], "ann");
    guarded.enter(&format!("?token={good}"));
    guarded.server.assert_serves();
    guarded.server.assert_rss_returns_to(rss);
    assert_nothing_leaked(&guarded.server, hostile.iter().chain([&good]).map(String::as_str));
}

/// At its most talkative level of ordinary use, the log has no token, no part of one that matters, and no query.
fn assert_nothing_leaked<'t>(server: &Server, tokens: impl Iterator<Item = &'t str>) {
    let log = server.lines().join("\n");
    for token in tokens.filter(|token| token.len() > 30) {
        let signature = token.rsplit('.').next().filter(|part| part.len() > 10).unwrap_or(token);
        assert!(!log.contains(token) && !log.contains(signature), "the log has {token}");
    }
    assert!(!log.contains("token=") && !log.contains(std::str::from_utf8(SECRET).unwrap()), "{log}");
}

#[test]
fn row_18_a_token_ends() {
    let guarded = Guarded::start("expiry", "");
    let mut client = guarded.enter_with(&json!({"sub": "ann", "exp": in_s(4)}));
    // With less than a minute left it is told at once.
    let warning = hear(&mut client);
    let left = warning["expiresIn"].as_u64().expect("seconds");
    assert!(warning["type"] == "expiring" && (1..=4).contains(&left), "{warning}");
    assert_eq!(
        ask(&mut client, &json!({"type": "ping", "id": 1}))["type"],
        "pong",
        "until then it is served"
    );
    client.expect_close(4401);

    let mut client = guarded.enter_with(&json!({"sub": "ann", "exp": in_s(63)}));
    assert_eq!(ask(&mut client, &json!({"type": "ping", "id": 1}))["type"], "pong", "nothing yet");
    let warning = hear(&mut client);
    let left = warning["expiresIn"].as_u64().expect("seconds");
    assert!(warning["type"] == "expiring" && (55..=60).contains(&left), "{warning}");

    drop(client);
    assert_closed(guarded, "token_expired", 1);
}

#[test]
fn row_18_a_token_is_refreshed() {
    let guarded = Guarded::start("refresh", "");
    let refresh = |token: &str| json!({"type": "refresh", "id": "r", "token": token});
    let mut client = guarded.enter_with(&json!({"sub": "ann", "exp": in_s(5)}));
    assert_eq!(hear(&mut client)["type"], "expiring");
    let reply = ask(&mut client, &refresh(&token(&json!({"sub": "ann", "exp": in_s(3_600)}))));
    let left = reply["expiresIn"].as_u64().expect("seconds");
    assert!(reply["type"] == "refreshed" && (3_590..=3_600).contains(&left), "{reply}");

    let another = token(&json!({"sub": "bob", "exp": in_s(3_600)}));
    let nobody = token(&json!({"exp": in_s(3_600)}));
    let ended = signed(&json!({"alg": "HS256", "kid": "k"}), &json!({"sub": "ann", "exp": 9}), SECRET);
    for wrong in [another.as_str(), &nobody, &ended, "", "x", &"x".repeat(20_000)] {
        assert_eq!(error(&mut client, &refresh(wrong)), "unauthorized", "{wrong}");
    }
    // The old one would have ended by now: the new one holds, whatever was refused after it.
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(ask(&mut client, &json!({"type": "ping", "id": 1}))["type"], "pong");

    // A shorter one holds as well.
    let short = token(&json!({"sub": "ann", "exp": in_s(2)}));
    assert_eq!(ask(&mut client, &refresh(&short))["type"], "refreshed");
    assert_eq!(hear(&mut client)["type"], "expiring");
    client.expect_close(4401);
    assert_nothing_leaked(&guarded.server, [another.as_str(), &nobody, &ended, &short].into_iter());
}

#[test]
fn what_a_token_does_not_grant_is_forbidden() {
    let guarded = Guarded::start("grants", "");
    let claims = |channels: Value| json!({"sub": "ann", "exp": in_s(3_600), "channels": channels});
    let granted = json!({"subscribe": ["scores:*", "room:lobby"], "publish": ["scores:1", "room:lobby"]});
    let mut client = guarded.enter_with(&claims(granted));
    for (command, kind) in [
        (json!({"type": "subscribe", "id": 1, "channel": "scores:1"}), "subscribed"),
        (json!({"type": "subscribe", "id": 1, "channel": "scores:2"}), "subscribed"),
        (json!({"type": "publish", "id": 1, "channel": "scores:1", "data": 1, "echo": false}), "published"),
        (json!({"type": "history", "id": 1, "channel": "scores:3"}), "history"),
        (json!({"type": "presence", "id": 1, "channel": "scores:3"}), "presence"),
        (json!({"type": "join", "id": 1, "room": "lobby"}), "joined"),
        (json!({"type": "room_message", "id": 1, "room": "lobby", "payload": 1, "echo": false}), "sent"),
    ] {
        assert_eq!(ask(&mut client, &command)["type"], kind, "{command}");
    }
    let forbidden = [
        json!({"type": "subscribe", "id": 2, "channel": "news"}),
        json!({"type": "subscribe", "id": 2, "channel": "lobby"}),
        json!({"type": "join", "id": 2, "room": "scores:1"}),
        json!({"type": "publish", "id": 2, "channel": "scores:2", "data": 1}),
        json!({"type": "publish", "id": 2, "channel": "lobby", "data": 1}),
        json!({"type": "history", "id": 2, "channel": "news"}),
        json!({"type": "presence", "id": 2, "room": "den"}),
    ];
    for command in &forbidden {
        assert_eq!(error(&mut client, command), "forbidden", "{command}");
    }
    // A new token that grants less ends what it does not grant, and says so before it says that it was taken.
    let less = token(&claims(json!({"subscribe": ["scores:2"]})));
    say(&mut client, &json!({"type": "refresh", "id": 3, "token": less}));
    let told: Vec<Value> = (0..3).map(|_| hear(&mut client)).collect();
    assert_eq!(told[0], json!({"type": "unsubscribed", "channel": "scores:1"}));
    assert_eq!(told[1], json!({"type": "left", "room": "lobby"}));
    assert_eq!((&told[2]["type"], &told[2]["id"]), (&json!("refreshed"), &json!(3)));
    for command in &forbidden[..1] {
        assert_eq!(error(&mut client, command), "forbidden");
    }
    let mut other = guarded.enter_with(&json!({"exp": in_s(3_600)}));
    for (channel, heard) in [("scores:1", false), ("scores:2", true)] {
        let publish = json!({"type": "publish", "id": 1, "channel": channel, "data": channel});
        assert_eq!(ask(&mut other, &publish)["type"], "published");
        if heard {
            assert_eq!(hear(&mut client)["data"], channel, "and nothing of what was ended before it");
        }
    }
    let publish = json!({"type": "publish", "id": 4, "channel": "scores:1", "data": 1});
    assert_eq!(error(&mut client, &publish), "forbidden");
    // With all granted again, it may come back.
    let all = token(&json!({"sub": "ann", "exp": in_s(3_600)}));
    assert_eq!(ask(&mut client, &json!({"type": "refresh", "id": 5, "token": all}))["type"], "refreshed");
    let subscribe = json!({"type": "subscribe", "id": 6, "channel": "scores:1"});
    assert_eq!(ask(&mut client, &subscribe)["type"], "subscribed");
}

#[test]
fn row_16_connections_of_one_user() {
    let guarded = Guarded::start_production("user", "max_connections_per_user = 2");
    let ann = json!({"sub": "ann", "exp": in_s(3_600)});
    let mut inside = vec![guarded.enter_with(&ann), guarded.enter_with(&ann)];
    let too_many = |guarded: &Guarded| {
        let mut client = guarded.ask_in(&format!("/ws?token={}", token(&ann)), "");
        client.accepted(KEYS[0].1);
        let first = hear(&mut client);
        if first["type"] == "welcome" {
            return Some(client);
        }
        assert_eq!(
            first,
            json!({"type": "error", "code": "connection_limit", "error": "Too many connections"})
        );
        client.expect_close(1008);
        None
    };
    assert!(too_many(&guarded).is_none() && too_many(&guarded).is_none());
    guarded.enter_with(&json!({"sub": "bob", "exp": in_s(3_600)}));
    drop(inside.pop());
    inside.push(eventually("there is room again", PATIENCE, || too_many(&guarded)));
    assert!(too_many(&guarded).is_none());
    assert_eq!(ask(&mut inside[0], &json!({"type": "ping", "id": 1}))["type"], "pong");
    drop(inside);
    assert!(guarded.server.stop().closed("user_connections") >= 3);
}

#[test]
fn row_34_pings_over_the_rate() {
    let mut guarded = Guarded::start_production("pings", "message_rate = \"1/s\"");
    let flood = frames::frame(frames::FIN | PING, b"ping").repeat(250);
    let mut client = guarded.enter("");
    client.offer(&flood, PATIENCE);
    let mut pongs = 0;
    loop {
        let frame = client.frame();
        if frame.opcode != PONG {
            assert_eq!(frame.close_code(), Some(1008));
            break;
        }
        pongs += 1;
    }
    assert!(
        (100..=2 * 100 + 20).contains(&pongs),
        "{pongs} pongs: the errors of a minute, or of two if one ends meanwhile, two at once, and one a second"
    );
    drop(client);
    // Pongs nobody asked for are counted like pings.
    let mut client = guarded.enter("");
    client.offer(&frames::frame(frames::FIN | PONG, b"").repeat(250), PATIENCE);
    assert_eq!(client.close_frame().close_code(), Some(1008));
    drop(client);
    // On /echo there is no rate.
    let mut echo = guarded.server.open();
    echo.send(&flood);
    (0..250).for_each(|_| assert_eq!(echo.frame().opcode, PONG));
    drop(echo);
    guarded.server.assert_serves();
    assert_closed(guarded, "message_rate_exceeded", 2);
}

/// Sends commands until the server closes: the first are done, the others refused with this code, and it ends with 1008.
fn insist(client: &mut Client, command: &str, code: &str) -> (usize, usize) {
    // More than two minutes forgive: one may end meanwhile.
    for _ in 0..300 {
        if !client.offer(&frames::text(command), PATIENCE) {
            break;
        }
    }
    let (mut done, mut refused) = (0, 0);
    loop {
        let frame = client.frame();
        if frame.opcode != TEXT {
            assert_eq!(frame.close_code(), Some(1008), "{frame:?}");
            client.offer(&frames::close(1008, b""), PATIENCE);
            return (done, refused);
        }
        let reply: Value = serde_json::from_slice(&frame.payload).expect("JSON");
        assert_eq!(reply["id"], 7, "{reply}");
        match reply["type"] == "error" {
            true => refused += usize::from(reply["code"] == code),
            false => done += 1,
        }
    }
}

#[test]
fn row_39_messages_over_the_rate() {
    let mut guarded = Guarded::start_production("messages", "message_rate = \"5/s\"");
    for command in [
        r#"{"type":"publish","id":7,"channel":"a","data":1}"#,
        r#"{"type":"ping","id":7}"#,
        r#"{"type":"nonsense","id":7}"#,
    ] {
        let (done, refused) = insist(&mut guarded.enter(""), command, "message_rate_exceeded");
        let most = if command.contains("nonsense") { 0 } else { 60 };
        assert!(done <= most && (30..=200).contains(&refused), "{command}: {done} done, {refused} refused");
    }
    // What was refused was not done: the history has what was.
    let mut client = guarded.enter("");
    let last = ask(&mut client, &json!({"type": "history", "id": 1, "channel": "a"}));
    assert!((10..=60).contains(&last["last_id"].as_u64().unwrap()), "{last}");
    guarded.server.assert_serves();
    assert_closed(guarded, "message_rate_exceeded", 3);
}

#[test]
fn row_38_subscriptions_over_the_rate() {
    let guarded = Guarded::start_production("churn", "message_rate = \"5/s\"");
    let mut client = guarded.enter("");
    let churn = [
        frames::text(r#"{"type":"subscribe","id":7,"channel":"a"}"#),
        frames::text(r#"{"type":"unsubscribe","id":7,"channel":"a"}"#),
    ]
    .concat();
    client.offer(&churn.repeat(200), PATIENCE);
    let end = std::iter::repeat_with(|| client.frame()).find(|frame| frame.opcode != TEXT).unwrap();
    assert_eq!(end.close_code(), Some(1008));
    drop(client);
    assert_closed(guarded, "message_rate_exceeded", 1);
}

#[test]
fn row_39_bytes_over_the_rate() {
    let lines = "message_rate = \"10000/s\"\nbyte_rate = \"1KiB/s\"\nmax_message_bytes = \"2KiB\"";
    let mut guarded = Guarded::start_production("bytes", lines);
    let command = format!(r#"{{"type":"publish","id":7,"channel":"a","data":"{}"}}"#, "x".repeat(900));
    let mut client = guarded.enter("");
    let publish: Value = serde_json::from_str(&command).unwrap();
    assert_eq!(ask(&mut client, &publish)["type"], "published");
    assert_eq!(ask(&mut client, &publish)["type"], "published");
    let (_, refused) = insist(&mut client, &command, "byte_rate_exceeded");
    assert!((90..=200).contains(&refused), "{refused}");
    drop(client);
    // What is allowed at once is a message of the largest size, or it could never be sent.
    let largest = format!(r#"{{"type":"ping","id":7,"more":"{}"}}"#, "x".repeat(2_048 - 33));
    assert!((2_040..=2_048).contains(&largest.len()), "{}", largest.len());
    let mut client = guarded.enter("");
    client.send(&frames::text(&largest));
    assert_eq!(hear(&mut client)["type"], "pong");
    drop(client);
    guarded.server.assert_serves();
    assert_closed(guarded, "byte_rate_exceeded", 1);
}

#[test]
fn refusals_that_a_browser_can_read() {
    let lines = "refuse_in_band = true\nproduction = true\necho = true\naccept_rate_per_address = \"1/s\"\n";
    let guarded = Guarded::start("in-band", &format!("{lines}origins = \"{ORIGIN}\""));
    let refused = |header_lines: &str, subprotocol: Option<&str>| {
        let mut client = guarded.ask_in("/ws", header_lines);
        let response = client.response();
        assert_eq!((response.status, response.header("Sec-WebSocket-Protocol")), (101, subprotocol));
        let frame = hear(&mut client);
        (frame, client)
    };
    let (frame, mut client) = refused("", None);
    assert_eq!((&frame["type"], &frame["code"]), (&json!("error"), &json!("unauthorized")), "{frame}");
    assert!(frame["error"].is_string() && frame.get("reconnectDelay").is_none(), "{frame}");
    client.expect_close(4001);
    // A browser that offers subprotocols reads nothing unless one of them is answered.
    let (frame, mut client) = refused("Sec-WebSocket-Protocol: megasock, token.x\r\n", Some("megasock"));
    assert_eq!(frame["code"], "unauthorized");
    client.expect_close(4001);

    let good = format!("Authorization: Bearer {}\r\n", token(&json!({"sub": "ann", "exp": in_s(600)})));
    let (frame, mut client) = eventually("there are too many", PATIENCE, || {
        let (frame, client) = refused(&good, None);
        (frame["type"] != "welcome").then_some((frame, client))
    });
    let delay_ms = frame["reconnectDelay"].as_u64().expect("milliseconds");
    assert!(frame["code"] == "try_again" && (1_000..=10_000).contains(&delay_ms), "{frame}");
    client.expect_close(1013);
    // An origin that is not listed gets no WebSocket at all: its page is to read nothing.
    assert_eq!(guarded.refused("/ws", "Origin: https://evil.example\r\n").status, 403);
    let summary = guarded.server.stop();
    assert_eq!(summary.closed("unauthorized"), 2);
    assert!(summary.closed("overload") >= 1);
}

#[test]
fn in_production_there_is_no_echo_unless_it_is_asked_for() {
    let lines = format!("production = true\norigins = \"{ORIGIN}\"");
    let guarded = Guarded::start("echo", &lines);
    assert_eq!(guarded.refused("/echo", "").status, 404);
}
