//! Quantization as an annotation: what a float value is to be stored or passed on as.
//!
//! A scheme maps a real `x` to the integer `saturate(round_half_even(x / scale) + zero_point)` and back by
//! `(q - zero_point) * scale`, as ONNX's QuantizeLinear and DequantizeLinear do.

use super::{DType, Tensor};
use crate::error::{Error, Result};
use rayon::prelude::*;

/// Which operators compute the reals again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QuantForm {
    /// QuantizeLinear and DequantizeLinear, which a runtime fuses into integer kernels where it has them.
    #[default]
    Qdq,
    /// Cast and arithmetic, which a runtime does once, when it loads the model; for constants only.
    Folded,
    /// None: the op multiplies integers, its other operand rounded as the model runs. For weights of MatMul, Gemm and
    /// LSTM only.
    Dynamic,
}

/// How a float32 value is represented by integers.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantScheme {
    /// The integer type: int8, uint8 or int32 (biases).
    pub dtype: DType,
    /// The axis with one scale for each index; `None` for one scale over everything.
    pub axis: Option<usize>,
    /// Finite and positive; one, or one for each index of the axis.
    pub scales: Vec<f32>,
    /// As many as there are scales, each within the integer type.
    pub zero_points: Vec<i32>,
    /// Which operators compute the reals again.
    pub form: QuantForm,
}

impl QuantScheme {
    /// Symmetric int8, the largest magnitude at 127, over the whole tensor or for each index of `axis`. A slice that
    /// is all zero gets scale 1. `None` where the tensor is not float32, has no such axis, or is not finite.
    pub fn symmetric_int8(weight: &Tensor, axis: Option<usize>) -> Option<QuantScheme> {
        if axis.is_some_and(|a| a >= weight.rank()) {
            return None;
        }
        let values = weight.view::<f32>()?;
        let (channels, inner) = split(weight.shape(), axis);
        let mut peaks = vec![0f32; channels];
        for (run, part) in values.chunks(inner.max(1)).enumerate() {
            let peak = &mut peaks[run % channels.max(1)];
            for x in part {
                if !x.is_finite() {
                    return None;
                }
                *peak = peak.max(x.abs());
            }
        }
        let scale = |peak: f32| if peak == 0.0 { 1.0 } else { (peak / 127.0).max(f32::MIN_POSITIVE) };
        let scales: Vec<f32> = peaks.into_iter().map(scale).collect();
        let zero_points = vec![0; scales.len()];
        Some(QuantScheme { dtype: DType::I8, axis, scales, zero_points, form: QuantForm::Qdq })
    }

    /// Asymmetric uint8 over a range, widened so that zero is exact. `None` where the range is not finite.
    pub fn uint8_over(min: f32, max: f32) -> Option<QuantScheme> {
        let (min, max) = (min.min(0.0), max.max(0.0));
        let scale = (max - min) / 255.0;
        if !scale.is_finite() {
            return None;
        }
        let scale = if scale == 0.0 { 1.0 } else { scale.max(f32::MIN_POSITIVE) };
        let zero_point = (-min / scale).round_ties_even().clamp(0.0, 255.0) as i32;
        let (scales, zero_points) = (vec![scale], vec![zero_point]);
        Some(QuantScheme { dtype: DType::U8, axis: None, scales, zero_points, form: QuantForm::Qdq })
    }

    /// Checks the invariants of the fields, against the shape of the value where it is known.
    pub fn check(&self, shape: Option<&[usize]>) -> Result<()> {
        let fail = |why: &str| Err(Error::invalid((), format!("quantization scheme: {why}")));
        let Some((low, high)) = bounds(self.dtype) else {
            return fail("not an integer type it can use");
        };
        if self.scales.len() != self.zero_points.len() {
            return fail("scales and zero points differ in number");
        }
        if self.scales.iter().any(|s| !(s.is_finite() && *s > 0.0)) {
            return fail("a scale is not finite and positive");
        }
        if self.zero_points.iter().any(|z| !(low..=high).contains(&i64::from(*z))) {
            return fail("a zero point is outside the integer type");
        }
        let expected = match (self.axis, shape) {
            (None, _) => Some(1),
            (Some(_), None) => None,
            (Some(axis), Some(shape)) => match shape.get(axis) {
                Some(extent) => Some(*extent),
                None => return fail("the axis does not exist"),
            },
        };
        if expected.is_some_and(|n| n != self.scales.len()) {
            return fail("there is not one scale for each index of the axis");
        }
        Ok(())
    }

    /// The integers of a float32 tensor under this scheme.
    pub fn quantize(&self, tensor: &Tensor) -> Result<Tensor> {
        self.check(Some(tensor.shape()))?;
        let Some(values) = tensor.view::<f32>() else {
            return Err(Error::unsupported((), format!("{} is quantized from float32 only", tensor.dtype())));
        };
        let shape = tensor.shape();
        Ok(match self.dtype {
            DType::I8 => Tensor::from_vec(shape, self.map(shape, &values, |q| q as i8)),
            DType::U8 => Tensor::from_vec(shape, self.map(shape, &values, |q| q as u8)),
            _ => Tensor::from_vec(shape, self.map(shape, &values, |q| q as i32)),
        })
    }

