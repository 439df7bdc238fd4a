//! Layers whose other operand is rounded as the model runs: its range is that of the batch at hand, so no samples are
//! needed and none mislead.
//!
//! - A product with a constant: `DynamicQuantizeLinear` (uint8), `MatMulInteger`, and the scales of both behind it. ONNX
//!   Runtime makes one kernel of it. Products that read one value share its rounding.
//! - Conv by a constant: the same with `ConvInteger`, which pads with the zero point. ONNX Runtime runs the nodes one by one.
//! - LSTM: `com.microsoft::DynamicQuantizeLSTM` version 1, which ONNX Runtime alone has. It rounds the input once and
//!   the hidden state in each step.

use super::parameters::{self, Parameters};
use crate::{
    error::{Error, Result},
    ir::{
        DType, Grain, Graph, Op, OpId, Origin, QuantForm, QuantScheme, Tensor, TensorType, Type, ValueId,
        Where,
    },
};
use std::collections::HashMap;

/// Biases of fewer gates are stored as they are: the nodes would take as much.
const SUMMED_FROM: usize = 64;

/// Rewrites every op that reads a weight of the form [`QuantForm::Dynamic`]; says whether one is `com.microsoft`'s now. Fails where
/// the op has no such kernel.
pub(super) fn rewrite(graph: &mut Graph, parameters: &mut Parameters) -> Result<bool> {
    let mut rounded = HashMap::new();
    let mut stored = HashMap::new();
    let order = graph.order();
    let mut recurrent = false;
    for op in order {
        let weight = |slot| graph.input(op, slot).filter(|v| is_dynamic(graph, *v));
        let (Some(w), second) = (weight(1), weight(2)) else { continue };
        let node = graph.op(op);
        match (node.op_type.as_str(), second) {
            ("MatMul" | "Gemm" | "Conv", None) if node.is_standard() => {
                multiply(graph, op, w, &mut rounded, &mut stored)?;
            }
            ("LSTM", Some(r)) if node.is_standard() => {
                recur(graph, op, [w, r], parameters)?;
                recurrent = true;
            }
            _ => return Err(Error::unsupported(graph.place(op), "it has no kernel that rounds as it runs")),
        }
    }
    let annotated: Vec<ValueId> = graph.values().filter(|v| is_dynamic(graph, *v)).collect();
    for v in annotated {
        if !graph.uses(v).is_empty() || graph.is_output(v) {
            let at = Where::Value(graph.name_of(v).to_owned());
            return Err(Error::unsupported(at, "what reads it has no kernel that rounds as it runs"));
        }
        graph.value_mut(v).quant = None;
        graph.remove_value_if_unused(v);
    }
    Ok(recurrent)
}

fn is_dynamic(graph: &Graph, v: ValueId) -> bool {
    graph.value(v).quant.as_ref().is_some_and(|scheme| scheme.form == QuantForm::Dynamic)
}

/// Whether the kernels take a weight of this scheme.
fn takes(scheme: &QuantScheme) -> bool {
    scheme.is_symmetric() && scheme.dtype == DType::I8 && !matches!(scheme.grain, Grain::Blocks { .. })
}

/// A weight's integers and its scheme.
fn integers(graph: &Graph, v: ValueId) -> Result<(Tensor, QuantScheme)> {
    let value = graph.value(v);
    match (&value.origin, &value.quant) {
        (Origin::Initializer(float), Some(scheme)) if takes(scheme) => {
            Ok((scheme.quantize(float)?, scheme.clone()))
        }
        _ => {
            let at = Where::Value(graph.name_of(v).to_owned());
            Err(Error::unsupported(
                at,
                "only symmetric int8 constants go with operands rounded as the model runs",
            ))
        }
    }
}

/// The matrices in the last two axes, transposed: `[.., a, b]` of one byte an element becomes `[.., b, a]`.
fn transposed(t: &Tensor) -> Result<Tensor> {
    let &[ref outer @ .., a, b] = t.shape() else {
        return Err(Error::invalid((), "a weight of fewer than two axes"));
    };
    let bytes = t.bytes();
    let mut out = Vec::with_capacity(bytes.len());
    for matrix in bytes.chunks((a * b).max(1)) {
        out.extend((0..a * b).map(|k| matrix[k % a * b + k / a]));
    }
    Tensor::new(t.dtype(), [outer, &[b, a]].concat(), out)
}

