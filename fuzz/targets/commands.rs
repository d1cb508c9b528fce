//! Commands: what is accepted keeps the rules, is borrowed from the text, and written down anew is the same command; what
//! is refused is refused for its own fault; and whatever the server says with it is JSON.
#![no_main]

mod nesting;

use libfuzzer_sys::fuzz_target;
use megasock::proto::command::{
    Command, ErrorCode, ID_BYTES_MAX, NAME_BYTES_MAX, Parsed, Place, ROOM_MARK, Refusal, Topic, parse,
};
use megasock::proto::event;
use nesting::levels;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

fuzz_target!(|text: &str| {
    match parse(text) {
        Ok(parsed) => {
            is_sound(&parsed, text);
            is_said_again(&parsed);
            answers_are_json(&parsed);
        }
        Err(refusal) => is_to_the_point(&refusal, text),
    }
});

fn is_json(text: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(text).is_ok()
}

fn is_sound(parsed: &Parsed<'_>, text: &str) {
    if let Some(id) = parsed.id {
        assert!(id.len() <= ID_BYTES_MAX && is_json(id.as_bytes()) && text.contains(id));
        assert!(id.starts_with(|c: char| c == '"' || c == '-' || c.is_ascii_digit()), "{id}");
    }
    let topic_fits = |topic: &Topic<'_>| {
        name_fits(&topic.name);
        assert!(topic.place == Place::Room || !topic.name.starts_with(ROOM_MARK));
    };
    match &parsed.command {
        Command::Subscribe { topic, .. }
        | Command::Unsubscribe { topic }
        | Command::History { topic, .. } => topic_fits(topic),
        Command::Publish { topic, data, .. } => {
            topic_fits(topic);
            raw_fits(data, text);
        }
        Command::Direct { user, payload } => {
            name_fits(user);
            raw_fits(payload, text);
        }
        Command::Presence { topic, after, .. } => {
            topic_fits(topic);
            after.iter().for_each(|after| name_fits(after));
        }
        Command::LeaveAll | Command::Refresh { .. } | Command::Ping => {}
    }
}

fn name_fits(name: &str) {
    assert!(!name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.contains(char::is_control));
    assert!(name.contains(|c| !":./-_ ".contains(c)), "{name:?} is separators alone");
}

/// Data is a slice of the text, and no deeper than a subscriber's parser goes.
fn raw_fits(data: &str, text: &str) {
    let within = text.as_bytes().as_ptr_range();
    assert!(within.contains(&data.as_ptr()) && data.as_ptr() as usize + data.len() <= within.end as usize);
    assert!(is_json(data.as_bytes()) && data.trim() == data);
    let levels = levels(data);
    assert!(levels < 128, "{levels} levels inside the command's own");
}

/// The command as text of our own making. Values go in raw: they are JSON, and must come back byte for byte.
fn is_said_again(parsed: &Parsed<'_>) {
    let mut members: Vec<(&str, String)> = Vec::new();
    let quoted = |text: &str| json!(text).to_string();
    let place = |topic: &Topic<'_>| match topic.place {
        Place::Channel => ("channel", quoted(&topic.name)),
        Place::Room => ("room", quoted(&topic.name)),
    };
    let of_place =
        |topic: &Topic<'_>, channel, room| if topic.place == Place::Channel { channel } else { room };
    let kind = match &parsed.command {
        Command::Subscribe { topic, recover } => {
            members.push(place(topic));
            if let Some(recover) = recover {
                members.push(("last_id", recover.last_id.to_string()));
                members.push(("epoch", quoted(&recover.epoch)));
            }
            of_place(topic, "subscribe", "join")
        }
        Command::Unsubscribe { topic } => {
            members.push(place(topic));
            of_place(topic, "unsubscribe", "leave")
        }
        Command::LeaveAll => "leave_all",
        Command::Publish { topic, data, echo } => {
            members.push(place(topic));
            members.push((of_place(topic, "data", "payload"), (*data).to_owned()));
            members.push(("echo", echo.to_string()));
            of_place(topic, "publish", "room_message")
        }
        Command::Direct { user, payload } => {
            members.push(("targetUserId", quoted(user)));
            members.push(("payload", (*payload).to_owned()));
            "direct_message"
        }
        Command::Presence { topic, limit, after } => {
            members.push(place(topic));
            members.extend(limit.map(|limit| ("limit", limit.to_string())));
            members.extend(after.as_ref().map(|after| ("after", quoted(after))));
            "presence"
        }
        Command::History { topic, limit, since_id } => {
            members.push(place(topic));
            members.extend(limit.map(|limit| ("limit", limit.to_string())));
            members.extend(since_id.map(|since_id| ("since_id", since_id.to_string())));
            "history"
        }
        Command::Refresh { token } => {
            members.push(("token", quoted(token)));
            "refresh"
        }
        Command::Ping => "ping",
    };
    members.extend(parsed.id.map(|id| ("id", id.to_owned())));
    let members: Vec<String> = members.iter().map(|(name, value)| format!("\"{name}\" : {value}")).collect();
    let mut text = format!("{{\"type\":\"{kind}\"");
    for member in &members {
        text += &format!(", {member}");
    }
    text += "}";
    assert_eq!(parse(&text).as_ref(), Ok(parsed), "{text}");
}

/// What others and the sender hear: one JSON object, whatever was in it.
fn answers_are_json(parsed: &Parsed<'_>) {
    let mut frames: Vec<Vec<u8>> = Vec::new();
    let mut said = |append: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = Vec::new();
        append(&mut frame);
        frames.push(frame);
    };
    said(&|out| event::append_pong(out, parsed.id, 1));
    match &parsed.command {
        Command::Publish { topic, data, .. } => said(&|out| {
            let user = Some(&*topic.name);
            let publication =
                event::Publication { place: topic.place, id: 1, data, user, unix_ms: 1, server_id: "n" };
            event::append_publication(out, &event::prefix(topic), &publication);
        }),
        Command::Direct { user, payload } => {
            said(&|out| event::append_direct_message(out, event::Sender::User(user), payload, 1));
        }
        Command::Unsubscribe { topic } => said(&|out| event::append_unsubscribed(out, parsed.id, topic)),
        Command::Subscribe { topic, .. } => said(&|out| event::append_user_joined(out, topic, &topic.name)),
        _ => {}
    }
    for frame in frames {
        // Of one line, as every reader of frames and of server-sent events expects, unless the data brought its own.
        let text = str::from_utf8(&frame).expect("UTF-8");
        assert!(is_json(&frame) && text.starts_with("{\"type\":\"") && text.ends_with('}'), "{text}");
    }
}

fn is_to_the_point(refusal: &Refusal, text: &str) {
    let mut frame = Vec::new();
    event::append_error(&mut frame, refusal.id.as_deref(), refusal.code, &refusal.text);
    assert!(is_json(&frame) && refusal.text.len() < 100, "{refusal:?}");
    let value = serde_json::from_str::<Value>(text);
    match refusal.code {
        ErrorCode::InvalidJson => assert!(!value.is_ok_and(|value| value.is_object()), "it is JSON"),
        ErrorCode::UnknownType | ErrorCode::BadRequest => assert!(is_json(text.as_bytes()), "it is no JSON"),
        code => panic!("{code:?} is not for a parser to say"),
    }
}
