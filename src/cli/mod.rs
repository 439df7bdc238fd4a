//! The command line: the only part of the crate that prints.

mod args;
mod compress;
mod diff;
mod inspect;
mod process;
mod progress;
mod recipe;
mod running;
mod table;
mod unprune;
mod validate;

use crate::error::{Error, Result};
use args::{Cli, Command};
use clap::{CommandFactory, Parser};
use std::{io::Write, process::ExitCode};

/// Runs the program on its arguments and returns the exit code: 0 good, 1 failed, 2 usage, 3 below the bar.
pub fn main() -> ExitCode {
    process::return_large_blocks();
    process::refuse_telemetry();
    let cli = Cli::parse();
    let result = match &cli.command {
        Some(Command::Inspect { model, groups: true, json, .. }) => inspect::groups(model, *json),
        Some(Command::Inspect { model, layers: true, json, .. }) => inspect::layers(model, *json),
        Some(Command::Inspect { model, json, .. }) => inspect::inspect(model, *json),
        Some(Command::Print { model }) => inspect::print(model),
        Some(Command::Validate { original, compressed, running, min_sqnr, json }) => {
            validate::run(original, compressed, running, *min_sqnr, *json)
        }
        Some(Command::Diff { before, after, json }) => diff::run(before, after, *json),
        Some(Command::Unprune { pruned, like, output }) => unprune::run(pruned, like, output),
        Some(Command::Passes { name }) => inspect::passes(name.as_deref()),
        Some(Command::Completions { shell }) => {
            clap_complete::generate(*shell, &mut Cli::command(), "onnx-compress", &mut std::io::stdout());
            Ok(())
        }
        None => compress::run(&cli.compress),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error}"));
            ExitCode::from(error.exit_code())
        }
    }
}

/// Writes a line of the result to standard output. A reader that went away is no error.
fn out(text: &str) -> Result<()> {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::io("cannot write to", "standard output", e))
        }
        _ => Ok(()),
    }
}

/// Writes a line about the run to standard error. There is no better place to report that this fails.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
