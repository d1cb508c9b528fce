//! The megasock server.
fn main() {}
