//! The ways to split a layer.
//!
//! Weights are a matrix `W` from inputs `(channel, kernel position)` to outputs.
//!
//! | form | `W` becomes | layers |
//! |---|---|---|
//! | `Outputs` | `A B` | the old kernel to fewer outputs, then a pointwise layer |
//! | `Inputs` | `P C` | a pointwise layer to fewer channels, then the old kernel |
//! | `Spatial` | `P C` | along the height to fewer channels, then along the width |
//! | `Tucker` | `P C B` | a pointwise layer to fewer channels, the old kernel to fewer outputs, a pointwise layer |
//! | `Depthwise` | `P C` | a few kernels for each channel alone, then a pointwise layer |
//!
//! `P` makes fewer of the channels (`Spatial`: of the channels under a column of the kernel) at every kernel position
//! (at every column) alike; or (`Depthwise`) of the positions of the kernel in every channel by itself. It spans the
//! directions that matter most where positions (`Depthwise`: channels) are taken to be independent; `C` is then the best
//! there is behind it, and `A B` and `C B` the best of their rank: what a split loses is known exactly.

use super::{
    first::{First, Reach},
    metric::Metric,
    spectrum::{Spectrum, Values, balance},
};
use faer::Mat;

const NO_SOLUTION: &str = "it cannot be solved behind its first kernel";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Form {
    Outputs,
    Inputs,
    Spatial,
    Tucker,
    Depthwise,
}

impl Form {
    /// Those that a kernel of this extent can be split by.
    pub(super) fn of(kernel: &[usize]) -> &'static [Form] {
        match kernel {
            [height, width] if *height > 1 && *width > 1 => {
                &[Form::Outputs, Form::Inputs, Form::Spatial, Form::Tucker, Form::Depthwise]
            }
            _ if kernel.iter().product::<usize>() > 1 => {
                &[Form::Outputs, Form::Inputs, Form::Tucker, Form::Depthwise]
            }
            _ => &[Form::Outputs],
        }
    }
    /// What `P` works on; `None` where there is none.
    pub(super) fn first(self, kernel: &[usize]) -> Option<Reach> {
        let area = kernel.iter().product();
        match self {
            Form::Outputs => None,
            Form::Spatial => kernel.last().map(|width| Reach::Across(*width)),
            Form::Inputs | Form::Tucker => Some(Reach::Across(area)),
            Form::Depthwise => Some(Reach::Within(area)),
        }
    }
    /// Whether a pointwise layer comes last.
    pub(super) fn ends_pointwise(self) -> bool {
        matches!(self, Form::Outputs | Form::Tucker)
    }
}

/// The ranks of a split: of `P` and of `B`. What a form lacks is 0.
pub(super) type Ranks = [usize; 2];

/// A layer's weights, a part for each of its groups of channels. All parts are split alike.
pub(super) struct Whole<'a>(pub(super) Vec<Part<'a>>);

impl Whole<'_> {
    /// The ranks of a form that are wanted, each with the share of the squares that it loses. `inner` and `outer` list
    /// the wanted ranks of `P` and of `B`, rising.
    pub(super) fn losses(
        &self,
        form: Form,
        inner: &[usize],
        outer: &[usize],
    ) -> Result<Vec<(Ranks, f64)>, String> {
        let size: f64 = self.0.iter().map(|part| part.metric.square(part.weights)).sum();
        if size == 0.0 {
            return Err("its weights are all zeros".into());
        }
        let mut all: Vec<(Ranks, f64)> = Vec::new();
        for part in &self.0 {
            let lost = part.losses(form, inner, outer)?;
            all.resize(lost.len(), ([0, 0], 0.0));
            for (all, (ranks, lost)) in all.iter_mut().zip(lost) {
                all.0 = [all.0[0].max(ranks[0]), all.0[1].max(ranks[1])];
                all.1 += lost / size;
            }
        }
        Ok(all)
    }
    /// The kernels of a split, in the order of its layers, of each part; rows are inputs and columns outputs.
    pub(super) fn split(&self, form: Form, ranks: Ranks) -> Result<Vec<Vec<Mat<f64>>>, String> {
        let mut parts = self.0.iter().map(|part| part.split(form, ranks)).collect::<Result<Vec<_>, _>>()?;
        // A part may have fewer directions than others.
        for k in 0..parts.first().map_or(0, Vec::len) {
            let most =
                |extent: fn(&Mat<f64>) -> usize| parts.iter().map(|p| extent(&p[k])).max().unwrap_or(0);
            let (rows, columns) = (most(|m| m.nrows()), most(|m| m.ncols()));
            parts.iter_mut().for_each(|part| part[k].resize_with(rows, columns, |_, _| 0.0));
        }
        Ok(parts)
    }
}

