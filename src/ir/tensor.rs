//! Constants: element type, shape and bytes as ONNX's `raw_data` lays them out (little-endian, sub-byte packed).

use super::{Carried, DType, Data, TensorType};
use crate::error::{Error, Result};
use bytemuck::Pod;
use bytes::Bytes;
use half::{bf16, f16};
use std::{borrow::Cow, ops::Range, sync::Arc};

/// How a tensor's values were stored in the file, so that an untouched one is written back the same way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Storage {
    /// In `raw_data` (external data counts as this: where the bytes lie is decided when writing).
    #[default]
    Raw,
    /// In the typed field of its element type (`float_data`, `int32_data`, ...).
    Typed,
}

#[derive(Clone, Debug, PartialEq)]
enum Values {
    Bytes(Data),
    Strings(Arc<[Bytes]>),
}

/// A constant of known type. Cloning is cheap: bytes are shared and copied only when changed.
#[derive(Clone, Debug)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    values: Values,
    storage: Storage,
    /// What the file said beyond that (doc string, metadata; for a tensor in an attribute also its name).
    pub carried: Carried,
}

/// A Rust type that holds one element of a whole-byte ONNX type.
pub trait Element: Pod + Send + PartialEq {
    /// The ONNX type.
    const DTYPE: DType;
}
macro_rules! elements { ($($t:ty => $d:ident),*) => { $(impl Element for $t { const DTYPE: DType = DType::$d; })* }; }
elements!(f32 => F32, f64 => F64, f16 => F16, bf16 => BF16, i8 => I8, i16 => I16, i32 => I32, i64 => I64,
    u8 => U8, u16 => U16, u32 => U32, u64 => U64);

/// The product of the dimensions; `None` on overflow.
fn count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d))
}

/// Elements that serve as bytes where they lie.
struct Elements<T>(Vec<T>);

impl<T: Element> AsRef<[u8]> for Elements<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