/// `y = Cast(MatMulInteger(q(x), w)) * (scale(x) * scale(w))`, and the bias behind it; of a Conv ConvInteger.
fn multiply(
    graph: &mut Graph,
    op: OpId,
    w: ValueId,
    rounded: &mut HashMap<ValueId, [ValueId; 3]>,
    stored: &mut HashMap<ValueId, [ValueId; 2]>,
) -> Result<()> {
    let (Some(x), Some(y)) = (graph.input(op, 0), graph.output(op, 0)) else { return Ok(()) };
    let bias = graph.input(op, 2);
    let name = graph.name_of(y).to_owned();
    let convolves = graph.op(op).is("Conv");
    // Channels are the second axis of a convolution's output, and the last of a product's.
    let space = if convolves { graph.rank(w).unwrap_or(2).saturating_sub(2) } else { 0 };
    let float = graph.value(y).ty.clone();
    let [q, scale] = match stored.get(&w) {
        Some(known) => *known,
        None => {
            let (mut integers, scheme) = integers(graph, w)?;
            if graph.op(op).int("transB").unwrap_or(0) != 0 {
                integers = transposed(&integers)?;
            }
            let weight = graph.name_of(w).to_owned();
            let scales =
                if scheme.grain == Grain::Tensor { vec![] } else { along(scheme.scales.len(), space) };
            let q = graph.add_initializer(&format!("{weight}_quantized"), integers);
            let scale = parameters::scale(graph, &scheme, DType::F32, &scales);
            *stored.entry(w).or_insert([q, scale])
        }
    };
    let [xq, x_scale, x_zero] = *rounded.entry(x).or_insert_with(|| round(graph, x));
    let sums = match graph.op(op) {
        node if convolves => Op { op_type: "ConvInteger".into(), ..node.clone() },
        node => Op::new("MatMulInteger", node.name.clone()),
    };
    graph.remove_op(op);
    let bias = bias.map(|bias| if convolves { raised(graph, bias, space) } else { bias });
    let inner = |hint: &str, graph: &mut Graph, op: Op, inputs: &[ValueId], ty| {
        graph.add_node(Op { name: format!("{name}_{hint}"), ..op }, inputs, &format!("{name}_{hint}"), ty)
    };
    let sums = graph.add_node(
        sums,
        &[xq, q, x_zero],
        &format!("{name}_sums"),
        Some(retyped(float.clone(), DType::I32)),
    );
    let cast = Op::new("Cast", "").with("to", i64::from(DType::F32.onnx()));
    let real = inner("cast", graph, cast, &[sums], float.clone());
    let scale = inner("scale", graph, Op::new("Mul", ""), &[x_scale, scale], None);
    let mut last = (Op::new("Mul", format!("{name}_rescale")), [real, scale]);
    if let Some(bias) = bias {
        let product = inner("rescale", graph, Op::new("Mul", ""), &last.1, float);
        last = (Op::new("Add", format!("{name}_bias")), [product, bias]);
    }
    graph.add_op(last.0, &last.1.map(Some), &[Some(y)]);
    Ok(())
}

/// The shape of a number for each channel with so many axes behind them.
fn along(channels: usize, space: usize) -> Vec<usize> {
    [vec![channels], vec![1; space]].concat()
}

/// A constant for each channel with axes of one element behind these.
fn raised(graph: &mut Graph, bias: ValueId, space: usize) -> ValueId {
    let Some(tensor) = graph.constant(bias) else { return bias };
    let tensor = tensor.reshaped(along(tensor.len(), space));
    let name = graph.name_of(bias).to_owned();
    let raised = graph.add_initializer(&name, tensor);
    graph.remove_value_if_unused(bias);
    raised
}

fn retyped(ty: Option<Type>, dtype: DType) -> Type {
    match ty {
        Some(Type::Tensor(mut tensor)) => {
            tensor.dtype = Some(dtype);
            Type::Tensor(tensor)
        }
        _ => Type::Tensor(TensorType { dtype: Some(dtype), ..TensorType::default() }),
    }
}

/// The integers of a value, their scale and their zero point.
fn round(graph: &mut Graph, x: ValueId) -> [ValueId; 3] {
    let name = graph.name_of(x).to_owned();
    let quantized = Some(retyped(graph.value(x).ty.clone(), DType::U8));
    let scalar = |dtype| Some(Type::tensor(dtype, []));
    let outputs = [
        graph.add_value(&format!("{name}_quantized"), quantized),
        graph.add_value(&format!("{name}_scale"), scalar(DType::F32)),
        graph.add_value(&format!("{name}_zero_point"), scalar(DType::U8)),
    ];
    let op = Op::new("DynamicQuantizeLinear", format!("{name}_quantize"));
    graph.add_op(op, &[Some(x)], &outputs.map(Some));
    outputs
}

