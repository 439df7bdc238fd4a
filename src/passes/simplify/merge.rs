//! Two linear layers in a row are one:
//!
//! ```text
//! w₂∗(w₁∗x + b₁) + b₂ = (w₂·w₁)∗x + (w₂∗b₁ + b₂)
//! ```
//!
//! So they are merged where that takes fewer multiply-accumulates, which here also means fewer weights: not where the
//! first narrows what the second widens. Of two convolutions one must look at single places, in steps of one, and the second must
//! not pad: padding is zeros, not `b₁`.

use super::weights::{floats, rounded};
use crate::{
    ir::{Op, Tensor},
    passes::rules::{Bindings, Match, Miss, Rule},
};
use rayon::prelude::*;

const NO_GAIN: Miss = "one layer would take more multiply-accumulates than two";

/// The product of a matrix of `inner` columns and one of as many rows.
fn product(a: &[f64], b: &[f64], inner: usize) -> Vec<f64> {
    let columns = b.len() / inner.max(1);
    let rows = a.par_chunks(inner.max(1)).flat_map_iter(|row| {
        let mut sums = vec![0.0; columns];
        for (x, line) in row.iter().zip(b.chunks(columns.max(1))) {
            sums.iter_mut().zip(line).for_each(|(sum, y)| *sum += x * y);
        }
        sums
    });
    rows.collect()
}

/// The transpose of a matrix.
fn turned(a: &[f64], columns: usize) -> Vec<f64> {
    (0..columns).flat_map(|c| a.iter().skip(c).step_by(columns.max(1)).copied()).collect()
}

/// Gemm or MatMul as `x·w + b`.
struct Matrix {
    weight: Vec<f64>,
    extents: [usize; 2],
    bias: Option<Vec<f64>>,
}

impl Matrix {
    fn of(m: &Match<'_>, out: &str, weight: &str, bias: &str) -> Result<Matrix, Miss> {
        let (op, t) = (m.op(out).ok_or("")?, m.tensor(weight).ok_or("")?);
        let [a, b] = *t.shape() else { return Err("the weight is not a matrix") };
        if op.int("transA").unwrap_or(0) != 0 || t.is_empty() {
            return Err("");
        }
        let [alpha, beta] = ["alpha", "beta"].map(|name| f64::from(op.float(name).unwrap_or(1.0)));
        let mut values = floats(t)?;
        values.iter_mut().for_each(|w| *w *= alpha);
        let (weight, extents) = match op.int("transB").unwrap_or(0) {
            0 => (values, [a, b]),
            _ => (turned(&values, b), [b, a]),
        };
        let spread = |t: &Tensor| {
            let row = t.rank() < 2 || t.rank() == 2 && t.shape()[0] == 1;
            match floats(t)? {
                v if v.len() == 1 => Ok(vec![v[0] * beta; extents[1]]),
                v if row && v.len() == extents[1] => Ok(v.into_iter().map(|b| b * beta).collect()),
                _ => Err("the bias is not one per output channel"),
            }
        };
        let bias = m.value(bias).map(|_| spread(m.tensor(bias).ok_or("")?)).transpose()?;
        Ok(Matrix { weight, extents, bias })
    }
}

/// The weight of one layer in the place of two, and its bias where either has one.
fn joined(m: &Match<'_>) -> Result<(Tensor, Option<Tensor>), Miss> {
    let (first, second) = (Matrix::of(m, "h", "a", "b")?, Matrix::of(m, "y", "c", "d")?);
    let ([k, inner], [same, n]) = (first.extents, second.extents);
    if inner != same || k * n >= inner * (k + n) {
        return Err(NO_GAIN);
    }
    let like = m.tensor("a").ok_or("")?;
    let weight = rounded(like, &[k, n], product(&first.weight, &second.weight, inner))?;
    let mut bias = second.bias;
    if let Some(before) = first.bias {
        let bias = bias.get_or_insert_with(|| vec![0.0; n]);
        bias.iter_mut().zip(product(&before, &second.weight, inner)).for_each(|(b, more)| *b += more);
    }
    Ok((weight, bias.map(|bias| rounded(like, &[n], bias)).transpose()?))
}

fn products(m: &Match<'_>) -> Result<Bindings, Miss> {
    Ok(Bindings::default().tensor("weight", joined(m)?.0))
}

fn product_of_sum(m: &Match<'_>) -> Result<Bindings, Miss> {
    // One of more axes may give the sum more than the product has.
    if m.tensor("b").is_none_or(|bias| bias.rank() > 1) {
        return Err("");
    }
    let (weight, bias) = joined(m)?;
    Ok(Bindings::default().tensor("weight", weight).tensor("bias", bias.ok_or("")?))
}

fn matrices(m: &Match<'_>) -> Result<Bindings, Miss> {
    if m.opset < 7 {
        return Err("");
    }
    let (weight, bias) = joined(m)?;
    let (like, n) = (m.tensor("a").ok_or("")?, weight.shape()[1]);
    let bias = bias.map_or_else(|| rounded(like, &[n], vec![0.0; n]), Ok)?;
    let found = Bindings::default().tensor("weight", weight).tensor("bias", bias);
    Ok(found.attr("alpha", 1.0).attr("beta", 1.0).attr("transA", 0).attr("transB", 0))
}

