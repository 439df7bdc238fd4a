//! What the error of a layer's weights is measured in.

use crate::passes::linear::{Found, Sums};
use faer::{Mat, Scale, Side, linalg::solvers::Llt};
use std::borrow::Cow;

/// What is added to the diagonal of the second moments, as a share of its mean: directions that the samples do not show
/// count a little, so that few samples do not make weights there arbitrary.
const FLOOR: f64 = 1e-4;

/// The squared error of weights `E` is `tr E'GE`: with `G` the second moments of a layer's inputs that of its outputs,
/// and with none that of the weights themselves.
pub(super) struct Metric(Moments);

enum Moments {
    None,
    Whole(Mat<f64>),
    /// Of inputs of which one at a time is not nothing.
    Diagonal(Vec<f64>),
    /// `X'X + f I` of fewer rows `X` than inputs.
    Few(Mat<f64>, f64),
}

impl Metric {
    /// That of the weights themselves.
    pub(super) fn plain() -> Metric {
        Metric(Moments::None)
    }
    /// That of the outputs on what was seen. With `bias`, the last input is a one, which makes up for the mean error.
    pub(super) fn of(sums: &Sums, bias: bool) -> Metric {
        let rows = sums.rows().max(1) as f64;
        let floor = |squares: f64, n: usize| {
            let scale = squares / n.max(1) as f64;
            // Where nothing ever varies, all weights are as good.
            if scale > 0.0 { FLOOR * scale } else { 1.0 }
        };
        if let Some([x, _]) = sums.few() {
            let n = x.ncols() - usize::from(bias);
            let mut x = x.subcols(0, n).to_owned();
            if bias {
                let means = Mat::<f64>::ones(1, x.nrows()) * &x / Scale(rows);
                x -= Mat::<f64>::ones(x.nrows(), 1) * means;
            }
            x /= Scale(rows.sqrt());
            let floor = floor(x.squared_norm_l2(), n);
            return Metric(Moments::Few(x, floor));
        }
        let gram = sums.gram();
        let n = gram.nrows() - usize::from(bias);
        let mean = |i: usize| if bias { gram[(i, n)] / rows } else { 0.0 };
        let mut moments = Mat::from_fn(n, n, |i, j| gram[(i, j)] / rows - mean(i) * mean(j));
        let floor = floor((0..n).map(|k| moments[(k, k)]).sum(), n);
        (0..n).for_each(|k| moments[(k, k)] += floor);
        Metric(Moments::Whole(moments))
    }
    /// That of the outputs where each input was a one so often, and all others zeros.
    pub(super) fn counted(counts: Vec<f64>) -> Metric {
        Metric(Moments::Diagonal(counts))
    }
    /// That of the outputs of each of so many parts, or that of the weights where nothing was found.
    pub(super) fn found(found: &Found, parts: usize, bias: bool) -> Vec<Metric> {
        match found {
            Ok(found) => {
                found.iter().map(|[train, held]| Metric::of(&train.clone().plus(held), bias)).collect()
            }
            Err(_) => (0..parts).map(|_| Metric::plain()).collect(),
        }
    }
    /// `G M`
    pub(super) fn times(&self, m: &Mat<f64>) -> Mat<f64> {
        match &self.0 {
            Moments::None => m.clone(),
            Moments::Whole(gram) => gram * m,
            Moments::Diagonal(counts) => scaled(counts, m, |count| count),
            Moments::Few(x, floor) => x.transpose() * (x * m) + Scale(*floor) * m,
        }
    }
    /// `G`; `None` where it is the identity.
    fn moments(&self) -> Option<Cow<'_, Mat<f64>>> {
        match &self.0 {
            Moments::None => None,
            Moments::Whole(gram) => Some(Cow::Borrowed(gram)),
            Moments::Diagonal(counts) => {
                let n = counts.len();
                Some(Cow::Owned(scaled(counts, &Mat::identity(n, n), |count| count)))
            }
            Moments::Few(x, floor) => {
                let mut gram = x.transpose() * x;
                (0..gram.nrows()).for_each(|k| gram[(k, k)] += floor);
                Some(Cow::Owned(gram))
            }
        }
    }
    /// `tr M'GM`
    pub(super) fn square(&self, m: &Mat<f64>) -> f64 {
        inner(m, &self.times(m))
    }
    /// `S M` with `S'S = G`; `None` where `G` is not positive, as rounding may leave it.
    pub(super) fn whitened(&self, m: &Mat<f64>) -> Option<Mat<f64>> {
        if let Moments::Diagonal(counts) = &self.0 {
            return Some(scaled(counts, m, f64::sqrt));
        }
        let Some(gram) = self.moments() else { return Some(m.clone()) };
        Some(Llt::new(gram.as_ref().as_ref(), Side::Lower).ok()?.L().transpose() * m)
    }
    /// For inputs `(q, f)`, `f` the faster one below `free`: the same for inputs `q`, summed over `f`.
    pub(super) fn folded(&self, free: usize) -> Metric {
        let fold = |gram: &Mat<f64>| {
            let n = gram.nrows() / free;
            Mat::from_fn(n, n, |i, j| (0..free).map(|f| gram[(i * free + f, j * free + f)]).sum())
        };
        Metric(self.moments().map_or(Moments::None, |gram| Moments::Whole(fold(&gram))))
    }
    /// For inputs `(q, f)`, `f` the faster one below `free`: the same for those of one `q`.
    pub(super) fn part(&self, q: usize, free: usize) -> Metric {
        let range = q * free..(q + 1) * free;
        Metric(match &self.0 {
            Moments::None => Moments::None,
            Moments::Whole(gram) => {
                Moments::Whole(gram.submatrix(range.start, range.start, free, free).to_owned())
            }
            Moments::Diagonal(counts) => Moments::Diagonal(counts[range].to_vec()),
            Moments::Few(x, floor) => Moments::Few(x.subcols(range.start, free).to_owned(), *floor),
        })
    }
    /// For `inputs` of which only the sums `P'x` are left: the same for those, and `P'G`. `map` makes `P'M` of a matrix.
    pub(super) fn behind(&self, inputs: usize, map: impl Fn(&Mat<f64>) -> Mat<f64>) -> (Metric, Mat<f64>) {
        let moments = match self.moments() {
            Some(gram) => map(&gram),
            None => map(&Mat::identity(inputs, inputs)),
        };
        (Metric(Moments::Whole(map(&moments.transpose().to_owned()))), moments)
    }
    /// The weights `C` with the least error `tr (W - PC)'G(W - PC)`, from `G` behind `P` and `P'GW`.
    pub(super) fn solve(&self, right: &Mat<f64>) -> Option<Mat<f64>> {
        use faer::prelude::Solve;
        let Some(gram) = self.moments() else { return Some(right.clone()) };
        let solved = Llt::new(gram.as_ref().as_ref(), Side::Lower).ok()?.solve(right);
        Some(solved).filter(Mat::is_all_finite)
    }
    /// `L^-1 M` with `LL' = G`.
    pub(super) fn halfway(&self, m: &Mat<f64>) -> Option<Mat<f64>> {
        let Some(gram) = self.moments() else { return Some(m.clone()) };
        let (root, mut solved) = (Llt::new(gram.as_ref().as_ref(), Side::Lower).ok()?, m.clone());
        root.L().solve_lower_triangular_in_place(solved.as_mut());
        Some(solved).filter(Mat::is_all_finite)
    }
}

/// Each row times what is made of its number.
fn scaled(numbers: &[f64], m: &Mat<f64>, make: impl Fn(f64) -> f64) -> Mat<f64> {
    Mat::from_fn(m.nrows(), m.ncols(), |i, j| make(numbers[i]) * m[(i, j)])
}

/// The means of a layer's inputs, a row, where the last one is a one.
pub(super) fn means(sums: &Sums) -> Mat<f64> {
    let rows = sums.rows().max(1) as f64;
    if let Some([x, _]) = sums.few() {
        return Mat::<f64>::ones(1, x.nrows()) * x.subcols(0, x.ncols() - 1) / Scale(rows);
    }
    let gram = sums.gram();
    let last = gram.nrows() - 1;
    Mat::from_fn(1, last, |_, i| gram[(i, last)] / rows)
}

/// The sum of the products of all elements.
pub(super) fn inner(a: &Mat<f64>, b: &Mat<f64>) -> f64 {
    a.col_iter().zip(b.col_iter()).map(|(a, b)| a.transpose() * b).sum()
}
