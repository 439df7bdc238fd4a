//! Activation functions that rounding computes by itself, because integers end where the function does.
//!
//! HardSigmoid(x) = max(0, min(1, a x + b)) in steps of `s` from the lowest integer `z` on is x in steps of `s / a` about
//! `z + b / s`: what is below 0 or above 1 saturates. HardSwish(x) = x HardSigmoid(x) is the product of both. So a pair
//! that rounds x anew takes the place of a float operator, and runtimes have an integer kernel for the product. For
//! neither function they have one.
//!
//! `b` is to be a whole number of steps: a part of one would be missing, or too much, wherever nothing saturates, and in a
//! chain of such functions that adds up.

use super::parameters::Parameters;
use crate::ir::{DType, Grain, Graph, Op, OpId, Origin, QuantForm, QuantScheme, ValueId};

/// HardSwish's slope and offset.
const SWISH: [f32; 2] = [1.0 / 6.0, 0.5];
/// A share of a step.
const SLACK: f32 = 1e-5;

/// Rewrites every HardSigmoid and HardSwish that makes a value of the form [`QuantForm::Saturated`] of integers, both of
/// eight bits. What is behind them is between pairs then, as behind all others.
pub(super) fn rewrite(graph: &mut Graph, parameters: &mut Parameters) {
    let mut saturated = Vec::new();
    for op in graph.order() {
        let Some(y) = graph.output(op, 0) else { continue };
        let scheme = graph.value_mut(y).quant.as_mut();
        if let Some(scheme) = scheme.filter(|scheme| scheme.form == QuantForm::Saturated) {
            scheme.form = QuantForm::Qdq;
            saturated.push((op, y));
        }
    }
    for (op, y) in saturated {
        let Some(x) = graph.input(op, 0) else { continue };
        let node = graph.op(op);
        let Some(made) = rounded(graph, y).filter(|_| rounded(graph, x).is_some()) else { continue };
        if node.is("HardSigmoid") {
            let slope = ["alpha", "beta"].map(|name| node.float(name));
            let slope = [slope[0].unwrap_or(0.2), slope[1].unwrap_or(0.5)];
            let Some(rounds) = saturating(&made, slope) else { continue };
            graph.value_mut(y).quant = None;
            graph.remove_op(op);
            round(graph, x, &rounds, &made, y, parameters);
        } else if node.is("HardSwish") {
            gate(graph, op, [x, y], &made, parameters);
        }
    }
}

/// `y = x HardSigmoid(x)` of integers, where they have zero points of their own.
fn gate(graph: &mut Graph, op: OpId, [x, y]: [ValueId; 2], made: &QuantScheme, parameters: &mut Parameters) {
    // A runtime that has signed integers about 0 alone reads no others.
    if made.is_symmetric() && made.dtype == DType::I8 {
        return;
    }
    let Some(share) = QuantScheme::over(made.dtype, 0.0, 1.0).map(|s| s.with_exact(SWISH[1])) else { return };
    let Some(rounds) = saturating(&share, SWISH) else { return };
    let (name, hint) = (graph.op(op).name.clone(), format!("{}_gate", graph.name_of(y)));
    let gate = graph.add_value(&hint, None);
    graph.remove_op(op);
    round(graph, x, &rounds, &share, gate, parameters);
    graph.add_op(Op::new("Mul", name), &[Some(x), Some(gate)], &[Some(y)]);
}

/// The scheme of a computed value that is rounded to eight bits as a whole.
fn rounded(graph: &Graph, v: ValueId) -> Option<QuantScheme> {
    let value = graph.value(v);
    let plain = |s: &&QuantScheme| {
        s.form == QuantForm::Qdq && s.grain == Grain::Tensor && s.dtype.is_integer() && s.dtype.bits() == 8
    };
    value.quant.as_ref().filter(|_| value.origin == Origin::Computed).filter(plain).cloned()
}

