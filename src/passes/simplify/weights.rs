//! The numbers of weights: read in double precision, rounded once when written.

use crate::{
    ir::{DType, Data, Deferred, Element, Recipe, Tensor},
    passes::rules::Miss,
};
use half::{bf16, f16};
use rayon::prelude::*;
use std::{borrow::Cow, marker::PhantomData, sync::Arc};

pub(super) const NOT_FLOAT: Miss = "a constant is not 16- or 32-bit floating point";
const NOT_FINITE: Miss = "the folded weight would not be finite";

/// Bytes that one thread looks over at a time: enough to be worth another one, few enough to stay in its cache.
pub(super) const BLOCK: usize = 1 << 18;

/// Smaller weights (64 KiB) are computed at once.
const LARGE: usize = 1 << 16;

/// The elements, for 16- and 32-bit floating point: double precision would lose digits on its way through f32.
pub(super) fn float(t: &Tensor) -> Result<Cow<'_, [f32]>, Miss> {
    t.to_f32().filter(|_| t.dtype() != DType::F64).ok_or(NOT_FLOAT)
}

/// The elements, in double precision.
pub(super) fn floats(t: &Tensor) -> Result<Vec<f64>, Miss> {
    let floats = float(t)?.iter().map(|x| f64::from(*x)).collect();
    t.release();
    Ok(floats)
}

/// A constant of the type of another, rounded once.
pub(super) fn rounded(like: &Tensor, shape: &[usize], values: Vec<f64>) -> Result<Tensor, Miss> {
    let values = values.into_iter().map(|x| x as f32).collect();
    let t = Tensor::from_f32(like.dtype(), shape, values).ok_or(NOT_FLOAT)?;
    if float(&t)?.iter().all(|x| x.is_finite()) { Ok(t) } else { Err(NOT_FINITE) }
}

/// How the channels of a weight lie in its elements: runs of `run` elements share a channel, and stand in rows of
/// `columns` runs.
#[derive(Clone, Copy)]
pub(super) struct Runs {
    /// Elements of one channel in a row.
    pub(super) run: usize,
    /// Runs in a row.
    pub(super) columns: usize,
}

/// The weight with each channel times its scale. The runs of a row have the channels from `first(row)` on.
///
/// Large weights are most of a model. They are computed when they are written, and only looked over now.
pub(super) fn rescaled(
    weight: &Tensor,
    runs: Runs,
    scale: &[f64],
    first: impl Fn(usize) -> usize + Send + Sync + 'static,
) -> Result<Tensor, Miss> {
    match weight.dtype() {
        DType::F32 => scaled::<f32>(weight, runs, scale, first),
        DType::F16 => scaled::<f16>(weight, runs, scale, first),
        DType::BF16 => scaled::<bf16>(weight, runs, scale, first),
        _ => Err(NOT_FLOAT),
    }
}

/// An element type that weights are scaled in.
trait Number: Element + Sync {
    fn wide(self) -> f64;
    fn narrow(x: f32) -> Self;
    fn is_finite(self) -> bool;
    /// The element of the largest size, where one is not a number that.
    fn largest(bytes: &[u8]) -> Self;
}
macro_rules! numbers {
    ($($t:ident $bits:ident $wide:expr, $narrow:expr;)*) => { $(
        impl Number for $t {
            fn wide(self) -> f64 {
                $wide(self)
            }
            fn narrow(x: f32) -> Self {
                $narrow(x)
            }
            fn is_finite(self) -> bool {
                <$t>::is_finite(self)
            }
            fn largest(bytes: &[u8]) -> Self {
                // Without their sign the bits of floats are in the order of their sizes.
                let sizes = bytes.chunks_exact(size_of::<$t>());
                let sizes = sizes.map(|x| bytemuck::pod_read_unaligned::<$bits>(x) & $bits::MAX);
                bytemuck::cast(sizes.fold(0, $bits::max))
            }
        }
    )* };
}
numbers! {
    f32 i32 f64::from, |x| x;
    f16 i16 f64::from, f16::from_f32;
    bf16 i16 f64::from, bf16::from_f32;
}

/// A weight with each channel times its scale, as a recipe.
struct Scaled<T, F> {
    weight: Data,
    runs: Runs,
    scale: Vec<f64>,
    first: F,
    element: PhantomData<T>,
}

