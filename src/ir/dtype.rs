//! Element types: ONNX's numbering, widths and packing.

use serde::Serialize;
use std::fmt;

macro_rules! dtypes {
    ($($variant:ident = $number:literal, $name:literal, $bits:literal;)*) => {
        /// An ONNX element type (`TensorProto.DataType`).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[allow(missing_docs, reason = "the variants are ONNX's own names")]
        #[serde(into = "&'static str")]
        pub enum DType { $($variant = $number),* }

        impl DType {
            /// Every element type, in ONNX's order.
            pub const ALL: &[DType] = &[$(DType::$variant),*];
            /// The type with this `TensorProto.DataType` number.
            pub const fn from_onnx(number: i32) -> Option<DType> {
                match number { $($number => Some(DType::$variant),)* _ => None }
            }
            /// The name in ONNX's textual syntax.
            pub const fn name(self) -> &'static str {
                match self { $(DType::$variant => $name),* }
            }
            /// Bits an element takes in `raw_data`; 0 for strings, which have none.
            pub const fn bits(self) -> usize {
                match self { $(DType::$variant => $bits),* }
            }
        }
    };
}

dtypes! {
    F32 = 1, "float", 32;
    U8 = 2, "uint8", 8;
    I8 = 3, "int8", 8;
    U16 = 4, "uint16", 16;
    I16 = 5, "int16", 16;
    I32 = 6, "int32", 32;
    I64 = 7, "int64", 64;
    String = 8, "string", 0;
    Bool = 9, "bool", 8;
    F16 = 10, "float16", 16;
    F64 = 11, "double", 64;
    U32 = 12, "uint32", 32;
    U64 = 13, "uint64", 64;
    Complex64 = 14, "complex64", 64;
    Complex128 = 15, "complex128", 128;
    BF16 = 16, "bfloat16", 16;
    F8E4M3FN = 17, "float8e4m3fn", 8;
    F8E4M3FNUZ = 18, "float8e4m3fnuz", 8;
    F8E5M2 = 19, "float8e5m2", 8;
    F8E5M2FNUZ = 20, "float8e5m2fnuz", 8;
    U4 = 21, "uint4", 4;
    I4 = 22, "int4", 4;
    F4E2M1 = 23, "float4e2m1", 4;
    F8E8M0 = 24, "float8e8m0", 8;
    U2 = 25, "uint2", 2;
    I2 = 26, "int2", 2;
    F6E2M3 = 27, "float6e2m3", 6;
    F6E3M2 = 28, "float6e3m2", 6;
}

impl DType {
    /// The `TensorProto.DataType` number.
    pub const fn onnx(self) -> i32 {
        self as i32
    }
    /// The type with this name in ONNX's textual syntax.
    pub fn from_name(name: &str) -> Option<DType> {
        DType::ALL.iter().copied().find(|d| d.name() == name)
    }
    /// Bytes that `len` elements take in `raw_data`: sub-byte elements are packed, the last byte padded.
    /// `None` on overflow.
    pub const fn bytes_for(self, len: usize) -> Option<usize> {
        match len.checked_mul(self.bits()) {
            Some(bits) => Some(bits.div_ceil(8)),
            None => None,
        }
    }
    /// Binary floating point of any width.
    pub const fn is_float(self) -> bool {
        use DType::*;
        matches!(
            self,
            F16 | F32
                | F64
                | BF16
                | F8E4M3FN
                | F8E4M3FNUZ
                | F8E5M2
                | F8E5M2FNUZ
                | F8E8M0
                | F6E2M3
                | F6E3M2
                | F4E2M1
        )
    }
    /// Signed or unsigned integer of any width (not bool).
    pub const fn is_integer(self) -> bool {
        use DType::*;
        matches!(self, U2 | U4 | U8 | U16 | U32 | U64 | I2 | I4 | I8 | I16 | I32 | I64)
    }
}

impl From<DType> for &'static str {
    fn from(dtype: DType) -> Self {
        dtype.name()
    }
}
impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
