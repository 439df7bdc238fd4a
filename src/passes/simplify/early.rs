//! What is selected is computed alone: `Gather(f(x), i) = f(Gather(x, i))` for a constant `i` along an axis whose
//! positions `f` computes each by itself.
//!
//! A classifier that reads one token of the last block so computes one, not all. Such are elementwise functions,
//! LayerNormalization and reductions over later axes, and the rows of a product with a constant matrix. Work never grows: what is
//! moved has no other reader, and there are no more indices than positions.

use crate::ir::{Dim, Graph, Op, OpId};

const UNARY: &[&str] = &["Relu", "Erf", "Gelu", "Tanh", "Sigmoid", "Sqrt"];
const BINARY: &[&str] = &["Add", "Sub", "Mul", "Div", "Pow"];
const REDUCTIONS: &[&str] =
    &["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceSumSquare", "ReduceL2"];

/// Moves each Gather up as far as it goes; returns over how many ops.
pub(super) fn gathers(g: &mut Graph) -> usize {
    let mut moved = 0;
    for gather in g.order().into_iter().rev() {
        moved += usize::from(g.has_op(gather) && before(g, gather).is_some());
    }
    moved
}

/// Moves a Gather before the op that it reads from.
fn before(g: &mut Graph, gather: OpId) -> Option<()> {
    let node = g.op(gather).clone();
    if !node.is("Gather") {
        return None;
    }
    let (h, index) = (g.input(gather, 0)?, g.input(gather, 1)?);
    let y = g.output(gather, 0)?;
    let (op, _) = g.producer(h)?;
    let shape = g.shape(h)?;
    let rank = shape.len();
    let axis = position(node.int("axis").unwrap_or(0), rank)?;
    let indices = g.constant(index)?;
    let rank_after = rank - 1 + indices.rank();
    let alone = g.sole_use(h).is_some() && !g.is_output(h) && g.outputs_of(op).len() == 1;
    if !alone || rank_after < 2 || indices.len() > shape[axis].known().unwrap_or(1) {
        return None;
    }
    let selected = selected(g, op, axis, rank)?;
    let ty = g.value(y).ty.clone();
    let mut inputs = g.inputs_of(op);
    g.remove_op(gather);
    for (slot, input) in inputs.iter_mut().enumerate().filter(|(slot, _)| selected.contains(slot)) {
        let name = format!("{}_{slot}", node.name);
        let early = Op::new("Gather", &name).with("axis", axis as i64);
        *input = input.map(|x| g.add_node(early, &[x, index], &name, None));
    }
    // Counted from the end, an axis behind the selected one stays where it is.
    let from_end = |axis: i64| Some(position(axis, rank)? as i64 - rank as i64);
    if g.op(op).is("LayerNormalization") {
        let axis = from_end(g.op(op).int("axis").unwrap_or(-1))?;
        let normalize = g.op(op).clone().with("axis", axis);
        *g.op_mut(op) = normalize;
    } else if let Some(axes) = g.op(op).ints("axes") {
        let axes: Vec<i64> = axes.iter().copied().map(from_end).collect::<Option<_>>()?;
        let reduce = g.op(op).clone().with("axes", axes);
        *g.op_mut(op) = reduce;
    }
    g.set_inputs(op, &inputs);
    g.set_outputs(op, &[Some(y)]);
    g.value_mut(y).ty = ty;
    g.remove_value_if_unused(h);
    Some(())
}

/// The inputs to select from, so that the op computes the positions selected on an axis of its output and no others.
fn selected(g: &Graph, op: OpId, axis: usize, rank: usize) -> Option<Vec<usize>> {
    let node = g.op(op);
    let any = |kinds: &[&str]| kinds.iter().any(|kind| node.is(kind));
    if any(UNARY) {
        return Some(vec![0]);
    }
    if node.is("LayerNormalization") {
        let over = position(node.int("axis").unwrap_or(-1), rank)?;
        return (axis < over).then(|| vec![0]);
    }
    if any(REDUCTIONS) {
        // Axes that are an input are shared constants, which only fit where they are counted from the end.
        let given = g.input(op, 1).map(|axes| g.constant(axes)?.to_i64());
        let axes = match given {
            Some(axes) => axes.filter(|axes| axes.iter().all(|axis| *axis < 0))?,
            None => node.ints("axes")?.to_vec(),
        };
        let later = axes.iter().all(|a| position(*a, rank).is_some_and(|a| axis < a));
        return (later && !axes.is_empty() && node.int("keepdims").unwrap_or(1) == 1).then(|| vec![0]);
    }
    if node.is("MatMul") {
        let constant = g.input(op, 1).and_then(|w| g.constant(w)).is_some_and(|w| w.rank() == 2);
        return (constant && axis + 1 < rank).then(|| vec![0]);
    }
    if !any(BINARY) {
        return None;
    }
    let extent = g.shape(g.output(op, 0)?)?.get(axis).filter(|d| **d != Dim::Unknown)?.clone();
    let mut slots = Vec::new();
    for (slot, v) in g.inputs_of(op).into_iter().enumerate() {
        let shape = g.shape(v?)?;
        if shape.len() == rank && shape[axis] == extent {
            slots.push(slot);
        } else if shape.len() >= rank - axis {
            return None; // it is repeated along the axis, which may go
        }
    }
    (!slots.is_empty()).then_some(slots)
}

/// An axis counted from the start.
fn position(axis: i64, rank: usize) -> Option<usize> {
    let axis = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(axis).ok().filter(|a| *a < rank)
}
