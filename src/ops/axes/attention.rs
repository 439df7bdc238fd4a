//! Axis rules of attention as one operator: ONNX's Attention and RotaryEmbedding, and ONNX Runtime's Attention (with the
//! projections in it), MultiHeadAttention, GroupQueryAttention and RotaryEmbedding.
//!
//! Heads are `(k r)`: every head of keys and values serves `r` heads of queries. Packed axes are `(k r d)` for queries,
//! `(k d)` for keys, `(k e)` for values and `(k r e)` for the output. Forms with a past or with more outputs than one are
//! covered for GroupQueryAttention alone.

use super::{
    factor::{Factor, Factors, WORKED_ALONG},
    flow::Flow,
    rewrite::{Extent, Rewrite},
};
use crate::ir::OpId;

/// Applies the rule of an op. `None`: it is no attention, or not of the form that is covered.
pub(super) fn apply(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    let node = flow.graph.op(op);
    match (&*node.domain, &*node.op_type) {
        ("" | "ai.onnx", "Attention") => standard(flow, op),
        ("com.microsoft", "Attention") => projecting(flow, op),
        ("com.microsoft", "MultiHeadAttention") => multi_head(flow, op),
        ("com.microsoft", "GroupQueryAttention") => grouped(flow, op),
        ("" | "ai.onnx" | "com.microsoft", "RotaryEmbedding") => rotary(flow, op),
        _ => None,
    }
}

/// The axes of heads.
struct Heads {
    /// Heads of keys and values.
    k: Factor,
    /// Heads of queries for each of those.
    r: Factor,
    /// The width of a head of queries and keys.
    d: Factor,
    /// The width of a head of values.
    e: Factor,
}

impl Heads {
    /// `None` where the numbers do not fit each other.
    fn new(flow: &mut Flow<'_>, queries: usize, keys: usize, d: usize, e: usize) -> Option<Heads> {
        let fits = keys > 0 && d > 0 && e > 0 && queries > 0 && queries.is_multiple_of(keys);
        let mut leaf = |n| flow.arena.leaf(Some(n));
        fits.then(|| Heads { k: leaf(keys), r: leaf(queries / keys), d: leaf(d), e: leaf(e) })
    }
    /// The heads of queries.
    fn all(&self, flow: &mut Flow<'_>) -> Factor {
        flow.arena.product(&[self.k, self.r])
    }
    fn queries(&self, flow: &mut Flow<'_>) -> Factor {
        flow.arena.product(&[self.k, self.r, self.d])
    }
    fn keys(&self, flow: &mut Flow<'_>) -> Factor {
        flow.arena.product(&[self.k, self.d])
    }
    fn values(&self, flow: &mut Flow<'_>) -> Factor {
        flow.arena.product(&[self.k, self.e])
    }
    fn output(&self, flow: &mut Flow<'_>) -> Factor {
        flow.arena.product(&[self.k, self.r, self.e])
    }
    /// Scores are divided by the root of the width where no scale is given: by that of the original.
    fn keep_scale(&self, flow: &mut Flow<'_>, op: OpId) {
        let given = flow.graph.op(op).float("scale").filter(|s| *s != 0.0);
        if let (None, Some(width)) = (given, flow.arena.size(self.d)) {
            let value = 1.0 / (width as f32).sqrt();
            flow.rewrites.push(Rewrite::Float { op, name: "scale".to_owned(), value, factor: self.d });
        }
    }
}

fn attribute(flow: &Flow<'_>, op: OpId, name: &str) -> Option<usize> {
    flow.graph.op(op).int(name).and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0)
}
fn follow(flow: &mut Flow<'_>, op: OpId, name: &str, factor: Factor) {
    flow.rewrites.push(Rewrite::Attr { op, name: name.to_owned(), factor });
}
/// Whether nothing is given or put out from this slot on.
fn ends(flow: &Flow<'_>, op: OpId, inputs: usize, outputs: usize) -> bool {
    let none = |slots: crate::ir::Slots, from: usize| slots.iter().skip(from).all(Option::is_none);
    none(flow.graph.inputs_of(op), inputs) && none(flow.graph.outputs_of(op), outputs)
}
/// What is added to the scores, `[.., heads, queries, keys]`: only its heads can shrink.
fn mask(flow: &mut Flow<'_>, op: OpId, slot: usize, heads: Factor) -> Option<()> {
    let Some(v) = flow.graph.input(op, slot) else { return Some(()) };
    let dims = flow.dims(v)?;
    let at = dims.len().checked_sub(3);
    for (k, f) in dims.iter().enumerate() {
        if Some(k) == at && flow.arena.size(*f) != Some(1) {
            flow.arena.unify(*f, heads);
        } else {
            flow.arena.freeze(*f, WORKED_ALONG);
        }
    }
    Some(())
}
/// Batches are the same, rows of queries and of the output, and rows of keys and values, over which a softmax runs.
fn rows(flow: &mut Flow<'_>, q: [Factor; 2], k: [Factor; 2], v: [Factor; 2], y: [Factor; 2]) {
    for other in [k, v, y] {
        flow.arena.unify(q[0], other[0]);
    }
    flow.arena.unify(q[1], y[1]);
    flow.arena.unify(k[1], v[1]);
    flow.arena.mark_statistic(k[1]);
}

