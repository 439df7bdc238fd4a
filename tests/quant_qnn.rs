//! Models for Qualcomm's accelerators, which have integers between all operators, on ONNX Runtime's processor provider.

mod support;

use onnx_compress::{
    ir::{DType, Graph, Model, OpId, Tensor, Use, ValueId, text},
    lower::{self, schemes::materialize},
    measure::Batch,
    ops::infer_types,
    passes::{Changed, Context, Pipeline},
    runtime::{Measurer, Samples, SessionOptions, ValidateOptions, validate},
};
use support::{
    quantized::{calibrated, cost, load, runtime},
    zoo,
};

fn is_pair(graph: &Graph, op: OpId) -> bool {
    graph.op(op).is("QuantizeLinear") || graph.op(op).is("DequantizeLinear")
}

/// The floats that operators read or write as such: all but limits, and what pairs read and write.
fn floats(model: &Model) -> Vec<String> {
    let g = &model.graph;
    let float = |v: &ValueId| g.dtype(*v) == Some(DType::F32);
    let from_pair = |v: &ValueId| g.producer(*v).is_some_and(|(op, _)| g.op(op).is("DequantizeLinear"));
    let to_pair = |v: &ValueId| {
        let rounds = |at: &Use| g.op(at.op()).is("QuantizeLinear");
        !g.is_output(*v) && g.uses(*v).iter().all(rounds)
    };
    let mut left = Vec::new();
    for op in g.order().into_iter().filter(|op| !is_pair(g, *op)) {
        let inputs = g.inputs_of(op).into_iter().enumerate();
        let limit = |slot: usize| slot > 0 && g.op(op).is("Clip");
        let read = inputs.filter(|(slot, _)| !limit(*slot)).filter_map(|(_, v)| v);
        let read = read.filter(|v| float(v) && !from_pair(v));
        let written = g.outputs_of(op).into_iter().flatten().filter(|v| float(v) && !to_pair(v));
        left.extend(read.chain(written).map(|v| format!("{} of {}", g.name_of(v), g.op(op).op_type)));
    }
    left
}

#[test]
fn nothing_is_float_between_operators_and_the_outputs_are_near() {
    for (name, more, least) in [
        ("resnet20_raw", "", 36.0),
        ("resnet20_raw", ",activation_type=uint16", 44.0),
        ("resnet20_raw", ",compensate=4", 34.0),
        ("vit_raw", "", 31.0),
        ("resnet20_raw", ",activation_type=uint16,bits=16", 70.0),
        ("vit_raw", ",activation_type=uint16", 44.0),
        ("vit_raw", ",activation_type=uint16,bits=16", 60.0),
        ("simplecnn_raw", ",activation_type=int16", 40.0),
    ] {
        let mut original = load(&zoo(name));
        lower::opset::upgrade(&mut original, 21).unwrap();
        let mut model = calibrated(&original, &format!("quant(target=qnn{more})"));
        infer_types(&mut model).unwrap();
        assert_eq!(floats(&model), [""; 0], "{name}{more}");
        let (lost, sqnr) = cost(&original, &model);
        assert!(lost < 0.5 && sqnr > least, "{name}{more}: {lost} points, {sqnr} dB");
    }
}

#[test]
fn layers_that_are_to_stay_float_do() {
    let mut original = load(&zoo("resnet20_raw"));
    lower::opset::upgrade(&mut original, 21).unwrap();
    for options in [
        r#"exclude=["*fc*"]"#,
        r#"layers=[{"name":"*fc*","activations":"none"}]"#,
        r#"activation_type=uint16,layers=[{"name":"*fc*","activations":"none"}]"#,
        r#"layers=[{"name":"*fc*","bits":16}]"#,
    ] {
        let mut model = calibrated(&original, &format!("quant(target=qnn,{options})"));
        infer_types(&mut model).unwrap();
        let left = floats(&model);
        assert!(!left.is_empty() && left.iter().all(|at| at.ends_with("of Gemm")), "{options}: {left:?}");
    }
}

