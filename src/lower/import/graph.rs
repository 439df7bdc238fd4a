//! Graphs, bodies among them.

use super::{
    Reader,
    types::{self, ValueInfo},
};
use crate::{
    error::{Error, Result},
    ir::{Annotation, Graph, Origin, Tensor, ValueId, Where},
    lower::{
        proto::field::{graph_proto, tensor_annotation},
        wire::{Field, Message},
    },
};
use std::collections::{HashMap, HashSet};

/// What kind of graph is read: it decides where names that it does not define may come from.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Scope {
    /// The main graph.
    Main,
    /// The body of an op: it captures from around it.
    Body,
    /// The body of a function: it sees its inputs only.
    Function,
}

/// A graph's records by kind, in the file's order.
#[derive(Default)]
pub(super) struct Parts<'a> {
    pub(super) nodes: Vec<Message<'a>>,
    pub(super) infos: Vec<Field<'a>>,
    dense: Vec<Message<'a>>,
    sparse: Vec<Message<'a>>,
    inputs: Vec<Field<'a>>,
    outputs: Vec<Field<'a>>,
}

impl Reader {
    /// Reads a graph into `graph`, which is empty.
    pub(super) fn graph(
        &self,
        message: &Message<'_>,
        mut graph: Graph,
        scope: Scope,
        depth: usize,
    ) -> Result<Graph> {
        let mut kept = message.residue();
        let mut parts = Parts::default();
        for f in message.fields() {
            let f = f?;
            match f.number {
                graph_proto::NAME => kept.text(&f, &mut graph.name)?,
                graph_proto::NODE => parts.nodes.push(f.message()?),
                graph_proto::INITIALIZER => parts.dense.push(f.message()?),
                graph_proto::SPARSE_INITIALIZER => parts.sparse.push(f.message()?),
                graph_proto::INPUT => parts.inputs.push(f),
                graph_proto::OUTPUT => parts.outputs.push(f),
                graph_proto::VALUE_INFO => parts.infos.push(f),
                graph_proto::QUANTIZATION_ANNOTATION => graph.annotations.push(annotation(&f.message()?)?),
                _ => kept.keep(&f),
            }
        }
        graph.carried = kept.finish();
        parts.create_values(self, &mut graph)?;
        parts.declare_types(&mut graph, scope)?;
        self.nodes(&parts.nodes, &mut graph, scope, depth)?;
        Ok(graph)
    }

    /// Reads the nodes and settles where every value comes from.
    pub(super) fn nodes(
        &self,
        nodes: &[Message<'_>],
        graph: &mut Graph,
        scope: Scope,
        depth: usize,
    ) -> Result<()> {
        for node in nodes {
            self.node(node, graph, depth)?;
        }
        let inputs: HashSet<_> = graph.inputs.iter().copied().collect();
        let outputs: HashSet<_> = graph.outputs.iter().copied().collect();
        let values: Vec<_> = graph.values().collect();
        for v in values {
            let defined = graph.value(v).origin != Origin::Computed
                || inputs.contains(&v)
                || graph.producer(v).is_some();
            let user = graph.uses(v).first().map(|u| graph.place(u.op()));
            if defined || (user.is_none() && !outputs.contains(&v)) {
                continue;
            }
            if scope == Scope::Body {
                graph.value_mut(v).origin = Origin::Captured;
                continue;
            }
            let (name, graph_name) = (graph.name_of(v), &graph.name);
            return Err(match user {
                Some(at) => Error::malformed(at, format!("it uses `{name}`, which nothing defines")),
                None => {
                    let why = format!("it is an output of graph `{graph_name}`, but nothing defines it");
                    Error::malformed(Where::Value(name.to_owned()), why)
                }
            });
        }
        Ok(())
    }
}

impl Parts<'_> {
    /// Creates the constants and the values with declared types so that both lists can be written in the order they
    /// were read in: values are listed in the order of their creation. Where the lists disagree on the order of what
    /// is in both, constants keep theirs.
    pub(super) fn create_values(&self, reader: &Reader, graph: &mut Graph) -> Result<()> {
        let mut constants = Vec::with_capacity(self.dense.len());
        for message in &self.dense {
            constants.push(super::tensor::named(&reader.files, message)?);
        }
        let place: HashMap<String, usize> =
            constants.iter().enumerate().map(|(k, (name, _))| (name.clone(), k)).collect();
        let mut constants = constants.into_iter();
        let mut created = 0;
        for field in &self.infos {
            let name = ValueInfo::read(field)?.name;
            if let Some(k) = place.get(&name) {
                while created <= *k {
                    created += 1;
                    add_constants(graph, constants.next())?;
                }
            } else {
                named(graph, &name, "an entry of value_info")?;
            }
        }
        constants.try_for_each(|constant| add_constants(graph, Some(constant)))?;
        for message in &self.sparse {
            let (name, tensor) = super::tensor::named_sparse(&reader.files, message)?;
            define(graph, &name, Origin::SparseInitializer(tensor))?;
        }
        Ok(())
    }