    /// Saturated integers, narrowed by `narrow` (which cannot lose anything), computed in parallel runs.
    fn map<T: Send + Copy + Default>(
        &self,
        shape: &[usize],
        values: &[f32],
        narrow: impl Fn(i64) -> T + Sync,
    ) -> Vec<T> {
        let (low, high) = bounds(self.dtype).expect("checked by the caller");
        let (channels, inner) = split(shape, self.axis);
        let mut out = vec![T::default(); values.len()];
        out.par_chunks_mut(inner.max(1)).zip(values.par_chunks(inner.max(1))).enumerate().for_each(
            |(run, (out, values))| {
                let channel = run % channels;
                let (scale, zero) = (self.scales[channel], i64::from(self.zero_points[channel]));
                for (q, x) in out.iter_mut().zip(values) {
                    // A float cast saturates at i64 and takes NaN to 0, so the sum is the only thing to guard.
                    let steps = (x / scale).round_ties_even() as i64;
                    *q = narrow(steps.saturating_add(zero).clamp(low, high));
                }
            },
        );
        out
    }

    /// The reals that integers under this scheme stand for.
    pub fn dequantize(&self, tensor: &Tensor) -> Result<Tensor> {
        self.check(Some(tensor.shape()))?;
        let Some(values) = tensor.to_i64().filter(|_| tensor.dtype() == self.dtype) else {
            return Err(Error::invalid(
                (),
                format!("a {} tensor under a {} scheme", tensor.dtype(), self.dtype),
            ));
        };
        let (channels, inner) = split(tensor.shape(), self.axis);
        let real = |(i, q): (usize, &i64)| {
            let channel = i / inner.max(1) % channels;
            (q - i64::from(self.zero_points[channel])) as f32 * self.scales[channel]
        };
        Ok(Tensor::from_vec(tensor.shape(), values.iter().enumerate().map(real).collect()))
    }

    /// The scale operand of QuantizeLinear and DequantizeLinear: 0-d, or 1-d along the axis.
    pub fn scale_tensor(&self) -> Tensor {
        Tensor::from_vec(self.parameter_shape(), self.scales.clone())
    }
    /// The zero point operand, in the integer type.
    pub fn zero_point_tensor(&self) -> Tensor {
        let (shape, z) = (self.parameter_shape(), self.zero_points.iter());
        match self.dtype {
            DType::I8 => Tensor::from_vec(shape, z.map(|z| *z as i8).collect()),
            DType::U8 => Tensor::from_vec(shape, z.map(|z| *z as u8).collect()),
            _ => Tensor::from_vec(shape, z.copied().collect()),
        }
    }
    fn parameter_shape(&self) -> Vec<usize> {
        self.axis.map_or_else(Vec::new, |_| vec![self.scales.len()])
    }
}

/// The bounds of an integer type a scheme may use.
fn bounds(dtype: DType) -> Option<(i64, i64)> {
    match dtype {
        DType::I8 => Some((-128, 127)),
        DType::U8 => Some((0, 255)),
        DType::I32 => Some((i64::from(i32::MIN), i64::from(i32::MAX))),
        _ => None,
    }
}

/// The number of channels along the axis, and how many neighbouring elements share one.
fn split(shape: &[usize], axis: Option<usize>) -> (usize, usize) {
    match axis {
        Some(axis) => (shape[axis], shape[axis + 1..].iter().product()),
        None => (1, shape.iter().product()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_weight_is_off_by_half_a_step_and_stable(
            values in proptest::collection::vec(-1e3f32..1e3, 24), axis in proptest::option::of(0usize..3),
        ) {
            let w = Tensor::from_vec([2, 3, 4], values);
            let scheme = QuantScheme::symmetric_int8(&w, axis).unwrap();
            let q = scheme.quantize(&w).unwrap();
            let back = scheme.dequantize(&q).unwrap();
            let (channels, inner) = split(&[2, 3, 4], axis);
            let (a, b) = (w.view::<f32>().unwrap(), back.view::<f32>().unwrap());
            for i in 0..24 {
                let step = scheme.scales[i / inner % channels];
                prop_assert!((a[i] - b[i]).abs() <= step * 0.5001, "{} {} {step}", a[i], b[i]);
            }
            prop_assert_eq!(scheme.quantize(&back).unwrap(), q);
        }
        #[test]
        fn zero_is_exact(a in -1e6f32..1e6, b in -1e6f32..1e6) {
            let scheme = QuantScheme::uint8_over(a.min(b), a.max(b)).unwrap();
            let zero = Tensor::from_vec([1], vec![0f32]);
            prop_assert_eq!(scheme.dequantize(&scheme.quantize(&zero).unwrap()).unwrap(), zero);
        }
    }
    #[test]
    fn rounding_is_to_even_and_saturates() {
        let s = QuantScheme {
            dtype: DType::U8,
            axis: None,
            scales: vec![1.0],
            zero_points: vec![10],
            form: QuantForm::Qdq,
        };
        let x = Tensor::from_vec([6], vec![0.5f32, 1.5, -2.5, 1e9, -1e9, f32::INFINITY]);
        assert_eq!(s.quantize(&x).unwrap().view::<u8>().unwrap()[..], [10, 12, 8, 255, 0, 255]);
    }
    #[test]
    fn zero_channels_and_bad_schemes() {
        let w = Tensor::from_vec([2, 2], vec![0f32, 0.0, 1e-44, 0.0]);
        let s = QuantScheme::symmetric_int8(&w, Some(0)).unwrap();
        assert_eq!(s.scales, [1.0, f32::MIN_POSITIVE]);
        assert!(s.check(Some(&[3, 2])).is_err(), "one scale for each index");
        assert!(QuantScheme { scales: vec![0.0; 2], ..s }.check(None).is_err());
        let nan = Tensor::from_vec([1], vec![f32::NAN]);
        assert!(QuantScheme::symmetric_int8(&nan, None).is_none());
    }
}
