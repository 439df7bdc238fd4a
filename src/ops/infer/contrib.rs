//! Operators of ONNX Runtime (`com.microsoft`) that its optimizers and quantizers write into models.
//!
//! Most are standard operators with something fused in, or with scales and zero points among the inputs: those go by
//! the standard rule, on the inputs that it knows.

use super::{
    call::{Call, Found, add, mul, shaped},
    elementwise as e,
    expr::Expr,
    fact::{Fact, Size, num},
    layout as l, linear as m, spatial as s,
    table::{Entry, Types},
};
use crate::{ir::DType, ops::fold::index};
use Types::{ByRule, Each, Is, Like, LikeOr, Quantized};

/// An operator's facts; `None` for one that inference does not know.
pub(super) fn entry(op_type: &str) -> Option<Entry> {
    Some(match op_type {
        "BiasAdd" | "BiasGelu" | "BiasSoftmax" | "FastGelu" | "Gelu" | "GroupNorm" | "Inverse" | "MoE"
        | "QLinearLeakyRelu" | "QLinearSigmoid" | "QLinearSoftmax" | "QMoE" | "QuickGelu"
        | "RotaryEmbedding" | "ScaledSiLU" | "SkipGroupNorm" | "Trilu" => (Like(0), e::same),
        "QuantizeLinear" => (Quantized, e::same),
        "DequantizeLinear" => (Like(1), e::same),
        "QLinearAdd" | "QLinearMul" => (Like(0), |c| on(c, &[0, 3], e::broadcasting)),
        "QLinearWhere" => (Like(1), |c| on(c, &[0, 1, 4], e::broadcasting)),
        "QLinearReduceMean" => (Like(0), |c| on(c, &[0], e::reduce)),
        "QLinearConcat" => (Like(1), quantized_concat),
        "GatherND" => (Like(0), l::gather_nd),
        "GatherBlockQuantized" => (Like(2), gather_block_quantized),
        // Products.
        "FusedMatMul" | "FusedMatMulActivation" | "TransposeMatMul" => (Like(0), fused_matmul),
        "MatMulIntegerToFloat" => (Like(2), m::matmul),
        "DynamicQuantizeMatMul" => (Like(0), m::matmul),
        "MatMulInteger16" => (Is(DType::I32), m::matmul),
        "MatMulNBits" => (Like(0), matmul_nbits),
        "FusedGemm" => (Like(0), m::gemm),
        "QGemm" => (LikeOr(8, 1), |c| on(c, &[0, 3], m::gemm)),
        // Windows.
        "FusedConv" => (Like(0), s::conv),
        "NhwcConv" | "NhwcFusedConv" => (Like(0), |c| channels_last(c, s::conv)),
        "NhwcMaxPool" => (Like(0), |c| channels_last(c, s::pool)),
        "QLinearConv" => (Like(7), |c| maybe_channels_last(c, s::conv)),
        "QLinearAveragePool" => (Like(0), |c| maybe_channels_last(c, s::pool)),
        "QLinearGlobalAveragePool" => (Like(0), |c| maybe_channels_last(c, s::global_pool)),
        // Recurrence, attention and what surrounds it.
        "DynamicQuantizeLSTM" => (Like(0), |c| on(c, &[0], m::recurrent)),
        "SkipLayerNormalization" | "SkipSimplifiedLayerNormalization" => {
            (Each(&[Like(0), Is(DType::F32), Is(DType::F32), Like(0)]), skip_layer_norm)
        }
        "EmbedLayerNormalization" => (Each(&[Like(2), Is(DType::I32), Like(2)]), embed_layer_norm),
        "QEmbedLayerNormalization" => (Each(&[Is(DType::F32), Is(DType::I32)]), embed_layer_norm),
        "Attention" => (Like(0), |c| attention(c, 4)),
        "QAttention" => (Like(2), |c| attention(c, 8)),
        "MultiHeadAttention" => (Each(&[Like(0), Like(0), Like(0), ByRule]), multi_head_attention),
        "GroupQueryAttention" => {
            (Each(&[Like(0), LikeOr(3, 0), LikeOr(4, 0), ByRule]), group_query_attention)
        }
        _ => return None,
    })
}

/// The operators on channels in blocks (`com.microsoft.nchwc`), which ONNX Runtime writes when it rewrites a model for
/// the machine it is on. Channels are filled up to whole blocks, of 8 or 16 as the machine has it.
pub(super) fn in_blocks(op_type: &str) -> Option<Entry> {
    Some(match op_type {
        "ReorderInput" => (Like(0), reorder_input),
        "ReorderOutput" => (Like(0), reorder_output),
        "Conv" => (Like(0), s::conv),
        "AveragePool" | "MaxPool" => (Like(0), s::pool),
        "GlobalAveragePool" | "GlobalMaxPool" => (Like(0), s::global_pool),
        "Upsample" => (Like(0), upsample_in_blocks),
        _ => return None,
    })
}

