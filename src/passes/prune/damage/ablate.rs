//! What removing positions does to the model's outputs, seen by running it with their weights at zero and the layers that
//! read them adapted.

use super::{
    super::{Context, select::Candidate},
    eliminate::Moments,
    reader::{Layers, Reader},
};
use crate::{
    error::Result,
    ir::{Model, OpId, Tensor},
    measure::{Probe, Seen},
    ops::axes::{Factor, Flow, Keep},
};
use faer::Mat;

/// Samples that are run.
const SAMPLES: usize = 256;
/// The bytes of weights of models that are run side by side, unless one alone takes more.
const MOST_BYTES: usize = 256 << 20;
const MOST_MODELS: usize = 16;

/// A group with some of its positions gone.
pub(super) struct Look {
    /// Whose group it is.
    pub(super) candidate: usize,
    /// How many positions are gone.
    pub(super) removed: usize,
    factor: Factor,
    stay: Vec<usize>,
    /// New weights of the maps that read it: the op, which map of it, and the parts.
    weights: Vec<(OpId, usize, Vec<Mat<f64>>)>,
}

impl Look {
    /// At a candidate when the `removed` positions of the least score are gone.
    pub(super) fn of(k: usize, candidate: &Candidate, removed: usize, read: &[(&Reader, &Moments)]) -> Look {
        let mut order: Vec<usize> = (0..candidate.group.size).collect();
        order.sort_by(|a, b| candidate.scores[*a].total_cmp(&candidate.scores[*b]));
        let (gone, stay) = order.split_at(removed);
        let mut stay = stay.to_vec();
        stay.sort_unstable();
        let weights = read
            .iter()
            .filter_map(|(reader, moments)| Some((reader.op, reader.map, moments.without(reader, gone)?)));
        Look { candidate: k, removed, factor: candidate.group.factor, stay, weights: weights.collect() }
    }
    fn model(&self, model: &Model, flow: &Flow<'_>, layers: &Layers) -> Result<Model> {
        let mut ablated = model.clone();
        let g = &mut ablated.graph;
        for (op, map, weights) in &self.weights {
            if let Some(layer) = layers.linear.get(op) {
                layer.set(g, weights);
            } else if let Some(layer) = layers.recurrent.get(op)
                && let Some(mut all) = layer.weights(g)
            {
                let directions = all.iter_mut().zip(weights);
                directions.for_each(|(all, new)| all.set_map(&layer.maps[*map], layer.hidden, new));
                layer.set(g, &all);
            }
        }
        flow.cut(Keep::from([(self.factor, self.stay.clone())])).zero(&mut ablated)?;
        Ok(ablated)
    }
}

/// For each look the squared error of the outputs relative to their squares, summed over the outputs.
pub(super) fn errors(
    model: &Model,
    flow: &Flow<'_>,
    looks: &[Look],
    layers: &Layers,
    cx: &Context<'_>,
) -> Result<Vec<f64>> {
    let g = &model.graph;
    let fetch: Vec<String> = g.outputs.iter().map(|v| g.name_of(*v).to_owned()).collect();
    let bytes: usize = g.initializers().map(|(_, t)| t.byte_len()).sum();
    let together = (MOST_BYTES / bytes.max(1)).clamp(1, MOST_MODELS);
    let mut errors = Vec::with_capacity(looks.len());
    for looks in looks.chunks(together) {
        cx.check_cancelled()?;
        let models = looks.iter().map(|look| look.model(model, flow, layers)).collect::<Result<Vec<_>>>()?;
        let probes: Vec<_> =
            [model].into_iter().chain(&models).map(|model| Probe { model, fetch: &fetch }).collect();
        let mut sums = vec![vec![[0.0; 2]; fetch.len()]; looks.len()];
        cx.sweep(&probes, SAMPLES, &mut |seen: Seen<'_>| {
            let Some((original, ablated)) = seen.values.split_first() else { return Ok(()) };
            for (sums, ablated) in sums.iter_mut().zip(ablated) {
                for ((sum, a), b) in sums.iter_mut().zip(original).zip(ablated) {
                    add(sum, a, b);
                }
            }
            Ok(())
        })?;
        let relative = |[error, size]: &[f64; 2]| if *size > 0.0 { error / size } else { 0.0 };
        errors.extend(sums.iter().map(|outputs| outputs.iter().map(relative).sum::<f64>()));
    }
    Ok(errors)
}

/// Adds the squared difference and the squares of an output; other outputs than floating-point ones tell nothing.
fn add(sum: &mut [f64; 2], a: &Tensor, b: &Tensor) {
    let (Some(a), Some(b)) = (a.to_f32(), b.to_f32()) else { return };
    for (a, b) in a.iter().zip(b.iter()).map(|(a, b)| (f64::from(*a), f64::from(*b))) {
        if a.is_finite() {
            sum[0] += if b.is_finite() { (a - b).powi(2) } else { a.powi(2) };
            sum[1] += a.powi(2);
        }
    }
}
