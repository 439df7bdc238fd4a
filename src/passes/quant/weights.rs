//! Which constants become int8, and along which axis they have a scale each.

use super::{
    Quant,
    form::computes_in_integers,
    placement::{How, Kind, Placement},
};
use crate::{
    ir::{DType, Graph, OpId, Origin, QuantForm, QuantScheme, Use, ValueId, Where},
    ops::quantized::dequantized,
    passes::Context,
};

/// Below this many elements the scales, the zero points and the extra nodes eat most of what int8 saves.
const WORTH: usize = 1024;

/// What [`annotate`] did.
pub(super) struct Layers {
    /// Ops with an integer kernel whose weight is int8 now, oldest first.
    pub ops: Vec<OpId>,
    /// The constants that are int8 now.
    pub weights: Vec<ValueId>,
}

/// The axis that a weight of this rank in this slot of an op has its output channels on; `None` where none goes there.
fn axis_of(graph: &Graph, op: OpId, slot: usize, rank: usize) -> Option<usize> {
    let node = graph.op(op);
    if !node.is_standard() || rank < 2 {
        return None;
    }
    match (node.op_type.as_str(), slot) {
        ("Conv", 1) => Some(0),
        // With groups, axis 1 of [in, out / groups, ...] mixes channels of all groups, and axis 0 keeps them apart.
        ("ConvTranspose", 1) => Some(usize::from(node.int("group").unwrap_or(1) == 1)),
        ("Gemm", 1) => Some(usize::from(node.int("transB").unwrap_or(0) == 0)),
        ("MatMul", 1) => Some(rank - 1),
        // Rows of a table differ in size; a scale each keeps the small ones exact.
        ("Gather", 0) if node.int("axis").unwrap_or(0) == 0 => Some(0),
        // [directions, gates * hidden, in]
        ("LSTM" | "GRU" | "RNN", 1 | 2) => Some(1),
        _ => None,
    }
}

/// The weight that a use reads as such, and the axis of its output channels.
fn read(graph: &Graph, at: Use) -> Option<(ValueId, usize)> {
    let Use::Input(op, slot) = at else { return None };
    let v = graph.input(op, slot)?;
    Some((v, axis_of(graph, op, slot, graph.constant(v)?.rank())?))
}

/// The weight of a convolution or a product.
pub(super) fn weight_of(graph: &Graph, op: OpId) -> Option<ValueId> {
    Some(read(graph, Use::Input(op, 1))?.0)
}

/// Whether the runtime computes the op in integers when its input and its weight are.
fn has_integer_kernel(graph: &Graph, op: OpId) -> bool {
    let flat = || graph.input(op, 1).and_then(|w| graph.rank(w)) == Some(2);
    Kind::of(graph, op).is_some_and(|kind| kind != Kind::Product || graph.op(op).is("Gemm") || flat())
}

/// Whether a convolution reads so few channels, and makes so few of them, that ONNX Runtime's integer kernel spends its
/// time on putting the pixels of each window together: 1.1 to 6 of the time of float32, which needs not do that.
pub(super) fn gathers_more_than_it_multiplies(graph: &Graph, op: OpId) -> bool {
    let weight = graph.input(op, 1).and_then(|w| graph.constant(w));
    let grouped = graph.op(op).int("group").unwrap_or(1) != 1;
    !grouped && weight.is_some_and(|w| w.rank() > 2 && w.shape()[1] < 4 && w.len() < 2400)
}