fn standard(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    if !ends(flow, op, 4, 1) {
        return None;
    }
    let (q, k, v, y) = (flow.input(op, 0)?, flow.input(op, 1)?, flow.input(op, 2)?, flow.output(op, 0)?);
    let size = |flow: &Flow<'_>, f: Factor| flow.arena.size(f);
    let heads = match (&q[..], &k[..], &v[..], &y[..]) {
        ([qb, qh, ql, qd], [kb, kh, ks, kd], [vb, vh, vs, ve], [yb, yh, yl, ye]) => {
            let (queries, keys) = (size(flow, *qh)?, size(flow, *kh)?);
            let (d, e) = (size(flow, *qd)?, size(flow, *ve)?);
            let heads = Heads::new(flow, queries, keys, d, e)?;
            let all = heads.all(flow);
            for (f, is) in [(qh, all), (kh, heads.k), (vh, heads.k), (yh, all)] {
                flow.arena.unify(*f, is);
            }
            for (f, is) in [(qd, heads.d), (kd, heads.d), (ve, heads.e), (ye, heads.e)] {
                flow.arena.unify(*f, is);
            }
            rows(flow, [*qb, *ql], [*kb, *ks], [*vb, *vs], [*yb, *yl]);
            heads
        }
        ([qb, ql, qw], [kb, ks, kw], [vb, vs, vw], [yb, yl, yw]) => {
            let queries = attribute(flow, op, "q_num_heads")?;
            let keys = attribute(flow, op, "kv_num_heads")?;
            let (d, e) = (size(flow, *kw)? / keys, size(flow, *vw)? / keys);
            let heads = Heads::new(flow, queries, keys, d, e)?;
            for (f, is) in [
                (qw, heads.queries(flow)),
                (kw, heads.keys(flow)),
                (vw, heads.values(flow)),
                (yw, heads.output(flow)),
            ] {
                flow.arena.unify(*f, is);
            }
            rows(flow, [*qb, *ql], [*kb, *ks], [*vb, *vs], [*yb, *yl]);
            let all = heads.all(flow);
            follow(flow, op, "q_num_heads", all);
            follow(flow, op, "kv_num_heads", heads.k);
            heads
        }
        _ => return None,
    };
    scored(flow, op, &heads)?;
    let all = heads.all(flow);
    mask(flow, op, 3, all)
}

/// Scores are sums over the width of a head, of queries and keys that both are computed.
fn scored(flow: &mut Flow<'_>, op: OpId, heads: &Heads) -> Option<()> {
    let operands = vec![flow.graph.input(op, 0)?, flow.graph.input(op, 1)?];
    flow.sums.push((operands, heads.d));
    heads.keep_scale(flow, op);
    Some(())
}

/// `[batch, rows, size]` by `[size, queries ++ keys ++ values]`.
fn projecting(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    let extra = flow.graph.input(op, 4).is_some() || flow.graph.op(op).int("do_rotary").unwrap_or(0) != 0;
    if extra || !ends(flow, op, 6, 1) {
        return None;
    }
    let (x, w, y) = (flow.input(op, 0)?, flow.input(op, 1)?, flow.output(op, 0)?);
    let ([xb, xl, xi], [wi, wo], [yb, yl, yw]) = (&x[..], &w[..], &y[..]) else { return None };
    let n = attribute(flow, op, "num_heads")?;
    let (all, out) = (flow.arena.size(*wo)?, flow.arena.size(*yw)?);
    let heads = Heads::new(flow, n, n, all.checked_sub(out)? / 2 / n, out / n)?;
    let parts = [heads.keys(flow), heads.keys(flow), heads.values(flow)];
    let (packed, output) = (flow.arena.concat(&parts), heads.output(flow));
    for (f, is) in [(wi, *xi), (wo, packed), (yb, *xb), (yl, *xl), (yw, output)] {
        flow.arena.unify(*f, is);
    }
    if let Some(v) = flow.graph.input(op, 2) {
        let bias = flow.dims(v)?;
        flow.arena.unify(*bias.first()?, packed);
    }
    if let Some(v) = flow.graph.input(op, 3) {
        flow.freeze_value(v, WORKED_ALONG);
    }
    flow.arena.mark_statistic(*xl);
    follow(flow, op, "num_heads", heads.k);
    let extents = parts.into_iter().map(Extent::of).collect();
    flow.rewrites.push(Rewrite::Ints { op, name: "qkv_hidden_sizes".to_owned(), extents });
    heads.keep_scale(flow, op);
    mask(flow, op, 5, heads.k)
}

