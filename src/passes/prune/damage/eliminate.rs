//! Structured elimination: which inputs of linear layers can go at the least error, if the weights of those that stay make
//! up for them.
//!
//! With `H = X'X` the second moments of a layer's inputs and `W` its weights, removing the inputs `B` costs at least
//! `tr(W_B' ((H^-1)_BB)^-1 W_B)`, which `W - (H^-1)_:B ((H^-1)_BB)^-1 W_B` attains (the optimal brain surgeon, Hassibi
//! and Stork 1993, for groups of weights). Positions go one after the other, each time the cheapest.

use super::super::reader::{Read, Reader};
use faer::{Accum, Mat, Par, Side, linalg::matmul::matmul, linalg::solvers::Llt, prelude::Solve};
use rayon::prelude::*;

/// What is added to the diagonal of `H`, as a share of its mean.
const RIDGE: f64 = 1e-3;
/// The same where rows are windows of an image: those that overlap say little new, so that fewer rows count than there are.
const RIDGE_OF_WINDOWS: f64 = 1e-2;
/// Costs are found anew at least so many times in a group; between, several positions go at once.
const STEPS: usize = 256;

/// What is known of a linear map.
pub(super) struct Moments {
    parts: Vec<Known>,
    /// The sum of squares of what it puts out.
    energy: f64,
}

/// What is known of a part.
struct Known {
    /// `H^-1` over all rows, by which positions are chosen.
    inverse: Mat<f64>,
    /// `H^-1` without the rows held out: on these is seen what weights found from the others are worth.
    without_held: Mat<f64>,
    weights: Mat<f64>,
}

impl Moments {
    /// Of a map with these weights. `None` where nothing arrives at it.
    pub(super) fn of(read: Read) -> Option<Moments> {
        let ridge = if read.windows { RIDGE_OF_WINDOWS } else { RIDGE };
        let mut energy = 0.0;
        let mut moments = Vec::with_capacity(read.sums.len());
        for ([most, held], weights) in read.sums.into_iter().zip(read.weights) {
            let without_held = inverse(most.gram(), ridge)?;
            let gram = most.plus(&held).gram();
            energy += energy_of(&gram, &weights);
            moments.push(Known { inverse: inverse(gram, ridge)?, without_held, weights });
        }
        (energy > 0.0 && energy.is_finite()).then_some(Moments { parts: moments, energy })
    }
    /// The weights of each part when these positions of the group are gone.
    pub(super) fn without(&self, reader: &Reader, gone: &[usize]) -> Option<Vec<Mat<f64>>> {
        let rows: Vec<usize> = gone.iter().flat_map(|p| reader.rows[*p].iter().copied()).collect();
        let mut new = Vec::with_capacity(self.parts.len());
        for Known { without_held: inverse, weights, .. } in &self.parts {
            let block = Mat::from_fn(rows.len(), rows.len(), |i, j| inverse[(rows[i], rows[j])]);
            let lost = Mat::from_fn(rows.len(), weights.ncols(), |i, k| weights[(rows[i], k)]);
            let solved = Llt::new(block.as_ref(), Side::Lower).ok()?.solve(lost);
            let columns = Mat::from_fn(inverse.nrows(), rows.len(), |i, j| inverse[(i, rows[j])]);
            let mut weights = weights - columns * solved;
            rows.iter().for_each(|row| weights.row_mut(*row).fill(0.0));
            new.push(weights);
        }
        Some(new)
    }
}

/// The inverse of second moments with so much added to the diagonal, as a share of its mean.
fn inverse(mut gram: Mat<f64>, share: f64) -> Option<Mat<f64>> {
    let n = gram.nrows();
    let ridge = share * (0..n).map(|k| gram[(k, k)]).sum::<f64>() / n.max(1) as f64;
    (0..n).for_each(|k| gram[(k, k)] += ridge);
    Some(Llt::new(gram.as_ref(), Side::Lower).ok()?.solve(Mat::<f64>::identity(n, n)))
}

/// The sum of squares of what weights put out.
fn energy_of(gram: &Mat<f64>, weights: &Mat<f64>) -> f64 {
    let outputs = gram * weights;
    weights.col_iter().zip(outputs.col_iter()).map(|(w, y)| w.transpose() * y).sum()
}

/// A part of a layer, restricted to what belongs to the group, as positions go.
struct Part {
    inverse: Mat<f64>,
    /// A column for each row of the map's weights, so that those of a position lie together.
    weights: Mat<f64>,
    /// The rows of each position.
    rows: Vec<Vec<usize>>,
    energy: f64,
}

/// The order in which positions go, the cheapest first, and the error after so many have gone, relative to what the
/// layers put out and summed over them.
pub(super) struct Eliminated {
    pub(super) order: Vec<usize>,
    /// One entry more than there are positions.
    pub(super) error: Vec<f64>,
}

/// Removes all positions of a group from the layers that read it.
pub(super) fn eliminate(readers: &[(&Reader, &Moments)], size: usize) -> Eliminated {
    let mut parts: Vec<Part> =
        readers.iter().flat_map(|(reader, moments)| restricted(reader, moments)).collect();
    let mut left: Vec<usize> = (0..size).collect();
    let (mut order, mut error) = (Vec::with_capacity(size), vec![0.0]);
    let at_once = size.div_ceil(STEPS);
    let mut sum = 0.0;
    while !left.is_empty() {
        let cost = |p: &usize| (parts.iter().map(|part| part.cost(*p)).sum::<f64>(), *p);
        let mut costs: Vec<(f64, usize)> = left.par_iter().map(cost).collect();
        costs.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        costs.truncate(at_once);
        for (cost, position) in &costs {
            order.push(*position);
            sum += cost.max(0.0);
            error.push(sum);
        }
        let gone = &order[order.len() - costs.len()..];
        parts.par_iter_mut().for_each(|part| part.remove(gone));
        left.retain(|p| !gone.contains(p));
    }
    Eliminated { order, error }
}

