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

#[test]
fn unknown_fields_survive_at_every_depth() {
    let bytes = unknown::model();
    let model = lower::parse(bytes.clone().into(), None).expect("unknown fields are no defect");
    let written = lower::to_bytes(&model).expect("it is small");
    let marks = |bytes: &[u8]| {
        let mut found: Vec<_> =
            bytes.windows(6).filter(|w| w.starts_with(b"mark")).map(<[u8]>::to_vec).collect();
        found.sort();
        found
    };
    assert!(marks(&bytes).len() >= 20);
    assert_eq!(marks(&written), marks(&bytes));
    let again = lower::to_bytes(&lower::parse(written.clone().into(), None).expect("it loads"));
    assert_eq!(again.expect("it is small"), written);
    // The known part is still what it was.
    let known = |bytes: &[u8]| ModelProto::decode(bytes).expect("protobuf").encode_to_vec();
    assert_eq!(known(&written), known(&bytes));
}

/// A message of every kind with an unknown field in each: built by hand, as generated code cannot.
mod unknown {
    use onnx_compress::lower::proto::field::{
        attribute_proto, function_proto, graph_proto, model_proto, node_proto, operator_set_id_proto,
        sparse_tensor_proto, string_string_entry_proto, tensor_annotation, tensor_proto, training_info_proto,
        value_info_proto,
    };
    use prost::encoding::{WireType, encode_key, encode_varint};

    /// Fields in the order given, then one that no ONNX message has, with a text of its own.
    struct Message(Vec<u8>);

    impl Message {
        fn new() -> Self {
            Message(Vec::new())
        }
        fn int(mut self, field: u32, value: u64) -> Self {
            encode_key(field, WireType::Varint, &mut self.0);
            encode_varint(value, &mut self.0);
            self
        }
        fn bytes(mut self, field: u32, bytes: impl AsRef<[u8]>) -> Self {
            encode_key(field, WireType::LengthDelimited, &mut self.0);
            encode_varint(bytes.as_ref().len() as u64, &mut self.0);
            self.0.extend(bytes.as_ref());
            self
        }
        fn marked(self, mark: u32) -> Vec<u8> {
            self.bytes(900, format!("mark{mark:02}")).0
        }
    }

    fn tensor(name: &str, dtype: u64, bytes: &[u8], mark: u32) -> Vec<u8> {
        let width = if dtype == 7 { 8 } else { 4 };
        let shape = Message::new().int(tensor_proto::DIMS, (bytes.len() / width) as u64);
        let typed = shape.int(tensor_proto::DATA_TYPE, dtype).bytes(tensor_proto::NAME, name);
        typed.bytes(tensor_proto::RAW_DATA, bytes).marked(mark)
    }

    fn sparse(name: &str, mark: u32) -> Vec<u8> {
        Message::new()
            .bytes(sparse_tensor_proto::VALUES, tensor(name, 1, &[0; 4], mark))
            .bytes(sparse_tensor_proto::INDICES, tensor("", 7, &[0; 8], mark + 1))
            .int(sparse_tensor_proto::DIMS, 3)
            .marked(mark + 2)
    }

    /// A float vector of length 3: its dimension, its shape, its tensor type and the type are messages of their own.
    fn ty(mark: u32) -> Vec<u8> {
        let dim = Message::new().int(1, 3).marked(mark);
        let shape = Message::new().bytes(1, dim).marked(mark + 1);
        let tensor = Message::new().int(1, 1).bytes(2, shape).marked(mark + 2);
        Message::new().bytes(1, tensor).marked(mark + 3)
    }

    fn value(name: &str, mark: u32) -> Vec<u8> {
        let value = Message::new().bytes(value_info_proto::NAME, name);
        value.bytes(value_info_proto::TYPE, ty(mark)).marked(mark + 4)
    }

    fn entry(mark: u32) -> Vec<u8> {
        let entry = Message::new().bytes(string_string_entry_proto::KEY, "SCALE_TENSOR");
        entry.bytes(string_string_entry_proto::VALUE, "w").marked(mark)
    }

    fn attribute(name: &str, field: u32, kind: u64, value: Vec<u8>, mark: u32) -> Vec<u8> {
        let attribute = Message::new().bytes(attribute_proto::NAME, name);
        attribute.bytes(field, value).int(attribute_proto::TYPE, kind).marked(mark)
    }

    fn node(op_type: &str, input: &str, output: &str, attributes: &[Vec<u8>], mark: u32) -> Vec<u8> {
        let mut node = Message::new().bytes(node_proto::INPUT, input).bytes(node_proto::OUTPUT, output);
        for attribute in attributes {
            node = node.bytes(node_proto::ATTRIBUTE, attribute);
        }
        node.bytes(node_proto::OP_TYPE, op_type).marked(mark)
    }

