//! Where the elements of values lie, as far as the model itself tells, without running it.
//!
//! What BatchNormalization puts out lies within some deviations of the mean of each channel (Nagel et al. 2019, "Data-free
//! quantization through weight equalization and bias correction"). From there on spans follow through functions, sums, products and whatever moves
//! elements. Functions that end somewhere, as Sigmoid does, tell where of anything.

use super::moments::{Estimates, function};
use crate::ir::{Graph, Moments, OpId, Tensor, ValueId};
use std::collections::HashMap;

/// A smallest and a largest element; zero is one of them, as integers for any span have to hold it.
type Span = (f64, f64);

/// The span of what nothing is known of.
const ANYWHERE: Span = (f64::NEG_INFINITY, f64::INFINITY);
/// Points between the ends of a span at which functions are looked at, which may turn in between.
const POINTS: usize = 512;
/// Beyond this functions are straight, or flat.
const FAR: f64 = 1e4;

/// What gives out elements that it reads, and zeros.
const MOVES: &[&str] = &[
    "AveragePool",
    "DepthToSpace",
    "Dropout",
    "Expand",
    "Flatten",
    "Gather",
    "GatherElements",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Identity",
    "MaxPool",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "Reshape",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
];

/// The spans of the values of a graph, as far as they are known.
#[derive(Clone, Debug, Default)]
pub struct Spans(HashMap<ValueId, Span>);

impl Spans {
    /// What is noted in the graph reaches so many deviations about the mean of each channel.
    pub fn of(graph: &Graph, deviations: f64) -> Spans {
        let estimates = Estimates::of(graph);
        let noted = |v| Some((v, reach(graph.value(v).moments.as_deref()?, deviations)));
        let mut found = Spans(graph.values().filter_map(noted).collect());
        for op in graph.order() {
            let Some(followed) = found.through(graph, op) else { continue };
            for y in graph.outputs_of(op).into_iter().flatten() {
                // What single elements may add up to, all of them seldom do at once.
                let node = graph.op(op);
                let adds = ["Add", "Sub", "Mul", "GlobalAveragePool"].iter().any(|name| node.is(name));
                let expected = estimates.get(y).filter(|_| adds).map(|m| reach(m, deviations));
                let (low, high) = expected.unwrap_or(ANYWHERE);
                let span = (followed.0.max(low), followed.1.min(high));
                if span.0.is_finite() && span.1.is_finite() {
                    found.0.entry(y).or_insert(span);
                }
            }
        }
        found
    }
    /// The smallest and the largest element of a value, or zero.
    pub fn get(&self, v: ValueId) -> Option<(f64, f64)> {
        self.0.get(&v).copied()
    }
    /// The span of an input of an op, which may be a constant.
    fn read(&self, graph: &Graph, op: OpId, slot: usize) -> Span {
        let Some(v) = graph.input(op, slot) else { return ANYWHERE };
        self.get(v).or_else(|| ends(graph.constant(v)?)).unwrap_or(ANYWHERE)
    }
    fn through(&self, graph: &Graph, op: OpId) -> Option<Span> {
        let node = graph.op(op);
        if !node.is_standard() {
            return None;
        }
        let read = |slot| self.read(graph, op, slot);
        let constant = |slot| graph.input(op, slot).and_then(|v| graph.constant(v));
        let of = |values: &[f64]| values.iter().copied().try_fold((0.0, 0.0), widened);
        match &*node.op_type {
            name if MOVES.contains(&name) => Some(read(0)),
            // Cubic curves overshoot.
            "Resize" | "Upsample" if node.str("mode").is_none_or(|mode| mode != "cubic") => Some(read(0)),
            "Pad"
                if constant(2).map_or(graph.input(op, 2).is_none(), is_zero)
                    && node.float("value").is_none() =>
            {
                Some(read(0))
            }
            "Concat" => {
                let spans = (0..graph.inputs_of(op).len()).map(read);
                Some(spans.fold((0.0, 0.0), |a: Span, b| (a.0.min(b.0), a.1.max(b.1))))
            }
            "Add" => Some((read(0).0 + read(1).0, read(0).1 + read(1).1)),
            "Sub" => Some((read(0).0 - read(1).1, read(0).1 - read(1).0)),
            "Mul" => {
                let (a, b) = (read(0), read(1));
                of(&[a.0 * b.0, a.0 * b.1, a.1 * b.0, a.1 * b.1])
            }
            "PRelu" => {
                let ((low, high), slopes) = (read(0), ends(constant(1)?)?);
                of(&[high, low * slopes.0, low * slopes.1])
            }
            "Softmax" => Some((0.0, 1.0)),
            _ => {
                let f = function(node, [1, 2].map(constant))?;
                let (low, high) = read(0);
                let (near, far) = (low.max(-FAR), high.min(FAR));
                let inside = (0..=POINTS).map(|k| near + (far - near) * k as f64 / POINTS as f64);
                of(&[low, high].into_iter().chain(inside).map(f).collect::<Vec<f64>>())
            }
        }
    }
}