/// Weights and what their error is measured in.
pub(super) struct Part<'a> {
    pub(super) weights: &'a Mat<f64>,
    pub(super) metric: &'a Metric,
    pub(super) kernel: &'a [usize],
    pub(super) seed: u64,
    pub(super) known: Known<'a>,
}

/// What is known already of the directions of all outputs: to find them takes long.
pub(super) enum Known<'a> {
    Nothing,
    /// Those of nearly the same.
    Nearly(&'a Spectrum),
    These(&'a Spectrum),
}

impl Part<'_> {
    /// The same for a part, with the squares that are lost.
    fn losses(&self, form: Form, inner: &[usize], outer: &[usize]) -> Result<Vec<(Ranks, f64)>, String> {
        let size = self.metric.square(self.weights);
        let mut found = Vec::new();
        let Some(reach) = form.first(self.kernel) else {
            let values = match &self.known {
                Known::These(known) => known.values.clone(),
                _ => Values::of(self.weights, self.metric)?,
            };
            found.extend(values.ranks(outer).map(|b| ([0, b], values.lost(b))));
            return Ok(found);
        };
        let most_inner = inner.last().copied().unwrap_or(0);
        let first = First::of(reach, self.weights, self.metric, most_inner, self.seed)?;
        let ranks = first.ranks(inner);
        let most = ranks.iter().copied().max().unwrap_or(0);
        // With `LL' = P'GP`, the rows of `L^-1 P'GW` are what each number that `P` leaves adds: the squares of the best
        // weights behind it are theirs. What a lower rank leaves comes first, and so does its `L`.
        let kernel = first.kernel(most);
        let leave = |m: &Mat<f64>| reach.by_rank(reach.transposed_times(&kernel, m), most);
        let (metric, moments) = self.metric.behind(self.weights.nrows(), leave);
        let added = metric.halfway(&(moments * self.weights)).ok_or(NO_SOLUTION)?;
        for p in ranks {
            let added = added.subrows(0, p * (added.nrows() / most.max(1))).to_owned();
            let lost = (size - added.squared_norm_l2()).max(0.0);
            if form.ends_pointwise() {
                let values = Values::of(&added, &Metric::plain())?;
                found.extend(values.ranks(outer).map(|b| ([p, b], lost + values.lost(b))));
            } else {
                found.push(([p, 0], lost));
            }
        }
        Ok(found)
    }
    pub(super) fn split(&self, form: Form, [p, b]: Ranks) -> Result<Vec<Mat<f64>>, String> {
        let Some(reach) = form.first(self.kernel) else {
            let near = match self.known {
                Known::These(known) => return Ok(pointwise(self.weights, known.first(b))),
                Known::Nearly(known) => Some(known),
                Known::Nothing => None,
            };
            let spectrum = Spectrum::near(near, self.weights, self.metric, b, self.seed)?;
            return Ok(pointwise(self.weights, spectrum.first(b)));
        };
        let first = First::of(reach, self.weights, self.metric, p, self.seed)?;
        self.completed(reach, form, first.kernel(p), b)
    }
    /// The kernels of a split with this first one, and the best behind it.
    pub(super) fn completed(
        &self,
        reach: Reach,
        form: Form,
        first: Mat<f64>,
        b: usize,
    ) -> Result<Vec<Mat<f64>>, String> {
        let behind = self.behind(reach, first)?;
        let mut kernels = vec![behind.first];
        match form.ends_pointwise() {
            true => kernels.extend(self.pointwise(&behind.weights, &behind.metric, b)?),
            false => kernels.push(behind.weights),
        }
        Ok(kernels)
    }
    /// `A` and `B` of this rank.
    fn pointwise(&self, weights: &Mat<f64>, metric: &Metric, rank: usize) -> Result<Vec<Mat<f64>>, String> {
        Ok(pointwise(weights, Spectrum::of(weights, metric, rank, self.seed)?.first(rank)))
    }
    /// The best weights behind this `P`.
    fn behind(&self, reach: Reach, first: Mat<f64>) -> Result<Behind, String> {
        let inputs = self.weights.nrows();
        let (metric, moments) = self.metric.behind(inputs, |m| reach.transposed_times(&first, m));
        let right = moments * self.weights;
        let weights = metric.solve(&right).ok_or(NO_SOLUTION)?;
        Ok(Behind { first, weights, metric })
    }
}

