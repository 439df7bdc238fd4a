//! Names to leave alone, given as globs.

use crate::error::{Error, Result};
use globset::{Glob, GlobSet, GlobSetBuilder};

/// Compiles the globs of the option `exclude`.
pub(super) fn excluded(globs: &[String]) -> Result<GlobSet> {
    let bad = |e: globset::Error| Error::usage(format!("`exclude`: {e}"), "write it like `layer4*`");
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        set.add(Glob::new(glob).map_err(bad)?);
    }
    set.build().map_err(bad)
}
