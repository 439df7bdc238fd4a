//! Operators that exporters took apart are put together again.
//!
//! A recognized operator computes the same by definition: where ONNX Runtime has no kernel of its own for one, it
//! takes it apart as the standard says. Each is written only where the model's operator set has it. Scale and shift
//! are not part of the patterns: [`normalized`](super::normalized) moves them in.

mod activation;
mod norm;
mod reduction;

use crate::{
    ir::DType,
    passes::rules::{Bindings, Match, Miss, Rule},
};

pub(super) const FAMILIES: &[&[Rule]] = &[activation::RULES, norm::RULES, reduction::RULES];

/// ONNX Runtime has no kernels of double precision or integers for most recognized operators.
fn narrow(m: &Match<'_>) -> Result<Bindings, Miss> {
    match m.ty("x").and_then(|t| t.dtype) {
        Some(DType::F32 | DType::F16 | DType::BF16) => Ok(Bindings::default()),
        _ => Err("the input is not 16- or 32-bit floating point"),
    }
}
