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

const UNKNOWN: &str = "what it put out in the original is not known";

/// Repairs `model`, which is what `stays` of `original`; besides, values that are `changed` are not what they were. Values of
/// the two belong together by their names, as moving branches of If into the graph around them counts values anew. `layer`
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
    let twins = wave.linear.iter().map(|task| (task, twin(model, task.target, original)));
    let (known, lost): (Vec<_>, Vec<_>) = twins.partition(|(_, twin)| twin.is_some());
    let known: Vec<_> = known.into_iter().filter_map(|(task, twin)| Some((task, twin?))).collect();
    for (task, _) in lost {
        say(model, task.layer.op, Err(UNKNOWN.into()), cx);
    }
    let sights: Vec<_> = known.iter().map(|(task, twin)| sight(task, *twin, stays)).collect();
    let mut repairs = Vec::with_capacity(known.len());
    collect(model, original, &sights, cx, |k, found| {
        repairs.push(Refit::of(model, &known[k].0.layer, &found, Rows::All));
        cx.progress().advance(1);
    })?;
    for ((task, _), repair) in known.iter().zip(repairs) {
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

/// The value of the original that one of the cut model is what is left of.
fn twin(model: &Model, v: ValueId, original: &Model) -> Option<ValueId> {
    original.graph.find(model.graph.name_of(v))
}

fn sight<'a>(task: &'a Task, value: ValueId, stays: &Stays) -> Sight<'a> {
    let layer = &task.layer;
    let kept = stays.kept(layer.weight, layer.axis);
    let kept = kept.map_or_else(|| (0..layer.outputs * layer.groups).collect(), <[usize]>::to_vec);
    Sight { layer, target: Some(Target { value, kept, beside: task.beside }) }
}