fn multi_head(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    if !ends(flow, op, 6, 1) {
        return None;
    }
    let (q, y) = (flow.input(op, 0)?, flow.output(op, 0)?);
    let (k, v) = (flow.input(op, 1)?, flow.input(op, 2)?);
    let n = attribute(flow, op, "num_heads")?;
    let ([qb, ql, qw], [yb, yl, yw]) = (&q[..], &y[..]) else { return None };
    let (d, e) = (flow.arena.size(*qw)? / n, flow.arena.size(*yw)? / n);
    let heads = Heads::new(flow, n, n, d, e)?;
    let (keys, values) = (heads.keys(flow), heads.values(flow));
    let mut place = |dims: &Factors, packed: Factor, width: Factor| match dims[..] {
        [b, s, w] => {
            flow.arena.unify(w, packed);
            Some([b, s])
        }
        [b, h, s, w] => {
            flow.arena.unify(h, heads.k);
            flow.arena.unify(w, width);
            Some([b, s])
        }
        _ => None,
    };
    let (k, v) = (place(&k, keys, heads.d)?, place(&v, values, heads.e)?);
    flow.arena.unify(*qw, keys);
    flow.arena.unify(*yw, values);
    rows(flow, [*qb, *ql], k, v, [*yb, *yl]);
    if let Some(bias) = flow.graph.input(op, 3) {
        let (bias, packed) = (flow.dims(bias)?, flow.arena.concat(&[keys, keys, values]));
        flow.arena.unify(*bias.first()?, packed);
    }
    if let Some(padding) = flow.graph.input(op, 4) {
        flow.freeze_value(padding, WORKED_ALONG);
    }
    follow(flow, op, "num_heads", heads.k);
    scored(flow, op, &heads)?;
    mask(flow, op, 5, heads.k)
}

/// The widths of heads stay: the operator takes certain ones alone. What is past and present keeps the heads of keys and
/// values where it comes from outside.
fn grouped(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    if !ends(flow, op, 9, 3) {
        return None;
    }
    let (q, y) = (flow.input(op, 0)?, flow.output(op, 0)?);
    let (queries, keys) = (attribute(flow, op, "num_heads")?, attribute(flow, op, "kv_num_heads")?);
    let ([qb, ql, qw], [yb, yl, yw]) = (&q[..], &y[..]) else { return None };
    let width = flow.arena.size(*yw)? / queries;
    let heads = Heads::new(flow, queries, keys, width, width)?;
    [heads.d, heads.e].into_iter().for_each(|f| flow.arena.freeze(f, WORKED_ALONG));
    let (one, all, out) = (heads.keys(flow), heads.queries(flow), heads.output(flow));
    match (flow.graph.input(op, 1), flow.graph.input(op, 2)) {
        (Some(k), Some(v)) => {
            flow.arena.unify(*qw, all);
            for v in [k, v] {
                let dims = flow.dims(v)?;
                let [b, s, w] = dims[..] else { return None };
                flow.arena.unify(w, one);
                flow.arena.unify(b, *qb);
                flow.arena.freeze(s, WORKED_ALONG);
            }
        }
        (None, None) => {
            let packed = flow.arena.concat(&[all, one, one]);
            flow.arena.unify(*qw, packed);
        }
        _ => return None,
    }
    for (f, is) in [(yb, *qb), (yl, *ql), (yw, out)] {
        flow.arena.unify(*f, is);
    }
    flow.arena.freeze(*ql, WORKED_ALONG);
    let states = [flow.input(op, 3), flow.input(op, 4), flow.output(op, 1), flow.output(op, 2)];
    for dims in states.into_iter().flatten() {
        let [b, h, s, w] = dims[..] else { return None };
        flow.arena.unify(h, heads.k);
        flow.arena.unify(b, *qb);
        flow.arena.freeze(s, WORKED_ALONG);
        flow.arena.freeze(w, WORKED_ALONG);
    }
    for v in (5..9).filter_map(|slot| flow.graph.input(op, slot)) {
        flow.freeze_value(v, WORKED_ALONG);
    }
    let all = heads.all(flow);
    follow(flow, op, "num_heads", all);
    follow(flow, op, "kv_num_heads", heads.k);
    Some(())
}

/// Each head is turned by itself, along all of its width, by tables.
fn rotary(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    let (x, y) = (flow.input(op, 0)?, flow.output(op, 0)?);
    if x.len() != y.len() {
        return None;
    }
    x.iter().zip(&y).for_each(|(x, y)| flow.arena.unify(*x, *y));
    match x[..] {
        [_, _, _, width] => flow.arena.freeze(width, WORKED_ALONG),
        [_, _, packed] => {
            let n = attribute(flow, op, "num_heads")?;
            let width = flow.arena.size(packed)?.checked_div(n)?;
            let (heads, width) = (flow.arena.leaf(Some(n)), flow.arena.leaf(Some(width)));
            flow.arena.freeze(width, WORKED_ALONG);
            let nested = flow.arena.product(&[heads, width]);
            flow.arena.unify(packed, nested);
            follow(flow, op, "num_heads", heads);
        }
        _ => return None,
    }
    for v in (1..4).filter_map(|slot| flow.graph.input(op, slot)) {
        flow.freeze_value(v, WORKED_ALONG);
    }
    Some(())
}