/// The parts of a layer, restricted to the rows of a group.
fn restricted(reader: &Reader, moments: &Moments) -> Vec<Part> {
    let all = reader.rows.concat();
    let mut start = 0;
    let mut own = Vec::with_capacity(reader.rows.len());
    for rows in &reader.rows {
        let end = start + rows.len();
        own.push((start..end).collect::<Vec<_>>());
        start = end;
    }
    let part = |Known { inverse, weights, .. }: &Known| Part {
        inverse: Mat::from_fn(all.len(), all.len(), |i, j| inverse[(all[i], all[j])]),
        weights: Mat::from_fn(weights.ncols(), all.len(), |k, i| weights[(all[i], k)]),
        rows: own.clone(),
        energy: moments.energy,
    };
    moments.parts.iter().map(part).collect()
}

impl Part {
    /// `(H^-1)_BB`, decomposed; `None` where rounding has left it singular.
    fn block(&self, rows: &[usize]) -> Option<Llt<f64>> {
        let block = Mat::from_fn(rows.len(), rows.len(), |i, j| self.inverse[(rows[i], rows[j])]);
        Llt::new(block.as_ref(), Side::Lower).ok()
    }
    fn cost(&self, position: usize) -> f64 {
        let rows = &self.rows[position];
        if rows.is_empty() {
            return 0.0;
        }
        // tr(W_B' ((H^-1)_BB)^-1 W_B) by W_B W_B', which is small where outputs are many.
        let squares = Mat::from_fn(rows.len(), rows.len(), |i, j| {
            self.weights.col(rows[i]).transpose() * self.weights.col(rows[j])
        });
        let cost = |block: Llt<f64>| block.solve(squares).diagonal().column_vector().iter().sum::<f64>();
        // Where there is no solution, all that the part puts out is taken to be lost.
        self.block(rows).map_or(1.0, |block| cost(block) / self.energy)
    }
    fn remove(&mut self, positions: &[usize]) {
        let rows: Vec<usize> = positions.iter().flat_map(|p| std::mem::take(&mut self.rows[*p])).collect();
        if rows.is_empty() {
            return;
        }
        let Some(block) = self.block(&rows) else { return };
        let columns = Mat::from_fn(self.inverse.nrows(), rows.len(), |i, j| self.inverse[(i, rows[j])]);
        let lost = Mat::from_fn(self.weights.nrows(), rows.len(), |k, j| self.weights[(k, rows[j])]);
        let across = block.solve(columns.transpose());
        matmul(&mut self.weights, Accum::Add, &lost, &across, -1.0, Par::Seq);
        matmul(&mut self.inverse, Accum::Add, &columns, &across, -1.0, Par::Seq);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Graph, Op};

    /// What a layer sees: `a, b, a + b` and a weak input, in 90 rows.
    fn inputs() -> Mat<f64> {
        Mat::from_fn(90, 4, |row, k| {
            let (a, b) = ((row as f64 * 0.7).sin(), (row as f64 * 1.3).cos());
            [a, b, a + b, 0.5 * (row as f64 * 2.1).sin()][k]
        })
    }
    fn moments(x: &Mat<f64>, weights: Mat<f64>) -> Moments {
        let gram = x.transpose() * x;
        let regular = &gram + faer::Scale(1e-9) * Mat::<f64>::identity(4, 4);
        let inverse = Llt::new(regular.as_ref(), Side::Lower).unwrap().solve(Mat::<f64>::identity(4, 4));
        let energy = energy_of(&gram, &weights);
        Moments { parts: vec![Known { without_held: inverse.clone(), inverse, weights }], energy }
    }
    /// The squares that are left of `X W` when the columns `stay` explain it as well as they can.
    fn residual(x: &Mat<f64>, weights: &Mat<f64>, stay: &[usize]) -> f64 {
        let seen = Mat::from_fn(x.nrows(), stay.len(), |i, j| x[(i, stay[j])]);
        let wanted = x * weights;
        let gram = seen.transpose() * &seen;
        let best = Llt::new(gram.as_ref(), Side::Lower).unwrap().solve(seen.transpose() * &wanted);
        (wanted - seen * best).squared_norm_l2()
    }

    #[test]
    fn errors_are_those_of_the_best_weights() {
        let x = inputs();
        let weights = Mat::from_fn(4, 2, |i, k| [[1.0, 2.0], [0.5, -1.0], [1.5, 0.3], [0.2, 0.4]][i][k]);
        let known = moments(&x, weights.clone());
        let mut g = Graph::new("g");
        g.add_node(Op::new("MatMul", ""), &[], "y", None);
        let op = g.ops().next().unwrap();
        let reader = Reader { op, map: 0, rows: (0..4).map(|k| vec![k]).collect() };
        let found = eliminate(&[(&reader, &known)], 4);
        // One of three inputs that tell the same goes for nothing.
        assert!(found.order[0] < 3 && found.error[1] < 1e-6, "{:?} {:?}", found.order, found.error);
        for k in 1..4 {
            let mut stay = found.order[k..].to_vec();
            stay.sort_unstable();
            let expected = residual(&x, &weights, &stay) / known.energy;
            assert!((found.error[k] - expected).abs() < 1e-4, "{k}: {} and not {expected}", found.error[k]);
            let new = &known.without(&reader, &found.order[..k]).unwrap()[0];
            let error = (&x * (&weights - new)).squared_norm_l2() / known.energy;
            assert!((error - expected).abs() < 1e-4, "{k}: {error} and not {expected}");
        }
        assert!((found.error[4] - 1.0).abs() < 1e-4);
    }
}
