//! Weights where a cut finds them, and tied only where they are: those of control-flow bodies in the main graph, and vectors
//! that are alike by chance, one for each op.

use crate::{
    ir::{Graph, Model, OpId, Origin, Tensor, Use, ValueId},
    ops::quantized::part,
};
use std::collections::HashMap;

/// Operators whose floating-point parameters are no weights.
const PARAMETERS: &[&str] = &["Resize", "Upsample"];

/// Moves the weights that bodies define to the main graph, from which the bodies capture them, and gives each op its own of
/// the vectors of equal elements that several read. A name that several bodies use stays.
pub fn lift(model: &mut Model) {
    let mut defined: HashMap<String, usize> = HashMap::new();
    model.graph.for_each_nested(&mut |g| {
        let own = g.values().filter(|v| g.value(*v).origin != Origin::Captured);
        own.for_each(|v| *defined.entry(g.name_of(v).to_owned()).or_default() += 1);
    });
    for (name, tensor) in lifted(&mut model.graph, &defined) {
        if let Some(v) = model.graph.find(&name) {
            model.graph.value_mut(v).origin = Origin::Initializer(tensor);
        }
    }
    untie(&mut model.graph);
}

/// Zero points, zero biases, unit scales: equal constants are stored once, though nothing ties the layers that read them.
fn untie(g: &mut Graph) {
    let equal = |t: &Tensor| {
        let width = t.byte_len() / t.len().max(1);
        let mut elements = t.bytes().chunks_exact(width.max(1));
        let first = elements.next();
        t.rank() == 1 && t.len() > 1 && width > 0 && elements.all(|x| Some(x) == first)
    };
    let is_vector = |v: ValueId| g.initializer(v).filter(|_| is_weight(g, v) && !g.inputs.contains(&v));
    let vectors = g.values().filter(|v| is_vector(*v).is_some_and(equal));
    for v in vectors.collect::<Vec<_>>() {
        for at in g.uses(v).into_iter().skip(1) {
            if let (Use::Input(op, slot), Some(tensor)) = (at, g.initializer(v).cloned()) {
                let name = g.name_of(v).to_owned();
                let own = g.add_initializer(&name, tensor);
                g.set_input(op, slot, Some(own));
            }
        }
    }
}

/// The weights of the bodies in a graph, which captures them afterwards.
fn lifted(g: &mut Graph, defined: &HashMap<String, usize>) -> Vec<(String, Tensor)> {
    let mut weights = Vec::new();
    for op in g.ops().collect::<Vec<_>>() {
        let mut found = Vec::new();
        for body in g.op_mut(op).bodies_mut() {
            found.append(&mut lifted(body, defined));
            for v in body.values().filter(|v| is_weight(body, *v)).collect::<Vec<_>>() {
                let name = body.name_of(v).to_owned();
                if let (Some(1), Some(tensor)) = (defined.get(&name), body.initializer(v).cloned()) {
                    body.value_mut(v).origin = Origin::Captured;
                    found.push((name, tensor));
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
        weights.append(&mut found);
    }
    weights
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

/// Whether a value is a constant whose positions something could be cut at.
fn is_weight(g: &Graph, v: ValueId) -> bool {
    let reads = |at: &Use| !matches!(at, Use::Input(op, _) if PARAMETERS.contains(&&*g.op(*op).op_type));
    let quantized = || part(g, v).is_some();
    let wide = |t: &Tensor| (t.dtype().is_float() || quantized()) && t.rank() > 0 && t.len() > 1;
    g.initializer(v).is_some_and(wide) && !g.is_output(v) && g.uses(v).iter().all(reads)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text;

    #[test]
    fn vectors_of_equal_elements_tie_nothing() {
        let mut model = text::parse(
            "<ir_version: 8, opset_import: [\"\" : 17]>
             m (float[2] x) => (float[2] y) <float[2] zero = {0, 0}, float[2] w = {1, 2}> {
               a = Add (x, zero)
               b = Mul (a, w)
               c = Add (b, zero)
               y = Mul (c, w)
             }",
        )
        .unwrap();
        lift(&mut model);
        let g = &model.graph;
        let weights: Vec<_> =
            g.initializers().map(|(v, _)| (g.name_of(v).to_owned(), g.uses(v).len())).collect();
        assert_eq!(weights, [("zero", 1), ("w", 2), ("zero_1", 1)].map(|(n, k)| (n.to_owned(), k)));
    }
    #[test]
    fn weights_are_captured_from_the_main_graph_and_their_readers_found() {
        let mut model = text::parse(
            "<ir_version: 8, opset_import: [\"\" : 17]>
             m (float[2] x, bool go) => (float[2] y) {
               y = If (go) <
                 then_branch = a () => (float[2] p) <float[2] w = {1, 2}, float one = {1}> {
                   [inner] p = If (go) <
                     then_branch = c () => (float[2] r) <float[2] v = {3, 4}> {
                       d = Add (x, one)
                       [deep] r = Mul (d, v)
                     },
                     else_branch = e () => (float[2] s) { [other] s = Sub (w, x) }>
                 },
                 else_branch = b () => (float[2] q) { [last] q = Neg (x) }>
             }",
        )
        .unwrap();
        lift(&mut model);
        model.verify().unwrap();
        let g = &model.graph;
        let found = |name: &str| {
            let v = g.find(name).unwrap();
            let places = readers(g, v).into_iter().map(|(g, op, slot)| (g.place(op).name().to_owned(), slot));
            (g.initializer(v).map(|t| t.to_f32().unwrap().into_owned()), places.collect::<Vec<_>>())
        };
        assert_eq!(found("w"), (Some(vec![1.0, 2.0]), vec![("other".to_owned(), 0)]));
        assert_eq!(found("v"), (Some(vec![3.0, 4.0]), vec![("deep".to_owned(), 1)]));
        assert_eq!(g.find("one"), None, "what is no weight stays");
    }
}
