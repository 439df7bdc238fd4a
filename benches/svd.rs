//! How long one large layer takes to be split, without samples: seconds by the clock, and those of all processor cores
//! together, which tell more where other work runs. `cargo bench --bench svd`, with a side length behind `--` for
//! another layer than 4096 x 4096.

#![allow(clippy::print_stdout, reason = "what was measured is shown")]

use onnx_compress::{
    ir::{Model, Origin, Tensor, text},
    ops::infer_types,
    passes::{Context, Pipeline},
};
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use std::time::Instant;

const PIPELINES: [&str; 4] = ["svd(ratio=0.5)", "svd(ratio=0.1)", "svd(energy=0.9)", "svd(error=0.1)"];

/// A layer whose singular values fall as those of trained layers do: quickly at first, then slowly.
fn layer(side: usize) -> Model {
    let source = format!(
        "<ir_version: 8, opset_import: [\"\" : 17]>
         layer (float[N, {side}] x) => (float[N, {side}] y) <float[{side}, {side}] w>
         {{ [fc] y = MatMul (x, w) }}"
    );
    let mut model = text::parse(&source).expect("the text is a model");
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let scale = |k: usize| 1.0 / (1.0 + k as f32 / 64.0).sqrt();
    let weights = (0..side * side).map(|k| (rng.random::<f32>() - 0.5) * scale(k % side) * scale(k / side));
    let weights = Tensor::from_vec([side, side], weights.collect::<Vec<_>>());
    let w = model.graph.find("w").expect("the model has a weight");
    model.graph.value_mut(w).origin = Origin::Initializer(weights);
    infer_types(&mut model).expect("its shapes are known");
    model
}

/// Seconds that the cores have worked for this process; none where the system does not tell.
fn worked() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let ticks = stat.rsplit_once(')')?.1.split_whitespace().nth(11)?.parse::<f64>().ok()?;
    Some(ticks / 100.0)
}

fn main() {
    let sides: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let side = sides.first().copied().unwrap_or(4096);
    let model = layer(side);
    for text in PIPELINES {
        let (mut model, mut cx, start, before) = (model.clone(), Context::new(), Instant::now(), worked());
        let pipeline: Pipeline = text.parse().expect("a pipeline of known passes");
        let done = pipeline.run(&mut model, &mut cx);
        let seconds = start.elapsed().as_secs_f64();
        let cores = worked().zip(before).map(|(after, before)| after - before);
        let said = match done {
            Ok(_) => cx.remarks.first().map(|r| r.text.clone()).unwrap_or_default(),
            Err(error) => error.to_string(),
        };
        println!(
            "{side} x {side} `{text}`: {seconds:.1} s, {:.1} s of cores; {said}",
            cores.unwrap_or(f64::NAN)
        );
    }
}
