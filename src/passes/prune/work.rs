//! A model as it is cut, step by step.

use super::{Chosen, Context, contenders, expected::Shifts, record::Record, repair, taken::Taken};
use crate::{
    error::Result,
    ir::{Model, ValueId},
    ops::{
        axes::{Flow, Stays},
        infer_types,
    },
    passes::{
        Repair,
        linear::{Layer, effect},
    },
};
use std::collections::HashSet;

/// What all steps start from.
pub(super) struct Origin<'a> {
    pub(super) model: &'a Model,
    /// Branches of If that all samples take.
    pub(super) taken: Option<&'a Taken>,
    pub(super) repair: Repair,
}

/// A model with some cuts made and repaired.
#[derive(Clone)]
pub(super) struct Work {
    pub(super) model: Model,
    /// The share that is left of what the budget is a share of.
    pub(super) left: f64,
    /// What stays of the original.
    stays: Stays,
    /// Values that stand for others.
    changed: HashSet<ValueId>,
    record: Record,
}

impl Work {
    /// Nothing is cut yet, but what `record` tells.
    pub(super) fn new(model: Model, record: Record) -> Work {
        Work { model, left: 1.0, stays: Stays::default(), changed: HashSet::new(), record }
    }
    /// The best of what comes of some choices, by the outputs on samples that are held out and by the clock. `flow` is the
    /// analysis of the model.
    pub(super) fn best(
        &self,
        origin: &Origin<'_>,
        flow: &Flow<'_>,
        chosen: Vec<Chosen>,
        cx: &mut Context<'_>,
    ) -> Result<Work> {
        let mut tried = Vec::with_capacity(chosen.len());
        for chosen in chosen {
            let said = cx.said();
            let time = chosen.time;
            let work = self.after(origin, flow, chosen, cx)?;
            tried.push((work, time, cx.unsay(said)));
        }
        let mut costs = vec![0.0; tried.len()];
        if tried.len() > 1 {
            let original = effect::Original::of(origin.model.clone());
            let errors = original.errors_held(&tried, |(work, ..)| Ok(work.model.clone()), cx)?;
            let both = tried.iter().zip(errors);
            costs = both.map(|((_, time, _), error)| contenders::cost_of(error, *time)).collect();
        }
        let least = (0..costs.len()).min_by(|a, b| costs[*a].total_cmp(&costs[*b]));
        let (work, _, unsaid) = tried.swap_remove(least.unwrap_or_default());
        cx.say_after_all(unsaid);
        Ok(work)
    }
    /// What comes of a choice, repaired.
    fn after(
        &self,
        origin: &Origin<'_>,
        flow: &Flow<'_>,
        chosen: Chosen,
        cx: &mut Context<'_>,
    ) -> Result<Work> {
        let mut work = self.clone();
        chosen.say(cx);
        let (keep, branches) = (chosen.selection.keep, chosen.selection.branches);
        let repair = origin.repair == Repair::Auto;
        let shifts = (repair && !cx.has_samples()).then(|| Shifts::of(&work.model, flow, &keep));
        let cut = flow.cut(keep);
        work.record.add(&work.model.graph, cut.stays());
        cut.apply(&mut work.model)?;
        for branch in &branches {
            work.record.branches.push(branch.name(&work.model.graph));
            work.changed.extend(branch.drop_from(&mut work.model.graph));
        }
        work.record.note(&mut work.model);
        infer_types(&mut work.model)?;
        if let Some(shifts) = shifts {
            shifts.make(&mut work.model, cut.stays(), cx);
        }
        work.stays.then(cut.stays());
        work.left *= chosen.left;
        if repair && cx.has_samples() {
            work.repair(origin, cx)?;
        }
        Ok(work)
    }
    fn repair(&mut self, origin: &Origin<'_>, cx: &mut Context<'_>) -> Result<()> {
        let values: HashSet<_> = self.model.graph.values().collect();
        self.changed.retain(|v| values.contains(v));
        let (model, stays, changed) = (&mut self.model, &self.stays, &self.changed);
        match origin.taken {
            Some(taken) => taken.repair(origin.model, model, stays, changed, cx),
            None => repair::run(origin.model, model, stays, changed, Layer::or_normalization, cx),
        }
    }
}
