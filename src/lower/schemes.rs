//! Quantization schemes become nodes: the quantize-dequantize form that every runtime reads.

use crate::{
    error::{Error, Result},
    ir::{Graph, Model, Op, Origin, QuantScheme, TensorType, Type, ValueId, Where},
};

/// Turns every [`QuantScheme`] of the main graph into operators.
///
/// A constant becomes an integer constant behind DequantizeLinear, which now computes the value of the old name. A
/// computed value gets one QuantizeLinear and one DequantizeLinear that all its users read. Graph inputs and outputs
/// keep their names and types. Fails where a scheme breaks its invariants or the model's operator set is too old
/// (10 for one scale, 13 for a scale per channel).
pub fn materialize(model: &mut Model) -> Result<()> {
    let opset = model.opset();
    let graph = &mut model.graph;
    let annotated: Vec<ValueId> = graph.values().filter(|v| graph.value(*v).quant.is_some()).collect();
    for v in annotated {
        let at = Where::Value(graph.name_of(v).to_owned());
        let Some(scheme) = graph.value_mut(v).quant.take() else { continue };
        let least = if scheme.axis.is_some() { 13 } else { 10 };
        if opset < least {
            let why = format!("this quantization needs operator set {least}, and the model uses {opset}");
            return Err(Error::unsupported(at, why));
        }
        match &graph.value(v).origin {
            Origin::Initializer(_) if graph.is_input(v) => {
                return Err(Error::invalid(at, "an overridable default cannot be quantized as a constant"));
            }
            Origin::Initializer(_) => constant(graph, v, &scheme)?,
            Origin::Computed => computed(graph, v, &scheme)?,
            _ => {
                return Err(Error::unsupported(at, "only dense constants and computed values are quantized"));
            }
        }
    }
    Ok(())
}

/// The integer constant, and the DequantizeLinear that stands for the old one.
fn constant(graph: &mut Graph, v: ValueId, scheme: &QuantScheme) -> Result<()> {
    let name = graph.name_of(v).to_owned();
    let Origin::Initializer(float) = std::mem::take(&mut graph.value_mut(v).origin) else {
        unreachable!("the caller looked")
    };
    graph.value_mut(v).ty = Some(Type::Tensor(float.ty()));
    let quantized = graph.add_initializer(&format!("{name}_quantized"), scheme.quantize(&float)?);
    let (scale, zero) = parameters(graph, &name, scheme);
    let op = with_axis(Op::new("DequantizeLinear", format!("{name}_dequantize")), scheme);
    graph.add_op(op, &[Some(quantized), Some(scale), Some(zero)], &[Some(v)]);
    Ok(())
}

/// The pair between a computed value and its users.
fn computed(graph: &mut Graph, v: ValueId, scheme: &QuantScheme) -> Result<()> {
    let ty = graph.tensor_type(v);
    let shape = ty.as_ref().and_then(|t| t.static_shape());
    scheme.check(shape.as_deref())?;
    let name = graph.name_of(v).to_owned();
    let float = graph.value(v).ty.clone();
    let integers = ty.map(|t| Type::Tensor(TensorType { dtype: Some(scheme.dtype), ..t }));
    // The interface's name must end up on the dequantized value, so an output's producer moves to a new one.
    let (source, output) = match graph.producer(v) {
        Some((op, slot)) if graph.is_output(v) => {
            let source = graph.add_value(&format!("{name}_float"), float);
            let mut outputs = graph.outputs_of(op);
            outputs[slot] = Some(source);
            graph.set_outputs(op, &outputs);
            (source, v)
        }
        _ => {
            let output = graph.add_value(&format!("{name}_dequantized"), float);
            graph.replace_uses(v, output);
            (v, output)
        }
    };
    let (scale, zero) = parameters(graph, &name, scheme);
    // An Identity lets some users of a float read it rounded while others keep it exact; the rounding replaces it.
    let identity = graph.producer(source).map(|p| p.0).filter(|o| graph.op(*o).is("Identity"));
    let source = match identity.and_then(|o| Some((o, graph.input(o, 0)?))) {
        Some((op, exact)) => {
            graph.remove_op(op);
            graph.remove_value_if_unused(source);
            exact
        }
        None => source,
    };
    let quantize = with_axis(Op::new("QuantizeLinear", format!("{name}_quantize")), scheme);
    let middle = graph.add_value(&format!("{name}_quantized"), integers);
    graph.add_op(quantize, &[Some(source), Some(scale), Some(zero)], &[Some(middle)]);
    let dequantize = with_axis(Op::new("DequantizeLinear", format!("{name}_dequantize")), scheme);
    graph.add_op(dequantize, &[Some(middle), Some(scale), Some(zero)], &[Some(output)]);
    Ok(())
}

fn parameters(graph: &mut Graph, name: &str, scheme: &QuantScheme) -> (ValueId, ValueId) {
    let scale = graph.add_initializer(&format!("{name}_scale"), scheme.scale_tensor());
    (scale, graph.add_initializer(&format!("{name}_zero_point"), scheme.zero_point_tensor()))
}

fn with_axis(op: Op, scheme: &QuantScheme) -> Op {
    match scheme.axis {
        Some(axis) => op.with("axis", axis as i64),
        None => op,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{DType, OpsetImport, Tensor};

    fn model(opset: i64) -> Model {
        let mut graph = Graph::new("g");
        let float = || Type::tensor(DType::F32, [2.into(), 2.into()]);
        let x = graph.add_input("x", float());
        let w = Tensor::from_vec([2, 2], vec![1f32, -2.0, 3.0, 0.5]);
        let scheme = QuantScheme::symmetric_int8(&w, Some(1));
        let w = graph.add_initializer("w", w);
        graph.value_mut(w).quant = scheme;
        let y = graph.add_node(Op::new("MatMul", "m"), &[x, w], "y", Some(float()));
        graph.outputs.push(y);
        for v in [x, y] {
            graph.value_mut(v).quant = QuantScheme::uint8_over(-1.0, 1.0);
        }
        let opsets = vec![OpsetImport { version: opset, ..OpsetImport::default() }];
        Model { ir_version: 8, opsets, graph, ..Model::default() }
    }

    #[test]
    fn interface_stays_and_no_float_weight_is_left() {
        let mut m = model(13);
        materialize(&mut m).unwrap();
        m.verify().unwrap();
        let g = &m.graph;
        assert_eq!((g.name_of(g.inputs[0]), g.name_of(g.outputs[0])), ("x", "y"));
        let count = |name: &str| g.ops().filter(|o| g.op(*o).is(name)).count();
        assert_eq!((count("QuantizeLinear"), count("DequantizeLinear")), (2, 3));
        assert!(g.initializers().all(|(v, t)| t.dtype() != DType::F32 || g.name_of(v).ends_with("_scale")));
        let dq = g.producer(g.outputs[0]).unwrap().0;
        assert!(g.op(dq).is("DequantizeLinear"));
        let product = g.ops().find(|o| g.op(*o).is("MatMul")).unwrap();
        for slot in 0..2 {
            let from = g.producer(g.input(product, slot).unwrap()).unwrap().0;
            assert!(g.op(from).is("DequantizeLinear"));
        }
    }
    #[test]
    fn an_old_operator_set_is_refused() {
        assert!(matches!(materialize(&mut model(12)), Err(Error::Unsupported { .. })));
    }
}
