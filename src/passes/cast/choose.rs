//! Which ops compute in half precision, and why others do not.

use super::{Cast, Io, WORTH, loss};
use crate::{
    ir::{DType, Graph, OpId, Origin, Type, Use, ValueId},
    ops::half::{Fixed, halves},
};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Why an op computes in float.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kept {
    /// The user says so.
    Excluded,
    /// No kernel, or none that is known.
    Unsupported,
    /// It reads or gives what is stored in integers.
    Quantized,
    /// Half precision has not the range or the digits for its numbers.
    Numbers(String),
    /// It stands among ops in float, and gains nothing.
    Alone,
}

/// How a graph's ops compute.
#[derive(Debug, Default)]
pub(super) struct Choice {
    /// Ops that compute in half precision.
    pub half: HashSet<OpId>,
    /// Ops with float operands that do not.
    pub kept: BTreeMap<OpId, Kept>,
    /// Ops that read numbers of any precision and give none: Shape, ArgMax, Cast to integers.
    pub follow: HashSet<OpId>,
    /// Inputs and outputs whose numbers half precision cannot hold.
    pub wide: HashSet<ValueId>,
    /// What the bodies of an op do, in their order.
    pub bodies: BTreeMap<OpId, Vec<Choice>>,
}

/// A graph, what is around it, and what was measured of the outermost.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    pub graph: &'a Graph,
    pub outer: Option<&'a Scope<'a>>,
    pub ranges: &'a HashMap<ValueId, (f32, f32)>,
}

