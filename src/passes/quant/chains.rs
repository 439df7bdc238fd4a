//! Operators without weights that take integers and give integers, so that chains of integer layers do not break.
//!
//! What ONNX Runtime has such kernels for is a table: an operator that belongs into it takes one row.

use super::placement::{How, Kind, Placement};
use crate::ir::{DType, Graph, Op, OpId, QuantScheme, Use, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// How the scheme of what an operator puts out follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Follows {
    /// It is that of the first input, all of whose elements move.
    Moved,
    /// It is that of the first input, some of whose elements move: what comes in floats is rounded behind it.
    Picked,
    /// Its own, measured.
    Own(Kind),
    /// Its own, which inputs that nothing else reads take over: then the kernel copies, and nothing is rounded twice.
    Shared(Kind),
    /// The same whatever it computes on.
    Fixed,
}

impl Follows {
    pub(super) fn moves(self) -> bool {
        matches!(self, Follows::Moved | Follows::Picked)
    }
}

/// An operator, which ops of it, and how the scheme of what they put out follows.
type Row = (&'static str, fn(&Op) -> bool, Follows);

/// The operators.
///
/// Not among them is what ONNX Runtime surrounds with conversions (Sub, Div, Pad, Clip, SpaceToDepth, ReduceMean, Resize that
/// interpolates), and whose integer kernel is much slower than conversions and floats (Softmax, Where). HardSigmoid and HardSwish
/// are written as operators that it has kernels for.
const OPERATORS: &[Row] = &[
    ("DepthToSpace", always, Follows::Moved),
    ("Expand", always, Follows::Moved),
    ("Flatten", always, Follows::Moved),
    ("Gather", always, Follows::Picked),
    ("GatherElements", always, Follows::Picked),
    ("MaxPool", always, Follows::Picked),
    ("Reshape", always, Follows::Moved),
    ("Resize", is_nearest, Follows::Moved),
    ("Slice", always, Follows::Picked),
    ("Split", always, Follows::Moved),
    ("Squeeze", always, Follows::Moved),
    ("Tile", always, Follows::Moved),
    ("Transpose", always, Follows::Moved),
    ("Unsqueeze", always, Follows::Moved),
    ("Add", always, Follows::Own(Kind::Join)),
    ("GlobalAveragePool", always, Follows::Own(Kind::Join)),
    ("HardSigmoid", always, Follows::Own(Kind::Join)),
    ("HardSwish", always, Follows::Own(Kind::Join)),
    ("LeakyRelu", always, Follows::Own(Kind::Join)),
    ("Mul", always, Follows::Own(Kind::Join)),
    ("Sigmoid", always, Follows::Own(Kind::Join)),
    ("Concat", always, Follows::Shared(Kind::Join)),
    ("AveragePool", always, Follows::Own(Kind::Window)),
];

fn always(_: &Op) -> bool {
    true
}

fn is_nearest(op: &Op) -> bool {
    op.str("mode").is_none_or(|mode| mode == "nearest")
}

/// How the scheme of an op's output follows; `None` where the runtime has no integer kernel that suits it.
pub(super) fn follows(graph: &Graph, op: OpId) -> Option<Follows> {
    let node = graph.op(op);
    let row = OPERATORS.iter().find(|(name, suits, _)| node.is(name) && suits(node))?;
    Some(row.2)
}

/// The values that are to be uint8, and the operators between layers that compute on them.
#[derive(Default)]
pub(super) struct Chains {
    pub(super) values: BTreeSet<ValueId>,
    members: BTreeMap<OpId, Follows>,
}

impl Chains {
    /// These values, and the operators that compute on them.
    pub(super) fn of(values: BTreeSet<ValueId>, members: BTreeMap<OpId, Follows>) -> Chains {
        Chains { values, members }
    }
    /// Grows chains from what layers read and write: moves in front of what is wanted, then what reads nothing but
    /// integers, as far as it leads to integers again or joins several. Only values whose ranges are `known` are rounded.
    pub(super) fn from(
        graph: &Graph,
        layers: &[OpId],
        asked: BTreeSet<ValueId>,
        placement: &Placement,
        excluded: impl Fn(OpId) -> bool,
        known: impl Fn(ValueId) -> bool,
    ) -> Chains {
        let placed = |kind| placement.of_kind(kind) == How::Static;
        let placed = |op: &OpId| match follows(graph, *op).filter(|_| is_float(graph, *op)) {
            Some(Follows::Own(kind) | Follows::Shared(kind)) if !placed(kind) => None,
            follows => Some((*op, follows?)),
        };
        let operators: Vec<(OpId, Follows)> =
            graph.order().iter().filter(|op| !excluded(**op)).filter_map(placed).collect();
        let mut asked = asked;
        for (op, _) in operators.iter().rev().filter(|(_, follows)| *follows == Follows::Moved) {
            if graph.outputs_of(*op).iter().flatten().all(|y| asked.contains(y)) {
                asked.extend(graph.input(*op, 0).filter(|x| known(*x)));
            }
        }
        let mut values = asked.clone();
        let mut members = BTreeMap::new();
        for (op, follows) in operators.iter().copied() {
            let outputs = written(graph, op, follows);
            let inputs = read(graph, op, follows);
            if inputs.iter().all(|x| values.contains(x))
                && outputs.iter().all(|y| known(*y) && (asked.contains(y) || !graph.is_output(*y)))
            {
                values.extend(outputs);
                members.insert(op, follows);
            }
        }
        let mut chains = Chains { values: asked, members };
        for (op, follows) in operators.into_iter().rev() {
            let outputs = written(graph, op, follows);
            let leads_on = |y: &ValueId| chains.values.contains(y) || chains.is_read(graph, *y, layers);
            if !chains.members.contains_key(&op) {
                continue;
            }
            // What joins several into one saves conversions even where floats follow.
            if outputs.iter().any(leads_on) || outputs.len() < read(graph, op, follows).len() {
                chains.values.extend(outputs);
            } else {
                chains.members.remove(&op);
            }
        }
        chains
    }
    /// Whether the op reads and writes integers.
    pub(super) fn has(&self, op: OpId) -> bool {
        self.members.contains_key(&op)
    }
    /// Whether an operator of the chain makes this value that integers compute by where they end.
    pub(super) fn saturates(&self, graph: &Graph, v: ValueId) -> bool {
        let made = |op| ["HardSigmoid", "HardSwish"].iter().any(|name| graph.op(op).is(name));
        graph.producer(v).is_some_and(|(op, _)| self.has(op) && made(op))
    }
    /// Whether it is an integer that is read there.
    pub(super) fn reads(&self, at: &Use, layers: &[OpId]) -> bool {
        match at {
            Use::Input(op, 0) => self.has(*op) || layers.contains(op),
            Use::Input(op, _) => self.members.get(op).is_some_and(|follows| !follows.moves()),
            Use::Capture(_) => false,
        }
    }
    fn is_read(&self, graph: &Graph, v: ValueId, layers: &[OpId]) -> bool {
        graph.uses(v).iter().any(|at| self.reads(at, layers))
    }
    /// Makes the schemes of values follow each other.
    pub(super) fn follow(&self, graph: &Graph, schemes: &mut BTreeMap<ValueId, QuantScheme>) {
        let order = graph.order();
        let members = |op: &OpId| Some((*op, *self.members.get(op)?));
        for (op, follows) in order.iter().rev().filter_map(members) {
            let Follows::Shared(_) = follows else { continue };
            let [y] = written(graph, op, follows)[..] else { continue };
            let Some(scheme) = schemes.get(&y).cloned() else { continue };
            for x in read(graph, op, follows) {
                if schemes.get(&x).is_some_and(|own| self.takes_over(graph, x, own, &scheme)) {
                    schemes.insert(x, scheme.clone());
                }
            }
        }
        for (op, follows) in order.iter().filter_map(members) {
            if follows.moves()
                && let Some(x) = graph.input(op, 0)
            {
                for y in written(graph, op, follows).into_iter().filter(|y| self.values.contains(y)) {
                    match schemes.get(&x).cloned() {
                        Some(scheme) => schemes.insert(y, scheme),
                        None => schemes.remove(&y),
                    };
                }
            }
        }
    }
    /// Whether a value can have the scheme of what is made of it: nothing else reads it, and an activation function in
    /// front of its rounding remains one that the rounding stands for.
    fn takes_over(&self, graph: &Graph, x: ValueId, own: &QuantScheme, scheme: &QuantScheme) -> bool {
        let Some((op, _)) = graph.producer(x).filter(|_| graph.sole_use(x).is_some()) else { return false };
        let node = graph.op(op);
        match self.members.get(&op) {
            Some(Follows::Moved | Follows::Picked | Follows::Fixed) => false,
            _ if node.is("Clip") => false,
            _ if node.is("Relu") => own.zero_points == scheme.zero_points,
            _ => true,
        }
    }
}

/// The output of a Relu or Clip that alone reads `y`: with the zero point at its lower end it becomes the rounding.
pub(super) fn behind_clip(graph: &Graph, y: ValueId) -> ValueId {
    let Some(Use::Input(op, 0)) = graph.sole_use(y) else { return y };
    let node = graph.op(op);
    if node.is("Relu") || node.is("Clip") { graph.output(op, 0).unwrap_or(y) } else { y }
}

/// What an operator reads of the chain.
fn read(graph: &Graph, op: OpId, follows: Follows) -> Vec<ValueId> {
    match follows {
        Follows::Moved | Follows::Picked => graph.input(op, 0).into_iter().collect(),
        Follows::Own(_) | Follows::Shared(_) | Follows::Fixed => {
            graph.inputs_of(op).into_iter().flatten().collect()
        }
    }
}

/// What it adds to the chain.
fn written(graph: &Graph, op: OpId, follows: Follows) -> Vec<ValueId> {
    let outputs = graph.outputs_of(op).into_iter().flatten();
    match follows {
        Follows::Moved | Follows::Picked => outputs.collect(),
        Follows::Own(_) | Follows::Shared(_) | Follows::Fixed => {
            outputs.map(|y| behind_clip(graph, y)).collect()
        }
    }
}

/// Whether an operator computes float32 from float32 that is no constant, and nothing else (MaxPool may give indices).
fn is_float(graph: &Graph, op: OpId) -> bool {
    let float = |v: ValueId| graph.dtype(v).is_none_or(|d| d == DType::F32);
    graph.input(op, 0).is_some_and(|x| float(x) && graph.constant(x).is_none())
        && graph.outputs_of(op).into_iter().flatten().all(float)
}
