//! Nodes and their attributes.

use super::{MAX_DEPTH, Reader, graph::Scope, set_once, tensor, types};
use crate::{
    error::{Error, Result},
    ir::{Attr, Attribute, Graph, Op, Origin, Where},
    lower::{
        proto::{
            attribute_proto::AttributeType,
            field::{attribute_proto as a, node_proto},
        },
        wire::{Field, Message},
    },
};

impl Reader {
    /// Reads a node and adds it to the graph.
    pub(super) fn node(&self, message: &Message<'_>, graph: &mut Graph, depth: usize) -> Result<()> {
        let mut kept = message.residue();
        let mut op = Op::default();
        let (mut inputs, mut outputs, mut attributes) = (Vec::new(), Vec::new(), Vec::new());
        for f in message.fields() {
            let f = f?;
            match f.number {
                node_proto::INPUT => inputs.push(f.text()?),
                node_proto::OUTPUT => outputs.push(f.text()?),
                node_proto::NAME => kept.text(&f, &mut op.name)?,
                node_proto::OP_TYPE => kept.text(&f, &mut op.op_type)?,
                node_proto::DOMAIN => kept.text(&f, &mut op.domain)?,
                node_proto::OVERLOAD => kept.text(&f, &mut op.overload)?,
                node_proto::ATTRIBUTE => attributes.push(f.message()?),
                _ => kept.keep(&f),
            }
        }
        op.carried = kept.finish();
        let place = || {
            let output = outputs.iter().find(|name| !name.is_empty()).unwrap_or(&op.op_type);
            Where::Op(if op.name.is_empty() { output.clone() } else { op.name.clone() })
        };
        if op.op_type.is_empty() {
            return Err(Error::malformed(place(), "the node names no operator"));
        }
        let mut attrs = Vec::with_capacity(attributes.len());
        for attribute in attributes {
            attrs.push(self.attribute(&attribute, graph, depth).map_err(|error| within(error, place()))?);
        }
        op.attrs = attrs;
        // What bodies capture must exist before the op is added; whether anything defines it turns out later.
        for body in op.bodies() {
            for v in body.values().filter(|v| body.value(*v).origin == Origin::Captured) {
                graph.named_value(body.name_of(v));
            }
        }
        let mut values = |names: Vec<String>| -> Vec<_> {
            names.iter().map(|name| (!name.is_empty()).then(|| graph.named_value(name))).collect()
        };
        let (inputs, outputs) = (values(inputs), values(outputs));
        graph.add_op(op, &inputs, &outputs);
        Ok(())
    }

