//! Which constants become integers, and which of their elements share a scale.

use super::{
    Activations, Quant, QuantOptions,
    form::{computes_in_integers, dequantizes_to},
    placement::{How, Kind, Placement},
    scales::{self, Integers},
};
use crate::{
    ir::{DType, Grain, Graph, OpId, Origin, QuantForm, QuantScheme, Tensor, Use, ValueId, Where},
    ops::quantized::{dequantized, read_whole},
    passes::{Context, lift::readers},
};
use std::collections::BTreeMap;

/// Below this many elements the scales, the zero points and the extra nodes eat most of what integers save, and small
/// layers, as heads and depthwise convolutions are, cost the outputs more than they are worth.
pub(super) fn worth(bits: usize) -> usize {
    if bits >= 8 { 512 } else { 1024 }
}

/// What weights are to become.
#[derive(Clone, Copy)]
pub(super) struct Plan<'a> {
    pub pass: &'a Quant,
    /// Of an element.
    pub bits: usize,
    /// The model's.
    pub opset: i64,
    /// Whether activations become integers too.
    pub activations: bool,
}

impl Plan<'_> {
    /// Whether all that is float32 becomes integers.
    pub(super) fn rounds_all(&self) -> bool {
        self.activations && self.pass.options.target.profile().whole
    }
    /// The options of the layers that read a weight.
    fn options(&self, graph: &Graph, v: ValueId) -> QuantOptions {
        let mut options = self.pass.options_of(graph, v);
        // Accelerators have no scales for each column of a product.
        let convolved = |(graph, op, _): &(&Graph, OpId, usize)| graph.op(*op).op_type.starts_with("Conv");
        options.per_channel &= !self.rounds_all() || readers(graph, v).iter().all(convolved);
        let bits = if self.pass.fixes_bits(graph, v) { options.bits } else { self.bits };
        QuantOptions { bits, ..options }
    }
    fn integers(&self, graph: &Graph, v: ValueId) -> Integers {
        let options = self.options(graph, v);
        if let Some(float8) = options.float8 {
            return Integers::float8(float8);
        }
        let integers = Integers::of(options.bits, options.symmetric(options.bits), self.opset);
        // One scale for all columns leaves those that are small few steps, unless there are tens of thousands.
        let few = integers.clip || self.rounds_all() && !options.per_channel && options.bits <= 8;
        Integers { clip: few, ..integers }
    }
    /// The scheme of a weight that is read so.
    fn scheme(&self, graph: &Graph, v: ValueId, lie: Lie) -> Option<QuantScheme> {
        let weight = graph.constant(v)?;
        scales::fit(weight, grain(&self.options(graph, v), weight, lie), self.integers(graph, v), |_| 1.0)
    }
    /// Which elements of a weight share a scale.
    pub(super) fn grain_of(&self, graph: &Graph, v: ValueId) -> Option<Grain> {
        Some(grain(&self.options(graph, v), graph.constant(v)?, lie(graph, v)?))
    }
    /// The axis of a weight's output channels.
    pub(super) fn outputs_of(graph: &Graph, v: ValueId) -> Option<usize> {
        Some(lie(graph, v)?.outputs)
    }
}

fn grain(options: &QuantOptions, weight: &Tensor, lie: Lie) -> Grain {
    let Lie { outputs, first, end } = lie;
    match options.block(options.bits) {
        0 if options.per_channel => Grain::Axis(outputs),
        0 => Grain::Tensor,
        // A block that no sum fills would be stored filled up.
        block => Grain::Blocks {
            first,
            end,
            size: weight.shape()[first..end].iter().product::<usize>().min(block),
        },
    }
}

/// What [`annotate`] did.
#[derive(Clone, Default)]
pub(super) struct Layers {
    /// Ops with an integer kernel whose weight is what it takes, and products of two activations, oldest first.
    pub ops: Vec<OpId>,
    /// The constants that are integers now.
    pub weights: Vec<ValueId>,
    /// The ops for which a table asks that what they read is rounded as the model runs.
    pub dynamic: Vec<OpId>,
    /// What integers they are.
    pub integers: BTreeMap<ValueId, Integers>,
}

