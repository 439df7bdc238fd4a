//! Relu and Clip between integers that end where they do: those saturate, so that the operator has nothing left to do.

use crate::ir::{Graph, OpId, QuantForm, QuantScheme, Tensor};

/// Takes each Relu and Clip away that reads and writes the same integers, which end where it does.
pub(super) fn rewrite(graph: &mut Graph) {
    for op in graph.order() {
        let node = graph.op(op);
        let (Some(x), Some(y)) = (graph.input(op, 0), graph.output(op, 0)) else { continue };
        if !(node.is("Relu") || node.is("Clip")) || graph.sole_use(x).is_none() {
            continue;
        }
        let [before, after] = [x, y].map(|v| graph.value(v).quant.as_ref());
        let same = after.filter(|scheme| before == after && scheme.form == QuantForm::Qdq);
        if !same.is_some_and(|scheme| saturates(graph, op, scheme)) {
            continue;
        }
        let Some((from, slot)) = graph.producer(x) else { continue };
        let limits = graph.inputs_of(op).into_iter().skip(1).flatten().collect::<Vec<_>>();
        graph.remove_op(op);
        let mut outputs = graph.outputs_of(from);
        outputs[slot] = Some(y);
        graph.set_outputs(from, &outputs);
        for v in [vec![x], limits].concat() {
            graph.remove_value_if_unused(v);
        }
    }
}

/// Whether integers end where a Relu or Clip does: what these take to an end of theirs has the outermost integer.
pub(super) fn saturates(graph: &Graph, op: OpId, scheme: &QuantScheme) -> bool {
    let end = |slot| match graph.op(op).is("Relu") {
        true => Some((slot == 1).then_some(0.0)),
        false => match graph.input(op, slot) {
            Some(v) => graph.constant(v)?.scalar_f32().map(Some),
            None => Some(None),
        },
    };
    let integer = |x: f32| {
        let integer = scheme.quantize(&Tensor::from_vec([], vec![x])).ok()?;
        integer.to_i64()?.first().copied()
    };
    [(1, f32::MIN), (2, f32::MAX)].into_iter().all(|(slot, outermost)| match end(slot) {
        Some(Some(end)) => integer(end).is_some_and(|q| Some(q) == integer(outermost)),
        Some(None) => true,
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{DType, text};

    #[test]
    fn only_what_integers_do_by_themselves_goes() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N, 4] x) => (float[N, 4] y, float[N, 4] z)
            <float low = {0.0}, float high = {6.0}, float wide = {9.0}>
            {
              a = Exp (x)
              r = Relu (a)
              c = Clip (r, low, high)
              d = Clip (c, low, wide)
              y = Exp (d)
              b = Exp (y)
              z = Relu (b)
            }"#;
        let mut model = text::parse(text).unwrap();
        let g = &mut model.graph;
        for (name, low, high) in [
            ("a", 0.0, 6.0),
            ("r", 0.0, 6.0),
            ("c", 0.0, 6.0),
            ("d", 0.0, 7.0),
            ("b", -1.0, 6.0),
            ("z", -1.0, 6.0),
        ] {
            let v = g.find(name).unwrap();
            g.value_mut(v).quant = QuantScheme::over(DType::U8, low, high);
        }
        rewrite(g);
        model.verify().unwrap();
        let g = &model.graph;
        let left: Vec<_> = g
            .order()
            .into_iter()
            .map(|op| (g.op(op).op_type.as_str(), g.name_of(g.output(op, 0).unwrap())))
            .collect();
        assert_eq!(left, [("Exp", "c"), ("Clip", "d"), ("Exp", "y"), ("Exp", "b"), ("Relu", "z")]);
    }
}
