//! Elimination that makes up for itself: see [`Spread`].
//!
//! With `H = X'X` the second moments of what a layer sees and `H^-1 = L L'`, setting the weight `w` of input `i` to zero
//! costs `w^2 / L[i,i]^2` (SparseGPT, Frantar and Alistarh 2023). Which weights go is chosen a block of inputs at a time,
//! among all that are left.

use crate::passes::linear::{Spread, damped_inverse};
use faer::Mat;

/// What stays of a part of a layer. Masks have a row for each input and a column for each output.
pub(super) enum Choice<'a> {
    /// All but so many.
    But(usize),
    /// The better half of every run: for each, the inputs.
    Halves(Vec<Vec<usize>>),
    /// This.
    Given(&'a dyn Fn(usize, usize) -> bool),
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
    let order: Vec<usize> = match choice {
        Choice::Halves(runs) => runs.concat(),
        _ => (0..inputs).collect(),
    };
    let inverse = damped_inverse(gram, bias)?;
    let worth: Vec<f64> = order.iter().map(|i| inverse[(*i, *i)]).collect();
    let mut spread = Spread::new(weights, &inverse, order)?;
    let mut to_go = if let Choice::But(count) = choice { *count } else { 0 };
    for block in spread.blocks() {
        let (start, size) = (block.start, block.len());
        let score = |i: usize, k: usize| spread.weight(i, k).powi(2) / worth[i];
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
                    goes[k * size + i] = !stays(spread.input(start + i), k);
                }
            }
        }
        spread.change(block, |i, k, weight| if goes[k * size + i - start] { 0.0 } else { weight });
    }
    spread.finish()
}
