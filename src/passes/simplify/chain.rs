//! Two ops in a row that are one.
//!
//! - To stay within `[a, b]` and then within `[c, d]` is to stay within `[a', b']`, the first bounds moved into the
//!   second; Relu is to stay above 0.
//! - `max(max(x, a), b) = max(x, max(a, b))`, and so for min; `min(max(x, a), b)` stays within `[a, b]`.
//! - A Cast that loses nothing need not come before another.
//! - Slices of different axes are one Slice.

use crate::{
    ir::{DType, Tensor},
    ops::fold::{evaluate, index},
    passes::rules::{Bindings, Match, Miss, Rule},
};

/// What an op keeps its results within; a side left out is open.
struct Range {
    low: Option<f32>,
    high: Option<f32>,
}

impl Range {
    /// Of the Clip, whose bounds are under these names, or of the Relu that gives a value.
    fn of(m: &Match<'_>, value: &str, [low, high]: [&'static str; 2]) -> Result<Range, Miss> {
        if m.op(value).is_some_and(|op| op.is("Relu")) {
            return Ok(Range { low: Some(0.0), high: None });
        }
        if m.opset < 11 {
            return Err("before operator set 11 the bounds of Clip are attributes");
        }
        let bound = |name| match m.value(name) {
            None => Ok(None),
            Some(_) => {
                let t = m.tensor(name).filter(|t| t.dtype() == DType::F32 || t.dtype() == DType::F16);
                let bound = t.and_then(Tensor::scalar_f32).filter(|b| !b.is_nan());
                bound.map(Some).ok_or("the bounds are not 16- or 32-bit floating point")
            }
        };
        let range = Range { low: bound(low)?, high: bound(high)? };
        match (range.low, range.high) {
            (Some(low), Some(high)) if low > high => Err("the bounds of Clip are out of order"),
            _ => Ok(range),
        }
    }
    /// A bound moved into the range; an open one becomes the range's own on that side.
    fn nearest(&self, x: Option<f32>, own: Option<f32>) -> Option<f32> {
        let Some(x) = x else { return own };
        let x = self.low.map_or(x, |low| x.max(low));
        Some(self.high.map_or(x, |high| x.min(high)))
    }
}

fn joined_range(m: &Match<'_>) -> Result<Bindings, Miss> {
    let (first, second) = (Range::of(m, "h", ["a", "b"])?, Range::of(m, "y", ["c", "d"])?);
    let dtype = m.ty("x").and_then(|t| t.dtype).ok_or("the element type is not known")?;
    let bounds = [second.nearest(first.low, second.low), second.nearest(first.high, second.high)];
    let mut found = Bindings::default();
    for (name, bound) in ["low", "high"].into_iter().zip(bounds) {
        if let Some(bound) = bound {
            found = found.tensor(name, Tensor::from_f32(dtype, [], vec![bound]).ok_or("")?);
        }
    }
    Ok(found)
}

/// The larger or smaller of two constants.
fn extreme(m: &Match<'_>) -> Result<Bindings, Miss> {
    let (a, b) = (m.tensor("a").ok_or("")?, m.tensor("b").ok_or("")?);
    let op = m.op("y").ok_or("")?;
    let joined = evaluate(op, m.opset, &[Some(a), Some(b)], 1).and_then(|mut t| t.pop());
    match joined.filter(|t| t.len() <= a.len().max(b.len())) {
        Some(t) => Ok(Bindings::default().tensor("c", t)),
        None => Err("the constants do not join into one"),
    }
}

/// The range that what is larger than one number and smaller than another stays within.
fn between(m: &Match<'_>) -> Result<Bindings, Miss> {
    if m.opset < 11 || m.ty("x").and_then(|t| t.dtype) != Some(DType::F32) {
        return Err("");
    }
    let rank = m.ty("x").and_then(|t| t.rank()).ok_or("")?;
    let number = |name| {
        let one = m.tensor(name).filter(|t| t.rank() <= rank).and_then(Tensor::scalar_f32);
        one.filter(|n| !n.is_nan()).ok_or("the bounds are not one number each")
    };
    let relu = ["h", "y"].iter().any(|name| m.op(name).is_some_and(|op| op.is("Relu")));
    let (low, high) = (if relu { 0.0 } else { number("a")? }, number("b")?);
    if low > high {
        return Err("the bounds are out of order");
    }
    Ok(Bindings::default().tensor("low", Tensor::scalar(low)).tensor("high", Tensor::scalar(high)))
}

