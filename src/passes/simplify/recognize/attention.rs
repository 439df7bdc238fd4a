//! Attention, from operator set 23:
//!
//! ```text
//! Attention(q, k, v, mask) = Softmax(scale·q·kᵀ + mask)·v
//! ```
//!
//! over heads of their own: `[batch, heads, sequence, size]`. The factors may stand at the product, at `q` and at `k`,
//! before or behind the transposition. The mask has all queries and keys: ONNX Runtime does not broadcast those.

use crate::{
    ir::{DType, Dim, Graph, Op, OpId, ValueId},
    passes::rules::{Miss, Misses},
};

/// Puts attention together in the graph and its bodies; returns how many.
pub(in crate::passes::simplify) fn attention(g: &mut Graph, opset: i64, misses: &mut Misses) -> usize {
    let mut found = 0;
    for op in g.order() {
        g.edit_bodies(op, |body| {
            let inner = attention(body, opset, misses);
            found += inner;
            inner > 0
        });
        match Parts::of(g, op) {
            Ok(parts) if opset >= 23 => {
                parts.join(g);
                found += 1;
            }
            Ok(_) => miss(g, op, "Attention needs operator set 23", misses),
            Err("") => {}
            Err(why) => miss(g, op, why, misses),
        }
    }
    found
}

fn miss(g: &Graph, op: OpId, why: Miss, misses: &mut Misses) {
    misses.insert((g.place(op).name().to_owned(), format!("attention: {why}")));
}

struct Parts {
    queries: ValueId,
    /// The keys before they were transposed, and the order of axes that makes them `[batch, heads, sequence, size]`.
    keys: (ValueId, Vec<i64>),
    values: ValueId,
    mask: Option<ValueId>,
    scale: f64,
    /// The product with the values, which gives the result.
    last: OpId,
}

impl Parts {
    fn of(g: &Graph, softmax: OpId) -> Result<Parts, Miss> {
        let rank = |v| g.rank(v).ok_or("");
        let (Some(logits), Some(shares)) = (g.input(softmax, 0), g.output(softmax, 0)) else {
            return Err("");
        };
        let last = g.sole_use(shares).ok_or("")?.op();
        let ends = g.op(last).is("MatMul") && g.input(last, 0) == Some(shares);
        let axis = g.op(softmax).int("axis").unwrap_or(-1);
        if !g.op(softmax).is("Softmax") || !ends || rank(logits)? != 4 || ![-1, 3].contains(&axis) {
            return Err("");
        }
        let (product, mask) = unmasked(g, logits)?;
        let (product, mut scale) = unscaled(g, product);
        let [queries, turned] = inputs(g, product, "MatMul").ok_or("")?;
        let (queries, factor) = unscaled(g, queries);
        scale *= factor;
        let (turned, factor) = unscaled(g, turned);
        scale *= factor;
        let (transpose, _) = g.producer(turned).filter(|_| g.sole_use(turned).is_some()).ok_or("")?;
        let perm = g.op(transpose).ints("perm").filter(|perm| perm.len() == 4).ok_or("")?;
        if !g.op(transpose).is("Transpose") {
            return Err("");
        }
        let perm = vec![perm[0], perm[1], perm[3], perm[2]];
        let (keys, factor) = unscaled(g, g.input(transpose, 0).ok_or("")?);
        scale *= factor;
        let parts =
            Parts { queries, keys: (keys, perm), values: g.input(last, 1).ok_or("")?, mask, scale, last };
        parts.check(g, turned)?;
        Ok(parts)
    }

