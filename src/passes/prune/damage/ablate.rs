//! What removing positions does to the model's outputs, seen by running it with their weights at zero and the layers that
//! read them adapted.

use super::{
    super::{
        reader::{Layers, Reader},
        select::Candidate,
    },
    eliminate::Moments,
};
use crate::{
    error::Result,
    ir::{Model, OpId},
    ops::axes::{Factor, Flow, Keep},
};
use faer::Mat;

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
    /// The model with them gone.
    pub(super) fn model(&self, model: &Model, flow: &Flow<'_>, layers: &Layers) -> Result<Model> {
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
