//! ONNX protobuf in and out.

mod export;
mod external;
mod import;
mod save;
mod sink;
mod tensor;

pub mod proto;
pub mod schemes;

pub use save::{ExternalData, SaveOptions, save, to_bytes};

use crate::{
    error::{Error, Result},
    ir::{MappedFile, Model, Tensor, Where},
};
use bytes::Bytes;
use external::Folder;
use prost::Message;
use std::{path::Path, sync::Arc};

/// Reads a model file. The file is mapped: weights are not read before they are used.
pub fn load(path: &Path) -> Result<Model> {
    let file = MappedFile::open(path).map_err(|e| Error::io("cannot read", path, e))?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let bytes = Bytes::from_owner(Mapped(file.clone()));
    decode(bytes, &Folder::new(Some(file), Some(folder))).map_err(|e| match e {
        Error::Malformed { at, why } => {
            Error::Malformed { at, why: format!("{why} (in {})", path.display()) }
        }
        e => e,
    })
}

/// Reads a model from bytes; `folder` is where its external data lie, if it has any.
pub fn parse(bytes: Bytes, folder: Option<&Path>) -> Result<Model> {
    decode(bytes, &Folder::new(None, folder))
}

struct Mapped(Arc<MappedFile>);
impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

fn decode(bytes: Bytes, folder: &Folder) -> Result<Model> {
    let decoded = proto::ModelProto::decode(bytes);
    let decoded =
        decoded.map_err(|e| Error::malformed((), format!("not an ONNX model, or cut short: {e}")))?;
    import::model(decoded, folder)
}

/// Reads a tensor file, as ONNX's test data sets hold them, with the tensor's name.
pub fn tensor_from_proto(bytes: Bytes) -> Result<(String, Tensor)> {
    let decoded = proto::TensorProto::decode(bytes);
    let mut decoded =
        decoded.map_err(|e| Error::malformed((), format!("not an ONNX tensor, or cut short: {e}")))?;
    let name = decoded.name.take().unwrap_or_default();
    let tensor = tensor::read(decoded, &Folder::default(), &Where::Value(name.clone()))?;
    Ok((name, tensor))
}

/// The bytes of a tensor file.
pub fn tensor_to_proto(name: &str, tensor: &Tensor) -> Vec<u8> {
    proto::TensorProto { name: Some(name.to_owned()), ..tensor::write(tensor) }.encode_to_vec()
}
