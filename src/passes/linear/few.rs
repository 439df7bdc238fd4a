//! Ridge least squares from fewer rows than inputs.
//!
//! With `X` and the residual `R = Y - X W0` about their means, `W = W0 + X'(XX' + lambda I)^-1 R` is what `fit` finds from
//! `X'X`, for a system of as many equations as rows. `XX' = U S U'` serves every `lambda`.

use faer::{Mat, MatRef, Side};

/// Rows to find weights from.
pub(super) struct Few<'a> {
    old: &'a Mat<f64>,
    /// The inputs about their means, a bias left out.
    x: Mat<f64>,
    means: Mat<f64>,
    /// The mean residual: what the bias alone makes up for.
    shift: Mat<f64>,
    values: Vec<f64>,
    vectors: Mat<f64>,
    /// `U'R`
    residual: Mat<f64>,
    /// The mean square of all rows in an input, times their number.
    scale: f64,
}

impl Few<'_> {
    /// With `bias`, the last column of `x` holds ones. `None` where something is no finite number.
    pub(super) fn of<'a>([x, y]: [MatRef<'_, f64>; 2], old: &'a Mat<f64>, bias: bool) -> Option<Few<'a>> {
        let residual = y - x * old;
        let x = x.subcols(0, x.ncols() - usize::from(bias));
        let scale = x.squared_norm_l2() / x.ncols().max(1) as f64;
        let [(x, means), (residual, shift)] = [x.to_owned(), residual].map(|m| centred(m, bias));
        let eigen = (&x * x.transpose()).self_adjoint_eigen(Side::Lower).ok()?;
        let (vectors, values) = (eigen.U().to_owned(), eigen.S().column_vector().iter().copied().collect());
        let residual = vectors.transpose() * residual;
        Some(Few { old, x, means, shift, values, vectors, residual, scale })
    }
    /// `(S + lambda I)^-1 U'R`
    fn solved(&self, lambda: f64) -> Mat<f64> {
        let ridge = lambda * self.scale;
        Mat::from_fn(self.residual.nrows(), self.residual.ncols(), |i, k| {
            match self.values[i].max(0.0) + ridge {
                sum if sum > 0.0 => self.residual[(i, k)] / sum,
                _ => 0.0,
            }
        })
    }
    /// The weights of a way: near the old ones by as much as `lambda` tells, or with another bias alone.
    pub(super) fn weights(&self, way: Option<f64>) -> Mat<f64> {
        let (mut found, inputs) = (self.old.clone(), self.x.ncols());
        let mut shift = self.shift.clone();
        if let Some(lambda) = way {
            let moves = self.x.transpose() * (&self.vectors * self.solved(lambda));
            shift -= &self.means * &moves;
            let mut rows = found.subrows_mut(0, inputs);
            rows += moves;
        }
        if inputs < found.nrows() {
            let mut bias = found.subrows_mut(inputs, 1);
            bias += shift;
        }
        found
    }
    /// The squared error of the old weights on other rows, and of those of each way.
    pub(super) fn errors(&self, [x, y]: [MatRef<'_, f64>; 2], ways: &[Option<f64>]) -> (f64, Vec<f64>) {
        let left = y - x * self.old;
        let before = left.squared_norm_l2();
        let ones = Mat::<f64>::ones(x.nrows(), 1);
        let x = x.subcols(0, self.x.ncols()) - &ones * &self.means;
        let shifted = left - ones * &self.shift;
        let across = x * self.x.transpose() * &self.vectors;
        let of = |way: &Option<f64>| match way {
            Some(lambda) => (&shifted - &across * self.solved(*lambda)).squared_norm_l2(),
            None => shifted.squared_norm_l2(),
        };
        (before, ways.iter().map(of).collect())
    }
}

/// A matrix about the means of its columns, and these; about nothing where there is no bias to make up for them.
fn centred(mut m: Mat<f64>, bias: bool) -> (Mat<f64>, Mat<f64>) {
    let rows = m.nrows();
    let mut means = Mat::zeros(1, m.ncols());
    if bias && rows > 0 {
        means = Mat::<f64>::ones(1, rows) * &m / faer::Scale(rows as f64);
        m -= Mat::<f64>::ones(rows, 1) * &means;
    }
    (m, means)
}

#[cfg(test)]
mod tests {
    use super::super::{Sums, fit::System};
    use super::*;

    #[test]
    fn rows_find_what_their_sums_find() {
        let noise = |k: usize, i: usize| ((k * 31 + i * 17) as f64).sin() * 43_758.545_3 % 1.0 + 0.3;
        let (inputs, outputs) = (12, 3);
        for bias in [true, false] {
            let n = inputs + usize::from(bias);
            let [train, held] = [0..6, 6..9].map(|range| {
                let mut sums = Sums::new(n, outputs);
                for k in range {
                    let mut row: Vec<f64> = (0..inputs).map(|i| noise(k, i)).collect();
                    row.extend(bias.then_some(1.0));
                    row.extend((0..outputs).map(|i| noise(k, 40 + i)));
                    sums.add(&row);
                }
                sums
            });
            let old = Mat::from_fn(n, outputs, |i, k| noise(i, k + 90));
            let few = Few::of(train.few().unwrap(), &old, bias).unwrap();
            let (system, judge) = (System::of(&train), System::of(&held));
            let ways: Vec<_> = [1e-4, 1e-1].map(Some).into_iter().chain(bias.then_some(None)).collect();
            let (before, errors) = few.errors(held.few().unwrap(), &ways);
            assert!((before - judge.error(&old)).abs() < 1e-9 * before);
            for (way, error) in ways.into_iter().zip(errors) {
                let (found, weights) = (few.weights(way), system.find(&old, way, bias).unwrap());
                assert!((&found - &weights).norm_max() < 1e-6, "{way:?} {bias}");
                let expected = judge.error(&weights);
                assert!((error - expected).abs() < 1e-6 * before, "{way:?} {bias}: {error} {expected}");
            }
        }
    }
}
