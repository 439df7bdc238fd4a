//! What calibrating costs: the seconds that `quant` spends on samples, against a bare run of the same samples on ONNX Runtime in the
//! same batches, loading the model included in both. First what it takes to find the ranges, then all that `quant(latency=any)`
//! looks at besides: the outputs with scales moved, with biases corrected, and with layers rounded.
//!
//!     cargo bench --bench calibration [-- CALIB.npz | MODEL.onnx ...]
//!
//! Without an argument: three of the zoo's classifiers on the images in `tests/assets`. Models that are named get made-up samples,
//! 256 batches of files of less than 10 MB and 64 of others, of one sample or as many as the model fixes. A cell is a ratio of medians.

#![allow(clippy::print_stdout, reason = "what was measured is shown")]

use onnx_compress::{
    driver::{Preparation, compress},
    ir::Model,
    lower,
    measure::Measure,
    passes::Context,
    runtime::{Measurer, Runtime, Samples, Session, SessionOptions, Synthesis},
};
use std::{
    path::{Path, PathBuf},
    time::Instant,
};

/// Runs of models that are named, which take long, and of the zoo's, which do not.
const REPEATS: [usize; 2] = [5, 21];
const BATCH: usize = 32;
const RULES: [&str; 5] = ["minmax", "average", "percentile", "mse", "entropy"];
const ZOO: [&str; 3] = ["resnet20", "vit", "simplecnn"];
/// Bytes of a file from which its model gets fewer samples.
const LARGE: u64 = 10_000_000;

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let runtime = Runtime::find(None).expect("ONNX Runtime is set up");
    let given: Vec<PathBuf> =
        std::env::args().skip(1).filter(|a| !a.starts_with("--")).map(Into::into).collect();
    let columns = [&RULES[..], &["all"]].concat();
    println!("| model, samples | {} |\n|---{}|", columns.join(" | "), "|--:".repeat(columns.len()));
    let is_model = |path: &&PathBuf| path.extension().is_some_and(|e| e == "onnx");
    for path in given.iter().filter(is_model) {
        let model = simplified(path);
        let large = path.metadata().expect("the model is there").len() >= LARGE;
        let what = Synthesis { batches: if large { 64 } else { 256 }, ..Synthesis::default() };
        let samples = Samples::synthesize(&runtime, &model, &what).expect("inputs can be made up");
        // They stand for real ones here.
        row(&runtime, path, &model, &Samples::from_batches(samples.batches().to_vec()), REPEATS[0]);
    }
    if given.iter().any(|path| is_model(&path)) {
        return;
    }
    let images = given.first().cloned().unwrap_or(root.join("tests/assets/zoo_calib.npz"));
    for name in ZOO {
        let path = root.join(format!("tests/assets/zoo/{name}.onnx"));
        let model = simplified(&path);
        let samples = Samples::load(&images, &model, BATCH, None).expect("the images are the model's");
        row(&runtime, &path, &model, &samples, REPEATS[1]);
    }
}

fn simplified(path: &Path) -> Model {
    let mut model = lower::load(path).expect("the model loads");
    let simplify = "simplify".parse().expect("a pass");
    compress(&mut model, &simplify, Preparation::default(), &mut Context::new()).expect("it is simplified");
    model
}

/// What each rule takes for one model: the time of all but that of its weights, which takes no samples.
fn row(runtime: &Runtime, path: &Path, model: &Model, samples: &Samples, repeats: usize) {
    let ranges =
        |rule: &str| format!("quant(latency=any,noise=any,equalize=none,repair=none,observer={rule})");
    let pipelines: Vec<String> =
        RULES.into_iter().map(ranges).chain(["quant(latency=any)".to_owned()]).collect();
    let none = Samples::from_batches([]);
    let (mut bare, mut weights, mut ours) = (Vec::new(), Vec::new(), vec![Vec::new(); pipelines.len()]);
    run_bare(runtime, model, samples);
    for _ in 0..repeats {
        bare.push(seconds(|| run_bare(runtime, model, samples)));
        weights.push(seconds(|| run_quant(runtime, model, &none, "quant(activations=none)")));
        for (pipeline, times) in pipelines.iter().zip(&mut ours) {
            times.push(seconds(|| run_quant(runtime, model, samples, pipeline)));
        }
    }
    let (bare, weights) = (median(bare), median(weights));
    let ratios = ours.into_iter().map(|times| format!("{:.2}", (median(times) - weights) / bare));
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    println!("| {name}, {} | {} |", samples.len(), ratios.collect::<Vec<_>>().join(" | "));
}

fn run_bare(runtime: &Runtime, model: &Model, samples: &Samples) {
    let session = Session::new(runtime, model, &SessionOptions::default()).expect("the model loads");
    for batch in samples.batches() {
        session.run(batch).expect("the model runs");
    }
}

fn run_quant(runtime: &Runtime, model: &Model, samples: &Samples, pipeline: &str) {
    let measurer = Measurer::new(runtime.clone(), samples.clone(), SessionOptions::default());
    let pipeline = pipeline.parse().expect("a pipeline of known passes");
    let mut cx = Context::new();
    if !samples.is_empty() {
        cx = cx.with_measure(&measurer as &dyn Measure);
    }
    compress(&mut model.clone(), &pipeline, Preparation::default(), &mut cx).expect("it is quantized");
}

fn seconds(of: impl FnOnce()) -> f64 {
    let start = Instant::now();
    of();
    start.elapsed().as_secs_f64()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
