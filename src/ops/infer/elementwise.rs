//! Shape rules of elementwise operators, reductions and generators.

use super::{
    call::{Call, Found, broadcast, shaped},
    expr::Expr,
    fact::{Fact, Size, num},
};
use crate::ops::fold::index;

/// Every output has the first input's shape.
pub(super) fn same(c: &Call<'_>) -> Found {
    let s = c.shape(0)?;
    Some(vec![Fact::shaped(s.to_vec()); c.outputs])
}

/// The inputs broadcast together. Before opset 7 the first input alone gives the shape.
pub(super) fn broadcasting(c: &Call<'_>) -> Found {
    let first = c.shape(0)?.to_vec();
    if c.opset < 7 && c.inputs.len() == 2 {
        return shaped(first);
    }
    shaped((1..c.inputs.len()).try_fold(first, |all, k| Some(broadcast(&all, c.shape(k)?)))?)
}

/// The shape of the second input, as GatherElements gives.
pub(super) fn like_second(c: &Call<'_>) -> Found {
    shaped(c.shape(1)?.to_vec())
}

/// One number.
pub(super) fn scalar(_: &Call<'_>) -> Found {
    shaped(vec![])
}

pub(super) fn reduce(c: &Call<'_>) -> Found {
    let s = c.shape(0)?;
    let keep = c.op.int("keepdims") != Some(0);
    let given = match c.list("axes", 1) {
        Ok(given) => given.unwrap_or_default(),
        Err(()) if keep => return shaped(vec![None; s.len()]),
        Err(()) => {
            // Which axes go is unknown, but how many may be known.
            let n = c.shape(1)?.first()?.as_ref()?.number()?;
            return shaped(vec![None; s.len().checked_sub(usize::try_from(n).ok().filter(|n| *n > 0)?)?]);
        }
    };
    if given.is_empty() && c.flag("noop_with_empty_axes") {
        return shaped(s.to_vec());
    }
    let gone = if given.is_empty() { (0..s.len()).collect() } else { index::axes(&given, s.len())? };
    shaped(without(s, &gone, keep))
}

fn without(s: &[Size], gone: &[usize], keep: bool) -> Vec<Size> {
    let axes = s.iter().enumerate();
    if keep {
        return axes.map(|(k, d)| if gone.contains(&k) { num(1) } else { d.clone() }).collect();
    }
    axes.filter(|(k, _)| !gone.contains(k)).map(|(_, d)| d.clone()).collect()
}

pub(super) fn arg_extreme(c: &Call<'_>) -> Found {
    let s = c.shape(0)?;
    let at = c.axis(0, s.len())?;
    shaped(without(s, &[at], c.op.int("keepdims") != Some(0)))
}

pub(super) fn top_k(c: &Call<'_>) -> Found {
    let mut s = c.shape(0)?.to_vec();
    let at = c.axis(-1, s.len())?;
    s[at] = match c.op.int("k") {
        Some(k) => num(k),
        None => c.input(1).and_then(|f| f.scalar().cloned()).filter(Expr::is_natural),
    };
    Some(vec![Fact::shaped(s.clone()), Fact::shaped(s)])
}

pub(super) fn non_zero(c: &Call<'_>) -> Found {
    shaped(vec![c.shape(0).and_then(|s| num(s.len() as i64)), None])
}

pub(super) fn unique(c: &Call<'_>) -> Found {
    let first = match c.op.int("axis") {
        Some(a) => {
            let mut s = c.shape(0)?.to_vec();
            let a = index::axis(a, s.len())?;
            s[a] = None;
            s
        }
        None => vec![None],
    };
    Some([first, vec![None], vec![None], vec![None]].map(Fact::shaped).to_vec())
}

/// Random tensors and the like whose shape stands in the attribute `shape`.
pub(super) fn shape_attribute(c: &Call<'_>) -> Found {
    shaped(c.op.ints("shape")?.iter().map(|n| num(*n)).collect())
}

pub(super) fn multinomial(c: &Call<'_>) -> Found {
    shaped(vec![c.shape(0)?.first()?.clone(), num(c.op.int("sample_size").unwrap_or(1))])
}

/// A window function: a vector as long as its scalar input says.
pub(super) fn window(c: &Call<'_>) -> Found {
    shaped(vec![c.input(0).and_then(|f| f.scalar().cloned())])
}

pub(super) fn mel_weights(c: &Call<'_>) -> Found {
    let element = |k: usize| c.input(k).and_then(|f| f.scalar().cloned());
    let bins = element(1).and_then(|n| n.floor_div(2)?.add(&Expr::from(1)));
    shaped(vec![bins, element(0)])
}

pub(super) fn boxes(_: &Call<'_>) -> Found {
    shaped(vec![None, num(3)])
}

pub(super) fn dynamic_quantize(c: &Call<'_>) -> Found {
    Some(vec![Fact::shaped(c.shape(0)?.to_vec()), Fact::shaped(vec![]), Fact::shaped(vec![])])
}

/// A decoded picture: height, width, channels, all 0 where the file is no picture.
pub(super) fn image(_: &Call<'_>) -> Found {
    shaped(vec![None; 3])
}

/// All axes but the last two, as Det leaves them.
pub(super) fn batch_only(c: &Call<'_>) -> Found {
    let s = c.shape(0)?;
    shaped(s[..s.len().checked_sub(2)?].to_vec())
}

/// A loss over classes: elementwise without reduction, else one number.
pub(super) fn loss(c: &Call<'_>) -> Found {
    let loss = match c.op.str("reduction") {
        Some("none") => Fact::shaped(c.shape(1)?.to_vec()),
        _ => Fact::shaped(vec![]),
    };
    let log_prob = Fact { shape: c.shape(0).map(<[Size]>::to_vec), ..Fact::default() };
    Some(vec![loss, log_prob])
}
