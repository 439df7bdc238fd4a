//! What it costs to drop branches, by running the model without each.
//!
//! What reads the sum afterwards lacks what the branch put in, and much of that can be made up for: by the layers that read
//! it, and by those that end in the next sum, to which the branch's part goes on along the residual path. So these are
//! adapted first, on the samples that are not held out, as the readers of cut positions are. That takes a few runs of all
//! samples for each branch; where that is too much work, it is done for the branches that do least damage without.

use super::super::{Context, branch::Branch};
use crate::{
    error::Result,
    ir::{Model, ValueId},
    passes::linear::{Layer, Refit, Rows, Task, collect, effect, tasks},
};

/// Layers behind each other that are adapted: those that read the sum, and those behind them.
const WAVES: usize = 4;
/// Runs of the samples for each branch that is adapted: with it and without, for each wave.
const RUNS: u64 = 3 * WAVES as u64;

/// The error of the model's outputs without each branch.
pub(in super::super) fn without(model: &Model, branches: &[Branch], cx: &Context<'_>) -> Result<Vec<f64>> {
    if branches.is_empty() {
        return Ok(Vec::new());
    }
    let drop = |branch: &Branch| {
        let mut without = model.clone();
        branch.drop_from(&mut without.graph);
        Ok(without)
    };
    let original = effect::Original::of(model.clone());
    let mut errors = original.errors(branches, drop, cx)?;
    let mut mildest: Vec<usize> = (0..branches.len()).filter(|k| errors[*k] > 0.0).collect();
    mildest.sort_by(|a, b| errors[*a].total_cmp(&errors[*b]));
    mildest.truncate(effect::affordable_changes(model, RUNS, cx)?);
    let progress = cx.progress();
    progress.begin("judging branches", mildest.len() as u64);
    let adapt = |k: &usize| {
        progress.advance(1);
        adapted_without(model, &branches[*k], cx)
    };
    let seen = original.errors_held(&mildest, adapt, cx);
    progress.end();
    for (k, error) in mildest.iter().zip(seen?) {
        errors[*k] = errors[*k].min(error);
    }
    Ok(errors)
}

/// The model without a branch, the layers behind it adapted.
fn adapted_without(model: &Model, branch: &Branch, cx: &Context<'_>) -> Result<Model> {
    let mut without = model.clone();
    let changed: Vec<ValueId> = branch.drop_from(&mut without.graph).into_iter().collect();
    let waves = tasks(&without, &changed, |_| false, Layer::of).waves;
    for wave in waves.iter().take(WAVES) {
        let sights: Vec<_> = wave.linear.iter().map(Task::sight).collect();
        let mut refits = Vec::with_capacity(sights.len());
        collect(&without, model, &sights, cx, |k, found| {
            refits.push(Refit::of(&without, &wave.linear[k].layer, &found, Rows::Most));
        })?;
        for (task, refit) in wave.linear.iter().zip(refits) {
            // A layer for which nothing better is found stays as it is.
            let _ = refit.map(|refit| task.layer.set(&mut without.graph, &refit.weights));
        }
    }
    Ok(without)
}
