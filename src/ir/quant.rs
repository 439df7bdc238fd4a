//! Quantization as an annotation: what a float value is to be stored or passed on as.
//!
//! A scheme maps a real `x` to the integer `saturate(round_half_even(x / scale) + zero_point)` and back by
//! `(q - zero_point) * scale`, as ONNX's QuantizeLinear and DequantizeLinear do. Floats of eight bits take the place of
//! integers, the nearest to `x / scale`; their zero points are zero.

use super::{DType, Float8, Grain, Lay, Tensor};
use crate::error::{Error, Result};
use half::{bf16, f16};
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
    /// None where the op that reads a constant has integers around it: it becomes one that reads and writes these. Otherwise
    /// DequantizeLinear.
    Operator,
    /// None: the op multiplies integers, both of its operands rounded beforehand. For computed operands of MatMul only.
    Multiplied,
    /// None: the op reads weights of four bits as they are stored. For blocks of weights of MatMul and Gather only.
    Packed,
    /// QuantizeLinear and DequantizeLinear, and the function that makes the value is computed by such a pair too, whose integers
    /// end where it does. For what HardSigmoid and HardSwish make of values that are rounded; elsewhere the pair alone.
    Saturated,
    /// QuantizeLinear and DequantizeLinear, of which layers that compute in float have one of their own, so that ONNX Runtime does
    /// not round their weights. For computed values with one scale.
    Shielded,
}

/// How a value of floating-point numbers is represented by integers, or by floats of eight bits.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantScheme {
    /// The integer type: of 2, 4, 8 or 16 bits, or int32 (biases); or a [`Float8`].
    pub dtype: DType,
    /// Which elements share a scale.
    pub grain: Grain,
    /// Finite and positive, as many as the grain makes of the shape. Numbers of the value's own type, see
    /// [`QuantScheme::for_reals`].
    pub scales: Vec<f32>,
    /// As many as there are scales, each within the integer type.
    pub zero_points: Vec<i32>,
    /// Which operators compute the reals again.
    pub form: QuantForm,
}

impl QuantScheme {
    /// Symmetric int8, the largest magnitude at 127: see [`QuantScheme::symmetric`].
    pub fn symmetric_int8(weight: &Tensor, axis: Option<usize>) -> Option<QuantScheme> {
        Self::symmetric(weight, DType::I8, axis)
    }

    /// Symmetric integers of this type, the largest magnitude at the largest of them, over the whole tensor or for each index
    /// of `axis`. A slice that is all zero gets scale 1. `None` where the type has no sign, and where the tensor holds no
    /// reals, has no such axis, or is not finite.
    pub fn symmetric(weight: &Tensor, dtype: DType, axis: Option<usize>) -> Option<QuantScheme> {
        let (_, high) = bounds(dtype).filter(|(low, _)| dtype.is_integer() && *low < 0)?;
        let grain = axis.map_or(Grain::Tensor, Grain::Axis);
        let lay = grain.lay(weight.shape())?;
        let values = weight.to_f32()?;
        let mut peaks = vec![0f32; lay.scales()];
        for (run, part) in values.chunks(lay.length.max(1)).enumerate() {
            let peak = &mut peaks[run % lay.outer];
            for x in part {
                if !x.is_finite() {
                    return None;
                }
                *peak = peak.max(x.abs());
            }
        }
        let scale = |peak: f32| if peak == 0.0 { 1.0 } else { (peak / high as f32).max(f32::MIN_POSITIVE) };
        let scales: Vec<f32> = peaks.into_iter().map(scale).collect();
        let zero_points = vec![0; scales.len()];
        let scheme = QuantScheme { dtype, grain, scales, zero_points, form: QuantForm::Qdq };
        Some(scheme.for_reals(weight.dtype()))
    }

    /// Asymmetric integers of this type over a range, widened so that zero is exact. `None` where the range is not finite,
    /// or a scheme has no such integers.
    pub fn over(dtype: DType, min: f32, max: f32) -> Option<QuantScheme> {
        let (low, high) = bounds(dtype).filter(|_| dtype.is_integer())?;
        let (min, max) = (min.min(0.0), max.max(0.0));
        let scale = (max - min) / (high - low) as f32;
        if !scale.is_finite() {
            return None;
        }
        let scale = if scale == 0.0 { 1.0 } else { scale.max(f32::MIN_POSITIVE) };
        let zero_point = ((-min / scale).round_ties_even() as i64 + low).clamp(low, high) as i32;
        let (scales, zero_points) = (vec![scale], vec![zero_point]);
        Some(QuantScheme { dtype, grain: Grain::Tensor, scales, zero_points, form: QuantForm::Qdq })
    }

