//! Sums that overflow on older processors.
//!
//! x86 without VNNI multiplies uint8 by int8 in pairs and adds each pair in 16 bits, which saturate: 2 · 255 · 127 is
//! about twice what they hold. Weights within -63 to 63 (seven bits) never get there.

use super::{
    placement::{How, Placement},
    weights::Layers,
};
use crate::ir::Graph;

/// How much coarser the steps of seven bits are.
const COARSER: f32 = 127.0 / 63.0;

/// Whether this processor's sums of products overflow.
#[cfg(target_arch = "x86_64")]
pub(super) fn here() -> bool {
    !(std::is_x86_feature_detected!("avx512vnni") || std::is_x86_feature_detected!("avxvnni"))
}
/// Whether this processor's sums of products overflow.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn here() -> bool {
    false
}

/// Leaves seven bits to the weights that are multiplied as integers.
pub(super) fn avoid(graph: &mut Graph, layers: &Layers, placement: &Placement) {
    for v in &layers.weights {
        let integer = |op| layers.how(graph, placement, op) != How::Float;
        let multiplied = graph.uses(*v).iter().any(|at| integer(at.op()));
        if let Some(scheme) = graph.value_mut(*v).quant.as_mut().filter(|_| multiplied) {
            scheme.scales.iter_mut().for_each(|scale| *scale = (*scale * COARSER).min(f32::MAX));
        }
    }
}
