//! Operators that read and write integers themselves, in place of floats between DequantizeLinear and QuantizeLinear.
//!
//! QLinearConv and QLinearMatMul are ONNX's; the others ONNX Runtime's own, those that it makes of the same nodes when it
//! loads a model. What only moves or picks elements does so with integers. All compute what the floats in between would,
//! but for the rounding of sums.
//!
//! It starts once the nodes in between are written, from what they say, so that whatever makes these is served alike.

use super::clipped::saturates;
use crate::ir::{DType, Grain, Graph, Op, OpId, Origin, QuantForm, QuantScheme, Use, ValueId};
use std::collections::HashSet;

/// How far the steps of a bias may be from those of its layer's sums, as a share.
const SLACK: f32 = 1e-5;

/// What computes on each element or window, and ONNX Runtime's operator for it. Integers, scales and zero points come in
/// this order for each input, those of the output behind them.
const COMPUTING: [(&str, &str); 6] = [
    ("Add", "QLinearAdd"),
    ("AveragePool", "QLinearAveragePool"),
    ("GlobalAveragePool", "QLinearGlobalAveragePool"),
    ("LeakyRelu", "QLinearLeakyRelu"),
    ("Mul", "QLinearMul"),
    ("Sigmoid", "QLinearSigmoid"),
];

/// What moves or picks elements of its first input, whatever they are.
const MOVING: [&str; 14] = [
    "DepthToSpace",
    "Expand",
    "Flatten",
    "Gather",
    "GatherElements",
    "MaxPool",
    "Reshape",
    "Resize",
    "Slice",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
];

/// The constants of the form [`QuantForm::Operator`]; DequantizeLinear will compute them.
pub(super) fn weights(graph: &Graph) -> HashSet<ValueId> {
    let asked = |v: &ValueId| {
        let value = graph.value(*v);
        let form = value.quant.as_ref().map(|scheme| scheme.form);
        form == Some(QuantForm::Operator) && matches!(value.origin, Origin::Initializer(_))
    };
    graph.values().filter(asked).collect()
}

/// Rewrites the layers that read these weights, and what computes on integers besides; says whether an op is `com.microsoft`'s now.
pub(super) fn rewrite(graph: &mut Graph, weights: &HashSet<ValueId>) -> bool {
    if weights.is_empty() {
        return false;
    }
    let mut own = false;
    for op in graph.order() {
        // A Clip that the rounding stands for is gone by then.
        if !graph.has_op(op) || !graph.op(op).is_standard() {
            continue;
        }
        if let Some(written) = written(graph, op, weights) {
            own |= !written.op.is_standard();
            written.put(graph, op);
        } else if let Some(rounded) = moved(graph, op) {
            let integers = operand(graph, op, 0).map(|x| x.integers);
            graph.set_input(op, 0, integers);
            give(graph, op, &rounded);
        }
    }
    let unread = |op: &OpId| {
        let made = graph.output(*op, 0);
        graph.op(*op).is("DequantizeLinear")
            && made.is_some_and(|v| graph.uses(v).is_empty() && !graph.is_output(v))
    };
    for op in graph.ops().filter(unread).collect::<Vec<_>>() {
        retire(graph, op);
    }
    own
}

/// Integers and what they stand for.
#[derive(Clone, Copy)]
struct Operand {
    integers: ValueId,
    scale: ValueId,
    zero: ValueId,
}

impl Operand {
    fn all(self) -> [Option<ValueId>; 3] {
        [self.integers, self.scale, self.zero].map(Some)
    }
    fn parameters(self) -> [Option<ValueId>; 2] {
        [self.scale, self.zero].map(Some)
    }
    /// Whether both stand for the same numbers.
    fn is_like(self, other: Operand, graph: &Graph) -> bool {
        let same = |a: ValueId, b: ValueId| a == b || graph.constant(a) == graph.constant(b);
        same(self.scale, other.scale) && same(self.zero, other.zero)
    }
    fn scales(self, graph: &Graph) -> Option<Vec<f32>> {
        Some(graph.constant(self.scale)?.to_f32()?.into_owned())
    }
}

