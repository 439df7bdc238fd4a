//! The distribution of values, estimated without running the model.
//!
//! What BatchNormalization tells of a value's channels ([`Moments`], noted by `simplify`) is followed downstream: each
//! channel counts as normally distributed in front of an elementwise function, and channels that are added as independent
//! (Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction").

use super::fold::index::axis;
use crate::ir::{Graph, Moments, Op, OpId, Origin, Tensor, ValueId};
use std::collections::HashMap;

/// The moments of the values of a graph, as far as they are known.
#[derive(Clone, Debug, Default)]
pub struct Estimates(HashMap<ValueId, Moments>);

impl Estimates {
    /// Follows what is noted in the graph through ops that keep channels apart.
    pub fn of(graph: &Graph) -> Estimates {
        let noted = graph.values().filter_map(|v| Some((v, graph.value(v).moments.as_deref()?.clone())));
        let mut found = Estimates(noted.collect());
        if found.0.is_empty() {
            return found;
        }
        for op in graph.order() {
            let Some(y) = graph.output(op, 0).filter(|y| !found.0.contains_key(y)) else { continue };
            if let Some(moments) = found.through(graph, op) {
                found.0.insert(y, moments);
            }
        }
        found
    }
    /// Those of a value, along axis 1.
    pub fn get(&self, v: ValueId) -> Option<&Moments> {
        self.0.get(&v)
    }

    fn through(&self, graph: &Graph, op: OpId) -> Option<Moments> {
        let node = graph.op(op);
        if !node.is_standard() {
            return None;
        }
        let known = |slot| self.get(graph.input(op, slot)?);
        let constant = |slot| graph.input(op, slot).and_then(|v| graph.constant(v));
        match &*node.op_type {
            // A mean over positions has the mean of the channel, and at most its deviation.
            "Identity" | "Dropout" | "AveragePool" | "GlobalAveragePool" => known(0).cloned(),
            "ReduceMean" if spatial(graph, op) => known(0).cloned(),
            "Flatten" | "Reshape" | "Squeeze" => spread(graph, op, known(0)?),
            "Concat" => concat(graph, op, known),
            "Add" | "Sub" | "Mul" => joined(graph, op, known),
            "PRelu" => {
                let slopes = for_channels(graph, op, 1, known(0)?.channels())?;
                Some(map(known(0)?, |channel, x| if x < 0.0 { x * slopes[channel] } else { x }))
            }
            _ => {
                let f = function(node, [1, 2].map(constant))?;
                Some(map(known(0)?, |_, x| f(x)))
            }
        }
    }
}

/// The points that stand for a standard normal distribution: the means of as many equally likely parts are near them.
const POINTS: usize = 64;

/// The moments of `f(channel, x)` over normally distributed channels.
fn map(of: &Moments, f: impl Fn(usize, f64) -> f64) -> Moments {
    let points: Vec<f64> = (0..POINTS).map(|k| normal_quantile((k as f64 + 0.5) / POINTS as f64)).collect();
    let mut out = Moments { mean: Vec::new(), deviation: Vec::new() };
    for (channel, (mean, deviation)) in of.mean.iter().zip(&of.deviation).enumerate() {
        let values = points.iter().map(|x| f(channel, mean + deviation * x));
        let (sum, squares) = values.fold((0.0, 0.0), |(sum, squares), y| (sum + y, squares + y * y));
        let mean = sum / POINTS as f64;
        out.mean.push(mean);
        out.deviation.push((squares / POINTS as f64 - mean * mean).max(0.0).sqrt());
    }
    out
}

/// Where the standard normal distribution reaches `p`, by bisection of its integral.
fn normal_quantile(p: f64) -> f64 {
    let (mut low, mut high) = (-8.0, 8.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if normal_integral(middle) < p { low = middle } else { high = middle }
    }
    f64::midpoint(low, high)
}

