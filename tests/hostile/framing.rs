//! Frames that break RFC 6455, and the limits on what a message may be.

use crate::common::client::{Client, End};
use crate::common::frames::{self, BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, TEXT};
use crate::common::server::Server;
use crate::common::{PATIENCE, eventually};
use std::time::Duration;

/// The default limits (the options' documentation).
const MESSAGE_BYTES_MAX: usize = 65536;
const FRAGMENTS_MAX: usize = 4096;

/// For bytes after an offence: the server may be gone.
const BRIEFLY: Duration = Duration::from_secs(1);

/// Sends each row twice, at once and byte by byte, and expects this close code and reason each time.
fn assert_closes(rows: &[Vec<u8>], code: u16, reason: &str) {
    let mut server = Server::start(&[]);
    for bytes in rows {
        let shown = &bytes[..bytes.len().min(40)];
        println!("{shown:02x?}");
        let mut at_once = server.open();
        at_once.send(bytes);
        at_once.expect_close(code);
        let mut byte_by_byte = server.open();
        for byte in &bytes[..bytes.len().min(1000)] {
            if !byte_by_byte.offer(&[*byte], BRIEFLY) {
                break;
            }
        }
        byte_by_byte.offer(&bytes[bytes.len().min(1000)..], BRIEFLY);
        byte_by_byte.expect_close(code);
    }
    server.assert_serves();
    assert_eq!(server.stop().closed(reason), 2 * rows.len() as u64);
}

#[test]
fn row_22_unmasked_frames() {
    let rows = [
        // Refused as soon as the second byte is there.
        b"\x81\x02".to_vec(),
        b"\x81\x02hi".to_vec(),
        b"\x82\x00".to_vec(),
        b"\x89\x00".to_vec(),
        b"\x88\x02\x03\xe8".to_vec(),
        b"\x82\x7e\xff\xff".to_vec(),
        [frames::frame(TEXT, b"a"), b"\x80\x01b".to_vec()].concat(),
    ];
    assert_closes(&rows, 1002, "protocol_error");
}

#[test]
fn row_23_reserved_bits() {
    let mut rows = Vec::new();
    for rsv in [0x40, 0x20, 0x10, 0x70] {
        rows.extend([TEXT, BINARY, PING, PONG, CLOSE].map(|opcode| frames::frame(FIN | rsv | opcode, b"")));
        rows.push([frames::frame(TEXT, b"a"), frames::frame(FIN | rsv | CONTINUATION, b"b")].concat());
    }
    assert_closes(&rows, 1002, "protocol_error");
}

#[test]
fn row_24_reserved_opcodes() {
    let mut rows = Vec::new();
    for opcode in [3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF] {
        rows.push(frames::header(FIN | opcode, 1 << 62));
        rows.push(frames::frame(FIN | opcode, b""));
        // The first byte says it all.
        rows.push(vec![FIN | opcode]);
    }
    assert_closes(&rows, 1002, "protocol_error");
}

