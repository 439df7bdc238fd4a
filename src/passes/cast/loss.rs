//! What numbers lose in half precision.

use crate::ir::{DType, Tensor};
use half::{bf16, f16};

/// The least ratio of a tensor's squares to those of its rounding errors: below it, so much vanishes that the tensor is
/// not the same any more. Rounding alone leaves 10^5 (bfloat16) to 10^7 (float16).
const LEAST_RATIO: f64 = 1e4;
/// Measured ranges count so many times: other inputs than the samples reach further.
const ROOM: f32 = 2.0;

/// The number in half precision, as float32.
pub(super) fn rounded(x: f32, dtype: DType) -> f32 {
    if dtype == DType::F16 { f16::from_f32(x).to_f32() } else { bf16::from_f32(x).to_f32() }
}

/// The largest finite number.
fn largest(dtype: DType) -> f32 {
    if dtype == DType::F16 { f16::MAX.to_f32() } else { bf16::MAX.to_f32() }
}

/// The least number of full precision.
fn least(dtype: DType) -> f32 {
    if dtype == DType::F16 { f16::MIN_POSITIVE.to_f32() } else { bf16::MIN_POSITIVE.to_f32() }
}

/// Up to here every integer is exact.
pub(super) fn exact(dtype: DType) -> f32 {
    if dtype == DType::F16 { 2048.0 } else { 256.0 }
}

/// How many elements other than 0 become 0, or why the constant must stay as it is.
pub(super) fn of_constant(tensor: &Tensor, dtype: DType) -> Result<usize, String> {
    let numbers = tensor.to_f32().unwrap_or_default();
    let (mut vanished, mut size, mut error) = (0, 0f64, 0f64);
    for x in numbers.iter().copied().filter(|x| x.is_finite()) {
        let half = rounded(x, dtype);
        if !half.is_finite() {
            return Err(format!("holds {x:e}, which {dtype} does not reach"));
        }
        vanished += usize::from(half == 0.0 && x != 0.0);
        size += f64::from(x).powi(2);
        error += f64::from(x - half).powi(2);
    }
    if error * LEAST_RATIO > size {
        return Err(format!("would lose {:.2} % of its size", 100.0 * (error / size).sqrt()));
    }
    Ok(vanished)
}

/// Why a value of this measured range must stay as it is, if it must.
pub(super) fn of_range((low, high): (f32, f32), dtype: DType) -> Option<String> {
    let finite = |x: f32| if x.is_finite() { x.abs() } else { 0.0 };
    let peak = finite(low).max(finite(high));
    if peak * ROOM > largest(dtype) {
        return Some(format!("reaches {peak:.3e}, and {dtype} only {:.3e}", largest(dtype)));
    }
    let tiny = peak > 0.0 && peak < least(dtype);
    tiny.then(|| format!("stays within {peak:.1e}, where {dtype} has few digits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_is_counted_or_refused() {
        let of =
            |numbers: &[f32], dtype| of_constant(&Tensor::from_vec([numbers.len()], numbers.to_vec()), dtype);
        assert_eq!(of(&[1.0, 1e-9, 0.0, f32::NEG_INFINITY], DType::F16), Ok(1));
        assert!(of(&[70000.0], DType::F16).unwrap_err().contains("7e4"));
        assert_eq!(of(&[70000.0], DType::BF16), Ok(0));
        assert!(of(&[1e-12], DType::F16).unwrap_err().contains("100.00 %"));
        assert_eq!(of(&[0.1, -0.3], DType::BF16), Ok(0));
        assert!(
            of_range((-40000.0, 0.0), DType::F16).is_some() && of_range((-1.0, 3e4), DType::F16).is_none()
        );
        assert!(of_range((0.0, 1e-6), DType::F16).is_some() && of_range((0.0, 0.0), DType::F16).is_none());
        assert!(of_range((f32::NEG_INFINITY, 1.0), DType::F16).is_none(), "infinite stays infinite");
    }
}
