//! A WebSocket server and library that holds a million connections on one Linux box.
//!
//! One shared-nothing io_uring reactor per pinned core: each accepts through SO_REUSEPORT, holds its own connections, and
//! runs its own share of the application, a [`Handler`]. An idle connection costs one cache line and owns no buffer.
//!
//! ```no_run
//! use megasock::{ConnId, Decision, Handler, Message, Outbox, Request, Server};
//!
//! struct Echo;
//! impl Handler for Echo {
//!     type Mail = ();
//!     fn on_request(&mut self, _: &Request<'_>, _: &mut Outbox) -> Decision {
//!         Decision::ACCEPT
//!     }
//!     fn on_message(&mut self, _: ConnId, message: Message<'_>, out: &mut Outbox) {
//!         out.reply(message);
//!     }
//! }
//!
//! Server::builder().handler(|_core| Echo).start()?.wait();
//! # Ok::<(), megasock::StartError>(())
//! ```
//!
//! # Layers
//! Lower layers never import upper ones; neighbours joined by `|` never import each other.
//! [`ds`], [`buf`], [`budget`] < [`proto`] `|` [`sys`] < [`handler`] < [`reactor`] `|` [`hub`] < [`control`], [`config`], [`server`] < [`cli`].

pub mod budget;
pub mod buf;
#[doc(hidden)]
pub mod cli;
pub mod config;
pub mod control;
pub mod ds;
pub mod handler;
pub mod hub;
pub mod proto;
pub mod reactor;
pub mod server;
pub mod sys;

pub use buf::Payload;
pub use handler::{
    ConnId, Decision, Handler, Kind, Message, Origin, Outbox, Request, Response, Work, encode_message,
};
pub use proto::close::CloseReason;
pub use proto::response::Status;
pub use reactor::Totals;
pub use server::{Builder, Drain, Handle, Running, Server, StartError};
