//! Integers between all operators, for accelerators that compute floats slowly or not at all.
//!
//! The rules are those by which ONNX Runtime quantizes for Qualcomm's (`get_qnn_qdq_config`): whatever an operator reads and
//! writes in float32 is rounded, constants too; what moves elements keeps their scheme; normalization has the integers of weights as
//! scales and int32 biases; Sigmoid and Tanh write fixed steps; no range is narrower than 0.0001. In float stay Cast, which is what changes
//! types, loops and recurrence, and what is computed from shapes alone.

use super::{
    Activations, Quant,
    activations::Schemes,
    chains::{self, Chains, Follows},
    masks,
    placement::{Kind, Placement},
    weights::Layers,
};
use crate::{
    error::Result,
    ir::{DType, Graph, Model, Op, OpId, QuantForm, QuantScheme, Tensor, Use, ValueId, Where},
    ops::{is_deterministic, quantized::dequantized},
    passes::{Context, RemarkKind, linear::effect::Original},
};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// With less signal above the noise than this, in dB, more bits are advised.
const LEAST_SQNR: f64 = 30.0;
/// The narrowest range, as the accelerator's arithmetic bears it.
const LEAST_RANGE: f32 = 1e-4;

/// Operators that stay float, or that hold no floats: those with bodies, and those that draw numbers, do so too.
const FLOAT: &[&str] = &[
    "Cast",
    "CastLike",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "GRU",
    "LSTM",
    "NonMaxSuppression",
    "QuantizeLinear",
    "RNN",
    "Shape",
    "Size",
];