/// As far as all channels reach.
fn reach(moments: &Moments, deviations: f64) -> Span {
    let channels = moments.mean.iter().zip(&moments.deviation);
    channels.fold((0.0, 0.0), |(low, high): Span, (mean, deviation)| {
        (low.min(mean - deviations * deviation), high.max(mean + deviations * deviation))
    })
}

/// The span that holds one more number; `None` where that is none.
fn widened((low, high): Span, x: f64) -> Option<Span> {
    (!x.is_nan()).then_some((low.min(x), high.max(x)))
}

/// The span of a constant.
fn ends(t: &Tensor) -> Option<Span> {
    t.to_f32()?.iter().map(|x| f64::from(*x)).try_fold((0.0, 0.0), widened)
}

fn is_zero(t: &Tensor) -> bool {
    t.scalar_f32() == Some(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text;

    /// The span of `y` where `x` has two channels of these means and deviations, and `z` is not known.
    fn of(body: &str, moments: [(f64, f64); 2]) -> Option<Span> {
        let text = format!(
            "<ir_version: 8, opset_import: [\"\": 17]>
            g (float[N,2,4,4] x, float[N,2,4,4] z) => (int64[R] of)
            <float[2,1,1] k = {{2, -1}}, float low = {{-1}}, float six = {{6}}> {{ {body}  of = Shape(y) }}"
        );
        let mut model = text::parse(&text).unwrap();
        let _ = crate::ops::infer_types(&mut model);
        let g = &mut model.graph;
        let of = |pick: fn(&(f64, f64)) -> f64| moments.iter().map(pick).collect();
        let noted = Moments { mean: of(|m| m.0), deviation: of(|m| m.1) };
        g.value_mut(g.inputs[0]).moments = Some(Box::new(noted));
        Spans::of(g, 6.0).get(g.find("y").unwrap())
    }
    fn near(found: Option<Span>, low: f64, high: f64) {
        let (a, b) = found.expect("known");
        assert!((a - low).abs() < 0.01 && (b - high).abs() < 0.01, "{a} to {b}");
    }

    #[test]
    fn functions_take_spans_along() {
        let x = [(1.0, 1.0), (-1.0, 0.5)];
        near(of("y = Identity(x)", x), -5.0, 7.0);
        near(of("y = Relu(x)", x), 0.0, 7.0);
        near(of("y = Clip(x, low, six)", x), -1.0, 6.0);
        near(of("y = LeakyRelu<alpha = 0.1>(x)", x), -0.5, 7.0);
        near(of("y = HardSwish(x)", x), -0.375, 7.0);
        near(of("y = PRelu(x, k)", x), -10.0, 7.0);
        near(of("r = Relu(x)  y = MaxPool<kernel_shape = [2, 2]>(r)", x), 0.0, 7.0);
        near(of("r = Relu(x)  t = Transpose(r)  y = Flatten(t)", x), 0.0, 7.0);
    }
    #[test]
    fn what_joins_values_reaches_as_far_as_they_do_or_as_is_likely() {
        let x = [(0.0, 1.0), (0.0, 1.0)];
        near(of("r = Relu(x)  y = Concat<axis = 2>(x, r)", x), -6.0, 6.0);
        near(of("y = Mul(x, k)", x), -12.0, 12.0);
        // Of two independent ones, not of both at their ends.
        near(of("y = Add(x, x)", x), -6.0 * 2f64.sqrt(), 6.0 * 2f64.sqrt());
        near(of("r = Relu(x)  s = Sigmoid(x)  t = Transpose(s)  y = Mul(r, t)", x), 0.0, 6.0 * 0.9975);
    }
    #[test]
    fn nature_tells_of_what_is_not_known() {
        let x = [(0.0, 1.0); 2];
        near(of("y = Sigmoid(z)", x), 0.0, 1.0);
        near(of("y = Tanh(z)", x), -1.0, 1.0);
        near(of("y = Clip(z, low, six)", x), -1.0, 6.0);
        near(of("y = Softmax(z)", x), 0.0, 1.0);
        for open in ["Relu(z)", "HardSwish(z)", "Add(x, z)", "Mul(x, z)", "Concat<axis = 1>(x, z)", "Exp(x)"]
        {
            assert_eq!(of(&format!("y = {open}"), x), None, "{open}");
        }
    }
}
