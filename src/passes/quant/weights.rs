//! Which constants become int8, and along which axis they have a scale each.

use super::Quant;
use crate::{
    ir::{DType, Graph, OpId, Origin, QuantScheme, Use, ValueId, Where},
    passes::Context,
};

/// Below this many elements the scales, the zero points and the extra node eat most of what int8 saves.
const WORTH: usize = 1024;

/// What [`annotate`] did.
pub(super) struct Layers {
    /// Conv, Gemm and MatMul whose weight is int8 now, oldest first: those the runtime has integer kernels for.
    pub ops: Vec<OpId>,
    /// How many tensors that took: tied layers share one.
    pub tensors: usize,
}

/// The slot of an op's weight and the axis its output channels lie on.
pub(super) fn weight_of(graph: &Graph, op: OpId) -> Option<(ValueId, Option<usize>)> {
    let node = graph.op(op);
    if !node.is_standard() {
        return None;
    }
    let (slot, axis) = match node.op_type.as_str() {
        "Conv" => (1, Some(0)),
        // With groups, axis 1 of [in, out / groups, ...] mixes channels of all groups, and axis 0 keeps them apart.
        "ConvTranspose" => (1, Some(usize::from(node.int("group").unwrap_or(1) == 1))),
        "Gemm" => (1, Some(usize::from(node.int("transB").unwrap_or(0) == 0))),
        "MatMul" => (1, None), // the last axis, whatever the rank
        // Rows of a table differ in size; a scale each keeps the small ones exact.
        "Gather" if node.int("axis").unwrap_or(0) == 0 => (0, Some(0)),
        _ => return None,
    };
    let weight = graph.input(op, slot)?;
    let rank = graph.constant(weight)?.rank();
    (rank >= 2).then(|| (weight, axis.or(Some(rank - 1))))
}

/// Whether the runtime computes the op in integers when its input and its weight are.
fn has_integer_kernel(graph: &Graph, op: OpId) -> bool {
    let node = graph.op(op);
    node.is("Conv")
        || node.is("Gemm")
        || node.is("MatMul") && graph.input(op, 1).and_then(|w| graph.rank(w)) == Some(2)
}

/// Gives every weight that can be int8 its scheme, and says why others cannot.
pub(super) fn annotate(pass: &Quant, graph: &mut Graph, integers: bool, cx: &mut Context<'_>) -> Layers {
    let mut layers = Layers { ops: Vec::new(), tensors: 0 };
    let mut slow = 0;
    let weights: Vec<ValueId> = graph.initializers().map(|(v, _)| v).collect();
    for v in weights {
        let users: Vec<OpId> = graph.uses(v).into_iter().map(Use::op).collect();
        let Some((op, axis)) =
            users.iter().find_map(|o| Some((*o, weight_of(graph, *o).filter(|w| w.0 == v)?.1)))
        else {
            continue;
        };
        let scheme = match scheme(pass, graph, v, axis, &users, integers) {
            Ok(scheme) => scheme,
            Err(why) => {
                cx.missed(Where::Value(graph.name_of(v).to_owned()), why);
                continue;
            }
        };
        graph.value_mut(v).quant = Some(scheme);
        layers.tensors += 1;
        slow += users.iter().filter(|o| graph.op(**o).op_type.starts_with("Conv")).count();
        layers
            .ops
            .extend(users.iter().filter(|o| ["Conv", "Gemm", "MatMul"].iter().any(|t| graph.op(**o).is(t))));
        cx.applied(graph.place(op), format!("weight `{}` is int8", graph.name_of(v)));
    }
    layers.ops.sort_unstable();
    layers.ops.dedup();
    if slow > 0 && !integers {
        let text = format!(
            "int8 weights turn back to float in every run, which is slower than float (convolutions: {slow}); \
             calibration samples let them compute in integers, which is faster"
        );
        cx.remark(crate::passes::RemarkKind::Note, (), text);
    }
    layers
}

fn scheme(
    pass: &Quant,
    graph: &Graph,
    v: ValueId,
    axis: Option<usize>,
    users: &[OpId],
    integers: bool,
) -> Result<QuantScheme, String> {
    let value = graph.value(v);
    let Origin::Initializer(tensor) = &value.origin else { return Err("it is no dense constant".into()) };
    if value.quant.is_some() || !matches!(tensor.dtype(), DType::F32 | DType::F16 | DType::BF16 | DType::F64)
    {
        return Err(format!("it is quantized already ({})", tensor.dtype()));
    }
    if tensor.dtype() != DType::F32 {
        return Err(format!("it is {}, and only float32 is quantized", tensor.dtype()));
    }
    if graph.is_input(v) || graph.is_output(v) {
        return Err("it is part of the graph's interface".into());
    }
    // With integer activations a small float layer in between would break the chain, so size does not matter.
    let links = integers && users.iter().any(|o| has_integer_kernel(graph, *o));
    if !links && tensor.len() < WORTH {
        return Err(format!("its {} elements are too few to gain from int8", tensor.len()));
    }
    if let Some(op) = users.iter().find(|o| pass.excludes(graph, **o)) {
        return Err(format!("`{}` is excluded", graph.place(*op).name()));
    }
    let uses = graph.uses(v);
    for at in &uses {
        let other = weight_of(graph, at.op()).filter(|w| w.0 == v);
        let place = graph.place(at.op());
        match (at, other) {
            (Use::Input(..), Some((_, a))) if a == axis => {}
            (Use::Input(..), Some(_)) => {
                return Err(format!("`{}` needs its scales on another axis", place.name()));
            }
            _ => return Err(format!("`{}` needs it in float as well", place.name())),
        }
    }
    let axis = axis.filter(|_| pass.options.per_channel);
    QuantScheme::symmetric_int8(tensor, axis).ok_or_else(|| "it holds infinities or NaN".into())
}
