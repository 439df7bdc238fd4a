//! Which layers to find anew, in which order, and towards what.

use super::{Layer, Recurrent, Sight, Target};
use crate::ir::{Graph, Model, OpId, Use, ValueId};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Steps of [`steps`], at most: each runs the samples through the model.
const MOST_STEPS: usize = 32;

/// A layer and what it should put out.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) layer: Layer,
    /// The value of the original model that says it.
    pub(crate) target: ValueId,
    /// What the cut model adds to the layer's output by itself: the target less this is left to the layer, which so
    /// makes up for what the other branch of a residual sum lost.
    pub(crate) beside: Option<ValueId>,
}

/// Tasks that do not depend on each other.
#[derive(Default)]
pub(crate) struct Wave {
    pub(crate) linear: Vec<Task>,
    pub(crate) recurrent: Vec<OpId>,
}

/// The tasks of a model.
#[derive(Default)]
pub(crate) struct Tasks {
    /// Each behind those it depends on.
    pub(crate) waves: Vec<Wave>,
    /// Layers that stay as they were cut, and why.
    pub(crate) left_alone: Vec<(OpId, &'static str)>,
}

/// What is known of a graph's values while walking over its ops.
#[derive(Default)]
struct Walk {
    /// How many layers to repair a value depends on, one after the other.
    depth: HashMap<ValueId, usize>,
    /// Values that lack positions or are not what they were.
    changed: HashSet<ValueId>,
}

/// Finds every layer behind a cut. `cut` tells initializers that were cut, `changed` other values that are not what they
/// were; `layer` what counts as one, as [`Layer::of`] does.
pub(crate) fn tasks(
    model: &Model,
    changed: &[ValueId],
    cut: impl Fn(ValueId) -> bool,
    layer: impl Fn(&Graph, OpId, i64) -> Option<Result<Layer, &'static str>>,
) -> Tasks {
    let (g, opset) = (&model.graph, model.opset());
    let (mut walk, mut tasks) = (Walk::default(), Tasks::default());
    let mut waves: BTreeMap<usize, Wave> = BTreeMap::new();
    walk.depth.extend(g.inputs.iter().map(|v| (*v, 0)));
    walk.changed.extend(changed);
    for op in g.order() {
        let read: Vec<ValueId> = g.inputs_of(op).into_iter().flatten().chain(g.captures_of(op)).collect();
        let behind = read.iter().any(|v| walk.changed.contains(v));
        let mut depth = read.iter().filter_map(|v| walk.depth.get(v)).copied().max().unwrap_or(0);
        match layer(g, op, opset) {
            Some(Ok(layer)) => {
                let beside = walk.beside(g, &layer);
                if behind || beside.is_some_and(|(_, v)| walk.changed.contains(&v)) {
                    depth = beside.map_or(depth, |(_, v)| depth.max(walk.depth[&v])) + 1;
                    let target = beside.map_or(layer.output, |(sum, _)| sum);
                    waves.entry(depth).or_default().linear.push(Task {
                        layer,
                        target,
                        beside: beside.map(|b| b.1),
                    });
                }
            }
            Some(Err(why)) if behind => tasks.left_alone.push((op, why)),
            _ => match Recurrent::of(g, op) {
                // What a recurrent layer lacks it may lack in its own states alone.
                Some(Ok(layer)) if behind || cut(layer.r) => {
                    depth += 1;
                    waves.entry(depth).or_default().recurrent.push(op);
                }
                Some(Err(why)) if behind || read.iter().any(|v| cut(*v)) => tasks.left_alone.push((op, why)),
                _ => {}
            },
        }
        for v in g.outputs_of(op).into_iter().flatten() {
            walk.depth.insert(v, depth);
            if behind || read.iter().any(|v| cut(*v)) {
                walk.changed.insert(v);
            }
        }
    }
    tasks.waves = waves.into_values().collect();
    tasks
}

/// The layers whose weights are open to be found anew, front to back: all of a step at a time, [`MOST_STEPS`] at most, so that
/// layers behind each other share steps in a deeper model. All inputs of the model count as not what they were.
pub(crate) fn steps(model: &Model, open: impl Fn(ValueId) -> bool) -> Vec<Vec<Task>> {
    let waves = tasks(model, &model.graph.inputs, &open, Layer::of).waves.into_iter();
    let wanted = |wave: Wave| wave.linear.into_iter().filter(|task| open(task.layer.weight)).collect();
    let waves: Vec<Vec<Task>> = waves.map(wanted).filter(|wave: &Vec<Task>| !wave.is_empty()).collect();
    let together = waves.len().div_ceil(MOST_STEPS).max(1);
    waves.chunks(together).map(<[Vec<Task>]>::concat).collect()
}

impl Task {
    /// A look at all that the layer should put out.
    pub(crate) fn sight(&self) -> Sight<'_> {
        let layer = &self.layer;
        let kept = (0..layer.outputs * layer.groups).collect();
        Sight { layer, target: Some(Target { value: self.target, kept, beside: self.beside }) }
    }
}

impl Walk {
    /// The sum that alone reads a layer's output, and its other operand, where that is computed already.
    fn beside(&self, g: &Graph, layer: &Layer) -> Option<(ValueId, ValueId)> {
        let Use::Input(add, slot) = g.sole_use(layer.output)? else { return None };
        if !g.op(add).is("Add") {
            return None;
        }
        let other = g.input(add, 1 - slot.min(1)).filter(|v| self.depth.contains_key(v))?;
        (g.shape(other)? == g.shape(layer.output)?).then_some((g.output(add, 0)?, other))
    }
}
