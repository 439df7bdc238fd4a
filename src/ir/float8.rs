//! Floats of eight bits: as ONNX's Cast makes them, rounded half to even and saturating, and back.

use super::{DType, nearest};
use serde::{Deserialize, Serialize};

/// A type of floats of eight bits that weights are stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Float8 {
    /// Four bits of exponent, three of fraction, no infinities.
    E4M3FN,
    /// Five bits of exponent, two of fraction.
    E5M2,
}

/// How the bits lie below the sign.
struct Layout {
    /// Bits of the fraction.
    fraction: u32,
    /// The exponent of the smallest normal number, which subnormal ones share.
    least: i32,
    /// The code of the largest finite number.
    most: u8,
}

impl Float8 {
    /// The type of these elements; `None` for any other.
    pub fn of(dtype: DType) -> Option<Float8> {
        [Float8::E4M3FN, Float8::E5M2].into_iter().find(|known| known.dtype() == dtype)
    }
    /// The element type.
    pub fn dtype(self) -> DType {
        match self {
            Float8::E4M3FN => DType::F8E4M3FN,
            Float8::E5M2 => DType::F8E5M2,
        }
    }
    fn layout(self) -> Layout {
        match self {
            Float8::E4M3FN => Layout { fraction: 3, least: -6, most: 0x7e },
            Float8::E5M2 => Layout { fraction: 2, least: -14, most: 0x7b },
        }
    }
    /// The largest finite number.
    pub fn largest(self) -> f32 {
        self.decode(self.layout().most)
    }
    /// The code of the nearest number; of infinities that of the largest finite one.
    pub fn encode(self, x: f32) -> u8 {
        let Layout { fraction, least, most } = self.layout();
        let sign = (x.to_bits() >> 24) as u8 & 0x80;
        if x.is_nan() {
            return sign | 0x7f;
        }
        let exponent = (((x.to_bits() >> 23) & 0xff) as i32 - 127).max(least);
        // Steps reach from 0, or 2^fraction for what is normal, to one past the binade, which is the next one's first code.
        let steps = nearest(f64::from(x.abs()) * 2f64.powi(fraction as i32 - exponent));
        let code = f64::from((exponent - least) << fraction) + steps;
        sign | code.min(f64::from(most)) as u8
    }
    /// The number of a code.
    pub fn decode(self, code: u8) -> f32 {
        let Layout { fraction, least, most } = self.layout();
        let magnitude = code & 0x7f;
        let (exponent, steps) = (magnitude >> fraction, magnitude & ((1 << fraction) - 1));
        let leading = u8::from(exponent > 0) << fraction;
        let step = 2f32.powi(i32::from(exponent.max(1)) - 1 + least - fraction as i32);
        let number = match magnitude {
            finite if finite <= most => f32::from(leading + steps) * step,
            0x7c if self == Float8::E5M2 => f32::INFINITY,
            _ => f32::NAN,
        };
        if code & 0x80 == 0 { number } else { -number }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_comes_back() {
        for (known, largest) in [(Float8::E4M3FN, 448.0), (Float8::E5M2, 57344.0)] {
            assert_eq!((Float8::of(known.dtype()), known.largest()), (Some(known), largest));
            for code in (0..=255u8).filter(|code| known.decode(*code).is_finite()) {
                assert_eq!(known.encode(known.decode(code)), code, "{known:?}");
            }
            assert_eq!(known.encode(f32::NEG_INFINITY), known.encode(-largest), "it saturates");
            assert!(known.decode(known.encode(f32::NAN)).is_nan());
        }
        assert_eq!(Float8::of(DType::U8), None);
    }
    #[test]
    fn ties_go_to_the_even_code() {
        for known in [Float8::E4M3FN, Float8::E5M2] {
            for code in 0..known.layout().most {
                let (low, high) = (known.decode(code), known.decode(code + 1));
                let tie = (low + high) / 2.0;
                assert_eq!(known.encode(tie), code + code % 2, "{known:?} {tie}");
                assert_eq!(known.encode(-tie.next_down()), 0x80 | code, "{known:?}");
                assert_eq!(known.encode(tie.next_up()), code + 1, "{known:?}");
            }
        }
    }
}
