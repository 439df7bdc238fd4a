//! Where activations become integers, so that the runtime finds whole chains of integer operators.

use super::{
    Quant,
    chains::{Chains, behind_clip},
    expected, held, masks, observe, pairs,
    placement::{How, Placement},
    room,
    rule::Rule,
    target::symmetric,
    weights::{Layers, weight_of},
    whole,
};
use crate::{
    error::Result,
    ir::{DType, Grain, Graph, Model, Op, OpId, QuantForm, QuantScheme, Use, ValueId, Where},
    passes::Context,
};
use std::collections::{BTreeMap, BTreeSet};

/// The largest bias in integer steps; sums of products still fit beside it.
const BIAS_LIMIT: f32 = (1u32 << 30) as f32;

/// The schemes of values that are to be integers, as far as their ranges are known; `None` where what was measured allows none.
pub(super) type Schemes = BTreeMap<ValueId, Option<QuantScheme>>;

/// Measures what the placement, and any that places fewer kinds so, wants to round, on the first `most` samples, by each of the
/// rules; without samples, as far as the model tells, which is one set of schemes.
pub(super) fn schemes(
    pass: &Quant,
    rules: &[Rule],
    model: &Model,
    layers: &Layers,
    placement: &Placement,
    most: usize,
    cx: &Context<'_>,
) -> Result<Vec<Schemes>> {
    let graph = &model.graph;
    let (pairs, layers) = pairs::apart(graph, placed(graph, layers, placement));
    let chains = chains(pass, graph, &layers, placement, |_| true);
    let (options, dtype) = (&pass.options, pass.options.activation_dtype());
    let operands = pairs.into_iter().filter_map(|op| pairs::operands(graph, op)).flatten();
    let mut values = chains.values.iter().copied().chain(operands).collect::<BTreeSet<_>>();
    let whole = options.target.profile().whole;
    let mut masked = if whole { masks::masked(graph) } else { BTreeMap::new() };
    masked.retain(|v, _| values.remove(v));
    let mut sets = match cx.has_samples() {
        true => observe::schemes(rules, dtype, model, values, most, cx)?,
        false => vec![expected::schemes(dtype, graph, &values)],
    };
    let lacks =
        |op: &OpId| asks(pass, graph, *op).iter().any(|v| sets.iter().all(|set| !set.contains_key(v)));
    if !cx.has_samples() && !layers.is_empty() && layers.iter().all(lacks) {
        return Err(expected::nothing_told());
    }
    let masked = masks::schemes(dtype, model, &masked, most, cx)?;
    for schemes in &mut sets {
        schemes.extend(masked.clone());
        if options.leaves_room() && cx.has_samples() {
            room::leave(graph, schemes);
        }
        settle(pass, graph, schemes);
    }
    Ok(sets)
}

/// What operators ask of the schemes that were measured.
fn settle(pass: &Quant, graph: &Graph, schemes: &mut Schemes) {
    let profile = pass.options.target.profile();
    if profile.whole {
        whole::settle(graph, schemes);
    }
    // Rounding computes HardSigmoid about its offset.
    for (v, scheme) in &mut *schemes {
        let offset = graph.producer(*v).map(|(op, _)| graph.op(op));
        let offset =
            offset.filter(|node| node.is("HardSigmoid")).map(|node| node.float("beta").unwrap_or(0.5));
        *scheme = scheme.take().map(|scheme| offset.into_iter().fold(scheme, QuantScheme::with_exact));
    }
    if profile.symmetric_activations {
        schemes.values_mut().flatten().for_each(|scheme| *scheme = symmetric(scheme));
    }
}

fn placed(graph: &Graph, layers: &Layers, placement: &Placement) -> Vec<OpId> {
    layers.ops.iter().filter(|op| layers.how(graph, placement, **op) == How::Static).copied().collect()
}

