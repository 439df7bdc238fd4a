//! Golden files: a model as text, the passes to run, and the model they leave, as text beside it.
//!
//! A file `tests/golden/<pass>/<case>.onnxtxt` begins with comments that say what to do:
//!
//! ```text
//! # pass: simplify,prune(ratio=0.5)    the pipeline; the model is not simplified first unless this says so
//! # weights: seed 7                    the seed of contents that the text leaves out (default 0)
//! # samples: 4                         so many random samples count as calibration data (default none)
//! # tolerance: 1e-3                    largest error of an output, as a share of its largest element (default 1e-5)
//! # executes: valid                    outputs keep type and shape and are finite, but may differ
//! # executes: refused                  the pipeline fails and leaves the model as it was
//! ```
//!
//! The snapshot `<case>.snap` holds the result, what was counted, and what was remarked; of models that depend on
//! calibration or on decompositions, the contents of constants are left out. Besides, the result runs on ONNX
//! Runtime beside the original on the same random inputs; a pruned model, beside the original with the weights at the
//! pruned positions zero. `INSTA_UPDATE=always cargo test --test golden` rewrites the snapshots.

mod support;

use onnx_compress::{
    ir::{Model, Tensor, text},
    lower::schemes,
    measure::Batch,
    ops::{axes::Flow, infer_types},
    passes::{
        Context, Named, Pipeline,
        prune::{Prune, PruneOptions, lift},
        svd::Svd,
    },
    runtime::{Measurer, Optimize, Runtime, Samples, Session, SessionOptions, Synthesis},
};
use std::{fmt::Write, fs, path::Path};
use support::setup_dir;

#[test]
fn golden_files() {
    let runtime =
        Runtime::find(Some(&setup_dir().join("ort"))).expect("run `cargo xtask setup --only runtime`");
    insta::glob!("golden/**/*.onnxtxt", |path| {
        let source = fs::read_to_string(path).unwrap();
        let result = check(&runtime, &source);
        let mut settings = insta::Settings::clone_current();
        settings.remove_snapshot_suffix();
        settings.set_snapshot_path(path.parent().expect("a file has a folder"));
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.bind(|| insta::assert_snapshot!(name(path), result));
    });
}

fn name(path: &Path) -> String {
    path.file_stem().expect("a file has a name").to_string_lossy().into_owned()
}

/// What the comments at the head of a file ask for.
struct Request {
    pipeline: Pipeline,
    samples: usize,
    tolerance: f64,
    executes: Executes,
}

/// What the result is, beside the original.
#[derive(Clone, Copy, PartialEq)]
enum Executes {
    Same,
    Valid,
    Refused,
}

