//! Ridge least squares from sums over rows, so that the memory is bounded whatever the number of samples.
//!
//! With `X` the inputs of a layer (a column of ones last where it has a bias), `Y` what it should put out and `W0` its
//! weights: the smallest `|Y - X W|^2 + lambda |W - W0|^2` has `W = W0 + (X'X + lambda I)^-1 (X'Y - X'X W0)`. Everything
//! is in f64; `X'X` and `X'Y` are all that is kept of the rows, unless these are few (see `few`).

use super::{Found, Layer, Sums, few::Few};
use crate::ir::Model;
use faer::{Mat, MatRef, Side, linalg::solvers::Llt, prelude::Solve};
use rayon::prelude::*;

/// `lambda` as shares of the mean diagonal of `X'X`; held-out rows decide.
const LAMBDAS: [f64; 7] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];
/// From so many outputs, evenly spread, `lambda` is chosen for all.
const DECIDING: usize = 256;

/// Better weights for a layer, and what they are worth on rows that they were not made from, in the outputs that decide.
pub(crate) struct Fit {
    /// One column for each output; the bias is the last row, where there is one. `None`: the old ones are no worse.
    pub(crate) weights: Option<Mat<f64>>,
    /// The squared error of the old weights.
    pub(crate) before: f64,
    /// The squared error of the new ones.
    pub(crate) after: f64,
    /// The sum of squares of the outputs.
    pub(crate) size: f64,
}

/// Rows that weights are found from once those held out have told how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    /// Those held out too.
    All,
    /// None of those held out: what the weights are worth is still to be seen on their samples.
    Most,
}

/// The sums that weights are found from or judged on.
pub(crate) struct System {
    pub(crate) gram: Mat<f64>,
    cross: Mat<f64>,
    pub(crate) squares: f64,
}

impl System {
    pub(crate) fn of(sums: &Sums) -> System {
        System { gram: sums.gram(), cross: sums.cross(), squares: sums.squares().iter().sum() }
    }
    /// For some of the outputs.
    fn some(sums: &Sums, outputs: &[usize]) -> System {
        let (cross, squares) = (sums.cross(), sums.squares());
        let squares = outputs.iter().map(|k| squares[*k]).sum();
        System { gram: sums.gram(), cross: some(cross, outputs), squares }
    }
    /// `X'(Y - X W)`
    fn residual(&self, weights: &Mat<f64>) -> Mat<f64> {
        &self.cross - &self.gram * weights
    }
    /// `|Y - X W|^2`, which rounding may leave a little below nothing.
    pub(crate) fn error(&self, weights: &Mat<f64>) -> f64 {
        let both = &self.cross + self.residual(weights);
        let columns = weights.col_iter().zip(both.col_iter());
        let explained: f64 = columns.map(|(w, c)| w.transpose() * c).sum();
        (self.squares - explained).max(0.0)
    }
    /// The weights of a way: near `old` by as much as `lambda` tells, or with another bias alone. `None` where the system is
    /// singular.
    pub(crate) fn find(&self, old: &Mat<f64>, way: Option<f64>, bias: bool) -> Option<Mat<f64>> {
        let Some(lambda) = way else { return Some(self.shifted(old)) };
        let n = self.gram.nrows();
        let ridged = n - usize::from(bias);
        let mean = (0..ridged).map(|k| self.gram[(k, k)]).sum::<f64>() / ridged.max(1) as f64;
        let mut gram = self.gram.clone();
        for k in 0..n {
            // The bias is free, but for what keeps the system regular.
            gram[(k, k)] += if k < ridged { lambda * mean } else { 1e-12 * self.gram[(k, k)] };
        }
        let solved = Llt::new(gram.as_ref(), Side::Lower).ok()?.solve(self.residual(old));
        Some(old + solved)
    }
    /// The ridge solution around `weights` that moves only these rows of each column; `None` where a system is singular.
    pub(crate) fn solve_on(
        &self,
        weights: &Mat<f64>,
        rows: &[Vec<usize>],
        lambda: f64,
        bias: bool,
    ) -> Option<Mat<f64>> {
        let n = self.gram.nrows();
        let ridged = n - usize::from(bias);
        let mean = (0..ridged).map(|k| self.gram[(k, k)]).sum::<f64>() / ridged.max(1) as f64;
        let residual = self.residual(weights);
        let column = |(k, rows): (usize, &Vec<usize>)| {
            let held = |i: usize| if i < ridged { lambda * mean } else { 1e-12 * self.gram[(i, i)] };
            let gram = Mat::from_fn(rows.len(), rows.len(), |a, b| {
                self.gram[(rows[a], rows[b])] + if a == b { held(rows[a]) } else { 0.0 }
            });
            let wanted = Mat::from_fn(rows.len(), 1, |a, _| residual[(rows[a], k)]);
            Some(Llt::new(gram.as_ref(), Side::Lower).ok()?.solve(wanted))
        };
        let moves: Vec<Mat<f64>> = rows.par_iter().enumerate().map(column).collect::<Option<_>>()?;
        let mut found = weights.clone();
        for (k, (rows, moves)) in rows.iter().zip(moves).enumerate() {
            rows.iter().enumerate().for_each(|(a, row)| found[(*row, k)] += moves[(a, 0)]);
        }
        Some(found)
    }
    /// The same weights with the bias that makes the mean error nothing.
    fn shifted(&self, weights: &Mat<f64>) -> Mat<f64> {
        let (last, residual) = (weights.nrows() - 1, self.residual(weights));
        let mut shifted = weights.clone();
        for k in 0..weights.ncols() {
            shifted[(last, k)] += residual[(last, k)] / self.gram[(last, last)];
        }
        shifted
    }
}