struct Behind {
    first: Mat<f64>,
    weights: Mat<f64>,
    metric: Metric,
}

/// `A` and `B` for these directions, with rows and columns of each direction of like size, as few bits need it.
fn pointwise(weights: &Mat<f64>, mut directions: Mat<f64>) -> Vec<Mat<f64>> {
    let mut first = weights * &directions;
    balance(&mut first, &mut directions);
    vec![first, directions.transpose().to_owned()]
}

/// The weights, of so many inputs, that the kernels of a split make together.
pub(super) fn product(form: Form, kernel: &[usize], inputs: usize, kernels: &[Mat<f64>]) -> Mat<f64> {
    let Some(reach) = form.first(kernel) else { return &kernels[0] * &kernels[1] };
    kernels[1..].iter().fold(reach.whole(&kernels[0], inputs), |product, k| product * k)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::linear::Sums;
    use proptest::prelude::*;

    fn numbers(n: usize, seed: u64) -> impl Fn(usize, usize) -> f64 {
        move |i, j| ((i * n + j) as f64 * 12.9898 + seed as f64 * 78.233).sin() * 43_758.545_3 % 1.0
    }
    fn part<'a>(weights: &'a Mat<f64>, metric: &'a Metric, kernel: &'a [usize]) -> Part<'a> {
        Part { weights, metric, kernel, seed: 0, known: Known::Nothing }
    }
    /// Rows whose inputs are mixed, so that some directions hold more than others.
    fn seen(inputs: usize, rows: usize, seed: u64) -> (Mat<f64>, Sums) {
        let noise = Mat::from_fn(rows, inputs, numbers(inputs, seed));
        let mix = Mat::from_fn(inputs, inputs, |i, j| numbers(inputs, seed + 1)(i, j) / (1.0 + i as f64));
        let x = noise * mix;
        let mut sums = Sums::new(inputs, 0);
        let by_rows: Vec<f64> =
            (0..rows).flat_map(|i| (0..inputs).map(move |j| (i, j))).map(|at| x[at]).collect();
        sums.add(&by_rows);
        (x, sums)
    }
    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn a_split_loses_what_it_says_and_nothing_at_full_rank(
            channels in 1..5usize, height in 1..4usize, width in 1..4usize, outputs in 1..7usize,
            ranks in [1..6usize, 1..6usize], seed in 0..1000u64, few in any::<bool>(),
        ) {
            let kernel = [height, width];
            let inputs = channels * height * width;
            let weights = Mat::from_fn(inputs, outputs, numbers(outputs, seed));
            let rows = if few { inputs.div_ceil(2) } else { 3 * inputs };
            let (x, sums) = seen(inputs, rows, seed + 5);
            for (metric, seen) in [(Metric::plain(), None), (Metric::of(&sums, false), Some(&x))] {
                let whole = Whole(vec![part(&weights, &metric, &kernel)]);
                for form in Form::of(&kernel) {
                    let side = match form.first(&kernel) {
                        Some(Reach::Across(free)) => (inputs / free).min(free * outputs),
                        Some(Reach::Within(area)) => area,
                        None => 0,
                    };
                    let full = [side, if form.ends_pointwise() { inputs.min(outputs) } else { 0 }];
                    for ranks in [full, [ranks[0].min(full[0]), ranks[1].min(full[1])]] {
                        let lost = whole.losses(*form, &[ranks[0]], &[ranks[1]]).unwrap();
                        let found = lost[0].0;
                        prop_assert!(found[0] <= ranks[0] && found[1] <= ranks[1], "{:?} of {:?}", found, ranks);
                        let kernels = whole.split(*form, ranks).unwrap().remove(0);
                        let difference = &weights - product(*form, &kernel, inputs, &kernels);
                        let found = metric.square(&difference) / metric.square(&weights);
                        prop_assert!((found - lost[0].1).abs() < 1e-6, "{:?} {:?}: {} for {}", form, ranks, found, lost[0].1);
                        if ranks == full {
                            prop_assert!(found < 1e-6, "{:?}: {}", form, found);
                        }
                        if let Some(x) = seen && *form == Form::Outputs {
                            // The data's own error is no larger than with weights chosen without it.
                            let alone = Metric::plain();
                            let plain = part(&weights, &alone, &kernel).split(*form, ranks).unwrap();
                            let plain = product(*form, &kernel, inputs, &plain);
                            let error = |w: &Mat<f64>| (x * w).squared_norm_l2();
                            let (here, there) = (error(&difference), error(&(&weights - plain)));
                            prop_assert!(here <= there * (1.0 + 1e-3) + 2e-4 * error(&weights), "{} {}", here, there);
                        }
                    }
                }
            }
        }
    }
    #[test]
    fn parts_lose_what_they_lose_together_and_have_kernels_of_one_shape() {
        let mut weights = [1, 2].map(|seed| Mat::from_fn(18, 6, numbers(6, seed)));
        // The second part has one direction.
        weights[1] = Mat::from_fn(18, 6, |i, j| (i as f64 - 7.0) * (j as f64 + 1.0));
        let metric = Metric::plain();
        let whole = Whole(weights.iter().map(|w| part(w, &metric, &[3, 3])).collect());
        for (form, ranks) in [
            (Form::Outputs, [0, 3]),
            (Form::Inputs, [2, 0]),
            (Form::Tucker, [2, 3]),
            (Form::Depthwise, [4, 0]),
        ] {
            let (found, lost) = whole.losses(form, &[ranks[0]], &[ranks[1]]).unwrap()[0];
            assert_eq!(found, ranks);
            let parts = whole.split(form, ranks).unwrap();
            let shape =
                |kernels: &[Mat<f64>]| kernels.iter().map(|m| (m.nrows(), m.ncols())).collect::<Vec<_>>();
            assert_eq!(shape(&parts[0]), shape(&parts[1]));
            let error = weights
                .iter()
                .zip(&parts)
                .map(|(w, kernels)| (w - product(form, &[3, 3], 18, kernels)).squared_norm_l2());
            let size: f64 = weights.iter().map(|w| w.squared_norm_l2()).sum();
            assert!((error.sum::<f64>() / size - lost).abs() < 1e-9);
        }
    }
    #[test]
    fn nothing_but_zeros_is_said() {
        let weights = Mat::zeros(4, 4);
        let metric = Metric::plain();
        let whole = Whole(vec![part(&weights, &metric, &[])]);
        assert!(whole.losses(Form::Outputs, &[], &[1]).is_err());
    }
}
