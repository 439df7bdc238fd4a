//! Ops that only rearrange: two in a row are one.
//!
//! `Transpose(Transpose(x, p), q) = Transpose(x, p∘q)`. Reshape, Flatten, Squeeze and Unsqueeze keep the order of
//! elements, so of two in a row only the last shape counts: `Reshape(Reshape(x, s), t) = Reshape(x, t)`. A shape of
//! which one dimension is open need not be computed: that one is -1, and those that stay in place are 0.

use crate::{
    ir::{Dim, Tensor},
    ops::fold::{
        index::{axes, axis},
        moves::permutation,
    },
    passes::rules::{Bindings, Match, Miss, Rule},
};

/// The permutation of the Transpose that gives a value. An identity needs no rank, so an attribute alone may tell it.
pub(super) fn transposed(m: &Match<'_>, name: &str) -> Option<Vec<usize>> {
    let op = m.op(name)?;
    let rank = m.ty("x").and_then(|t| t.rank()).or_else(|| Some(op.ints("perm")?.len()))?;
    permutation(op, rank)
}

fn compose(m: &Match<'_>) -> Result<Bindings, Miss> {
    const MISS: Miss = "a permutation is not known";
    let (first, second) = (transposed(m, "h").ok_or(MISS)?, transposed(m, "y").ok_or(MISS)?);
    let perm = second.iter().map(|k| Some(*first.get(*k)? as i64)).collect::<Option<Vec<i64>>>();
    Ok(Bindings::default().attr("perm", perm.ok_or("the permutations differ in rank")?))
}

/// The shape that an op gives, as Reshape takes it: at most one dimension left open.
pub(super) fn result_shape(m: &Match<'_>) -> Result<Bindings, Miss> {
    let shape = m.ty("y").and_then(|t| t.shape).ok_or("the resulting shape is not known")?;
    let open = shape.iter().filter(|d| d.known().is_none()).count();
    if open > 1 || shape.contains(&Dim::Known(0)) {
        return Err("more than one dimension of the resulting shape is not known");
    }
    let target = shape.iter().map(|d| d.known().map_or(-1, |n| n as i64));
    Ok(Bindings::default().tensor("shape", Tensor::ints(target)))
}

/// The shape that the last of two ops gives.
fn last_shape(m: &Match<'_>) -> Result<Bindings, Miss> {
    if m.opset < 5 {
        return Err("Reshape before operator set 5 takes its shape as an attribute");
    }
    let target = m.op("y").filter(|op| op.is("Reshape")).and_then(|_| m.tensor("t"));
    match target.filter(|t| t.to_i64().is_some_and(|wanted| !wanted.contains(&0))) {
        Some(target) => Ok(Bindings::default().tensor("shape", target.clone())),
        None => result_shape(m),
    }
}

/// What a reduction over extents of one gives: the same elements, in a shape without those.
fn reduced_nothing(m: &Match<'_>) -> Result<Bindings, Miss> {
    let more = |name| {
        let shape = m.ty(name).and_then(|t| t.shape).filter(|s| !s.contains(&Dim::Unknown)).ok_or("")?;
        Ok::<Vec<Dim>, Miss>(shape.into_iter().filter(|d| *d != Dim::Known(1)).collect())
    };
    if m.opset < 5 || more("x")? != more("y")? { Err("") } else { result_shape(m).map_err(|_| "") }
}

/// An element of an axis, which is then put back.
fn kept_axis(m: &Match<'_>) -> Result<Bindings, Miss> {
    let (gather, unsqueeze) = (m.op("h").ok_or("")?, m.op("y").ok_or("")?);
    let rank = m.ty("x").and_then(|t| t.rank()).ok_or("the rank is not known")?;
    let back = unsqueeze.ints("axes").map(<[i64]>::to_vec);
    let back = back.or_else(|| m.tensor("t")?.to_i64()).ok_or("")?;
    let index = m.tensor("i").filter(|i| i.rank() == 0).ok_or("")?;
    let axis = axis(gather.int("axis").unwrap_or(0), rank);
    if axis.is_none() || axes(&back, rank) != axis.map(|axis| vec![axis]) {
        return Err("");
    }
    Ok(Bindings::default().tensor("index", index.reshaped([1])))
}

/// A shape that is computed though Reshape could tell it: at most one dimension of it is open besides those that stay
/// where they are in the input, which 0 copies.
fn static_target(m: &Match<'_>) -> Result<Bindings, Miss> {
    if m.tensor("s").is_some() {
        return Err("");
    }
    let shapes = m.ty("x").and_then(|t| t.shape).zip(m.ty("y").and_then(|t| t.shape));
    let copies = m.op("y").is_some_and(|op| op.int("allowzero").unwrap_or(0) == 0);
    let Some((before, after)) = shapes.filter(|_| copies) else { return result_shape(m).map_err(|_| "") };
    let target: Vec<i64> = after
        .iter()
        .enumerate()
        .map(|(k, dim)| match dim {
            Dim::Known(n) => *n as i64,
            Dim::Symbol(_) if before.get(k) == Some(dim) => 0,
            _ => -1,
        })
        .collect();
    if after.contains(&Dim::Known(0)) || target.iter().filter(|n| **n == -1).count() > 1 {
        return Err("");
    }
    Ok(Bindings::default().tensor("shape", Tensor::ints(target)))
}