#[test]
fn row_25_lengths_that_are_not_one() {
    let masked = |length: &[u8]| [&[FIN | BINARY], length, &frames::KEY].concat();
    let rows = [
        masked(b"\xff\x80\0\0\0\0\0\0\0"),
        masked(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
        masked(b"\xff\x80\0\0\0\0\0\0\x05"),
        masked(b"\xfe\0\0"),
        masked(b"\xfe\0\x7d"),
        masked(b"\xff\0\0\0\0\0\0\0\0"),
        masked(b"\xff\0\0\0\0\0\0\0\x7e"),
        masked(b"\xff\0\0\0\0\0\0\xff\xff"),
    ];
    assert_closes(&rows, 1002, "protocol_error");
}

#[test]
fn row_26_declared_length_over_the_limit() {
    // Headers alone: nothing of the payload is waited for.
    let over = MESSAGE_BYTES_MAX as u64 + 1;
    let rows = [
        frames::header(FIN | BINARY, over),
        frames::header(FIN | TEXT, 1 << 20),
        frames::header(FIN | BINARY, 1 << 31),
        frames::header(FIN | BINARY, 1 << 32),
        frames::header(FIN | BINARY, 1 << 40),
        frames::header(FIN | TEXT, (1 << 63) - 1),
        // What counts is the sum, and it must not wrap.
        [frames::frame(BINARY, b"a"), frames::header(CONTINUATION, over - 1)].concat(),
        [frames::frame(BINARY, b"a"), frames::header(FIN | CONTINUATION, (1 << 63) - 1)].concat(),
    ];
    assert_closes(&rows, 1009, "message_too_big");
}

#[test]
fn row_26_exactly_the_limit_is_accepted() {
    let server = Server::start(&[]);
    let mut client = server.open();
    let body = vec![b'm'; MESSAGE_BYTES_MAX];
    client.echo(TEXT, &body);
    let half = MESSAGE_BYTES_MAX / 2;
    client.send(
        &[frames::frame(BINARY, &body[..half]), frames::frame(FIN | CONTINUATION, &body[half..])].concat(),
    );
    client.expect_echo(BINARY, &body);
    client.send(
        &[frames::frame(BINARY, &body[..half]), frames::header(FIN | CONTINUATION, half as u64 + 1)].concat(),
    );
    client.expect_close(1009);
}

#[test]
fn row_27_control_frames_are_whole_and_short() {
    let mut rows = Vec::new();
    for opcode in [CLOSE, PING, PONG] {
        rows.push(frames::frame(opcode, b""));
        rows.push(frames::header(FIN | opcode, 126));
        rows.push(frames::header(FIN | opcode, 1 << 40));
        rows.push([&[FIN | opcode, 0xfe, 0, 1], &frames::KEY[..]].concat());
        // Inside a message as well as between two.
        rows.push([frames::frame(TEXT, b"a"), frames::frame(opcode, b"")].concat());
    }
    assert_closes(&rows, 1002, "protocol_error");
}

#[test]
fn row_28_fragments_out_of_order() {
    let rows = [
        frames::frame(CONTINUATION, b"a"),
        frames::frame(FIN | CONTINUATION, b""),
        [frames::text("a"), frames::frame(FIN | CONTINUATION, b"b")].concat(),
        [frames::frame(TEXT, b"a"), frames::frame(FIN | TEXT, b"b")].concat(),
        [frames::frame(TEXT, b"a"), frames::frame(BINARY, b"b")].concat(),
        [frames::frame(BINARY, b""), frames::frame(FIN | PING, b""), frames::frame(FIN | BINARY, b"")]
            .concat(),
    ];
    // A whole message before the offence is answered, so the close is not the first frame of that row.
    let mut server = Server::start(&[]);
    for bytes in rows {
        let mut client = server.open();
        client.send(&bytes);
        let close = std::iter::repeat_with(|| client.frame())
            .find(|frame| frame.opcode == CLOSE)
            .expect("a close frame");
        assert_eq!(close.close_code(), Some(1002), "{bytes:02x?}");
        client.ends_with(End::Eof);
    }
    server.assert_serves();
    assert_eq!(server.stop().closed("protocol_error"), 6);
}

#[test]
fn row_29_fragments_are_counted() {
    let mut server = Server::start(&[]);
    let mut client = server.open();
    // As many as are allowed, empty ones among them.
    let mut bytes = frames::frame(TEXT, b"a");
    for n in 2..FRAGMENTS_MAX {
        bytes.extend(frames::frame(CONTINUATION, if n % 2 == 0 { b"" } else { b"b" }));
    }
    client.send(&bytes);
    client.send(&frames::frame(FIN | CONTINUATION, b"c"));
    let (_, body) = client.message();
    assert_eq!(body.len(), 2 + (2..FRAGMENTS_MAX).filter(|n| n % 2 == 1).count());
    // The count starts again with the next message; one more than allowed ends it.
    client.send(&bytes);
    client.send(&frames::frame(CONTINUATION, b""));
    client.offer(&frames::frame(CONTINUATION, b""), BRIEFLY);
    client.expect_close(1008);

    let rss = server.warm_rss_bytes();
    for payload in [&b""[..], b"x"] {
        let mut flood = server.open();
        flood.send(&frames::frame(BINARY, payload));
        flood.offer(&frames::frame(CONTINUATION, payload).repeat(100_000), BRIEFLY);
        flood.expect_close(1008);
    }
    server.assert_rss_returns_to(rss);
    server.assert_serves();
    assert_eq!(server.stop().closed("too_many_fragments"), 3);
}

#[test]
fn row_30_fragments_add_up() {
    let server = Server::start(&["--max-message-bytes", "1000"]);
    let mut client = server.open();
    client.send(&frames::frame(BINARY, &[1; 400]));
    client.send(&frames::frame(CONTINUATION, &[2; 600]));
    // Control frames in between count for nothing.
    client.send(&frames::message(PING, &[3; 125]));
    assert_eq!(client.frame().opcode, PONG);
    client.send(&frames::frame(CONTINUATION, b"x"));
    client.expect_close(1009);
}

/// Text that is wrong at its last byte, and not before: the close must come at that byte.
const BAD_TEXT: [&[u8]; 18] = [
    b"\x80",
    b"\xbf",
    b"\xc0",
    b"\xc1",
    b"\xf5",
    b"\xf8",
    b"\xfe",
    b"\xff",
    b"\xc3\x28",
    b"\xe0\x9f",
    b"\xed\xa0",
    b"\xed\xbf",
    b"\xe2\x82\x28",
    b"\xf0\x8f",
    b"\xf4\x90",
    b"\xf0\x90\x28",
    b"\xf0\x9f\x98\x41",
    b"\xe2\x28",
];

#[test]
fn row_32_bad_text_ends_at_its_first_bad_byte() {
    let mut server = Server::start(&[]);
    // Prefixes that put the bad byte into every lane a vectorised check may have.
    for (bad, prefix_len) in
        BAD_TEXT.iter().zip([0, 1, 3, 15, 16, 31, 32, 63, 64, 65, 127, 128, 1000].iter().cycle())
    {
        let mut payload = "κόσμε".repeat(prefix_len / 10).into_bytes();
        payload.resize(*prefix_len, b'a');
        payload.extend(*bad);
        println!("{bad:02x?} after {prefix_len}");

        // In a frame of which more was announced.
        let mut unfinished = frames::header(FIN | TEXT, 5000);
        let start = unfinished.len();
        unfinished.extend(&payload);
        frames::mask(&mut unfinished[start..], frames::KEY);
        let mut client = server.open();
        client.send(&unfinished);
        client.expect_close(1007);

        // In a message of which more was announced, the sequence cut by a fragment and by a ping.
        let cut = payload.len() - 1;
        let mut client = server.open();
        client.send(&frames::frame(TEXT, &payload[..cut]));
        client.send(&frames::message(PING, b""));
        client.send(&frames::frame(CONTINUATION, &payload[cut..]));
        assert_eq!(client.frame().opcode, PONG);
        client.expect_close(1007);

        // In a whole message.
        let mut client = server.open();
        client.send(&frames::message(TEXT, &payload));
        client.expect_close(1007);
    }
    server.assert_serves();
    assert_eq!(server.stop().closed("invalid_payload"), 3 * BAD_TEXT.len() as u64);
}

#[test]
fn row_32_text_may_not_end_inside_a_character() {
    let cut: [&[u8]; 4] = [b"\xc3", b"\xe2\x82", b"abc\xf0\x9f\x98", b"\xf0"];
    let whole = cut.map(|bytes| frames::message(TEXT, bytes));
    let fragmented =
        cut.map(|bytes| [frames::frame(TEXT, bytes), frames::frame(FIN | CONTINUATION, b"")].concat());
    assert_closes(&[whole, fragmented].concat(), 1007, "invalid_payload");
}

#[test]
fn row_32_good_text_in_any_pieces() {
    let server = Server::start(&[]);
    let text = "aß€😀\u{D7FF}\u{E000}\u{FFFF}\u{10FFFF}".as_bytes();
    let mut client = server.open();
    for cut in 0..=text.len() {
        client.send(&frames::frame(TEXT, &text[..cut]));
        client.send(&frames::frame(FIN | CONTINUATION, &text[cut..]));
        client.expect_echo(TEXT, text);
    }
    // The same bytes that are no text are a binary message.
    for bad in BAD_TEXT {
        client.echo(BINARY, bad);
    }
}

#[test]
fn row_33_close_bodies_that_are_not_one() {
    let mut rows: Vec<Vec<u8>> = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]
        .map(|code| frames::close(code, b""))
        .to_vec();
    rows.push(frames::message(CLOSE, b"\x03"));
    rows.push(frames::close(1005, b"with a reason"));
    assert_closes(&rows, 1002, "protocol_error");
}

