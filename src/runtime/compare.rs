//! The difference between two tensors, accumulated over batches in f64.

use crate::ir::Tensor;
use serde::Serialize;

/// How far an output of the compressed model is from the original's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OutputError {
    /// The output.
    pub name: String,
    /// The number of elements compared.
    pub elements: u64,
    /// The largest absolute difference, over elements finite in both.
    pub max_abs: f64,
    /// The mean absolute difference, over elements finite in both.
    pub mean_abs: f64,
    /// The cosine of the angle between the two, all elements as one vector; 1 where both are zero.
    pub cosine: f64,
    /// Signal to noise ratio in decibel; `None` where there is no noise at all (infinite).
    pub sqnr_db: Option<f64>,
    /// The same ratio of the original to itself without ONNX Runtime's rewrites, measured only where a bar is missed:
    /// noise that the runtime makes by itself is not the compression's. `None` where not measured, or without noise.
    pub own_sqnr_db: Option<f64>,
    /// Where the last axis may hold class scores: the share of rows with the same largest element.
    pub top1_agreement: Option<f64>,
    /// Elements that are NaN or infinite in the original.
    pub not_finite_original: u64,
    /// Elements that are NaN or infinite in the compressed model.
    pub not_finite_compressed: u64,
    /// Elements that are not finite in one and not the same in the other. Left out of the other figures.
    pub not_finite_differing: u64,
}

/// Sums that the figures of an output come from.
#[derive(Clone, Debug, Default)]
pub(super) struct Difference {
    elements: u64,
    finite: u64,
    max_abs: f64,
    sum_abs: f64,
    noise: f64,
    signal: f64,
    other: f64,
    product: f64,
    rows: u64,
    rows_agreeing: u64,
    not_finite: [u64; 3],
}

/// A tensor's elements as f64; `None` where they are no numbers, or of less than a byte.
pub(crate) fn numbers(tensor: &Tensor) -> Option<Vec<f64>> {
    if let Some(x) = tensor.view::<f64>() {
        return Some(x.into_owned());
    }
    if let Some(x) = tensor.to_f32() {
        return Some(x.iter().map(|x| f64::from(*x)).collect());
    }
    if let Some(x) = tensor.view::<u64>() {
        return Some(x.iter().map(|x| *x as f64).collect());
    }
    tensor.to_i64().map(|x| x.into_iter().map(|x| x as f64).collect())
}

/// The index of the largest element; the first of equal ones.
pub(super) fn largest(row: &[f64]) -> usize {
    (0..row.len()).fold(0, |best, k| if row[k] > row[best] { k } else { best })
}

impl Difference {
    /// Adds a batch: the two in the same shape, `classes` being the length of the last axis where it may hold scores.
    pub(super) fn add(&mut self, original: &[f64], compressed: &[f64], classes: Option<usize>) {
        for (a, b) in original.iter().zip(compressed) {
            self.elements += 1;
            self.not_finite[0] += u64::from(!a.is_finite());
            self.not_finite[1] += u64::from(!b.is_finite());
            if !a.is_finite() || !b.is_finite() {
                let same = a == b || a.is_nan() && b.is_nan();
                self.not_finite[2] += u64::from(!same);
                continue;
            }
            self.finite += 1;
            let error = (a - b).abs();
            self.max_abs = self.max_abs.max(error);
            self.sum_abs += error;
            self.noise += error * error;
            self.signal += a * a;
            self.other += b * b;
            self.product += a * b;
        }
        if let Some(classes) = classes {
            for (a, b) in original.chunks_exact(classes).zip(compressed.chunks_exact(classes)) {
                self.rows += 1;
                self.rows_agreeing += u64::from(largest(a) == largest(b));
            }
        }
    }
    /// The figures.
    pub(super) fn finish(self, name: String) -> OutputError {
        let scale = (self.signal * self.other).sqrt();
        let cosine = match (self.noise == 0.0, scale > 0.0) {
            (true, _) => 1.0,
            (false, true) => self.product / scale,
            (false, false) => 0.0,
        };
        OutputError {
            name,
            elements: self.elements,
            max_abs: self.max_abs,
            mean_abs: if self.finite == 0 { 0.0 } else { self.sum_abs / self.finite as f64 },
            cosine,
            // No signal but noise is minus infinity, which JSON cannot hold: the lowest number stands for it.
            sqnr_db: (self.noise > 0.0).then(|| (10.0 * (self.signal / self.noise).log10()).max(f64::MIN)),
            own_sqnr_db: None,
            top1_agreement: (self.rows > 0).then(|| self.rows_agreeing as f64 / self.rows as f64),
            not_finite_original: self.not_finite[0],
            not_finite_compressed: self.not_finite[1],
            not_finite_differing: self.not_finite[2],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_follow_their_definitions() {
        let mut d = Difference::default();
        d.add(&[3.0, 4.0, f64::NAN, 1.0], &[3.0, 5.0, f64::NAN, f64::INFINITY], Some(2));
        let e = d.finish("y".into());
        assert_eq!((e.max_abs, e.mean_abs, e.elements), (1.0, 0.5, 4));
        assert!((e.sqnr_db.unwrap() - 10.0 * 25f64.log10()).abs() < 1e-12);
        assert!((e.cosine - 29.0 / (25f64 * 34.0).sqrt()).abs() < 1e-12);
        assert_eq!((e.not_finite_original, e.not_finite_compressed, e.not_finite_differing), (1, 2, 1));
        assert_eq!(e.top1_agreement, Some(1.0));
    }
    #[test]
    fn no_noise_is_no_number() {
        let mut d = Difference::default();
        d.add(&[1.0, 2.0], &[1.0, 2.0], None);
        let json = serde_json::to_value(d.finish("y".into())).unwrap();
        assert!(json["sqnr_db"].is_null() && json["cosine"] == 1.0);
    }
}
