//! Branches of If that samples take: their layers have ranges as those of the main graph have, and what is placed in integers
//! is timed and judged by what the branch gives out.

use super::{
    Quant, bodies,
    placement::Kind,
    weights::{Plan, weight_of},
};
use crate::{
    error::{Error, Result},
    ir::{Graph, Model},
    ops::infer_types,
    passes::{Changed, Context, branches::Branch},
};

impl Quant {
    /// The branches with layers of their own, quantized; they are still to be put back. Others are left to the main graph, which
    /// stores their weights in few bits: where nothing computes in integers, where one target is for the whole model, and where
    /// weights are shared with what is around a branch.
    pub(super) fn branches(
        &self,
        plan: &Plan<'_>,
        model: &mut Model,
        cx: &mut Context<'_>,
    ) -> Result<Vec<Branch>> {
        let mut quantized = Vec::new();
        let branching = model.graph.ops().any(|op| model.graph.op(op).is("If"));
        if !branching || !plan.activations || self.budget.is_some() {
            return Ok(quantized);
        }
        infer_types(model)?;
        for mut branch in Branch::all(model)? {
            let shares = branch.shares(model, |g, v| bodies::is_large(plan, g, v));
            if shares || !has_layers(&branch.model.graph) {
                continue;
            }
            let place = branch.place(model);
            let measure = branch.measure(model, cx)?;
            if measure.as_ref().is_some_and(|measure| !measure.has_inputs()) {
                cx.missed(
                    place,
                    format!("no sample takes its {}: the layers there compute in float", branch.name()),
                );
                continue;
            }
            let said = cx.said();
            match cx.on(measure.as_deref(), &place, |cx| self.quantize(&mut branch.model, cx)) {
                Ok(Changed::Yes) => {
                    branch.take_constants(model);
                    quantized.push(branch);
                }
                Ok(Changed::No) => {}
                Err(Error::Cancelled) => return Err(Error::Cancelled),
                Err(why) => {
                    cx.unsay(said);
                    cx.missed(place, format!("its {} does not run by itself: {why}", branch.name()));
                }
            }
        }
        Ok(quantized)
    }
}

/// Whether a graph, or a body in it, has layers with integer kernels.
fn has_layers(graph: &Graph) -> bool {
    let mut found = false;
    graph.for_each_nested(&mut |g| {
        let layer = |op| Kind::of(g, op).is_some_and(|kind| kind != Kind::Pair) && weight_of(g, op).is_some();
        found |= g.ops().any(layer);
    });
    found
}
