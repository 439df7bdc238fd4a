//! Layers in float between integers, which ONNX Runtime would round by itself: see [`rounded_at_load`].
//!
//! A DequantizeLinear that has its scale once for each channel is not taken for one with one scale, and makes the same floats.

use super::parameters::{self, Parameters};
use crate::{
    ir::{DType, Grain, Graph, Op, OpId, QuantForm, QuantScheme, ValueId},
    ops::quantized::{FromIntegers, rounded_at_load},
};
use std::collections::HashMap;

/// The operator set since which DequantizeLinear has a scale for each channel; in older ones one scale has to do.
const BY_CHANNEL: i64 = 13;

/// A layer that is to have its floats from a DequantizeLinear of its own.
pub(super) struct Shield {
    /// Stands where that will.
    identity: OpId,
    /// With the scale for each channel.
    scheme: QuantScheme,
}

/// Gives the layers that ONNX Runtime would round an input of their own in the place of what has the form
/// [`QuantForm::Shielded`], which has [`QuantForm::Qdq`] from here on.
pub(super) fn part(graph: &mut Graph, opset: i64) -> Vec<Shield> {
    let is_shielded = |graph: &Graph, v: ValueId| {
        graph.value(v).quant.as_ref().is_some_and(|scheme| scheme.form == QuantForm::Shielded)
    };
    let found = graph.ops().filter_map(|op| rounded_at_load(graph, op));
    let found = found.filter(|from| opset >= BY_CHANNEL && is_shielded(graph, from.value));
    let mut found: Vec<FromIntegers> = found.collect();
    found.sort_unstable_by_key(|from| from.at);
    found.dedup_by_key(|from| from.at);
    for v in graph.values().filter(|v| is_shielded(graph, *v)).collect::<Vec<_>>() {
        graph.value_mut(v).quant.iter_mut().for_each(|scheme| scheme.form = QuantForm::Qdq);
    }
    let (mut shields, mut apart) = (Vec::new(), HashMap::new());
    for FromIntegers { value, at, axis, extent } in found {
        if let Some(own) = apart.get(&(value, axis, extent)) {
            graph.replace_use(at, value, *own);
            continue;
        }
        let Some(scheme) = graph.value(value).quant.clone() else { continue };
        let scheme = QuantScheme {
            grain: Grain::Axis(axis),
            scales: vec![scheme.scales[0]; extent],
            zero_points: vec![scheme.zero_points[0]; extent],
            ..scheme
        };
        let (hint, ty) = (format!("{}_apart", graph.name_of(value)), graph.value(value).ty.clone());
        let own = graph.add_node(Op::new("Identity", ""), &[value], &hint, ty);
        graph.replace_use(at, value, own);
        apart.insert((value, axis, extent), own);
        shields.extend(graph.producer(own).map(|(identity, _)| Shield { identity, scheme }));
    }
    shields
}

/// Puts their DequantizeLinear in front of these layers.
pub(super) fn rewrite(graph: &mut Graph, shields: Vec<Shield>, parameters: &mut Parameters) {
    for Shield { identity, scheme } in shields {
        let (Some(floats), Some(own)) = (graph.input(identity, 0), graph.output(identity, 0)) else {
            continue;
        };
        let from = graph.producer(floats).map(|p| p.0).filter(|op| graph.op(*op).is("DequantizeLinear"));
        let Some(integers) = from.and_then(|op| graph.input(op, 0)) else { continue };
        graph.remove_op(identity);
        let shape = [scheme.scales.len()];
        let scale = parameters::scale(graph, &scheme, DType::F32, &shape);
        let zero = parameters.zero_point(graph, scheme.zero_point_tensor(&shape));
        let op = super::schemes::with_axis(Op::new("DequantizeLinear", ""), &scheme);
        graph.add_op(op, &[integers, scale, zero].map(Some), &[Some(own)]);
        let unread = graph.uses(floats).is_empty() && !graph.is_output(floats);
        if let Some(from) = from.filter(|_| unread) {
            graph.remove_op(from);
            graph.remove_value_if_unused(floats);
        }
    }
}
