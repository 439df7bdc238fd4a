//! What the error of a layer's weights is measured in.

use crate::passes::linear::{Found, Sums};
use faer::{Mat, Side, linalg::solvers::Llt};

/// What is added to the diagonal of the second moments, as a share of its mean: directions that the samples do not show
/// count a little, so that few samples do not make weights there arbitrary.
const FLOOR: f64 = 1e-4;

/// The squared error of weights `E` is `tr E'GE`: with `G` the second moments of a layer's inputs that of its outputs,
/// and with none that of the weights themselves.
pub(super) struct Metric(Option<Mat<f64>>);

impl Metric {
    /// That of the weights themselves.
    pub(super) fn plain() -> Metric {
        Metric(None)
    }
    /// That of the outputs on what was seen. With `bias`, the last input is a one, which makes up for the mean error.
    pub(super) fn of(sums: &Sums, bias: bool) -> Metric {
        let (gram, rows) = (sums.gram(), sums.rows().max(1) as f64);
        let n = gram.nrows() - usize::from(bias);
        let mean = |i: usize| if bias { gram[(i, n)] / rows } else { 0.0 };
        let mut moments = Mat::from_fn(n, n, |i, j| gram[(i, j)] / rows - mean(i) * mean(j));
        let scale = (0..n).map(|k| moments[(k, k)]).sum::<f64>() / n.max(1) as f64;
        // Where nothing ever varies, all weights are as good.
        let floor = if scale > 0.0 { FLOOR * scale } else { 1.0 };
        (0..n).for_each(|k| moments[(k, k)] += floor);
        Metric(Some(moments))
    }
    /// That of the outputs of a layer of one part, or that of the weights where nothing was found.
    pub(super) fn found(found: &Found, bias: bool) -> Metric {
        match found.as_deref() {
            Ok([[train, held]]) => Metric::of(&train.clone().plus(held), bias),
            _ => Metric::plain(),
        }
    }
    /// `G M`
    pub(super) fn times(&self, m: &Mat<f64>) -> Mat<f64> {
        match &self.0 {
            Some(gram) => gram * m,
            None => m.clone(),
        }
    }
    /// `tr M'GM`
    pub(super) fn square(&self, m: &Mat<f64>) -> f64 {
        inner(m, &self.times(m))
    }
    /// `S M` with `S'S = G`; `None` where `G` is not positive, as rounding may leave it.
    pub(super) fn whitened(&self, m: &Mat<f64>) -> Option<Mat<f64>> {
        match &self.0 {
            Some(gram) => Some(Llt::new(gram.as_ref(), Side::Lower).ok()?.L().transpose() * m),
            None => Some(m.clone()),
        }
    }
    /// For inputs `(q, f)`, `f` the faster one below `free`: the same for inputs `q`, summed over `f`.
    pub(super) fn folded(&self, free: usize) -> Metric {
        let fold = |gram: &Mat<f64>| {
            let n = gram.nrows() / free;
            Mat::from_fn(n, n, |i, j| (0..free).map(|f| gram[(i * free + f, j * free + f)]).sum())
        };
        Metric(self.0.as_ref().map(fold))
    }
    /// For inputs `(q, f)` of which only `(k, f) = sum of map[q, k] (q, f)` are left: the same for those, and `P'G` with
    /// `P` the map.
    pub(super) fn behind(&self, map: &Mat<f64>, free: usize) -> (Metric, Mat<f64>) {
        let moments = match &self.0 {
            Some(gram) => mapped(map, free, gram),
            None => mapped(map, free, &Mat::identity(map.nrows() * free, map.nrows() * free)),
        };
        (Metric(Some(mapped(map, free, &moments.transpose().to_owned()))), moments)
    }
    /// The weights `C` with the least error `tr (W - PC)'G(W - PC)`, from `G` behind `P` and `P'GW`.
    pub(super) fn solve(&self, right: &Mat<f64>) -> Option<Mat<f64>> {
        use faer::prelude::Solve;
        match &self.0 {
            Some(gram) => {
                Some(Llt::new(gram.as_ref(), Side::Lower).ok()?.solve(right)).filter(Mat::is_all_finite)
            }
            None => Some(right.clone()),
        }
    }
}

/// The means of a layer's inputs, a row, where the last one is a one.
pub(super) fn means(sums: &Sums) -> Mat<f64> {
    let (gram, rows) = (sums.gram(), sums.rows().max(1) as f64);
    let last = gram.nrows() - 1;
    Mat::from_fn(1, last, |_, i| gram[(i, last)] / rows)
}

/// `P'M`, a row `(k, f)` the sum of `map[q, k]` times row `(q, f)`.
fn mapped(map: &Mat<f64>, free: usize, m: &Mat<f64>) -> Mat<f64> {
    let mut result = Mat::zeros(map.ncols() * free, m.ncols());
    for f in 0..free {
        let rows = Mat::from_fn(map.nrows(), m.ncols(), |q, j| m[(q * free + f, j)]);
        let part = map.transpose() * rows;
        for j in 0..m.ncols() {
            (0..map.ncols()).for_each(|k| result[(k * free + f, j)] = part[(k, j)]);
        }
    }
    result
}

/// The sum of the products of all elements.
pub(super) fn inner(a: &Mat<f64>, b: &Mat<f64>) -> f64 {
    a.col_iter().zip(b.col_iter()).map(|(a, b)| a.transpose() * b).sum()
}
