//! Moving what a body computes into the graph around it.

use super::{Graph, OpId, Origin, Value, ValueId};
use std::collections::{HashMap, HashSet};

impl Graph {
    /// Moves the ops and constants of a body, which was taken off the op `of`, into this graph, with values of this
    /// graph in the place of the body's inputs; returns what stands for the body's outputs. Names are kept unless
    /// another scope has them. The op is left as it is, and is to be removed.
    pub fn inline_body(&mut self, of: OpId, mut body: Graph, inputs: &[ValueId]) -> Vec<ValueId> {
        self.tell_apart(of, &mut body);
        for (v, outer) in std::mem::take(&mut body.inputs).into_iter().zip(inputs) {
            let name = self.name_of(*outer);
            match body.find(name) {
                Some(captured) => body.replace_value(v, captured),
                None => {
                    body.rename(v, name);
                    body.value_mut(v).origin = Origin::Captured;
                }
            }
        }
        let mut moved: HashMap<ValueId, ValueId> = HashMap::new();
        for v in body.values() {
            let value = body.value(v);
            let here = match value.origin {
                Origin::Captured => self.find(&value.name),
                _ => {
                    self.names.take(&value.name);
                    Some(self.insert_value(value.clone()))
                }
            };
            moved.extend(here.map(|here| (v, here)));
        }
        let here = |v: &Option<ValueId>| v.and_then(|v| moved.get(&v).copied());
        for op in body.order() {
            let inputs: Vec<_> = body.inputs_of(op).iter().map(here).collect();
            let outputs: Vec<_> = body.outputs_of(op).iter().map(here).collect();
            self.add_op(body.op(op).clone(), &inputs, &outputs);
        }
        self.annotations.append(&mut body.annotations);
        body.outputs.iter().filter_map(|v| here(&Some(*v))).collect()
    }

    /// Renames what a body of the op `of` defines under a name that stands for something else in this graph or in the
    /// bodies of other ops.
    fn tell_apart(&self, of: OpId, body: &mut Graph) {
        let mut taken: HashSet<String> = self.by_name.keys().cloned().collect();
        for nested in self.ops().filter(|op| *op != of).flat_map(|op| self.op(op).bodies()) {
            nested.for_each_nested(&mut |g| taken.extend(g.by_name.keys().cloned()));
        }
        let defined: Vec<ValueId> =
            body.values().filter(|v| body.value(*v).origin != Origin::Captured).collect();
        for v in defined {
            let Value { name, .. } = body.value(v).clone();
            if !taken.contains(&name) {
                continue;
            }
            let fresh = self.names.fresh(&name);
            for annotation in body.annotations.iter_mut().filter(|a| a.tensor == name) {
                annotation.tensor.clone_from(&fresh);
            }
            for (_, parameter) in body.annotations.iter_mut().flat_map(|a| &mut a.parameters) {
                if *parameter == name {
                    parameter.clone_from(&fresh);
                }
            }
            body.rename(v, &fresh);
        }
    }
}
