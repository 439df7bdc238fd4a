//! Tensors to and from ONNX Runtime's values. Aligned bytes go in without a copy; results are copied out once.

use super::failed;
use crate::{
    error::{Error, Result},
    ir::{DType, Element, Tensor, Where},
};
use half::{bf16, f16};
use ort::{
    session::SessionInputValue,
    value::{
        DynValue, PrimitiveTensorElementType, Tensor as OrtTensor, TensorElementType, TensorRef, ValueType,
    },
};
use std::{borrow::Cow, fmt::Debug};

/// Our name of ONNX Runtime's element type.
pub(super) fn dtype_of(ty: TensorElementType) -> Option<DType> {
    use TensorElementType as T;
    Some(match ty {
        T::Float32 => DType::F32,
        T::Float64 => DType::F64,
        T::Float16 => DType::F16,
        T::Bfloat16 => DType::BF16,
        T::Int8 => DType::I8,
        T::Int16 => DType::I16,
        T::Int32 => DType::I32,
        T::Int64 => DType::I64,
        T::Uint8 => DType::U8,
        T::Uint16 => DType::U16,
        T::Uint32 => DType::U32,
        T::Uint64 => DType::U64,
        T::Bool => DType::Bool,
        T::String => DType::String,
        _ => return None,
    })
}

fn uncovered(name: &str, ty: impl std::fmt::Display) -> Error {
    let why = format!("values of type {ty} cannot be passed to or from ONNX Runtime; cast them in the model");
    Error::unsupported(Where::Value(name.to_owned()), why)
}

/// A model input. Borrows the tensor's bytes where they are aligned.
pub(super) fn input<'a>(name: &str, tensor: &'a Tensor) -> Result<SessionInputValue<'a>> {
    fn plain<'a, T>(name: &str, tensor: &'a Tensor) -> Result<SessionInputValue<'a>>
    where
        T: Element + PrimitiveTensorElementType + Debug + Clone + 'static,
    {
        let whole = |e: ort::Error| failed(&format!("input `{name}`"), &e);
        match tensor.view::<T>().ok_or_else(|| uncovered(name, tensor.dtype()))? {
            Cow::Borrowed(data) => {
                Ok(TensorRef::from_array_view((tensor.shape().to_vec(), data)).map_err(whole)?.into())
            }
            Cow::Owned(data) => {
                Ok(OrtTensor::from_array((tensor.shape().to_vec(), data)).map_err(whole)?.into())
            }
        }
    }
    let whole = |e: ort::Error| failed(&format!("input `{name}`"), &e);
    match tensor.dtype() {
        DType::F32 => plain::<f32>(name, tensor),
        DType::F64 => plain::<f64>(name, tensor),
        DType::F16 => plain::<f16>(name, tensor),
        DType::BF16 => plain::<bf16>(name, tensor),
        DType::I8 => plain::<i8>(name, tensor),
        DType::I16 => plain::<i16>(name, tensor),
        DType::I32 => plain::<i32>(name, tensor),
        DType::I64 => plain::<i64>(name, tensor),
        DType::U8 => plain::<u8>(name, tensor),
        DType::U16 => plain::<u16>(name, tensor),
        DType::U32 => plain::<u32>(name, tensor),
        DType::U64 => plain::<u64>(name, tensor),
        DType::Bool => {
            let flags: Vec<bool> = tensor.bytes().iter().map(|byte| *byte != 0).collect();
            Ok(OrtTensor::from_array((tensor.shape().to_vec(), flags)).map_err(whole)?.into())
        }
        DType::String => {
            let strings = tensor.as_strings().unwrap_or_default().iter();
            let text: Vec<String> = strings
                .map(|bytes| {
                    String::from_utf8(bytes.to_vec())
                        .map_err(|_| Error::malformed(Where::Value(name.to_owned()), "a string is not UTF-8"))
                })
                .collect::<Result<_>>()?;
            let shaped = (tensor.shape().to_vec(), text.as_slice());
            Ok(OrtTensor::from_string_array(shaped).map_err(whole)?.into())
        }
        other => Err(uncovered(name, other)),
    }
}

/// A model output, copied out of ONNX Runtime's memory.
pub(super) fn output(name: &str, value: &DynValue) -> Result<Tensor> {
    fn plain<T>(value: &DynValue) -> ort::Result<Tensor>
    where
        T: Element + PrimitiveTensorElementType + Clone,
    {
        let (shape, data) = value.try_extract_tensor::<T>()?;
        Ok(Tensor::from_vec(dims(shape), data.to_vec()))
    }
    fn dims(shape: &[i64]) -> Vec<usize> {
        shape.iter().map(|d| usize::try_from(*d).unwrap_or(0)).collect() // a computed value's dims are not negative
    }
    let ValueType::Tensor { ty, .. } = value.dtype() else {
        return Err(uncovered(name, value.dtype()));
    };
    let tensor = match dtype_of(*ty) {
        Some(DType::F32) => plain::<f32>(value),
        Some(DType::F64) => plain::<f64>(value),
        Some(DType::F16) => plain::<f16>(value),
        Some(DType::BF16) => plain::<bf16>(value),
        Some(DType::I8) => plain::<i8>(value),
        Some(DType::I16) => plain::<i16>(value),
        Some(DType::I32) => plain::<i32>(value),
        Some(DType::I64) => plain::<i64>(value),
        Some(DType::U8) => plain::<u8>(value),
        Some(DType::U16) => plain::<u16>(value),
        Some(DType::U32) => plain::<u32>(value),
        Some(DType::U64) => plain::<u64>(value),
        Some(DType::Bool) => match value.try_extract_tensor::<bool>() {
            Ok((shape, flags)) => {
                let bytes: Vec<u8> = flags.iter().map(|flag| u8::from(*flag)).collect();
                return Tensor::new(DType::Bool, dims(shape), bytes);
            }
            Err(why) => Err(why),
        },
        Some(DType::String) => match value.try_extract_strings() {
            Ok((shape, text)) => {
                return Tensor::strings(dims(shape), text.into_iter().map(Into::into).collect());
            }
            Err(why) => Err(why),
        },
        _ => return Err(uncovered(name, ty)),
    };
    tensor.map_err(|why| failed(&format!("output `{name}`"), &why))
}
