//! Ops that only rearrange: two in a row are one.
//!
//! `Transpose(Transpose(x, p), q) = Transpose(x, p∘q)`. Reshape, Flatten, Squeeze and Unsqueeze keep the order of
//! elements, so of two in a row only the last shape counts: `Reshape(Reshape(x, s), t) = Reshape(x, t)`.

use crate::{
    ir::{Dim, Tensor},
    passes::rules::{Bindings, Match, Miss, Rule},
};

fn compose(m: &Match<'_>) -> Result<Bindings, Miss> {
    let perm = |name| m.op(name).and_then(|op| op.ints("perm"));
    let (first, second) = (perm("h"), perm("y"));
    let rank = first.or(second).map(<[i64]>::len).or_else(|| m.ty("x").and_then(|t| t.rank()));
    let rank = rank.ok_or("the rank is not known")? as i64;
    let reversed: Vec<i64> = (0..rank).rev().collect();
    let (first, second) = (first.unwrap_or(&reversed), second.unwrap_or(&reversed));
    let axis = |k: &i64| usize::try_from(*k).ok().and_then(|k| first.get(k)).copied();
    let perm: Option<Vec<i64>> = second.iter().map(axis).collect();
    Ok(Bindings::default().attr("perm", perm.ok_or("the permutations differ in rank")?))
}

/// The shape that the last of two ops gives, as Reshape takes it: at most one dimension left open.
fn last_shape(m: &Match<'_>) -> Result<Bindings, Miss> {
    if m.opset < 5 {
        return Err("Reshape before operator set 5 takes its shape as an attribute");
    }
    let root = m.op("y").ok_or("")?;
    if root.is("Reshape") {
        let target = m.tensor("t").ok_or("the shape is not constant")?;
        let wanted = target.to_i64().ok_or("")?;
        if !wanted.contains(&0) {
            return Ok(Bindings::default().tensor("shape", target.clone()));
        }
    }
    let shape = m.ty("y").and_then(|t| t.shape).ok_or("the resulting shape is not known")?;
    let open = shape.iter().filter(|d| d.known().is_none()).count();
    if open > 1 || shape.contains(&Dim::Known(0)) {
        return Err("more than one dimension of the resulting shape is not known");
    }
    let target = shape.iter().map(|d| d.known().map_or(-1, |n| n as i64));
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

pub(super) const RULES: &[Rule] = &[Rule {
    name: "transpose-chain",
    lhs: "h = Transpose(x)  y = Transpose(h)",
    rhs: "y = Transpose(x)",
    bind: compose,
}];

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
    #[test]
    fn only_the_last_shape_counts() {
        let mut g = Graph::new("g");
        let x = g.add_input("x", Type::tensor(DType::F32, [2, 3, 4].map(Into::into)));
        let h = g.add_node(Op::new("Flatten", "f"), &[x], "h", None);
        let s = g.add_initializer("s", Tensor::ints([4, -1]));
        let y = g.add_node(Op::new("Reshape", "r"), &[h, s], "y", None);
        g.outputs.push(y);
        assert_eq!(simplified(g).ops().count(), 1);
    }
}
