//! From what activations are in use to the range that their integers span.
//!
//! One sweep over the samples finds each value's smallest and largest element, a second one counts its elements in
//! [`BINS`] equal bins between them, one batch at a time; where the values of a batch are many, further sweeps follow. A rule then chooses the span,
//! which never leaves out zero; zeros, exact in any span, are not counted:
//!
//! - `minmax`: from end to end.
//! - `percentile`: without the 1/100,000 of the elements that lie outermost on either side.
//! - `mse`: the one with the smallest mean squared error, of rounding inside and saturation outside.
//! - `entropy`: the one whose integers lose the least information: with `P` the shares of the bins inside, what lies
//!   outside counted to the outermost, and `Q` the same evened out over the bins that share an integer, the smallest
//!   divergence `sum P ln(P / Q)`.

use super::Observer;
use crate::{
    error::Result,
    ir::{Model, QuantScheme, ValueId},
    measure::{Need, Probe, Stat},
    passes::Context,
};
use std::collections::BTreeMap;

/// Bins of a histogram: eight for each integer, so that a span can be cut finely.
const BINS: usize = 2048;
/// Integers of eight bits.
const LEVELS: usize = 256;
/// Elements that are held at a time.
const MOST_HELD: usize = 1 << 26;
/// What an open dimension counts for there.
const USUAL_BATCH: usize = 32;
/// The share of elements that `percentile` leaves out on each side.
const OUTERMOST: f64 = 1e-5;
/// Shares of each side's extent that are tried as ends of the span, in percent.
const SHARES: std::ops::RangeInclusive<usize> = 20..=100;

/// How often elements lie where between two ends.
#[derive(Clone, Debug, PartialEq)]
struct Histogram {
    low: f64,
    width: f64,
    counts: Vec<u64>,
}

impl Histogram {
    /// Empty, over a range widened to include zero.
    fn over(low: f32, high: f32) -> Histogram {
        let (low, high) = (f64::from(low.min(0.0)), f64::from(high.max(0.0)));
        Histogram { low, width: (high - low) / BINS as f64, counts: vec![0; BINS] }
    }
    fn add(&mut self, elements: &[f32]) {
        // Zero is exact in every span.
        for x in elements.iter().filter(|x| **x != 0.0) {
            // A cast saturates, and takes NaN to 0.
            let bin = ((f64::from(*x) - self.low) / self.width) as usize;
            self.counts[bin.min(BINS - 1)] += 1;
        }
    }
    fn end(&self) -> f64 {
        self.low + self.width * BINS as f64
    }
    /// The bins between two ends, at least one.
    fn inside(&self, low: f64, high: f64) -> std::ops::Range<usize> {
        let bin = |x: f64| (((x - self.low) / self.width).round() as usize).min(BINS);
        let first = bin(low).min(BINS - 1);
        first..bin(high).max(first + 1)
    }

