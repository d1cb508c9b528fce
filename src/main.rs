//! The megasock server.

use std::process::ExitCode;

fn main() -> ExitCode {
    megasock::cli::main()
}
