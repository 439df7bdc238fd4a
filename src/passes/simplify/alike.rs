//! Whether two ops of a graph, given the same inputs, compute the same. Bodies may name their values differently.

use crate::ir::{Attr, Graph, Op, OpId, Origin, ValueId};
use std::collections::HashMap;

/// Whether both are the same operator with equal attributes and bodies.
pub(super) fn ops(a: &Op, b: &Op) -> bool {
    equal(a, b, None)
}

fn equal(a: &Op, b: &Op, around: Option<&Bodies<'_>>) -> bool {
    a.op_type == b.op_type
        && (a.domain == b.domain || a.is_standard() && b.is_standard())
        && a.overload == b.overload
        && a.attrs.len() == b.attrs.len()
        && a.attrs.iter().all(|x| b.attr(&x.name).is_some_and(|y| attributes(&x.value, y, around)))
}

fn attributes(a: &Attr, b: &Attr, around: Option<&Bodies<'_>>) -> bool {
    match (a, b) {
        (Attr::Graph(a), Attr::Graph(b)) => bodies(a, b, around),
        (Attr::Graphs(a), Attr::Graphs(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| bodies(a, b, around))
        }
        _ => a == b,
    }
}

/// Two bodies, and which computed values of theirs are the same.
struct Bodies<'a> {
    a: &'a Graph,
    b: &'a Graph,
    same: HashMap<ValueId, ValueId>,
    /// The bodies that these are in; `None` where one graph holds both.
    around: Option<&'a Bodies<'a>>,
}

fn bodies(a: &Graph, b: &Graph, around: Option<&Bodies<'_>>) -> bool {
    let (first, second) = (a.order(), b.order());
    let lengths = |g: &Graph, ops: &[OpId]| (g.inputs.len(), g.outputs.len(), ops.len());
    if lengths(a, &first) != lengths(b, &second) {
        return false;
    }
    let same = a.inputs.iter().copied().zip(b.inputs.iter().copied()).collect();
    let mut pair = Bodies { a, b, same, around };
    first.into_iter().zip(second).all(|(x, y)| pair.op(x, y))
        && a.outputs.iter().zip(&b.outputs).all(|(x, y)| pair.value(*x, *y))
}

impl Bodies<'_> {
    fn op(&mut self, x: OpId, y: OpId) -> bool {
        let (ours, theirs) = (self.a.inputs_of(x), self.b.inputs_of(y));
        let inputs = ours.len() == theirs.len()
            && ours.iter().zip(&theirs).all(|pair| match pair {
                (Some(x), Some(y)) => self.value(*x, *y),
                (x, y) => x == y,
            });
        let (ours, theirs) = (self.a.outputs_of(x), self.b.outputs_of(y));
        let outputs =
            ours.len() == theirs.len() && ours.iter().zip(&theirs).all(|(x, y)| x.is_some() == y.is_some());
        if !inputs || !outputs || !equal(self.a.op(x), self.b.op(y), Some(self)) {
            return false;
        }
        self.same.extend(ours.into_iter().flatten().zip(theirs.into_iter().flatten()));
        true
    }

    fn value(&self, x: ValueId, y: ValueId) -> bool {
        if let Some(same) = self.same.get(&x) {
            return *same == y;
        }
        match (&self.a.value(x).origin, &self.b.value(y).origin) {
            (Origin::Captured, Origin::Captured) => {
                let (x, y) = (self.a.name_of(x), self.b.name_of(y));
                match self.around {
                    None => x == y,
                    Some(around) => {
                        around.a.find(x).zip(around.b.find(y)).is_some_and(|(x, y)| around.value(x, y))
                    }
                }
            }
            (Origin::Computed, _) => false,
            (x, y) => x == y,
        }
    }
}
