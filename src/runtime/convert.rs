//! Tensors to and from ONNX Runtime's values. Aligned bytes go in without a copy; large results stay where they are.

use super::failed;
use crate::{
    error::{Error, Result},
    ir::{DType, Data, Element, Tensor, Where},
};
use bytes::Bytes;
use half::{bf16, f16};
use ort::{
    session::{SessionInputValue, SharedSessionInner},
    value::{
        DynValue, PrimitiveTensorElementType, Tensor as OrtTensor, TensorElementType, TensorRef, ValueType,
    },
};
use std::{borrow::Cow, fmt::Debug, marker::PhantomData, sync::Arc};

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

/// A function for the Rust type of a type of numbers; `otherwise` for other types.
macro_rules! by_type {
    ($dtype:expr, $function:ident($($argument:expr),*), $otherwise:expr) => {
        match $dtype {
            DType::F32 => $function::<f32>($($argument),*),
            DType::F64 => $function::<f64>($($argument),*),
            DType::F16 => $function::<f16>($($argument),*),
            DType::BF16 => $function::<bf16>($($argument),*),
            DType::I8 => $function::<i8>($($argument),*),
            DType::I16 => $function::<i16>($($argument),*),
            DType::I32 => $function::<i32>($($argument),*),
            DType::I64 => $function::<i64>($($argument),*),
            DType::U8 => $function::<u8>($($argument),*),
            DType::U16 => $function::<u16>($($argument),*),
            DType::U32 => $function::<u32>($($argument),*),
            DType::U64 => $function::<u64>($($argument),*),
            _ => $otherwise,
        }
    };
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
        other => by_type!(other, plain(name, tensor), Err(uncovered(name, other))),
    }
}

/// A copy of a tensor's bytes that is aligned for its type; nothing where they are so where they lie.
pub(super) fn realigned(tensor: &Tensor) -> Option<Data> {
    fn copied<T: Element>(tensor: &Tensor) -> Option<Data> {
        match tensor.view::<T>()? {
            Cow::Borrowed(_) => None,
            Cow::Owned(elements) => Tensor::from_vec(tensor.shape(), elements).data().cloned(),
        }
    }
    by_type!(tensor.dtype(), copied(tensor), None)
}

/// From this size on (64 KiB) a result is not copied. Smaller ones are: they would keep a whole session in memory.
const LARGE: usize = 1 << 16;

/// What the constants of a session lie in.
pub(super) struct Memory {
    /// Dropped before what it reads.
    pub(super) _session: Arc<SharedSessionInner>,
    /// Weights that it does not own.
    pub(super) _weights: Vec<Arc<Data>>,
}

/// A numeric result in ONNX Runtime's memory, with that of the session that computed it: it may be a constant.
struct Lent<T> {
    value: DynValue,
    _memory: Arc<Memory>,
    element: PhantomData<fn() -> T>,
}

impl<T: Element + PrimitiveTensorElementType> AsRef<[u8]> for Lent<T> {
    fn as_ref(&self) -> &[u8] {
        self.value.try_extract_tensor::<T>().map_or(&[], |(_, data)| bytemuck::cast_slice(data))
    }
}

/// A model output of a session.
pub(super) fn output(name: &str, value: DynValue, memory: &Arc<Memory>) -> Result<Tensor> {
    fn dims(shape: &[i64]) -> Vec<usize> {
        shape.iter().map(|d| usize::try_from(*d).unwrap_or(0)).collect() // a computed value's dims are not negative
    }
    let ValueType::Tensor { ty, .. } = value.dtype() else {
        return Err(uncovered(name, value.dtype()));
    };
    let failed = |why: ort::Error| failed(&format!("output `{name}`"), &why);
    macro_rules! numeric {
        ($t:ty) => {{
            let (shape, data) = value.try_extract_tensor::<$t>().map_err(failed)?;
            let shape = dims(shape);
            if size_of_val(data) < LARGE {
                return Ok(Tensor::from_vec(shape, data.to_vec()));
            }
            let lent = Lent::<$t> { value, _memory: memory.clone(), element: PhantomData };
            Tensor::new(<$t as Element>::DTYPE, shape, Data::from(Bytes::from_owner(lent)))
        }};
    }
    match dtype_of(*ty) {
        Some(DType::F32) => numeric!(f32),
        Some(DType::F64) => numeric!(f64),
        Some(DType::F16) => numeric!(f16),
        Some(DType::BF16) => numeric!(bf16),
        Some(DType::I8) => numeric!(i8),
        Some(DType::I16) => numeric!(i16),
        Some(DType::I32) => numeric!(i32),
        Some(DType::I64) => numeric!(i64),
        Some(DType::U8) => numeric!(u8),
        Some(DType::U16) => numeric!(u16),
        Some(DType::U32) => numeric!(u32),
        Some(DType::U64) => numeric!(u64),
        Some(DType::Bool) => {
            let (shape, flags) = value.try_extract_tensor::<bool>().map_err(failed)?;
            let bytes: Vec<u8> = flags.iter().map(|flag| u8::from(*flag)).collect();
            Tensor::new(DType::Bool, dims(shape), bytes)
        }
        Some(DType::String) => {
            let (shape, text) = value.try_extract_strings().map_err(failed)?;
            Tensor::strings(dims(shape), text.into_iter().map(Into::into).collect())
        }
        _ => Err(uncovered(name, ty)),
    }
}
