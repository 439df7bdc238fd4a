//! Elements as numbers wide enough to compute with, and back, rounded and wrapped as the element type demands.

use crate::ir::{DType, Tensor};
use half::{bf16, f16};

/// The elements of a numeric tensor. One rounding from f64 to a narrower float gives what computing in that type
/// gives, for the basic operations and square roots.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Numbers {
    Ints(Vec<i128>),
    Floats(Vec<f64>),
}

impl Numbers {
    /// The elements of whole-byte integers, bool, and floats of at least 16 bits.
    pub(crate) fn of(t: &Tensor) -> Option<Numbers> {
        Some(match t.dtype() {
            DType::F64 => Numbers::Floats(t.view::<f64>()?.into_owned()),
            DType::F32 | DType::F16 | DType::BF16 => {
                Numbers::Floats(t.to_f32()?.iter().map(|x| f64::from(*x)).collect())
            }
            DType::U64 => Numbers::Ints(t.view::<u64>()?.iter().map(|x| i128::from(*x)).collect()),
            _ => Numbers::Ints(t.to_i64()?.into_iter().map(i128::from).collect()),
        })
    }
    pub(crate) fn len(&self) -> usize {
        match self {
            Numbers::Ints(v) => v.len(),
            Numbers::Floats(v) => v.len(),
        }
    }
    /// As a tensor of that type: integers wrap, floats round. Floats do not silently become integers.
    pub(crate) fn tensor(self, dtype: DType, shape: Vec<usize>) -> Option<Tensor> {
        if super::index::count(&shape) != Some(self.len()) {
            return None;
        }
        macro_rules! ints {
            ($t:ty) => {
                match self {
                    Numbers::Ints(v) => Tensor::from_vec(shape, v.into_iter().map(|x| x as $t).collect()),
                    Numbers::Floats(_) => return None,
                }
            };
        }
        macro_rules! floats {
            ($from_f64:expr, $from_int:expr) => {
                match self {
                    Numbers::Floats(v) => Tensor::from_vec(shape, v.into_iter().map($from_f64).collect()),
                    Numbers::Ints(v) => Tensor::from_vec(shape, v.into_iter().map($from_int).collect()),
                }
            };
        }
        Some(match dtype {
            DType::I64 => ints!(i64),
            DType::I32 => ints!(i32),
            DType::I16 => ints!(i16),
            DType::I8 => ints!(i8),
            DType::U64 => ints!(u64),
            DType::U32 => ints!(u32),
            DType::U16 => ints!(u16),
            DType::U8 => ints!(u8),
            DType::Bool => match self {
                Numbers::Ints(v) => {
                    let bytes: Vec<u8> = v.into_iter().map(|x| u8::from(x != 0)).collect();
                    Tensor::new(DType::Bool, shape, bytes).ok()?
                }
                Numbers::Floats(_) => return None,
            },
            DType::F64 => floats!(|x| x, |x| x as f64),
            DType::F32 => floats!(|x| x as f32, |x| x as f32),
            DType::F16 => floats!(f16::from_f64, |x| f16::from_f32(x as f32)),
            DType::BF16 => floats!(bf16::from_f64, |x| bf16::from_f32(x as f32)),
            _ => return None,
        })
    }
}
