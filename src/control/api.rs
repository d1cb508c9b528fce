//! The API: what it takes ([`arguments`]), what it answers (`shape`, `fault`), and what it does.

pub mod arguments;
pub(super) mod channels;
pub(super) mod connections;
pub mod fault;
pub(super) mod figures;
pub(super) mod process;
pub(super) mod shape;
