//! Weights made sparse by what their layers see on the calibration samples, front to back: every layer sees what the sparse
//! ones before it put out, and is brought near what the original puts out there while its weights go.

use super::{
    eliminate::{Choice, eliminate},
    options::Criterion,
    weights::Candidate,
};
use crate::{
    error::Result,
    ir::{Model, ValueId},
    passes::{
        Context,
        linear::{
            Found, Layer, Rows, Sight, System, Task, collect, damped_inverse, fit, refit_nonzero, steps,
        },
    },
};
use faer::Mat;
use std::collections::HashMap;

/// What becomes of a weight.
pub(super) enum Fate<'a> {
    /// So many elements become zero.
    Count(usize),
    /// Half of every run of so many inputs.
    Run(usize),
    /// Those that this does not keep, by element.
    Mask(&'a [bool]),
}

/// For each candidate that is a layer what its elements are worth, relative to what the layer puts out: `criterion` is
/// `Wanda` or `Sparsegpt`. `None` for others.
pub(super) fn scores(
    model: &Model,
    candidates: &[Candidate],
    criterion: Criterion,
    cx: &mut Context<'_>,
) -> Result<Vec<Option<Vec<f32>>>> {
    let mut scores: Vec<Option<Vec<f32>>> = candidates.iter().map(|_| None).collect();
    let layers: Vec<(usize, &Layer)> =
        candidates.iter().enumerate().filter_map(|(k, c)| Some((k, c.layer.as_ref()?))).collect();
    let sights: Vec<_> = layers.iter().map(|(_, layer)| Sight { layer, target: None }).collect();
    let progress = cx.progress();
    progress.begin("scoring weights", sights.len() as u64);
    collect(model, model, &sights, cx, |at, found| {
        let (k, layer) = layers[at];
        scores[k] = found.ok().and_then(|parts| {
            let weights = layer.weights(&model.graph)?;
            let (mut worth, mut energy) =
                (vec![0.0; layer.channels * layer.area * layer.outputs * layer.groups], 0.0);
            for (part, ([most, held], weights)) in parts.into_iter().zip(weights).enumerate() {
                let gram = most.plus(&held).gram();
                let seen: Vec<f64> = match criterion {
                    Criterion::Wanda => (0..gram.nrows()).map(|i| gram[(i, i)]).collect(),
                    _ => {
                        let inverse = damped_inverse(&gram, layer.has_bias())?;
                        (0..gram.nrows()).map(|i| 1.0 / inverse[(i, i)]).collect()
                    }
                };
                let put_out = &gram * &weights;
                energy +=
                    weights.col_iter().zip(put_out.col_iter()).map(|(a, b)| a.transpose() * b).sum::<f64>();
                for (k, row) in
                    (0..layer.outputs).flat_map(|k| (0..layer.channels * layer.area).map(move |r| (k, r)))
                {
                    let at = layer.index(row, part * layer.outputs + k);
                    worth[at] = weights[(row, k)] * weights[(row, k)] * seen[row];
                }
            }
            (energy > 0.0).then(|| worth.into_iter().map(|x| (x / energy) as f32).collect())
        });
        progress.advance(1);
    })?;
    progress.end();
    Ok(scores)
}

/// Makes the weights of layers sparse; returns those that could not be, with the reasons.
pub(super) fn run(
    model: &mut Model,
    mut open: HashMap<ValueId, Fate<'_>>,
    cx: &mut Context<'_>,
) -> Result<Vec<(ValueId, String)>> {
    let original = model.clone();
    let steps = steps(model, |v| open.contains_key(&v));
    let mut left = Vec::new();
    cx.progress().begin("removing weights", open.len() as u64);
    for tasks in steps {
        let sights: Vec<_> = tasks.iter().map(Task::sight).collect();
        let mut done = Vec::with_capacity(tasks.len());
        collect(model, &original, &sights, cx, |k, found| {
            let layer = &tasks[k].layer;
            let fate = open.remove(&layer.weight);
            done.push(fate.map(|fate| removed(model, layer, &fate, found)));
            cx.progress().advance(1);
        })?;
        for (task, done) in tasks.iter().zip(done) {
            let at = model.graph.place(task.layer.op);
            let set = done.unwrap_or_else(|| Err("it is done already".into())).and_then(|(weights, text)| {
                let set = task.layer.set(&mut model.graph, &weights);
                set.map(|()| text).ok_or_else(|| "the new weights do not fit its type of numbers".into())
            });
            match set {
                Ok(text) => cx.applied(at, text),
                Err(why) => left.push((task.layer.weight, why)),
            }
        }
    }
    cx.progress().end();
    left.extend(
        open.into_keys().map(|v| (v, "nothing that is known on the samples arrives at it".to_owned())),
    );
    left.sort_unstable();
    Ok(left)
}

/// The weights of each part with zeros, and how near they come.
fn removed(
    model: &Model,
    layer: &Layer,
    fate: &Fate<'_>,
    found: Found,
) -> std::result::Result<(Vec<Mat<f64>>, String), String> {
    let (parts, bias) = (found?, layer.has_bias());
    let old = layer.weights(&model.graph).ok_or("its weights cannot be read")?;
    let (groups, mut gone) = (parts.len(), 0);
    let (mut new, mut error, mut size) = (Vec::with_capacity(groups), 0.0, 0.0);
    for (part, (sums, old)) in parts.iter().zip(&old).enumerate() {
        let [most, held] = sums;
        let near = fit(most, held, old, bias, Rows::All).weights.unwrap_or_else(|| old.clone());
        let all = System::of(&most.clone().plus(held));
        let stays;
        let choice = match fate {
            // What does not divide evenly goes from the last parts.
            Fate::Count(count) => {
                let upto = (part + 1) * count / groups;
                let count = upto - gone;
                gone = upto;
                Choice::But(count)
            }
            Fate::Run(m) => Choice::Halves(runs(layer, *m)),
            Fate::Mask(mask) => {
                stays = |row: usize, k: usize| mask[layer.index(row, part * layer.outputs + k)];
                Choice::Given(&stays)
            }
        };
        let sparse = eliminate(&near, &all.gram, bias, &choice);
        let sparse = refit_nonzero(sparse.ok_or("its inputs are all nothing on the samples")?, sums, bias);
        error += all.error(&sparse);
        size += all.squares;
        new.push(sparse);
    }
    let zeros: usize = new.iter().map(|w| zeros(w, layer.channels * layer.area)).sum();
    let share = 100.0 * zeros as f64 / (layer.channels * layer.area * layer.outputs * groups) as f64;
    let error = 100.0 * (error / size).sqrt();
    Ok((new, format!("{share:.1} % of its weights are zero, error {error:.1} % of its output")))
}

fn zeros(weights: &Mat<f64>, inputs: usize) -> usize {
    weights.col_iter().map(|column| column.iter().take(inputs).filter(|w| **w == 0.0).count()).sum()
}

/// Runs of `m` channels that follow each other, at each position of the kernel, as inputs of a part.
fn runs(layer: &Layer, m: usize) -> Vec<Vec<usize>> {
    let starts = (0..layer.channels / m).flat_map(|b| (0..layer.area).map(move |at| b * m * layer.area + at));
    starts.map(|start| (0..m).map(|i| start + i * layer.area).collect()).collect()
}
