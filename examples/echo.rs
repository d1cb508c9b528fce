//! A WebSocket echo server: `cargo run --release --example echo`, then connect to ws://127.0.0.1:8080/.

use megasock::{ConnId, Decision, Handler, Message, Outbox, Request, Server, StartError};

struct Echo;

impl Handler for Echo {
    type Mail = ();

    fn on_request(&mut self, _: &Request<'_>, _: &mut Outbox) -> Decision {
        Decision::ACCEPT
    }

    fn on_message(&mut self, _: ConnId, message: Message<'_>, out: &mut Outbox) {
        out.reply(message);
    }
}

fn main() -> Result<(), StartError> {
    let running = Server::builder().listen(([127, 0, 0, 1], 8080).into()).handler(|_core| Echo).start()?;
    println!("listening on {}", running.handle().local_address());
    running.wait();
    Ok(())
}
