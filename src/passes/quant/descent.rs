//! Rounding that is refined: integers move one at a time as long as what the layer puts out comes nearer.
//!
//! With `H` the damped second moments of what a layer sees, `w` the weights of an output and `q` what they were rounded to, the
//! error is `(w - q)' H (w - q)`. Moving `q[i]` by `d` changes it by `d^2 H[i,i] - 2 d r[i]`, `r = H (w - q)`; the best place
//! for it is `q[i] + r[i] / H[i,i]`, and of the grid what is nearest to that. Each input in turn goes there, those that weigh
//! most first, until none moves (coordinate descent on integers, as in QuantEase, Behdin et al. 2023). A bias is on no grid.
//! GPTQ rounds each input once, before it is known what those behind it can make up for; here they are known.

use crate::passes::linear::damped;
use faer::Mat;
use rayon::prelude::*;

/// How often each integer is looked at, at most: most outputs are settled after a few turns.
const TURNS: usize = 16;
/// What an error has to fall by, as a share of a weight's own, so that rounding errors move nothing.
const LEAST: f64 = 1e-9;

/// The weights `rounded` by [`gptq`](super::gptq), refined; see there for the other arguments.
pub(super) fn refined(
    rounded: &Mat<f64>,
    weights: &Mat<f64>,
    gram: &Mat<f64>,
    bias: bool,
    round: impl Fn(usize, usize, f64) -> f64 + Sync,
) -> Mat<f64> {
    let (h, n) = (damped(gram, bias), weights.nrows());
    let inputs = n - usize::from(bias);
    let mut order: Vec<usize> = (0..inputs).collect();
    order.sort_by(|a, b| h[(*b, *b)].total_cmp(&h[(*a, *a)]));
    order.extend(inputs..n);
    let residual = &h * (weights - rounded);
    let settled = |k: usize| {
        let mut q: Vec<f64> = rounded.col(k).iter().copied().collect();
        let mut r: Vec<f64> = residual.col(k).iter().copied().collect();
        for _ in 0..TURNS {
            let mut moved = false;
            for &i in order.iter().filter(|i| h[(**i, **i)] > 0.0) {
                let own = h[(i, i)];
                let best = q[i] + r[i] / own;
                let new = if i < inputs { round(i, k, best) } else { best };
                let by = new - q[i];
                if by * (2.0 * r[i] - by * own) > LEAST * own * by.abs() * (q[i].abs() + by.abs()) {
                    q[i] = new;
                    r.iter_mut().zip(h.col(i).iter()).for_each(|(r, h)| *r -= h * by);
                    moved |= i < inputs;
                }
            }
            if !moved {
                break;
            }
        }
        q
    };
    let columns: Vec<Vec<f64>> = (0..weights.ncols()).into_par_iter().map(settled).collect();
    Mat::from_fn(n, weights.ncols(), |i, k| columns[k][i])
}

#[cfg(test)]
mod tests {
    use super::{super::gptq, *};

    /// Second moments of inputs that go together, and a one.
    fn gram(inputs: usize) -> Mat<f64> {
        let number = |k: usize| ((k as f64 * 12.989_8).sin() * 43_758.545_3).fract();
        let x = Mat::from_fn(300, inputs + 1, |row, i| match i {
            i if i == inputs => 1.0,
            i => number(row * 131 + i) + 1.5 * number(row * 17 + i % 3),
        });
        x.transpose() * &x
    }
    fn errors(h: &Mat<f64>, weights: &Mat<f64>, rounded: &Mat<f64>) -> Vec<f64> {
        let off = weights - rounded;
        (off.transpose() * h * &off).diagonal().column_vector().iter().copied().collect()
    }

    #[test]
    fn no_single_step_is_left_that_brings_an_output_nearer() {
        let (inputs, outputs) = (40, 12);
        let weights = Mat::from_fn(inputs + 1, outputs, |i, k| ((i * 12 + k) as f64 * 0.7).sin());
        let nearest = |_: usize, _: usize, x: f64| (x * 2.0).round_ties_even().clamp(-2.0, 1.0) / 2.0;
        let gram = gram(inputs);
        let h = damped(&gram, true);
        let first = gptq::round(&weights, &gram, true, nearest).unwrap();
        let found = refined(&first, &weights, &gram, true, nearest);
        let (before, after) = (errors(&h, &weights, &first), errors(&h, &weights, &found));
        assert!(before.iter().zip(&after).all(|(b, a)| *a <= b * (1.0 + 1e-9)), "no output is worse");
        let [before, after] = [&before, &after].map(|errors| errors.iter().sum::<f64>());
        assert!(after < 0.95 * before, "{after} against {before}");
        for (i, k) in (0..inputs).flat_map(|i| (0..outputs).map(move |k| (i, k))) {
            assert_eq!(nearest(i, k, found[(i, k)]), found[(i, k)], "{i}, {k} is on the grid");
            for by in [-0.5, 0.5] {
                let mut moved = found.clone();
                moved[(i, k)] = nearest(i, k, found[(i, k)] + by);
                let (with, without) = (errors(&h, &weights, &moved)[k], errors(&h, &weights, &found)[k]);
                assert!(with >= without * (1.0 - 1e-6), "{i}, {k}: {with} against {without}");
            }
        }
        assert_eq!(refined(&found, &weights, &gram, true, nearest), found, "settled");
    }
}
