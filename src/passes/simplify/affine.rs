//! What scales and shifts the channels of a linear layer moves into the layer.
//!
//! With `s` and `t` constant along every axis but the layer's output channels,
//!
//! ```text
//! (w∗x + b)·s + t = (w·s)∗x + (b·s + t)
//! ```
//!
//! BatchNormalization at inference is `s = scale/√(var+ε)`, `t = bias - mean·s`; Mul, Div, Add and Sub by a constant
//! and Neg are such maps too. The channels of `w` are: Conv, axis 0; ConvTranspose, axis 1 within each group; Gemm, the axis of `B`
//! that `transB` says; MatMul, the last. The weight is new, never changed in place: another op may share the old one.

use crate::{
    ir::{DType, Op, Tensor},
    passes::rules::{Bindings, Match, Miss, Rule},
};
use rayon::prelude::*;
use std::borrow::Cow;

/// `y = h·scale + shift`, one of each per channel.
struct Affine {
    scale: Vec<f64>,
    shift: Vec<f64>,
}

/// A linear layer as the folding sees it.
struct Layer<'a> {
    op: &'a Op,
    weight: &'a Tensor,
    channels: usize,
    /// Rank of the output, where one has to know it.
    rank: Option<usize>,
    /// The output axis of the channels.
    axis: usize,
}

const NOT_FLOAT: Miss = "a constant is not 16- or 32-bit floating point";

fn float(t: &Tensor) -> Result<Cow<'_, [f32]>, Miss> {
    // Double precision would lose digits on its way through f32.
    let exact = t.dtype() != DType::F64;
    t.to_f32().filter(|_| exact).ok_or(NOT_FLOAT)
}

/// The elements, in double precision.
pub(super) fn floats(t: &Tensor) -> Result<Vec<f64>, Miss> {
    Ok(float(t)?.iter().map(|x| f64::from(*x)).collect())
}

impl<'a> Layer<'a> {
    fn of(m: &Match<'a>) -> Result<Self, Miss> {
        let (op, weight) = (m.op("h").ok_or("")?, m.tensor("w").ok_or("")?);
        let (shape, group) = (weight.shape(), op.int("group").unwrap_or(1).max(1) as usize);
        let convolution = shape.len() > 2;
        let (channels, rank, axis) = match op.op_type.as_str() {
            "Conv" if convolution => (shape[0], Some(shape.len()), 1),
            "ConvTranspose" if convolution => (shape[1].saturating_mul(group), Some(shape.len()), 1),
            "Gemm" if shape.len() == 2 => {
                (shape[usize::from(op.int("transB").unwrap_or(0) == 0)], Some(2), 1)
            }
            "MatMul" if shape.len() == 2 => {
                let rank = m.ty("x").and_then(|t| t.rank()).filter(|r| *r >= 2);
                (shape[1], rank, rank.map_or(0, |r| r - 1))
            }
            _ => return Err("the weight does not have the rank of its layer"),
        };
        if weight.is_empty() || shape[0] % group != 0 {
            return Err("the weight is empty or does not divide into its groups");
        }
        Ok(Layer { op, weight, channels, rank, axis })
    }
    /// The weight with each channel times its scale, rounded once.
    fn rescaled(&self, scale: &[f64]) -> Result<Tensor, Miss> {
        let shape = self.weight.shape();
        let inner: usize = shape[1..].iter().product();
        // Runs of `run` elements share a channel. They stand in rows of `columns` runs; after `rows` of these begin the
        // channels of the next group.
        let (run, columns, rows) = match self.op.op_type.as_str() {
            "Conv" => (inner, 1, 1),
            "ConvTranspose" => {
                let group = self.op.int("group").unwrap_or(1).max(1) as usize;
                (inner / shape[1], shape[1], shape[0] / group)
            }
            "Gemm" if self.op.int("transB").unwrap_or(0) != 0 => (inner, 1, 1),
            _ => (1, inner, shape[0]),
        };
        let mut values = float(self.weight)?.into_owned();
        values.par_chunks_mut(run * columns).enumerate().for_each(|(row, values)| {
            let channels = &scale[row / rows * columns..];
            for (run, scale) in values.chunks_mut(run).zip(channels) {
                run.iter_mut().for_each(|x| *x = (f64::from(*x) * scale) as f32);
            }
        });
        let rescaled = made(self.weight, shape, values)?;
        self.weight.release();
        Ok(rescaled)
    }
    /// A constant that meets the output, one value per channel; an error where it varies along other axes.
    fn per_channel(&self, t: &Tensor) -> Result<Vec<f64>, Miss> {
        let rank = self.rank.ok_or("the rank of the layer's output is not known")?;
        let lead = rank.checked_sub(t.rank()).ok_or("the constant adds dimensions")?;
        let mut shape = t.shape().iter().enumerate();
        if !shape.all(|(k, n)| *n == 1 || k + lead == self.axis && *n == self.channels) {
            return Err("the constant is not one per output channel");
        }
        let values = floats(t)?;
        Ok(if values.len() == 1 { vec![values[0]; self.channels] } else { values })
    }
    /// The map that the root op applies to the layer's output.
    fn follow_up(&self, m: &Match<'_>) -> Result<Affine, Miss> {
        let op = m.op("y").ok_or("")?;
        let n = self.channels;
        if op.op_type == "BatchNormalization" {
            return batch_norm(m, op, n);
        }
        if op.op_type == "Neg" {
            return Ok(Affine { scale: vec![-1.0; n], shift: vec![0.0; n] });
        }
        let c = self.per_channel(m.tensor("c").ok_or("")?)?;
        let (ones, zeros) = (vec![1.0; n], vec![0.0; n]);
        Ok(match op.op_type.as_str() {
            "Mul" => Affine { scale: c, shift: zeros },
            "Div" => Affine { scale: c.iter().map(|x| 1.0 / x).collect(), shift: zeros },
            "Add" => Affine { scale: ones, shift: c },
            _ => Affine { scale: ones, shift: c.iter().map(|x| -x).collect() },
        })
    }
}

