//! What besides weights must change when axes shrink: attributes and shape constants.

use super::factor::{Arena, Factor, Factors};
use crate::ir::{Graph, OpId, Tensor};

/// One element of a list of extents.
#[derive(Clone, Debug)]
pub(super) enum Extent {
    /// Stays as it is (`-1`, `0`, an extent that cannot shrink).
    Keep(i64),
    /// The sum of the extents of these factors.
    Sum(Factors),
    /// The position of an axis that has these factors behind it, counted from the end: -1 is the last.
    Before { axis: Factor, behind: Factors },
}

impl Extent {
    pub(super) fn of(f: Factor) -> Extent {
        Extent::Sum(Factors::from_slice(&[f]))
    }
}

/// A change that follows from the new extents.
#[derive(Clone, Debug)]
pub(super) enum Rewrite {
    /// An integer attribute is the extent of a factor.
    Attr { op: OpId, name: String, factor: Factor },
    /// A number that follows from the extent of a factor where it is not written: it is, once that shrinks.
    Float { op: OpId, name: String, value: f32, factor: Factor },
    /// An integer list attribute.
    Ints { op: OpId, name: String, extents: Vec<Extent> },
    /// A constant input that holds extents; the op gets a constant of its own.
    Input { op: OpId, slot: usize, extents: Vec<Extent> },
    /// A constant input that lists positions of `from`, each of which is one of `to`; a number alone where that is `None`.
    Positions { op: OpId, slot: usize, listed: Vec<usize>, from: Factor, to: Option<Factor> },
    /// The sizes of a Split, which it may have left implicit.
    Split { op: OpId, extents: Vec<Extent>, as_input: bool },
}

impl Rewrite {
    /// Writes the new extents. `keep` tells which positions stay of a leaf (`None`: all); nothing is touched where no
    /// factor concerned has shrunk.
    pub(super) fn apply<'k>(
        &self,
        graph: &mut Graph,
        arena: &Arena,
        keep: &impl Fn(Factor) -> Option<&'k [usize]>,
    ) {
        let size = |f: Factor| arena.extent(f, &|leaf| keep(leaf).map(<[usize]>::len));
        let shrunk = |f: &Factor| arena.size(*f).is_some_and(|n| n != size(*f));
        let list = |extents: &[Extent]| -> Option<Vec<i64>> {
            let touched = extents.iter().any(|e| match e {
                Extent::Keep(_) => false,
                Extent::Sum(fs) => fs.iter().any(shrunk),
                Extent::Before { axis, .. } => shrunk(axis),
            });
            let sum = |fs: &Factors| fs.iter().map(|f| size(*f) as i64).sum::<i64>();
            let value = |e: &Extent| match e {
                Extent::Keep(n) => *n,
                Extent::Sum(fs) => sum(fs),
                Extent::Before { behind, .. } => -1 - sum(behind),
            };
            touched.then(|| extents.iter().map(value).collect())
        };
        match self {
            Rewrite::Attr { op, name, factor } => {
                if shrunk(factor) {
                    graph.op_mut(*op).set(name, size(*factor) as i64);
                }
            }
            Rewrite::Float { op, name, value, factor } => {
                if shrunk(factor) {
                    graph.op_mut(*op).set(name, *value);
                }
            }
            Rewrite::Ints { op, name, extents } => {
                if let Some(values) = list(extents) {
                    graph.op_mut(*op).set(name, values);
                }
            }
            Rewrite::Input { op, slot, extents } => {
                if let Some(values) = list(extents) {
                    replace_constant(graph, *op, *slot, values);
                }
            }
            Rewrite::Positions { op, slot, listed, from, to } => {
                if !shrunk(from) && !to.as_ref().is_some_and(shrunk) {
                    return;
                }
                let stay = arena.positions(*from, keep);
                let listed = match to {
                    Some(to) => arena.positions(*to, keep).into_iter().map(|k| listed[k]).collect(),
                    None => listed.clone(),
                };
                // What is listed stays, so it is found.
                let place = |p: &usize| stay.partition_point(|s| s < p) as i64;
                replace_constant(graph, *op, *slot, listed.iter().map(place).collect());
            }
            Rewrite::Split { op, extents, as_input } => {
                let Some(values) = list(extents) else { return };
                if *as_input {
                    graph.op_mut(*op).unset("num_outputs");
                    replace_constant(graph, *op, 1, values);
                } else {
                    graph.op_mut(*op).set("split", values);
                }
            }
        }
    }
}

/// Gives an op its own constant, as others may read the old one with another meaning. A scalar remains one.
fn replace_constant(graph: &mut Graph, op: OpId, slot: usize, values: Vec<i64>) {
    let old = graph.input(op, slot);
    let scalar = old.and_then(|v| graph.shape(v)).is_some_and(|shape| shape.is_empty());
    let shape: Vec<usize> = if scalar { Vec::new() } else { vec![values.len()] };
    let narrow = old.and_then(|v| graph.dtype(v)) == Some(crate::ir::DType::I32);
    let hint = old.map_or_else(|| "split".to_owned(), |v| graph.name_of(v).to_owned());
    let tensor = if narrow {
        Tensor::from_vec(shape, values.iter().map(|n| *n as i32).collect())
    } else {
        Tensor::from_vec(shape, values)
    };
    let new = graph.add_initializer(&hint, tensor);
    graph.set_input(op, slot, Some(new));
    if let Some(old) = old {
        graph.remove_value_if_unused(old);
    }
}
