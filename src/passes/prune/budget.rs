//! Choosing so that what is left meets a target.

use super::{
    super::{Scope, targets},
    Context, contenders,
    select::{Choice, Plan},
    timetable::{self, Timetable},
};
use crate::{
    error::{Error, Result},
    ir::Model,
    ops::axes::Flow,
};

/// What may be left: a share of something.
#[derive(Clone, Copy)]
pub(super) struct Budget {
    pub(super) of: Of,
    pub(super) share: f64,
}

/// What a budget is a share of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// The positions.
    Positions,
    /// The multiply-accumulates.
    Macs,
    /// The elements of weights.
    Params,
    /// The bytes of weights.
    Bytes,
    /// The seconds of a run.
    Latency,
}

/// What a target that cannot be met is told of.
const DOING: &str = "pruning";

impl Of {
    /// What a choice leaves; time goes by the multiply-accumulates.
    pub(super) fn cost(self, plan: &Plan<'_>, choice: &Choice) -> u64 {
        match self {
            Of::Positions => plan.positions(choice),
            Of::Params => plan.held(choice, |w| w.params),
            Of::Bytes => plan.held(choice, |w| w.bytes),
            Of::Macs | Of::Latency => plan.macs(choice),
        }
    }
    fn name(self) -> &'static str {
        match self {
            Of::Positions => "positions",
            Of::Params => "parameters",
            Of::Bytes => "bytes",
            Of::Macs | Of::Latency => "multiply-accumulates",
        }
    }
}

impl Budget {
    /// The share that a choice leaves.
    pub(super) fn left(self, plan: &Plan<'_>, choice: &Choice) -> f64 {
        self.of.cost(plan, choice) as f64 / self.of.cost(plan, &plan.whole()).max(1) as f64
    }
}

/// The best choice that meets a target other than one of time, or why there is none.
pub(super) fn choose(plan: &Plan<'_>, budget: Budget) -> Result<Choice> {
    let choice = match budget {
        Budget { of: Of::Positions, share } => {
            let target = (share * plan.positions(&plan.whole()) as f64) as u64;
            let least = || plan.least_damage(target, |choice| plan.positions(choice)).ok();
            by_damage(plan).then(least).flatten().unwrap_or_else(|| plan.at_level(1.0 - share))
        }
        Budget { of, share } => met(plan, of.name(), share, |choice| of.cost(plan, choice))?,
    };
    cutting(plan, choice)
}

/// The choice, if it cuts anything.
fn cutting(plan: &Plan<'_>, choice: Choice) -> Result<Choice> {
    if choice == plan.whole() {
        let round = plan.candidates.iter().map(|c| c.step).max().unwrap_or(1);
        let text = format!("every count rounds back to the full one; a `round` below {round} cuts finer");
        return Err(Error::BelowBar(text));
    }
    Ok(choice)
}

/// What is weighed against damage where a share of the time is wanted.
#[derive(Clone, Copy)]
pub(super) enum By<'t> {
    /// The multiply-accumulates.
    Work,
    /// The time that cuts are seen to save.
    Time(&'t Timetable),
}

impl By<'_> {
    pub(super) fn cost(self, plan: &Plan<'_>, choice: &Choice) -> u64 {
        match self {
            By::Work => plan.macs(choice),
            By::Time(table) => table.time(plan, choice),
        }
    }
}

/// The mildest choices that take at most this share of the time, on one sample and on a batch, the one of least damage first.
/// Where damage is known, cuts that do least of it for each multiply-accumulate compete with those that do so for the
/// time that they are seen to save, and with choices that are as fast with one branch gone or none.
pub(super) fn in_time(
    plan: &Plan<'_>,
    share: f64,
    model: &Model,
    flow: &Flow<'_>,
    cx: &Context<'_>,
) -> Result<Vec<Choice>> {
    let mut found = vec![(By::Work, mildest(plan, share, By::Work, model, flow, cx)?)];
    let table = match by_damage(plan) {
        true => Timetable::measure(plan, model, flow, cx)?,
        false => None,
    };
    if let Some(table) = &table {
        match mildest(plan, share, By::Time(table), model, flow, cx) {
            Ok(choice) => found.push((By::Time(table), choice)),
            Err(Error::Cancelled) => return Err(Error::Cancelled),
            Err(_) => {}
        }
    }
    let others = contenders::as_fast(plan, share, &found, model, flow, cx)?;
    let mut all: Vec<Choice> = found.into_iter().map(|(_, choice)| choice).collect();
    for other in others {
        if !all.contains(&other) {
            all.push(other);
        }
    }
    all.sort_by(|a, b| plan.damage(a).total_cmp(&plan.damage(b)));
    Ok(all)
}

