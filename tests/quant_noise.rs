//! What would spoil integer activations, on ONNX Runtime: outliers that one layer makes, and masks.

mod support;

use onnx_compress::{
    Result,
    ir::{DType, Model, Origin, QuantForm, Tensor, text},
    lower::{self, schemes::materialize},
    measure::{Batch, Measure, Need, Probe, Seen, Stats, Timed},
    ops::infer_types,
    passes::{Changed, Context, Pipeline, Remark},
    runtime::{Measurer, Runtime, Samples, SessionOptions, ValidateOptions, validate},
};
use support::setup_dir;

fn runtime() -> Runtime {
    Runtime::find(Some(&setup_dir().join("ort"))).expect("set-up fetched the library: `cargo xtask setup`")
}

/// Numbers spread like a bell around 0, of about the size 1.
fn bell(count: usize, seed: usize) -> Vec<f32> {
    let even = |k: usize| ((k as f64 * 12.989_8).sin() * 43_758.545_3).fract().abs();
    let sum = |k: usize| (0..4).map(|i| even(4 * (k + seed * 7919) + i + 1)).sum::<f64>();
    (0..count).map(|k| (1.7 * (sum(k) - 2.0)) as f32).collect()
}

fn set(model: &mut Model, name: &str, tensor: Tensor) {
    let v = model.graph.find(name).unwrap();
    model.graph.value_mut(v).origin = Origin::Initializer(tensor);
}

/// Batches of `shape` for the input `x`.
fn batches(shape: &[usize]) -> Samples {
    let count = shape.iter().product();
    let batch = |k: usize| -> Batch { vec![("x".to_owned(), Tensor::from_vec(shape, bell(count, 100 + k)))] };
    Samples::from_batches((0..4).map(batch))
}

/// The model with integers in all its layers, what was said, and its signal-to-noise ratio.
fn quantized(original: &Model, samples: &Samples, pipeline: &str) -> (Model, Vec<Remark>, f64) {
    let measurer = Measurer::new(runtime(), samples.clone(), SessionOptions::default());
    let mut model = original.clone();
    let mut cx = Context::new().with_measure(&measurer);
    let pipeline: Pipeline = pipeline.parse().unwrap();
    assert_eq!(pipeline.run(&mut model, &mut cx).unwrap(), Changed::Yes);
    let remarks = cx.remarks;
    let annotated = model.clone();
    materialize(&mut model).unwrap();
    let result = validate(&runtime(), original, &model, samples, &ValidateOptions::default()).unwrap();
    (annotated, remarks, result.outputs[0].sqnr_db.unwrap())
}

/// Six layers; what the second one writes is `outlier` times as large in one channel, which the third
/// does not read.
fn chain(outlier: f32) -> Model {
    let text = r#"<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 64] x) => (float[N, 64] y)
        <float[64, 64] w1, float[64, 64] w2, float[64, 64] w3, float[64, 64] w4, float[64, 64] w5, float[64, 64] w6>
        {
          [m1] a = MatMul (x, w1)
          r1 = Relu (a)
          [m2] b = MatMul (r1, w2)
          r2 = Relu (b)
          [m3] c = MatMul (r2, w3)
          r3 = Relu (c)
          [m4] d = MatMul (r3, w4)
          r4 = Relu (d)
          [m5] e = MatMul (r4, w5)
          r5 = Relu (e)
          [m6] y = MatMul (r5, w6)
        }"#;
    let mut model = text::parse(text).unwrap();
    for layer in 1..=6 {
        let mut values: Vec<f32> = bell(64 * 64, layer).iter().map(|x| x / 6.0).collect();
        for k in 0..64 {
            if layer == 2 {
                values[k * 64 + 5] *= outlier;
            } else if layer == 3 {
                values[5 * 64 + k] = 0.0;
            }
        }
        set(&mut model, &format!("w{layer}"), Tensor::from_vec([64, 64], values));
    }
    model
}

