//! The outcome of a run as one data structure; JSON and the terminal's tables are views of it.

mod diff;
mod layers;
mod slower;
mod summary;

pub use diff::{Change, ConstantChange, ModelDiff, OpChange, diff};
pub use layers::{Layer, layers};
pub use slower::slower;
pub use summary::Summary;

use crate::{passes::Remark, runtime::Validation};
use serde::Serialize;
use std::{collections::BTreeMap, path::PathBuf};

/// One pass that ran.
#[derive(Clone, Debug, Serialize)]
pub struct PassRun {
    /// Its name.
    pub name: String,
    /// Whether it changed the model.
    pub changed: bool,
    /// Wall time in seconds.
    pub seconds: f64,
}

/// Everything a run has to say.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The program's version.
    pub version: &'static str,
    /// The file that was read.
    pub input: PathBuf,
    /// The file that was written.
    pub output: Option<PathBuf>,
    /// The passes that were asked for, as pipeline text.
    pub pipeline: String,
    /// The model as it came.
    pub before: Summary,
    /// The model as it went.
    pub after: Summary,
    /// The passes that ran, with those that brought the model into the form others need.
    pub passes: Vec<PassRun>,
    /// How often each rewrite happened: `"simplify/identity"`.
    pub counts: BTreeMap<String, u64>,
    /// What the passes did and left alone, and why.
    pub remarks: Vec<Remark>,
    /// The comparison on ONNX Runtime; absent where it was switched off.
    pub validation: Option<Validation>,
    /// Where the result is slower than the original beyond noise: by how much, and why.
    pub slower: Option<String>,
    /// Wall time of the whole run in seconds.
    pub seconds: f64,
}
