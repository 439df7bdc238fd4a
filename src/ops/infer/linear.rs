//! Shape rules of matrix products, recurrent layers and attention.

use super::{
    call::{Call, Found, add, broadcast, broadcast_size, mul, shaped, sub},
    expr::Expr,
    fact::{Fact, Size, len, num},
};
use std::collections::BTreeMap;

pub(super) fn matmul(c: &Call<'_>) -> Found {
    let second = match &*c.op.op_type {
        "QLinearMatMul" => 3,
        _ => 1,
    };
    let (a, b) = (c.shape(0)?, c.shape(second)?);
    // A vector counts as a matrix of one row or column, which the result does not keep.
    let (a_batch, m) = match a {
        [] => return None,
        [_] => (&a[..0], None),
        _ => (&a[..a.len() - 2], Some(a[a.len() - 2].clone())),
    };
    let (b_batch, n) = match b {
        [] => return None,
        [_] => (&b[..0], None),
        _ => (&b[..b.len() - 2], Some(b[b.len() - 1].clone())),
    };
    let mut out = broadcast(a_batch, b_batch);
    out.extend(m.into_iter().chain(n));
    shaped(out)
}

pub(super) fn gemm(c: &Call<'_>) -> Found {
    let side = |slot: usize, transposed: &str, k: usize| {
        c.shape(slot).and_then(|s| s.get(if c.flag(transposed) { 1 - k } else { k })?.clone())
    };
    shaped(vec![side(0, "transA", 0), side(1, "transB", 1)])
}

pub(super) fn einsum(c: &Call<'_>) -> Found {
    let equation: String = c.op.str("equation")?.chars().filter(|ch| !ch.is_whitespace()).collect();
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (&*equation, None),
    };
    let terms: Vec<&str> = left.split(',').collect();
    if terms.len() != c.inputs.len() {
        return None;
    }
    let mut sizes: BTreeMap<char, Size> = BTreeMap::new();
    let mut seen: BTreeMap<char, usize> = BTreeMap::new();
    let mut rest: Vec<Size> = Vec::new();
    for (k, term) in terms.iter().enumerate() {
        let s = c.shape(k)?;
        let (before, after) = term.split_once("...").unwrap_or((term, ""));
        let named = before.chars().count() + after.chars().count();
        let middle = s.len().checked_sub(named)?;
        if middle > 0 && !term.contains("...") {
            return None;
        }
        let start = before.chars().count();
        rest = broadcast(&rest, &s[start..start + middle]);
        let letters = before.chars().zip(&s[..start]).chain(after.chars().zip(&s[start + middle..]));
        for (ch, d) in letters {
            *seen.entry(ch).or_default() += 1;
            let known = sizes.entry(ch).or_insert_with(|| d.clone());
            *known = broadcast_size(known, d);
        }
    }
    let implicit = || {
        let once = seen.iter().filter(|(_, n)| **n == 1).map(|(ch, _)| *ch);
        format!("{}{}", if left.contains("...") { "..." } else { "" }, once.collect::<String>())
    };
    let right = right.map_or_else(implicit, str::to_owned);
    let (before, after) = right.split_once("...").unwrap_or((&right, ""));
    let letters = |part: &str| part.chars().map(|ch| sizes.get(&ch).cloned()).collect::<Option<Vec<Size>>>();
    let middle = if right.contains("...") { rest } else { vec![] };
    shaped([letters(before)?, middle, letters(after)?].concat())
}

pub(super) fn recurrent(c: &Call<'_>) -> Found {
    let x = c.shape(0)?;
    let [a, b, _] = x else { return None };
    let hidden = match (c.op.int("hidden_size"), c.shape(2)) {
        (Some(h), _) => num(h),
        (None, Some(r)) => r.get(2)?.clone(),
        _ => None,
    };
    let directions = num(if c.op.str("direction") == Some("bidirectional") { 2 } else { 1 });
    let (all, last) = if c.flag("layout") {
        (vec![a.clone(), b.clone(), directions.clone(), hidden.clone()], vec![a.clone(), directions, hidden])
    } else {
        (vec![a.clone(), directions.clone(), b.clone(), hidden.clone()], vec![directions, b.clone(), hidden])
    };
    Some(vec![Fact::shaped(all), Fact::shaped(last.clone()), Fact::shaped(last)])
}

