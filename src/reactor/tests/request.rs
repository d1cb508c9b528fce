//! From accept to open: requests in pieces, refusals, decisions that come later, and the handshake deadline.

use super::*;
use crate::reactor::Pressure;

fn status(output: &[u8]) -> &str {
    std::str::from_utf8(output.get(9..12).unwrap_or_default()).unwrap()
}

#[test]
fn a_request_in_any_two_pieces_is_one_request() {
    let whole = [upgrade("/echo"), text("first")].concat();
    for cut in 1..whole.len() {
        let mut rig = Rig::new();
        let peer = rig.connect();
        rig.arrive(peer, &whole[..cut]);
        rig.arrive(peer, &whole[cut..]);
        let output = rig.take(peer);
        let head_end = output.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        assert!(output.starts_with(b"HTTP/1.1 101 "), "cut at {cut}");
        assert_eq!(frames(&output[head_end..]), [(Opcode::Text, b"first".to_vec())], "cut at {cut}");
        assert_eq!(rig.reactor.handler.requests.len(), 1);
        rig.finish();
    }
}

#[test]
fn a_refused_request_gets_its_answer_the_end_of_our_side_and_patience() {
    let mut rig = Rig::new();
    let peer = rig.request("/refuse");
    assert_eq!(status(&rig.take(peer)), "403");
    assert!(rig.peer(peer).fin && !rig.peer(peer).gone);
    rig.arrive(peer, &[upgrade("/echo"), text("ignored")].concat());
    assert!(rig.peer(peer).input.is_empty(), "discarded, or the descriptor's close would reset");
    assert_eq!(rig.take(peer), b"");
    rig.end(peer);
    assert!(rig.peer(peer).gone);
    assert_eq!(rig.closed(CloseReason::HandshakeRefused), 1);
    assert!(rig.reactor.handler.told.is_empty(), "it was never open");
    rig.finish();
}

#[test]
fn a_bad_head_is_refused_at_once_and_a_large_one_before_it_ends() {
    for (head, expected) in [
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n".to_vec(), "400"),
        (
            b"POST /echo HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n".to_vec(),
            "405",
        ),
        ([b"GET / HTTP/1.1\r\nHost: a\r\nX: ".to_vec(), vec![b'x'; 17 * 1024]].concat(), "431"),
    ] {
        let mut rig = Rig::new();
        let peer = rig.connect();
        rig.peer(peer).recv_max = 1_000;
        rig.arrive(peer, &head);
        assert_eq!(status(&rig.take(peer)), expected);
        assert!(rig.peer(peer).fin);
        rig.finish();
    }
}

#[test]
fn the_end_of_input_in_a_request_is_the_end() {
    for sent in [0, 1, 40] {
        for reset in [false, true] {
            let mut rig = Rig::new();
            let peer = rig.connect();
            rig.arrive(peer, &upgrade("/echo")[..sent]);
            if reset {
                rig.kernel().reset(peer)
            } else {
                rig.kernel().end(peer)
            }
            rig.settle();
            assert!(rig.peer(peer).gone);
            let reason = if reset { CloseReason::PeerReset } else { CloseReason::PeerEof };
            assert_eq!(rig.closed(reason), 1);
            assert!(rig.reactor.handler.told.is_empty());
            rig.finish();
        }
    }
}

#[test]
fn silence_ends_at_the_handshake_deadline_without_a_word() {
    let mut rig = Rig::new();
    let peer = rig.connect();
    rig.pass_ms(HANDSHAKE_MS - LATE_MS);
    assert!(!rig.peer(peer).gone);
    rig.pass_ms(2 * LATE_MS);
    assert!(rig.peer(peer).gone);
    assert_eq!(rig.take(peer), b"");
    assert_eq!(rig.closed(CloseReason::HandshakeTimeout), 1);
    rig.finish();
}

#[test]
fn a_dripping_request_is_told_so_at_the_same_deadline() {
    let mut rig = Rig::new();
    let peer = rig.connect();
    for (second, byte) in upgrade("/echo").iter().enumerate().take(9) {
        rig.arrive(peer, &[*byte]);
        rig.pass_ms(1_000);
        assert_eq!(rig.take(peer), b"", "after {second} s");
    }
    rig.pass_ms(1_000 + LATE_MS);
    assert_eq!(status(&rig.take(peer)), "408");
    assert!(rig.peer(peer).fin);
    rig.pass_ms(CLOSE_MS + LATE_MS);
    assert!(rig.peer(peer).gone, "it need not end its side");
    assert_eq!(rig.closed(CloseReason::HandshakeTimeout), 1);
    rig.finish();
}

