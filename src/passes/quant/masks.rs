//! What hides scores from a Softmax: numbers far below all others, added or chosen.
//!
//! In integers that reach down to them, all others would be the same few. But a Softmax makes zero of what is some way below the
//! rest, however far: so ranges end a little below the scores that are not hidden, and what hides saturates. Runtimes and tools
//! for accelerators do the same with a fixed number (-255, or -10000).

use super::chains::{Follows, follows};
use crate::{
    error::Result,
    ir::{DType, Graph, Model, QuantScheme, Tensor, ValueId},
    measure::Probe,
    passes::Context,
};
use std::collections::{BTreeMap, HashSet};

/// Constants of this size and below hide what they are added to.
const HIDES: f32 = -1e3;
/// How far a range goes that holds nothing but masks.
pub(super) const REACH: f32 = 255.0;
/// How far below the lowest score a range goes: `exp(-10)` is 0.00005.
const BELOW: f32 = 10.0;

/// Below which number elements of a constant hide others; `None` where it is no mask.
pub(super) fn masking(tensor: &Tensor) -> Option<f32> {
    let values = tensor.to_f32().filter(|_| tensor.dtype() == DType::F32)?;
    let hides = values.iter().copied().filter(|x| *x <= HIDES).reduce(f32::max)?;
    let known = values.iter().all(|x| *x <= HIDES || (0.0..=1.0).contains(x));
    known.then_some((hides / 2.0).max(f32::MIN / 4.0))
}

/// The values that hold masks on their way to a Softmax, and below which number their elements hide.
pub(super) fn masked(graph: &Graph) -> BTreeMap<ValueId, f32> {
    let order = graph.order();
    let carries = |op| {
        let node = graph.op(op);
        let joins =
            ["Add", "Cast", "Identity", "Max", "Min", "Mul", "Sub", "Where"].iter().any(|name| node.is(name));
        joins || matches!(follows(graph, op), Some(Follows::Moved | Follows::Picked))
    };
    let mut leads: HashSet<ValueId> = HashSet::new();
    for op in order.iter().rev() {
        let ends = graph.op(*op).is("Softmax") || graph.op(*op).is("LogSoftmax");
        if ends || carries(*op) && graph.outputs_of(*op).iter().flatten().any(|y| leads.contains(y)) {
            leads.extend(graph.inputs_of(*op).into_iter().flatten());
        }
    }
    let mut masked = BTreeMap::new();
    for op in order.into_iter().filter(|op| carries(*op)) {
        let below = |v: ValueId| masked.get(&v).copied().or_else(|| masking(graph.constant(v)?));
        let Some(below) = graph.inputs_of(op).into_iter().flatten().filter_map(below).reduce(f32::max) else {
            continue;
        };
        let written = graph.outputs_of(op).into_iter().flatten().filter(|y| leads.contains(y));
        masked.extend(written.map(|y| (y, below)));
    }
    masked
}

/// The schemes of such values: over what is not hidden on the first `most` calibration samples, and a little more.
pub(super) fn schemes(
    dtype: DType,
    model: &Model,
    masked: &BTreeMap<ValueId, f32>,
    most: usize,
    cx: &Context<'_>,
) -> Result<BTreeMap<ValueId, Option<QuantScheme>>> {
    if masked.is_empty() {
        return Ok(BTreeMap::new());
    }
    let fetch: Vec<String> = masked.keys().map(|v| model.graph.name_of(*v).to_owned()).collect();
    let mut ranges = vec![(0f32, 0f32); masked.len()];
    cx.sweep(&[Probe { model, fetch: &fetch }], 0..most, &mut |seen| {
        for ((value, below), (low, high)) in
            seen.values.iter().flatten().zip(masked.values()).zip(&mut ranges)
        {
            for x in value.to_f32().unwrap_or_default().iter().filter(|x| **x > *below) {
                (*low, *high) = (low.min(*x), high.max(*x));
            }
        }
        cx.check_cancelled()
    })?;
    let scheme = |(low, high): (f32, f32)| {
        // Ones and zeros beside the mask are no scores.
        let low = if low == 0.0 && high <= 1.0 { -REACH } else { low - BELOW };
        QuantScheme::over(dtype, low, high)
    };
    Ok(masked.keys().copied().zip(ranges.into_iter().map(scheme)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ir::text, ops::infer_types};

    #[test]
    fn masks_are_followed_to_the_softmax_that_they_hide_from() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N, 4] x, float[N, 4] m, bool[N, 4] b) => (float[N, 4] y, float[N, 4] z)
            <float one = {1}, float low = {-10000}, float far = {-2000}>
            {
              k = Sub (one, m)
              h = Mul (k, low)
              s = Add (x, h)
              w = Where (b, low, s)
              y = Softmax (w)
              z = Add (x, far)
            }"#;
        let mut model = text::parse(text).unwrap();
        infer_types(&mut model).unwrap();
        let g = &model.graph;
        let names: Vec<_> = masked(g).into_iter().map(|(v, below)| (g.name_of(v), below)).collect();
        assert_eq!(names, [("h", -5000.0), ("s", -5000.0), ("w", -5000.0)], "z reaches no Softmax");
    }
    #[test]
    fn masks_hold_nothing_else() {
        for (values, expected) in [
            (vec![-1e4, 0.0], Some(-5e3)),
            (vec![f32::NEG_INFINITY, 1.0], Some(f32::MIN / 4.0)),
            (vec![f32::MIN], Some(f32::MIN / 4.0)),
            (vec![-2000.0, 3.0], None),
            (vec![-100.0, 0.0], None),
        ] {
            assert_eq!(masking(&Tensor::from_vec([values.len()], values.clone())), expected, "{values:?}");
        }
    }
}
