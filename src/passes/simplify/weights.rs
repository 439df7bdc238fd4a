//! The numbers of weights: read in double precision, rounded once when written.

use crate::{
    ir::{DType, Element, Tensor},
    passes::rules::Miss,
};
use half::{bf16, f16};
use rayon::prelude::*;
use std::borrow::Cow;

const NOT_FLOAT: Miss = "a constant is not 16- or 32-bit floating point";
const NOT_FINITE: Miss = "the folded weight would not be finite";

/// Elements that one thread takes at a time: enough to be worth another one, few enough to stay in its cache.
const BLOCK: usize = 1 << 16;

/// The elements, for 16- and 32-bit floating point: double precision would lose digits on its way through f32.
pub(super) fn float(t: &Tensor) -> Result<Cow<'_, [f32]>, Miss> {
    t.to_f32().filter(|_| t.dtype() != DType::F64).ok_or(NOT_FLOAT)
}

/// The elements, in double precision.
pub(super) fn floats(t: &Tensor) -> Result<Vec<f64>, Miss> {
    Ok(float(t)?.iter().map(|x| f64::from(*x)).collect())
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
/// Large weights are most of a model: they are read, scaled, checked and written in one pass, on all cores.
pub(super) fn rescaled(
    weight: &Tensor,
    runs: Runs,
    scale: &[f64],
    first: impl Fn(usize) -> usize + Sync,
) -> Result<Tensor, Miss> {
    let made = match weight.dtype() {
        DType::F32 => scaled::<f32>(weight, runs, scale, first),
        DType::F16 => scaled::<f16>(weight, runs, scale, first),
        DType::BF16 => scaled::<bf16>(weight, runs, scale, first),
        _ => Err(NOT_FLOAT),
    }?;
    weight.release();
    Ok(made)
}

/// An element type that weights are scaled in.
trait Number: Element + Sync {
    fn wide(self) -> f64;
    fn narrow(x: f32) -> Self;
    fn is_finite(self) -> bool;
}
macro_rules! numbers {
    ($($t:ty, $wide:expr, $narrow:expr;)*) => { $(
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
        }
    )* };
}
numbers! {
    f32, f64::from, |x| x;
    f16, f64::from, f16::from_f32;
    bf16, f64::from, bf16::from_f32;
}

fn scaled<T: Number>(
    weight: &Tensor,
    Runs { run, columns }: Runs,
    scale: &[f64],
    first: impl Fn(usize) -> usize + Sync,
) -> Result<Tensor, Miss> {
    let (row, size) = (run * columns, size_of::<T>());
    if row == 0 || !weight.len().is_multiple_of(row) {
        return Err("the weight does not divide into its channels");
    }
    let rows = (BLOCK / row).max(1);
    let mut made = vec![T::zeroed(); weight.len()];
    // The bytes need not be aligned where a file has them.
    let scaled =
        |from: &[u8], scale: f64| T::narrow((bytemuck::pod_read_unaligned::<T>(from).wide() * scale) as f32);
    let fill = |(block, (made, source)): (usize, (&mut [T], &[u8]))| {
        for (k, (made, source)) in made.chunks_mut(row).zip(source.chunks(row * size)).enumerate() {
            let channels = &scale[first(block * rows + k)..];
            if run == 1 {
                let elements = made.iter_mut().zip(source.chunks_exact(size)).zip(channels);
                elements.for_each(|((to, from), scale)| *to = scaled(from, *scale));
                continue;
            }
            for ((made, source), scale) in made.chunks_mut(run).zip(source.chunks(run * size)).zip(channels) {
                made.iter_mut()
                    .zip(source.chunks_exact(size))
                    .for_each(|(to, from)| *to = scaled(from, *scale));
            }
        }
        made.iter().all(|x| x.is_finite())
    };
    let (source, part) = (weight.bytes(), rows * row);
    // To wake another thread for little takes longer than to do it here.
    let finite = match made.len() <= part {
        true => fill((0, (&mut made, source))),
        false => {
            let blocks = made.par_chunks_mut(part).zip(source.par_chunks(part * size)).enumerate();
            blocks.map(fill).reduce(|| true, |a, b| a && b)
        }
    };
    if finite { Ok(Tensor::from_vec(weight.shape(), made)) } else { Err(NOT_FINITE) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::Data;
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
