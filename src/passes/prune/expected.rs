//! Cutting without samples, by what BatchNormalization told of its outputs: the mean and the deviation of what layers see.
//!
//! A position whose inputs are on average `m` adds `W'm` to what a layer puts out, which its bias takes up; what is lost is
//! what varies. Channels count as independent and, where space is padded, the margin as the rest.

use super::{Context, reader::Layers, score::relative, select::Candidate};
use crate::{
    ir::{Graph, Model, Moments, OpId},
    ops::{
        axes::{Flow, Keep, Stays},
        moments::Estimates,
    },
    passes::linear::Layer,
};
use std::collections::{BTreeMap, BTreeSet};

/// Scores by `variance`, without samples, the groups all of whose readers see something known; returns how many these are.
/// The others keep their scores.
pub(super) fn rank(model: &Model, flow: &Flow<'_>, candidates: &mut [Candidate]) -> usize {
    let estimates = Estimates::of(&model.graph);
    let layers = Layers::of(model);
    let varies = |op: &OpId| varying(layers.linear.get(op)?, &model.graph, &estimates);
    let mut ranked = 0;
    for candidate in candidates {
        let readers = layers.readers(flow, &candidate.group);
        let found: Option<Vec<_>> = readers.iter().map(|r| Some((r, varies(&r.op)?))).collect();
        let Some(found) = found.filter(|found| !found.is_empty()) else { continue };
        let of = |position: usize| -> f64 {
            let added =
                found.iter().map(|(r, added)| r.rows[position].iter().map(|i| added[*i]).sum::<f64>());
            added.sum::<f64>().sqrt()
        };
        candidate.scores = relative((0..candidate.group.size).map(of).collect());
        ranked += 1;
    }
    ranked
}

/// How much of what a layer puts out varies with each of its inputs, as a share of all.
fn varying(layer: &Layer, g: &Graph, estimates: &Estimates) -> Option<Vec<f64>> {
    let moments = seen(layer, g, estimates)?;
    let mut added = vec![0.0; layer.channels * layer.area];
    for (part, weights) in layer.weights(g)?.iter().enumerate() {
        for (row, added) in added.iter_mut().enumerate() {
            let deviation = moments.deviation[part * layer.channels + row / layer.area];
            *added += weights.row(row).squared_norm_l2() * deviation * deviation;
        }
    }
    let all: f64 = added.iter().sum();
    added.iter_mut().for_each(|a| *a /= all);
    (all > 0.0 && all.is_finite()).then_some(added)
}

/// What a layer with a place for a bias sees, channel by channel.
fn seen<'a>(layer: &Layer, g: &Graph, estimates: &'a Estimates) -> Option<&'a Moments> {
    let along_channels = layer.is_convolution() || g.rank(layer.input) == Some(2);
    let moments = estimates.get(layer.input)?;
    let fits = moments.channels() == layer.channels * layer.groups;
    (along_channels && fits && layer.has_bias()).then_some(moments)
}

/// What biases have to take up, for each output of layers as they were before the cut.
pub(super) struct Shifts(Vec<(OpId, Vec<f64>)>);

impl Shifts {
    /// Those for what goes when `keep` stays.
    pub(super) fn of(model: &Model, flow: &Flow<'_>, keep: &Keep) -> Shifts {
        let g = &model.graph;
        let estimates = Estimates::of(g);
        let layers = Layers::of(model);
        let mut gone: BTreeMap<OpId, BTreeSet<usize>> = BTreeMap::new();
        for group in flow.groups() {
            let Some(kept) = keep.get(&group.factor) else { continue };
            for reader in layers.readers(flow, &group) {
                let positions = (0..group.size).filter(|p| !kept.contains(p));
                gone.entry(reader.op).or_default().extend(positions.flat_map(|p| &reader.rows[p]));
            }
        }
        let shift = |(op, rows): (OpId, BTreeSet<usize>)| {
            let layer = layers.linear.get(&op)?;
            let moments = seen(layer, g, &estimates)?;
            let mut by = Vec::with_capacity(layer.outputs * layer.groups);
            for (part, weights) in layer.weights(g)?.iter().enumerate() {
                let mean = |row: usize| moments.mean[part * layer.channels + row / layer.area];
                by.extend(
                    (0..layer.outputs)
                        .map(|k| rows.iter().map(|row| weights[(*row, k)] * mean(*row)).sum::<f64>()),
                );
            }
            Some((op, by))
        };
        Shifts(gone.into_iter().filter_map(shift).collect())
    }
    /// Makes them in the cut model; returns how many layers it were.
    pub(super) fn make(&self, model: &mut Model, stays: &Stays, cx: &mut Context<'_>) -> usize {
        let (opset, mut made) = (model.opset(), 0);
        let left: BTreeSet<OpId> = model.graph.ops().collect();
        for (op, by) in self.0.iter().filter(|(op, _)| left.contains(op)) {
            let Some(Ok(layer)) = Layer::of(&model.graph, *op, opset) else { continue };
            let by: Vec<f64> = match stays.kept(layer.weight, layer.axis) {
                Some(kept) => kept.iter().map(|k| by[*k]).collect(),
                None => by.clone(),
            };
            if layer.shift(&mut model.graph, &by).is_some() {
                cx.applied(model.graph.place(*op), "the mean of what is gone went into its bias");
                made += 1;
            }
        }
        made
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        ir::text,
        passes::{Context, Pipeline},
    };

    #[test]
    fn what_is_always_the_same_goes_and_a_bias_takes_it_up() {
        // Behind BatchNormalization channels 1 and 3 are always 3 and -2, of which Relu makes 3 and 0.
        let source = "<ir_version: 8, opset_import: [\"\" : 17]>
             m (float[N, 1, 2, 2] x) => (float[N, 2, 2, 2] y)
             <float[4, 1, 1, 1] w1 = {1, 9, 1, 9}, float[4] scale = {1, 0, 2, 0}, float[4] shift = {0.5, 3, 0, -2},
              float[4] mean = {0, 1, 0, 1}, float[4] variance = {1, 1, 1, 1},
              float[2, 4, 1, 1] w2 = {1, 20, 3, 40, 5, 60, 7, 80}>
             {
               a = Conv (x, w1)
               b = BatchNormalization (a, scale, shift, mean, variance)
               c = Relu (b)
               y = Conv (c, w2)
             }";
        for (repair, expected) in [("auto", Some([60.0, 180.0])), ("none", None)] {
            let mut model = text::parse(source).unwrap();
            let pipeline = format!("simplify,prune(ratio=0.5,round=1,criterion=variance,repair={repair})");
            let _ = pipeline.parse::<Pipeline>().unwrap().run(&mut model, &mut Context::new()).unwrap();
            let g = &model.graph;
            let (last, _) = g.producer(g.find("y").unwrap()).unwrap();
            let numbers =
                |slot| g.input(last, slot).map(|v| g.initializer(v).unwrap().to_f32().unwrap().into_owned());
            assert_eq!(numbers(1).unwrap(), [1.0, 3.0, 5.0, 7.0]);
            assert_eq!(numbers(2).as_deref(), expected.as_ref().map(|b| &b[..]), "{repair}");
        }
    }
}
