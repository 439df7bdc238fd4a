use crate::{
    error::Result,
    ir::{DType, Model, text},
    ops::{cost, infer_types},
    passes::{Context, Pipeline},
};

/// Two linear layers; the weight of the first is of rank 1.
fn mlp() -> Model {
    let outer: Vec<String> = (0..32 * 48).map(|k| ((k / 48 + 1) * (k % 48 + 2)).to_string()).collect();
    let source = format!(
        "# weights: seed 3\n<ir_version: 8, opset_import: [\"\" : 17]>\n\
         mlp (float[N, 32] x) => (float[N, 64] y) <float[32, 48] w1 = {{{}}}, float[48, 64] w2>\n\
         {{ [fc1] h = MatMul (x, w1) r = Relu (h) [fc2] y = MatMul (r, w2) }}",
        outer.join(", ")
    );
    let mut model = text::parse(&source).unwrap();
    infer_types(&mut model).unwrap();
    model
}
fn run(pipeline: &str, model: &mut Model) -> Result<Vec<String>> {
    let mut cx = Context::new();
    let _ = pipeline.parse::<Pipeline>()?.run(model, &mut cx)?;
    Ok(cx.remarks.into_iter().map(|r| r.text).collect())
}
fn shape(model: &Model, name: &str) -> Option<Vec<usize>> {
    Some(model.graph.initializer(model.graph.find(name)?)?.shape().to_vec())
}

#[test]
fn each_target_decides_the_ranks() {
    // Of 48 x 64, ranks below 28 save something. The first one is 1 even where ranks are rounded: no more is there.
    for (text, first, second) in [
        ("svd(ratio=0.5,round=1)", Some(1), Some(19)),
        ("svd(ratio=0.5)", Some(1), Some(16)),
        ("svd(energy=0.999)", Some(1), None),
        ("svd(error=0.01,round=1)", Some(1), None),
        ("svd(energy=0.5)", Some(1), Some(16)),
        ("svd(ratio=0.5,exclude=[\"w1\", \"fc3\"],round=1)", None, Some(13)),
    ] {
        let mut model = mlp();
        run(text, &mut model).unwrap();
        assert_eq!(shape(&model, "w1_1").map(|s| s[1]), first, "{text}");
        assert_eq!(shape(&model, "w2_1").map(|s| s[1]), second, "{text}");
    }
}
#[test]
fn a_budget_takes_first_what_costs_nothing() {
    let before = cost::of_model(&mlp()).macs;
    for (share, second) in [(0.85, false), (0.5, true)] {
        let mut model = mlp();
        let remarks = run(&format!("svd(macs={share},round=1)"), &mut model).unwrap();
        let left = cost::of_model(&model).macs;
        assert!(left as f64 <= share * before as f64, "{left} of {before}");
        assert_eq!(shape(&model, "w1_1"), Some(vec![32, 1]));
        assert_eq!(shape(&model, "w2_1").is_some(), second, "{share}");
        let said = format!("{:.1} % of the multiply-accumulates", 100.0 * left as f64 / before as f64);
        assert!(remarks.iter().any(|r| r.starts_with(&said)), "{remarks:?}");
    }
}
#[test]
fn what_cannot_be_reached_says_what_can() {
    for (text, why) in [
        ("svd(macs=0.01)", "the nearest is"),
        ("svd(energy=0.9999,exclude=[\"fc1\"])", "no layer can be split (`fc1`: left whole: it is excluded"),
    ] {
        let mut model = mlp();
        let error = run(text, &mut model).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains(why), "{error}");
        assert_eq!(shape(&model, "w1"), Some(vec![32, 48]), "a failed pass changes nothing");
    }
    for text in ["svd(ratio=0.5,macs=0.5)", "svd(energy=1)", "svd(round=0)", "svd(exclude=[\"[\"])"] {
        assert_eq!(run(text, &mut mlp()).unwrap_err().exit_code(), 2, "{text}");
    }
}
#[test]
fn layers_that_share_weights_share_factors() {
    let source = "# weights: seed 3
        <ir_version: 8, opset_import: [\"\" : 17]>
        m (float[2, 64] a, float[6, 64] b) => (float[2, 64] c, float[6, 64] d) <float[64, 64] w>
        { c = MatMul (a, w) d = MatMul (b, w) }";
    let mut model = text::parse(source).unwrap();
    infer_types(&mut model).unwrap();
    let before = cost::of_model(&model);
    run("svd(ratio=0.5)", &mut model).unwrap();
    let after = cost::of_model(&model);
    assert_eq!((before.macs, before.params), (8 * 64 * 64, 64 * 64));
    assert_eq!((after.macs, after.params), (8 * 2 * 16 * 64, 2 * 16 * 64));
    assert_eq!(model.graph.initializers().count(), 2);
}
#[test]
fn factors_are_numbers_of_the_type_that_the_weights_are() {
    for (name, dtype) in [("float16", DType::F16), ("bfloat16", DType::BF16), ("double", DType::F64)] {
        let source = format!(
            "# weights: seed 3
             <ir_version: 8, opset_import: [\"\" : 17]>
             m ({name}[N, 64] x, {name}[N, 8, 9, 9] i) => ({name}[N, 48] y, {name}[N, 16, 9, 9] z)
             <{name}[64, 48] w, {name}[16, 8, 3, 3] k>
             {{ y = MatMul (x, w) z = Conv <pads = [1, 1, 1, 1]> (i, k) }}"
        );
        let mut model = text::parse(&source).unwrap();
        infer_types(&mut model).unwrap();
        run("svd(energy=0.1)", &mut model).unwrap();
        assert!(["w", "k"].iter().all(|whole| shape(&model, whole).is_none()), "{name}");
        assert!(model.graph.initializers().all(|(_, t)| t.dtype() == dtype), "{name}");
        model.graph.verify().unwrap();
    }
}
#[test]
fn weights_that_are_cast_are_left_whole_and_said() {
    let mut model = text::parse(
        "# weights: seed 3
         <ir_version: 8, opset_import: [\"\" : 17]>
         m (float[N, 64] x) => (float[N, 64] y) <bfloat16[64, 64] w1, float[64, 64] w2>
         { w = Cast <to = 1> (w1) r = MatMul (x, w) y = MatMul (r, w2) }",
    )
    .unwrap();
    infer_types(&mut model).unwrap();
    let remarks = run("svd(ratio=0.5)", &mut model).unwrap();
    assert!(remarks.iter().any(|r| r.ends_with("factor first, then cast")), "{remarks:?}");
    assert_eq!(shape(&model, "w1"), Some(vec![64, 64]));
}
/// Both factors are read by simple layers in a row, which `simplify` leaves apart.
#[test]
fn simplify_leaves_factors_apart() {
    let mut model = mlp();
    run("svd", &mut model).unwrap();
    let factored = cost::of_model(&model).macs;
    run("simplify", &mut model).unwrap();
    assert_eq!(cost::of_model(&model).macs, factored);
    assert_eq!(model.graph.ops().count(), 5);
}
