//! Why something was not cut.

use super::{is_quantized, select::Candidate};
use crate::{
    error::Error,
    ir::{Graph, Model, Where},
    ops::{
        axes::{Flow, Group, Price, WORKED_ALONG},
        quantized::dequantized,
    },
};
use std::collections::{BTreeMap, HashSet};

/// Integers do not tell what matters where their scales stand elsewhere.
const QUANTIZED: &str = "its weights are quantized: prune first, then quantize";

/// Why a group that could shrink does not.
pub(super) fn refusal(g: &Graph, group: &Group) -> Option<&'static str> {
    group.members.iter().any(|m| is_quantized(g, m.value)).then_some(QUANTIZED)
}

/// Layers no axis of which can shrink, with the reasons.
pub(super) fn locked(model: &Model, flow: &Flow<'_>, open: &[Candidate]) -> Vec<(Where, String)> {
    let open: HashSet<_> = open.iter().map(|c| c.group.factor).collect();
    let quantized = dequantized(&model.graph);
    let mut locked = Vec::new();
    for op in flow.prices().iter().map(|Price { op, .. }| *op) {
        let g = &model.graph;
        let weights = g.inputs_of(op).into_iter().flatten().chain(g.captures_of(op));
        let weights: Vec<_> = weights
            .filter(|v| quantized.contains(v) || g.initializer(*v).is_some_and(|t| t.rank() > 1))
            .collect();
        let dims = weights.iter().flat_map(|v| flow.known_dims(*v));
        let leaves: Vec<_> = dims.flat_map(|f| flow.arena.leaves(*f)).collect();
        if leaves.iter().any(|l| open.contains(l)) {
            continue;
        }
        if weights.iter().any(|v| quantized.contains(v)) {
            locked.push((g.place(op), QUANTIZED.to_owned()));
            continue;
        }
        let reasons = leaves.iter().filter(|l| flow.arena.size(**l) != Some(1));
        let reasons = reasons.filter_map(|l| flow.arena.frozen(*l)).filter(|why| &***why != WORKED_ALONG);
        let mut reasons: Vec<&str> = reasons.map(|why| &**why).collect();
        reasons.sort_unstable();
        reasons.dedup();
        if !reasons.is_empty() {
            locked.push((model.graph.place(op), format!("no axis can shrink: {}", reasons.join("; "))));
        }
    }
    locked
}

/// Adds the commonest reasons for what was left alone to an error.
pub(super) fn explain(error: Error, left_alone: &[(Group, &str)], locked: &[(Where, String)]) -> Error {
    let Error::BelowBar(text) = error else { return error };
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    let all = left_alone.iter().map(|(_, why)| *why).chain(locked.iter().map(|(_, why)| why.as_str()));
    all.for_each(|why| *reasons.entry(why).or_default() += 1);
    let mut reasons: Vec<_> = reasons.into_iter().map(|(why, n)| (std::cmp::Reverse(n), why)).collect();
    reasons.sort_unstable();
    let reasons: Vec<_> = reasons.iter().take(3).map(|(n, why)| format!("{} x {why}", n.0)).collect();
    if reasons.is_empty() {
        return Error::BelowBar(text);
    }
    Error::BelowBar(format!("{text} (left alone: {})", reasons.join(", ")))
}