fn reorder_input(c: &Call<'_>) -> Found {
    let mut s = c.shape(0)?.to_vec();
    if c.flag("channels_last") {
        s.get_mut(1..)?.rotate_right(1);
    }
    let whole = |channels: &Expr| channels.number().is_some_and(|n| n % 16 == 0);
    let channels = s.get_mut(1)?;
    *channels = channels.take().filter(whole);
    shaped(s)
}

fn reorder_output(c: &Call<'_>) -> Found {
    let mut s = c.shape(0)?.to_vec();
    *s.get_mut(1)? = num(c.op.int("channels")?);
    if c.flag("channels_last") {
        s.get_mut(1..)?.rotate_left(1);
    }
    shaped(s)
}

fn upsample_in_blocks(c: &Call<'_>) -> Found {
    let (s, scales) = (c.shape(0)?, c.op.ints("scales")?);
    (s.len() == scales.len()).then_some(())?;
    shaped(s.iter().zip(scales).map(|(s, by)| mul(s, &num(*by))).collect())
}

/// What a standard operator's rule says, given these inputs alone.
fn on(c: &Call<'_>, slots: &[usize], rule: fn(&Call<'_>) -> Found) -> Found {
    let inputs: Vec<Option<&Fact>> = slots.iter().map(|slot| c.input(*slot)).collect();
    rule(&Call { inputs: &inputs, ..*c })
}

/// What a rule for `[batch, channels, spatial...]` says of `[batch, spatial..., channels]`.
fn channels_last(c: &Call<'_>, rule: fn(&Call<'_>) -> Found) -> Found {
    let mut x = c.input(0)?.clone();
    x.shape.as_mut()?.get_mut(1..)?.rotate_right(1);
    let mut inputs = c.inputs.to_vec();
    inputs[0] = Some(&x);
    let mut found = rule(&Call { inputs: &inputs, ..*c })?;
    for fact in &mut found {
        fact.shape.as_mut()?.get_mut(1..)?.rotate_left(1);
    }
    Some(found)
}

fn maybe_channels_last(c: &Call<'_>, rule: fn(&Call<'_>) -> Found) -> Found {
    if c.flag("channels_last") { channels_last(c, rule) } else { rule(c) }
}

fn quantized_concat(c: &Call<'_>) -> Found {
    let tensors: Vec<usize> = (2..c.inputs.len()).step_by(3).collect();
    on(c, &tensors, l::concat)
}

/// Gather from rows of packed numbers: bytes hold two of 4 bits, or four of 2.
fn gather_block_quantized(c: &Call<'_>) -> Found {
    let (data, indices) = (c.input(0)?, c.shape(1)?);
    let mut s = data.shape.clone()?;
    if data.dtype? == DType::U8 {
        let held = 8i64.checked_div(c.op.int("bits").unwrap_or(4))?;
        let last = s.last_mut()?;
        *last = mul(last, &num(held));
    }
    let at = index::axis(c.op.int("gather_axis").unwrap_or(0), s.len())?;
    shaped([&s[..at], indices, &s[at + 1..]].concat())
}

/// MatMul of transposed matrices: `trans*` swaps the last two axes, `transBatch*` first brings the first axis before
/// the last one.
fn fused_matmul(c: &Call<'_>) -> Found {
    let side = |slot: usize, batch: &str, plain: &str| {
        let mut s = c.shape(slot)?.to_vec();
        let n = s.len();
        if n > 1 {
            if c.flag(batch) {
                s[..n - 1].rotate_left(1);
            }
            if c.flag(plain) {
                s.swap(n - 2, n - 1);
            }
        }
        Some(Fact::shaped(s))
    };
    let (a, b) = (side(0, "transBatchA", "transA")?, side(1, "transBatchB", "transB")?);
    m::matmul(&Call { inputs: &[Some(&a), Some(&b)], ..*c })
}

/// MatMulNBits: the weight's shape stands in the attributes.
fn matmul_nbits(c: &Call<'_>) -> Found {
    let a = c.shape(0)?;
    shaped([&a[..a.len().checked_sub(1)?], &[num(c.op.int("N")?)]].concat())
}

/// SkipLayerNormalization: the sum of the inputs, where it is asked for, comes last; statistics are for training.
fn skip_layer_norm(c: &Call<'_>) -> Found {
    let y = Fact::shaped(c.shape(0)?.to_vec());
    Some(vec![y.clone(), Fact::default(), Fact::default(), y])
}

