//! Models of older operator sets mean the same after conversion: the conformance set on ONNX Runtime.

mod support;

use onnx_compress::{
    Error,
    ir::{Model, Tensor},
    lower::{self, opset},
    measure::Batch,
    runtime::{Runtime, Samples, Session, SessionOptions, Synthesis},
};
use std::{fs, path::Path};
use support::{conformance, setup_dir};

fn tensors(folder: &Path, kind: &str) -> Option<Vec<Tensor>> {
    let mut all = Vec::new();
    while let Ok(bytes) = fs::read(folder.join(format!("{kind}_{}.pb", all.len()))) {
        all.push(lower::tensor_from_proto(bytes.into()).ok()?.1);
    }
    Some(all)
}

fn run(runtime: &Runtime, model: &Model, batch: &Batch) -> Result<Batch, Error> {
    Session::new(runtime, model, &SessionOptions { threads: Some(1), ..Default::default() })?.run(batch)
}

fn equal(a: &Tensor, b: &Tensor) -> bool {
    match (a.to_f32(), b.to_f32()) {
        (Some(x), Some(y)) => {
            let near = |(x, y): (&f32, &f32)| {
                x == y || (x - y).abs() <= 1e-5 + 1e-4 * x.abs() || x.is_nan() && y.is_nan()
            };
            a.shape() == b.shape() && x.iter().zip(y.iter()).all(near)
        }
        _ => a.dtype() == b.dtype() && a.shape() == b.shape() && a.bytes() == b.bytes(),
    }
}

fn same(expected: &Batch, found: &Batch) -> bool {
    expected.len() == found.len() && expected.iter().zip(found).all(|(a, b)| equal(&a.1, &b.1))
}

#[test]
fn converted_conformance_models_give_what_they_gave() {
    let runtime =
        Runtime::find(Some(&setup_dir().join("ort"))).expect("run `cargo xtask setup --only runtime`");
    let (mut converted, mut refused, mut wrong) = (0, Vec::new(), Vec::new());
    for case in conformance().into_iter().filter(|c| c.runs) {
        let model = lower::load(&case.model).unwrap();
        for target in [13, 17, 21, 23, 25] {
            if model.opset() >= target || model.opset() < opset::VERSIONS.0 {
                continue;
            }
            let mut new = model.clone();
            match opset::upgrade(&mut new, target) {
                Err(Error::Unsupported { .. }) => {
                    refused.push(format!("{} to {target}", case.name));
                    continue;
                }
                result => result.unwrap_or_else(|e| panic!("{}: {e}", case.name)),
            }
            new.verify().unwrap_or_else(|e| panic!("{}: {e}", case.name));
            assert_eq!(new.opset(), target);
            // Inputs and outputs that are no tensors cannot be given or compared here.
            let Some(data) = case.data_sets.first() else { continue };
            let Some(inputs) = tensors(data, "input") else { continue };
            let names = model.graph.inputs.iter().map(|v| model.graph.name_of(*v).to_owned());
            assert!(names.len() >= inputs.len(), "{}: data for inputs it does not have", case.name);
            let batch: Batch = names.zip(inputs).collect();
            let Ok(expected) = run(&runtime, &model, &batch) else { continue };
            converted += 1;
            match run(&runtime, &new, &batch) {
                // ONNX Runtime has Swish as a function of other ops up to operator set 23, and not yet in a later one.
                Err(Error::Runtime(why)) if why.contains("implementation for Swish(24)") => {}
                Err(e) => wrong.push(format!("{} to {target}: {e}", case.name)),
                Ok(found) if !same(&expected, &found) => {
                    wrong.push(format!("{} to {target}: outputs differ", case.name));
                }
                Ok(_) => {}
            }
        }
    }
    // Scan 8 has a batch axis that later versions lack; Upsample with computed scales does not tell how it rounds.
    let known = |r: &&String| !r.contains("/test_scan_sum ") && !r.contains("/test_upsample_nearest ");
    assert_eq!(refused.iter().find(known), None, "refused");
    assert!(wrong.is_empty(), "{} of {converted}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(converted > 3700, "only {converted} conversions were compared");
}

#[test]
fn converted_real_models_give_what_they_gave() {
    let runtime =
        Runtime::find(Some(&setup_dir().join("ort"))).expect("run `cargo xtask setup --only runtime`");
    let mut converted = 0;
    for path in [support::zoo_models(), support::corpus()].concat() {
        let model = lower::load(&path).unwrap();
        for target in [17, 21, 25] {
            if model.opset() >= target || model.opset() < opset::VERSIONS.0 {
                continue;
            }
            let mut new = model.clone();
            opset::upgrade(&mut new, target).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let samples = Samples::synthesize(&runtime, &model, &Synthesis::default())
                .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let batch = &samples.batches()[0];
            let (expected, found) = (run(&runtime, &model, batch).unwrap(), run(&runtime, &new, batch));
            let found = found.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            assert!(same(&expected, &found), "{} to {target}", path.display());
            converted += 1;
        }
    }
    assert!(converted > 40, "only {converted} conversions were compared");
}
