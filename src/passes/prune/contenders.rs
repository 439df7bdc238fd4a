//! Choices that meet a target about equally well, with and without branches that go as a whole.
//!
//! What a branch takes along saves more time than as many multiply-accumulates of narrower layers do, and what several
//! cuts do to the outputs together is not the sum of what each does alone. So the best choices by what is predicted and by
//! the clock are all cut and repaired, and those models are compared.

use super::{
    super::targets,
    Context,
    budget::{Budget, By, Of, by_damage},
    select::{Choice, Plan},
    timetable,
};
use crate::{error::Result, ir::Model, ops::axes::Flow, passes::linear::effect};
use std::collections::HashSet;

/// Choices that are timed, at most: the one of least damage, one that keeps all branches, and some that drop one.
const TIMED: usize = 8;
/// Choices that are cut and repaired, at most.
const TRIED: usize = 4;

/// What speaks against a choice or its model, where another of less is better: a tenth less time is worth a fifth more
/// error.
pub(super) fn cost_of(damage: f64, time: f64) -> f64 {
    damage * time.powi(2)
}

/// A choice, and the time of a run of its model as a share of the whole one's.
pub(super) struct Contender {
    pub(super) choice: Choice,
    pub(super) time: f64,
}

/// The choices to try beside the one of `least` damage for a target other than one of time, the best first: it alone where
/// there are no branches, and where trials would take too much work.
pub(super) fn of(
    plan: &Plan<'_>,
    budget: Budget,
    least: Choice,
    model: &Model,
    flow: &Flow<'_>,
    cx: &Context<'_>,
) -> Result<Vec<Contender>> {
    let tried = affordable(plan, model, cx)?;
    let alone = |choice| Ok(vec![Contender { choice, time: 1.0 }]);
    if tried < 2 || budget.of == Of::Positions {
        return alone(least);
    }
    let cost = |choice: &Choice| budget.of.cost(plan, choice);
    let target = (budget.share * cost(&plan.whole()) as f64) as u64;
    let mut choices = vec![least];
    for other in starts(plan).into_iter().filter_map(|gone| without(plan, gone, target, cost)) {
        if !choices.contains(&other) {
            choices.push(other);
        }
    }
    let Some(times) = times(&choices, plan, model, flow, cx)? else {
        return alone(choices.swap_remove(0));
    };
    let mean = |shares: Vec<f64>| shares.iter().sum::<f64>() / shares.len() as f64;
    let times = times.into_iter().map(mean);
    let mut all: Vec<_> =
        choices.into_iter().zip(times).map(|(choice, time)| Contender { choice, time }).collect();
    all.sort_by(|a, b| {
        let [a, b] = [a, b].map(|c| cost_of(plan.damage(&c.choice), c.time));
        a.total_cmp(&b)
    });
    all.truncate(tried);
    Ok(all)
}

/// The choices to try where all are fast enough: the first, of least damage, of each set of branches that go.
pub(super) fn first(
    plan: &Plan<'_>,
    mut choices: Vec<Choice>,
    model: &Model,
    cx: &Context<'_>,
) -> Result<Vec<Contender>> {
    let mut seen = HashSet::new();
    choices.retain(|choice| seen.insert(choice.dropped.clone()));
    choices.truncate(affordable(plan, model, cx)?.max(1));
    Ok(choices.into_iter().map(|choice| Contender { choice, time: 1.0 }).collect())
}

