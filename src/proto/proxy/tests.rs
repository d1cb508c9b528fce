//! PROXY headers: valid ones of both versions cut everywhere, and each way to be malformed at its first byte.

use super::*;
use proptest::prelude::*;

fn v2(version_and_command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let len = (block.len() as u16).to_be_bytes();
    [V2_SIGNATURE, &[version_and_command, family][..], &len, block].concat()
}

fn socket(text: &str) -> Option<SocketAddr> {
    Some(text.parse().unwrap())
}

#[test]
fn valid_headers_are_read_when_complete_and_not_before() {
    let inet = [192, 0, 2, 1, 10, 0, 0, 1, 0x12, 0x67, 0x01, 0xBB];
    let inet6 = {
        let (source, destination) = ("2001:db8::1", "2001:db8::2");
        let octets = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
        [&octets(source)[..], &octets(destination), &[0x12, 0x67, 0x01, 0xBB]].concat()
    };
    let mapped = [&[0; 10][..], &[0xFF, 0xFF, 192, 0, 2, 1], &[0; 16], &[0, 80, 0, 80]].concat();
    let with_tlv = [&inet[..], &[0x20, 0, 3, 1, 0, 0]].concat();
    let unknown_of_107 = format!("PROXY UNKNOWN {}\r\n", "f".repeat(91));
    let longest_of_tcp6 = "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
        ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
    let rows: Vec<(&str, Vec<u8>, Option<SocketAddr>)> = vec![
        ("v1 TCP4", b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 443\r\n".to_vec(), socket("192.0.2.1:4711")),
        ("v1 port 0", b"PROXY TCP4 192.0.2.1 10.0.0.1 0 0\r\n".to_vec(), socket("192.0.2.1:0")),
        ("v1 TCP6", b"PROXY TCP6 2001:db8::1 ::1 4711 443\r\n".to_vec(), socket("[2001:db8::1]:4711")),
        ("v1 mapped", b"PROXY TCP6 ::ffff:192.0.2.1 ::1 80 443\r\n".to_vec(), socket("192.0.2.1:80")),
        ("v1 longest", longest_of_tcp6.into(), socket("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535")),
        ("v1 UNKNOWN", b"PROXY UNKNOWN\r\n".to_vec(), None),
        ("v1 UNKNOWN with more", b"PROXY UNKNOWN \xFF\0 anything\r\n".to_vec(), None),
        ("v1 of 107 bytes", unknown_of_107.into(), None),
        ("v2 LOCAL", v2(0x20, 0x00, &[]), None),
        ("v2 LOCAL of any family", v2(0x20, 0xF7, &[1, 2, 3]), None),
        ("v2 LOCAL with addresses", v2(0x20, 0x11, &inet), None),
        ("v2 UNSPEC", v2(0x21, 0x00, &[]), None),
        ("v2 UNSPEC with more", v2(0x21, 0x00, &[1, 2, 3]), None),
        ("v2 TCP4", v2(0x21, 0x11, &inet), socket("192.0.2.1:4711")),
        ("v2 UDP4", v2(0x21, 0x12, &inet), socket("192.0.2.1:4711")),
        ("v2 TCP4 with a TLV", v2(0x21, 0x11, &with_tlv), socket("192.0.2.1:4711")),
        ("v2 TCP6", v2(0x21, 0x21, &inet6), socket("[2001:db8::1]:4711")),
        ("v2 UDP6", v2(0x21, 0x22, &inet6), socket("[2001:db8::1]:4711")),
        ("v2 mapped", v2(0x21, 0x21, &mapped), socket("192.0.2.1:80")),
        ("v2 Unix", v2(0x21, 0x31, &[b'/'; 216]), None),
        ("v2 Unix datagram", v2(0x21, 0x32, &[b'/'; 216]), None),
        ("v2 of 2048 bytes", v2(0x21, 0x00, &[7; 2032]), None),
    ];
    for (name, bytes, client) in rows {
        let preamble = Preamble { consumed: bytes.len(), client };
        assert_eq!(parse(&bytes), Ok(Some(preamble)), "{name}");
        for end in 0..bytes.len() {
            assert_eq!(parse(&bytes[..end]), Ok(None), "{name} cut at {end}");
        }
        for more in [b"\n", b"G", b"\r", b"\0"] {
            assert_eq!(parse(&[&bytes, &more[..]].concat()), Ok(Some(preamble)), "{name} and {more:?}");
        }
    }
}

#[test]
fn malformed_headers_are_told_at_their_byte() {
    let signature = &V2_SIGNATURE[..];
    // Up to and with the first byte that cannot be; everything before it could still become a header.
    let rows: Vec<(&str, Vec<u8>)> = vec![
        ("HTTP", b"G".to_vec()),
        ("a TLS hello", b"\x16".to_vec()),
        ("another method with P", b"PO".to_vec()),
        ("small letters", b"p".to_vec()),
        ("no space", b"PROXYT".to_vec()),
        ("another family", b"PROXY TCP5".to_vec()),
        ("two spaces", b"PROXY  ".to_vec()),
        ("no family", b"PROXY \r".to_vec()),
        ("UNKNOWN with a letter more", b"PROXY UNKNOWNS".to_vec()),
        ("UNKNOWN with a bare CR", b"PROXY UNKNOWN\rx".to_vec()),
        ("UNKNOWN with a bare LF", b"PROXY UNKNOWN x\n".to_vec()),
        ("a letter in TCP4", b"PROXY TCP4 a".to_vec()),
        ("a letter that is no digit in TCP6", b"PROXY TCP6 2001:db8::g".to_vec()),
        ("a sign", b"PROXY TCP4 192.0.2.1 10.0.0.1 +".to_vec()),
        ("a bare LF", b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\n".to_vec()),
        ("a bare CR", b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r ".to_vec()),
        ("no second address", b"PROXY TCP4 192.0.2.1 1 2\r\n".to_vec()),
        ("no ports", b"PROXY TCP4 192.0.2.1 10.0.0.1\r\n".to_vec()),
        ("one port", b"PROXY TCP4 192.0.2.1 10.0.0.1 1\r\n".to_vec()),
        ("three ports", b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2 3\r\n".to_vec()),
        ("a space at the end", b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2 \r\n".to_vec()),
        ("two spaces between", b"PROXY TCP4 192.0.2.1  10.0.0.1 1 2\r\n".to_vec()),
        ("a port of 65536", b"PROXY TCP4 192.0.2.1 10.0.0.1 65536 2\r\n".to_vec()),
        ("a leading zero in a port", b"PROXY TCP4 192.0.2.1 10.0.0.1 1 02\r\n".to_vec()),
        ("a leading zero in an address", b"PROXY TCP4 192.0.2.01 10.0.0.1 1 2\r\n".to_vec()),
        ("IPv6 as TCP4", b"PROXY TCP4 :".to_vec()),
        ("IPv4 as TCP6", b"PROXY TCP6 192.0.2.1 ::1 1 2\r\n".to_vec()),
        ("v1 of 108 bytes", format!("PROXY UNKNOWN {}\r", "f".repeat(92)).into()),
        ("v1 without an end", format!("PROXY TCP4 {}", "1".repeat(96)).into()),
        ("a bare CR as the last of 107 bytes", format!("PROXY TCP4 {}\r", "1".repeat(95)).into()),
        ("a signature cut short", b"\r\n\r\n\0\r\nQUIT\r".to_vec()),
        ("two line ends", b"\r\n\r\nG".to_vec()),
        ("v2 of version 1", [signature, &[0x11]].concat()),
        ("v2 of version 3", [signature, &[0x31]].concat()),
        ("v2 with command 2", [signature, &[0x22]].concat()),
        ("v2 with family 4", [signature, &[0x21, 0x41]].concat()),
        ("v2 with transport 3", [signature, &[0x21, 0x13]].concat()),
        ("v2 with a family and no transport", [signature, &[0x21, 0x10]].concat()),
        ("v2 with a transport and no family", [signature, &[0x21, 0x01]].concat()),
        ("v2 TCP4 too short", [signature, &[0x21, 0x11, 0, 11]].concat()),
        ("v2 TCP6 too short", [signature, &[0x21, 0x21, 0, 35]].concat()),
        ("v2 Unix too short", [signature, &[0x21, 0x31, 0, 215]].concat()),
        ("v2 of 2049 bytes", [signature, &[0x20, 0x00, 0x07, 0xF1]].concat()),
        ("v2 of 64 KiB", [signature, &[0x21, 0x11, 0xFF, 0xFF]].concat()),
    ];
    for (name, bytes) in rows {
        let malformed = parse(&bytes).expect_err(name);
        assert!(malformed.to_string().starts_with("PROXY protocol header: "), "{name}");
        assert_eq!(parse(&bytes[..bytes.len() - 1]), Ok(None), "{name} without its last byte");
        assert!(parse(&[&bytes, &b"\r\n"[..]].concat()).is_err(), "{name} and more");
    }
}

proptest! {
    /// What a proxy would write for two endpoints reads back, in both versions.
    #[test]
    fn what_a_proxy_writes_reads_back(
        source in any::<SocketAddr>(),
        destination_port in any::<u16>(),
        tlvs in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let (ip, port) = (source.ip(), source.port());
        let client = Some(SocketAddr::new(ip.to_canonical(), port));
        let (name, destination, family) =
            if source.is_ipv4() { ("TCP4", "10.0.0.1", 0x11) } else { ("TCP6", "fd00::1", 0x21) };
        let line = format!("PROXY {name} {ip} {destination} {port} {destination_port}\r\n");
        prop_assert_eq!(parse(line.as_bytes()), Ok(Some(Preamble { consumed: line.len(), client })));

        let octets = |ip: IpAddr| match ip {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let ports = [port.to_be_bytes(), destination_port.to_be_bytes()].concat();
        let block = [octets(ip), octets(destination.parse().unwrap()), ports, tlvs].concat();
        let bytes = v2(0x21, family, &block);
        prop_assert_eq!(parse(&bytes), Ok(Some(Preamble { consumed: bytes.len(), client })));
    }
}
