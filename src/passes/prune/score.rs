//! How much each position of a group matters: the norm of all weights that go with it.
//!
//! With `W_k` the weights at position `k` in all members, `l1 = sum |w| / |W_k|` and `l2 = sqrt(sum w^2 / |W_k|)`.
//! Scores are divided by their mean over the group, so that groups of different scale compare.

use super::Criterion;
use crate::{
    ir::Graph,
    ops::axes::{Arena, Group},
};

/// One score a position; `None` where no member holds floating-point weights.
pub(super) fn of_group(g: &Graph, arena: &Arena, group: &Group, criterion: Criterion) -> Option<Vec<f64>> {
    let (mut sums, mut counts) = (vec![0.0; group.size], vec![0usize; group.size]);
    for member in &group.members {
        let Some(tensor) = g.initializer(member.value) else { continue };
        let Some(weights) = tensor.to_f32() else { continue };
        let labels = arena.labels(member.factor, group.factor);
        let row: usize = tensor.shape()[member.axis + 1..].iter().product();
        if row == 0 || labels.is_empty() {
            continue;
        }
        for (k, block) in weights.chunks_exact(row).enumerate() {
            let Some(at) = labels[k % labels.len()] else { continue };
            sums[at] += block
                .iter()
                .map(|w| f64::from(*w))
                .map(|w| match criterion {
                    Criterion::L1 => w.abs(),
                    _ => w * w,
                })
                .sum::<f64>();
            counts[at] += row;
        }
    }
    if counts.contains(&0) {
        return None;
    }
    let mut scores: Vec<f64> = sums.iter().zip(counts).map(|(s, n)| s / n as f64).collect();
    if criterion != Criterion::L1 {
        scores.iter_mut().for_each(|s| *s = s.sqrt());
    }
    let mean = scores.iter().sum::<f64>() / scores.len() as f64;
    if mean > 0.0 && mean.is_finite() {
        scores.iter_mut().for_each(|s| *s /= mean);
    }
    Some(scores)
}