impl Layers {
    fn add(&mut self, plan: &Plan<'_>, graph: &mut Graph, v: ValueId, scheme: QuantScheme) {
        let (options, integers) = (plan.options(graph, v), plan.integers(graph, v));
        let float32 = graph.dtype(v) == Some(DType::F32);
        if options.suits_integer_kernels() && options.activations != Activations::None && float32 {
            let ops = graph.uses(v).into_iter().map(|at| at.op());
            self.ops.extend(ops.filter(|op| Kind::of(graph, *op).is_some()));
            self.ops.sort_unstable();
            self.ops.dedup();
        }
        if plan.pass.asks_for_dynamic(graph, v) {
            self.dynamic.extend(graph.uses(v).into_iter().map(|at| at.op()));
        }
        graph.value_mut(v).quant = Some(scheme);
        self.weights.push(v);
        self.integers.insert(v, integers);
    }
    /// How an op computes where its kind is placed so.
    pub(super) fn how(&self, graph: &Graph, placement: &Placement, op: OpId) -> How {
        match (self.ops.contains(&op), self.dynamic.contains(&op)) {
            (false, _) => How::Float,
            (_, true) => How::Dynamic,
            _ => placement.of(graph, op),
        }
    }
    /// The same weights with so many bits each; those without any are float again. Bits that are given stay.
    pub(super) fn with_bits(&self, plan: &Plan<'_>, graph: &mut Graph, bits: &[Option<usize>]) -> Layers {
        let mut layers = Layers::default();
        for (v, bits) in self.weights.iter().zip(bits) {
            let bits = if plan.pass.fixes_bits(graph, *v) { Some(plan.bits) } else { *bits };
            let plan = bits.map(|bits| Plan { bits, ..*plan });
            let scheme = plan.and_then(|plan| Some((plan, lie(graph, *v)?)));
            graph.value_mut(*v).quant = None;
            if let Some((plan, lie)) = scheme
                && let Some(scheme) = plan.scheme(graph, *v, lie)
            {
                layers.add(&plan, graph, *v, scheme);
            }
        }
        layers
    }
}

/// How a weight lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Lie {
    /// The axis of its output channels.
    outputs: usize,
    /// The axes over which its products are summed up, from this one,
    first: usize,
    /// to before this one.
    end: usize,
}

/// How a weight of this rank in this slot of an op lies; `None` where none goes there.
fn lie_of(graph: &Graph, op: OpId, slot: usize, rank: usize) -> Option<Lie> {
    let node = graph.op(op);
    if !node.is_standard() || rank < 2 {
        return None;
    }
    let (outputs, first, end) = match (node.op_type.as_str(), slot) {
        ("Conv", 1) => (0, 1, rank),
        // With groups, axis 1 of [in, out / groups, ...] mixes channels of all groups, and axis 0 keeps them apart.
        ("ConvTranspose", 1) => (usize::from(node.int("group").unwrap_or(1) == 1), 0, 1),
        ("Gemm", 1) if node.int("transB").unwrap_or(0) == 0 => (1, 0, 1),
        ("Gemm", 1) => (0, 1, 2),
        ("MatMul", 1) => (rank - 1, rank - 2, rank - 1),
        // Rows of a table differ in size; a scale each keeps the small ones exact.
        ("Gather", 0) if node.int("axis").unwrap_or(0) == 0 => (0, 1, rank),
        // [directions, gates * hidden, in]
        ("LSTM" | "GRU" | "RNN", 1 | 2) if rank == 3 => (1, 2, 3),
        _ => return None,
    };
    Some(Lie { outputs, first, end })
}

/// The weight that a use reads as such, and how it lies.
fn read(graph: &Graph, at: Use) -> Option<(ValueId, Lie)> {
    let Use::Input(op, slot) = at else { return None };
    let v = graph.input(op, slot)?;
    Some((v, lie_of(graph, op, slot, graph.constant(v)?.rank())?))
}

/// How a weight lies for the first op that reads it as such, in bodies too.
pub(super) fn lie(graph: &Graph, v: ValueId) -> Option<Lie> {
    let rank = graph.constant(v).filter(|t| is_real(t.dtype()))?.rank();
    readers(graph, v).into_iter().find_map(|(graph, op, slot)| lie_of(graph, op, slot, rank))
}

