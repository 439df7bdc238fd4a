//! Common subexpressions: ops of equal type, attributes, bodies and inputs compute the same, so one of them is enough;
//! equal constants are one constant.

use super::alike;
use crate::{
    ir::{DType, Graph, OpId, Origin, Slots, Tensor, ValueId},
    ops::is_deterministic,
};
use std::collections::{HashMap, HashSet};

/// Merges equal constants in the graph and its bodies; returns how many went.
pub(super) fn constants(g: &mut Graph) -> usize {
    let mut merged = in_bodies(g, constants);
    let annotated: HashSet<&str> = g.annotations.iter().map(|a| a.tensor.as_str()).collect();
    let parameters: HashSet<&str> =
        g.annotations.iter().flat_map(|a| a.parameters.iter().map(|p| p.1.as_str())).collect();
    let named = |v| annotated.contains(g.name_of(v)) || parameters.contains(g.name_of(v));
    // Contents are looked at only where there are others of the type, and compared only where they begin alike.
    type Constants<'a> = Vec<(ValueId, &'a Tensor)>;
    let mut of_type: HashMap<(DType, &[usize]), Constants<'_>> = HashMap::new();
    for (v, t) in g.initializers().filter(|(v, _)| !g.is_input(*v) && !g.is_output(*v) && !named(*v)) {
        of_type.entry((t.dtype(), t.shape())).or_default().push((v, t));
    }
    let mut doubles = Vec::new();
    for alike in of_type.into_values().filter(|alike| alike.len() > 1) {
        let mut kept: HashMap<Vec<u8>, Constants<'_>> = HashMap::new();
        for (v, t) in alike {
            let start =
                t.data().map(|data| data.part(0..data.len().min(64)).into_owned()).unwrap_or_default();
            let like = kept.entry(start).or_default();
            match like.iter().find(|(_, k)| *k == t) {
                Some((first, _)) => doubles.push((v, *first)),
                None => like.push((v, t)),
            }
            // A look at the first bytes alone brings in the pages around them.
            t.release();
        }
    }
    doubles.sort_unstable();
    for (v, first) in doubles {
        g.replace_value(v, first);
        g.remove_value_if_unused(v);
        merged += 1;
    }
    merged
}

/// Merges equal ops in the graph and its bodies; returns how many went.
pub(super) fn ops(g: &mut Graph) -> usize {
    let mut merged = in_bodies(g, ops);
    let mut seen: HashMap<(String, Slots), Vec<OpId>> = HashMap::new();
    for op in g.order() {
        if !is_deterministic(g.op(op)) {
            continue;
        }
        // Inputs of earlier doubles are replaced by now, so equal chains merge from their start on.
        let like = seen.entry((g.op(op).op_type.clone(), g.inputs_of(op))).or_default();
        match like.iter().find(|first| alike::ops(g.op(**first), g.op(op)) && replaceable(g, **first, op)) {
            Some(first) => {
                let pairs = g.outputs_of(op).into_iter().zip(g.outputs_of(*first));
                for (from, to) in pairs.collect::<Vec<_>>() {
                    if let (Some(from), Some(to)) = (from, to) {
                        g.replace_value(from, to);
                    }
                }
                g.remove_op(op);
                merged += 1;
            }
            None => like.push(op),
        }
    }
    merged
}

fn in_bodies(g: &mut Graph, f: fn(&mut Graph) -> usize) -> usize {
    let mut merged = 0;
    for op in g.ops().collect::<Vec<_>>() {
        g.edit_bodies(op, |body| {
            let inner = f(body);
            merged += inner;
            inner > 0
        });
    }
    merged
}

/// Whether each output of `op` has one of `first` that can stand in its place without another op.
fn replaceable(g: &Graph, first: OpId, op: OpId) -> bool {
    let (ours, theirs) = (g.outputs_of(op), g.outputs_of(first));
    ours.iter().enumerate().all(|(k, from)| match (from, theirs.get(k).copied().flatten()) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(from), Some(to)) => {
            !g.is_output(*from) || !g.is_output(to) && g.value(to).origin == Origin::Computed
        }
    })
}

#[cfg(test)]
mod tests {
    use crate::ir::{DType, Graph, Op, Tensor, Type};

    #[test]
    fn equal_chains_merge_and_outputs_keep_their_names() {
        let mut g = Graph::new("g");
        let x = g.add_input("x", Type::tensor(DType::F32, [2.into()]));
        let mut ends = Vec::new();
        for k in 0..2 {
            let c = g.add_initializer("c", Tensor::from_vec([2], vec![1f32, 2.0]));
            let a = g.add_node(Op::new("Add", format!("a{k}")), &[x, c], "a", None);
            ends.push(g.add_node(Op::new("Relu", format!("r{k}")), &[a], "r", None));
        }
        let y = g.add_node(Op::new("Mul", "m"), &[ends[0], ends[1]], "y", None);
        g.outputs.extend([y, ends[1]]);
        assert_eq!((super::constants(&mut g), super::ops(&mut g)), (1, 2));
        g.verify().unwrap();
        assert_eq!((g.ops().count(), g.name_of(g.outputs[1])), (3, "r_1"));
    }
    #[test]
    fn random_ops_are_not_shared() {
        let mut g = Graph::new("g");
        let ends = [0, 1].map(|_| {
            let op = Op::new("RandomNormal", "").with("shape", vec![2]);
            g.add_node(op, &[], "r", None)
        });
        g.outputs.extend(ends);
        assert_eq!(super::ops(&mut g), 0);
    }
}