impl<T: Number, F: Fn(usize) -> usize> Scaled<T, F> {
    /// Whether the largest element of each row stays finite with the largest scale there.
    fn stays_finite(&self) -> bool
    where
        F: Sync,
    {
        let Runs { run, columns } = self.runs;
        let row = run * columns * size_of::<T>();
        let rows = (BLOCK / row).max(1);
        let block = |k: usize| {
            let range = k * rows * row..((k + 1) * rows * row).min(self.weight.len());
            let part = self.weight.part(range.clone());
            let finite = part.chunks(row).enumerate().all(|(line, bytes)| {
                let channels = self.scale[(self.first)(k * rows + line)..].iter().take(columns);
                let scale = channels.fold(0.0, |most: f64, s| most.max(s.abs()));
                T::narrow((T::largest(bytes).wide() * scale) as f32).is_finite()
            });
            self.weight.release_part(range);
            finite
        };
        let blocks = self.weight.len().div_ceil(rows * row);
        // To wake another thread for little takes longer than to do it here.
        if blocks < 2 { (0..blocks).all(block) } else { (0..blocks).into_par_iter().all(block) }
    }
}

impl<T: Number, F: Fn(usize) -> usize + Send + Sync> Recipe for Scaled<T, F> {
    fn len(&self) -> usize {
        self.weight.len()
    }
    fn fill(&self, at: usize, out: &mut [u8]) {
        let (Runs { run, columns }, size) = (self.runs, size_of::<T>());
        let range = at..at + out.len();
        let source = self.weight.part(range.clone());
        let times = |to: &mut [u8], from: &[u8], scale: f64| {
            let scaled = T::narrow((bytemuck::pod_read_unaligned::<T>(from).wide() * scale) as f32);
            to.copy_from_slice(bytemuck::bytes_of(&scaled));
        };
        let (mut done, row) = (0, run * columns);
        while done < out.len() {
            let place = (at + done) / size;
            let (line, column, within) = (place / row, place % row / run, place % run);
            let channels = &self.scale[(self.first)(line) + column..];
            // To the end of the run, or where each element is a run, of the row.
            let left = if run == 1 { columns - column } else { run - within };
            let end = (done + left * size).min(out.len());
            let elements = out[done..end].chunks_exact_mut(size).zip(source[done..end].chunks_exact(size));
            match (run, channels.first()) {
                (1, _) => elements.zip(channels).for_each(|((to, from), scale)| times(to, from, *scale)),
                (_, Some(scale)) => elements.for_each(|(to, from)| times(to, from, *scale)),
                (_, None) => return,
            }
            done = end;
        }
        self.weight.release_part(range);
    }
}

fn scaled<T: Number>(
    weight: &Tensor,
    runs: Runs,
    scale: &[f64],
    first: impl Fn(usize) -> usize + Send + Sync + 'static,
) -> Result<Tensor, Miss> {
    let row = runs.run * runs.columns;
    if row == 0 || !weight.len().is_multiple_of(row) {
        return Err("the weight does not divide into its channels");
    }
    let data = weight.data().ok_or(NOT_FLOAT)?.clone();
    if !scale.iter().all(|s| s.is_finite()) {
        return Err(NOT_FINITE);
    }
    let scaled = Scaled::<T, _> { weight: data, runs, scale: scale.to_vec(), first, element: PhantomData };
    if !scaled.stays_finite() {
        return Err(NOT_FINITE);
    }
    let data = if scaled.len() < LARGE {
        let mut bytes = vec![0; scaled.len()];
        scaled.fill(0, &mut bytes);
        Data::from(bytes)
    } else {
        Data::Deferred(Arc::new(Deferred::new(scaled)))
    };
    Tensor::new(weight.dtype(), weight.shape(), data).map_err(|_| NOT_FLOAT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn channels_of_rows_and_runs_have_their_scales() {
        let w = Tensor::from_vec([2, 3], vec![1f32, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let of = |run, columns, scale: &[f64], first: fn(usize) -> usize| {
            rescaled(&w, Runs { run, columns }, scale, first).unwrap().to_f32().unwrap().to_vec()
        };
        assert_eq!(of(3, 1, &[1.0, 10.0], |row| row), [1.0, 2.0, 3.0, 40.0, 50.0, 60.0]);
        assert_eq!(of(1, 3, &[1.0, 10.0, 100.0], |_| 0), [1.0, 20.0, 300.0, 4.0, 50.0, 600.0]);
    }
    #[test]
    fn bytes_may_lie_anywhere_and_results_are_finite() {
        let bytes: Vec<u8> = [&[0u8][..], &2f32.to_le_bytes(), &f32::MAX.to_le_bytes()].concat();
        let w = Tensor::new(DType::F32, [2], Data::from(Bytes::from(bytes).slice(1..))).unwrap();
        let runs = Runs { run: 2, columns: 1 };
        let half = rescaled(&w, runs, &[0.5], |_| 0).unwrap();
        assert_eq!(half.to_f32().unwrap()[..], [1.0, f32::MAX / 2.0]);
        assert_eq!(rescaled(&w, runs, &[2.0], |_| 0).err(), Some(NOT_FINITE));
        let h = Tensor::from_f32(DType::F16, [2], vec![2.0, 3.0]).unwrap();
        assert_eq!(rescaled(&h, runs, &[0.5], |_| 0).unwrap().to_f32().unwrap()[..], [1.0, 1.5]);
    }
}