#[test]
fn row_33_close_reasons_are_utf8() {
    let long = [b'a'; 122].into_iter().chain([0xff]).collect::<Vec<u8>>();
    let rows = [&b"\xff"[..], b"ok \xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80", b"\xc3", &long];
    assert_closes(&rows.map(|reason| frames::close(1000, reason)), 1007, "invalid_payload");
}

#[test]
fn a_proper_close_is_answered_and_the_server_closes_first() {
    let server = Server::start(&[]);
    let codes =
        [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999];
    for code in codes {
        let mut client = server.open();
        client.send(&frames::close(code, "a reason, ünïcode".as_bytes()));
        assert_eq!(client.close_frame().close_code(), Some(code));
        client.ends_with(End::Eof);
    }
    let mut client = server.open();
    client.send(&frames::message(CLOSE, b""));
    assert_eq!(client.close_frame().close_code(), None);
    client.ends_with(End::Eof);
    assert_eq!(server.stop().closed("client_closed"), codes.len() as u64 + 1);
}

#[test]
fn row_35_what_follows_a_close_is_ignored() {
    let mut server = Server::start(&[]);
    // Whole messages, pings and garbage in the same packet as the close: one close frame and the end, nothing else.
    for after in [frames::text("too late"), frames::message(PING, b"too late"), b"\xff\xff\xff".to_vec()] {
        let mut client = server.open();
        client.send(&[frames::close(1000, b""), after].concat());
        assert_eq!(client.close_frame().close_code(), Some(1000));
        client.ends_with(End::Eof);
    }
    // More of it, still on its way when the server is done: the kernel may then answer with RST.
    let mut client = server.open();
    client.send(&frames::close(1000, b""));
    assert_eq!(client.close_frame().close_code(), Some(1000));
    client.offer(&[0; 100_000], BRIEFLY);
    assert!(client.end_within(BRIEFLY).is_some(), "a closed connection lives on");
    server.assert_serves();
}

