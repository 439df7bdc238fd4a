//! Control flow that is decided before the model runs.
//!
//! An If whose condition is constant is the branch it takes. A Loop that makes one turn is its body, and one that makes
//! none gives back what it was given. What the body computes moves into the graph around it.

use crate::ir::{Attr, DType, Graph, Op, OpId, Tensor, ValueId};

/// Inlines what is decided, in bodies too; returns how many ops went.
pub(in crate::passes) fn inline(g: &mut Graph, opset: i64) -> usize {
    let mut inlined = 0;
    for op in g.ops().collect::<Vec<_>>() {
        g.edit_bodies(op, |body| {
            let inner = inline(body, opset);
            inlined += inner;
            inner > 0
        });
        let outputs = g.outputs_of(op);
        let results = match g.op(op) {
            kind if kind.is("If") => branch(g, op),
            kind if kind.is("Loop") => turns(g, op, opset),
            _ => None,
        };
        let Some(results) = results else { continue };
        for (from, to) in outputs.into_iter().zip(results) {
            if let Some(from) = from {
                g.replace_value(from, to);
            }
        }
        g.remove_op(op);
        inlined += 1;
    }
    inlined
}

/// The number that an input always is.
fn number(g: &Graph, input: ValueId) -> Option<i64> {
    g.constant(input)?.scalar_i64()
}

/// A body, where it has so many inputs and outputs.
fn body<'g>(g: &'g Graph, op: OpId, name: &str, inputs: usize, outputs: usize) -> Option<&'g Graph> {
    match g.op(op).attr(name) {
        Some(Attr::Graph(b)) if b.inputs.len() == inputs && b.outputs.len() == outputs => Some(b),
        _ => None,
    }
}

fn inlined(g: &mut Graph, op: OpId, name: &str, inputs: &[ValueId]) -> Option<Vec<ValueId>> {
    match g.op_mut(op).unset(name)? {
        Attr::Graph(body) => Some(g.inline_body(op, *body, inputs)),
        _ => None,
    }
}

/// The results of the branch that an If always takes.
fn branch(g: &mut Graph, op: OpId) -> Option<Vec<ValueId>> {
    let name = if number(g, g.input(op, 0)?)? == 0 { "else_branch" } else { "then_branch" };
    body(g, op, name, 0, g.outputs_of(op).len())?;
    inlined(g, op, name, &[])
}

/// The results of a Loop that makes one turn or none. Stacked results of no turns are left alone: they are empty, but
/// of a shape that only the body tells.
fn turns(g: &mut Graph, op: OpId, opset: i64) -> Option<Vec<ValueId>> {
    let (inputs, outputs) = (g.inputs_of(op), g.outputs_of(op));
    let states: Vec<ValueId> = inputs.iter().skip(2).copied().collect::<Option<_>>()?;
    let body = body(g, op, "body", states.len() + 2, outputs.len() + 1)?;
    let given = |slot: usize| inputs.get(slot).copied().flatten();
    let most = given(0).map_or(Some(i64::MAX), |v| number(g, v));
    let begins = given(1).map_or(Some(1), |v| number(g, v));
    if most.is_some_and(|n| n <= 0) || begins == Some(0) {
        let stacked = outputs.get(states.len()..)?.iter().flatten();
        let unread = stacked.into_iter().all(|v| !g.is_output(*v) && g.uses(*v).is_empty());
        return unread.then_some(states);
    }
    // Without a condition on the way in, the one that the body gives does not count.
    let ends = given(1).is_some() && number(body, body.outputs[0]) == Some(0);
    if !(most == Some(1) || most.is_some() && ends) || begins.is_none() {
        return None;
    }
    let turn = g.add_initializer("turn", Tensor::scalar(0i64));
    let go_on = g.add_initializer("go_on", Tensor::new(DType::Bool, [], vec![1]).ok()?);
    let given: Vec<ValueId> = [turn, go_on].into_iter().chain(states.iter().copied()).collect();
    let mut results = inlined(g, op, "body", &given)?.split_off(1);
    for k in states.len()..results.len() {
        if outputs[k].is_some() {
            results[k] = stacked(g, results[k], opset);
        }
    }
    Some(results)
}

/// The results of one turn along a new first axis.
fn stacked(g: &mut Graph, v: ValueId, opset: i64) -> ValueId {
    let (op, hint) = (Op::new("Unsqueeze", "stacked"), format!("{}_stacked", g.name_of(v)));
    if opset < 13 {
        return g.add_node(op.with("axes", vec![0]), &[v], &hint, None);
    }
    let axis = g.add_initializer("first_axis", Tensor::ints([0]));
    g.add_node(op, &[v, axis], &hint, None)
}
