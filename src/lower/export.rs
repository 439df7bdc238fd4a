//! From the IR to ONNX messages. The three levels that hold weights are written field by field, so that weights go
//! from file to file and never through a message in memory.

use super::{import::read_type, proto as pb, sink::Sink, tensor};
use crate::ir::{
    Attr, Attribute, Carried, Graph, Model, Op, OpsetImport, Origin, Tensor, TensorType, Type, ValueId,
};
use bytes::Bytes;
use prost::{Message, encoding::encoded_len_varint};
use std::io;

/// Field numbers of the messages that are written by hand.
const MODEL_GRAPH: u32 = 7;
const GRAPH_INITIALIZER: u32 = 5;
const TENSOR_RAW_DATA: u32 = 9;

/// Bytes of a length-delimited field with a one-byte tag.
fn field_len(content: usize) -> usize {
    1 + encoded_len_varint(content as u64) + content
}

/// One initializer, ready to be written: its message without raw bytes, and the tensor that holds those, where they
/// go into the model's own file.
struct Weight<'a> {
    header: Vec<u8>,
    raw: Option<&'a Tensor>,
}

impl Weight<'_> {
    fn len(&self) -> usize {
        self.header.len() + self.raw.map_or(0, |t| field_len(t.byte_len()))
    }
}

/// Where a tensor's bytes were put outside the model's file: `(location, offset)`, or nothing where they stay inside.
pub(super) type Placement<'a> = &'a dyn Fn(ValueId) -> Option<(String, u64)>;

/// Writes a model. `placed` says which of the main graph's initializers lie in another file.
pub(super) fn model(model: &Model, placed: Placement<'_>, sink: &mut dyn Sink) -> io::Result<()> {
    let mut top = pb::ModelProto {
        ir_version: Some(model.ir_version),
        opset_import: model.opsets.iter().map(opset).collect(),
        functions: model.functions.iter().map(function).collect(),
        ..pb::ModelProto::default()
    }
    .encode_to_vec();
    top.extend_from_slice(&model.carried.0);
    let mut rest = graph_proto(&model.graph, false).encode_to_vec();
    rest.extend_from_slice(&model.graph.carried.0);
    let weights: Vec<_> =
        model.graph.initializers().map(|(v, t)| weight(&model.graph, v, t, placed)).collect();
    let graph_len = rest.len() + weights.iter().map(|w| field_len(w.len())).sum::<usize>();
    sink.bytes(&top)?;
    sink.bytes(&prefix(MODEL_GRAPH, graph_len))?;
    sink.bytes(&rest)?;
    for w in &weights {
        sink.bytes(&prefix(GRAPH_INITIALIZER, w.len()))?;
        sink.bytes(&w.header)?;
        if let Some(data) = w.raw.and_then(Tensor::data) {
            sink.bytes(&prefix(TENSOR_RAW_DATA, data.len()))?;
            sink.data(data)?;
        }
    }
    Ok(())
}

/// The size of what [`model`] writes with every weight inside, without the weights' own messages.
pub(super) fn weight_bytes(model: &Model) -> u64 {
    model.graph.initializers().map(|(_, t)| t.byte_len() as u64).sum()
}

fn prefix(field: u32, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(11);
    prost::encoding::encode_key(field, prost::encoding::WireType::LengthDelimited, &mut bytes);
    prost::encoding::encode_varint(len as u64, &mut bytes);
    bytes
}

fn weight<'a>(graph: &Graph, v: ValueId, t: &'a Tensor, placed: Placement<'_>) -> Weight<'a> {
    let mut header = tensor::header(t);
    header.name = Some(graph.name_of(v).to_owned());
    let mut raw = tensor::has_raw(t).then_some(t);
    if let Some((location, offset)) = placed(v) {
        let entry = |key: &str, value: String| pb::StringStringEntryProto {
            key: Some(key.to_owned()),
            value: Some(value),
        };
        header.external_data = vec![
            entry("location", location),
            entry("offset", offset.to_string()),
            entry("length", t.byte_len().to_string()),
        ];
        header.data_location = Some(pb::tensor_proto::DataLocation::External as i32);
        raw = None;
    }
    Weight { header: header.encode_to_vec(), raw }
}

/// A message with the carried fields of one and the known fields of another of its type, which win.
fn merged<M: Message + Default>(known: M, carried: &Carried) -> M {
    if carried.0.is_empty() {
        return known;
    }
    let mut message = M::decode(carried.0.clone()).unwrap_or_default();
    match message.merge(&known.encode_to_vec()[..]) {
        Ok(()) => message,
        Err(_) => known,
    }
}

