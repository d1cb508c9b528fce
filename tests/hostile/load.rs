//! A full server, and memory that follows what arrives instead of what is announced.

use crate::common::client::{Client, request, upgrade_request};
use crate::common::frames::{self, BINARY, FIN, TEXT};
use crate::common::server::Server;
use crate::common::{PATIENCE, eventually, raise_descriptor_limit};

const HEALTH: &[u8] = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[test]
fn row_16_a_full_server_says_so_and_when_to_return() {
    let mut server = Server::start(&["--max-connections", "5"]);
    let mut inside: Vec<Client> = (0..5).map(|_| server.open()).collect();
    for _ in 0..50 {
        let refused = request(server.address, upgrade_request("/echo").as_bytes());
        assert_eq!(refused.status, 503);
        let wait: u32 = refused.header("Retry-After").expect("Retry-After").parse().expect("seconds");
        assert!(wait > 0);
    }
    // Those who watch the server are not refused, and those inside notice nothing.
    assert_eq!(request(server.address, HEALTH).status, 200);
    for client in &mut inside {
        client.echo(TEXT, b"inside");
    }
    // One leaves, one gets in.
    let mut leaver = inside.pop().expect("five");
    leaver.send(&frames::close(1000, b""));
    assert_eq!(leaver.close_frame().close_code(), Some(1000));
    inside.push(eventually("a place for one", PATIENCE, || {
        let mut client = Client::connect(server.address);
        client.send(upgrade_request("/echo").as_bytes());
        (client.response().status == 101).then_some(client)
    }));
    assert_eq!(request(server.address, upgrade_request("/echo").as_bytes()).status, 503);
    drop(inside);
    eventually("places for all", PATIENCE, || {
        let mut client = Client::connect(server.address);
        client.send(upgrade_request("/echo").as_bytes());
        (client.response().status == 101).then_some(())
    });
    server.assert_serves();
}

#[test]
fn a_full_server_refuses_a_crowd_without_dropping_anybody() {
    // More at once than there are places to refuse from: each must get its 503, some a little later.
    let mut server = Server::start(&["--max-connections", "5"]);
    let inside: Vec<Client> = (0..5).map(|_| server.open()).collect();
    let mut crowd: Vec<Client> = (0..600).map(|_| Client::connect(server.address)).collect();
    for client in &mut crowd {
        client.offer(upgrade_request("/echo").as_bytes(), PATIENCE);
    }
    for client in &mut crowd {
        assert_eq!(client.last_response().status, 503);
    }
    drop(inside);
    eventually("a place", PATIENCE, || {
        let mut client = Client::connect(server.address);
        client.send(upgrade_request("/echo").as_bytes());
        (client.response().status == 101).then_some(())
    });
    server.assert_serves();
}

#[test]
fn a_declared_length_allocates_nothing() {
    let mut server = Server::start(&["--max-message-bytes", "1GiB", "--ping-interval", "60s"]);
    let rss = server.warm_rss_bytes();
    let mut clients: Vec<Client> = (0..200).map(|_| server.open()).collect();
    for client in &mut clients {
        client.send(&frames::header(FIN | BINARY, 1 << 30));
        client.send(b"x");
    }
    // One that is served shows that the others have been.
    server.assert_serves();
    let rise = server.rss_bytes().saturating_sub(rss);
    assert!(rise < 8 << 20, "200 declared gibibytes raised resident memory by {} KiB", rise / 1024);
    let mut absurd = server.open();
    absurd.send(&frames::header(FIN | BINARY, 1 << 40));
    absurd.expect_close(1009);
    drop(clients);
    server.assert_rss_returns_to(rss);
}

#[test]
fn five_thousand_begun_messages_cost_what_they_sent() {
    const CLIENTS: u64 = 5000;
    // A page: what is reserved ahead of the bytes may be touched at its beginning, and no further.
    const EACH_BYTES_MAX: u64 = 4096;
    raise_descriptor_limit();
    let mut server = Server::start(&["--ping-interval", "60s"]);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| server.open()).collect();
    let rss = server.rss_bytes();
    for client in &mut clients {
        client.send(&frames::header(FIN | TEXT, 60 * 1024));
        client.send(&[b'x' ^ frames::KEY[0]]);
    }
    server.assert_serves();
    let rise = server.rss_bytes().saturating_sub(rss);
    assert!(rise < CLIENTS * EACH_BYTES_MAX, "{} bytes for each begun message", rise / CLIENTS);
    drop(clients);
    server.assert_serves();
    server.assert_rss_returns_to(rss);
}

#[test]
fn large_messages_give_their_memory_back() {
    let mut server = Server::start(&["--max-message-bytes", "16MiB", "--send-queue-bytes-max", "32MiB"]);
    let rss = server.warm_rss_bytes();
    let body = vec![b'x'; 8 << 20];
    let mut clients: Vec<Client> = (0..4).map(|_| server.open()).collect();
    for client in &mut clients {
        client.echo(BINARY, &body);
    }
    // Connected still, but idle: they own nothing.
    server.assert_serves();
    server.assert_rss_returns_to(rss);
    drop(clients);
    server.assert_serves();
}

#[test]
fn ordinary_descriptors_do_not_grow_with_connections() {
    // Connections live in the rings' direct descriptor tables, not in the process's own.
    let server = Server::start(&[]);
    let before = server.descriptors();
    let clients: Vec<Client> = (0..300).map(|_| server.open()).collect();
    assert!(server.descriptors() <= before + 4, "{} → {}", before, server.descriptors());
    drop(clients);
}
