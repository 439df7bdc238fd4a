//! Fixed shapes and chosen outputs on real models: they compute what the model computed, in fewer ops.

mod support;

use onnx_compress::{
    ir::{Dim, Model, Shape},
    lower,
    measure::Batch,
    passes::{
        Context, Pass,
        interface::{drop_unused_inputs, set_input_shapes, set_outputs},
        simplify::Simplify,
    },
    runtime::{Measurer, Optimize, Runtime, Samples, Session, SessionOptions, Synthesis},
};
use std::path::{Path, PathBuf};
use support::{oracle::relative_difference, setup_dir};

fn runtime() -> Runtime {
    Runtime::find(Some(&setup_dir().join("ort"))).expect("run `cargo xtask setup --only runtime`")
}

fn models() -> Vec<PathBuf> {
    [support::zoo_models(), support::corpus()].concat()
}

/// A model with inputs made up for it.
fn with_batch(runtime: &Runtime, path: &Path) -> (Model, Batch) {
    let model = lower::load(path).unwrap();
    let samples = Samples::synthesize(runtime, &model, &Synthesis::default())
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    (model, samples.batches()[0].clone())
}

fn run(runtime: &Runtime, model: &Model, batch: &Batch) -> Batch {
    // Without the runtime's own rewrites, whose rounding differs from graph to graph.
    let options = SessionOptions { threads: Some(1), optimize: Optimize::Off, ..Default::default() };
    let session = Session::new(runtime, model, &options).unwrap();
    let taken = batch.iter().filter(|(name, _)| session.inputs().contains(name));
    session.run(&taken.cloned().collect()).unwrap()
}

fn simplified(runtime: &Runtime, model: &Model) -> Model {
    let measurer = Measurer::new(runtime.clone(), Samples::default(), SessionOptions::default());
    let mut simple = model.clone();
    let _changed = Simplify::default().run(&mut simple, &mut Context::new().with_measure(&measurer)).unwrap();
    simple.verify().unwrap();
    simple
}

fn assert_same(expected: &Batch, found: &Batch, path: &Path) {
    assert_eq!(expected.len(), found.len());
    for ((name, a), (_, b)) in expected.iter().zip(found) {
        assert_eq!(a.shape(), b.shape(), "{name} of {}", path.display());
        let difference = a
            .to_f32()
            .zip(b.to_f32())
            .map_or_else(|| if a == b { 0.0 } else { f32::INFINITY }, |(x, y)| relative_difference(&x, &y));
        assert!(difference < 2e-3, "{name} of {}: {difference}", path.display());
    }
}

#[test]
fn models_of_fixed_shapes_compute_the_same_and_declare_what_they_give() {
    let runtime = runtime();
    let (mut fixed, mut open) = (0, Vec::new());
    for path in models() {
        let (model, batch) = with_batch(&runtime, &path);
        let shapes: Vec<(String, Shape)> = batch
            .iter()
            .map(|(name, t)| (name.clone(), t.shape().iter().map(|n| Dim::Known(*n)).collect()))
            .collect();
        let mut frozen = model.clone();
        set_input_shapes(&mut frozen, &shapes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        // One branch of the other takes no windows of this length, and ONNX Runtime looks into both.
        if frozen == model || path.ends_with("silero_vad.onnx") {
            continue;
        }
        frozen.verify().unwrap();
        let small = simplified(&runtime, &frozen);
        let ops = |m: &Model| m.graph.ops().count();
        assert!(ops(&small) <= ops(&simplified(&runtime, &model)), "{}", path.display());
        let expected = run(&runtime, &model, &batch);
        assert_same(&expected, &run(&runtime, &frozen, &batch), &path);
        assert_same(&expected, &run(&runtime, &small, &batch), &path);
        for (name, tensor) in &expected {
            let declared = small.graph.shape(small.graph.find(name).unwrap()).unwrap();
            let known: Option<Vec<usize>> = declared.iter().map(Dim::known).collect();
            match known {
                Some(known) => assert_eq!(known, tensor.shape(), "{name} of {}", path.display()),
                None => open.push(format!("{name} of {}", path.display())),
            }
        }
        fixed += 1;
    }
    assert!(fixed > 15, "only {fixed} models have free dimensions");
    assert!(open.is_empty(), "shapes that do not follow:\n{}", open.join("\n"));
}

#[test]
fn inner_values_as_outputs_give_what_the_whole_model_computes_there() {
    let runtime = runtime();
    let mut compared = 0;
    for path in models() {
        let (model, batch) = with_batch(&runtime, &path);
        let g = &model.graph;
        let computed: Vec<String> = g
            .order()
            .into_iter()
            .filter(|op| !g.op(*op).is("Constant"))
            .filter_map(|op| Some(g.name_of(g.output(op, 0)?).to_owned()))
            .collect();
        for quarter in 1..4 {
            let names = [computed[computed.len() * quarter / 4].clone()];
            let mut whole = model.clone();
            if set_outputs(&mut whole, &names).is_err() {
                continue; // its type is not known
            }
            let mut cut = whole.clone();
            cut.graph.sweep();
            let mut small = simplified(&runtime, &cut);
            drop_unused_inputs(&mut small);
            small.verify().unwrap();
            assert!(small.graph.ops().count() <= computed.len(), "{}", path.display());
            let expected = run(&runtime, &whole, &batch);
            assert_same(&expected, &run(&runtime, &cut, &batch), &path);
            assert_same(&expected, &run(&runtime, &small, &batch), &path);
            compared += 1;
        }
    }
    assert!(compared > 60, "only {compared} cuts were compared");
}
