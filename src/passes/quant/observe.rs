//! From what activations are in use to the range that their integers span.
//!
//! Sweeps over the samples find the ends of each value and, where a rule asks for more, count its elements in equal bins, one batch
//! at a time: those of the first 1024 samples, as shares of elements hardly change with more, and of as many values in one sweep as
//! take bounded memory. A rule then chooses the span, which never leaves out zero; zeros, exact in any span,
//! are not counted:
//!
//! - `minmax`: from end to end.
//! - `average`: from the mean of the batches' lower ends to that of their upper ends, every batch counting alike.
//! - `percentile`: without the elements that lie outermost on either side, 1 in 100,000 unless another share is given.
//! - `mse`: the one with the smallest mean squared error, of rounding inside and saturation outside.
//! - `entropy`: the one whose integers lose the least information: with `P` the shares of the bins inside, what lies
//!   outside counted to the outermost, and `Q` the same evened out over the bins that share an integer, the smallest
//!   divergence `sum P ln(P / Q)`.

use super::{histogram::Histogram, rule::Rule};
use crate::{
    error::Result,
    ir::{DType, Model, QuantScheme, ValueId},
    measure::Probe,
    ops,
    passes::{Context, linear::effect},
};
use rayon::prelude::*;
use std::{collections::BTreeMap, ops::Range};

/// Elements that are held at a time.
const MOST_HELD: usize = 1 << 25;
/// What a dimension that samples do not tell counts for there.
const USUAL_BATCH: usize = 32;
/// Samples whose elements are counted. Of those behind them the ends are taken in, and whether they are numbers.
const COUNTED: usize = 1024;

/// For each rule the schemes, of this type, of values over the first `most` calibration samples; `None` where a range is not
/// finite.
pub(super) fn schemes(
    rules: &[Rule],
    dtype: DType,
    model: &Model,
    values: impl IntoIterator<Item = ValueId>,
    most: usize,
    cx: &Context<'_>,
) -> Result<Vec<BTreeMap<ValueId, Option<QuantScheme>>>> {
    let values: Vec<ValueId> = values.into_iter().collect();
    let mut histograms: Vec<Histogram> = values.iter().map(|_| Histogram::new()).collect();
    let counted = if rules.iter().all(|rule| rule.needs_ends_alone()) { 0 } else { most.min(COUNTED) };
    if counted > 0 {
        count(model, &values, counted, &mut histograms, cx)?;
    }
    reach(model, &values, counted..most, &mut histograms, cx)?;
    let chosen = |rule: &Rule| {
        let spans = histograms.par_iter().map(|histogram| {
            histogram.range()?;
            let (low, high) = histogram.span(*rule, 1 << dtype.bits());
            QuantScheme::over(dtype, low as f32, high as f32)
        });
        values.iter().copied().zip(spans.collect::<Vec<_>>()).collect()
    };
    Ok(rules.iter().map(chosen).collect())
}

/// Counts the elements of values over the first so many samples.
fn count(
    model: &Model,
    values: &[ValueId],
    samples: usize,
    histograms: &mut [Histogram],
    cx: &Context<'_>,
) -> Result<()> {
    let shaped = effect::shaped_as_sampled(model, cx)?;
    let (mut open, mut histograms) = (values, histograms);
    while !open.is_empty() {
        let (now, later) = open.split_at(together(&shaped, open));
        let (own, others) = histograms.split_at_mut(now.len());
        let fetch: Vec<String> = now.iter().map(|v| model.graph.name_of(*v).to_owned()).collect();
        cx.sweep(&[Probe { model, fetch: &fetch }], 0..samples, &mut |seen| {
            let values = seen.values.iter().flatten().collect::<Vec<_>>();
            own.par_iter_mut().zip(values).for_each(|(histogram, value)| {
                histogram.add(&value.to_f32().unwrap_or_default());
            });
            cx.check_cancelled()
        })?;
        (open, histograms) = (later, others);
    }
    Ok(())
}

/// Takes in the ends of values over these samples: they are found where the values are, so that none of these has to be handed
/// out or held. What is no number counts only if it comes first, as ONNX Runtime looks for ends; where it matters, outputs tell.
fn reach(
    model: &Model,
    values: &[ValueId],
    samples: Range<usize>,
    histograms: &mut [Histogram],
    cx: &Context<'_>,
) -> Result<()> {
    let (mut reduced, opset) = (model.clone(), model.opset());
    let g = &mut reduced.graph;
    let mut fetch = Vec::with_capacity(2 * values.len());
    for v in values {
        fetch.extend(ops::ends(g, opset, *v, None).map(|end| g.name_of(end).to_owned()));
    }
    cx.sweep(&[Probe { model: &reduced, fetch: &fetch }], samples, &mut |seen| {
        let found: Vec<_> = seen.values.iter().flatten().collect();
        for (histogram, ends) in histograms.iter_mut().zip(found.chunks_exact(2)) {
            let ends = ends.iter().flat_map(|end| end.to_f32().unwrap_or_default().into_owned());
            // Of no elements the smallest is above the largest.
            match ends.collect::<Vec<_>>()[..] {
                [low, high] if low > high => histogram.reach(&[]),
                ref ends => histogram.reach(ends),
            }
        }
        cx.check_cancelled()
    })
}

/// How many of the values are held at a time, at least one: those that come after are for another sweep.
fn together(model: &Model, values: &[ValueId]) -> usize {
    let elements = |v: &ValueId| {
        let shape = model.graph.shape(*v).unwrap_or_default();
        shape.iter().map(|dim| dim.known().unwrap_or(USUAL_BATCH)).fold(1, usize::saturating_mul)
    };
    let mut held = 0usize;
    let fits = |v: &&ValueId| {
        held = held.saturating_add(elements(v));
        held <= MOST_HELD
    };
    values.iter().take_while(fits).count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_values_are_held_in_turns() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N, 1024, 512] x) => (float[N, 1024, 512] y) { a = Relu (x) b = Relu (a) y = Relu (b) }"#;
        let mut model = crate::ir::text::parse(text).unwrap();
        ops::infer_types(&mut model).unwrap();
        let values: Vec<ValueId> = ["x", "a", "b"].iter().filter_map(|n| model.graph.find(n)).collect();
        assert_eq!(together(&model, &values), 2, "of 16 million elements each");
        assert_eq!(together(&model, &values[2..]), 1);
    }
}
