//! Where activations become uint8, so that the runtime finds whole chains of integer operators.

use super::{Quant, weights::weight_of};
use crate::{
    error::Result,
    ir::{DType, Graph, Model, OpId, QuantScheme, Use, ValueId, Where},
    measure::{Need, Stat},
    passes::Context,
};
use std::collections::{BTreeMap, BTreeSet};

/// Operators that move elements without changing them: input and output share one scheme.
const MOVES: &[&str] = &["MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze"];
/// The largest bias in integer steps; sums of products still fit beside it.
const BIAS_LIMIT: f32 = (1u32 << 30) as f32;

/// Annotates the inputs and outputs of the `layers` and of what joins them, then their biases.
pub(super) fn annotate(pass: &Quant, model: &mut Model, layers: &[OpId], cx: &mut Context<'_>) -> Result<()> {
    let wanted = wanted(pass, &model.graph, layers);
    let need =
        |v: &ValueId| Need { value: model.graph.name_of(*v).to_owned(), stat: Stat::Range { axis: None } };
    let stats = cx.measure(model, &wanted.iter().map(need).collect::<Vec<_>>())?;
    let graph = &mut model.graph;
    let mut schemes: BTreeMap<ValueId, QuantScheme> = BTreeMap::new();
    for v in &wanted {
        let range = stats.range(graph.name_of(*v));
        match range.and_then(|(min, max)| QuantScheme::uint8_over(min, max)) {
            Some(scheme) => {
                schemes.insert(*v, scheme);
            }
            None => cx.missed(Where::Value(graph.name_of(*v).to_owned()), "its measured range is not finite"),
        }
    }
    for op in graph.order() {
        if let Some((x, y)) = moved(graph, op)
            && wanted.contains(&y)
        {
            match schemes.get(&x).cloned() {
                Some(scheme) => schemes.insert(y, scheme),
                None => schemes.remove(&y),
            };
        }
    }
    cx.count("activations", schemes.len() as u64);
    for (v, scheme) in schemes {
        graph.value_mut(v).quant = Some(scheme);
    }
    biases(graph, layers, cx);
    Ok(())
}

/// The values to be uint8: layer inputs, layer outputs (behind a fused Relu or Clip), and what joins or moves them.
fn wanted(pass: &Quant, graph: &Graph, layers: &[OpId]) -> BTreeSet<ValueId> {
    let mut wanted = BTreeSet::new();
    for op in layers {
        wanted.extend(graph.input(*op, 0).filter(|x| graph.constant(*x).is_none()));
        let Some(y) = graph.output(*op, 0).map(|y| behind_clip(graph, y)) else { continue };
        // A product at the end writes floats from its integer sums, which is free; a Conv cannot.
        if !graph.is_output(y) || graph.op(*op).is("Conv") {
            wanted.insert(y);
        }
    }
    let order = graph.order();
    loop {
        let before = wanted.len();
        for op in &order {
            if pass.excludes(graph, *op) {
                continue;
            }
            if let Some((x, y)) = moved(graph, *op) {
                if wanted.contains(&x) && !graph.is_output(y) || wanted.contains(&y) {
                    wanted.extend([x, y]);
                }
                continue;
            }
            let node = graph.op(*op);
            let joins = node.is("Add") && graph.inputs_of(*op).len() == 2;
            if (joins || node.is("GlobalAveragePool") || node.is("AveragePool"))
                && graph.inputs_of(*op).iter().flatten().all(|x| wanted.contains(x))
                && let Some(y) = graph.output(*op, 0).map(|y| behind_clip(graph, y))
                && !graph.is_output(y)
            {
                wanted.insert(y);
            }
        }
        if wanted.len() == before {
            return wanted;
        }
    }
}

/// The output of a Relu or Clip that alone reads `y`: with the zero point at its lower end it becomes the rounding.
fn behind_clip(graph: &Graph, y: ValueId) -> ValueId {
    let Some(Use::Input(op, 0)) = graph.sole_use(y) else { return y };
    let node = graph.op(op);
    if node.is("Relu") || node.is("Clip") { graph.output(op, 0).unwrap_or(y) } else { y }
}

/// Input and output of an operator that only moves float elements.
fn moved(graph: &Graph, op: OpId) -> Option<(ValueId, ValueId)> {
    let node = graph.op(op);
    let (x, y) = (graph.input(op, 0)?, graph.output(op, 0)?);
    let float = graph.dtype(x).is_none_or(|d| d == DType::F32) && graph.constant(x).is_none();
    (float && node.is_standard() && MOVES.contains(&node.op_type.as_str()) && graph.output(op, 1).is_none())
        .then_some((x, y))
}

/// Biases become int32 in steps of input scale times weight scale, as integer kernels add them.
fn biases(graph: &mut Graph, layers: &[OpId], cx: &mut Context<'_>) {
    for op in layers {
        let node = graph.op(*op);
        let unscaled = |name| node.float(name).unwrap_or(1.0) == 1.0;
        if !(node.op_type.starts_with("Conv") || node.is("Gemm") && unscaled("alpha") && unscaled("beta")) {
            continue;
        }
        let (Some(x), Some((w, _)), Some(b)) =
            (graph.input(*op, 0), weight_of(graph, *op), graph.input(*op, 2))
        else {
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
            cx.missed(at, "the bias has other users, so it stays float");
            continue;
        }
        let steps: Vec<f32> = weight.scales.iter().map(|s| s * input.scales[0]).collect();
        let scale_at = |i: usize| steps[if steps.len() == 1 { 0 } else { i }];
        let values = bias.to_f32().unwrap_or_default();
        let fits = (steps.len() == 1 || steps.len() == values.len())
            && values.iter().enumerate().all(|(i, b)| (b / scale_at(i)).abs() <= BIAS_LIMIT);
        if !fits || steps.iter().any(|s| *s <= 0.0) {
            cx.missed(at, "the bias is too large for int32 in the layer's steps, so it stays float");
            continue;
        }
        let axis = (steps.len() == values.len() && weight.axis.is_some()).then_some(0);
        if axis.is_none() && steps.len() != 1 {
            continue;
        }
        let zero_points = vec![0; steps.len()];
        graph.value_mut(b).quant = Some(QuantScheme { dtype: DType::I32, axis, scales: steps, zero_points });
    }
}