/// Gives every weight that can be int8 its scheme, and says why others cannot.
pub(super) fn annotate(pass: &Quant, graph: &mut Graph, integers: bool, cx: &mut Context<'_>) -> Layers {
    let mut layers = Layers { ops: Vec::new(), weights: Vec::new() };
    let constants: Vec<ValueId> = graph.initializers().map(|(v, _)| v).collect();
    for v in constants {
        let uses = graph.uses(v);
        let Some(axis) = uses.iter().find_map(|at| Some(read(graph, *at)?.1)) else {
            continue;
        };
        let scheme = match scheme(pass, graph, v, axis, &uses, integers) {
            Ok(scheme) => scheme,
            Err(why) => {
                cx.missed(Where::Value(graph.name_of(v).to_owned()), why);
                continue;
            }
        };
        graph.value_mut(v).quant = Some(scheme);
        layers.weights.push(v);
        layers.ops.extend(uses.iter().map(|at| at.op()).filter(|op| Kind::of(graph, *op).is_some()));
    }
    layers.ops.sort_unstable();
    layers.ops.dedup();
    stored_before(graph, cx);
    layers
}

/// Says what became of the weights, now that all have their forms. A small one that no integer kernel reads goes back
/// to float.
pub(super) fn tell(graph: &mut Graph, layers: &Layers, placement: &Placement, cx: &mut Context<'_>) {
    for v in &layers.weights {
        let name = graph.name_of(*v).to_owned();
        let dynamic = graph.value(*v).quant.as_ref().is_some_and(|s| s.form == QuantForm::Dynamic);
        let linked = dynamic || graph.uses(*v).iter().any(|at| computes_in_integers(graph, at.op()));
        let len = graph.constant(*v).map_or(0, |t| t.len());
        if len < WORTH && !linked {
            graph.value_mut(*v).quant = None;
            cx.missed(Where::Value(name), too_few(len));
            continue;
        }
        cx.count("weights", 1);
        if let Some(at) = graph.uses(*v).first() {
            cx.applied(graph.place(at.op()), format!("weight `{name}` is int8"));
        }
    }
    if *placement == Placement::FLOAT {
        return;
    }
    for op in &layers.ops {
        if Kind::of(graph, *op) == Some(Kind::FirstConvolution) && placement.of(graph, *op) == How::Float {
            let why = "it reads few channels, of which integer kernels make less than float ones";
            cx.missed(graph.place(*op), why);
        }
    }
    for op in graph.order() {
        if graph.op(op).is("GRU") || graph.op(op).is("RNN") {
            cx.missed(
                graph.place(op),
                "ONNX Runtime computes it in float alone; its weights are stored as int8",
            );
        }
    }
}

fn too_few(len: usize) -> String {
    format!("its {len} elements are too few to gain from int8")
}

/// Says of which layers the model came with weights of few bits.
fn stored_before(graph: &Graph, cx: &mut Context<'_>) {
    let stored = dequantized(graph);
    for op in graph.order().into_iter().filter(|_| !stored.is_empty()) {
        for (slot, v) in graph.inputs_of(op).into_iter().enumerate() {
            let Some(v) = v.filter(|v| stored.contains(v)) else { continue };
            if graph.rank(v).is_some_and(|rank| axis_of(graph, op, slot, rank).is_some()) {
                cx.missed(graph.place(op), format!("its weight `{}` is quantized already", graph.name_of(v)));
            }
        }
    }
}

fn scheme(
    pass: &Quant,
    graph: &Graph,
    v: ValueId,
    axis: usize,
    uses: &[Use],
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
    let links = integers && uses.iter().any(|at| has_integer_kernel(graph, at.op()));
    if !links && tensor.len() < WORTH {
        return Err(too_few(tensor.len()));
    }
    if let Some(at) = uses.iter().find(|at| pass.excludes(graph, at.op())) {
        return Err(format!("`{}` is excluded", graph.place(at.op()).name()));
    }
    for at in uses {
        let place = graph.place(at.op());
        match read(graph, *at) {
            Some((_, a)) if a == axis => {}
            Some(_) => return Err(format!("`{}` needs its scales on another axis", place.name())),
            None => return Err(format!("`{}` needs it in float as well", place.name())),
        }
    }
    let axis = pass.options.per_channel.then_some(axis);
    QuantScheme::symmetric_int8(tensor, axis).ok_or_else(|| "it holds infinities or NaN".into())
}
