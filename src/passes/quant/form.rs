//! Which operators compute a weight back: those that ONNX Runtime is fastest with.
//!
//! - Beside a quantized input, DequantizeLinear becomes part of an integer kernel.
//! - In front of a large product it becomes part of one too (MatMulNBits, which rounds the other operand to int8 on
//!   the fly): 0.5 to 1.0 of the time of float32 from 256 rows (with four bits, 384) and 256 columns and 2¹⁷ elements on,
//!   up to 1.9 of it below. It takes MatMul, and Gemm without transposition or factors, with blocks of a power of two.
//!   In a body too, where one alone reads the weight.
//! - Anywhere else it is a step of its own that runs each time, and a table is computed back as a whole for each Gather:
//!   1.1 to 2.4 of the time of float32. Cast and Mul are done once, when the model is loaded; then it is float32.
//! - GatherBlockQuantized, which reads rows of a table as they are stored, takes 1.2 (one row) to 37 (1024) of the time of
//!   Gather from floats, so it is for those who ask for it, to save memory.

use super::{Form, Quant, readers, weights::Layers};
use crate::{
    ir::{DType, Grain, Graph, Model, OpId, QuantForm, QuantScheme, Use, ValueId},
    passes::{Context, RemarkKind, lift},
};

/// Rows from which on a product with a weight of few bits is no slower than one in float32: with eight, and with fewer.
const LEAST_ROWS: [usize; 2] = [256, 384];
/// Columns from which on it is.
const LEAST_COLUMNS: usize = 256;
/// Elements from which on it is.
const LEAST_ELEMENTS: usize = 1 << 17;

/// Sets the form of the weights that have none yet; the activations have their schemes, and the layers `integers` compute
/// in these.
pub(super) fn choose(pass: &Quant, model: &mut Model, layers: &Layers, integers: &[OpId]) {
    let (opset, graph) = (model.opset(), &mut model.graph);
    let chosen = |v: &&ValueId| {
        graph.value(**v).quant.as_ref().is_some_and(|scheme| scheme.form != QuantForm::Dynamic)
    };
    let open: Vec<ValueId> = layers.weights.iter().filter(chosen).copied().collect();
    for v in &open {
        let options = pass.options_of(graph, *v);
        // A layer that is to compute in float may read what others have as integers; with its weight in the same form the
        // runtime would compute it in integers all the same.
        let fused = |at: &Use| match computes_in_integers(graph, *at) {
            true => integers.contains(&at.op()),
            false => multiplies_few_bits(graph, at.op(), graph, *v),
        };
        let chosen = match options.form() {
            Form::Auto
                if dequantizes(graph, *v, opset)
                    && (graph.uses(*v).iter().any(fused) || fused_in_body(graph, graph, *v)) =>
            {
                QuantForm::Qdq
            }
            Form::QOperator if graph.uses(*v).iter().any(fused) => QuantForm::Operator,
            Form::Qdq | Form::QOperator => QuantForm::Qdq,
            Form::MatMulNBits if graph.uses(*v).iter().all(|at| reads_packed(graph, at, *v)) => {
                QuantForm::Packed
            }
            Form::Auto | Form::Folded | Form::MatMulNBits => QuantForm::Folded,
        };
        if let Some(scheme) = &mut graph.value_mut(*v).quant {
            scheme.form = chosen;
        }
    }
}

/// Says of which layers tables take the operators on integers that the form asks for.
pub(super) fn tell(pass: &Quant, graph: &Graph, layers: &Layers, cx: &mut Context<'_>) {
    let lacks = |v: &&ValueId| pass.tables.lack_operators(&pass.options, &readers(graph, **v));
    for v in layers.weights.iter().filter(lacks).filter(|v| graph.value(**v).quant.is_some()) {
        let text = format!(
            "no operator of `form=qoperator` takes it as `layers` has it: DequantizeLinear makes floats of `{}`",
            graph.name_of(*v)
        );
        if let Some((graph, op, _)) = lift::readers(graph, *v).first() {
            cx.remark(RemarkKind::Note, graph.place(*op), text);
        }
    }
}

