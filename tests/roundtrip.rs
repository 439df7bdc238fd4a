//! Every model that comes in goes out as it came: equal field by field, and byte for byte from the second time on.
//! The one freedom: nodes, initializers and value_info are sets, and may change their order.

mod support;

use onnx_compress::lower::{self, ExternalData, SaveOptions, proto};
use prost::Message;
use std::{fs, path::Path};

fn decode(bytes: &[u8]) -> proto::ModelProto {
    proto::ModelProto::decode(bytes).unwrap()
}

/// The message with its sets in one order.
fn sorted(mut model: proto::ModelProto) -> proto::ModelProto {
    if let Some(graph) = &mut model.graph {
        graph.node.sort_by(|a, b| (&a.output, &a.op_type).cmp(&(&b.output, &b.op_type)));
        graph.initializer.sort_by(|a, b| a.name.cmp(&b.name));
        graph.value_info.sort_by(|a, b| a.name.cmp(&b.name));
    }
    model
}

/// What is wrong with the round trip of a file, if anything.
fn round_trip(path: &Path) -> Option<String> {
    let failed = |what: &str| Some(format!("{}: {what}", path.display()));
    let model = match lower::load(path) {
        Ok(model) => model,
        Err(e) => return failed(&e.to_string()),
    };
    let once = lower::to_bytes(&model).unwrap();
    let (before, after) = (sorted(decode(&fs::read(path).unwrap())), sorted(decode(&once)));
    let (a, b) = (before.graph.as_ref().unwrap(), after.graph.as_ref().unwrap());
    // Compared as bytes: a NaN in an attribute is not equal to itself.
    if before.encode_to_vec() != after.encode_to_vec() {
        let node = a.node.iter().zip(&b.node).position(|(x, y)| x != y);
        let info = a.value_info.iter().zip(&b.value_info).position(|(x, y)| x != y);
        return failed(&format!("changed (first node {node:?}, first value_info {info:?})"));
    }
    let twice = lower::to_bytes(&lower::parse(once.clone().into(), path.parent()).unwrap()).unwrap();
    if once == twice { None } else { failed("the second round trip gave other bytes") }
}

#[test]
fn every_model_round_trips() {
    let conformance = support::conformance().into_iter().map(|c| c.model);
    let models: Vec<_> = support::zoo_models()
        .into_iter()
        .chain(support::corpus())
        .chain(support::light())
        .chain(conformance)
        .collect();
    let wrong: Vec<_> = models.iter().filter_map(|path| round_trip(path)).collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), models.len(), wrong.join("\n"));
}

#[test]
fn external_data_goes_out_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let inline = lower::load(&support::zoo("resnet20")).unwrap();
    lower::save(&inline, &path, &SaveOptions { external_data: ExternalData::Always }).unwrap();
    assert!(fs::metadata(&path).unwrap().len() < 100_000);
    assert!(fs::metadata(folder.path().join("model.onnx.data")).unwrap().len() > 1_000_000);
    let external = lower::load(&path).unwrap();
    let weights = |m: &onnx_compress::ir::Model| {
        m.graph.initializers().map(|(v, t)| (m.graph.name_of(v).to_owned(), t.clone())).collect::<Vec<_>>()
    };
    assert_eq!(weights(&inline), weights(&external));
    lower::save(&external, &path, &SaveOptions { external_data: ExternalData::Never }).unwrap();
    assert_eq!(
        weights(&inline),
        weights(&lower::load(&path).unwrap()),
        "a file may be written over its source"
    );
    let script = "import onnx,sys; onnx.checker.check_model(sys.argv[1], full_check=True)";
    let checked = support::python().arg("-c").arg(script).arg(&path).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}