/// An output that QuantizeLinear alone reads, perhaps behind a Relu or Clip that the rounding stands for.
struct Rounded {
    result: Operand,
    between: Vec<OpId>,
}

/// An op on integers, in place of another.
struct Written {
    op: Op,
    inputs: Vec<Option<ValueId>>,
    /// `None` where it writes floats.
    output: Option<Rounded>,
}

impl Written {
    fn put(self, graph: &mut Graph, op: OpId) {
        *graph.op_mut(op) = self.op;
        graph.set_inputs(op, &self.inputs);
        if let Some(rounded) = self.output {
            give(graph, op, &[rounded]);
        }
    }
}

/// The operator on integers that stands for an op all of whose inputs are such, and whose output is where it has to be.
fn written(graph: &Graph, op: OpId, weights: &HashSet<ValueId>) -> Option<Written> {
    let node = graph.op(op);
    let output = rounded(graph, op, 0);
    let result = output.as_ref().map(|rounded| rounded.result);
    let name = |kind: &str| Op { op_type: kind.into(), ..node.clone() };
    let own = |kind: &str| Op { domain: "com.microsoft".into(), ..name(kind) };
    let layer = || layer(graph, op, weights, result);
    let kind = node.op_type.as_str();
    let (op, inputs) = match kind {
        "Conv" => {
            let ([x, w], bias) = layer()?;
            (name("QLinearConv"), [&x.all()[..], &w.all(), &result?.parameters(), &[bias]].concat())
        }
        "MatMul" => {
            let ([x, w], _) = layer()?;
            match result {
                Some(y) => (name("QLinearMatMul"), [&x.all()[..], &w.all(), &y.parameters()].concat()),
                None => {
                    let inputs = [x.integers, w.integers, x.scale, w.scale, x.zero, w.zero];
                    (own("MatMulIntegerToFloat"), inputs.map(Some).to_vec())
                }
            }
        }
        "Gemm" => {
            let ([x, w], bias) = layer()?;
            let mut product = own("QGemm");
            product.unset("beta");
            let y = result.map_or([None; 2], Operand::parameters);
            (product, [&x.all()[..], &w.all(), &[bias], &y].concat())
        }
        "Concat" => {
            let inputs = alike(graph, op, result?)?;
            let inputs = inputs.into_iter().flat_map(Operand::all);
            (own("QLinearConcat"), result?.parameters().into_iter().chain(inputs).collect())
        }
        _ => {
            let (_, ours) = COMPUTING.iter().find(|(standard, _)| *standard == kind)?;
            let inputs = alike(graph, op, result?)?.into_iter().flat_map(Operand::all);
            let mut ours = own(ours);
            // ONNX Runtime's has none.
            let spread = ours.unset("dilations");
            if spread.is_some() && node.ints("dilations").is_some_and(|all| all.iter().any(|n| *n != 1)) {
                return None;
            }
            (ours, inputs.chain(result?.parameters()).collect())
        }
    };
    let mut inputs = inputs;
    while inputs.last() == Some(&None) {
        inputs.pop();
    }
    Some(Written { op, inputs, output })
}

