//! Commands: every line of the protocol's description, every refusal, and what went in comes back out.

use super::*;
use proptest::prelude::*;

fn channel(name: &str) -> Topic<'_> {
    Topic { place: Place::Channel, name: name.into() }
}

fn room(name: &str) -> Topic<'_> {
    Topic { place: Place::Room, name: name.into() }
}

fn parsed<'a>(id: Option<&'a str>, command: Command<'a>) -> Result<Parsed<'a>, Refusal> {
    Ok(Parsed { id, command })
}

fn refused(id: Option<&str>, code: ErrorCode, text: &str) -> Result<Parsed<'static>, Refusal> {
    Err(Refusal { id: id.map(str::to_owned), code, text: text.to_owned() })
}

#[test]
fn the_lines_of_the_protocol() {
    let scores = || channel("scores");
    let lobby = || room("lobby");
    let recover = Some(Recover { epoch: "x7Kq".into(), last_id: 38 });
    let lines = [
        (
            r#"{"type":"subscribe","id":1,"channel":"scores"}"#,
            "1",
            Command::Subscribe { topic: scores(), recover: None },
        ),
        (
            r#"{"type":"subscribe","id":2,"channel":"scores","epoch":"x7Kq","last_id":38}"#,
            "2",
            Command::Subscribe { topic: scores(), recover: recover.clone() },
        ),
        (
            r#"{"type":"unsubscribe","id":3,"channel":"scores"}"#,
            "3",
            Command::Unsubscribe { topic: scores() },
        ),
        (
            r#"{"type":"publish","id":4,"channel":"scores","data":{"home":2},"echo":false}"#,
            "4",
            Command::Publish { topic: scores(), data: r#"{"home":2}"#, echo: false },
        ),
        (
            r#"{"type":"join","id":5,"room":"lobby"}"#,
            "5",
            Command::Subscribe { topic: lobby(), recover: None },
        ),
        (
            r#"{"type":"join","id":5,"room":"lobby","last_id":38,"epoch":"x7Kq"}"#,
            "5",
            Command::Subscribe { topic: lobby(), recover },
        ),
        (
            r#"{"type":"room_message","id":6,"room":"lobby","payload":"hi"}"#,
            "6",
            Command::Publish { topic: lobby(), data: r#""hi""#, echo: true },
        ),
        (r#"{"type":"leave","id":7,"room":"lobby"}"#, "7", Command::Unsubscribe { topic: lobby() }),
        (r#"{"type":"leave_all","id":"all"}"#, r#""all""#, Command::LeaveAll),
        (
            r#"{"type":"direct_message","id":8,"targetUserId":"bob","payload":{"a":1}}"#,
            "8",
            Command::Direct { user: "bob".into(), payload: r#"{"a":1}"# },
        ),
        (
            r#"{"type":"presence","id":9,"channel":"scores","limit":100,"after":"ann"}"#,
            "9",
            Command::Presence { topic: scores(), limit: Some(100), after: Some("ann".into()) },
        ),
        (
            r#"{"type":"presence","id":9,"room":"lobby"}"#,
            "9",
            Command::Presence { topic: lobby(), limit: None, after: None },
        ),
        (
            r#"{"type":"history","id":10,"channel":"scores","limit":20,"since_id":30}"#,
            "10",
            Command::History { topic: scores(), limit: Some(20), since_id: Some(30) },
        ),
        (r#"{"type":"refresh","id":11,"token":"t.o.k"}"#, "11", Command::Refresh { token: "t.o.k".into() }),
    ];
    for (line, id, command) in lines {
        assert!(line.contains(&format!("\"type\":\"{}\"", command.verb().name())), "{line}");
        assert_eq!(parse(line), parsed(Some(id), command), "{line}");
    }
    assert_eq!(parse(r#"{"type":"ping"}"#), parsed(None, Command::Ping));
}

#[test]
fn order_blanks_and_unknown_members_do_not_matter() {
    let text = " { \"data\" : [ 1, 2 ] ,\n\"trace\":{\"type\":[]}, \"room\":7, \"channel\"\t:\"a\", \"type\":\"publish\" } ";
    let publish = Command::Publish { topic: channel("a"), data: "[ 1, 2 ]", echo: true };
    assert_eq!(parse(text), parsed(None, publish));
}

#[test]
fn keys_and_types_may_be_escaped() {
    let text = r#"{"t\u0079pe":"p\u0069ng","\u0069d":3}"#;
    assert_eq!(parse(text), parsed(Some("3"), Command::Ping));
}

#[test]
fn only_an_escaped_name_is_copied() {
    for (text, copied) in
        [(r#"{"type":"join","room":"caf\u00e9"}"#, true), (r#"{"type":"join","room":"café"}"#, false)]
    {
        let Ok(Parsed { command: Command::Subscribe { topic, .. }, .. }) = parse(text) else {
            panic!("{text}")
        };
        assert_eq!(topic.name, "café");
        assert_eq!(matches!(topic.name, Cow::Owned(_)), copied, "{text}");
    }
}

#[test]
fn what_is_no_object_is_invalid() {
    for text in [
        "",
        " ",
        "null",
        "7",
        "\"ping\"",
        "[]",
        "[{\"type\":\"ping\"}]",
        "{",
        "{}}",
        "{\"type\":\"ping\"",
        "{\"type\":\"ping\",}",
        "{'type':'ping'}",
        "{\"type\":\"ping\"} {}",
        "{\"type\":\"ping\",\"x\":01}",
        "{\"type\":\"ping\",\"x\":\"\n\"}",
        "{\"type\":\"ping\",\"x\":nul}",
        "{\"type\":\"ping\",\"x\":\"\\q\"}",
        "\u{feff}{\"type\":\"ping\"}",
        "{\"id\":5,\"type\":\"ping\",\"data\":[1,]}",
    ] {
        assert_eq!(parse(text), refused(None, ErrorCode::InvalidJson, "Invalid JSON"), "{text}");
    }
}

#[test]
fn an_unknown_type_is_said_with_its_id() {
    for kind in ["", "Subscribe", "subscribe ", "welcome", "constructor"] {
        let text = format!(r#"{{"type":"{kind}","id":"x"}}"#);
        assert_eq!(
            parse(&text),
            refused(Some("\"x\""), ErrorCode::UnknownType, "Unknown message type"),
            "{text}"
        );
    }
}

#[test]
fn a_bad_request_names_the_member() {
    let no_name = "not a name: 1 to 255 bytes, no control characters, not separators alone";
    for (members, text) in [
        (r#""kind":"ping""#, "type: missing"),
        (r#""type":null"#, "type: not a string"),
        (r#""type":["ping"]"#, "type: not a string"),
        (r#""type":"ping","type":"ping""#, "type: given twice"),
        (r#""type":"subscribe""#, "channel: missing"),
        (r#""type":"subscribe","room":"a""#, "channel: missing"),
        (r#""type":"subscribe","channel":7"#, "channel: not a string"),
        (r#""type":"subscribe","channel":"room:a""#, "channel: begins with room:"),
        (r#""type":"subscribe","channel":"roo\u006d:a""#, "channel: begins with room:"),
        (r#""type":"subscribe","channel":"\ud800""#, "channel: half a surrogate pair"),
        (r#""type":"subscribe","channel":"a","epoch":"e""#, "last_id: missing"),
        (r#""type":"subscribe","channel":"a","last_id":3"#, "epoch: missing"),
        (r#""type":"subscribe","channel":"a","epoch":3,"last_id":3"#, "epoch: not a string"),
        (
            r#""type":"subscribe","channel":"a","epoch":"e","last_id":"3""#,
            "last_id: not a whole number from 0",
        ),
        (
            r#""type":"subscribe","channel":"a","epoch":"e","last_id":-3"#,
            "last_id: not a whole number from 0",
        ),
        (
            r#""type":"subscribe","channel":"a","epoch":"e","last_id":3.0"#,
            "last_id: not a whole number from 0",
        ),
        (
            r#""type":"subscribe","channel":"a","epoch":"e","last_id":18446744073709551616"#,
            "last_id: not a whole number from 0",
        ),
        (r#""type":"join","channel":"a""#, "room: missing"),
        (r#""type":"unsubscribe""#, "channel: missing"),
        (r#""type":"leave""#, "room: missing"),
        (r#""type":"publish","channel":"a""#, "data: missing"),
        (r#""type":"publish","data":1"#, "channel: missing"),
        (r#""type":"publish","channel":"room:a","data":1"#, "channel: begins with room:"),
        (r#""type":"publish","channel":"a","data":1,"data":1"#, "data: given twice"),
        (r#""type":"publish","channel":"a","data":1,"d\u0061ta":1"#, "data: given twice"),
        (r#""type":"publish","channel":"a","data":1,"echo":0"#, "echo: neither true nor false"),
        (r#""type":"publish","channel":"a","data":1,"echo":"false""#, "echo: neither true nor false"),
        (r#""type":"room_message","room":"a","data":1"#, "payload: missing"),
        (r#""type":"direct_message","payload":1"#, "targetUserId: missing"),
        (r#""type":"direct_message","targetUserId":"bob""#, "payload: missing"),
        (r#""type":"presence""#, "channel: missing"),
        (r#""type":"presence","channel":"a","room":"a""#, "room: given beside channel"),
        (r#""type":"presence","channel":"room:a""#, "channel: begins with room:"),
        (r#""type":"presence","channel":"a","limit":-1"#, "limit: not a whole number from 0"),
        (r#""type":"presence","channel":"a","limit":null"#, "limit: not a whole number from 0"),
        (r#""type":"presence","channel":"a","after":1"#, "after: not a string"),
        (r#""type":"history""#, "channel: missing"),
        (r#""type":"history","room":"a","channel":"a""#, "room: given beside channel"),
        (r#""type":"history","room":"a","since_id":1e3"#, "since_id: not a whole number from 0"),
        (r#""type":"refresh""#, "token: missing"),
        (r#""type":"refresh","token":{}"#, "token: not a string"),
        (r#""type":"join","room":"""#, &format!("room: {no_name}")),
        (r#""type":"join","room":":./-_ ""#, &format!("room: {no_name}")),
        (r#""type":"join","room":"a\u0000b""#, &format!("room: {no_name}")),
        (r#""type":"publish","data":1,"channel":"\n""#, &format!("channel: {no_name}")),
        (r#""type":"direct_message","payload":1,"targetUserId":"-""#, &format!("targetUserId: {no_name}")),
        (r#""type":"presence","room":"a","after":"""#, &format!("after: {no_name}")),
    ] {
        let refusal = refused(Some("5"), ErrorCode::BadRequest, text);
        let early = format!(r#"{{"id":5,{members}}}"#);
        assert_eq!(parse(&early), refusal, "{early}");
        let late = format!(r#"{{{members},"id":5}}"#);
        assert_eq!(parse(&late), refusal, "{late}");
    }
}

#[test]
fn an_id_is_a_short_number_or_string() {
    let longest = format!("\"{}\"", "x".repeat(ID_BYTES_MAX - 2));
    for id in ["0", "-1", "1.50", "1e99999", "18446744073709551616", r#""""#, r#""\u0041\"\ud800""#, &longest]
    {
        let text = format!(r#"{{"type":"ping","id": {id} }}"#);
        assert_eq!(parse(&text), parsed(Some(id), Command::Ping), "{text}");
    }
    let long_string = format!("\"{}\"", "x".repeat(ID_BYTES_MAX - 1));
    let long_number = "9".repeat(ID_BYTES_MAX + 1);
    for (id, text) in [
        ("null", "id: neither a number nor a string"),
        ("true", "id: neither a number nor a string"),
        ("[1]", "id: neither a number nor a string"),
        ("{}", "id: neither a number nor a string"),
        (&long_string, "id: longer than 64 bytes"),
        (&long_number, "id: longer than 64 bytes"),
        ("1,\"id\":1", "id: given twice"),
        ("null,\"id\":1", "id: given twice"),
    ] {
        let command = format!(r#"{{"type":"ping","id":{id}}}"#);
        assert_eq!(parse(&command), refused(None, ErrorCode::BadRequest, text), "{command}");
    }
}

#[test]
fn a_limit_beyond_u32_is_the_largest() {
    for (limit, read) in [("0", 0), ("4294967295", u32::MAX), ("4294967296", u32::MAX)] {
        let text = format!(r#"{{"type":"history","room":"a","limit":{limit}}}"#);
        let history = Command::History { topic: room("a"), limit: Some(read), since_id: None };
        assert_eq!(parse(&text), parsed(None, history));
    }
}

#[test]
fn names() {
    for name in ["a", "0", "room", "a:b", ":a:", "é", "\"", "\\", "a b", "👩‍👧", &"x".repeat(NAME_BYTES_MAX)]
    {
        assert!(is_name(name), "{name:?}");
    }
    let long = "x".repeat(NAME_BYTES_MAX + 1);
    let wide = "é".repeat(NAME_BYTES_MAX / 2 + 1);
    let separators = "/".repeat(NAME_BYTES_MAX);
    for name in ["", " ", ":", "./", "-_:./ ", &separators, "\0", "a\n", "a\u{7f}", "a\u{85}b", &long, &wide]
    {
        assert!(!is_name(name), "{name:?}");
    }
}

#[test]
fn a_room_may_be_called_like_the_mark() {
    let join = Command::Subscribe { topic: room("room:a"), recover: None };
    assert_eq!(parse(r#"{"type":"join","room":"room:a"}"#), parsed(None, join));
}

#[test]
fn nesting_ends_at_the_limit() {
    let nested = |depth: usize| {
        let (open, close) = ("[".repeat(depth - 1), "]".repeat(depth - 1));
        format!(r#"{{"type":"publish","id":1,"channel":"a","data":{open}{close}}}"#)
    };
    assert!(parse(&nested(NESTING_MAX)).is_ok());
    let too_deep = refused(Some("1"), ErrorCode::BadRequest, "nested deeper than 128");
    assert_eq!(parse(&nested(NESTING_MAX + 1)), too_deep);
    let unused = nested(NESTING_MAX + 1).replace("data", "date");
    assert_eq!(parse(&unused), too_deep);
}

#[test]
fn brackets_beside_each_other_or_in_strings_are_not_depth() {
    let wide = format!(r#"[{}{{}}]"#, "[{}],".repeat(1_000));
    let quoted = format!(r#"["\\","\"{}",{{}}]"#, "[{".repeat(1_000));
    for data in [wide, quoted] {
        let text = format!(r#"{{"type":"publish","channel":"a","data":{data}}}"#);
        let publish = Command::Publish { topic: channel("a"), data: &data, echo: true };
        assert_eq!(parse(&text), parsed(None, publish));
    }
}

/// Thirty thousand levels on a stack that a recursion of a tenth of them would end.
#[test]
fn depth_costs_no_stack() {
    const DEPTH: usize = 30_000;
    let arrays = ("[".repeat(DEPTH), "]".repeat(DEPTH));
    let objects = (r#"{"a":"#.repeat(DEPTH) + "0", "}".repeat(DEPTH));
    let on_a_small_stack = move || {
        for (open, close) in [&arrays, &objects] {
            for member in ["data", "id", "type", "nobody_knows"] {
                let other = if member == "id" { "trace" } else { "id" };
                let text = format!(r#"{{"{other}":1,"{member}":{open}{close}}}"#);
                assert_eq!(parse(&text).unwrap_err().code, ErrorCode::BadRequest, "{member}");
                let unclosed = format!(r#"{{"{other}":1,"{member}":{open}"#);
                assert_eq!(parse(&unclosed).unwrap_err().code, ErrorCode::InvalidJson, "{member}");
            }
        }
        assert_eq!(parse(&format!("{}{}", arrays.0, arrays.1)).unwrap_err().code, ErrorCode::InvalidJson);
        assert_eq!(parse(&objects.0).unwrap_err().code, ErrorCode::InvalidJson);
    };
    std::thread::Builder::new().stack_size(64 * 1024).spawn(on_a_small_stack).unwrap().join().unwrap();
}

#[test]
fn the_error_codes_of_the_protocol() {
    let names: Vec<&str> = ErrorCode::ALL.iter().map(|code| code.name()).collect();
    assert_eq!(
        names.join(" "),
        "invalid_json unknown_type bad_request not_subscribed forbidden too_large topic_limit \
         message_rate_exceeded byte_rate_exceeded try_again unauthorized connection_limit"
    );
    assert_eq!(ErrorCode::InvalidJson.text(), "Invalid JSON");
    assert_eq!(ErrorCode::UnknownType.text(), "Unknown message type");
}

// Property tests: a command of owned parts is written down in any order, with blanks and escapes, and read back.

/// The members of a command as key and raw value, with the command they mean.
#[derive(Debug, Clone)]
enum Written {
    Subscribe { room: bool, name: String, recover: Option<(String, u64)> },
    Unsubscribe { room: bool, name: String },
    LeaveAll,
    Publish { room: bool, name: String, data: String, echo: Option<bool> },
    Direct { user: String, payload: String },
    Presence { room: bool, name: String, limit: Option<u32>, after: Option<String> },
    History { room: bool, name: String, limit: Option<u32>, since_id: Option<u64> },
    Refresh { token: String },
    Ping,
}

fn topic(room: bool, name: &str) -> Topic<'_> {
    Topic { place: if room { Place::Room } else { Place::Channel }, name: name.into() }
}

impl Written {
    fn command(&self) -> Command<'_> {
        match self {
            Written::Subscribe { room, name, recover } => {
                let recover = recover.as_ref();
                let recover =
                    recover.map(|(epoch, last_id)| Recover { epoch: epoch.into(), last_id: *last_id });
                Command::Subscribe { topic: topic(*room, name), recover }
            }
            Written::Unsubscribe { room, name } => Command::Unsubscribe { topic: topic(*room, name) },
            Written::LeaveAll => Command::LeaveAll,
            Written::Publish { room, name, data, echo } => {
                Command::Publish { topic: topic(*room, name), data, echo: echo.unwrap_or(true) }
            }
            Written::Direct { user, payload } => Command::Direct { user: user.into(), payload },
            Written::Presence { room, name, limit, after } => {
                let after = after.as_ref().map(Cow::from);
                Command::Presence { topic: topic(*room, name), limit: *limit, after }
            }
            Written::History { room, name, limit, since_id } => {
                Command::History { topic: topic(*room, name), limit: *limit, since_id: *since_id }
            }
            Written::Refresh { token } => Command::Refresh { token: token.into() },
            Written::Ping => Command::Ping,
        }
    }

    fn members(&self) -> Vec<(&'static str, String)> {
        let place = |room: &bool| if *room { "room" } else { "channel" };
        let quoted = |text: &String| serde_json::to_string(text).unwrap();
        let mut members = Vec::new();
        let mut optional = |key, value: Option<String>| members.extend(value.map(|value| (key, value)));
        let kind = match self {
            Written::Subscribe { room, name, recover } => {
                optional(place(room), Some(quoted(name)));
                optional("epoch", recover.as_ref().map(|(epoch, _)| quoted(epoch)));
                optional("last_id", recover.as_ref().map(|(_, last_id)| last_id.to_string()));
                if *room { "join" } else { "subscribe" }
            }
            Written::Unsubscribe { room, name } => {
                optional(place(room), Some(quoted(name)));
                if *room { "leave" } else { "unsubscribe" }
            }
            Written::LeaveAll => "leave_all",
            Written::Publish { room, name, data, echo } => {
                optional(place(room), Some(quoted(name)));
                optional(if *room { "payload" } else { "data" }, Some(data.clone()));
                optional("echo", echo.map(|echo| echo.to_string()));
                if *room { "room_message" } else { "publish" }
            }
            Written::Direct { user, payload } => {
                optional("targetUserId", Some(quoted(user)));
                optional("payload", Some(payload.clone()));
                "direct_message"
            }
            Written::Presence { room, name, limit, after } => {
                optional(place(room), Some(quoted(name)));
                optional("limit", limit.map(|limit| limit.to_string()));
                optional("after", after.as_ref().map(quoted));
                "presence"
            }
            Written::History { room, name, limit, since_id } => {
                optional(place(room), Some(quoted(name)));
                optional("limit", limit.map(|limit| limit.to_string()));
                optional("since_id", since_id.map(|since_id| since_id.to_string()));
                "history"
            }
            Written::Refresh { token } => {
                optional("token", Some(quoted(token)));
                "refresh"
            }
            Written::Ping => "ping",
        };
        members.push(("type", format!("\"{kind}\"")));
        members
    }
}

fn name() -> impl Strategy<Value = String> {
    "[a-z\"\\\\é👋/:. _-]{1,20}".prop_filter("a name", |name| is_name(name) && !name.starts_with(ROOM_MARK))
}

/// Any characters, and often those that JSON must escape; proptest's own strings have no control characters.
fn characters() -> impl Strategy<Value = String> {
    prop_oneof!["(?s:.{0,24})", r#"[\x00-\x20"\\\x7f\u{2028}é]{0,12}"#]
}

/// A JSON value as text: numbers that floats would change, escapes that need none, blanks.
fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("1.10".to_owned()),
        Just("-0".to_owned()),
        Just("1E400".to_owned()),
        Just("123456789012345678901234567890".to_owned()),
        Just(r#""\u0041\/\ud83d\ude00\ud800""#.to_owned()),
        characters().prop_map(|text| serde_json::to_string(&text).unwrap()),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[ {}]", items.join(" ,\t"))),
            prop::collection::vec(("[a\"]{0,2}", inner), 0..4).prop_map(|members| {
                let member =
                    |(key, value)| format!("{} :{value}", serde_json::to_string::<String>(&key).unwrap());
                format!("{{{}\n}}", members.into_iter().map(member).collect::<Vec<_>>().join(", "))
            }),
        ]
    })
}

fn written() -> impl Strategy<Value = Written> {
    let recover = prop::option::of((characters(), any::<u64>()));
    prop_oneof![
        (any::<bool>(), name(), recover).prop_map(|(room, name, recover)| Written::Subscribe {
            room,
            name,
            recover
        }),
        (any::<bool>(), name()).prop_map(|(room, name)| Written::Unsubscribe { room, name }),
        Just(Written::LeaveAll),
        (any::<bool>(), name(), json(), any::<Option<bool>>())
            .prop_map(|(room, name, data, echo)| Written::Publish { room, name, data, echo }),
        (name(), json()).prop_map(|(user, payload)| Written::Direct { user, payload }),
        (any::<bool>(), name(), any::<Option<u32>>(), prop::option::of(name()))
            .prop_map(|(room, name, limit, after)| Written::Presence { room, name, limit, after }),
        (any::<bool>(), name(), any::<Option<u32>>(), any::<Option<u64>>())
            .prop_map(|(room, name, limit, since_id)| Written::History { room, name, limit, since_id }),
        characters().prop_map(|token| Written::Refresh { token }),
        Just(Written::Ping),
    ]
}

/// Keys and blanks of commands, cut and joined anyhow: closer to a command than random text gets.
fn nearly() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        " ",
        "\n",
        "null",
        "true",
        "1",
        "-",
        "e",
        "\\u",
        "\\ud83d",
        "\"type\":",
        "\"ping\"",
        "\"publish\"",
        "\"presence\"",
        "\"id\":",
        "\"channel\":",
        "\"a\"",
        "\"data\":",
        "\"room\":",
        "\"room:\"",
        "\"limit\":",
        "{\"type\":\"ping\"}",
        "é",
        "\u{0}",
        "\u{feff}",
    ]);
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

/// What every answer must keep to, whatever the text.
fn check_answer(text: &str) {
    let json = serde_json::from_str::<&RawValue>(text).is_ok();
    match parse(text) {
        Ok(parsed) => {
            assert!(json, "no JSON, but a command: {text:?}");
            assert!(parsed.id.is_none_or(|id| id.len() <= ID_BYTES_MAX && text.contains(id)));
        }
        Err(refusal) => {
            assert!(json || refusal.code == ErrorCode::InvalidJson, "{refusal:?}");
            assert!(!refusal.text.is_empty());
        }
    }
}

proptest! {
    #[test]
    fn any_text_has_an_answer(text in characters()) {
        check_answer(&text);
    }

    #[test]
    fn any_broken_command_has_an_answer(text in nearly()) {
        check_answer(&text);
    }

    #[test]
    fn a_command_cut_short_is_invalid(written in written(), at in any::<prop::sample::Index>()) {
        let text = object(&written.members());
        let at = text.floor_char_boundary(at.index(text.len()));
        prop_assert_eq!(parse(&text[..at]), refused(None, ErrorCode::InvalidJson, "Invalid JSON"));
    }

    #[test]
    fn what_went_in_comes_out(
        (written, members) in written().prop_flat_map(|written| {
            let members = Just(written.members()).prop_shuffle();
            (Just(written), members)
        }),
        id in prop::option::of("-?[1-9][0-9]{0,20}|\"[a-zé]{0,20}\""),
        extra in json(),
        id_first in any::<bool>(),
    ) {
        let mut members = members;
        let place = if id_first { 0 } else { members.len() };
        if let Some(id) = &id {
            members.insert(place, ("id", id.clone()));
        }
        members.push(("trace", extra));
        let text = object(&members);
        prop_assert_eq!(parse(&text), parsed(id.as_deref(), written.command()), "{}", text);
    }

    #[test]
    fn a_member_given_twice_is_named(written in written(), at in any::<prop::sample::Index>()) {
        let mut members = written.members();
        let twice = members[at.index(members.len())].clone();
        let expected = format!("{}: given twice", twice.0);
        members.push(twice);
        let text = object(&members);
        prop_assert_eq!(parse(&text), refused(None, ErrorCode::BadRequest, &expected));
    }
}

fn object(members: &[(&str, String)]) -> String {
    let members: Vec<String> = members.iter().map(|(key, value)| format!("\"{key}\" : {value}")).collect();
    format!("{{{}}}", members.join(",\n"))
}