impl<'a> Scope<'a> {
    /// Where a value is defined: itself, or what it captures.
    fn resolve(&'a self, v: ValueId) -> (&'a Scope<'a>, ValueId) {
        let graph = self.graph;
        if graph.value(v).origin != Origin::Captured {
            return (self, v);
        }
        let found = self.outer.and_then(|outer| Some((outer, outer.graph.find(graph.name_of(v))?)));
        found.map_or((self, v), |(outer, v)| outer.resolve(v))
    }
    fn constant(&'a self, v: ValueId) -> Option<&'a crate::ir::Tensor> {
        let (scope, v) = self.resolve(v);
        scope.graph.constant(v)
    }
    fn range(&'a self, v: ValueId) -> Option<(f32, f32)> {
        let (scope, v) = self.resolve(v);
        scope.outer.is_none().then(|| scope.ranges.get(&v).copied())?
    }
}

pub(super) fn is_float(g: &Graph, v: ValueId) -> bool {
    g.dtype(v) == Some(DType::F32)
}

/// The float32 operands of an op that may change their type, inputs first.
fn operands(g: &Graph, op: OpId, fixed: Fixed) -> (Vec<ValueId>, Vec<ValueId>) {
    let of = |slots: crate::ir::Slots, fixed: &[usize]| {
        let free = slots.into_iter().enumerate().filter(|(k, _)| !fixed.contains(k));
        free.filter_map(|(_, v)| v).filter(|v| is_float(g, *v)).collect::<Vec<_>>()
    };
    (of(g.inputs_of(op), fixed.inputs), of(g.outputs_of(op), fixed.outputs))
}

/// Decides for a graph and its bodies.
pub(super) fn choose(pass: &Cast, scope: &Scope<'_>) -> Choice {
    let (g, dtype) = (scope.graph, pass.dtype());
    let mut choice = Choice::default();
    let precise = precise(g, dtype, &mut choice.wide);
    for op in g.ops() {
        let node = g.op(op);
        let mut within = false;
        if node.bodies().next().is_some() {
            let inner = |body| choose(pass, &Scope { graph: body, outer: Some(scope), ranges: scope.ranges });
            let bodies: Vec<Choice> = node.bodies().map(inner).collect();
            within = bodies.iter().any(|body| !body.half.is_empty())
                && bodies.iter().all(|body| body.wide.is_empty());
            choice.bodies.insert(op, bodies);
        }
        let fixed = halves(node, dtype);
        let (inputs, outputs) = operands(g, op, fixed.unwrap_or_default());
        let typed = |v: &ValueId| match &g.value(*v).ty {
            Some(Type::Tensor(_)) | None => g.dtype(*v).is_some(),
            Some(_) => true,
        };
        let known = g.inputs_of(op).iter().chain(&g.outputs_of(op)).flatten().all(typed);
        if inputs.is_empty() && outputs.is_empty() && known {
            continue;
        }
        let kept = if pass.excludes(g, op) {
            Some(Kept::Excluded)
        } else if fixed.is_none() || !known {
            Some(Kept::Unsupported)
        } else if node.bodies().next().is_some() && !within {
            Some(Kept::Alone)
        } else if precise.contains(&op) {
            Some(Kept::Numbers("its numbers become integers, positions or logarithms".into()))
        } else if touches_integers(g, op) {
            Some(Kept::Quantized)
        } else if outputs.is_empty() && inputs.len() == 1 {
            choice.follow.insert(op);
            continue;
        } else if node.is("Cast") && g.input(op, 0).and_then(|x| g.dtype(x)).is_some_and(DType::is_float) {
            // It stands where precision changes already.
            Some(Kept::Alone)
        } else {
            out_of_reach(scope, op, &inputs, &outputs, dtype).map(Kept::Numbers)
        };
        match kept {
            None => drop(choice.half.insert(op)),
            Some(why) => drop(choice.kept.insert(op, why)),
        }
    }
    let beyond = |v: &ValueId| scope.range(*v).is_some_and(|range| loss::of_range(range, dtype).is_some());
    choice.wide.extend(g.inputs.iter().chain(&g.outputs).filter(|v| beyond(v)));
    leave_islands(pass, scope, &mut choice);
    choice
}

/// Whether an op reads or gives a value that is, or will be, quantized.
fn touches_integers(g: &Graph, op: OpId) -> bool {
    let by = |v: ValueId, name: &str| g.producer(v).is_some_and(|(op, _)| g.op(op).op_type == name);
    let read = |v: ValueId, name: &str| g.uses(v).iter().any(|at| g.op(at.op()).op_type == name);
    let quantized = |v: ValueId| g.value(v).quant.is_some();
    g.inputs_of(op).into_iter().flatten().any(|v| quantized(v) || by(v, "DequantizeLinear"))
        || g.outputs_of(op).into_iter().flatten().any(|v| quantized(v) || read(v, "QuantizeLinear"))
}

/// Why an op's numbers do not fit, if they do not.
fn out_of_reach(
    scope: &Scope<'_>,
    op: OpId,
    inputs: &[ValueId],
    outputs: &[ValueId],
    dtype: DType,
) -> Option<String> {
    let g = scope.graph;
    for v in inputs.iter().chain(outputs) {
        let why = match (scope.constant(*v), scope.range(*v)) {
            (Some(constant), _) => loss::of_constant(constant, dtype).err(),
            (None, Some(range)) => loss::of_range(range, dtype),
            (None, None) => None,
        };
        if let Some(why) = why {
            return Some(format!("`{}` {why}", g.name_of(*v)));
        }
    }
    // Counts and indices need every digit.
    let source = g.input(op, 0).filter(|_| g.op(op).is("Cast"))?;
    let narrow = g.dtype(source).is_some_and(|dtype| dtype.bits() <= 8);
    let reach = scope.range(*outputs.first()?).map(|(low, high)| low.abs().max(high.abs()));
    let fits = narrow || reach.is_some_and(|reach| reach * 2.0 <= loss::exact(dtype));
    let most = loss::exact(dtype);
    (!fits).then(|| format!("its integers may exceed {most}, up to which {dtype} has them all"))
}

/// Ops that compute what is cast to integers, or where to sample, for which half precision has not the digits; and logarithms
/// with what is computed for them, to which the smallest numbers matter most. Inputs of the graph that such numbers come
/// from go to `wide`.
fn precise(g: &Graph, dtype: DType, wide: &mut HashSet<ValueId>) -> HashSet<OpId> {
    let (mut open, mut found) = (Vec::new(), HashSet::new());
    for op in g.ops() {
        let node = g.op(op);
        let integer = |v: ValueId| g.dtype(v).is_some_and(DType::is_integer);
        if node.is("Cast") && g.output(op, 0).is_some_and(integer) {
            open.extend(g.input(op, 0));
        }
        if node.is("Log") && halves(node, dtype).is_some() {
            found.insert(op);
            open.extend(g.input(op, 0));
        }
        let fixed = halves(node, dtype).unwrap_or_default();
        open.extend(fixed.inputs.iter().filter_map(|slot| g.input(op, *slot)));
    }
    while let Some(v) = open.pop() {
        if !is_float(g, v) {
            continue;
        }
        if g.is_input(v) {
            wide.insert(v);
        }
        let Some((op, _)) = g.producer(v) else { continue };
        let arithmetic = matches!(
            &*g.op(op).op_type,
            "Abs"
                | "Add"
                | "Cast"
                | "Ceil"
                | "Clip"
                | "Concat"
                | "Div"
                | "Expand"
                | "Floor"
                | "Gather"
                | "Identity"
                | "Max"
                | "Min"
                | "Mul"
                | "Neg"
                | "Pow"
                | "Reciprocal"
                | "ReduceMax"
                | "ReduceProd"
                | "ReduceSum"
                | "Reshape"
                | "Round"
                | "Slice"
                | "Sqrt"
                | "Squeeze"
                | "Sub"
                | "Unsqueeze"
        );
        if arithmetic && found.insert(op) {
            open.extend(g.inputs_of(op).into_iter().flatten());
        }
    }
    found
}

/// Ops whose work is worth casts on either side.
fn multiplies(g: &Graph, op: OpId) -> bool {
    let node = g.op(op);
    let products = [
        "Conv",
        "ConvTranspose",
        "MatMul",
        "Gemm",
        "Einsum",
        "LSTM",
        "GRU",
        "RNN",
        "Attention",
        "If",
        "Loop",
        "Scan",
    ];
    products.iter().any(|name| node.is(name))
}

/// Gives back to float what multiplies nothing, reads no weight, and would take as many casts as it has ops.
fn leave_islands(pass: &Cast, scope: &Scope<'_>, choice: &mut Choice) {
    let g = scope.graph;
    let ops: Vec<OpId> = g.ops().filter(|op| choice.half.contains(op)).collect();
    let mut open: HashSet<OpId> = ops.iter().copied().collect();
    let all = |op: OpId| operands(g, op, halves(g.op(op), pass.dtype()).unwrap_or_default());
    let keeps = pass.options.io == Io::Keep && scope.outer.is_none();
    for first in ops {
        if !open.remove(&first) {
            continue;
        }
        let (mut island, mut border, mut todo) = (Vec::new(), HashSet::new(), vec![first]);
        while let Some(op) = todo.pop() {
            island.push(op);
            let (inputs, outputs) = all(op);
            for v in inputs.into_iter().filter(|v| g.initializer(*v).is_none()) {
                match g.producer(v) {
                    Some((from, _)) if choice.half.contains(&from) && all(from).1.contains(&v) => {
                        todo.extend(open.take(&from));
                    }
                    None if !keeps || !g.is_input(v) => {}
                    _ => drop(border.insert(v)),
                }
            }
            for v in outputs {
                for user in g.uses(v).into_iter().map(Use::op) {
                    if choice.half.contains(&user) && all(user).0.contains(&v) {
                        todo.extend(open.take(&user));
                    } else if !choice.follow.contains(&user) && !choice.half.contains(&user) {
                        border.insert(v);
                    }
                }
                if keeps && g.is_output(v) {
                    border.insert(v);
                }
            }
        }
        let weighs = |v: &ValueId| scope.constant(*v).is_some_and(|tensor| tensor.len() >= WORTH);
        let works = |op: &OpId| multiplies(g, *op) || all(*op).0.iter().any(weighs);
        if border.len() >= island.len() && !island.iter().any(works) {
            for op in island {
                choice.half.remove(&op);
                choice.kept.insert(op, Kept::Alone);
            }
        }
    }
}
