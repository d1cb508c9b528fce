//! From the hub's terms to frames of the channel protocol.
//!
//! The only file that knows how the hub's names and positions look on the wire; another wire format is another such
//! file.

use super::mail::Position;
use super::name::Name;
use super::presence::Telling;
use crate::buf::Payload;
use crate::handler::{ConnId, Kind, encode_message};
use crate::proto::client::decode_server_header;
use crate::proto::command::{Place, ROOM_MARK, Topic};
use crate::proto::event;
use std::borrow::Cow;

/// The hub's name of a topic: that of a room is marked.
pub fn internal<'a>(topic: &'a Topic<'_>) -> Cow<'a, str> {
    match topic.place {
        Place::Channel => Cow::Borrowed(&topic.name),
        Place::Room => Cow::Owned(format!("{ROOM_MARK}{}", topic.name)),
    }
}

/// A topic as clients name it.
pub fn topic(name: &str) -> Topic<'_> {
    match name.strip_prefix(ROOM_MARK) {
        Some(room) => Topic { place: Place::Room, name: room.into() },
        None => Topic { place: Place::Channel, name: name.into() },
    }
}

/// A frame of what `append` writes.
pub fn frame(append: impl FnOnce(&mut Vec<u8>)) -> Payload {
    let mut json = Vec::with_capacity(256);
    append(&mut json);
    encode_message(Kind::Text, &json)
}

/// What all publications of a topic begin with.
pub fn prefix(name: &Name) -> Box<[u8]> {
    event::prefix(&topic(name)).into()
}

/// The frame of a publication.
pub fn publication(
    name: &Name,
    prefix: &[u8],
    offset: u64,
    data: &str,
    user: Option<&str>,
    unix_ms: u64,
    server_id: &str,
) -> Payload {
    let place = topic(name).place;
    let publication = event::Publication { place, id: offset, data, user, unix_ms, server_id };
    frame(|json| event::append_publication(json, prefix, &publication))
}

/// What a publication's frame says behind the topic's prefix.
pub fn rest<'a>(frame: &'a Payload, prefix: &[u8]) -> &'a [u8] {
    let header = decode_server_header(frame).ok().flatten().expect("a frame we made");
    &frame[header.header_len + prefix.len()..]
}

/// Publications as history items, from their frames.
pub fn history_items(name: &Name, frames: &[Payload]) -> Vec<String> {
    let prefix = prefix(name);
    let item = |frame| format!("{{{}", String::from_utf8_lossy(rest(frame, &prefix)));
    frames.iter().map(item).collect()
}

/// The frame of a direct message from the server itself.
pub fn direct_from_server(payload: &str, unix_ms: u64) -> Payload {
    frame(|json| event::append_direct_message(json, event::Sender::Server, payload, unix_ms))
}

/// The frame of news.
pub fn telling(name: &Name, telling: &Telling) -> Payload {
    let topic = topic(name);
    frame(|json| match telling {
        Telling::Joined(user) => event::append_user_joined(json, &topic, user),
        Telling::Left(user) => event::append_user_left(json, &topic, user),
        Telling::Change { joined, left } => {
            let [joined, left] = [joined, left].map(|names| names.iter().map(|name| &**name));
            event::append_presence_change(json, &topic, joined, left);
        }
    })
}

/// The frame that says what was lost.
pub fn gap(name: &Name, from: u64, to: u64, reason: &str) -> Payload {
    frame(|json| event::append_gap(json, &topic(name), &event::Lost { from, to, reason }))
}

/// The id of a connection: its core, slot and generation.
pub fn connection_id(core: usize, conn: ConnId) -> String {
    format!("{core:x}-{:x}-{:x}", conn.slot, conn.generation)
}

/// The core and connection of an id.
pub fn parse_connection_id(id: &str) -> Option<(usize, ConnId)> {
    // from_str_radix takes a plus and capitals too, and any number of zeros before.
    let is_number =
        |part: &str| part.len() <= 8 && part.bytes().all(|byte| b"0123456789abcdef".contains(&byte));
    let number = |part: &str| is_number(part).then(|| u32::from_str_radix(part, 16).ok()).flatten();
    let mut parts = id.split('-').map(number);
    let (core, slot, generation) = (parts.next()??, parts.next()??, parts.next()??);
    parts.next().is_none().then_some((core as usize, ConnId { slot, generation }))
}

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// An epoch as clients see it.
pub fn epoch(mut epoch: u32) -> String {
    let mut text = String::new();
    loop {
        text.push(DIGITS[(epoch % 62) as usize].into());
        epoch /= 62;
        if epoch == 0 {
            return text;
        }
    }
}

/// A client's position; `None` when its epoch was never one of ours.
pub fn position(text: &str, offset: u64) -> Option<Position> {
    let digit = |byte| DIGITS.iter().position(|digit| *digit == byte);
    let mut number = 0u64;
    for byte in text.bytes().rev() {
        number = number.checked_mul(62)?.checked_add(digit(byte)? as u64)?;
    }
    let epoch = u32::try_from(number).ok()?;
    (self::epoch(epoch) == text).then_some(Position { epoch, offset })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_reads_back_and_others_do_not() {
        for number in [0, 1, 61, 62, 12_345_678, u32::MAX] {
            assert_eq!(position(&epoch(number), 7), Some(Position { epoch: number, offset: 7 }));
        }
        for wrong in ["", "-", "zzzzzz", "00", "zzzzzzzzzzzzzzzzzzzzzzzzzzzzz", "\u{e9}"] {
            assert_eq!(position(wrong, 7), None, "{wrong}");
        }
    }

    #[test]
    fn a_connection_id_reads_back() {
        let conn = ConnId { slot: 0xabc, generation: 3 };
        assert_eq!(connection_id(59, conn), "3b-abc-3");
        assert_eq!(parse_connection_id("3b-abc-3"), Some((59, conn)));
        for wrong in ["", "1-2", "1-2-3-4", "x-1-1", "1--1", "+1-2-3", "3B-ABC-3", "000000001-2-3"] {
            assert_eq!(parse_connection_id(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_rest_of_a_frame_is_what_follows_the_prefix() {
        for len in [1, 100, 1_000, 70_000] {
            let (name, data) = (Name::new("scores"), format!("\"{}\"", "x".repeat(len)));
            let frame = publication(&name, &prefix(&name), 9, &data, Some("ann"), 5, "n");
            let rest = std::str::from_utf8(rest(&frame, &prefix(&name))).unwrap();
            assert_eq!(rest, format!("\"id\":9,\"data\":{data},\"userId\":\"ann\",\"ts\":5}}"));
        }
    }
}
