//! The elements of a tensor as literals. As in ONNX's syntax, floats narrower than 32 bits are written as the integers
//! their bits spell, and sub-byte elements as the bytes that pack them.

use crate::ir::{DType, Tensor};
use bytes::Bytes;
use std::fmt::Display;

/// The greatest number of elements shown, of integers and of floats.
const MOST: [usize; 2] = [16, 4];
/// The greatest number of bytes of strings shown.
const MOST_TEXT: usize = 256;

/// A text in quotes.
pub(super) fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The elements, where they are few enough to show.
pub(super) fn show(t: &Tensor) -> Option<String> {
    fn join<T: Display>(items: impl Iterator<Item = T>) -> String {
        items.map(|x| x.to_string()).collect::<Vec<_>>().join(", ")
    }
    macro_rules! ints {
        ($t:ty) => {
            join(t.view::<$t>()?.iter())
        };
    }
    if t.is_empty() {
        return Some(String::new());
    }
    let few = t.len() <= MOST[usize::from(t.dtype().is_float())] && t.byte_len() <= MOST_TEXT;
    if !few {
        return None;
    }
    Some(match t.dtype() {
        DType::F32 => join(t.view::<f32>()?.iter().map(|x| format!("{x:?}"))),
        DType::F64 => join(t.view::<f64>()?.iter().map(|x| format!("{x:?}"))),
        DType::I8 => ints!(i8),
        DType::I16 => ints!(i16),
        DType::I32 => ints!(i32),
        DType::I64 => ints!(i64),
        DType::U16 => ints!(u16),
        DType::U32 => ints!(u32),
        DType::U64 => ints!(u64),
        DType::F16 | DType::BF16 => join(t.bytes().chunks(2).map(|b| u16::from_le_bytes([b[0], b[1]]))),
        DType::String => join(t.as_strings()?.iter().map(|s| quote(&String::from_utf8_lossy(s)))),
        DType::Complex64 | DType::Complex128 => return None,
        _ => join(t.bytes().iter()),
    })
}

/// One element as read.
#[derive(Clone, Debug)]
pub(super) enum Literal {
    /// A number's text.
    Number(String),
    /// A string.
    Text(String),
}

/// A tensor from its elements, or why they do not make one.
pub(super) fn read(dtype: DType, shape: &[usize], items: Vec<Literal>) -> Result<Tensor, String> {
    fn bytes<T: std::str::FromStr, const N: usize>(
        items: &[Literal],
        dtype: DType,
        to_bytes: impl Fn(T) -> [u8; N],
    ) -> Result<Vec<u8>, String> {
        let one = |item: &Literal| match item {
            Literal::Number(n) => {
                n.parse::<T>().map(&to_bytes).map_err(|_| format!("{n} is no element of a {dtype} tensor"))
            }
            Literal::Text(s) => Err(format!("{} is no element of a {dtype} tensor", quote(s))),
        };
        Ok(items.iter().map(one).collect::<Result<Vec<_>, _>>()?.concat())
    }
    macro_rules! of {
        ($t:ty) => {
            bytes(&items, dtype, <$t>::to_le_bytes)?
        };
    }
    let data = match dtype {
        DType::String => {
            let text = |item| match item {
                Literal::Text(s) => Ok(Bytes::from(s)),
                Literal::Number(n) => Err(format!("{n} is no string; quote it")),
            };
            let strings = items.into_iter().map(text).collect::<Result<_, _>>()?;
            return Tensor::strings(shape, strings).map_err(|e| e.to_string());
        }
        DType::Complex64 | DType::Complex128 => return Err("complex numbers cannot be written out".into()),
        DType::F32 => of!(f32),
        DType::F64 => of!(f64),
        DType::I16 => of!(i16),
        DType::I32 => of!(i32),
        DType::I64 => of!(i64),
        DType::U16 | DType::F16 | DType::BF16 => of!(u16),
        DType::U32 => of!(u32),
        DType::U64 => of!(u64),
        DType::I8 => of!(i8),
        _ => of!(u8),
    };
    Tensor::new(dtype, shape, data).map_err(|_| {
        let need: usize = shape.iter().product();
        format!("{dtype}{shape:?} has {need} elements, not the {} given", items.len())
    })
}