    /// Checks the invariants of the fields, against the shape of the value where it is known.
    pub fn check(&self, shape: Option<&[usize]>) -> Result<()> {
        let fail = |why: &str| Err(Error::invalid((), format!("quantization scheme: {why}")));
        let Some((low, high)) = bounds(self.dtype) else {
            return fail("not a type of few bits that it can use");
        };
        if self.scales.len() != self.zero_points.len() {
            return fail("scales and zero points differ in number");
        }
        if self.scales.iter().any(|s| !(s.is_finite() && *s > 0.0)) {
            return fail("a scale is not finite and positive");
        }
        if self.zero_points.iter().any(|z| !(low..=high).contains(&i64::from(*z))) {
            return fail("a zero point is outside its type");
        }
        let expected = match (self.grain, shape) {
            (Grain::Tensor, _) => Some(1),
            (_, None) => None,
            (grain, Some(shape)) => match grain.lay(shape) {
                Some(lay) => Some(lay.scales()),
                None => return fail("it is for a tensor of more axes"),
            },
        };
        if expected.is_some_and(|n| n != self.scales.len()) {
            return fail("there is not one scale for each group of elements");
        }
        Ok(())
    }

    /// The same with scales that are numbers of this type, no smaller than they were: the largest elements would saturate
    /// otherwise.
    pub fn for_reals(mut self, dtype: DType) -> QuantScheme {
        self.scales.iter_mut().for_each(|scale| *scale = no_smaller(dtype, *scale));
        self
    }

    /// What stands for the elements of a tensor of float32, float16, bfloat16 or float64 under this scheme.
    pub fn quantize(&self, tensor: &Tensor) -> Result<Tensor> {
        self.check(Some(tensor.shape()))?;
        let Some(values) = tensor.to_f32() else {
            let why = format!("{} is no floating-point type that is quantized", tensor.dtype());
            return Err(Error::unsupported((), why));
        };
        let shape = tensor.shape();
        let lay = self.lay(shape)?;
        if let Some(float8) = Float8::of(self.dtype) {
            let codes = self.map(lay, &values, |x, at| float8.encode(x / self.scales[at]));
            return Tensor::new(self.dtype, shape, codes);
        }
        let (low, high) = bounds(self.dtype).expect("`check` refuses types without bounds");
        let integer = |x: f32, at: usize| {
            // A cast takes NaN to 0.
            let steps = nearest(f64::from(x / self.scales[at]).clamp(-MOST_STEPS, MOST_STEPS)) as i64;
            (steps + i64::from(self.zero_points[at])).clamp(low, high)
        };
        Ok(match self.dtype {
            DType::U8 => Tensor::from_vec(shape, self.map(lay, &values, |x, at| integer(x, at) as u8)),
            DType::U16 => Tensor::from_vec(shape, self.map(lay, &values, |x, at| integer(x, at) as u16)),
            DType::I16 => Tensor::from_vec(shape, self.map(lay, &values, |x, at| integer(x, at) as i16)),
            DType::I32 => Tensor::from_vec(shape, self.map(lay, &values, |x, at| integer(x, at) as i32)),
            dtype => self.integers(dtype, shape, self.map(lay, &values, |x, at| integer(x, at) as i8)),
        })
    }
    fn lay(&self, shape: &[usize]) -> Result<Lay> {
        let none = || Error::invalid((), "quantization scheme: it is for a tensor of more axes");
        self.grain.lay(shape).ok_or_else(none)
    }
    /// A tensor of at most eight bits an element.
    fn integers(&self, dtype: DType, shape: &[usize], elements: Vec<i8>) -> Tensor {
        Tensor::packed(dtype, shape, &elements).unwrap_or_else(|| {
            let bytes: Vec<u8> = elements.into_iter().map(|x| x as u8).collect();
            Tensor::new(dtype, shape, bytes).expect("a byte for each element")
        })
    }

    /// What `of` makes of each value and the place of its scale, in parallel runs.
    fn map<T: Send + Copy + Default>(
        &self,
        lay: Lay,
        values: &[f32],
        of: impl Fn(f32, usize) -> T + Sync,
    ) -> Vec<T> {
        let mut out = vec![T::default(); values.len()];
        out.par_chunks_mut(RUN).zip(values.par_chunks(RUN)).enumerate().for_each(|(run, (out, values))| {
            for ((q, x), at) in out.iter_mut().zip(values).zip(lay.scales_from(run * RUN)) {
                *q = of(*x, at);
            }
        });
        out
    }