/// EmbedLayerNormalization: token numbers `[batch, seq]`, a table `[words, size]`.
fn embed_layer_norm(c: &Call<'_>) -> Found {
    let (ids, table) = (c.shape(0)?, c.shape(2)?);
    let y = Fact::shaped([ids, &[table.get(1)?.clone()]].concat());
    Some(vec![y.clone(), Fact::shaped(vec![ids.first()?.clone()]), y])
}

/// Attention with the projections to queries, keys and values in it: `[batch, seq, size]`, weight `[size, all three]`.
/// `past` is the slot of the keys and values of earlier steps, `[2, batch, heads, steps, size of a head]`.
fn attention(c: &Call<'_>, past: usize) -> Found {
    let [batch, seq, _] = c.shape(0)? else { return None };
    let heads = c.op.int("num_heads").filter(|h| *h > 0);
    let sizes = c.op.ints("qkv_hidden_sizes");
    let third = |k: usize| match sizes {
        Some(sizes) => num(*sizes.get(k)?),
        None => c.shape(1)?.last()?.as_ref()?.exact_div(&Expr::from(3)),
    };
    let y = Fact::shaped(vec![batch.clone(), seq.clone(), third(2)]);
    let present = match (c.input(past), c.flag("past_present_share_buffer")) {
        (Some(_), true) => c.shape(past)?.to_vec(),
        (earlier, _) => {
            let steps = earlier.map_or(num(0), |f| f.shape.as_ref()?.get(3)?.clone());
            let size = third(1).and_then(|k| k.exact_div(&Expr::from(heads?)));
            vec![num(2), batch.clone(), heads.and_then(num), add(&steps, seq), size]
        }
    };
    Some(vec![y, Fact::shaped(present)])
}

/// MultiHeadAttention: queries `[batch, seq, heads*size]`, keys and values the same or already split into heads
/// `[batch, heads, seq, size]`; or what belongs to one head packed in one tensor `[batch, seq, heads, parts, size]`.
/// The element type of the scores, the last output, is for the model to say.
fn multi_head_attention(c: &Call<'_>) -> Found {
    let (q, k, v) = (c.shape(0)?, c.shape(1), c.shape(2));
    let heads = num(c.op.int("num_heads").filter(|h| *h > 0)?);
    let (batch, seq) = (q.first()?, q.get(1)?);
    let of_head = |width: &Size| width.as_ref()?.exact_div(heads.as_ref()?);
    let (key_steps, key_size, value_size) = match (q, k, v) {
        ([_, _, _, _, d], _, _) => (seq.clone(), d.clone(), d.clone()),
        (_, Some([_, s, _, _, d]), _) => (s.clone(), d.clone(), d.clone()),
        (_, Some([_, s, kw]), Some([_, _, vw])) => (s.clone(), of_head(kw), of_head(vw)),
        (_, Some([_, _, s, kd]), Some([_, _, _, vd])) => (s.clone(), kd.clone(), vd.clone()),
        _ => return None,
    };
    let steps = match (c.input(6), c.input(8)) {
        (None, _) => key_steps,
        // Keys are added in place, in a buffer that has room for all.
        (Some(past), Some(_)) => past.shape.as_ref()?.get(2)?.clone(),
        (Some(past), None) => add(&past.shape.as_ref()?.get(2)?.clone(), &key_steps),
    };
    let present = |size: &Size| Fact::shaped(vec![batch.clone(), heads.clone(), steps.clone(), size.clone()]);
    Some(vec![
        Fact::shaped(vec![batch.clone(), seq.clone(), mul(&heads, &value_size)]),
        present(&key_size),
        present(&value_size),
        Fact::shaped(vec![batch.clone(), heads.clone(), seq.clone(), steps.clone()]),
    ])
}

/// GroupQueryAttention: queries `[batch, seq, heads*size]`, or with the keys and values packed behind them. How far the
/// caches reach in a run depends on how they are given.
fn group_query_attention(c: &Call<'_>) -> Found {
    let [batch, seq, width] = c.shape(0)? else { return None };
    let heads = |name: &str| c.op.int(name).filter(|h| *h > 0);
    let (own, shared) = (heads("num_heads")?, heads("kv_num_heads")?);
    let all = if c.input(1).is_some() { own } else { own.checked_add(shared.checked_mul(2)?)? };
    let size = width.as_ref().and_then(|w| w.exact_div(&Expr::from(all)));
    let cache = |slot: usize| {
        // Numbers of a few bits are packed, as they are in the past.
        let size = match c.input(slot) {
            Some(past) => past.shape.as_ref().and_then(|s| s.get(3)?.clone()),
            None => size.clone(),
        };
        Fact::shaped(vec![batch.clone(), num(shared), None, size])
    };
    let y = vec![batch.clone(), seq.clone(), mul(&num(own), &size)];
    Some(vec![Fact::shaped(y), cache(3), cache(4)])
}
