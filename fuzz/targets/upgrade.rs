//! The handshake: accepted exactly if every condition of RFC 6455 §4.2.1 holds, and answered with what a client accepts.
//!
//! The first byte chooses the method; the rest is header lines.
#![no_main]

use libfuzzer_sys::fuzz_target;
use megasock::proto::client::{self, NotHttp};
use megasock::proto::head::{self, Head};
use megasock::proto::upgrade::{self, Refusal};

fuzz_target!(|input: &[u8]| {
    let [choice, lines @ ..] = input else { return };
    let method = ["GET", "POST", "HEAD", "get"][usize::from(choice % 8).saturating_sub(4)];
    let bytes = [method.as_bytes(), b" /ws HTTP/1.1\r\nHost: a\r\n", lines, b"\r\n"].concat();
    a_client_reads(lines);
    if head::find_end(&bytes, 0) != Some(bytes.len()) {
        return;
    }
    let Ok(head) = head::parse(&bytes) else { return };

    let judged = upgrade::check(&head);
    assert_eq!(judged.is_ok(), fits(&head), "{judged:?}");
    match judged {
        Ok(upgrade) => {
            assert!(upgrade::wants_upgrade(&head));
            let key = head.header("sec-websocket-key").expect("a key");
            assert_eq!(upgrade.accept, upgrade::accept_key(key.as_bytes()));
            is_accepted(&head, &upgrade.accept);
        }
        Err(refusal) => is_refused(refusal),
    }
});

/// The conditions of §4.2.1 one by one, and ours: no body, nothing twice.
fn fits(head: &Head<'_>) -> bool {
    let all = |name: &str| -> Vec<String> {
        let fields = head.headers().filter(|(field, _)| field.to_ascii_lowercase() == name);
        fields.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
    };
    let lists = |name: &str, wanted: &str| {
        all(name)
            .join(",")
            .split(',')
            .any(|element| element.trim_matches([' ', '\t']).to_ascii_lowercase() == wanted)
    };
    let is_key = |key: &String| {
        let is_base64 = |c: char| c.is_ascii_alphanumeric() || c == '+' || c == '/';
        key.len() == 24 && key.strip_suffix("==").is_some_and(|start| start.chars().all(is_base64))
    };
    head.method == "GET"
        && all("transfer-encoding").is_empty()
        && all("content-length").iter().all(|len| len == "0")
        && all("origin").len() <= 1
        && lists("upgrade", "websocket")
        && lists("connection", "upgrade")
        && all("sec-websocket-version") == ["13"]
        && matches!(&all("sec-websocket-key")[..], [key] if is_key(key))
}

/// Whatever is chosen of the offers, the response is one a client reads to its end and takes.
fn is_accepted(head: &Head<'_>, accept: &[u8; 28]) {
    for chosen in [None].into_iter().chain(upgrade::subprotocols(head).map(Some)) {
        let mut response = upgrade::accept_response(accept, chosen);
        let len = response.len();
        response.extend(b"\x81\x00");
        let read = client::parse_upgrade_response(&response).expect("HTTP").expect("whole");
        assert_eq!(
            (read.status, read.consumed, read.accept, read.has_extensions),
            (101, len, Some(*accept), false)
        );
        // Two line ends would be a second response of the client's making (§10.3).
        let empty_lines = response.windows(4).filter(|window| window == b"\r\n\r\n").count();
        assert_eq!(empty_lines, 1);
    }
}

fn is_refused(refusal: Refusal) {
    let response = refusal.response();
    let read = client::parse_upgrade_response(&response).expect("HTTP").expect("whole");
    assert_eq!(read.status, refusal.status().code());
    assert!((400..500).contains(&read.status) && read.accept.is_none());
}

/// The client's half meets any server: more bytes never take back a response, or what is no response.
fn a_client_reads(bytes: &[u8]) {
    let whole = client::parse_upgrade_response(bytes);
    let half = client::parse_upgrade_response(&bytes[..bytes.len() / 2]);
    match half {
        Ok(Some(response)) => assert_eq!(whole, Ok(Some(response))),
        Err(NotHttp) => assert_eq!(whole, Err(NotHttp)),
        Ok(None) => {}
    }
    if let Ok(Some(response)) = whole {
        assert!(response.consumed <= bytes.len());
    }
}
