//! The invariants of a graph, checked after every pass.

use super::{Graph, Origin, Where, graph::Edge};
use crate::error::{Error, Result};
use petgraph::Direction::Incoming;
use std::collections::HashSet;

impl Graph {
    /// Checks that
    /// 1. every value has exactly one definition: a graph input, an initializer, a capture (in bodies), or one op's
    ///    output; only an initializer may also be a graph input;
    /// 2. names are not empty and the name table finds every value;
    /// 3. the graph has no cycle;
    /// 4. each op's slots are within its arity and each slot holds one value;
    /// 5. what a body captures is an explicit use of the value of that name in the graph around it;
    /// 6. graph inputs are listed once; inputs and outputs exist.
    ///
    /// Bodies are checked too.
    pub fn verify(&self) -> Result<()> {
        self.verify_scope(false)
    }

    fn verify_scope(&self, is_body: bool) -> Result<()> {
        let inputs: HashSet<_> = self.inputs.iter().copied().collect();
        if inputs.len() != self.inputs.len() {
            return Err(Error::invalid((), format!("graph `{}` lists an input twice", self.name)));
        }
        if let Some(v) = self.inputs.iter().chain(&self.outputs).find(|v| !self.has_value(**v)) {
            return Err(Error::invalid(
                (),
                format!("input or output {v:?} of graph `{}` does not exist", self.name),
            ));
        }
        let outputs: HashSet<_> = self.outputs.iter().copied().collect();
        for v in self.values() {
            let value = self.value(v);
            let at = || Where::Value(value.name().to_owned());
            if value.name().is_empty() || self.find(value.name()) != Some(v) {
                return Err(Error::invalid(at(), "the name table does not lead to this value"));
            }
            let producers = self.g.edges_directed(v.0, Incoming).count();
            let defined = match &value.origin {
                Origin::Computed => producers + usize::from(inputs.contains(&v)),
                Origin::Initializer(_) | Origin::SparseInitializer(_) => 1 + producers,
                Origin::Captured if is_body => 1 + producers + usize::from(inputs.contains(&v)),
                Origin::Captured => return Err(Error::invalid(at(), "captured outside a body")),
            };
            let used = outputs.contains(&v) || self.g.edges(v.0).next().is_some();
            match defined {
                0 if used => return Err(Error::invalid(at(), "used but never defined")),
                0 | 1 => {}
                _ => return Err(Error::invalid(at(), "defined more than once")),
            }
        }
        for op in self.ops() {
            self.verify_op(op)?;
        }
        let order: HashSet<_> = self.order().into_iter().collect();
        if let Some(op) = self.ops().find(|o| !order.contains(o)) {
            return Err(Error::invalid(self.place(op), "lies on a cycle or behind one"));
        }
        Ok(())
    }

    fn verify_op(&self, op: super::OpId) -> Result<()> {
        let mut seen = HashSet::new();
        for e in self.g.edges_directed(op.0, Incoming) {
            if let Edge::Slot(k) = e.weight()
                && !seen.insert(*k)
            {
                return Err(Error::invalid(self.place(op), format!("input {k} is connected twice")));
            }
        }
        let captures: HashSet<_> = self.captures_of(op).iter().map(|v| self.name_of(*v)).collect();
        for body in self.op(op).bodies() {
            for v in body.values().filter(|v| body.value(*v).origin == Origin::Captured) {
                let name = body.name_of(v);
                if !captures.contains(name) {
                    let why = format!(
                        "its body `{}` captures `{name}`, which the graph around it does not define",
                        body.name
                    );
                    return Err(Error::invalid(self.place(op), why));
                }
            }
            body.verify_scope(true)?;
        }
        Ok(())
    }
}
