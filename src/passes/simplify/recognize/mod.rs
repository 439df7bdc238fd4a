//! Operators that exporters took apart are put together again.
//!
//! A recognized operator computes the same by definition: where ONNX Runtime has no kernel of its own for one, it
//! takes it apart as the standard says. Each is written only where the model's operator set has it. Scale and shift
//! are not part of the patterns: [`normalized`](super::normalized) moves them in.

mod activation;
mod attention;
mod norm;
mod reduction;

use crate::{
    ir::{DType, Slots, ValueId},
    passes::rules::{Bindings, Match, Miss, Rule},
};

pub(super) use attention::attention;
pub(super) use reduction::axes_of;

pub(super) const FAMILIES: &[&[Rule]] = &[activation::RULES, norm::RULES, reduction::RULES];

/// ONNX Runtime has no kernels of double precision or integers for most recognized operators.
fn narrow(m: &Match<'_>) -> Result<Bindings, Miss> {
    match m.ty("x").and_then(|t| t.dtype) {
        Some(DType::F32 | DType::F16 | DType::BF16) => Ok(Bindings::default()),
        _ => Err("the input is not 16- or 32-bit floating point"),
    }
}

/// Whether a constant factor of this value ends a Gelu or a normalization that is not recognized here: runtimes
/// recognize those when they load a model, and the factor is part of what they look for.
pub(super) fn ends_pattern(m: &Match<'_>, name: &str) -> bool {
    /// The inputs of the op that computes a value, if it is one of these; selections will still move up.
    fn made_by(m: &Match<'_>, v: ValueId, kinds: &[&str]) -> Option<Slots> {
        let (op, _) = m.graph.producer(v)?;
        if m.graph.op(op).is("Gather") {
            return made_by(m, m.graph.input(op, 0)?, kinds);
        }
        kinds.iter().any(|kind| m.graph.op(op).is(kind)).then(|| m.graph.inputs_of(op))
    }
    let made_of = |v: ValueId, outer: &[&str], inner: &[&str]| {
        let inputs = made_by(m, v, outer).unwrap_or_default();
        inputs.into_iter().flatten().any(|v| made_by(m, v, inner).is_some())
    };
    let Some(v) = m.value(name) else { return false };
    let factors = made_by(m, v, &["Mul"]).unwrap_or_default();
    factors.into_iter().flatten().any(|gate| made_of(gate, &["Add"], &["Erf", "Tanh"]))
        || made_of(v, &["Div", "Mul"], &["Sqrt", "Reciprocal"])
}
