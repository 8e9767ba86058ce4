//! `marketflow`: the one program a person types. Everything is in the library beside it.
//!
//! Next: `lib.rs`.

fn main() -> std::process::ExitCode {
    marketflow_cli::main()
}
