//! Sparse weights: those that are not zero solved for all at once, the zeros kept.

use super::{Sums, System};
use faer::Mat;

/// One in so many weights of a sparse layer is zero, at least.
const LEAST_ZEROS: usize = 10;
/// How much the solution is held back, as shares of the mean diagonal; samples held out decide.
const LAMBDAS: [f64; 3] = [1e-4, 1e-3, 1e-2];
/// The solution takes the cube of the weights that stay of each output; where that is more than this, it is left out.
const MOST_WORK: f64 = 4e11;

/// Whether so many of a layer's weights are zero, a bias not counted, that this is meant, and not what a few dead channels
/// leave.
pub(crate) fn is_sparse(parts: &[Mat<f64>], bias: bool) -> bool {
    let inputs = |part: &Mat<f64>| part.nrows() - usize::from(bias);
    let zeros = |part: &Mat<f64>| {
        part.col_iter().map(|w| w.iter().take(inputs(part)).filter(|x| **x == 0.0).count()).sum::<usize>()
    };
    let all: usize = parts.iter().map(|part| inputs(part) * part.ncols()).sum();
    LEAST_ZEROS * parts.iter().map(zeros).sum::<usize>() >= all.max(1)
}

/// The weights that stay, solved for all at once towards what the layer should put out, where samples held out find that
/// better; else as they are.
pub(crate) fn refit_nonzero(weights: Mat<f64>, [most, held]: &[Sums; 2], bias: bool) -> Mat<f64> {
    let free = |k: usize| -> Vec<usize> {
        let n = weights.nrows();
        (0..n).filter(|i| weights[(*i, k)] != 0.0 || (bias && *i == n - 1)).collect()
    };
    let stays: Vec<Vec<usize>> = (0..weights.ncols()).map(free).collect();
    let work: f64 = stays.iter().map(|s| (s.len() as f64).powi(3) / 3.0).sum();
    if work * (LAMBDAS.len() + 1) as f64 > MOST_WORK {
        return weights;
    }
    let (train, judge) = (System::of(most), System::of(held));
    let (mut best, mut least) = (None, judge.error(&weights));
    for lambda in LAMBDAS {
        let Some(found) = train.solve_on(&weights, &stays, lambda, bias) else { continue };
        let error = judge.error(&found);
        if error < least {
            (best, least) = (Some(lambda), error);
        }
    }
    let all = || System::of(&most.clone().plus(held));
    let found = best.and_then(|lambda| all().solve_on(&weights, &stays, lambda, bias));
    found.filter(Mat::is_all_finite).unwrap_or(weights)
}
