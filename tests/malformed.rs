//! Bad input: every defect gets an error that names the place, nothing panics, and nothing declared is believed.

mod support;

use onnx_compress::{Error, lower, lower::proto};
use proptest::prelude::*;
use prost::Message as _;
use proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto, ValueInfoProto,
    attribute_proto::AttributeType,
};
use std::{fs, path::Path};

fn value(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: Some(name.into()), ..ValueInfoProto::default() }
}

fn node(op_type: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto {
        op_type: Some(op_type.into()),
        name: Some(format!("the_{}", outputs[0])),
        input: inputs.iter().map(|name| (*name).into()).collect(),
        output: outputs.iter().map(|name| (*name).into()).collect(),
        ..NodeProto::default()
    }
}

fn floats(name: &str, dims: &[i64], bytes: usize) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: dims.to_vec(),
        data_type: Some(1),
        raw_data: Some(vec![0; bytes].into()),
        ..TensorProto::default()
    }
}

/// x -> Add(w) -> y, with `w` a constant.
fn small() -> GraphProto {
    GraphProto {
        name: Some("main".into()),
        node: vec![node("Add", &["x", "w"], &["y"])],
        initializer: vec![floats("w", &[2], 8)],
        input: vec![value("x")],
        output: vec![value("y")],
        ..GraphProto::default()
    }
}

fn encode(graph: GraphProto) -> Vec<u8> {
    let opset = proto::OperatorSetIdProto { version: Some(17), ..Default::default() };
    ModelProto { ir_version: Some(8), graph: Some(graph), opset_import: vec![opset], ..Default::default() }
        .encode_to_vec()
}

/// The message of the error that the bytes must give; all of `parts` must stand in it.
fn refused(bytes: Vec<u8>, folder: Option<&Path>, parts: &[&str]) {
    let error = lower::parse(bytes.into(), folder).expect_err(&format!("refused with {parts:?}"));
    assert!(matches!(error, Error::Malformed { .. }), "{error}");
    let text = error.to_string();
    assert!(parts.iter().all(|part| text.contains(part)), "{text}\nlacks some of {parts:?}");
}

/// A graph with one defect.
fn defect(parts: &[&str], change: impl FnOnce(&mut GraphProto)) {
    let mut graph = small();
    change(&mut graph);
    refused(encode(graph), None, parts);
}

#[test]
fn the_sound_graph_is_accepted() {
    lower::parse(encode(small()).into(), None).expect("the tests below break this graph in one place each");
}

#[test]
fn files_that_are_no_models() {
    refused(Vec::new(), None, &["empty"]);
    refused(b"\x89PNG\r\n\x1a\n 0000000000000000000".to_vec(), None, &["ONNX model"]);
    refused(b"#!/bin/sh\necho this is a script\n".to_vec(), None, &["ONNX model"]);
    refused(ModelProto { ir_version: Some(8), ..Default::default() }.encode_to_vec(), None, &["no graph"]);
    let bytes = encode(small());
    for len in 1..bytes.len() - 4 {
        let cut = lower::parse(bytes[..len].to_vec().into(), None).expect_err("it is cut short");
        assert!(matches!(cut, Error::Malformed { .. }), "{len} bytes: {cut}");
    }
}

#[test]
fn graphs_that_hang_together_wrongly() {
    defect(&["`the_y`", "`gone`", "nothing defines"], |g| g.node[0].input[0] = "gone".into());
    defect(&["`z`", "nothing defines"], |g| g.output.push(value("z")));
    defect(&["`y`", "defined more than once"], |g| g.node.push(node("Neg", &["x"], &["y"])));
    defect(&["`x`", "defined more than once"], |g| g.node.push(node("Neg", &["w"], &["x"])));
    defect(&["`w`", "defined more than once"], |g| g.node.push(node("Neg", &["x"], &["w"])));
    defect(&["`w`", "two initializers"], |g| g.initializer.push(floats("w", &[1], 4)));
    defect(&["lists an input twice"], |g| g.input.push(value("x")));
    defect(&["has no name"], |g| g.input.push(value("")));
    defect(&["has no name"], |g| g.initializer.push(floats("", &[1], 4)));
    defect(&["`the_y`", "names no operator"], |g| g.node[0].op_type = None);
    defect(&["cycle"], |g| {
        g.node.push(node("Add", &["x", "b"], &["a"]));
        g.node.push(node("Neg", &["a"], &["b"]));
    });
    defect(&["`the_z`", "`gone`"], |g| {
        let body = GraphProto {
            node: vec![node("Neg", &["gone"], &["t"])],
            output: vec![value("t")],
            ..GraphProto::default()
        };
        g.node.push(NodeProto { attribute: vec![body_attribute(body)], ..node("If", &["x"], &["z"]) });
    });
}

