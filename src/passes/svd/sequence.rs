//! Splitting layers one after the other, each from what it sees behind those that were split before.
//!
//! First the layer is given the weights with which it comes nearest to what the original's puts out, from what it sees
//! now; then these are split, in the metric of what it sees now, and the bias makes up for the mean error. Together that is
//! the nearest there is to the original of the form and the ranks chosen. Layers behind a split that stay whole are given
//! new weights as well; those that nothing is split before see what they always saw, and need none.

use super::{
    Planned, alternate,
    form::{Form, Known, Part, Ranks, Whole, product},
    metric::{Metric, means},
    ranks::Choice,
    replace::replace,
};
use crate::{
    error::Result,
    ir::{Model, OpId},
    passes::{
        Context,
        linear::{Found, Layer, Refit, Rows, Sight, Target, Task, Wave, collect, tasks},
    },
};
use faer::Mat;
use std::collections::{HashMap, HashSet};

/// Splits layers of a model as planned, with samples to go by. With `repair`, towards what the original's put out.
pub(super) fn run(
    model: &mut Model,
    planned: &[Planned<'_>],
    repair: bool,
    cx: &mut Context<'_>,
) -> Result<()> {
    let original = model.clone();
    let (fitted, others): (Vec<_>, Vec<_>) = planned.iter().partition(|p| p.candidate.is_fitted());
    let splits: HashMap<_, _> = fitted.iter().map(|p| (p.candidate.layer.op, *p)).collect();
    let ops = |waves: Vec<Wave>| waves.into_iter().flat_map(|w| w.linear).map(|task| task.layer.op);
    let behind = tasks(model, &[], |v| planned.iter().any(|p| p.candidate.layer.weight == v), Layer::of);
    let sequence = Sequence { original: &original, splits, behind: ops(behind.waves).collect(), repair };
    // Those that cannot be fitted are split by what was known of them before: layers behind them make up for it.
    others.iter().for_each(|planned| planned.split(model, cx));
    // What they see counts as changed, so that they are found as well.
    let seen: Vec<_> = fitted.iter().map(|p| p.candidate.layer.input).collect();
    let mut waves: Vec<_> =
        tasks(model, &seen, |_| false, Layer::of).waves.into_iter().map(|w| w.linear).collect();
    waves.iter_mut().for_each(|wave| wave.retain(|task| sequence.changes(task)));
    let progress = cx.progress();
    progress.begin("splitting layers", waves.iter().map(|wave| wave.len() as u64).sum());
    let done = waves.iter().try_for_each(|wave| sequence.step(model, wave, cx));
    progress.end();
    done
}

/// What is done to a model's layers one after the other.
struct Sequence<'a> {
    original: &'a Model,
    splits: HashMap<OpId, &'a Planned<'a>>,
    /// Layers that something is split before.
    behind: HashSet<OpId>,
    repair: bool,
}

