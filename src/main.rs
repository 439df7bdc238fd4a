//! The program: everything is in the library, only the exit code is made here.

fn main() -> std::process::ExitCode {
    onnx_compress::cli::main()
}
