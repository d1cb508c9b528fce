//! A WebSocket server and library that holds a million connections on one Linux box.
pub mod budget;
pub mod buf;
#[doc(hidden)]
pub mod cli;
pub mod config;
pub mod ds;
pub mod proto;
pub mod server;
pub mod sys;
pub use buf::Payload;
