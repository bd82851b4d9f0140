//! The binary `postern-coordinator`.

fn main() -> std::process::ExitCode {
    postern_server::cli::main()
}
