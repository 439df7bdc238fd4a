//! What cuts save by the clock.
//!
//! The model is timed with one group alone cut to some widths, with all of them, and without one branch, side by side with
//! the whole one. From all that this saves follows how much time goes with each multiply-accumulate of each layer.

use super::{
    Context,
    select::{Candidate, Choice, Plan},
};
use crate::{
    error::Result,
    ir::Model,
    ops::{
        axes::{Factor, Flow},
        infer_types,
    },
    passes::timetable::{self, WHOLE},
};
use std::cmp::Reverse;

/// Shares of a group's positions that stay for a look at the clock, the most telling first.
const LOOKS: [f64; 3] = [0.5, 0.25, 0.75];

/// The share of the whole model's time that goes with each multiply-accumulate.
pub(super) struct Timetable {
    /// For each price.
    rates: Vec<f64>,
    /// The multiply-accumulates of each, whole.
    whole: Vec<u64>,
}

impl Timetable {
    /// `None` where there is no clock, or where no cut saves anything.
    pub(super) fn measure(
        plan: &Plan<'_>,
        model: &Model,
        flow: &Flow<'_>,
        cx: &Context<'_>,
    ) -> Result<Option<Timetable>> {
        let whole: Vec<u64> = layers(plan, &plan.whole());
        let mut looks = looks(plan);
        // Of each kind those that save most come first.
        looks.sort_by_cached_key(|(order, look)| {
            Reverse((Reverse(*order), whole.iter().sum::<u64>() - plan.macs(look)))
        });
        let less = |choice| whole.iter().zip(layers(plan, choice)).map(|(a, b)| (a - b.min(*a)) as f64);
        let saved: Vec<Vec<f64>> = looks.iter().map(|(_, look)| less(look).collect()).collect();
        let rates = timetable::rates(model, &saved, |k| cut(&looks[k].1, plan, model, flow), cx)?;
        Ok(rates.map(|rates| Timetable { rates, whole }))
    }
    /// The time of what a choice leaves, in units of which the whole model takes [`WHOLE`].
    pub(super) fn time(&self, plan: &Plan<'_>, choice: &Choice) -> u64 {
        let left = layers(plan, choice);
        let layers = self.whole.iter().zip(left).zip(&self.rates);
        let saved: f64 = layers.map(|((whole, left), rate)| rate * (*whole as f64 - left as f64)).sum();
        (WHOLE as f64 * f64::max(1.0 - saved, 0.0)) as u64
    }
}

/// The multiply-accumulates that a choice leaves of each price.
fn layers(plan: &Plan<'_>, choice: &Choice) -> Vec<u64> {
    let counts = plan.by_factor(&choice.kept);
    let kept = |f: Factor| counts.get(&f).copied();
    let gone = |op| plan.dropped(choice).any(|b| b.ops.contains(&op));
    plan.prices.iter().map(|p| if gone(p.op) { 0 } else { p.macs(plan.arena, &kept) }).collect()
}

/// All cuts to look at, with the order to do it in.
fn looks(plan: &Plan<'_>) -> Vec<(usize, Choice)> {
    let nearest = |candidate: &Candidate, share: f64| {
        let far = |n: &usize| (*n as f64 - candidate.group.size as f64 * share).abs();
        candidate.counts().into_iter().min_by(|a, b| far(a).total_cmp(&far(b)))
    };
    let mut looks = Vec::new();
    for (order, share) in LOOKS.into_iter().enumerate() {
        let kept: Vec<_> = plan.candidates.iter().map(|candidate| nearest(candidate, share)).collect();
        for k in (0..kept.len()).filter(|k| kept[*k].is_some()) {
            let mut alone = plan.whole();
            alone.kept[k] = kept[k];
            looks.push((order, alone));
        }
        looks.push((order, Choice { kept, ..plan.whole() }));
    }
    for k in 0..plan.branches.len() {
        let mut without = plan.whole();
        without.dropped[k] = true;
        looks.push((0, without));
    }
    looks
}

/// The model that a choice leaves, with the weights that the original has there.
pub(super) fn cut(choice: &Choice, plan: &Plan<'_>, model: &Model, flow: &Flow<'_>) -> Result<Model> {
    let mut cut = model.clone();
    flow.cut(plan.keep(choice)).apply(&mut cut)?;
    for branch in plan.dropped(choice) {
        branch.drop_from(&mut cut.graph);
    }
    infer_types(&mut cut)?;
    Ok(cut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ir::text,
        measure::doubles::Double,
        ops::cost,
        passes::prune::{PruneOptions, select::Candidate},
    };

    /// A multiply-accumulate of the last layer takes four times as long as another; a run takes a while to start.
    fn seconds(model: &Model) -> f64 {
        let work = model.graph.ops().map(|op| {
            let times = if model.graph.place(op).name() == "three" { 4.0 } else { 1.0 };
            times * cost::of_op(&model.graph, op).macs as f64
        });
        5_000.0 + work.sum::<f64>()
    }

    #[test]
    fn what_cuts_save_together_follows_from_what_each_saves() {
        let mut model = text::parse(
            "# weights: seed 1
             <ir_version: 8, opset_import: [\"\" : 17]>
             m (float[N, 64] x) => (float[N, 64] y) <float[64, 96] w1, float[96, 128] w2, float[128, 64] w3>
             { [one] a = MatMul (x, w1) b = Relu (a) [two] c = MatMul (b, w2) d = Relu (c) [three] y = MatMul (d, w3) }",
        )
        .unwrap();
        infer_types(&mut model).unwrap();
        let flow = Flow::of(&model);
        let candidates: Vec<Candidate> = flow
            .groups()
            .into_iter()
            .map(|group| Candidate { step: 8, least: 8, scores: vec![1.0; group.size], damage: None, group })
            .collect();
        let (prices, options) = (flow.prices(), PruneOptions::default());
        let (arena, prices, candidates) = (&flow.arena, &prices[..], &candidates[..]);
        let plan = Plan { arena, prices, weights: &[], candidates, branches: &[], options: &options };
        let clock = Double::default().with_times(1, seconds);
        let cx = Context::new().with_measure(&clock);
        let table = Timetable::measure(&plan, &model, &flow, &cx).unwrap().unwrap();
        assert_eq!(table.time(&plan, &plan.whole()), WHOLE);
        for kept in [[Some(48), None], [None, Some(64)], [Some(72), Some(96)], [Some(24), Some(32)]] {
            let choice = Choice { kept: kept.to_vec(), ..plan.whole() };
            let found = table.time(&plan, &choice) as f64 / WHOLE as f64;
            let expected = seconds(&cut(&choice, &plan, &model, &flow).unwrap()) / seconds(&model);
            assert!((found - expected).abs() < 0.01, "{kept:?}: {found} of the time and not {expected}");
        }
        // Where there is no clock there is no table.
        assert!(Timetable::measure(&plan, &model, &flow, &Context::new()).unwrap().is_none());
    }
}
