//! Finding a pattern in a graph: upwards from the root, trying both orders of commutative inputs and all alternatives.

use super::pattern::Line;
use crate::ir::{DType, Dim, Graph, Op, OpId, Tensor, TensorType, ValueId};
use std::collections::HashMap;

/// Operators whose two inputs may be swapped.
const COMMUTATIVE: &[&str] = &["Add", "Mul", "Min", "Max", "And", "Or", "Xor", "Equal", "Sum", "Mean"];

/// Where a pattern was found.
pub struct Match<'g> {
    /// The graph it was found in.
    pub graph: &'g Graph,
    /// The version of ONNX's operator set.
    pub opset: i64,
    found: Found,
}

#[derive(Clone, Default)]
struct Found {
    /// The root first.
    ops: Vec<(usize, OpId)>,
    values: HashMap<String, ValueId>,
}

impl<'g> Match<'g> {
    pub(super) fn find(graph: &'g Graph, lhs: &[Line], root: OpId, opset: i64) -> Option<Match<'g>> {
        let found = solve(graph, lhs, vec![(&lhs.last()?.out, root)], Found::default())?;
        let inside = |op: OpId| found.ops.iter().any(|(_, o)| *o == op);
        let closed = found.ops.iter().all(|(line, op)| {
            *op == root
                || lhs[*line].shared
                || graph
                    .outputs_of(*op)
                    .into_iter()
                    .flatten()
                    .all(|v| !graph.is_output(v) && graph.uses(v).into_iter().all(|u| inside(u.op())))
        });
        let single = graph
            .outputs_of(root)
            .iter()
            .skip(1)
            .flatten()
            .all(|v| !graph.is_output(*v) && graph.uses(*v).is_empty());
        (closed && single).then_some(Match { graph, opset, found })
    }
    pub(super) fn into_parts(self) -> (Vec<OpId>, HashMap<String, ValueId>) {
        (self.found.ops.into_iter().map(|(_, op)| op).collect(), self.found.values)
    }
    /// The value under a name of the pattern; `None` where an optional input is left out.
    pub fn value(&self, name: &str) -> Option<ValueId> {
        self.found.values.get(name).copied()
    }
    /// The constant under a name.
    pub fn tensor(&self, name: &str) -> Option<&'g Tensor> {
        self.graph.constant(self.value(name)?)
    }
    /// The tensor type under a name.
    pub fn ty(&self, name: &str) -> Option<TensorType> {
        self.graph.tensor_type(self.value(name)?)
    }
    /// The op that computes the value of that name, which must be the output of a line.
    pub fn op(&self, name: &str) -> Option<&'g Op> {
        Some(self.graph.op(self.graph.producer(self.value(name)?)?.0))
    }
    /// Whether two values have one element type and shape, every dimension known or of equal name.
    pub fn same_type(&self, a: &str, b: &str) -> bool {
        let full = |t: &TensorType| {
            t.dtype.is_some() && t.shape.as_ref().is_some_and(|s| !s.contains(&Dim::Unknown))
        };
        self.ty(a).filter(full).is_some_and(|t| self.ty(b) == Some(t))
    }
}

/// Finds ops for the values of the pattern that are still to do, each by the first alternative that leads to a match.
fn solve<'p>(g: &Graph, lhs: &'p [Line], mut todo: Vec<(&'p str, OpId)>, found: Found) -> Option<Found> {
    let Some((name, id)) = todo.pop() else { return Some(found) };
    let alternatives = lhs.iter().enumerate().filter(|(_, line)| line.out == name);
    alternatives.into_iter().find_map(|(at, _)| solve_line(g, lhs, (at, id), todo.clone(), found.clone()))
}

fn solve_line<'p>(
    g: &Graph,
    lhs: &'p [Line],
    (at, id): (usize, OpId),
    todo: Vec<(&'p str, OpId)>,
    mut found: Found,
) -> Option<Found> {
    let (line, op, out) = (&lhs[at], g.op(id), g.output(id, 0)?);
    let attrs = |l: &Line| l.attrs.iter().all(|(k, v)| op.int(k) == Some(*v));
    if !op.is(&line.op_type) || !attrs(line) || !bind(&mut found, &line.out, out) {
        return None;
    }
    if !found.ops.contains(&(at, id)) {
        found.ops.push((at, id));
    }
    let inputs = g.inputs_of(id);
    let tail = inputs.iter().skip(line.args.len()).any(Option::is_some);
    if tail {
        return None;
    }
    let swappable = inputs.len() == 2 && COMMUTATIVE.contains(&line.op_type.as_str());
    let orders: &[[usize; 2]] = if swappable { &[[0, 1], [1, 0]] } else { &[[0, 1]] };
    orders.iter().find_map(|order| {
        let (mut todo, mut found) = (todo.clone(), found.clone());
        for (k, arg) in line.args.iter().enumerate() {
            let slot = if k < 2 { order[k] } else { k };
            let Some(v) = inputs.get(slot).copied().flatten() else {
                if arg.optional {
                    continue;
                }
                return None;
            };
            if let Some(number) = arg.number {
                if !is_number(g, v, number, inputs[1 - slot.min(1)]) {
                    return None;
                }
                continue;
            }
            if arg.constant && g.constant(v).is_none() {
                return None;
            }
            match lhs.iter().find(|l| l.out == arg.name) {
                Some(inner) => match g.producer(v)? {
                    (p, 0) => todo.push((&inner.out, p)),
                    _ => return None,
                },
                None if !bind(&mut found, &arg.name, v) => return None,
                None => {}
            }
        }
        solve(g, lhs, todo, found)
    })
}

/// Whether a constant is this one number, as exactly as its type can say, and adds no dimensions to the other input.
fn is_number(g: &Graph, v: ValueId, number: f64, other: Option<ValueId>) -> bool {
    let Some(t) = g.constant(v).filter(|t| t.len() == 1) else { return false };
    let fits = t.rank() == 0 || other.and_then(|o| g.rank(o)).is_some_and(|rank| t.rank() <= rank);
    let digits = match t.dtype() {
        DType::F16 => 1e-3,
        DType::BF16 => 8e-3,
        _ => 1e-6,
    };
    let value = t.scalar_f32().map(f64::from).or_else(|| t.scalar_i64().map(|n| n as f64));
    fits && value.is_some_and(|x| (x - number).abs() <= digits * number.abs())
}

fn bind(found: &mut Found, name: &str, v: ValueId) -> bool {
    *found.values.entry(name.to_owned()).or_insert(v) == v
}
