//! External data: tensors whose bytes lie in other files of the model's folder.

use super::proto as pb;
use crate::{
    error::{Error, Result},
    ir::{Data, MappedFile, Where},
};
use bytes::Bytes;
use std::{
    cell::RefCell,
    collections::HashMap,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

/// Where a model's bytes come from: its own file, where it is mapped, and the folder of its external data.
#[derive(Default)]
pub(super) struct Folder {
    own: Option<Arc<MappedFile>>,
    path: Option<PathBuf>,
    files: RefCell<HashMap<PathBuf, Arc<MappedFile>>>,
}

impl Folder {
    /// The surroundings of a mapped model file, or of bytes with an optional folder.
    pub(super) fn new(own: Option<Arc<MappedFile>>, path: Option<&Path>) -> Self {
        Folder { own, path: path.map(Path::to_owned), files: RefCell::default() }
    }
    /// Bytes that the decoder cut out of the model's own file, as a range of that file.
    pub(super) fn own(&self, bytes: Bytes) -> Data {
        let range = self.own.as_ref().and_then(|file| {
            let start = (bytes.as_ptr() as usize).checked_sub(file.bytes().as_ptr() as usize)?;
            Data::mapped(file, start..start.checked_add(bytes.len())?)
        });
        range.unwrap_or(Data::Owned(bytes))
    }
    /// The bytes that a tensor's `external_data` entries point to; `need` of them where no `length` is given.
    pub(super) fn data(
        &self,
        entries: &[pb::StringStringEntryProto],
        need: usize,
        at: &Where,
    ) -> Result<Data> {
        let bad = |why: String| Error::malformed(at.clone(), why);
        let entry = |key: &str| {
            entries.iter().find(|e| e.key.as_deref() == Some(key)).and_then(|e| e.value.as_deref())
        };
        let number = |key: &str| match entry(key) {
            None => Ok(None),
            Some(text) => text
                .parse::<usize>()
                .map(Some)
                .map_err(|_| bad(format!("external data: `{key}` is `{text}`, not a number"))),
        };
        let location = entry("location").ok_or_else(|| bad("external data names no `location`".into()))?;
        let file = self.file(location, at)?;
        let start = number("offset")?.unwrap_or(0);
        let end = start.checked_add(number("length")?.unwrap_or(need));
        end.and_then(|end| Data::mapped(&file, start..end)).ok_or_else(|| {
            let size = file.bytes().len();
            bad(format!(
                "external data from byte {start} reaches past the end of `{location}` ({size} bytes)"
            ))
        })
    }
    fn file(&self, location: &str, at: &Where) -> Result<Arc<MappedFile>> {
        let bad = |why: String| Error::malformed(at.clone(), why);
        let folder = self.path.as_deref().ok_or_else(|| {
            bad(format!("its bytes lie in `{location}`, but the model did not come from a folder"))
        })?;
        let relative = Path::new(location);
        let inside = relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if !inside {
            return Err(bad(format!("external data `{location}` lies outside the model's folder; refused")));
        }
        let path = folder.join(relative);
        if let Some(file) = self.files.borrow().get(&path) {
            return Ok(file.clone());
        }
        let real =
            path.canonicalize().map_err(|e| bad(format!("external data `{}`: {e}", path.display())))?;
        let root = folder.canonicalize().map_err(|e| Error::io("cannot read", folder, e))?;
        if !real.starts_with(&root) {
            return Err(bad(format!("external data `{location}` leads out of the model's folder; refused")));
        }
        let file = MappedFile::open(&real).map_err(|e| Error::io("cannot read", &path, e))?;
        self.files.borrow_mut().insert(path, file.clone());
        Ok(file)
    }
}
