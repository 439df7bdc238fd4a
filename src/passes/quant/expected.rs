//! Ranges of activations without samples, from what BatchNormalization tells (Nagel et al. 2019, data-free quantization).

use super::activations::Schemes;
use crate::{
    error::{Error, Result},
    ir::{DType, Graph, QuantScheme, ValueId},
    ops::spans::Spans,
};
use std::collections::BTreeSet;

/// How far elements reach from the mean of their channel, in deviations.
const DEVIATIONS: f64 = 6.0;

/// The schemes, of this type, of the values whose ranges are known; an error where none is.
pub(super) fn schemes(dtype: DType, graph: &Graph, values: &BTreeSet<ValueId>) -> Result<Schemes> {
    let spans = Spans::of(graph, DEVIATIONS);
    let scheme = |v: &ValueId| {
        let (low, high) = spans.get(*v)?;
        Some((*v, QuantScheme::over(dtype, low as f32, high as f32)))
    };
    let known: Schemes = values.iter().filter_map(scheme).collect();
    match known.is_empty() && !values.is_empty() {
        true => Err(Error::usage(
            "nothing tells the ranges of activations",
            "give samples with `--calib`; without them only a model with BatchNormalization that tells means and deviations has any",
        )),
        false => Ok(known),
    }
}