/// Makes constants of the weights that are stored in half precision and cast to float32; returns them with the type that
/// they are stored in.
pub(super) fn uncast(plan: &Plan<'_>, graph: &mut Graph) -> Vec<(ValueId, DType)> {
    let mut done = Vec::new();
    for op in graph.order() {
        let (from, to) = (graph.input(op, 0), graph.output(op, 0));
        let Some((from, to)) = from.zip(to).filter(|_| graph.op(op).is("Cast")) else { continue };
        let Some(tensor) = graph.constant(from) else { continue };
        let (dtype, rank) = (tensor.dtype(), tensor.rank());
        let fewer = dtype.bits() > plan.bits || plan.activations;
        let half = matches!(dtype, DType::F16 | DType::BF16) && fewer;
        let narrow = half && graph.dtype(to) == Some(DType::F32);
        let is_read = |(graph, op, slot): &(&Graph, OpId, usize)| lie_of(graph, *op, *slot, rank).is_some();
        if !narrow || tensor.len() < worth(plan.bits) || graph.is_output(to) {
            continue;
        }
        let Some(numbers) = tensor.to_f32().filter(|_| readers(graph, to).iter().any(is_read)) else {
            continue;
        };
        let wide = Tensor::from_vec(tensor.shape(), numbers.into_owned());
        graph.make_constant(to, wide);
        graph.remove_op(op);
        graph.remove_value_if_unused(from);
        done.push((to, dtype));
    }
    done
}

/// Whether a graph, or a body that captures the value, gives it out.
pub(super) fn is_given_out(graph: &Graph, v: ValueId) -> bool {
    let inside = |op: OpId| {
        let mut bodies = graph.op(op).bodies();
        bodies.any(|body| body.find(graph.name_of(v)).is_some_and(|v| is_given_out(body, v)))
    };
    graph.is_output(v) || graph.uses(v).iter().any(|at| matches!(at, Use::Capture(op) if inside(*op)))
}

/// Whether numbers of this type are quantized.
fn is_real(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16 | DType::F64)
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
/// time on putting the pixels of each window together: up to 3 times as long as float32, which needs not do that
/// (`benches/kernels.py`).
pub(super) fn gathers_more_than_it_multiplies(graph: &Graph, op: OpId) -> bool {
    let weight = graph.input(op, 1).and_then(|w| graph.constant(w));
    let grouped = graph.op(op).int("group").unwrap_or(1) != 1;
    !grouped && weight.is_some_and(|w| w.rank() > 2 && w.shape()[1] < 4 && w.len() < 2400)
}

/// Gives every weight that can be integers its scheme, and says why others cannot.
pub(super) fn annotate(plan: &Plan<'_>, graph: &mut Graph, cx: &mut Context<'_>) -> Layers {
    let mut layers = Layers::default();
    let constants: Vec<ValueId> = graph.initializers().map(|(v, _)| v).collect();
    for v in constants {
        let Some(lie) = lie(graph, v) else { continue };
        // A row that is picked keeps its scheme, so tables have that of activations.
        let is_table = |at: &Use| matches!(at, Use::Input(op, 0) if graph.op(*op).is("Gather"));
        if plan.rounds_all() && graph.uses(v).iter().any(is_table) {
            continue;
        }
        let scheme = match scheme(plan, graph, v, lie) {
            Ok(scheme) => scheme,
            Err(why) => {
                cx.missed(Where::Value(graph.name_of(v).to_owned()), why);
                continue;
            }
        };
        layers.add(plan, graph, v, scheme);
    }
    stored_before(graph, cx);
    if !plan.pass.options.requantize {
        graph.for_each_nested(&mut |graph| {
            for (op, v) in read_whole(graph) {
                let why = format!("its weight `{}` is quantized already", graph.name_of(v));
                cx.missed(graph.place(op), why);
            }
        });
    }
    layers
}