impl Tensor {
    /// A tensor over bytes in `raw_data` layout. The byte count must be what type and shape demand.
    pub fn new(dtype: DType, shape: impl Into<Vec<usize>>, data: impl Into<Data>) -> Result<Tensor> {
        let (shape, data) = (shape.into(), data.into());
        let need = count(&shape).and_then(|n| dtype.bytes_for(n));
        if dtype == DType::String || need != Some(data.len()) {
            let need = need.map_or("more than memory can address".into(), |n| n.to_string());
            let why = format!("{dtype}{shape:?} takes {need} bytes, not {}", data.len());
            return Err(Error::malformed((), why));
        }
        Ok(Tensor {
            dtype,
            shape,
            values: Values::Bytes(data),
            storage: Storage::Raw,
            carried: Carried::default(),
        })
    }
    /// A tensor over typed elements.
    ///
    /// # Panics
    /// Where the number of elements is not what the shape says: a defect of the caller.
    pub fn from_vec<T: Element>(shape: impl Into<Vec<usize>>, values: Vec<T>) -> Tensor {
        let shape = shape.into();
        assert_eq!(count(&shape), Some(values.len()), "elements do not fill shape {shape:?}");
        #[cfg(target_endian = "big")]
        compile_error!("tensor bytes are little-endian; this target would need swaps here and in `view`");
        let bytes = Bytes::from_owner(Elements(values));
        Tensor {
            dtype: T::DTYPE,
            shape,
            values: Values::Bytes(bytes.into()),
            storage: Storage::Raw,
            carried: Carried::default(),
        }
    }
    /// A 0-d tensor.
    pub fn scalar<T: Element>(value: T) -> Tensor {
        Tensor::from_vec([], vec![value])
    }
    /// A 1-d int64 tensor, the form of most shape arithmetic.
    pub fn ints(values: impl IntoIterator<Item = i64>) -> Tensor {
        let values: Vec<i64> = values.into_iter().collect();
        Tensor::from_vec([values.len()], values)
    }
    /// A tensor of strings (any bytes).
    pub fn strings(shape: impl Into<Vec<usize>>, values: Vec<Bytes>) -> Result<Tensor> {
        let shape = shape.into();
        if count(&shape) != Some(values.len()) {
            return Err(Error::malformed(
                (),
                format!("{} strings do not fill shape {shape:?}", values.len()),
            ));
        }
        let values = Values::Strings(values.into());
        Ok(Tensor {
            dtype: DType::String,
            shape,
            values,
            storage: Storage::Typed,
            carried: Carried::default(),
        })
    }
    /// The same tensor, to be written in the given storage.
    pub fn stored(mut self, storage: Storage) -> Tensor {
        self.storage = storage;
        self
    }
    /// How it was stored in the file.
    pub fn storage(&self) -> Storage {
        self.storage
    }
    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }
    /// The dimensions; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }
    /// The number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }
    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
    /// Whether a dimension is 0.
    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }
    /// Its type.
    pub fn ty(&self) -> TensorType {
        TensorType::new(self.dtype, self.shape.iter().map(|n| (*n).into()))
    }
    /// The bytes and where they live; `None` for strings.
    pub fn data(&self) -> Option<&Data> {
        match &self.values {
            Values::Bytes(data) => Some(data),
            Values::Strings(_) => None,
        }
    }
    /// The bytes in `raw_data` layout; empty for strings.
    pub fn bytes(&self) -> &[u8] {
        self.data().map_or(&[], Data::as_slice)
    }
    /// Whether another tensor is of the same type and shares this one's bytes; equal bytes elsewhere do not count.
    pub fn is_same(&self, other: &Tensor) -> bool {
        (self.dtype, &self.shape) == (other.dtype, &other.shape)
            && self.data().zip(other.data()).is_some_and(|(a, b)| a.is_same(b))
    }
    /// Some of the elements, in a row of their own: what works on a part at a time needs memory for a part only. `None`
    /// for strings, elements of less than a byte, and beyond the end.
    pub fn part(&self, elements: Range<usize>) -> Option<Tensor> {
        let (data, count, bits) = (self.data()?, elements.len(), self.dtype.bits());
        if elements.end > self.len() || !bits.is_multiple_of(8) {
            return None;
        }
        let size = bits / 8;
        let part = data.part(elements.start * size..elements.end * size).into_owned();
        Tensor::new(self.dtype, [count], Data::from(part)).ok()
    }
    /// Gives back the memory of a constant that has been read from a mapped file and is not needed soon.
    pub fn release(&self) {
        if let Some(data) = self.data() {
            data.release();
        }
    }
    /// The size in bytes, also of strings; free to ask.
    pub fn byte_len(&self) -> usize {
        match &self.values {
            Values::Bytes(data) => data.len(),
            Values::Strings(s) => s.iter().map(Bytes::len).sum(),
        }
    }
    /// The strings; `None` for any other type.
    pub fn as_strings(&self) -> Option<&[Bytes]> {
        match &self.values {
            Values::Strings(s) => Some(s),
            Values::Bytes(_) => None,
        }
    }
    /// The elements, where the type is exactly `T`; borrowed where the bytes are aligned for it.
    pub fn view<T: Element>(&self) -> Option<Cow<'_, [T]>> {
        if self.dtype != T::DTYPE {
            return None;
        }
        let bytes = self.bytes();
        Some(match bytemuck::try_cast_slice(bytes) {
            Ok(elements) => Cow::Borrowed(elements),
            Err(_) => bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect(),
        })
    }
    /// The elements as f32, for float32, float16, bfloat16 and float64; `None` for any other type.
    pub fn to_f32(&self) -> Option<Cow<'_, [f32]>> {
        match self.dtype {
            DType::F32 => self.view(),
            DType::F16 => Some(self.view::<f16>()?.iter().map(|x| x.to_f32()).collect()),
            DType::BF16 => Some(self.view::<bf16>()?.iter().map(|x| x.to_f32()).collect()),
            DType::F64 => Some(self.view::<f64>()?.iter().map(|x| *x as f32).collect()),
            _ => None,
        }
    }
    /// A tensor of type `dtype` (float32, float16, bfloat16 or float64) from f32 elements.
    pub fn from_f32(dtype: DType, shape: impl Into<Vec<usize>>, values: Vec<f32>) -> Option<Tensor> {
        let shape = shape.into();
        Some(match dtype {
            DType::F32 => Tensor::from_vec(shape, values),
            DType::F16 => Tensor::from_vec(shape, values.into_iter().map(f16::from_f32).collect()),
            DType::BF16 => Tensor::from_vec(shape, values.into_iter().map(bf16::from_f32).collect()),
            DType::F64 => Tensor::from_vec(shape, values.into_iter().map(f64::from).collect()),
            _ => return None,
        })
    }
    /// The elements as i64, for whole-byte integers and bool; `None` for any other type or an uint64 beyond i64.
    pub fn to_i64(&self) -> Option<Vec<i64>> {
        fn wide<T: Element + Into<i64>>(t: &Tensor) -> Option<Vec<i64>> {
            Some(t.view::<T>()?.iter().map(|x| (*x).into()).collect())
        }
        match self.dtype {
            DType::I64 => Some(self.view::<i64>()?.into_owned()),
            DType::I32 => wide::<i32>(self),
            DType::I16 => wide::<i16>(self),
            DType::I8 => wide::<i8>(self),
            DType::U8 => wide::<u8>(self),
            DType::U16 => wide::<u16>(self),
            DType::U32 => wide::<u32>(self),
            DType::U64 => self.view::<u64>()?.iter().map(|x| i64::try_from(*x).ok()).collect(),
            DType::Bool => Some(self.bytes().iter().map(|b| i64::from(*b != 0)).collect()),
            _ => None,
        }
    }
    /// The single element of a 0-d tensor or a tensor of one element, as f32.
    pub fn scalar_f32(&self) -> Option<f32> {
        match *self.to_f32().filter(|_| self.len() == 1)? {
            [x] => Some(x),
            _ => None,
        }
    }
    /// The single element as i64.
    pub fn scalar_i64(&self) -> Option<i64> {
        match self.to_i64().filter(|_| self.len() == 1)?[..] {
            [x] => Some(x),
            _ => None,
        }
    }
    /// The same bytes under another shape of equal element count.
    ///
    /// # Panics
    /// Where the element counts differ: a defect of the caller.
    pub fn reshaped(&self, shape: impl Into<Vec<usize>>) -> Tensor {
        let shape = shape.into();
        assert_eq!(count(&shape), Some(self.len()), "reshape {:?} to {shape:?}", self.shape);
        Tensor { shape, ..self.clone() }
    }
    /// A 32-bit FNV-1a digest of type, shape and contents, shown in the text form.
    pub fn digest(&self) -> u32 {
        let fnv = |h: u32, b: &u8| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193);
        let seed = self.shape.iter().flat_map(|d| (*d as u64).to_le_bytes()).collect::<Vec<_>>();
        let start = seed.iter().chain(&self.dtype.onnx().to_le_bytes()).fold(0x811c_9dc5, fnv);
        match &self.values {
            Values::Bytes(data) => data.as_slice().iter().fold(start, fnv),
            Values::Strings(s) => s.iter().flat_map(|b| b.iter().chain(&[0])).fold(start, fnv),
        }
    }
}

