//! A choice as a selection, and as it is told.

use super::{Context, Selection, budget::Budget, contenders::Contender, place, select::Plan};
use crate::{
    ir::{Model, Where},
    passes::RemarkKind,
};

/// A choice with what it means for the model.
pub(super) struct Chosen {
    pub(super) selection: Selection,
    /// The share that it leaves of what the budget is a share of.
    pub(super) left: f64,
    /// The time of a run, as a share of that of the whole model; 1 where it is not known.
    pub(super) time: f64,
    /// What is done where.
    done: Vec<(Where, String)>,
    /// The groups that lose positions.
    groups: usize,
    /// The share of the multiply-accumulates that is left, where there are any.
    macs: Option<f64>,
}

impl Chosen {
    pub(super) fn of(
        Contender { choice, time }: &Contender,
        plan: &Plan<'_>,
        budget: Budget,
        model: &Model,
    ) -> Chosen {
        let g = &model.graph;
        let cut = plan.candidates.iter().zip(&choice.kept).filter_map(|(c, n)| Some((&c.group, (*n)?)));
        let mut done: Vec<(Where, String)> = cut
            .map(|(group, n)| {
                let mut names: Vec<_> = group.members.iter().map(|m| g.name_of(m.value)).collect();
                names.dedup();
                (place(model, group), format!("{} -> {n} positions, in {}", group.size, shortened(&names)))
            })
            .collect();
        let groups = done.len();
        done.extend(plan.dropped(choice).map(|branch| {
            let n = branch.ops.len();
            (branch.place(g), format!("dropped, with {n} ops that serve it alone"))
        }));
        let selection =
            Selection { keep: plan.keep(choice), branches: plan.dropped(choice).cloned().collect() };
        let before = plan.macs(&plan.whole());
        let macs = (before > 0).then(|| plan.macs(choice) as f64 / before as f64);
        Chosen { selection, left: budget.left(plan, choice), time: *time, done, groups, macs }
    }
    pub(super) fn say(&self, cx: &mut Context<'_>) {
        for (at, text) in &self.done {
            cx.applied(at.clone(), text.clone());
        }
        cx.count("groups", self.groups as u64);
        if let Some(share) = self.macs {
            let text = format!("{:.1} % of the multiply-accumulates are left", 100.0 * share);
            cx.remark(RemarkKind::Note, (), text);
        }
    }
}

/// The first names and how many more there are.
fn shortened(names: &[&str]) -> String {
    let shown = names.iter().take(4).copied().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(4) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