/// Finds weights from `train` near `old` by the way that does best on `held`, then by that way from `rows`. With `bias`,
/// the last input is a one and its weights are never held back.
pub(crate) fn fit(train: &Sums, held: &Sums, old: &Mat<f64>, bias: bool, rows: Rows) -> Fit {
    // No `lambda` is the bias alone.
    let ways: Vec<_> = LAMBDAS.iter().map(|l| Some(*l)).chain(bias.then_some(None)).collect();
    let all = old.ncols();
    let few = (0..DECIDING).map(|k| k * all / DECIDING).collect();
    let deciding: Vec<usize> = if all > DECIDING { few } else { (0..all).collect() };
    let near = some(old.clone(), &deciding);
    let (before, errors) = errors(train, held, &near, &deciding, &ways, bias);
    let best = ways.into_iter().zip(errors).min_by(|a, b| a.1.total_cmp(&b.1));
    let best = best.filter(|(_, error)| *error < before);
    let found = best.and_then(|(way, after)| {
        let sums = match rows {
            Rows::All => &train.clone().plus(held),
            Rows::Most => train,
        };
        let weights = match sums.few() {
            Some(rows) => Few::of(rows, old, bias).map(|few| few.weights(way)),
            None => System::of(sums).find(old, way, bias),
        };
        Some((weights.filter(|w| w.is_all_finite())?, after))
    });
    let squares = held.squares();
    let size = deciding.iter().map(|k| squares[*k]).sum();
    let (weights, after) = found.map_or((None, before), |(weights, after)| (Some(weights), after));
    Fit { weights, before, after, size }
}

/// The squared error on `held` of the old weights of some outputs, and of those that each way finds from `train`.
fn errors(
    train: &Sums,
    held: &Sums,
    old: &Mat<f64>,
    outputs: &[usize],
    ways: &[Option<f64>],
    bias: bool,
) -> (f64, Vec<f64>) {
    if let (Some([x, y]), Some(judge)) = (train.few(), held.few()) {
        let columns = |y: MatRef<'_, f64>| some(y.to_owned(), outputs);
        let (y, held) = (columns(y), columns(judge[1]));
        if let Some(few) = Few::of([x, y.as_ref()], old, bias) {
            return few.errors([judge[0], held.as_ref()], ways);
        }
    }
    let (system, judge) = (System::some(train, outputs), System::some(held, outputs));
    let error = |way: &Option<f64>| system.find(old, *way, bias).map_or(f64::INFINITY, |w| judge.error(&w));
    (judge.error(old), ways.iter().map(error).collect())
}

/// Some of a matrix' columns, which may be all.
fn some(matrix: Mat<f64>, columns: &[usize]) -> Mat<f64> {
    match columns.len() == matrix.ncols() {
        true => matrix,
        false => Mat::from_fn(matrix.nrows(), columns.len(), |i, k| matrix[(i, columns[k])]),
    }
}

/// New weights of a layer, found from what it sees and should put out.
pub(crate) struct Refit {
    /// Of each part.
    pub(crate) weights: Vec<Mat<f64>>,
    /// What they are worth.
    pub(crate) text: String,
}

