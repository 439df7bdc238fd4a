//! The scales and zero points that represent a weight best.
//!
//! Eight bits span a group of elements from end to end. With fewer, steps matter more than the ends: a span is shrunk so
//! that the squared error is smallest, outliers saturating; then integers and scale are fitted to each other in turns.

use crate::ir::{DType, Float8, Grain, Lay, QuantForm, QuantScheme, Tensor, nearest};
use rayon::prelude::*;

/// Spans that are tried, as shares of the whole one.
const SHRINKS: std::ops::RangeInclusive<u32> = 35..=100;
/// Every which of them is tried at first.
const STRIDE: usize = 4;
/// How often a scale is fitted to the integers, and they to it.
const TURNS: usize = 4;

/// What leaves a float32 between -2^22 and 2^22 no room for fractions when it is added.
const NO_FRACTIONS: f32 = 1.5 * (1 << 23) as f32;
/// Elements that are rounded at a time.
const RUN: usize = 1 << 12;
/// Elements whose errors are summed in single precision.
const PART: usize = 4096;

/// Elements with one scale, and how much the error of each counts.
struct Group {
    values: Vec<f32>,
    counts: Vec<f32>,
}

/// What integers, or floats of eight bits, the elements of a weight become.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Integers {
    /// The type that holds them; a [`Float8`] holds no integers, but what lies between `low` and `high` all the same.
    pub dtype: DType,
    /// The smallest and largest that are used.
    pub low: i32,
    /// See `low`.
    pub high: i32,
    /// Whether 0 stands for zero; otherwise each group has its own zero point.
    pub symmetric: bool,
    /// Whether spans are shrunk for the smallest squared error.
    pub clip: bool,
}

impl Integers {
    /// Of so many bits; of two only where the model's operator set has them (25), otherwise in four.
    pub(super) fn of(bits: usize, symmetric: bool, opset: i64) -> Integers {
        let container = match bits {
            2 if opset >= 25 => 2,
            2..=4 => 4,
            16 => 16,
            _ => 8,
        };
        let dtype = match (container, symmetric) {
            (2, true) => DType::I2,
            (2, false) => DType::U2,
            (4, true) => DType::I4,
            (4, false) => DType::U4,
            (16, true) => DType::I16,
            (16, false) => DType::U16,
            (_, true) => DType::I8,
            (_, false) => DType::U8,
        };
        let high = if symmetric { (1 << (bits - 1)) - 1 } else { (1 << bits) - 1 };
        // Of eight bits and more the least, as -128, is left out, as kernels that multiply integers like it.
        let low = if symmetric { -high - i32::from(bits < 8) } else { 0 };
        Integers { dtype, low, high, symmetric, clip: bits <= 4 }
    }
    /// Floats of eight bits; the largest magnitude lands on the largest of them.
    pub(super) fn float8(of: Float8) -> Integers {
        let most = of.largest() as i32;
        Integers { dtype: of.dtype(), low: -most, high: most, symmetric: true, clip: false }
    }
    /// Whether elements may be outside of the integers where the type does not saturate, so that rounding to the type
    /// alone would not do.
    pub(super) fn saturate_early(&self) -> bool {
        self.clip && 1 << self.dtype.bits() > self.high - self.low + 1
    }
    /// The real that `x` becomes.
    pub(super) fn round(&self, x: f64, scale: f32, zero: i32) -> f64 {
        let scale = f64::from(scale);
        if let Some(float8) = Float8::of(self.dtype) {
            return f64::from(float8.decode(float8.encode((x / scale) as f32))) * scale + 0.0;
        }
        let (low, high) = (f64::from(self.low - zero), f64::from(self.high - zero));
        // Integers know no -0.
        nearest((x / scale).clamp(low, high)) * scale + 0.0
    }
    /// The scale and zero point for elements.
    fn fit(&self, group: &Group) -> (f32, i32) {
        let ends = |(low, high): (f64, f64), x: &f32| (low.min(f64::from(*x)), high.max(f64::from(*x)));
        let (low, high) = group.values.iter().fold((0.0, 0.0), ends);
        if low == high {
            return (1.0, if self.symmetric { 0 } else { self.low });
        }
        let spanning = |share: f64| {
            let (low, high) = (low * share, high * share);
            if self.symmetric {
                let peak = (high / f64::from(self.high)).max(-low / f64::from(-self.low));
                return (peak as f32, 0);
            }
            let scale = (high - low) / f64::from(self.high - self.low);
            let zero = (f64::from(self.low) - low / scale).round_ties_even() as i32;
            (scale as f32, zero.clamp(self.low, self.high))
        };
        let usable = |scale: f32| scale.clamp(f32::MIN_POSITIVE, f32::MAX);
        let whole = spanning(1.0);
        let whole = (usable(whole.0), whole.1);
        if !self.clip {
            return whole;
        }
        let tried = |share: u32| {
            let (scale, zero) = spanning(f64::from(share) / 100.0);
            let candidate = (usable(scale), zero);
            (self.error(group, candidate), share, candidate)
        };
        // All over first, then around the best of them.
        let rough = SHRINKS.rev().step_by(STRIDE).map(tried).min_by(|a, b| a.0.total_cmp(&b.0));
        let Some(mut best) = rough else { return whole };
        let (first, last) = (best.1 - STRIDE as u32 + 1, best.1 + STRIDE as u32 - 1);
        for fine in (first..=last.min(*SHRINKS.end())).map(tried) {
            if fine.0 < best.0 {
                best = fine;
            }
        }
        let mut best = (best.0, best.2);
        for _ in 0..TURNS {
            let candidate = (usable(self.refit(group, best.1)), best.1.1);
            let error = self.error(group, candidate);
            if error >= best.0 {
                break;
            }
            best = (error, candidate);
        }
        best.1
    }
    /// The squared error, each element's by how much it counts.
    fn error(&self, group: &Group, candidate: (f32, i32)) -> f64 {
        let error = |steps: f32, rounded: f32| (rounded - steps) * (rounded - steps);
        self.sum(group, candidate, error) * f64::from(candidate.0).powi(2)
    }
    /// The scale that is nearest to the elements with the integers that they have now.
    fn refit(&self, group: &Group, candidate: (f32, i32)) -> f32 {
        let both = self.sum(group, candidate, |steps, rounded| rounded * steps);
        let squares = self.sum(group, candidate, |_, rounded| rounded * rounded);
        let scale = candidate.0;
        if squares > 0.0 && both > 0.0 { (f64::from(scale) * both / squares) as f32 } else { scale }
    }
    /// The sum of what a term makes of each element, in steps and rounded to them, by how much it counts. Steps are few:
    /// single precision holds them well.
    fn sum(&self, group: &Group, (scale, zero): (f32, i32), term: impl Fn(f32, f32) -> f32) -> f64 {
        const LANES: usize = 8;
        let (low, high) = ((self.low - zero) as f32, (self.high - zero) as f32);
        let per_unit = scale.recip();
        let one = |x: f32, count: f32| {
            let steps = x * per_unit;
            // What a float with no room for fractions holds of it is rounded.
            count * term(steps, (steps.clamp(low, high) + NO_FRACTIONS) - NO_FRACTIONS)
        };
        let part = |(values, counts): (&[f32], &[f32])| {
            let mut sums = [0f32; LANES];
            let (mut values, mut counts) = (values.chunks_exact(LANES), counts.chunks_exact(LANES));
            for (values, counts) in values.by_ref().zip(counts.by_ref()) {
                for lane in 0..LANES {
                    sums[lane] += one(values[lane], counts[lane]);
                }
            }
            for (sum, (x, count)) in sums.iter_mut().zip(values.remainder().iter().zip(counts.remainder())) {
                *sum += one(*x, *count);
            }
            sums.into_iter().map(f64::from).sum::<f64>()
        };
        group.values.chunks(PART).zip(group.counts.chunks(PART)).map(part).sum()
    }
}