/// Whether DequantizeLinear makes reals of this type in an operator set.
pub(super) fn dequantizes_to(dtype: DType, opset: i64) -> bool {
    match dtype {
        DType::F32 => true,
        DType::F16 | DType::BF16 => opset >= 19,
        _ => false,
    }
}

fn dequantizes(graph: &Graph, v: ValueId, opset: i64) -> bool {
    graph.dtype(v).is_some_and(|dtype| dequantizes_to(dtype, opset))
}

/// Whether the op that reads a weight reads a quantized activation beside it; what a body reads never is.
pub(super) fn computes_in_integers(graph: &Graph, at: Use) -> bool {
    let Use::Input(op, _) = at else { return false };
    graph.input(op, 0).is_some_and(|x| graph.constant(x).is_none() && graph.value(x).quant.is_some())
}

/// Whether the runtime has an operator that reads a matrix as it is stored.
fn reads_packed(graph: &Graph, at: &Use, weight: ValueId) -> bool {
    let Use::Input(op, slot) = *at else { return false };
    let (node, rank) = (graph.op(op), graph.rank(weight));
    let product = node.is("MatMul") && slot == 1 && graph.input(op, 0) != Some(weight);
    let four = |scheme: &QuantScheme| scheme.dtype.bits() == 4 && has_whole_blocks(scheme.grain);
    graph.dtype(weight) != Some(DType::F64)
        && graph.value(weight).quant.as_ref().is_some_and(four)
        && rank == Some(2)
        && (product || node.is("Gather") && slot == 0)
}

/// Whether blocks, if any, are of a size that kernels take.
fn has_whole_blocks(grain: Grain) -> bool {
    match grain {
        Grain::Blocks { size, .. } => size.is_power_of_two() && size >= 16,
        Grain::Tensor | Grain::Axis(_) => true,
    }
}

/// Whether one body alone reads a weight of the main graph, and multiplies by it as the runtime does best.
fn fused_in_body(main: &Graph, graph: &Graph, weight: ValueId) -> bool {
    let name = main.name_of(weight);
    let Some((op, which)) = graph.find(name).and_then(|v| graph.sole_body(v)) else { return false };
    let Some(body) = graph.op(op).bodies().nth(which) else { return false };
    let fused = |at: &Use| matches!(at, Use::Input(op, 1) if multiplies_few_bits(body, *op, main, weight));
    body.find(name).is_some_and(|v| !body.uses(v).is_empty() && body.uses(v).iter().all(fused))
        || fused_in_body(main, body, weight)
}

/// Whether the runtime has a kernel for the product of floats and this weight of the main graph that is no slower than
/// float32.
fn multiplies_few_bits(graph: &Graph, op: OpId, main: &Graph, weight: ValueId) -> bool {
    let Some(&[rows, columns]) = main.constant(weight).map(|t| t.shape()) else { return false };
    let node = graph.op(op);
    let plain = |name: &str| node.int(name).unwrap_or(0) == 0;
    let unscaled = |name: &str| node.float(name).unwrap_or(1.0) == 1.0;
    let gemm = node.is("Gemm") && plain("transA") && plain("transB") && unscaled("alpha") && unscaled("beta");
    let Some(scheme) = &main.value(weight).quant else { return false };
    if !scheme.dtype.is_integer() || scheme.dtype.bits() > 8 {
        return false;
    }
    let few = usize::from(scheme.dtype.bits() < 8);
    let large = rows >= LEAST_ROWS[few] && columns >= LEAST_COLUMNS && rows * columns >= LEAST_ELEMENTS;
    has_whole_blocks(scheme.grain) && large && (node.is("MatMul") || gemm)
}
