//! What ONNX Runtime would round too early, or too late.
//!
//! It moves a QuantizeLinear behind MaxPool in front of it, and a DequantizeLinear in front of it behind, as both orders give the
//! same. But its MaxPool of integers, other than between convolutions, takes 20 to 50 times as long as that of floats
//! (`benches/kernels.py`). A Clip to what the integers reach changes nothing and keeps such nodes where they are; in front of
//! QuantizeLinear the runtime takes it out afterwards.

use super::chains::behind_clip;
use crate::ir::{Graph, Op, Tensor, ValueId};

/// Puts a Clip between each MaxPool that has integers on one side only and those.
pub(super) fn around_pools(graph: &mut Graph) {
    let ends = |graph: &Graph, v: ValueId| graph.value(v).quant.as_ref()?.ends();
    for pool in graph.ops().filter(|op| graph.op(*op).is("MaxPool")).collect::<Vec<_>>() {
        let (Some(x), Some(y)) = (graph.input(pool, 0), graph.output(pool, 0)) else { continue };
        match (ends(graph, x), ends(graph, y)) {
            // An activation function in between goes into the rounding.
            (Some(_), None) if ends(graph, behind_clip(graph, y)).is_some() => {}
            (Some(reach), None) => {
                let clipped = beside(graph, x);
                clip(graph, x, reach, clipped);
                graph.set_input(pool, 0, Some(clipped));
            }
            (None, Some(reach)) => {
                let pooled = beside(graph, y);
                let mut outputs = graph.outputs_of(pool);
                outputs[0] = Some(pooled);
                graph.set_outputs(pool, &outputs);
                clip(graph, pooled, reach, y);
            }
            (None, None) => {
                // What only integer layers read is a copy.
                for copy in graph.uses(y).into_iter().map(|at| at.op()).collect::<Vec<_>>() {
                    let made = graph.output(copy, 0).filter(|_| graph.op(copy).is("Identity"));
                    if let Some((made, reach)) = made.and_then(|v| Some((v, ends(graph, v)?))) {
                        graph.remove_op(copy);
                        clip(graph, y, reach, made);
                    }
                }
            }
            (Some(_), Some(_)) => {}
        }
    }
}

/// Another value of the same type.
fn beside(graph: &mut Graph, v: ValueId) -> ValueId {
    let (hint, ty) = (format!("{}_pooled", graph.name_of(v)), graph.value(v).ty.clone());
    graph.add_value(&hint, ty)
}

fn clip(graph: &mut Graph, v: ValueId, reach: [f32; 2], to: ValueId) {
    let reach = reach.map(|end| Some(graph.add_initializer("reach", Tensor::from_vec([], vec![end]))));
    let op = Op::new("Clip", format!("{}_reach", graph.name_of(to)));
    graph.add_op(op, &[Some(v), reach[0], reach[1]], &[Some(to)]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{DType, Model, QuantScheme, text};

    /// What makes and reads the values of a small model in which these are integers.
    fn held(integers: &[&str]) -> Vec<String> {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[1, 1, 8, 8] x) => (float[1, 1, 3, 3] y, float[1, 1, 6, 6] other) {
                a = Sin (x)
                b = MaxPool <kernel_shape = [3, 3]> (a)
                other = Cos (b)
                c = Identity (b)
                d = MaxPool <kernel_shape = [1, 1]> (c)
                e = Relu (d)
                y = MaxPool <kernel_shape = [4, 4]> (e)
            }"#;
        let mut model: Model = text::parse(text).unwrap();
        let g = &mut model.graph;
        for name in integers {
            let v = g.find(name).unwrap();
            g.value_mut(v).quant = QuantScheme::over(DType::U8, -1.0, 1.0);
        }
        around_pools(g);
        model.verify().unwrap();
        let g = &model.graph;
        g.order().iter().map(|op| g.op(*op).op_type.clone()).collect()
    }

    #[test]
    fn a_clip_stands_between_floats_and_integers() {
        let all = ["Sin", "MaxPool", "Cos", "Identity", "MaxPool", "Relu", "MaxPool"];
        let with_clip_at = |k: usize| [&all[..k], &["Clip"], &all[k..]].concat();
        assert_eq!(held(&["a", "b", "c", "d", "e", "y"]), all);
        assert_eq!(held(&["a", "b", "c", "e", "y"]), all, "Relu goes into the rounding");
        assert_eq!(held(&["a"]), with_clip_at(1));
        assert_eq!(held(&["b", "c", "d", "e", "y"]), with_clip_at(2));
        assert_eq!(held(&["y"]), with_clip_at(7));
        assert_eq!(
            held(&["c", "d", "e", "y"]),
            ["Sin", "MaxPool", "Cos", "Clip", "MaxPool", "Relu", "MaxPool"]
        );
    }
}
