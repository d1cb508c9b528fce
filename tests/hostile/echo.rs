//! Correct clients: every size, in any pieces, comes back byte for byte.

use crate::common::client::Client;
use crate::common::frames::{self, BINARY, CONTINUATION, FIN, TEXT};
use crate::common::server::Server;

/// Sizes around every boundary: of the length encodings, of a receive buffer (16 KiB and 16 KiB + 320, with frame
/// headers before it), and of the default message limit.
fn sizes() -> Vec<usize> {
    let around = |center: usize, by: usize| center - by..=center + by;
    let mut sizes: Vec<usize> = (0..=130).collect();
    sizes.extend([256, 1000, 1024, 4096, 10_000, 30_000, 49_152]);
    sizes.extend(around(16 * 1024, 20));
    sizes.extend(around(16 * 1024 + 320, 20));
    sizes.extend(around(2 * 16 * 1024, 8));
    sizes.extend(around(65_535, 4));
    sizes.extend([69_999, 70_000]);
    sizes
}

/// Bytes that differ from their neighbours and from one size to the next, and are UTF-8.
fn body(len: usize) -> Vec<u8> {
    (0..len).map(|at| b' ' + ((at * 7 + at / 93 + len) % 90) as u8).collect()
}

fn server() -> Server {
    Server::start(&["--max-message-bytes", "16MiB", "--send-queue-bytes-max", "32MiB"])
}

#[test]
fn every_size_comes_back() {
    let server = server();
    let mut client = server.open();
    for len in sizes() {
        client.echo(TEXT, &body(len));
        let binary: Vec<u8> = body(len).iter().map(|byte| byte.wrapping_mul(29) ^ 0x80).collect();
        client.echo(BINARY, &binary);
    }
}

#[test]
fn every_size_comes_back_from_any_pieces() {
    let server = server();
    let mut client = server.open();
    // A small generator with a fixed start: the same cuts in every run.
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut below = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % bound as u64) as usize
    };
    for len in sizes() {
        let payload = body(len);
        let bytes = frames::message(TEXT, &payload);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            // Mostly small pieces near the header, then larger ones.
            let piece = 1 + below(if bytes.len() - rest.len() < 16 { 4 } else { 9000 });
            let (now, later) = rest.split_at(piece.min(rest.len()));
            client.send(now);
            rest = later;
        }
        client.expect_echo(TEXT, &payload);
    }
}

#[test]
fn one_byte_at_a_time() {
    let server = server();
    let mut client = server.open();
    for len in [0, 1, 125, 126, 300] {
        let payload = body(len);
        for byte in frames::message(BINARY, &payload) {
            client.send(&[byte]);
        }
        client.expect_echo(BINARY, &payload);
    }
}

#[test]
fn a_hundred_at_once_come_back_in_order() {
    let server = server();
    let mut client = server.open();
    for len in [0, 1, 64, 125, 126, 1000, 4096, 16_384] {
        let bodies: Vec<Vec<u8>> = (0..100).map(|n| body(len + n)).collect();
        let bytes: Vec<u8> = bodies.iter().flat_map(|body| frames::message(BINARY, body)).collect();
        // The server may stop reading while its answers are not read: so somebody else writes.
        let mut writer = client.stream().try_clone().expect("a second handle");
        let sender =
            std::thread::spawn(move || std::io::Write::write_all(&mut writer, &bytes).expect("all sent"));
        for body in &bodies {
            client.expect_echo(BINARY, body);
        }
        sender.join().expect("sent");
    }
}

#[test]
fn megabytes_come_back() {
    let server = server();
    for len in [1 << 20, 16 << 20] {
        let mut client = server.open();
        let payload = body(len);
        client.echo(BINARY, &payload);
        client.echo(TEXT, &payload);
        let mut fragmented = frames::frame(TEXT, &payload[..len / 3]);
        fragmented.extend(frames::frame(CONTINUATION, &payload[len / 3..len / 2]));
        fragmented.extend(frames::frame(FIN | CONTINUATION, &payload[len / 2..]));
        client.send(&fragmented);
        client.expect_echo(TEXT, &payload);
    }
}

#[test]
fn many_clients_get_their_own() {
    let server = Server::start_with_reactors(2, &[]);
    let mut clients: Vec<Client> = (0..300).map(|_| server.open()).collect();
    for round in 0..5 {
        for (n, client) in clients.iter_mut().enumerate() {
            client.send(&frames::text(&format!("client {n} in round {round}")));
        }
        for (n, client) in clients.iter_mut().enumerate() {
            client.expect_echo(TEXT, format!("client {n} in round {round}").as_bytes());
        }
    }
}
