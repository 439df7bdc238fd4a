//! How many positions of each group stay.
//!
//! One number, the level in `[0, 1]`, decides: the share each group loses (`scope=layer`), or the quantile of all
//! scores below which positions go (`scope=global`). A target for what is left is met by bisecting it. Where
//! the damage of cutting is known, `scope=global` allocates by that instead; see [`super::allocate`].

use super::{super::Scope, PruneOptions, branch::Branch};
use crate::{
    ir::{Graph, Model, Tensor, ValueId},
    ops::axes::{Arena, Factor, Factors, Flow, Group, Keep, Price},
};
use std::collections::HashMap;

/// A group with a score for each of its positions.
pub(super) struct Candidate {
    pub(super) group: Group,
    /// Kept counts are multiples of this.
    pub(super) step: usize,
    /// And no smaller than this.
    pub(super) least: usize,
    pub(super) scores: Vec<f64>,
    /// By data: the error of the model's outputs after so many positions, those of least score, are gone.
    pub(super) damage: Option<Vec<f64>>,
}

impl Candidate {
    /// The damage where `n` positions stay; where it was not measured, the share of the weights that went.
    pub(super) fn after(&self, n: usize) -> f64 {
        let gone = self.group.size.saturating_sub(n);
        let known = self.damage.as_ref().and_then(|d| d.get(gone)).copied();
        known.unwrap_or(gone as f64 / self.group.size as f64)
    }
    /// The counts below all that are allowed.
    pub(super) fn counts(&self) -> Vec<usize> {
        let size = self.group.size;
        let mut counts: Vec<usize> = (0..size).map(|n| self.rounded(n)).filter(|n| *n < size).collect();
        counts.dedup();
        counts
    }
    /// The nearest count that is allowed.
    fn rounded(&self, wanted: usize) -> usize {
        let (size, step) = (self.group.size, self.step.max(1));
        ((wanted + step / 2) / step * step).clamp(self.least, size.max(self.least))
    }
}

/// Where nothing else is asked for, no group loses more than all but this share of its positions: a layer that all but
/// vanishes takes the model's accuracy with it.
const LEAST_SHARE: f64 = 0.1;

/// The least count of a group: what is asked for, or its share of the positions to the nearest multiple of `step`.
pub(super) fn least(asked: Option<usize>, size: usize, step: usize) -> usize {
    match asked {
        Some(asked) => asked.next_multiple_of(step.max(1)).min(size),
        None => {
            let share = (size as f64 * LEAST_SHARE).ceil() as usize;
            ((share.max(1) + step / 2) / step.max(1) * step).max(step)
        }
    }
}

/// A branch that may go, with the error of the model's outputs without it.
pub(super) struct Droppable {
    pub(super) branch: Branch,
    pub(super) damage: f64,
    /// The candidates all weights of which go with it.
    pub(super) inside: Vec<usize>,
}

/// What stays.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Choice {
    /// How many positions of each candidate (`None`: all).
    pub(super) kept: Vec<Option<usize>>,
    /// Whether each branch goes.
    pub(super) dropped: Vec<bool>,
}

/// A weight: what it has, and the factors of its axes where they are known.
pub(super) struct Weight {
    /// `None` for those of control-flow bodies.
    pub(super) value: Option<ValueId>,
    pub(super) elements: usize,
    /// The elements that count as parameters: those of floating-point weights.
    pub(super) params: u64,
    pub(super) bytes: u64,
    pub(super) axes: Factors,
}

/// What there is to choose from.
pub(super) struct Plan<'a> {
    pub(super) arena: &'a Arena,
    pub(super) prices: &'a [Price],
    pub(super) weights: &'a [Weight],
    pub(super) candidates: &'a [Candidate],
    pub(super) branches: &'a [Droppable],
    pub(super) options: &'a PruneOptions,
}

