//! What positions add to the layers that read them, on the calibration samples.
//!
//! With `H = X'X` the second moments of what a layer sees and `W` its weights, a position that is its inputs `B` adds
//! `sum |W_i|^2 H_ii` over `i` in `B`, relative to the squares of all that the layer puts out; the layers that read a group
//! are summed up. `variance` counts the moments about the mean where the layer has a bias, which takes the mean up.
//! Scores are the roots, divided by their mean over the group. Groups that no linear layer reads keep those of their weights.

use super::{
    Context,
    reader::{Layers, Read},
    score::relative,
    select::Candidate,
};
use crate::{error::Result, ir::Model, ops::axes::Flow};

/// Scores the positions of all candidates; `varying` for what varies alone.
pub(super) fn measure(
    model: &Model,
    flow: &Flow<'_>,
    candidates: &mut [Candidate],
    varying: bool,
    cx: &Context<'_>,
) -> Result<()> {
    let layers = Layers::of(model);
    let readers: Vec<_> = candidates.iter().map(|c| layers.readers(flow, &c.group)).collect();
    let known = layers.read(model, &readers, cx, |read| added(&read, varying))?;
    for (candidate, readers) in candidates.iter_mut().zip(&readers) {
        let read: Vec<_> = readers.iter().filter_map(|r| Some((r, known.get(&(r.op, r.map))?))).collect();
        if !read.is_empty() {
            let of = |position: usize| -> f64 {
                let added =
                    read.iter().map(|(r, added)| r.rows[position].iter().map(|i| added[*i]).sum::<f64>());
                added.sum::<f64>().sqrt()
            };
            candidate.scores = relative((0..candidate.group.size).map(of).collect());
        }
    }
    Ok(())
}

/// What each input of a map adds, relative to all that it puts out. `None` where that is nothing.
fn added(read: &Read, varying: bool) -> Option<Vec<f64>> {
    let inputs = read.weights.first()?.nrows() - usize::from(read.bias);
    let (mut added, mut energy) = (vec![0.0; inputs], 0.0);
    for ([most, held], weights) in read.sums.iter().zip(&read.weights) {
        let sums = most.clone().plus(held);
        let (gram, rows) = (sums.gram(), sums.rows().max(1) as f64);
        let put_out = &gram * weights;
        energy += weights.col_iter().zip(put_out.col_iter()).map(|(a, b)| a.transpose() * b).sum::<f64>();
        for (i, added) in added.iter_mut().enumerate() {
            let mean = if varying && read.bias { gram[(i, inputs)] / rows } else { 0.0 };
            *added += weights.row(i).squared_norm_l2() * f64::max(gram[(i, i)] - rows * mean * mean, 0.0);
        }
    }
    added.iter_mut().for_each(|a| *a /= energy);
    (energy > 0.0 && energy.is_finite()).then_some(added)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::linear::Sums;
    use faer::Mat;

    #[test]
    fn what_is_always_the_same_varies_nothing() {
        // Two inputs and a one: the first is always 3, the second 1 or -1.
        let sums = [[3.0, 1.0, 1.0], [3.0, -1.0, 1.0]].map(|row| {
            let mut sums = Sums::new(3, 0);
            sums.add(&row);
            sums
        });
        let weights = vec![Mat::from_fn(3, 2, |i, k| [[1.0, 2.0], [2.0, 2.0], [0.0, 0.0]][i][k])];
        let read = Read { weights, sums: vec![sums], bias: true, windows: false };
        let energy = (3.0 * 3.0 * 5.0 + 8.0) * 2.0;
        assert_eq!(added(&read, false).unwrap(), [90.0 / energy, 16.0 / energy]);
        assert_eq!(added(&read, true).unwrap(), [0.0, 16.0 / energy]);
        let read = Read { bias: false, ..read };
        assert_eq!(added(&read, true).unwrap().len(), 3, "without a bias nothing takes the mean up");
    }
}
