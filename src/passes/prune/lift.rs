//! Weights where a cut finds them, and tied only where they are: those of control-flow bodies in the main graph, and vectors
//! that are alike by chance, one for each op.

use crate::{
    ir::{Graph, Model, Tensor, Use, ValueId},
    ops::quantized::part,
    passes::lift,
};

/// Operators whose floating-point parameters are no weights.
const PARAMETERS: &[&str] = &["Resize", "Upsample"];

/// Moves the weights that bodies define to the main graph, from which the bodies capture them, and gives each op its own of
/// the vectors of equal elements that several read. A name that several bodies use stays.
pub fn lift(model: &mut Model) {
    // ONNX Runtime 1.31 refuses products in a body whose DequantizeLinear there reads integers from around it.
    lift::lift(&mut model.graph, &|g, v| is_weight(g, v) && part(g, v).is_none());
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
    use crate::{ir::text, passes::lift::readers};

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