    /// The reals that a tensor under this scheme stands for, as float32.
    pub fn dequantize(&self, tensor: &Tensor) -> Result<Tensor> {
        self.check(Some(tensor.shape()))?;
        let lay = self.lay(tensor.shape())?;
        let places = || lay.scales_from(0);
        let steps = |values: Vec<i64>| {
            let above_zero = |(q, at): (i64, usize)| (q - i64::from(self.zero_points[at])) as f32;
            values.into_iter().zip(places()).map(above_zero).collect()
        };
        let narrow = || Some(tensor.unpacked()?.into_iter().map(i64::from).collect());
        let numbers: Option<Vec<f32>> = match Float8::of(self.dtype) {
            _ if tensor.dtype() != self.dtype => None,
            _ if tensor.is_empty() => Some(Vec::new()),
            Some(float8) => Some(tensor.bytes().iter().map(|code| float8.decode(*code)).collect()),
            None => tensor.to_i64().or_else(narrow).map(steps),
        };
        let Some(mut reals) = numbers else {
            return Err(Error::invalid(
                (),
                format!("a {} tensor under a {} scheme", tensor.dtype(), self.dtype),
            ));
        };
        if !reals.is_empty() {
            reals.iter_mut().zip(places()).for_each(|(x, at)| *x *= self.scales[at]);
        }
        Ok(Tensor::from_vec(tensor.shape(), reals))
    }

    /// The scales as a tensor of this type (float32 where it holds no reals) and shape, which must hold as many.
    pub fn scale_tensor(&self, dtype: DType, shape: &[usize]) -> Tensor {
        let numbers = || self.scales.clone();
        Tensor::from_f32(dtype, shape, numbers()).unwrap_or_else(|| Tensor::from_vec(shape, numbers()))
    }
    /// The zero points, in the scheme's type, as a tensor of this shape, which must hold as many.
    pub fn zero_point_tensor(&self, shape: &[usize]) -> Tensor {
        let z = self.zero_points.iter();
        match self.dtype {
            DType::U8 => Tensor::from_vec(shape, z.map(|z| *z as u8).collect()),
            DType::U16 => Tensor::from_vec(shape, z.map(|z| *z as u16).collect()),
            DType::I16 => Tensor::from_vec(shape, z.map(|z| *z as i16).collect()),
            DType::I32 => Tensor::from_vec(shape, z.copied().collect()),
            dtype => self.integers(dtype, shape, z.map(|z| *z as i8).collect()),
        }
    }
    /// The same with a step that is finer by so little that this real becomes a multiple of it: what is computed about that has no
    /// bias. Where it is of few steps, nothing changes.
    pub fn with_exact(mut self, real: f32) -> QuantScheme {
        for scale in &mut self.scales {
            let steps = real / *scale;
            if steps.is_finite() && steps >= LEAST_EXACT {
                *scale = real / (steps - SAME_STEP).ceil();
            }
        }
        self
    }
    /// The smallest and largest reals that integers of one scale stand for.
    pub fn ends(&self) -> Option<[f32; 2]> {
        let (low, high) = bounds(self.dtype).filter(|_| self.dtype.is_integer())?;
        let (&[scale], &[zero]) = (&self.scales[..], &self.zero_points[..]) else { return None };
        Some([low, high].map(|q| (q - i64::from(zero)) as f32 * scale))
    }
    /// Whether 0 stands for zero everywhere.
    pub fn is_symmetric(&self) -> bool {
        self.zero_points.iter().all(|z| *z == 0)
    }
}

/// The smallest number of a type that is at least this positive one; float64 holds them all.
fn no_smaller(dtype: DType, scale: f32) -> f32 {
    match dtype {
        DType::F16 => {
            let near = f16::from_f32(scale);
            let up = if near.to_f32() < scale { f16::from_bits(near.to_bits() + 1) } else { near };
            up.min(f16::MAX).to_f32()
        }
        DType::BF16 => {
            let near = bf16::from_f32(scale);
            let up = if near.to_f32() < scale { bf16::from_bits(near.to_bits() + 1) } else { near };
            up.min(bf16::MAX).to_f32()
        }
        _ => scale,
    }
}

/// Steps below which one more would take too much of a range.
const LEAST_EXACT: f32 = 32.0;
/// The share of a step that rounding in float32 may add.
const SAME_STEP: f32 = 1e-3;
/// Elements that are rounded at a time.
const RUN: usize = 1 << 12;
/// More steps than any integer type has.
const MOST_STEPS: f64 = (1u64 << 40) as f64;

/// The nearest integer, half to even, of what is far below 2^51: what a float has no room for when so much is added is
/// rounded. (The processors that a build is for by default have no instruction for it.)
pub(crate) fn nearest(x: f64) -> f64 {
    const NO_FRACTIONS: f64 = 1.5 * (1u64 << 52) as f64;
    (x + NO_FRACTIONS) - NO_FRACTIONS
}

