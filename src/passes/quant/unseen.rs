//! Biases that make up for the mean error of rounding weights, without samples: the mean of what a layer reads is what
//! BatchNormalization before it tells (Nagel et al. 2019, data-free quantization).
//!
//! `W' x + b` is off by `(W - W') E[x]` on average, which goes into the bias. At the edges of an image, where a convolution
//! reads padding, it is off by less.

use super::{
    scales,
    seam::ends,
    weights::{Layers, gains},
};
use crate::{
    ir::{Graph, Model, Tensor, ValueId},
    ops::moments::Estimates,
    passes::linear::Layer,
};

/// Corrects the biases of the layers of these weights where the means of what they read in the float model are known, and says
/// how many; nothing where there are none.
pub(super) fn correct(
    model: &mut Model,
    float: &Model,
    weights: &[ValueId],
    layers: &Layers,
) -> Option<String> {
    let estimates = Estimates::of(&float.graph);
    let g = &model.graph;
    let linear =
        float.graph.order().into_iter().filter_map(|op| Layer::of(&float.graph, op, float.opset())?.ok());
    let shifts: Vec<(Layer, Vec<f64>)> = linear
        .filter(|layer| layer.has_bias() && weights.contains(&layer.weight) && gains(g, layer.weight))
        .filter_map(|layer| {
            let means = &estimates.get(layer.input)?.mean;
            let weight = g.constant(layer.weight)?;
            let scheme = g.value(layer.weight).quant.as_ref()?;
            let rounded = scales::rounded(weight, scheme, layers.integers[&layer.weight])?;
            let of = |weight| product(&float.graph, &layer, weight, means);
            let (before, after) = (of(float.graph.constant(layer.weight)?)?, of(&rounded)?);
            let shift = before.into_iter().zip(after).map(|(x, y)| x - y).collect();
            Some((layer, shift))
        })
        .collect();
    let count = shifts.iter().filter(|(layer, by)| layer.shift(&mut model.graph, by).is_some()).count();
    (count > 0).then(|| {
        format!(
            "biases that make up for the mean error of rounding: {count}, by what BatchNormalization tells"
        )
    })
}

/// What a layer with such a weight makes of channels that are these numbers everywhere, without its bias.
pub(super) fn product(g: &Graph, layer: &Layer, weight: &Tensor, channels: &[f64]) -> Option<Vec<f64>> {
    // Only there are the last axis and the second the same.
    (layer.is_convolution() || g.rank(layer.input) == Some(2)).then_some(())?;
    let ends = ends(g.op(layer.op), weight.shape())?;
    let mut sums = vec![0.0; layer.outputs * layer.groups];
    for (at, w) in weight.to_f32()?.iter().enumerate() {
        let [reads, makes] = ends(at);
        *sums.get_mut(makes)? += f64::from(*w) * channels.get(reads)?;
    }
    Some(sums)
}
