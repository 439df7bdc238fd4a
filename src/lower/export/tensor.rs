//! Constants, inside the model or beside it.

use super::{Rope, Writer};
use crate::{
    ir::{DType, Data, SparseTensor, Storage, Tensor},
    lower::{
        import::{
            tensor::{bytes_per_int, is_fixed, typed_field},
            types::encode_pair,
        },
        proto::{
            field::{sparse_tensor_proto, tensor_proto as t},
            tensor_proto::DataLocation,
        },
        wire,
    },
};
use std::collections::HashMap;

/// Smaller tensors stay in the model, where tools that only infer shapes find them.
const MIN_EXTERNAL: usize = 1024;
/// Tensors from this size on start at a page, so that runtimes can map them.
const LARGE: usize = 1 << 20;
const PAGE: u64 = 4096;
/// Smaller ones start where vector loads like it.
const ALIGNMENT: u64 = 64;

/// The file beside the model that takes its large tensors, as it is going to be written.
pub(super) struct DataFile {
    /// Its name, relative to the model's folder.
    pub(super) name: String,
    /// The tensors by their first byte, ascending.
    pub(super) parts: Vec<(u64, Data)>,
    /// Where bytes that several tensors share already stand, by address and length.
    placed: HashMap<(usize, usize), u64>,
    /// Its length in bytes.
    pub(super) end: u64,
}

impl DataFile {
    /// An empty one.
    pub(super) fn new(name: String) -> Self {
        DataFile { name, parts: Vec::new(), placed: HashMap::new(), end: 0 }
    }
    /// Adds a tensor's bytes, unless the same memory was added before, and returns where they start.
    fn add(&mut self, data: Data) -> u64 {
        // The parts keep what they hold alive, so an address stands for the same bytes throughout.
        let memory = (data.as_slice().as_ptr().addr(), data.len());
        if let Some(start) = self.placed.get(&memory) {
            return *start;
        }
        let start = self.end.next_multiple_of(if data.len() >= LARGE { PAGE } else { ALIGNMENT });
        self.end = start + data.len() as u64;
        self.placed.insert(memory, start);
        self.parts.push((start, data));
        start
    }
}

impl Writer<'_> {
    /// A tensor; `name` is its value's, or `None` where it has none or carries it.
    pub(super) fn tensor(&mut self, tensor: &Tensor, name: Option<&str>, external: bool) -> Rope {
        let mut out = Rope::default();
        // A constant that was an attribute carries the name it had there; two names would not survive another saving.
        match name {
            Some(_) => out.carried(&wire::without(&tensor.carried, &[t::NAME])),
            None => out.carried(&tensor.carried),
        }
        tensor.shape().iter().for_each(|dim| out.int(t::DIMS, *dim as i64));
        out.int(t::DATA_TYPE, i64::from(tensor.dtype().onnx()));
        if let Some(name) = name {
            out.text(t::NAME, name);
        }
        let apart = name.zip(self.apart).filter(|_| external);
        if let Some(number) = apart.and_then(|(name, apart)| apart.get(name)) {
            out.bytes(t::EXTERNAL_DATA, &encode_pair(&("location".to_owned(), number.to_string())));
            out.int(t::DATA_LOCATION, DataLocation::External as i64);
            return out;
        }
        let file = self.data_file.as_mut().filter(|_| external && tensor.byte_len() >= MIN_EXTERNAL);
        match (tensor.data(), file) {
            (Some(data), Some(file)) => {
                let start = file.add(data.clone());
                for (key, value) in [
                    ("location", file.name.clone()),
                    ("offset", start.to_string()),
                    ("length", data.len().to_string()),
                ] {
                    out.bytes(t::EXTERNAL_DATA, &encode_pair(&(key.to_owned(), value)));
                }
                out.int(t::DATA_LOCATION, DataLocation::External as i64);
            }
            (Some(data), None) if tensor.storage() == Storage::Raw => out.data(t::RAW_DATA, data.clone()),
            (Some(data), None) => typed(&mut out, tensor.dtype(), data),
            (None, _) => {
                let strings = tensor.as_strings().unwrap_or_default();
                strings.iter().for_each(|s| out.bytes(t::STRING_DATA, s));
            }
        }
        out
    }

    /// A sparse tensor.
    pub(super) fn sparse_tensor(&mut self, tensor: &SparseTensor, name: Option<&str>) -> Rope {
        let mut out = Rope::default();
        out.carried(&tensor.carried);
        out.message(sparse_tensor_proto::VALUES, self.tensor(&tensor.values, name, false));
        out.message(sparse_tensor_proto::INDICES, self.tensor(&tensor.indices, None, false));
        tensor.dims.iter().for_each(|dim| out.int(sparse_tensor_proto::DIMS, *dim as i64));
        out
    }
}

/// Writes a tensor's bytes as the numbers of its typed field.
fn typed(out: &mut Rope, dtype: DType, data: &Data) {
    let field = typed_field(dtype);
    if data.is_empty() {
        return;
    }
    if is_fixed(field) {
        return out.data(field, data.clone());
    }
    let width = bytes_per_int(dtype);
    // Negative numbers are written sign-extended, as protobuf has it.
    let signed = matches!(dtype, DType::I8 | DType::I16 | DType::I32);
    let int = |bytes: &[u8]| {
        let mut wide = [if signed && bytes[width - 1] >= 0x80 { 0xff } else { 0 }; 8];
        wide[..width].copy_from_slice(bytes);
        i64::from_le_bytes(wide)
    };
    out.packed(field, data.as_slice().chunks_exact(width).map(int));
}
