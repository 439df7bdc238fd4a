//! The program as its users meet it: what it prints, what it writes, and every exit code.

mod support;

use assert_cmd::Command;
use onnx_compress::{
    ir::DType,
    passes::{Context, Pipeline},
};
use predicates::{prelude::*, str::contains};
use std::fs;

fn program() -> Command {
    let mut command = Command::cargo_bin("onnx-compress").unwrap();
    command.current_dir(support::project_dir()).env("NO_COLOR", "1");
    command
}

#[test]
fn the_main_job_writes_a_smaller_model_and_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let (out, report) = (folder.path().join("out.onnx"), folder.path().join("report.json"));
    let run = program()
        .arg(support::zoo("resnet20_raw"))
        .args(["-p", "quant", "-o"])
        .arg(&out)
        .arg("--calib")
        .arg(support::zoo_data("zoo_calib.npz"))
        .arg("--report")
        .arg(&report)
        .assert()
        .success();
    let text = String::from_utf8(run.get_output().stdout.clone()).unwrap();
    assert!(text.contains("weights") && text.contains("SQNR") && text.contains("latency"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    let report: serde_json::Value = serde_json::from_str(&fs::read_to_string(report).unwrap()).unwrap();
    let bytes = |side: &str| report[side]["file_bytes"].as_u64().unwrap();
    assert!(bytes("after") * 3 < bytes("before"));
    assert_eq!(bytes("after"), fs::metadata(&out).unwrap().len());
    assert_eq!(report["validation"]["synthetic"], false);
    let script = "import onnx,sys; onnx.checker.check_model(sys.argv[1], full_check=True)";
    let checked = support::python().arg("-c").arg(script).arg(&out).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let test = support::zoo_data("zoo_test.npz");
    let validate = || {
        let mut command = program();
        command.arg("validate").arg(support::zoo("resnet20_raw")).arg(&out);
        command.arg("--calib").arg(&test).arg("--labels").arg(&test);
        command
    };
    validate().args(["--max-drop", "0.01"]).assert().success().stdout(contains("accuracy 93.30%"));
    validate().args(["--max-drop=-1"]).assert().code(3);
}

#[test]
fn a_recipe_gives_single_layers_their_own_options() {
    let folder = tempfile::tempdir().unwrap();
    let [recipe, out, report] = ["r.toml", "out.onnx", "report.json"].map(|name| folder.path().join(name));
    let run = |layers: &str| {
        fs::write(&recipe, format!("[[pass]]\nname = \"quant\"\nlatency = \"any\"\n{layers}")).unwrap();
        let mut command = program();
        command.arg(support::zoo("resnet20_raw")).arg("--recipe").arg(&recipe).arg("-o").arg(&out);
        command.arg("--calib").arg(support::zoo_data("zoo_calib.npz")).arg("--report").arg(&report);
        command.assert()
    };
    let mut model = onnx_compress::lower::load(&support::zoo("resnet20_raw")).unwrap();
    let simplify: Pipeline = "simplify".parse().unwrap();
    let _ = simplify.run(&mut model, &mut Context::new()).unwrap();
    let graph = &model.graph;
    let order = graph.order();
    let convs: Vec<&str> =
        order.iter().map(|op| graph.op(*op)).filter(|op| op.is("Conv")).map(|op| op.name.as_str()).collect();
    let (four, float) = (convs[10], convs[14]);
    run(&format!(
        "[[pass.layers]]\nname = \"{four}\"\nbits = 4\nblock = 16\n\
         [[pass.layers]]\nname = \"{float}\"\nactivations = \"none\"\n"
    ))
    .success();
    let done = onnx_compress::lower::load(&out).unwrap().graph;
    let of = |name: &str| done.order().into_iter().find(|op| done.op(*op).name == name).unwrap();
    let stored = |name: &str| {
        let weight = done.input(of(name), 1).unwrap();
        let mut op = done.producer(weight).unwrap().0;
        while let Some((before, _)) = done.producer(done.input(op, 0).unwrap()) {
            op = before;
        }
        (done.op(op).op_type.to_string(), done.dtype(done.input(op, 0).unwrap()).unwrap())
    };
    assert_eq!(stored(convs[8]), ("DequantizeLinear".into(), DType::I8));
    assert_eq!(stored(float), ("Cast".into(), DType::I8));
    assert!(stored(four).1.bits() == 4, "{:?}", stored(four));
    let text = fs::read_to_string(&report).unwrap();
    assert!(text.contains("layers") && text.contains(four), "the report tells the options");
    run(&format!("[[pass.layers]]\nname = \"{four}x\"\nbits = 4\n"))
        .code(2)
        .stderr(contains(format!("did you mean `{four}`")));
    run("[[pass.layers]]\nname = \"*\"\nbit = 4\n").code(2).stderr(contains("did you mean `bits`"));
}

#[test]
fn a_model_that_became_slower_is_pointed_out() {
    let folder = tempfile::tempdir().unwrap();
    let (out, report) = (folder.path().join("out.onnx"), folder.path().join("report.json"));
    let compress = |pipeline: &str| {
        let mut command = program();
        command.arg(support::zoo("resnet20_raw")).args(["-p", pipeline, "-o"]).arg(&out);
        command.arg("--report").arg(&report).assert().success()
    };
    let why = "21 weights are computed back in every run; `quant(form=auto)` avoids that";
    let warning = || contains("warning: slower than the original: ").and(contains(why));
    compress("quant(form=qdq)").stdout(warning());
    let written: serde_json::Value = serde_json::from_str(&fs::read_to_string(&report).unwrap()).unwrap();
    assert!(written["slower"].as_str().unwrap().contains(why));
    let validate =
        || program().arg("validate").arg(support::zoo("resnet20_raw")).arg(&out).assert().success();
    validate().stdout(warning());
    compress("quant").stdout(contains("warning").not());
    validate().stdout(contains("warning").not());
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let model = support::zoo("simplecnn");
    program().assert().code(2).stderr(contains("Usage"));
    program().arg(&model).args(["-p", "prun"]).assert().code(2).stderr(contains("did you mean `prune`?"));
    program()
        .arg(&model)
        .args(["-p", "quant(exclud=[])"])
        .assert()
        .code(2)
        .stderr(contains("did you mean `exclude`?"));
    // Its Softmax tells ranges, but none that a layer reads.
    program()
        .arg(support::zoo("vit_raw"))
        .args(["-p", "quant(activations=static)"])
        .assert()
        .code(2)
        .stderr(contains("nothing tells the ranges of activations"));
    program().arg(&model).args(["--dim", "batch=0"]).assert().code(2).stderr(contains("positive"));
}

#[test]
fn what_cannot_be_read_is_exit_code_1_and_leaves_the_output_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (input, out) = (folder.path().join("broken.onnx"), folder.path().join("out.onnx"));
    let whole = fs::read(support::zoo("simplecnn")).unwrap();
    fs::write(&input, &whole[..whole.len() / 2]).unwrap();
    fs::write(&out, "earlier result").unwrap();
    program().arg(&input).arg("-o").arg(&out).assert().code(1).stderr(contains("malformed"));
    program().arg(folder.path().join("absent.onnx")).assert().code(1).stderr(contains("absent.onnx"));
    assert_eq!(fs::read_to_string(&out).unwrap(), "earlier result");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "no temporary file is left");
}

