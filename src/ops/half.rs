//! Which operators compute in half precision: what their schemas allow from operator set 13 on, and of that what ONNX
//! Runtime 1.31 runs on a processor.
//!
//! A processor has few float16 kernels, but the runtime puts casts around those it lacks, so any operator runs. For
//! bfloat16 it does not, and has kernels for moving numbers about only.

use crate::ir::{DType, Op};

/// The slots of an operator that stay float32 where all else of it is of half precision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fixed {
    /// Input slots.
    pub inputs: &'static [usize],
    /// Output slots.
    pub outputs: &'static [usize],
}

/// What stays float32 of an op of operator set 13 or newer that computes in `dtype` (float16 or bfloat16); `None` where
/// it cannot, or is not known.
pub fn halves(op: &Op, dtype: DType) -> Option<Fixed> {
    let moves = is_move(&op.op_type);
    let scatters = op.is("ScatterElements") || op.is("ScatterND");
    if scatters && op.str("reduction").is_some_and(|how| how != "none") {
        return None;
    }
    // The variance of a batch takes more digits.
    if op.is("BatchNormalization") && op.int("training_mode").unwrap_or(0) != 0 {
        return None;
    }
    if !op.is_standard() || !(moves || dtype == DType::F16 && computes(&op.op_type)) {
        return None;
    }
    Some(match &*op.op_type {
        // Where to sample, and by how much to scale: positions need their digits.
        "GridSample" => Fixed { inputs: &[1], outputs: &[] },
        "Resize" => Fixed { inputs: &[1, 2], outputs: &[] },
        "Dropout" => Fixed { inputs: &[1], outputs: &[] },
        // Mean and deviation are of the type that they are computed in.
        "LayerNormalization" => Fixed { inputs: &[], outputs: &[1, 2] },
        _ => Fixed::default(),
    })
}

/// Whether an operator only moves numbers about, changes their type, or asks for their dimensions.
fn is_move(op_type: &str) -> bool {
    matches!(
        op_type,
        "Cast"
            | "Concat"
            | "Flatten"
            | "Gather"
            | "GatherElements"
            | "GatherND"
            | "Identity"
            | "If"
            | "Loop"
            | "Reshape"
            | "Scan"
            | "ScatterElements"
            | "ScatterND"
            | "Shape"
            | "Slice"
            | "Split"
            | "Squeeze"
            | "Transpose"
            | "Unsqueeze"
    )
}

/// Left out are operators whose arguments need more digits than half precision has (Sin, Cos, CumSum, Mod), those that draw
/// random numbers, and those of quantized models.
fn computes(op_type: &str) -> bool {
    matches!(
        op_type,
        "Abs"
            | "Add"
            | "ArgMax"
            | "ArgMin"
            | "Attention"
            | "AveragePool"
            | "BatchNormalization"
            | "CastLike"
            | "Ceil"
            | "Clip"
            | "Compress"
            | "ConstantOfShape"
            | "Conv"
            | "ConvTranspose"
            | "DepthToSpace"
            | "Div"
            | "Dropout"
            | "Einsum"
            | "Elu"
            | "Equal"
            | "Erf"
            | "Exp"
            | "Expand"
            | "Floor"
            | "GRU"
            | "Gelu"
            | "Gemm"
            | "GlobalAveragePool"
            | "GlobalMaxPool"
            | "Greater"
            | "GreaterOrEqual"
            | "GridSample"
            | "GroupNormalization"
            | "HardSigmoid"
            | "HardSwish"
            | "Hardmax"
            | "InstanceNormalization"
            | "IsInf"
            | "IsNaN"
            | "LRN"
            | "LSTM"
            | "LayerNormalization"
            | "LeakyRelu"
            | "Less"
            | "LessOrEqual"
            | "Log"
            | "LogSoftmax"
            | "LpNormalization"
            | "LpPool"
            | "MatMul"
            | "Max"
            | "MaxPool"
            | "Mean"
            | "Min"
            | "Mish"
            | "Mul"
            | "Neg"
            | "NonZero"
            | "PRelu"
            | "Pad"
            | "Pow"
            | "RMSNormalization"
            | "RNN"
            | "Reciprocal"
            | "ReduceL1"
            | "ReduceL2"
            | "ReduceLogSum"
            | "ReduceLogSumExp"
            | "ReduceMax"
            | "ReduceMean"
            | "ReduceMin"
            | "ReduceProd"
            | "ReduceSum"
            | "ReduceSumSquare"
            | "Relu"
            | "Resize"
            | "RotaryEmbedding"
            | "Round"
            | "Selu"
            | "Sigmoid"
            | "Sign"
            | "Size"
            | "Softmax"
            | "Softplus"
            | "Softsign"
            | "SpaceToDepth"
            | "Sqrt"
            | "Sub"
            | "Sum"
            | "Swish"
            | "Tanh"
            | "ThresholdedRelu"
            | "Tile"
            | "TopK"
            | "Trilu"
            | "Where"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bfloat16_only_moves() {
        let of = |op: &str, dtype| halves(&Op::new(op, ""), dtype).is_some();
        assert!(of("Conv", DType::F16) && !of("Conv", DType::BF16) && of("Gather", DType::BF16));
        assert!(
            !of("Cos", DType::F16) && halves(&Op::new("Conv", "").in_domain("mine"), DType::F16).is_none()
        );
    }
}
