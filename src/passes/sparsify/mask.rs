//! From scores to masks: which elements stay.

use super::{super::Scope, weights::Lay};
use rayon::prelude::*;

/// However little its elements matter beside those of others, a tensor keeps this share of them: a layer that puts out
/// nothing takes the model's accuracy with it.
const LEAST_SHARE: f64 = 0.02;

/// How many elements of each tensor go, where `share` of all do.
pub(super) fn counts(scores: &[Vec<f32>], share: f64, scope: Scope) -> Vec<usize> {
    let part = |n: usize, share: f64| (n as f64 * share).round() as usize;
    if scope == Scope::Layer {
        return scores.iter().map(|s| part(s.len(), share)).collect();
    }
    let sorted: Vec<Vec<f32>> = scores
        .par_iter()
        .map(|scores| {
            let mut sorted = scores.clone();
            sorted.sort_unstable_by(f32::total_cmp);
            sorted
        })
        .collect();
    let mut all: Vec<f32> = sorted.concat();
    all.sort_unstable_by(f32::total_cmp);
    let wanted = part(all.len(), share);
    let below = |bar: f32, sorted: &Vec<f32>| {
        let most = sorted.len() - (sorted.len() as f64 * LEAST_SHARE).ceil() as usize;
        sorted.partition_point(|s| *s < bar).min(most)
    };
    // The least bar below which enough go, though no tensor gives more than it can.
    let enough = |bar: f32| sorted.iter().map(|s| below(bar, s)).sum::<usize>() >= wanted;
    let (mut low, mut high) = (0, all.len());
    while low < high {
        let middle = usize::midpoint(low, high);
        if enough(all[middle]) { high = middle } else { low = middle + 1 }
    }
    let bar = all.get(low).copied().unwrap_or(f32::INFINITY);
    sorted.iter().map(|s| below(bar, s)).collect()
}

/// The mask without the `count` elements of least score, the earlier of equal ones.
pub(super) fn without(scores: &[f32], count: usize) -> Vec<bool> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
    let mut stays = vec![true; scores.len()];
    order.iter().take(count).for_each(|at| stays[*at] = false);
    stays
}

/// The mask that keeps the better half of every run of `m` inputs.
pub(super) fn by_runs(scores: &[f32], lay: Lay, m: usize) -> Vec<bool> {
    let mut stays = vec![true; scores.len()];
    for mut run in lay.runs(m) {
        run.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
        run[..m / 2].iter().for_each(|at| stays[*at] = false);
    }
    stays
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_go_and_no_tensor_goes_whole() {
        let small: Vec<f32> = (0..100).map(|k| 0.001 * k as f32).collect();
        let large: Vec<f32> = (0..100).map(|k| 1.0 + k as f32).collect();
        let scores = [small, large];
        assert_eq!(counts(&scores, 0.25, Scope::Global), [50, 0]);
        assert_eq!(counts(&scores, 0.25, Scope::Layer), [25, 25]);
        assert_eq!(counts(&scores, 0.75, Scope::Global), [98, 52], "two of each hundred stay");
        assert_eq!(without(&[3.0, 1.0, 1.0, 0.5], 2), [true, false, true, false]);
    }
    #[test]
    fn half_of_each_run_stays() {
        // Two outputs by four inputs by one kernel element; then four inputs by two outputs.
        let scores = [4.0, 3.0, 2.0, 1.0, 1.0, 4.0, 2.0, 3.0];
        let rows = Lay { outer: 2, inputs: 4, inner: 1 };
        assert_eq!(by_runs(&scores, rows, 4), [true, true, false, false, false, true, false, true]);
        let columns = Lay { outer: 1, inputs: 4, inner: 2 };
        // Of equal ones the earlier goes.
        assert_eq!(by_runs(&scores, columns, 4), [true, false, false, false, false, true, true, true]);
    }
}
