//! Contents for initializers that a text lists without numbers: seeded, so that the same text is the same model.

use crate::{
    error::Result,
    ir::{Carried, DType, SparseTensor, Tensor},
};
use bytes::Bytes;
use rand::{Rng, RngExt, SeedableRng, rngs::ChaCha8Rng};

/// Bytes that the tensors of one text may take together when their contents are made up.
pub(super) const MOST_BYTES: usize = 1 << 30;

/// Random contents. Floats are normal with variance 2/fan-in for weights (rank 2 and more; the greater of the
/// two for matrices, which stand in either orientation) and 1 for vectors and scalars, or |x| + 0.5 where they must be
/// positive; 8-bit and narrower types take any bits; wider integers and bool are 0 or 1, valid as indices; strings
/// are empty.
pub(super) fn random(dtype: DType, shape: &[usize], name: &str, seed: u64, positive: bool) -> Result<Tensor> {
    let of_name = name.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3) // 64-bit FNV-1a
    });
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ of_name);
    let len: usize = shape.iter().product();
    if dtype == DType::String {
        return Tensor::strings(shape, vec![Bytes::new(); len]);
    }
    let fan_in = match shape {
        [] | [_] => 2,
        [a, b] => *a.max(b),
        [_, rest @ ..] => rest.iter().product(),
    };
    let scale = (2.0 / fan_in.max(1) as f32).sqrt();
    let mut floats = || {
        let values = (0..len).map(|_| scale * normal(&mut rng));
        if positive { values.map(|x| x.abs() + 0.5).collect() } else { values.collect() }
    };
    if matches!(dtype, DType::F32 | DType::F64 | DType::F16 | DType::BF16)
        && let Some(t) = Tensor::from_f32(dtype, shape, floats())
    {
        return Ok(t);
    }
    let mut bytes = vec![0u8; dtype.bytes_for(len).unwrap_or_default()];
    match (dtype, dtype.bits() / 8) {
        (DType::Bool, _) => bytes.iter_mut().for_each(|b| *b = u8::from(rng.random::<bool>())),
        (_, 0 | 1) => rng.fill_bytes(&mut bytes),
        (_, width) => bytes.chunks_mut(width).for_each(|b| b[0] = u8::from(rng.random::<bool>())),
    }
    Tensor::new(dtype, shape, bytes)
}

/// One number of mean 0 and variance 1, nearly normal: twelve uniform ones added up. Sums, unlike logarithms and cosines,
/// are equal to the last bit on every platform.
fn normal(rng: &mut ChaCha8Rng) -> f32 {
    (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0
}

/// A sparse constant without non-zero elements, which is all a text says of one.
pub(super) fn empty_sparse(dtype: DType, dims: Vec<usize>) -> Result<SparseTensor> {
    let values = Tensor::new(dtype, [0], Vec::new())?;
    Ok(SparseTensor { values, indices: Tensor::ints([]), dims, carried: Carried::default() })
}
