//! Changes of what a model takes and gives: dimensions that are fixed, outputs that are chosen.
//!
//! These are wishes of whoever uses the model, so what does not fit is an error ([`Error::Usage`](crate::Error)), never
//! a remark.

mod freeze;
mod outputs;

pub use freeze::{freeze_dims, set_input_shapes};
pub use outputs::{drop_unused_inputs, set_outputs};
