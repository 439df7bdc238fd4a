//! Types of values, and the two small messages that exporting compares with what was read.

use crate::{
    error::{Error, Result},
    ir::{DType, Dim, TensorType, Type, Where},
    lower::{
        proto::{self, StringStringEntryProto, TypeProto, ValueInfoProto, type_proto},
        wire::{Field, Message},
    },
};
use prost::Message as _;
use proto::field::value_info_proto;

/// One `ValueInfoProto`.
pub(in crate::lower) struct ValueInfo<'a> {
    pub(in crate::lower) name: String,
    pub(in crate::lower) ty: Option<Type>,
    /// Whether name and type are all it says, so that it can be made anew from them.
    pub(in crate::lower) canonical: bool,
    pub(in crate::lower) message: Message<'a>,
}

impl<'a> ValueInfo<'a> {
    /// Reads the message in a field.
    pub(in crate::lower) fn read(field: &Field<'a>) -> Result<Self> {
        let message = field.message()?;
        let (mut name, mut ty) = (String::new(), None);
        for f in message.fields() {
            let f = f?;
            match f.number {
                value_info_proto::NAME => name = f.text()?,
                value_info_proto::TYPE => ty = Some(f.message()?),
                _ => {}
            }
        }
        let ty = match ty {
            Some(ty) => Some(read_type(&ty, || Where::Value(name.clone()))?),
            None => None,
        };
        let canonical = encode_value_info(&name, ty.as_ref()) == message.bytes();
        Ok(ValueInfo { name, ty, canonical, message })
    }
}

/// Reads a `TypeProto`.
pub(in crate::lower) fn read_type(message: &Message<'_>, at: impl Fn() -> Where) -> Result<Type> {
    let proto = TypeProto::decode(message.bytes())
        .map_err(|error| Error::malformed(at(), format!("its type cannot be read: {error}")))?;
    Ok(from_proto(&proto))
}

/// The encoded `ValueInfoProto` of a name and a type.
pub(in crate::lower) fn encode_value_info(name: &str, ty: Option<&Type>) -> Vec<u8> {
    let name = Some(name.to_owned());
    ValueInfoProto { name, r#type: ty.map(to_proto), ..ValueInfoProto::default() }.encode_to_vec()
}

/// A `StringStringEntryProto`.
pub(in crate::lower) fn pair(message: &Message<'_>) -> Result<(String, String)> {
    let entry = StringStringEntryProto::decode(message.bytes())
        .map_err(|error| Error::malformed((), format!("a pair of key and value cannot be read: {error}")))?;
    Ok((entry.key.unwrap_or_default(), entry.value.unwrap_or_default()))
}

/// The encoded `StringStringEntryProto` of a pair.
pub(in crate::lower) fn encode_pair((key, value): &(String, String)) -> Vec<u8> {
    StringStringEntryProto { key: Some(key.clone()), value: Some(value.clone()) }.encode_to_vec()
}

fn from_proto(proto: &TypeProto) -> Type {
    use type_proto::Value;
    let inner = |ty: &Option<Box<TypeProto>>| Box::new(ty.as_ref().map_or(Type::Opaque, |ty| from_proto(ty)));
    match &proto.value {
        Some(Value::TensorType(t)) => Type::Tensor(tensor_type(t.elem_type, t.shape.as_ref())),
        Some(Value::SparseTensorType(t)) => Type::SparseTensor(tensor_type(t.elem_type, t.shape.as_ref())),
        Some(Value::SequenceType(t)) => Type::Sequence(inner(&t.elem_type)),
        Some(Value::OptionalType(t)) => Type::Optional(inner(&t.elem_type)),
        Some(Value::MapType(t)) => match DType::from_onnx(t.key_type.unwrap_or_default()) {
            Some(key) => Type::Map(key, inner(&t.value_type)),
            None => Type::Opaque,
        },
        Some(Value::OpaqueType(_)) | None => Type::Opaque,
    }
}

fn tensor_type(dtype: Option<i32>, shape: Option<&proto::TensorShapeProto>) -> TensorType {
    use proto::tensor_shape_proto::dimension::Value;
    let dim = |d: &proto::tensor_shape_proto::Dimension| match &d.value {
        Some(Value::DimValue(n)) => usize::try_from(*n).map_or(Dim::Unknown, Dim::Known),
        Some(Value::DimParam(name)) if !name.is_empty() => Dim::Symbol(name.clone()),
        _ => Dim::Unknown,
    };
    TensorType {
        dtype: dtype.and_then(DType::from_onnx),
        shape: shape.map(|shape| shape.dim.iter().map(dim).collect()),
    }
}

/// The `TypeProto` of a type.
pub(in crate::lower) fn to_proto(ty: &Type) -> TypeProto {
    use type_proto::{Map, Optional, Sequence, SparseTensor, Tensor, Value};
    let inner = |ty: &Type| Some(Box::new(to_proto(ty)));
    let value = match ty {
        Type::Tensor(t) => Some(Value::TensorType(Tensor { elem_type: dtype(t), shape: shape(t) })),
        Type::SparseTensor(t) => {
            Some(Value::SparseTensorType(SparseTensor { elem_type: dtype(t), shape: shape(t) }))
        }
        Type::Sequence(t) => Some(Value::SequenceType(Box::new(Sequence { elem_type: inner(t) }))),
        Type::Optional(t) => Some(Value::OptionalType(Box::new(Optional { elem_type: inner(t) }))),
        Type::Map(key, t) => {
            Some(Value::MapType(Box::new(Map { key_type: Some(key.onnx()), value_type: inner(t) })))
        }
        Type::Opaque => None,
    };
    TypeProto { value, denotation: None }
}

fn dtype(ty: &TensorType) -> Option<i32> {
    ty.dtype.map(DType::onnx)
}

fn shape(ty: &TensorType) -> Option<proto::TensorShapeProto> {
    use proto::tensor_shape_proto::{Dimension, dimension::Value};
    let dim = |d: &Dim| {
        let value = match d {
            // An extent beyond i64 cannot come from a file nor be that of any tensor.
            Dim::Known(n) => i64::try_from(*n).ok().map(Value::DimValue),
            Dim::Symbol(name) => Some(Value::DimParam(name.clone())),
            Dim::Unknown => None,
        };
        Dimension { value, denotation: None }
    };
    Some(proto::TensorShapeProto { dim: ty.shape.as_ref()?.iter().map(dim).collect() })
}
