//! Nodes and their attributes.

use super::{Rope, Writer};
use crate::{
    ir::{Attr, Attribute, Carried, Op, Type, Where},
    lower::{
        import::types::{read_type, to_proto},
        proto::{
            attribute_proto::AttributeType as T,
            field::{attribute_proto as a, node_proto},
        },
        wire,
    },
};
use prost::Message as _;
use std::borrow::Cow;

impl Writer<'_> {
    /// A node with the names of its inputs and outputs.
    pub(super) fn node(&mut self, op: &Op, inputs: &[&str], outputs: &[&str]) -> Rope {
        let mut out = Rope::default();
        out.carried(&op.carried);
        inputs.iter().for_each(|name| out.bytes(node_proto::INPUT, name.as_bytes()));
        outputs.iter().for_each(|name| out.bytes(node_proto::OUTPUT, name.as_bytes()));
        out.text(node_proto::NAME, &op.name);
        out.text(node_proto::OP_TYPE, &op.op_type);
        for attribute in &op.attrs {
            // Runtimes look for external data in initializers and in Constant nodes, which are those in disguise.
            let external = op.is("Constant");
            out.message(node_proto::ATTRIBUTE, self.attribute(attribute, external));
        }
        out.text(node_proto::DOMAIN, &op.domain);
        out.text(node_proto::OVERLOAD, &op.overload);
        out
    }

    /// An attribute; `external` says whether its tensor may go into the data file.
    pub(super) fn attribute(&mut self, attribute: &Attribute, external: bool) -> Rope {
        let mut out = Rope::default();
        let (carried, has_value) = carried(attribute);
        out.carried(&carried);
        out.text(a::NAME, &attribute.name);
        let kind = match &attribute.value {
            Attr::Float(v) => {
                out.float(a::F, *v);
                T::Float
            }
            Attr::Int(v) => {
                out.int(a::I, *v);
                T::Int
            }
            Attr::String(v) => {
                out.bytes(a::S, v);
                T::String
            }
            Attr::Tensor(v) => {
                out.message(a::T, self.tensor(v, None, external));
                T::Tensor
            }
            Attr::Graph(v) => {
                out.message(a::G, self.graph(v));
                T::Graph
            }
            Attr::SparseTensor(v) => {
                out.message(a::SPARSE_TENSOR, self.sparse_tensor(v, None));
                T::SparseTensor
            }
            Attr::Type(v) => {
                if !has_value {
                    out.bytes(a::TP, &to_proto(v).encode_to_vec());
                }
                T::TypeProto
            }
            Attr::Floats(v) => {
                v.iter().for_each(|v| out.float(a::FLOATS, *v));
                T::Floats
            }
            Attr::Ints(v) => {
                v.iter().for_each(|v| out.int(a::INTS, *v));
                T::Ints
            }
            Attr::Strings(v) => {
                v.iter().for_each(|v| out.bytes(a::STRINGS, v));
                T::Strings
            }
            Attr::Tensors(v) => {
                v.iter().for_each(|v| out.message(a::TENSORS, self.tensor(v, None, false)));
                T::Tensors
            }
            Attr::Graphs(v) => {
                v.iter().for_each(|v| out.message(a::GRAPHS, self.graph(v)));
                T::Graphs
            }
            Attr::SparseTensors(v) => {
                v.iter().for_each(|v| out.message(a::SPARSE_TENSORS, self.sparse_tensor(v, None)));
                T::SparseTensors
            }
            Attr::Types(v) => {
                if !has_value {
                    v.iter().for_each(|v| out.bytes(a::TYPE_PROTOS, &to_proto(v).encode_to_vec()));
                }
                T::TypeProtos
            }
            Attr::Reference(name, kind) => {
                if *kind != 0 {
                    out.int(a::TYPE, i64::from(*kind));
                }
                out.text(a::REF_ATTR_NAME, name);
                return out;
            }
        };
        out.int(a::TYPE, kind as i64);
        out
    }
}

/// What an attribute carries, and whether its value is among it: types that say more than the IR models are, until
/// they are changed.
fn carried(attribute: &Attribute) -> (Cow<'_, Carried>, bool) {
    let source = wire::carried(&attribute.carried);
    let kept = |field| -> Vec<Type> {
        let fields = source.message().fields().map_while(Result::ok).filter(|f| f.number == field);
        fields.filter_map(|f| read_type(&f.message().ok()?, Where::default).ok()).collect()
    };
    let (field, types) = match &attribute.value {
        Attr::Type(ty) => (a::TP, std::slice::from_ref(ty)),
        Attr::Types(types) => (a::TYPE_PROTOS, types.as_slice()),
        _ => return (Cow::Borrowed(&attribute.carried), false),
    };
    let kept = kept(field);
    if kept.is_empty() {
        (Cow::Borrowed(&attribute.carried), false)
    } else if kept == types {
        (Cow::Borrowed(&attribute.carried), true)
    } else {
        (Cow::Owned(wire::without(&attribute.carried, &[field])), false)
    }
}
