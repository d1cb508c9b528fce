//! Where there is a key: strangers in all seats, and who has it.

use crate::access::{KEY, KeyFile};
use crate::common::client::Client;
use crate::common::server::Server;
use crate::common::{PATIENCE, raise_descriptor_limit};
use crate::{admin, get};

/// As many as the listener has.
const SEATS: usize = 128;

#[test]
fn strangers_in_all_seats_keep_out_nobody_who_has_the_key() {
    raise_descriptor_limit();
    let file = KeyFile::new("seats", KEY.as_bytes(), 0o600);
    let server = Server::start(&["--admin-key-file", file.path()]);
    let address = admin(&server);
    let open = get("/health", "");
    let keyed = get("/metrics", &format!("Authorization: Bearer {KEY}\r\n"));
    let asks = |client: &mut Client, what: &str| {
        client.send(what.as_bytes());
        assert_eq!(client.response().status, 200);
    };
    let mut known = Client::connect(address);
    asks(&mut known, &keyed);
    let mut strangers: Vec<Client> = (1..SEATS).map(|_| Client::connect(address)).collect();
    for _ in 0..3 {
        strangers.iter_mut().for_each(|stranger| asks(stranger, &open));
    }
    for _ in 0..10 {
        let mut scraper = Client::connect(address);
        // These come before its request does, and half of them ask what needs no key.
        for n in 0..100 {
            let mut stranger = Client::connect(address);
            if n % 2 == 0 {
                stranger.offer(open.repeat(3).as_bytes(), PATIENCE);
            }
            strangers.push(stranger);
        }
        asks(&mut scraper, &keyed);
    }
    asks(&mut known, &keyed);
    for stranger in &mut strangers[..SEATS] {
        assert!(stranger.end_within(PATIENCE).is_some(), "a seat nobody else got");
    }
}
