//! Half precision on trained models: what it costs, that it halves files, and that it runs.

mod support;

use onnx_compress::{
    driver::{Preparation, compress},
    ir::{DType, Model},
    lower,
    passes::{Context, Pipeline},
    runtime::{
        Measurer, Runtime, Samples, SessionOptions, Synthesis, Tolerance, ValidateOptions, Validation,
        validate,
    },
};
use std::path::Path;
use support::{corpus, setup_dir, zoo, zoo_data};

fn runtime() -> Runtime {
    Runtime::find(Some(&setup_dir().join("ort"))).unwrap()
}

/// The model after a pipeline, and how it compares on the samples.
fn cast(path: &Path, pipeline: &str, samples: Option<&Samples>) -> (Model, Model, Validation) {
    let (runtime, original) = (runtime(), lower::load(path).unwrap());
    let made_up = || Samples::synthesize(&runtime, &original, &Synthesis::default()).unwrap();
    let samples = samples.cloned().unwrap_or_else(made_up);
    let measurer = Measurer::new(runtime.clone(), samples.clone(), SessionOptions::default());
    let mut model = original.clone();
    let pipeline: Pipeline = pipeline.parse().unwrap();
    let mut cx = Context::new().with_measure(&measurer);
    compress(&mut model, &pipeline, Preparation::default(), &mut cx)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let least = pipeline.passes().iter().filter_map(|pass| pass.least_sqnr()).reduce(f64::min);
    let tolerance = Tolerance { min_cosine: None, min_sqnr_db: least, ..Tolerance::default() };
    let options = ValidateOptions { tolerance, ..ValidateOptions::default() };
    let found = validate(&runtime, &original, &model, &samples, &options)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    (original, model, found)
}
fn bytes(model: &Model) -> usize {
    lower::to_bytes(model).unwrap().len()
}
fn casts(model: &Model) -> usize {
    model.graph.ops().filter(|op| model.graph.op(*op).is("Cast")).count()
}

#[test]
fn trained_models_halve_and_keep_their_outputs() {
    for name in ["resnet20", "vit", "lstm", "simplecnn"] {
        let original = lower::load(&zoo(name)).unwrap();
        let samples = Samples::load(&zoo_data("zoo_calib.npz"), &original, 32, Some(64)).unwrap();
        for (pipeline, least) in [("cast", 55.0), ("cast(precision=bf16)", 30.0)] {
            let (before, after, found) = cast(&zoo(name), pipeline, Some(&samples));
            assert!(found.passed(), "{name} {pipeline}: {:?}", found.failures);
            let sqnr = found.outputs[0].sqnr_db.unwrap();
            assert!(sqnr >= least, "{name} {pipeline}: {sqnr} dB");
            let share = bytes(&after) as f64 / bytes(&before) as f64;
            assert!(share < 0.55, "{name} {pipeline}: {share} of the bytes");
            if pipeline == "cast" {
                assert_eq!(casts(&after), 2, "{name}: one behind the input and one in front of the output");
            }
        }
    }
}

#[test]
fn pretrained_models_run_in_half_precision() {
    for path in corpus() {
        for pipeline in ["cast", "cast(precision=bf16)"] {
            let (_, after, found) = cast(&path, pipeline, None);
            assert!(found.passed(), "{} {pipeline}: {:?}", path.display(), found.failures);
            let again: Pipeline = pipeline.parse().unwrap();
            let mut twice = after.clone();
            compress(&mut twice, &again, Preparation::default(), &mut Context::new()).unwrap();
            assert!(casts(&twice) <= casts(&after), "{}: casts are not doubled", path.display());
        }
    }
}

#[test]
fn inputs_and_outputs_are_cast_on_demand() {
    let path = zoo("resnet20");
    let (before, after, found) = cast(&path, "cast(io=cast)", None);
    assert!(found.passed(), "{:?}", found.failures);
    assert_eq!(casts(&after), 0);
    for (a, b) in before.graph.inputs.iter().zip(&after.graph.inputs) {
        assert_eq!(before.graph.name_of(*a), after.graph.name_of(*b));
        assert_eq!(after.graph.dtype(*b), Some(DType::F16));
    }
    assert!(after.graph.outputs.iter().all(|v| after.graph.dtype(*v) == Some(DType::F16)));
}
