//! Makes any ONNX model smaller and faster without its training code, and proves on ONNX Runtime that it still works.
#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod cli;
pub mod driver;
pub mod error;
mod files;
pub mod ir;
pub mod lower;
pub mod measure;
mod numpy;
pub mod ops;
pub mod passes;
pub mod report;
pub mod runtime;

pub use error::{Error, Result};