/// The mildest choice by a cost that is fast enough.
fn mildest(
    plan: &Plan<'_>,
    share: f64,
    by: By<'_>,
    model: &Model,
    flow: &Flow<'_>,
    cx: &Context<'_>,
) -> Result<Choice> {
    let cost = |choice: &Choice| by.cost(plan, choice);
    let strongest = cutting(plan, plan.at_level(1.0))?;
    let least = cost(&strongest) as f64 / cost(&plan.whole()).max(1) as f64;
    let at = |share: f64| cutting(plan, met(plan, Of::Latency.name(), share, cost)?);
    let make = |choice: &Choice| timetable::cut(choice, plan, model, flow);
    targets::in_time(DOING, share, (least, strongest), at, make, model, cx)
}

pub(super) fn by_damage(plan: &Plan<'_>) -> bool {
    plan.options.scope == Scope::Global && plan.candidates.iter().any(|c| c.damage.is_some())
}

/// The best choice that leaves at most this share of a cost, or the error that says what can be had.
fn met(plan: &Plan<'_>, what: &str, share: f64, cost: impl Fn(&Choice) -> u64) -> Result<Choice> {
    let before = cost(&plan.whole());
    if before == 0 {
        return Err(Error::BelowBar(format!("there are no {what} of known number")));
    }
    let target = (share * before as f64) as u64;
    let found = match by_damage(plan) {
        true => plan.least_damage(target, cost),
        false => plan.at_most(target, cost),
    };
    found.map_err(|least| targets::unreachable(DOING, share, what, least as f64 / before as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ir::{Tensor, text},
        ops::cost,
        passes::{Pipeline, targets},
    };

    /// The share of the multiply-accumulates that is left of two layers around so many features.
    fn pruned(text: &str, features: usize) -> Result<f64> {
        let mut model = text::parse(&format!(
            "<ir_version: 8, opset_import: [\"\" : 17]>
             m (float[N, 4] x) => (float[N, 4] y)
             <float[4, {features}] w1, float[{features}, 4] w2>
             {{ [one] a = MatMul (x, w1) [two] y = MatMul (a, w2) }}",
        ))
        .unwrap();
        for (k, name) in ["w1", "w2"].into_iter().enumerate() {
            let v = model.graph.find(name).unwrap();
            let shape = [[4, features], [features, 4]][k];
            let numbers = (0..4 * features).map(|i| i as f32).collect();
            model.graph.value_mut(v).origin =
                crate::ir::Origin::Initializer(Tensor::from_vec(shape, numbers));
        }
        let clock = targets::clock(256.0);
        let mut cx = Context::new().with_measure(&clock);
        let _ = text.parse::<Pipeline>()?.run(&mut model, &mut cx)?;
        Ok(cost::of_model(&model).macs as f64 / (8 * features) as f64)
    }

    #[test]
    fn the_mildest_cut_that_is_fast_enough_on_every_batch_is_taken() {
        // Half of the 768 seconds for one sample leaves 128 of the 512 multiply-accumulates.
        assert_eq!(pruned("prune(latency=0.5)", 64).unwrap(), 0.25);
        // The strongest cut, whose share of the work is no round number, is one to choose as well.
        assert_eq!(pruned("prune(latency=0.31)", 98).unwrap(), 8.0 / 98.0);
        let error = pruned("prune(latency=0.2)", 64).unwrap_err();
        assert!(
            error.to_string().contains("cannot reach 20.0 % of the latency; the nearest is 41.7 %"),
            "{error}"
        );
    }
}