macro_rules! chains {
    ($($first:literal)*) => { &[$(
        Rule { name: "reshape-chain", lhs: concat!("h = ", $first, "  y = Reshape(h, $t)"), rhs: "y = Reshape(x, shape)", bind: last_shape },
        Rule { name: "reshape-chain", lhs: concat!("h = ", $first, "  y = Flatten(h)"), rhs: "y = Reshape(x, shape)", bind: last_shape },
        Rule { name: "reshape-chain", lhs: concat!("h = ", $first, "  y = Squeeze(h, $t?)"), rhs: "y = Reshape(x, shape)", bind: last_shape },
        Rule { name: "reshape-chain", lhs: concat!("h = ", $first, "  y = Unsqueeze(h, $t?)"), rhs: "y = Reshape(x, shape)", bind: last_shape },
    )*] };
}
pub(super) const CHAINS: &[Rule] =
    chains! { "Reshape(x, s)" "Flatten(x)" "Squeeze(x, $s?)" "Unsqueeze(x, $s?)" };

macro_rules! over_one {
    ($lhs:literal) => {
        Rule { name: "reduction-to-reshape", lhs: $lhs, rhs: "y = Reshape(x, shape)", bind: reduced_nothing }
    };
}
pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "transpose-chain",
        lhs: "h* = Transpose(x)  y = Transpose(h)",
        rhs: "y = Transpose(x)",
        bind: compose,
    },
    Rule {
        name: "static-reshape",
        lhs: "y = Reshape(x, s)",
        rhs: "y = Reshape(x, shape)",
        bind: static_target,
    },
    Rule {
        name: "gather-keeping-the-axis",
        lhs: "h = Gather(x, $i)  y = Unsqueeze(h, $t?)",
        rhs: "y = Gather(x, index)",
        bind: kept_axis,
    },
    over_one!("y = ReduceSum(x, axes?)"),
    over_one!("y = ReduceMean(x, axes?)"),
    over_one!("y = ReduceMax(x, axes?)"),
    over_one!("y = ReduceMin(x, axes?)"),
];

#[cfg(test)]
mod tests {
    use crate::{
        ir::{DType, Graph, Model, Op, OpsetImport, Tensor, Type},
        passes::{Context, Pass, simplify::Simplify},
    };

    fn simplified(g: Graph) -> Graph {
        let opset = OpsetImport { version: 17, ..OpsetImport::default() };
        let mut model = Model { graph: g, ir_version: 8, opsets: vec![opset], ..Model::default() };
        let _changed = Simplify::default().run(&mut model, &mut Context::new()).unwrap();
        model.verify().unwrap();
        model.graph
    }
    #[test]
    fn permutations_compose() {
        let mut g = Graph::new("g");
        let x = g.add_input("x", Type::tensor(DType::F32, [2, 3, 4].map(Into::into)));
        let h = g.add_node(Op::new("Transpose", "a").with("perm", vec![1, 2, 0]), &[x], "h", None);
        let y = g.add_node(Op::new("Transpose", "b").with("perm", vec![1, 0, 2]), &[h], "y", None);
        g.outputs.push(y);
        let g = simplified(g);
        let (op, _) = g.producer(g.outputs[0]).unwrap();
        assert_eq!((g.ops().count(), g.op(op).ints("perm")), (1, Some(&[2, 1, 0][..])));
    }
    #[test]
    fn a_constant_is_turned_at_once() {
        let mut g = Graph::new("g");
        let x = g.add_input("x", Type::tensor(DType::F32, [4, 3].map(Into::into)));
        let w = g.add_initializer("w", Tensor::from_vec([2, 3], vec![1f32, 2.0, 3.0, 4.0, 5.0, 6.0]));
        let t = g.add_node(Op::new("Transpose", "t"), &[w], "t", None);
        let y = g.add_node(Op::new("MatMul", "m"), &[x, t], "y", None);
        g.outputs.push(y);
        let g = simplified(g);
        let (op, _) = g.producer(g.outputs[0]).unwrap();
        let w = g.constant(g.input(op, 1).unwrap()).unwrap();
        assert_eq!(
            (w.shape(), w.to_f32().unwrap().to_vec()),
            (&[3, 2][..], vec![1.0, 4.0, 2.0, 5.0, 3.0, 6.0])
        );
    }
}
