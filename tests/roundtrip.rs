//! What goes in comes out: every model of the collections, and messages made to hold what those do not.

mod support;

use onnx_compress::{
    ir::Model,
    lower::{self, ExternalData, SaveOptions, proto},
};
use prost::Message as _;
use proto::{GraphProto, ModelProto};
use std::{collections::HashSet, fs, path::Path};

/// Loads a model, writes it, and holds the result against the file field by field; then again, byte by byte.
fn check(path: &Path) {
    let model = lower::load(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let bytes = lower::to_bytes(&model).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut original = ModelProto::decode(&fs::read(path).expect("readable")[..]).expect("it was loaded");
    let mut written = ModelProto::decode(&bytes[..]).expect("our own output is protobuf");
    let graphs = (original.graph.as_mut().expect("it was loaded"), written.graph.as_mut());
    settle_order(graphs.0, graphs.1.expect("it has a graph"));
    // Compared by their encoding, for which NaN equals NaN.
    let equal = original.encode_to_vec() == written.encode_to_vec();
    assert!(equal, "{}:\n{}", path.display(), difference(&original, &written));

    let again = lower::parse(bytes.clone().into(), path.parent()).expect("our own output loads");
    let again = lower::to_bytes(&again).expect("it was written before");
    assert!(again == bytes, "{}: other bytes after the second round", path.display());
}

/// Where the nodes of the original are not sorted, brings them and ours into an order that both sides share.
fn settle_order(original: &mut GraphProto, written: &mut GraphProto) {
    let outputs: HashSet<String> = original.node.iter().flat_map(|node| node.output.clone()).collect();
    let mut seen = HashSet::from([String::new()]);
    let sorted = original.node.iter().all(|node| {
        let ready = node.input.iter().all(|name| !outputs.contains(name) || seen.contains(name));
        seen.extend(node.output.clone());
        ready
    });
    if !sorted {
        original.node.sort_by_key(|node| node.output.clone());
        written.node.sort_by_key(|node| node.output.clone());
    }
    for (original, written) in original.node.iter_mut().zip(&mut written.node) {
        for (original, written) in original.attribute.iter_mut().zip(&mut written.attribute) {
            let bodies = original.g.iter_mut().map(|body| &mut **body).chain(&mut original.graphs);
            let ours = written.g.iter_mut().map(|body| &mut **body).chain(&mut written.graphs);
            bodies.zip(ours).for_each(|(original, written)| settle_order(original, written));
        }
    }
}

/// The first lines on which two messages differ.
fn difference(a: &ModelProto, b: &ModelProto) -> String {
    let (a, b) = (format!("{a:#?}"), format!("{b:#?}"));
    let lines = a.lines().zip(b.lines()).enumerate().filter(|(_, (a, b))| a != b).take(5);
    lines.map(|(k, (a, b))| format!("line {k}: {a}  became  {b}\n")).collect()
}

#[test]
fn the_zoo() {
    support::zoo_models().iter().for_each(|path| check(path));
}

#[test]
fn the_pretrained_models() {
    support::corpus().iter().for_each(|path| check(path));
}

#[test]
fn the_classic_networks() {
    support::light().iter().for_each(|path| check(path));
}

#[test]
fn the_conformance_set() {
    let tests = support::conformance();
    assert!(tests.len() > 1000);
    tests.iter().for_each(|test| check(&test.model));
}

#[test]
fn external_data_goes_out_and_comes_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.onnx");
    let save = |model: &Model, external_data| {
        lower::save(model, &path, &SaveOptions { external_data }).expect("it can be written");
    };
    let inline = lower::load(&support::zoo("resnet20")).expect("it loads");
    save(&inline, ExternalData::Always);
    let size = |name: &str| fs::metadata(folder.path().join(name)).expect("it was written").len();
    assert!(size("model.onnx") < 100_000);
    assert!(size("model.onnx.data") > 1_000_000);
    let external = lower::load(&path).expect("it loads");
    assert!(external == inline, "the same model, its weights in another place");
    check_with_python(&path);
    save(&external, ExternalData::Never);
    assert!(lower::load(&path).expect("it loads") == inline, "a file may be written over its source");
    check_with_python(&path);
}

/// ONNX's own checker, with type inference, accepts the file.
fn check_with_python(path: &Path) {
    let script = "import onnx,sys; onnx.checker.check_model(sys.argv[1], full_check=True)";
    let checked = support::python().arg("-c").arg(script).arg(path).output().expect("python3 runs");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}