#[test]
fn a_layer_that_spoils_the_outputs_stays_float_and_is_named() {
    let samples = batches(&[64, 64]);
    let rounded = |m: &Model, name: &str| m.graph.value(m.graph.find(name).unwrap()).quant.is_some();
    let loud = |said: &[Remark]| -> Vec<String> {
        let loud = said.iter().filter(|r| r.text.contains("alone costs the outputs"));
        loud.map(|r| r.at.name().to_owned()).collect()
    };
    let (even, said, sqnr) = quantized(&chain(1.0), &samples, "quant(latency=any,equalize=none)");
    assert!(loud(&said).is_empty() && sqnr > 30.0, "{sqnr} dB: {said:?}");
    assert!((1..=5).all(|k| rounded(&even, &format!("r{k}"))));
    let (model, said, sqnr) = quantized(&chain(300.0), &samples, "quant(latency=any,equalize=none)");
    assert_eq!(loud(&said), ["m3"], "{said:?}");
    assert!(sqnr > 30.0, "{sqnr} dB");
    assert!(!rounded(&model, "r2") && [1, 3, 4, 5].iter().all(|k| rounded(&model, &format!("r{k}"))));
    let (model, said, sqnr) =
        quantized(&chain(300.0), &samples, "quant(latency=any,equalize=none,noise=any)");
    assert!(loud(&said).is_empty() && sqnr < 30.0, "{sqnr} dB: {said:?}");
    assert!((1..=5).all(|k| rounded(&model, &format!("r{k}"))));
}

/// How many products read integers.
fn integers(model: &Model) -> usize {
    let g = &model.graph;
    let reads = |op: &_| g.input(*op, 0).is_some_and(|x| g.value(x).quant.is_some());
    g.ops().filter(|op| g.op(*op).is("MatMul")).filter(reads).count()
}

#[test]
fn what_the_clock_leaves_float_is_not_looked_at() {
    let samples = batches(&[64, 64]);
    // How many layers read integers, whether one of them was found too loud, the time, and that with integers in those left float.
    let placed = |seconds| {
        let (model, said) = clocked(&chain(300.0), &samples, "quant(equalize=none,form=qdq)", seconds);
        let blamed = said.iter().any(|r| r.text.contains("alone costs the outputs"));
        let number = |before: &str| {
            let told = said.iter().find_map(|r| r.text.split_once(before));
            told.map(|(_, rest)| rest.split(' ').next().unwrap().to_owned())
        };
        (integers(&model), blamed, number("timed here: ").unwrap(), number("too the model takes "))
    };
    let told = |time: &str| time.to_owned();
    assert_eq!(placed(|m| 1.0 + integers(m) as f64), (0, false, told("1.00"), Some(told("7.00"))));
    assert_eq!(placed(|m| 1.0 / (1.0 + integers(m) as f64)), (5, true, told("0.17"), None));
    // Without the loud layer the others are not worth it any more.
    let fast_together =
        |m: &Model| if matches!(integers(m), 0 | 6) { 1.0 / (1.0 + integers(m) as f64) } else { 2.0 };
    assert_eq!(placed(fast_together), (0, true, told("1.00"), Some(told("2.00"))));
}

#[test]
fn where_nothing_would_work_the_loudest_go_though_all_are_alike() {
    let (original, samples) = (outlying_channels(), batches(&[64, 64]));
    let (_, said, garbage) = quantized(&original, &samples, "quant(latency=any,equalize=none,noise=any)");
    assert!(garbage < 10.0, "{garbage} dB: {said:?}");
    let (_, said, sqnr) = quantized(&original, &samples, "quant(latency=any,equalize=none)");
    assert!(sqnr >= 10.0, "{sqnr} dB: {said:?}");
    let left = said.iter().filter(|r| r.text.contains("alone costs the outputs")).count();
    assert!((1..3).contains(&left), "{said:?}");
}

