//! Products of two activations whose scales are known beforehand: uint8 by int8.
//!
//! They become `com.microsoft::MatMulIntegerToFloat` version 1, which ONNX Runtime alone has. QuantizeLinear and DequantizeLinear
//! around MatMul would not do: ONNX Runtime on x86 makes uint8 of both operands, and its kernel for those is no faster than
//! floats. Elements are moved as integers, and a factor behind the product goes into its scale, as it does with floats.

use super::parameters::Parameters;
use crate::ir::{DType, Graph, Op, OpId, Origin, QuantForm, QuantScheme, Tensor, Use, ValueId};

/// Rewrites every MatMul both of whose operands have the form [`QuantForm::Multiplied`]; says whether there is one.
pub(super) fn rewrite(graph: &mut Graph, parameters: &mut Parameters) -> bool {
    let operands = |graph: &Graph, op: OpId| {
        let [a, b] = [0, 1].map(|slot| graph.input(op, slot).filter(|v| is_multiplied(graph, *v)));
        Some([a?, b?]).filter(|_| graph.op(op).is("MatMul"))
    };
    let products: Vec<OpId> = graph.order().into_iter().filter(|op| operands(graph, *op).is_some()).collect();
    for op in &products {
        let (Some([a, b]), Some(y)) = (operands(graph, *op), graph.output(*op, 0)) else { continue };
        let [Some(first), Some(second)] = [a, b].map(|v| graph.value_mut(v).quant.take()) else { continue };
        let name = graph.op(*op).name.clone();
        let (y, factor) = scaled(graph, y).unwrap_or((y, 1.0));
        graph.remove_op(*op);
        let (a, mut scale_a, zero_a) = rounded(graph, a, &first, parameters);
        let (b, scale_b, zero_b) = rounded(graph, b, &second, parameters);
        if factor != 1.0 {
            scale_a = graph.add_initializer("scale", Tensor::from_vec([], vec![first.scales[0] * factor]));
        }
        let product = Op { domain: "com.microsoft".into(), ..Op::new("MatMulIntegerToFloat", name) };
        graph.add_op(product, &[a, b, scale_a, scale_b, zero_a, zero_b].map(Some), &[Some(y)]);
    }
    !products.is_empty()
}

fn is_multiplied(graph: &Graph, v: ValueId) -> bool {
    let value = graph.value(v);
    value.quant.as_ref().is_some_and(|s| s.form == QuantForm::Multiplied) && value.origin == Origin::Computed
}

/// The integers of a value, their scale and their zero point. What a Transpose alone makes is rounded in front of it.
fn rounded(
    graph: &mut Graph,
    v: ValueId,
    scheme: &QuantScheme,
    parameters: &mut Parameters,
) -> (ValueId, ValueId, ValueId) {
    let moved = graph.producer(v).map(|p| p.0).filter(|op| graph.op(*op).is("Transpose"));
    let moved = moved.filter(|_| graph.uses(v).is_empty() && !graph.is_output(v));
    let source = moved.and_then(|op| graph.input(op, 0)).unwrap_or(v);
    let [scale, zero] = parameters.of(graph, scheme, &[]);
    let hint = format!("{}_quantized", graph.name_of(source));
    let mut integers = graph.add_value(&hint, None);
    graph.add_op(Op::new("QuantizeLinear", ""), &[source, scale, zero].map(Some), &[Some(integers)]);
    if let Some(op) = moved {
        let transpose = graph.op(op).clone();
        graph.remove_op(op);
        graph.remove_value_if_unused(v);
        let hint = format!("{}_moved", graph.name_of(source));
        let from = std::mem::replace(&mut integers, graph.add_value(&hint, None));
        graph.add_op(transpose, &[Some(from)], &[Some(integers)]);
    }
    (integers, scale, zero)
}

/// What a product is once it has been multiplied by one number, or divided, and that number; what did it is gone.
fn scaled(graph: &mut Graph, y: ValueId) -> Option<(ValueId, f32)> {
    let Use::Input(op, slot) = graph.sole_use(y)? else { return None };
    let (by, node) = (graph.input(op, 1 - slot.min(1))?, graph.op(op));
    let tensor = graph.constant(by).filter(|t| t.dtype() == DType::F32)?;
    let (number, result) = (tensor.scalar_f32()?, graph.output(op, 0)?);
    // One number of more axes would add axes to the result.
    let no_axes = tensor.rank() <= graph.rank(y).unwrap_or(0);
    let factor = match slot {
        _ if node.is("Mul") => number,
        0 if node.is("Div") => number.recip(),
        _ => return None,
    };
    if !no_axes || !factor.is_normal() || graph.value(y).quant.is_some() {
        return None;
    }
    graph.remove_op(op);
    graph.remove_value_if_unused(by);
    Some((result, factor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text;

    #[test]
    fn a_factor_and_a_transpose_go_into_the_product() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N, 4, 8] q, float[N, 4, 8] k, float[N, 4, 4] p) => (float[N, 4, 4] y, float[N, 4, 4] z)
            <float root = {4}>
            {
              a = Relu (q)
              c = Relu (k)
              [turn] t = Transpose <perm = [0, 2, 1]> (c)
              [scores] s = MatMul (a, t)
              y = Div (s, root)
              [exact] z = MatMul (y, p)
            }"#;
        let mut model = text::parse(text).unwrap();
        for (name, dtype, low) in [("a", DType::U8, 0.0), ("t", DType::I8, -1.0)] {
            let v = model.graph.find(name).unwrap();
            let scheme = QuantScheme::over(dtype, low, 1.0).unwrap();
            model.graph.value_mut(v).quant = Some(QuantScheme { form: QuantForm::Multiplied, ..scheme });
        }
        assert!(rewrite(&mut model.graph, &mut Parameters::default()));
        model.verify().unwrap();
        let g = &model.graph;
        let names: Vec<&str> = g.order().into_iter().map(|op| g.op(op).op_type.as_str()).collect();
        let count = |name: &str| names.iter().filter(|n| **n == name).count();
        assert_eq!((count("QuantizeLinear"), count("Div"), count("MatMul")), (2, 0, 1), "{names:?}");
        let product = g.producer(g.find("y").unwrap()).unwrap().0;
        assert_eq!(g.op(product).full_type(), "com.microsoft:MatMulIntegerToFloat");
        let scale = g.constant(g.input(product, 2).unwrap()).unwrap().scalar_f32().unwrap();
        assert!((scale - 1.0 / 255.0 / 4.0).abs() < 1e-8, "{scale}");
        let turned = g.producer(g.input(product, 1).unwrap()).unwrap().0;
        assert!(g.op(turned).is("Transpose"));
    }
}
