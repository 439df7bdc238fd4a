//! Operators that move elements without looking at them: exact for every whole-byte element type, weights included.

use super::{
    Call,
    index::{axes, axis, broadcast, broadcast_strides, count, strides, walk},
};
use crate::ir::{DType, Op, Tensor};

/// Elements a broadcast or repetition may make out of a smaller tensor: folding must not blow the model up.
const MOST_NEW: usize = 1 << 16;

/// The elements of `t` at these positions, in that order.
pub(super) fn pick(t: &Tensor, shape: Vec<usize>, from: impl Iterator<Item = usize>) -> Option<Tensor> {
    if let Some(strings) = t.as_strings() {
        return Tensor::strings(shape, from.map(|k| strings.get(k).cloned()).collect::<Option<_>>()?).ok();
    }
    let (bits, bytes) = (t.dtype().bits(), t.bytes());
    if bits == 0 || bits % 8 != 0 {
        return None;
    }
    let width = bits / 8;
    let mut out = Vec::with_capacity(count(&shape)?.checked_mul(width)?);
    for k in from {
        out.extend_from_slice(bytes.get(k * width..(k + 1) * width)?);
    }
    Tensor::new(t.dtype(), shape, out).ok()
}

fn strided(t: &Tensor, shape: Vec<usize>, strides: Vec<isize>, offset: isize) -> Option<Tensor> {
    pick(t, shape.clone(), walk(shape, strides, offset))
}

fn reshaped(t: &Tensor, shape: Vec<usize>) -> Option<Tensor> {
    (count(&shape)? == t.len()).then(|| t.reshaped(shape))
}

pub(super) fn identity(c: &Call<'_>) -> Option<Vec<Tensor>> {
    Some(vec![c.input(0)?.clone()])
}

pub(super) fn reshape(c: &Call<'_>) -> Option<Vec<Tensor>> {
    let t = c.input(0)?;
    let target = c.ints("shape", 1)?;
    let keep_zero = c.op.int("allowzero") == Some(1);
    let mut shape = Vec::with_capacity(target.len());
    for (k, d) in target.iter().enumerate() {
        shape.push(match d {
            0 if !keep_zero => *t.shape().get(k)?,
            -1 => 1,
            d => usize::try_from(*d).ok()?,
        });
    }
    if let Some(k) = target.iter().position(|d| *d == -1) {
        shape[k] = t.len().checked_div(count(&shape)?)?;
    }
    Some(vec![reshaped(t, shape)?])
}

pub(super) fn flatten(c: &Call<'_>) -> Option<Vec<Tensor>> {
    let t = c.input(0)?;
    let at = match c.op.int("axis").unwrap_or(1) {
        a if a == t.rank() as i64 => t.rank(),
        a => axis(a, t.rank())?,
    };
    let (outer, inner) = t.shape().split_at(at);
    Some(vec![reshaped(t, vec![count(outer)?, count(inner)?])?])
}

pub(super) fn squeeze(c: &Call<'_>) -> Option<Vec<Tensor>> {
    let t = c.input(0)?;
    let out = match c.ints("axes", 1) {
        Some(given) => {
            let gone = axes(&given, t.rank())?;
            gone.iter().all(|a| t.shape()[*a] == 1).then_some(())?;
            (0..t.rank()).filter(|a| !gone.contains(a)).map(|a| t.shape()[a]).collect()
        }
        None if c.input(1).is_some() => return None,
        None => t.shape().iter().copied().filter(|d| *d != 1).collect(),
    };
    Some(vec![reshaped(t, out)?])
}

pub(super) fn unsqueeze(c: &Call<'_>) -> Option<Vec<Tensor>> {
    let t = c.input(0)?;
    let given = c.ints("axes", 1)?;
    let mut shape = t.shape().to_vec();
    for at in axes(&given, t.rank() + given.len())? {
        shape.insert(at, 1);
    }
    Some(vec![reshaped(t, shape)?])
}

/// The input axis that each output axis of a Transpose is.
pub(crate) fn permutation(op: &Op, rank: usize) -> Option<Vec<usize>> {
    match op.ints("perm") {
        Some(perm) if perm.len() == rank && axes(perm, rank).is_some() => {
            perm.iter().map(|a| axis(*a, rank)).collect()
        }
        Some(_) => None,
        None => Some((0..rank).rev().collect()),
    }
}

pub(super) fn transpose(c: &Call<'_>) -> Option<Vec<Tensor>> {
    let t = c.input(0)?;
    let perm = permutation(c.op, t.rank())?;
    let own = strides(t.shape());
    let shape: Vec<_> = perm.iter().map(|a| t.shape()[*a]).collect();
    Some(vec![strided(t, shape, perm.iter().map(|a| own[*a]).collect(), 0)?])
}

