//! Arithmetic on shapes that are known before the model runs.
//!
//! `Shape` of static dimensions is a constant, and so is what Gather or Slice takes of it, even where other dimensions
//! stay open. A Reshape whose result has one open dimension needs no computed shape: that one is -1.

use crate::{
    ir::{Dim, Tensor},
    passes::rules::{Bindings, Match, Miss, Rule},
};

/// The dimensions that an op of type Shape gives.
fn dims(m: &Match<'_>, name: &str) -> Option<Vec<Dim>> {
    let g = m.graph;
    let (producer, _) = g.producer(m.value(name)?)?;
    let op = g.op(producer);
    let shape = g.shape(g.input(producer, 0)?).filter(|_| op.is("Shape"))?;
    let rank = shape.len() as i64;
    let bound = |at: i64| if at < 0 { at + rank } else { at }.clamp(0, rank) as usize;
    let (from, to) = (bound(op.int("start").unwrap_or(0)), bound(op.int("end").unwrap_or(rank)));
    Some(shape[from..to.max(from)].to_vec())
}

fn known(dims: Vec<Dim>) -> Result<Vec<i64>, Miss> {
    dims.into_iter().map(|d| d.known().map(|n| n as i64)).collect::<Option<_>>().ok_or("")
}

fn all_dims(m: &Match<'_>) -> Result<Bindings, Miss> {
    let dims = known(dims(m, "y").ok_or("")?)?;
    Ok(Bindings::default().tensor("dims", Tensor::ints(dims)))
}

fn gathered(m: &Match<'_>) -> Result<Bindings, Miss> {
    let (dims, index) = (dims(m, "h").ok_or("")?, m.tensor("index").ok_or("")?);
    let rank = dims.len() as i64;
    let picked = index.to_i64().ok_or("")?.into_iter().map(|at| {
        let at = if at < 0 { at + rank } else { at };
        usize::try_from(at).ok().and_then(|at| dims.get(at)).cloned()
    });
    let picked = known(picked.collect::<Option<_>>().ok_or("an index lies outside the shape")?)?;
    Ok(Bindings::default().tensor("dims", Tensor::from_vec(index.shape(), picked)))
}

fn sliced(m: &Match<'_>) -> Result<Bindings, Miss> {
    let dims = dims(m, "h").ok_or("")?;
    let one = |name| m.tensor(name).and_then(Tensor::scalar_i64);
    if m.value("step").is_some() && one("step") != Some(1) {
        return Err("");
    }
    let rank = dims.len() as i64;
    let bound = |at: i64| if at < 0 { at.saturating_add(rank) } else { at }.clamp(0, rank) as usize;
    let (from, to) = (bound(one("from").ok_or("")?), bound(one("to").ok_or("")?));
    let picked = known(dims[from..to.max(from)].to_vec())?;
    Ok(Bindings::default().tensor("dims", Tensor::ints(picked)))
}

fn static_target(m: &Match<'_>) -> Result<Bindings, Miss> {
    if m.tensor("s").is_some() {
        return Err("");
    }
    let shape = m.ty("y").and_then(|t| t.shape).ok_or("")?;
    let open = shape.iter().filter(|d| d.known().is_none()).count();
    if open > 1 || shape.contains(&Dim::Known(0)) {
        return Err("");
    }
    let target = shape.iter().map(|d| d.known().map_or(-1, |n| n as i64));
    Ok(Bindings::default().tensor("shape", Tensor::ints(target)))
}

pub(super) const RULES: &[Rule] = &[
    Rule { name: "static-shape", lhs: "y = Shape(x)", rhs: "dims", bind: all_dims },
    Rule { name: "static-dimension", lhs: "y = Gather(h, $index)", rhs: "dims", bind: gathered },
    Rule {
        name: "static-dimensions",
        lhs: "y = Slice(h, $from, $to, $axes?, $step?)",
        rhs: "dims",
        bind: sliced,
    },
    Rule {
        name: "static-reshape",
        lhs: "y = Reshape(x, s)",
        rhs: "y = Reshape(x, shape)",
        bind: static_target,
    },
];

#[cfg(test)]
mod tests {
    use crate::{
        ir::{DType, Graph, Model, Op, OpsetImport, Tensor, Type},
        passes::{Context, Pass, simplify::Simplify},
    };

    #[test]
    fn known_dimensions_are_constants_and_one_open_dimension_is_minus_one() {
        let mut g = Graph::new("g");
        let x = g.add_input("x", Type::tensor(DType::F32, ["batch".into(), 3.into(), 4.into()]));
        let s = g.add_node(Op::new("Shape", "s"), &[x], "s", None);
        let last = g.add_initializer("i", Tensor::ints([-1]));
        let d = g.add_node(Op::new("Gather", "d").with("axis", 0), &[s, last], "d", None);
        let zero = g.add_initializer("z", Tensor::ints([0]));
        let b = g.add_node(Op::new("Gather", "b").with("axis", 0), &[s, zero], "b", None);
        let three = g.add_initializer("t", Tensor::ints([3]));
        let c = g.add_node(Op::new("Concat", "c").with("axis", 0), &[b, d, three], "c", None);
        let ty = Type::tensor(DType::F32, ["batch".into(), 4.into(), 3.into()]);
        let y = g.add_node(Op::new("Reshape", "r"), &[x, c], "y", Some(ty));
        g.outputs.push(y);
        g.outputs.push(d);
        let opset = OpsetImport { version: 17, ..OpsetImport::default() };
        let mut model = Model { graph: g, ir_version: 8, opsets: vec![opset], ..Model::default() };
        let _changed = Simplify::default().run(&mut model, &mut Context::new()).unwrap();
        model.verify().unwrap();
        let g = &model.graph;
        let (reshape, _) = g.producer(g.outputs[0]).unwrap();
        let target = g.constant(g.input(reshape, 1).unwrap()).unwrap();
        assert_eq!(target.to_i64().unwrap(), [-1, 4, 3]);
        assert_eq!(g.ops().count(), 3, "Shape and Gather stay for the graph's second output");
    }
}
