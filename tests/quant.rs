//! The quant pass and the nodes its schemes become, together.

mod support;

use onnx_compress::{
    Error,
    ir::{DType, Graph, Model, Op, OpsetImport, Origin, Tensor, Type},
    lower::{self, SaveOptions, schemes::materialize},
    ops::infer_types,
    passes::{Changed, Context, Pipeline},
    runtime::{Samples, ValidateOptions, validate},
};
use support::{
    python_output,
    quantized::{calibrated, kernels, load, runtime},
    zoo, zoo_data,
};

/// x -> MatMul -> y with a large weight, and z = Gather(table, i).
fn model() -> Model {
    let mut g = Graph::new("g");
    let x = g.add_input("x", Type::tensor(DType::F32, ["n".into(), 64.into()]));
    let i = g.add_input("i", Type::tensor(DType::I64, ["n".into()]));
    let values = |k: usize| (0..k).map(|i| (i as f32 * 0.37).sin()).collect::<Vec<f32>>();
    let w = g.add_initializer("w", Tensor::from_vec([64, 32], values(2048)));
    let table = g.add_initializer("table", Tensor::from_vec([100, 16], values(1600)));
    let y = g.add_node(Op::new("MatMul", "m"), &[x, w], "y", None);
    let z = g.add_node(Op::new("Gather", "look"), &[table, i], "z", None);
    g.outputs.extend([y, z]);
    let opsets = vec![OpsetImport { version: 13, ..OpsetImport::default() }];
    Model { ir_version: 8, opsets, graph: g, ..Model::default() }
}

fn bytes(model: &Model) -> usize {
    model.graph.initializers().map(|(_, t)| t.byte_len()).sum()
}

#[test]
fn weights_become_int8_and_are_computed_back() {
    let before = bytes(&model());
    for (text, last, first) in [
        ("quant", "Mul", "Cast"),
        ("quant(form=folded)", "Mul", "Cast"),
        ("quant(form=qdq)", "DequantizeLinear", "DequantizeLinear"),
    ] {
        let mut m = model();
        let pipeline: Pipeline = text.parse().unwrap();
        assert_eq!(pipeline.run(&mut m, &mut Context::new()).unwrap(), Changed::Yes);
        materialize(&mut m).unwrap();
        m.verify().unwrap();
        assert!(bytes(&m) * 100 < before * 35, "{} of {before} bytes", bytes(&m));
        for name in ["w", "table"] {
            let v = m.graph.find(name).unwrap();
            let mut op = m.graph.producer(v).unwrap().0;
            assert!(m.graph.op(op).is(last), "{text}: {name}");
            while let Some((before, _)) = m.graph.producer(m.graph.input(op, 0).unwrap()) {
                op = before;
            }
            assert!(m.graph.op(op).is(first), "{text}: {name}");
            let stored = m.graph.input(op, 0).unwrap();
            assert_eq!(m.graph.dtype(stored), Some(DType::I8), "{text}: {name}");
        }
        // What is integer already is left as it is, and not turned back.
        infer_types(&mut m).unwrap();
        let once = m.clone();
        let again: Pipeline = format!("simplify,{text}").parse().unwrap();
        let mut cx = Context::new();
        assert_eq!(again.run(&mut m, &mut cx).unwrap(), Changed::No, "{text}");
        assert_eq!(m, once, "{text}");
        let said = cx.remarks.iter().filter(|r| r.text.ends_with("is quantized already")).count();
        assert_eq!(said, 2, "{text}: {:?}", cx.remarks);
        let pruned = "prune".parse::<Pipeline>().unwrap().run(&mut m, &mut Context::new());
        assert!(matches!(pruned, Err(Error::Pass { .. })), "{text}: there is nothing to cut");
        assert_eq!(m, once, "{text}");
    }
}

#[test]
fn a_misspelt_option_is_refused() {
    assert!("quant(per_chanel=false)".parse::<Pipeline>().is_err());
    let text = r#"quant(layers=[{"name":"a*","bits":4,"activations":"none"},{"name":"b","form":"qdq"}])"#;
    assert_eq!(text.parse::<Pipeline>().unwrap().to_string(), text);
    let text = "quant(observer=percentile,percentile=99.99)";
    assert_eq!(text.parse::<Pipeline>().unwrap().to_string(), text);
    assert!("quant(observer=entropy,percentile=99.99)".parse::<Pipeline>().is_err());
    assert!("quant(exclude=[\"a*\"],activations=none,per_channel=false)".parse::<Pipeline>().is_ok());
}

