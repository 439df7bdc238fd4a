//! The pass on small graphs, with ranges given instead of measured.

use super::{rule::Rule, *};
use crate::{
    ir::{
        DType, Moments, Op,
        QuantForm::{self, *},
        Tensor, Type, ValueId,
    },
    measure::{Measure, doubles::Double},
    passes::RemarkKind,
};

/// Every value lies between -1 and 3.
pub(super) fn ranges() -> Double {
    Double::of_samples(|_| Tensor::from_vec([2], vec![-1.0f32, 3.0])).with_files(|_| 0)
}

fn weight(graph: &mut Graph, name: &str, shape: &[usize]) -> ValueId {
    let n: usize = shape.iter().product();
    graph.add_initializer(name, Tensor::from_vec(shape, (0..n).map(|i| i as f32 / n as f32 - 0.5).collect()))
}

/// x -> Conv -> Relu -> Conv -> Add(with the Relu) -> GlobalAveragePool -> Flatten -> Gemm -> y.
fn residual() -> Model {
    let mut g = Graph::new("residual");
    let x = g.add_input("x", Type::tensor(DType::F32, [1.into(), 32.into(), 8.into(), 8.into()]));
    let (w1, b1) = (weight(&mut g, "w1", &[32, 32, 1, 1]), weight(&mut g, "b1", &[32]));
    let (w2, b2) = (weight(&mut g, "w2", &[32, 32, 1, 1]), weight(&mut g, "b2", &[32]));
    let (w3, b3) = (weight(&mut g, "w3", &[40, 32]), weight(&mut g, "b3", &[40]));
    let a = g.add_node(Op::new("Conv", "c1"), &[x, w1, b1], "a", None);
    let r = g.add_node(Op::new("Relu", "r1"), &[a], "r", None);
    let c = g.add_node(Op::new("Conv", "c2"), &[r, w2, b2], "c", None);
    let s = g.add_node(Op::new("Add", "add"), &[c, r], "s", None);
    let p = g.add_node(Op::new("GlobalAveragePool", "pool"), &[s], "p", None);
    let f = g.add_node(Op::new("Flatten", "flat"), &[p], "f", None);
    let y = g.add_node(Op::new("Gemm", "fc").with("transB", 1), &[f, w3, b3], "y", None);
    g.outputs.push(y);
    let opsets = vec![crate::ir::OpsetImport { version: 13, ..Default::default() }];
    Model { ir_version: 8, opsets, graph: g, ..Model::default() }
}

fn run(
    model: &mut Model,
    options: QuantOptions,
    measure: Option<&dyn Measure>,
) -> Vec<crate::passes::Remark> {
    let mut cx = Context::new();
    if let Some(measure) = measure {
        cx = cx.with_measure(measure);
    }
    let _ = Quant::new(options).unwrap().run(model, &mut cx).unwrap();
    model.verify().unwrap();
    cx.remarks
}

fn annotated(model: &Model) -> Vec<&str> {
    let g = &model.graph;
    let mut names: Vec<_> =
        g.values().filter(|v| g.value(*v).quant.is_some()).map(|v| g.name_of(v)).collect();
    names.sort_unstable();
    names
}

/// The weights with their forms, by name.
fn forms(model: &Model) -> Vec<(&str, QuantForm)> {
    let g = &model.graph;
    let form = |name| Some((name, g.value(g.find(name)?).quant.as_ref()?.form));
    annotated(model).into_iter().filter(|name| name.starts_with('w')).filter_map(form).collect()
}