fn request(source: &str) -> Request {
    let mut r = Request { pipeline: Pipeline::new(), samples: 0, tolerance: 1e-5, executes: Executes::Same };
    for line in source.lines().map_while(|l| l.strip_prefix('#')) {
        let Some((key, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        match key.trim() {
            "pass" => r.pipeline = value.parse().unwrap_or_else(|e| panic!("{value}: {e}")),
            "samples" => r.samples = value.parse().expect("a number of samples"),
            "tolerance" => r.tolerance = value.parse().expect("a tolerance"),
            "executes" if value == "valid" => r.executes = Executes::Valid,
            "executes" if value == "refused" => r.executes = Executes::Refused,
            "weights" => {} // the text reader's
            key => panic!("unknown header `{key}: {value}`"),
        }
    }
    assert!(!r.pipeline.passes().is_empty(), "no `# pass:` header");
    r
}

/// No constant is left that nothing reads, unless nothing did before.
fn no_dead_weights(original: &Model, model: &Model) {
    let dead = |model: &Model, v| model.graph.uses(v).is_empty() && !model.graph.is_output(v);
    for (v, _) in model.graph.initializers().filter(|(v, _)| dead(model, *v)) {
        let before = original.graph.find(model.graph.name_of(v));
        assert!(before.is_some_and(|v| dead(original, v)), "`{}` is dead", model.graph.name_of(v));
    }
}

/// Runs the passes, and both models; returns what the snapshot holds.
fn check(runtime: &Runtime, source: &str) -> String {
    let request = request(source);
    let original = text::parse(source).unwrap_or_else(|e| panic!("{e}"));
    let synthesis = Synthesis { batches: request.samples.max(2), ..Synthesis::default() };
    let inputs = Samples::synthesize(runtime, &original, &synthesis).unwrap_or_else(|e| panic!("{e}"));
    let calibration = match request.samples {
        0 => inputs.clone(),
        _ => Samples::from_batches(inputs.batches().iter().cloned()),
    };
    let measurer = Measurer::new(runtime.clone(), calibration, SessionOptions::default());
    let mut cx = Context::new().with_measure(&measurer);
    let mut model = original.clone();
    let refusal = match (request.executes, request.pipeline.run(&mut model, &mut cx)) {
        (Executes::Refused, Err(e)) => Some(e.to_string()),
        (Executes::Refused, Ok(_)) => panic!("the pipeline runs, though `refused` is expected"),
        (_, result) => result.map(|_| None).unwrap_or_else(|e| panic!("{e}")),
    };
    schemes::materialize(&mut model).unwrap_or_else(|e| panic!("{e}"));
    model.verify().unwrap_or_else(|e| panic!("{e}"));
    no_dead_weights(&original, &model);
    let printed = text::print(&model);
    assert_eq!(
        text::print(&text::parse(&printed).expect("what is printed is read")).lines().count(),
        printed.lines().count()
    );
    if refusal.is_some() {
        assert_eq!(printed, text::print(&original), "a refused model stays as it was");
    }
    let pruned = (request.executes == Executes::Same).then(|| zeroed(&original, &request.pipeline)).flatten();
    for batch in inputs.batches() {
        let expected = run(runtime, pruned.as_ref().unwrap_or(&original), batch, Optimize::Off);
        compare(&request, &expected, &run(runtime, &model, batch, Optimize::All));
        if pruned.is_some() {
            let whole = run(runtime, &original, batch, Optimize::Off);
            let telling = expected.iter().zip(&whole).any(|((_, a), (_, b))| error(a, b) > 1e-3);
            assert!(telling, "the pruned positions contribute nothing, so the comparison says nothing");
        }
    }
    let inexact = request.samples > 0 || request.pipeline.passes().iter().any(|p| p.name() == Svd::NAME);
    let mut result = if inexact { without_values(&printed) } else { printed };
    // writing to a String cannot fail
    for (what, n) in &cx.counts {
        let _ = writeln!(result, "# {what}: {n}");
    }
    for remark in &cx.remarks {
        // How large an error was found to be is a measurement as well.
        let text = match remark.text.split_once("error ") {
            Some((before, _)) if inexact => format!("{before}error ..."),
            _ => remark.text.clone(),
        };
        let _ = writeln!(result, "# {:?}{}: {text}", remark.kind, remark.at.suffix());
    }
    if let Some(refusal) = refusal {
        let _ = writeln!(result, "# Refused: {refusal}");
    }
    result
}

/// What a pruned model must compute: the passes before the last `prune`, which prunes by setting the weights at the
/// positions it chooses to zero. `None` where nothing is pruned.
fn zeroed(original: &Model, pipeline: &Pipeline) -> Option<Model> {
    let passes = pipeline.passes();
    let last = passes.iter().rposition(|pass| pass.name() == Prune::NAME)?;
    let (mut model, mut cx) = (original.clone(), Context::new());
    for pass in &passes[..=last] {
        if pass.name() != Prune::NAME {
            let _ = pass.run(&mut model, &mut cx).unwrap_or_else(|e| panic!("{e}"));
            continue;
        }
        let options: PruneOptions = serde_json::from_value(pass.options().into()).expect("its own options");
        lift(&mut model);
        infer_types(&mut model).unwrap_or_else(|e| panic!("{e}"));
        let flow = Flow::of(&model);
        let prune = Prune::new(options).expect("checked when the pipeline was read");
        let selection = prune.select(&model, &flow, &mut cx).unwrap_or_else(|e| panic!("{e}"));
        flow.cut(selection.keep).zero(&mut model).unwrap_or_else(|e| panic!("{e}"));
    }
    Some(model)
}

/// The text without the contents of constants: what follows from measuring or decomposing may differ in the last bits on another
/// processor.
fn without_values(text: &str) -> String {
    let mut result = String::new();
    for line in text.lines() {
        let constant = !line.contains('(') && line.starts_with("  ");
        let end = line.find(" = {").or(line.find(" # ")).filter(|_| constant).unwrap_or(line.len());
        result += line[..end].trim_end_matches(',');
        result += "\n";
    }
    result
}

/// The reference runs as it is written: ONNX Runtime 1.31 reads freed memory when it rewrites a decided If in a decided If
/// around an open one (`simplify/if_decided`), and no rewrite may stand between the text and what it means.
/// For the same reason activations that a model keeps in float stay so.
fn run(runtime: &Runtime, model: &Model, batch: &Batch, optimize: Optimize) -> Batch {
    let session = Session::new(
        runtime,
        model,
        &SessionOptions { optimize, exact_qdq: true, ..SessionOptions::default() },
    );
    session.and_then(|s| s.run(batch)).unwrap_or_else(|e| panic!("{e}\n{}", text::print(model)))
}

fn compare(request: &Request, expected: &Batch, found: &Batch) {
    assert_eq!(expected.len(), found.len(), "outputs");
    for ((name, a), (found_name, b)) in expected.iter().zip(found) {
        assert_eq!(name, found_name);
        assert_eq!((a.dtype(), a.shape()), (b.dtype(), b.shape()), "output {name}");
        if let Some(values) = b.to_f32() {
            assert!(values.iter().all(|x| x.is_finite()), "output {name} is not finite");
        }
        let (error, bound) = (error(a, b), request.tolerance);
        assert!(
            request.executes == Executes::Valid || error <= bound,
            "output {name} is off by {error:e} of its size, more than {bound:e}"
        );
    }
}

/// The largest difference between two tensors of one shape, as a share of the largest element of the first or of 1
/// where that is larger; infinite where tensors that hold no numbers differ.
fn error(a: &Tensor, b: &Tensor) -> f64 {
    let (Some(x), Some(y)) = (a.to_f32(), b.to_f32()) else {
        return if a == b { 0.0 } else { f64::INFINITY };
    };
    let largest = x.iter().fold(1f64, |m, x| m.max(f64::from(x.abs())));
    x.iter().zip(&y[..]).map(|(x, y)| f64::from((x - y).abs())).fold(0f64, f64::max) / largest
}
