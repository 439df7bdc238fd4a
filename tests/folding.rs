//! Constant folding held against the conformance set: whatever is evaluated must be exactly what ONNX expects.
#![allow(clippy::print_stdout, reason = "what the test found out is shown with --nocapture")]

mod support;

use onnx_compress::{ir::Tensor, lower, ops::fold};
use std::{collections::HashMap, fs, path::Path};

fn tensors(folder: &Path, kind: &str, n: usize) -> Option<Vec<Tensor>> {
    let read = |k: usize| {
        let bytes = fs::read(folder.join(format!("{kind}_{k}.pb"))).ok()?;
        Some(lower::tensor_from_proto(bytes.into()).ok()?.1)
    };
    (0..n).map(read).collect()
}

/// Equal, but for NaNs, which compare by being NaN.
fn same(a: &Tensor, b: &Tensor) -> bool {
    let floats = |t: &Tensor| t.to_f32().map(|v| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
    a == b
        || (a.dtype() == b.dtype() && a.shape() == b.shape() && floats(a).is_some() && floats(a) == floats(b))
}

#[test]
fn folds_exactly_what_onnx_expects() {
    let (mut evaluated, mut wrong, mut covered) = (0, Vec::new(), HashMap::<String, usize>::new());
    for case in support::conformance() {
        let model = lower::load(&case.model).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let g = &model.graph;
        for set in &case.data_sets {
            let Some(inputs) = tensors(set, "input", g.inputs.len()) else { continue };
            let Some(expected) = tensors(set, "output", g.outputs.len()) else { continue };
            let mut known: HashMap<_, Tensor> = g.initializers().map(|(v, t)| (v, t.clone())).collect();
            known.extend(g.inputs.iter().copied().zip(inputs));
            for op in g.order() {
                let slots = g.inputs_of(op);
                if slots.iter().flatten().any(|v| !known.contains_key(v)) {
                    continue;
                }
                let inputs: Vec<_> = slots.iter().map(|v| v.and_then(|v| known.get(&v))).collect();
                let outputs = g.outputs_of(op);
                let Some(found) = fold::evaluate(g.op(op), model.opset(), &inputs, outputs.len()) else {
                    continue;
                };
                *covered.entry(g.op(op).op_type.clone()).or_default() += 1;
                known.extend(outputs.iter().zip(found).filter_map(|(v, t)| Some(((*v)?, t))));
            }
            for (v, want) in g.outputs.iter().zip(&expected) {
                let Some(got) = known.get(v) else { continue };
                evaluated += 1;
                if !same(got, want) {
                    let (a, b) = ((got.dtype(), got.shape()), (want.dtype(), want.shape()));
                    wrong.push(format!("{}: {a:?}, expected {b:?}", case.name));
                }
            }
        }
    }
    println!("{evaluated} outputs folded; by operator: {covered:?}");
    assert!(wrong.is_empty(), "{} of {evaluated} folded wrongly:\n{}", wrong.len(), wrong.join("\n"));
    assert!(evaluated > 200, "only {evaluated} outputs were folded");
    assert!(covered.len() > 30, "only {} operators were covered: {covered:?}", covered.len());
}
