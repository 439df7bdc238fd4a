//! Weights that bodies define, and which of them the main graph takes.

use super::weights::{Plan, is_given_out, lie, worth};
use crate::{
    ir::{Graph, ValueId},
    passes::{branches::Branch, lift},
};

/// Whether a constant is a weight that is worth it.
pub(super) fn is_large(plan: &Plan<'_>, graph: &Graph, v: ValueId) -> bool {
    let large = graph.initializer(v).is_some_and(|t| t.len() >= worth(plan.bits));
    large && !is_given_out(graph, v) && lie(graph, v).is_some()
}

/// Gives the weights that bodies define names of their own.
pub(super) fn separate(plan: &Plan<'_>, graph: &mut Graph) {
    lift::separate(graph, &|body, v| is_large(plan, body, v));
}

/// Moves the weights that bodies define to the main graph, where those of all graphs are found, but for those of these branches;
/// returns their names.
pub(super) fn lift(plan: &Plan<'_>, graph: &mut Graph, but: &[Branch]) -> Vec<String> {
    let own = |body: &Graph, v: ValueId| but.iter().any(|branch| branch.has(body.name_of(v)));
    lift::lift(graph, &|body, v| is_large(plan, body, v) && !own(body, v))
}
