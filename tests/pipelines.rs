//! Every real model through the program, as a user runs it: each pass alone and both in a row, proved on ONNX Runtime by
//! the program itself, read by ONNX's checker, and stable when loaded and saved again.

mod support;

use assert_cmd::Command;
use onnx_compress::{Error, lower};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

const PIPELINES: [(&str, &str); 4] = [
    ("simplify", "simplify"),
    ("prune", "prune(ratio=0.3)"),
    ("quant", "quant(activations=none)"),
    ("both", "prune(ratio=0.3),quant(activations=none)"),
];

/// Runs the program. Gives the report where it wrote a model, and what it said where a pass had nothing to do.
fn compress(model: &Path, pipeline: &str, out: &Path) -> Result<Value, String> {
    let report = out.with_extension("json");
    let mut command = Command::cargo_bin("onnx-compress").unwrap();
    command.current_dir(support::project_dir()).arg(model).args(["-p", pipeline, "-o"]).arg(out);
    let run = command.arg("--report").arg(&report).output().unwrap();
    let errors = String::from_utf8(run.stderr).unwrap();
    match run.status.code() {
        Some(0) => Ok(serde_json::from_str(&fs::read_to_string(&report).unwrap()).unwrap()),
        Some(3) if errors.contains("nothing can be pruned") => Err(errors),
        code => panic!("{} with {pipeline}: exit code {code:?}\n{errors}", model.display()),
    }
}

/// What holds of every report: the outputs were compared and are numbers, and nothing grew that should not.
fn judge(name: &str, pass: &str, report: &Value) {
    let of = |side: &str, what: &str| report[side][what].as_u64().unwrap();
    let grew = |what: &str| of("after", what) > of("before", what);
    let validation = &report["validation"];
    assert!(!validation["outputs"].as_array().unwrap().is_empty(), "{name} {pass}: nothing was compared");
    for output in validation["outputs"].as_array().unwrap() {
        assert!(output["max_abs"].as_f64().unwrap().is_finite(), "{name} {pass}: {output}");
        assert_eq!(output["not_finite_differing"], 0, "{name} {pass}: {output}");
    }
    assert!(!grew("macs"), "{name} {pass}: {report}");
    match pass {
        "simplify" => assert!(!grew("nodes"), "{name}: {report}"),
        "prune" => assert!(of("after", "macs") < of("before", "macs"), "{name}: {report}"),
        _ => {}
    }
}

/// What was written loads, holds together, and is the same bytes when written again.
fn is_stable(path: &Path) {
    let model = lower::load(path).unwrap();
    model.verify().unwrap();
    let bytes = lower::to_bytes(&model).unwrap();
    assert!(bytes == fs::read(path).unwrap(), "{} changes when saved again", path.display());
}

/// Runs every pipeline over the models; returns the names of those with nothing to prune.
fn run_all(models: &[PathBuf]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let (mut written, mut unpruned) = (Vec::new(), Vec::new());
    for model in models {
        let name = model.file_stem().unwrap().to_string_lossy().into_owned();
        for (pass, pipeline) in PIPELINES {
            let out = folder.path().join(format!("{name}.{pass}.onnx"));
            match compress(model, pipeline, &out) {
                Ok(report) => {
                    judge(&name, pass, &report);
                    is_stable(&out);
                    written.push(out);
                }
                Err(_) if pass == "prune" => unpruned.push(name.clone()),
                Err(_) if unpruned.contains(&name) => {}
                Err(errors) => panic!("{name} with {pipeline}: {errors}"),
            }
        }
    }
    let files: Vec<&Path> = written.iter().map(AsRef::as_ref).collect();
    assert_eq!(support::python_output("check_models.py", &files), "", "ONNX's checker refuses none");
    unpruned
}

#[test]
fn pretrained_models_go_through_every_pass() {
    assert_eq!(run_all(&support::corpus()), [""; 0]);
}

#[test]
fn trained_models_go_through_every_pass() {
    let unpruned = run_all(&support::zoo_models());
    assert!(unpruned.iter().all(|name| name.starts_with("lstm")), "{unpruned:?}");
}

/// A model that cannot be written leaves what was there before.
#[test]
fn a_failed_save_leaves_the_earlier_file() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("model.onnx");
    fs::copy(support::zoo("simplecnn"), &target).unwrap();
    let before = fs::read(&target).unwrap();
    let data = folder.path().join("model.onnx.data");
    fs::create_dir(&data).unwrap();
    let model = lower::load(&support::zoo("resnet20")).unwrap();
    let options = lower::SaveOptions { external_data: lower::ExternalData::Always };
    let failed = lower::save(&model, &target, &options);
    assert!(matches!(failed, Err(Error::Io { .. })), "{failed:?}");
    assert!(fs::read(&target).unwrap() == before);
    let left: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "no temporary file stays behind: {left:?}");
}

/// A run that is killed at any moment leaves the old file or the new one, whole, even where it replaces its own input.
#[test]
fn a_killed_run_leaves_a_whole_file() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("model.onnx");
    let before = fs::read(support::zoo("vit_raw")).unwrap();
    let start = || {
        fs::write(&target, &before).unwrap();
        let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("onnx-compress"));
        command.arg(&target).args(["-p", "simplify", "--no-validate", "--quiet", "-o"]).arg(&target);
        (Instant::now(), command.spawn().unwrap())
    };
    let (started, mut whole_run) = start();
    assert!(whole_run.wait().unwrap().success());
    let (took, after) = (started.elapsed(), fs::read(&target).unwrap());
    assert!(after != before);
    let mut killed = 0;
    for twentieth in 1..=20 {
        let (_, mut run) = start();
        std::thread::sleep(took * twentieth / 20);
        run.kill().unwrap();
        killed += u32::from(!run.wait().unwrap().success());
        let found = fs::read(&target).unwrap();
        assert!(found == before || found == after, "killed after {twentieth} twentieths of its time");
    }
    assert!(killed >= 10, "{killed} runs were still going");
}