/// LSTM with `[directions, 4 * hidden, in]` weights becomes one with `[directions, in, 4 * hidden]` integers.
fn recur(graph: &mut Graph, op: OpId, weights: [ValueId; 2], parameters: &mut Parameters) -> Result<()> {
    if graph.op(op).int("layout").unwrap_or(0) != 0 {
        return Err(Error::unsupported(graph.place(op), "the kernel takes the steps first"));
    }
    let mut inputs = graph.inputs_of(op).to_vec();
    inputs.resize(12, None);
    let mut hidden = 0;
    for (k, w) in weights.into_iter().enumerate() {
        let name = graph.name_of(w).to_owned();
        let (integers, scheme) = integers(graph, w)?;
        let &[directions, gates, inner] = integers.shape() else {
            return Err(Error::invalid(Where::Value(name), "a recurrent weight has three axes"));
        };
        hidden = inner;
        let integers = transposed(&integers)?;
        // Both directions have the scales of the rows they share.
        let shape = if scheme.grain == Grain::Tensor { vec![directions] } else { vec![directions, gates] };
        let scales = scheme.scales.repeat(directions);
        let zeros = Tensor::from_vec(&shape[..], vec![0i8; scales.len()]);
        inputs[k + 1] = Some(graph.add_initializer(&format!("{name}_quantized"), integers));
        let scale = Tensor::from_vec(&shape[..], scales);
        inputs[2 * k + 8] = Some(graph.add_initializer("scale", scale));
        inputs[2 * k + 9] = Some(parameters.zero_point(graph, zeros));
    }
    let biases = inputs[3];
    inputs[3] = biases.and_then(|b| summed_bias(graph, b)).or(biases);
    let node = graph.op_mut(op);
    node.domain = "com.microsoft".into();
    node.op_type = "DynamicQuantizeLSTM".into();
    node.unset("layout");
    node.set("hidden_size", hidden as i64);
    graph.set_inputs(op, &inputs);
    if let Some(biases) = biases {
        graph.remove_value_if_unused(biases);
    }
    Ok(())
}

/// The biases of inputs and of states `[directions, 2 * 4 * hidden]`, which are only ever added up: their sums are stored, and
/// zeros behind them come from a Pad, which a runtime does once, when it loads the model. `None` where that saves nothing.
fn summed_bias(graph: &mut Graph, bias: ValueId) -> Option<ValueId> {
    let tensor =
        graph.initializer(bias).filter(|_| graph.sole_use(bias).is_some() && !graph.is_input(bias))?;
    let &[directions, both] = tensor.shape() else { return None };
    let (half, numbers) = (both / 2, tensor.view::<f32>()?);
    if half < SUMMED_FROM {
        return None;
    }
    let sums = numbers.chunks_exact(both).flat_map(|b| b[..half].iter().zip(&b[half..]).map(|(w, r)| w + r));
    let sums = Tensor::from_vec([directions, half], sums.collect());
    let name = graph.name_of(bias).to_owned();
    let ty = graph.value(bias).ty.clone();
    let sums = graph.add_initializer("bias", sums);
    let ends = graph.add_initializer("pads", Tensor::ints([0, 0, 0, half as i64]));
    Some(graph.add_node(Op::new("Pad", ""), &[sums, ends], &name, ty))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Model, OpsetImport, text};

    /// The model of this text with every constant's form `Dynamic`.
    fn annotated(text: &str) -> Model {
        let mut model = text::parse(text).unwrap();
        let constants: Vec<_> = model.graph.initializers().map(|(v, t)| (v, t.clone())).collect();
        for (v, tensor) in constants {
            let scheme = QuantScheme::symmetric_int8(&tensor, Some(1)).unwrap();
            let form = QuantForm::Dynamic;
            model.graph.value_mut(v).quant = Some(QuantScheme { form, ..scheme });
        }
        model
    }
    const HEAD: &str = r#"<ir_version: 8, opset_import: ["" : 14]>"#;

    #[test]
    fn an_op_without_such_a_kernel_is_an_error() {
        for text in [
            "g (float[2, 4] x) => (float[2, 4] y) <float[2, 4] w> { y = Mul (x, w) }",
            "g (float[1, 3, 4, 4] x) => (y) <float[3, 2, 1, 1] w> { y = ConvTranspose (x, w) }",
            "g (float[2, 5, 3] x) => (y) <float[1, 8, 3] w, float[1, 8, 2] r> { y = LSTM <layout = 1> (x, w, r) }",
        ] {
            let error = rewrite(&mut annotated(&format!("{HEAD} {text}")).graph, &mut Parameters::default())
                .unwrap_err();
            assert!(matches!(error, Error::Unsupported { .. }), "{text}: {error}");
        }
    }
    #[test]
    fn a_shared_weight_is_stored_once() {
        let text = "g (float[2, 4] x, float[3, 4] z) => (float[2, 5] a, float[3, 5] b) <float[4, 5] w>
            { a = MatMul (x, w) b = MatMul (z, w) }";
        let mut model = annotated(&format!("{HEAD} {text}"));
        assert!(!rewrite(&mut model.graph, &mut Parameters::default()).unwrap());
        model.verify().unwrap();
        assert_eq!(model.graph.initializers().filter(|(_, t)| t.dtype() == DType::I8).count(), 1);
        assert!(model.graph.find("w").is_none(), "no float weight is left");
        assert_eq!(model.opsets, [OpsetImport { version: 14, ..OpsetImport::default() }]);
    }
    #[test]
    fn matrices_are_transposed_one_by_one() {
        let t = Tensor::from_vec([2, 2, 3], vec![1i8, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        let expected = Tensor::from_vec([2, 3, 2], vec![1i8, 4, 2, 5, 3, 6, 7, 10, 8, 11, 9, 12]);
        assert_eq!(transposed(&t).unwrap(), expected);
    }
}