/// Numbers between -2 and 2.
fn numbers(shape: &[usize], seed: usize) -> Tensor {
    let count = shape.iter().product();
    let number = |k: usize| (((k + seed * 7919) as f32 * 12.9898).sin() * 43_758.547).fract() * 2.0;
    Tensor::from_vec(shape, (0..count).map(number).collect())
}

/// Scores hidden by what is added to them or takes their place, and probabilities.
fn masked(mask: &str, low: &str) -> Model {
    let source = format!(
        r#"<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 8, 64] x, float[N, 1, 8] seen, bool[N, 1, 8] hidden) => (float[N, 8, 64] y)
        <float low = {{{low}}}, float one = {{1.0}}, float[64, 64] w>
        {{
          k = Transpose <perm = [0, 2, 1]> (x)
          s = MatMul (x, k)
          {mask}
          p = Softmax <axis = -1> (m)
          v = MatMul (p, x)
          [last] y = MatMul (v, w)
        }}"#
    );
    let mut model = text::parse(&source).unwrap();
    infer_types(&mut model).unwrap();
    model
}

#[test]
fn masks_hide_and_cost_the_scores_no_digits() {
    let batch = |k: usize| -> Batch {
        let seen: Vec<f32> = (0..32).map(|i| if i % 8 < 3 + i / 8 + k % 2 { 1.0 } else { 0.0 }).collect();
        let hidden =
            Tensor::new(DType::Bool, [4, 1, 8], seen.iter().map(|s| u8::from(*s == 0.0)).collect::<Vec<_>>());
        let x = numbers(&[4, 8, 64], k);
        let x = Tensor::from_vec(x.shape(), x.to_f32().unwrap().iter().map(|x| x * 0.4).collect());
        vec![
            ("x".into(), x),
            ("seen".into(), Tensor::from_vec([4, 1, 8], seen)),
            ("hidden".into(), hidden.unwrap()),
        ]
    };
    let samples = Samples::from_batches((0..4).map(batch));
    for (mask, low, least) in [
        ("m = Where (hidden, low, s)", "-10000.0", 25.0),
        ("m = Where (hidden, low, s)", "-3.4028235e38", 25.0),
        ("n = Sub (one, seen) h = Mul (n, low) m = Add (s, h)", "-10000.0", 25.0),
        ("n = Sub (one, seen) h = Mul (n, low) m = Add (s, h)", "-3.4028235e38", 25.0),
    ] {
        let original = masked(mask, low);
        for (more, least) in [("", least), (",activation_type=uint16", 35.0)] {
            let measurer = Measurer::new(runtime(), samples.clone(), SessionOptions::default());
            let mut model = original.clone();
            lower::opset::upgrade(&mut model, 21).unwrap();
            let mut cx = Context::new().with_measure(&measurer);
            let pass: Pipeline = format!("quant(target=qnn{more})").parse().unwrap();
            assert_eq!(pass.run(&mut model, &mut cx).unwrap(), Changed::Yes);
            materialize(&mut model).unwrap();
            infer_types(&mut model).unwrap();
            assert_eq!(floats(&model), [""; 0], "{mask}");
            let result =
                validate(&runtime(), &original, &model, &samples, &ValidateOptions::default()).unwrap();
            let sqnr = result.outputs[0].sqnr_db.unwrap();
            assert!(sqnr > least, "{mask} by {low}{more}: {sqnr} dB");
        }
    }
}

