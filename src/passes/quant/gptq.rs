//! Rounding that makes up for itself (GPTQ, Frantar et al. 2022): see [`Spread`]. Inputs that weigh most come first.

use crate::passes::linear::{Spread, damped_inverse};
use faer::Mat;

/// Rounded `weights`, a row for each input (the last one a bias, if `bias`, which is not rounded) and a column for each
/// output. `round` takes row, column and weight. `None` where the inputs carry nothing.
pub(super) fn round(
    weights: &Mat<f64>,
    gram: &Mat<f64>,
    bias: bool,
    round: impl Fn(usize, usize, f64) -> f64 + Sync,
) -> Option<Mat<f64>> {
    let mut order: Vec<usize> = (0..weights.nrows() - usize::from(bias)).collect();
    order.sort_by(|a, b| gram[(*b, *b)].total_cmp(&gram[(*a, *a)]));
    let mut spread = Spread::new(weights, &damped_inverse(gram, bias)?, order.clone())?;
    for block in spread.blocks() {
        spread.change(block, |place, output, weight| round(order[place], output, weight));
    }
    spread.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Second moments of inputs that go together in part, and a one.
    fn gram(inputs: usize) -> Mat<f64> {
        let number = |k: usize| ((k as f64 * 12.989_8).sin() * 43_758.545_3).fract();
        let x = Mat::from_fn(400, inputs + 1, |row, i| match i {
            i if i == inputs => 1.0,
            i => number(row * 131 + i) + 2.0 * number(row * 17 + 7) + if i % 5 == 0 { 1.5 } else { 0.0 },
        });
        x.transpose() * &x
    }
    fn error(gram: &Mat<f64>, a: &Mat<f64>, b: &Mat<f64>) -> f64 {
        let off = a - b;
        (off.transpose() * gram * &off).diagonal().column_vector().iter().sum()
    }

    #[test]
    fn what_is_spread_leaves_less_than_rounding_to_the_nearest() {
        let inputs = 150;
        let weights = Mat::from_fn(inputs + 1, 8, |i, k| ((i * 8 + k) as f64 * 0.7).sin());
        let nearest = |_: usize, _: usize, x: f64| (x * 3.0).round_ties_even() / 3.0;
        let gram = gram(inputs);
        let found = round(&weights, &gram, true, nearest).unwrap();
        let plain = Mat::from_fn(inputs + 1, 8, |i, k| {
            if i < inputs { nearest(i, k, weights[(i, k)]) } else { weights[(i, k)] }
        });
        for i in 0..inputs {
            assert!((0..8).all(|k| nearest(i, k, found[(i, k)]) == found[(i, k)]), "{i} is on the grid");
        }
        let (ours, theirs) = (error(&gram, &weights, &found), error(&gram, &weights, &plain));
        assert!(ours < 0.3 * theirs, "{ours} against {theirs}");
        assert!(round(&weights, &Mat::zeros(inputs + 1, inputs + 1), true, nearest).is_none());
    }
}
