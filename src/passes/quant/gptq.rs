//! Rounding that makes up for itself: inputs one after the other, each error spread over the inputs still to come.
//!
//! With `H = X'X` the second moments of what a layer sees and `H^-1 = L L'`, rounding the weight of input `i` by an error
//! `e` is made up for best by moving those of the inputs `j` behind it by `e L[j,i] / L[i,i]` (GPTQ, Frantar et al.,
//! 2022). Inputs that weigh most come first. A bias is not rounded, comes last and so takes what is left.

use faer::{
    Accum, Mat, MatMut, MatRef, Par, Side,
    linalg::{matmul::matmul, solvers::Llt},
    prelude::Solve,
};
use rayon::prelude::*;

/// What is added to the diagonal of `H`, as a share of its mean.
const DAMPING: f64 = 0.01;
/// Inputs that are rounded before their errors are spread over all behind them at once.
const BLOCK: usize = 64;

/// Rounded `weights`, a row for each input (the last one a bias, if `bias`) and a column for each output. `round` takes
/// row, column and weight. `None` where the inputs carry nothing.
pub(super) fn round(
    weights: &Mat<f64>,
    gram: &Mat<f64>,
    bias: bool,
    round: impl Fn(usize, usize, f64) -> f64 + Sync,
) -> Option<Mat<f64>> {
    let (n, outputs) = (weights.nrows(), weights.ncols());
    let inputs = n - usize::from(bias);
    let mean = (0..inputs).map(|i| gram[(i, i)]).sum::<f64>() / inputs as f64;
    let mut order: Vec<usize> = (0..n).collect();
    order[..inputs].sort_by(|a, b| gram[(*b, *b)].total_cmp(&gram[(*a, *a)]));
    let damped = |i: usize, j: usize| {
        let damping = if i == j { DAMPING * mean } else { 0.0 };
        gram[(order[i], order[j])] + damping
    };
    let inverse = Llt::new(Mat::from_fn(n, n, damped).as_ref(), Side::Lower).ok()?.solve(Mat::identity(n, n));
    let spread = Llt::new(inverse.as_ref(), Side::Lower).ok()?;
    let spread = spread.L();
    let mut left: Vec<f64> = (0..n * outputs).map(|at| weights[(order[at % n], at / n)]).collect();
    for start in (0..inputs).step_by(BLOCK) {
        let size = BLOCK.min(inputs - start);
        let mut errors = vec![0.0; size * outputs];
        let columns = left.par_chunks_mut(n).zip(errors.par_chunks_mut(size)).enumerate();
        columns.for_each(|(k, (left, errors))| {
            for i in start..start + size {
                let rounded = round(order[i], k, left[i]);
                let error = (left[i] - rounded) / spread[(i, i)];
                left[i] = rounded;
                errors[i - start] = error;
                (i + 1..start + size).for_each(|j| left[j] -= spread[(j, i)] * error);
            }
        });
        let behind = n - start - size;
        let errors = MatRef::from_column_major_slice(&errors, size, outputs);
        let left =
            MatMut::from_column_major_slice_mut(&mut left, n, outputs).subrows_mut(start + size, behind);
        let part = spread.submatrix(start + size, start, behind, size);
        matmul(left, Accum::Add, part, errors, -1.0, Par::Seq);
    }
    let mut rounded = Mat::zeros(n, outputs);
    for (at, x) in left.into_iter().enumerate() {
        rounded[(order[at % n], at / n)] = x;
    }
    rounded.is_all_finite().then_some(rounded)
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
