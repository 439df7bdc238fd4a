//! Never slower: splits that make the model slower on the machine at hand are found by timing it.
//!
//! Layers of one shape that are split by one form are timed together: the whole model with none but them split, side by
//! side with the original, and those that seem slower once more, as other work on the machine may have met them. Where no
//! such kind is slower alone but all of them are together, the one that helps least is.

use super::{
    budget::{Chosen, stand_in},
    form::Form,
    layer::Candidate,
};
use crate::{
    error::{Error, Result},
    ir::{Graph, Model},
    passes::{Context, targets},
};
use std::collections::BTreeMap;

/// Times closer than this are alike.
const NOISE: f64 = 0.05;

/// The form of a split, and the shapes of weights and inputs of the layer.
pub(super) type Likeness = (Form, Vec<usize>, Vec<Option<usize>>);

/// Splits of a kind.
struct Kind {
    members: Vec<usize>,
    /// The model's time with these alone split, on each batch.
    shares: Vec<f64>,
}

impl Kind {
    fn slowest(&self) -> f64 {
        self.shares.iter().copied().fold(0.0, f64::max)
    }
    /// As far as is known: what was not timed is.
    fn is_slower(&self) -> bool {
        self.shares.is_empty() || self.slowest() > 1.0 + NOISE
    }
}

/// The candidates whose splits, with others of their kind, make the model take longer, and what share of its time it
/// takes then. None where there is no clock.
pub(super) fn slower(
    model: &Model,
    candidates: &[Candidate],
    chosen: &Chosen,
    cx: &Context<'_>,
) -> Result<Vec<(usize, f64)>> {
    let mut kinds = kinds(model, candidates, chosen);
    let together = targets::timed_together(model);
    let alone = |kind: &Kind| {
        let only = (0..chosen.len()).map(|k| chosen[k].filter(|_| kind.members.contains(&k)));
        stand_in(model, candidates, &only.collect::<Chosen>())
    };
    for _ in 0..2 {
        let mut suspects: Vec<&mut Kind> = kinds.iter_mut().filter(|kind| kind.is_slower()).collect();
        for kinds in suspects.chunks_mut(together) {
            cx.check_cancelled()?;
            let models = kinds.iter().map(|kind| alone(kind)).collect::<Result<Vec<_>>>()?;
            let timed = targets::shares_of_time(model, &models.iter().collect::<Vec<_>>(), cx)?;
            let Some(timed) = timed else { return Ok(Vec::new()) };
            kinds.iter_mut().zip(timed.shares).for_each(|(kind, shares)| kind.shares = shares);
        }
    }
    let mut slow: Vec<&Kind> = kinds.iter().filter(|kind| kind.is_slower()).collect();
    if slow.is_empty() && kinds.len() > 1 {
        let all = targets::shares_of_time(model, &[&stand_in(model, candidates, chosen)?], cx)?;
        if all.iter().flat_map(|timed| &timed.shares).flatten().any(|share| *share > 1.0 + NOISE) {
            slow.extend(kinds.iter().max_by(|a, b| a.slowest().total_cmp(&b.slowest())));
        }
    }
    Ok(slow.iter().flat_map(|kind| kind.members.iter().map(|k| (*k, kind.slowest()))).collect())
}

/// The splits that are chosen, by kind.
fn kinds(model: &Model, candidates: &[Candidate], chosen: &Chosen) -> Vec<Kind> {
    let g = &model.graph;
    let mut kinds: BTreeMap<Likeness, Kind> = BTreeMap::new();
    for (k, (candidate, choice)) in candidates.iter().zip(chosen).enumerate() {
        let Some(choice) = choice else { continue };
        let none = || Kind { members: Vec::new(), shares: Vec::new() };
        kinds.entry(likeness(g, candidate, choice.form)).or_insert_with(none).members.push(k);
    }
    kinds.into_values().collect()
}

/// What splits that take equally long have in common.
pub(super) fn likeness(g: &Graph, candidate: &Candidate, form: Form) -> Likeness {
    let weight = g.constant(candidate.layer.weight).map(|t| t.shape().to_vec()).unwrap_or_default();
    let input = g.shape(candidate.layer.input).into_iter().flatten().map(|d| d.known()).collect();
    (form, weight, input)
}

/// Says of a target that cannot be met without what is slower how it can.
pub(super) fn hint(error: Error) -> Error {
    match error {
        Error::BelowBar(text) => {
            Error::BelowBar(format!("{text} without splits that are slower here (`guard=none` takes them)"))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        error::Result,
        ir::{Model, text},
        measure::{Measure, Timed},
        ops::{cost, infer_types},
        passes::{Context, Pipeline},
    };
    use std::sync::atomic::{AtomicBool, Ordering};

    /// A second for each multiply-accumulate, and so many for each op; the first time all but the first model take double.
    struct Overhead(f64, AtomicBool);
    impl Measure for Overhead {
        fn latency(&self, models: &[&Model]) -> Result<Vec<Timed>> {
            let of = |m: &&Model| cost::of_model(m).macs as f64 + self.0 * m.graph.ops().count() as f64;
            let mut seconds: Vec<f64> = models.iter().map(of).collect();
            if !self.1.swap(true, Ordering::Relaxed) {
                seconds[1..].iter_mut().for_each(|s| *s *= 2.0);
            }
            Ok(vec![Timed { samples: 1, seconds }])
        }
    }
    /// What becomes of two layers, the small one first, and what is said of the first.
    fn split(pipeline: &str, overhead: f64) -> Result<(Vec<bool>, Vec<String>)> {
        let mut model = text::parse(
            "# weights: seed 3
             <ir_version: 8, opset_import: [\"\" : 17]>
             m (float[N, 32] x) => (float[N, 96] y) <float[32, 64] small, float[64, 96] large>
             { [one] a = MatMul (x, small) r = Relu (a) [two] y = MatMul (r, large) }",
        )?;
        infer_types(&mut model)?;
        let clock = Overhead(overhead, AtomicBool::new(false));
        let mut cx = Context::new().with_measure(&clock);
        let _ = pipeline.parse::<Pipeline>()?.run(&mut model, &mut cx)?;
        let said = cx.remarks.iter().filter(|r| r.at.name() == "one").map(|r| r.text.clone()).collect();
        Ok((["small_1", "large_1"].map(|name| model.graph.find(name).is_some()).to_vec(), said))
    }

    #[test]
    fn what_is_slower_stays_whole() {
        // 2048 and 6144 multiply-accumulates become 768 and 1280.
        let of = |overhead| split("svd(energy=0.1)", overhead).unwrap();
        assert_eq!(of(100.0).0, [true, true]);
        let (splits, said) = of(2500.0);
        assert_eq!(splits, [false, true]);
        assert!(said[0].contains("left whole: split, the model takes 1.0"), "{said:?}");
        assert_eq!(split("svd(energy=0.1,guard=none)", 2500.0).unwrap().0, [true, true]);
    }
    #[test]
    fn a_target_is_met_by_others_or_the_way_out_is_named() {
        assert_eq!(split("svd(ratio=0.6)", 2500.0).unwrap().0, [false, true]);
        let error = split("svd(ratio=0.35)", 2500.0).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains("`guard=none`"), "{error}");
        assert_eq!(split("svd(energy=0.1)", 100_000.0).unwrap_err().exit_code(), 3);
    }
}
