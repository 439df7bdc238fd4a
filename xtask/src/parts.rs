//! The parts of the set-up: what each is made of, and how.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::project_dir;
use crate::python::Python;

const RUNTIME_PINS: &str = include_str!("../pins/runtime.txt");
const PYTHON_PINS: &str = include_str!("../pins/python.txt");
const MODEL_PINS: &str = include_str!("../pins/models.txt");
const MODEL_SUMS: &str = include_str!("../pins/models.sha256");
const UNPACK: &str = include_str!("../python/unpack.py");
const LIGHT: &str = include_str!("../python/light.py");
const CONFORMANCE: &str = include_str!("../python/conformance.py");

/// A folder of the set-up, made whole or not at all.
pub(crate) struct Part {
    /// What `--only` calls it.
    group: &'static str,
    /// Where it goes, under `.onnx-compress/`.
    pub(crate) folder: String,
    recipe: Recipe,
    /// The texts that the content follows from: pins and scripts.
    inputs: Vec<&'static str>,
}

enum Recipe {
    /// Installs the packages of a pins file.
    Install(&'static str),
    /// Fetches one package, given by its line of the pins file, and takes the models out.
    Unpack { package: &'static str, pin: &'static str },
    /// Runs a script that writes the folder, on the packages installed by the earlier parts.
    Script(&'static str),
}

/// Every part, in an order in which each finds what it needs.
pub(crate) fn all() -> Vec<Part> {
    let part = |group, folder: &str, recipe, inputs| Part { group, folder: folder.into(), recipe, inputs };
    let mut parts = vec![
        part("runtime", "ort", Recipe::Install("runtime.txt"), vec![RUNTIME_PINS]),
        part("python", "python", Recipe::Install("python.txt"), vec![PYTHON_PINS]),
    ];
    parts.extend(MODEL_PINS.lines().filter_map(|pin| {
        let (package, _) = pin.split_once("==")?;
        let recipe = Recipe::Unpack { package, pin };
        Some(part("models", &format!("models/{package}"), recipe, vec![pin, MODEL_SUMS, UNPACK]))
    }));
    parts.push(part("models", "models/light", Recipe::Script("light.py"), vec![PYTHON_PINS, LIGHT]));
    let inputs = vec![RUNTIME_PINS, PYTHON_PINS, CONFORMANCE];
    parts.push(part("conformance", "conformance", Recipe::Script("conformance.py"), inputs));
    parts
}

/// The parts of one group, and those they are made with.
pub(crate) fn of_group(group: &str) -> Result<Vec<Part>> {
    let mut parts = all();
    if !parts.iter().any(|part| part.group == group) {
        bail!("there is no part {group:?}: it is one of runtime, python, models and conformance");
    }
    let scripted = parts.iter().any(|part| part.group == group && matches!(part.recipe, Recipe::Script(_)));
    parts.retain(|part| part.group == group || scripted && matches!(part.recipe, Recipe::Install(_)));
    Ok(parts)
}

/// ONNX Runtime and the models of one package: all that a first compression needs.
pub(crate) fn runtime_and_model(package: &str) -> Vec<Part> {
    let mut parts = all();
    let model = format!("models/{package}");
    parts.retain(|part| part.group == "runtime" || part.folder == model);
    parts
}

impl Part {
    /// Everything that the content follows from. A folder made from the same text need not be made again.
    pub(crate) fn stamp(&self, python: &Python) -> String {
        let mut stamp = self.inputs.join("\n");
        if matches!(self.recipe, Recipe::Install(_)) {
            // Installed packages hold code for one version of Python.
            stamp.push_str(&format!("\npython {}\n", python.version));
        }
        stamp
    }

    /// Makes the part in an empty folder. `root` is where the finished parts are, `scratch` is thrown away after.
    pub(crate) fn make(&self, python: &Python, root: &Path, folder: &Path, scratch: &Path) -> Result<()> {
        let sources = project_dir().join("xtask");
        match &self.recipe {
            Recipe::Install(pins) => python.install(&sources.join("pins").join(pins), folder),
            Recipe::Unpack { package, pin } => {
                let requirements = scratch.join("pin.txt");
                fs::write(&requirements, pin).context("writing a pin")?;
                python.download(&requirements, scratch)?;
                let sums = sources.join("pins/models.sha256");
                let args = [scratch.as_os_str(), folder.as_os_str(), package.as_ref(), sums.as_os_str()];
                python.script(&sources.join("python/unpack.py"), &[], &args)
            }
            Recipe::Script(script) => {
                let packages: [PathBuf; 2] = [root.join("python"), root.join("ort")];
                python.script(&sources.join("python").join(script), &packages, &[folder.as_os_str()])
            }
        }
    }
}