impl Plan<'_> {
    /// All of it.
    pub(super) fn whole(&self) -> Choice {
        Choice { kept: vec![None; self.candidates.len()], dropped: vec![false; self.branches.len()] }
    }
    /// What stays at a level.
    pub(super) fn at_level(&self, level: f64) -> Choice {
        let mut all: Vec<f64> = self.candidates.iter().flat_map(|c| c.scores.iter().copied()).collect();
        all.sort_by(f64::total_cmp);
        let threshold = all.get((level * all.len() as f64) as usize).copied().unwrap_or(f64::INFINITY);
        let stay = |c: &Candidate| {
            let size = c.group.size;
            let wanted = match self.options.scope {
                Scope::Global => c.scores.iter().filter(|s| **s >= threshold).count(),
                Scope::Layer => size - (level * size as f64) as usize,
            };
            Some(c.rounded(wanted)).filter(|n| *n < size)
        };
        Choice { kept: self.candidates.iter().map(stay).collect(), ..self.whole() }
    }
    /// The mildest choice whose `cost` is at most `target`; else the least cost that can be had.
    pub(super) fn at_most(&self, target: u64, cost: impl Fn(&Choice) -> u64) -> Result<Choice, u64> {
        let strongest = self.at_level(1.0);
        let least = cost(&strongest);
        if least > target {
            return Err(least);
        }
        let (mut low, mut high, mut best) = (0.0, 1.0, strongest);
        for _ in 0..40 {
            let middle = f64::midpoint(low, high);
            let kept = self.at_level(middle);
            if cost(&kept) <= target {
                (high, best) = (middle, kept);
            } else {
                low = middle;
            }
        }
        Ok(best)
    }
    /// The positions of a choice; branches have none of their own.
    pub(super) fn positions(&self, choice: &Choice) -> u64 {
        self.candidates.iter().zip(&choice.kept).map(|(c, n)| n.unwrap_or(c.group.size) as u64).sum()
    }
    /// The multiply-accumulates of a choice.
    pub(super) fn macs(&self, choice: &Choice) -> u64 {
        let counts = self.by_factor(&choice.kept);
        let kept = |f: Factor| counts.get(&f).copied();
        let stays = |price: &&Price| !self.dropped(choice).any(|b| b.ops.contains(&price.op));
        self.prices.iter().filter(stays).map(|p| p.macs(self.arena, &kept)).sum()
    }
    /// The branches that go.
    pub(super) fn dropped<'b>(&'b self, choice: &'b Choice) -> impl Iterator<Item = &'b Branch> {
        let pairs = self.branches.iter().zip(&choice.dropped);
        pairs.filter(|(_, dropped)| **dropped).map(|(droppable, _)| &droppable.branch)
    }
    /// What the weights of a choice have together, by what each has when it is whole.
    pub(super) fn held(&self, choice: &Choice, of: impl Fn(&Weight) -> u64) -> u64 {
        let counts = self.by_factor(&choice.kept);
        let kept = |f: Factor| counts.get(&f).copied();
        let gone =
            |w: &&Weight| w.value.is_some_and(|v| self.dropped(choice).any(|b| b.weights.contains(&v)));
        let left = |weight: &Weight| match weight.axes.is_empty() || weight.elements == 0 {
            true => of(weight),
            false => {
                let elements: usize = weight.axes.iter().map(|f| self.arena.extent(*f, &kept)).product();
                (u128::from(of(weight)) * elements as u128 / weight.elements as u128) as u64
            }
        };
        self.weights.iter().filter(|w| !gone(w)).map(left).sum()
    }
    /// The counts of what a choice cuts.
    pub(super) fn by_factor(&self, kept: &[Option<usize>]) -> HashMap<Factor, usize> {
        let pairs = self.candidates.iter().zip(kept);
        pairs.filter_map(|(c, n)| Some((c.group.factor, (*n)?))).collect()
    }
    /// The positions that stay: those of the highest scores, the earlier of equal ones.
    pub(super) fn keep(&self, choice: &Choice) -> Keep {
        let mut keep = Keep::new();
        for (c, n) in self.candidates.iter().zip(&choice.kept) {
            let Some(n) = n else { continue };
            let mut order: Vec<usize> = (0..c.group.size).collect();
            order.sort_by(|a, b| c.scores[*b].total_cmp(&c.scores[*a]));
            order.truncate(*n);
            order.sort_unstable();
            keep.insert(c.group.factor, order);
        }
        keep
    }
}

/// Every weight of the main graph, and those of control-flow bodies as one that stays whole.
pub(super) fn weights(model: &Model, flow: &Flow<'_>) -> Vec<Weight> {
    let bytes = |g: &Graph| g.initializers().map(|(_, t)| t.byte_len() as u64).sum::<u64>();
    let mut all = 0;
    model.graph.for_each_nested(&mut |g| all += bytes(g));
    let inner = all - bytes(&model.graph);
    let weight = |(v, t): (ValueId, &Tensor)| Weight {
        value: Some(v),
        elements: t.len(),
        params: if t.dtype().is_float() { t.len() as u64 } else { 0 },
        bytes: t.byte_len() as u64,
        axes: flow.known_dims(v).into(),
    };
    let bodies = Weight { value: None, elements: 0, params: 0, bytes: inner, axes: Factors::new() };
    model.graph.initializers().map(weight).chain([bodies]).collect()
}