fn batch_norm(m: &Match<'_>, op: &Op, channels: usize) -> Result<Affine, Miss> {
    if op.int("training_mode").unwrap_or(0) != 0 || (m.opset < 7 && op.int("is_test").unwrap_or(0) == 0) {
        return Err("BatchNormalization in training mode");
    }
    let of = |name| match floats(m.tensor(name).ok_or("")?)? {
        v if v.len() == channels => Ok(v),
        _ => Err("the statistics are not one per output channel"),
    };
    let (scale, bias, mean, var) = (of("scale")?, of("bias")?, of("mean")?, of("var")?);
    let epsilon = f64::from(op.float("epsilon").unwrap_or(1e-5));
    let scale: Vec<f64> = scale.iter().zip(var).map(|(s, v)| s / (v + epsilon).sqrt()).collect();
    let shift = (0..channels).map(|c| bias[c] - mean[c] * scale[c]).collect();
    Ok(Affine { scale, shift })
}

/// A constant of the type of another, rounded once.
pub(super) fn rounded(like: &Tensor, shape: &[usize], values: Vec<f64>) -> Result<Tensor, Miss> {
    made(like, shape, values.into_iter().map(|x| x as f32).collect())
}

fn made(like: &Tensor, shape: &[usize], values: Vec<f32>) -> Result<Tensor, Miss> {
    let t = Tensor::from_f32(like.dtype(), shape, values).ok_or(NOT_FLOAT)?;
    match t.to_f32() {
        Some(v) if v.iter().all(|x| x.is_finite()) => Ok(t),
        _ => Err("the folded weight would not be finite"),
    }
}

