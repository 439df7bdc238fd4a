//! Constants that a model stores in few bits and computes back: by DequantizeLinear, or by Cast and arithmetic that a
//! runtime does once, when it loads the model.

use super::is_deterministic;
use crate::ir::{DType, Float8, Grain, Graph, Op, OpId, QuantForm, QuantScheme, Tensor, Use, ValueId};
use std::collections::HashSet;

/// What a constant is to the QuantizeLinear or DequantizeLinear that reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The integers that this DequantizeLinear makes reals of.
    Integers(OpId),
    /// Scales or zero points.
    Scales,
}

/// What a constant is to the first QuantizeLinear or DequantizeLinear that reads it; `None` where none does.
pub fn part(g: &Graph, v: ValueId) -> Option<Part> {
    g.uses(v).iter().find_map(|at| {
        let Use::Input(op, slot) = *at else { return None };
        match (&*g.op(op).op_type, slot) {
            ("DequantizeLinear", 0) => Some(Part::Integers(op)),
            ("DequantizeLinear" | "QuantizeLinear", 1 | 2) => Some(Part::Scales),
            _ => None,
        }
    })
}

/// The scheme by which a DequantizeLinear makes reals of a constant; `None` where a scale is computed, or there is none for
/// this type.
pub fn scheme(g: &Graph, op: OpId) -> Option<QuantScheme> {
    let constant = |slot| g.constant(g.input(op, slot)?);
    let (integers, scales, node) = (constant(0)?, constant(1)?, g.op(op));
    let axis = || {
        let axis = node.int("axis").unwrap_or(1);
        let axis = if axis < 0 { axis + integers.rank() as i64 } else { axis };
        usize::try_from(axis).ok().filter(|n| *n < integers.rank())
    };
    let grain = match node.int("block_size").and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0) {
        Some(size) => Grain::Blocks { first: axis()?, end: axis()? + 1, size },
        None if scales.len() == 1 => Grain::Tensor,
        None => Grain::Axis(axis()?),
    };
    let zero_points = match g.input(op, 2) {
        Some(_) => {
            let tensor = constant(2)?;
            let narrow = || tensor.unpacked().map(|zs| zs.into_iter().map(i64::from).collect());
            // Of floats only 0 is one.
            let float8 = || {
                let codes = tensor.bytes().iter().filter(|_| Float8::of(tensor.dtype()).is_some());
                codes.map(|code| (code & 0x7f == 0).then_some(0)).collect()
            };
            let wide = tensor.to_i64().or_else(narrow).or_else(float8)?;
            wide.into_iter().map(|z| i32::try_from(z).ok()).collect::<Option<_>>()?
        }
        None => vec![0; scales.len()],
    };
    let (dtype, scales) = (integers.dtype(), scales.to_f32()?.into_owned());
    let scheme = QuantScheme { dtype, grain, scales, zero_points, form: QuantForm::Qdq };
    scheme.check(Some(integers.shape())).ok().map(|()| scheme)
}

/// The reals that a constant stands for: its own, or those of the integers that it holds. `None` for scales and zero
/// points, for what is not known, and for constants of other types.
pub fn reals(g: &Graph, v: ValueId) -> Option<Tensor> {
    let tensor = g.constant(v)?;
    match part(g, v) {
        Some(Part::Integers(op)) => scheme(g, op)?.dequantize(tensor).ok(),
        Some(Part::Scales) => None,
        None => tensor.dtype().is_float().then(|| tensor.clone()),
    }
}

/// Whether the integers of a constant stand for reals that are known, and can be taken apart.
pub fn is_readable(g: &Graph, v: ValueId) -> bool {
    let whole = |t: &Tensor| t.dtype().bits() >= 8;
    match part(g, v) {
        Some(Part::Integers(op)) => g.constant(v).is_some_and(whole) && scheme(g, op).is_some(),
        Some(Part::Scales) => g.constant(v).is_some_and(whole),
        None => false,
    }
}

