//! The command `unprune`: the reverse of pruning.

use super::{inspect::load, out, table};
use crate::{
    error::Result,
    lower::{self, SaveOptions},
    measure::Measure,
    passes::{Context, prune},
    report::Summary,
    runtime::{Measurer, Runtime, Samples, SessionOptions},
};
use std::path::Path;

/// Writes the model of `like`'s architecture that computes what `pruned` does.
pub(super) fn run(pruned: &Path, like: &Path, output: &Path) -> Result<()> {
    let (small, original) = (load(pruned)?, load(like)?);
    // The original is simplified as it was before pruning, which folds more with a runtime.
    let measurer = Runtime::find(None)
        .ok()
        .map(|runtime| Measurer::new(runtime, Samples::from_batches([]), SessionOptions::default()));
    let mut cx = Context::new();
    if let Some(measurer) = &measurer {
        cx = cx.with_measure(measurer as &dyn Measure);
    }
    let full = prune::unprune(&small, &original, &mut cx)?;
    let (before, mut after) = (Summary::of_file(&small, pruned), Summary::of(&full));
    after.file_bytes = Some(lower::save(&full, output, &SaveOptions::default())?);
    out(&format!("{}\nwrote {}", table::sizes(&before, &after), output.display()))
}
