//! Types of values: element type and shape with symbolic dimensions.

use super::DType;
use smallvec::SmallVec;
use std::fmt;

/// One dimension.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub enum Dim {
    /// A known extent.
    Known(usize),
    /// A named extent, or an expression over names ("batch*seq"); equal text means equal extent.
    Symbol(String),
    /// Nothing is known.
    #[default]
    Unknown,
}

impl Dim {
    /// The extent, where it is known.
    pub fn known(&self) -> Option<usize> {
        match self {
            Dim::Known(n) => Some(*n),
            _ => None,
        }
    }
}
impl From<usize> for Dim {
    fn from(n: usize) -> Self {
        Dim::Known(n)
    }
}
impl From<&str> for Dim {
    fn from(name: &str) -> Self {
        Dim::Symbol(name.to_owned())
    }
}
impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Known(n) => write!(f, "{n}"),
            Dim::Symbol(s) => f.write_str(s),
            Dim::Unknown => f.write_str("?"),
        }
    }
}

/// The dimensions of a tensor of known rank.
pub type Shape = SmallVec<[Dim; 4]>;

/// Element type and shape of a tensor, each as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TensorType {
    /// The element type.
    pub dtype: Option<DType>,
    /// The dimensions; `None` where not even the rank is known.
    pub shape: Option<Shape>,
}

impl TensorType {
    /// A tensor of known rank.
    pub fn new(dtype: DType, shape: impl IntoIterator<Item = Dim>) -> Self {
        TensorType { dtype: Some(dtype), shape: Some(shape.into_iter().collect()) }
    }
    /// The number of dimensions.
    pub fn rank(&self) -> Option<usize> {
        self.shape.as_ref().map(|s| s.len())
    }
    /// The shape, where every dimension is known.
    pub fn static_shape(&self) -> Option<Vec<usize>> {
        self.shape.as_ref()?.iter().map(Dim::known).collect()
    }
}

/// As people read it: `float[batch,3,?]`, and `?` for what is not known at all.
impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.dtype.map_or("?", |dtype| dtype.name()))?;
        let Some(shape) = &self.shape else { return Ok(()) };
        let dims: Vec<_> = shape.iter().map(ToString::to_string).collect();
        write!(f, "[{}]", dims.join(","))
    }
}

/// The type of a value (`TypeProto`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// A dense tensor.
    Tensor(TensorType),
    /// A sparse tensor.
    SparseTensor(TensorType),
    /// A sequence of elements of one type.
    Sequence(Box<Type>),
    /// An optional element.
    Optional(Box<Type>),
    /// A map; ONNX allows integer and string keys.
    Map(DType, Box<Type>),
    /// A `TypeProto` that names no type, or a kind this version does not know.
    Opaque,
}

impl Type {
    /// A dense tensor of known rank.
    pub fn tensor(dtype: DType, shape: impl IntoIterator<Item = Dim>) -> Self {
        Type::Tensor(TensorType::new(dtype, shape))
    }
    /// The dense tensor type, if it is one.
    pub fn as_tensor(&self) -> Option<&TensorType> {
        match self {
            Type::Tensor(t) => Some(t),
            _ => None,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Tensor(t) => write!(f, "{t}"),
            Type::SparseTensor(t) => write!(f, "sparse {t}"),
            Type::Sequence(of) => write!(f, "sequence of {of}"),
            Type::Optional(of) => write!(f, "optional {of}"),
            Type::Map(key, to) => write!(f, "map of {key} to {to}"),
            Type::Opaque => f.write_str("?"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_read_as_text() {
        let t = Type::tensor(DType::F32, ["batch".into(), 3.into(), Dim::Unknown]);
        assert_eq!(t.to_string(), "float[batch,3,?]");
        let unranked = Type::Tensor(TensorType { dtype: Some(DType::I64), shape: None });
        let nested = Type::Map(DType::String, Box::new(Type::Sequence(Box::new(unranked))));
        assert_eq!(nested.to_string(), "map of string to sequence of int64");
        assert_eq!(Type::Tensor(TensorType::default()).to_string(), "?");
    }
}
