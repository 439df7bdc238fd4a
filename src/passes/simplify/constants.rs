//! Constants in a row are one constant:
//!
//! ```text
//! x·a·b = x·(a·b)      x + a + b = x + (a + b)      -(x·a) = x·(-a)
//! ```
//!
//! and so for Div and Sub. The constants are joined in double precision and rounded once. They may have any shapes that
//! broadcast, as long as the joined one has no more elements than the larger. Large numbers that cancel stay: to add and
//! subtract 2²³ is a way to round.

use super::{
    recognize::ends_pattern,
    weights::{floats, rounded},
};
use crate::{
    ir::{DType, Op, Tensor},
    ops::fold::index::{broadcast, broadcast_strides, walk},
    passes::rules::{Bindings, Match, Miss, Rule},
};

/// Two constants joined element by element.
pub(super) fn joined(a: &Tensor, b: &Tensor, f: impl Fn(f64, f64) -> f64) -> Result<Tensor, Miss> {
    if a.dtype() != b.dtype() || !matches!(a.dtype(), DType::F32 | DType::F16 | DType::BF16) {
        return Err("");
    }
    let shape = broadcast(&[a.shape(), b.shape()]).ok_or("")?;
    let spread = |t: &Tensor| {
        let values = floats(t)?;
        let at = walk(shape.clone(), broadcast_strides(t.shape(), &shape), 0);
        Ok::<Vec<f64>, Miss>(at.map(|k| values[k]).collect())
    };
    let values: Vec<f64> = spread(a)?.into_iter().zip(spread(b)?).map(|(a, b)| f(a, b)).collect();
    if values.len() > a.len().max(b.len()) {
        return Err("the constants together have more elements than each");
    }
    let made = rounded(a, &shape, values.clone())?;
    // A product beyond the smallest number would be lost.
    let lost = floats(&made)?.iter().zip(&values).any(|(made, exact)| *made == 0.0 && *exact != 0.0);
    if lost { Err("the constants together are too small") } else { Ok(made) }
}

/// The sum of two constants, which do not cancel from such a size on that digits of `x` are lost between.
fn joined_sum(a: &Tensor, b: &Tensor, f: impl Fn(f64, f64) -> f64) -> Result<Bindings, Miss> {
    const LARGE: f64 = 4096.0;
    let c = joined(a, b, f)?;
    let largest = |t: &Tensor| Ok::<f64, Miss>(floats(t)?.into_iter().fold(0.0, |m, x| x.abs().max(m)));
    let before = largest(a)?.max(largest(b)?);
    if before > LARGE && largest(&c)? < before {
        return Err("large constants cancel, which rounds");
    }
    Ok(Bindings::default().tensor("c", c))
}

fn ops<'a>(m: &Match<'a>) -> Result<(&'a Op, &'a Op), Miss> {
    if m.opset < 7 {
        return Err("");
    }
    Ok((m.op("h").ok_or("")?, m.op("y").ok_or("")?))
}

/// `x` times or divided by `a`, then `b`.
fn product(m: &Match<'_>) -> Result<Bindings, Miss> {
    let (first, second) = ops(m)?;
    if ends_pattern(m, "x") {
        return Err("runtimes recognize what the factor is part of");
    }
    let power = |op: &Op| if op.is("Div") { -1 } else { 1 };
    let (p, q) = (power(first), power(second));
    let (a, b) = (m.tensor("a").ok_or("")?, m.tensor("b").ok_or("")?);
    Ok(Bindings::default().tensor("c", joined(a, b, |a, b| a.powi(p) * b.powi(q))?))
}

/// `x` plus or minus `a`, then `b`.
fn sum(m: &Match<'_>) -> Result<Bindings, Miss> {
    let (first, second) = ops(m)?;
    let sign = |op: &Op| if op.is("Sub") { -1.0 } else { 1.0 };
    let (p, q) = (sign(first), sign(second));
    let (a, b) = (m.tensor("a").ok_or("")?, m.tensor("b").ok_or("")?);
    joined_sum(a, b, |a, b| p * a + q * b)
}

/// `b` minus what `a` was added to or taken from.
fn difference_of_sum(m: &Match<'_>) -> Result<Bindings, Miss> {
    let (first, _) = ops(m)?;
    let sign = if first.is("Sub") { 1.0 } else { -1.0 };
    let (a, b) = (m.tensor("a").ok_or("")?, m.tensor("b").ok_or("")?);
    joined_sum(a, b, |a, b| b + sign * a)
}

/// `a - x`, then plus or minus `b`.
fn sum_of_difference(m: &Match<'_>) -> Result<Bindings, Miss> {
    let (_, second) = ops(m)?;
    let sign = if second.is("Sub") { -1.0 } else { 1.0 };
    let (a, b) = (m.tensor("a").ok_or("")?, m.tensor("b").ok_or("")?);
    joined_sum(a, b, |a, b| a + sign * b)
}

/// A product with a constant that is negated before or after.
fn negated(m: &Match<'_>) -> Result<Bindings, Miss> {
    let (first, second) = ops(m)?;
    let power = if first.is("Div") || second.is("Div") { -1 } else { 1 };
    let a = m.tensor("a").ok_or("")?;
    let values = floats(a)?.into_iter().map(|a| -a.powi(power)).collect();
    Ok(Bindings::default().tensor("c", rounded(a, a.shape(), values)?))
}

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "product-of-product",
        lhs: "h = Mul(x, $a) | Div(x, $a)  y = Mul(h, $b) | Div(h, $b)",
        rhs: "y = Mul(x, c)",
        bind: product,
    },
    Rule {
        name: "sum-of-sum",
        lhs: "h = Add(x, $a) | Sub(x, $a)  y = Add(h, $b) | Sub(h, $b)",
        rhs: "y = Add(x, c)",
        bind: sum,
    },
    Rule {
        name: "difference-of-sum",
        lhs: "h = Add(x, $a) | Sub(x, $a)  y = Sub($b, h)",
        rhs: "y = Sub(c, x)",
        bind: difference_of_sum,
    },
    Rule {
        name: "sum-of-difference",
        lhs: "h = Sub($a, x)  y = Add(h, $b) | Sub(h, $b)",
        rhs: "y = Sub(c, x)",
        bind: sum_of_difference,
    },
    Rule {
        name: "negative-product",
        lhs: "h = Mul(x, $a) | Div(x, $a)  y = Neg(h)",
        rhs: "y = Mul(x, c)",
        bind: negated,
    },
    Rule {
        name: "product-of-negative",
        lhs: "h = Neg(x)  y = Mul(h, $a) | Div(h, $a)",
        rhs: "y = Mul(x, c)",
        bind: negated,
    },
];