/// The bounds of a type that a scheme may use: of its integers, or of the zero points of floats.
fn bounds(dtype: DType) -> Option<(i64, i64)> {
    match dtype {
        DType::I2 => Some((-2, 1)),
        DType::U2 => Some((0, 3)),
        DType::I4 => Some((-8, 7)),
        DType::U4 => Some((0, 15)),
        DType::I8 => Some((-128, 127)),
        DType::U8 => Some((0, 255)),
        DType::I16 => Some((-32768, 32767)),
        DType::U16 => Some((0, 65535)),
        DType::I32 => Some((i64::from(i32::MIN), i64::from(i32::MAX))),
        dtype => Float8::of(dtype).map(|_| (0, 0)),
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
            let lay = scheme.grain.lay(&[2, 3, 4]).unwrap();
            let (a, b) = (w.view::<f32>().unwrap(), back.view::<f32>().unwrap());
            for i in 0..24 {
                let step = scheme.scales[lay.scale_of(i)];
                prop_assert!((a[i] - b[i]).abs() <= step * 0.5001, "{} {} {step}", a[i], b[i]);
            }
            prop_assert_eq!(scheme.quantize(&back).unwrap(), q);
        }
        #[test]
        fn zero_is_exact_and_the_ends_are_near(a in -1e6f32..1e6, b in -1e6f32..1e6) {
            for dtype in [DType::U8, DType::I8, DType::U16, DType::I16] {
                let (low, high) = (a.min(b).min(0.0), a.max(b).max(0.0));
                let scheme = QuantScheme::over(dtype, low, high).unwrap();
                let x = Tensor::from_vec([3], vec![0f32, low, high]);
                let back = scheme.dequantize(&scheme.quantize(&x).unwrap()).unwrap();
                let (back, step) = (back.view::<f32>().unwrap(), scheme.scales[0]);
                prop_assert_eq!(back[0], 0.0);
                prop_assert!((back[1] - low).abs().max((back[2] - high).abs()) <= step * 0.51, "{}", dtype);
            }
            prop_assert!(QuantScheme::over(DType::F8E5M2, a, b).is_none());
        }
    }
    #[test]
    fn scales_of_half_precision_saturate_no_element() {
        for (dtype, tiny) in [(DType::F16, 3e-6), (DType::BF16, 1e-40)] {
            for size in [tiny, 0.7, 4e4] {
                let values: Vec<f32> = (0..64).map(|k| size * (k as f32 * 0.37).sin()).collect();
                let w = Tensor::from_f32(dtype, [4, 16], values).unwrap();
                let (exact, lay) = (w.to_f32().unwrap(), Grain::Axis(0).lay(&[4, 16]).unwrap());
                let scheme = QuantScheme::symmetric_int8(&w, Some(0)).unwrap();
                let stored = scheme.scale_tensor(dtype, &[4]);
                assert_eq!(stored.to_f32().unwrap()[..], scheme.scales, "{dtype} holds them");
                let back = scheme.dequantize(&scheme.quantize(&w).unwrap()).unwrap();
                for (at, (a, b)) in exact.iter().zip(back.view::<f32>().unwrap().iter()).enumerate() {
                    let step = scheme.scales[lay.scale_of(at)];
                    assert!((a - b).abs() <= step * 0.5001, "{dtype} {a} {b} {step}");
                }
            }
        }
    }
    #[test]
    fn rounding_is_to_even_and_saturates() {
        let s = QuantScheme {
            dtype: DType::U8,
            grain: Grain::Tensor,
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
    #[test]
    fn blocks_of_four_bits_saturate_and_come_back() {
        let scheme = QuantScheme {
            dtype: DType::U4,
            grain: Grain::Blocks { first: 1, end: 2, size: 2 },
            scales: vec![1.0, 0.5, 2.0, 4.0],
            zero_points: vec![8, 0, 15, 3],
            form: QuantForm::Qdq,
        };
        let x = Tensor::from_vec([2, 3], vec![-20f32, 3.0, 7.0, -30.0, 9.0, -8.0]);
        let q = scheme.quantize(&x).unwrap();
        assert_eq!((q.dtype(), q.unpacked().unwrap()), (DType::U4, vec![0, 11, 14, 0, 15, 1]));
        let back = scheme.dequantize(&q).unwrap();
        assert_eq!(back.view::<f32>().unwrap()[..], [-8.0, 3.0, 7.0, -30.0, 0.0, -8.0]);
        assert!(scheme.quantize(&x.reshaped([3, 2])).is_err(), "three scales there");
    }
}
