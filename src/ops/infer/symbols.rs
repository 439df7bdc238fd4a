//! Which extents inside a model have names in its file.
//!
//! Shape inference names the extents of most inner values, as expressions over those of the inputs. They stay out of the
//! file: with them ONNX Runtime sees more of its patterns, and some of what it makes of these is slower on a processor
//! than what it replaces. A residual sum and a LayerNormalization of equal names become its SkipLayerNormalization, which
//! took six times the time of both on a sentence encoder, 1.12 of the whole model's at 64 tokens.

use crate::ir::{Dim, Graph, Model, Origin, Shape, Type, ValueId};
use std::collections::HashSet;

/// The inner values that a file declares with names of extents.
pub(crate) struct Symbols(HashSet<String>);

impl Symbols {
    /// Those of a model just as it was read.
    pub(crate) fn of(model: &Model) -> Symbols {
        let mut names = HashSet::new();
        model.graph.for_each_nested(&mut |graph| {
            let named = graph.values().filter(|v| shape(graph, *v).is_some_and(has_names));
            names.extend(named.map(|v| graph.name_of(v).to_owned()));
        });
        Symbols(names)
    }
    /// Forgets the names that inner values of the others got since.
    pub(crate) fn forget_others(&self, model: &mut Model) {
        self.forget_in(&mut model.graph);
    }
    fn forget_in(&self, graph: &mut Graph) {
        let interface: HashSet<ValueId> = graph.inputs.iter().chain(&graph.outputs).copied().collect();
        for v in graph.values().collect::<Vec<_>>() {
            let inner = graph.value(v).origin == Origin::Computed && !interface.contains(&v);
            if !inner || self.0.contains(graph.name_of(v)) || !shape(graph, v).is_some_and(has_names) {
                continue;
            }
            if let Some(Type::Tensor(ty)) = &mut graph.value_mut(v).ty {
                let dims = ty.shape.iter_mut().flatten();
                dims.filter(|dim| is_name(dim)).for_each(|dim| *dim = Dim::Unknown);
            }
        }
        for op in graph.ops().collect::<Vec<_>>() {
            graph.op_mut(op).bodies_mut().for_each(|body| self.forget_in(body));
        }
    }
}

fn shape(graph: &Graph, v: ValueId) -> Option<&Shape> {
    graph.value(v).ty.as_ref()?.as_tensor()?.shape.as_ref()
}

fn has_names(shape: &Shape) -> bool {
    shape.iter().any(is_name)
}

fn is_name(dim: &Dim) -> bool {
    matches!(dim, Dim::Symbol(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text;

    #[test]
    fn only_what_the_file_names_is_kept() {
        let read = text::parse(
            r#"<ir_version: 9, opset_import: ["" : 17]>
            g (float[n,4] x) => (float[n,4] y) <float[n,4] a, float[m] b> { a = Relu(x) b = Neg(a) c = Abs(a) y = Exp(c) }"#,
        );
        let mut model = read.unwrap();
        let named = |model: &Model, name: &str| {
            let v = model.graph.find(name).unwrap();
            shape(&model.graph, v).is_some_and(has_names)
        };
        let symbols = Symbols::of(&model);
        crate::ops::infer_types(&mut model).unwrap();
        assert!(["x", "a", "b", "c", "y"].iter().all(|name| named(&model, name)));
        symbols.forget_others(&mut model);
        assert!(["x", "a", "b", "y"].iter().all(|name| named(&model, name)));
        let c = model.graph.find("c").unwrap();
        assert_eq!(shape(&model.graph, c).unwrap()[..], [Dim::Unknown, Dim::Known(4)]);
    }
}
