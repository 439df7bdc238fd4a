//! Both sides of a split found in turns: with what is behind the first kernel as it is, the best first kernel is a linear
//! least squares problem too, and with that kernel so is what is behind it (alternating least squares).
//!
//! A first kernel `P` is told by numbers `p_u`, each of which stands at some places `(i, j)` of it. With `D` all that is
//! behind it and `G` the second moments, the error `tr (W - PD)'G(W - PD)` is least where
//!
//! ```text
//! sum over v of A[u,v] p_v = b_u     A[u,v] = sum G[i,i'] (DD')[j,j']     b_u = sum (GWD')[i,j]
//! ```
//!
//! summed over the places of `u` and of `v`. `Outputs` needs none of it: its kernels are the best of their rank.

use super::{
    first::Reach,
    form::{Form, Part, Ranks, product},
    metric::Metric,
};
use faer::{Mat, Side, linalg::solvers::Llt, prelude::Solve};

/// How often both sides are found.
const TURNS: usize = 4;
/// More numbers in a first kernel than this take too long to solve for.
const MOST_UNKNOWNS: usize = 2048;
/// What is added to the diagonal of `A`, as a share of its mean: kernels are found up to a change of basis only.
const RIDGE: f64 = 1e-9;

/// The kernels of a split of a part after some turns, by what rows the metric of `part` stands for; `None` where there is
/// nothing to gain, or too much to solve.
pub(super) fn improved(
    part: &Part<'_>,
    form: Form,
    [_, b]: Ranks,
    kernels: &[Mat<f64>],
) -> Option<Vec<Mat<f64>>> {
    let reach = form.first(part.kernel)?;
    let mut kernels = kernels.to_vec();
    for _ in 0..TURNS {
        let behind = kernels[2..].iter().fold(kernels[1].clone(), |all, kernel| all * kernel);
        let first = first(part, reach, &kernels[0], &behind)?;
        kernels = part.completed(reach, form, first, b).ok()?;
    }
    kernels.iter().all(Mat::is_all_finite).then_some(kernels)
}

/// What of its squares a part loses on rows.
pub(super) fn loss(part: &Part<'_>, form: Form, kernels: &[Mat<f64>], metric: &Metric) -> f64 {
    metric.square(&(part.weights - product(form, part.kernel, part.weights.nrows(), kernels)))
}

/// The best first kernel in front of `behind`.
fn first(part: &Part<'_>, reach: Reach, old: &Mat<f64>, behind: &Mat<f64>) -> Option<Mat<f64>> {
    let (inputs, rows, columns) = (part.weights.nrows(), old.nrows(), old.ncols());
    let unknowns = rows * columns;
    if unknowns > MOST_UNKNOWNS {
        return None;
    }
    let gram = part.metric.times(&Mat::identity(inputs, inputs));
    let square = behind * behind.transpose();
    let right = part.metric.times(part.weights) * behind.transpose();
    let places: Vec<Vec<(usize, usize)>> =
        (0..unknowns).map(|u| reach.places(u % rows, u / rows, inputs, columns)).collect();
    let over = |u: usize, v: usize| -> f64 {
        let pairs = places[u].iter().flat_map(|a| places[v].iter().map(move |b| (a, b)));
        pairs.map(|((i, j), (k, l))| gram[(*i, *k)] * square[(*j, *l)]).sum()
    };
    let mut system = Mat::from_fn(unknowns, unknowns, |u, v| if u >= v { over(u, v) } else { 0.0 });
    let ridge = RIDGE * (0..unknowns).map(|u| system[(u, u)]).sum::<f64>() / unknowns.max(1) as f64;
    (0..unknowns).for_each(|u| system[(u, u)] += ridge);
    let right = Mat::from_fn(unknowns, 1, |u, _| places[u].iter().map(|at| right[*at]).sum());
    let found = Llt::new(system.as_ref(), Side::Lower).ok()?.solve(right);
    Some(Mat::from_fn(rows, columns, |i, j| found[(j * rows + i, 0)]))
}

#[cfg(test)]
mod tests {
    use super::{super::form::Known, *};
    use crate::passes::linear::Sums;

    fn numbers(n: usize, seed: u64) -> impl Fn(usize, usize) -> f64 {
        move |i, j| ((i * n + j) as f64 * 12.9898 + seed as f64 * 78.233).sin() * 43_758.545_3 % 1.0
    }

    #[test]
    fn turns_never_lose_more_and_settle_where_neither_side_gains() {
        let (kernel, inputs) = ([3, 3], 36);
        let weights = Mat::from_fn(inputs, 8, numbers(8, 1));
        // Inputs that go together: where they do not, kernels across channels are the best from the start.
        let mut sums = Sums::new(inputs, 0);
        for row in 0..200 {
            let x = |j: usize| {
                numbers(inputs, 3)(row, j) + 2.0 * numbers(6, 4)(row, j % 6) + numbers(4, 5)(row, j / 9)
            };
            sums.add(&(0..inputs).map(x).collect::<Vec<_>>());
        }
        let metric = Metric::of(&sums, false);
        let part =
            Part { weights: &weights, metric: &metric, kernel: &kernel, seed: 0, known: Known::Nothing };
        for (form, ranks) in [
            (Form::Inputs, [2, 0]),
            (Form::Spatial, [3, 0]),
            (Form::Tucker, [2, 4]),
            (Form::Depthwise, [2, 0]),
        ] {
            let kernels = part.split(form, ranks).unwrap();
            let turned = improved(&part, form, ranks, &kernels).unwrap();
            let shapes = |all: &[Mat<f64>]| all.iter().map(|m| (m.nrows(), m.ncols())).collect::<Vec<_>>();
            assert_eq!(shapes(&kernels), shapes(&turned));
            let [before, after] = [&kernels, &turned].map(|k| loss(&part, form, k, &metric));
            assert!(after < before * (1.0 - 1e-3), "{form:?}: {before} -> {after}");
            // Moving any number of the first kernel a little gains nothing.
            let behind = turned[2..].iter().fold(turned[1].clone(), |all, kernel| all * kernel);
            let reach = form.first(&kernel).unwrap();
            let best = first(&part, reach, &turned[0], &behind).unwrap();
            let at = |p: &Mat<f64>| metric.square(&(&weights - reach.whole(p, inputs) * &behind));
            for u in 0..best.nrows() * best.ncols() {
                for by in [-1e-3, 1e-3] {
                    let mut moved = best.clone();
                    moved[(u % best.nrows(), u / best.nrows())] += by;
                    assert!(at(&moved) >= at(&best), "{form:?}: {u}");
                }
            }
        }
        assert!(
            improved(&part, Form::Outputs, [0, 4], &part.split(Form::Outputs, [0, 4]).unwrap()).is_none()
        );
    }
}