pub(super) fn expand(c: &Call<'_>) -> Option<Vec<Tensor>> {
    let t = c.input(0)?;
    let target: Vec<usize> =
        c.ints("shape", 1)?.iter().map(|d| usize::try_from(*d).ok()).collect::<Option<_>>()?;
    let shape = broadcast(&[t.shape(), &target])?;
    (count(&shape)? <= MOST_NEW.max(t.len())).then_some(())?;
    let strides = broadcast_strides(t.shape(), &shape);
    Some(vec![strided(t, shape, strides, 0)?])
}

pub(super) fn tile(c: &Call<'_>) -> Option<Vec<Tensor>> {
    let t = c.input(0)?;
    let repeats: Vec<usize> =
        c.ints("repeats", 1)?.iter().map(|d| usize::try_from(*d).ok()).collect::<Option<_>>()?;
    (repeats.len() == t.rank()).then_some(())?;
    // Each axis is read as [repeat, extent], the repeat with stride 0.
    let own = strides(t.shape());
    let (mut split, mut steps, mut shape) = (Vec::new(), Vec::new(), Vec::new());
    for (k, (d, r)) in t.shape().iter().zip(&repeats).enumerate() {
        split.extend([*r, *d]);
        steps.extend([0, own[k]]);
        shape.push(d.checked_mul(*r)?);
    }
    (count(&shape)? <= MOST_NEW.max(t.len())).then_some(())?;
    Some(vec![pick(t, shape, walk(split, steps, 0))?])
}

pub(super) fn concat(c: &Call<'_>) -> Option<Vec<Tensor>> {
    let parts: Vec<&Tensor> = (0..c.inputs.len()).map(|k| c.input(k)).collect::<Option<_>>()?;
    let first = *parts.first()?;
    let at = axis(c.op.int("axis").or((c.opset < 4).then_some(1))?, first.rank())?;
    let same = |t: &Tensor| {
        t.dtype() == first.dtype()
            && t.rank() == first.rank()
            && (0..t.rank()).all(|k| k == at || t.shape()[k] == first.shape()[k])
    };
    parts.iter().all(|t| same(t)).then_some(())?;
    let mut shape = first.shape().to_vec();
    shape[at] = parts.iter().map(|t| t.shape()[at]).sum();
    let bits = first.dtype().bits();
    if bits == 0 || bits % 8 != 0 {
        return None;
    }
    let outer = count(&first.shape()[..at])?;
    let mut out = Vec::with_capacity(count(&shape)?.checked_mul(bits / 8)?);
    for k in 0..outer {
        for t in &parts {
            let run = t.bytes().len() / outer;
            out.extend_from_slice(&t.bytes()[k * run..(k + 1) * run]);
        }
    }
    Some(vec![Tensor::new(first.dtype(), shape, out).ok()?])
}

/// One axis from `start`, `length` elements, `step` apart.
fn cut(t: &Tensor, bounds: &[(usize, usize, isize)]) -> Option<Tensor> {
    let own = strides(t.shape());
    let shape = bounds.iter().map(|b| b.1).collect();
    let offset = bounds.iter().zip(&own).map(|(b, s)| b.0 as isize * s).sum();
    strided(t, shape, bounds.iter().zip(&own).map(|(b, s)| b.2 * s).collect(), offset)
}

/// Where a slice of an axis of length `n` starts and how many elements it takes, by ONNX's clamping rules.
pub(crate) fn slice_bounds(start: i64, end: i64, step: i64, n: usize) -> Option<(usize, usize)> {
    let n = i64::try_from(n).ok()?;
    let from_end = |x: i64| if x < 0 { x.saturating_add(n) } else { x };
    let (start, end) = (from_end(start), from_end(end));
    let (start, span) = match step {
        0 => return None,
        1.. => {
            let (s, e) = (start.clamp(0, n), end.clamp(0, n));
            (s, e - s)
        }
        _ => {
            let (s, e) = (start.clamp(0, (n - 1).max(0)), end.clamp(-1, n - 1));
            (s, if n == 0 { 0 } else { s - e })
        }
    };
    let length = if span <= 0 { 0 } else { (span - 1) / i64::try_from(step.unsigned_abs()).ok()? + 1 };
    Some((start as usize, length as usize))
}

