//! Quantization schemes become nodes: the quantize-dequantize form that every runtime reads, or arithmetic on integer
//! constants that every runtime computes when it loads the model.

use super::{
    clipped, dynamic, few_bits, operators, pairs, parameters::Parameters, saturated, shielded, stored,
};
use crate::{
    error::{Error, Result},
    ir::{DType, Float8, Grain, Graph, Model, Op, Origin, QuantForm, QuantScheme, Use, ValueId, Where},
};

/// Turns every [`QuantScheme`] into operators.
///
/// A constant becomes an integer constant and what computes it back, as its form says; the last operator of that now
/// computes the value of the old name. A computed value gets one QuantizeLinear and one DequantizeLinear that all its
/// users read, and Relu and Clip that these stand for go. Graph inputs and outputs keep their names and types. A value of the form
/// [`QuantForm::Dynamic`], [`QuantForm::Multiplied`], [`QuantForm::Operator`] or [`QuantForm::Packed`] changes the ops that read
/// it, one of the form [`QuantForm::Saturated`] the op that makes it, and layers have one of the form [`QuantForm::Shielded`] from a
/// DequantizeLinear of their own. Fails where a scheme breaks its invariants, where a
/// computed value is to be folded, or where the model's operator set is too old: see [`least_opset`].
pub fn materialize(model: &mut Model) -> Result<()> {
    let opset = model.opset();
    if rewrite(&mut model.graph, opset)? {
        model.require_domain("com.microsoft", 1);
    }
    Ok(())
}

/// The schemes of a graph and its bodies. Says whether they take operators of `com.microsoft`.
fn rewrite(graph: &mut Graph, opset: i64) -> Result<bool> {
    sink(graph);
    let mut parameters = Parameters::default();
    let mut own = dynamic::rewrite(graph, &mut parameters)?;
    own |= few_bits::rewrite(graph)?;
    own |= pairs::rewrite(graph, &mut parameters);
    let shields = shielded::part(graph, opset);
    saturated::rewrite(graph, &mut parameters);
    clipped::rewrite(graph);
    let weights = operators::weights(graph);
    standard(graph, opset, &mut parameters)?;
    shielded::rewrite(graph, shields, &mut parameters);
    own |= operators::rewrite(graph, &weights);
    for op in graph.ops().collect::<Vec<_>>() {
        let mut result = Ok(());
        graph.edit_bodies(op, |body| {
            match rewrite(body, opset) {
                Ok(inner) => own |= inner,
                Err(why) => result = Err(why),
            }
            true
        });
        result?;
    }
    Ok(own)
}

/// The schemes that become QuantizeLinear, DequantizeLinear, or arithmetic.
fn standard(graph: &mut Graph, opset: i64, parameters: &mut Parameters) -> Result<()> {
    let annotated: Vec<ValueId> = graph.values().filter(|v| graph.value(*v).quant.is_some()).collect();
    for v in annotated {
        let at = Where::Value(graph.name_of(v).to_owned());
        let Some(scheme) = graph.value_mut(v).quant.take() else { continue };
        let reals = graph.dtype(v).unwrap_or(DType::F32);
        let least = least_opset(&scheme, reals);
        if opset < least {
            let why = format!("this quantization needs operator set {least}, and the model uses {opset}");
            return Err(Error::unsupported(at, why));
        }
        match &graph.value(v).origin {
            Origin::Initializer(_) if graph.is_input(v) => {
                return Err(Error::invalid(at, "an overridable default cannot be quantized as a constant"));
            }
            Origin::Initializer(_) => stored::constant(graph, v, &scheme, parameters)?,
            Origin::Computed | Origin::Captured if scheme.form != QuantForm::Qdq => {
                return Err(Error::invalid(at, "only constants can be dequantized when a model is loaded"));
            }
            Origin::Computed | Origin::Captured if reals != DType::F32 => {
                let why = format!("only float32 is rounded as the model runs, and it is {reals}");
                return Err(Error::unsupported(at, why));
            }
            Origin::Computed | Origin::Captured if matches!(scheme.grain, Grain::Blocks { .. }) => {
                return Err(Error::unsupported(at, "only constants are quantized by blocks"));
            }
            Origin::Computed | Origin::Captured => computed(graph, v, &scheme, parameters)?,
            Origin::SparseInitializer(_) => {
                return Err(Error::unsupported(at, "only dense constants and computed values are quantized"));
            }
        }
    }
    Ok(())
}

/// Moves weights into the one body that reads them, where that is better there. Products are: a runtime that has a kernel for
/// DequantizeLinear and the product looks for them side by side. What is folded is too, as that is done in bodies as well when
/// a model is loaded, and handing the result to the body takes time in each run.
fn sink(graph: &mut Graph) {
    for v in graph.values().collect::<Vec<_>>() {
        let better = match graph.value(v).quant.as_ref().map(|scheme| scheme.form) {
            Some(QuantForm::Qdq) => multiplied(graph, v),
            Some(QuantForm::Folded) => true,
            _ => false,
        };
        if better {
            graph.sink(v);
        }
    }
}

/// Whether products alone read a value, all in one graph.
fn multiplied(graph: &Graph, v: ValueId) -> bool {
    if let Some((op, which)) = graph.sole_body(v) {
        let body = graph.op(op).bodies().nth(which);
        return body.is_some_and(|body| body.find(graph.name_of(v)).is_some_and(|v| multiplied(body, v)));
    }
    let product =
        |at: &Use| matches!(at, Use::Input(op, 1) if graph.op(*op).is("MatMul") || graph.op(*op).is("Gemm"));
    !graph.is_output(v) && graph.uses(v).iter().all(product)
}