/// Input and weight of a layer, and its bias in the steps of its sums. `None` where any of these is none that the
/// operators on integers take.
fn layer(
    graph: &Graph,
    op: OpId,
    weights: &HashSet<ValueId>,
    result: Option<Operand>,
) -> Option<([Operand; 2], Option<ValueId>)> {
    let node = graph.op(op);
    let weight = graph.input(op, 1).filter(|w| weights.contains(w))?;
    let [x, w] = [operand(graph, op, 0)?, operand(graph, op, 1)?];
    let (by, scales) = (x.scales(graph)?, w.scales(graph)?);
    let &[step] = &by[..] else { return None };
    let kinds = [Some(x), Some(w), result].map(|known| Some(graph.constant(known?.zero)?.dtype()));
    if !matches!(kinds[0], Some(DType::U8 | DType::I8))
        || kinds[1] != Some(DType::I8)
        || result.is_some() && kinds[2] != kinds[0]
    {
        return None;
    }
    if scales.len() > 1 {
        let rank = graph.constant(w.integers)?.rank() as i64;
        let axis = match node.op_type.as_str() {
            "Conv" => 0,
            "Gemm" => 1 - node.int("transB").unwrap_or(0),
            // The operator knows columns of a single matrix alone.
            _ if rank != 2 => return None,
            _ => 1,
        };
        let along = graph.op(graph.producer(weight)?.0).int("axis").unwrap_or(1);
        if axis != if along < 0 { along + rank } else { along } {
            return None;
        }
    }
    let Some(_) = graph.input(op, 2) else { return Some(([x, w], None)) };
    let bias = operand(graph, op, 2)?;
    let unscaled = |name| node.float(name).unwrap_or(1.0) == 1.0;
    let steps = bias.scales(graph)?;
    let near = |(k, found): (usize, &f32)| {
        let expected = step * scales[k % scales.len()];
        (found - expected).abs() <= SLACK * expected
    };
    let zeros = graph.constant(bias.zero)?.bytes().iter().all(|b| *b == 0);
    let same = unscaled("alpha") && unscaled("beta") && zeros;
    (same && steps.len() == scales.len() && steps.iter().enumerate().all(near))
        .then_some(([x, w], Some(bias.integers)))
}

/// All inputs of an op, which are integers of the output's type, a single scale to each.
fn alike(graph: &Graph, op: OpId, result: Operand) -> Option<Vec<Operand>> {
    let (count, kind) = (graph.inputs_of(op).len(), graph.constant(result.zero)?.dtype());
    let suits = |x: &Operand| {
        graph.constant(x.scale).is_some_and(|t| t.len() == 1)
            && graph.constant(x.zero).is_some_and(|t| t.dtype() == kind)
    };
    (0..count).map(|slot| operand(graph, op, slot).filter(suits)).collect()
}

/// What an op reads as integers.
fn operand(graph: &Graph, op: OpId, slot: usize) -> Option<Operand> {
    let (from, _) = graph.producer(graph.input(op, slot)?)?;
    let node = graph.op(from);
    if !node.is("DequantizeLinear") || node.int("block_size").unwrap_or(0) != 0 {
        return None;
    }
    let [integers, scale, zero] = [0, 1, 2].map(|slot| graph.input(from, slot));
    Some(Operand { integers: integers?, scale: scale?, zero: zero? })
}

/// What rounds an output and is all that reads it.
fn rounded(graph: &Graph, op: OpId, slot: usize) -> Option<Rounded> {
    let mut between = Vec::new();
    let mut y = graph.output(op, slot)?;
    loop {
        let Use::Input(reader, 0) = graph.sole_use(y).filter(|_| !graph.is_output(y))? else { return None };
        between.push(reader);
        let node = graph.op(reader);
        if node.is("QuantizeLinear") {
            let [scale, zero] = [1, 2].map(|slot| graph.input(reader, slot));
            let result = Operand { integers: graph.output(reader, 0)?, scale: scale?, zero: zero? };
            let scheme = scheme(graph, result)?;
            let stands = |at: &OpId| graph.op(*at).is("QuantizeLinear") || saturates(graph, *at, &scheme);
            return between.iter().all(stands).then_some(Rounded { result, between });
        }
        if !(node.is("Relu") || node.is("Clip")) {
            return None;
        }
        y = graph.output(reader, 0)?;
    }
}

/// How a value is rounded as a whole.
fn scheme(graph: &Graph, by: Operand) -> Option<QuantScheme> {
    let zero = graph.constant(by.zero)?;
    let zero_points = zero.to_i64()?.into_iter().map(|z| i32::try_from(z).ok()).collect::<Option<_>>()?;
    let (dtype, grain, form) = (zero.dtype(), Grain::Tensor, QuantForm::Qdq);
    let scheme = QuantScheme { dtype, grain, scales: by.scales(graph)?, zero_points, form };
    scheme.check(None).is_ok().then_some(scheme)
}

