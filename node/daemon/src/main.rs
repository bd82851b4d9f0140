//! The binary `postern`.

fn main() -> std::process::ExitCode {
    postern_daemon::cli::main()
}