#[test]
fn a_decision_may_come_later_and_frames_ahead_of_it_count() {
    let mut rig = Rig::new();
    let peer = rig.connect();
    rig.arrive(peer, &[upgrade("/later"), text("a")].concat());
    rig.arrive(peer, &text("b"));
    assert_eq!(rig.take(peer), b"");
    let id = rig.id(peer);
    rig.tell(move |out| out.decide(id, Decision::Accept { subprotocol: Some("p".into()) }));
    let output = rig.take(peer);
    let head_end = output.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    assert!(String::from_utf8_lossy(&output[..head_end]).contains("Sec-WebSocket-Protocol: p\r\n"));
    assert_eq!(frames(&output[head_end..]), [(Opcode::Text, b"a".to_vec()), (Opcode::Text, b"b".to_vec())]);
    // A second decision is one too many.
    rig.tell(move |out| out.decide(id, Decision::Respond(Response::refuse(Status::Forbidden, "no"))));
    rig.arrive(peer, &text("c"));
    assert_eq!(rig.take_frames(peer), [(Opcode::Text, b"c".to_vec())]);
    rig.finish();
}

#[test]
fn a_close_ahead_of_the_decision_is_answered_after_it() {
    let mut rig = Rig::new();
    let peer = rig.connect();
    rig.arrive(peer, &[upgrade("/later"), close_frame(1000)].concat());
    assert_eq!(rig.take(peer), b"");
    let id = rig.id(peer);
    rig.tell(move |out| out.decide(id, Decision::ACCEPT));
    let output = rig.take(peer);
    assert!(output.starts_with(b"HTTP/1.1 101 ") && output.ends_with(b"\r\n\r\n\x88\x02\x03\xe8"));
    assert!(rig.peer(peer).gone);
    assert_eq!(rig.reason(peer), Some(CloseReason::ClientClosed));
    rig.finish();
}

#[test]
fn a_later_refusal_is_a_refusal() {
    let mut rig = Rig::new();
    let peer = rig.request("/later");
    let id = rig.id(peer);
    rig.tell(move |out| {
        out.decide(id, Decision::Later);
        out.decide(id, Decision::Respond(Response::refuse(Status::Unauthorized, "no")));
    });
    assert_eq!(status(&rig.take(peer)), "401");
    assert!(rig.peer(peer).fin);
    rig.end(peer);
    assert_eq!(rig.closed(CloseReason::HandshakeRefused), 1);
    rig.finish();
}

#[test]
fn no_decision_is_503_at_the_handshake_deadline_and_a_late_one_is_nothing() {
    let mut rig = Rig::new();
    let peer = rig.request("/later");
    let id = rig.id(peer);
    rig.pass_ms(HANDSHAKE_MS + LATE_MS);
    assert_eq!(status(&rig.take(peer)), "503");
    rig.tell(move |out| out.decide(id, Decision::ACCEPT));
    assert_eq!(rig.take(peer), b"");
    rig.end(peer);
    assert_eq!(rig.closed(CloseReason::HandshakeTimeout), 1);
    assert_eq!(rig.reactor.handler.told, [Told::Abandon(id)]);
    rig.finish();
}

/// The value of the only `Retry-After` in a response.
fn retry_after(output: &[u8]) -> Option<&str> {
    let (head, _) = std::str::from_utf8(output).unwrap().split_once("\r\n\r\n").unwrap();
    let mut values = head.split("\r\n").filter_map(|line| line.strip_prefix("Retry-After: "));
    let value = values.next();
    assert_eq!(values.next(), None, "{head}");
    value
}

#[test]
fn each_who_is_refused_for_load_is_told_another_time_to_come_back() {
    let mut rig = Rig::new();
    let refused = |rig: &mut Rig, response: Response| {
        let peer = rig.request("/later");
        let id = rig.id(peer);
        rig.tell(move |out| out.decide(id, Decision::Respond(response)));
        let output = rig.take(peer);
        rig.end(peer);
        retry_after(&output).map(str::to_owned)
    };
    for busy in [Status::TooManyRequests, Status::Unavailable] {
        let response = Response::refuse(busy, "full"); // encoded once
        let seconds = (0..200).map(|_| refused(&mut rig, response.clone()).unwrap().parse().unwrap());
        assert_eq!(seconds.collect::<HashSet<u32>>(), (1..=10).collect());
        let own = Response::new(busy, "text/plain", &[("Retry-After", "60")], b"");
        assert_eq!(refused(&mut rig, own).as_deref(), Some("60"));
    }
    assert_eq!(refused(&mut rig, Response::refuse(Status::Forbidden, "no")), None);
    rig.reactor.pressure.set(Pressure::Near);
    let seconds = (0..200).map(|_| {
        let peer = rig.request("/echo"); // which the handler accepts
        let output = rig.take(peer);
        rig.end(peer);
        retry_after(&output).unwrap().parse().unwrap()
    });
    assert_eq!(seconds.collect::<HashSet<u32>>(), (1..=10).collect());
    rig.finish();
}

#[test]
fn who_is_gone_before_the_decision_is_not_opened() {
    let mut rig = Rig::new();
    let peer = rig.request("/later");
    let id = rig.id(peer);
    rig.end(peer);
    let next = rig.request("/later");
    assert_eq!(rig.id(next).slot, id.slot);
    rig.tell(move |out| out.decide(id, Decision::ACCEPT));
    assert_eq!((rig.take(peer), rig.take(next)), (Vec::new(), Vec::new()));
    assert_eq!(rig.reactor.handler.told, [Told::Abandon(id)], "once, and the next one is not meant");
    rig.finish();
}

