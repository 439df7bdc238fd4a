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
//! ```
//!
//! The snapshot `<case>.snap` holds the result, what was counted, and what was remarked; of models that depend on
//! calibration, the contents of constants are left out. Besides, the result runs on ONNX
//! Runtime beside the original on the same random inputs. `INSTA_UPDATE=always cargo test --test golden` rewrites
//! the snapshots.

mod support;

use onnx_compress::{
    ir::{Model, text},
    lower::schemes,
    measure::Batch,
    passes::{Context, Pipeline},
    runtime::{Measurer, Runtime, Samples, Session, SessionOptions, Synthesis},
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
    may_differ: bool,
}

fn request(source: &str) -> Request {
    let mut r = Request { pipeline: Pipeline::new(), samples: 0, tolerance: 1e-5, may_differ: false };
    for line in source.lines().map_while(|l| l.strip_prefix('#')) {
        let Some((key, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        match key.trim() {
            "pass" => r.pipeline = value.parse().unwrap_or_else(|e| panic!("{value}: {e}")),
            "samples" => r.samples = value.parse().expect("a number of samples"),
            "tolerance" => r.tolerance = value.parse().expect("a tolerance"),
            "executes" if value == "valid" => r.may_differ = true,
            "weights" => {} // the text reader's
            key => panic!("unknown header `{key}: {value}`"),
        }
    }
    assert!(!r.pipeline.passes().is_empty(), "no `# pass:` header");
    r
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
    let _ = request.pipeline.run(&mut model, &mut cx).unwrap_or_else(|e| panic!("{e}"));
    schemes::materialize(&mut model).unwrap_or_else(|e| panic!("{e}"));
    model.verify().unwrap_or_else(|e| panic!("{e}"));
    let printed = text::print(&model);
    assert_eq!(
        text::print(&text::parse(&printed).expect("what is printed is read")).lines().count(),
        printed.lines().count()
    );
    for batch in inputs.batches() {
        compare(&request, &run(runtime, &original, batch), &run(runtime, &model, batch));
    }
    let mut result = if request.samples > 0 { without_values(&printed) } else { printed };
    // writing to a String cannot fail
    for (what, n) in &cx.counts {
        let _ = writeln!(result, "# {what}: {n}");
    }
    for remark in &cx.remarks {
        let _ = writeln!(result, "# {:?}{}: {}", remark.kind, remark.at.suffix(), remark.text);
    }
    result
}

/// The text without the contents of constants: what follows from measuring may differ in the last bits on another
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

fn run(runtime: &Runtime, model: &Model, batch: &Batch) -> Batch {
    let session = Session::new(runtime, model, &SessionOptions::default());
    session.and_then(|s| s.run(batch)).unwrap_or_else(|e| panic!("{e}\n{}", text::print(model)))
}

fn compare(request: &Request, expected: &Batch, found: &Batch) {
    assert_eq!(expected.len(), found.len(), "outputs");
    for ((name, a), (found_name, b)) in expected.iter().zip(found) {
        assert_eq!(name, found_name);
        assert_eq!((a.dtype(), a.shape()), (b.dtype(), b.shape()), "output {name}");
        let (Some(a), Some(b)) = (a.to_f32(), b.to_f32()) else {
            assert!(request.may_differ || a == b, "output {name} differs");
            continue;
        };
        assert!(b.iter().all(|x| x.is_finite()), "output {name} is not finite");
        let largest = a.iter().fold(1f64, |m, x| m.max(f64::from(x.abs())));
        let error = a.iter().zip(&b[..]).map(|(x, y)| f64::from((x - y).abs())).fold(0f64, f64::max);
        let bound = request.tolerance * largest;
        assert!(
            request.may_differ || error <= bound,
            "output {name} is off by {error:e}, more than {bound:e}"
        );
    }
}
