//! What computes weights of any size back from their integers, element by element, in single precision as a runtime does.

use super::index::{broadcast, broadcast_strides, walk};
use crate::ir::{DType, Float8, Op, Tensor};
use std::borrow::Cow;

/// What a Cast to floating-point numbers, or arithmetic on two tensors of these, gives; `None` for anything else.
pub fn reals(op: &Op, inputs: &[Option<&Tensor>]) -> Option<Tensor> {
    let first = inputs.first().copied().flatten()?;
    if op.is("Cast") {
        let to = DType::from_onnx(i32::try_from(op.int("to")?).ok()?)?;
        return Tensor::from_f32(to, first.shape(), numbers(first)?.into_owned());
    }
    let of: fn(f32, f32) -> f32 = match &*op.op_type {
        "Add" => |x, y| x + y,
        "Sub" => |x, y| x - y,
        "Mul" => |x, y| x * y,
        "Div" => |x, y| x / y,
        _ => return None,
    };
    let second = inputs.get(1).copied().flatten()?;
    if !op.is_standard() || first.dtype() != second.dtype() {
        return None;
    }
    let (a, b) = (first.to_f32()?, second.to_f32()?);
    let shape = broadcast(&[first.shape(), second.shape()])?;
    let read = |t: &Tensor| walk(shape.clone(), broadcast_strides(t.shape(), &shape), 0);
    let results = read(first).zip(read(second)).map(|(i, j)| of(a[i], b[j])).collect();
    Tensor::from_f32(first.dtype(), shape.clone(), results)
}

/// The elements of floating-point numbers, or of what quantized weights are stored as.
fn numbers(t: &Tensor) -> Option<Cow<'_, [f32]>> {
    if let Some(narrow) = t.unpacked() {
        return Some(narrow.into_iter().map(f32::from).collect());
    }
    if let Some(float8) = Float8::of(t.dtype()) {
        return Some(t.bytes().iter().map(|code| float8.decode(*code)).collect());
    }
    match t.dtype() {
        DType::I16 => Some(t.view::<i16>()?.iter().map(|x| f32::from(*x)).collect()),
        DType::U16 => Some(t.view::<u16>()?.iter().map(|x| f32::from(*x)).collect()),
        DType::I8 => Some(t.view::<i8>()?.iter().map(|x| f32::from(*x)).collect()),
        DType::U8 => Some(t.view::<u8>()?.iter().map(|x| f32::from(*x)).collect()),
        _ => t.to_f32(),
    }
}
