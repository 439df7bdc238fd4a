//! Writing a model to disk so that nobody ever sees half of it.

use super::{DataFile, Rope, Writer, check_size};
use crate::{
    error::{Error, Result},
    files::{folder_of, put_in_place, temporary},
    ir::Model,
    lower::rope::write_data,
};
use std::{
    fs,
    io::{self, Seek as _, SeekFrom},
    path::Path,
};
use tempfile::NamedTempFile;

/// Above this size (1.9 GiB) [`ExternalData::Auto`] writes external data: protobuf ends at 2 GiB.
const AUTO_LIMIT: usize = 1_945 << 20;

/// Whether large tensors go into a file of their own, `<model file>.data` beside the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExternalData {
    /// Only where the model would come near protobuf's limit of 2 GiB.
    #[default]
    Auto,
    /// Never: everything in one file, or an error above 2 GiB.
    Never,
    /// Always, for tensors of 1 KiB and more.
    Always,
}

/// How a model is written.
#[derive(Clone, Copy, Debug, Default)]
pub struct SaveOptions {
    /// Where large tensors go.
    pub external_data: ExternalData,
}

/// Writes a model. The file appears complete or not at all: it is written under another name in the same folder and
/// renamed (external data first), so a failed or interrupted run leaves an earlier file of that name, and the model's
/// own input file, as they were; what replaces a file is on the disk before it does, so not even a power failure loses
/// both. `path` may be the file the model was loaded from.
///
/// Returns the bytes of all files written.
///
/// # Errors
/// [`Error::Usage`] where `path` cannot be a model file, [`Error::Io`] where writing fails, [`Error::Unsupported`]
/// where the model does not fit into one file and may not have external data.
pub fn save(model: &Model, path: &Path, options: &SaveOptions) -> Result<u64> {
    let name = check_target(path)?;
    let (rope, data_file) = encode(model, &name, options.external_data);
    check_size(&rope)?;
    let data_file = data_file.filter(|file| !file.parts.is_empty());
    let folder = folder_of(path);
    let failed = |source| Error::io("cannot write", path, source);
    let external = data_file.as_ref().map_or(0, |file| file.end);
    let data = match &data_file {
        Some(file) => Some((write_parts(file, path).map_err(failed)?, folder.join(&file.name))),
        None => None,
    };
    let mut whole = temporary(path).map_err(failed)?;
    rope.write_to(whole.as_file_mut()).map_err(failed)?;
    if let Some((data, to)) = data {
        put_in_place(data, &to)?;
    }
    put_in_place(whole, path)?;
    Ok(rope.len() as u64 + external)
}

fn encode(model: &Model, name: &str, external: ExternalData) -> (Rope, Option<DataFile>) {
    if external != ExternalData::Always {
        let rope = Writer::default().model(model);
        if external == ExternalData::Never || rope.len() <= AUTO_LIMIT {
            return (rope, None);
        }
    }
    let mut writer = Writer { data_file: Some(DataFile::new(format!("{name}.data"))), ..Writer::default() };
    let rope = writer.model(model);
    (rope, writer.data_file)
}

/// The target's file name, if it can be a model file.
fn check_target(path: &Path) -> Result<String> {
    let refuse = |why: &str| {
        let help = "give the path of the .onnx file to write";
        Err(Error::usage(format!("cannot write {}: {why}", path.display()), help))
    };
    let Some(name) = path.file_name() else { return refuse("it names no file") };
    let Some(name) = name.to_str() else { return refuse("its name is not UTF-8, which models require") };
    if fs::metadata(path).is_ok_and(|target| !target.is_file()) {
        return refuse("it is no regular file");
    }
    if !folder_of(path).is_dir() {
        return refuse("its folder does not exist");
    }
    Ok(name.to_owned())
}

fn write_parts(file: &DataFile, path: &Path) -> io::Result<NamedTempFile> {
    let mut out = temporary(path)?;
    for (start, data) in &file.parts {
        // Gaps between tensors become holes.
        out.as_file_mut().seek(SeekFrom::Start(*start))?;
        write_data(data, out.as_file_mut())?;
    }
    Ok(out)
}
