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
    ir::{Model, ValueId},
    ops::moments::Estimates,
    passes::linear::Layer,
};

/// Corrects the biases of the layers of these weights where the means of what they read in the float model are known;
/// returns how many.
pub(super) fn correct(model: &mut Model, float: &Model, weights: &[ValueId], layers: &Layers) -> usize {
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
            let (before, after) = (float.graph.constant(layer.weight)?.to_f32()?, rounded.to_f32()?);
            let ends = ends(g.op(layer.op), weight.shape())?;
            let mut shift = Vec::new();
            for (at, (x, y)) in before.iter().zip(after.iter()).enumerate() {
                let [reads, makes] = ends(at);
                shift.resize(shift.len().max(makes + 1), 0.0);
                shift[makes] += f64::from(x - y) * means.get(reads)?;
            }
            Some((layer, shift))
        })
        .collect();
    shifts.iter().filter(|(layer, by)| layer.shift(&mut model.graph, by).is_some()).count()
}