    /// Whether types and shapes are what the operator asks for; `turned` are the keys, transposed.
    fn check(&self, g: &Graph, turned: ValueId) -> Result<(), Miss> {
        const OPEN: Miss = "batch and heads of queries, keys and values are not known to be the same";
        if !matches!(g.dtype(self.queries), Some(DType::F32 | DType::F16 | DType::BF16)) {
            return Err("the queries are not 16- or 32-bit floating point");
        }
        let shape = |v| g.shape(v).filter(|shape| shape.len() == 4).ok_or(OPEN);
        let (q, k, v) = (shape(self.queries)?, shape(turned)?, shape(self.values)?);
        if !(0..2).all(|axis| same(&q[axis], &k[axis]) && same(&q[axis], &v[axis])) {
            return Err(OPEN);
        }
        if self.scale <= 0.0 || !(self.scale as f32).is_normal() {
            return Err("the scale is not positive");
        }
        let Some(mask) = self.mask else { return Ok(()) };
        let mask = g
            .shape(mask)
            .filter(|mask| (2..=4).contains(&mask.len()))
            .ok_or("the mask has no rank of 2 to 4")?;
        let (outer, inner) = mask.split_at(mask.len() - 2);
        if !same(&inner[0], &q[2]) || !same(&inner[1], &k[3]) {
            return Err("the mask is not known to have all queries and keys");
        }
        let broadcasts = |(from, to): (&Dim, &Dim)| from.known() == Some(1) || same(from, to);
        let fits = outer.iter().rev().zip([&q[1], &q[0]]).all(broadcasts);
        if fits { Ok(()) } else { Err("the mask does not fit batch and heads") }
    }

    fn join(self, g: &mut Graph) {
        let (mut keys, perm) = self.keys;
        if perm != [0, 1, 2, 3] {
            let hint = format!("{}_turned", g.name_of(keys));
            keys = g.add_node(Op::new("Transpose", "").with("perm", perm), &[keys], &hint, None);
        }
        let name = g.op(self.last).name.clone();
        *g.op_mut(self.last) = Op::new("Attention", name).with("scale", self.scale as f32);
        let mut inputs = vec![Some(self.queries), Some(keys), Some(self.values)];
        inputs.extend(self.mask.map(Some));
        g.set_inputs(self.last, &inputs);
    }
}

/// Whether two dimensions are known to be the same.
fn same(a: &Dim, b: &Dim) -> bool {
    *a != Dim::Unknown && a == b
}

/// The two inputs of the op that computes a value, if it is of this type and computes it for one reader.
fn inputs(g: &Graph, v: ValueId, kind: &str) -> Option<[ValueId; 2]> {
    let (op, _) = g.producer(v)?;
    g.sole_use(v)?;
    let of_kind = g.op(op).is(kind);
    Some([g.input(op, 0)?, g.input(op, 1)?]).filter(|_| of_kind)
}

/// What a value is without the mask added to it, and the mask: the other side is a product, or one times a number.
fn unmasked(g: &Graph, v: ValueId) -> Result<(ValueId, Option<ValueId>), Miss> {
    let Some([a, b]) = inputs(g, v, "Add") else { return Ok((v, None)) };
    let is_product = |v| inputs(g, unscaled(g, v).0, "MatMul").is_some();
    match (is_product(a), is_product(b)) {
        (true, _) => Ok((a, Some(b))),
        (_, true) => Ok((b, Some(a))),
        _ => Err(""),
    }
}

/// What a value is without the one constant factor of its last op, and that factor.
fn unscaled(g: &Graph, v: ValueId) -> (ValueId, f64) {
    let number = |c| {
        let constant = g.constant(c).filter(|t| g.rank(v).is_some_and(|rank| t.rank() <= rank))?;
        constant.scalar_f32().map(f64::from)
    };
    let product = inputs(g, v, "Mul").and_then(|[a, b]| match (number(a), number(b)) {
        (None, Some(factor)) => Some((a, factor)),
        (Some(factor), None) => Some((b, factor)),
        _ => None,
    });
    let quotient = || {
        let [a, b] = inputs(g, v, "Div")?;
        Some((a, 1.0 / number(b)?))
    };
    product.or_else(quotient).unwrap_or((v, 1.0))
}
