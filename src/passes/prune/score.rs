//! How much each position of a group matters, by its weights in all members of the group; by what integers stand for where
//! they are quantized.
//!
//! With `w` the `n` weights of a position: `l1 = sum |w| / n`, `l2 = sqrt(sum w^2 / n)`, and `fpgm` is the mean distance
//! `|w - v|` to the weights `v` of the other positions. These are divided by their mean over the group, so that groups of
//! different scale compare. `bn` is the `l2` of the scales of
//! BatchNormalizations alone. `lamp` is `|w|^2` over the sum of the `|v|^2` that are no smaller, and compares as it is.

use super::Criterion;
use crate::{
    ir::{Graph, Use},
    ops::{
        axes::{Arena, Group, Member},
        quantized::reals,
    },
};
use faer::Mat;
use rand::{RngExt, rngs::ChaCha8Rng};

/// One score a position; `None` where no member holds floating-point weights.
pub(super) fn of_group(
    g: &Graph,
    arena: &Arena,
    group: &Group,
    criterion: Criterion,
    random: &mut ChaCha8Rng,
) -> Option<Vec<f64>> {
    let scales = || group.members.iter().filter(|m| is_scale(g, m));
    let weights = match criterion {
        Criterion::Bn if scales().next().is_some() => weights(g, arena, group, scales()),
        _ => weights(g, arena, group, group.members.iter()),
    }?;
    let mean_of = |f: fn(f64) -> f64| -> Vec<f64> {
        let mean = |w: &Vec<f32>| w.iter().map(|w| f(f64::from(*w))).sum::<f64>() / w.len() as f64;
        weights.iter().map(mean).collect()
    };
    Some(match criterion {
        Criterion::L1 => relative(mean_of(f64::abs)),
        Criterion::Lamp => lamp(&mean_of(|w| w * w)),
        Criterion::Fpgm => relative(distances(&weights)),
        Criterion::Random => weights.iter().map(|_| random.random()).collect(),
        // Without an order of their own, that of the weights.
        _ => relative(mean_of(|w| w * w).into_iter().map(f64::sqrt).collect()),
    })
}

/// Whether a member is the scale of a BatchNormalization.
pub(super) fn is_scale(g: &Graph, member: &Member) -> bool {
    let scales = |at: &Use| matches!(at, Use::Input(op, 1) if g.op(*op).is("BatchNormalization"));
    g.uses(member.value).iter().any(scales)
}

/// The weights of each position in some members of its group, in the same order for all.
fn weights<'a>(
    g: &Graph,
    arena: &Arena,
    group: &Group,
    members: impl Iterator<Item = &'a Member>,
) -> Option<Vec<Vec<f32>>> {
    let mut found = vec![Vec::new(); group.size];
    for member in members {
        let Some(tensor) = reals(g, member.value) else { continue };
        let Some(weights) = tensor.to_f32() else { continue };
        let labels = arena.labels(member.factor, group.factor);
        let row: usize = tensor.shape()[member.axis + 1..].iter().product();
        if row == 0 || labels.is_empty() {
            continue;
        }
        for (k, block) in weights.chunks_exact(row).enumerate() {
            if let Some(at) = labels[k % labels.len()] {
                found[at].extend_from_slice(block);
            }
        }
    }
    found.iter().all(|w| !w.is_empty()).then_some(found)
}

/// Divided by their mean.
pub(super) fn relative(mut scores: Vec<f64>) -> Vec<f64> {
    let mean = scores.iter().sum::<f64>() / scores.len() as f64;
    if mean > 0.0 && mean.is_finite() {
        scores.iter_mut().for_each(|s| *s /= mean);
    }
    scores
}

fn lamp(squares: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..squares.len()).collect();
    order.sort_by(|a, b| squares[*b].total_cmp(&squares[*a]));
    let (mut scores, mut sum) = (vec![0.0; squares.len()], 0.0);
    for k in order {
        sum += squares[k];
        scores[k] = if sum > 0.0 { squares[k] / sum } else { 0.0 };
    }
    scores
}

fn distances(weights: &[Vec<f32>]) -> Vec<f64> {
    let most = weights.iter().map(Vec::len).max().unwrap_or(0);
    let at = |k: usize, i: usize| weights[k].get(i).map_or(0.0, |w| f64::from(*w));
    let all = Mat::from_fn(weights.len(), most, at);
    let products = &all * all.transpose();
    let square = |a: usize, b: usize| products[(a, a)] + products[(b, b)] - 2.0 * products[(a, b)];
    let others = (weights.len() - 1).max(1) as f64;
    let mean = |a: usize| (0..weights.len()).map(|b| square(a, b).max(0.0).sqrt()).sum::<f64>() / others;
    (0..weights.len()).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ir::text,
        ops::{axes::Flow, infer_types},
    };
    use rand::SeedableRng;

    #[test]
    fn what_others_stand_in_for_is_nearest_to_them() {
        let weights = [[0.0, 0.0], [3.0, 4.0], [3.0, 4.0], [6.0, 8.0]].map(Vec::from);
        let sums: Vec<f64> = distances(&weights).into_iter().map(|d| (3.0 * d).round()).collect();
        assert_eq!(sums, [20.0, 10.0, 10.0, 20.0]);
    }
    #[test]
    fn lamp_compares_with_what_weighs_no_less() {
        assert_eq!(lamp(&[1.0, 4.0, 3.0]), [0.125, 1.0, 3.0 / 7.0]);
        assert_eq!(lamp(&[0.0, 0.0]), [0.0, 0.0]);
    }
    #[test]
    fn scales_alone_tell_where_there_are_any() {
        let mut model = text::parse(
            "<ir_version: 8, opset_import: [\"\" : 17]>
             m (float[N, 3] x) => (float[N, 2] y)
             <float[3, 3] w1 = {9, 1, 1, 9, 1, 1, 9, 1, 1}, float[3] scale = {1, -4, 1}, float[3] other = {0, 1, 2},
              float[3] variance = {1, 1, 1}, float[3, 2] w2 = {1, 1, 1, 1, 1, 1}>
             {
               a = MatMul (x, w1)
               b = BatchNormalization (a, scale, other, other, variance)
               y = MatMul (b, w2)
             }",
        )
        .unwrap();
        infer_types(&mut model).unwrap();
        let flow = Flow::of(&model);
        let group = &flow.groups()[0];
        let mut random = ChaCha8Rng::seed_from_u64(0);
        let mut scores =
            |criterion| of_group(&model.graph, &flow.arena, group, criterion, &mut random).unwrap();
        assert_eq!(scores(Criterion::Bn), [0.5, 2.0, 0.5]);
        let by_all = scores(Criterion::L2);
        assert!(by_all[0] > by_all[1]);
    }
}
