//! The messages of `proto/onnx.proto`, generated when building.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated; proto/onnx.proto documents the fields"
)]

include!(concat!(env!("OUT_DIR"), "/onnx.rs"));

/// The field numbers of each message, named as the fields are.
pub mod field {
    include!(concat!(env!("OUT_DIR"), "/fields.rs"));
}