#[test]
fn operators_on_integers_need_samples_and_eight_bits() {
    let mut m = model();
    let pipeline: Pipeline = "quant(form=qoperator)".parse().unwrap();
    let refused = pipeline.run(&mut m, &mut Context::new()).unwrap_err();
    assert_eq!(refused.exit_code(), 2);
    assert!(format!("{refused:?}").contains("form=qoperator") && format!("{refused:?}").contains("--calib"));
    for more in ["bits=4", "symmetric=false", "activations=none", "activation_type=uint16", "target=qnn"] {
        assert!(format!("quant(form=qoperator,{more})").parse::<Pipeline>().is_err(), "{more}");
    }
}

/// x -> MatMul(64, 48) -> Relu -> MatMul(48, 40) -> y.
fn layers() -> Model {
    let mut m = model();
    let mut g = Graph::new("layers");
    let values = |k: usize| (0..k).map(|i| (i as f32 * 0.37).sin()).collect::<Vec<f32>>();
    let x = g.add_input("x", Type::tensor(DType::F32, ["n".into(), 64.into()]));
    let (a, b) = (Tensor::from_vec([64, 48], values(3072)), Tensor::from_vec([48, 40], values(1920)));
    let (a, b) = (g.add_initializer("a", a), g.add_initializer("b", b));
    let h = g.add_node(Op::new("MatMul", "first"), &[x, a], "h", None);
    let r = g.add_node(Op::new("Relu", "r"), &[h], "r", None);
    let y = g.add_node(Op::new("MatMul", "second"), &[r, b], "y", None);
    g.outputs.push(y);
    m.graph = g;
    m
}

#[test]
fn pruning_comes_before_integers_that_it_cannot_cut_and_says_so() {
    let prune: Pipeline = "prune(ratio=0.5)".parse().unwrap();
    for text in ["quant(form=qdq)", "quant(form=folded)"] {
        for materialized in [false, true] {
            let mut m = layers();
            let quant: Pipeline = text.parse().unwrap();
            assert_eq!(quant.run(&mut m, &mut Context::new()).unwrap(), Changed::Yes);
            if materialized {
                materialize(&mut m).unwrap();
            }
            infer_types(&mut m).unwrap();
            let before = m.clone();
            if materialized && text.contains("qdq") {
                // Integers behind DequantizeLinear are cut with their scales.
                assert_eq!(prune.run(&mut m, &mut Context::new()).unwrap(), Changed::Yes);
                m.verify().unwrap();
                let units = |m: &Model| {
                    let largest = |shape: &[usize]| shape.first() == Some(&64);
                    m.graph.initializers().find(|(_, t)| largest(t.shape())).map(|(_, t)| t.shape()[1])
                };
                assert_eq!((units(&before), units(&m)), (Some(48), Some(24)));
                continue;
            }
            let error = prune.run(&mut m, &mut Context::new()).unwrap_err();
            assert_eq!(error.exit_code(), 3, "{text}");
            let why = format!("{error:?}");
            assert!(why.contains("prune first, then quantize"), "{text}: {why}");
            assert_eq!(m, before, "{text}: a failed pass changes nothing");
        }
    }
    let mut m = layers();
    let both: Pipeline = "prune(ratio=0.5),quant".parse().unwrap();
    assert_eq!(both.run(&mut m, &mut Context::new()).unwrap(), Changed::Yes);
    materialize(&mut m).unwrap();
    m.verify().unwrap();
}

/// The model of above with all its floats in another type, of the operator set that has four bits.
fn of_type(dtype: DType) -> Model {
    let mut m = model();
    m.opsets[0].version = 21;
    for v in m.graph.values().collect::<Vec<_>>() {
        let value = m.graph.value_mut(v);
        if let Some(Type::Tensor(ty)) = &mut value.ty {
            ty.dtype = ty.dtype.map(|old| if old == DType::F32 { dtype } else { old });
        }
        if let Origin::Initializer(t) = &value.origin {
            let numbers = t.to_f32().unwrap().into_owned();
            value.origin = Origin::Initializer(Tensor::from_f32(dtype, t.shape(), numbers).unwrap());
        }
    }
    m
}