    fn span(&self, observer: Observer) -> (f64, f64) {
        match observer {
            Observer::MinMax => (self.low, self.end()),
            Observer::Percentile => self.without_outermost(),
            Observer::Mse => self.cheapest(|low, high| self.squared_error(low, high)),
            Observer::Entropy => self.cheapest(|low, high| self.divergence(low, high)),
        }
    }
    fn without_outermost(&self) -> (f64, f64) {
        let most = self.counts.iter().sum::<u64>() as f64 * OUTERMOST;
        /// Bins before the one with which more than `most` elements are passed.
        fn skipped<'a>(mut counts: impl Iterator<Item = &'a u64>, most: f64) -> f64 {
            let mut passed = 0.0;
            let kept = |count: &u64| {
                passed += *count as f64;
                passed > most
            };
            counts.position(kept).unwrap_or(0) as f64
        }
        let low = self.low + self.width * skipped(self.counts.iter(), most);
        let high = self.end() - self.width * skipped(self.counts.iter().rev(), most);
        (low.min(0.0), high.max(0.0))
    }
    /// The span of least cost: first its upper end is moved, then its lower one.
    fn cheapest(&self, cost: impl Fn(f64, f64) -> f64) -> (f64, f64) {
        let shares = || SHARES.rev().map(|share| share as f64 / 100.0);
        let (low, high) = (self.low, self.end());
        let least = |whole: f64, cost: &dyn Fn(f64) -> f64| {
            let costs = shares().map(|share| (whole * share, cost(whole * share)));
            costs.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(whole, |(end, _)| end)
        };
        let high = least(high, &|high| cost(low, high));
        (least(low, &|low| cost(low, high)), high)
    }
    /// Of elements in the middle of their bins.
    fn squared_error(&self, low: f64, high: f64) -> f64 {
        let step = (high - low) / (LEVELS - 1) as f64;
        let counted = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        let errors = counted.map(|(bin, count)| {
            let x = self.low + (bin as f64 + 0.5) * self.width;
            let outside = (low - x).max(x - high).max(0.0);
            // Within a step, errors are even between the halves: a twelfth of its square in the mean.
            let error = if outside > 0.0 { outside * outside } else { step * step / 12.0 };
            *count as f64 * error
        });
        errors.sum()
    }
    fn divergence(&self, low: f64, high: f64) -> f64 {
        let inside = self.inside(low, high);
        let (below, above) = (self.counts[..inside.start].iter(), self.counts[inside.end..].iter());
        let mut p: Vec<f64> = self.counts[inside].iter().map(|count| *count as f64).collect();
        let last = p.len() - 1;
        // What saturates is information that Q, made of what lies inside, does not have.
        let q = p.clone();
        p[0] += below.sum::<u64>() as f64;
        p[last] += above.sum::<u64>() as f64;
        let (total, held) = (p.iter().sum::<f64>(), q.iter().sum::<f64>());
        if held == 0.0 {
            return f64::INFINITY;
        }
        let mut divergence = 0.0;
        for level in 0..LEVELS {
            let bins = level * p.len() / LEVELS..(level + 1) * p.len() / LEVELS;
            let used = bins.clone().filter(|bin| p[*bin] > 0.0).count();
            let share = q[bins.clone()].iter().sum::<f64>() / held / used.max(1) as f64;
            for p in p[bins].iter().filter(|p| **p > 0.0) {
                let p = p / total;
                // Bins that only hold what saturates count as if one element were theirs.
                divergence += p * (p / share.max(1.0 / total)).ln();
            }
        }
        divergence
    }
}

