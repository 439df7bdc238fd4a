//! What each op of a model gives and costs.

use crate::{
    error::Result,
    ir::{Graph, Model, OpId, Tensor, ValueId},
    ops::{cost, infer_types},
};
use serde::Serialize;
use std::collections::HashSet;

/// One op of the main graph. One with bodies stands for all in them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// Its name, or that of its first output where it has none.
    pub name: String,
    /// The operator; another domain stands before a colon.
    pub operator: String,
    /// The inferred type of its first output, such as `float[batch,64,8,8]`; `?` where it is not known.
    pub output: String,
    /// Elements of the constants it is the first to read.
    pub parameters: u64,
    /// Bytes of those constants.
    pub weight_bytes: u64,
    /// Bytes of all tensors it reads and writes, where free dimensions count as 1.
    pub moved_bytes: u64,
    /// Multiply-accumulates of one run, where free dimensions count as 1.
    pub macs: u64,
}

impl Layer {
    /// The shape of its first output: `batch,64,8,8`; `?` where it is not known.
    pub fn shape(&self) -> String {
        match self.output.split_once('[').map(|(_, shape)| shape.trim_end_matches(']')) {
            None => "?".to_owned(),
            Some("") => "scalar".to_owned(),
            Some(shape) => shape.to_owned(),
        }
    }
}

/// The ops of the main graph in order, Constant nodes left out: they count where they are read. A constant that several
/// ops read counts once, so the sums are those of the model, but for constants that none reads and for functions.
pub fn layers(model: &Model) -> Result<Vec<Layer>> {
    let mut typed = model.clone();
    infer_types(&mut typed)?;
    let (g, mut counted) = (&typed.graph, HashSet::new());
    let ops = g.order().into_iter().filter(|op| !g.op(*op).is("Constant"));
    Ok(ops.map(|op| layer(g, op, &mut counted)).collect())
}

fn layer(g: &Graph, id: OpId, counted: &mut HashSet<ValueId>) -> Layer {
    let op = g.op(id);
    let (mut parameters, mut weight_bytes) = (0, 0);
    let mut add = |tensor: &Tensor| {
        parameters += tensor.len() as u64;
        weight_bytes += tensor.byte_len() as u64;
    };
    let read = g.inputs_of(id).into_iter().flatten().chain(g.captures_of(id));
    for v in read.filter(|v| counted.insert(*v)) {
        g.constant(v).or_else(|| g.initializer(v)).into_iter().for_each(&mut add);
    }
    for body in op.bodies() {
        body.for_each_nested(&mut |inner| {
            inner.initializers().for_each(|(_, tensor)| add(tensor));
            let constants = inner.ops().filter(|op| inner.op(*op).is("Constant"));
            constants.filter_map(|op| inner.op(op).tensor("value")).for_each(&mut add);
        });
    }
    let cost = cost::of_op(g, id);
    let output = g.outputs_of(id).into_iter().flatten().next();
    let output =
        output.and_then(|v| g.value(v).ty.as_ref()).map_or_else(|| "?".to_owned(), ToString::to_string);
    Layer {
        name: g.place(id).name().to_owned(),
        operator: op.full_type(),
        output,
        parameters,
        weight_bytes,
        moved_bytes: cost.bytes,
        macs: cost.macs,
    }
}
