//! From ONNX messages to the IR.

use super::{external::Folder, proto as pb, tensor};
use crate::{
    error::{Error, Result},
    ir::{
        Annotation, Attr, Attribute, Carried, DType, Dim, Function, Graph, Model, Op, OpsetImport, Origin,
        TensorType, Type, ValueId, Where,
    },
};
use prost::Message;

/// Bodies nested deeper than this are refused: real models stay below ten, and each level costs stack.
const DEEPEST: usize = 64;

/// What is left of a message after its known parts were taken out.
fn carried(rest: &impl Message) -> Carried {
    Carried(rest.encode_to_vec().into())
}

/// A text field. One that is there and empty stays among the carried fields, so that it is written back.
fn taken(field: &mut Option<String>) -> String {
    field.take_if(|text| !text.is_empty()).unwrap_or_default()
}

/// A whole model.
pub(super) fn model(mut proto: pb::ModelProto, folder: &Folder) -> Result<Model> {
    let graph = proto.graph.take().ok_or_else(|| {
        Error::malformed((), "the file holds no graph: it is empty, cut short, or no ONNX model")
    })?;
    let ir_version = proto.ir_version.take().unwrap_or_default();
    let opsets = std::mem::take(&mut proto.opset_import).into_iter().map(opset).collect();
    let functions = std::mem::take(&mut proto.functions);
    let functions = functions.into_iter().map(|f| function(f, folder)).collect::<Result<_>>()?;
    let main = Reader { folder, depth: 0 }.graph(graph, Graph::new(""), None)?;
    let model = Model { ir_version, opsets, graph: main, functions, carried: carried(&proto) };
    model.verify().map_err(|e| match e {
        Error::Invalid { at, why } => Error::Malformed { at, why },
        e => e,
    })?;
    Ok(model)
}

fn opset(mut proto: pb::OperatorSetIdProto) -> OpsetImport {
    let domain = taken(&mut proto.domain);
    let version = proto.version.take().unwrap_or_default();
    OpsetImport { domain, version, carried: carried(&proto) }
}

fn function(mut proto: pb::FunctionProto, folder: &Folder) -> Result<Function> {
    let mut body = Graph::new(proto.name.clone().unwrap_or_default());
    for name in std::mem::take(&mut proto.input) {
        let v = body.named_value(&name);
        body.inputs.push(v);
    }
    let reader = Reader { folder, depth: 0 };
    for info in std::mem::take(&mut proto.value_info) {
        reader.value_info(&mut body, info);
    }
    reader.nodes(&mut body, std::mem::take(&mut proto.node))?;
    for name in std::mem::take(&mut proto.output) {
        let v = body.named_value(&name);
        body.outputs.push(v);
    }
    let defaults = std::mem::take(&mut proto.attribute_proto);
    let defaults =
        defaults.into_iter().map(|a| reader.attribute(a, &body, &Where::Model)).collect::<Result<_>>()?;
    Ok(Function {
        domain: taken(&mut proto.domain),
        name: taken(&mut proto.name),
        overload: taken(&mut proto.overload),
        attributes: std::mem::take(&mut proto.attribute),
        defaults,
        opsets: std::mem::take(&mut proto.opset_import).into_iter().map(opset).collect(),
        body,
        carried: carried(&proto),
    })
}

struct Reader<'a> {
    folder: &'a Folder,
    depth: usize,
}

