//! Placeholder entry point, replaced by the driver.
fn main() {}
