//! Constants: dense, external and sparse.

use super::{set_once, types};
use crate::{
    error::{Error, Result},
    ir::{DType, Data, SparseTensor, Storage, Tensor, Where},
    lower::{
        external::{ExternalFiles, Location},
        proto::{
            field::{sparse_tensor_proto, tensor_proto as t},
            tensor_proto::DataLocation,
        },
        wire::{Field, Message},
    },
};
use bytes::Bytes;

/// Reads a tensor whose name is the value's, such as an initializer.
pub(super) fn named(files: &ExternalFiles, message: &Message<'_>) -> Result<(String, Tensor)> {
    read(files, message, false)
}

/// Reads a tensor whose name, if it has one, says nothing; it is carried along.
pub(super) fn unnamed(files: &ExternalFiles, message: &Message<'_>) -> Result<Tensor> {
    Ok(read(files, message, true)?.1)
}

/// Reads a sparse initializer: its values bear its name.
pub(super) fn named_sparse(files: &ExternalFiles, message: &Message<'_>) -> Result<(String, SparseTensor)> {
    read_sparse(files, message, false)
}

/// Reads a sparse tensor in an attribute.
pub(super) fn unnamed_sparse(files: &ExternalFiles, message: &Message<'_>) -> Result<SparseTensor> {
    Ok(read_sparse(files, message, true)?.1)
}

/// The field that holds the elements of a type where `raw_data` does not.
pub(in crate::lower) fn typed_field(dtype: DType) -> u32 {
    match dtype {
        DType::F32 | DType::Complex64 => t::FLOAT_DATA,
        DType::F64 | DType::Complex128 => t::DOUBLE_DATA,
        DType::I64 => t::INT64_DATA,
        DType::U32 | DType::U64 => t::UINT64_DATA,
        DType::String => t::STRING_DATA,
        _ => t::INT32_DATA,
    }
}

/// Whether the elements in the typed field have a fixed size, so that their packed bytes are as in `raw_data`.
pub(in crate::lower) fn is_fixed(field: u32) -> bool {
    matches!(field, t::FLOAT_DATA | t::DOUBLE_DATA)
}

/// The bytes of `raw_data` that one integer of the typed field stands for. Elements smaller than a byte are packed
/// into bytes there too.
pub(in crate::lower) fn bytes_per_int(dtype: DType) -> usize {
    (dtype.bits() / 8).max(1)
}

fn read(files: &ExternalFiles, message: &Message<'_>, keep_name: bool) -> Result<(String, Tensor)> {
    let mut kept = message.residue();
    let (mut name, mut dims, mut number) = (String::new(), Vec::new(), 0);
    let (mut raw, mut location, mut external) = (None, Location::default(), false);
    let mut place_error = None;
    for f in message.fields() {
        let f = f?;
        match f.number {
            t::NAME => {
                name = f.text()?;
                if keep_name || name.is_empty() {
                    kept.keep(&f);
                }
            }
            t::DIMS => f.each_int(|dim| dims.push(dim))?,
            t::DATA_TYPE => number = f.int()?,
            t::RAW_DATA => raw = Some(f),
            t::DATA_LOCATION if f.int()? == DataLocation::External as i64 => external = true,
            t::EXTERNAL_DATA => {
                let (key, value) = types::pair(&f.message()?)?;
                place_error = place_error.or(location.set(&key, &value).err());
            }
            t::FLOAT_DATA
            | t::INT32_DATA
            | t::INT64_DATA
            | t::DOUBLE_DATA
            | t::UINT64_DATA
            | t::STRING_DATA => {}
            _ => kept.keep(&f),
        }
    }
    let at = || if name.is_empty() { Where::Model } else { Where::Value(name.clone()) };
    let failed = |why: String| Error::malformed(at(), format!("tensor: {why}"));
    let dtype = i32::try_from(number).ok().and_then(DType::from_onnx);
    let dtype =
        dtype.ok_or_else(|| failed(format!("element type {number} is not one this program knows")))?;
    let shape: Vec<usize> = dims
        .iter()
        .map(|dim| usize::try_from(*dim).map_err(|_| failed(format!("its dimension {dim} is negative"))))
        .collect::<Result<_>>()?;
    let fields = typed_fields(message, dtype, &failed)?;
    let mut tensor = if external {
        if let Some(why) = place_error {
            return Err(failed(why));
        }
        if dtype == DType::String {
            return Err(failed("strings cannot be external data".into()));
        }
        let need = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).and_then(|n| dtype.bytes_for(n));
        let need =
            need.ok_or_else(|| failed(format!("its shape {shape:?} is larger than memory can address")))?;
        let data = files.data(&location, need).map_err(|error| error.of(at()))?;
        Tensor::new(dtype, shape, data)
    } else {
        match raw {
            Some(f) if fields.is_empty() => Tensor::new(dtype, shape, f.data()?),
            Some(f) if !f.bytes()?.is_empty() => {
                return Err(failed(
                    "it has both raw_data and a typed field, of which only one can count".into(),
                ));
            }
            empty => {
                if let Some(f) = &empty {
                    kept.keep(f);
                }
                match dtype {
                    DType::String => strings(shape, &fields),
                    _ => Tensor::new(dtype, shape, elements(dtype, &fields)?),
                }
                .map(|tensor| tensor.stored(Storage::Typed))
            }
        }
    }
    .map_err(|error| match error {
        Error::Malformed { why, .. } => failed(why),
        other => other,
    })?;
    tensor.carried = kept.finish();
    Ok((name, tensor))
}

