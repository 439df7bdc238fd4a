//! Operators of ONNX Runtime alone that read weights of four bits as they are stored: `com.microsoft` version 1,
//! MatMulNBits for products and GatherBlockQuantized for tables.

use crate::{
    error::{Error, Result},
    ir::{DType, Grain, Graph, Op, Origin, QuantForm, QuantScheme, Tensor, Use, ValueId, Where},
};

/// MatMulNBits rounds the other operand to int8, as ONNX Runtime does by itself for DequantizeLinear in front of MatMul.
const INT8: i64 = 4;

/// Rewrites every op that reads a weight of the form [`QuantForm::Packed`]; says whether there is one. Fails where one has no
/// such kernel.
pub(super) fn rewrite(g: &mut Graph) -> Result<bool> {
    let packed = |v: &ValueId| g.value(*v).quant.as_ref().is_some_and(|s| s.form == QuantForm::Packed);
    let weights: Vec<ValueId> = g.values().filter(packed).collect();
    for v in &weights {
        constant(g, *v)?;
    }
    Ok(!weights.is_empty())
}

fn constant(g: &mut Graph, v: ValueId) -> Result<()> {
    let unfit = |g: &Graph| {
        let at = Where::Value(g.name_of(v).to_owned());
        Error::unsupported(at, "no operator reads it as it is stored")
    };
    let Some(scheme) = g.value_mut(v).quant.take() else { return Ok(()) };
    let Origin::Initializer(weight) = &g.value(v).origin else { return Err(unfit(g)) };
    let (&[rows, columns], Grain::Blocks { first, end, size }) = (weight.shape(), scheme.grain) else {
        return Err(unfit(g));
    };
    let four = matches!(scheme.dtype, DType::I4 | DType::U4);
    let (dtype, scheme) = (weight.dtype(), scheme.for_reals(weight.dtype()));
    let integers = scheme.quantize(weight)?;
    let name = g.name_of(v).to_owned();
    let uses = g.uses(v);
    let reads = |op_type: &str, slot| {
        let read = |at: &Use| matches!(at, Use::Input(op, s) if *s == slot && g.op(*op).is(op_type));
        four && uses.iter().all(read)
    };
    let new = |op_type: &str| Op::new(op_type, "").in_domain("com.microsoft").with("block_size", size as i64);
    // Where the op has its weight.
    let (slot, op, [q, scale, zero]) = if reads("MatMul", 1) && (first, end) == (0, 1) {
        let (k, n) = (rows as i64, columns as i64);
        let op = new("MatMulNBits").with("K", k).with("N", n).with("bits", 4).with("accuracy_level", INT8);
        (1, op, by_columns(&integers, &scheme, dtype, rows, columns, size).ok_or_else(|| unfit(g))?)
    } else if reads("Gather", 0) && (first, end) == (1, 2) {
        let op = new("GatherBlockQuantized").with("gather_axis", 0).with("quantize_axis", 1);
        let blocks = [rows, columns.div_ceil(size)];
        (0, op, [integers, scheme.scale_tensor(dtype, &blocks), scheme.zero_point_tensor(&blocks)])
    } else {
        return Err(unfit(g));
    };
    let mut add = |role: &str, tensor| Some(g.add_initializer(&format!("{name}_{role}"), tensor));
    let (q, scale) = (add("quantized", q), add("scale", scale));
    let zero = if scheme.is_symmetric() { None } else { add("zero_point", zero) };
    for at in uses.iter().map(|at| at.op()) {
        let other = g.input(at, 1 - slot);
        let node = g.op_mut(at);
        let (name, carried) = (std::mem::take(&mut node.name), std::mem::take(&mut node.carried));
        *node = Op { name, carried, ..op.clone() };
        let read = if slot == 1 { [other, q] } else { [q, other] };
        let parameters = [scale, zero];
        g.set_inputs(at, &[&read[..], &parameters[..1 + usize::from(zero.is_some())]].concat());
    }
    g.remove_value_if_unused(v);
    Ok(())
}

/// Integers, scales and zero points of `[rows, columns]` as MatMulNBits wants them: `[columns, blocks, size / 2]` bytes,
/// the last block filled up, `[columns * blocks]`, and `[columns * (blocks + 1) / 2]` bytes. Its integers are 0 to 15.
fn by_columns(
    integers: &Tensor,
    scheme: &QuantScheme,
    dtype: DType,
    rows: usize,
    columns: usize,
    size: usize,
) -> Option<[Tensor; 3]> {
    let blocks = rows.div_ceil(size);
    let lift = if scheme.dtype == DType::I4 { 8 } else { 0 };
    let elements = integers.unpacked()?;
    let pairs = |numbers: Vec<i8>| -> Vec<u8> {
        numbers.chunks(2).map(|pair| pair[0] as u8 | (pair.get(1).copied().unwrap_or(0) as u8) << 4).collect()
    };
    let mut q = Vec::with_capacity(columns * blocks * size);
    let (mut scales, mut zeros) = (Vec::new(), Vec::new());
    for column in 0..columns {
        q.extend((0..rows).map(|row| elements[row * columns + column] + lift));
        q.resize((column + 1) * blocks * size, lift);
        scales.extend((0..blocks).map(|block| scheme.scales[block * columns + column]));
        let of_column = (0..blocks).map(|block| scheme.zero_points[block * columns + column] as i8 + lift);
        zeros.extend(pairs(of_column.collect()));
    }
    let scales = Tensor::from_f32(dtype, [scales.len()], scales)?;
    let zeros = Tensor::from_vec([zeros.len()], zeros);
    Some([Tensor::from_vec([columns, blocks, size / 2], pairs(q)), scales, zeros])
}
