//! Half precision on trained models: what it costs, that it halves files, and that it runs; and on the conformance set,
//! one operator at a time.

mod support;

use onnx_compress::{
    driver::{Preparation, compress},
    ir::{DType, Model, Tensor},
    lower,
    measure::Batch,
    passes::{Context, Pipeline},
    runtime::{
        Measurer, Runtime, Samples, Session, SessionOptions, Synthesis, Tolerance, ValidateOptions,
        Validation, validate,
    },
};
use std::{collections::BTreeSet, path::Path};
use support::{conformance, corpus, oracle::relative_difference, setup_dir, zoo, zoo_data};

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

/// A batch whose reals have no more digits than `dtype` holds.
fn rounded(batch: Batch, dtype: DType) -> Batch {
    let round = |t: Tensor| {
        let reals = t.to_f32().filter(|_| t.dtype() == DType::F32)?.into_owned();
        let half = Tensor::from_f32(dtype, t.shape(), reals)?;
        Some(Tensor::from_vec(t.shape(), half.to_f32()?.into_owned()))
    };
    batch.into_iter().map(|(name, t)| (name, round(t.clone()).unwrap_or(t))).collect()
}

/// How far the outputs are apart; those that are no reals must be the same.
fn apart(a: &Batch, b: &Batch) -> f32 {
    let pairs = a.iter().zip(b).map(|((_, a), (_, b))| match (a.to_f32(), b.to_f32()) {
        _ if a.shape() != b.shape() => f32::INFINITY,
        (Some(x), Some(y)) => relative_difference(&x, &y),
        _ if a == b => 0.0,
        _ => f32::INFINITY,
    });
    pairs.fold(0.0, f32::max)
}

#[test]
fn each_operator_computes_in_half_precision_what_it_did() {
    let (runtime, mut wrong, mut few) = (runtime(), Vec::new(), Vec::new());
    let run = |model: &Model, batch: &Batch| {
        let options = SessionOptions { threads: Some(1), ..Default::default() };
        let session = Session::new(&runtime, model, &options)?;
        session.run(&session.take(batch))
    };
    // Half of the last digit, for what sums of a few numbers lose.
    for (precision, dtype, most, operators) in
        [("fp16", DType::F16, 4e-3, 94), ("bf16", DType::BF16, 3e-2, 15)]
    {
        let mut seen = BTreeSet::new();
        for case in conformance().into_iter().filter(|case| case.runs) {
            let original = lower::load(&case.model).unwrap();
            let Some(batch) = case.batch(&original).map(|batch| rounded(batch, dtype)) else { continue };
            let Ok(expected) = run(&original, &batch) else { continue };
            let samples = Samples::from_batches([batch.clone()]);
            let measurer = Measurer::new(runtime.clone(), samples, SessionOptions::default());
            let mut model = original.clone();
            let pipeline: Pipeline = format!("cast(precision={precision},io=cast)").parse().unwrap();
            let as_it_is = Preparation {
                no_simplify: true,
                opset: Some(original.opset().max(13)),
                ..Default::default()
            };
            let mut cx = Context::new().with_measure(&measurer);
            match compress(&mut model, &pipeline, as_it_is, &mut cx) {
                Err(onnx_compress::Error::Unsupported { .. }) => continue,
                result => drop(result.unwrap_or_else(|e| panic!("{}: {e}", case.name))),
            }
            let g = &model.graph;
            let halved = g
                .ops()
                .filter(|op| g.outputs_of(*op).into_iter().flatten().any(|v| g.dtype(v) == Some(dtype)));
            let halved: BTreeSet<String> =
                halved.map(|op| g.op(op).full_type()).filter(|t| t != "Cast").collect();
            if halved.is_empty() {
                continue;
            }
            match run(&model, &batch).map(|found| apart(&expected, &found)) {
                Ok(difference) if difference <= most => seen.extend(halved),
                result => wrong.push(format!("{precision} {} {halved:?}: {result:?}", case.name)),
            }
        }
        few.extend((seen.len() < operators).then(|| format!("{precision}: only {seen:?}")));
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(few.is_empty(), "{}", few.join("\n"));
}