/// The scheme of a weight, with scales of its type. `counts` says how much the error of an element counts. `None` where the
/// weight holds no reals, lacks the grain's axes, or is not finite.
pub(super) fn fit(
    weight: &Tensor,
    grain: Grain,
    integers: Integers,
    counts: impl Fn(usize) -> f32 + Sync,
) -> Option<QuantScheme> {
    let lay = grain.lay(weight.shape())?;
    let values = weight.to_f32()?;
    if !values.iter().all(|x| x.is_finite()) {
        return None;
    }
    let fitted = |scale: usize| {
        let (values, counts) = elements(&lay, values.len(), scale).map(|at| (values[at], counts(at))).unzip();
        integers.fit(&Group { values, counts })
    };
    let (scales, zero_points) = (0..lay.scales()).into_par_iter().map(fitted).unzip();
    let scheme = QuantScheme { dtype: integers.dtype, grain, scales, zero_points, form: QuantForm::Qdq };
    Some(scheme.for_reals(weight.dtype()))
}

/// Where the elements with a scale stand, in a tensor of `len` elements.
fn elements(lay: &Lay, len: usize, scale: usize) -> impl Iterator<Item = usize> + '_ {
    let (row, column) = (scale / lay.inner, scale % lay.inner);
    let (outer, block) = (row / lay.blocks(), row % lay.blocks());
    let period = lay.outer * lay.length;
    let run = block * lay.size..(block * lay.size + lay.size).min(lay.length);
    let repeats = len / (period * lay.inner).max(1);
    (0..repeats).flat_map(move |repeat| {
        run.clone().map(move |at| (repeat * period + outer * lay.length + at) * lay.inner + column)
    })
}