/// Bits that a type holds of an integer's absolute value, or of a float's fraction and exponent.
fn holds(dtype: DType) -> Option<(bool, u32, u32)> {
    Some(match dtype {
        DType::Bool => (false, 1, 0),
        DType::U8 => (false, 8, 0),
        DType::U16 => (false, 16, 0),
        DType::U32 => (false, 32, 0),
        DType::U64 => (false, 64, 0),
        DType::I8 => (true, 7, 0),
        DType::I16 => (true, 15, 0),
        DType::I32 => (true, 31, 0),
        DType::I64 => (true, 63, 0),
        DType::F16 => (true, 11, 5),
        DType::BF16 => (true, 8, 8),
        DType::F32 => (true, 24, 8),
        DType::F64 => (true, 53, 11),
        _ => return None,
    })
}

/// Whether every number of one type is one of the other, zero and only zero being false.
fn exact(from: DType, to: DType) -> bool {
    let (Some((minus, digits, exponent)), Some((to_minus, to_digits, to_exponent))) =
        (holds(from), holds(to))
    else {
        return false;
    };
    from == to || (to_minus || !minus) && digits <= to_digits && exponent <= to_exponent && to != DType::Bool
}

fn shorter_cast(m: &Match<'_>) -> Result<Bindings, Miss> {
    let to = |name| m.op(name).and_then(|op| DType::from_onnx(i32::try_from(op.int("to")?).ok()?));
    let from = m.ty("x").and_then(|t| t.dtype).ok_or("the element type is not known")?;
    let (middle, last) = (to("h").ok_or("")?, to("y").ok_or("")?);
    let float = |t: DType| holds(t).is_some_and(|(.., exponent)| exponent > 0);
    // What a float beyond an integer type becomes is not defined, but an integer wraps.
    let defined = float(middle) == float(from) || float(last) || last == DType::Bool || exact(from, last);
    if !exact(from, middle) || !defined || holds(last).is_none() {
        return Err("the first cast may lose something");
    }
    Ok(Bindings::default())
}

/// What a Slice is given, by axis.
fn cuts(m: &Match<'_>, names: [&'static str; 4]) -> Option<[Vec<i64>; 4]> {
    let [start, end, axes, step] = names.map(|name| m.tensor(name).and_then(Tensor::to_i64));
    let start = start?;
    let n = start.len();
    let axes = axes.unwrap_or_else(|| (0..n as i64).collect());
    let rank = m.ty("x")?.rank()?;
    let axes = axes.into_iter().map(|a| Some(index::axis(a, rank)? as i64)).collect::<Option<_>>()?;
    Some([start, end?, axes, step.unwrap_or_else(|| vec![1; n])])
}

fn one_slice(m: &Match<'_>) -> Result<Bindings, Miss> {
    let known = (cuts(m, ["s", "e", "a", "p"]), cuts(m, ["t", "f", "b", "q"]));
    let (Some(first), Some(second)) = known else { return Err("the axes are not known") };
    if first[2].iter().any(|a| second[2].contains(a)) {
        return Err("");
    }
    let [starts, ends, axes, steps] = [0, 1, 2, 3].map(|k| Tensor::ints([&*first[k], &second[k]].concat()));
    let found = Bindings::default().tensor("starts", starts).tensor("ends", ends);
    Ok(found.tensor("axes", axes).tensor("steps", steps))
}

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "clip-of-clip",
        lhs: "h = Clip(x, $a?, $b?)  y = Clip(h, $c?, $d?)",
        rhs: "y = Clip(x, low, high)",
        bind: joined_range,
    },
    Rule {
        name: "clip-of-relu",
        lhs: "h = Relu(x)  y = Clip(h, $c?, $d?)",
        rhs: "y = Clip(x, low, high)",
        bind: joined_range,
    },
    Rule {
        name: "relu-of-clip",
        lhs: "h = Clip(x, $a?, $b?)  y = Relu(h)",
        rhs: "y = Clip(x, low, high)",
        bind: joined_range,
    },
    Rule { name: "max-of-max", lhs: "h = Max(x, $a)  y = Max(h, $b)", rhs: "y = Max(x, c)", bind: extreme },
    Rule { name: "min-of-min", lhs: "h = Min(x, $a)  y = Min(h, $b)", rhs: "y = Min(x, c)", bind: extreme },
    Rule {
        name: "extremes-to-clip",
        lhs: "h = Max(x, $a) | Relu(x)  y = Min(h, $b)",
        rhs: "y = Clip(x, low, high)",
        bind: between,
    },
    Rule {
        name: "extremes-to-clip",
        lhs: "h = Min(x, $b)  y = Max(h, $a) | Relu(h)",
        rhs: "y = Clip(x, low, high)",
        bind: between,
    },
    Rule { name: "cast-of-cast", lhs: "h* = Cast(x)  y = Cast(h)", rhs: "y = Cast(x)", bind: shorter_cast },
    Rule {
        name: "slice-of-slice",
        lhs: "h = Slice(x, $s, $e, $a?, $p?)  y = Slice(h, $t, $f, $b?, $q?)",
        rhs: "y = Slice(x, starts, ends, axes, steps)",
        bind: one_slice,
    },
];
