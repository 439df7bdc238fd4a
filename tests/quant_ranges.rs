//! Ranges of activations against what the values themselves are, over more samples than are counted.

mod support;

use onnx_compress::{
    ir::{Model, Origin, QuantScheme, Tensor, text},
    measure::{ALL, Batch, Measure, Probe},
    ops::infer_types,
    passes::{Context, Pipeline},
    runtime::{Measurer, Runtime, Samples, SessionOptions},
};
use std::collections::BTreeMap;
use support::setup_dir;

const BATCHES: usize = 40;
const ROWS: usize = 32;

/// Numbers spread evenly around 0.
fn even(count: usize, seed: usize) -> Vec<f32> {
    let one = |k: usize| (((k + seed * 7919) as f64 * 12.989_8).sin() * 43_758.545_3).fract();
    (0..count).map(|k| one(k) as f32).collect()
}

fn model() -> Model {
    let text = r#"<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 16, 6, 6] x) => (float[N, 16, 6, 6] y)
        <float[16, 16, 3, 3] w1, float[16, 16, 3, 3] w2, float[16, 16, 3, 3] w3>
        {
          [c1] a = Conv <pads = [1, 1, 1, 1]> (x, w1)
          r = Relu (a)
          [c2] b = Conv <pads = [1, 1, 1, 1]> (r, w2)
          s = Add (x, b)
          [c3] y = Conv <pads = [1, 1, 1, 1]> (s, w3)
        }"#;
    let mut model = text::parse(text).unwrap();
    for (seed, name) in ["w1", "w2", "w3"].into_iter().enumerate() {
        let values = even(16 * 16 * 9, seed + 1).iter().map(|x| x / 8.0).collect();
        let v = model.graph.find(name).unwrap();
        model.graph.value_mut(v).origin = Origin::Initializer(Tensor::from_vec([16, 16, 3, 3], values));
    }
    infer_types(&mut model).unwrap();
    model
}

/// 1280 samples, of which the last 32 are three times as large as the others.
fn measurer() -> Measurer {
    let runtime =
        Runtime::find(Some(&setup_dir().join("ort"))).expect("`cargo xtask setup` fetched the library");
    let shape = [ROWS, 16, 6, 6];
    let batch = |k: usize| -> Batch {
        let times = if k == BATCHES - 1 { 3.0 } else { 1.0 };
        let values = even(shape.iter().product(), 100 + k).iter().map(|x| x * times).collect();
        vec![("x".to_owned(), Tensor::from_vec(shape, values))]
    };
    Measurer::new(runtime, Samples::from_batches((0..BATCHES).map(batch)), SessionOptions::default())
}

/// The schemes of the activations that a rule makes integers, by the values' names.
fn schemes(model: &Model, measurer: &Measurer, rule: &str) -> BTreeMap<String, QuantScheme> {
    let pipeline = format!("quant(latency=any,noise=any,equalize=none,repair=none,{rule})");
    let pipeline: Pipeline = pipeline.parse().unwrap();
    let (mut quantized, mut cx) = (model.clone(), Context::new().with_measure(measurer));
    let _ = pipeline.run(&mut quantized, &mut cx).unwrap();
    let g = &quantized.graph;
    let rounded = g.values().filter(|v| g.initializer(*v).is_none());
    rounded.filter_map(|v| Some((g.name_of(v).to_owned(), g.value(v).quant.clone()?))).collect()
}

/// The ends of each batch of each of these values, as they are computed.
fn ends(model: &Model, measurer: &Measurer, names: &[String]) -> Vec<Vec<(f32, f32)>> {
    let mut ends = vec![Vec::new(); names.len()];
    let probes = [Probe { model, fetch: names }];
    let swept = measurer.sweep(&probes, ALL, &mut |seen| {
        for (ends, value) in ends.iter_mut().zip(&seen.values[0]) {
            let value = value.to_f32().unwrap();
            ends.push(value.iter().fold((0f32, 0f32), |(low, high), x| (low.min(*x), high.max(*x))));
        }
        Ok(())
    });
    swept.unwrap();
    assert!(ends.iter().all(|ends| ends.len() == BATCHES));
    ends
}

/// What a span of these ends is made, as the scheme at hand is of a type.
fn over(scheme: &QuantScheme, (low, high): (f32, f32)) -> QuantScheme {
    QuantScheme { form: scheme.form, ..QuantScheme::over(scheme.dtype, low, high).unwrap() }
}