/// The weight as its integers give it back, where those are fewer than their type has: the type alone would not keep to
/// them.
pub(super) fn rounded(weight: &Tensor, scheme: &QuantScheme, integers: Integers) -> Option<Tensor> {
    let (lay, values) = (scheme.grain.lay(weight.shape())?, weight.to_f32()?);
    let mut rounded = vec![0f32; values.len()];
    rounded.par_chunks_mut(RUN).zip(values.par_chunks(RUN)).enumerate().for_each(
        |(run, (rounded, values))| {
            for ((y, x), scale) in rounded.iter_mut().zip(values).zip(lay.scales_from(run * RUN)) {
                *y = integers.round(f64::from(*x), scheme.scales[scale], scheme.zero_points[scale]) as f32;
            }
        },
    );
    Tensor::from_f32(weight.dtype(), weight.shape(), rounded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error(weight: &Tensor, scheme: &QuantScheme, integers: Integers) -> f64 {
        let back = rounded(weight, scheme, integers).unwrap();
        let (a, b) = (weight.view::<f32>().unwrap(), back.view::<f32>().unwrap());
        a.iter().zip(b.iter()).map(|(a, b)| f64::from(a - b).powi(2)).sum()
    }

    proptest! {
        #[test]
        fn shrinking_never_costs_and_rounding_is_stable(
            values in proptest::collection::vec(-1f32..4.0, 60), bits in 2usize..5, symmetric: bool,
        ) {
            let w = Tensor::from_vec([4, 15], values);
            let grain = Grain::Blocks { first: 1, end: 2, size: 8 };
            let integers = Integers::of(bits, symmetric, 21);
            let best = fit(&w, grain, integers, |_| 1.0).unwrap();
            let whole = fit(&w, grain, Integers { clip: false, ..integers }, |_| 1.0).unwrap();
            best.check(Some(w.shape())).unwrap();
            prop_assert!(error(&w, &best, integers) <= error(&w, &whole, integers) * 1.000001);
            let stored = rounded(&w, &best, integers).unwrap();
            let back = best.dequantize(&best.quantize(&stored).unwrap()).unwrap();
            prop_assert_eq!(&back, &stored);
            prop_assert!(integers.saturate_early() || best.quantize(&w).unwrap() == best.quantize(&stored).unwrap());
        }
    }
    proptest! {
        #[test]
        fn wide_integers_and_floats_come_back_as_they_were(
            values in proptest::collection::vec(-4f32..3.0, 60), symmetric: bool,
        ) {
            let w = Tensor::from_vec([4, 15], values);
            let peak = w.view::<f32>().unwrap().iter().fold(0f32, |peak, x| peak.max(x.abs()));
            for (integers, share) in [
                (Integers::of(16, symmetric, 21), 2e-5),
                (Integers::float8(Float8::E4M3FN), 1.0 / 16.0),
                (Integers::float8(Float8::E5M2), 1.0 / 8.0),
            ] {
                let scheme = fit(&w, Grain::Tensor, integers, |_| 1.0).unwrap();
                let stored = rounded(&w, &scheme, integers).unwrap();
                let back = scheme.dequantize(&scheme.quantize(&w).unwrap()).unwrap();
                prop_assert_eq!(&scheme.dequantize(&scheme.quantize(&stored).unwrap()).unwrap(), &stored);
                for ((x, y), z) in w.view::<f32>().unwrap().iter().zip(&back.view::<f32>().unwrap()[..])
                    .zip(&stored.view::<f32>().unwrap()[..])
                {
                    let most = if integers.dtype.is_float() { x.abs() * share + peak * 1e-4 } else { peak * share };
                    prop_assert!((x - y).abs() <= most && (x - z).abs() <= most, "{:?}: {x} {y} {z}", integers);
                }
                let ends = [scheme.scales[0] * integers.high as f32, peak];
                prop_assert!(!symmetric || (ends[0] - ends[1]).abs() <= peak * 1e-5, "{:?}", ends);
            }
        }
    }
    #[test]
    fn groups_are_the_elements_with_their_scale() {
        for grain in [Grain::Tensor, Grain::Axis(1), Grain::Blocks { first: 1, end: 2, size: 2 }] {
            let lay = grain.lay(&[2, 3, 2]).unwrap();
            for scale in 0..lay.scales() {
                let expected: Vec<usize> = (0..12).filter(|at| lay.scale_of(*at) == scale).collect();
                assert_eq!(elements(&lay, 12, scale).collect::<Vec<_>>(), expected, "{grain:?} {scale}");
            }
        }
    }
    #[test]
    fn zeros_outliers_and_extremes() {
        let (three, whole) = (Integers::of(3, false, 21), Grain::Tensor);
        assert_eq!((three.low, three.high, three.dtype), (0, 7, DType::U4));
        assert!(three.saturate_early() && !Integers::of(2, true, 25).saturate_early());
        let fit = |values: Vec<f32>, integers| {
            fit(&Tensor::from_vec([values.len()], values), whole, integers, |_| 1.0)
        };
        assert_eq!(fit(vec![0.0; 4], three).unwrap().scales, [1.0]);
        assert!(fit(vec![f32::NAN], three).is_none());
        let outlier = [&[8.0][..], &[0.9, -1.0, 1.1, -0.8].repeat(16)].concat();
        let shrunk = fit(outlier, Integers::of(2, false, 21)).unwrap().scales[0];
        assert!(shrunk < 2.0, "one outlier does not set the steps of all: {shrunk}");
        let huge = fit(vec![f32::MAX, -f32::MAX], Integers::of(8, false, 21)).unwrap();
        huge.check(Some(&[2])).unwrap();
    }
}
