//! Splitting layers one after the other, each from what it sees behind those that were split before.
//!
//! First the layer is given the weights with which it comes nearest to what the original's puts out, from what it sees
//! now; then these are split, in the metric of what it sees now. Together that is the nearest there is to the original of
//! the form and the ranks chosen. Layers behind a split that stay whole are given new weights as well.

use super::{Planned, form::Whole, metric::Metric, replace::replace};
use crate::{
    error::Result,
    ir::{Model, OpId},
    passes::{
        Context,
        linear::{Found, Refit, Sight, Target, Task, Wave, collect, tasks},
    },
};
use faer::Mat;
use std::collections::{HashMap, HashSet};

type Splits<'a> = HashMap<OpId, &'a Planned<'a>>;

/// Splits layers of a model as planned, with samples to go by. With `repair`, towards what the original's put out.
pub(super) fn run(
    model: &mut Model,
    planned: &[Planned<'_>],
    repair: bool,
    cx: &mut Context<'_>,
) -> Result<()> {
    let original = model.clone();
    let splits: Splits<'_> = planned.iter().map(|p| (p.candidate.layer.op, p)).collect();
    let ops = |waves: Vec<Wave>| waves.into_iter().flat_map(|w| w.linear).map(|task| task.layer.op);
    let behind = tasks(model, &[], |v| planned.iter().any(|p| p.candidate.layer.weight == v));
    let behind: HashSet<OpId> = ops(behind.waves).collect();
    // What they see counts as changed, so that they are found as well.
    let seen: Vec<_> = planned.iter().map(|p| p.candidate.layer.input).collect();
    let mut waves: Vec<_> = tasks(model, &seen, |_| false).waves.into_iter().map(|w| w.linear).collect();
    let wanted = |op: &OpId| splits.contains_key(op) || repair && behind.contains(op);
    waves.iter_mut().for_each(|wave| wave.retain(|task| wanted(&task.layer.op)));
    let progress = cx.progress();
    progress.begin("splitting layers", waves.iter().map(|wave| wave.len() as u64).sum());
    let done = waves.iter().try_for_each(|wave| step(model, &original, wave, &splits, repair, cx));
    progress.end();
    done
}

/// Splits and repairs layers that do not depend on each other.
fn step(
    model: &mut Model,
    original: &Model,
    wave: &[Task],
    splits: &Splits<'_>,
    repair: bool,
    cx: &mut Context<'_>,
) -> Result<()> {
    let target = |task: &Task| Target {
        value: task.target,
        kept: (0..task.layer.outputs * task.layer.groups).collect(),
        beside: task.beside,
    };
    let sights: Vec<_> =
        wave.iter().map(|task| Sight { layer: &task.layer, target: repair.then(|| target(task)) }).collect();
    let mut new = Vec::with_capacity(wave.len());
    collect(model, original, &sights, cx, |k, found| {
        let layer = &wave[k].layer;
        let planned = splits.get(&layer.op).copied();
        new.push(New::of(model, &wave[k], planned, found, repair, cx.seed));
        cx.progress().advance(1);
    })?;
    for (task, new) in wave.iter().zip(new) {
        new.set(model, task, splits.get(&task.layer.op).copied(), cx);
    }
    Ok(())
}

/// What a layer becomes.
struct New {
    refit: Option<std::result::Result<Refit, String>>,
    kernels: Option<std::result::Result<Vec<Mat<f64>>, String>>,
}

impl New {
    fn of(
        model: &Model,
        task: &Task,
        planned: Option<&Planned<'_>>,
        found: Found,
        repair: bool,
        seed: u64,
    ) -> New {
        let layer = &task.layer;
        let metric = planned.map(|_| Metric::found(&found, layer.has_bias()));
        let refit = repair.then(|| Refit::of(model, layer, found));
        let kernels = planned.zip(metric).map(|(planned, metric)| {
            let weights = match &refit {
                Some(Ok(refit)) => layer.without_bias(&refit.weights[0]),
                _ => planned.candidate.weights(model).ok_or("its weights cannot be read")?,
            };
            let kernel = &planned.candidate.kernel;
            let whole = Whole { weights: &weights, metric: &metric, kernel, seed, known: None };
            whole.split(planned.choice.form, planned.choice.ranks)
        });
        New { refit, kernels }
    }
    fn set(self, model: &mut Model, task: &Task, planned: Option<&Planned<'_>>, cx: &mut Context<'_>) {
        let (layer, at) = (&task.layer, model.graph.place(task.layer.op));
        let set = self.refit.map(|refit| {
            let refit = refit?;
            let set = layer.set(&mut model.graph, &refit.weights);
            set.map(|()| refit.text)
                .ok_or_else(|| "the new weights do not fit its type of numbers".to_owned())
        });
        match (planned, self.kernels) {
            (Some(planned), Some(kernels)) => {
                let done = kernels.and_then(|kernels| {
                    replace(&mut model.graph, layer, planned.choice.form, &kernels)
                        .ok_or_else(|| "its factors do not fit its type of numbers".to_owned())
                });
                planned.say(at, done, cx);
            }
            _ => match set {
                Some(Ok(text)) => {
                    cx.count("repaired", 1);
                    cx.applied(at, text);
                }
                Some(Err(why)) => cx.missed(at, format!("not repaired: {why}")),
                None => {}
            },
        }
    }
}