#[test]
fn what_samples_teach_rounding_is_not_taken_for_noise() {
    let (mut model, samples) = (chain(1.0), batches(&[64, 64]));
    lower::opset::upgrade(&mut model, 21).unwrap();
    // One large element makes the steps of all coarse, in each layer alike.
    for layer in 1..=6 {
        let mut values: Vec<f32> = bell(64 * 64, layer).iter().map(|x| x / 6.0).collect();
        values[0] = 1.3;
        set(&mut model, &format!("w{layer}"), Tensor::from_vec([64, 64], values));
    }
    let widened = |method: &str| {
        let pipeline = format!("quant(activations=none,bits=4,block=0,per_channel=false,method={method})");
        let (_, said, sqnr) = quantized(&model, &samples, &pipeline);
        (said.iter().filter(|r| r.text.starts_with("has 8 bits")).count(), sqnr)
    };
    let [(nearest, a), (learned, b)] = ["rtn", "gptq"].map(widened);
    assert!(nearest >= 1 && a > 5.0, "{nearest} {a}");
    assert!(learned == 0 && b > 5.0, "{learned} {b}");
}

/// Layers in a row on what LayerNormalization puts out, where few channels are much larger than the others, as in language
/// models, and read by as much smaller weights.
fn outlying_channels() -> Model {
    let text = r#"<ir_version: 8, opset_import: ["" : 21]>
        g (float[N, 64] x) => (float[N, 64] y)
        <float[64] gain, float[64] shift, float[64, 64] w1, float[64] b1, float[64, 64] w2, float[64, 64] w3>
        {
          n = LayerNormalization (x, gain, shift)
          [g1] a = Gemm (n, w1, b1)
          r1 = Relu (a)
          [g2] b = Gemm (r1, w2)
          r2 = Relu (b)
          [g3] y = Gemm (r2, w3)
        }"#;
    let mut model = text::parse(text).unwrap();
    let size = |channel: usize| if channel % 16 == 3 { 100f32 } else { 1.0 };
    for layer in 1..=3 {
        let weight = |(at, x): (usize, &f32)| match layer {
            1 => x / 6.0 / size(at / 64),
            2 => x / 6.0 * size(at % 64),
            _ => x / 6.0 / size(at / 64),
        };
        let values = bell(64 * 64, layer).iter().enumerate().map(weight).collect();
        set(&mut model, &format!("w{layer}"), Tensor::from_vec([64, 64], values));
    }
    set(&mut model, "gain", Tensor::from_vec([64], (0..64).map(size).collect()));
    set(&mut model, "shift", Tensor::from_vec([64], vec![0f32; 64]));
    set(&mut model, "b1", Tensor::from_vec([64], bell(64, 9)));
    infer_types(&mut model).unwrap();
    model
}

#[test]
fn scales_move_from_outlying_channels_into_the_weights_that_read_them() {
    let (model, samples) = (outlying_channels(), batches(&[64, 64]));
    for options in [
        "latency=any",
        "activations=none,per_channel=false",
        "bits=4,block=0,per_channel=false,method=rtn",
        // The options of single layers count, and what stays float does not: one scale for g2, which nothing rounded reads.
        r#"activations=none,exclude=["g1","g3"],layers=[{"name":"g2","per_channel":false}]"#,
        r#"activations=none,method=rtn,exclude=["g2","g3"],layers=[{"name":"g1","bits":4,"block":0}]"#,
    ] {
        let (_, _, without) =
            quantized(&model, &samples, &format!("quant({options},noise=any,equalize=none)"));
        let (_, said, with) = quantized(&model, &samples, &format!("quant({options},noise=any)"));
        assert!(said.iter().any(|r| r.text.starts_with("scales moved across")), "{options}: {said:?}");
        assert!(with > without + 6.0, "{options}: {without} dB -> {with} dB");
    }
}

