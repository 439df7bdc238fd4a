//! Topological order: Kahn's algorithm, the oldest ready op first, so that the order depends on the graph alone
//! and a graph that came in sorted goes out as it came.

use super::{
    Graph, OpId,
    graph::{Edge, ValueId},
};
use petgraph::{
    Direction::{Incoming, Outgoing},
    visit::{EdgeRef, NodeIndexable},
};
use std::{cmp::Reverse, collections::BinaryHeap};

impl Graph {
    /// Ops so that each follows those it depends on (captures included). Ops on a cycle, and what depends on them,
    /// are left out; [`Graph::verify`] reports them.
    pub fn order(&self) -> Vec<OpId> {
        let mut waiting = vec![0usize; self.g.node_bound()];
        let mut ready = BinaryHeap::new();
        for op in self.ops() {
            let inputs = self.g.edges_directed(op.0, Incoming);
            let n = inputs.filter(|e| self.producer(ValueId(e.source())).is_some()).count();
            waiting[op.0.index()] = n;
            if n == 0 {
                ready.push(Reverse(op));
            }
        }
        let mut order = Vec::new();
        while let Some(Reverse(op)) = ready.pop() {
            order.push(op);
            for value in self.g.edges_directed(op.0, Outgoing).filter(|e| matches!(e.weight(), Edge::Slot(_)))
            {
                for user in self.g.edges_directed(value.target(), Outgoing) {
                    let left = &mut waiting[user.target().index()];
                    *left -= 1;
                    if *left == 0 {
                        ready.push(Reverse(OpId(user.target())));
                    }
                }
            }
        }
        order
    }
    /// The same with the ends, ops that no other depends on, behind all others, those that depend on the most in a row first.
    ///
    /// ONNX Runtime runs what the last node of a file depends on, then the node, then what the one before it still lacks. So each
    /// end runs as soon as it can, and what it reads is not held until all is computed.
    pub(crate) fn order_of_early_ends(&self) -> Vec<OpId> {
        let (mut depths, mut ends, mut order) = (vec![0usize; self.g.node_bound()], Vec::new(), Vec::new());
        for op in self.order() {
            let inputs = self.g.edges_directed(op.0, Incoming).map(|e| ValueId(e.source()));
            let before = inputs.filter_map(|v| Some(depths[self.producer(v)?.0.0.index()]));
            depths[op.0.index()] = before.max().unwrap_or(0) + 1;
            let is_end = self.outputs_of(op).into_iter().flatten().all(|v| self.uses(v).is_empty());
            if is_end { ends.push(op) } else { order.push(op) }
        }
        ends.sort_by_key(|op| Reverse(depths[op.0.index()]));
        order.extend(ends);
        order
    }
}

#[cfg(test)]
mod tests {
    use crate::ir::text;

    #[test]
    fn ends_come_last_and_what_can_be_computed_first_last_of_all() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[4] x) => (float[4] z, float p, float q, float r)
            {
              p = ReduceMax (x)
              a = Relu (x)
              q = ReduceMax (a)
              b = Exp (a)
              c = Cast <to = 1> (b)
              r = ReduceMax (c)
              z = Exp (b)
            }"#;
        let g = text::parse(text).unwrap().graph;
        let order = g.order_of_early_ends();
        let names: Vec<&str> = order.iter().filter_map(|op| Some(g.name_of(g.output(*op, 0)?))).collect();
        assert_eq!(names, ["a", "b", "c", "r", "z", "q", "p"]);
    }
}