/// An operator, which ops of it, and how the scheme of what they put out follows.
type Row = (&'static str, fn(&Graph, OpId) -> bool, Follows);

/// Operators whose schemes follow otherwise than those that a processor has integer kernels for ([`chains::follows`]). All others
/// have schemes of their own.
const OPERATORS: &[Row] = &[
    ("Clip", always, Follows::Shared(Kind::Join)),
    ("Identity", always, Follows::Moved),
    ("Pad", pads_with_what_is_there, Follows::Moved),
    ("Relu", always, Follows::Shared(Kind::Join)),
    ("Sigmoid", always, Follows::Fixed),
    ("SpaceToDepth", always, Follows::Moved),
    ("Tanh", always, Follows::Fixed),
    ("TopK", always, Follows::Picked),
];

/// Inputs of floats that are limits, sizes and statistics.
const PARAMETERS: &[(&str, &[usize])] = &[
    ("BatchNormalization", &[3, 4]),
    ("Clip", &[1, 2]),
    ("Dropout", &[1]),
    ("Resize", &[1, 2]),
    ("Upsample", &[1]),
];

fn always(_: &Graph, _: OpId) -> bool {
    true
}

/// Whether Pad repeats elements, or adds zeros, which every scheme has.
fn pads_with_what_is_there(graph: &Graph, op: OpId) -> bool {
    let zero = |v| graph.constant(v).and_then(Tensor::scalar_f32) == Some(0.0);
    graph.op(op).str("mode").is_some_and(|mode| mode != "constant")
        || graph.op(op).float("value").unwrap_or(0.0) == 0.0 && graph.input(op, 2).is_none_or(zero)
}

/// How the scheme of what an op puts out follows.
fn follows(graph: &Graph, op: OpId) -> Follows {
    let row = OPERATORS.iter().find(|(name, suits, _)| graph.op(op).is(name) && suits(graph, op));
    let known = row.map(|row| row.2).or_else(|| chains::follows(graph, op));
    known.unwrap_or(Follows::Own(Kind::Join))
}

/// The scheme of what an operator always writes alike, in integers of this type.
fn fixed(op: &Op, dtype: DType) -> Option<QuantScheme> {
    let (signed, levels) = (matches!(dtype, DType::I8 | DType::I16), (1u32 << dtype.bits()) as f32);
    let half = (levels / 2.0) as i32;
    let (step, zero) = match op.op_type.as_str() {
        // Of 16 bits with a sign those about 0 are all that is known.
        "Sigmoid" if dtype == DType::I16 => (2.0 / levels, 0),
        "Sigmoid" => (1.0 / levels, if signed { -half } else { 0 }),
        "Tanh" => (2.0 / levels, if signed { 0 } else { half }),
        _ => return None,
    };
    let scheme = QuantScheme::over(dtype, 0.0, 1.0)?;
    Some(QuantScheme { scales: vec![step], zero_points: vec![zero], ..scheme })
}

/// All that is float32 between operators, as far as its range is `known`, and these.
pub(super) fn chains(pass: &Quant, graph: &Graph, known: impl Fn(ValueId) -> bool) -> Chains {
    let (stored, data) = (dequantized(graph), data(graph));
    let is_float = |v: &ValueId| graph.dtype(*v) == Some(DType::F32) && !stored.contains(v);
    let computed = |v: &ValueId| is_float(v) && graph.constant(*v).is_none() && known(*v);
    let (mut values, mut members) = (BTreeSet::new(), BTreeMap::new());
    for op in graph.order() {
        let read = read(graph, op);
        let mut written = graph.outputs_of(op).into_iter().flatten();
        if computes_in_integers(pass, graph, op)
            && read.iter().any(|(_, v)| is_float(v))
            && written.clone().any(|y| data.contains(&y))
        {
            values.extend(read.into_iter().map(|(_, v)| v).chain(&mut written).filter(computed));
            members.insert(op, follows(graph, op));
        }
    }
    Chains::of(values, members)
}

fn computes_in_integers(pass: &Quant, graph: &Graph, op: OpId) -> bool {
    let node = graph.op(op);
    let options = pass.tables.over(&pass.options, &[node.name.as_str()]);
    node.is_standard()
        && !FLOAT.contains(&node.op_type.as_str())
        && node.bodies().next().is_none()
        && is_deterministic(node)
        && !pass.excludes(graph, op)
        && options.activations != Activations::None
}

/// What the inputs of a graph decide beyond their shapes, and constants that are moved about, be it by shapes.
fn data(graph: &Graph) -> HashSet<ValueId> {
    let given = |v: &ValueId| graph.constant(*v).is_none();
    let mut data: HashSet<ValueId> = graph.inputs.iter().copied().filter(given).collect();
    for op in graph.order() {
        let sizes = graph.op(op).is("Shape") || graph.op(op).is("Size");
        let has_bodies = graph.op(op).bodies().next().is_some();
        let table =
            graph.input(op, 0).and_then(|v| graph.constant(v)).is_some_and(|t| t.dtype() == DType::F32);
        let moved = table && follows(graph, op).moves();
        let read = graph.inputs_of(op).iter().flatten().any(|v| data.contains(v));
        if !sizes && (has_bodies || moved || read) {
            data.extend(graph.outputs_of(op).into_iter().flatten());
        }
    }
    data
}

/// What an op reads as data, by slot.
fn read(graph: &Graph, op: OpId) -> Vec<(usize, ValueId)> {
    let node = graph.op(op);
    let parameters = PARAMETERS.iter().find(|(name, _)| node.is(name)).map_or(&[][..], |(_, slots)| slots);
    let inputs = graph.inputs_of(op).into_iter().enumerate().filter(|(slot, _)| !parameters.contains(slot));
    inputs.filter_map(|(slot, v)| Some((slot, v?))).collect()
}

/// Settles what was measured: fixed steps, and no range too narrow.
pub(super) fn settle(graph: &Graph, measured: &mut Schemes) {
    for (v, scheme) in measured {
        let known = |op| fixed(graph.op(op), scheme.as_ref()?.dtype);
        let known = graph.producer(*v).and_then(|(op, _)| known(op));
        *scheme = known.or_else(|| scheme.take().map(widened));
    }
}

/// The scheme with a range that is not too narrow.
fn widened(scheme: QuantScheme) -> QuantScheme {
    let least = LEAST_RANGE / ((1u32 << scheme.dtype.bits()) - 1) as f32;
    QuantScheme { scales: scheme.scales.iter().map(|s| s.max(least)).collect(), ..scheme }
}

/// What a constant is to the op that reads it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// int8 or int16 about zero.
    Weight,
    /// int32, in steps that follow.
    Bias,
    /// As activations are.
    Operand,
}