#[test]
fn biases_make_up_for_what_rounding_adds_on_average() {
    let text = r#"<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 64] x) => (float[N, 64] y)
        <float[64, 64] w1, float[64] b1, float[64, 64] w2, float[64, 64] w3>
        {
          [g1] a = Gemm (x, w1, b1)
          r1 = Relu (a)
          [g2] b = Gemm (r1, w2)
          r2 = Relu (b)
          [g3] y = Gemm (r2, w3)
        }"#;
    let mut model = text::parse(text).unwrap();
    for layer in 1..=3 {
        let values = bell(64 * 64, layer).iter().map(|x| x / 6.0 + 0.1).collect();
        set(&mut model, &format!("w{layer}"), Tensor::from_vec([64, 64], values));
    }
    set(&mut model, "b1", Tensor::from_vec([64], bell(64, 9)));
    infer_types(&mut model).unwrap();
    // Inputs that are much alike: most of the error is the same for all.
    let input =
        |k: usize| Tensor::from_vec([16, 64], bell(1024, 50 + k).iter().map(|x| 3.0 + x / 8.0).collect());
    let samples = Samples::from_batches((0..8).map(|k| -> Batch { vec![("x".to_owned(), input(k))] }));
    let biases = |m: &Model| {
        let layers = m.graph.ops().filter(|op| m.graph.op(*op).is("Gemm"));
        layers.filter(|op| m.graph.input(*op, 2).is_some()).count()
    };
    for activations in ["static", "none"] {
        let options = format!("latency=any,activations={activations}");
        let (plain, _, without) = quantized(&model, &samples, &format!("quant({options},repair=none)"));
        let (repaired, said, with) = quantized(&model, &samples, &format!("quant({options})"));
        assert_eq!((biases(&plain), biases(&repaired)), (1, 3), "{activations}");
        assert!(said.iter().any(|r| r.text.starts_with("biases that make up for")), "{said:?}");
        assert!(with > without + 6.0, "{activations}: {without} dB -> {with} dB");
    }
}

/// Attention twice: a mask that is added, and one that chooses.
fn masked_attention() -> Model {
    let text = r#"<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 8, 32] x) => (float[N, 8, 32] y)
        <float[32, 32] wq, float[32, 32] wk, float[32, 32] wv, float[32, 32] wo,
         float[32, 32] vq, float[32, 32] vk, float[32, 32] vv, float[32, 32] vo,
         float[8, 8] mask, bool[8, 8] seen, float hidden>
        {
          q = MatMul (x, wq)
          k = MatMul (x, wk)
          kt = Transpose <perm = [0, 2, 1]> (k)
          s = MatMul (q, kt)
          masked = Add (s, mask)
          p = Softmax <axis = -1> (masked)
          v = MatMul (x, wv)
          o = MatMul (p, v)
          a = MatMul (o, wo)
          h = Add (x, a)
          q2 = MatMul (h, vq)
          k2 = MatMul (h, vk)
          kt2 = Transpose <perm = [0, 2, 1]> (k2)
          s2 = MatMul (q2, kt2)
          masked2 = Where (seen, s2, hidden)
          p2 = Softmax <axis = -1> (masked2)
          v2 = MatMul (h, vv)
          o2 = MatMul (p2, v2)
          y = MatMul (o2, vo)
        }"#;
    let mut model = text::parse(text).unwrap();
    for (seed, name) in ["wq", "wk", "wv", "wo", "vq", "vk", "vv", "vo"].iter().enumerate() {
        let values = bell(32 * 32, seed).iter().map(|x| x / 6.0).collect();
        set(&mut model, name, Tensor::from_vec([32, 32], values));
    }
    let causal = |at: usize| at % 8 <= at / 8;
    let mask = (0..64).map(|at| if causal(at) { 0f32 } else { -1e4 }).collect();
    set(&mut model, "mask", Tensor::from_vec([8, 8], mask));
    let seen = (0..64).map(|at| u8::from(causal(at))).collect::<Vec<u8>>();
    set(&mut model, "seen", Tensor::new(DType::Bool, [8, 8], seen).unwrap());
    set(&mut model, "hidden", Tensor::from_vec([], vec![f32::NEG_INFINITY]));
    model
}

