//! A constant matrix on the left mixes the rows of what it meets, so it takes the scale of rows:
//!
//! ```text
//! (w·x) row r times s = (w row r times s)·x         w·(x row r times s) = (w column r times s)·x
//! ```

use super::weights::{Runs, floats, rescaled};
use crate::passes::rules::{Bindings, Match, Miss, Rule};

/// The factor of each of `count` rows that an op multiplies a value by.
fn factors(m: &Match<'_>, op: &str, value: &str, count: usize) -> Result<Vec<f64>, Miss> {
    let kind = m.op(op).map_or("", |op| &*op.op_type);
    if m.opset < 7 {
        return Err("");
    }
    if kind == "Neg" {
        return Ok(vec![-1.0; count]);
    }
    let c = m.tensor("c").ok_or("")?;
    let rank = m.ty(value).and_then(|t| t.rank()).ok_or("the rank of the product is not known")?;
    let lead = rank.checked_sub(c.rank()).ok_or("the constant adds dimensions")?;
    let mut shape = c.shape().iter().enumerate();
    if !shape.all(|(k, n)| *n == 1 || k + lead + 2 == rank && *n == count) {
        return Err("the constant is not one per row");
    }
    let power = if kind == "Div" { -1 } else { 1 };
    let values: Vec<f64> = floats(c)?.into_iter().map(|c| c.powi(power)).collect();
    Ok(if values.len() == 1 { vec![values[0]; count] } else { values })
}

fn rows(m: &Match<'_>) -> Result<Bindings, Miss> {
    let w = m.tensor("w").ok_or("")?;
    let [out, inner] = *w.shape() else { return Err("the weight is not a matrix") };
    let scale = factors(m, "y", "h", out)?;
    let weight = rescaled(w, Runs { run: inner, columns: 1 }, &scale, |row| row)?;
    Ok(Bindings::default().tensor("weight", weight))
}

fn columns(m: &Match<'_>) -> Result<Bindings, Miss> {
    let w = m.tensor("w").ok_or("")?;
    let [_, inner] = *w.shape() else { return Err("the weight is not a matrix") };
    let scale = factors(m, "h", "x", inner)?;
    let weight = rescaled(w, Runs { run: 1, columns: inner }, &scale, |_| 0)?;
    Ok(Bindings::default().tensor("weight", weight))
}

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "scale-after-left-matrix",
        lhs: "h = MatMul($w, x)  y = Mul(h, $c) | Div(h, $c) | Neg(h)",
        rhs: "y = MatMul(weight, x)",
        bind: rows,
    },
    Rule {
        name: "scale-before-left-matrix",
        lhs: "h = Mul(x, $c) | Div(x, $c) | Neg(x)  y = MatMul($w, h)",
        rhs: "y = MatMul(weight, x)",
        bind: columns,
    },
];
