//! The `seawal` command: everything is in `seawal::cli`.

fn main() -> std::process::ExitCode {
    seawal::cli::main()
}