fn body_attribute(body: GraphProto) -> AttributeProto {
    AttributeProto {
        name: Some("then_branch".into()),
        r#type: Some(AttributeType::Graph.into()),
        g: Some(Box::new(body)),
        ..AttributeProto::default()
    }
}

#[test]
fn tensors_that_contradict_themselves() {
    defect(&["`w`", "takes 8 bytes, not 7"], |g| g.initializer[0] = floats("w", &[2], 7));
    defect(&["`w`", "not 8"], |g| g.initializer[0] = floats("w", &[1 << 40], 8));
    defect(&["`w`", "not 8"], |g| g.initializer[0] = floats("w", &[i64::MAX, i64::MAX], 8));
    defect(&["`w`", "-1 is negative"], |g| g.initializer[0] = floats("w", &[-1], 8));
    defect(&["`w`", "element type 99"], |g| g.initializer[0].data_type = Some(99));
    defect(&["`w`", "element type 0"], |g| g.initializer[0].data_type = None);
    defect(&["`w`", "both"], |g| g.initializer[0].float_data = vec![1.0, 2.0]);
    defect(&["`w`", "stand in field"], |g| {
        g.initializer[0].raw_data = None;
        g.initializer[0].int64_data = vec![1, 2];
    });
    defect(&["`w`", "1 strings do not fill"], |g| {
        let strings = TensorProto { data_type: Some(8), raw_data: None, ..g.initializer[0].clone() };
        g.initializer[0] = TensorProto { string_data: vec!["a".into()], ..strings };
    });
    defect(&["do not place"], |g| {
        let indices = TensorProto { data_type: Some(7), ..floats("", &[3], 24) };
        let values = Some(floats("s", &[2], 8));
        let dims = vec![9];
        g.sparse_initializer.push(proto::SparseTensorProto { values, indices: Some(indices), dims });
    });
    defect(&["`the_y`", "attribute `a`", "no value"], |g| {
        let kind = Some(AttributeType::Tensor.into());
        g.node[0].attribute.push(AttributeProto {
            name: Some("a".into()),
            r#type: kind,
            ..Default::default()
        });
    });
    defect(&["`the_y`", "attribute `a`", "kind 77"], |g| {
        g.node[0].attribute.push(AttributeProto {
            name: Some("a".into()),
            r#type: Some(77),
            ..Default::default()
        });
    });
}

/// A graph whose bodies nest `depth` deep.
fn nested(depth: usize) -> Vec<u8> {
    let mut body = GraphProto::default();
    for _ in 0..depth {
        let node = NodeProto { attribute: vec![body_attribute(body)], ..node("If", &[], &[""]) };
        body = GraphProto { node: vec![node], ..GraphProto::default() };
    }
    encode(body)
}

#[test]
fn bodies_that_nest_without_end() {
    let model = lower::parse(nested(64).into(), None).expect("deeper than any real model");
    lower::to_bytes(&model).expect("it can be written as well");
    refused(nested(65), None, &["64 deep"]);
    refused(nested(300), None, &["64 deep"]);
}

