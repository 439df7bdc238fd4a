//! How many right answers a change costs.
//!
//! Where labels are known, the share of the samples that the model gets right, less that of the changed one. Otherwise the
//! model's own answer, the largest element of a row of scores, counts as right: no accuracy can fall by more than the share
//! of rows where it changes. An output that cannot be scores (of other than two or three axes, or one element a row)
//! counts by its relative error, the root of the mean square; of several outputs the worst.

use crate::{
    error::Result,
    ir::{Model, Tensor},
    measure::{ALL, Probe},
    passes::{Context, linear::effect},
};

/// Rows of one output and how they are answered.
#[derive(Clone, Default)]
struct Tally {
    rows: usize,
    /// By the model and by the changed one, where there are labels.
    right: [usize; 2],
    differing: usize,
    /// Squared differences and squares, where it is no scores.
    error: [f64; 2],
}

/// The share of right answers that `changed` loses, as it would be written. Both have the same outputs.
pub(super) fn lost(model: &Model, changed: &Model, cx: &Context<'_>) -> Result<f64> {
    let (changed, _) = cx.written(changed)?;
    let fetch: Vec<String> = model.graph.outputs.iter().map(|v| model.graph.name_of(*v).to_owned()).collect();
    let mut tallies = vec![Tally::default(); fetch.len()];
    let probes = [model, &changed].map(|model| Probe { model, fetch: &fetch });
    cx.sweep(&probes, ALL, &mut |seen| {
        if let [before, after] = seen.values {
            for ((tally, before), after) in tallies.iter_mut().zip(before).zip(after) {
                tally.add(before, after, cx.labels());
            }
        }
        Ok(())
    })?;
    let labelled = tallies.iter().find(|tally| tally.rows > 0 && tally.rows == cx.labels().len());
    Ok(match labelled {
        Some(Tally { rows, right: [before, after], .. }) => {
            before.saturating_sub(*after) as f64 / *rows as f64
        }
        None => tallies.iter().map(Tally::lost).fold(0.0, f64::max),
    })
}

impl Tally {
    fn add(&mut self, before: &Tensor, after: &Tensor, labels: &[i64]) {
        let classes = before.shape().last().copied().filter(|n| *n >= 2 && matches!(before.rank(), 2 | 3));
        let scores = before.to_f32().zip(after.to_f32()).filter(|(a, b)| a.len() == b.len());
        let (Some(classes), Some((before, after))) = (classes, scores) else {
            return effect::add(&mut self.error, before, after);
        };
        for (a, b) in before.chunks_exact(classes).zip(after.chunks_exact(classes)) {
            let answers = [largest(a), largest(b)];
            let label = labels.get(self.rows).and_then(|label| usize::try_from(*label).ok());
            self.rows += 1;
            self.differing += usize::from(answers[0] != answers[1]);
            for (right, answer) in self.right.iter_mut().zip(answers) {
                *right += usize::from(label == Some(answer));
            }
        }
    }
    fn lost(&self) -> f64 {
        let [error, size] = self.error;
        let relative = if size > 0.0 { (error / size).sqrt() } else { 0.0 };
        relative.max(self.differing as f64 / self.rows.max(1) as f64)
    }
}

/// The index of the largest element; the first of equal ones.
fn largest(row: &[f32]) -> usize {
    (0..row.len()).fold(0, |best, k| if row[k] > row[best] { k } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_count_else_the_models_own_answers_else_the_error() {
        let scores = |values: &[f32]| Tensor::from_vec([3, 2], values.to_vec());
        let before = scores(&[1.0, 0.0, 1.0, 0.0, 0.0, 1.0]);
        let after = scores(&[1.0, 0.0, 0.0, 1.0, 1.0, 0.0]);
        let mut tally = Tally::default();
        tally.add(&before, &after, &[0, 1, 1]);
        assert_eq!((tally.rows, tally.right, tally.differing), (3, [2, 2], 2));
        assert!((tally.lost() - 2.0 / 3.0).abs() < 1e-12);
        let mut image = Tally::default();
        let flat = |values: Vec<f32>| Tensor::from_vec([1, 1, 2, 2], values);
        image.add(&flat(vec![3.0, 4.0, 0.0, 0.0]), &flat(vec![3.0, 4.0, 0.0, 0.5]), &[]);
        assert!((image.lost() - 0.1).abs() < 1e-6, "half a fifth of its size");
    }
}
