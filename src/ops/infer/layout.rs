//! Shape rules of operators that rearrange, cut and join.

use super::{
    call::{Call, Found, add, broadcast, mul, number, product, scale, shaped, sub, unknown},
    expr::Expr,
    fact::{Fact, Size, len, num},
};
use crate::ops::fold::{index, moves, shape_range};

pub(super) fn reshape(c: &Call<'_>) -> Found {
    let data = c.input(0)?;
    let target = match c.op.ints("shape") {
        Some(list) => list.iter().map(|n| num(*n)).collect(),
        None => match &c.input(1)?.values {
            Some(values) => values.clone(),
            // Only the rank is known.
            None => return shaped(unknown(c.shape(1)?)?),
        },
    };
    let keep_zero = c.flag("allowzero");
    let mut out: Vec<Size> = Vec::with_capacity(target.len());
    let (mut rest, mut unsure) = (None, 0usize);
    for (k, size) in target.iter().enumerate() {
        match number(size) {
            Some(0) if !keep_zero => out.push(data.shape.as_ref().and_then(|s| s.get(k)?.clone())),
            Some(-1) => {
                rest = Some(k);
                out.push(num(1));
            }
            // A symbolic element may be 0 in a run only where an extent is; -1 it never is.
            _ => out.push(size.clone().filter(Expr::is_natural)),
        }
        unsure += usize::from(size.is_none());
    }
    if let Some(k) = rest {
        out[k] = remainder(data.shape.as_deref(), &out);
    } else if let Some(all) = &data.shape
        && unsure == 1
        && let Some(k) = target.iter().position(Option::is_none)
    {
        // The only unknown element may be the -1.
        out[k] = num(1);
        out[k] = remainder(Some(all), &out);
    }
    shaped(out)
}

/// What a Reshape's -1 stands for. Extents that stand on both sides cancel, also unknown ones of equal name.
fn remainder(from: Option<&[Size]>, to: &[Size]) -> Size {
    let (mut from, mut to) = (from?.to_vec(), to.to_vec());
    to.retain(|size| match from.iter().position(|f| f == size && f.is_some()) {
        Some(k) => {
            from.remove(k);
            false
        }
        None => true,
    });
    product(&from)?.exact_div(&product(&to)?)
}

pub(super) fn flatten(c: &Call<'_>) -> Found {
    let s = c.shape(0)?;
    let at = match c.op.int("axis").unwrap_or(1) {
        a if a == s.len() as i64 => s.len(),
        a => index::axis(a, s.len())?,
    };
    shaped(vec![product(&s[..at]), product(&s[at..])])
}

pub(super) fn transpose(c: &Call<'_>) -> Found {
    let s = c.shape(0)?;
    shaped(moves::permutation(c.op, s.len())?.into_iter().map(|k| s[k].clone()).collect())
}

pub(super) fn squeeze(c: &Call<'_>) -> Found {
    let s = c.shape(0)?;
    let gone = match c.list("axes", 1).ok()? {
        Some(given) => index::axes(&given, s.len())?,
        None => {
            // Without axes every extent must be known to be 1 or not.
            let sizes: Vec<i64> = s.iter().map(number).collect::<Option<_>>()?;
            (0..s.len()).filter(|k| sizes[*k] == 1).collect()
        }
    };
    shaped((0..s.len()).filter(|k| !gone.contains(k)).map(|k| s[k].clone()).collect())
}

pub(super) fn unsqueeze(c: &Call<'_>) -> Found {
    let given = c.list("axes", 1).ok()??;
    let mut s = c.shape(0)?.to_vec();
    for at in index::axes(&given, s.len() + given.len())? {
        s.insert(at, num(1));
    }
    shaped(s)
}

pub(super) fn expand(c: &Call<'_>) -> Found {
    let s = c.shape(0)?;
    match &c.input(1)?.values {
        Some(target) => {
            let target: Vec<Size> = target.iter().map(|t| t.clone().filter(Expr::is_natural)).collect();
            shaped(broadcast(s, &target))
        }
        None => shaped(broadcast(s, &unknown(c.shape(1)?)?)),
    }
}