/// Annotates the inputs and outputs of the layers placed so, and of what joins them, then their biases. Returns how
/// many activations are integers now, and which layers compute in integers.
pub(super) fn annotate(
    pass: &Quant,
    graph: &mut Graph,
    layers: &Layers,
    placement: &Placement,
    measured: &Schemes,
    said: &mut Vec<(Where, String)>,
) -> (u64, Vec<OpId>) {
    let (pairs, mut layers) = pairs::apart(graph, placed(graph, layers, placement));
    let scheme = |v: ValueId| measured.get(&v).cloned().flatten();
    layers.retain(|op| {
        let open = asks(pass, graph, *op).into_iter().find(|v| scheme(*v).is_none());
        said.extend(open.map(|v| (graph.place(*op), stays_float(graph, v, measured))));
        open.is_none()
    });
    let chains = chains(pass, graph, &layers, placement, |v| scheme(v).is_some());
    let mut schemes: BTreeMap<ValueId, QuantScheme> =
        chains.values.iter().filter_map(|v| Some((*v, scheme(*v)?))).collect();
    let profile = pass.options.target.profile();
    if profile.whole {
        schemes.extend(whole::moved(graph, &chains, pass.options.activation_dtype()));
    }
    chains.follow(graph, &mut schemes);
    for (v, scheme) in &schemes {
        let saturates = !profile.whole && chains.saturates(graph, *v);
        let form = if saturates { QuantForm::Saturated } else { scheme.form };
        let read = split_readers(graph, *v, &layers, &chains);
        graph.value_mut(read).quant = Some(QuantScheme { form, ..scheme.clone() });
    }
    if !profile.slow_kinds {
        held::around_pools(graph);
    }
    let biased = match profile.whole {
        true => whole::constants(pass, graph, &chains, said),
        false => layers.clone(),
    };
    if profile.integer_biases && (profile.wide_integers || !pass.options.has_wide_activations()) {
        biases(graph, &biased, said);
    }
    (schemes.len() as u64 + pairs::annotate(graph, &pairs, measured), layers)
}

/// What is to be integers: layer inputs, outputs of convolutions (behind a fused Relu or Clip), and what lies between.
///
/// Products (Gemm, MatMul) write floats from their integer sums at no cost, so their outputs are rounded only where
/// another layer wants integers.
fn chains(
    pass: &Quant,
    graph: &Graph,
    layers: &[OpId],
    placement: &Placement,
    known: impl Fn(ValueId) -> bool,
) -> Chains {
    match pass.options.target.profile().whole {
        true if placement.is_static() => return whole::chains(pass, graph, known),
        true => return Chains::default(),
        false => {}
    }
    let asked = layers.iter().flat_map(|op| asks(pass, graph, *op)).collect();
    Chains::from(graph, layers, asked, placement, |op| pass.keeps_float(graph, op), known)
}

/// What a layer that computes in integers asks to be integers.
fn asks(pass: &Quant, graph: &Graph, op: OpId) -> Vec<ValueId> {
    let writes = graph.op(op).is("Conv") && pass.options.target.profile().rounds_outputs;
    let read = graph.input(op, 0).filter(|x| graph.constant(*x).is_none());
    let written = graph.output(op, 0).filter(|_| writes);
    read.into_iter().chain(written.map(|y| behind_clip(graph, y))).collect()
}

/// Why a layer that asks for this value computes in float.
fn stays_float(graph: &Graph, v: ValueId, measured: &Schemes) -> String {
    let name = graph.name_of(v);
    match measured.contains_key(&v) {
        true => format!("stays float: the measured range of `{name}` is not finite"),
        false => format!("stays float: without samples nothing tells the range of `{name}`"),
    }
}