impl Reader<'_> {
    /// A graph. In a body (`outer` is given) a name that is used and not defined is captured from outside.
    fn graph(&self, mut proto: pb::GraphProto, mut graph: Graph, outer: Option<&Graph>) -> Result<Graph> {
        graph.name = taken(&mut proto.name);
        for info in std::mem::take(&mut proto.input) {
            let v = self.value_info(&mut graph, info);
            graph.inputs.push(v);
        }
        for mut init in std::mem::take(&mut proto.initializer) {
            let name = init.name.take().unwrap_or_default();
            let at = Where::Value(name.clone());
            if name.is_empty() {
                return Err(Error::malformed((), "an initializer has no name"));
            }
            let v = graph.named_value(&name);
            if graph.initializer(v).is_some() {
                return Err(Error::malformed(at, "two initializers have this name"));
            }
            graph.value_mut(v).origin = Origin::Initializer(tensor::read(init, self.folder, &at)?);
        }
        for mut sparse in std::mem::take(&mut proto.sparse_initializer) {
            let name = sparse.values.as_mut().and_then(|v| v.name.take()).unwrap_or_default();
            let v = graph.named_value(&name);
            let read = tensor::read_sparse(sparse, self.folder, &Where::Value(name))?;
            graph.value_mut(v).origin = Origin::SparseInitializer(read);
        }
        // Inputs and outputs have types of their own: entries for them here are only carried along.
        let output = |name: &Option<String>| proto.output.iter().any(|o| o.name == *name);
        let named = |i: &pb::ValueInfoProto| graph.find(i.name()).is_some_and(|v| graph.is_input(v));
        let all = std::mem::take(&mut proto.value_info);
        let (interface, inner): (Vec<_>, Vec<_>) = all.into_iter().partition(|i| output(&i.name) || named(i));
        proto.value_info = interface;
        for info in inner {
            self.value_info(&mut graph, info);
        }
        self.nodes(&mut graph, std::mem::take(&mut proto.node))?;
        for info in std::mem::take(&mut proto.output) {
            let v = self.value_info(&mut graph, info);
            graph.outputs.push(v);
        }
        for a in std::mem::take(&mut proto.quantization_annotation) {
            graph.annotations.push(annotation(a));
        }
        graph.carried = carried(&proto);
        if outer.is_some() {
            capture(&mut graph);
        }
        Ok(graph)
    }

    /// A declared value. A file may declare one twice, as output and as inner value: the first type stays.
    fn value_info(&self, graph: &mut Graph, mut info: pb::ValueInfoProto) -> ValueId {
        let v = graph.named_value(&info.name.take().unwrap_or_default());
        let value = graph.value_mut(v);
        if value.ty.is_none() {
            value.ty = info.r#type.as_ref().map(read_type);
        }
        // The type stays among the carried fields: where it has not changed, it is written back as it came.
        if value.carried == Carried::default() {
            value.carried = carried(&info);
        }
        v
    }

    fn nodes(&self, graph: &mut Graph, nodes: Vec<pb::NodeProto>) -> Result<()> {
        for mut node in nodes {
            let name = taken(&mut node.name);
            let op_type = taken(&mut node.op_type);
            let first = node.output.iter().find(|o| !o.is_empty()).cloned().unwrap_or_default();
            let at = Where::Op(if name.is_empty() { first } else { name.clone() });
            if op_type.is_empty() {
                return Err(Error::malformed(at, "the node names no operator"));
            }
            let slots = |graph: &mut Graph, names: Vec<String>| -> Vec<Option<ValueId>> {
                names.iter().map(|n| (!n.is_empty()).then(|| graph.named_value(n))).collect()
            };
            let inputs = slots(graph, std::mem::take(&mut node.input));
            let outputs = slots(graph, std::mem::take(&mut node.output));
            if let Some(v) = outputs.iter().flatten().find(|v| graph.producer(**v).is_some()) {
                let why = format!("`{}` is computed by another node too", graph.name_of(*v));
                return Err(Error::malformed(at, why));
            }
            let attrs = std::mem::take(&mut node.attribute);
            let attrs =
                attrs.into_iter().map(|a| self.attribute(a, graph, &at)).collect::<Result<Vec<_>>>()?;
            let op = Op {
                domain: taken(&mut node.domain),
                op_type,
                overload: taken(&mut node.overload),
                name,
                attrs,
                carried: carried(&node),
            };
            // What bodies capture must exist here before the edges are drawn, though its node may come later.
            for body in op.bodies() {
                for v in body.values().filter(|v| body.value(*v).origin == Origin::Captured) {
                    graph.named_value(body.name_of(v));
                }
            }
            graph.add_op(op, &inputs, &outputs);
        }
        Ok(())
    }

    fn body(&self, proto: pb::GraphProto, outer: &Graph, at: &Where) -> Result<Graph> {
        if self.depth >= DEEPEST {
            return Err(Error::malformed(at.clone(), format!("bodies are nested more than {DEEPEST} deep")));
        }
        let inner = Reader { folder: self.folder, depth: self.depth + 1 };
        inner.graph(proto, outer.new_body(""), Some(outer))
    }

    fn attribute(&self, mut a: pb::AttributeProto, graph: &Graph, at: &Where) -> Result<Attribute> {
        use pb::attribute_proto::AttributeType as T;
        let name = taken(&mut a.name);
        let missing =
            || Error::malformed(at.clone(), format!("attribute `{name}` lacks the value its type promises"));
        let number = a.r#type.take().unwrap_or_else(|| guess_type(&a));
        let tensor = |t| tensor::read(t, self.folder, at);
        let sparse = |t| tensor::read_sparse(t, self.folder, at);
        let value = match (a.ref_attr_name.take(), T::try_from(number)) {
            (Some(reference), _) => Attr::Reference(reference, number),
            (None, Ok(T::Float)) => Attr::Float(a.f.take().unwrap_or_default()),
            (None, Ok(T::Int)) => Attr::Int(a.i.take().unwrap_or_default()),
            (None, Ok(T::String)) => Attr::String(a.s.take().unwrap_or_default()),
            (None, Ok(T::Tensor)) => Attr::Tensor(tensor(*a.t.take().ok_or_else(missing)?)?),
            (None, Ok(T::Graph)) => {
                Attr::Graph(Box::new(self.body(*a.g.take().ok_or_else(missing)?, graph, at)?))
            }
            (None, Ok(T::SparseTensor)) => {
                Attr::SparseTensor(Box::new(sparse(*a.sparse_tensor.take().ok_or_else(missing)?)?))
            }
            (None, Ok(T::TypeProto)) => Attr::Type(read_type(&*a.tp.take().ok_or_else(missing)?)),
            (None, Ok(T::Floats)) => Attr::Floats(std::mem::take(&mut a.floats)),
            (None, Ok(T::Ints)) => Attr::Ints(std::mem::take(&mut a.ints)),
            (None, Ok(T::Strings)) => Attr::Strings(std::mem::take(&mut a.strings)),
            (None, Ok(T::Tensors)) => {
                Attr::Tensors(std::mem::take(&mut a.tensors).into_iter().map(tensor).collect::<Result<_>>()?)
            }
            (None, Ok(T::Graphs)) => {
                let graphs = std::mem::take(&mut a.graphs);
                Attr::Graphs(graphs.into_iter().map(|g| self.body(g, graph, at)).collect::<Result<_>>()?)
            }
            (None, Ok(T::SparseTensors)) => {
                let all = std::mem::take(&mut a.sparse_tensors);
                Attr::SparseTensors(all.into_iter().map(sparse).collect::<Result<_>>()?)
            }
            (None, Ok(T::TypeProtos)) => Attr::Types(a.type_protos.iter().map(read_type).collect()),
            (None, _) => {
                let why = format!("attribute `{name}` has type {number}, which this version does not know");
                return Err(Error::malformed(at.clone(), why));
            }
        };
        if matches!(value, Attr::Types(_)) {
            a.type_protos.clear();
        }
        Ok(Attribute { name, value, carried: carried(&a) })
    }
}

