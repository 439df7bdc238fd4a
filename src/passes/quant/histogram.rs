//! How often the elements of a value lie where, while batch after batch comes in, and which span of them integers should
//! cover.

use super::{
    Observer,
    costs::Sums,
    counting::{BINS, Ends, SIDE, Tables},
    rule::Rule,
};

/// Shares of each side's extent that are tried as ends of the span, in percent.
const SHARES: std::ops::RangeInclusive<usize> = 20..=100;
/// Elements of a batch from which on one in so many is counted.
const MANY: usize = 1 << 14;
const ONE_IN: usize = 4;
/// Elements that are read at a time: few enough to stay near the processor until they are counted.
const BLOCK: usize = 4096;

/// Counts of elements by bins of equal width, which doubles where elements come that lie outside.
///
/// Of a batch of many elements one in four is counted, and counts for as many; which one changes within blocks and from block to
/// block, so that each channel has its turn wherever channels lie. Ends are those of all, and count once more.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    /// The smallest and the largest element of batches that are counted, or zero.
    low: f32,
    high: f32,
    /// Those of all batches, and whether every element was finite.
    all: Ends,
    /// The sums of what these were in each batch, and how many batches there were.
    ends: (f64, f64),
    batches: usize,
    blocks: usize,
    width: f32,
    /// Bin `k` begins at `(k - SIDE) * width`. Zeros, exact in every span, are not counted.
    counts: Vec<u64>,
}

impl Histogram {
    pub(super) fn new() -> Histogram {
        Histogram {
            low: 0.0,
            high: 0.0,
            all: Ends::default(),
            ends: (0.0, 0.0),
            batches: 0,
            blocks: 0,
            width: 0.0,
            counts: vec![0; BINS],
        }
    }
    /// The smallest and the largest element, or zero; `None` where some were not finite.
    pub(super) fn range(&self) -> Option<(f32, f32)> {
        self.all.finite.then_some((self.all.low, self.all.high))
    }
    /// Takes in the ends of one more batch alone.
    pub(super) fn reach(&mut self, elements: &[f32]) {
        self.end_batch(Ends::of(elements));
    }
    /// Counts the elements of one more batch.
    pub(super) fn add(&mut self, elements: &[f32]) {
        let step = if elements.len() < MANY { 1 } else { ONE_IN };
        let (mut all, mut tables) = (Ends::default(), Tables::new());
        for block in elements.chunks(BLOCK) {
            let ends = Ends::of(block);
            all = all.with(ends);
            if !self.reaches(ends) {
                tables.empty_into(&mut self.counts, step);
                self.widen_to(ends);
            }
            // Where all are zero, or so small that their bins have no width.
            if all.finite && self.width.is_normal() {
                tables.count(block, self.blocks, step, self.width);
            }
            self.blocks += 1;
        }
        tables.empty_into(&mut self.counts, step);
        // An outlier may have missed its turn.
        if step > 1 && all.finite && self.width.is_normal() {
            tables.count(&[all.low, all.high], 0, 1, self.width);
            tables.empty_into(&mut self.counts, 1);
        }
        self.end_batch(all);
    }
    fn end_batch(&mut self, ends: Ends) {
        self.all = self.all.with(ends);
        (self.ends.0, self.ends.1) = (self.ends.0 + f64::from(ends.low), self.ends.1 + f64::from(ends.high));
        self.batches += 1;
    }
    fn reaches(&self, ends: Ends) -> bool {
        ends.finite && self.low <= ends.low && ends.high <= self.high
    }
    fn widen_to(&mut self, ends: Ends) {
        if ends.finite {
            (self.low, self.high) = (self.low.min(ends.low), self.high.max(ends.high));
            self.widen();
        }
    }
    /// Makes the bins reach as far as the elements.
    fn widen(&mut self) {
        // The last bin on either side stays empty: rounding may move an element by one.
        let needed = self.high.max(-self.low) / (SIDE - 1) as f32;
        if self.width == 0.0 {
            self.width = needed;
        }
        while self.width.is_normal() && self.width < needed {
            self.width *= 2.0;
            let pairs = self.counts.chunks(2).map(|pair| pair.iter().sum());
            let outer = vec![0; SIDE / 2];
            self.counts = outer.iter().copied().chain(pairs).chain(outer.iter().copied()).collect();
        }
    }
    /// Where the first bin begins.
    fn start(&self) -> f64 {
        -(SIDE as f64) * f64::from(self.width)
    }
    /// The bins between two ends, at least one.
    fn inside(&self, low: f64, high: f64) -> std::ops::Range<usize> {
        let bin = |x: f64| (((x - self.start()) / f64::from(self.width)).round() as usize).min(BINS);
        let first = bin(low).min(BINS - 1);
        first..bin(high).max(first + 1)
    }