fn fold(m: &Match<'_>) -> Result<Bindings, Miss> {
    let layer = Layer::of(m)?;
    let batch_norm = m.op("y").is_some_and(|op| op.is("BatchNormalization"));
    if m.opset < 7 && (!batch_norm || layer.op.is("Gemm")) {
        return Err("before operator set 7 broadcasting is an attribute");
    }
    let Affine { scale, shift } = layer.follow_up(m)?;
    let (op, weight, n) = (layer.op, layer.weight, layer.channels);
    let mut found = Bindings::default();
    let beta = match op.op_type.as_str() {
        "Gemm" => op.float("beta").map_or(1.0, f64::from),
        _ => 1.0,
    };
    let mut bias = match m.tensor("b") {
        Some(b) => layer.per_channel_bias(b)?,
        None => vec![0.0; n],
    };
    for (c, b) in bias.iter_mut().enumerate() {
        *b = *b * beta * scale[c] + shift[c];
    }
    if op.op_type == "Gemm" {
        found = found.attr("beta", 1.0);
    }
    let rescaled = match scale.iter().all(|s| *s == 1.0) {
        true => weight.clone(),
        false => layer.rescaled(&scale)?,
    };
    Ok(found.tensor("weight", rescaled).tensor("shift", rounded(weight, &[n], bias)?))
}

impl Layer<'_> {
    /// The layer's own bias: a vector for convolutions, anything that broadcasts along rows for Gemm.
    fn per_channel_bias(&self, b: &Tensor) -> Result<Vec<f64>, Miss> {
        match self.op.op_type.as_str() {
            "Conv" | "ConvTranspose" if b.shape() == [self.channels] => floats(b),
            "Gemm" => self.per_channel(b),
            _ => Err("the bias is not one per output channel"),
        }
    }
}

/// A matrix product of two dimensions can carry a bias as Gemm.
fn as_gemm(m: &Match<'_>) -> Result<Bindings, Miss> {
    if m.opset < 7 {
        return Err("Gemm before operator set 7 does not broadcast");
    }
    match Layer::of(m)?.rank {
        Some(2) => {}
        Some(_) => return Err("the input is not a matrix"),
        None => return Err("the rank of the input is not known"),
    }
    fold(m)
}

macro_rules! after {
    ($layer:literal, $name:expr, $follow:literal, $rhs:literal, $bind:ident) => {
        Rule { name: $name, lhs: concat!("h = ", $layer, "  y = ", $follow), rhs: $rhs, bind: $bind }
    };
}
macro_rules! follow_ups {
    ($($layer:literal $op:literal $rhs:literal;)*) => { &[$(
        after!($layer, concat!("batch-norm-into-", $op), "BatchNormalization(h, $scale, $bias, $mean, $var)", $rhs, fold),
        after!($layer, concat!("mul-into-", $op), "Mul(h, $c)", $rhs, fold),
        after!($layer, concat!("div-into-", $op), "Div(h, $c)", $rhs, fold),
        after!($layer, concat!("add-into-", $op), "Add(h, $c)", $rhs, fold),
        after!($layer, concat!("sub-into-", $op), "Sub(h, $c)", $rhs, fold),
        after!($layer, concat!("negative-into-", $op), "Neg(h)", $rhs, fold),
    )*] };
}

pub(super) const RULES: &[Rule] = follow_ups! {
    "Conv(x, $w, $b?)" "conv" "y = Conv(x, weight, shift)";
    "ConvTranspose(x, $w, $b?)" "conv-transpose" "y = ConvTranspose(x, weight, shift)";
    "Gemm(x, $w, $b?)" "gemm" "y = Gemm(x, weight, shift)";
};
pub(super) const MATMUL_RULES: &[Rule] = &[
    after!("MatMul(x, $w)", "mul-into-matmul", "Mul(h, $c)", "y = MatMul(x, weight)", fold),
    after!("MatMul(x, $w)", "div-into-matmul", "Div(h, $c)", "y = MatMul(x, weight)", fold),
    after!("MatMul(x, $w)", "negative-into-matmul", "Neg(h)", "y = MatMul(x, weight)", fold),
    after!("MatMul(x, $w)", "matmul-add-to-gemm", "Add(h, $c)", "y = Gemm(x, weight, shift)", as_gemm),
    after!("MatMul(x, $w)", "matmul-sub-to-gemm", "Sub(h, $c)", "y = Gemm(x, weight, shift)", as_gemm),
    after!(
        "MatMul(x, $w)",
        "batch-norm-into-matmul",
        "BatchNormalization(h, $scale, $bias, $mean, $var)",
        "y = Gemm(x, weight, shift)",
        as_gemm
    ),
];

#[cfg(test)]
mod tests {
    use crate::{
        ir::{DType, Graph, Model, Op, OpsetImport, Tensor, Type},
        passes::{Changed, Context, Pass, simplify::Simplify},
    };

