//! ONNX Runtime: finding its library, running models, and what is known by running them.

mod accuracy;
mod compare;
mod convert;
mod fetch;
mod find;
mod latency;
mod measurer;
mod rows;
mod samples;
mod session;
mod sweep;
mod synthesize;
mod validate;
mod weights;
mod within;

pub use crate::numpy::read_labels;
pub use accuracy::Accuracy;
pub use compare::OutputError;
pub(crate) use compare::numbers;
pub use find::Runtime;
pub use latency::{Latency, Timing};
pub use measurer::Measurer;
pub use samples::Samples;
pub use session::{Optimize, Provider, Session, SessionOptions};
pub use synthesize::Synthesis;
pub use validate::{Tolerance, ValidateOptions, Validation, validate};

use crate::error::Error;

/// An error of the `ort` crate as ours.
fn failed<T>(what: &str, why: &ort::Error<T>) -> Error {
    Error::Runtime(format!("{what}: {why}"))
}