#[test]
fn a_request_left_open_where_it_cannot_be_is_abandoned() {
    let draining = |rig: &mut Rig| rig.drain(20_000);
    let short_of_memory = |rig: &mut Rig| rig.reactor.pressure.set(Pressure::Near);
    for make_unready in [draining as fn(&mut Rig), short_of_memory] {
        let mut rig = Rig::new();
        let asking = rig.connect();
        make_unready(&mut rig);
        rig.settle();
        rig.arrive(asking, &upgrade("/later"));
        assert_eq!(status(&rig.take(asking)), "503");
        let id = rig.id(asking);
        rig.end(asking);
        assert_eq!(rig.reactor.handler.told, [Told::Abandon(id)]);
        rig.finish();
    }
    let mut rig = Rig::new();
    let asking = rig.connect();
    rig.arrive(asking, b"GET /later HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(status(&rig.take(asking)), "426", "no upgrade");
    let id = rig.id(asking);
    assert_eq!(rig.reactor.handler.told, [Told::Abandon(id)]);
    rig.finish();
}

#[test]
fn frames_ahead_of_the_decision_are_bounded() {
    let mut rig = Rig::new();
    let peer = rig.request("/later");
    rig.peer(peer).recv_max = 4_000;
    rig.arrive(peer, &text("x").repeat(3_000));
    assert_eq!(status(&rig.take(peer)), "400");
    assert!(rig.peer(peer).fin && rig.peer(peer).input.is_empty());
    let id = rig.id(peer);
    assert_eq!(rig.reactor.handler.told, [Told::Abandon(id)]);
    rig.finish();
}

#[test]
fn a_refusal_in_band_is_an_upgrade_that_only_says_why_not() {
    let mut full = options();
    full.connections_max = 1;
    for (options, code) in [(options(), 4_001), (full, 1_013)] {
        let mut rig = Rig::with(options);
        rig.open();
        let opened = rig.reactor.handler.told.clone();
        let peer = rig.request("/refuse-in-band");
        let output = rig.take(peer);
        let head_end = output.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        assert!(output.starts_with(b"HTTP/1.1 101 "));
        assert_eq!(frames(&output[head_end..]), [(Opcode::Text, b"no".to_vec()), closing(code)]);
        assert!(rig.peer(peer).fin);
        rig.arrive(peer, &[text("ignored"), close_frame(code)].concat());
        rig.end(peer);
        assert!(rig.peer(peer).gone);
        assert_eq!(rig.reactor.handler.told, opened, "it was never open");
        rig.finish();
    }
}

#[test]
fn a_later_refusal_may_be_in_band() {
    let mut rig = Rig::new();
    let peer = rig.request("/later");
    let id = rig.id(peer);
    rig.tell(move |out| {
        let frames = crate::handler::encode_message(Kind::Text, b"no");
        out.decide(
            id,
            Decision::Refuse { frames, reason: CloseReason::Unauthorized, subprotocol: Some("v1".into()) },
        );
    });
    let head = String::from_utf8_lossy(&rig.take(peer)).into_owned();
    assert!(
        head.starts_with("HTTP/1.1 101 ") && head.contains("\r\nSec-WebSocket-Protocol: v1\r\n"),
        "{head}"
    );
    rig.end(peer);
    assert_eq!(rig.closed(CloseReason::Unauthorized), 1);
    assert!(rig.reactor.handler.told.is_empty());
    rig.finish();
}

#[test]
fn the_handler_is_told_of_pings_and_pongs_while_open() {
    let mut rig = Rig::new();
    let peer = rig.open();
    let id = rig.id(peer);
    let (ping, pong) = (frame(Opcode::Ping, b"abc"), frame(Opcode::Pong, b""));
    rig.arrive(peer, &[ping.clone(), pong, close_frame(1000), ping].concat());
    rig.end(peer);
    let told = &rig.reactor.handler.told[1..];
    assert_eq!(
        told,
        [Told::Control(id, 3), Told::Control(id, 0), Told::Close(id, CloseReason::ClientClosed)]
    );
    rig.finish();
}

#[test]
fn the_handler_may_speak_first_and_close_at_once() {
    let mut rig = Rig::new();
    rig.reactor.handler.on_open = |conn, out| {
        out.send(conn, Kind::Text, b"welcome");
        out.close(conn, 4_001, "and bye");
        out.send(conn, Kind::Text, b"too late");
    };
    let peer = rig.connect();
    rig.arrive(peer, &[upgrade("/echo"), text("ignored")].concat());
    let output = rig.take(peer);
    let head_end = output.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let close = [&4_001u16.to_be_bytes()[..], b"and bye"].concat();
    assert_eq!(frames(&output[head_end..]), [(Opcode::Text, b"welcome".to_vec()), (Opcode::Close, close)]);
    rig.arrive(peer, &close_frame(4_001));
    assert!(rig.peer(peer).gone);
    assert_eq!(rig.reason(peer), Some(CloseReason::HandlerClosed));
    assert!(rig.messages(peer).is_empty());
    rig.finish();
}
