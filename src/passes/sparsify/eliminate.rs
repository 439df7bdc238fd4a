//! Elimination that makes up for itself: inputs one after the other, each loss spread over the inputs still to come.
//!
//! With `H = X'X` the second moments of what a layer sees and `H^-1 = L L'`, setting the weight `w` of input `i` to zero is
//! made up for best by moving those of the inputs `j` behind it by `-w L[j,i] / L[i,i]`, and costs `w^2 / L[i,i]^2`
//! (SparseGPT, Frantar and Alistarh 2023). Which weights go is chosen a block of inputs at a time, among all that are left.
//! In the end the weights that stay are solved for once more, all at once.

use crate::passes::linear::{Sums, System};
use faer::{
    Accum, Mat, MatMut, MatRef, Par, Side,
    linalg::{matmul::matmul, solvers::Llt},
    prelude::Solve,
};
use rayon::prelude::*;

/// What is added to the diagonal of `H`, as a share of its mean.
const DAMPING: f64 = 0.01;
/// Inputs whose weights are chosen together. A multiple of every pattern's run.
const BLOCK: usize = 64;
/// How much the last solution is held back, as shares of the mean diagonal; samples held out decide.
const LAMBDAS: [f64; 3] = [1e-4, 1e-3, 1e-2];
/// The last solution takes the cube of the weights that stay of each output; where that is more than this, it is left out.
const MOST_WORK: f64 = 4e11;

/// What stays of a part of a layer. Masks have a row for each input and a column for each output.
pub(super) enum Choice<'a> {
    /// All but so many.
    But(usize),
    /// The better half of every run: for each, the inputs.
    Halves(Vec<Vec<usize>>),
    /// This.
    Given(&'a dyn Fn(usize, usize) -> bool),
}

/// The inverse of the damped second moments; `None` where the inputs carry nothing.
pub(super) fn inverse(gram: &Mat<f64>, bias: bool) -> Option<Mat<f64>> {
    let n = gram.nrows();
    let inputs = n - usize::from(bias);
    let mean = (0..inputs).map(|i| gram[(i, i)]).sum::<f64>() / inputs.max(1) as f64;
    let damped = Mat::from_fn(n, n, |i, j| gram[(i, j)] + if i == j { DAMPING * mean } else { 0.0 });
    Some(Llt::new(damped.as_ref(), Side::Lower).ok()?.solve(Mat::identity(n, n)))
}

/// Weights with zeros, a row for each input (the last one a bias, if `bias`, which stays) and a column for each output.
pub(super) fn eliminate(
    weights: &Mat<f64>,
    gram: &Mat<f64>,
    bias: bool,
    choice: &Choice<'_>,
) -> Option<Mat<f64>> {
    let (n, outputs) = (weights.nrows(), weights.ncols());
    let inputs = n - usize::from(bias);
    let mut order: Vec<usize> = match choice {
        Choice::Halves(runs) => runs.concat(),
        _ => (0..inputs).collect(),
    };
    order.extend(inputs..n);
    let inverse = inverse(gram, bias)?;
    let worth: Vec<f64> = order.iter().map(|i| inverse[(*i, *i)]).collect();
    let sorted = Mat::from_fn(n, n, |i, j| inverse[(order[i], order[j])]);
    let spread = Llt::new(sorted.as_ref(), Side::Lower).ok()?;
    let spread = spread.L();
    let mut left: Vec<f64> = (0..n * outputs).map(|at| weights[(order[at % n], at / n)]).collect();
    let mut to_go = if let Choice::But(count) = choice { *count } else { 0 };
    for start in (0..inputs).step_by(BLOCK) {
        let size = BLOCK.min(inputs - start);
        let score = |i: usize, k: usize| left[k * n + i] * left[k * n + i] / worth[i];
        let mut goes = vec![false; size * outputs];
        match choice {
            Choice::But(_) => {
                let open = (0..outputs).flat_map(|k| (start..inputs).map(move |i| (i, k)));
                let mut open: Vec<_> = open.map(|(i, k)| (score(i, k), i, k)).collect();
                if to_go > 0 && to_go < open.len() {
                    open.select_nth_unstable_by(to_go - 1, |a, b| {
                        a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2)))
                    });
                }
                for (_, i, k) in open.into_iter().take(to_go).filter(|(_, i, _)| *i < start + size) {
                    goes[k * size + i - start] = true;
                }
                to_go -= goes.iter().filter(|gone| **gone).count();
            }
            Choice::Halves(runs) => {
                let m = runs.first().map_or(1, Vec::len);
                for (k, first) in (0..outputs).flat_map(|k| (0..size).step_by(m).map(move |i| (k, i))) {
                    let mut run: Vec<usize> = (first..first + m).collect();
                    run.sort_by(|a, b| score(start + a, k).total_cmp(&score(start + b, k)));
                    run[..m / 2].iter().for_each(|i| goes[k * size + i] = true);
                }
            }
            Choice::Given(stays) => {
                for (k, i) in (0..outputs).flat_map(|k| (0..size).map(move |i| (k, i))) {
                    goes[k * size + i] = !stays(order[start + i], k);
                }
            }
        }
        let mut errors = vec![0.0; size * outputs];
        let columns = left.par_chunks_mut(n).zip(errors.par_chunks_mut(size)).zip(goes.par_chunks(size));
        columns.for_each(|((left, errors), goes)| {
            for i in (start..start + size).filter(|i| goes[i - start]) {
                let error = left[i] / spread[(i, i)];
                errors[i - start] = error;
                left[i] = 0.0;
                (i + 1..start + size).for_each(|j| left[j] -= spread[(j, i)] * error);
            }
        });
        let behind = n - start - size;
        let errors = MatRef::from_column_major_slice(&errors, size, outputs);
        let rest =
            MatMut::from_column_major_slice_mut(&mut left, n, outputs).subrows_mut(start + size, behind);
        let part = spread.submatrix(start + size, start, behind, size);
        matmul(rest, Accum::Add, part, errors, -1.0, Par::Seq);
    }
    let mut found = Mat::zeros(n, outputs);
    for (at, x) in left.into_iter().enumerate() {
        found[(order[at % n], at / n)] = x;
    }
    found.is_all_finite().then_some(found)
}

/// The weights that stay, solved for all at once towards what the layer should put out, where samples held out find that
/// better; else as they are.
pub(super) fn settle(weights: Mat<f64>, [most, held]: &[Sums; 2], bias: bool) -> Mat<f64> {
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