pub(super) fn slice(c: &Call<'_>) -> Option<Vec<Tensor>> {
    let t = c.input(0)?;
    let (starts, ends) = (c.ints("starts", 1)?, c.ints("ends", 2)?);
    let optional = |name, k: usize, default: Vec<i64>| match c.input(k) {
        None if c.op.attr(name).is_none() => Some(default),
        _ => c.ints(name, k),
    };
    let given = optional("axes", 3, (0..starts.len() as i64).collect())?;
    let steps = optional("steps", 4, vec![1; starts.len()])?;
    (ends.len() == starts.len() && given.len() == starts.len() && steps.len() == starts.len())
        .then_some(())?;
    let mut bounds: Vec<_> = t.shape().iter().map(|d| (0, *d, 1isize)).collect();
    for (k, a) in given.iter().enumerate() {
        let a = axis(*a, t.rank())?;
        let (start, length) = slice_bounds(starts[k], ends[k], steps[k], t.shape()[a])?;
        // A single element has no step; a huge one would overflow the walk.
        bounds[a] = (start, length, if length > 1 { steps[k] as isize } else { 1 });
    }
    Some(vec![cut(t, &bounds)?])
}

/// The lengths of a Split's parts along an axis of length `n`.
pub(crate) fn split_sizes(given: Option<Vec<i64>>, outputs: usize, n: usize) -> Option<Vec<usize>> {
    match given {
        Some(sizes) => {
            let sizes: Vec<usize> = sizes.iter().map(|d| usize::try_from(*d).ok()).collect::<Option<_>>()?;
            (sizes.len() == outputs && sizes.iter().try_fold(0usize, |a, b| a.checked_add(*b))? == n)
                .then_some(sizes)
        }
        None => {
            let chunk = n.div_ceil(outputs.max(1));
            Some((0..outputs).map(|k| n.saturating_sub(k * chunk).min(chunk)).collect())
        }
    }
}

pub(super) fn split(c: &Call<'_>) -> Option<Vec<Tensor>> {
    let t = c.input(0)?;
    let at = axis(c.op.int("axis").unwrap_or(0), t.rank())?;
    let given = c.ints("split", 1);
    if given.is_none() && c.input(1).is_some() {
        return None;
    }
    let mut start = 0;
    let mut parts = Vec::new();
    for size in split_sizes(given, c.outputs, t.shape()[at])? {
        let mut bounds: Vec<_> = t.shape().iter().map(|d| (0, *d, 1)).collect();
        bounds[at] = (start, size, 1);
        parts.push(cut(t, &bounds)?);
        start += size;
    }
    Some(parts)
}

pub(super) fn gather(c: &Call<'_>) -> Option<Vec<Tensor>> {
    let (t, indices) = (c.input(0)?, c.input(1)?);
    let at = axis(c.op.int("axis").unwrap_or(0), t.rank())?;
    let n = t.shape()[at];
    let places: Vec<usize> = indices.to_i64()?.iter().map(|k| axis(*k, n)).collect::<Option<_>>()?;
    let (outer, inner) = (count(&t.shape()[..at])?, count(&t.shape()[at + 1..])?);
    let shape = [&t.shape()[..at], indices.shape(), &t.shape()[at + 1..]].concat();
    (count(&shape)? <= MOST_NEW.max(t.len())).then_some(())?;
    let from = (0..outer)
        .flat_map(|o| places.iter().flat_map(move |k| (0..inner).map(move |i| (o * n + k) * inner + i)));
    Some(vec![pick(t, shape, from)?])
}

pub(super) fn constant_of_shape(c: &Call<'_>) -> Option<Vec<Tensor>> {
    let shape: Vec<usize> =
        c.ints("shape", 0)?.iter().map(|d| usize::try_from(*d).ok()).collect::<Option<_>>()?;
    let n = count(&shape)?;
    let value = match c.op.tensor("value") {
        Some(value) => value.clone(),
        None => Tensor::new(DType::F32, [1], vec![0u8; 4]).ok()?,
    };
    (n <= MOST_NEW && value.len() == 1).then_some(())?;
    Some(vec![pick(&value, shape, std::iter::repeat_n(0, n))?])
}

pub(super) fn where_(c: &Call<'_>) -> Option<Vec<Tensor>> {
    let (cond, x, y) = (c.input(0)?, c.input(1)?, c.input(2)?);
    (cond.dtype() == DType::Bool && x.dtype() == y.dtype()).then_some(())?;
    let shape = broadcast(&[cond.shape(), x.shape(), y.shape()])?;
    (count(&shape)? <= MOST_NEW).then_some(())?;
    let read = |t: &Tensor| walk(shape.clone(), broadcast_strides(t.shape(), &shape), 0);
    // Both sides laid end to end, so that one pick serves.
    let both = concat(&Call {
        op: &Op::new("Concat", "").with("axis", 0),
        inputs: &[Some(&x.reshaped([x.len()])), Some(&y.reshaped([y.len()]))],
        ..*c
    })?;
    let from = read(cond).zip(read(x).zip(read(y)));
    let from = from.map(|(k, (a, b))| if cond.bytes()[k] != 0 { a } else { x.len() + b });
    Some(vec![pick(both.first()?, shape.clone(), from)?])
}
