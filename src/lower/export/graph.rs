//! Graphs and what they declare about their values.

use super::{Rope, Writer};
use crate::{
    ir::{Annotation, Graph, Origin, Tensor, Type, Value, ValueId},
    lower::{
        import::types::{self, ValueInfo, encode_value_info},
        proto::field::{graph_proto, tensor_annotation, value_info_proto},
        wire,
    },
};
use prost::Message as _;
use std::collections::HashSet;

impl Writer<'_> {
    /// A graph or a body.
    pub(super) fn graph(&mut self, graph: &Graph) -> Rope {
        let mut out = Rope::default();
        out.carried(&graph.carried);
        self.nodes(&mut out, graph_proto::NODE, graph);
        out.text(graph_proto::NAME, &graph.name);
        for (v, tensor) in graph.initializers() {
            out.message(graph_proto::INITIALIZER, self.tensor(tensor, Some(graph.name_of(v)), true));
        }
        for v in &graph.inputs {
            value_info(&mut out, graph_proto::INPUT, graph.value(*v), true);
        }
        for v in &graph.outputs {
            value_info(&mut out, graph_proto::OUTPUT, graph.value(*v), true);
        }
        let interface = graph.inputs.iter().chain(&graph.outputs).copied().collect();
        value_infos(&mut out, graph_proto::VALUE_INFO, graph, &interface);
        for annotation in &graph.annotations {
            out.message(graph_proto::QUANTIZATION_ANNOTATION, self::annotation(annotation));
        }
        for v in graph.values() {
            if let Origin::SparseInitializer(tensor) = &graph.value(v).origin {
                let message = self.sparse_tensor(tensor, Some(graph.name_of(v)));
                out.message(graph_proto::SPARSE_INITIALIZER, message);
            }
        }
        out
    }

    /// The nodes of a graph in topological order.
    pub(super) fn nodes(&mut self, out: &mut Rope, field: u32, graph: &Graph) {
        for op in if self.ends_early { graph.order_of_early_ends() } else { graph.order() } {
            let names = |values: &[Option<ValueId>]| -> Vec<&str> {
                values.iter().map(|v| v.map_or("", |v| graph.name_of(v))).collect()
            };
            let (inputs, outputs) = (names(&graph.inputs_of(op)), names(&graph.outputs_of(op)));
            out.message(field, self.node(graph.op(op), &inputs, &outputs));
        }
    }
}

/// The types of inner values, and whatever else the file listed under `value_info`.
pub(super) fn value_infos(out: &mut Rope, field: u32, graph: &Graph, interface: &HashSet<ValueId>) {
    for v in graph.values() {
        let value = graph.value(v);
        let expected = value.origin == Origin::Computed && value.ty.is_some() && !interface.contains(&v);
        value_info(out, field, value, expected);
    }
}

/// A declaration of a value: what the file said, brought up to date; or, where the file said nothing more than name
/// and type, or nothing, that, if such a declaration is `expected`.
fn value_info(out: &mut Rope, field: u32, value: &Value, expected: bool) {
    let ty = declared_type(value);
    let source = wire::carried(&value.carried);
    let kept = source.message().fields().map_while(Result::ok).find(|f| f.number == field);
    let Some(info) = kept.and_then(|f| ValueInfo::read(&f).ok()) else {
        if expected {
            out.bytes(field, &encode_value_info(value.name(), ty.as_deref()));
        }
        return;
    };
    if info.name == value.name() && info.ty.as_ref() == ty.as_deref() {
        out.bytes(field, info.message.bytes());
        return;
    }
    let mut residue = info.message.residue();
    for f in info.message.fields().map_while(Result::ok) {
        if f.number != value_info_proto::NAME && f.number != value_info_proto::TYPE {
            residue.keep(&f);
        }
    }
    let mut message = Rope::default();
    message.carried(&residue.finish());
    message.text(value_info_proto::NAME, value.name());
    if let Some(ty) = ty {
        message.bytes(value_info_proto::TYPE, &types::to_proto(&ty).encode_to_vec());
    }
    out.message(field, message);
}

/// The type to declare for a value. A constant's declared type holds for as long as its tensor is of it.
fn declared_type(value: &Value) -> Option<std::borrow::Cow<'_, Type>> {
    use std::borrow::Cow;
    let declared = value.ty.as_ref().map(Cow::Borrowed);
    match &value.origin {
        Origin::Initializer(tensor) if value.ty.as_ref().is_none_or(|ty| !admits(ty, tensor)) => {
            Some(Cow::Owned(Type::Tensor(tensor.ty())))
        }
        _ => declared,
    }
}

fn admits(ty: &Type, tensor: &Tensor) -> bool {
    ty.as_tensor().is_some_and(|ty| {
        ty.dtype.is_none_or(|dtype| dtype == tensor.dtype())
            && ty.shape.as_ref().is_none_or(|shape| {
                shape.len() == tensor.rank()
                    && shape.iter().zip(tensor.shape()).all(|(d, n)| d.known().is_none_or(|d| d == *n))
            })
    })
}

fn annotation(annotation: &Annotation) -> Rope {
    let field = tensor_annotation::QUANT_PARAMETER_TENSOR_NAMES;
    let source = wire::carried(&annotation.carried);
    let kept: Vec<_> = source
        .message()
        .fields()
        .map_while(Result::ok)
        .filter(|f| f.number == field)
        .filter_map(|f| types::pair(&f.message().ok()?).ok())
        .collect();
    let mut out = Rope::default();
    if !kept.is_empty() && kept == annotation.parameters {
        out.carried(&annotation.carried);
        out.text(tensor_annotation::TENSOR_NAME, &annotation.tensor);
        return out;
    }
    out.carried(&wire::without(&annotation.carried, &[field]));
    out.text(tensor_annotation::TENSOR_NAME, &annotation.tensor);
    for pair in &annotation.parameters {
        out.bytes(field, &types::encode_pair(pair));
    }
    out
}
