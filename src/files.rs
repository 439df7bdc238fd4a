//! Files that are there as a whole or as they were before: written beside their place and renamed.

use crate::error::{Error, Result};
use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};
use tempfile::NamedTempFile;

/// Writes a file of plain bytes: it is there as a whole, or what was there before is.
pub(crate) fn save_bytes(bytes: &[u8], path: &Path) -> Result<()> {
    let failed = |source| Error::io("cannot write", path, source);
    let mut file = temporary(path).map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    put_in_place(file, path)
}

/// Gives a written file its name.
pub(crate) fn put_in_place(file: NamedTempFile, to: &Path) -> Result<()> {
    let failed = |source| Error::io("cannot write", to, source);
    if to.exists() {
        file.as_file().sync_data().map_err(failed)?;
    }
    file.persist(to).map_err(|error| failed(error.error))?;
    Ok(())
}

/// A file in the folder of `path` that goes away unless it is renamed, with the permissions of a new file, or of the
/// one it replaces.
pub(crate) fn temporary(path: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".onnx-compress-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    let file = builder.tempfile_in(folder_of(path))?;
    if let Ok(old) = fs::metadata(path) {
        fs::set_permissions(file.path(), old.permissions())?;
    }
    Ok(file)
}

/// The folder of a path.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