fn opset(o: &OpsetImport) -> pb::OperatorSetIdProto {
    merged(pb::OperatorSetIdProto { domain: some(&o.domain), version: Some(o.version) }, &o.carried)
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn function(f: &crate::ir::Function) -> pb::FunctionProto {
    let body = graph_proto(&f.body, true);
    let names = |infos: Vec<pb::ValueInfoProto>| infos.into_iter().filter_map(|i| i.name).collect();
    let proto = pb::FunctionProto {
        name: some(&f.name),
        domain: some(&f.domain),
        overload: some(&f.overload),
        attribute: f.attributes.clone(),
        attribute_proto: f.defaults.iter().map(attribute).collect(),
        opset_import: f.opsets.iter().map(opset).collect(),
        input: names(body.input),
        output: names(body.output),
        node: body.node,
        value_info: body.value_info,
        ..pb::FunctionProto::default()
    };
    merged(proto, &f.carried)
}

/// A graph; with its initializers, or without where the caller writes them. Carried fields are the caller's to add.
fn graph_proto(graph: &Graph, initializers: bool) -> pb::GraphProto {
    let info = |v: &ValueId| value_info(graph, *v);
    let sparse = graph.values().filter_map(|v| match &graph.value(v).origin {
        Origin::SparseInitializer(s) => Some(sparse_proto(s, Some(graph.name_of(v)))),
        _ => None,
    });
    let dense = |(v, t): (ValueId, &Tensor)| pb::TensorProto {
        name: Some(graph.name_of(v).to_owned()),
        ..tensor::write(t)
    };
    let interface = |v: &ValueId| graph.is_input(*v) || graph.is_output(*v);
    let inner = graph.values().filter(|v| !interface(v)).filter(|v| {
        let value = graph.value(*v);
        value.origin != Origin::Captured && (value.ty.is_some() || !value.carried.0.is_empty())
    });
    pb::GraphProto {
        node: graph.order().into_iter().map(|o| node(graph, o)).collect(),
        name: some(&graph.name),
        initializer: if initializers { graph.initializers().map(dense).collect() } else { Vec::new() },
        input: graph.inputs.iter().map(info).collect(),
        output: graph.outputs.iter().map(info).collect(),
        value_info: inner.map(|v| value_info(graph, v)).collect(),
        quantization_annotation: graph.annotations.iter().map(annotation).collect(),
        sparse_initializer: sparse.collect(),
        ..pb::GraphProto::default()
    }
}

fn annotation(a: &crate::ir::Annotation) -> pb::TensorAnnotation {
    let pair = |(key, value): &(String, String)| pb::StringStringEntryProto {
        key: Some(key.clone()),
        value: Some(value.clone()),
    };
    let parameters = a.parameters.iter().map(pair).collect();
    let proto =
        pb::TensorAnnotation { tensor_name: some(&a.tensor), quant_parameter_tensor_names: parameters };
    merged(proto, &a.carried)
}

fn sparse_proto(s: &crate::ir::SparseTensor, name: Option<&str>) -> pb::SparseTensorProto {
    let mut values = tensor::write(&s.values);
    if let Some(name) = name {
        values.name = Some(name.to_owned());
    }
    let proto = pb::SparseTensorProto {
        values: Some(values),
        indices: Some(tensor::write(&s.indices)),
        dims: s.dims.iter().map(|d| *d as i64).collect(),
    };
    merged(proto, &s.carried)
}

/// A declared value; its type as it came in the file where it is still the same.
fn value_info(graph: &Graph, v: ValueId) -> pb::ValueInfoProto {
    let value = graph.value(v);
    let mut info = pb::ValueInfoProto::decode(value.carried.0.clone()).unwrap_or_default();
    info.name = Some(value.name().to_owned());
    let ty = value.ty.clone().or_else(|| Some(Type::Tensor(graph.tensor_type(v)?)));
    if info.r#type.as_ref().map(read_type) != ty {
        info.r#type = ty.as_ref().map(write_type);
    }
    info
}

