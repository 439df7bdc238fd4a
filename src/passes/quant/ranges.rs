//! Which rule the ranges of activations follow.
//!
//! What saturates outside a range and what steps cost inside it matter differently to the outputs of every model: the least error
//! of each value is not always the least of the outputs. So where no rule is given, one sweep tells the ranges by a few of them,
//! and all activations are rounded by each, side by side. Where one leaves the outputs a clearly smaller error than the usual
//! rule, both are looked at once more with biases corrected for them: a narrow range moves means, which biases make up for, but
//! no bias makes up for coarse steps.

use super::{activations::Schemes, rule::Rule, trial::Trial};
use crate::{
    error::Result,
    ir::Model,
    passes::{Context, linear::effect::Original},
};

/// The share of the usual rule's error that another has to stay below.
const BETTER: f64 = 0.8;
/// Samples of a look: so few of large models, so many of small ones.
const SAMPLES: std::ops::RangeInclusive<usize> = 8..=64;
/// A look takes this share, as a divisor, of the work that looking at changes may take.
const SHARE: usize = 4;

/// What rounding all activations by each rule does to the outputs.
pub(super) struct Look {
    /// Squared errors relative to the outputs' squares; empty where none was looked at.
    errors: Vec<f64>,
    samples: usize,
    /// Which of them stays unless another is clearly better.
    usual: usize,
}

/// What was taken.
pub(super) struct Nearest {
    /// Its place among those that were left.
    pub(super) place: usize,
    /// The power of the noise that it leaves, as far as that was looked at.
    pub(super) noise: Option<f64>,
    /// What was looked at, in words.
    pub(super) text: Option<String>,
}

impl Look {
    /// Where none differs from the others.
    pub(super) fn none(usual: usize) -> Look {
        Look { errors: Vec::new(), samples: 0, usual }
    }
    /// Looks at what is tried by each of these sets of schemes, where the model is small enough; this one stays unless another
    /// is clearly better.
    pub(super) fn at(trial: &Trial<'_>, sets: &[Schemes], usual: usize, cx: &Context<'_>) -> Result<Look> {
        if trial.float.affordable(sets.len(), cx)? < *SAMPLES.start() {
            return Ok(Look::none(usual));
        }
        let samples = trial.float.affordable(SHARE * sets.len(), cx)?;
        let samples = samples.clamp(*SAMPLES.start(), *SAMPLES.end());
        let with = |schemes: &Schemes| trial.with(&trial.rounded, schemes, cx);
        let errors = trial.float.errors_on(samples, sets, with, cx)?;
        Ok(Look { errors, samples, usual })
    }
    /// The sets that may be the best: the one that stays otherwise, and another that is clearly better so far.
    pub(super) fn left(&self) -> Vec<usize> {
        match least(&self.errors, self.usual) {
            best if best == self.usual => vec![best],
            best => vec![self.usual, best],
        }
    }
    /// Which of those that were left is the best with biases corrected.
    pub(super) fn nearest(
        &self,
        rules: &[Rule],
        float: &Original,
        corrected: &[Model],
        cx: &Context<'_>,
    ) -> Result<Nearest> {
        let left = self.left();
        let written = |model: &Model| Ok(cx.written(model)?.0);
        let errors = match left.len() {
            1 => self.errors.get(self.usual).copied().into_iter().collect(),
            _ => float.errors_on(self.samples, corrected, written, cx)?,
        };
        let place = least(&errors, 0);
        let text = (!self.errors.is_empty()).then(|| {
            let rules_left: Vec<Rule> = left.iter().map(|k| rules[*k]).collect();
            let mut text = format!(
                "ranges of activations with the least error of the outputs, those by {}: these are above the noise by {}",
                rules_left[place],
                decibels(rules, &self.errors)
            );
            if left.len() > 1 {
                text += &format!("; with biases corrected by {}", decibels(&rules_left, &errors));
            }
            text
        });
        Ok(Nearest { place, noise: errors.get(place).copied(), text })
    }
}

/// The least of these errors, the usual one unless another is clearly less.
fn least(errors: &[f64], usual: usize) -> usize {
    let order = |a: &usize, b: &usize| errors[*a].total_cmp(&errors[*b]);
    let best = (0..errors.len()).min_by(order).unwrap_or(0);
    if errors.get(best).is_some_and(|error| *error < BETTER * errors[usual]) { best } else { usual }
}

fn decibels(rules: &[Rule], errors: &[f64]) -> String {
    let each =
        rules.iter().zip(errors).map(|(rule, error)| format!("{:.1} dB ({rule})", -10.0 * error.log10()));
    each.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_rule_stays_unless_another_is_clearly_better() {
        assert_eq!(least(&[], 0), 0);
        assert_eq!(least(&[1.0, 0.9, 0.85], 0), 0);
        assert_eq!(least(&[1.0, 0.7, 0.6], 0), 2);
        assert_eq!(least(&[1.0, 0.7, 0.6], 1), 1);
        assert_eq!(least(&[1.0, f64::NAN], 0), 0);
        let left = |errors: &[f64]| Look { errors: errors.to_vec(), samples: 8, usual: 0 }.left();
        assert_eq!((left(&[]), left(&[1.0, 0.9]), left(&[1.0, 0.9, 0.5])), (vec![0], vec![0], vec![0, 2]));
    }
}
