//! The axis algebra: which axes of a model's values are the same, and what must shrink together.
//!
//! Every axis is a [`Factor`]: a leaf, a product (nested axes, as a reshape makes them), a concatenation, or another
//! factor in another order. Each operator unifies the factors of its operands; unification refines leaves. A leaf that is not frozen and touches an
//! initializer is a prune [`Group`]: residual sums, concatenations, splits, grouped convolutions, flattening and
//! attention heads need no case of their own.

mod apply;
mod attention;
mod contrib;
mod cost;
mod einsum;
mod factor;
mod flow;
mod groups;
mod indexed;
mod leftover;
mod permuted;
mod picked;
mod repeat;
mod reshape;
mod rewrite;
mod rule;
mod scaled;
mod slice;
mod solve;
mod structural;
mod table;
#[cfg(test)]
mod tests;

pub use apply::{Cut, Keep, Stays, put_back};
pub use cost::Price;
pub use factor::{Arena, Factor, Factors, Kind, WORKED_ALONG};
pub use flow::Flow;
pub use groups::{Group, Member};
pub use leftover::keeps_zero;