/// The values that such constants are computed back to, and what depends on them and other constants alone; scales that
/// are cast on the way, too.
///
/// Folding any of these would store the weights, or their scales, in full again. Dimensions (Shape, Size) tell nothing of
/// the contents and do not count.
pub fn dequantized(g: &Graph) -> HashSet<ValueId> {
    let (mut found, mut fixed) = (HashSet::new(), HashSet::new());
    let order = g.order();
    for op in &order {
        let (node, inputs) = (g.op(*op), g.inputs_of(*op));
        let mut inputs = inputs.iter().flatten();
        let constant = |v: &ValueId| g.constant(*v).is_some() || fixed.contains(v);
        let any = inputs.clone().any(|v| found.contains(v)) && !node.is("Shape") && !node.is("Size");
        let made = g.outputs_of(*op).into_iter().flatten();
        if widens(g, *op) || any && inputs.clone().all(|v| found.contains(v) || constant(v)) {
            found.extend(made);
        } else if inputs.clone().next().is_some() && inputs.all(constant) && is_plain(node) {
            fixed.extend(made);
        }
    }
    let reads = |at: &Use, found: &HashSet<ValueId>| matches!(at, Use::Input(op, _) if g.output(*op, 0).is_some_and(|y| found.contains(&y)));
    for op in order.into_iter().rev().filter(|op| g.op(*op).is("Cast")) {
        let Some(v) = g.output(op, 0).filter(|v| fixed.contains(v) && !g.is_output(*v)) else { continue };
        let uses = g.uses(v);
        if !uses.is_empty() && uses.iter().all(|at| reads(at, &found)) {
            found.insert(v);
        }
    }
    found
}

/// The ops that read matrices of integers themselves, as operators that only some runtimes have do, and the first that each
/// reads.
pub fn read_whole(g: &Graph) -> Vec<(OpId, ValueId)> {
    let stored = dequantized(g);
    let matrix = |v: &ValueId| {
        g.constant(*v).is_some_and(|t| t.rank() > 1 && t.dtype().is_integer() && t.dtype().bits() <= 8)
    };
    let reads = |op: OpId| {
        let computed_back = g.outputs_of(op).iter().flatten().any(|v| stored.contains(v));
        let read = g.inputs_of(op).into_iter().flatten().find(matrix);
        Some((op, read.filter(|_| !computed_back)?))
    };
    g.order().into_iter().filter_map(reads).collect()
}

/// Whether what an op makes depends on its inputs alone.
fn is_plain(op: &Op) -> bool {
    is_deterministic(op) && op.bodies().next().is_none()
}

/// Whether an op turns a constant of few bits into wider reals.
fn widens(g: &Graph, op: OpId) -> bool {
    let node = g.op(op);
    let Some(stored) = g.input(op, 0).and_then(|v| g.constant(v)) else { return false };
    if node.op_type == "DequantizeLinear" {
        return true;
    }
    let to = node.int("to").and_then(|to| DType::from_onnx(i32::try_from(to).ok()?));
    let narrow = is_narrow(stored.dtype()) && stored.len() > 1;
    node.is("Cast") && narrow && to.is_some_and(|to| to.is_float() && to.bits() > stored.dtype().bits())
}

/// Whether quantized weights are stored as numbers of this type: integers of at most 16 bits, floats of at most eight.
pub fn is_narrow(dtype: DType) -> bool {
    dtype.is_integer() && dtype.bits() <= 16 || dtype.is_float() && dtype.bits() <= 8
}

/// What ONNX Runtime has move integers instead of floats.
const MOVES: [&str; 6] = ["MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"];

/// Where a layer that is to compute in float has its input from integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FromIntegers {
    /// The value that is rounded.
    pub value: ValueId,
    /// What reads it for the layer: the layer itself, or what moves elements.
    pub at: Use,
    /// An axis of the value,
    pub axis: usize,
    /// and its extent, more than 1.
    pub extent: usize,
}

