//! ONNX Runtime: finding its library, running models, and what is known by running them.

mod convert;
mod find;
mod session;

pub use find::Runtime;
pub use session::{Optimize, Provider, Session, SessionOptions};

use crate::error::Error;

/// An error of the `ort` crate as ours.
fn failed<T>(what: &str, why: &ort::Error<T>) -> Error {
    Error::Runtime(format!("{what}: {why}"))
}