/// Says what became of the weights, now that all have their forms. A small one that no integer kernel reads goes back
/// to float.
pub(super) fn tell(graph: &mut Graph, layers: &Layers, placement: &Placement, cx: &mut Context<'_>) {
    for v in &layers.weights {
        let name = graph.name_of(*v).to_owned();
        let Some(dtype) = graph.value(*v).quant.as_ref().map(|s| s.dtype) else { continue };
        if !gains(graph, *v) {
            let len = graph.constant(*v).map_or(0, |t| t.len());
            graph.value_mut(*v).quant = None;
            cx.missed(Where::Value(name), too_few(len, dtype));
            continue;
        }
        cx.count("weights", 1);
        if let Some((graph, op, _)) = readers(graph, *v).first() {
            cx.applied(graph.place(*op), format!("weight `{name}` is {dtype}"));
        }
    }
    if *placement == Placement::FLOAT {
        return;
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

/// Whether a weight that has its form is worth its nodes: a small one is where an integer kernel reads it.
pub(super) fn gains(graph: &Graph, v: ValueId) -> bool {
    graph.constant(v).is_some_and(|t| t.len() >= worth(8))
        || graph.value(v).quant.as_ref().is_some_and(|scheme| scheme.form == QuantForm::Dynamic)
        || graph.uses(v).iter().any(|at| computes_in_integers(graph, *at))
}

fn too_few(len: usize, dtype: DType) -> String {
    format!("its {len} elements are too few to gain from {dtype}")
}

/// Says of which layers, those in bodies too, the model came with weights of few bits.
fn stored_before(graph: &Graph, cx: &mut Context<'_>) {
    graph.for_each_nested(&mut |graph| {
        let stored = dequantized(graph);
        let made = graph.order().into_iter().filter_map(|op| graph.output(op, 0));
        for v in made.filter(|v| stored.contains(v)) {
            let Some(rank) = graph.rank(v) else { continue };
            let layers = readers(graph, v).into_iter();
            for (reader, op, _) in layers.filter(|(g, op, slot)| lie_of(g, *op, *slot, rank).is_some()) {
                let why = format!("its weight `{}` is quantized already", graph.name_of(v));
                cx.missed(reader.place(op), why);
            }
        }
    });
}

fn scheme(plan: &Plan<'_>, graph: &Graph, v: ValueId, lie: Lie) -> Result<QuantScheme, String> {
    let (value, readers) = (graph.value(v), readers(graph, v));
    let Origin::Initializer(tensor) = &value.origin else { return Err("it is no dense constant".into()) };
    if value.quant.is_some() {
        return Err("it is quantized already".into());
    }
    if plan.pass.options.dequantizes() && !dequantizes_to(tensor.dtype(), plan.opset) {
        let newest =
            if tensor.dtype() == DType::F64 { "" } else { ", or only in newer operator sets (`--opset 19`)" };
        return Err(format!("it is {}, which DequantizeLinear does not make{newest}", tensor.dtype()));
    }
    if tensor.dtype().bits() <= plan.integers(graph, v).dtype.bits() {
        return Err(format!("it is {}, which takes no more bits", tensor.dtype()));
    }
    if graph.is_input(v) || is_given_out(graph, v) {
        return Err("it is part of the graph's interface".into());
    }
    // With integer activations a small float layer in between would break the chain, so size does not matter.
    let options = plan.options(graph, v);
    let integers = plan.activations || options.activations == Activations::Dynamic;
    let links = integers
        && options.activations != Activations::None
        && tensor.dtype() == DType::F32
        && graph.uses(v).iter().any(|at| has_integer_kernel(graph, at.op()));
    if !links && tensor.len() < worth(options.bits) {
        return Err(too_few(tensor.len(), plan.integers(graph, v).dtype));
    }
    if let Some((graph, op, _)) = readers.iter().find(|(graph, op, _)| plan.pass.excludes(graph, *op)) {
        return Err(format!("`{}` is excluded", graph.place(*op).name()));
    }
    for (graph, op, slot) in readers {
        let place = graph.place(op);
        match lie_of(graph, op, slot, tensor.rank()) {
            Some(other) if other == lie => {}
            Some(_) => return Err(format!("`{}` needs its scales on another axis", place.name())),
            None => return Err(format!("`{}` needs it in float as well", place.name())),
        }
    }
    plan.scheme(graph, v, lie).ok_or_else(|| "it holds infinities or NaN".into())
}