impl Refit {
    /// Finds weights that are better than those there are, or says why there are none.
    pub(crate) fn of(model: &Model, layer: &Layer, found: &Found, rows: Rows) -> Result<Refit, String> {
        let parts = found.as_ref().map_err(Clone::clone)?;
        let old = layer.weights(&model.graph).ok_or("its weights cannot be read")?;
        let fits = parts.par_iter().zip(&old);
        let fits: Vec<_> =
            fits.map(|([train, held], old)| fit(train, held, old, layer.has_bias(), rows)).collect();
        let share = |error: f64| 100.0 * (error / fits.iter().map(|f| f.size).sum::<f64>()).sqrt();
        let before = share(fits.iter().map(|f| f.before).sum());
        let after = share(fits.iter().map(|f| f.after).sum());
        if fits.iter().all(|f| f.weights.is_none()) {
            return Err(format!("nothing found is nearer than the error of {before:.1} % as it was cut"));
        }
        let weights = fits.into_iter().zip(old).map(|(fit, old)| fit.weights.unwrap_or(old)).collect();
        Ok(Refit { weights, text: format!("repaired: error {before:.1} % -> {after:.1} % of its output") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows `[a, b, a + b, 1, y]` with `y = 3 a - b + 0.5`, of which the student sees `a, b` or `a + b` alone.
    fn sums(rows: std::ops::Range<usize>, seen: &[usize]) -> Sums {
        let mut sums = Sums::new(seen.len() + 1, 1);
        for k in rows {
            let (a, b) = ((k as f64 * 0.7).sin(), (k as f64 * 1.3).cos());
            let all = [a, b, a + b];
            let mut row: Vec<f64> = seen.iter().map(|i| all[*i]).collect();
            row.extend([1.0, 3.0 * a - b + 0.5]);
            sums.add(&row);
        }
        sums
    }
    fn column(weights: &[f64]) -> Mat<f64> {
        Mat::from_fn(weights.len(), 1, |k, _| weights[k])
    }

    #[test]
    fn what_the_inputs_still_tell_is_recovered() {
        // y = 4 a - (a + b) + 0.5: an input that went is a sum of those that stayed.
        let fit =
            fit(&sums(0..90, &[0, 2]), &sums(90..120, &[0, 2]), &column(&[3.0, 0.0, 0.5]), true, Rows::All);
        let weights = fit.weights.unwrap();
        for (k, expected) in [4.0, -1.0, 0.5].into_iter().enumerate() {
            assert!((weights[(k, 0)] - expected).abs() < 1e-4, "{k}: {}", weights[(k, 0)]);
        }
        assert!(fit.after < 1e-8 * fit.before && fit.before < fit.size);
    }
    #[test]
    fn some_outputs_decide_for_all() {
        let mut parts = [Sums::new(3, 2 * DECIDING), Sums::new(3, 2 * DECIDING)];
        let weight = |i: usize, k: usize| ((i * 7 + k) as f64).cos();
        for row in 0..60 {
            let x = [(row as f64 * 0.7).sin(), (row as f64 * 1.3).cos(), 1.0];
            let y = (0..2 * DECIDING).map(|k| (0..3).map(|i| x[i] * weight(i, k)).sum::<f64>());
            parts[usize::from(row >= 45)].add(&x.into_iter().chain(y).collect::<Vec<_>>());
        }
        let fit = fit(&parts[0], &parts[1], &Mat::zeros(3, 2 * DECIDING), true, Rows::All);
        let right = Mat::from_fn(3, 2 * DECIDING, weight);
        assert!((fit.weights.unwrap() - right).norm_max() < 1e-4);
        let size: f64 = parts[1].squares().iter().sum();
        assert!(fit.size > 0.45 * size && fit.size < 0.55 * size && fit.before == fit.size);
    }
    #[test]
    fn weights_that_are_right_stay() {
        let right = column(&[3.0, -1.0, 0.5]);
        let fit = fit(&sums(0..90, &[0, 1]), &sums(90..120, &[0, 1]), &right, true, Rows::All);
        assert!(fit.before < 1e-12 * fit.size && fit.after <= fit.before);
        if let Some(weights) = fit.weights {
            assert!((&weights - &right).norm_max() < 1e-9);
        }
    }
    #[test]
    fn few_rows_do_not_make_it_worse() {
        // Noise in as many inputs as there are rows: only a bias can be had from them.
        let noise = |k: usize, i: usize| ((k * 31 + i * 17) as f64).sin() * 43_758.545_3 % 1.0;
        let mut parts = [Sums::new(13, 1), Sums::new(13, 1)];
        for k in 0..16 {
            let mut row: Vec<f64> = (0..12).map(|i| noise(k, i)).collect();
            row.extend([1.0, 5.0 + noise(k, 99)]);
            parts[usize::from(k >= 12)].add(&row);
        }
        let fit = fit(&parts[0], &parts[1], &Mat::zeros(13, 1), true, Rows::All);
        assert!(fit.after < 0.1 * fit.before, "{} of {}", fit.after, fit.before);
    }
}
