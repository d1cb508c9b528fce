//! PROXY headers: an answer comes at one byte and never changes, no header is longer than said, and the client it names is
//! the one its line or block names.
#![no_main]

use std::net::{IpAddr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use megasock::proto::proxy::{BYTES_MAX, Preamble, parse};

fuzz_target!(|bytes: &[u8]| {
    let answers_at = (0..=bytes.len()).find(|end| parse(&bytes[..*end]) != Ok(None));
    let Some(answers_at) = answers_at else {
        assert!(bytes.len() < BYTES_MAX, "no answer to the longest header");
        return;
    };
    let answer = parse(&bytes[..answers_at]);
    for end in answers_at..=bytes.len().min(answers_at + 300) {
        assert_eq!(parse(&bytes[..end]), answer, "more bytes changed it");
    }
    assert_eq!(parse(bytes), answer);
    assert!((1..=BYTES_MAX).contains(&answers_at));

    if let Ok(Some(preamble)) = answer {
        assert_eq!(preamble.consumed, answers_at, "told later than it ended, or before");
        assert_eq!(preamble.client, named(&bytes[..answers_at]));
        if let Some(client) = preamble.client {
            is_said_again(client);
        }
    }
});

/// The client of a header that is known to be valid.
fn named(header: &[u8]) -> Option<SocketAddr> {
    let canonical = |address: IpAddr, port| SocketAddr::new(address.to_canonical(), port);
    if header[0] == b'P' {
        let line = String::from_utf8_lossy(header);
        let fields: Vec<&str> = line.trim_end_matches("\r\n").split(' ').collect();
        if fields[1] == "UNKNOWN" {
            return None;
        }
        let [_, family, source, destination, port, destination_port] = fields[..] else { panic!("{line}") };
        let address: IpAddr = source.parse().expect("an address");
        let other: IpAddr = destination.parse().expect("an address");
        assert_eq!((address.is_ipv4(), other.is_ipv4()), (family == "TCP4", family == "TCP4"));
        let number = |port: &str| port.parse::<u16>().ok().filter(|number| number.to_string() == port);
        number(destination_port).expect("a port in its one form");
        return Some(canonical(address, number(port).expect("a port in its one form")));
    }
    let [command, family, _, _, block @ ..] = &header[12..] else { panic!("16 bytes at least") };
    let port = |at: usize| u16::from_be_bytes([block[at], block[at + 1]]);
    match (command & 0x0F, family >> 4) {
        (1, 1) => Some(canonical(<[u8; 4]>::try_from(&block[..4]).expect("4 bytes").into(), port(8))),
        (1, 2) => Some(canonical(<[u8; 16]>::try_from(&block[..16]).expect("16 bytes").into(), port(32))),
        _ => None,
    }
}

fn is_said_again(client: SocketAddr) {
    let (ip, port) = (client.ip(), client.port());
    let line = match ip {
        IpAddr::V4(_) => format!("PROXY TCP4 {ip} 10.0.0.1 {port} 443\r\n"),
        IpAddr::V6(_) => format!("PROXY TCP6 {ip} fd00::1 {port} 443\r\n"),
    };
    assert_eq!(parse(line.as_bytes()), Ok(Some(Preamble { consumed: line.len(), client: Some(client) })));
}