    /// Reads an attribute of a node in `outer`, or of a function whose body is `outer`.
    pub(super) fn attribute(&self, message: &Message<'_>, outer: &Graph, depth: usize) -> Result<Attribute> {
        let (mut name, mut reference, mut kind) = (String::new(), String::new(), 0);
        let mut guess = None;
        for f in message.fields() {
            let f = f?;
            match f.number {
                a::NAME => name = f.text()?,
                a::REF_ATTR_NAME => reference = f.text()?,
                a::TYPE => kind = i32::try_from(f.int()?).unwrap_or(-1),
                number => guess = guess.or(kind_of(number)),
            }
        }
        let failed = |why: String| Error::malformed((), format!("attribute `{name}` {why}"));
        let kind = match AttributeType::try_from(kind) {
            // The first version of the format had no types; the value's field tells.
            Ok(AttributeType::Undefined) if reference.is_empty() => {
                guess.ok_or_else(|| failed("has neither a type nor a value".into()))?
            }
            Ok(kind) => kind,
            Err(_) => return Err(failed(format!("is of kind {kind}, which this program does not know"))),
        };
        let value_field = if reference.is_empty() { field_of(kind) } else { None };
        let mut kept = message.residue();
        let mut values = Vec::new();
        for f in message.fields() {
            let f = f?;
            match f.number {
                a::NAME | a::REF_ATTR_NAME if !f.bytes()?.is_empty() => {}
                a::TYPE if kind != AttributeType::Undefined => {}
                number if Some(number) == value_field => values.push(f),
                _ => kept.keep(&f),
            }
        }
        let value = if reference.is_empty() {
            let value = self.value(kind, &values, outer, depth);
            value.map_err(|error| inside_attribute(error, &name))?
        } else {
            Attr::Reference(reference, kind.into())
        };
        // A type that says more than the IR models goes out as it came, for as long as it stays the same.
        let plain = |f: &Field<'_>, ty| {
            let encoded = prost::Message::encode_to_vec(&types::to_proto(ty));
            f.message().is_ok_and(|message| message.bytes() == encoded)
        };
        let canonical = match &value {
            Attr::Type(ty) => values.iter().all(|f| plain(f, ty)),
            Attr::Types(all) => values.iter().zip(all).all(|(f, ty)| plain(f, ty)),
            _ => true,
        };
        if !canonical {
            values.iter().for_each(|f| kept.keep(f));
        }
        Ok(Attribute { name, value, carried: kept.finish() })
    }

    fn value(&self, kind: AttributeType, fields: &[Field<'_>], outer: &Graph, depth: usize) -> Result<Attr> {
        use AttributeType as T;
        let mut single = None;
        if matches!(kind, T::Tensor | T::Graph | T::SparseTensor | T::TypeProto) {
            for f in fields {
                set_once(&mut single, f.message()?, "has two values")?;
            }
        }
        let single = || single.clone().ok_or_else(|| Error::malformed((), "has no value"));
        let each = || fields.iter().map(Field::message);
        let ty = |message: Message<'_>| types::read_type(&message, Where::default);
        let body = |message: Message<'_>| {
            if depth == MAX_DEPTH {
                let why = format!("nests bodies more than {MAX_DEPTH} deep");
                return Err(Error::malformed((), why));
            }
            self.graph(&message, outer.new_body(""), Scope::Body, depth + 1)
        };
        let last = fields.last();
        Ok(match kind {
            T::Float => Attr::Float(last.map_or(Ok(0.0), Field::float)?),
            T::Int => Attr::Int(last.map_or(Ok(0), Field::int)?),
            T::String => Attr::String(last.map_or(Ok(bytes::Bytes::new()), Field::bytes)?),
            T::Tensor => Attr::Tensor(tensor::unnamed(&self.files, &single()?)?),
            T::Graph => Attr::Graph(Box::new(body(single()?)?)),
            T::SparseTensor => Attr::SparseTensor(Box::new(tensor::unnamed_sparse(&self.files, &single()?)?)),
            T::TypeProto => Attr::Type(ty(single()?)?),
            T::Floats => {
                let mut bytes = Vec::new();
                fields.iter().try_for_each(|f| f.extend_fixed(&mut bytes))?;
                let (floats, []) = bytes.as_chunks() else {
                    return Err(Error::malformed((), "has a list of floats that is cut short"));
                };
                Attr::Floats(floats.iter().map(|b| f32::from_le_bytes(*b)).collect())
            }
            T::Ints => {
                let mut ints = Vec::new();
                fields.iter().try_for_each(|f| f.each_int(|i| ints.push(i)))?;
                Attr::Ints(ints)
            }
            T::Strings => Attr::Strings(fields.iter().map(Field::bytes).collect::<Result<_>>()?),
            T::Tensors => {
                Attr::Tensors(each().map(|m| tensor::unnamed(&self.files, &m?)).collect::<Result<_>>()?)
            }
            T::Graphs => Attr::Graphs(each().map(|m| body(m?)).collect::<Result<_>>()?),
            T::SparseTensors => Attr::SparseTensors(
                each().map(|m| tensor::unnamed_sparse(&self.files, &m?)).collect::<Result<_>>()?,
            ),
            T::TypeProtos => Attr::Types(each().map(|m| ty(m?)).collect::<Result<_>>()?),
            T::Undefined => return Err(Error::malformed((), "has no type")),
        })
    }
}

/// Attribute kinds with the field that holds their value.
const KINDS: [(AttributeType, u32); 14] = [
    (AttributeType::Float, a::F),
    (AttributeType::Int, a::I),
    (AttributeType::String, a::S),
    (AttributeType::Tensor, a::T),
    (AttributeType::Graph, a::G),
    (AttributeType::Floats, a::FLOATS),
    (AttributeType::Ints, a::INTS),
    (AttributeType::Strings, a::STRINGS),
    (AttributeType::Tensors, a::TENSORS),
    (AttributeType::Graphs, a::GRAPHS),
    (AttributeType::SparseTensor, a::SPARSE_TENSOR),
    (AttributeType::SparseTensors, a::SPARSE_TENSORS),
    (AttributeType::TypeProto, a::TP),
    (AttributeType::TypeProtos, a::TYPE_PROTOS),
];

fn kind_of(field: u32) -> Option<AttributeType> {
    KINDS.iter().find(|(_, f)| *f == field).map(|(kind, _)| *kind)
}

fn field_of(kind: AttributeType) -> Option<u32> {
    KINDS.iter().find(|(k, _)| *k == kind).map(|(_, field)| *field)
}

/// Names the attribute, unless the error already names something inside it.
fn inside_attribute(error: Error, name: &str) -> Error {
    match error {
        Error::Malformed { at: Where::Model, why } => {
            Error::malformed((), format!("attribute `{name}`: {why}"))
        }
        other => other,
    }
}

/// Names the node, unless the error already names something inside it.
fn within(error: Error, node: Where) -> Error {
    match error {
        Error::Malformed { at: Where::Model, why } => Error::malformed(node, why),
        other => other,
    }
}
