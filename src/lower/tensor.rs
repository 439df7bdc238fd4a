//! Tensors as ONNX stores them: raw bytes, typed fields, or a range of another file.

use super::{external::Folder, proto as pb};
use crate::{
    error::{Error, Result},
    ir::{Carried, DType, SparseTensor, Storage, Tensor, Where},
};
use bytes::Bytes;
use prost::Message;

/// A tensor whose name the caller has taken (or leaves to be carried).
pub(super) fn read(mut t: pb::TensorProto, folder: &Folder, at: &Where) -> Result<Tensor> {
    let bad = |why: String| Error::malformed(at.clone(), why);
    let number = t.data_type.take().unwrap_or_default();
    let dtype = DType::from_onnx(number).ok_or_else(|| bad(format!("element type {number} is unknown")))?;
    let dims = dims(&std::mem::take(&mut t.dims)).ok_or_else(|| bad("a dimension is negative".into()))?;
    let external = t.data_location.take() == Some(pb::tensor_proto::DataLocation::External as i32);
    let located = |e: Error| match e {
        Error::Malformed { why, .. } => bad(why),
        e => e,
    };
    let tensor = if external {
        let entries = std::mem::take(&mut t.external_data);
        let need = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).and_then(|n| dtype.bytes_for(n));
        let need = need.ok_or_else(|| bad(format!("{dtype}{dims:?} is larger than memory can address")))?;
        Tensor::new(dtype, dims, folder.data(&entries, need, at)?)
    } else if let Some(raw) = t.raw_data.take() {
        Tensor::new(dtype, dims, folder.own(raw))
    } else if dtype == DType::String {
        Tensor::strings(dims, std::mem::take(&mut t.string_data))
    } else {
        let bytes = typed_bytes(dtype, &mut t).ok_or_else(|| bad(format!("{dtype} has no typed field")))?;
        Tensor::new(dtype, dims, bytes).map(|t| t.stored(Storage::Typed))
    };
    let mut tensor = tensor.map_err(located)?;
    tensor.carried = Carried(t.encode_to_vec().into());
    Ok(tensor)
}

fn dims(dims: &[i64]) -> Option<Vec<usize>> {
    dims.iter().map(|d| usize::try_from(*d).ok()).collect()
}

/// The elements of the typed field that belongs to `dtype`, as `raw_data` would hold them.
fn typed_bytes(dtype: DType, t: &mut pb::TensorProto) -> Option<Vec<u8>> {
    use DType::*;
    let ints = |width: usize, t: &mut pb::TensorProto| -> Vec<u8> {
        std::mem::take(&mut t.int32_data)
            .iter()
            .flat_map(|x| x.to_le_bytes().into_iter().take(width))
            .collect()
    };
    Some(match dtype {
        F32 | Complex64 => std::mem::take(&mut t.float_data).iter().flat_map(|x| x.to_le_bytes()).collect(),
        F64 | Complex128 => std::mem::take(&mut t.double_data).iter().flat_map(|x| x.to_le_bytes()).collect(),
        I64 => std::mem::take(&mut t.int64_data).iter().flat_map(|x| x.to_le_bytes()).collect(),
        U64 => std::mem::take(&mut t.uint64_data).iter().flat_map(|x| x.to_le_bytes()).collect(),
        U32 => {
            let wide = std::mem::take(&mut t.uint64_data);
            wide.iter().flat_map(|x| x.to_le_bytes().into_iter().take(4)).collect()
        }
        I32 => ints(4, t),
        F16 | BF16 | U16 | I16 => ints(2, t),
        String => return None,
        _ => ints(1, t),
    })
}

/// A sparse tensor.
pub(super) fn read_sparse(mut s: pb::SparseTensorProto, folder: &Folder, at: &Where) -> Result<SparseTensor> {
    let bad = |why: &str| Error::malformed(at.clone(), why);
    let values = s.values.take().ok_or_else(|| bad("a sparse tensor has no values"))?;
    let indices = s.indices.take().ok_or_else(|| bad("a sparse tensor has no indices"))?;
    let dims = dims(&std::mem::take(&mut s.dims)).ok_or_else(|| bad("a dimension is negative"))?;
    Ok(SparseTensor {
        values: read(values, folder, at)?,
        indices: read(indices, folder, at)?,
        dims,
        carried: Carried(s.encode_to_vec().into()),
    })
}

/// Everything about a tensor but its raw bytes: those the caller writes.
pub(super) fn header(tensor: &Tensor) -> pb::TensorProto {
    let mut t = pb::TensorProto::decode(tensor.carried.0.clone()).unwrap_or_default();
    t.data_type = Some(tensor.dtype().onnx());
    t.dims = tensor.shape().iter().map(|d| *d as i64).collect();
    if let Some(strings) = tensor.as_strings() {
        t.string_data = strings.to_vec();
    } else if tensor.storage() == Storage::Typed {
        write_typed(tensor, &mut t);
    }
    t
}

/// A tensor with its bytes.
pub(super) fn write(tensor: &Tensor) -> pb::TensorProto {
    let mut t = header(tensor);
    if has_raw(tensor) {
        t.raw_data = Some(Bytes::copy_from_slice(tensor.bytes()));
    }
    t
}

/// Whether a tensor's bytes go to `raw_data` (or an external file).
pub(super) fn has_raw(tensor: &Tensor) -> bool {
    tensor.storage() == Storage::Raw && tensor.as_strings().is_none()
}

fn write_typed(tensor: &Tensor, t: &mut pb::TensorProto) {
    use DType::*;
    let bytes = tensor.bytes();
    let word = |chunk: &[u8]| {
        let mut wide = [0u8; 8];
        wide[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(wide)
    };
    let words = |width: usize| bytes.chunks(width).map(word);
    match tensor.dtype() {
        F32 | Complex64 => t.float_data = words(4).map(|w| f32::from_bits(w as u32)).collect(),
        F64 | Complex128 => t.double_data = words(8).map(f64::from_bits).collect(),
        I64 => t.int64_data = words(8).map(|w| w as i64).collect(),
        U64 => t.uint64_data = words(8).collect(),
        U32 => t.uint64_data = words(4).collect(),
        I32 => t.int32_data = words(4).map(|w| w as i32).collect(),
        I16 => t.int32_data = words(2).map(|w| i32::from(w as i16)).collect(),
        F16 | BF16 | U16 => t.int32_data = words(2).map(|w| w as i32).collect(),
        I8 => t.int32_data = words(1).map(|w| i32::from(w as i8)).collect(),
        _ => t.int32_data = words(1).map(|w| w as i32).collect(),
    }
}
