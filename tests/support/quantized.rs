//! Models of the zoo after passes that have its calibration images, and what these cost.

use super::{setup_dir, zoo_data};
use onnx_compress::{
    ir::Model,
    lower::{self, schemes::materialize},
    passes::{Changed, Context, Pipeline},
    runtime::{Measurer, Runtime, Samples, Session, SessionOptions, ValidateOptions, read_labels, validate},
};
use std::{collections::BTreeMap, path::Path};

pub(crate) fn runtime() -> Runtime {
    Runtime::find(Some(&setup_dir().join("ort"))).expect("set-up fetched the library: `cargo xtask setup`")
}

pub(crate) fn load(path: &Path) -> Model {
    lower::load(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

/// The model with weights and activations quantized, from the zoo's calibration images.
pub(crate) fn static_uint8(original: &Model) -> Model {
    calibrated(original, "quant(latency=any)")
}

/// The model after this pass, which has the zoo's calibration images.
pub(crate) fn calibrated(original: &Model, pass: &str) -> Model {
    let samples = Samples::load(&zoo_data("zoo_calib.npz"), original, 64, None).unwrap();
    let measurer = Measurer::new(runtime(), samples, SessionOptions::default());
    let mut model = original.clone();
    let mut cx = Context::new().with_measure(&measurer);
    let pipeline: Pipeline = format!("simplify,{pass}").parse().unwrap();
    assert_eq!(pipeline.run(&mut model, &mut cx).unwrap(), Changed::Yes);
    materialize(&mut model).unwrap();
    model
}

/// How many kernels of each kind ONNX Runtime makes of a model, those in bodies too.
pub(crate) fn kernels(model: &Model) -> BTreeMap<String, usize> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rewritten.onnx");
    let options = SessionOptions { optimized_model: Some(path.clone()), ..SessionOptions::default() };
    Session::new(&runtime(), model, &options).unwrap();
    let rewritten = load(&path);
    let mut counts = BTreeMap::new();
    rewritten.graph.for_each_nested(&mut |graph| {
        graph.ops().for_each(|op| *counts.entry(graph.op(op).op_type.clone()).or_default() += 1);
    });
    counts
}

/// Accuracy lost, in points of 100, on the 2,000 test images; and the outputs' signal-to-noise ratio.
pub(crate) fn cost(original: &Model, compressed: &Model) -> (f64, f64) {
    let samples = Samples::load(&zoo_data("zoo_test.npz"), original, 250, None).unwrap();
    let labels = Some(read_labels(&zoo_data("zoo_test.npz")).unwrap());
    let options = ValidateOptions { labels, ..ValidateOptions::default() };
    let result = validate(&runtime(), original, compressed, &samples, &options).unwrap();
    let accuracy = result.accuracy.unwrap();
    (100.0 * (accuracy.original - accuracy.compressed), result.outputs[0].sqnr_db.unwrap())
}

pub(crate) fn share(original: &Model, compressed: &Model) -> f64 {
    let size = |m: &Model| lower::to_bytes(m).unwrap().len() as f64;
    size(compressed) / size(original)
}