/// How x is to be rounded for its integers to stand, under `made`, for what HardSigmoid of this slope and offset makes of it. `None`
/// where they do not end where that does.
fn saturating(made: &QuantScheme, [slope, offset]: [f32; 2]) -> Option<QuantScheme> {
    let ([low, high], step, zero) = (made.ends()?, made.scales[0], made.zero_points[0]);
    let center = (f64::from(zero) + f64::from(offset / step).round_ties_even()) as i32;
    let scheme = QuantScheme { scales: vec![step / slope], zero_points: vec![center], ..made.clone() };
    // The last step may end as far beyond 1 as float32 is coarse.
    let ends = low == 0.0 && high <= 1.0 + SLACK;
    (ends && scheme.check(None).is_ok()).then_some(scheme)
}

/// `to` becomes x as these integers, that mean something else.
fn round(
    graph: &mut Graph,
    x: ValueId,
    integers: &QuantScheme,
    mean: &QuantScheme,
    to: ValueId,
    parameters: &mut Parameters,
) {
    let hint = format!("{}_quantized", graph.name_of(to));
    let middle = graph.add_value(&hint, None);
    let [scale, zero] = parameters.of(graph, integers, &[]);
    graph.add_op(Op::new("QuantizeLinear", ""), &[x, scale, zero].map(Some), &[Some(middle)]);
    let [scale, zero] = parameters.of(graph, mean, &[]);
    graph.add_op(Op::new("DequantizeLinear", ""), &[middle, scale, zero].map(Some), &[Some(to)]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::Tensor;

    #[test]
    fn integers_are_those_of_the_function_to_a_step() {
        let values: Vec<f32> = (-400..=400).map(|k| k as f32 / 50.0).collect();
        for dtype in [DType::U8, DType::I8] {
            for (slope, highest) in [(SWISH, 1.0), ([0.2, 0.5], 1.0), ([1.0, 0.0], 1.0), ([0.3, 0.4], 0.7)] {
                let made = QuantScheme::over(dtype, 0.0, highest).unwrap();
                let rounds = saturating(&made, slope).unwrap();
                let of = |x: &f32| (slope[0] * x + slope[1]).clamp(0.0, 1.0);
                let expected = Tensor::from_vec([values.len()], values.iter().map(of).collect());
                let expected = made.quantize(&expected).unwrap().to_i64().unwrap();
                let found = rounds.quantize(&Tensor::from_vec([values.len()], values.clone())).unwrap();
                for ((x, found), expected) in values.iter().zip(found.to_i64().unwrap()).zip(expected) {
                    assert!(
                        (found - expected).abs() <= 1,
                        "{dtype} {slope:?}: {x} is {found}, not {expected}"
                    );
                }
            }
        }
    }
    #[test]
    fn the_middle_of_the_gate_is_exact() {
        let share = QuantScheme::over(DType::U8, 0.0, 1.0).unwrap().with_exact(SWISH[1]);
        let rounds = saturating(&share, SWISH).unwrap();
        let at = |x: f32| {
            let integers = rounds.quantize(&Tensor::from_vec([1], vec![x])).unwrap();
            share.dequantize(&integers).unwrap().scalar_f32()
        };
        assert_eq!((at(0.0), at(1.5), at(-1.5), at(-3.0)), (Some(0.5), Some(0.75), Some(0.25), Some(0.0)));
        assert!((at(8.0).unwrap() - 1.0).abs() < 0.004);
    }
    #[test]
    fn integers_that_end_elsewhere_do_not_saturate_so() {
        for (low, high) in [(-0.5, 1.0), (0.0, 1.5)] {
            assert_eq!(saturating(&QuantScheme::over(DType::U8, low, high).unwrap(), SWISH), None);
        }
        let unit = QuantScheme::over(DType::U8, 0.0, 1.0).unwrap();
        for slope in [[0.0, 0.5], [-0.2, 0.5], [0.2, 2.0], [f32::NAN, 0.5]] {
            assert_eq!(saturating(&unit, slope), None, "{slope:?}");
        }
    }
}
