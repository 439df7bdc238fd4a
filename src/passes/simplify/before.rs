//! What scales and shifts the input of a linear layer moves into the layer.
//!
//! With `s` and `t` constant along every axis but the layer's input channels,
//!
//! ```text
//! w∗(x·s + t) + b = (w·s)∗x + (w∗t + b)
//! ```
//!
//! The input channels of `w` are: Conv, axis 1 within each group; Gemm, the axis of `B` that is not its output's;
//! MatMul, the first. A shift passes only where the layer has a bias and no input is padded: zeros are not shifted.

use super::{
    recognize::ends_pattern,
    weights::{BLOCK, NOT_FLOAT, Runs, float, floats, rescaled, rounded},
};
use crate::{
    ir::{Op, Tensor},
    passes::rules::{Bindings, Match, Miss, Rule},
};

/// A linear layer by its inputs.
struct Layer<'a> {
    op: &'a Op,
    weight: &'a Tensor,
    /// Extents of the weight: output channels of all groups, input channels of one, elements of a kernel.
    extents: [usize; 3],
    groups: usize,
    /// The rank of the input, where one has to know it, and the axis of its channels.
    axis: (Option<usize>, usize),
    /// Whether the weight has its input channels first.
    turned: bool,
}

impl<'a> Layer<'a> {
    fn of(m: &Match<'a>) -> Result<Self, Miss> {
        let (op, weight) = (m.op("y").ok_or("")?, m.tensor("w").ok_or("")?);
        let shape = weight.shape();
        let groups = usize::try_from(op.int("group").unwrap_or(1)).unwrap_or(0).max(1);
        let rank = m.ty("x").and_then(|t| t.rank());
        let flag = |name| op.int(name).unwrap_or(0) != 0;
        let (extents, axis, turned) = match (&*op.op_type, shape) {
            ("Conv", [out, each, kernel @ ..]) if !kernel.is_empty() && out % groups == 0 => {
                ([*out, *each, kernel.iter().product()], (Some(shape.len()), 1), false)
            }
            ("Gemm", [a, b]) if !flag("transA") => match flag("transB") {
                true => ([*a, *b, 1], (Some(2), 1), false),
                false => ([*b, *a, 1], (Some(2), 1), true),
            },
            ("MatMul", [a, b]) => ([*b, *a, 1], (rank, rank.map_or(0, |r| r.saturating_sub(1))), true),
            _ => return Err("the weight does not have the rank of its layer"),
        };
        if weight.is_empty() {
            return Err("");
        }
        Ok(Layer { op, weight, extents, groups, axis, turned })
    }
    /// One value for each input channel; an error where the constant varies along other axes.
    fn per_channel(&self, c: &Tensor) -> Result<Vec<f64>, Miss> {
        let channels = self.extents[1] * self.groups;
        let values = floats(c)?;
        if c.rank() == 0 {
            return Ok(vec![values[0]; channels]);
        }
        let (rank, axis) = self.axis;
        let rank = rank.ok_or("the rank of the layer's input is not known")?;
        let lead = rank.checked_sub(c.rank()).ok_or("the constant adds dimensions")?;
        let mut shape = c.shape().iter().enumerate();
        if !shape.all(|(k, n)| *n == 1 || k + lead == axis && *n == channels) {
            return Err("the constant is not one per input channel");
        }
        Ok(if values.len() == 1 { vec![values[0]; channels] } else { values })
    }
    /// How its input channels lie in the weight, and the first one of a row of it.
    fn runs(&self) -> (Runs, impl Fn(usize) -> usize + Sync + use<>) {
        let ([out, each, kernel], turned) = (self.extents, self.turned);
        let group = out / self.groups;
        let runs = if turned { Runs { run: out, columns: 1 } } else { Runs { run: kernel, columns: each } };
        (runs, move |row| if turned { row } else { row / group * each })
    }
    /// The weight applied to an input that is the same everywhere: one number for each output channel.
    fn applied_to(&self, input: &[f64]) -> Result<Vec<f64>, Miss> {
        let (Runs { run, columns }, first) = self.runs();
        let mut sums = vec![0.0; self.extents[0]];
        let row = run * columns;
        let block = (BLOCK / size_of::<f32>() / row).max(1) * row;
        for start in (0..self.weight.len()).step_by(block) {
            let part = self.weight.part(start..(start + block).min(self.weight.len())).ok_or(NOT_FLOAT)?;
            for (row, line) in (start / row..).zip(float(&part)?.chunks(row)) {
                for (run, x) in line.chunks(run).zip(&input[first(row)..]) {
                    match self.turned {
                        true => sums.iter_mut().zip(run).for_each(|(sum, w)| *sum += f64::from(*w) * x),
                        false => sums[row] += run.iter().copied().map(f64::from).sum::<f64>() * x,
                    }
                }
            }
        }
        self.weight.release();
        Ok(sums)
    }
}

