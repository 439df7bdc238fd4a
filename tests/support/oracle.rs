//! Runs a cut model against the original with zeroed weights.

use onnx_compress::{
    ir::{DType, Dim, Model, Tensor},
    lower,
    measure::Batch,
    ops::{
        axes::{Flow, Keep},
        cost, infer_types,
    },
    runtime::{Runtime, Session, SessionOptions},
};
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

/// A random selection of positions to keep: at least one, at most all but one.
pub(crate) fn halves_or_fewer(size: usize, seed: u64) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ size as u64);
    let mut keep: Vec<usize> = (0..size).filter(|_| rng.random_bool(0.5)).collect();
    match keep.len() {
        0 => keep.push(size - 1),
        n if n == size => keep.truncate(size - 1),
        _ => {}
    }
    keep
}

/// ONNX Runtime as the judge.
pub(crate) struct Oracle {
    runtime: Runtime,
}

impl Oracle {
    pub(crate) fn new() -> Oracle {
        let runtime = Runtime::find(Some(&super::setup_dir().join("ort")))
            .expect("set-up fetched the library: `cargo xtask setup`");
        Oracle { runtime }
    }
    pub(crate) fn run(&self, model: &Model, inputs: &Batch) -> Batch {
        let bytes = lower::to_bytes(model).unwrap();
        let options = SessionOptions { exact_qdq: true, ..SessionOptions::default() };
        let session = Session::from_bytes(&self.runtime, &bytes, &options).unwrap();
        session.run(inputs).unwrap()
    }
    /// The largest difference of any output between two models on random inputs.
    pub(crate) fn difference(&self, a: &Model, b: &Model) -> f32 {
        let inputs = random_inputs(a);
        largest_difference(&self.run(a, &inputs), &self.run(b, &inputs))
    }
    /// Cuts and zeroes the same positions; how far the outputs are apart. The work that is left is what
    /// the analysis said it would be.
    pub(crate) fn cut_against_zero(&self, model: &Model, flow: Flow<'_>, keep: Keep) -> f32 {
        let expected = work(&flow, &keep);
        let cut = flow.cut(keep);
        let (mut small, mut zeroed) = (model.clone(), model.clone());
        cut.apply(&mut small).unwrap();
        cut.zero(&mut zeroed).unwrap();
        small.verify().unwrap();
        infer_types(&mut small).unwrap();
        assert_eq!(expected, cost::of_model(&small).macs, "multiply-accumulates of what is left");
        self.difference(&small, &zeroed)
    }
}

/// The multiply-accumulates of a model of which `keep` stays, priced before it is cut.
pub(crate) fn work(flow: &Flow<'_>, keep: &Keep) -> u64 {
    let kept = |f| keep.get(&f).map(Vec::len);
    flow.prices().iter().map(|p| p.macs(&flow.arena, &kept)).sum()
}

fn largest_difference(a: &Batch, b: &Batch) -> f32 {
    let pairs = a.iter().zip(b).filter_map(|((_, x), (_, y))| {
        assert_eq!(x.shape(), y.shape());
        Some((x.to_f32()?.into_owned(), y.to_f32()?.into_owned()))
    });
    pairs.map(|(x, y)| relative_difference(&x, &y)).fold(0.0, f32::max)
}

/// The largest difference, relative to the largest magnitude or to 0.01 where that is larger: small probabilities are
/// no more exact than the logits they come from. NaN counts as a difference unless both sides have it.
pub(crate) fn relative_difference(x: &[f32], y: &[f32]) -> f32 {
    let size = x.iter().chain(y).filter(|v| v.is_finite()).fold(0.01f32, |m, v| m.max(v.abs()));
    x.iter().zip(y).fold(0.0, |m, (a, b)| match () {
        () if a == b || (a.is_nan() && b.is_nan()) => m,
        () if (a - b).is_nan() => f32::INFINITY,
        () => m.max((a - b).abs() / size),
    })
}

/// Inputs that fit a model's declared types: equal names are equal extents, integers are 0 or 1.
pub(crate) fn random_inputs(model: &Model) -> Batch {
    let (g, mut rng) = (&model.graph, ChaCha8Rng::seed_from_u64(11));
    let mut named = std::collections::HashMap::new();
    let fed = g.inputs.iter().filter(|v| g.initializer(**v).is_none());
    fed.map(|v| {
        let ty = g.tensor_type(*v).expect("inputs are tensors");
        let dims = ty.shape.expect("inputs have a rank");
        let rank = dims.len();
        // A recurrent state has its layers first.
        let batch = if dims.len() == 3 && matches!(dims[0], Dim::Known(_)) { 1 } else { 0 };
        let dims = dims.iter().enumerate();
        let shape: Vec<usize> = dims
            .map(|(k, d)| match d {
                Dim::Known(n) => *n,
                other => {
                    // Long enough for the windows of audio models, short enough for the positions of language models.
                    let free = if k == batch {
                        2
                    } else if rank == 2 && ty.dtype == Some(DType::F32) {
                        512
                    } else {
                        64
                    };
                    match other {
                        Dim::Symbol(name) => *named.entry(name.to_string()).or_insert(free),
                        _ => free,
                    }
                }
            })
            .collect();
        let n = shape.iter().product();
        let tensor = match ty.dtype.expect("inputs have a type") {
            DType::I64 if g.name_of(*v) == "sr" => Tensor::from_vec(shape, vec![16_000i64; n]),
            DType::I64 => Tensor::from_vec(shape, (0..n).map(|_| rng.random_range(0..2i64)).collect()),
            DType::I32 => Tensor::from_vec(shape, (0..n).map(|_| rng.random_range(0..2i32)).collect()),
            DType::U8 => Tensor::from_vec(shape, (0..n).map(|_| rng.random_range(0..255u8)).collect()),
            DType::Bool => Tensor::new(DType::Bool, shape, vec![1u8; n]).unwrap(),
            dtype => {
                let values = (0..n).map(|_| rng.random_range(-1.0..1.0f32)).collect();
                Tensor::from_f32(dtype, shape, values).expect("a floating-point input")
            }
        };
        (g.name_of(*v).to_owned(), tensor)
    })
    .collect()
}