#[test]
fn ten_pings_get_ten_pongs_each_with_its_payload() {
    let server = Server::start(&[]);
    let mut client = server.open();
    let payloads: Vec<Vec<u8>> = (0..10).map(|n| vec![n as u8; n * 12]).collect();
    client.send(&payloads.iter().flat_map(|payload| frames::message(PING, payload)).collect::<Vec<u8>>());
    for payload in payloads {
        let pong = client.frame();
        assert_eq!((pong.opcode, pong.payload), (PONG, payload));
    }
    // An unsolicited pong is no offence (§5.5.3).
    client.send(&frames::message(PONG, b"nobody asked"));
    client.echo(TEXT, b"and on");
}

/// Sends `burst` until the server no longer reads, at most `bursts_max` times, and reads no answer. The server stops reading and
/// then drops the peer, as one that is slow; it does not hoard.
fn flood_without_reading(burst: &[u8], bursts_max: usize) {
    let mut server = Server::start(&["--ping-interval", "1s", "--pong-timeout", "2s"]);
    let rss = server.warm_rss_bytes();
    let mut flood = server.open();
    let mut most = 0;
    for _ in 0..bursts_max {
        if !flood.offer(burst, Duration::from_secs(2)) {
            break;
        }
        most = most.max(server.rss_bytes());
    }
    assert!(most < rss + (8 << 20), "resident memory rose by {} KiB", most.saturating_sub(rss) / 1024);
    server.assert_serves();
    eventually("it is cut", PATIENCE, || flood.is_cut().then_some(()));
    server.assert_rss_returns_to(rss);
    assert_eq!(server.stop().closed("slow_consumer"), 1);
}

#[test]
fn row_34_unread_pongs_are_bounded() {
    flood_without_reading(&frames::message(PING, &[9; 125]).repeat(1000), 1000); // up to 131 MB of pings
}

#[test]
fn row_36_unread_echoes_are_bounded() {
    flood_without_reading(&frames::message(BINARY, &[7; 60_000]).repeat(10), 200);
}

#[test]
fn a_ping_is_answered_inside_a_message_and_inside_a_frame_sequence() {
    let server = Server::start(&[]);
    let mut client = server.open();
    client.send(&frames::frame(TEXT, b"one "));
    client.send(&frames::message(PING, b"now"));
    let pong = client.frame();
    assert_eq!((pong.opcode, &pong.payload[..]), (PONG, &b"now"[..]));
    client.send(&frames::frame(FIN | CONTINUATION, b"two"));
    client.expect_echo(TEXT, b"one two");
}

#[test]
fn violations_while_the_connection_is_new_do_not_disturb_others() {
    let server = Server::start(&[]);
    let mut bystander = server.open();
    for round in 0..200 {
        let mut offender: Client = server.open();
        offender.send(&frames::header(FIN | 3, round));
        bystander.echo(TEXT, format!("round {round}").as_bytes());
        if round % 2 == 0 {
            offender.expect_close(1002);
        }
    }
}
