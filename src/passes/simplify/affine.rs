//! What scales and shifts the channels of a linear layer moves into the layer.
//!
//! With `s` and `t` constant along every axis but the layer's output channels,
//!
//! ```text
//! (w∗x + b)·s + t = (w·s)∗x + (b·s + t)
//! ```
//!
//! BatchNormalization at inference is `s = scale/√(var+ε)`, `t = bias - mean·s`; Mul, Div, Add and Sub by a constant
//! and Neg are such maps too, and so is what is taken from a constant: `c - h = h·(-1) + c`. The channels of `w` are:
//! Conv, axis 0; ConvTranspose, axis 1 within each group; Gemm, the axis of `B` that `transB` says; MatMul, the last.
//! The weight is new, never changed in place: another op may share the old one.

use super::weights::{Runs, floats, rescaled, rounded};
use crate::{
    ir::{Graph, Op, OpId, Tensor, ValueId},
    passes::rules::{Bindings, Match, Miss, Rule},
};

/// The channels of a value.
#[derive(Clone, Copy)]
pub(super) struct Channels {
    pub(super) count: usize,
    /// Rank of the value, where one has to know it.
    pub(super) rank: Option<usize>,
    pub(super) axis: usize,
}

impl Channels {
    /// A constant that meets the value, one number per channel; an error where it varies along other axes.
    pub(super) fn numbers(&self, t: &Tensor) -> Result<Vec<f64>, Miss> {
        let rank = self.rank.ok_or("the rank of the layer's output is not known")?;
        let lead = rank.checked_sub(t.rank()).ok_or("the constant adds dimensions")?;
        let mut shape = t.shape().iter().enumerate();
        if !shape.all(|(k, n)| *n == 1 || k + lead == self.axis && *n == self.count) {
            return Err("the constant is not one per output channel");
        }
        let values = floats(t)?;
        Ok(if values.len() == 1 { vec![values[0]; self.count] } else { values })
    }
}

/// `y = h·scale + shift`, one of each per channel.
pub(super) struct Affine {
    pub(super) scale: Vec<f64>,
    pub(super) shift: Vec<f64>,
}

impl Affine {
    /// The map that an op applies to the value `h`.
    pub(super) fn of(g: &Graph, op: OpId, h: ValueId, channels: Channels, opset: i64) -> Result<Self, Miss> {
        let (node, inputs, n) = (g.op(op), g.inputs_of(op), channels.count);
        if opset < 7 && !node.is("BatchNormalization") {
            return Err("before operator set 7 broadcasting is an attribute");
        }
        let constant =
            |slot: usize| inputs.get(slot).copied().flatten().and_then(|v| g.constant(v)).ok_or("");
        let (ones, zeros) = (vec![1.0; n], vec![0.0; n]);
        let minus = vec![-1.0; n];
        let at = inputs.iter().position(|v| *v == Some(h)).ok_or("")?;
        let other = || channels.numbers(constant(1 - at.min(1))?);
        Ok(match (&*node.op_type, at) {
            ("BatchNormalization", 0) => {
                let [a, b, c, d] = [1, 2, 3, 4].map(constant);
                return batch_norm(node, [a?, b?, c?, d?], n, opset);
            }
            ("Neg", _) => Affine { scale: minus, shift: zeros },
            ("Mul", _) => Affine { scale: other()?, shift: zeros },
            ("Div", 0) => Affine { scale: other()?.iter().map(|x| 1.0 / x).collect(), shift: zeros },
            ("Add", _) => Affine { scale: ones, shift: other()? },
            ("Sub", 0) => Affine { scale: ones, shift: other()?.iter().map(|x| -x).collect() },
            ("Sub", _) => Affine { scale: minus, shift: other()? },
            _ => return Err(""),
        })
    }
}

fn batch_norm(op: &Op, statistics: [&Tensor; 4], channels: usize, opset: i64) -> Result<Affine, Miss> {
    if op.int("training_mode").unwrap_or(0) != 0 || (opset < 7 && op.int("is_test").unwrap_or(0) == 0) {
        return Err("BatchNormalization in training mode");
    }
    let of = |t: &Tensor| match floats(t)? {
        v if v.len() == channels => Ok(v),
        _ => Err("the statistics are not one per output channel"),
    };
    let [scale, bias, mean, var] = statistics.map(of);
    let (scale, bias, mean, var) = (scale?, bias?, mean?, var?);
    let epsilon = f64::from(op.float("epsilon").unwrap_or(1e-5));
    let scale: Vec<f64> = scale.iter().zip(var).map(|(s, v)| s / (v + epsilon).sqrt()).collect();
    let shift = (0..channels).map(|c| bias[c] - mean[c] * scale[c]).collect();
    Ok(Affine { scale, shift })
}

/// A linear layer as the folding sees it.
pub(super) struct Layer<'a> {
    pub(super) op: &'a Op,
    weight: &'a Tensor,
    bias: Option<&'a Tensor>,
    /// Those of its output.
    pub(super) channels: Channels,
}

