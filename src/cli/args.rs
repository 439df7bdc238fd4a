//! The command line's arguments.

use crate::ir::{Dim, Shape};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Make an ONNX model smaller and faster, and prove on ONNX Runtime that it still works.
#[derive(Parser, Debug)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) compress: CompressArgs,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Show a model's inputs, outputs, operators, parameters and bytes
    Inspect {
        /// The model
        model: PathBuf,
        /// What `prune` can cut: positions that go together, what they are worth, and why the others stay
        #[arg(long)]
        groups: bool,
        /// Each op in order: what it gives, its parameters and their bytes, and its multiply-accumulates
        #[arg(long, conflicts_with = "groups")]
        layers: bool,
        /// As JSON instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Print a model in ONNX's textual syntax, weights as digests
    Print {
        /// The model
        model: PathBuf,
    },
    /// Compare a compressed model with its original on ONNX Runtime
    Validate {
        /// The original
        original: PathBuf,
        /// The compressed model
        compressed: PathBuf,
        #[command(flatten)]
        running: RunArgs,
        /// Fail (exit code 3) where an output's signal-to-noise ratio is below this many dB
        #[arg(long, value_name = "DB")]
        min_sqnr: Option<f64>,
        /// As JSON instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Show how two models differ; exit code 3 where they do
    Diff {
        /// The first model
        before: PathBuf,
        /// The second
        after: PathBuf,
        /// As JSON instead of text
        #[arg(long)]
        json: bool,
    },
    /// Put the weights of a pruned model back into the architecture it was pruned from, zero where it was cut
    Unprune {
        /// The pruned model, trained further or not
        pruned: PathBuf,
        /// The model that was pruned
        #[arg(long, value_name = "ORIGINAL")]
        like: PathBuf,
        /// Where to write the result
        #[arg(short, long, value_name = "OUT")]
        output: PathBuf,
    },
    /// List the passes, or the options of one
    Passes {
        /// The pass to describe
        name: Option<String>,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Where models run, and on what data.
#[derive(Args, Debug, Default)]
pub(crate) struct RunArgs {
    /// Sample inputs: .npz (key = input name, first axis = samples), a folder of .npy, or ONNX test data
    #[arg(long, value_name = "DATA")]
    pub(crate) calib: Option<PathBuf>,
    /// The right class of each sample: .npz (key `labels`) or .npy; accuracy is then compared too
    #[arg(long, value_name = "DATA", requires = "calib")]
    pub(crate) labels: Option<PathBuf>,
    /// Fail (exit code 3) where accuracy falls by more than this share: 0.01 is one point
    #[arg(long, value_name = "X", requires = "labels")]
    pub(crate) max_drop: Option<f64>,
    /// The size of a dimension by its name: batch=4 (repeatable). Compression fixes it in the model
    #[arg(long, value_name = "NAME=N", value_parser = parse_dim)]
    pub(crate) dim: Vec<(String, usize)>,
    /// Where to run
    #[arg(long, value_enum, default_value_t)]
    pub(crate) provider: ProviderArg,
    /// Threads of ONNX Runtime when timing
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) threads: usize,
    /// The ONNX Runtime library, or the folder that holds it
    #[arg(long, value_name = "PATH")]
    pub(crate) ort: Option<PathBuf>,
    /// Seed of every random choice
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}

#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ProviderArg {
    #[default]
    Cpu,
    Cuda,
}

/// Options on what the model is to be, whatever passes make of it.
const MODEL: &str = "Options for the model itself";

#[derive(Args, Debug)]
pub(crate) struct CompressArgs {
    /// The model to compress; - reads standard input
    #[arg(value_name = "IN", required = true)]
    pub(crate) input: Option<PathBuf>,
    /// Where to write the result; - writes to standard output [default: IN.compressed.onnx]
    #[arg(short, long, value_name = "OUT")]
    pub(crate) output: Option<PathBuf>,
    /// Passes in order: prune(ratio=0.3),quant
    #[arg(short, long, value_name = "PIPELINE", conflicts_with = "recipe")]
    pub(crate) passes: Option<String>,
    /// A TOML file with `pipeline = "..."`, or a [[pass]] table for each pass
    #[arg(long, value_name = "FILE")]
    pub(crate) recipe: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) running: RunArgs,
    /// Fix an input's shape: x:1,3,224,224 (repeatable); ? leaves a dimension as it is, a name keeps it free
    #[arg(long, value_name = "NAME:DIMS", value_parser = parse_shape, help_heading = MODEL)]
    pub(crate) input_shape: Vec<(String, Shape)>,
    /// Cut the model to these outputs, which may be inner values: a,b
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help_heading = MODEL)]
    pub(crate) outputs: Vec<String>,
    /// Drop inputs that nothing uses any more
    #[arg(long, help_heading = MODEL)]
    pub(crate) drop_unused_inputs: bool,
    /// Replace calls of model-local functions by what they do
    #[arg(long, help_heading = MODEL)]
    pub(crate) inline_functions: bool,
    /// Raise ONNX's operator set to this version
    #[arg(long, value_name = "N", help_heading = MODEL)]
    pub(crate) opset: Option<i64>,
    /// Write everything that is known about the run to this .json file
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Fail (exit code 3) where an output's signal-to-noise ratio is below this many dB
    #[arg(long, value_name = "DB")]
    pub(crate) min_sqnr: Option<f64>,
    /// Do not compare the result with the original on ONNX Runtime
    #[arg(long)]
    pub(crate) no_validate: bool,
    /// Do not run simplify before passes that ask for it
    #[arg(long)]
    pub(crate) no_simplify: bool,
    /// Keep weights in a separate file
    #[arg(long, value_enum, default_value_t)]
    pub(crate) external_data: ExternalArg,
    /// Show the pipeline with every option, and stop
    #[arg(long)]
    pub(crate) explain: bool,
    /// Show what each pass did and left alone, and which runtime is used
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Print nothing but errors
    #[arg(short, long, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
}

#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ExternalArg {
    /// Only where the model would exceed what one file may hold
    #[default]
    Auto,
    Never,
    Always,
}

fn parse_dim(text: &str) -> Result<(String, usize), String> {
    let (name, n) = text.split_once('=').ok_or("write it as name=number")?;
    match n.parse() {
        Ok(n) if n > 0 && !name.is_empty() => Ok((name.to_owned(), n)),
        _ => Err(format!("`{n}` is not a positive number")),
    }
}

fn parse_shape(text: &str) -> Result<(String, Shape), String> {
    // Names may hold colons themselves, as those of TensorFlow do.
    let (name, dims) = text.rsplit_once(':').ok_or("write it as name:1,3,224,224")?;
    let one = |dim: &str| match dim.trim() {
        "?" => Ok(Dim::Unknown),
        dim if dim.starts_with(|c: char| c.is_alphabetic() || c == '_') => Ok(Dim::Symbol(dim.to_owned())),
        dim => match dim.parse() {
            Ok(n) if n > 0 => Ok(Dim::Known(n)),
            _ => Err(format!("`{dim}` is no dimension: write a positive number, ? or a name")),
        },
    };
    let dims = dims.split(',').filter(|_| !dims.is_empty()).map(one).collect::<Result<_, _>>()?;
    Ok((name.to_owned(), dims))
}
