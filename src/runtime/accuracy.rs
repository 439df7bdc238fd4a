//! How many samples each model classifies rightly.

use super::compare::largest;
use crate::error::{Error, Result};
use serde::Serialize;

/// The share of samples whose largest score is the right class.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Accuracy {
    /// Of the original.
    pub original: f64,
    /// Of the compressed model.
    pub compressed: f64,
    /// The number of labelled samples.
    pub samples: usize,
}

/// Counts right answers on the first output that has one row of scores a sample.
pub(super) struct Scores<'a> {
    labels: &'a [i64],
    by_output: Vec<(String, usize, [usize; 2])>,
}

impl<'a> Scores<'a> {
    pub(super) fn new(labels: &'a [i64]) -> Scores<'a> {
        Scores { labels, by_output: Vec::new() }
    }
    pub(super) fn add(&mut self, name: &str, original: &[f64], compressed: &[f64], classes: usize) {
        let at = self.by_output.iter().position(|(known, ..)| known == name).unwrap_or_else(|| {
            self.by_output.push((name.to_owned(), 0, [0, 0]));
            self.by_output.len() - 1
        });
        let (_, seen, right) = &mut self.by_output[at];
        for (a, b) in original.chunks_exact(classes).zip(compressed.chunks_exact(classes)) {
            let label = self.labels.get(*seen).and_then(|label| usize::try_from(*label).ok());
            *seen += 1;
            right[0] += usize::from(label == Some(largest(a)));
            right[1] += usize::from(label == Some(largest(b)));
        }
    }
    pub(super) fn finish(self, count: usize) -> Result<Accuracy> {
        if self.labels.len() < count {
            let what = format!("there are {} labels for {count} samples", self.labels.len());
            return Err(Error::usage(what, "give one label for each sample"));
        }
        let Some((_, _, right)) = self.by_output.iter().find(|(_, seen, _)| *seen == count) else {
            let what = format!("no output has one row of scores for each of the {count} samples");
            return Err(Error::usage(what, "labels are for models that classify"));
        };
        let share = |right: usize| right as f64 / count.max(1) as f64;
        Ok(Accuracy { original: share(right[0]), compressed: share(right[1]), samples: count })
    }
}