impl<'a> Layer<'a> {
    /// The layer that an op is, with a constant weight and bias.
    pub(super) fn of(g: &'a Graph, id: OpId) -> Result<Self, Miss> {
        let (op, inputs) = (g.op(id), g.inputs_of(id));
        if !op.is_standard() {
            return Err("");
        }
        let constant =
            |slot| g.input(id, slot).and_then(|v| g.constant(v)).ok_or("the weight is not constant");
        let weight = constant(1)?;
        let bias = inputs.get(2).copied().flatten().map(|_| constant(2)).transpose()?;
        let (shape, group) = (weight.shape(), op.int("group").unwrap_or(1).max(1) as usize);
        let convolution = shape.len() > 2;
        let (count, rank, axis) = match op.op_type.as_str() {
            "Conv" if convolution => (shape[0], Some(shape.len()), 1),
            "ConvTranspose" if convolution => (shape[1].saturating_mul(group), Some(shape.len()), 1),
            "Gemm" if shape.len() == 2 => {
                (shape[usize::from(op.int("transB").unwrap_or(0) == 0)], Some(2), 1)
            }
            "MatMul" if shape.len() == 2 => {
                let rank = g.input(id, 0).and_then(|x| g.rank(x)).filter(|r| *r >= 2);
                (shape[1], rank, rank.map_or(0, |r| r - 1))
            }
            _ => return Err("the weight does not have the rank of its layer"),
        };
        if weight.is_empty() || shape[0] % group != 0 {
            return Err("the weight is empty or does not divide into its groups");
        }
        Ok(Layer { op, weight, bias, channels: Channels { count, rank, axis } })
    }
    /// Weight and bias of the layer that does both itself and the map. Gemm's `beta` becomes 1.
    pub(super) fn followed_by(&self, Affine { scale, shift }: &Affine) -> Result<(Tensor, Tensor), Miss> {
        let mut bias = self.bias()?;
        for ((b, scale), shift) in bias.iter_mut().zip(scale).zip(shift) {
            *b = *b * scale + shift;
        }
        let weight = match scale.iter().all(|s| *s == 1.0) {
            true => self.weight.clone(),
            false => self.rescaled(scale)?,
        };
        Ok((weight, rounded(self.weight, &[self.channels.count], bias)?))
    }
    /// The weight with each channel times its scale.
    fn rescaled(&self, scale: &[f64]) -> Result<Tensor, Miss> {
        let shape = self.weight.shape();
        let inner: usize = shape[1..].iter().product();
        let transposed = self.op.int("transB").unwrap_or(0) != 0;
        match self.op.op_type.as_str() {
            "ConvTranspose" => {
                let columns = shape[1];
                let rows = shape[0] / self.op.int("group").unwrap_or(1).max(1) as usize;
                // The channels of the next group begin after as many rows as one has inputs.
                let runs = Runs { run: inner / columns, columns };
                rescaled(self.weight, runs, scale, move |row| row / rows * columns)
            }
            "Gemm" if !transposed => rescaled(self.weight, Runs { run: 1, columns: inner }, scale, |_| 0),
            "MatMul" => rescaled(self.weight, Runs { run: 1, columns: inner }, scale, |_| 0),
            _ => rescaled(self.weight, Runs { run: inner, columns: 1 }, scale, |row| row),
        }
    }
    /// The layer's own bias: a vector for convolutions, anything that broadcasts along rows for Gemm.
    fn bias(&self) -> Result<Vec<f64>, Miss> {
        let Some(b) = self.bias else { return Ok(vec![0.0; self.channels.count]) };
        match self.op.op_type.as_str() {
            "Conv" | "ConvTranspose" if b.shape() == [self.channels.count] => floats(b),
            "Gemm" => {
                let beta = self.op.float("beta").map_or(1.0, f64::from);
                Ok(self.channels.numbers(b)?.into_iter().map(|b| b * beta).collect())
            }
            _ => Err("the bias is not one per output channel"),
        }
    }
}

/// The ops that give `h` and `y`.
fn ids(m: &Match<'_>) -> Option<(OpId, OpId)> {
    let id = |name| Some(m.graph.producer(m.value(name)?)?.0);
    Some((id("h")?, id("y")?))
}

fn fold(m: &Match<'_>) -> Result<Bindings, Miss> {
    let ((h, y), value) = (ids(m).ok_or("")?, m.value("h").ok_or("")?);
    let layer = Layer::of(m.graph, h)?;
    if m.opset < 7 && layer.op.is("Gemm") {
        return Err("before operator set 7 broadcasting is an attribute");
    }
    let affine = Affine::of(m.graph, y, value, layer.channels, m.opset)?;
    let (weight, shift) = layer.followed_by(&affine)?;
    let found = Bindings::default().tensor("weight", weight).tensor("shift", shift);
    Ok(if layer.op.is("Gemm") { found.attr("beta", 1.0) } else { found })
}

/// A matrix product of two dimensions can carry a bias as Gemm.
fn as_gemm(m: &Match<'_>) -> Result<Bindings, Miss> {
    if m.opset < 7 {
        return Err("Gemm before operator set 7 does not broadcast");
    }
    match Layer::of(m.graph, ids(m).ok_or("")?.0)?.channels.rank {
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
        after!($layer, concat!("difference-into-", $op), "Sub($c, h)", $rhs, fold),
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
    after!("MatMul(x, $w)", "difference-to-gemm", "Sub($c, h)", "y = Gemm(x, weight, shift)", as_gemm),
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
        let known = (layer.op_type.clone(), layer.name.clone());
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
        let expected = if g.op(op).is(&known.0) { &known.1 } else { "follow" };
        assert_eq!(g.op(op).name, expected, "the layer's name stays, the root's where it is of another type");
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