pub(super) fn tile(c: &Call<'_>) -> Found {
    let s = c.shape(0)?;
    match &c.input(1)?.values {
        Some(repeats) if repeats.len() == s.len() => {
            shaped(s.iter().zip(repeats).map(|(d, r)| mul(d, r)).collect())
        }
        _ => shaped(vec![None; s.len()]),
    }
}

pub(super) fn concat(c: &Call<'_>) -> Found {
    let rank = (0..c.inputs.len()).find_map(|k| Some(c.shape(k)?.len()))?;
    let at = index::axis(c.op.int("axis").unwrap_or(1), rank)?;
    let mut out: Vec<Size> = vec![None; rank];
    let mut sum = num(0);
    for k in 0..c.inputs.len() {
        match c.shape(k).filter(|s| s.len() == rank) {
            Some(s) => {
                sum = add(&sum, &s[at]);
                for (o, d) in out.iter_mut().zip(s) {
                    // All agree, so the most definite one says it.
                    if o.is_none() || number(d).is_some() {
                        o.clone_from(d);
                    }
                }
            }
            None => sum = None,
        }
    }
    out[at] = sum;
    shaped(out)
}

pub(super) fn split(c: &Call<'_>) -> Found {
    let s = c.shape(0)?;
    let at = c.axis(0, s.len())?;
    let part = |size: Size| {
        let mut shape = s.to_vec();
        shape[at] = size;
        Fact::shaped(shape)
    };
    let given = c.list("split", 1);
    if let (Ok(Some(sizes)), None) = (&given, number(&s[at])) {
        return Some(sizes.iter().map(|n| part(num(*n))).collect());
    }
    if let (Err(()), Some(values)) = (&given, c.input(1).and_then(|f| f.values.as_ref())) {
        return Some(values.iter().map(|n| part(n.clone())).collect());
    }
    match (given, number(&s[at])) {
        (Ok(given), Some(n)) => {
            let sizes = moves::split_sizes(given, c.outputs, usize::try_from(n).ok()?)?;
            Some(sizes.into_iter().map(|n| part(len(n))).collect())
        }
        (Ok(None), None) => {
            let n = i64::try_from(c.outputs).ok()?;
            // Up to version 13 all parts are equal; later ones may be smaller at the end.
            let chunk =
                s[at].as_ref().and_then(|s| if c.opset < 18 { s.floor_div(n) } else { s.ceil_div(n) });
            let size = |k: i64| match (k, c.opset < 18) {
                (0, _) | (_, true) => chunk.clone(),
                _ => sub(&s[at], &mul(&chunk, &num(k)))?.positive()?.smaller(chunk.as_ref()?),
            };
            Some((0..n).map(|k| part(size(k))).collect())
        }
        _ => Some((0..c.outputs).map(|_| part(None)).collect()),
    }
}

pub(super) fn slice(c: &Call<'_>) -> Found {
    let s = c.shape(0)?;
    let values = |name: &str, slot: usize| match c.op.ints(name) {
        Some(list) => Some(list.iter().map(|n| num(*n)).collect::<Vec<Size>>()),
        None => c.input(slot)?.values.clone(),
    };
    let axes = match c.list("axes", 3) {
        Ok(Some(axes)) => axes,
        Ok(None) => match values("starts", 1).map(|v| v.len()) {
            Some(n) => (0..n as i64).collect(),
            None => return shaped(vec![None; s.len()]),
        },
        Err(()) => return shaped(vec![None; s.len()]),
    };
    let (starts, ends) = (values("starts", 1), values("ends", 2));
    let steps = c.list("steps", 4);
    let mut out = s.to_vec();
    for (k, a) in axes.iter().enumerate() {
        let a = index::axis(*a, s.len())?;
        let at = |v: &Option<Vec<Size>>| v.as_ref().and_then(|v| v.get(k)?.clone());
        let step = match &steps {
            Ok(None) => Some(1),
            Ok(Some(list)) => list.get(k).copied(),
            Err(()) => None,
        };
        out[a] = step.and_then(|step| slice_size(&s[a], &at(&starts), &at(&ends), step));
    }
    shaped(out)
}