fn widest(ends: &[(f32, f32)]) -> (f32, f32) {
    ends.iter().fold((0f32, 0f32), |(a, b), (low, high)| (a.min(*low), b.max(*high)))
}

#[test]
fn ends_are_those_of_all_samples_though_no_value_is_handed_out() {
    let (model, measurer) = (model(), measurer());
    for rule in ["observer=minmax", "observer=percentile,percentile=100"] {
        let schemes = schemes(&model, &measurer, rule);
        assert!(schemes.len() >= 4, "{rule}: {:?}", schemes.keys());
        let names: Vec<String> = schemes.keys().cloned().collect();
        for ((name, scheme), ends) in schemes.iter().zip(ends(&model, &measurer, &names)) {
            let expected = over(scheme, widest(&ends));
            let near = (scheme.scales[0] / expected.scales[0] - 1.0).abs() < 1e-5;
            assert!(near, "{rule}: {name}: {} for {}", scheme.scales[0], expected.scales[0]);
            assert_eq!(scheme.zero_points, expected.zero_points, "{rule}: {name}");
        }
    }
}

#[test]
fn the_average_is_over_all_batches() {
    let (model, measurer) = (model(), measurer());
    let schemes = schemes(&model, &measurer, "observer=average");
    assert!(schemes.len() >= 4, "{:?}", schemes.keys());
    let names: Vec<String> = schemes.keys().cloned().collect();
    for ((name, scheme), ends) in schemes.iter().zip(ends(&model, &measurer, &names)) {
        let mean = |of: fn(&(f32, f32)) -> f32| ends.iter().map(of).sum::<f32>() / BATCHES as f32;
        let expected = over(scheme, (mean(|ends| ends.0), mean(|ends| ends.1)));
        let near = (scheme.scales[0] / expected.scales[0] - 1.0).abs() < 1e-4;
        assert!(near, "{name}: {} for {}", scheme.scales[0], expected.scales[0]);
    }
}

#[test]
fn shares_are_those_of_the_samples_that_are_counted() {
    let (model, measurer) = (model(), measurer());
    let counted = Samples::from_batches(measurer.samples().batches()[..1024 / ROWS].to_vec());
    let runtime = Runtime::find(Some(&setup_dir().join("ort"))).unwrap();
    let first = Measurer::new(runtime, counted, SessionOptions::default());
    for rule in ["observer=percentile", "observer=mse", "observer=entropy"] {
        let (all, few) = (schemes(&model, &measurer, rule), schemes(&model, &first, rule));
        assert!(all.len() >= 4, "{rule}: {:?}", all.keys());
        assert_eq!(all, few, "{rule}");
    }
}

#[test]
fn a_batch_without_elements_changes_nothing() {
    let (model, measurer) = (model(), measurer());
    let empty: Batch = vec![("x".to_owned(), Tensor::from_vec([0, 16, 6, 6], Vec::<f32>::new()))];
    let batches = measurer.samples().batches().iter().cloned().chain([empty]);
    let runtime = Runtime::find(Some(&setup_dir().join("ort"))).unwrap();
    let more = Measurer::new(runtime, Samples::from_batches(batches), SessionOptions::default());
    let [with, without] = [&more, &measurer].map(|measurer| schemes(&model, measurer, "observer=minmax"));
    assert!(with.len() >= 4 && with == without, "{with:?}");
}

#[test]
fn what_is_infinite_in_samples_behind_those_that_are_counted_stays_float() {
    let (model, measurer) = (model(), measurer());
    let mut batches = measurer.samples().batches().to_vec();
    let mut values = even(ROWS * 16 * 36, 1);
    values[777] = f32::INFINITY;
    batches[BATCHES - 1] = vec![("x".to_owned(), Tensor::from_vec([ROWS, 16, 6, 6], values))];
    let runtime = Runtime::find(Some(&setup_dir().join("ort"))).unwrap();
    let infinite = Measurer::new(runtime, Samples::from_batches(batches), SessionOptions::default());
    for rule in ["observer=minmax", "observer=average", "observer=percentile"] {
        assert!(schemes(&model, &measurer, rule).contains_key("x"), "{rule}");
        assert!(!schemes(&model, &infinite, rule).contains_key("x"), "{rule}");
    }
}