/// Files older than IR version 2 leave the type out: it follows from the field that is set.
fn guess_type(a: &pb::AttributeProto) -> i32 {
    use pb::attribute_proto::AttributeType as T;
    let kinds = [
        (a.f.is_some(), T::Float),
        (a.i.is_some(), T::Int),
        (a.s.is_some(), T::String),
        (a.t.is_some(), T::Tensor),
        (a.g.is_some(), T::Graph),
        (!a.floats.is_empty(), T::Floats),
        (!a.ints.is_empty(), T::Ints),
        (!a.strings.is_empty(), T::Strings),
        (!a.tensors.is_empty(), T::Tensors),
        (!a.graphs.is_empty(), T::Graphs),
    ];
    kinds.into_iter().find(|(set, _)| *set).map_or(T::Undefined, |(_, kind)| kind) as i32
}

/// Marks what a body uses without defining it as captured.
fn capture(body: &mut Graph) {
    let free: Vec<_> = body
        .values()
        .filter(|v| body.value(*v).origin == Origin::Computed)
        .filter(|v| body.producer(*v).is_none() && !body.is_input(*v))
        .filter(|v| body.is_output(*v) || !body.uses(*v).is_empty())
        .collect();
    for v in free {
        body.value_mut(v).origin = Origin::Captured;
    }
}

fn annotation(mut a: pb::TensorAnnotation) -> Annotation {
    let parameters = std::mem::take(&mut a.quant_parameter_tensor_names);
    let pair = |p: pb::StringStringEntryProto| (p.key.unwrap_or_default(), p.value.unwrap_or_default());
    Annotation {
        tensor: a.tensor_name.take().unwrap_or_default(),
        parameters: parameters.into_iter().map(pair).collect(),
        carried: carried(&a),
    }
}

/// A type. What this version does not know is opaque, and written back from the carried message.
pub(super) fn read_type(proto: &pb::TypeProto) -> Type {
    use pb::type_proto::Value as V;
    let inner = |t: &Option<Box<pb::TypeProto>>| Box::new(t.as_deref().map_or(Type::Opaque, read_type));
    match &proto.value {
        Some(V::TensorType(t)) => Type::Tensor(tensor_type(t.elem_type, t.shape.as_ref())),
        Some(V::SparseTensorType(t)) => Type::SparseTensor(tensor_type(t.elem_type, t.shape.as_ref())),
        Some(V::SequenceType(t)) => Type::Sequence(inner(&t.elem_type)),
        Some(V::OptionalType(t)) => Type::Optional(inner(&t.elem_type)),
        Some(V::MapType(t)) => match t.key_type.and_then(DType::from_onnx) {
            Some(key) => Type::Map(key, inner(&t.value_type)),
            None => Type::Opaque,
        },
        _ => Type::Opaque,
    }
}

fn tensor_type(dtype: Option<i32>, shape: Option<&pb::TensorShapeProto>) -> TensorType {
    use pb::tensor_shape_proto::dimension::Value as V;
    let dim = |d: &pb::tensor_shape_proto::Dimension| match &d.value {
        Some(V::DimValue(n)) => usize::try_from(*n).map_or(Dim::Unknown, Dim::Known),
        Some(V::DimParam(name)) if !name.is_empty() => Dim::Symbol(name.clone()),
        _ => Dim::Unknown,
    };
    TensorType {
        dtype: dtype.and_then(DType::from_onnx),
        shape: shape.map(|s| s.dim.iter().map(dim).collect()),
    }
}