fn scaled(m: &Match<'_>) -> Result<Bindings, Miss> {
    if m.opset < 7 {
        return Err("");
    }
    if ends_pattern(m, "x") {
        return Err("runtimes recognize what the factor is part of");
    }
    let layer = Layer::of(m)?;
    let scale = match m.op("h").map_or("", |op| &*op.op_type) {
        "Neg" => vec![-1.0; layer.extents[1] * layer.groups],
        kind => {
            let power = if kind == "Div" { -1 } else { 1 };
            layer.per_channel(m.tensor("c").ok_or("")?)?.into_iter().map(|c| c.powi(power)).collect()
        }
    };
    let (runs, first) = layer.runs();
    Ok(Bindings::default().tensor("weight", rescaled(layer.weight, runs, &scale, first)?))
}

fn shifted(m: &Match<'_>) -> Result<Bindings, Miss> {
    if m.opset < 7 {
        return Err("");
    }
    let layer = Layer::of(m)?;
    let padded = layer.op.ints("pads").is_some_and(|pads| pads.iter().any(|n| *n != 0));
    let automatic = layer.op.str("auto_pad").is_some_and(|mode| mode.starts_with("SAME"));
    if padded || automatic {
        return Err("the layer pads with zeros, which are not shifted");
    }
    let sign = if m.op("h").is_some_and(|op| op.is("Sub")) { -1.0 } else { 1.0 };
    let shift = layer.per_channel(m.tensor("c").ok_or("")?)?;
    let out = layer.extents[0];
    let beta = layer.op.float("beta").map_or(1.0, f64::from);
    let mut bias = match m.tensor("b") {
        None => vec![0.0; out],
        Some(b) if b.shape() == [out] => floats(b)?.into_iter().map(|b| b * beta).collect(),
        Some(_) => return Err("the bias is not one per output channel"),
    };
    let alpha = layer.op.float("alpha").map_or(1.0, f64::from);
    for (b, sum) in bias.iter_mut().zip(layer.applied_to(&shift)?) {
        *b += alpha * sign * sum;
    }
    let found = if layer.op.is("Gemm") { Bindings::default().attr("beta", 1.0) } else { Bindings::default() };
    Ok(found.tensor("bias", rounded(layer.weight, &[out], bias)?))
}

macro_rules! before {
    ($($op:literal $layer:literal $scaled:literal;)*) => { &[$(
        Rule {
            name: concat!("scale-into-", $op),
            lhs: concat!("h = Mul(x, $c) | Div(x, $c) | Neg(x)  y = ", $layer),
            rhs: $scaled,
            bind: scaled,
        },
    )*] };
}

pub(super) const SCALES: &[Rule] = before! {
    "conv" "Conv(h, $w, b?)" "y = Conv(x, weight, b)";
    "gemm" "Gemm(h, $w, b?)" "y = Gemm(x, weight, b)";
    "matmul" "MatMul(h, $w)" "y = MatMul(x, weight)";
};
pub(super) const SHIFTS: &[Rule] = &[
    Rule {
        name: "shift-into-conv",
        lhs: "h = Add(x, $c) | Sub(x, $c)  y = Conv(h, $w, $b?)",
        rhs: "y = Conv(x, w, bias)",
        bind: shifted,
    },
    Rule {
        name: "shift-into-gemm",
        lhs: "h = Add(x, $c) | Sub(x, $c)  y = Gemm(h, $w, $b?)",
        rhs: "y = Gemm(x, w, bias)",
        bind: shifted,
    },
];
