//! The binary `quadrille`; its library says what it does.

use std::process::ExitCode;

fn main() -> ExitCode {
    quadrille::main()
}
