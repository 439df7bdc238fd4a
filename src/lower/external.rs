//! Finding and mapping external data: only files inside the model's folder, each mapped once.

use crate::{
    error::{Error, Result},
    ir::{Data, MappedFile},
};
use std::{
    cell::RefCell,
    collections::HashMap,
    fs,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

/// Where a tensor says its bytes are (`TensorProto.external_data`).
#[derive(Default)]
pub(super) struct Location {
    /// The file, relative to the model's folder.
    pub(super) file: String,
    /// The first byte.
    pub(super) offset: usize,
    /// The number of bytes, where it is given.
    pub(super) length: Option<usize>,
}

impl Location {
    /// Takes over one entry; entries that say nothing about the place (a checksum) are passed over.
    pub(super) fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let number = || {
            value
                .trim()
                .parse()
                .map_err(|_| format!("its external data has {key} `{value}`, which is no number of bytes"))
        };
        match key {
            "location" => self.file = value.to_owned(),
            "offset" => self.offset = number()?,
            "length" => self.length = Some(number()?),
            _ => {}
        }
        Ok(())
    }
}

/// The data files of one model.
pub(super) struct ExternalFiles {
    folder: Option<PathBuf>,
    open: RefCell<HashMap<String, Arc<MappedFile>>>,
}

impl ExternalFiles {
    /// Data files of a model that lies in `folder`.
    pub(super) fn new(folder: Option<&Path>) -> Self {
        // The folder of a bare file name is the empty path, which the system does not take for the current folder.
        let folder = folder.map(|f| if f.as_os_str().is_empty() { PathBuf::from(".") } else { f.to_owned() });
        ExternalFiles { folder, open: RefCell::default() }
    }

    /// The `need` bytes of a tensor; the error says what is wrong with them, to be completed by the tensor's name.
    pub(super) fn data(&self, at: &Location, need: usize) -> Result<Data, ExternalError> {
        let file = self.file(&at.file)?;
        if let Some(length) = at.length.filter(|length| *length != need) {
            let why = format!(
                "its external data is said to be {length} bytes long, but type and shape take {need}"
            );
            return Err(ExternalError::Malformed(why));
        }
        let range = at.offset.checked_add(need).map(|end| at.offset..end);
        range.and_then(|range| Data::mapped(&file, range)).ok_or_else(|| {
            let (path, size) = (file.path().display(), file.bytes().len());
            ExternalError::Malformed(format!(
                "its {need} bytes from byte {} on reach past the end of {path} ({size} bytes); is the file complete?",
                at.offset
            ))
        })
    }

    fn file(&self, location: &str) -> Result<Arc<MappedFile>, ExternalError> {
        if let Some(file) = self.open.borrow().get(location) {
            return Ok(file.clone());
        }
        let path = self.resolve(location)?;
        let file = MappedFile::open(&path).map_err(|source| ExternalError::Io(path, source))?;
        self.open.borrow_mut().insert(location.to_owned(), file.clone());
        Ok(file)
    }

    /// The path of a data file that is a regular file inside the folder.
    fn resolve(&self, location: &str) -> Result<PathBuf, ExternalError> {
        let refuse = |why: &str| {
            let why = format!("its external data `{location}` {why}");
            Err(ExternalError::Malformed(why))
        };
        let Some(folder) = &self.folder else {
            return refuse("cannot be found: the model was not read from a file, so it has no folder");
        };
        if location.is_empty() {
            return refuse("has no file name");
        }
        let inside = |c: Component<'_>| matches!(c, Component::Normal(_) | Component::CurDir);
        if !Path::new(location).components().all(inside) {
            return refuse(
                "lies outside the model's folder; move it beside the model and name it by a relative path",
            );
        }
        let path = folder.join(location);
        let real = path.canonicalize().map_err(|source| ExternalError::Io(path.clone(), source))?;
        let folder = folder.canonicalize().map_err(|source| ExternalError::Io(folder.clone(), source))?;
        if !real.starts_with(&folder) {
            return refuse(
                "is a link that leads out of the model's folder; copy the file itself beside the model",
            );
        }
        // Opening a pipe would wait for a writer.
        let kind = fs::metadata(&real).map_err(|source| ExternalError::Io(real.clone(), source))?;
        if !kind.is_file() {
            return refuse("is no regular file");
        }
        Ok(real)
    }
}

/// Why external data cannot be had.
pub(super) enum ExternalError {
    /// What the tensor says is wrong.
    Malformed(String),
    /// The system refuses the file.
    Io(PathBuf, std::io::Error),
}

impl ExternalError {
    /// The same about a named tensor.
    pub(super) fn of(self, tensor: crate::ir::Where) -> Error {
        match self {
            ExternalError::Malformed(why) => Error::malformed(tensor, why),
            ExternalError::Io(path, source) => {
                let why = format!(
                    "its external data {} cannot be read ({source}); external data must lie beside the model",
                    path.display()
                );
                Error::malformed(tensor, why)
            }
        }
    }
}
