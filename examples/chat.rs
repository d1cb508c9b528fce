//! A chat with rules: `cargo run --release --example chat` says what to open and to type.
//!
//! Everybody has a name, the staff's room is for staff, nobody shouts, and whoever comes in is greeted.

use megasock::config::Config;
use megasock::hub::{Client, Connect, Hooks, Mail, Namespaces, Publishers, Settings};
use megasock::{Handle, Request, Response, Server, Status};
use serde_json::json;
use std::sync::{Arc, OnceLock};

/// One core's share. The server's handle comes later: the cores start before there is one.
struct Chat {
    server: Arc<OnceLock<Handle<Mail>>>,
}

impl Hooks for Chat {
    fn on_connect(&mut self, _: &Request<'_>, user: Option<&str>) -> Connect {
        match user {
            Some(user) => Connect::Accept { user: Some(user.to_lowercase()) },
            None => {
                Connect::Refuse(Response::refuse(Status::Unauthorized, "Say who you are: /ws?user=NAME."))
            }
        }
    }

    fn on_open(&mut self, client: &Client<'_>) {
        if let (Some(server), Some(user)) = (self.server.get(), client.user) {
            // The answer, how many connections got it, is not waited for: this is a core's thread.
            let _ = server.send_to_user(user, json!({ "greeting": format!("Hello, {user}!") }).to_string());
        }
    }

    fn may_subscribe(&mut self, client: &Client<'_>, topic: &str) -> bool {
        topic != "room:staff" || client.user.is_some_and(|user| user.starts_with("staff-"))
    }

    fn on_subscribe(&mut self, client: &Client<'_>, topic: &str) {
        self.tell_door(json!({ "user": client.user, "entered": topic }));
    }

    fn may_publish(&mut self, _: &Client<'_>, _: &str, data: &str) -> bool {
        data.len() <= 500 && (data.chars().any(char::is_lowercase) || !data.chars().any(char::is_uppercase))
    }

    fn on_close(&mut self, client: &Client<'_>) {
        self.tell_door(json!({ "user": client.user, "left": true }));
    }
}

impl Chat {
    fn tell_door(&self, news: serde_json::Value) {
        if let Some(server) = self.server.get() {
            let _ = server.publish("door", news.to_string());
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut namespaces = Namespaces::default();
    let door = Settings { publishers: Publishers::Server, ..Settings::CHANNEL };
    namespaces.add("door", door).expect("a pattern, given once");
    let config = Config { listen: ([127, 0, 0, 1], 8080).into(), namespaces, ..Config::default() };
    let server = Arc::new(OnceLock::new());
    let shared = Arc::clone(&server);
    let running =
        Server::builder().config(config).hub(move |_core| Chat { server: Arc::clone(&shared) }).start()?;
    let address = running.handle().local_address();
    let _ = server.set(running.handle().clone());
    println!("In two terminals, as ann and as bob: npx wscat -c 'ws://{address}/ws?user=ann'");
    for (command, effect) in [
        (r#"{"type":"subscribe","id":1,"channel":"door"}"#, "who comes and goes"),
        (r#"{"type":"join","id":2,"room":"lobby"}"#, "come in"),
        (r#"{"type":"room_message","id":3,"room":"lobby","payload":"hi all"}"#, "say it; HI ALL is refused"),
        (r#"{"type":"join","id":4,"room":"staff"}"#, "refused, except to ?user=staff-ann"),
    ] {
        println!("  {command:<70}{effect}");
    }
    running.wait();
    Ok(())
}