/// Where a layer has its input from whose weight ONNX Runtime would round, though it is to compute in float. Where a Conv,
/// ConvTranspose or Gemm with a weight of floats stands between a DequantizeLinear with one scale and a QuantizeLinear (Relu and
/// Clip behind it, and what moves elements, are no matter), its transformer WeightBiasQuantization (as of version 1.31) makes int8 of that weight, with one
/// scale for all channels, when the model is loaded, and the layer computes in integers.
pub fn rounded_at_load(g: &Graph, op: OpId) -> Option<FromIntegers> {
    let scheme = |v: ValueId| g.value(v).quant.as_ref();
    let (node, weight) = (g.op(op), g.input(op, 1)?);
    let floats = scheme(weight).is_none_or(|scheme| scheme.form == QuantForm::Folded);
    let shape = g.constant(weight).filter(|_| floats && node.is_standard())?.shape();
    let flag = |name: &str| node.int(name).unwrap_or(0) != 0;
    let (axis, extent) = match (node.op_type.as_str(), shape) {
        ("Conv", &[_, of_group, ..]) => (1, of_group * usize::try_from(node.int("group").unwrap_or(1)).ok()?),
        ("ConvTranspose", &[channels, _, ..]) => (1, channels),
        ("Gemm", &[rows, columns]) => {
            (usize::from(!flag("transA")), if flag("transB") { columns } else { rows })
        }
        _ => return None,
    };
    let mut made = g.output(op, 0)?;
    while scheme(made).is_none() {
        let next = g.sole_use(made)?.op();
        if !["Relu", "Clip"].iter().chain(&MOVES).any(|kind| g.op(next).is(kind)) {
            return None;
        }
        made = g.output(next, 0)?;
    }
    let mut from = FromIntegers { value: g.input(op, 0)?, at: Use::Input(op, 0), axis, extent };
    while scheme(from.value).is_none() {
        let (before, _) =
            g.producer(from.value).filter(|(op, _)| MOVES.iter().any(|kind| g.op(*op).is(kind)))?;
        let value = g.input(before, 0)?;
        let extents = g.shape(value).unwrap_or_default();
        let known = |axis: &usize| extents.get(*axis)?.known().filter(|extent| *extent > 1);
        // The channels, where they are known.
        let mut axes = [1].into_iter().chain(0..extents.len());
        let axis = axes.find(|axis| known(axis).is_some())?;
        from = FromIntegers { value, at: Use::Input(before, 0), axis, extent: known(&axis)? };
    }
    // One scale is one for each channel where there is one.
    (from.extent > 1 && g.constant(from.value).is_none()).then_some(from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::Tensor;

    #[test]
    fn integers_stand_for_reals() {
        let mut g = Graph::new("g");
        let q = g.add_initializer("q", Tensor::from_vec([2, 2], vec![1i8, 3, -3, 5]));
        let s = g.add_initializer("s", Tensor::from_vec([2], vec![0.5f32, 2.0]));
        let z = g.add_initializer("z", Tensor::from_vec([2], vec![1i8, -1]));
        let y = g.add_node(Op::new("DequantizeLinear", "d").with("axis", 0), &[q, s, z], "y", None);
        g.outputs.push(y);
        assert_eq!(reals(&g, q).unwrap(), Tensor::from_vec([2, 2], vec![0f32, 1.0, -4.0, 12.0]));
        assert!(reals(&g, s).is_none() && reals(&g, z).is_none());
        assert!([q, s, z].iter().all(|v| is_readable(&g, *v)));
    }
    #[test]
    fn contents_count_and_dimensions_do_not() {
        let mut g = Graph::new("g");
        let x = g.add_input("x", crate::ir::Type::tensor(DType::F32, [2.into()]));
        let q = g.add_initializer("q", Tensor::from_vec([2], vec![1i8, -3]));
        let s = g.add_initializer("s", Tensor::from_vec([], vec![0.5f32]));
        let mask = g.add_initializer("mask", Tensor::from_vec([1], vec![1u8]));
        let to = |name: &str| Op::new("Cast", name).with("to", i64::from(DType::F32.onnx()));
        let real = g.add_node(to("cast"), &[q], "real", None);
        let w = g.add_node(Op::new("Mul", "scale"), &[real, s], "w", None);
        let shape = g.add_node(Op::new("Shape", "shape"), &[w], "shape", None);
        let scalar = g.add_node(to("cast_mask"), &[mask], "scalar", None);
        let y = g.add_node(Op::new("Add", "add"), &[x, w], "y", None);
        let found = dequantized(&g);
        assert!([real, w].iter().all(|v| found.contains(v)));
        assert!([shape, scalar, y].iter().all(|v| !found.contains(v)));
    }
    #[test]
    fn scales_that_are_cast_on_the_way_belong_to_it() {
        let mut g = Graph::new("g");
        let x = g.add_input("x", crate::ir::Type::tensor(DType::F16, [2.into()]));
        let q = g.add_initializer("q", Tensor::from_vec([2], vec![1i8, -3]));
        let scales = Tensor::from_f32(DType::F16, [2], vec![0.5, 0.25]).unwrap();
        let [s, other] = [(); 2].map(|()| g.add_initializer("s", scales.clone()));
        let to = |dtype: DType| Op::new("Cast", "").with("to", i64::from(dtype.onnx()));
        let [real, scale, apart] = [q, s, other].map(|v| g.add_node(to(DType::F32), &[v], "wide", None));
        let product = g.add_node(Op::new("Mul", ""), &[real, scale], "product", None);
        let w = g.add_node(to(DType::F16), &[product], "w", None);
        let y = g.add_node(Op::new("Add", ""), &[x, w], "y", None);
        g.outputs.extend([y, apart]);
        let found = dequantized(&g);
        assert!([real, scale, product, w].iter().all(|v| found.contains(v)));
        assert!(!found.contains(&apart) && !found.contains(&y));
    }
}