/// The share of a standard normal distribution below `x`: its Taylor series about 0 times the density, as Marsaglia (2004)
/// gives it; to about 15 digits within 7 deviations.
fn normal_integral(x: f64) -> f64 {
    let (mut sum, mut term, mut k) = (x, x, 1.0);
    while term.abs() > 1e-17 && k < 400.0 {
        k += 2.0;
        term *= x * x / k;
        sum += term;
    }
    0.5 + sum * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

/// An elementwise function with what its attributes, or inputs 1 and 2, say.
pub(super) fn function(op: &Op, inputs: [Option<&Tensor>; 2]) -> Option<Box<dyn Fn(f64) -> f64>> {
    let attribute = |name: &str, otherwise: f64| op.float(name).map_or(otherwise, f64::from);
    let one = |t: &Tensor| t.to_f32().filter(|v| v.len() == 1).map(|v| f64::from(v[0]));
    Some(match &*op.op_type {
        "Relu" => Box::new(|x: f64| x.max(0.0)),
        "LeakyRelu" => {
            let alpha = attribute("alpha", 0.01);
            Box::new(move |x: f64| if x < 0.0 { x * alpha } else { x })
        }
        "Clip" => {
            let bound = |slot: usize, name: &str, otherwise: f64| match inputs[slot] {
                Some(t) => one(t),
                None => Some(attribute(name, otherwise)),
            };
            let (low, high) = (bound(0, "min", f64::NEG_INFINITY)?, bound(1, "max", f64::INFINITY)?);
            Box::new(move |x: f64| x.max(low).min(high))
        }
        "Sigmoid" => Box::new(|x: f64| 1.0 / (1.0 + (-x).exp())),
        "HardSigmoid" => {
            let (alpha, beta) = (attribute("alpha", 0.2), attribute("beta", 0.5));
            Box::new(move |x: f64| (alpha * x + beta).clamp(0.0, 1.0))
        }
        "HardSwish" => Box::new(|x: f64| x * (x / 6.0 + 0.5).clamp(0.0, 1.0)),
        "Tanh" => Box::new(f64::tanh),
        "Softplus" => Box::new(|x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p()),
        "Elu" => {
            let alpha = attribute("alpha", 1.0);
            Box::new(move |x: f64| if x < 0.0 { alpha * x.exp_m1() } else { x })
        }
        "Neg" => Box::new(|x: f64| -x),
        "Abs" => Box::new(f64::abs),
        _ => return None,
    })
}

/// Whether a reduction leaves batch and channels alone.
fn spatial(graph: &Graph, op: OpId) -> bool {
    let Some(rank) = graph.input(op, 0).and_then(|x| graph.rank(x)) else { return false };
    let given = graph.input(op, 1).and_then(|v| graph.constant(v)).and_then(Tensor::to_i64);
    let axes = given.or_else(|| graph.op(op).ints("axes").map(<[i64]>::to_vec)).unwrap_or_default();
    !axes.is_empty() && axes.iter().all(|a| axis(*a, rank).is_some_and(|a| a > 1))
}

/// The moments of a value whose channels became rows of `axis 1` that hold `run` elements each.
fn spread(graph: &Graph, op: OpId, from: &Moments) -> Option<Moments> {
    let (x, y) = (graph.shape(graph.input(op, 0)?)?, graph.shape(graph.output(op, 0)?)?);
    let extents = |s: &crate::ir::Shape| s.iter().skip(1).map(|d| d.known()).collect::<Option<Vec<_>>>();
    let (before, after) = (extents(&x)?, extents(&y)?);
    let (all, rows) = (before.iter().product::<usize>(), *after.first()?);
    // The batch stays apart where what is behind it is as many elements before and after.
    let run = rows.checked_div(from.channels())?;
    let fits = before.first() == Some(&from.channels()) && after.iter().product::<usize>() == all;
    (fits && run > 0 && rows == run * from.channels() && all % rows == 0).then(|| {
        let wide = |of: &[f64]| of.iter().flat_map(|x| std::iter::repeat_n(*x, run)).collect();
        Moments { mean: wide(&from.mean), deviation: wide(&from.deviation) }
    })
}

fn concat<'a>(graph: &Graph, op: OpId, known: impl Fn(usize) -> Option<&'a Moments>) -> Option<Moments> {
    let rank = graph.rank(graph.output(op, 0)?)?;
    (axis(graph.op(op).int("axis")?, rank)? == 1).then_some(())?;
    let mut all = Moments { mean: Vec::new(), deviation: Vec::new() };
    for slot in 0..graph.inputs_of(op).len() {
        let part = known(slot)?;
        all.mean.extend(&part.mean);
        all.deviation.extend(&part.deviation);
    }
    Some(all)
}

/// A constant operand as one number for each channel.
fn for_channels(graph: &Graph, op: OpId, slot: usize, channels: usize) -> Option<Vec<f64>> {
    let rank = graph.rank(graph.output(op, 0)?)?;
    let constant = graph.constant(graph.input(op, slot)?)?;
    let lead = rank.checked_sub(constant.rank())?;
    let mut shape = constant.shape().iter().enumerate();
    shape.all(|(k, n)| *n == 1 || k + lead == 1 && *n == channels).then_some(())?;
    let values = constant.to_f32()?;
    let of = |k: usize| values.get(if values.len() == 1 { 0 } else { k }).copied().map(f64::from);
    (0..channels).map(of).collect()
}