#[test]
fn layers_that_share_a_bias_get_one_each() {
    let source = r#"<ir_version: 10, opset_import: ["" : 21]>
        g (float[N, 8, 6, 6] x) => (float[N, 8, 4, 4] y)
        <float[8, 8, 3, 3] w, float[8, 8, 3, 3] v, float[8] b>
        {
          [left] l = Conv (x, w, b)
          [right] r = Conv (x, v, b)
          y = Sub (l, r)
        }"#;
    let mut original = text::parse(source).unwrap();
    infer_types(&mut original).unwrap();
    let batch = |k| -> Batch { vec![("x".into(), numbers(&[4, 8, 6, 6], k))] };
    let samples = Samples::from_batches((0..4).map(batch));
    let measurer = Measurer::new(runtime(), samples.clone(), SessionOptions::default());
    let mut model = original.clone();
    let mut cx = Context::new().with_measure(&measurer);
    let pass: Pipeline = "quant(target=qnn,activation_type=uint16)".parse().unwrap();
    assert_eq!(pass.run(&mut model, &mut cx).unwrap(), Changed::Yes);
    materialize(&mut model).unwrap();
    model.verify().unwrap();
    infer_types(&mut model).unwrap();
    assert_eq!(floats(&model), [""; 0]);
    let result = validate(&runtime(), &original, &model, &samples, &ValidateOptions::default()).unwrap();
    assert!(result.outputs[0].sqnr_db.unwrap() > 40.0);
}

/// Columns of very different size share a scale, and biases are large beside what is summed up.
#[test]
fn weights_of_sixteen_bits_keep_small_columns_and_large_biases() {
    let source = r#"<ir_version: 10, opset_import: ["" : 21]>
        g (float[N, 64] x) => (float[N, 32] y)
        <float[64, 64] w, float[64, 32] v, float[32] b, float[64] scale, float[64] shift>
        {
          [uneven] h = MatMul (x, w)
          [norm] n = LayerNormalization <axis = -1> (h, scale, shift)
          [biased] y = Gemm (n, v, b)
        }"#;
    let mut original = text::parse(source).unwrap();
    let uneven = numbers(&[64, 64], 1);
    let uneven =
        uneven.to_f32().unwrap().iter().enumerate().map(|(k, x)| x * 0.5f32.powi(k as i32 % 8)).collect();
    let large = numbers(&[32], 3).to_f32().unwrap().iter().map(|x| x * 100.0).collect();
    for (name, tensor) in [
        ("w", Tensor::from_vec([64, 64], uneven)),
        ("v", numbers(&[64, 32], 2)),
        ("b", Tensor::from_vec([32], large)),
        ("scale", numbers(&[64], 4)),
        ("shift", numbers(&[64], 5)),
    ] {
        let v = original.graph.find(name).unwrap();
        original.graph.make_constant(v, tensor);
    }
    infer_types(&mut original).unwrap();
    let batch = |k| -> Batch { vec![("x".into(), numbers(&[16, 64], k))] };
    let samples = Samples::from_batches((0..4).map(batch));
    let sqnr = |options: &str| {
        let measurer = Measurer::new(runtime(), samples.clone(), SessionOptions::default());
        let (mut model, mut cx) = (original.clone(), Context::new().with_measure(&measurer));
        let pass: Pipeline = format!("quant(target=qnn,activation_type=uint16{options})").parse().unwrap();
        assert_eq!(pass.run(&mut model, &mut cx).unwrap(), Changed::Yes);
        materialize(&mut model).unwrap();
        model.verify().unwrap();
        infer_types(&mut model).unwrap();
        assert_eq!(floats(&model), [""; 0], "{options}");
        let dtypes: Vec<_> = model.graph.initializers().map(|(_, t)| t.dtype()).collect();
        assert_eq!(dtypes.contains(&DType::I16), !options.is_empty());
        let result = validate(&runtime(), &original, &model, &samples, &ValidateOptions::default()).unwrap();
        result.outputs[0].sqnr_db.unwrap()
    };
    let (eight, sixteen) = (sqnr(""), sqnr(",bits=16"));
    assert!(sixteen > 70.0 && sixteen > eight + 15.0, "{eight} dB, {sixteen} dB");
}