/// Where a value comes from a float operator, only integer operators read it rounded: an Identity stands for what
/// they read, and the others (a residual path, a graph output) keep the exact floats.
fn split_readers(graph: &mut Graph, v: ValueId, layers: &[OpId], chains: &Chains) -> ValueId {
    let member = |op: OpId| chains.has(op) || graph.op(op).is("Conv") && layers.contains(&op);
    let mut source = graph.producer(v).map(|p| p.0);
    if let Some(op) = source.filter(|o| graph.op(*o).is("Relu") || graph.op(*o).is("Clip")) {
        let inner = graph.input(op, 0).filter(|x| behind_clip(graph, *x) == v);
        source = inner.and_then(|x| graph.producer(x)).map(|p| p.0);
    }
    if source.is_some_and(member) {
        return v;
    }
    let (inside, outside): (Vec<Use>, Vec<Use>) =
        graph.uses(v).into_iter().partition(|at| chains.reads(at, layers));
    if inside.is_empty() || outside.is_empty() && !graph.is_output(v) {
        return v;
    }
    let (name, ty) = (graph.name_of(v).to_owned(), graph.value(v).ty.clone());
    let copy =
        graph.add_node(Op::new("Identity", format!("{name}_rounded")), &[v], &format!("{name}_rounded"), ty);
    for at in inside {
        graph.replace_use(at, v, copy);
    }
    copy
}

/// Biases become int32 in steps of input scale times weight scale, as integer kernels add them.
fn biases(graph: &mut Graph, layers: &[OpId], said: &mut Vec<(Where, String)>) {
    let mut missed = |at, why: &str| said.push((at, why.to_owned()));
    for op in layers {
        let node = graph.op(*op);
        let unscaled = |name| node.float(name).unwrap_or(1.0) == 1.0;
        let normalizes = whole::is_normalization(node);
        let layer =
            node.op_type.starts_with("Conv") || node.is("Gemm") && unscaled("alpha") && unscaled("beta");
        if !layer && !normalizes {
            continue;
        }
        let weight = if normalizes { graph.input(*op, 1) } else { weight_of(graph, *op) };
        let (Some(x), Some(w), Some(b)) = (graph.input(*op, 0), weight, graph.input(*op, 2)) else {
            continue;
        };
        let (Some(input), Some(weight)) = (graph.value(x).quant.clone(), graph.value(w).quant.clone()) else {
            continue;
        };
        let Some(bias) = graph.initializer(b).filter(|t| t.rank() == 1 && t.dtype() == DType::F32) else {
            continue;
        };
        let at = Where::Value(graph.name_of(b).to_owned());
        if graph.sole_use(b).is_none() || graph.is_input(b) {
            missed(at, "the bias has other users, so it stays float");
            continue;
        }
        let values = bias.to_f32().unwrap_or_default().into_owned();
        let mut weight = weight;
        let fits = match weight.grain {
            Grain::Tensor => weight.scales.len() == 1,
            Grain::Axis(_) => weight.scales.len() == values.len(),
            Grain::Blocks { .. } => false,
        };
        if !fits {
            missed(at, "the bias does not match the weight's channels, so it stays float");
            continue;
        }
        // A channel of tiny weights under a large bias would need more steps than int32 has: coarser steps do it no
        // harm, because the bias outweighs everything they could tell.
        let channels = weight.scales.len();
        for (i, b) in values.iter().enumerate() {
            let scale = &mut weight.scales[i % channels];
            *scale = scale.max(b.abs() / (BIAS_LIMIT * input.scales[0]));
        }
        let steps: Vec<f32> = weight.scales.iter().map(|s| s * input.scales[0]).collect();
        if steps.iter().any(|s| !(s.is_normal() && *s > 0.0)) {
            missed(at, "the layer's steps are beyond float32, so its bias stays float");
            continue;
        }
        if Some(&weight) != graph.value(w).quant.as_ref() {
            if graph.sole_use(w).is_none() {
                missed(
                    at,
                    "the bias is too large for int32 in the steps of a shared weight, so it stays float",
                );
                continue;
            }
            graph.value_mut(w).quant = Some(weight.clone());
        }
        let grain = if weight.grain == Grain::Tensor { Grain::Tensor } else { Grain::Axis(0) };
        let zero_points = vec![0; steps.len()];
        let form = QuantForm::Qdq;
        graph.value_mut(b).quant =
            Some(QuantScheme { dtype: DType::I32, grain, scales: steps, zero_points, form });
    }
}