    /// Lists inputs and outputs, and gives values the types that are declared for them; where several declarations
    /// disagree, an input's goes before an output's, and that before `value_info`.
    pub(super) fn declare_types(&self, graph: &mut Graph, scope: Scope) -> Result<()> {
        for field in &self.inputs {
            let v = named(graph, &ValueInfo::read(field)?.name, "a graph input")?;
            graph.inputs.push(v);
        }
        for field in &self.outputs {
            let v = named(graph, &ValueInfo::read(field)?.name, "a graph output")?;
            graph.outputs.push(v);
        }
        let interface: HashSet<_> = graph.inputs.iter().chain(&graph.outputs).copied().collect();
        let mut kept: HashMap<ValueId, _> = HashMap::new();
        for field in self.inputs.iter().chain(&self.outputs).chain(&self.infos) {
            let info = ValueInfo::read(field)?;
            let v = named(graph, &info.name, "an entry of value_info")?;
            let listed = field.number == graph_proto::INPUT || field.number == graph_proto::OUTPUT;
            let expected = listed
                || scope == Scope::Function
                || (graph.value(v).origin == Origin::Computed && !interface.contains(&v));
            let value = graph.value_mut(v);
            if !info.canonical || !expected {
                kept.entry(v).or_insert_with(|| info.message.residue()).keep(field);
            }
            if value.ty.is_none() {
                value.ty = info.ty;
            }
        }
        for (v, kept) in kept {
            graph.value_mut(v).carried = kept.finish();
        }
        Ok(())
    }
}

/// The value of that name, which must not be empty.
pub(super) fn named(graph: &mut Graph, name: &str, what: &str) -> Result<ValueId> {
    if name.is_empty() {
        return Err(Error::malformed((), format!("{what} of graph `{}` has no name", graph.name)));
    }
    Ok(graph.named_value(name))
}

fn add_constants(graph: &mut Graph, constant: Option<(String, Tensor)>) -> Result<()> {
    constant.map_or(Ok(()), |(name, tensor)| define(graph, &name, Origin::Initializer(tensor)))
}

fn define(graph: &mut Graph, name: &str, origin: Origin) -> Result<()> {
    let v = named(graph, name, "an initializer")?;
    let value = graph.value_mut(v);
    if value.origin != Origin::Computed {
        let why = format!("graph `{}` has two initializers of this name", graph.name);
        return Err(Error::malformed(Where::Value(name.to_owned()), why));
    }
    value.origin = origin;
    Ok(())
}

fn annotation(message: &Message<'_>) -> Result<Annotation> {
    let mut kept = message.residue();
    let mut annotation = Annotation::default();
    let mut parameters = Vec::new();
    for f in message.fields() {
        let f = f?;
        match f.number {
            tensor_annotation::TENSOR_NAME => kept.text(&f, &mut annotation.tensor)?,
            tensor_annotation::QUANT_PARAMETER_TENSOR_NAMES => parameters.push(f),
            _ => kept.keep(&f),
        }
    }
    let mut plain = true;
    for f in &parameters {
        let entry = f.message()?;
        let pair = types::pair(&entry)?;
        plain &= types::encode_pair(&pair) == entry.bytes();
        annotation.parameters.push(pair);
    }
    // Entries that say more than their pair go out as they came, for as long as the pairs stay the same.
    if !plain {
        parameters.iter().for_each(|f| kept.keep(f));
    }
    annotation.carried = kept.finish();
    Ok(annotation)
}
