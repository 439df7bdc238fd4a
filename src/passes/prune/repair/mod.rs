//! Repair after a cut, without labels: front to back, every linear layer behind the cut gets the weights with which it
//! comes nearest, on calibration samples, to what the original's puts out.

mod recurrent;

use super::Context;
use crate::{
    error::Result,
    ir::{Graph, Model, OpId, ValueId},
    ops::axes::Stays,
    passes::linear::{Layer, Refit, Rows, Sight, Target, Task, Tasks, Wave, collect, tasks},
};
use std::collections::HashSet;

/// Repairs `model`, which is what `stays` of `original`; besides, values that are `changed` are not what they were. `layer`
/// tells what can be repaired, as [`Layer::or_normalization`] does.
///
/// [`Layer::or_normalization`]: crate::passes::linear::Layer::or_normalization
pub(super) fn run(
    original: &Model,
    model: &mut Model,
    stays: &Stays,
    changed: &HashSet<ValueId>,
    layer: impl Fn(&Graph, OpId, i64) -> Option<std::result::Result<Layer, &'static str>>,
    cx: &mut Context<'_>,
) -> Result<()> {
    let changed: Vec<ValueId> = changed.iter().copied().collect();
    let Tasks { waves, left_alone } = tasks(model, &changed, |v| stays.is_cut(v), layer);
    for (op, why) in left_alone {
        cx.missed(model.graph.place(op), format!("not repaired: {why}"));
    }
    let progress = cx.progress();
    progress.begin("repairing", waves.iter().map(|w| (w.linear.len() + w.recurrent.len()) as u64).sum());
    let done = waves.iter().try_for_each(|wave| repair(original, model, stays, wave, cx));
    progress.end();
    done
}

/// Repairs layers that do not depend on each other.
fn repair(
    original: &Model,
    model: &mut Model,
    stays: &Stays,
    wave: &Wave,
    cx: &mut Context<'_>,
) -> Result<()> {
    let sights: Vec<_> = wave.linear.iter().map(|task| sight(task, stays)).collect();
    let mut repairs = Vec::with_capacity(wave.linear.len());
    collect(model, original, &sights, cx, |k, found| {
        repairs.push(Refit::of(model, &wave.linear[k].layer, &found, Rows::All));
        cx.progress().advance(1);
    })?;
    for (task, repair) in wave.linear.iter().zip(repairs) {
        let done = repair.and_then(|repair| {
            let set = task.layer.set(&mut model.graph, &repair.weights);
            set.map(|()| repair.text).ok_or_else(|| "the new weights do not fit its type of numbers".into())
        });
        say(model, task.layer.op, done, cx);
    }
    for op in &wave.recurrent {
        let done = recurrent::run(original, model, *op, stays, cx)?;
        say(model, *op, done, cx);
        cx.progress().advance(1);
    }
    Ok(())
}

fn say(model: &Model, op: OpId, done: std::result::Result<String, String>, cx: &mut Context<'_>) {
    let at = model.graph.place(op);
    match done {
        Ok(text) => {
            cx.count("repaired", 1);
            cx.applied(at, text);
        }
        Err(why) => cx.missed(at, format!("not repaired: {why}")),
    }
}

fn sight<'a>(task: &'a Task, stays: &Stays) -> Sight<'a> {
    let layer = &task.layer;
    let kept = stays.kept(layer.weight, layer.axis);
    let kept = kept.map_or_else(|| (0..layer.outputs * layer.groups).collect(), <[usize]>::to_vec);
    Sight { layer, target: Some(Target { value: task.target, kept, beside: task.beside }) }
}