/// The schemes of values over the calibration samples; `None` where a range is not finite.
pub(super) fn schemes(
    observer: Observer,
    model: &Model,
    values: impl IntoIterator<Item = ValueId>,
    cx: &Context<'_>,
) -> Result<BTreeMap<ValueId, Option<QuantScheme>>> {
    let name = |v: ValueId| model.graph.name_of(v).to_owned();
    let values: Vec<ValueId> = values.into_iter().collect();
    let need = |v: &ValueId| Need { value: name(*v), stat: Stat::Range { axis: None } };
    let stats = cx.measure(model, &values.iter().map(need).collect::<Vec<_>>())?;
    let ranges = values.iter().map(|v| (*v, stats.range(&name(*v)))).collect::<BTreeMap<_, _>>();
    if observer == Observer::MinMax {
        let scheme = |(low, high)| QuantScheme::uint8_over(low, high);
        return Ok(ranges.into_iter().map(|(v, range)| (v, range.and_then(scheme))).collect());
    }
    let uneven = |(low, high): &(f32, f32)| high > low && (high - low).is_finite();
    let counted: Vec<ValueId> =
        values.into_iter().filter(|v| ranges[v].as_ref().is_some_and(uneven)).collect();
    let mut histograms: Vec<Histogram> =
        counted.iter().filter_map(|v| ranges[v]).map(|(low, high)| Histogram::over(low, high)).collect();
    let mut open = &counted[..];
    let mut filled = histograms.iter_mut();
    while !open.is_empty() {
        let (now, later) = open.split_at(together(model, open));
        let fetch: Vec<String> = now.iter().map(|v| name(*v)).collect();
        let mut filling: Vec<&mut Histogram> = filled.by_ref().take(now.len()).collect();
        cx.sweep(&[Probe { model, fetch: &fetch }], usize::MAX, &mut |seen| {
            for (histogram, value) in filling.iter_mut().zip(seen.values.iter().flatten()) {
                histogram.add(&value.to_f32().unwrap_or_default());
            }
            cx.check_cancelled()
        })?;
        open = later;
    }
    let mut schemes: BTreeMap<ValueId, Option<QuantScheme>> = ranges
        .into_iter()
        .map(|(v, range)| (v, range.and_then(|(low, high)| QuantScheme::uint8_over(low, high))))
        .collect();
    for (v, histogram) in counted.into_iter().zip(&histograms) {
        let (low, high) = histogram.span(observer);
        schemes.insert(v, QuantScheme::uint8_over(low as f32, high as f32));
    }
    Ok(schemes)
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

    fn of(elements: &[f32]) -> Histogram {
        let (low, high) = elements.iter().fold((0f32, 0f32), |(a, b), x| (a.min(*x), b.max(*x)));
        let mut histogram = Histogram::over(low, high);
        histogram.add(elements);
        histogram
    }
    /// A bell of standard deviation 1 by sums of twelve even numbers, from 0 on if `positive`.
    fn bell(positive: bool) -> Vec<f32> {
        let mut state = 1u64;
        let mut even = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        let mut one = || (0..12).map(|_| even()).sum::<f32>() - 6.0;
        (0..100_000).map(|_| one()).map(|x| if positive { x.max(0.0) } else { x }).collect()
    }

    #[test]
    fn many_values_are_held_in_turns() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N, 1024, 1024] x) => (float[N, 1024, 1024] y) { a = Relu (x) b = Relu (a) y = Relu (b) }"#;
        let mut model = crate::ir::text::parse(text).unwrap();
        crate::ops::infer_types(&mut model).unwrap();
        let values: Vec<ValueId> = ["x", "a", "b"].iter().filter_map(|n| model.graph.find(n)).collect();
        assert_eq!(together(&model, &values), 2, "of 32 million elements each");
        assert_eq!(together(&model, &values[2..]), 1);
    }
    #[test]
    fn all_elements_are_counted_once() {
        let histogram = of(&bell(false));
        assert_eq!(histogram.counts.iter().sum::<u64>(), 100_000);
        assert!(of(&bell(true)).counts.iter().sum::<u64>() < 60_000, "zeros do not count");
        let whole = histogram.span(Observer::MinMax);
        assert_eq!(whole, (histogram.low, histogram.end()));
    }
    #[test]
    fn an_outlier_does_not_set_the_span() {
        let mut elements = bell(true).repeat(3);
        elements.push(60.0);
        let histogram = of(&elements);
        for observer in [Observer::Percentile, Observer::Entropy] {
            let (low, high) = histogram.span(observer);
            assert!(low == 0.0 && (3.0..25.0).contains(&high), "{observer:?}: {low} to {high}");
        }
    }
    #[test]
    fn even_elements_keep_their_whole_span() {
        let even: Vec<f32> = (0..200_000).map(|k| k as f32 / 1e5 - 0.5).collect();
        let histogram = of(&even);
        for observer in [Observer::Percentile, Observer::Mse, Observer::Entropy] {
            let (low, high) = histogram.span(observer);
            assert!((low + 0.5).abs() < 0.02 && (high - 1.5).abs() < 0.03, "{observer:?}: {low} to {high}");
        }
    }
    #[test]
    fn the_least_squared_error_is_what_rounding_gives() {
        let elements = bell(false);
        let histogram = of(&elements);
        let error = |(low, high): (f64, f64)| {
            let scheme = QuantScheme::uint8_over(low as f32, high as f32).unwrap();
            let x = crate::ir::Tensor::from_vec([elements.len()], elements.clone());
            let back = scheme.dequantize(&scheme.quantize(&x).unwrap()).unwrap();
            let back = back.view::<f32>().unwrap();
            elements.iter().zip(back.iter()).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
        };
        let best = histogram.span(Observer::Mse);
        assert!(error(best) < error(histogram.span(Observer::MinMax)));
        let estimate = histogram.squared_error(best.0, best.1);
        assert!((estimate / error(best) - 1.0).abs() < 0.05, "{estimate} against {}", error(best));
    }
}