    /// The span that a rule chooses for so many integers, zero inside.
    pub(super) fn span(&self, rule: impl Into<Rule>, levels: usize) -> (f64, f64) {
        let rule = rule.into();
        match rule.observer {
            Observer::MinMax => (f64::from(self.all.low), f64::from(self.all.high)),
            Observer::Percentile if rule.needs_ends_alone() => self.span(Observer::MinMax, levels),
            Observer::Average => {
                let batches = self.batches as f64;
                (self.ends.0 / batches, self.ends.1 / batches)
            }
            // Where all are zero, or so small that bins have no width.
            _ if !self.width.is_normal() => (f64::from(self.low), f64::from(self.high)),
            Observer::Percentile => self.without_outermost(rule.outermost),
            Observer::Mse => {
                let (sums, width) = (Sums::of(&self.counts), f64::from(self.width));
                self.cheapest(|low, high| sums.squared_error(low / width, high / width, levels - 1))
            }
            Observer::Entropy => {
                let sums = Sums::of(&self.counts);
                self.cheapest(|low, high| sums.divergence(self.inside(low, high), levels))
            }
        }
    }
    fn without_outermost(&self, share: f64) -> (f64, f64) {
        let most = self.counts.iter().sum::<u64>() as f64 * share;
        /// Bins before the one with which more than `most` elements are passed.
        fn skipped<'a>(mut counts: impl Iterator<Item = &'a u64>, most: f64) -> f64 {
            let mut passed = 0.0;
            let kept = |count: &u64| {
                passed += *count as f64;
                passed > most
            };
            counts.position(kept).unwrap_or(0) as f64
        }
        let end = SIDE as f64 * f64::from(self.width);
        let low = -end + f64::from(self.width) * skipped(self.counts.iter(), most);
        let high = end - f64::from(self.width) * skipped(self.counts.iter().rev(), most);
        (low.min(0.0).max(f64::from(self.low)), high.max(0.0).min(f64::from(self.high)))
    }
    /// The span of least cost: first its upper end is moved, then its lower one.
    fn cheapest(&self, cost: impl Fn(f64, f64) -> f64) -> (f64, f64) {
        let shares = || SHARES.rev().map(|share| share as f64 / 100.0);
        let (low, high) = (f64::from(self.low), f64::from(self.high));
        let least = |whole: f64, cost: &dyn Fn(f64) -> f64| {
            let costs = shares().map(|share| (whole * share, cost(whole * share)));
            costs.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(whole, |(end, _)| end)
        };
        let high = least(high, &|high| cost(low, high));
        (least(low, &|low| cost(low, high)), high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{DType, QuantScheme};

    fn of(elements: &[f32]) -> Histogram {
        let mut histogram = Histogram::new();
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
    fn all_elements_are_counted_once() {
        let few = &bell(false)[..MANY - 1];
        assert_eq!(of(few).counts.iter().sum::<u64>(), few.len() as u64);
        let positive = &bell(true)[..MANY - 1];
        let zeros = positive.iter().filter(|x| **x == 0.0).count();
        assert_eq!(of(positive).counts.iter().sum::<u64>(), (few.len() - zeros) as u64, "zeros do not count");
        let histogram = of(&bell(false));
        assert_eq!(
            histogram.counts.iter().sum::<u64>(),
            100_000 + 2,
            "one in four of many for four, and the ends"
        );
        let (low, high) = histogram.span(Observer::MinMax, 256);
        assert_eq!(histogram.range(), Some((low as f32, high as f32)));
    }
    #[test]
    fn a_bin_holds_what_lies_between_its_ends() {
        let elements = &bell(false)[..MANY - 1];
        let histogram = of(elements);
        let (start, width) = (histogram.start(), f64::from(histogram.width));
        for bin in (0..BINS).step_by(37) {
            let ends = start + bin as f64 * width..start + (bin + 1) as f64 * width;
            let inside = elements.iter().filter(|x| ends.contains(&f64::from(**x))).count();
            // Single precision may move an element at the very end by one bin.
            assert!(histogram.counts[bin].abs_diff(inside as u64) <= 1, "bin {bin}");
        }
    }
    #[test]
    fn batches_of_growing_ranges_count_as_one() {
        let elements = bell(false);
        let mut parts = Histogram::new();
        // Small ones first: the bins widen several times.
        let mut sorted = elements.clone();
        sorted.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
        sorted.chunks(20_000).for_each(|part| parts.add(part));
        let whole = of(&elements);
        assert_eq!((parts.low, parts.high), (whole.low, whole.high));
        assert_eq!(
            parts.counts.iter().sum::<u64>(),
            100_000 + 5 * 2,
            "one in four for four, and the ends of parts"
        );
        assert!(parts.width <= 2.0 * whole.width, "bins are at most twice as wide as need be");
        for observer in [Observer::Percentile, Observer::Mse, Observer::Entropy] {
            let ((a, b), (c, d)) = (parts.span(observer, 256), whole.span(observer, 256));
            assert!((a - c).abs() < 0.4 && (b - d).abs() < 0.4, "{observer:?}: {a} to {b}, {c} to {d}");
        }
    }
    #[test]
    fn what_is_not_finite_has_no_range() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut histogram = of(&[1.0, 2.0]);
            histogram.add(&[0.5, bad]);
            assert_eq!(histogram.range(), None, "{bad}");
        }
        assert_eq!(of(&[0.0; 5]).range(), Some((0.0, 0.0)));
        assert_eq!(
            of(&[1e-42, -1e-42]).span(Observer::Percentile, 256),
            (f64::from(-1e-42f32), f64::from(1e-42f32))
        );
    }
    #[test]
    fn an_outlier_does_not_set_the_span() {
        let mut elements = bell(true).repeat(3);
        elements.push(60.0);
        let histogram = of(&elements);
        for observer in [Observer::Percentile, Observer::Entropy] {
            let (low, high) = histogram.span(observer, 256);
            assert!(low == 0.0 && (3.0..25.0).contains(&high), "{observer:?}: {low} to {high}");
        }
    }
    #[test]
    fn a_percentile_leaves_out_its_share_on_either_side() {
        let even: Vec<f32> =
            (1..=100_000).map(|k| k as f32 / 1e5 * if k % 4 == 0 { -1.0 } else { 1.0 }).collect();
        let histogram = of(&even);
        let kept = |kept: f64| Rule { observer: Observer::Percentile, outermost: (100.0 - kept) / 100.0 };
        for (percentile, ends) in [(100.0, (-1.0, 1.0)), (99.0, (-0.96, 0.9867)), (90.0, (-0.6, 0.8667))] {
            let (low, high) = histogram.span(kept(percentile), 256);
            assert!(
                (low - ends.0).abs() < 2e-3 && (high - ends.1).abs() < 2e-3,
                "{percentile}: {low} to {high}"
            );
        }
        assert_eq!(histogram.span(kept(50.0), 256).0, 0.0, "zero is in every span");
    }
    #[test]
    fn an_outlier_stays_where_integers_are_many() {
        let elements = [bell(true).repeat(3), vec![60.0]].concat();
        for observer in [Observer::Mse, Observer::Entropy] {
            let (low, high) = of(&elements).span(observer, 1 << 16);
            assert!(low == 0.0 && high > 59.0, "{observer:?}: {low} to {high}");
        }
    }
    #[test]
    fn the_average_is_that_of_the_ends_of_batches() {
        let mut histogram = of(&[-1.0, 0.5, 2.0]);
        assert_eq!(
            histogram.span(Observer::Average, 256),
            histogram.span(Observer::MinMax, 256),
            "of one batch"
        );
        // A batch that does not reach below zero ends there, as zero is in every span.
        histogram.add(&[1.0, 4.0]);
        histogram.add(&[-2.0, 6.0]);
        assert_eq!(histogram.span(Observer::Average, 256), (-1.0, 4.0));
        let (least, most) = histogram.span(Observer::MinMax, 256);
        assert_eq!((least, most), (-2.0, 6.0));
    }
    #[test]
    fn even_elements_keep_their_whole_span() {
        let even: Vec<f32> = (0..200_000).map(|k| k as f32 / 1e5 - 0.5).collect();
        let histogram = of(&even);
        for observer in [Observer::Percentile, Observer::Mse, Observer::Entropy] {
            let (low, high) = histogram.span(observer, 256);
            assert!((low + 0.5).abs() < 0.02 && (high - 1.5).abs() < 0.03, "{observer:?}: {low} to {high}");
        }
    }
    #[test]
    fn the_least_squared_error_is_what_rounding_gives() {
        let elements = bell(false);
        let histogram = of(&elements);
        let error = |(low, high): (f64, f64)| {
            let scheme = QuantScheme::over(DType::U8, low as f32, high as f32).unwrap();
            let x = crate::ir::Tensor::from_vec([elements.len()], elements.clone());
            let back = scheme.dequantize(&scheme.quantize(&x).unwrap()).unwrap();
            let back = back.view::<f32>().unwrap();
            elements.iter().zip(back.iter()).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
        };
        let best = histogram.span(Observer::Mse, 256);
        assert!(error(best) < error(histogram.span(Observer::MinMax, 256)));
        let width = f64::from(histogram.width);
        let sums = Sums::of(&histogram.counts);
        let estimate = width * width * sums.squared_error(best.0 / width, best.1 / width, 255);
        assert!((estimate / error(best) - 1.0).abs() < 0.05, "{estimate} against {}", error(best));
    }
}
