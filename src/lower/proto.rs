//! The messages of `proto/onnx.proto`, generated when building.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated; proto/onnx.proto documents the fields"
)]

include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
