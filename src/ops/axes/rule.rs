//! Axis rules as text, one line an operator, close to einsum:
//!
//! ```text
//! rule    := operand (',' operand)* '->' operand (',' operand)*
//! operand := axis* '?'?            '?': may be left out
//! axis    := name mark* '*'?       '*': any number of axes, lined up from the right as numpy broadcasts
//!          | '(' (name mark*)* ')' nested axes, the last one fastest
//! mark    := '!'                   may not shrink: the operator works along it
//!          | '~'                   a statistic runs over it
//! ```
//! Equal names are equal axes. An attribute can be bound to a name: its value is that axis's extent.

use super::{
    factor::{Factor, WORKED_ALONG},
    flow::Flow,
    rewrite::Rewrite,
};
use crate::ir::OpId;
use std::collections::HashMap;

#[derive(Clone, Copy)]
struct Name<'t> {
    name: &'t str,
    fixed: bool,
    statistic: bool,
    many: bool,
}

enum Axis<'t> {
    Single(Name<'t>),
    Nested(Vec<Name<'t>>),
}

fn name(text: &str) -> Name<'_> {
    let name = text.trim_end_matches(['!', '~', '*']);
    let marks = &text[name.len()..];
    Name { name, fixed: marks.contains('!'), statistic: marks.contains('~'), many: marks.contains('*') }
}

fn operand(text: &str) -> Vec<Axis<'_>> {
    let (mut axes, mut rest) = (Vec::new(), text.trim().trim_end_matches('?').trim());
    while !rest.is_empty() {
        let (axis, tail) = match rest.strip_prefix('(') {
            Some(inner) => {
                let (names, tail) = inner.split_once(')').unwrap_or((inner, ""));
                (Axis::Nested(names.split_whitespace().map(name).collect()), tail)
            }
            None => {
                let (word, tail) = rest.split_once(' ').unwrap_or((rest, ""));
                (Axis::Single(name(word)), tail)
            }
        };
        axes.push(axis);
        rest = tail.trim_start();
    }
    axes
}

/// What a name stands for: itself, or the n-th axis from the right of a run.
type Key<'t> = (&'t str, usize);

/// Applies a rule to an op. `bound` is an attribute whose value is the extent of the axis of that name.
/// Fails where the op's operands do not have the form the rule describes; the caller then freezes them.
pub(super) fn apply(
    flow: &mut Flow<'_>,
    op: OpId,
    text: &str,
    bound: Option<(&str, &str, i64)>,
) -> Option<()> {
    let (ins, outs) = text.split_once("->")?;
    let mut env: HashMap<Key<'_>, Factor> = HashMap::new();
    if let Some((axis, attr, default)) = bound {
        let value =
            usize::try_from(flow.graph.op(op).int(attr).unwrap_or(default)).ok().filter(|n| *n > 0)?;
        let factor = flow.arena.leaf(Some(value));
        env.insert((axis, 0), factor);
        flow.rewrites.push(Rewrite::Attr { op, name: attr.to_owned(), factor });
    }
    let values = [flow.graph.inputs_of(op), flow.graph.outputs_of(op)];
    let mut nested = Vec::new();
    for (side, slots) in [ins, outs].into_iter().zip(values) {
        if slots.iter().skip(side.split(',').count()).any(Option::is_some) {
            return None;
        }
        for (text, value) in side.split(',').zip(slots) {
            let Some(value) = value else { continue };
            let axes = operand(text);
            let dims = flow.dims(value)?;
            let single = axes.iter().filter(|a| !matches!(a, Axis::Single(n) if n.many)).count();
            let run = dims.len().checked_sub(single)?;
            if run > 0 && single == axes.len() {
                return None;
            }
            let mut at = dims.iter();
            for axis in axes {
                match axis {
                    Axis::Single(n) => {
                        let take = if n.many { run } else { 1 };
                        for k in 0..take {
                            let place = if n.many { take - k } else { 0 };
                            flow.meet(&mut env, (n.name, place), *at.next()?, n.many);
                            if let Some(f) = env.get(&(n.name, place)).copied() {
                                flow.mark(f, n.fixed, n.statistic);
                            }
                            if n.fixed {
                                flow.arena.freeze(dims[dims.len() - at.len() - 1], WORKED_ALONG);
                            }
                        }
                    }
                    Axis::Nested(names) => nested.push((names, *at.next()?)),
                }
            }
        }
    }
    // Every nested axis has at most one name whose extent only the whole tells.
    for (names, whole) in nested {
        let size = flow.arena.size(whole)?;
        let known: usize = names.iter().filter_map(|n| flow.arena.size(*env.get(&(n.name, 0))?)).product();
        if known == 0 || size % known != 0 {
            return None;
        }
        let mut parts = Vec::new();
        for n in names {
            let part = *env.entry((n.name, 0)).or_insert_with(|| flow.arena.leaf(Some(size / known)));
            flow.mark(part, n.fixed, n.statistic);
            parts.push(part);
        }
        let product = flow.arena.product(&parts);
        flow.arena.unify(whole, product);
    }
    Some(())
}

impl Flow<'_> {
    /// Binds a name to an axis, or unifies it with what the name stands for. Axes of a run broadcast.
    fn meet<'t>(&mut self, env: &mut HashMap<Key<'t>, Factor>, key: Key<'t>, f: Factor, broadcast: bool) {
        match env.get(&key).copied() {
            Some(other) if broadcast && self.arena.size(other) != self.arena.size(f) => {
                if self.arena.size(other) == Some(1) {
                    env.insert(key, f);
                } else if self.arena.size(f) != Some(1) {
                    self.arena.unify(f, other);
                }
            }
            Some(other) => self.arena.unify(f, other),
            None => {
                env.insert(key, f);
            }
        }
    }
    fn mark(&mut self, f: Factor, fixed: bool, statistic: bool) {
        if fixed {
            self.arena.freeze(f, WORKED_ALONG);
        }
        if statistic {
            self.arena.mark_statistic(f);
        }
    }
}