/// The oldest operator set that has the operators of a scheme for reals of this type: DequantizeLinear since 10, with a scale
/// for each index of an axis since 13, of half precision since 19, with blocks since 21; Mul that broadcasts since 7, Slice by inputs since 10; types of four bits
/// since 21, of two since 25, DequantizeLinear of 16 bits since 21, floats of eight since 19.
pub fn least_opset(scheme: &QuantScheme, reals: DType) -> i64 {
    let form = match (scheme.form, scheme.grain) {
        (QuantForm::Folded, Grain::Tensor | Grain::Axis(_)) => 7,
        (QuantForm::Folded, Grain::Blocks { .. }) | (_, Grain::Tensor) => 10,
        (_, Grain::Axis(_)) => 13,
        (_, Grain::Blocks { .. }) => 21,
    };
    let half = scheme.form == QuantForm::Qdq && reals.bits() < 32;
    let form = if half { form.max(19) } else { form };
    match scheme.dtype.bits() {
        2 => 25,
        4 => form.max(21),
        8 if Float8::of(scheme.dtype).is_some() => form.max(19),
        16 if scheme.form != QuantForm::Folded => form.max(21),
        _ => form,
    }
}

/// The pair between a computed value and its users.
fn computed(graph: &mut Graph, v: ValueId, scheme: &QuantScheme, parameters: &mut Parameters) -> Result<()> {
    let shape = graph.tensor_type(v).and_then(|t| t.static_shape());
    scheme.check(shape.as_deref())?;
    let name = graph.name_of(v).to_owned();
    // What stands in between has no types: they follow, and together they would take as much of the file as small weights.
    // The interface's name must end up on the dequantized value, so an output's producer moves to a new one.
    let (source, output) = match graph.producer(v) {
        Some((op, slot)) if graph.is_output(v) => {
            let source = graph.add_value(&format!("{name}_float"), None);
            let mut outputs = graph.outputs_of(op);
            outputs[slot] = Some(source);
            graph.set_outputs(op, &outputs);
            (source, v)
        }
        _ => {
            let output = graph.add_value(&format!("{name}_dequantized"), None);
            graph.replace_uses(v, output);
            (v, output)
        }
    };
    let shape: &[usize] = if scheme.grain == Grain::Tensor { &[] } else { &[scheme.scales.len()] };
    let [scale, zero] = parameters.of(graph, scheme, shape);
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
    let quantize = with_axis(Op::new("QuantizeLinear", ""), scheme);
    let middle = graph.add_value(&format!("{name}_quantized"), None);
    graph.add_op(quantize, &[Some(source), Some(scale), Some(zero)], &[Some(middle)]);
    let dequantize = with_axis(Op::new("DequantizeLinear", ""), scheme);
    graph.add_op(dequantize, &[Some(middle), Some(scale), Some(zero)], &[Some(output)]);
    Ok(())
}

pub(super) fn with_axis(op: Op, scheme: &QuantScheme) -> Op {
    match scheme.grain {
        Grain::Axis(axis) => op.with("axis", axis as i64),
        _ => op,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{DType, OpsetImport, Tensor, Type};

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
            graph.value_mut(v).quant = QuantScheme::over(DType::U8, -1.0, 1.0);
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
        assert!(g.initializers().all(|(v, t)| t.dtype() != DType::F32 || g.name_of(v).starts_with("scale")));
        let dq = g.producer(g.outputs[0]).unwrap().0;
        assert!(g.op(dq).is("DequantizeLinear"));
        let product = g.ops().find(|o| g.op(*o).is("MatMul")).unwrap();
        for slot in 0..2 {
            let from = g.producer(g.input(product, slot).unwrap()).unwrap().0;
            assert!(g.op(from).is("DequantizeLinear"));
        }
    }
    #[test]
    fn a_folded_constant_is_what_its_scheme_says() {
        let mut m = model(7);
        let g = &mut m.graph;
        let w = g.find("w").unwrap();
        let form = QuantForm::Folded;
        let (scales, zero_points) = (vec![0.5, 0.25], vec![3, 0]);
        let scheme = QuantScheme { dtype: DType::I8, grain: Grain::Axis(0), scales, zero_points, form };
        let expected = scheme.dequantize(&scheme.quantize(g.initializer(w).unwrap()).unwrap()).unwrap();
        g.value_mut(w).quant = Some(scheme);
        for v in [g.inputs[0], g.outputs[0]] {
            g.value_mut(v).quant = None;
        }
        materialize(&mut m).unwrap();
        m.verify().unwrap();
        let g = &m.graph;
        let mut values: std::collections::HashMap<ValueId, Tensor> =
            g.initializers().map(|(v, t)| (v, t.clone())).collect();
        for op in g.order().into_iter().filter(|op| !g.op(*op).is("MatMul")) {
            let inputs = g.inputs_of(op);
            let inputs: Vec<_> = inputs.iter().map(|v| v.map(|v| &values[&v])).collect();
            let result = crate::ops::fold::evaluate(g.op(op), 7, &inputs, 1).unwrap().remove(0);
            values.insert(g.output(op, 0).unwrap(), result);
        }
        assert_eq!(values[&w], expected);
        assert!(g.initializers().all(|(_, t)| t.dtype() != DType::F32 || t.shape() == [2, 1]));
    }
    #[test]
    fn a_computed_value_cannot_be_folded() {
        let mut m = model(13);
        let y = m.graph.outputs[0];
        m.graph.value_mut(y).quant.as_mut().unwrap().form = QuantForm::Folded;
        assert!(matches!(materialize(&mut m), Err(Error::Invalid { .. })));
    }
    #[test]
    fn an_old_operator_set_is_refused() {
        assert!(matches!(materialize(&mut model(12)), Err(Error::Unsupported { .. })));
    }
}
