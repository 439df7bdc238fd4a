//! Weights and activations of other types than eight-bit integers, on ONNX Runtime: conversions are its own, and real models
//! run with them.

mod support;

use onnx_compress::{
    ir::{Float8, Model, Tensor, text},
    lower::{self, schemes::materialize},
    measure::Batch,
    passes::{Changed, Context, Pipeline},
    runtime::{Measurer, Optimize, Runtime, Samples, Session, SessionOptions, ValidateOptions, validate},
};
use support::{setup_dir, zoo, zoo_data};

fn runtime() -> Runtime {
    Runtime::find(Some(&setup_dir().join("ort"))).expect("set-up fetched the library: `cargo xtask setup`")
}

/// What ONNX Runtime makes of a model of one output, as floats.
fn run(source: &str, inputs: Vec<(&str, Tensor)>) -> Vec<f32> {
    let model = text::parse(source).unwrap_or_else(|e| panic!("{e}"));
    let options = SessionOptions { optimize: Optimize::Off, ..SessionOptions::default() };
    let inputs: Batch = inputs.into_iter().map(|(name, t)| (name.into(), t)).collect();
    let outputs = Session::new(&runtime(), &model, &options).and_then(|s| s.run(&inputs)).unwrap();
    outputs[0].1.to_f32().unwrap().into_owned()
}

fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

#[test]
fn every_float_of_eight_bits_is_what_a_cast_makes_of_it() {
    for float8 in [Float8::E4M3FN, Float8::E5M2] {
        let codes: Vec<String> = (0..256).map(|code| code.to_string()).collect();
        let found = run(
            &format!(
                r#"<ir_version: 10, opset_import: ["" : 19]> g (float[1] x) => (float[256] y)
                < {}[256] codes = {{{}}} > {{ y = Cast <to = 1> (codes) }}"#,
                float8.dtype(),
                codes.join(", ")
            ),
            vec![("x", Tensor::from_vec([1], vec![0f32]))],
        );
        for (code, x) in (0..=255u8).zip(found) {
            assert!(same(float8.decode(code), x), "{float8:?} {code:#x}: {} {x}", float8.decode(code));
        }
    }
}

#[test]
fn floats_round_to_eight_bits_as_a_cast_rounds_them() {
    for float8 in [Float8::E4M3FN, Float8::E5M2] {
        // What lies between two neighbours, and around; then any bits at all, and those near the type's range.
        let codes = (0..=254u8).map(|code| (float8.decode(code), float8.decode(code + 1)));
        let between = codes.map(|(a, b)| (a + b) / 2.0).filter(|x| x.is_finite());
        let mut floats: Vec<f32> = between.flat_map(|x| [x.next_down(), x, x.next_up()]).collect();
        let mut state = 7u32;
        for _ in 0..1 << 16 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let x = f32::from_bits(state.rotate_left(11));
            floats.extend([x, (state >> 8) as f32 / 16_384.0 - 512.0, (state >> 8) as f32 * 1e-9]);
        }
        floats.extend([f32::INFINITY, f32::NEG_INFINITY, f32::MAX, -0.0, 1e-45]);
        let count = floats.len();
        let found = run(
            &format!(
                r#"<ir_version: 10, opset_import: ["" : 19]> g (float[N] x) => (float[N] y)
                {{ c = Cast <to = {}> (x) y = Cast <to = 1> (c) }}"#,
                float8.dtype().onnx()
            ),
            vec![("x", Tensor::from_vec([count], floats.clone()))],
        );
        for (x, expected) in floats.into_iter().zip(found) {
            let rounded = float8.decode(float8.encode(x));
            assert!(same(rounded, expected), "{float8:?} {x:e}: {rounded:e}, not {expected:e}");
        }
    }
}

/// Decibel of a model's outputs above the noise, and the share of the file that is left.
fn measured(original: &Model, pass: &str) -> (f64, f64) {
    let load = |name: &str, most| Samples::load(&zoo_data(name), original, most, None).unwrap();
    let measurer = Measurer::new(runtime(), load("zoo_calib.npz", 64), SessionOptions::default());
    let mut model = original.clone();
    let pipeline: Pipeline = format!("simplify,{pass}").parse().unwrap();
    let changed = pipeline.run(&mut model, &mut Context::new().with_measure(&measurer)).unwrap();
    assert_eq!(changed, Changed::Yes, "{pass}");
    materialize(&mut model).unwrap();
    model.verify().unwrap();
    let test = load("zoo_test.npz", 250);
    let result = validate(&runtime(), original, &model, &test, &ValidateOptions::default()).unwrap();
    let size = |m: &Model| lower::to_bytes(m).unwrap().len() as f64;
    (result.outputs[0].sqnr_db.unwrap(), size(&model) / size(original))
}

#[test]
fn real_weights_and_activations_of_other_types_run() {
    let mut original = lower::load(&zoo("resnet20_raw")).unwrap();
    lower::opset::upgrade(&mut original, 21).unwrap();
    for (pass, least, most) in [
        ("quant(bits=16)", 90.0, 0.55),
        ("quant(bits=16,form=qdq)", 90.0, 0.55),
        ("quant(float8=e4m3fn)", 34.0, 0.30),
        ("quant(float8=e4m3fn,form=qdq)", 34.0, 0.30),
        ("quant(float8=e5m2)", 27.0, 0.30),
        ("quant(activation_type=int8,latency=any)", 35.0, 0.32),
        ("quant(activation_type=int16,latency=any)", 44.0, 0.32),
        ("quant(activation_type=uint16,target=qnn)", 43.0, 0.32),
    ] {
        let (sqnr, share) = measured(&original, pass);
        assert!(sqnr > least && share < most, "{pass}: {sqnr} dB, {share} of the file");
    }
}