#[test]
fn external_data_that_is_not_there_or_not_ours() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = folder.path().join("model");
    fs::create_dir(&model).expect("a folder");
    fs::write(model.join("data"), [0; 100]).expect("written");
    fs::write(folder.path().join("secret"), [0; 100]).expect("written");
    fs::create_dir(model.join("sub")).expect("a folder");
    fs::write(model.join("nothing"), []).expect("written");
    std::os::unix::fs::symlink("../secret", model.join("link")).expect("linked");
    std::os::unix::fs::symlink("data", model.join("good_link")).expect("linked");
    let external = |entries: &[(&str, &str)]| {
        let mut graph = small();
        let tensor = &mut graph.initializer[0];
        tensor.raw_data = None;
        tensor.data_location = Some(1);
        tensor.external_data = entries
            .iter()
            .map(|(key, value)| StringStringEntryProto {
                key: Some((*key).into()),
                value: Some((*value).into()),
            })
            .collect();
        encode(graph)
    };
    let secret = folder.path().join("secret").to_string_lossy().into_owned();
    let at = Some(model.as_path());
    let good: [&[(&str, &str)]; 5] = [
        &[("location", "data")],
        &[("location", "./data"), ("offset", "92")],
        &[("location", "good_link"), ("length", "8"), ("checksum", "?")],
        &[("location", "data"), ("offset", "1"), ("length", "8")],
        &[("location", "sub/../data")],
    ];
    for entries in &good[..4] {
        lower::parse(external(entries).into(), at).unwrap_or_else(|error| panic!("{entries:?}: {error}"));
    }
    let refused_with = |entries: &[(&str, &str)], why: &str| refused(external(entries), at, &["`w`", why]);
    refused_with(good[4], "outside the model's folder");
    refused_with(&[("location", "../secret")], "outside the model's folder");
    refused_with(&[("location", &secret)], "outside the model's folder");
    refused_with(&[("location", "link")], "leads out of the model's folder");
    refused_with(&[("location", "sub")], "no regular file");
    refused_with(&[("location", "missing")], "missing cannot be read");
    refused_with(&[("location", "nothing")], "past the end");
    refused_with(&[], "no file name");
    refused_with(&[("location", "data"), ("offset", "93")], "past the end");
    refused_with(&[("location", "data"), ("offset", "18446744073709551615")], "past the end");
    refused_with(&[("location", "data"), ("offset", "-1")], "no number of bytes");
    refused_with(&[("location", "data"), ("length", "4")], "4 bytes long");
    refused(external(good[0]), None, &["`w`", "has no folder"]);
}

#[test]
fn files_that_cannot_be_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = folder.path().join("missing.onnx");
    let error = lower::load(&missing).expect_err("it is not there");
    assert!(matches!(error, Error::Io { .. }) && error.to_string().contains("missing.onnx"), "{error}");
    let error = lower::load(folder.path()).expect_err("it is a folder");
    assert!(error.to_string().contains("no regular file"), "{error}");
    let empty = folder.path().join("empty.onnx");
    fs::write(&empty, []).expect("written");
    let error = lower::load(&empty).expect_err("it is empty");
    assert!(error.to_string().contains("empty.onnx"), "{error}");
}

/// Small models that between them use every kind of message.
fn seeds() -> Vec<Vec<u8>> {
    let names =
        ["node/test_if", "node/test_loop11", "node/test_optional_get_element", "node/test_equal_string"];
    let tests = support::conformance();
    let real = tests.iter().filter(|test| names.iter().any(|name| test.name.starts_with(name)));
    let mut seeds: Vec<_> = real.map(|test| fs::read(&test.model).expect("readable")).collect();
    assert!(seeds.len() >= 4, "the conformance set has these tests");
    seeds.extend([encode(small()), nested(3)]);
    seeds
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    /// Whatever is overwritten, inserted or cut off, reading gives a model that can be written, or an error.
    #[test]
    fn damage_never_panics(
        seed in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let seeds = SEEDS.get_or_init(seeds);
        let mut bytes = seed.get(seeds).clone();
        for (at, byte, kind) in edits {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes[at] ^= 1 << (byte % 8),
                _ => bytes.insert(at, byte),
            }
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(model) = lower::parse(bytes.into(), None) {
            let written = lower::to_bytes(&model).expect("small");
            let again = lower::parse(written.clone().into(), None).expect("our own output loads");
            prop_assert_eq!(lower::to_bytes(&again).expect("small"), written);
        }
    }
}

static SEEDS: std::sync::OnceLock<Vec<Vec<u8>>> = std::sync::OnceLock::new();