impl Sequence<'_> {
    /// Whether a layer is given new weights before it is split.
    fn fits(&self, task: &Task) -> bool {
        self.repair && self.behind.contains(&task.layer.op)
    }
    fn changes(&self, task: &Task) -> bool {
        self.splits.contains_key(&task.layer.op) || self.fits(task)
    }
    /// Splits and repairs layers that do not depend on each other.
    fn step(&self, model: &mut Model, wave: &[Task], cx: &mut Context<'_>) -> Result<()> {
        let target = |task: &Task| Target {
            value: task.target,
            kept: (0..task.layer.outputs * task.layer.groups).collect(),
            beside: task.beside,
        };
        let sights: Vec<_> = wave
            .iter()
            .map(|task| Sight { layer: &task.layer, target: self.fits(task).then(|| target(task)) })
            .collect();
        let mut new = Vec::with_capacity(wave.len());
        collect(model, self.original, &sights, cx, |k, found| {
            let (task, layer) = (&wave[k], &wave[k].layer);
            let refit = self.fits(task).then(|| Refit::of(model, layer, &found, Rows::All));
            let fitted = refit.as_ref().and_then(|refit| refit.as_ref().ok());
            let split = self.splits.get(&layer.op).map(|planned| {
                let weights = fitted.map(|f| f.weights.clone()).or_else(|| layer.weights(&model.graph));
                self.split(layer, planned, weights.ok_or("its weights cannot be read")?, &found, cx.seed)
            });
            new.push(New { refit, split });
            cx.progress().advance(1);
        })?;
        for (task, new) in wave.iter().zip(new) {
            new.set(model, task, self.splits.get(&task.layer.op).copied(), cx);
        }
        Ok(())
    }
    /// Splits a layer with these weights and bias; with `repair` the bias makes up for the mean error.
    fn split(
        &self,
        layer: &Layer,
        planned: &Planned<'_>,
        mut all: Vec<Mat<f64>>,
        found: &Found,
        seed: u64,
    ) -> std::result::Result<Split, String> {
        let Choice { form, ranks, .. } = planned.choice;
        let (metrics, kernel) =
            (Metric::found(found, layer.groups, layer.has_bias()), &*planned.candidate.kernel);
        let weights: Vec<_> = all.iter().map(|part| layer.without_bias(part)).collect();
        let part = |(k, (weights, metric))| {
            let known = match planned.known(k) {
                Some(known) if self.behind.contains(&layer.op) => Known::Nearly(known),
                Some(known) => Known::These(known),
                None => Known::Nothing,
            };
            Part { weights, metric, kernel, seed, known }
        };
        let whole = Whole(weights.iter().zip(&metrics).enumerate().map(part).collect());
        let mut kernels = whole.split(form, ranks)?;
        if let Ok(found) = found
            && self.repair
        {
            for ((part, kernels), [train, held]) in whole.0.iter().zip(&mut kernels).zip(found) {
                let [train, held] = [train, held].map(|sums| Metric::of(sums, layer.has_bias()));
                if let Some(better) = in_turns(part, form, ranks, kernels, &train, &held) {
                    *kernels = better;
                }
            }
        }
        if let Ok(found) = found
            && self.repair
            && layer.has_bias()
        {
            for (((all, weights), kernels), [train, held]) in
                all.iter_mut().zip(weights).zip(&kernels).zip(found)
            {
                let left = &weights - product(form, kernel, weights.nrows(), kernels);
                let mean = means(&train.clone().plus(held)) * left;
                let last = all.nrows() - 1;
                (0..all.ncols()).for_each(|k| all[(last, k)] += mean[(0, k)]);
            }
        }
        Ok(Split { weights: self.repair.then_some(all), kernels })
    }
}

/// Kernels of a part found in turns, from all rows, where those from the rows that are not held out are nearer on the others.
fn in_turns(
    part: &Part<'_>,
    form: Form,
    ranks: Ranks,
    kernels: &[Mat<f64>],
    train: &Metric,
    held: &Metric,
) -> Option<Vec<Mat<f64>>> {
    form.first(part.kernel)?;
    let some = Part { metric: train, known: Known::Nothing, ..*part };
    let once = some.split(form, ranks).ok()?;
    let turned = alternate::improved(&some, form, ranks, &once)?;
    let [before, after] = [&once, &turned].map(|kernels| alternate::loss(&some, form, kernels, held));
    let better = (after < before).then(|| alternate::improved(part, form, ranks, kernels)).flatten()?;
    let shapes = |all: &[Mat<f64>]| all.iter().map(|m| (m.nrows(), m.ncols())).collect::<Vec<_>>();
    (shapes(&better) == shapes(kernels)).then_some(better)
}

/// What a layer becomes.
struct New {
    refit: Option<std::result::Result<Refit, String>>,
    split: Option<std::result::Result<Split, String>>,
}

/// The kernels of a layer that is split.
struct Split {
    /// Weights and bias that the layer is given before, where these are new.
    weights: Option<Vec<Mat<f64>>>,
    kernels: Vec<Vec<Mat<f64>>>,
}

impl Split {
    fn set(self, model: &mut Model, layer: &Layer, planned: &Planned<'_>) -> std::result::Result<(), String> {
        let g = &mut model.graph;
        let set = self.weights.is_none_or(|weights| layer.set(g, &weights).is_some());
        let done = set.then(|| replace(g, planned.candidate, planned.choice.form, &self.kernels)).flatten();
        done.ok_or_else(|| "its factors do not fit its type of numbers".to_owned())
    }
}

impl New {
    fn set(self, model: &mut Model, task: &Task, planned: Option<&Planned<'_>>, cx: &mut Context<'_>) {
        let (layer, at) = (&task.layer, model.graph.place(task.layer.op));
        if let Some((planned, split)) = planned.zip(self.split) {
            let done = split.and_then(|split| split.set(model, layer, planned));
            return planned.say(at, done, cx);
        }
        let Some(refit) = self.refit else { return };
        let set = refit.and_then(|refit| {
            let set = layer.set(&mut model.graph, &refit.weights);
            set.map(|()| refit.text)
                .ok_or_else(|| "the new weights do not fit its type of numbers".to_owned())
        });
        match set {
            Ok(text) => {
                cx.count("repaired", 1);
                cx.applied(at, text);
            }
            Err(why) => cx.missed(at, format!("not repaired: {why}")),
        }
    }
}