#[test]
fn masks_set_no_range() {
    let (model, said, sqnr) = quantized(&masked_attention(), &batches(&[16, 8, 32]), "quant(latency=any)");
    let g = &model.graph;
    let activations: Vec<_> = g
        .values()
        .filter(|v| g.constant(*v).is_none())
        .filter_map(|v| Some((g.name_of(v), g.value(v).quant.as_ref()?.scales[0])))
        .collect();
    assert!(activations.len() >= 4, "{activations:?}");
    assert!(activations.iter().all(|(_, scale)| *scale < 0.1), "{activations:?}");
    assert!(["mask", "hidden"].iter().all(|name| g.value(g.find(name).unwrap()).quant.is_none()));
    assert!(!said.iter().any(|r| r.text.contains("not finite")), "{said:?}");
    assert!(sqnr > 25.0, "{sqnr} dB");
}

/// A runtime on which models take so many seconds.
struct Clocked {
    measurer: Measurer,
    seconds: fn(&Model) -> f64,
}
impl Measure for Clocked {
    fn has_samples(&self) -> bool {
        self.measurer.has_samples()
    }
    fn has_inputs(&self) -> bool {
        self.measurer.has_inputs()
    }
    fn written(&self, model: &Model) -> Result<(Model, u64)> {
        self.measurer.written(model)
    }
    fn measure(&self, model: &Model, needs: &[Need]) -> Result<Stats> {
        self.measurer.measure(model, needs)
    }
    fn sweep(
        &self,
        probes: &[Probe<'_>],
        samples: std::ops::Range<usize>,
        each: &mut dyn FnMut(Seen<'_>) -> Result<()>,
    ) -> Result<()> {
        self.measurer.sweep(probes, samples, each)
    }
    fn latency(&self, models: &[&Model]) -> Result<Vec<Timed>> {
        let seconds = models.iter().map(|m| (self.seconds)(m)).collect();
        Ok(vec![Timed { samples: 1, seconds }])
    }
}

/// The model with what such a clock is for in integers, and what was said.
fn clocked(
    original: &Model,
    samples: &Samples,
    pipeline: &str,
    seconds: fn(&Model) -> f64,
) -> (Model, Vec<Remark>) {
    let measurer = Measurer::new(runtime(), samples.clone(), SessionOptions::default());
    let clock = Clocked { measurer, seconds };
    let mut model = original.clone();
    infer_types(&mut model).unwrap();
    let mut cx = Context::new().with_measure(&clock);
    assert_eq!(pipeline.parse::<Pipeline>().unwrap().run(&mut model, &mut cx).unwrap(), Changed::Yes);
    (model, cx.remarks)
}

/// The operands of products of two activations that are integers.
fn multiplied(model: &Model) -> Vec<&str> {
    let g = &model.graph;
    let multiplied = |v: &_| g.value(*v).quant.as_ref().is_some_and(|s| s.form == QuantForm::Multiplied);
    g.values().filter(multiplied).map(|v| g.name_of(v)).collect()
}

#[test]
fn attention_multiplies_integers_where_the_clock_is_for_it() {
    let (original, samples) = (masked_attention(), batches(&[16, 8, 32]));
    let fast = |m: &Model| if multiplied(m).is_empty() { 1.0 } else { 0.5 };
    let (mut model, _) = clocked(&original, &samples, "quant(reduce_range=false)", fast);
    assert_eq!(multiplied(&model), ["q", "kt", "p", "v", "q2", "kt2", "p2", "v2"]);
    let scheme = |name: &str| model.graph.value(model.graph.find(name).unwrap()).quant.clone().unwrap();
    for (first, second) in [("q", "kt"), ("p2", "v2")] {
        assert_eq!((scheme(first).dtype, scheme(second).dtype), (DType::U8, DType::I8));
    }
    assert!(scheme("p").scales[0] < 1.001 / 255.0, "no more than one");
    materialize(&mut model).unwrap();
    let result = validate(&runtime(), &original, &model, &samples, &ValidateOptions::default()).unwrap();
    let sqnr = result.outputs[0].sqnr_db.unwrap();
    assert!(sqnr > 25.0, "{sqnr} dB");
    let usual = quantized(&original, &samples, "quant(latency=any)").0;
    assert!(multiplied(&usual).is_empty(), "only the clock is for it");
}