    /// The weight and bias of the one op that is left of `layer` and `follow` in a row.
    fn folded(
        layer: Op,
        weight: Tensor,
        rank: usize,
        follow: Op,
        constants: &[Tensor],
    ) -> (Op, Vec<f32>, Vec<f32>) {
        let ty = Type::tensor(DType::F32, vec![1.into(); rank]);
        let mut g = Graph::new("g");
        let x = g.add_input("x", ty.clone());
        let w = g.add_initializer("w", weight);
        let h = g.add_node(layer, &[x, w], "h", None);
        let mut inputs = vec![h];
        inputs.extend(constants.iter().map(|t| g.add_initializer("c", t.clone())));
        let y = g.add_node(follow, &inputs, "y", Some(ty));
        g.outputs.push(y);
        let opset = OpsetImport { version: 17, ..OpsetImport::default() };
        let mut model = Model { graph: g, ir_version: 8, opsets: vec![opset], ..Model::default() };
        let pass = Simplify::default();
        assert_eq!(pass.run(&mut model, &mut Context::new()).unwrap(), Changed::Yes);
        model.verify().unwrap();
        assert_eq!(pass.run(&mut model, &mut Context::new()).unwrap(), Changed::No, "idempotent");
        let g = &model.graph;
        let (op, _) = g.producer(g.outputs[0]).unwrap();
        assert_eq!(g.ops().count(), 1);
        assert_eq!(g.op(op).name, "follow", "the root's name stays");
        let constant = |slot| {
            let t = g.input(op, slot).and_then(|v| g.constant(v));
            t.and_then(Tensor::to_f32).map_or_else(Vec::new, |v| v.into_owned())
        };
        (g.op(op).clone(), constant(1), constant(2))
    }
    fn vector(v: &[f32]) -> Tensor {
        Tensor::from_vec([v.len()], v.to_vec())
    }
    #[test]
    fn batch_norm_scales_the_weight_and_shifts_the_bias() {
        let bn = Op::new("BatchNormalization", "follow").with("epsilon", 0f32);
        let statistics = [2.0, 5.0, 4.0, 4.0].map(|v| vector(&[v]));
        let conv = Op::new("Conv", "c").with("group", 1);
        let (op, w, b) = folded(conv, Tensor::from_vec([1, 1, 1, 1], vec![3f32]), 4, bn, &statistics);
        assert!(op.is("Conv") && op.int("group") == Some(1));
        assert_eq!((w, b), (vec![3.0], vec![1.0]), "2/√4 = 1; 5 - 4·1 = 1");
    }
    #[test]
    fn channels_of_a_grouped_transposed_convolution_run_within_groups() {
        let layer = Op::new("ConvTranspose", "c").with("group", 2);
        let weight = Tensor::from_vec([2, 2, 1, 1], vec![1f32; 4]);
        let c = Tensor::from_vec([4, 1, 1], vec![1f32, 2.0, 3.0, 4.0]);
        let (_, w, b) = folded(layer, weight, 4, Op::new("Mul", "follow"), &[c]);
        assert_eq!((w, b), (vec![1.0, 2.0, 3.0, 4.0], vec![0.0; 4]));
    }
    #[test]
    fn a_matrix_product_and_a_bias_become_gemm() {
        let weight = Tensor::from_vec([1, 2], vec![1f32, 2.0]);
        let (op, w, b) =
            folded(Op::new("MatMul", "m"), weight, 2, Op::new("Add", "follow"), &[vector(&[7.0, 8.0])]);
        assert!(op.is("Gemm"));
        assert_eq!((w, b), (vec![1.0, 2.0], vec![7.0, 8.0]));
    }
    #[test]
    fn gemm_scales_the_axis_that_its_transposition_says() {
        let layer = Op::new("Gemm", "g").with("transB", 1);
        let weight = Tensor::from_vec([2, 1], vec![1f32, 1.0]);
        let (_, w, _) = folded(layer, weight, 2, Op::new("Div", "follow"), &[vector(&[2.0, 4.0])]);
        assert_eq!(w, [0.5, 0.25]);
    }
}
