//! Biases that make up for what rounding adds on average.
//!
//! Rounded weights, and inputs that are rounded and saturate, move what a layer puts out by much the same on every sample.
//! The mean of that, for each output, goes into the layer's bias. It is found with the inputs that the float model gives
//! each layer: those before it are corrected alike, so that this is what it will see on average. So all layers are
//! corrected by one sweep: a model computes each of them twice, as it is and rounded.
//!
//! The first quarter of the batches is held out: where the outputs are further from the float model's on them, everything
//! stays as it was.

use super::{
    scales,
    weights::{Layers, gains},
};
use crate::{
    error::Result,
    ir::{Model, Op, ValueId},
    measure::Probe,
    ops::reduce,
    passes::{
        Context,
        linear::{Layer, effect::Original},
    },
};

/// The share of batches that are held out, as a divisor.
const HELD: usize = 4;

/// Corrects the biases of the layers of these weights for what the model becomes where it is `placed`, and says what that
/// is worth; nothing where it stays as it is.
pub(super) fn correct(
    model: &mut Model,
    float: &Original,
    weights: &[ValueId],
    layers: &Layers,
    placed: impl Fn(&Model) -> Model,
    cx: &Context<'_>,
) -> Result<Option<String>> {
    let (twice, computed) = twice(&float.model, &placed(model), weights, layers);
    let Some((shifts, held)) = means(float, &cx.written(&twice)?.0, &computed, cx)? else { return Ok(None) };
    let mut shifted = model.clone();
    let shifts = computed.iter().zip(&shifts);
    let count = shifts.filter(|((layer, _), by)| layer.shift(&mut shifted.graph, by).is_some()).count();
    let written = |model: &&Model| Ok(cx.written(&placed(model))?.0);
    let errors = float.errors_on(held, &[&*model, &shifted], written, cx)?;
    let [before, after] = [0, 1].map(|k| errors.get(k).copied().unwrap_or_default().sqrt() * 100.0);
    let better = after <= before;
    if better {
        *model = shifted;
    }
    Ok(better.then(|| {
        format!(
            "biases that make up for the mean error of rounding: {count}; outputs off by {before:.2} % -> {after:.2} %"
        )
    }))
}

/// The float model, in which each layer is computed once more, rounded as in `placed`, and the name of the mean of what
/// that takes from each of its outputs.
fn twice(
    float: &Model,
    placed: &Model,
    weights: &[ValueId],
    layers: &Layers,
) -> (Model, Vec<(Layer, String)>) {
    let (mut model, opset) = (float.clone(), float.opset());
    let (g, mut computed) = (&mut model.graph, Vec::new());
    for op in float.graph.order() {
        let Some(Ok(layer)) = Layer::of(&float.graph, op, opset) else { continue };
        if !layer.has_bias() || !weights.contains(&layer.weight) || !gains(&placed.graph, layer.weight) {
            continue;
        }
        let (scheme, integers) =
            (&placed.graph.value(layer.weight).quant, layers.integers.get(&layer.weight));
        let rounded = scheme.as_ref().zip(integers).zip(placed.graph.constant(layer.weight));
        let rounded = rounded.and_then(|((scheme, i), weight)| scales::rounded(weight, scheme, *i));
        let Some((y, rounded)) = g.output(op, 0).zip(rounded) else { continue };
        let Some(rank) = g.rank(y) else { continue };
        let channels = if layer.is_convolution() { 1 } else { rank - 1 };
        let mut inputs = g.inputs_of(op);
        inputs[1] = Some(g.add_initializer("rounded", rounded));
        let read = placed.graph.input(op, 0).and_then(|x| placed.graph.value(x).quant.clone());
        if read.is_some() {
            let ty = g.value(layer.input).ty.clone();
            let x = g.add_node(Op::new("Identity", ""), &[layer.input], "rounded", ty);
            g.value_mut(x).quant = read;
            inputs[0] = Some(x);
        }
        let ty = g.value(y).ty.clone();
        let node = Op { name: String::new(), ..g.op(op).clone() };
        let twin = g.add_value("twin", ty.clone());
        g.add_op(node, &inputs, &[Some(twin)]);
        let lost = g.add_node(Op::new("Sub", ""), &[y, twin], "lost", ty);
        let mean = reduce(g, opset, "ReduceMean", lost, Some((channels, rank)));
        computed.push((layer, g.name_of(mean).to_owned()));
    }
    (model, computed)
}

/// The means over the samples that are not held out, a number for each output of each layer, and how many samples are held
/// out: all where there are few batches. Nothing where there is nothing to see.
fn means(
    float: &Original,
    twice: &Model,
    computed: &[(Layer, String)],
    cx: &Context<'_>,
) -> Result<Option<(Vec<Vec<f64>>, usize)>> {
    let g = &float.model.graph;
    let Some(input) = g.inputs.iter().find(|v| g.initializer(**v).is_none()) else { return Ok(None) };
    if computed.is_empty() {
        return Ok(None);
    }
    let names = computed.iter().map(|(_, mean)| mean.clone());
    let fetch: Vec<String> = [g.name_of(*input).to_owned()].into_iter().chain(names).collect();
    let most = float.affordable(2, cx)?.max(1);
    let (mut sums, mut counted, mut held): (Vec<Vec<f64>>, _, _) = (Vec::new(), 0, 0);
    cx.sweep(&[Probe { model: twice, fetch: &fetch }], 0..most, &mut |seen| {
        let Some((input, means)) = seen.values.first().and_then(|v| v.split_first()) else { return Ok(()) };
        let samples = input.shape().first().copied().unwrap_or(1);
        if seen.batch < seen.batches / HELD {
            held += samples;
            return cx.check_cancelled();
        }
        counted += samples;
        sums.resize(means.len(), Vec::new());
        for (sum, mean) in sums.iter_mut().zip(means) {
            let mean = mean.to_f32().unwrap_or_default();
            sum.resize(mean.len(), 0.0);
            sum.iter_mut().zip(mean.iter()).for_each(|(sum, x)| *sum += f64::from(*x) * samples as f64);
        }
        cx.check_cancelled()
    })?;
    if counted == 0 {
        return Ok(None);
    }
    sums.iter_mut().flatten().for_each(|sum| *sum /= counted as f64);
    Ok(Some((sums, if held == 0 { counted } else { held })))
}