#[test]
fn a_result_below_the_bar_is_exit_code_3_with_the_report_written() {
    let folder = tempfile::tempdir().unwrap();
    let (out, report) = (folder.path().join("out.onnx"), folder.path().join("report.json"));
    program()
        .arg(support::zoo("resnet20"))
        .args(["-p", "quant", "--min-sqnr", "200", "-o"])
        .arg(&out)
        .arg("--report")
        .arg(&report)
        .assert()
        .code(3)
        .stderr(contains("validation failed"));
    assert!(report.exists() && !out.exists());
}

#[test]
fn no_runtime_is_needed_where_nothing_runs() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.onnx");
    let missing = folder.path().join("no-library-here");
    let base = || {
        let mut command = program();
        command
            .arg(support::zoo("resnet20_raw"))
            .args(["-p", "quant", "-o"])
            .arg(&out)
            .arg("--ort")
            .arg(&missing);
        command
    };
    base().assert().code(predicate::ne(0)).stderr(contains("no-library-here"));
    base().arg("--no-validate").assert().success();
    assert!(out.exists());
}

#[test]
fn nothing_is_left_in_the_home_of_the_user() {
    let home = tempfile::tempdir().unwrap();
    let mut command = program();
    command.env("HOME", home.path()).env_remove("XDG_CACHE_HOME").env_remove("ORT_DISABLE_TELEMETRY");
    command
        .arg("validate")
        .args([support::zoo("simplecnn_raw"), support::zoo("simplecnn_raw")])
        .assert()
        .success();
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn models_go_through_pipes() {
    let model = fs::read(support::zoo("simplecnn")).unwrap();
    let run = program().args(["-", "-p", "simplify", "-o", "-", "-q"]).write_stdin(model).assert().success();
    onnx_compress::lower::parse(run.get_output().stdout.clone().into(), None).unwrap();
}

#[test]
fn inspect_tells_what_can_be_pruned() {
    let inspect = |model: &str, json: bool| {
        let mut command = program();
        command.args(["inspect", "--groups"]).args(json.then_some("--json")).arg(support::zoo(model));
        String::from_utf8(command.assert().success().get_output().stdout.clone()).unwrap()
    };
    let table = inspect("lstm_raw", false);
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    for text in [
        "/rnn/LSTM",
        "exact",
        "no: graph input",
        "groups: 1 can be cut, 0 with `lossy=true`, 2 cannot",
        "% of the multiply-accumulates are in layers that can be cut",
    ] {
        assert!(table.contains(text), "{text}\n{table}");
    }
    let groups: serde_json::Value = serde_json::from_str(&inspect("simplecnn", true)).unwrap();
    let first = &groups[0];
    assert_eq!((first["layer"].as_str(), first["standing"].as_str()), (Some("/conv1/Conv"), Some("exact")));
    assert_eq!(first["positions"], 10);
    assert_eq!(first["members"][2], serde_json::json!({ "weight": "conv2.weight", "axis": 1 }));
    assert!(first["macs"].as_u64() > Some(0) && first["parameters"].as_u64() > Some(0));
}

#[test]
fn the_other_commands_show_what_they_promise() {
    let model = support::zoo("vit");
    program()
        .arg("inspect")
        .arg(&model)
        .assert()
        .success()
        .stdout(contains("MatMul").and(contains("image float[")));
    program().args(["inspect", "--json"]).arg(&model).assert().success().stdout(contains("\"parameters\""));
    program().arg("print").arg(&model).assert().success().stdout(contains("opset_import"));
    program().arg("passes").assert().success().stdout(contains("simplify").and(contains("quant")));
    program().args(["passes", "quant"]).assert().success().stdout(contains("exclude"));
    program().args(["completions", "bash"]).assert().success().stdout(contains("onnx-compress"));
    program()
        .arg(&model)
        .args(["-p", "quant", "--explain"])
        .assert()
        .success()
        .stdout(contains("per_channel"));
}

#[test]
fn sizes_count_the_files_beside_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let (out, report) = (folder.path().join("out.onnx"), folder.path().join("report.json"));
    let read = |text: &str| -> serde_json::Value { serde_json::from_str(text).unwrap() };
    program()
        .arg(support::zoo("vit_raw"))
        .args(["-p", "simplify", "--no-validate", "--external-data", "always", "-o"])
        .arg(&out)
        .arg("--report")
        .arg(&report)
        .assert()
        .success();
    let length = |file: &str| fs::metadata(folder.path().join(file)).unwrap().len();
    let both = length("out.onnx") + length("out.onnx.data");
    let report = read(&fs::read_to_string(report).unwrap());
    assert_eq!(report["after"]["file_bytes"], both);
    assert_eq!(report["before"]["file_bytes"], fs::metadata(support::zoo("vit_raw")).unwrap().len());
    let inspected = program().args(["inspect", "--json"]).arg(&out).output().unwrap();
    assert_eq!(read(&String::from_utf8(inspected.stdout).unwrap())["file_bytes"], both);
}