fn role(node: &Op, slot: usize) -> Role {
    match (node.op_type.as_str(), slot) {
        ("MatMul", _) | ("Conv" | "ConvTranspose" | "Gemm", 1) => Role::Weight,
        ("Conv" | "ConvTranspose" | "Gemm", 2) => Role::Bias,
        (_, 1) if is_normalization(node) => Role::Weight,
        (_, 2) if is_normalization(node) => Role::Bias,
        _ => Role::Operand,
    }
}

/// Whether an op reads a scale and a bias for each channel.
pub(super) fn is_normalization(node: &Op) -> bool {
    let names = ["BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization"];
    names.iter().any(|name| node.is(name))
}

/// The schemes of constants whose elements operators move: those of what they put out follow.
pub(super) fn moved(graph: &Graph, chains: &Chains, dtype: DType) -> BTreeMap<ValueId, QuantScheme> {
    let moves = |op: &OpId| chains.has(*op) && follows(graph, *op).moves();
    let read = graph.ops().filter(moves).filter_map(|op| graph.input(op, 0));
    read.filter_map(|v| Some((v, operand(graph.constant(v)?, dtype)?))).collect()
}

/// Gives the constants that these operators read their schemes; biases, whose steps follow from theirs, are left to the
/// caller: those of the ops that come back.
pub(super) fn constants(
    pass: &Quant,
    graph: &mut Graph,
    chains: &Chains,
    said: &mut Vec<(Where, String)>,
) -> Vec<OpId> {
    let (dtype, mut biased) = (pass.options.activation_dtype(), Vec::new());
    for op in graph.order().into_iter().filter(|op| chains.has(*op)) {
        for (slot, v) in read(graph, op) {
            let Some(tensor) = graph.constant(v).filter(|t| t.dtype() == DType::F32) else { continue };
            let role = role(graph.op(op), slot);
            if role == Role::Bias {
                // The steps of each layer's are its own.
                if graph.uses(v).len() > 1 && !graph.is_input(v) {
                    let (name, copy) = (graph.name_of(v).to_owned(), tensor.clone());
                    let copy = graph.add_initializer(&name, copy);
                    graph.set_input(op, slot, Some(copy));
                }
                biased.push(op);
                continue;
            }
            if graph.value(v).quant.is_some() {
                continue;
            }
            let at = Where::Value(graph.name_of(v).to_owned());
            if graph.is_input(v) || graph.is_output(v) || !shared(graph, chains, v, role) {
                said.push((at, "it stays float: others need it in float as well".into()));
                continue;
            }
            let scheme = match role {
                Role::Weight => QuantScheme::symmetric(tensor, weight_dtype(pass, graph, v), None),
                _ => operand(tensor, dtype),
            };
            match scheme {
                Some(scheme) => graph.value_mut(v).quant = Some(scheme),
                None => said.push((at, "it stays float: it holds infinities or NaN".into())),
            }
        }
    }
    biased
}

/// The integers of a constant that is read as a weight.
fn weight_dtype(pass: &Quant, graph: &Graph, v: ValueId) -> DType {
    if pass.options_of(graph, v).bits == 16 { DType::I16 } else { DType::I8 }
}

/// Whether all that reads a constant reads it alike.
fn shared(graph: &Graph, chains: &Chains, v: ValueId, as_role: Role) -> bool {
    graph.uses(v).into_iter().all(|at| match at {
        Use::Input(op, slot) => {
            let data = read(graph, op).iter().any(|(k, _)| *k == slot);
            chains.has(op) && data && role(graph.op(op), slot) == as_role
        }
        Use::Capture(_) => false,
    })
}

/// The scheme of a constant that is read as activations are.
fn operand(tensor: &Tensor, dtype: DType) -> Option<QuantScheme> {
    let values = tensor.to_f32()?;
    let (low, high) = values.iter().fold((0f32, 0f32), |(low, high), x| (low.min(*x), high.max(*x)));
    let low = if masks::masking(tensor).is_some() { -masks::REACH } else { low };
    let real = values.iter().all(|x| !x.is_nan());
    let scheme = QuantScheme::over(dtype, low, high).filter(|_| real)?;
    Some(QuantScheme { form: QuantForm::Qdq, ..widened(scheme) })
}

