//! What BatchNormalization tells of its output stays with the value when the op becomes part of the layer before it.
//!
//! In training its input was brought to mean 0 and variance 1 over each channel; so `scale` and `bias` are the
//! deviation and the mean of what it puts out (Nagel et al. 2019, data-free quantization).

use super::weights::floats;
use crate::{
    ir::{Graph, Moments, OpId, ValueId},
    ops::moments::Estimates,
};

/// Notes the moments of what each BatchNormalization puts out, and of what constants behind it make of that: some exporters
/// keep its scale and bias apart, which become part of the layer too.
pub(super) fn note(graph: &mut Graph) {
    for op in graph.ops().filter(|op| graph.op(*op).is("BatchNormalization")).collect::<Vec<_>>() {
        if let Some((y, moments)) = graph.output(op, 0).zip(moments(graph, op)) {
            graph.value_mut(y).moments = Some(Box::new(moments));
        }
    }
    let estimates = Estimates::of(graph);
    let maps = |op: &OpId| {
        let node = graph.op(*op);
        let constant = graph.inputs_of(*op).into_iter().flatten().any(|v| graph.constant(v).is_some());
        constant && (node.is("Mul") || node.is("Add"))
    };
    let open = |v: &ValueId| graph.value(*v).moments.is_none();
    let mapped = graph.ops().filter(maps).filter_map(|op| graph.output(op, 0)).filter(open);
    let known: Vec<_> = mapped.filter_map(|y| Some((y, estimates.get(y)?.clone()))).collect();
    for (y, moments) in known {
        graph.value_mut(y).moments = Some(Box::new(moments));
    }
}

fn moments(graph: &Graph, op: OpId) -> Option<Moments> {
    if graph.op(op).int("training_mode").unwrap_or(0) != 0 {
        return None;
    }
    let constant = |slot| floats(graph.constant(source(graph, graph.input(op, slot)?))?).ok();
    let (scale, mean, variance) = (constant(1)?, constant(2)?, constant(4)?);
    let epsilon = f64::from(graph.op(op).float("epsilon").unwrap_or(1e-5));
    // A channel of less variance than epsilon comes out with less than its scale.
    let shrunk = |(s, v): (&f64, &f64)| s.abs() * (v.max(0.0) / (v.max(0.0) + epsilon)).sqrt();
    let deviation: Vec<f64> = scale.iter().zip(&variance).map(shrunk).collect();
    let whole = deviation.len() == mean.len() && scale.len() == variance.len();
    (whole && mean.iter().chain(&deviation).all(|x| x.is_finite())).then_some(Moments { mean, deviation })
}

/// What a value is a copy of: exporters share equal statistics of layers through Identity.
fn source(graph: &Graph, mut v: ValueId) -> ValueId {
    while let Some(x) = graph.producer(v).filter(|(op, _)| graph.op(*op).is("Identity")) {
        let Some(before) = graph.input(x.0, 0) else { break };
        v = before;
    }
    v
}

#[cfg(test)]
mod tests {
    use crate::{
        ir::{Moments, text},
        passes::{Context, Pass, simplify::Simplify},
    };

    #[test]
    fn a_scale_and_a_bias_apart_are_part_of_what_is_told() {
        let mut model = text::parse(
            "<ir_version: 8, opset_import: [\"\": 17]>
            g (float[1,1,4,4] x) => (float[1,2,4,4] y)
            <float[2,1,1,1] w = {1, 2}, float[2] s = {1, 1}, float[2] b = {0, 0}, float[2] m = {0, 1},
             float[2] v = {1, 4}, float[2,1,1] k = {-3, 2}, float[2,1,1] c = {5, 6}>
            { h = Conv(x, w)  n = BatchNormalization<epsilon = 0.0>(h, s, b, m, v)  t = Mul(n, k)  y = Add(t, c) }",
        )
        .unwrap();
        let _ = Simplify::default().run(&mut model, &mut Context::new()).unwrap();
        let g = &model.graph;
        assert_eq!(g.ops().count(), 1);
        let expected = Moments { mean: vec![5.0, 6.0], deviation: vec![3.0, 2.0] };
        assert_eq!(g.value(g.outputs[0]).moments.as_deref(), Some(&expected));
    }
    #[test]
    fn moments_outlive_the_op_that_tells_them() {
        let mut model = text::parse(
            "<ir_version: 8, opset_import: [\"\": 17]>
            g (float[1,1,4,4] x) => (float[1,2,4,4] y)
            <float[2,1,1,1] w = {1, 2}, float[2] s = {-3, 1}, float[2] b = {5, 6}, float[2] m = {0, 1},
             float[2] v = {1, 0}>
            { c = Conv(x, w)  i = Identity(s)  y = BatchNormalization<epsilon = 0.25>(c, i, b, m, v) }",
        )
        .unwrap();
        let _ = Simplify::default().run(&mut model, &mut Context::new()).unwrap();
        let g = &model.graph;
        assert!(g.ops().all(|op| !g.op(op).is("BatchNormalization")));
        let expected = Moments { mean: vec![5.0, 6.0], deviation: vec![3.0 * 0.8f64.sqrt(), 0.0] };
        assert_eq!(g.value(g.outputs[0]).moments.as_deref(), Some(&expected));
    }
}
