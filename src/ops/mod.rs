//! Operator knowledge: the one place where facts about operators live.
//!
//! - [`axes`]: how the axes of inputs, weights and outputs correspond;
//! - [`infer`]: element types and shapes, symbolic where they must be;
//! - [`fold`]: exact evaluation of shape arithmetic and of moving constants about;
//! - [`cost`]: multiply-accumulates, parameters and bytes;
//! - [`half`]: which operators compute in half precision;
//! - [`moments`]: the distribution of values, as far as the model itself tells;
//! - [`quantized`]: which constants are stored in few bits and computed back;
//! - `reduce`: reductions as the operator set at hand spells them;
//! - [`spans`]: where the elements of values lie, as far as the model itself tells.
//!
//! An operator that is not known here (any of a custom domain, too) is never an error: nothing is said about it.

pub mod axes;
pub mod cost;
pub mod fold;
pub mod half;
pub mod infer;
mod macs;
pub mod moments;
pub mod quantized;
mod reduce;
pub mod spans;

pub(crate) use infer::Symbols;
pub use infer::{Conflict, Inference, Known, infer_types};
pub(crate) use reduce::{ends, reduce};

use crate::ir::Op;

/// Whether an op gives the same outputs whenever it is given the same inputs. Operators of other domains are not
/// known, so they do not count as such.
pub fn is_deterministic(op: &Op) -> bool {
    let draws = match &*op.op_type {
        "RandomNormal" | "RandomNormalLike" | "RandomUniform" | "RandomUniformLike" | "Multinomial"
        | "Bernoulli" => true,
        // Only where its third input says so, but then by chance.
        "Dropout" => true,
        _ => false,
    };
    op.is_standard() && !draws && op.bodies().all(|body| body.ops().all(|id| is_deterministic(body.op(id))))
}