/// Says where 8 bits are too few, and where the options leave weights of 16 without integers to multiply.
pub(super) fn advise(
    pass: &Quant,
    model: &Model,
    float: &Original,
    layers: &Layers,
    placement: &Placement,
    schemes: &Schemes,
    cx: &mut Context<'_>,
) -> Result<()> {
    let options = &pass.options;
    if options.bits == 16 && !options.multiplies_wide_weights() && cx.has_samples() {
        let why = "weights of 16 bits are multiplied by activations of 16 bits alone, so these stay float: \
                   `activation_type=uint16` makes integers of them";
        cx.remark(RemarkKind::Note, (), why);
    }
    let (what, more) = match (options.has_wide_activations(), options.bits) {
        (false, _) => ("integers of 8 bits throughout leave", "activation_type=uint16"),
        (true, 8) => ("weights of 8 bits leave", "bits=16"),
        _ => return Ok(()),
    };
    if !placement.is_static() {
        return Ok(());
    }
    let placed = |(): &()| {
        let mut model = model.clone();
        pass.place(&mut model, layers, placement, schemes);
        Ok(cx.written(&model)?.0)
    };
    let noise: f64 = float.errors(&[()], placed, cx)?.iter().sum();
    let sqnr = -10.0 * noise.log10();
    if sqnr < LEAST_SQNR {
        let why = format!("{what} the outputs {sqnr:.0} dB above the noise: `{more}` leaves more");
        cx.remark(RemarkKind::Note, (), why);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ir::text, ops::infer_types};

    #[test]
    fn steps_are_fixed_where_outputs_have_ends() {
        for (name, dtype, expected) in [
            ("Sigmoid", DType::U8, (1.0 / 256.0, 0)),
            ("Sigmoid", DType::I8, (1.0 / 256.0, -128)),
            ("Sigmoid", DType::U16, (1.0 / 65_536.0, 0)),
            ("Sigmoid", DType::I16, (1.0 / 32_768.0, 0)),
            ("Tanh", DType::U8, (1.0 / 128.0, 128)),
            ("Tanh", DType::I8, (1.0 / 128.0, 0)),
            ("Tanh", DType::U16, (1.0 / 32_768.0, 32_768)),
            ("Tanh", DType::I16, (1.0 / 32_768.0, 0)),
        ] {
            let scheme = fixed(&Op::new(name, ""), dtype).unwrap();
            scheme.check(None).unwrap();
            assert_eq!((scheme.scales[0], scheme.zero_points[0]), expected, "{name} {dtype}");
        }
        assert_eq!(fixed(&Op::new("Relu", ""), DType::U8), None);
    }
    #[test]
    fn what_shapes_alone_decide_stays_float() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N, 4, H, W] x) => (float[N, 4, A, B] y, float[C, 4] t)
            <float half = {0.5}, float[16, 4] table, int64[1] zero = {0}, int64[1] two = {2}, float[2] ones = {1, 1}>
            {
              sizes = Shape (x)
              wide = Cast <to = 1> (sizes)
              halves = Mul (wide, half)
              tail = Slice (halves, two, two)
              scales = Concat <axis = 0> (ones, ones)
              y = Resize <mode = "linear"> (x, , scales)
              end = Cast <to = 7> (tail)
              t = Slice (table, zero, two)
            }"#;
        let mut model = text::parse(text).unwrap();
        infer_types(&mut model).unwrap();
        let g = &model.graph;
        let data = data(g);
        let mut names: Vec<_> = data.iter().map(|v| g.name_of(*v)).collect();
        names.sort_unstable();
        assert_eq!(names, ["t", "x", "y"]);
    }
    #[test]
    fn ranges_are_no_narrower_than_the_accelerator_bears() {
        let narrow = QuantScheme::over(DType::U8, 0.0, 1e-9).unwrap();
        assert!((widened(narrow).scales[0] * 255.0 - LEAST_RANGE).abs() < 1e-9);
    }
}
