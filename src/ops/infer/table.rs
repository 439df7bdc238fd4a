//! The operators that inference knows: for each the element types of its outputs and the rule for their shapes.

use super::{
    call::{Call, Found},
    contrib, elementwise as e, features, layout as l, linear as m, spatial as s,
};
use crate::ir::{DType, Op};

/// Where an output's element type comes from.
pub(super) enum Types {
    /// An input's.
    Like(usize),
    /// The first input's, or the second's where that one is left out.
    LikeOr(usize, usize),
    /// Always this one.
    Is(DType),
    /// An attribute's, by number; without it an input's.
    Attr(&'static str, usize),
    /// An attribute's, by number; without it this one.
    AttrOr(&'static str, DType),
    /// Of the tensor in the attribute `value`; without it float.
    Value,
    /// QuantizeLinear: an attribute's, else that of the zero point, else uint8.
    Quantized,
    /// The outputs' in order, the last one's for the rest.
    Each(&'static [Types]),
    /// The rule gives it with the shape.
    ByRule,
}
use Types::{Attr, AttrOr, ByRule, Each, Is, Like, LikeOr, Quantized, Value};

/// What is known of an operator: its outputs' element types, and the rule for their shapes.
pub(super) type Entry = (Types, fn(&Call<'_>) -> Found);

/// An operator's facts; `None` for one that inference does not know.
pub(super) fn entry(op: &Op) -> Option<Entry> {
    match &*op.domain {
        "" | "ai.onnx" => standard(&op.op_type).or_else(|| features::text(&op.op_type)),
        "ai.onnx.ml" => features::learned(&op.op_type),
        "ai.onnx.preview.training" => features::training(&op.op_type),
        "ai.onnx.preview" if op.op_type == "FlexAttention" => Some((Like(0), m::attention)),
        "com.microsoft" => contrib::entry(&op.op_type),
        "com.microsoft.nchwc" => contrib::in_blocks(&op.op_type),
        _ => None,
    }
}

const WITH_I64: Types = Each(&[Like(0), Is(DType::I64)]);
const WITH_BOOL: Types = Each(&[Like(0), Is(DType::Bool)]);

fn standard(op_type: &str) -> Option<Entry> {
    Some(match op_type {
        // Elementwise, the shape is the input's.
        "Abs" | "Acos" | "Acosh" | "Asin" | "Asinh" | "Atan" | "Atanh" | "BitwiseNot" | "Ceil" | "Celu"
        | "Clip" | "Cos" | "Cosh" | "CumProd" | "CumSum" | "Elu" | "Erf" | "Exp" | "Floor" | "Gelu"
        | "HardSigmoid" | "HardSwish" | "Hardmax" | "Identity" | "LeakyRelu" | "Log" | "LogSoftmax"
        | "Mish" | "Neg" | "PRelu" | "Reciprocal" | "Relu" | "Round" | "Selu" | "Shrink" | "Sigmoid"
        | "Sign" | "Sin" | "Sinh" | "Softmax" | "Softplus" | "Softsign" | "Sqrt" | "SwiGLU" | "Swish"
        | "Tan" | "Tanh" | "ThresholdedRelu" | "Not" => (Like(0), e::same),
        "InstanceNormalization"
        | "GroupNormalization"
        | "RMSNormalization"
        | "LpNormalization"
        | "LRN"
        | "MeanVarianceNormalization"
        | "ReverseSequence"
        | "Scatter"
        | "ScatterElements"
        | "ScatterND"
        | "TensorScatter"
        | "RotaryEmbedding"
        | "Trilu" => (Like(0), e::same),
        "IsInf" | "IsNaN" => (Is(DType::Bool), e::same),
        "Cast" => (AttrOr("to", DType::F32), e::same),
        "CastLike" => (Like(1), e::same),
        "BitCast" => (AttrOr("to", DType::F32), e::same),
        "EyeLike" | "RandomNormalLike" | "RandomUniformLike" | "Bernoulli" => (Attr("dtype", 0), e::same),
        "QuantizeLinear" => (Quantized, e::same),
        "DequantizeLinear" => (Attr("output_dtype", 1), e::same),
        "DynamicQuantizeLinear" => {
            (Each(&[Is(DType::U8), Is(DType::F32), Is(DType::U8)]), e::dynamic_quantize)
        }
        "Dropout" => (WITH_BOOL, e::same),
        // Elementwise with broadcasting.
        "Add" | "Sub" | "Mul" | "Div" | "Mod" | "Pow" | "BitShift" | "BitwiseAnd" | "BitwiseOr"
        | "BitwiseXor" | "Max" | "Min" | "Mean" | "Sum" => (Like(0), e::broadcasting),
        "And" | "Or" | "Xor" | "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" => {
            (Is(DType::Bool), e::broadcasting)
        }
        "Where" => (Like(1), e::broadcasting),
        // Reductions and selections.
        "ReduceL1" | "ReduceL2" | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceMax" | "ReduceMean"
        | "ReduceMin" | "ReduceProd" | "ReduceSum" | "ReduceSumSquare" => (Like(0), e::reduce),
        "ArgMax" | "ArgMin" => (Is(DType::I64), e::arg_extreme),
        "TopK" => (WITH_I64, e::top_k),
        "NonZero" => (Is(DType::I64), e::non_zero),
        "Unique" => (WITH_I64, e::unique),
        "Compress" => (Like(0), l::compress),
        "NonMaxSuppression" => (Is(DType::I64), e::boxes),
        "Det" => (Like(0), e::batch_only),
        "NegativeLogLikelihoodLoss" | "SoftmaxCrossEntropyLoss" => (Like(0), e::loss),
        // Generators.
        "Constant" | "ConstantOfShape" => (Value, l::constant_of_shape),
        "Range" => (Like(0), l::range),
        "OneHot" => (Like(2), l::one_hot),
        "RandomNormal" | "RandomUniform" => (AttrOr("dtype", DType::F32), e::shape_attribute),
        "Multinomial" => (AttrOr("dtype", DType::I32), e::multinomial),
        "HannWindow" | "HammingWindow" | "BlackmanWindow" => {
            (AttrOr("output_datatype", DType::F32), e::window)
        }
        "MelWeightMatrix" => (AttrOr("output_datatype", DType::F32), e::mel_weights),
        // Layout.
        "Shape" => (Is(DType::I64), l::shape_of),
        "Size" => (Is(DType::I64), l::size_of),
        "Reshape" => (Like(0), l::reshape),
        "Flatten" => (Like(0), l::flatten),
        "Transpose" => (Like(0), l::transpose),
        "Squeeze" => (Like(0), l::squeeze),
        "Unsqueeze" => (Like(0), l::unsqueeze),
        "Expand" => (Like(0), l::expand),
        "Tile" => (Like(0), l::tile),
        "Concat" => (Like(0), l::concat),
        "Split" => (Like(0), l::split),
        "Slice" => (Like(0), l::slice),
        "Pad" => (Like(0), l::pad),
        "CenterCropPad" => (Like(0), l::center_crop_pad),
        "Gather" => (Like(0), l::gather),
        "GatherElements" => (Like(0), e::like_second),
        "GatherND" => (Like(0), l::gather_nd),
        "DepthToSpace" => (Like(0), l::depth_to_space),
        "SpaceToDepth" => (Like(0), l::space_to_depth),
        "Resize" | "Upsample" => (Like(0), l::resize),
        // Windows and space.
        "Conv" | "DeformConv" => (Like(0), s::conv),
        "ConvInteger" => (Is(DType::I32), s::conv),
        "QLinearConv" => (Like(7), s::conv),
        "ConvTranspose" => (Like(0), s::conv_transpose),
        "AveragePool" | "LpPool" => (Like(0), s::pool),
        "MaxPool" => (WITH_I64, s::pool),
        "MaxUnpool" => (Like(0), s::max_unpool),
        "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => (Like(0), s::global_pool),
        "GridSample" => (Like(0), s::grid_sample),
        "AffineGrid" => (Like(0), s::affine_grid),
        "RoiAlign" => (Like(0), s::roi_align),
        "Col2Im" => (Like(0), s::col2im),
        // Products, recurrence, attention, normalization with statistics.
        "MatMul" => (Like(0), m::matmul),
        "MatMulInteger" => (Is(DType::I32), m::matmul),
        "QLinearMatMul" => (Like(7), m::matmul),
        "Gemm" => (Like(0), m::gemm),
        "Einsum" => (Like(0), m::einsum),
        "LSTM" | "GRU" | "RNN" => (Like(0), m::recurrent),
        "Attention" => (Each(&[Like(0), Like(1), Like(2), Like(0)]), m::attention),
        "LayerNormalization" => (Each(&[Like(0), AttrOr("stash_type", DType::F32)]), m::layer_norm),
        // ONNX Runtime keeps its own in the standard domain.
        "SimplifiedLayerNormalization" => (Each(&[Like(1), AttrOr("stash_type", DType::F32)]), m::layer_norm),
        "BatchNormalization" => (Each(&[Like(0), Like(3)]), m::batch_norm),
        "DFT" => (Like(0), m::dft),
        "STFT" => (Like(0), m::stft),
        "LinearAttention" => (Each(&[Like(0), LikeOr(3, 0)]), m::linear_attention),
        "CausalConvWithState" => (Like(0), s::causal_conv),
        "ImageDecoder" => (Is(DType::U8), e::image),
        // Of sequences and options.
        "SequenceLength" => (Is(DType::I64), e::scalar),
        "OptionalHasElement" => (Is(DType::Bool), e::scalar),
        _ => return None,
    })
}

impl Types {
    /// The element type of an output, where it is known; `by_rule` is what the rule for shapes says.
    pub(super) fn of(&self, c: &Call<'_>, slot: usize, by_rule: Option<DType>) -> Option<DType> {
        let number = |name: &str| DType::from_onnx(i32::try_from(c.op.int(name)?).ok()?);
        let like = |k: usize| c.input(k)?.dtype;
        match self {
            Like(k) => like(*k),
            LikeOr(k, other) => c.input(*k).or(c.input(*other))?.dtype,
            Is(dtype) => Some(*dtype),
            Attr(name, k) => number(name).or_else(|| like(*k)),
            AttrOr(name, dtype) => match c.op.attr(name) {
                Some(_) => number(name),
                None => Some(*dtype),
            },
            Value => Some(c.op.tensor("value").map_or(DType::F32, crate::ir::Tensor::dtype)),
            Quantized => match c.input(2) {
                Some(zero) => zero.dtype,
                None => Some(number("output_dtype").unwrap_or(DType::U8)),
            },
            Each(types) => types.get(slot).or(types.last())?.of(c, slot, by_rule),
            ByRule => by_rule,
        }
    }
}
