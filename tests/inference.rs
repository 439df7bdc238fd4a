//! Type inference held against ONNX's own on every model there is, and against what the conformance set's expected
//! outputs really are. A wrong extent or element type fails, and so does one that ONNX's inference knows and ours does not.
#![allow(clippy::print_stdout, reason = "what the test found out is shown with --nocapture")]

mod support;

use onnx_compress::{
    ir::{Dim, Model, Type},
    lower, ops,
};
use serde_json::Value as Json;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Where ONNX's inference takes over what a model's file declares of bodies: types that nothing implies and no runtime
/// checks: a file with wrong ones runs as well.
const TAKEN_FROM_DECLARATIONS: &[(&str, &str)] = &[
    ("silero_vad.onnx", "If_0_outputs_0"),
    ("silero_vad.onnx", "If_0_outputs_1"),
    ("silero_vad.onnx", "output"),
    ("silero_vad.onnx", "stateN"),
    ("test_loop11", "res_scan"),
];

fn models() -> Vec<PathBuf> {
    let mut all = [support::zoo_models(), support::corpus(), support::light()].concat();
    all.extend(support::conformance().into_iter().map(|c| c.model));
    all
}

/// The model as a pass would hand it on: only its inputs declare their types.
fn inferred(path: &Path) -> Model {
    let mut model = lower::load(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let values: Vec<_> = model.graph.values().filter(|v| !model.graph.is_input(*v)).collect();
    for v in values {
        model.graph.value_mut(v).ty = None;
    }
    ops::infer_types(&mut model).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    model
}

/// Compares one value; `Err` says what is wrong, `Ok(true)` that ours knows less.
fn compare(model: &Model, name: &str, dtype: i64, dims: Option<Vec<Option<i64>>>) -> Result<bool, String> {
    let Some(v) = model.graph.find(name) else { return Ok(false) };
    let ty = model.graph.tensor_type(v).unwrap_or_default();
    let ours = ty.dtype.map(|d| i64::from(d.onnx()));
    if dtype != 0 && ours.is_some_and(|d| d != dtype) {
        return Err(format!("{name}: element type {:?}, not number {dtype}", ty.dtype));
    }
    let mut less = dtype != 0 && ours.is_none();
    let Some(dims) = dims else { return Ok(less) };
    let Some(shape) = ty.shape else { return Ok(true) };
    if shape.len() != dims.len() {
        return Err(format!("{name}: shape {shape:?}, not {dims:?}"));
    }
    for (mine, theirs) in shape.iter().zip(&dims) {
        match (mine, theirs) {
            (Dim::Known(m), Some(t)) if i64::try_from(*m) != Ok(*t) => {
                return Err(format!("{name}: shape {shape:?}, not {dims:?}"));
            }
            (Dim::Unknown | Dim::Symbol(_), Some(_)) => less = true,
            _ => {}
        }
    }
    Ok(less)
}

#[test]
fn never_contradicts_onnx() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("models.txt");
    let models = models();
    let lines: Vec<_> = models.iter().map(|m| m.display().to_string()).collect();
    fs::write(&list, lines.join("\n")).unwrap();
    let output = support::python_output("oracle/infer_shapes.py", &[&list]);
    let (mut wrong, mut gaps, mut compared, mut refused, mut declared) =
        (Vec::new(), BTreeMap::<String, Vec<String>>::new(), 0, 0, 0);
    for line in output.lines() {
        let answer: Json = serde_json::from_str(line).unwrap();
        let path = PathBuf::from(answer["model"].as_str().unwrap());
        let Some(values) = answer["values"].as_object() else {
            refused += 1;
            continue;
        };
        let model = inferred(&path);
        let short = path.iter().rev().take(2).map(|p| p.to_string_lossy()).collect::<Vec<_>>().join(" in ");
        for (name, fact) in values {
            let dims =
                fact[1].as_array().map(|dims| dims.iter().map(|d| d.as_i64().filter(|d| *d >= 0)).collect());
            compared += 1;
            match compare(&model, name, fact[0].as_i64().unwrap(), dims) {
                Err(why) => wrong.push(format!("{short}: {why}")),
                Ok(true) if TAKEN_FROM_DECLARATIONS.iter().any(|(m, v)| short.contains(m) && name == v) => {
                    declared += 1;
                }
                Ok(true) => {
                    let producer = model.graph.find(name).and_then(|v| model.graph.producer(v));
                    let op = producer.map_or_else(String::new, |(op, _)| model.graph.op(op).op_type.clone());
                    gaps.entry(op).or_default().push(format!("{short}: {name}"));
                }
                Ok(false) => {}
            }
        }
    }
    let total: usize = gaps.values().map(Vec::len).sum();
    println!(
        "{compared} values compared, {refused} models refused by ONNX's inference, {total} known better there:"
    );
    for (op, places) in &gaps {
        println!("  {op}: {} (first: {})", places.len(), places[0]);
    }
    assert!(wrong.is_empty(), "{} wrong types:\n{}", wrong.len(), wrong.join("\n"));
    assert!(compared > 10_000, "only {compared} values were compared");
    assert_eq!(declared, TAKEN_FROM_DECLARATIONS.len(), "a named gap is none any more");
    assert!(
        gaps.is_empty(),
        "ONNX knows an extent, the rank or the element type of {total} values that we do not"
    );
}

#[test]
fn never_contradicts_what_models_give() {
    let mut wrong = Vec::new();
    let mut compared = 0;
    for case in support::conformance() {
        let model = inferred(&case.model);
        for set in &case.data_sets {
            for (k, v) in model.graph.outputs.iter().enumerate() {
                let Ok(bytes) = fs::read(set.join(format!("output_{k}.pb"))) else { continue };
                if !matches!(model.graph.value(*v).ty, Some(Type::Tensor(_))) {
                    continue;
                }
                let Ok((_, tensor)) = lower::tensor_from_proto(bytes.into()) else { continue };
                let dims = tensor.shape().iter().map(|d| i64::try_from(*d).ok()).collect();
                compared += 1;
                if let Err(why) =
                    compare(&model, model.graph.name_of(*v), tensor.dtype().onnx().into(), Some(dims))
                {
                    wrong.push(format!("{}: {why}", case.name));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong types:\n{}", wrong.len(), wrong.join("\n"));
    assert!(compared > 1_000, "only {compared} outputs were compared");
}
