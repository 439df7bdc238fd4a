//! What spans of bins cost, from sums over the bins in front of each: many spans are tried, and none goes over its bins anew.

use super::counting::SIDE;
use std::ops::Range;

/// Of bins that hold elements, what those in front of each sum up to; the last entry is of all.
pub(super) struct Sums {
    counts: Vec<u64>,
    /// Of the places of elements in bins from zero, each in the middle of its bin, and of their squares.
    places: Vec<f64>,
    squares: Vec<f64>,
    /// Bins that hold any.
    used: Vec<usize>,
    /// Counts times their logarithms.
    logs: Vec<f64>,
}

impl Sums {
    pub(super) fn of(counts: &[u64]) -> Sums {
        fn before<T: Copy + std::ops::Add<Output = T>>(zero: T, terms: impl Iterator<Item = T>) -> Vec<T> {
            let sums = terms.scan(zero, |sum, term| {
                *sum = *sum + term;
                Some(*sum)
            });
            std::iter::once(zero).chain(sums).collect()
        }
        let places =
            || counts.iter().enumerate().map(|(bin, count)| (bin as f64 + 0.5 - SIDE as f64, *count as f64));
        Sums {
            counts: before(0, counts.iter().copied()),
            places: before(0.0, places().map(|(x, count)| count * x)),
            squares: before(0.0, places().map(|(x, count)| count * x * x)),
            used: before(0, counts.iter().map(|count| usize::from(*count > 0))),
            logs: before(0.0, counts.iter().map(|count| times_its_logarithm(*count as f64))),
        }
    }
    fn bins(&self) -> usize {
        self.used.len() - 1
    }
    fn held(&self, bins: Range<usize>) -> u64 {
        self.counts[bins.end] - self.counts[bins.start]
    }
    /// The squared error of a span in bins, `low` and `high` of zero, cut into so many steps: what lies outside saturates, and what lies
    /// inside is even within a step, a twelfth of its square in the mean.
    pub(super) fn squared_error(&self, low: f64, high: f64, steps: usize) -> f64 {
        let from = |bin: f64| (bin.max(0.0) as usize).min(self.bins());
        let below = 0..from((low - 0.5 + SIDE as f64).ceil());
        let above = from((high - 0.5 + SIDE as f64).floor() + 1.0).max(below.end)..self.bins();
        let saturated = |bins: &Range<usize>, end: f64| {
            let [places, squares] =
                [&self.places, &self.squares].map(|sums| sums[bins.end] - sums[bins.start]);
            (squares - 2.0 * end * places + end * end * self.held(bins.clone()) as f64).max(0.0)
        };
        let step = (high - low) / steps as f64;
        let inside = self.held(below.end..above.start) as f64;
        saturated(&below, low) + saturated(&above, high) + inside * step * step / 12.0
    }
    /// The information that is lost where the elements inside become so many integers: the divergence of what they are made of what
    /// they are, what lies outside counted to the outermost bins. Infinite where nothing lies inside.
    pub(super) fn divergence(&self, inside: Range<usize>, integers: usize) -> f64 {
        let (start, bins) = (inside.start, inside.len());
        let (total, held) = (self.held(0..self.bins()) as f64, self.held(inside.clone()) as f64);
        if held == 0.0 {
            return f64::INFINITY;
        }
        // What saturates is information that the integers, made of what lies inside, do not have.
        let outside = [self.held(0..start) as f64, self.held(inside.end..self.bins()) as f64];
        let outermost = match bins {
            1 => vec![(start, outside[0] + outside[1])],
            _ => vec![(start, outside[0]), (inside.end - 1, outside[1])],
        };
        let mut divergence = self.logs[inside.end] - self.logs[start] - times_its_logarithm(total);
        for (bin, more) in &outermost {
            let own = self.held(*bin..bin + 1) as f64;
            divergence += times_its_logarithm(own + more) - times_its_logarithm(own);
        }
        // More integers than bins lose nothing that these tell.
        let integers = integers.min(bins);
        for integer in 0..integers {
            let level = start + integer * bins / integers..start + (integer + 1) * bins / integers;
            let own = self.held(level.clone()) as f64;
            let (mut all, mut used) = (own, self.used[level.end] - self.used[level.start]);
            for (bin, more) in outermost.iter().filter(|(bin, more)| level.contains(bin) && *more > 0.0) {
                all += more;
                used += usize::from(self.held(*bin..bin + 1) == 0);
            }
            if all > 0.0 {
                // Bins that only hold what saturates count as if one element were theirs.
                divergence -= all * (own / held / used as f64).max(1.0 / total).ln();
            }
        }
        divergence / total
    }
}

fn times_its_logarithm(x: f64) -> f64 {
    if x > 0.0 { x * x.ln() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::{super::counting::BINS, *};
    use proptest::prelude::*;

    /// The divergence by going over the bins.
    fn divergence(counts: &[u64], inside: Range<usize>, integers: usize) -> f64 {
        let mut p: Vec<f64> = counts[inside.clone()].iter().map(|count| *count as f64).collect();
        let (q, last) = (p.clone(), p.len() - 1);
        p[0] += counts[..inside.start].iter().sum::<u64>() as f64;
        p[last] += counts[inside.end..].iter().sum::<u64>() as f64;
        let (total, held, integers) = (p.iter().sum::<f64>(), q.iter().sum::<f64>(), integers.min(p.len()));
        let mut divergence = 0.0;
        for integer in 0..integers {
            let bins = integer * p.len() / integers..(integer + 1) * p.len() / integers;
            let used = p[bins.clone()].iter().filter(|p| **p > 0.0).count();
            let share = q[bins.clone()].iter().sum::<f64>() / held / used.max(1) as f64;
            for p in p[bins].iter().filter(|p| **p > 0.0) {
                divergence += p / total * (p / total / share.max(1.0 / total)).ln();
            }
        }
        divergence
    }
    /// The squared error by going over the bins.
    fn squared_error(counts: &[u64], low: f64, high: f64, steps: usize) -> f64 {
        let step = (high - low) / steps as f64;
        let errors = counts.iter().enumerate().map(|(bin, count)| {
            let x = bin as f64 + 0.5 - SIDE as f64;
            let outside = (low - x).max(x - high);
            *count as f64 * if outside > 0.0 { outside * outside } else { step * step / 12.0 }
        });
        errors.sum()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn sums_tell_what_going_over_the_bins_does(
            some in proptest::collection::vec((0..BINS, 1..10_000u64), 1..400),
            ends in proptest::array::uniform2(0..BINS),
            fraction in 0.0..1f64,
            integers in 2..70_000usize,
        ) {
            let mut counts = vec![0; BINS];
            some.iter().for_each(|(bin, count)| counts[*bin] += count);
            let sums = Sums::of(&counts);
            let inside = ends[0].min(ends[1])..ends[0].max(ends[1]) + 1;
            let (found, expected) = (sums.divergence(inside.clone(), integers), divergence(&counts, inside.clone(), integers));
            let held: u64 = counts[inside.clone()].iter().sum();
            if held == 0 {
                prop_assert!(found.is_infinite());
            } else {
                prop_assert!((found - expected).abs() < 1e-9, "{found} for {expected}");
            }
            let [low, high] = [inside.start as f64 + fraction, inside.end as f64 - fraction / 2.0];
            let [low, high] = [low.min(high), high].map(|end| end - SIDE as f64);
            let (found, expected) = (sums.squared_error(low, high, integers), squared_error(&counts, low, high, integers));
            prop_assert!((found - expected).abs() <= 1e-9 * expected.max(1.0), "{found} for {expected}");
        }
    }
}
