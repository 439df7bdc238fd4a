//! The loops over every element of every activation, as quick as the processor goes.

/// Bins on either side of zero, four to eight for each integer of a span on one side, so that it can be cut finely.
pub(super) const SIDE: usize = 2048;
pub(super) const BINS: usize = 2 * SIDE;
/// Tables that neighbouring elements are counted in by turns: two of one bin in a row would wait for each other.
const TURNS: usize = 4;

/// The smallest and the largest of some elements, or zero, and whether all are finite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Ends {
    pub(super) low: f32,
    pub(super) high: f32,
    pub(super) finite: bool,
}

impl Default for Ends {
    fn default() -> Ends {
        Ends { low: 0.0, high: 0.0, finite: true }
    }
}

impl Ends {
    pub(super) fn of(elements: &[f32]) -> Ends {
        pulp::Arch::new().dispatch(Find(elements))
    }
    /// Those of all elements together.
    pub(super) fn with(self, other: Ends) -> Ends {
        Ends {
            low: self.low.min(other.low),
            high: self.high.max(other.high),
            finite: self.finite && other.finite,
        }
    }
}

/// Finds ends, of as many elements at a time as this processor takes.
struct Find<'a>(&'a [f32]);

impl pulp::NullaryFnOnce for Find<'_> {
    type Output = Ends;

    // All in one function, or it would not be compiled for that processor.
    #[inline(always)]
    fn call(self) -> Ends {
        const LANES: usize = 32;
        let (mut low, mut high, mut worst) = ([0f32; LANES], [0f32; LANES], [0u32; LANES]);
        // By index: an iterator of several would be a function of its own here, called for each part.
        let mut take = |part: &[f32; LANES]| {
            for k in 0..LANES {
                let x = part[k];
                low[k] = if x < low[k] { x } else { low[k] };
                high[k] = if x > high[k] { x } else { high[k] };
                // Without the sign: ordered as the numbers are, infinity and NaN above all.
                worst[k] = worst[k].max(x.to_bits() & 0x7fff_ffff);
            }
        };
        let (whole, rest) = self.0.as_chunks::<LANES>();
        whole.iter().for_each(&mut take);
        let mut last = [0f32; LANES];
        last[..rest.len()].copy_from_slice(rest);
        take(&last);
        Ends {
            low: low.into_iter().fold(0.0, f32::min),
            high: high.into_iter().fold(0.0, f32::max),
            finite: worst.iter().all(|bits| f32::from_bits(*bits).is_finite()),
        }
    }
}

/// How many elements lie in which bin.
pub(super) struct Tables([Vec<u32>; TURNS]);

impl Tables {
    pub(super) fn new() -> Tables {
        Tables([(); TURNS].map(|()| vec![0; BINS]))
    }
    /// Counts one in `step` of the elements, none of them zero, by bins of this width: another one in each part, from `first` on.
    pub(super) fn count(&mut self, elements: &[f32], first: usize, step: usize, width: f32) {
        let (bins, mut zeros) = (Bins::of(width), 0);
        let mut bin = |x: f32| {
            zeros += u32::from(x == 0.0);
            bins.of_element(x)
        };
        let mut parts = elements.chunks_exact(TURNS * step);
        let mut first = first % step;
        for part in &mut parts {
            for (turn, table) in self.0.iter_mut().enumerate() {
                let count = &mut table[bin(part[turn * step + first])];
                *count = count.wrapping_add(1);
            }
            first = if first + 1 < step { first + 1 } else { 0 };
        }
        let [table, ..] = &mut self.0;
        for x in parts.remainder().iter().skip(first).step_by(step) {
            let count = &mut table[bin(*x)];
            *count = count.wrapping_add(1);
        }
        // It is the sum of the tables that counts, whichever holds less than nothing and wraps.
        table[SIDE] = table[SIDE].wrapping_sub(zeros);
    }
    /// Adds the counts to `counts`, each for so many, and begins anew.
    pub(super) fn empty_into(&mut self, counts: &mut [u64], each: usize) {
        for (k, sum) in counts.iter_mut().enumerate() {
            let count = self.0.iter().fold(0u32, |sum, table| sum.wrapping_add(table[k]));
            *sum += u64::from(count) * each as u64;
        }
        self.0.iter_mut().for_each(|table| table.fill(0));
    }
}

/// From an element to its bin.
struct Bins {
    per_unit: f32,
}

impl Bins {
    fn of(width: f32) -> Bins {
        Bins { per_unit: width.recip() }
    }
    #[inline(always)]
    fn of_element(&self, x: f32) -> usize {
        // Added to 2^23, a float has no room for fractions: its last bits are the bin, without a conversion. Half a bin
        // less makes of rounding a floor.
        let place = x * self.per_unit + (SIDE as f32 - 0.5) + (1u32 << 23) as f32;
        place.to_bits() as usize % BINS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_any_number_of_elements() {
        for n in [0, 1, 31, 32, 33, 1000] {
            let x: Vec<f32> = (0..n).map(|k| ((k * 37) % 101) as f32 - 50.0).collect();
            let (low, high) =
                (x.iter().fold(0.0, |a: f32, b| a.min(*b)), x.iter().fold(0.0, |a: f32, b| a.max(*b)));
            assert_eq!(Ends::of(&x), Ends { low, high, finite: true }, "{n}");
        }
        assert!(!Ends::of(&[1.0, f32::NAN]).finite && !Ends::of(&[f32::NEG_INFINITY]).finite);
    }
    #[test]
    fn each_of_four_turns_counts_other_elements() {
        let x: Vec<f32> = (0..1000).map(|k| k as f32 + 0.5).chain([0.0]).collect();
        let mut counts = vec![0; BINS];
        let mut tables = Tables::new();
        (0..4).for_each(|first| tables.count(&x, first, 4, 1.0));
        tables.empty_into(&mut counts, 4);
        assert!((0..BINS).all(|bin| counts[bin] == 4 * u64::from((SIDE..SIDE + 1000).contains(&bin))));
    }
    #[test]
    fn zeros_do_not_count_beside_small_elements() {
        let mut counts = vec![0; BINS];
        let mut tables = Tables::new();
        tables.count(&[0.0; 21], 0, 1, 1.0);
        tables.count(&[0.5; 33], 0, 1, 1.0);
        tables.empty_into(&mut counts, 1);
        assert_eq!((counts[SIDE], counts.iter().sum::<u64>()), (33, 33));
    }
}
