//! Makes the parts of the set-up that are missing or out of date.
//!
//! A part is made in a temporary folder and renamed into place with its stamp inside: what is there is whole, and one
//! that has the current stamp is left alone without touching the network.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use anyhow::{Context, Result};

use crate::parts::Part;
use crate::project_dir;
use crate::python::Python;

const STAMP: &str = ".stamp";

pub(crate) fn run(parts: &[Part]) -> Result<()> {
    let root = project_dir().join(".onnx-compress");
    fs::create_dir_all(&root).with_context(|| format!("making {}", root.display()))?;
    // Two set-ups at once would make the same parts: the later one waits, then finds them done.
    let lock = File::create(root.join(".lock"))?;
    lock.lock().context("waiting for another set-up")?;
    let python = Python::find()?;
    for part in parts {
        let stamp = part.stamp(&python);
        if fs::read_to_string(root.join(&part.folder).join(STAMP)).is_ok_and(|found| found == stamp) {
            continue;
        }
        println!("set-up: {}", part.folder);
        make(part, &python, &root, &stamp)
            .with_context(|| format!("setting up .onnx-compress/{}", part.folder))?;
    }
    Ok(())
}

fn make(part: &Part, python: &Python, root: &Path, stamp: &str) -> Result<()> {
    let temporary = root.join(".tmp"); // only one set-up runs, so anything here is from an interrupted one
    let (made, scratch) = (temporary.join("made"), temporary.join("scratch"));
    remove(&temporary)?;
    fs::create_dir_all(&made)?;
    fs::create_dir_all(&scratch)?;
    part.make(python, root, &made, &scratch)?;
    fs::write(made.join(STAMP), stamp)?;
    let place = root.join(&part.folder);
    remove(&place)?;
    fs::create_dir_all(place.parent().expect("parts lie under the root"))?;
    fs::rename(&made, &place)?;
    remove(&temporary)
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", folder.display()))
        }
        _ => Ok(()),
    }
}