#[test]
fn without_samples_only_weights_change() {
    let mut m = residual();
    run(&mut m, QuantOptions::default(), None);
    assert_eq!(annotated(&m), ["w1", "w2", "w3"]);
    assert_eq!(forms(&m), [("w1", Folded), ("w2", Folded), ("w3", Folded)]);
}
#[test]
fn with_samples_the_chain_is_integer() {
    let mut m = residual();
    run(&mut m, QuantOptions::default(), Some(&ranges()));
    // The Relu stands between Conv and its rounding; the last product writes floats.
    assert_eq!(annotated(&m), ["b1", "b2", "b3", "c", "f", "p", "r", "s", "w1", "w2", "w3", "x"]);
    let g = &m.graph;
    let quant = |name: &str| g.value(g.find(name).unwrap()).quant.clone().unwrap();
    assert_eq!(quant("p"), quant("f"), "moving elements keeps their scheme");
    assert_eq!(quant("b1").scales[5], quant("x").scales[0] * quant("w1").scales[5]);
    assert_eq!(forms(&m), [("w1", Qdq), ("w2", Qdq), ("w3", Qdq)]);
}
#[test]
fn without_samples_batch_normalization_tells_ranges() {
    let options = || QuantOptions { activations: Activations::Static, ..QuantOptions::default() };
    let mut m = residual();
    let refused = Quant::new(options()).unwrap().run(&mut m, &mut Context::new());
    assert_eq!(refused.err().map(|e| e.exit_code()), Some(2), "nothing is told");
    let mut m = residual();
    infer_types(&mut m).unwrap();
    for name in ["a", "c"] {
        let v = m.graph.find(name).unwrap();
        let moments = Moments { mean: vec![0.5; 32], deviation: vec![0.25; 32] };
        m.graph.value_mut(v).moments = Some(Box::new(moments));
    }
    let said = run(&mut m, options(), None);
    // The first layer reads what no BatchNormalization made.
    assert_eq!(annotated(&m), ["b2", "b3", "c", "f", "p", "r", "s", "w1", "w2", "w3"]);
    assert_eq!(forms(&m), [("w1", Folded), ("w2", Qdq), ("w3", Qdq)]);
    assert!(said.iter().any(|r| r.at.name() == "c1" && r.text.contains("the range of `x`")), "{said:?}");
    let r = m.graph.value(m.graph.find("r").unwrap()).quant.clone().unwrap();
    assert_eq!((r.scales, r.zero_points), (vec![2.0 / 255.0], vec![0]), "6 deviations beyond the mean");
    let mut plain = residual();
    run(&mut plain, QuantOptions::default(), None);
    assert_eq!(annotated(&plain), ["w1", "w2", "w3"], "only where it is asked for");
}
#[test]
fn convolutions_round_as_they_run_only_where_that_is_asked() {
    let dynamic = |name: &str| format!(r#"[{{"name": "{name}", "activations": "dynamic"}}]"#);
    for (options, forms_of) in [
        (r#"{"activations": "dynamic"}"#.to_owned(), [Folded, Folded, Dynamic]),
        (r#"{"activations": "dynamic", "target": "portable"}"#.to_owned(), [Dynamic; 3]),
        (r#"{"target": "portable"}"#.to_owned(), [Qdq; 3]),
        (format!(r#"{{"layers": {}}}"#, dynamic("c2")), [Folded, Dynamic, Folded]),
        (format!(r#"{{"activations": "none", "layers": {}}}"#, dynamic("c1")), [Dynamic, Folded, Folded]),
        (
            r#"{"activations": "dynamic", "layers": [{"name": "fc", "activations": "none"}]}"#.to_owned(),
            [Folded; 3],
        ),
    ] {
        let mut m = residual();
        let said = run(&mut m, serde_json::from_str(&options).unwrap(), None);
        let [a, b, c] = forms_of;
        assert_eq!(forms(&m), [("w1", a), ("w2", b), ("w3", c)], "{options}: {said:?}");
    }
    let mut m = residual();
    let options = format!(r#"{{"latency": "any", "layers": {}}}"#, dynamic("c2"));
    run(&mut m, serde_json::from_str(&options).unwrap(), Some(&ranges()));
    assert_eq!(forms(&m), [("w1", Qdq), ("w2", Dynamic), ("w3", Qdq)], "the others are static");
    let bits = r#"{"layers": [{"name": "c2", "bits": 4, "activations": "dynamic"}]}"#;
    let said = run(&mut residual(), serde_json::from_str(bits).unwrap(), None);
    assert!(said.iter().any(|r| r.at.name() == "c2" && r.text.contains("no kernel")), "{said:?}");
}
#[test]
fn a_form_that_is_asked_for_is_used() {
    for (text, form) in [("qdq", Qdq), ("qoperator", Operator), ("folded", Folded)] {
        let mut m = residual();
        let options = format!("{{\"form\": \"{text}\"}}");
        run(&mut m, serde_json::from_str(&options).unwrap(), Some(&ranges()));
        assert_eq!(forms(&m), [("w1", form), ("w2", form), ("w3", form)]);
        let activations = annotated(&m).contains(&"x");
        assert_eq!(activations, form != Folded, "folded weights go with float activations");
    }
    let both =
        QuantOptions { form: Form::Folded, activations: Activations::Static, ..QuantOptions::default() };
    assert_eq!(Quant::new(both).err().map(|e| e.exit_code()), Some(2));
}
#[test]
fn only_large_products_keep_the_form_that_is_fused() {
    let plain = Op::new("Gemm", "g");
    for (op, shape, form) in [
        (Op::new("MatMul", "m"), [512, 256], Qdq),
        (Op::new("MatMul", "m"), [256, 256], Folded),
        (Op::new("MatMul", "m"), [4096, 128], Folded),
        (plain.clone(), [256, 512], Qdq),
        (plain.clone().with("transB", 1), [256, 512], Folded),
        (plain.with("alpha", 0.5f32), [256, 512], Folded),
    ] {
        let mut g = Graph::new("product");
        let x = g.add_input("x", Type::tensor(DType::F32, ["n".into(), "k".into()]));
        let w = weight(&mut g, "w", &shape);
        let y = g.add_node(op, &[x, w], "y", None);
        g.outputs.push(y);
        let mut m = Model { graph: g, ..residual() };
        run(&mut m, QuantOptions::default(), None);
        assert_eq!(forms(&m), [("w", form)], "{shape:?}");
    }
}
#[test]
fn exclusion_and_float_users_are_respected() {
    let mut m = residual();
    let w2 = m.graph.find("w2").unwrap();
    let e = m.graph.add_node(Op::new("Exp", "e"), &[w2], "e", None);
    m.graph.outputs.push(e);
    let options = QuantOptions { exclude: vec!["f?".into()], ..QuantOptions::default() };
    let remarks = run(&mut m, options, None);
    assert_eq!(annotated(&m), ["w1"]);
    assert_eq!(remarks.iter().filter(|r| r.kind == RemarkKind::Missed).count(), 2);
}
#[test]
fn a_second_run_changes_nothing() {
    let mut m = residual();
    run(&mut m, QuantOptions::default(), None);
    let once = m.clone();
    run(&mut m, QuantOptions::default(), None);
    assert_eq!(m, once);
}

#[test]
fn a_float_path_beside_a_product_stays_exact() {
    let mut g = Graph::new("block");
    let x = g.add_input("x", Type::tensor(DType::F32, ["n".into(), 64.into()]));
    let (w, v) = (weight(&mut g, "w", &[64, 64]), weight(&mut g, "v", &[64, 64]));
    let n = g.add_node(Op::new("Erf", "norm"), &[x], "n", None);
    let a = g.add_node(Op::new("MatMul", "m1"), &[n, w], "a", None);
    let r = g.add_node(Op::new("Relu", "r"), &[a], "r", None);
    let b = g.add_node(Op::new("MatMul", "m2"), &[r, v], "b", None);
    let y = g.add_node(Op::new("Add", "residual"), &[b, n], "y", None);
    g.outputs.push(y);
    let mut m = residual();
    m.graph = g;
    run(&mut m, QuantOptions::default(), Some(&ranges()));
    assert_eq!(annotated(&m), ["n_rounded", "r", "v", "w"]);
    let g = &m.graph;
    let input = |op: &str, slot| {
        let op = g.ops().find(|o| g.op(*o).name == op).unwrap();
        g.name_of(g.input(op, slot).unwrap())
    };
    assert_eq!((input("m1", 0), input("residual", 1)), ("n_rounded", "n"));
}
#[test]
fn a_large_bias_over_tiny_weights_still_fits() {
    let mut m = residual();
    let w1 = m.graph.find("w1").unwrap();
    let tiny = vec![1e-30f32; 32 * 32];
    m.graph.make_constant(w1, Tensor::from_vec([32, 32, 1, 1], tiny));
    let b1 = m.graph.find("b1").unwrap();
    m.graph.make_constant(b1, Tensor::from_vec([32], vec![1000f32; 32]));
    for options in ["{}", r#"{"target": "qnn", "activation_type": "uint16", "bits": 16}"#] {
        let mut m = m.clone();
        run(&mut m, serde_json::from_str(options).unwrap(), Some(&ranges()));
        let scheme = m.graph.value(b1).quant.clone().unwrap();
        let back = scheme.dequantize(&scheme.quantize(m.graph.initializer(b1).unwrap()).unwrap()).unwrap();
        assert!(back.to_f32().unwrap().iter().all(|b| (b - 1000.0).abs() < 1e-3), "{options}");
    }
}
#[test]
fn options_that_make_no_sense_are_refused() {
    for options in [
        r#"{"bits": 5}"#,
        r#"{"bits": 4, "block": 8}"#,
        r#"{"block": 32, "per_channel": false}"#,
        r#"{"bits": 4, "activations": "static"}"#,
        r#"{"symmetric": false, "activations": "dynamic"}"#,
        r#"{"form": "matmulnbits"}"#,
        r#"{"form": "matmulnbits", "bits": 4, "block": 48}"#,
        r#"{"float8": "e4m3fn", "bits": 4}"#,
        r#"{"float8": "e5m2", "symmetric": false}"#,
        r#"{"float8": "e5m2", "size": 0.3}"#,
        r#"{"float8": "e5m2", "activations": "static"}"#,
        r#"{"bits": 16, "activations": "static"}"#,
        r#"{"bits": 16, "activations": "static", "target": "qnn"}"#,
        r#"{"bits": 16, "activation_type": "int8", "target": "qnn"}"#,
        r#"{"bits": 16, "activation_type": "uint16", "target": "openvino"}"#,
        r#"{"bits": 16, "activation_type": "uint16", "target": "qnn", "symmetric": false}"#,
        r#"{"bits": 16, "activations": "dynamic", "target": "qnn"}"#,
        r#"{"bits": 4, "activation_type": "uint8"}"#,
        r#"{"activation_type": "int16", "activations": "none"}"#,
        r#"{"activation_type": "int8", "activations": "dynamic"}"#,
        r#"{"activation_type": "uint8", "target": "tensorrt"}"#,
        r#"{"percentile": 99.9, "observer": "mse"}"#,
        r#"{"percentile": 0.999}"#,
        r#"{"percentile": 100.1}"#,
    ] {
        let refused = Quant::new(serde_json::from_str(options).unwrap()).err().map(|e| e.exit_code());
        assert_eq!(refused, Some(2), "{options}");
    }
}
#[test]
fn a_percentile_that_is_given_is_the_observer() {
    for (options, observer, outermost) in [
        (r#"{"observer": "percentile"}"#, Observer::Percentile, 1e-5),
        (r#"{"percentile": 99.75}"#, Observer::Percentile, 0.0025),
        (r#"{"observer": "percentile", "percentile": 100}"#, Observer::Percentile, 0.0),
        (r#"{"activation_type": "int16"}"#, Observer::MinMax, 1e-5),
        (r#"{"activation_type": "int16", "percentile": 99.75}"#, Observer::Percentile, 0.0025),
    ] {
        let options: QuantOptions = serde_json::from_str(options).unwrap();
        options.check().unwrap();
        assert_eq!(options.rules(), [Rule { observer, outermost }]);
    }
    let rules = QuantOptions::default().rules().iter().map(Rule::to_string).collect::<Vec<_>>();
    assert_eq!(rules, ["percentile 99.999", "percentile 99.99", "minmax", "mse"]);
    for target in [Target::Qnn, Target::TensorRt] {
        let options = QuantOptions { target, ..QuantOptions::default() };
        assert_eq!(options.rules().len() > 1, target == Target::TensorRt);
    }
}
#[test]
fn types_need_the_operator_set_that_brought_them() {
    for (options, opset) in [
        (r#"{}"#, 13),
        (r#"{"form": "folded"}"#, 7),
        (r#"{"form": "folded", "bits": 16}"#, 7),
        (r#"{"form": "qdq", "bits": 16}"#, 21),
        (r#"{"form": "folded", "float8": "e4m3fn"}"#, 19),
        (r#"{"form": "qdq", "float8": "e4m3fn"}"#, 19),
        (r#"{"float8": "e4m3fn", "block": 32}"#, 21),
        (r#"{"activation_type": "int8"}"#, 13),
        (r#"{"activation_type": "uint16"}"#, 21),
        (r#"{"activation_type": "uint16", "bits": 16, "target": "qnn"}"#, 21),
        (r#"{"layers": [{"name": "a*", "float8": "e5m2"}]}"#, 19),
    ] {
        let pass = Quant::new(serde_json::from_str(options).unwrap()).unwrap();
        assert_eq!(pass.needs().opset, Some(opset), "{options}");
    }
}
#[test]
fn a_layer_of_floats_of_eight_bits_computes_in_float_beside_integers() {
    let mut m = residual();
    let options = r#"{"layers": [{"name": "c2", "float8": "e4m3fn"}, {"name": "fc", "bits": 16}]}"#;
    run(&mut m, serde_json::from_str(options).unwrap(), Some(&ranges()));
    let dtype = |name: &str| Some(m.graph.value(m.graph.find(name)?).quant.as_ref()?.dtype);
    let dtypes = ["w1", "w2", "w3", "x", "p"].map(dtype);
    let expected = [DType::I8, DType::F8E4M3FN, DType::I16, DType::U8].map(Some);
    assert_eq!((&dtypes[..4], dtypes[4]), (&expected[..], None));
}
#[test]
fn wide_activations_have_integer_biases_where_the_target_computes_so() {
    for (options, bias) in [
        (r#"{"activation_type": "int16"}"#, None),
        (r#"{"activation_type": "int8"}"#, Some(DType::I32)),
        (r#"{"activation_type": "int16", "target": "qnn"}"#, Some(DType::I32)),
        (r#"{"activation_type": "uint16", "target": "openvino"}"#, None),
    ] {
        let mut m = residual();
        run(&mut m, serde_json::from_str(options).unwrap(), Some(&ranges()));
        let scheme = |name: &str| m.graph.value(m.graph.find(name).unwrap()).quant.clone();
        assert_eq!(scheme("b1").map(|s| s.dtype), bias, "{options}");
        let asked = serde_json::from_str::<QuantOptions>(options).unwrap().activation_dtype();
        let x = scheme("x").unwrap();
        assert_eq!((x.dtype, x.scales[0] > 0.01), (asked, asked.bits() == 8), "{options}");
    }
}
#[test]
fn weights_of_sixteen_bits_are_multiplied_by_activations_of_sixteen() {
    // The integers of what the first layer and the last read: activations, weights and biases.
    let of = |options: &str| {
        let mut m = residual();
        infer_types(&mut m).unwrap();
        let said = run(&mut m, serde_json::from_str(options).unwrap(), Some(&ranges()));
        let scheme = |name: &str| m.graph.find(name).and_then(|v| m.graph.value(v).quant.clone());
        let [x, w, b, f, v, c] = ["x", "w1", "b1", "f", "w3", "b3"].map(scheme);
        if let (Some(x), Some(w), Some(b)) = (&x, &w, &b) {
            let steps: Vec<f32> = w.scales.iter().map(|s| s * x.scales[0]).collect();
            assert_eq!((b.scales.len(), &b.scales), (32, &steps), "{options}");
        }
        let scales = [&w, &v].map(|s| s.as_ref().map_or(0, |s| s.scales.len()));
        ([x, w, b, f, v, c].map(|s| s.map(|s| s.dtype)), scales, said)
    };
    let types = |[x, w, b]: [DType; 3], [f, v, c]: [DType; 3]| [x, w, b, f, v, c].map(Some);
    let wide = [DType::U16, DType::I16, DType::I32];
    let (found, scales, _) = of(r#"{"target": "qnn", "activation_type": "uint16", "bits": 16}"#);
    assert_eq!((found, scales), (types(wide, wide), [32, 1]));
    let table = r#"{"target": "qnn", "activation_type": "uint16", "layers": [{"name": "fc", "bits": 16}]}"#;
    assert_eq!(of(table).0, types([DType::U16, DType::I8, DType::I32], wide));
    let table = r#"{"target": "qnn", "layers": [{"name": "fc", "bits": 16}]}"#;
    let (u8, i16) = (Some(DType::U8), Some(DType::I16));
    assert_eq!(of(table).0, [u8, Some(DType::I8), Some(DType::I32), u8, i16, None]);
    let (found, _, said) = of(r#"{"target": "qnn", "bits": 16}"#);
    assert_eq!(found, [None, i16, None, None, i16, None]);
    assert!(said.iter().any(|r| r.text.contains("`activation_type=uint16`")), "{said:?}");
}
#[test]
fn half_precision_gains_nothing_from_sixteen_bits() {
    let mut m = residual();
    for v in m.graph.values().collect::<Vec<_>>() {
        if let Some(t) = m.graph.initializer(v).cloned() {
            let half = t.to_f32().unwrap().into_owned();
            m.graph.make_constant(v, Tensor::from_f32(DType::F16, t.shape(), half).unwrap());
        }
    }
    let options = QuantOptions { bits: 16, ..QuantOptions::default() };
    let said = run(&mut m, options, None);
    assert!(annotated(&m).is_empty());
    assert!(said.iter().any(|r| r.text.contains("float16, which takes no more bits")), "{said:?}");
}
#[test]
fn few_bits_leave_activations_float_and_fill_no_block_in_vain() {
    let mut m = residual();
    let options = QuantOptions { bits: 4, method: Method::Rtn, ..QuantOptions::default() };
    run(&mut m, options, Some(&ranges()));
    assert_eq!(annotated(&m), ["w1", "w2", "w3"]);
    let scheme = |name: &str| m.graph.value(m.graph.find(name).unwrap()).quant.clone().unwrap();
    assert_eq!(scheme("w1").grain, crate::ir::Grain::Blocks { first: 1, end: 4, size: 32 });
    assert_eq!((scheme("w3").dtype, scheme("w3").scales.len()), (DType::U4, 40));
}
