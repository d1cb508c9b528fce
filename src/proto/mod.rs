//! Sans-I/O protocol code: HTTP head, upgrade, frames, masking, messages, the closing handshake; and the
//! channel protocol inside the messages.
//!
//! Bytes in, events and bytes out. No descriptor, no clock, no thread, no configuration: every limit is an argument,
//! so that any split of the same bytes can be shown to give the same events. All of RFC 6455, no extension.
//!
//! Reading order: [`head`] and [`upgrade`] until the 101, [`response`] for every other answer; then [`frame`] and
//! [`mask`], [`message`] on top of them with [`utf8`], and [`close`] for how it ends. What clients say in messages is
//! [`command`], what they hear is [`event`]. [`client`] is the other side, for the driver and the tests. Where a connection comes from:
//! [`proxy`] and [`forwarded`] say it, [`address`] counts it.

pub mod address;
pub mod client;
pub mod close;
pub mod command;
pub mod event;
pub mod forwarded;
pub mod frame;
pub mod head;
pub mod mask;
pub mod message;
pub mod proxy;
pub mod response;
pub mod upgrade;
pub mod utf8;
