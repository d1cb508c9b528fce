//! What an application implements, and what it may do to connections.
