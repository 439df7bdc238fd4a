//! Layers that stay float between integers compute in float on ONNX Runtime, which would round their weights by itself.

mod support;

use onnx_compress::{
    ir::{Model, text},
    lower::schemes::materialize,
    ops::infer_types,
    passes::{Changed, Context, Pipeline},
    runtime::{Measurer, Optimize, Runtime, Samples, Session, SessionOptions, Synthesis},
};
use support::quantized::{kernels, runtime};

const CONV: &str = "y = Conv <pads = [1, 1, 1, 1]> (d, last)";
const GEMM: &str = "p = Gemm (d, head)  y = Reshape (p, flat)";

/// What is between a convolution and a layer behind, that layer, and the kind of the one in between that is excluded.
const CASES: [(&str, &str, &str); 9] = [
    ("b = Relu (a)  [middle] c = Conv <pads = [1, 1, 1, 1]> (b, square, bias)  d = Relu (c)", CONV, "Conv"),
    ("[middle] c = Conv <pads = [1, 1, 1, 1]> (a, square)  d = Clip (c, low, high)", CONV, "Conv"),
    ("b = Relu (a)  [middle] d = Conv <pads = [1, 1, 1, 1], group = 4> (b, grouped, bias)", CONV, "Conv"),
    (
        "[middle] c = ConvTranspose <pads = [1, 1, 1, 1]> (a, square, bias)  d = Relu (c)",
        CONV,
        "ConvTranspose",
    ),
    ("b = MaxPool <kernel_shape = [2, 2]> (a)  [middle] d = Conv (b, square, bias)", CONV, "Conv"),
    ("b = Transpose <perm = [0, 1, 3, 2]> (a)  [middle] d = Conv (b, square)", CONV, "Conv"),
    ("b = Slice (a, from, to, columns)  [middle] c = Conv (b, square, bias)  d = Relu (c)", CONV, "Conv"),
    ("[middle] c = Conv (a, square, bias)  d = Transpose <perm = [0, 1, 3, 2]> (c)", CONV, "Conv"),
    ("b = Reshape (a, rows)  [middle] c = Gemm (b, long, bias)  d = Relu (c)", GEMM, "Gemm"),
];

fn network(between: &str, last: &str) -> Model {
    let text = format!(
        r#"# weights: seed 5
        <ir_version: 8, opset_import: ["" : 17]>
        network (float[4, 8, 6, 6] x) => (float[4, 8, H, W] y)
        <float[8, 8, 3, 3] first, float[8, 8, 3, 3] last, float[8, 8, 3, 3] square, float[8, 2, 3, 3] grouped,
         float[288, 8] long, float[8, 8] head, float[8] bias, float low = {{-1}}, float high = {{2}},
         int64[2] rows = {{4, 288}}, int64[1] from = {{0}}, int64[1] to = {{4}}, int64[1] columns = {{3}},
         int64[4] flat = {{4, 8, 1, 1}}>
        {{ a = Conv <pads = [1, 1, 1, 1]> (x, first)  {between}  {last} }}"#
    );
    let mut model = text::parse(&text).unwrap();
    model.graph.sweep();
    infer_types(&mut model).unwrap();
    model
}

fn run(runtime: &Runtime, model: &Model, samples: &Samples, optimize: Optimize) -> Vec<f32> {
    let session =
        Session::new(runtime, model, &SessionOptions { optimize, ..SessionOptions::default() }).unwrap();
    samples
        .batches()
        .iter()
        .flat_map(|b| session.run(b).unwrap()[0].1.to_f32().unwrap().into_owned())
        .collect()
}

/// The root of the mean square of the difference, as a share of that of the first.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let power = |of: &mut dyn Iterator<Item = f32>| of.map(|x| f64::from(x).powi(2)).sum::<f64>();
    (power(&mut a.iter().zip(b).map(|(a, b)| a - b)) / power(&mut a.iter().copied())).sqrt()
}

/// Quantized anew to weights alone, no activation is rounded any more.
fn anew(original: &Model, quantized: &Model, samples: &Samples) {
    let mut model = quantized.clone();
    infer_types(&mut model).unwrap();
    let pipeline: Pipeline = "quant(requantize=true,activations=none)".parse().unwrap();
    assert_eq!(pipeline.run(&mut model, &mut Context::new()).unwrap(), Changed::Yes);
    materialize(&mut model).unwrap();
    assert!(!model.graph.ops().any(|op| model.graph.op(op).op_type.ends_with("QuantizeLinear")));
    let [float, again] = [original, &model].map(|model| run(&runtime(), model, samples, Optimize::All));
    let off = distance(&float, &again);
    assert!(off < 0.03, "{off}");
}

#[test]
fn a_layer_that_is_excluded_has_its_floats() {
    let runtime = runtime();
    for (between, last, kind) in CASES {
        let original = network(between, last);
        let made_up = Synthesis { batches: 4, ..Synthesis::default() };
        let made_up = Samples::synthesize(&runtime, &original, &made_up).unwrap();
        let samples = Samples::from_batches(made_up.batches().iter().cloned());
        let measurer = Measurer::new(runtime.clone(), samples.clone(), SessionOptions::default());
        let options = r#"latency=any,noise=any,equalize=none,repair=none,exclude=["middle"]"#;
        // How far what ONNX Runtime computes is from what is written, and whether a layer of floats is left.
        let [shielded, plain] = ["portable", "openvino"].map(|target| {
            let mut model = original.clone();
            let pipeline: Pipeline = format!("quant(target={target},{options})").parse().unwrap();
            let mut cx = Context::new().with_measure(&measurer);
            assert_eq!(pipeline.run(&mut model, &mut cx).unwrap(), Changed::Yes);
            materialize(&mut model).unwrap();
            model.verify().unwrap();
            let [written, computed] =
                [Optimize::Off, Optimize::All].map(|level| run(&runtime, &model, &samples, level));
            let kernels = kernels(&model);
            if target == "portable" {
                anew(&original, &model, &samples);
            }
            let of = |name: &str| kernels.get(name).copied().unwrap_or(0);
            (distance(&written, &computed), of(kind) + of(&format!("Fused{kind}")))
        });
        assert!(shielded.0 < 1e-3 && shielded.1 == 1, "{between}: {shielded:?}");
        assert!(plain.0 > 5e-3, "{between}: ONNX Runtime leaves it alone: {plain:?}");
    }
}