    pub(super) fn model() -> Vec<u8> {
        let opset = |mark| Message::new().int(operator_set_id_proto::VERSION, 17).marked(mark);
        let body = Message::new()
            .bytes(graph_proto::NODE, node("Neg", "h", "t", &[], 1))
            .bytes(graph_proto::OUTPUT, value("t", 2))
            .marked(7);
        let attributes = [
            attribute("body", attribute_proto::G, 5, body, 8),
            attribute("tensor", attribute_proto::T, 4, tensor("kept", 1, &[0; 4], 9), 10),
            attribute("type", attribute_proto::TP, 13, ty(11), 15),
            attribute("types", attribute_proto::TYPE_PROTOS, 14, ty(16), 20),
            attribute("sparse", attribute_proto::SPARSE_TENSOR, 11, sparse("kept", 21), 24),
        ];
        let annotation = Message::new()
            .bytes(tensor_annotation::TENSOR_NAME, "x")
            .bytes(tensor_annotation::QUANT_PARAMETER_TENSOR_NAMES, entry(25))
            .marked(26);
        let graph = Message::new()
            .bytes(graph_proto::NODE, node("Abs", "x", "h", &[], 27))
            .bytes(graph_proto::NODE, node("Custom", "h", "y", &attributes, 28))
            .bytes(graph_proto::NAME, "main")
            .bytes(graph_proto::INITIALIZER, tensor("w", 1, &[0; 12], 29))
            .bytes(graph_proto::INPUT, value("x", 30))
            .bytes(graph_proto::OUTPUT, value("y", 35))
            .bytes(graph_proto::VALUE_INFO, value("w", 40))
            .bytes(graph_proto::VALUE_INFO, value("h", 45))
            .bytes(graph_proto::QUANTIZATION_ANNOTATION, annotation)
            .bytes(graph_proto::SPARSE_INITIALIZER, sparse("s", 50))
            .bytes(graph_proto::METADATA_PROPS, entry(53))
            .marked(54);
        let default = attribute("alpha", attribute_proto::T, 4, tensor("kept", 1, &[0; 4], 55), 56);
        let function = Message::new()
            .bytes(function_proto::NAME, "Custom")
            .bytes(function_proto::INPUT, "a")
            .bytes(function_proto::OUTPUT, "b")
            .bytes(function_proto::NODE, node("Abs", "a", "b", &[], 57))
            .bytes(function_proto::OPSET_IMPORT, opset(58))
            .bytes(function_proto::ATTRIBUTE_PROTO, default)
            .bytes(function_proto::VALUE_INFO, value("b", 59))
            .marked(64);
        let training = Message::new().bytes(training_info_proto::ALGORITHM, Message::new().marked(65));
        Message::new()
            .int(model_proto::IR_VERSION, 8)
            .bytes(model_proto::GRAPH, graph)
            .bytes(model_proto::OPSET_IMPORT, opset(66))
            .bytes(model_proto::METADATA_PROPS, entry(67))
            .bytes(model_proto::TRAINING_INFO, training.marked(68))
            .bytes(model_proto::FUNCTIONS, function)
            .marked(69)
    }
}

#[test]
fn more_than_two_gibibytes_go_beside_the_model() {
    use onnx_compress::ir::{DType, Dim, Graph, MappedFile, Op, OpsetImport, Tensor, Type};
    let folder = tempfile::tempdir().expect("a folder");
    let weights = folder.path().join("weights");
    // Many tensors over the same bytes, which are written once: large on paper, quick in fact.
    let (each, count) = (32usize << 20, 70);
    fs::File::create(&weights).and_then(|file| file.set_len(each as u64)).expect("a sparse file");
    let file = MappedFile::open(&weights).expect("it maps");
    let data = onnx_compress::ir::Data::mapped(&file, 0..each).expect("within the file");
    let mut graph = Graph::new("big");
    for k in 0..count {
        let tensor = Tensor::new(DType::U8, [each], data.clone()).expect("its length fits");
        let w = graph.add_initializer(&format!("w{k}"), tensor);
        let ty = Type::tensor(DType::U8, [Dim::Known(each)]);
        let y = graph.add_node(Op::new("Identity", format!("copy{k}")), &[w], "y", Some(ty));
        graph.outputs.push(y);
    }
    let opsets = vec![OpsetImport { version: 17, ..OpsetImport::default() }];
    let model = Model { ir_version: 8, opsets, graph, ..Model::default() };

    let refused = lower::to_bytes(&model).expect_err("protobuf ends at 2 GiB");
    assert!(refused.to_string().contains("external data"), "{refused}");
    let path = folder.path().join("big.onnx");
    let never = SaveOptions { external_data: ExternalData::Never };
    lower::save(&model, &path, &never).expect_err("protobuf ends at 2 GiB");
    assert!(!path.exists(), "a failed run leaves nothing");
    lower::save(&model, &path, &SaveOptions::default()).expect("external data has no limit");
    let again = lower::load(&path).expect("it loads");
    assert_eq!(again.graph.initializers().map(|(_, t)| t.byte_len()).sum::<usize>(), each * count);
    assert_eq!(fs::metadata(folder.path().join("big.onnx.data")).expect("it is there").len(), each as u64);
}