/// The extent of a slice of one axis.
fn slice_size(size: &Size, start: &Size, end: &Size, step: i64) -> Size {
    if let (Some(n), Some(s), Some(e)) = (number(size), number(start), number(end)) {
        return len(moves::slice_bounds(s, e, step, usize::try_from(n).ok()?)?.1);
    }
    // Both bounds as positions in 0..=size.
    let size = size.as_ref()?;
    let far = i64::from(i32::MAX);
    let position = |x: &Size| match number(x) {
        Some(0) => num(0),
        Some(n) if n >= far => Some(size.clone()),
        Some(n) if n <= -far => num(0),
        Some(n) if n < 0 => size.add(&Expr::from(n))?.positive(),
        _ => x.as_ref().filter(|x| x.is_natural())?.smaller(size),
    };
    match step {
        1.. => {
            let (start, end) = (position(start)?, position(end)?);
            // What ends behind the start of an axis is a position, and so never negative.
            let length = if start == Expr::from(0) { end } else { end.sub(&start)?.positive()? };
            length.ceil_div(step)
        }
        -1 if number(start) == Some(-1) && number(end).is_some_and(|e| e <= -far) => Some(size.clone()),
        _ => None,
    }
}

pub(super) fn pad(c: &Call<'_>) -> Found {
    let s = c.shape(0)?;
    let attribute = c.op.ints("pads").or(c.op.ints("paddings"));
    let pads = match attribute {
        Some(list) => Some(list.iter().map(|n| num(*n)).collect::<Vec<Size>>()),
        None => c.input(1).and_then(|f| f.values.clone()),
    };
    let axes = match c.list("axes", 3) {
        Ok(Some(axes)) => axes.iter().map(|a| index::axis(*a, s.len())).collect::<Option<Vec<_>>>()?,
        Ok(None) => (0..s.len()).collect(),
        Err(()) => return shaped(vec![None; s.len()]),
    };
    let mut out = s.to_vec();
    for (k, a) in axes.iter().enumerate() {
        let side = |at: usize| pads.as_ref().and_then(|p| p.get(at)?.clone());
        out[*a] = add(&add(&s[*a], &side(k)), &side(k + axes.len()));
    }
    shaped(out)
}

pub(super) fn gather(c: &Call<'_>) -> Found {
    let (s, k) = (c.shape(0)?, c.shape(1)?);
    let at = c.axis(0, s.len())?;
    shaped([&s[..at], k, &s[at + 1..]].concat())
}

pub(super) fn gather_nd(c: &Call<'_>) -> Found {
    let (s, k) = (c.shape(0)?, c.shape(1)?);
    let (last, lead) = k.split_last()?;
    let batch = usize::try_from(c.op.int("batch_dims").unwrap_or(0)).ok()?;
    let taken = batch.checked_add(usize::try_from(number(last)?).ok()?)?;
    shaped([lead, s.get(taken..)?].concat())
}

pub(super) fn shape_of(c: &Call<'_>) -> Found {
    let Some(s) = c.shape(0) else { return shaped(vec![None]) };
    Some(vec![Fact::vector(s[shape_range(c.op, s.len())].to_vec())])
}

pub(super) fn size_of(c: &Call<'_>) -> Found {
    let values = c.shape(0).map(|s| vec![product(s)]);
    Some(vec![Fact::with_values(vec![], values)])
}

pub(super) fn depth_to_space(c: &Call<'_>) -> Found {
    let [n, depth, h, w] = c.shape(0)? else { return None };
    let b = c.op.int("blocksize").filter(|b| (1..1 << 16).contains(b))?;
    let depth = depth.as_ref().and_then(|d| d.exact_div(&Expr::from(b * b)));
    shaped(vec![n.clone(), depth, mul(h, &num(b)), mul(w, &num(b))])
}

pub(super) fn space_to_depth(c: &Call<'_>) -> Found {
    let [n, depth, h, w] = c.shape(0)? else { return None };
    let b = c.op.int("blocksize").filter(|b| (1..1 << 16).contains(b))?;
    let part = |d: &Size| d.as_ref().and_then(|d| d.exact_div(&Expr::from(b)));
    shaped(vec![n.clone(), mul(depth, &num(b * b)), part(h), part(w)])
}