/// What rounds each output of an op that moves integers, where these mean the same before and behind it.
fn moved(graph: &Graph, op: OpId) -> Option<Vec<Rounded>> {
    let node = graph.op(op);
    let nearest = !node.is("Resize") || node.str("mode").is_none_or(|mode| mode == "nearest");
    if !MOVING.contains(&node.op_type.as_str()) || !nearest {
        return None;
    }
    let x = operand(graph, op, 0)?;
    let outputs = graph.outputs_of(op);
    let all = (0..outputs.len()).map(|slot| rounded(graph, op, slot));
    let same = |rounded: &Rounded| rounded.result.is_like(x, graph);
    all.map(|rounded| rounded.filter(same)).collect()
}

/// Has an op write the integers that its outputs were rounded to.
fn give(graph: &mut Graph, op: OpId, rounded: &[Rounded]) {
    let floats = graph.outputs_of(op);
    for between in rounded.iter().flat_map(|rounded| rounded.between.iter().rev()) {
        retire(graph, *between);
    }
    let integers: Vec<_> = rounded.iter().map(|rounded| Some(rounded.result.integers)).collect();
    graph.set_outputs(op, &integers);
    for v in floats.into_iter().flatten() {
        graph.remove_value_if_unused(v);
    }
}

/// Removes an op and what nothing else reads or computes then.
fn retire(graph: &mut Graph, op: OpId) {
    let around = [graph.inputs_of(op), graph.outputs_of(op)];
    graph.remove_op(op);
    for v in around.iter().flatten().flatten() {
        graph.remove_value_if_unused(*v);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text;

    /// The ops that a convolution between integers becomes, with this behind it and a bias in these steps.
    fn rewritten(behind: &str, bias_step: f32) -> Vec<String> {
        let text = format!(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y)
            <float s = {{0.5}}, uint8 z = {{0}}, int8[2, 2, 1, 1] w = {{1, 2, 3, 4}}, float t = {{0.25}}, int8 o = {{0}},
             int32[2] b = {{5, 6}}, float u = {{{bias_step}}}, int32 n = {{0}}, float low = {{0.0}}, float high = {{100.0}}, float far = {{127.5}}>
            {{
              q = QuantizeLinear (x, s, z)
              d = DequantizeLinear (q, s, z)
              v = DequantizeLinear (w, t, o)
              c = DequantizeLinear (b, u, n)
              [conv] a = Conv (d, v, c)
              {behind}
              e = QuantizeLinear (r, s, z)
              y = DequantizeLinear (e, s, z)
            }}"#
        );
        let mut model = text::parse(&text).unwrap();
        let weights = HashSet::from([model.graph.find("v").unwrap()]);
        rewrite(&mut model.graph, &weights);
        model.verify().unwrap();
        let g = &model.graph;
        g.order().into_iter().map(|op| g.op(op).op_type.clone()).collect()
    }

    #[test]
    fn integers_that_end_there_stand_for_a_relu_or_clip() {
        let whole = ["QuantizeLinear", "QLinearConv", "DequantizeLinear"];
        for behind in [
            "r = Relu (a)",
            "r = Clip (a, low, far)",
            "r = Clip (a, low)",
            "p = Relu (a) r = Clip (p, , far)",
        ] {
            assert_eq!(rewritten(behind, 0.125), whole, "{behind}");
        }
        for behind in ["r = Clip (a, low, high)", "r = Clip (a, high)", "r = Abs (a)"] {
            assert!(rewritten(behind, 0.125).contains(&"Conv".to_owned()), "{behind}");
        }
    }
    #[test]
    fn a_bias_in_other_steps_keeps_the_layer_in_float() {
        assert!(rewritten("r = Relu (a)", 0.25).contains(&"Conv".to_owned()));
    }
}