fn node(graph: &Graph, id: crate::ir::OpId) -> pb::NodeProto {
    let op: &Op = graph.op(id);
    let names = |slots: crate::ir::Slots| {
        slots.iter().map(|v| v.map_or_else(String::new, |v| graph.name_of(v).to_owned())).collect()
    };
    let proto = pb::NodeProto {
        input: names(graph.inputs_of(id)),
        output: names(graph.outputs_of(id)),
        name: some(&op.name),
        op_type: some(&op.op_type),
        domain: some(&op.domain),
        overload: some(&op.overload),
        attribute: op.attrs.iter().map(attribute).collect(),
        ..pb::NodeProto::default()
    };
    merged(proto, &op.carried)
}

fn attribute(a: &Attribute) -> pb::AttributeProto {
    use pb::attribute_proto::AttributeType as T;
    let mut proto = pb::AttributeProto { name: Some(a.name.clone()), ..pb::AttributeProto::default() };
    let body = |g: &Graph| merged(graph_proto(g, true), &g.carried);
    let kind = match &a.value {
        Attr::Float(x) => {
            proto.f = Some(*x);
            T::Float as i32
        }
        Attr::Int(x) => {
            proto.i = Some(*x);
            T::Int as i32
        }
        Attr::String(x) => {
            proto.s = Some(Bytes::copy_from_slice(x));
            T::String as i32
        }
        Attr::Tensor(x) => {
            proto.t = Some(Box::new(tensor::write(x)));
            T::Tensor as i32
        }
        Attr::Graph(x) => {
            proto.g = Some(Box::new(body(x)));
            T::Graph as i32
        }
        Attr::SparseTensor(x) => {
            proto.sparse_tensor = Some(Box::new(sparse_proto(x, None)));
            T::SparseTensor as i32
        }
        Attr::Type(x) => {
            proto.tp = Some(Box::new(write_type(x)));
            T::TypeProto as i32
        }
        Attr::Floats(x) => {
            proto.floats.clone_from(x);
            T::Floats as i32
        }
        Attr::Ints(x) => {
            proto.ints.clone_from(x);
            T::Ints as i32
        }
        Attr::Strings(x) => {
            proto.strings.clone_from(x);
            T::Strings as i32
        }
        Attr::Tensors(x) => {
            proto.tensors = x.iter().map(tensor::write).collect();
            T::Tensors as i32
        }
        Attr::Graphs(x) => {
            proto.graphs = x.iter().map(body).collect();
            T::Graphs as i32
        }
        Attr::SparseTensors(x) => {
            proto.sparse_tensors = x.iter().map(|s| sparse_proto(s, None)).collect();
            T::SparseTensors as i32
        }
        Attr::Types(x) => {
            proto.type_protos = x.iter().map(write_type).collect();
            T::TypeProtos as i32
        }
        Attr::Reference(name, kind) => {
            proto.ref_attr_name = Some(name.clone());
            *kind
        }
    };
    proto.r#type = Some(kind);
    merged(proto, &a.carried)
}

fn write_type(ty: &Type) -> pb::TypeProto {
    use pb::type_proto as tp;
    let boxed = |t: &Type| Some(Box::new(write_type(t)));
    let value = match ty {
        Type::Tensor(t) => {
            tp::Value::TensorType(tp::Tensor { elem_type: t.dtype.map(|d| d.onnx()), shape: write_shape(t) })
        }
        Type::SparseTensor(t) => tp::Value::SparseTensorType(tp::SparseTensor {
            elem_type: t.dtype.map(|d| d.onnx()),
            shape: write_shape(t),
        }),
        Type::Sequence(t) => tp::Value::SequenceType(Box::new(tp::Sequence { elem_type: boxed(t) })),
        Type::Optional(t) => tp::Value::OptionalType(Box::new(tp::Optional { elem_type: boxed(t) })),
        Type::Map(key, t) => {
            tp::Value::MapType(Box::new(tp::Map { key_type: Some(key.onnx()), value_type: boxed(t) }))
        }
        Type::Opaque => return pb::TypeProto::default(),
    };
    pb::TypeProto { value: Some(value), denotation: None }
}

fn write_shape(t: &TensorType) -> Option<pb::TensorShapeProto> {
    use crate::ir::Dim;
    use pb::tensor_shape_proto::{Dimension, dimension::Value};
    let dim = |d: &Dim| Dimension {
        denotation: None,
        value: match d {
            Dim::Known(n) => Some(Value::DimValue(*n as i64)),
            Dim::Symbol(s) => Some(Value::DimParam(s.clone())),
            Dim::Unknown => None,
        },
    };
    t.shape.as_ref().map(|s| pb::TensorShapeProto { dim: s.iter().map(dim).collect() })
}