/// The records of the field that holds elements of this type; another typed field may only be there empty.
fn typed_fields<'a>(
    message: &Message<'a>,
    dtype: DType,
    failed: &impl Fn(String) -> Error,
) -> Result<Vec<Field<'a>>> {
    let own = typed_field(dtype);
    let mut fields: Vec<Field<'a>> = Vec::new();
    for f in message.fields() {
        let f = f?;
        if f.number == own {
            fields.push(f);
        } else if matches!(
            f.number,
            t::FLOAT_DATA | t::INT32_DATA | t::INT64_DATA | t::DOUBLE_DATA | t::UINT64_DATA | t::STRING_DATA
        ) && !f.bytes().is_ok_and(|bytes| bytes.is_empty())
        {
            let why =
                format!("its elements are {dtype} but stand in field {}, which holds another type", f.number);
            return Err(failed(why));
        }
    }
    Ok(fields)
}

fn elements(dtype: DType, fields: &[Field<'_>]) -> Result<Data> {
    if is_fixed(typed_field(dtype)) {
        if let [only] = fields
            && let Some(data) = only.packed()
        {
            return Ok(data);
        }
        let mut bytes = Vec::new();
        fields.iter().try_for_each(|f| f.extend_fixed(&mut bytes))?;
        return Ok(bytes.into());
    }
    let (mut bytes, width) = (Vec::new(), bytes_per_int(dtype));
    fields.iter().try_for_each(|f| f.each_int(|i| bytes.extend(&i.to_le_bytes()[..width])))?;
    Ok(bytes.into())
}

fn strings(shape: Vec<usize>, fields: &[Field<'_>]) -> Result<Tensor> {
    let values: Vec<Bytes> = fields.iter().map(Field::bytes).collect::<Result<_>>()?;
    Tensor::strings(shape, values)
}

fn read_sparse(
    files: &ExternalFiles,
    message: &Message<'_>,
    keep_name: bool,
) -> Result<(String, SparseTensor)> {
    let mut kept = message.residue();
    let (mut values, mut indices, mut dims) = (None, None, Vec::new());
    for f in message.fields() {
        let f = f?;
        match f.number {
            sparse_tensor_proto::VALUES => {
                set_once(&mut values, f.message()?, "a sparse tensor has two values")?;
            }
            sparse_tensor_proto::INDICES => {
                set_once(&mut indices, f.message()?, "a sparse tensor has two indices")?;
            }
            sparse_tensor_proto::DIMS => f.each_int(|dim| dims.push(dim))?,
            _ => kept.keep(&f),
        }
    }
    let missing = || Error::malformed((), "a sparse tensor lacks its values or indices");
    let (name, values) = read(files, &values.ok_or_else(missing)?, keep_name)?;
    let at = || if name.is_empty() { Where::Model } else { Where::Value(name.clone()) };
    let (_, indices) = read(files, &indices.ok_or_else(missing)?, true)?;
    let dims: Vec<usize> = dims
        .iter()
        .map(|dim| {
            usize::try_from(*dim).map_err(|_| Error::malformed(at(), format!("dimension {dim} is negative")))
        })
        .collect::<Result<_>>()?;
    let linear = indices.rank() == 1 && indices.shape()[0] == values.len();
    let coordinates = indices.shape() == [values.len(), dims.len()];
    if indices.dtype() != DType::I64 || values.rank() != 1 || !(linear || coordinates) {
        let why = format!(
            "sparse tensor: indices {}{:?} do not place {} values in shape {dims:?}",
            indices.dtype(),
            indices.shape(),
            values.len()
        );
        return Err(Error::malformed(at(), why));
    }
    Ok((name, SparseTensor { values, indices, dims, carried: kept.finish() }))
}
