//! Sans-I/O protocol code: HTTP head, upgrade, frames, masking, messages, the closing handshake.
//!
//! Bytes in, events and bytes out. No descriptor, no clock, no thread, no configuration: every limit is an argument,
//! so that any split of the same bytes can be shown to give the same events. All of RFC 6455, no extension.

pub mod close;
pub mod frame;
pub mod mask;
pub mod message;
pub mod utf8;
