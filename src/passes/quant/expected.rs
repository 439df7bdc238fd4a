//! Ranges of activations without samples, from what BatchNormalization tells (Nagel et al. 2019, data-free quantization).

use super::activations::Schemes;
use crate::{
    error::Error,
    ir::{DType, Graph, QuantScheme, ValueId},
    ops::spans::Spans,
};
use std::collections::BTreeSet;

/// How far elements reach from the mean of their channel, in deviations.
const DEVIATIONS: f64 = 6.0;

/// The schemes, of this type, of the values whose ranges are known.
pub(super) fn schemes(dtype: DType, graph: &Graph, values: &BTreeSet<ValueId>) -> Schemes {
    let spans = Spans::of(graph, DEVIATIONS);
    let scheme = |v: &ValueId| {
        let (low, high) = spans.get(*v)?;
        Some((*v, QuantScheme::over(dtype, low as f32, high as f32)))
    };
    values.iter().filter_map(scheme).collect()
}

/// The error where no layer can compute in integers for want of ranges.
pub(super) fn nothing_told() -> Error {
    Error::usage(
        "nothing tells the ranges of activations",
        "give samples with `--calib`; without them only a model with BatchNormalization that tells means and deviations has any",
    )
}
