//! How long one large layer takes to be split, without samples and with some: seconds by the clock, and those of all
//! processor cores together, which tell more where other work runs. With samples the layer stands behind another that is
//! split too, so that it is fitted anew as well. `cargo bench --bench svd`, with a side length behind `--` for another
//! layer than 4096 x 4096 and a number of samples behind that for others than 512. Samples need ONNX Runtime as
//! `cargo xtask setup` fetches it.

#![allow(clippy::print_stdout, reason = "what was measured is shown")]

use onnx_compress::{
    ir::{Model, Origin, Tensor, text},
    ops::infer_types,
    passes::{Context, Pipeline, RemarkKind},
    runtime::{Measurer, Runtime, Samples, SessionOptions},
};
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use std::{path::Path, time::Instant};

const PIPELINES: [&str; 4] = ["svd(ratio=0.5)", "svd(ratio=0.1)", "svd(energy=0.9)", "svd(error=0.1)"];
/// Inputs of the model whose large layer is fed by a smaller one.
const INPUTS: usize = 512;

/// A matrix whose singular values fall as those of trained layers do: quickly at first, then slowly.
fn matrix(rows: usize, columns: usize, rng: &mut ChaCha8Rng) -> Tensor {
    let scale = |k: usize| 1.0 / (1.0 + k as f32 / 64.0).sqrt();
    let numbers = (0..rows * columns)
        .map(|k| (rng.random::<f32>() - 0.5) * scale(k % columns) * scale(k / columns))
        .collect::<Vec<_>>();
    Tensor::from_vec([rows, columns], numbers)
}

/// A matrix whose rows are repeated.
fn halved(matrix: Tensor) -> Tensor {
    let (shape, mut numbers) = (matrix.shape().to_vec(), matrix.to_f32().expect("floats").into_owned());
    let half = numbers.len() / 2;
    numbers.copy_within(..half, half);
    Tensor::from_vec(shape, numbers)
}

/// A layer, behind a smaller one where samples are to pass both.
fn model(side: usize, behind: bool) -> Model {
    let (inputs, first, declared) = match behind {
        true => (INPUTS, "[first] a = MatMul (x, v) h = Relu (a)", format!("float[{INPUTS}, {side}] v,")),
        false => (side, "h = Relu (x)", String::new()),
    };
    let source = format!(
        "<ir_version: 8, opset_import: [\"\" : 17]>
         layer (float[N, {inputs}] x) => (float[N, {side}] y) <{declared} float[{side}, {side}] w>
         {{ {first} [fc] y = MatMul (h, w) }}"
    );
    let mut model = text::parse(&source).expect("the text is a model");
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut set = |name: &str, tensor: Tensor| {
        if let Some(value) = model.graph.find(name) {
            model.graph.value_mut(value).origin = Origin::Initializer(tensor);
        }
    };
    set("w", matrix(side, side, &mut rng));
    // Of half rank, so that whatever is asked for it is split.
    set("v", halved(matrix(INPUTS, side, &mut rng)));
    infer_types(&mut model).expect("its shapes are known");
    model
}

/// Normally spread inputs would say nothing else: the layer in front mixes them.
fn samples(n: usize) -> Samples {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let batch = |_| {
        let numbers = (0..64 * INPUTS).map(|_| rng.random::<f32>() - 0.5).collect::<Vec<_>>();
        vec![("x".to_owned(), Tensor::from_vec([64, INPUTS], numbers))]
    };
    Samples::from_batches((0..n.div_ceil(64)).map(batch).collect::<Vec<_>>())
}

/// Seconds that the cores have worked for this process; none where the system does not tell.
fn worked() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let ticks = stat.rsplit_once(')')?.1.split_whitespace().nth(11)?.parse::<f64>().ok()?;
    Some(ticks / 100.0)
}

fn measure(text: &str, mut model: Model, mut cx: Context<'_>, what: &str) {
    let (start, before) = (Instant::now(), worked());
    let pipeline: Pipeline = text.parse().expect("a pipeline of known passes");
    let done = pipeline.run(&mut model, &mut cx);
    let seconds = start.elapsed().as_secs_f64();
    let cores = worked().zip(before).map(|(after, before)| after - before);
    let said: Vec<_> = match done {
        Ok(_) => cx
            .remarks
            .iter()
            .filter(|r| r.kind == RemarkKind::Applied && r.at.name() == "fc")
            .map(|r| r.text.clone())
            .collect(),
        Err(error) => vec![error.to_string()],
    };
    let cores = cores.unwrap_or(f64::NAN);
    println!("{what}, `{text}`: {seconds:.1} s, {cores:.1} s of cores; {}", said.join("; "));
}

fn main() {
    let numbers: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let side = numbers.first().copied().unwrap_or(4096);
    let images = numbers.get(1).copied().unwrap_or(512);
    for text in PIPELINES {
        measure(text, model(side, false), Context::new(), &format!("{side} x {side}"));
    }
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join(".onnx-compress/ort");
    match Runtime::find(Some(&library)) {
        Err(error) => println!("without samples alone: {error}"),
        Ok(runtime) => {
            let measurer = Measurer::new(runtime, samples(images), SessionOptions::default());
            for text in PIPELINES {
                let cx = Context::new().with_measure(&measurer);
                let what = format!("{side} x {side} behind another, {images} samples");
                measure(text, model(side, true), cx, &what);
            }
        }
    }
}
