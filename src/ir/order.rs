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
}
