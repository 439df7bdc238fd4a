//! Linear layers as least squares sees them: constant weights as a matrix, what the layer sees as rows, and the second
//! moments of both, collected over the calibration samples. Shared by passes that find weights anew from data.

mod collect;
pub(crate) mod effect;
mod few;
mod fit;
mod layer;
mod normalization;
mod plan;
mod recurrent;
mod sparse;
mod spread;
mod sums;
mod window;

pub(crate) use collect::{Found, Sight, Target, chosen, collect};
pub(crate) use fit::{Refit, Rows, System, fit};
pub(crate) use layer::Layer;
pub(crate) use plan::{Task, Tasks, Wave, steps, tasks};
pub(crate) use recurrent::{Kept, Recurrent, moments};
pub(crate) use sparse::{is_sparse, refit_nonzero};
pub(crate) use spread::{Spread, damped, damped_inverse};
pub(crate) use sums::Sums;