#[test]
fn what_is_quantized_anew_was_what_its_integers_stand_for() {
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
        let few = ["", "form=qdq", "bits=4", "bits=4,form=qdq", "bits=3,block=48", "per_channel=false"];
        let wide = ["bits=16", "bits=16,form=qdq,symmetric=false", "bits=16,form=folded,block=24"];
        let floats = ["float8=e4m3fn", "float8=e5m2,form=qdq", "float8=e4m3fn,block=24,form=folded"];
        for options in [&few[..], &wide, &floats].concat() {
            let same = options.contains("bits=16") && dtype.bits() == 16;
            if same || dtype == DType::F64 && options.contains("qdq") {
                continue;
            }
            let text = format!("quant({options})");
            let mut m = of_type(dtype);
            let once: Pipeline = text.parse().unwrap();
            assert_eq!(once.run(&mut m, &mut Context::new()).unwrap(), Changed::Yes, "{text} {dtype}");
            let stands_for = |name: &str| {
                let value = m.graph.value(m.graph.find(name).unwrap());
                let scheme = value.quant.clone().unwrap().for_reals(dtype);
                let Origin::Initializer(t) = &value.origin else { panic!("{name} is computed") };
                let back = scheme.dequantize(&scheme.quantize(t).unwrap()).unwrap();
                Tensor::from_f32(dtype, t.shape(), back.to_f32().unwrap().into_owned()).unwrap()
            };
            let expected = ["w", "table"].map(stands_for);
            materialize(&mut m).unwrap();
            m.verify().unwrap();
            infer_types(&mut m).unwrap();
            let mut cx = Context::new();
            let whole = bytes(&m);
            let simplify: Pipeline = "simplify".parse().unwrap();
            let _ = simplify.run(&mut m, &mut cx).unwrap();
            assert!(bytes(&m) <= whole, "{text} {dtype}: nothing is stored in full again");
            let anew: Pipeline = "quant(requantize=true)".parse().unwrap();
            assert_eq!(anew.run(&mut m, &mut cx).unwrap(), Changed::Yes, "{text} {dtype}");
            for (name, expected) in ["w", "table"].into_iter().zip(expected) {
                let found = m.graph.initializer(m.graph.find(name).unwrap()).unwrap();
                assert_eq!(*found, expected, "{text} {dtype}: {name}");
            }
            assert_eq!(cx.counts.get("quant/requantized"), Some(&2), "{text} {dtype}");
        }
    }
}

#[test]
fn operators_on_integers_compute_what_pairs_around_floats_do() {
    let folder = tempfile::tempdir().unwrap();
    for (name, expected) in [
        ("resnet20_raw", vec![("Conv", 1), ("QLinearConv", 20), ("QLinearAdd", 9), ("QGemm", 1)]),
        ("simplecnn_raw", vec![("Conv", 1), ("QLinearConv", 1), ("QGemm", 2)]),
        ("vit_raw", vec![("Conv", 1), ("MatMulIntegerToFloat", 13), ("QGemm", 4)]),
    ] {
        let original = load(&zoo(name));
        let [pairs, operators] = ["qdq", "qoperator"]
            .map(|form| calibrated(&original, &format!("quant(latency=any,form={form})")));
        let g = &operators.graph;
        let count = |kind: &str| g.ops().filter(|op| g.op(*op).op_type == kind).count();
        for (kind, n) in expected {
            assert_eq!(count(kind), n, "{name}: {kind}");
        }
        let fused = |model: &Model| {
            let mut all = kernels(model);
            all.retain(|kind, _| kind.starts_with('Q') || kind.contains("Integer"));
            all
        };
        assert_eq!(fused(&pairs), fused(&operators), "{name}");
        let samples = Samples::load(&zoo_data("zoo_test.npz"), &original, 32, Some(128)).unwrap();
        let result = validate(&runtime(), &pairs, &operators, &samples, &ValidateOptions::default()).unwrap();
        let found = &result.outputs[0];
        assert!(found.sqnr_db.is_none_or(|db| db > 60.0), "{name}: {found:?}");
        let size = |m: &Model| lower::to_bytes(m).unwrap().len();
        assert!(size(&operators) <= size(&pairs), "{name}: {} {}", size(&operators), size(&pairs));
        let path = folder.path().join(format!("{name}.onnx"));
        lower::save(&operators, &path, &SaveOptions::default()).unwrap();
        let refused = python_output("check_models.py", &[&path]);
        assert_eq!(refused.trim(), "", "{name}");

        // What is read back stays as it is, and passes say so.
        let read = load(&path);
        for text in ["simplify", "quant(form=qdq)", "quant(requantize=true)"] {
            let (mut model, mut cx) = (read.clone(), Context::new());
            infer_types(&mut model).unwrap();
            let layers = count("QLinearConv") + count("MatMulIntegerToFloat") + count("QGemm");
            let _ = text.parse::<Pipeline>().unwrap().run(&mut model, &mut cx).unwrap();
            model.verify().unwrap();
            let said = cx.remarks.iter().filter(|r| r.text.ends_with("is quantized already"));
            assert!(text != "quant(form=qdq)" || said.count() >= layers, "{name}: {:?}", cx.remarks);
        }
        // A layer that stays float stays apart.
        let apart = r#"quant(latency=any,form=qoperator,layers=[{"name":"*","activations":"none"}])"#;
        let apart = calibrated(&original, apart);
        assert!(apart.graph.ops().all(|op| !apart.graph.op(op).op_type.starts_with('Q')), "{name}");
        let mut model = read.clone();
        let _ = "prune".parse::<Pipeline>().unwrap().run(&mut model, &mut Context::new());
        model.verify().unwrap();
    }
}