/// Equal type, shape and contents, however stored.
impl PartialEq for Tensor {
    fn eq(&self, other: &Self) -> bool {
        self.dtype == other.dtype && self.shape == other.shape && self.values == other.values
    }
}

/// A constant given by its non-zero elements (`SparseTensorProto`).
#[derive(Clone, Debug, PartialEq)]
pub struct SparseTensor {
    /// The non-zero elements, 1-d.
    pub values: Tensor,
    /// Their places: `[nnz]` linear or `[nnz, rank]` coordinates, int64.
    pub indices: Tensor,
    /// The shape of the dense tensor.
    pub dims: Vec<usize>,
    /// What the file said beyond that.
    pub carried: Carried,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_count_must_match() {
        assert!(Tensor::new(DType::F32, [2], vec![0u8; 8]).is_ok());
        assert!(Tensor::new(DType::F32, [2], vec![0u8; 7]).is_err());
        assert!(Tensor::new(DType::I4, [3], vec![0u8; 2]).is_ok(), "sub-byte types are packed");
        assert!(Tensor::new(DType::F32, [usize::MAX, 2], vec![0u8; 8]).is_err(), "no overflow");
    }
    #[test]
    fn views_are_typed_and_survive_misalignment() {
        let backing = Bytes::from([&[0u8][..], &1.5f32.to_le_bytes(), &(-2.0f32).to_le_bytes()].concat());
        let t = Tensor::new(DType::F32, [2], backing.slice(1..)).unwrap();
        assert_eq!(t.view::<f32>().unwrap()[..], [1.5, -2.0]);
        assert!(t.view::<i32>().is_none());
        assert_eq!(Tensor::from_f32(DType::F16, [2], vec![1.5, -2.0]).unwrap().to_f32(), t.to_f32());
    }
}