/// ONNX's Attention: 4-d inputs `[batch, heads, seq, size]`, or 3-d ones `[batch, seq, heads*size]`.
pub(super) fn attention(c: &Call<'_>) -> Found {
    let (q, k, v) = (c.shape(0)?, c.shape(1)?, c.shape(2)?);
    let heads = |name: &str| c.op.int(name).filter(|h| *h > 0);
    let split = |s: &[Size], name: &str| -> Option<[Size; 4]> {
        match s {
            [b, h, s, d] => Some([b.clone(), h.clone(), s.clone(), d.clone()]),
            [b, s, w] => {
                let h = heads(name)?;
                let d = w.as_ref().and_then(|w| w.exact_div(&Expr::from(h)));
                Some([b.clone(), num(h), s.clone(), d])
            }
            _ => None,
        }
    };
    let [qb, qh, qs, _] = split(q, "q_num_heads")?;
    let [kb, kh, ks, kd] = split(k, "kv_num_heads")?;
    let [_, vh, vs, vd] = split(v, "kv_num_heads")?;
    let past = |slot: usize| match c.input(slot) {
        None => num(0),
        Some(f) => f.shape.as_ref().and_then(|s| s.get(2)?.clone()),
    };
    let y = match q.len() {
        4 => vec![qb.clone(), qh.clone(), qs.clone(), vd.clone()],
        _ => vec![qb.clone(), qs.clone(), mul(&qh, &vd)],
    };
    let (keys, values) = (add(&past(4), &ks), add(&past(5), &vs));
    Some(vec![
        Fact::shaped(y),
        Fact::shaped(vec![kb.clone(), kh, keys.clone(), kd]),
        Fact::shaped(vec![kb, vh, values, vd]),
        Fact::shaped(vec![qb, qh, qs, keys]),
    ])
}

/// Normalizations with statistics as further outputs: over `axis` and the axes behind it.
pub(super) fn layer_norm(c: &Call<'_>) -> Found {
    let s = c.shape(0)?;
    let at = c.axis(-1, s.len())?;
    let stat = [&s[..at], &vec![num(1); s.len() - at]].concat();
    Some(vec![Fact::shaped(s.to_vec()), Fact::shaped(stat.clone()), Fact::shaped(stat)])
}

/// BatchNormalization: statistics are vectors over the channels.
pub(super) fn batch_norm(c: &Call<'_>) -> Found {
    let vector = |slot: usize| Fact { shape: c.shape(slot).map(<[Size]>::to_vec), ..Fact::default() };
    let y = Fact { shape: c.shape(0).map(<[Size]>::to_vec), ..Fact::default() };
    Some(vec![y, vector(3), vector(4), vector(3), vector(4)])
}

/// Fourier transforms over one axis, complex numbers as a last axis of 2.
pub(super) fn dft(c: &Call<'_>) -> Found {
    let s = c.shape(0)?;
    let given = match (c.opset, c.input(2)) {
        (20.., Some(axis)) => axis.scalar().and_then(Expr::number),
        (20.., None) => Some(-2),
        _ => Some(c.op.int("axis").unwrap_or(1)),
    };
    let (onesided, inverse) = (c.flag("onesided"), c.flag("inverse"));
    let mut out = match (given, c.input(1)) {
        (Some(a), length) => {
            let a = crate::ops::fold::index::axis(a, s.len())?;
            let n = match length {
                Some(f) => f.scalar().cloned(),
                None if onesided && inverse => mul(&sub(&s[a], &num(1)), &num(2)),
                None => s[a].clone(),
            };
            let half = |n: Expr| n.floor_div(2)?.add(&Expr::from(1));
            let mut out = s.to_vec();
            out[a] = if onesided && !inverse { n.and_then(half) } else { n };
            out
        }
        // Along whichever axis, its length stays.
        (None, None) if !onesided => s.to_vec(),
        _ => vec![None; s.len()],
    };
    *out.last_mut()? = num(if onesided && inverse { 1 } else { 2 });
    shaped(out)
}

/// LinearAttention: packed inputs `[batch, steps, heads*size]`, and a state `[batch, heads, size of keys, of values]`.
pub(super) fn linear_attention(c: &Call<'_>) -> Found {
    let [batch, steps, _] = c.shape(0)? else { return None };
    let (queries, heads) = (c.op.int("q_num_heads")?, c.op.int("kv_num_heads").filter(|h| *h > 0)?);
    let size = |slot: usize| c.shape(slot)?.get(2)?.as_ref()?.exact_div(&Expr::from(heads));
    let y = vec![batch.clone(), steps.clone(), mul(&num(queries), &size(2))];
    Some(vec![Fact::shaped(y), Fact::shaped(vec![batch.clone(), num(heads), size(1), size(2)])])
}

pub(super) fn stft(c: &Call<'_>) -> Found {
    let s = c.shape(0)?;
    let step = c.input(1)?.scalar()?.number()?;
    let frame = match (c.input(3), c.shape(2)) {
        (Some(f), _) => f.scalar().cloned(),
        (None, Some(window)) => window.first()?.clone(),
        (None, None) => None,
    };
    let room = s
        .get(1)?
        .as_ref()
        .zip(frame.as_ref())
        .and_then(|(n, f)| n.sub(f)?.floor_div(step)?.add(&Expr::from(1)));
    let bins = match c.op.int("onesided").unwrap_or(1) {
        0 => frame,
        _ => frame.and_then(|f| f.floor_div(2)?.add(&Expr::from(1))),
    };
    shaped(vec![s.first()?.clone(), room, bins, len(2)])
}