/// Choices that take at most this share of the time, with one branch gone or none: first those that cost as much as what was
/// `found` to be that fast, then what costs more or less by as much as these are faster or slower.
pub(super) fn as_fast(
    plan: &Plan<'_>,
    share: f64,
    found: &[(By<'_>, Choice)],
    model: &Model,
    flow: &Flow<'_>,
    cx: &Context<'_>,
) -> Result<Vec<Choice>> {
    let mut fast = Vec::new();
    if affordable(plan, model, cx)? < 2 {
        return Ok(fast);
    }
    for (by, choice) in found {
        let cost = |choice: &Choice| by.cost(plan, choice);
        let mut targets: Vec<_> = starts(plan).into_iter().map(|gone| (gone, cost(choice) as f64)).collect();
        for _ in 0..2 {
            let others = targets.iter().map(|(gone, target)| without(plan, *gone, *target as u64, cost));
            let (kept, others): (Vec<_>, Vec<_>) =
                targets.iter().copied().zip(others).filter_map(|(t, other)| Some((t, other?))).unzip();
            let times = times(&others, plan, model, flow, cx)?.unwrap_or_default();
            let slowest: Vec<f64> = times.into_iter().map(|t| t.into_iter().fold(0.0, f64::max)).collect();
            targets = kept.into_iter().zip(&slowest).map(|((gone, t), s)| (gone, t * share / s)).collect();
            fast.extend(others.into_iter().zip(slowest).filter(|(_, s)| *s <= share).map(|(other, _)| other));
        }
    }
    Ok(fast)
}

/// No branch, and those that do least damage.
fn starts(plan: &Plan<'_>) -> Vec<Option<usize>> {
    let mut mildest: Vec<usize> = (0..plan.branches.len()).collect();
    mildest.sort_by(|a, b| plan.branches[*a].damage.total_cmp(&plan.branches[*b].damage));
    mildest.truncate(TIMED - 2);
    [None].into_iter().chain(mildest.into_iter().map(Some)).collect()
}

/// The choice of least damage that costs at most this with a branch gone, or with none.
fn without(
    plan: &Plan<'_>,
    branch: Option<usize>,
    target: u64,
    cost: impl Fn(&Choice) -> u64,
) -> Option<Choice> {
    plan.least_damage_without(branch, target, cost).ok().filter(|choice| *choice != plan.whole())
}

/// How many choices can be cut and repaired to be compared; 1 where there is nothing to compare or to compare by.
fn affordable(plan: &Plan<'_>, model: &Model, cx: &Context<'_>) -> Result<usize> {
    if plan.branches.is_empty() || !by_damage(plan) || !cx.has_samples() {
        return Ok(1);
    }
    // A repair looks at one layer after the other, through half of the model in the mean, in this model and the original.
    Ok(effect::affordable_changes(model, plan.prices.len() as u64, cx)?.min(TRIED))
}

/// The times of what choices leave, as shares of the whole model's, on each batch. `None` where there is no clock.
fn times(
    choices: &[Choice],
    plan: &Plan<'_>,
    model: &Model,
    flow: &Flow<'_>,
    cx: &Context<'_>,
) -> Result<Option<Vec<Vec<f64>>>> {
    let mut times = Vec::with_capacity(choices.len());
    for choices in choices.chunks(targets::timed_together(model)) {
        cx.check_cancelled()?;
        let cut: Result<Vec<Model>> = choices.iter().map(|c| timetable::cut(c, plan, model, flow)).collect();
        let Some(timed) = targets::shares_of_time(model, &cut?.iter().collect::<Vec<_>>(), cx)? else {
            return Ok(None);
        };
        times.extend(timed.shares);
    }
    Ok(Some(times))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ir::{Tensor, text},
        measure::doubles::Double,
        ops::infer_types,
        passes::prune::{Branch, PruneOptions, branch::droppable, budget::Of, select::Candidate},
    };

    /// A run takes a second for each op; the samples are one batch of zeros.
    fn by_ops() -> Double {
        let samples = Double::of_samples(|_| Tensor::from_vec([4, 64], vec![0f32; 256]));
        samples.with_times(4, |model| model.graph.ops().count() as f64)
    }

    /// For this damage of dropping the block, how many hidden features and whether the block stay in what is tried first,
    /// and how many are tried.
    fn first(damage: f64) -> (Option<usize>, bool, usize) {
        let mut model = text::parse(
            "# weights: seed 1
             <ir_version: 8, opset_import: [\"\" : 17]>
             m (float[N, 64] x) => (float[N, 8] y) <float[64, 64] w1, float[64, 128] w2, float[128, 64] w3, float[64, 8] w4>
             {
               a = MatMul (x, w1)
               [up] b = MatMul (a, w2) c = Relu (b) [down] d = MatMul (c, w3)
               s = Add (a, d) r = Relu (s)
               y = MatMul (r, w4)
             }",
        )
        .unwrap();
        infer_types(&mut model).unwrap();
        let flow = Flow::of(&model);
        // Each hidden feature that goes does as much damage as another; the residual path stays.
        let groups = flow.groups().into_iter().filter(|group| group.size == 128);
        let candidates: Vec<Candidate> = groups
            .map(|group| Candidate {
                step: 8,
                least: 8,
                scores: vec![1.0; 128],
                damage: Some((0..=128).map(|k| f64::from(k) / 128.0).collect()),
                group,
            })
            .collect();
        let branches = Branch::all(&model).into_iter().filter(|b| b.name(&model.graph).1 == 1).collect();
        let branches = droppable(branches, vec![damage], &candidates);
        let (prices, options) = (flow.prices(), PruneOptions::default());
        let (arena, prices, candidates) = (&flow.arena, &prices[..], &candidates[..]);
        let plan = Plan { arena, prices, weights: &[], candidates, branches: &branches, options: &options };
        let budget = Budget { of: Of::Macs, share: 0.7 };
        let least = super::super::budget::choose(&plan, budget).unwrap();
        let by_ops = by_ops();
        let cx = Context::new().with_measure(&by_ops);
        let tried = of(&plan, budget, least, &model, &flow, &cx).unwrap();
        (tried[0].choice.kept[0], !tried[0].choice.dropped[0], tried.len())
    }

    #[test]
    fn what_saves_time_for_a_little_more_damage_is_tried_first() {
        // Without the block there are 3 of 7 ops: less than a fifth of the cost for as much damage.
        assert_eq!(first(0.5), (None, false, 2));
        assert_eq!(first(2.0), (None, false, 2));
        assert_eq!(first(3.0), (Some(72), true, 2));
    }
}