/// A sum, difference or product of two values, or of one and a constant.
fn joined<'a>(graph: &Graph, op: OpId, known: impl Fn(usize) -> Option<&'a Moments>) -> Option<Moments> {
    let side = |slot: usize, other: usize| match known(slot) {
        Some(of) => Some(of.clone()),
        None => {
            let v = graph.input(op, slot)?;
            matches!(graph.value(v).origin, Origin::Initializer(_)).then_some(())?;
            let channels = known(other)?.channels();
            Some(Moments { mean: for_channels(graph, op, slot, channels)?, deviation: vec![0.0; channels] })
        }
    };
    let (a, b) = (side(0, 1)?, side(1, 0)?);
    let rank = |slot| graph.input(op, slot).and_then(|v| graph.rank(v));
    let computed = known(0).is_some() && known(1).is_some();
    (a.channels() == b.channels() && (!computed || rank(0) == rank(1))).then_some(())?;
    let (mut mean, mut deviation) = (Vec::new(), Vec::new());
    for k in 0..a.channels() {
        let (m, n, v, w) = (a.mean[k], b.mean[k], a.deviation[k].powi(2), b.deviation[k].powi(2));
        let (middle, variance) = match &*graph.op(op).op_type {
            "Add" => (m + n, v + w),
            "Sub" => (m - n, v + w),
            _ => (m * n, v * w + v * n * n + w * m * m),
        };
        mean.push(middle);
        deviation.push(variance.max(0.0).sqrt());
    }
    Some(Moments { mean, deviation })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text;

    fn through(body: &str, moments: &[(f64, f64)]) -> Option<Moments> {
        let text = format!(
            "<ir_version: 8, opset_import: [\"\": 17]>
            g (float[N,{c},2,2] x, float[N,{c},2,2] z) => (int64[R] of) <float[{c},1,1] k = {{{ones}}}> {{ {body}  of = Shape(y) }}",
            c = moments.len(),
            ones = vec!["2"; moments.len()].join(", "),
        );
        let mut model = text::parse(&text).unwrap();
        let _ = crate::ops::infer_types(&mut model);
        let g = &mut model.graph;
        let of = |pick: fn(&(f64, f64)) -> f64| moments.iter().map(pick).collect();
        let noted = Moments { mean: of(|m| m.0), deviation: of(|m| m.1) };
        for v in [g.inputs[0], g.inputs[1]] {
            g.value_mut(v).moments = Some(Box::new(noted.clone()));
        }
        Estimates::of(g).get(g.find("y").unwrap()).cloned()
    }
    fn near(found: Option<Moments>, mean: &[f64], deviation: &[f64]) {
        let found = found.expect("known");
        let close =
            |a: &[f64], b: &[f64]| a.len() == b.len() && a.iter().zip(b).all(|(x, y)| (x - y).abs() < 0.02);
        assert!(close(&found.mean, mean) && close(&found.deviation, deviation), "{found:?}");
    }

    #[test]
    fn a_rectified_normal_has_the_moments_of_the_closed_form() {
        let density = |x: f64| (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let (m, s) = (-0.3, 1.2);
        let below = normal_integral(m / s);
        let mean = m * below + s * density(m / s);
        let squares = (m * m + s * s) * below + m * s * density(m / s);
        near(through("y = Relu(x)", &[(m, s)]), &[mean], &[(squares - mean * mean).sqrt()]);
        assert!((normal_integral(1.96) - 0.975).abs() < 1e-4 && (normal_quantile(0.5)).abs() < 1e-9);
    }
    #[test]
    fn sums_products_and_parts_keep_channels_apart() {
        near(through("y = Add(x, z)", &[(1.0, 3.0), (2.0, 0.0)]), &[2.0, 4.0], &[3.0 * 2f64.sqrt(), 0.0]);
        near(through("y = Mul(x, k)", &[(1.0, 3.0)]), &[2.0], &[6.0]);
        near(through("y = Mul(x, z)", &[(2.0, 0.0)]), &[4.0], &[0.0]);
        near(through("y = Concat<axis = 1>(x, z)", &[(1.0, 3.0)]), &[1.0, 1.0], &[3.0, 3.0]);
        near(through("p = GlobalAveragePool(x)  y = Flatten(p)", &[(1.0, 3.0)]), &[1.0], &[3.0]);
        near(
            through("y = Flatten(x)", &[(1.0, 3.0), (2.0, 1.0)]),
            &[1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0],
            &[3.0, 3.0, 3.0, 3.0, 1.0, 1.0, 1.0, 1.0],
        );
    }
    #[test]
    fn what_mixes_channels_is_not_known() {
        assert_eq!(through("y = Transpose<perm = [0, 2, 1, 3]>(x)", &[(1.0, 3.0)]), None);
        assert_eq!(through("y = Softmax<axis = 1>(x)", &[(1.0, 3.0)]), None);
    }
}
