//! What the runtimes ask for that a model is quantized for: each option that is not given follows from the target.

use super::{ActivationType, Form};
use crate::ir::QuantScheme;
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
    /// Qualcomm's accelerators: integers everywhere.
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
    /// What activations with static ranges are.
    pub(super) activation_type: ActivationType,
    /// Whether their zero points are 0, and they are of no other type.
    pub(super) symmetric_activations: bool,
    /// Whether layers whose activations are of 16 bits compute in integers, by weights of 8 bits or of 16.
    pub(super) wide_integers: bool,
    /// Whether integer layers have their biases in int32.
    pub(super) integer_biases: bool,
    /// Whether what ONNX Runtime is slow with in integers (Conv of few channels, AveragePool) is so where nothing is timed.
    pub(super) slow_kinds: bool,
    /// Whether what convolutions write is rounded even where no layer reads it: a sum is part of the kernel before it otherwise.
    pub(super) rounds_outputs: bool,
    /// Whether all that is float32 is rounded, not what computes faster so.
    pub(super) whole: bool,
    /// Whether Conv may round what it reads as the model runs, where that is asked of all layers: ONNX Runtime takes many times as
    /// long for that as in float.
    pub(super) dynamic_convolutions: bool,
    /// Whether layers that stay float between integers have a DequantizeLinear of their own with a scale for each channel: else
    /// ONNX Runtime rounds their weights. Accelerators want one scale for all that is computed.
    pub(super) shields_floats: bool,
    /// Whether weights keep to seven bits; as this processor needs it, where it is not said.
    pub(super) reduce_range: Option<bool>,
}

impl Target {
    pub(super) fn profile(self) -> Profile {
        let qdq = Profile {
            form: Form::Qdq,
            timed: false,
            activation_type: ActivationType::Uint8,
            symmetric_activations: false,
            wide_integers: false,
            integer_biases: true,
            slow_kinds: true,
            rounds_outputs: true,
            whole: false,
            dynamic_convolutions: false,
            shields_floats: false,
            reduce_range: Some(false),
        };
        match self {
            Target::Cpu => {
                let fastest = Profile { form: Form::Auto, timed: true, slow_kinds: false, ..qdq };
                Profile { shields_floats: true, reduce_range: None, ..fastest }
            }
            Target::Cuda => Profile { form: Form::Folded, ..qdq },
            Target::TensorRt => Profile {
                activation_type: ActivationType::Int8,
                symmetric_activations: true,
                integer_biases: false,
                rounds_outputs: false,
                ..qdq
            },
            Target::Qnn => Profile { wide_integers: true, whole: true, ..qdq },
            Target::OpenVino => Profile { integer_biases: false, ..qdq },
            Target::Portable => {
                let plain = Profile { slow_kinds: false, dynamic_convolutions: true, ..qdq };
                Profile { shields_floats: true, reduce_range: Some(true), ..plain }
            }
        }
    }
}

/// The int8 scheme with a zero point of 0 that reaches as far as one of a scale and a zero point.
pub(super) fn symmetric(int8: &QuantScheme) -> QuantScheme {
    let (scale, zero) = (int8.scales[0], int8.zero_points[0]);
    let reach = scale * (zero + 128).max(127 - zero) as f32;
    QuantScheme { scales: vec![(reach / 127.0).max(f32::MIN_POSITIVE)], zero_points: vec![0], ..int8.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::DType;

    #[test]
    fn symmetric_int8_reaches_as_far() {
        let scheme = symmetric(&QuantScheme::over(DType::I8, -1.0, 3.0).unwrap());
        assert_eq!((scheme.dtype, scheme.zero_points.as_slice()), (DType::I8, &[0][..]));
        assert!((scheme.scales[0] * 127.0 - 3.0).abs() < 0.02, "{}", scheme.scales[0]);
        let scheme = symmetric(&QuantScheme::over(DType::I8, -4.0, 1.0).unwrap());
        assert!((scheme.scales[0] * 127.0 - 4.0).abs() < 0.02, "{}", scheme.scales[0]);
    }
}