/// Resize and Upsample: from sizes, or from scales.
pub(super) fn resize(c: &Call<'_>) -> Found {
    let s = c.shape(0)?;
    let (scales_at, sizes_at) = match (&*c.op.op_type, c.opset) {
        ("Resize", 11..) => (2, 3),
        _ => (1, usize::MAX),
    };
    let axes: Vec<usize> = match c.op.ints("axes") {
        Some(axes) => axes.iter().map(|a| index::axis(*a, s.len())).collect::<Option<_>>()?,
        None => (0..s.len()).collect(),
    };
    let mut out = s.to_vec();
    let sizes = c.input(sizes_at).filter(|f| f.shape.as_deref() != Some(&[num(0)]));
    if let Some(sizes) = sizes {
        let keeps = c.op.str("keep_aspect_ratio_policy").is_some_and(|p| p != "stretch");
        for (k, a) in axes.iter().enumerate() {
            let size = sizes.values.as_ref().and_then(|v| v.get(k)?.clone());
            out[*a] = if keeps { None } else { size };
        }
        return shaped(out);
    }
    let attribute = match c.op.attr("scales") {
        Some(crate::ir::Attr::Floats(v)) => Some(v.clone()),
        _ => None,
    };
    let scales = attribute.or_else(|| Some(c.constant(scales_at)?.to_f32()?.to_vec()));
    let crops = c.op.str("coordinate_transformation_mode") == Some("tf_crop_and_resize");
    for (k, a) in axes.iter().enumerate() {
        let by = scales.as_ref().and_then(|v| v.get(k).copied());
        out[*a] = by.filter(|by| !crops || *by == 1.0).and_then(|by| scale(&s[*a], by));
    }
    shaped(out)
}

pub(super) fn center_crop_pad(c: &Call<'_>) -> Found {
    let mut out = c.shape(0)?.to_vec();
    let axes: Vec<usize> = match c.op.ints("axes") {
        Some(axes) => axes.iter().map(|a| index::axis(*a, out.len())).collect::<Option<_>>()?,
        None => (0..out.len()).collect(),
    };
    for (k, a) in axes.iter().enumerate() {
        out[*a] = c.input(1)?.values.as_ref().and_then(|v| v.get(k)?.clone());
    }
    shaped(out)
}

pub(super) fn compress(c: &Call<'_>) -> Found {
    match c.op.int("axis") {
        Some(a) => {
            let mut out = c.shape(0)?.to_vec();
            let a = index::axis(a, out.len())?;
            out[a] = None;
            shaped(out)
        }
        None => shaped(vec![None]),
    }
}

/// A range whose length is symbolic; known numbers are folded before this.
pub(super) fn range(c: &Call<'_>) -> Found {
    let element = |k: usize| c.input(k).and_then(|f| f.scalar().cloned());
    let span = |from: &Size, to: &Size| sub(to, from)?.positive();
    let length = match (element(0), element(1), element(2).and_then(|d| d.number())) {
        (start, limit, Some(step @ 1..)) => span(&start, &limit).and_then(|n| n.ceil_div(step)),
        (start, limit, Some(step)) => span(&limit, &start).and_then(|n| n.ceil_div(step.checked_neg()?)),
        _ => None,
    };
    shaped(vec![length])
}

pub(super) fn constant_of_shape(c: &Call<'_>) -> Found {
    match &c.input(0)?.values {
        Some(sizes) => shaped(sizes.iter().map(|d| d.clone().filter(Expr::is_natural)).collect()),
        None => shaped(unknown(c.shape(0)?)?),
    }
}

pub(super) fn one_hot(c: &Call<'_>) -> Found {
    let mut out = c.shape(0)?.to_vec();
    let at = index::axis(c.op.int("axis").unwrap_or(-1), out.len() + 1)?;
    let depth = c.input(1).and_then(|f| match f.scalar() {
        Some(d) => Some(d.clone()),
        // A float depth of whole value is allowed.
        None => Some(Expr::from(f.constant.as_ref()?.scalar_f32()? as i64)),
    });
    out.insert(at, depth);
    shaped(out)
}
