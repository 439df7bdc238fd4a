//! Writing models: to memory, or to a file that appears whole or not at all.

use super::{
    export,
    sink::{FileSink, Sink},
};
use crate::{
    error::{Error, Result},
    ir::{Model, ValueId},
};
use std::{collections::HashMap, ffi::OsString, io, path::Path};
use tempfile::NamedTempFile;

/// Where weights are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExternalData {
    /// Into the model's file, unless it would come near the 2 GiB that protobuf can hold.
    #[default]
    Auto,
    /// Into the model's file.
    Never,
    /// Into `NAME.onnx.data` beside the model, but for small ones.
    Always,
}

/// How a model is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SaveOptions {
    /// Where weights go.
    pub external_data: ExternalData,
}

/// With more weights than this, `Auto` writes them to a file of their own.
const LARGEST_INLINE: u64 = 1_900_000_000;
/// Weights below this many bytes stay in the model's file.
const SMALLEST_EXTERNAL: usize = 1024;
/// Offsets in a data file are multiples of this, so that readers can map single weights.
const ALIGNMENT: u64 = 4096;

/// The model as the bytes of one file, every weight inside.
pub fn to_bytes(model: &Model) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    export::model(model, &|_| None, &mut bytes).map_err(|e| Error::io("cannot encode", "the model", e))?;
    Ok(bytes)
}

/// Writes a model. Files are written beside their target and renamed when complete, the data file first: a run that
/// fails or is stopped leaves earlier files as they were. The target may be the file the model was loaded from.
pub fn save(model: &Model, path: &Path, options: &SaveOptions) -> Result<()> {
    let external = match options.external_data {
        ExternalData::Never => false,
        ExternalData::Always => true,
        ExternalData::Auto => export::weight_bytes(model) > LARGEST_INLINE,
    };
    let mut places = HashMap::new();
    let mut data = None;
    if external {
        let mut name = OsString::from(path.file_name().unwrap_or_default());
        name.push(".data");
        let target = path.with_file_name(&name);
        let location = name.to_str().ok_or_else(|| {
            let what = format!("{} is not UTF-8, and a model can only name UTF-8 files", target.display());
            Error::usage(what, "choose another output name")
        })?;
        let file = temporary(&target)?;
        places = write_data(model, location, &file).map_err(|e| Error::io("cannot write", &target, e))?;
        data = Some((file, target));
    }
    let file = temporary(path)?;
    let mut sink = FileSink::new(file.as_file());
    export::model(model, &|v| places.get(&v).cloned(), &mut sink)
        .and_then(|()| sink.finish())
        .map_err(|e| Error::io("cannot write", path, e))?;
    if let Some((data, target)) = data {
        persist(data, &target)?;
    }
    persist(file, path)
}

fn temporary(target: &Path) -> Result<NamedTempFile> {
    let folder = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let named = tempfile::Builder::new().prefix(".onnx-compress-").tempfile_in(folder);
    named.map_err(|e| Error::io("cannot create a file beside", target, e))
}

fn persist(file: NamedTempFile, target: &Path) -> Result<()> {
    let failed = |e| Error::io("cannot write", target, e);
    file.as_file().sync_all().map_err(failed)?;
    // A temporary file is private to its owner; a result gets the permissions any new file would.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(target).map_or(0o644, |m| m.permissions().mode());
        file.as_file().set_permissions(std::fs::Permissions::from_mode(mode)).map_err(failed)?;
    }
    file.persist(target).map_err(|e| failed(e.error))?;
    Ok(())
}

/// Writes the larger weights one after another, and says where each lies.
fn write_data(
    model: &Model,
    location: &str,
    file: &NamedTempFile,
) -> io::Result<HashMap<ValueId, (String, u64)>> {
    let mut sink = FileSink::new(file.as_file());
    let (mut places, mut at) = (HashMap::new(), 0);
    for (v, tensor) in model.graph.initializers() {
        let Some(data) = tensor.data().filter(|d| d.len() >= SMALLEST_EXTERNAL) else { continue };
        at = sink.align(at, ALIGNMENT)?;
        sink.data(data)?;
        places.insert(v, (location.to_owned(), at));
        at += data.len() as u64;
    }
    sink.finish()?;
    Ok(places)
}
