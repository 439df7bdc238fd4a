//! What the runtimes ask for that a model is quantized for: each option that is not given follows from the target.

use super::Form;
use crate::ir::{DType, QuantScheme};
use serde::{Deserialize, Serialize};

/// Where the model will run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// ONNX Runtime on a processor like this one.
    #[default]
    Cpu,
    /// ONNX Runtime's CUDA provider, which has no integer kernels for QuantizeLinear and DequantizeLinear.
    Cuda,
    /// TensorRT: symmetric int8.
    TensorRt,
    /// Qualcomm's accelerators.
    Qnn,
    /// Intel's OpenVINO.
    OpenVino,
    /// Anything that runs standard operators, on any processor.
    Portable,
}

/// What a target asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Profile {
    /// The form of weights.
    pub(super) form: Form,
    /// Whether times of this machine tell anything about the target's.
    pub(super) timed: bool,
    /// Whether activations are int8 with a zero point of 0, not uint8 with one of their own.
    pub(super) symmetric_activations: bool,
    /// Whether integer layers have their biases in int32.
    pub(super) integer_biases: bool,
    /// Whether Conv of few channels computes in integers, where nothing is timed.
    pub(super) first_convolutions: bool,
    /// Whether weights keep to seven bits; as this processor needs it, where it is not said.
    pub(super) reduce_range: Option<bool>,
}

impl Target {
    pub(super) fn profile(self) -> Profile {
        let qdq = Profile {
            form: Form::Qdq,
            timed: false,
            symmetric_activations: false,
            integer_biases: true,
            first_convolutions: true,
            reduce_range: Some(false),
        };
        match self {
            Target::Cpu => Profile {
                form: Form::Auto,
                timed: true,
                first_convolutions: false,
                reduce_range: None,
                ..qdq
            },
            Target::Cuda => Profile { form: Form::Folded, ..qdq },
            Target::TensorRt => Profile { symmetric_activations: true, integer_biases: false, ..qdq },
            Target::Qnn => qdq,
            Target::OpenVino => Profile { integer_biases: false, ..qdq },
            Target::Portable => Profile { first_convolutions: false, reduce_range: Some(true), ..qdq },
        }
    }
}

/// The int8 scheme with a zero point of 0 that reaches as far as a uint8 scheme of one scale.
pub(super) fn symmetric(uint8: &QuantScheme) -> QuantScheme {
    let (scale, zero) = (uint8.scales[0], uint8.zero_points[0]);
    let reach = scale * zero.max(255 - zero) as f32;
    QuantScheme {
        dtype: DType::I8,
        scales: vec![(reach / 127.0).max(f32::MIN_POSITIVE)],
        zero_points: vec![0],
        ..uint8.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symmetric_int8_reaches_as_far() {
        let scheme = symmetric(&QuantScheme::uint8_over(-1.0, 3.0).unwrap());
        assert_eq!((scheme.dtype, scheme.zero_points.as_slice()), (DType::I8, &[0][..]));
        assert!((scheme.scales[0] * 127.0 - 3.0).abs() < 0.02, "{}", scheme.scales[0]);
        let scheme = symmetric(&QuantScheme::uint8_over(-4.0, 1.0).unwrap());
        assert!((scheme.scales[0] * 127.0 - 4.0).abs() < 0.02, "{}", scheme.scales[0]);
    }
}