/// A convolution with one group, by extents: outputs, inputs, elements of a kernel.
struct Window<'a> {
    op: &'a Op,
    weight: &'a Tensor,
    extents: [usize; 3],
    spatial: usize,
}

impl<'a> Window<'a> {
    fn of(m: &Match<'a>, out: &str, weight: &str) -> Result<Self, Miss> {
        let (op, weight) = (m.op(out).ok_or("")?, m.tensor(weight).ok_or("")?);
        let [outputs, inputs, ref kernel @ ..] = *weight.shape() else { return Err("") };
        if op.int("group").unwrap_or(1) != 1 || weight.is_empty() || kernel.is_empty() {
            return Err("");
        }
        let extents = [outputs, inputs, kernel.iter().product()];
        Ok(Window { op, weight, extents, spatial: kernel.len() })
    }
    fn all(&self, name: &str, number: i64) -> bool {
        self.op.ints(name).is_none_or(|list| list.iter().all(|n| *n == number))
    }
    fn pads(&self) -> bool {
        !self.all("pads", 0) || self.op.str("auto_pad").is_some_and(|mode| mode.starts_with("SAME"))
    }
    /// Whether each place of the output is made of the same place of the input.
    fn single(&self) -> bool {
        self.extents[2] == 1 && self.all("strides", 1) && !self.pads()
    }
    fn bias(&self, m: &Match<'_>, name: &str) -> Result<Vec<f64>, Miss> {
        match m.value(name) {
            None => Ok(vec![0.0; self.extents[0]]),
            Some(_) => floats(m.tensor(name).ok_or("")?),
        }
    }
}

fn windows(m: &Match<'_>) -> Result<Bindings, Miss> {
    let (first, second) = (Window::of(m, "h", "a")?, Window::of(m, "y", "c")?);
    let ([inner, inputs, k], [outputs, same, l]) = (first.extents, second.extents);
    if inner != same || first.spatial != second.spatial || second.pads() {
        return Err("");
    }
    let (window, single) = match (first.single(), second.single()) {
        (_, true) => (&first, &second),
        (true, false) => (&second, &first),
        _ => return Err(""),
    };
    if window.op.str("auto_pad").is_some_and(|mode| mode.starts_with("SAME")) {
        return Err("");
    }
    if outputs * inputs * k * l >= inner * (inputs * k + outputs * l) {
        return Err(NO_GAIN);
    }
    let (a, c) = (floats(first.weight)?, floats(second.weight)?);
    // Of the second, places before inputs, so that rows of it meet the first.
    let by_place: Vec<f64> = c.chunks(inner * l).flat_map(|output| turned(output, l)).collect();
    let joined = product(&by_place, &a, inner);
    let joined = match std::ptr::eq(single, &second) {
        true => joined,
        false => joined.chunks(l * inputs).flat_map(|output| turned(output, inputs)).collect(),
    };
    let (before, mut bias) = (first.bias(m, "b")?, second.bias(m, "d")?);
    let shifts = product(&by_place, &before, inner);
    bias.iter_mut().zip(shifts.chunks(l)).for_each(|(b, more)| *b += more.iter().sum::<f64>());
    let kernel = &window.weight.shape()[2..];
    let shape = [&[outputs, inputs], kernel].concat();
    let list =
        |name, number: i64, n: usize| window.op.ints(name).map_or_else(|| vec![number; n], <[i64]>::to_vec);
    let found = Bindings::default()
        .tensor("weight", rounded(first.weight, &shape, joined)?)
        .tensor("bias", rounded(first.weight, &[outputs], bias)?)
        .attr("kernel_shape", kernel.iter().map(|n| *n as i64).collect::<Vec<_>>())
        .attr("strides", list("strides", 1, window.spatial))
        .attr("dilations", list("dilations", 1, window.spatial))
        .attr("pads", list("pads", 0, 2 * window.spatial));
    // VALID means no padding at all.
    Ok(found.attr("auto_pad", "NOTSET"))
}

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "matmul-of-matmul",
        lhs: "h = MatMul(x, $a)  y = MatMul(h, $c)",
        rhs: "y = MatMul(x, weight)",
        bind: products,
    },
    Rule {
        name: "matmul-of-biased-matmul",
        lhs: "h = MatMul(x, $a)  s = Add(h, $b)  y = MatMul(s, $c)",
        rhs: "p = MatMul(x, weight)  y = Add(p, bias)",
        bind: product_of_sum,
    },
    Rule {
        name: "gemm-of-layer",
        lhs: "h = Gemm(x, $a, $b?) | MatMul(x, $a)  y = Gemm(h, $c, $d?)",
        rhs: "y = Gemm(x, weight, bias)",
        bind: matrices,
    },
    Rule {
        name: "matmul-of-gemm",
        lhs: "h = Gemm(x, $a, $b?)  y = MatMul(h, $c)",
        rhs: "y = Gemm(x, weight, bias)",
        bind: matrices,
    },
    Rule {
        name: "conv-of-conv",
        lhs: "h = Conv(x, $a, $b?)  y = Conv(h, $c, $d?)",
        rhs: "y = Conv(x, weight, bias)",
        bind: windows,
    },
];
