//! Changing weights so that what they lose is made up for: inputs one after the other, each error spread over the inputs
//! still to come.
//!
//! With `H = X'X` the second moments of what a layer sees and `H^-1 = L L'`, an error `e` in the weight of input `i` is
//! made up for best by moving those of the inputs `j` behind it by `-e L[j,i] / L[i,i]` (GPTQ, Frantar et al. 2022;
//! SparseGPT, Frantar and Alistarh 2023). A bias does not change of itself, comes last and so takes what is left.

use faer::{
    Accum, Mat, MatMut, MatRef, Par, Side,
    linalg::{matmul::matmul, solvers::Llt},
    prelude::Solve,
};
use rayon::prelude::*;
use std::ops::Range;

/// What is added to the diagonal of `H`, as a share of its mean.
const DAMPING: f64 = 0.01;
/// Inputs that are changed before their errors are spread over all behind them at once.
const BLOCK: usize = 64;

/// The damped second moments: no input carries nothing. With `bias`, the last input is a one.
pub(crate) fn damped(gram: &Mat<f64>, bias: bool) -> Mat<f64> {
    let n = gram.nrows();
    let inputs = n - usize::from(bias);
    let mean = (0..inputs).map(|i| gram[(i, i)]).sum::<f64>() / inputs.max(1) as f64;
    Mat::from_fn(n, n, |i, j| gram[(i, j)] + if i == j { DAMPING * mean } else { 0.0 })
}

/// The inverse of the damped second moments; `None` where the inputs carry nothing.
pub(crate) fn damped_inverse(gram: &Mat<f64>, bias: bool) -> Option<Mat<f64>> {
    let n = gram.nrows();
    Some(Llt::new(damped(gram, bias).as_ref(), Side::Lower).ok()?.solve(Mat::identity(n, n)))
}

/// The weights of a layer while they change: a row for each input and a column for each output.
pub(crate) struct Spread {
    /// Which input stands at each place.
    order: Vec<usize>,
    /// `L`, in that order.
    factor: Mat<f64>,
    /// The weights in that order, one output after the other.
    left: Vec<f64>,
    /// How many inputs change of themselves: all but a bias.
    inputs: usize,
}

impl Spread {
    /// `order` gives the first inputs their places; those it leaves out (a bias) follow and do not change of themselves.
    /// `inverse` is `H^-1`.
    pub(crate) fn new(weights: &Mat<f64>, inverse: &Mat<f64>, mut order: Vec<usize>) -> Option<Spread> {
        let (n, inputs) = (weights.nrows(), order.len());
        order.extend(inputs..n);
        let sorted = Mat::from_fn(n, n, |i, j| inverse[(order[i], order[j])]);
        let factor = Llt::new(sorted.as_ref(), Side::Lower).ok()?.L().to_owned();
        let left = (0..n * weights.ncols()).map(|at| weights[(order[at % n], at / n)]).collect();
        Some(Spread { order, factor, left, inputs })
    }
    /// The places that change together, front to back.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let inputs = self.inputs;
        (0..inputs).step_by(BLOCK).map(move |start| start..(start + BLOCK).min(inputs))
    }
    /// The input at a place.
    pub(crate) fn input(&self, place: usize) -> usize {
        self.order[place]
    }
    /// The weight at a place as it is now.
    pub(crate) fn weight(&self, place: usize, output: usize) -> f64 {
        self.left[output * self.order.len() + place]
    }
    /// Changes the weights of a block, each to what `new` makes of its place, its output and what it is by then.
    pub(crate) fn change(&mut self, block: Range<usize>, new: impl Fn(usize, usize, f64) -> f64 + Sync) {
        let (n, size, factor) = (self.order.len(), block.len(), &self.factor);
        let outputs = self.left.len() / n;
        let mut errors = vec![0.0; size * outputs];
        let columns = self.left.par_chunks_mut(n).zip(errors.par_chunks_mut(size)).enumerate();
        columns.for_each(|(k, (left, errors))| {
            for i in block.clone() {
                let changed = new(i, k, left[i]);
                let error = (left[i] - changed) / factor[(i, i)];
                left[i] = changed;
                if error != 0.0 {
                    errors[i - block.start] = error;
                    (i + 1..block.end).for_each(|j| left[j] -= factor[(j, i)] * error);
                }
            }
        });
        let behind = n - block.end;
        let errors = MatRef::from_column_major_slice(&errors, size, outputs);
        let left = MatMut::from_column_major_slice_mut(&mut self.left, n, outputs);
        let part = factor.submatrix(block.end, block.start, behind, size);
        matmul(left.subrows_mut(block.end, behind), Accum::Add, part, errors, -1.0, Par::Seq);
    }
    /// The weights, in the order of the inputs; `None` where they are no finite numbers.
    pub(crate) fn finish(self) -> Option<Mat<f64>> {
        let n = self.order.len();
        let mut found = Mat::zeros(n, self.left.len() / n);
        for (at, x) in self.left.into_iter().enumerate() {
            found[(self.order[at % n], at / n)] = x;
        }
        found.is_all_finite().then_some(found)
    }
}
