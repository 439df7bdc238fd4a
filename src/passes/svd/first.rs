//! The first of the kernels that a layer becomes, `P`: it leaves fewer numbers to those behind it.
//!
//! It is found from a part of the second moments alone, as if what that leaves out were independent; what is behind it is
//! then solved for in all of them, see `form`.

use super::{
    metric::Metric,
    spectrum::{Spectrum, balance},
};
use faer::{Mat, Side, linalg::solvers::Llt, prelude::Solve};

/// What `P` works on. Its inputs are those of the layer, `(q, f)` with `f` the faster one below a number.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reach {
    /// All `q`, at each of so many `f` alike.
    Across(usize),
    /// The so many `f` of each `q` by themselves.
    Within(usize),
}

impl Reach {
    /// `P'M`, for the matrix that tells all of `P`.
    pub(super) fn transposed_times(self, p: &Mat<f64>, m: &Mat<f64>) -> Mat<f64> {
        match self {
            Reach::Across(free) => {
                let mut result = Mat::zeros(p.ncols() * free, m.ncols());
                for f in 0..free {
                    let rows = Mat::from_fn(p.nrows(), m.ncols(), |q, j| m[(q * free + f, j)]);
                    let part = p.transpose() * rows;
                    for j in 0..m.ncols() {
                        (0..p.ncols()).for_each(|k| result[(k * free + f, j)] = part[(k, j)]);
                    }
                }
                result
            }
            Reach::Within(area) => {
                let (mut result, inputs) = (Mat::zeros(p.ncols(), m.ncols()), m.nrows() / area);
                let kernels = p.ncols() / inputs;
                for q in 0..inputs {
                    let part = p.subcols(q * kernels, kernels).transpose() * m.subrows(q * area, area);
                    result.subrows_mut(q * kernels, kernels).copy_from(part);
                }
                result
            }
        }
    }
    /// `P'M` of so high a rank with the rows first that lower ranks have as well.
    pub(super) fn by_rank(self, m: Mat<f64>, rank: usize) -> Mat<f64> {
        match self {
            Reach::Across(_) => m,
            Reach::Within(_) => {
                let inputs = m.nrows() / rank.max(1);
                Mat::from_fn(m.nrows(), m.ncols(), |i, j| m[(i % inputs * rank + i / inputs, j)])
            }
        }
    }
    /// Where in `P`, for so many inputs, the number in this row and column of the matrix (of so many columns) that tells all of
    /// it stands.
    pub(super) fn places(
        self,
        row: usize,
        column: usize,
        inputs: usize,
        columns: usize,
    ) -> Vec<(usize, usize)> {
        match self {
            Reach::Across(free) => (0..free).map(|f| (row * free + f, column * free + f)).collect(),
            Reach::Within(area) => vec![(column * inputs / (columns * area) * area + row, column)],
        }
    }
    /// `P` for so many inputs.
    pub(super) fn whole(self, p: &Mat<f64>, inputs: usize) -> Mat<f64> {
        match self {
            Reach::Across(free) => Mat::from_fn(inputs, p.ncols() * free, |i, j| {
                if i % free == j % free { p[(i / free, j / free)] } else { 0.0 }
            }),
            Reach::Within(area) => {
                let kernels = p.ncols() * area / inputs;
                Mat::from_fn(
                    inputs,
                    p.ncols(),
                    |i, j| {
                        if i / area == j / kernels { p[(i % area, j)] } else { 0.0 }
                    },
                )
            }
        }
    }
}

/// All that `P` may be of, the best first.
pub(super) enum First {
    /// The directions of the outputs of all `f` together, which are taken to be independent.
    Across {
        /// The weights with a row for each `q` and a column for each `f` and output.
        unfolded: Mat<f64>,
        spectrum: Spectrum,
    },
    /// Kernels for each `q` (network decoupling, Guo et al. 2018), in a column each. These are taken to be independent: with
    /// `G = L L'` the second moments of the `f` of one and `W` their weights, the kernels are `L'^-1 U`, where `U` are the
    /// eigenvectors of `L'WW'L`.
    Within(Vec<Mat<f64>>),
}

impl First {
    /// Finds up to `most` of them. Within a `q` there are as many as `f`.
    pub(super) fn of(
        reach: Reach,
        weights: &Mat<f64>,
        metric: &Metric,
        most: usize,
        seed: u64,
    ) -> Result<First, String> {
        match reach {
            Reach::Across(free) => {
                let (rows, outputs) = (weights.nrows() / free, weights.ncols());
                let unfolded =
                    Mat::from_fn(rows, free * outputs, |q, j| weights[(q * free + j / outputs, j % outputs)]);
                let spectrum = Spectrum::of(&unfolded, &metric.folded(free), most, seed)?;
                Ok(First::Across { unfolded, spectrum })
            }
            Reach::Within(area) => {
                let inputs = weights.nrows() / area;
                let all = (0..inputs)
                    .map(|q| within(&weights.subrows(q * area, area).to_owned(), &metric.part(q, area)));
                Ok(First::Within(all.collect::<Option<_>>().ok_or(super::spectrum::NO_NUMBERS)?))
            }
        }
    }
    /// These ranks as far as there are so many.
    pub(super) fn ranks(&self, wanted: &[usize]) -> Vec<usize> {
        match self {
            First::Across { spectrum, .. } => spectrum.values.ranks(wanted).collect(),
            First::Within(kernels) => {
                let most = kernels.first().map_or(0, Mat::ncols);
                wanted.iter().map(|rank| (*rank).min(most)).collect()
            }
        }
    }
    /// The matrix that tells all of `P` of this rank.
    pub(super) fn kernel(&self, rank: usize) -> Mat<f64> {
        match self {
            First::Across { unfolded, spectrum } => {
                let mut z = spectrum.first(rank);
                let mut kernel = unfolded * &z;
                balance(&mut kernel, &mut z);
                kernel
            }
            First::Within(kernels) => {
                let area = kernels.first().map_or(0, Mat::nrows);
                Mat::from_fn(area, kernels.len() * rank, |f, k| kernels[k / rank][(f, k % rank)])
            }
        }
    }
}

/// The kernels of one `q`; `None` where something is no finite number.
fn within(weights: &Mat<f64>, metric: &Metric) -> Option<Mat<f64>> {
    let gram = metric.times(&Mat::identity(weights.nrows(), weights.nrows()));
    let root = Llt::new(gram.as_ref(), Side::Lower).ok()?;
    let white = root.L().transpose() * weights;
    let square = &white * white.transpose();
    let eigen = square.is_all_finite().then(|| square.self_adjoint_eigen(Side::Lower).ok()).flatten()?;
    let u = eigen.U().reverse_cols().to_owned();
    let mut kernels = root.solve(root.L() * &u);
    balance(&mut kernels, &mut (white.transpose() * u));
    Some(kernels)
}
