//! The weights that can be made sparse, and how they lie.

use crate::{
    ir::{DType, Graph, OpId, Tensor, Use, ValueId},
    passes::{Context, linear::Layer},
};
use globset::GlobSet;

/// A weight whose elements may become zero.
pub(super) struct Candidate {
    pub(super) value: ValueId,
    /// The first op that reads it.
    pub(super) op: OpId,
    pub(super) lay: Lay,
    /// The layer that it is the weights of, where that can be found anew.
    pub(super) layer: Option<Layer>,
}

/// How a weight's elements lie: `[outer, inputs, inner]`, summed over the inputs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Lay {
    pub(super) outer: usize,
    pub(super) inputs: usize,
    pub(super) inner: usize,
}

impl Lay {
    fn of(shape: &[usize], axis: usize) -> Lay {
        let size = |part: &[usize]| part.iter().product();
        Lay { outer: size(&shape[..axis]), inputs: shape[axis], inner: size(&shape[axis + 1..]) }
    }
    /// The elements of each run of `m` inputs that follow each other and go into one output.
    pub(super) fn runs(self, m: usize) -> impl Iterator<Item = Vec<usize>> {
        let Lay { outer, inputs, inner } = self;
        let starts = (0..outer).flat_map(move |o| (0..inputs / m).map(move |b| (o * inputs + b * m) * inner));
        starts.flat_map(move |start| (0..inner).map(move |k| (0..m).map(|i| start + i * inner + k).collect()))
    }
}

/// The axis of the inputs of a weight that is read in this slot; `None` where it is no weight of a product.
fn axis_of(g: &Graph, op: OpId, slot: usize, rank: usize) -> Option<usize> {
    let node = g.op(op);
    match (&*node.op_type, slot) {
        _ if !node.is_standard() || rank < 2 => None,
        ("Conv", 1) => Some(1),
        ("Gemm", 1) => Some(usize::from(node.int("transB").unwrap_or(0) != 0)),
        ("MatMul", 1) => Some(rank - 2),
        ("LSTM" | "GRU" | "RNN", 1 | 2) => Some(2).filter(|axis| *axis < rank),
        _ => None,
    }
}

/// Finds the weights, oldest first, and says of others why they stay.
pub(super) fn find(
    g: &Graph,
    opset: i64,
    exclude: &GlobSet,
    run: Option<usize>,
    cx: &mut Context<'_>,
) -> Vec<Candidate> {
    let mut found = Vec::new();
    for (value, tensor) in g.initializers() {
        let uses = g.uses(value);
        let axis = |at: &Use| match at {
            Use::Input(op, slot) => axis_of(g, *op, *slot, tensor.rank()),
            Use::Capture(_) => None,
        };
        let Some((first, axis_of_first)) = uses.iter().find_map(|at| Some((at, axis(at)?))) else { continue };
        let lay = Lay::of(tensor.shape(), axis_of_first);
        let excluded = exclude.is_match(g.name_of(value))
            || uses.iter().any(|at| exclude.is_match(g.place(at.op()).name()));
        let why = if excluded {
            Some("excluded by name".to_owned())
        } else if uses.iter().any(|at| axis(at) != Some(axis_of_first)) {
            Some("it is also read as something else".to_owned())
        } else if !is_plain(g, value, tensor) {
            Some("it is no constant of floating-point numbers: sparsify first, then quantize".to_owned())
        } else {
            let short = run.filter(|m| !lay.inputs.is_multiple_of(*m));
            short.map(|m| format!("its {} inputs are no multiple of {m}", lay.inputs))
        };
        if let Some(why) = why {
            cx.missed(g.place(first.op()), format!("`{}` stays as it is: {why}", g.name_of(value)));
            continue;
        }
        let layer = Layer::of(g, first.op(), opset).and_then(Result::ok).filter(|l| l.weight == value);
        found.push(Candidate { value, op: first.op(), lay, layer });
    }
    found
}

/// Whether a weight is numbers that no one else gives or takes, now and when the model is written.
fn is_plain(g: &Graph, value: ValueId, tensor: &Tensor) -> bool {
    let real = matches!(tensor.dtype(), DType::F32 | DType::F16 | DType::BF16 | DType::F64);
    real && !tensor.is_empty()
        && g.value(value).quant.is_none()
        && !g.is_input(value)
        && !g.is_output(value)
        && tensor.to_f32().is_some_and(|numbers| numbers.iter().all(|x| x.is_finite()))
}
