//! Weights of control-flow bodies where a pass finds them: in the main graph, from which the bodies capture them.

use crate::ir::{Graph, OpId, Origin, Tensor, Use, ValueId};
use std::collections::HashMap;

/// Gives the wanted constants of bodies names of their own, where other bodies use theirs too; so they can be lifted.
pub(super) fn separate(main: &mut Graph, wanted: &dyn Fn(&Graph, ValueId) -> bool) {
    let defined = defined(main);
    rename(main, &|g, v| defined.get(g.name_of(v)).is_some_and(|n| *n > 1) && wanted(g, v));
}

fn rename(g: &mut Graph, wanted: &dyn Fn(&Graph, ValueId) -> bool) {
    for op in g.ops().collect::<Vec<_>>() {
        for body in g.op_mut(op).bodies_mut() {
            rename(body, wanted);
            for v in body.values().filter(|v| wanted(body, *v)).collect::<Vec<_>>() {
                body.make_unique(v);
            }
        }
    }
}

/// How many graphs define each name.
fn defined(main: &Graph) -> HashMap<String, usize> {
    let mut defined: HashMap<String, usize> = HashMap::new();
    main.for_each_nested(&mut |g| {
        let own = g.values().filter(|v| g.value(*v).origin != Origin::Captured);
        own.for_each(|v| *defined.entry(g.name_of(v).to_owned()).or_default() += 1);
    });
    defined
}

/// Moves the wanted constants that bodies define to the main graph, from which the bodies capture them; returns their names. A
/// name that several bodies use stays.
pub(super) fn lift(main: &mut Graph, wanted: &dyn Fn(&Graph, ValueId) -> bool) -> Vec<String> {
    let defined = defined(main);
    let alone = |g: &Graph, v: ValueId| defined.get(g.name_of(v)) == Some(&1) && wanted(g, v);
    let constants = lifted(main, &alone);
    let names = constants.iter().map(|(name, _)| name.clone()).collect();
    for (name, tensor) in constants {
        if let Some(v) = main.find(&name) {
            main.value_mut(v).origin = Origin::Initializer(tensor);
        }
    }
    names
}

/// Moves a constant of a graph into the bodies that alone read it, as deep as they go.
pub(super) fn put_back(graph: &mut Graph, name: &str) {
    let Some((op, which)) = graph.find(name).and_then(|v| graph.sink(v)) else { return };
    if let Some(body) = graph.op_mut(op).bodies_mut().nth(which) {
        put_back(body, name);
    }
    graph.refresh_captures(op);
}

/// The wanted constants of the bodies in a graph, which captures them afterwards.
fn lifted(g: &mut Graph, wanted: &dyn Fn(&Graph, ValueId) -> bool) -> Vec<(String, Tensor)> {
    let mut constants = Vec::new();
    for op in g.ops().collect::<Vec<_>>() {
        let mut found = Vec::new();
        for body in g.op_mut(op).bodies_mut() {
            found.append(&mut lifted(body, wanted));
            for v in body.values().filter(|v| wanted(body, *v)).collect::<Vec<_>>() {
                if let Some(tensor) = body.initializer(v).cloned() {
                    body.value_mut(v).origin = Origin::Captured;
                    found.push((body.name_of(v).to_owned(), tensor));
                }
            }
        }
        if found.is_empty() {
            continue;
        }
        for (name, _) in &found {
            let v = g.named_value(name);
            g.value_mut(v).origin = Origin::Captured;
        }
        g.refresh_captures(op);
        constants.append(&mut found);
    }
    constants
}

/// The ops that read a value, or the reals that its integers stand for, and the slots they read it in, those in bodies too,
/// with the graph they are in.
pub(super) fn readers(g: &Graph, v: ValueId) -> Vec<(&Graph, OpId, usize)> {
    let inside = |op: OpId| {
        let bodies = g.op(op).bodies();
        bodies.filter_map(|body| Some(readers(body, body.find(g.name_of(v))?))).flatten()
    };
    let read = |at: &Use| match at {
        Use::Input(op, _) if g.op(*op).op_type == "DequantizeLinear" => {
            g.output(*op, 0).map(|reals| readers(g, reals)).unwrap_or_default()
        }
        Use::Input(op, slot) => vec![(g, *op, *slot)],
        Use::Capture(op) => inside(*op).collect(),
    };
    g.uses(v).iter().flat_map(read).collect()
}

/// Gives the op that reads a weight as its second input a bias, which it has none of, as the third: in the graph that it is in.
/// Says whether there is such an op.
pub(super) fn add_bias(g: &mut Graph, weight: &str, bias: &Tensor) -> bool {
    let Some(v) = g.find(weight) else { return false };
    let reads = g.uses(v).into_iter().find_map(|at| match at {
        Use::Input(op, 1) => Some(op),
        _ => None,
    });
    if let Some(op) = reads.filter(|op| g.input(*op, 2).is_none()) {
        let new = g.add_initializer(&format!("{weight}_bias"), bias.clone());
        let inputs = [g.input(op, 0), Some(v), Some(new)];
        g.set_inputs(op, &inputs);
        return true;
    }
    let around: Vec<OpId> = g.ops().filter(|op| g.op(*op).bodies().next().is_some()).collect();
    around.into_iter().any(|op| g.edit_bodies(op, |body| add_bias(body, weight, bias)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Model, text};

    #[test]
    fn what_was_lifted_goes_back_as_deep_as_it_came_from() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]>
            m (float[2] x, bool go) => (float[2] y) {
              y = If (go) <
                then_branch = a () => (float[2] p) <float[2] w = {1, 2}, float[2] both = {1, 3}> {
                  p = If (go) <
                    then_branch = c () => (float[2] r) <float[2] v = {3, 4}> { d = Add (x, both)  r = Mul (d, v) },
                    else_branch = e () => (float[2] s) { d = Mul (x, both)  s = Sub (w, d) }>
                },
                else_branch = b () => (float[2] q) { q = Neg (x) }>
            }"#;
        let mut model: Model = text::parse(text).unwrap();
        let names = lift(&mut model.graph, &|g, v| g.initializer(v).is_some());
        assert_eq!(model.graph.initializers().count(), 3);
        names.iter().for_each(|name| put_back(&mut model.graph, name));
        model.verify().unwrap();
        assert_eq!(model.graph.initializers().count(), 0);
        let mut found = Vec::new();
        model.graph.for_each_nested(&mut |g| {
            found.extend(g.initializers().map(|(v, _)| (g.name.clone(), g.name_of(v).to_owned())));
        });
        found.sort();
        // One branch alone reads `w`, which was defined around both.
        let expected = [("a", "both"), ("c", "v"), ("e", "w")].map(|(g, v)| (g.to_owned(), v.to_owned()));
        assert_eq!(found, expected);
    }
}
