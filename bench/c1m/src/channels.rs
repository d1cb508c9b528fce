//! megasock's channel protocol, the client's half: the commands the driver says, and what it hears recognised.
//!
//! Deliveries are recognised by where their fields stand, because there are millions of them; everything else is read as
//! JSON. Unknown types are read past, as the protocol asks of a client.

use serde::Deserialize;

/// What one frame of the server says.
#[derive(Debug, PartialEq)]
pub(crate) enum Said<'a> {
    /// A publication: its data without the quotes, and its offset in the channel.
    Delivery { data: &'a [u8], offset: Option<u64> },
    /// The subscription stands; the next publication has the offset after this one.
    Subscribed { last_offset: u64 },
    /// The answer to a ping of this number.
    Pong(u32),
    /// Publications up to this offset were dropped, and the server says so.
    Gap { to: u64 },
    /// A command was refused, by its code.
    Refused(String),
    /// The connection is welcome: the first frame.
    Welcome,
    /// The server ends the connection soon, and asks this client to come back after its own delay.
    Shutdown { delay_ms: u64 },
    /// The connection itself was refused, and this client is asked to come back after this delay.
    ComeBack { delay_ms: u64 },
    /// Nothing that matters here.
    Other,
}

/// `{"type":"subscribe",…}`
pub(crate) fn subscribe(channel: &str) -> String {
    format!(r#"{{"type":"subscribe","id":0,"channel":"{channel}"}}"#)
}

/// `{"type":"ping",…}`: its number comes back.
pub(crate) fn ping(number: u32) -> String {
    format!(r#"{{"type":"ping","id":{number}}}"#)
}

/// `{"type":"publish",…}` without an id: only a refusal is answered. `data` needs no escapes.
pub(crate) fn publish(channel: &str, data: &[u8]) -> Vec<u8> {
    let head = format!(r#"{{"type":"publish","channel":"{channel}","data":""#);
    [head.as_bytes(), data, br#""}"#].concat()
}

/// A plain server sends publications as they are.
pub(crate) fn plain(text: &[u8]) -> Said<'_> {
    Said::Delivery { data: text, offset: None }
}

/// Recognises one frame; `None`: no JSON object with a type.
pub(crate) fn hear(text: &[u8]) -> Option<Said<'_>> {
    if text.starts_with(br#"{"type":"message""#)
        && let Some(data) = after(text, br#""data":""#)
        && let Some(end) = data.iter().position(|byte| *byte == b'"')
    {
        let offset = after(text, br#""id":"#).and_then(digits);
        return Some(Said::Delivery { data: &data[..end], offset });
    }
    let frame: Frame = serde_json::from_slice(text).ok()?;
    Some(match frame.kind {
        "subscribed" => Said::Subscribed { last_offset: frame.last_id.unwrap_or(0) },
        "pong" => Said::Pong(frame.id.and_then(|id| u32::try_from(id).ok())?),
        "gap" => Said::Gap { to: frame.to.unwrap_or(0) },
        "welcome" => Said::Welcome,
        "server_shutdown" => Said::Shutdown { delay_ms: frame.reconnect_delay_ms.unwrap_or(0) },
        "error" => match (frame.id, frame.reconnect_delay_ms) {
            (None, Some(delay_ms)) => Said::ComeBack { delay_ms },
            _ => Said::Refused(frame.code.unwrap_or("unknown").to_owned()),
        },
        _ => Said::Other,
    })
}

#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    id: Option<u64>,
    last_id: Option<u64>,
    to: Option<u64>,
    code: Option<&'a str>,
    #[serde(rename = "reconnectDelay")]
    reconnect_delay_ms: Option<u64>,
}

/// What follows `name` in `text`.
fn after<'a>(text: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let at = text.windows(name.len()).position(|window| window == name)?;
    Some(&text[at + name.len()..])
}

/// The number at the start of `text`.
fn digits(text: &[u8]) -> Option<u64> {
    let len = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&text[..len]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_recognised_and_the_unknown_read_past() {
        let message = br#"{"type":"message","channel":"c1m","id":42,"data":"abc","userId":"u7","ts":179}"#;
        assert_eq!(hear(message), Some(Said::Delivery { data: b"abc", offset: Some(42) }));
        let cases: [(&[u8], Said); 9] = [
            (
                br#"{"type":"subscribed","id":0,"channel":"c","epoch":"x","last_id":41,"recovered":false}"#,
                Said::Subscribed { last_offset: 41 },
            ),
            (br#"{"type":"pong","id":7,"ts":179}"#, Said::Pong(7)),
            (
                br#"{"type":"gap","channel":"c","from":43,"to":47,"reason":"slow_consumer"}"#,
                Said::Gap { to: 47 },
            ),
            (br#"{"type":"error","code":"try_again","error":"no"}"#, Said::Refused("try_again".into())),
            (br#"{"type":"welcome","connectionId":"a","pingInterval":25000}"#, Said::Welcome),
            (
                br#"{"type":"server_shutdown","reason":"deploy","reconnectDelay":5312}"#,
                Said::Shutdown { delay_ms: 5312 },
            ),
            (
                br#"{"type":"error","code":"try_again","error":"full","reconnectDelay":77}"#,
                Said::ComeBack { delay_ms: 77 },
            ),
            (br#"{"type":"expiring","expiresIn":60}"#, Said::Other),
            (br#"{"type":"message","channel":"c","id":1,"data":{"a":1},"ts":1}"#, Said::Other),
        ];
        for (text, said) in cases {
            assert_eq!(hear(text), Some(said), "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn a_pong_without_its_number_and_anything_but_an_object_are_wrong() {
        for text in [&br#"{"type":"pong","ts":1}"#[..], b"hello", b"[]", b"{}", b"\xFF"] {
            assert_eq!(hear(text), None);
        }
    }

    #[test]
    fn commands_are_json() {
        for text in [subscribe("c1m").into_bytes(), ping(7).into_bytes(), publish("c1m", b"abc")] {
            assert!(serde_json::from_slice::<serde_json::Value>(&text).is_ok());
        }
    }
}
